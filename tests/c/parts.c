/* A model divided into parts: the bits of one process, and wrong calls. Arguments: a GGUF model, an empty directory. */
#define _POSIX_C_SOURCE 200809L
#include "test.h"

#include <math.h>
#include <pthread.h>

#define INVALID(call) FAILS(CAPG_ERROR_INVALID_ARGUMENT, call)
#define LIMIT(call) FAILS(CAPG_ERROR_LIMIT, call)

enum { TOKENS = 40, PROMPT = 9, MOST_PARTS = 4, CONTEXT_TOKENS = 64 };

static capg_model_options opening(uint32_t first, uint32_t end) {
    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.threads = 2;
    options.first_capsule = first;
    options.end_capsule = end;
    return options;
}

static capg_part_options sizes(uint32_t context) {
    capg_part_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.context = context;
    return options;
}

static uint32_t best(const float *logits, size_t count) {
    size_t at = 0;
    for (size_t i = 1; i < count; i++)
        if (logits[i] > logits[at]) at = i;
    return (uint32_t)at;
}

/* One process: every logit of a prompt, then tokens one by one. */
static void whole(const capg_model *model, uint32_t *tokens, float *logits, size_t vocab) {
    capg_session *session;
    const float *data;
    size_t rows, columns;
    OK(capg_session_new(model, NULL, &session, &error));
    OK(capg_session_eval(session, tokens, PROMPT, CAPG_EVAL_ALL_LOGITS, NULL, &error));
    OK(capg_session_logits(session, &data, &rows, &columns, &error));
    CHECK(rows == PROMPT && columns == vocab);
    memcpy(logits, data, rows * columns * sizeof *logits);
    for (size_t i = PROMPT; i < TOKENS; i++) {
        tokens[i] = best(logits + (i - 1) * vocab, vocab);
        OK(capg_session_eval(session, &tokens[i], 1, 0, NULL, &error));
        OK(capg_session_logits(session, &data, &rows, &columns, &error));
        memcpy(logits + i * vocab, data, columns * sizeof *logits);
    }
    capg_session_free(session);
}

/* One batch through all parts: the view of what the last gives. */
static const float *pass(capg_part **parts, size_t count, const uint32_t *ids, size_t n, uint32_t flags, size_t *rows) {
    const float *data = NULL;
    size_t columns = 0;
    OK(capg_part_eval(parts[0], ids, n, flags, NULL, &error));
    OK(capg_part_output(parts[0], &data, rows, &columns, &error));
    for (size_t i = 1; i < count; i++) {
        CHECK(*rows == n);
        OK(capg_part_eval_activations(parts[i], data, *rows, columns, flags, NULL, &error));
        OK(capg_part_output(parts[i], &data, rows, &columns, &error));
    }
    return data;
}

/* The same tokens and bits from parts that end at these capsules, each opened on its own. */
static void divided(const char *path, const uint32_t *ends, size_t count, uint64_t budget, const uint32_t *tokens,
                    const float *logits, size_t vocab) {
    capg_part *parts[MOST_PARTS];
    const capg_part_options room = sizes(CONTEXT_TOKENS);
    CHECK(count <= MOST_PARTS);
    for (size_t i = 0; i < count; i++) {
        capg_model_options options = opening(i == 0 ? 0 : ends[i - 1], ends[i]);
        options.memory_budget_bytes = budget;
        capg_model *model;
        OK(capg_model_open(path, strlen(path), &options, &model, &error));
        OK(capg_part_new(model, &room, &parts[i], &error));
        capg_model_free(model); /* the part keeps it */
    }
    for (int round = 0; round < 2; round++) {
        size_t rows, len;
        const float *found = pass(parts, count, tokens, PROMPT, CAPG_EVAL_ALL_LOGITS, &rows);
        CHECK(rows == PROMPT && memcmp(found, logits, rows * vocab * sizeof *found) == 0);
        for (size_t i = PROMPT; i < TOKENS; i++) {
            found = pass(parts, count, &tokens[i], 1, 0, &rows);
            CHECK(rows == 1 && memcmp(found, logits + i * vocab, vocab * sizeof *found) == 0);
        }
        /* Again from the middle of the prompt, and from its start. */
        for (size_t keep = PROMPT - 4;; keep = 0) {
            for (size_t i = 0; i < count; i++) {
                OK(capg_part_truncate(parts[i], keep, &error));
                OK(capg_part_len(parts[i], &len, &error));
                CHECK(len == keep);
            }
            if (keep == 0) break;
            found = pass(parts, count, tokens + keep, PROMPT - keep, 0, &rows);
            CHECK(rows == 1 && memcmp(found, logits + (PROMPT - 1) * vocab, vocab * sizeof *found) == 0);
        }
    }
    for (size_t i = 0; i < count; i++) capg_part_free(parts[i]);
}

