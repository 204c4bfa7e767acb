/* What the test programs share. A failed check ends the program with status 1. */
#ifndef CAPG_TEST_H
#define CAPG_TEST_H

#include "capsulegraph.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) fail(__FILE__, __LINE__, #condition); \
    } while (0)

/* The call ends with CAPG_OK and no error; it must name `error` as its last argument. */
#define OK(call) expect(__FILE__, __LINE__, #call, CAPG_OK, (call))
/* The call ends with this status, and an error that says so. */
#define FAILS(status, call) expect(__FILE__, __LINE__, #call, (status), (call))

static capg_error *error = NULL;

static inline void fail(const char *file, int line, const char *text) {
    fprintf(stderr, "%s:%d: %s\n", file, line, text);
    exit(1);
}

static inline void expect(const char *file, int line, const char *call, capg_status wanted, capg_status found) {
    size_t len = 0;
    const char *message = capg_error_message(error, &len);
    if (found != wanted || (found == CAPG_OK) != (error == NULL) || capg_error_status(error) != found
        || strlen(message) != len || (found != CAPG_OK && len == 0)) {
        fprintf(stderr, "%s:%d: %s gave %s, not %s: %s\n", file, line, call, capg_status_name(found),
                capg_status_name(wanted), message);
        exit(1);
    }
    capg_error_free(error);
    error = NULL;
}

/* Directory and name as a path; the caller frees it. */
static inline char *path_of(const char *directory, const char *name) {
    size_t len = strlen(directory) + strlen(name) + 2;
    char *path = (char *)malloc(len);
    CHECK(path != NULL);
    snprintf(path, len, "%s/%s", directory, name);
    return path;
}

/* The whole file; the caller frees it. */
static inline unsigned char *read_file(const char *path, size_t *len) {
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
    *len = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = (unsigned char *)malloc(*len + 1);
    CHECK(bytes != NULL && fread(bytes, 1, *len, file) == *len);
    fclose(file);
    return bytes;
}

static inline void write_file(const char *path, const void *bytes, size_t len) {
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(bytes, 1, len, file) == len && fclose(file) == 0);
}

/* Whether a text handle contains this; frees the handle. */
static inline int text_has(capg_text *text, const char *wanted) {
    const char *data;
    size_t len;
    OK(capg_text_view(text, &data, &len, &error));
    CHECK(strlen(data) == len);
    int found = strstr(data, wanted) != NULL;
    capg_text_free(text);
    return found;
}

#endif
