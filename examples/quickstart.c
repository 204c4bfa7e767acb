#include <capsulegraph.h>
#include <stdio.h>
#include <string.h>

static int32_t print(void *left, uint32_t token, const char *text, size_t len) {
    return (void)token, fwrite(text, 1, len, stdout) != len || --*(int *)left == 0; /* not 0 stops */
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "model.cgraph";
    capg_chat_message question = {"user", 4, "What is the capital of Japan?", 29};
    int most = 100; /* tokens */
    capg_error *error = NULL;
    capg_model *model = NULL;
    capg_session *session = NULL;
    capg_tokens *prompt = NULL;
    const uint32_t *ids;
    size_t count;
    int failed = capg_model_open(path, strlen(path), NULL, &model, &error)
        || capg_session_new(model, NULL, &session, &error)
        || capg_model_chat_tokens(model, &question, 1, &prompt, &error)
        || capg_tokens_view(prompt, &ids, &count, &error)
        || capg_session_generate(session, ids, count, NULL, print, &most, NULL, NULL, &error);
    if (failed) fprintf(stderr, "%s\n", capg_error_message(error, NULL));
    capg_error_free(error);
    capg_tokens_free(prompt);
    capg_session_free(session);
    capg_model_free(model);
    return failed;
}