/* What the part gives has no rows. */
static void gives_nothing(const capg_part *part, size_t width) {
    const float *data = NULL;
    size_t rows = 77, columns = 77;
    OK(capg_part_output(part, &data, &rows, &columns, &error));
    CHECK(data != NULL && rows == 0 && columns == width);
}

static void positions(const capg_part *part, size_t wanted) {
    size_t len = 77;
    OK(capg_part_len(part, &len, &error));
    CHECK(len == wanted);
}

/* A model of which a range is opened has its text functions and its numbers, and no sessions. */
static void ranged_model(const char *path, const capg_model *part_of) {
    capg_model *model = (capg_model *)(void *)&error;
    capg_session *session = (capg_session *)(void *)&error;
    const size_t len = strlen(path);
    const uint32_t wrong[][2] = {{3, 3}, {5, 3}, {5, 0}, {0, 11}, {9, 11}, {10, 11}, {UINT32_MAX, UINT32_MAX}, {0, UINT32_MAX}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        capg_model_options options = opening(wrong[i][0], wrong[i][1]);
        INVALID(capg_model_open(path, len, &options, &model, &error));
        CHECK(model == NULL);
    }
    INVALID(capg_session_new(part_of, NULL, &session, &error));
    CHECK(session == NULL);
    capg_tokens *tokens;
    capg_text *text;
    const uint32_t *ids;
    size_t count;
    OK(capg_model_tokenize(part_of, "the river and the world", 23, 0, &tokens, &error));
    OK(capg_tokens_view(tokens, &ids, &count, &error));
    OK(capg_model_detokenize(part_of, ids, count, 0, &text, &error));
    CHECK(count > 0 && text_has(text, "the river and the world"));
    capg_tokens_free(tokens);
    OK(capg_model_capsule_count(part_of, &count, &error));
    CHECK(count == 10);
    /* All of them is no range. */
    capg_model_options options = opening(0, 10);
    OK(capg_model_open(path, len, &options, &model, &error));
    OK(capg_session_new(model, NULL, &session, &error));
    capg_session_free(session);
    capg_model_free(model);
}

static void wrong_options(const capg_model *model) {
    struct { capg_part_options known; uint64_t newer[2]; } o;
    const size_t wrong[] = {0, 1, sizeof(size_t), sizeof o.known - 1, 4097, SIZE_MAX};
    capg_part *part = (capg_part *)(void *)&error;
    INVALID(capg_part_new(NULL, NULL, &part, &error));
    CHECK(part == NULL);
    INVALID(capg_part_new(model, NULL, NULL, &error));
    memset(&o, 0, sizeof o);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        o.known.struct_size = wrong[i];
        INVALID(capg_part_new(model, &o.known, &part, &error));
    }
    o.known.struct_size = sizeof o;
    o.newer[1] = 1;
    FAILS(CAPG_ERROR_UNSUPPORTED, capg_part_new(model, &o.known, &part, &error));
    o.newer[1] = 0;
    o.known.kv_type = 2;
    INVALID(capg_part_new(model, &o.known, &part, &error));
