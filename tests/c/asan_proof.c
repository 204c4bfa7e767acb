/* Wrong on purpose: reads freed memory, so that the tests can prove that the sanitizer is at work. */
#include "test.h"

int main(void) {
    volatile char *bytes = (volatile char *)malloc(8);
    CHECK(bytes != NULL && capg_abi_version() == CAPG_ABI_VERSION);
    bytes[0] = 1;
    free((void *)(uintptr_t)bytes);
    return bytes[0] == 2;
}
