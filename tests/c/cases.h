/* The table of cases (tests/data/cases.txt) for cases.c: its text, and how a case fails. */
#ifndef CAPG_CASES_H
#define CAPG_CASES_H

#include "capsulegraph.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LINES = 32, MOST_PORTS = 8, MOST_RANK = 8, MOST_VALUES = 4096 };

/* A case: its keys and values, which are the table's until the next case. */
typedef struct {
    char *name;
    char *keys[MOST_LINES];
    char *values[MOST_LINES];
    size_t count;
} table_case;

/* Why the case failed; "" while it has not. The first reason stays. */
static char why[1024];

static struct {
    char *text, *at;
    const char *model, *onnx, *folder;
} table;

static inline void wrong(const char *format, ...) {
    va_list arguments;
    if (why[0]) return;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
}

static inline void give_up(const char *what) {
    fprintf(stderr, "cases: %s\n", what);
    exit(2);
}

/* Memory that lives until the table is closed. */
static inline void *keep(size_t bytes) {
    static void *kept[1024];
    static size_t count = 0;
    if (bytes == 0) {
        while (count > 0) free(kept[--count]);
        return NULL;
    }
    if (count == sizeof kept / sizeof kept[0] || (kept[count] = malloc(bytes)) == NULL) give_up("no memory");
    return kept[count++];
}

static inline void open_table(const char *path, const char *model, const char *onnx, const char *folder) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) give_up("cannot read the table");
    const size_t len = (size_t)ftell(file);
    rewind(file);
    table.at = table.text = (char *)keep(len + 1);
    if (fread(table.text, 1, len, file) != len) give_up("cannot read the table");
    table.text[len] = 0;
    fclose(file);
    table.model = model, table.onnx = onnx, table.folder = folder;
}

static inline void close_table(void) { keep(0); }

/* The next line without its end; NULL at the end of the table. */
static inline char *next_line(void) {
    char *line = table.at, *end = strchr(line, '\n');
    if (*line == 0) return NULL;
    table.at = end ? end + 1 : line + strlen(line);
    if (end) *end = 0;
    if (line[0] && line[strlen(line) - 1] == '\r') line[strlen(line) - 1] = 0;
    return line;
}

/* Undoes \n and \\ in place and puts a place in front of a value that names one. */
static inline char *value_of(char *text) {
    static const char *const names[] = {"{model}", "{onnx}"};
    char *out = text;
    for (const char *in = text; *in; in++) {
        const int escaped = *in == '\\';
        if (escaped && *++in != '\\' && *in != 'n') give_up("a value has a wrong escape");
        *out++ = escaped && *in == 'n' ? '\n' : *in;
    }
    *out = 0;
    for (size_t i = 0; i < 2; i++) {
        const size_t len = strlen(names[i]);
        if (strncmp(text, names[i], len) != 0) continue;
        const char *place = i == 0 ? table.model : table.onnx;
        const size_t bytes = strlen(place) + strlen(text) + 1;
        char *whole = (char *)keep(bytes);
        snprintf(whole, bytes, "%s%s", place, text + len);
        return whole;
    }
    return text;
}

/* Reads the next case; 0 where there is none. */
static inline int next_case(table_case *c) {
    char *line;
    c->name = NULL, c->count = 0;
    while ((line = next_line()) != NULL) {
        if (line[0] == '#') continue;
        if (line[0] == 0) {
            if (c->name) return 1;
            continue;
        }
        char *value = strchr(line, ' ');
        if (value) *value++ = 0;
        value = value_of(value ? value : line + strlen(line));
        if (strcmp(line, "case") == 0) {
            if (c->name) give_up("a case begins before the one before it has ended");
            c->name = value;
        } else if (c->name == NULL || c->count == MOST_LINES) {
            give_up("a line stands outside of a case, or a case has too many");
        } else {
            c->keys[c->count] = line;
            c->values[c->count++] = value;
        }
    }
    return c->name != NULL;
}

/* The value of a key, or what is said in its place. */
static inline const char *maybe(const table_case *c, const char *key, const char *other) {
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->keys[i], key) == 0) return c->values[i];
    return other;
}

static inline const char *need(const table_case *c, const char *key) {
    const char *value = maybe(c, key, NULL);
    if (value == NULL) wrong("key %s is missing", key);
    return value ? value : "";
}

/* A number; 0 where the key is missing. */
static inline uint64_t number(const table_case *c, const char *key) { return strtoull(maybe(c, key, "0"), NULL, 10); }