#ifndef __SANITIZE_ADDRESS__ /* which ends the program where malloc would return NULL */
    o.known.kv_type = CAPG_KV_F16;
    o.known.context = UINT32_MAX;
    LIMIT(capg_part_new(model, &o.known, &part, &error));
#endif
    CHECK(part == NULL);
}

static void wrong_tokens(const capg_part *first, const capg_part *last) {
    const uint32_t ids[3] = {5, 6, 7}, beyond = UINT32_MAX;
    INVALID(capg_part_eval(NULL, ids, 3, 0, NULL, &error));
    INVALID(capg_part_eval(first, NULL, 3, 0, NULL, &error));
    INVALID(capg_part_eval(first, NULL, 0, 0, NULL, &error));
    INVALID(capg_part_eval(first, ids, 3, 2, NULL, &error));
    INVALID(capg_part_eval(first, &beyond, 1, 0, NULL, &error));
    INVALID(capg_part_eval(first, ids, SIZE_MAX, 0, NULL, &error));
    INVALID(capg_part_eval(first, (const uint32_t *)(const void *)((const char *)ids + 1), 1, 0, NULL, &error));
    LIMIT(capg_part_eval(first, ids, CONTEXT_TOKENS + 1, 0, NULL, &error)); /* none of them is read */
    LIMIT(capg_part_eval(first, ids, SIZE_MAX / 8, 0, NULL, &error));
    INVALID(capg_part_eval(last, ids, 3, 0, NULL, &error)); /* it takes activations */
}

/* `row`: CONTEXT_TOKENS + 1 rows of zeros. */
static void wrong_activations(const capg_part *first, const capg_part *last, float *row, size_t width) {
    INVALID(capg_part_eval_activations(NULL, row, 1, width, 0, NULL, &error));
    INVALID(capg_part_eval_activations(last, NULL, 1, width, 0, NULL, &error));
    INVALID(capg_part_eval_activations(last, NULL, 0, width, 0, NULL, &error));
    INVALID(capg_part_eval_activations(last, row, 1, width, 2, NULL, &error));
    INVALID(capg_part_eval_activations(last, row, 1, width - 1, 0, NULL, &error));
    INVALID(capg_part_eval_activations(last, row, 1, width * 2, 0, NULL, &error));
    INVALID(capg_part_eval_activations(last, row, 1, 0, 0, NULL, &error));
    INVALID(capg_part_eval_activations(last, row, SIZE_MAX, width, 0, NULL, &error));
    INVALID(capg_part_eval_activations(last, row, SIZE_MAX / width, width, 0, NULL, &error));
    INVALID(capg_part_eval_activations(last, (const float *)(const void *)((const char *)row + 1), 1, width, 0, NULL, &error));
    LIMIT(capg_part_eval_activations(last, row, CONTEXT_TOKENS + 1, width, 0, NULL, &error));
    LIMIT(capg_part_eval_activations(last, row, SIZE_MAX / 16 / width, width, 0, NULL, &error));
    INVALID(capg_part_eval_activations(first, row, 1, width, 0, NULL, &error)); /* it takes token ids */
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        row[2 * width - 1] = bad[i];
        INVALID(capg_part_eval_activations(last, row, 2, width, 0, NULL, &error));
    }
    row[2 * width - 1] = 0;
}

static void wrong_outputs(const capg_part *last) {
    const float *data = NULL;
    size_t rows = 77, columns = 77;
    INVALID(capg_part_output(NULL, &data, &rows, &columns, &error));
    INVALID(capg_part_output(last, NULL, &rows, &columns, &error));
    INVALID(capg_part_output(last, &data, NULL, &columns, &error));
    INVALID(capg_part_output(last, &data, &rows, NULL, &error));
    CHECK(data == NULL && rows == 77 && columns == 77);
    INVALID(capg_part_len(NULL, &rows, &error));
    INVALID(capg_part_len(last, NULL, &error));
    INVALID(capg_part_truncate(NULL, 0, &error));
}

