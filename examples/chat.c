/* A conversation on the terminal.
 *
 *     cc -I include examples/chat.c -L target/release -lcapsulegraph -Wl,-rpath,"$PWD/target/release" -o chat
 *     ./chat model.mini.cgraph [system message]
 *
 * Ctrl-C stops an answer, a second one or end of input the program. The whole conversation is handed over
 * each turn; the session keeps what it knows of it already, so only the new messages are computed.
 */
#include <capsulegraph.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_MESSAGES = 256, MAX_LINE = 4096 };

/* Messages with contents that this owns. */
typedef struct {
    capg_chat_message messages[MAX_MESSAGES];
    size_t count;
} conversation;

/* A growing text: the answer as it comes. */
typedef struct {
    char *data;
    size_t len;
} buffer;

static volatile sig_atomic_t interrupted = 0;

static void interrupt(int signal_number) {
    if (interrupted) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
    }
    interrupted = 1;
}

static int append(buffer *text, const char *data, size_t len) {
    char *larger = (char *)realloc(text->data, text->len + len + 1);
    if (larger == NULL) return 0;
    memcpy(larger + text->len, data, len);
    text->data = larger;
    text->len += len;
    text->data[text->len] = 0;
    return 1;
}

/* Takes a copy of the content. Returns 0 where there is no room. */
static int add(conversation *talk, const char *role, const char *content, size_t len) {
    buffer copy = {NULL, 0};
    if (talk->count == MAX_MESSAGES || !append(&copy, content, len)) return 0;
    capg_chat_message *message = &talk->messages[talk->count++];
    message->role = role;
    message->role_len = strlen(role);
    message->content = copy.data;
    message->content_len = copy.len;
    return 1;
}

static void forget(conversation *talk) {
    for (size_t i = 0; i < talk->count; i++) free((char *)(uintptr_t)talk->messages[i].content);
}

/* Prints a piece of the answer and keeps it. Anything but 0 stops the answer. */
static int32_t on_token(void *user_data, uint32_t token, const char *text, size_t len) {
    (void)token;
    fwrite(text, 1, len, stdout);
    fflush(stdout);
    return !append((buffer *)user_data, text, len) || interrupted;
}

/* Generates the answer to the conversation and adds it. */
static capg_status answer(const capg_model *model, const capg_session *session, conversation *talk,
                          capg_error **error) {
    capg_generate_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.temperature = 0.7f;
    options.top_p = 0.95f;
    options.repeat_penalty = 1.1f;

    capg_tokens *prompt = NULL;
    const uint32_t *ids;
    size_t count;
    buffer text = {NULL, 0};
    capg_status status = capg_model_chat_tokens(model, talk->messages, talk->count, &prompt, error);
    if (status == CAPG_OK) status = capg_tokens_view(prompt, &ids, &count, error);
    if (status == CAPG_OK) {
        status = capg_session_generate(session, ids, count, &options, on_token, &text, NULL, NULL, error);
    }
    if (status == CAPG_OK) add(talk, "assistant", text.data != NULL ? text.data : "", text.len);
    capg_tokens_free(prompt);
    free(text.data);
    return status;
}

static capg_status converse(const capg_model *model, const capg_session *session, conversation *talk,
                            capg_error **error) {
    static char line[MAX_LINE];
    for (;;) {
        fputs("\n> ", stdout);
        fflush(stdout);
        if (fgets(line, sizeof line, stdin) == NULL) return CAPG_OK;
        size_t len = strcspn(line, "\r\n");
        if (len == 0) continue;
        if (!add(talk, "user", line, len)) {
            fputs("the conversation is full\n", stderr);
            return CAPG_OK;
        }
        interrupted = 0;
        capg_status status = answer(model, session, talk, error);
        if (status != CAPG_OK) return status;
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s model.cgraph [system message]\n", argv[0]);
        return 2;
    }
    if (capg_abi_version() != CAPG_ABI_VERSION) {
        fputs("this program was built for another version of libcapsulegraph\n", stderr);
        return 1;
    }
    signal(SIGINT, interrupt);

    static conversation talk;
    capg_error *error = NULL;
    capg_model *model = NULL;
    capg_session *session = NULL;
    if (argc > 2) add(&talk, "system", argv[2], strlen(argv[2]));
    capg_status status = capg_model_open(argv[1], strlen(argv[1]), NULL, &model, &error);
    if (status == CAPG_OK) status = capg_session_new(model, NULL, &session, &error);
    if (status == CAPG_OK) status = converse(model, session, &talk, &error);
    if (status != CAPG_OK) {
        fprintf(stderr, "%s: %s\n", capg_status_name(status), capg_error_message(error, NULL));
    }
    capg_error_free(error);
    capg_session_free(session);
    capg_model_free(model);
    forget(&talk);
    return status == CAPG_OK ? 0 : 1;
}
