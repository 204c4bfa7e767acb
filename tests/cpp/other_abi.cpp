// A library of another ABI version: this program's own function stands before the library's.
#include <capsulegraph.hpp>

#include <cstdio>
#include <cstring>

extern "C" std::uint32_t capg_abi_version(void) { return CAPG_ABI_VERSION + 1; }

int main(int, char **argv) {
    const auto model = capsulegraph::Model::try_open(argv[1]);
    if (model.status() != capsulegraph::Status::mismatch || !std::strstr(model.message(), "ABI version 2")) {
        return std::fprintf(stderr, "%s\n", model.message()), 1;
    }
    try {
        capsulegraph::Cancel::make();
    } catch (const capsulegraph::Error &error) {
        if (error.status() == capsulegraph::Status::mismatch) return std::puts("ok"), 0;
    }
    return 1;
}