/* A part is usable after any wrong call, keeps its positions, and has no output after one that failed. */
static void right_calls(const capg_part *first, const capg_part *last, const float *row, size_t width, size_t vocab) {
    const uint32_t ids[3] = {5, 6, 7};
    const float *data;
    size_t rows, columns;
    capg_cancel *cancel;
    OK(capg_cancel_new(&cancel, &error));
    OK(capg_part_eval(first, ids, 3, 0, cancel, &error));
    OK(capg_part_output(first, &data, &rows, &columns, &error));
    CHECK(rows == 3 && columns == width);
    OK(capg_part_eval_activations(last, data, rows, columns, 0, cancel, &error));
    OK(capg_part_output(last, &data, &rows, &columns, &error));
    CHECK(rows == 1 && columns == vocab);
    OK(capg_cancel_trigger(cancel, &error));
    FAILS(CAPG_ERROR_CANCELLED, capg_part_eval(first, ids, 3, 0, cancel, &error));
    FAILS(CAPG_ERROR_CANCELLED, capg_part_eval_activations(last, row, 1, width, 0, cancel, &error));
    gives_nothing(first, width);
    gives_nothing(last, vocab);
    positions(first, 3);
    positions(last, 3);
    OK(capg_cancel_reset(cancel, &error));
    OK(capg_part_eval_activations(last, row, CONTEXT_TOKENS - 3, width, CAPG_EVAL_ALL_LOGITS, cancel, &error));
    LIMIT(capg_part_eval_activations(last, row, 1, width, 0, NULL, &error));
    positions(last, CONTEXT_TOKENS);
    OK(capg_part_truncate(last, SIZE_MAX, &error));
    positions(last, CONTEXT_TOKENS);
    gives_nothing(last, vocab);
    capg_cancel_free(cancel);
}

static void wrong_calls(const capg_model *model, const capg_model *behind, size_t width, size_t vocab) {
    capg_part *first, *last;
    const capg_part_options room = sizes(CONTEXT_TOKENS);
    float *row = (float *)calloc((CONTEXT_TOKENS + 1) * width, sizeof *row);
    CHECK(row != NULL);
    OK(capg_part_new(model, &room, &first, &error));
    OK(capg_part_new(behind, &room, &last, &error));
    gives_nothing(first, width);
    gives_nothing(last, vocab);
    positions(first, 0);
    wrong_tokens(first, last);
    wrong_activations(first, last, row, width);
    wrong_outputs(last);
    positions(first, 0);
    positions(last, 0);
    right_calls(first, last, row, width, vocab);
    capg_part_free(first);
    capg_part_free(last);
    capg_part_free(NULL);
    free(row);
}

/* A part of the middle: its output is no input of its own. */
static void own_output(const char *path, size_t width) {
    const capg_model_options options = opening(3, 6);
    const capg_part_options room = sizes(CONTEXT_TOKENS);
    capg_model *model;
    capg_part *part;
    const float *data;
    size_t rows, columns;
    OK(capg_model_open(path, strlen(path), &options, &model, &error));
    OK(capg_part_new(model, &room, &part, &error));
    float *row = (float *)calloc(width, sizeof *row);
    CHECK(row != NULL);
    row[1] = 1;
    OK(capg_part_eval_activations(part, row, 1, width, 0, NULL, &error));
    OK(capg_part_output(part, &data, &rows, &columns, &error));
    CHECK(rows == 1 && columns == width);
    memcpy(row, data, width * sizeof *row);
    INVALID(capg_part_eval_activations(part, data, 1, width, 0, NULL, &error));
    OK(capg_part_eval_activations(part, row, 1, width, 0, NULL, &error));
    positions(part, 2);
    capg_part_free(part);
    capg_model_free(model);
    free(row);
}

typedef struct {
    capg_part *part;
    size_t refused;
} in_use;

