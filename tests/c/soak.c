/* Eight threads with a session each on one shared model: the same tokens as alone, again and again. Arguments: a GGUF model, an
   empty directory, seconds. */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <pthread.h>
#include <time.h>

enum { THREADS = 8, TOKENS = 16 };

static const char *const PROMPTS[THREADS] = {
    "Once upon a time", "The capital of France is", "def fibonacci(n):", "Water boils at",
    "In the beginning", "The three largest cities of Italy are", "A capsule is", "My favourite colour",
};

typedef struct {
    uint32_t ids[TOKENS];
    size_t count;
} text_tokens;

static const capg_model *model;
static text_tokens alone[THREADS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static time_t deadline;
static unsigned long generations;
static int wrong;

static int32_t keep(void *user_data, uint32_t token, const char *text, size_t len) {
    text_tokens *found = (text_tokens *)user_data;
    CHECK(text[len] == 0 && found->count < TOKENS);
    found->ids[found->count++] = token;
    return 0;
}

static void generate(const char *prompt, text_tokens *found) {
    capg_session_options room;
    memset(&room, 0, sizeof room);
    room.struct_size = sizeof room;
    room.context = 256;
    capg_generate_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.max_tokens = TOKENS;
    options.ignore_end = 1;
    capg_session *session;
    capg_tokens *tokens;
    const uint32_t *ids;
    size_t count;
    found->count = 0;
    CHECK(capg_session_new(model, &room, &session, NULL) == CAPG_OK);
    CHECK(capg_model_tokenize(model, prompt, strlen(prompt), CAPG_TOKENIZE_ADD_SPECIAL, &tokens, NULL) == CAPG_OK);
    CHECK(capg_tokens_view(tokens, &ids, &count, NULL) == CAPG_OK);
    CHECK(capg_session_generate(session, ids, count, &options, keep, found, NULL, NULL, NULL) == CAPG_OK);
    capg_tokens_free(tokens);
    capg_session_free(session);
}

static void *work(void *argument) {
    size_t turn = *(const size_t *)argument;
    int go_on = 1;
    while (go_on) {
        text_tokens found;
        const size_t which = turn++ % THREADS;
        generate(PROMPTS[which], &found);
        const int same = found.count == TOKENS && memcmp(found.ids, alone[which].ids, sizeof found.ids) == 0;
        pthread_mutex_lock(&lock);
        generations++;
        if (!same) wrong++, fprintf(stderr, "\"%s\" gave other tokens than alone\n", PROMPTS[which]);
        go_on = wrong == 0 && time(NULL) < deadline;
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    deadline = time(NULL) + atoi(argv[3]);
    char *path = path_of(argv[2], "soak.cgraph");
    capg_convert_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.no_mini = 1;
    OK(capg_convert(argv[1], strlen(argv[1]), path, strlen(path), &options, NULL, &error));
    capg_model *opened;
    OK(capg_model_open(path, strlen(path), NULL, &opened, &error));
    model = opened;
    for (size_t i = 0; i < THREADS; i++) generate(PROMPTS[i], &alone[i]);
    pthread_t threads[THREADS];
    size_t numbers[THREADS];
    for (size_t i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, work, &numbers[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    capg_model_free(opened);
    free(path);
    printf("%d threads, %lu generations\n", THREADS, generations);
    const int good = wrong == 0 && generations >= THREADS;
    printf("test result: %s. %d passed; %d failed\n", good ? "ok" : "FAILED", good ? THREADS : 0, good ? 0 : 1);
    return good ? 0 : 1;
}
