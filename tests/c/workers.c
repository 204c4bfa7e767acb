/* Compute threads by the host's choice: its own job system, processors, priority. Arguments: a GGUF model, an
 * empty directory. */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <pthread.h>

enum { THREADS = 3, TOKENS = 12 };

/* A job system that starts threads anew for every loop, or (kind 1) calls nothing, or (kind 2) calls too often. */
typedef struct {
    int kind;
    size_t loops;
} job_system;

typedef struct {
    capg_parallel_task task;
    void *data;
} job;

static void *work(void *argument) {
    job *j = (job *)argument;
    j->task(j->data);
    return NULL;
}

static void parallel_for(void *user_data, uint32_t count, capg_parallel_task task, void *task_data) {
    job_system *jobs = (job_system *)user_data;
    job j = {task, task_data};
    pthread_t threads[THREADS];
    CHECK(count >= 1 && count <= THREADS);
    jobs->loops++;
    if (jobs->kind == 1) return;
    for (uint32_t i = 1; i < count; i++) CHECK(pthread_create(&threads[i], NULL, work, &j) == 0);
    work(&j);
    if (jobs->kind == 2) work(&j);
    for (uint32_t i = 1; i < count; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

/* The logits after TOKENS tokens, as the options have them computed; the caller frees them. */
static float *logits_of(const char *path, const capg_model_options *options, size_t *count) {
    capg_model *model = NULL;
    capg_session *session = NULL;
    OK(capg_model_open(path, strlen(path), options, &model, &error));
    uint32_t threads = 0;
    OK(capg_model_threads(model, &threads, &error));
    CHECK(options == NULL || threads == options->threads);
    OK(capg_session_new(model, NULL, &session, &error));
    uint32_t ids[TOKENS];
    for (uint32_t i = 0; i < TOKENS; i++) ids[i] = 5 + i;
    OK(capg_session_eval(session, ids, TOKENS, 0, NULL, &error));
    const float *logits = NULL;
    size_t rows = 0;
    OK(capg_session_logits(session, &logits, &rows, count, &error));
    CHECK(rows == 1);
    float *copy = (float *)malloc(*count * sizeof *copy);
    CHECK(copy != NULL);
    memcpy(copy, logits, *count * sizeof *copy);
    capg_session_free(session);
    capg_model_free(model);
    return copy;
}

static capg_model_options computing(void) {
    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.threads = THREADS;
    return options;
}

/* Every job system computes what the library's own threads do. */
static void loops(const char *path, const float *expected, size_t count) {
    capg_model_options options = computing();
    size_t other = 0;
    options.parallel_for = parallel_for;
    for (int kind = 0; kind < 3; kind++) {
        job_system jobs = {kind, 0};
        options.parallel_for_data = &jobs;
        float *found = logits_of(path, &options, &other);
        CHECK(other == count && memcmp(found, expected, count * sizeof *found) == 0);
        CHECK(jobs.loops > 0);
        free(found);
    }
}

/* On one processor, with the lowest priority. */
static void placed(const char *path, const float *expected, size_t count) {
    capg_model_options options = computing();
    const uint32_t first = 0;
    size_t other = 0;
    options.processors = &first;
    options.processors_len = 1;
    options.priority = CAPG_PRIORITY_LOWEST;
    float *found = logits_of(path, &options, &other);
    CHECK(other == count && memcmp(found, expected, count * sizeof *found) == 0);
    free(found);
}

/* Processors with a loop of the host's, and processors and priorities that are not there. */
static void refused(const char *path) {
    capg_model_options options = computing();
    capg_model *model = NULL;
    uint32_t first = 0, none = 1000000;
    options.parallel_for = parallel_for;
    options.processors = &first;
    options.processors_len = 1;
    FAILS(CAPG_ERROR_INVALID_ARGUMENT, capg_model_open(path, strlen(path), &options, &model, &error));
    options.parallel_for = NULL;
    options.priority = CAPG_PRIORITY_LOWEST;
    options.processors = &none;
    FAILS(CAPG_ERROR_INVALID_ARGUMENT, capg_model_open(path, strlen(path), &options, &model, &error));
    options.processors = NULL;
    FAILS(CAPG_ERROR_INVALID_ARGUMENT, capg_model_open(path, strlen(path), &options, &model, &error));
    options.priority = CAPG_PRIORITY_INHERITED;
    static const uint32_t zeros[5000] = {0};
    const size_t lengths[] = {2, 1024, 1025, 5000, SIZE_MAX / 4, SIZE_MAX / 2, SIZE_MAX};
    options.processors = zeros; /* the same one again and again, and lengths that the array does not have */
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        options.processors_len = lengths[i];
        for (options.threads = 0; options.threads < 3; options.threads++) {
            FAILS(CAPG_ERROR_INVALID_ARGUMENT, capg_model_open(path, strlen(path), &options, &model, &error));
        }
    }
    options.threads = 0; /* one, the caller's: no thread is started that could be refused its place */
    options.processors = &none;
    options.processors_len = 1;
    FAILS(CAPG_ERROR_INVALID_ARGUMENT, capg_model_open(path, strlen(path), &options, &model, &error));
    options.processors = NULL;
    options.processors_len = 0;
    options.priority = 3;
    FAILS(CAPG_ERROR_INVALID_ARGUMENT, capg_model_open(path, strlen(path), &options, &model, &error));
    options.priority = 0;
    options.reserved = 1;
    FAILS(CAPG_ERROR_INVALID_ARGUMENT, capg_model_open(path, strlen(path), &options, &model, &error));
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    char *path = path_of(argv[2], "workers.cgraph");
    capg_convert_options converting;
    memset(&converting, 0, sizeof converting);
    converting.struct_size = sizeof converting;
    converting.no_mini = 1;
    OK(capg_convert(argv[1], strlen(argv[1]), path, strlen(path), &converting, NULL, &error));
    size_t count = 0;
    float *expected = logits_of(path, NULL, &count);
    loops(path, expected, count);
    placed(path, expected, count);
    refused(path);
    free(expected);
    free(path);
    puts("ok");
    return 0;
}
