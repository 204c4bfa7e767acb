// What the test programs share. A failed check ends the program with status 1.
#ifndef CHECK_HPP
#define CHECK_HPP

#include <capsulegraph.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#define CHECK(...) \
    do { \
        if (!(__VA_ARGS__)) fail(__FILE__, __LINE__, #__VA_ARGS__); \
    } while (0)

[[noreturn]] inline void fail(const char *file, int line, const char *what) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, what);
    std::exit(1);
}

/// Whether a result failed with this status, and a message that has this text.
template <class T>
bool failed(const capsulegraph::Result<T> &result, capsulegraph::Status status, const char *text = "") {
    const bool good = result.status() == status && !result.ok() && !result && result.error() && *result.message()
                      && std::strstr(result.message(), text);
    if (!good) {
        std::fprintf(stderr, "it ended with %s: %s\n", capsulegraph::status_name(result.status()), result.message());
    }
    return good;
}

#endif