/* Refuses keys that are not in the list, which has a space on both sides of each, and those that say one thing only and are
   there twice: which of them would count? */
static inline void only(const table_case *c, const char *known) {
    for (size_t i = 0; i < c->count; i++) {
        char key[64];
        snprintf(key, sizeof key, " %s ", c->keys[i]);
        if (strstr(known, key) == NULL && strstr(" do expect message ", key) == NULL)
            wrong("this runner does not know the key %s", c->keys[i]);
        for (size_t j = 0; j < i && strstr(" message input output ", key) == NULL; j++)
            if (strcmp(c->keys[j], c->keys[i]) == 0) wrong("the key %s is there more than once", c->keys[i]);
    }
}

/* A name in the work folder; names with a folder stay as they are. */
static inline const char *path_in_folder(const char *name) {
    const size_t bytes = strlen(table.folder) + strlen(name) + 2;
    if (strchr(name, '/')) return name;
    char *path = (char *)keep(bytes);
    snprintf(path, bytes, "%s/%s", table.folder, name);
    return path;
}

static inline void compare_text(const char *what, const char *found, const char *wanted) {
    if (strcmp(found, wanted) != 0) wrong("%s is \"%s\", not \"%s\"", what, found, wanted);
}

/* Numbers of 32 or 64 bits, the other pointer NULL, against a list. */
static inline void compare_numbers(const char *what, const char *wanted, char separator, const uint32_t *narrow,
                                   const uint64_t *wide, size_t count) {
    const char *at = wanted;
    for (size_t i = 0; i < count; i++) {
        char *end;
        const uint64_t found = narrow ? narrow[i] : wide[i];
        if (i > 0 && *at == separator) at++;
        if (strtoull(at, &end, 10) != found || end == at) {
            wrong("%s: number %lu is %llu; wanted: %s", what, (unsigned long)i, (unsigned long long)found, wanted);
            return;
        }
        at = end;
    }
    if (*at) wrong("%s: only %lu numbers; wanted: %s", what, (unsigned long)count, wanted);
}

/* An input or output of the table: NAME TYPE SHAPE VALUES. */
typedef struct {
    char name[64];
    int64_t dims[MOST_RANK];
    capg_tensor tensor;
    size_t count;
    union {
        float floats[MOST_VALUES];
        int64_t longs[MOST_VALUES];
        int32_t ints[MOST_VALUES];
        capg_string strings[MOST_VALUES];
    } values;
} port;

static inline void read_value(const char *at, size_t len, port *p) {
    const size_t i = p->count++;
    switch (p->tensor.element) {
    case CAPG_ELEMENT_FLOAT32: p->values.floats[i] = strtof(at, NULL); break;
    case CAPG_ELEMENT_INT64: p->values.longs[i] = strtoll(at, NULL, 10); break;
    case CAPG_ELEMENT_INT32: p->values.ints[i] = (int32_t)strtol(at, NULL, 10); break;
    default: p->values.strings[i].data = at, p->values.strings[i].len = len;
    }
}

/* 0 where the line is not one, or of a type that there is not here. */
static inline int read_port(const char *line, port *p) {
    static const struct { const char *name; uint32_t element; size_t bytes; } types[] = {
        {"float32", CAPG_ELEMENT_FLOAT32, 4}, {"int64", CAPG_ELEMENT_INT64, 8}, {"int32", CAPG_ELEMENT_INT32, 4},
        {"string", CAPG_ELEMENT_STRING, 1}};
    char type[16], shape[64];
    int read = 0;
    size_t t = 0;
    memset(p, 0, sizeof *p);
    if (sscanf(line, "%63s %15s %63s%n", p->name, type, shape, &read) != 3) return 0;
    while (t < 4 && strcmp(types[t].name, type) != 0) t++;
    if (t == 4) return 0;
    p->tensor.element = types[t].element;
    for (char *at = shape; strcmp(shape, "-") != 0 && *at; at += *at == ',') {
        if (p->tensor.rank == MOST_RANK) return 0;
        p->dims[p->tensor.rank++] = strtoll(at, &at, 10);
    }
    for (const char *at = line + read; *at && p->count < MOST_VALUES;) {
        const size_t len = strcspn(++at, ",");
        read_value(at, len, p);
        at += len;
    }
    p->tensor.dims = p->dims;
    p->tensor.data = &p->values;
    p->tensor.data_len = p->count * types[t].bytes;
    return 1;
}

#endif
