/* The host's own threads compute: a pool of two workers behind parallel_for.
 *
 *     cc -I include examples/threads.c -L target/release -lcapsulegraph -Wl,-rpath,"$PWD/target/release" \
 *        -lpthread -o threads
 *     ./threads model.cgraph "Once upon a time"
 *
 * A game would put the task into its job system instead. The text is the same as with the library's threads.
 */
#include <capsulegraph.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { WORKERS = 2, TOKENS = 32 };

/* One loop at a time: `left` calls of it are wanted yet, `running` have begun. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t wanted, ended;
    capg_parallel_task task;
    void *task_data;
    uint32_t left, running;
    int over;
} pool;

static void *work(void *argument) {
    pool *p = (pool *)argument;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->left == 0 && !p->over) pthread_cond_wait(&p->wanted, &p->lock);
        if (p->over) break;
        p->left--;
        p->running++;
        capg_parallel_task task = p->task;
        void *data = p->task_data;
        pthread_mutex_unlock(&p->lock);
        task(data);
        pthread_mutex_lock(&p->lock);
        if (--p->running == 0) pthread_cond_signal(&p->ended);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void parallel_for(void *user_data, uint32_t count, capg_parallel_task task, void *task_data) {
    pool *p = (pool *)user_data;
    pthread_mutex_lock(&p->lock);
    p->task = task;
    p->task_data = task_data;
    p->left = count - 1; /* this thread takes part */
    pthread_cond_broadcast(&p->wanted);
    pthread_mutex_unlock(&p->lock);
    task(task_data);
    pthread_mutex_lock(&p->lock);
    p->left = 0; /* who has not begun need not */
    while (p->running > 0) pthread_cond_wait(&p->ended, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

static int32_t print(void *left, uint32_t token, const char *text, size_t len) {
    return (void)token, fwrite(text, 1, len, stdout) != len || --*(int *)left == 0; /* not 0 stops */
}

int main(int argc, char **argv) {
    const char *path = argc > 1 ? argv[1] : "model.cgraph";
    const char *prompt = argc > 2 ? argv[2] : "Once upon a time";
    pool p = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, NULL, 0, 0, 0};
    pthread_t workers[WORKERS];
    for (int i = 0; i < WORKERS; i++)
        if (pthread_create(&workers[i], NULL, work, &p) != 0) return fputs("no thread to be had\n", stderr), 1;

    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.threads = WORKERS + 1;
    options.parallel_for = parallel_for;
    options.parallel_for_data = &p;
    capg_error *error = NULL;
    capg_model *model = NULL;
    capg_session *session = NULL;
    capg_tokens *tokens = NULL;
    const uint32_t *ids;
    size_t count;
    int most = TOKENS;
    int failed = capg_model_open(path, strlen(path), &options, &model, &error)
        || capg_session_new(model, NULL, &session, &error)
        || capg_model_tokenize(model, prompt, strlen(prompt), CAPG_TOKENIZE_ADD_SPECIAL, &tokens, &error)
        || capg_tokens_view(tokens, &ids, &count, &error)
        || capg_session_generate(session, ids, count, NULL, print, &most, NULL, NULL, &error);
    puts("");
    if (failed) fprintf(stderr, "%s\n", capg_error_message(error, NULL));
    capg_error_free(error);
    capg_tokens_free(tokens);
    capg_session_free(session);
    capg_model_free(model);

    pthread_mutex_lock(&p.lock);
    p.over = 1;
    pthread_cond_broadcast(&p.wanted);
    pthread_mutex_unlock(&p.lock);
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
    return failed;
}
