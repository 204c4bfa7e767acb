/* Wrong on purpose, so that the tests can prove that the sanitizer is at work: without an argument it reads past
   the end of a block, with one it leaks a handle of the library. */
#include "test.h"

int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1) {
        capg_cancel *leaked;
        OK(capg_cancel_new(&leaked, &error));
        return 0;
    }
    char *bytes = (char *)malloc(8);
    volatile size_t index = 8; /* the compiler must not see it */
    CHECK(bytes != NULL);
    memset(bytes, 1, 8);
    int wrong = bytes[index] == 2;
    free(bytes);
    return wrong;
}