/* While a thread evaluates, every other call is refused and does nothing. */
static void *intrude(void *argument) {
    in_use *u = (in_use *)argument;
    const float *data;
    const uint32_t id = 1;
    size_t rows, columns;
    CHECK(capg_part_len(u->part, &rows, NULL) == CAPG_ERROR_BUSY);
    CHECK(capg_part_output(u->part, &data, &rows, &columns, NULL) == CAPG_ERROR_BUSY);
    CHECK(capg_part_truncate(u->part, 0, NULL) == CAPG_ERROR_BUSY);
    CHECK(capg_part_eval(u->part, &id, 1, 0, NULL, NULL) == CAPG_ERROR_BUSY);
    float row[1] = {0};
    CHECK(capg_part_eval_activations(u->part, row, 1, 1, 0, NULL, NULL) == CAPG_ERROR_BUSY);
    u->refused++;
    return NULL;
}

static void parallel_for(void *user_data, uint32_t count, capg_parallel_task task, void *task_data) {
    in_use *u = (in_use *)user_data;
    pthread_t thread;
    (void)count;
    if (u->part != NULL && u->refused == 0) {
        CHECK(pthread_create(&thread, NULL, intrude, u) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    task(task_data);
}

static void busy(const char *path) {
    in_use u = {NULL, 0};
    capg_model_options options = opening(0, 4);
    options.parallel_for = parallel_for;
    options.parallel_for_data = &u;
    capg_model *model;
    const uint32_t ids[3] = {5, 6, 7};
    OK(capg_model_open(path, strlen(path), &options, &model, &error));
    OK(capg_part_new(model, NULL, &u.part, &error));
    OK(capg_part_eval(u.part, ids, 3, 0, NULL, &error));
    CHECK(u.refused == 1);
    positions(u.part, 3);
    capg_part_free(u.part);
    capg_model_free(model);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    char *path = path_of(argv[2], "parts.cgraph");
    capg_convert_options converting;
    memset(&converting, 0, sizeof converting);
    converting.struct_size = sizeof converting;
    converting.no_mini = 1;
    OK(capg_convert(argv[1], strlen(argv[1]), path, strlen(path), &converting, NULL, &error));
    capg_model *model, *behind;
    uint32_t width = 0, vocab = 0;
    OK(capg_model_open(path, strlen(path), NULL, &model, &error));
    OK(capg_model_embedding_length(model, &width, &error));
    OK(capg_model_vocab_size(model, &vocab, &error));
    CHECK(width == 128 && vocab > 0);
    INVALID(capg_model_embedding_length(NULL, &width, &error));
    INVALID(capg_model_embedding_length(model, NULL, &error));

    uint32_t tokens[TOKENS];
    for (uint32_t i = 0; i < PROMPT; i++) tokens[i] = 7 + 3 * i;
    float *logits = (float *)malloc((size_t)TOKENS * vocab * sizeof *logits);
    CHECK(logits != NULL);
    whole(model, tokens, logits, vocab);
    capg_model_free(model);
    size_t len;
    free(read_file(path, &len));
    const uint32_t ends[][MOST_PARTS] = {{10}, {5, 10}, {1, 6, 10}, {4, 5, 9, 10}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        divided(path, ends[i], i + 1, 0, tokens, logits, vocab);
        divided(path, ends[i], i + 1, 2 * len, tokens, logits, vocab);
    }
    free(logits);

    const capg_model_options half = opening(0, 5), other_half = opening(5, 10);
    OK(capg_model_open(path, strlen(path), &half, &model, &error));
    OK(capg_model_open(path, strlen(path), &other_half, &behind, &error));
    ranged_model(path, model);
    wrong_options(model);
    wrong_calls(model, behind, width, vocab);
    own_output(path, width);
    busy(path);
    capg_model_free(behind);
    capg_model_free(model);
    free(path);
    puts("ok");
    return 0;
}
