/* Cancel, busy and free across threads and callbacks. Arguments: a GGUF model, an empty directory. */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <pthread.h>

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int inside; /* the callback has been called */
    int done;   /* the other thread has done its part */
    capg_session *session;
    capg_cancel *cancel;
    size_t tokens;
} shared_state;

/* The first token lets the other thread work and waits for it; so no timing decides. */
static int32_t meet(void *user_data, uint32_t token, const char *text, size_t len) {
    shared_state *s = (shared_state *)user_data;
    (void)token;
    CHECK(text[len] == 0);
    pthread_mutex_lock(&s->lock);
    s->tokens++;
    s->inside = 1;
    pthread_cond_broadcast(&s->changed);
    while (!s->done) pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void *other_thread(void *argument) {
    shared_state *s = (shared_state *)argument;
    pthread_mutex_lock(&s->lock);
    while (!s->inside) pthread_cond_wait(&s->changed, &s->lock);
    capg_error *own = NULL;
    CHECK(capg_session_reset(s->session, &own) == CAPG_ERROR_BUSY && capg_error_status(own) == CAPG_ERROR_BUSY);
    capg_error_free(own);
    size_t context = 0;
    CHECK(capg_session_context(s->session, &context, NULL) == CAPG_OK && context > 0);
    CHECK(capg_cancel_trigger(s->cancel, NULL) == CAPG_OK);
    s->done = 1;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void cancel_from_another_thread(const capg_model *model, const uint32_t *ids, size_t count) {
    shared_state s;
    memset(&s, 0, sizeof s);
    pthread_mutex_init(&s.lock, NULL);
    pthread_cond_init(&s.changed, NULL);
    OK(capg_session_new(model, NULL, &s.session, &error));
    OK(capg_cancel_new(&s.cancel, &error));
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, other_thread, &s) == 0);
    capg_generate_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.ignore_end = 1;
    uint32_t reason = 99;
    FAILS(CAPG_ERROR_CANCELLED,
          capg_session_generate(s.session, ids, count, &options, meet, &s, s.cancel, &reason, &error));
    CHECK(reason == 99 && s.tokens == 1);
    CHECK(pthread_join(thread, NULL) == 0);
    FAILS(CAPG_ERROR_CANCELLED, capg_session_eval(s.session, ids, count, 0, s.cancel, &error));
    OK(capg_cancel_reset(s.cancel, &error));
    OK(capg_session_reset(s.session, &error));
    OK(capg_session_eval(s.session, ids, count, 0, s.cancel, &error));
    capg_session_free(s.session);
    capg_cancel_free(s.cancel);
    pthread_cond_destroy(&s.changed);
    pthread_mutex_destroy(&s.lock);
}

typedef struct {
    capg_session *session;
    capg_model *model;
    capg_cancel *cancel;
} owned;

/* Everything that the running call uses is freed; it lives until the call returns. */
static int32_t free_all(void *user_data, uint32_t token, const char *text, size_t len) {
    owned *o = (owned *)user_data;
    (void)token;
    CHECK(text[len] == 0);
    if (o->session != NULL) {
        const float *logits;
        size_t rows, columns;
        FAILS(CAPG_ERROR_BUSY, capg_session_logits(o->session, &logits, &rows, &columns, &error));
        FAILS(CAPG_ERROR_BUSY, capg_session_generate(o->session, &token, 1, NULL, NULL, NULL, NULL, NULL, &error));
    }
    capg_session_free(o->session);
    capg_model_free(o->model);
    capg_cancel_free(o->cancel);
    o->session = NULL;
    o->model = NULL;
    o->cancel = NULL;
    return 0;
}

static void free_in_a_callback(capg_model *model, const uint32_t *ids, size_t count) {
    owned o = {NULL, model, NULL};
    OK(capg_session_new(model, NULL, &o.session, &error));
    OK(capg_cancel_new(&o.cancel, &error));
    capg_generate_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.max_tokens = 4;
    options.ignore_end = 1;
    uint32_t reason = 0;
    OK(capg_session_generate(o.session, ids, count, &options, free_all, &o, o.cancel, &reason, &error));
    CHECK(reason == CAPG_FINISH_LENGTH && o.session == NULL);
}

typedef struct {
    const capg_model *model;
    const uint32_t *ids;
    size_t count;
    uint32_t last;
} worker;

static int32_t remember(void *user_data, uint32_t token, const char *text, size_t len) {
    worker *w = (worker *)user_data;
    CHECK(text[len] == 0);
    w->last = w->last * 31 + token;
    return 0;
}

static void *generate(void *argument) {
    worker *w = (worker *)argument;
    capg_session *session;
    CHECK(capg_session_new(w->model, NULL, &session, NULL) == CAPG_OK);
    capg_generate_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.max_tokens = 12;
    options.ignore_end = 1;
    CHECK(capg_session_generate(session, w->ids, w->count, &options, remember, w, NULL, NULL, NULL) == CAPG_OK);
    capg_session_free(session);
    return NULL;
}

/* Two sessions of one model at once give the same tokens. */
static void sessions_at_once(const capg_model *model, const uint32_t *ids, size_t count) {
    worker workers[2] = {{model, ids, count, 0}, {model, ids, count, 0}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, generate, &workers[i]) == 0);
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(workers[0].last == workers[1].last && workers[0].last != 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    char *path = path_of(argv[2], "threads.cgraph");
    capg_convert_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.no_mini = 1;
    OK(capg_convert(argv[1], strlen(argv[1]), path, strlen(path), &options, NULL, &error));
    capg_model *model;
    OK(capg_model_open(path, strlen(path), NULL, &model, &error));
    capg_tokens *tokens;
    OK(capg_model_tokenize(model, "in the world", 12, 0, &tokens, &error));
    const uint32_t *ids;
    size_t count;
    OK(capg_tokens_view(tokens, &ids, &count, &error));
    cancel_from_another_thread(model, ids, count);
    sessions_at_once(model, ids, count);
    free_in_a_callback(model, ids, count);
    capg_tokens_free(tokens);
    free(path);
    puts("ok");
    return 0;
}
