/* Paths are UTF-8 and may be longer than 260 characters: a file is converted, opened, moved and replaced under such a name.
   Arguments: a GGUF model, an empty directory. */
#include "test.h"

/* A name of 200 characters, some of them outside ASCII and outside every code page. */
static char *long_path(const char *directory, char letter) {
    char name[256];
    int begun = snprintf(name, sizeof name, "\xC3\xBC \xE6\x97\xA5\xE6\x9C\xAC %c ", letter);
    CHECK(begun > 0);
    memset(name + begun, letter, 200);
    snprintf(name + begun + 200, sizeof name - (size_t)begun - 200, ".cgraph");
    return path_of(directory, name);
}

static capg_model *open_model(const char *path) {
    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.threads = 1;
    capg_model *model;
    OK(capg_model_open(path, strlen(path), &options, &model, &error));
    return model;
}

int main(int argc, char **argv) {
    CHECK(argc >= 3);
    char *first = long_path(argv[2], 'a'), *second = long_path(argv[2], 'b'), *missing = long_path(argv[2], 'c');
    capg_convert_options convert;
    memset(&convert, 0, sizeof convert);
    convert.struct_size = sizeof convert;
    convert.no_mini = 1;
    capg_text *summary;
    OK(capg_convert(argv[1], strlen(argv[1]), first, strlen(first), &convert, &summary, &error));
    CHECK(text_has(summary, "capsules"));
    capg_model *model = open_model(first);
    /* A mini beside it names the full file by its name. */
    OK(capg_split(first, strlen(first), second, strlen(second), NULL, &summary, &error));
    CHECK(text_has(summary, "capsules"));
    capg_model_free(open_model(second));
    capg_model_free(model);
    /* A file that nobody has open is replaced. */
    OK(capg_convert(argv[1], strlen(argv[1]), first, strlen(first), &convert, &summary, &error));
    CHECK(text_has(summary, "capsules"));
    capg_model_free(open_model(first));
    /* The message has the name as it was given. */
    capg_model *none = NULL;
    CHECK(capg_model_open(missing, strlen(missing), NULL, &none, &error) == CAPG_ERROR_IO && none == NULL);
    CHECK(strstr(capg_error_message(error, NULL), missing) != NULL);
    capg_error_free(error);
    free(first);
    free(second);
    free(missing);
    printf("ok\n");
    return 0;
}
