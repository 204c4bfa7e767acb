/* Prints which library it runs with. */
#include <capsulegraph.h>
#include <stdio.h>

int main(void) {
    printf("CapsuleGraph %s\n", capg_version_string());
    return capg_abi_version() != CAPG_ABI_VERSION;
}
