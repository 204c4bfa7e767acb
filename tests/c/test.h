/* What the test programs share. A failed check ends the program with status 1. */
#ifndef CAPG_TEST_H
#define CAPG_TEST_H

#include "capsulegraph.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

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

#ifdef _WIN32
/* C's own functions take names in the system's code page; these take UTF-8. */
static inline wchar_t *utf16(const char *text) {
    int len = MultiByteToWideChar(CP_UTF8, 0, text, -1, NULL, 0);
    wchar_t *made = (wchar_t *)malloc((size_t)len * sizeof *made);
    CHECK(made != NULL && MultiByteToWideChar(CP_UTF8, 0, text, -1, made, len) == len);
    return made;
}

static inline FILE *open_file(const char *path, const char *mode) {
    wchar_t *name = utf16(path), *how = utf16(mode);
    FILE *file = _wfopen(name, how);
    free(name);
    free(how);
    return file;
}

static inline int move_file(const char *from, const char *to) {
    wchar_t *old_name = utf16(from), *new_name = utf16(to);
    int moved = MoveFileExW(old_name, new_name, MOVEFILE_REPLACE_EXISTING) ? 0 : -1;
    free(old_name);
    free(new_name);
    return moved;
}
#else
static inline FILE *open_file(const char *path, const char *mode) {
    return fopen(path, mode);
}

static inline int move_file(const char *from, const char *to) {
    return rename(from, to);
}
#endif

/* The whole file; the caller frees it. */
static inline unsigned char *read_file(const char *path, size_t *len) {
    FILE *file = open_file(path, "rb");
    CHECK(file != NULL && fseek(file, 0, SEEK_END) == 0);
    *len = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = (unsigned char *)malloc(*len + 1);
    CHECK(bytes != NULL && fread(bytes, 1, *len, file) == *len);
    fclose(file);
    return bytes;
}

static inline void write_file(const char *path, const void *bytes, size_t len) {
    FILE *file = open_file(path, "wb");
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
