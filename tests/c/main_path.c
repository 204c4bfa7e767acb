/* The whole main path: convert, verify, open in each way, tokenise, generate, slice, evaluate, fetch.
   Arguments: a GGUF model, an empty directory. */
#include "test.h"

typedef struct {
    uint32_t ids[256];
    size_t count;
    char text[4096];
    size_t text_len;
    size_t stop_after; /* 0: never */
} output;

#define NO_TOKEN 0xFFFFFFFFu /* collects text only */

static int32_t collect(void *user_data, uint32_t token, const char *text, size_t len) {
    output *out = (output *)user_data;
    CHECK(out->text_len + len < sizeof out->text && text[len] == 0);
    memcpy(out->text + out->text_len, text, len);
    out->text_len += len;
    if (token != NO_TOKEN) {
        CHECK(out->count < 256);
        out->ids[out->count++] = token;
    }
    return out->stop_after != 0 && out->count >= out->stop_after;
}

static int same(const output *a, const output *b) {
    return a->count == b->count && memcmp(a->ids, b->ids, a->count * sizeof(uint32_t)) == 0
        && a->text_len == b->text_len && memcmp(a->text, b->text, a->text_len) == 0;
}

static capg_generate_options generation(uint64_t max_tokens) {
    capg_generate_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.max_tokens = max_tokens;
    options.ignore_end = 1;
    return options;
}

static capg_model_options opening(uint32_t mode) {
    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.mode = mode;
    options.threads = 2;
    return options;
}

/* Tokens of a conversation of one question. */
static capg_tokens *question(const capg_model *model) {
    capg_chat_message messages[1] = {{"user", 4, "How is the water in the river?", 30}};
    capg_text *prompt;
    OK(capg_model_chat_prompt(model, messages, 1, 0, &prompt, &error));
    CHECK(text_has(prompt, "assistant"));
    OK(capg_model_chat_prompt(model, messages, 1, CAPG_CHAT_NO_REPLY, &prompt, &error));
    CHECK(text_has(prompt, "river"));
    capg_tokens *tokens;
    OK(capg_model_chat_tokens(model, messages, 1, &tokens, &error));
    return tokens;
}

static void generate(const capg_model *model, output *out) {
    memset(out, 0, sizeof *out);
    capg_tokens *prompt = question(model);
    const uint32_t *ids;
    size_t count;
    OK(capg_tokens_view(prompt, &ids, &count, &error));
    capg_session *session;
    OK(capg_session_new(model, NULL, &session, &error));
    capg_generate_options options = generation(24);
    uint32_t reason = 0;
    OK(capg_session_generate(session, ids, count, &options, collect, out, NULL, &reason, &error));
    CHECK(reason == CAPG_FINISH_LENGTH && out->count == 24);
    const uint32_t *held;
    size_t held_count, room;
    OK(capg_session_tokens(session, &held, &held_count, &error));
    OK(capg_session_context(session, &room, &error));
    CHECK(held_count + 1 == count + 24 && held_count < room && memcmp(held, ids, count * sizeof *ids) == 0);
    capg_text *report;
    OK(capg_session_report(session, &report, &error));
    CHECK(text_has(report, "capsulegraph.report/1"));
    OK(capg_session_reset(session, &error));
    OK(capg_session_tokens(session, &held, &held_count, &error));
    CHECK(held_count == 0);
    capg_session_free(session);
    capg_tokens_free(prompt);
}

/* The same generation in slices. */
static void slices(const capg_model *model, uint64_t microseconds, size_t max_tokens, const output *wanted) {
    output out;
    memset(&out, 0, sizeof out);
    capg_tokens *prompt = question(model);
    const uint32_t *ids;
    size_t count;
    OK(capg_tokens_view(prompt, &ids, &count, &error));
    capg_session *session;
    OK(capg_session_new(model, NULL, &session, &error));
    capg_generate_options options = generation(24);
    OK(capg_session_start(session, ids, count, &options, &error));
    capg_slice slice;
    slice.struct_size = sizeof slice;
    do {
        OK(capg_session_advance(session, microseconds, max_tokens, NULL, &slice, &error));
        CHECK(max_tokens == 0 || slice.token_count <= max_tokens);
        CHECK((slice.finish_reason == CAPG_FINISH_NONE) == (slice.more == 1));
        for (size_t i = 0; i < slice.token_count; i++) collect(&out, slice.tokens[i], "", 0);
        collect(&out, NO_TOKEN, slice.text, slice.text_len);
    } while (slice.more);
    CHECK(slice.finish_reason == CAPG_FINISH_LENGTH && same(&out, wanted));
    OK(capg_session_advance(session, microseconds, max_tokens, NULL, &slice, &error));
    CHECK(!slice.more && slice.token_count == 0 && slice.text_len == 0);
    capg_session_free(session);
    capg_tokens_free(prompt);
}

/* Capsules that come on a thread of their own: the tensors of those that are fetched at once. */
static void fetch_meanwhile(const capg_model *model) {
    const capg_string ids[2] = {{"block.0.attn", 12}, {"head", 4}};
    const size_t numbers[2] = {1, 1000000};
    const capg_string wrong[1] = {{"nowhere", 7}};
    capg_fetch *fetch = NULL;
    FAILS(CAPG_ERROR_NOT_FOUND, capg_model_fetch_begin(model, wrong, 1, CAPG_LAYOUT_F32, &fetch, &error));
    CHECK(fetch == NULL);
    OK(capg_model_prefetch(model, numbers, 2, &error));
    OK(capg_model_fetch_begin(model, ids, 2, CAPG_LAYOUT_F32, &fetch, &error));
    size_t come = 0;
    do OK(capg_fetch_poll(fetch, &come, &error)); while (come < 2);
    for (size_t i = 0; i < 2; i++) {
        capg_capsule *now, *later;
        size_t tensors, wanted;
        OK(capg_model_fetch(model, ids[i].data, ids[i].len, CAPG_LAYOUT_F32, &now, &error));
        OK(capg_fetch_take(fetch, i, &later, &error));
        OK(capg_capsule_tensor_count(now, &wanted, &error));
        OK(capg_capsule_tensor_count(later, &tensors, &error));
        CHECK(tensors == wanted);
        for (size_t t = 0; t < tensors; t++) {
            capg_tensor_view a, b;
            a.struct_size = b.struct_size = sizeof a;
            OK(capg_capsule_tensor(now, t, &a, &error));
            OK(capg_capsule_tensor(later, t, &b, &error));
            CHECK(a.data_len == b.data_len && memcmp(a.data, b.data, a.data_len) == 0);
        }
        capg_capsule_free(now);
        capg_capsule_free(later);
        FAILS(CAPG_ERROR_NOT_FOUND, capg_fetch_take(fetch, i, &now, &error));
        CHECK(now == NULL);
    }
    capg_capsule *beyond;
    FAILS(CAPG_ERROR_NOT_FOUND, capg_fetch_take(fetch, 2, &beyond, &error));
    capg_fetch_free(fetch);
    capg_fetch_free(NULL);
}

/* Two sessions together, the second with half the tokens. */
static void together(const capg_model *model, uint64_t microseconds, size_t max_tokens, const output *wanted) {
    output out[2];
    memset(out, 0, sizeof out);
    capg_tokens *prompt = question(model);
    const uint32_t *ids;
    size_t count, running;
    OK(capg_tokens_view(prompt, &ids, &count, &error));
    capg_session *sessions[2];
    for (int i = 0; i < 2; i++) {
        capg_generate_options options = generation(24 / (uint64_t)(i + 1));
        OK(capg_session_new(model, NULL, &sessions[i], &error));
        OK(capg_session_start(sessions[i], ids, count, &options, &error));
    }
    capg_group *group;
    OK(capg_group_new(&group, &error));
    capg_slice slice;
    memset(&slice, 0, sizeof slice);
    slice.struct_size = sizeof slice;
    do {
        OK(capg_group_advance(group, (const capg_session *const *)sessions, 2, microseconds, max_tokens, NULL, &running,
                              &error));
        for (int i = 0; i < 2; i++) {
            OK(capg_session_slice(sessions[i], &slice, &error));
            CHECK(max_tokens == 0 || slice.token_count <= max_tokens);
            for (size_t k = 0; k < slice.token_count; k++) collect(&out[i], slice.tokens[k], "", 0);
            collect(&out[i], NO_TOKEN, slice.text, slice.text_len);
        }
    } while (running > 0);
    CHECK(same(&out[0], wanted) && out[1].count == 12);
    CHECK(memcmp(out[1].ids, wanted->ids, 12 * sizeof(uint32_t)) == 0);
    capg_group_free(group);
    for (int i = 0; i < 2; i++) capg_session_free(sessions[i]);
    capg_tokens_free(prompt);
}

/* A callback that stops, a generation that goes on, and a prefix that is kept. */
static void stop_and_go_on(const capg_model *model, const output *wanted) {
    output out;
    memset(&out, 0, sizeof out);
    out.stop_after = 5;
    capg_tokens *prompt = question(model);
    const uint32_t *ids;
    size_t count;
    OK(capg_tokens_view(prompt, &ids, &count, &error));
    capg_session *session;
    OK(capg_session_new(model, NULL, &session, &error));
    capg_generate_options options = generation(24);
    uint32_t reason = 0;
    OK(capg_session_generate(session, ids, count, &options, collect, &out, NULL, &reason, &error));
    CHECK(reason == CAPG_FINISH_CALLBACK && out.count == 5);
    capg_cancel *cancel;
    OK(capg_cancel_new(&cancel, &error));
    OK(capg_cancel_trigger(cancel, &error));
    capg_slice slice;
    memset(&slice, 0, sizeof slice);
    slice.struct_size = sizeof slice;
    FAILS(CAPG_ERROR_CANCELLED, capg_session_advance(session, 0, 0, cancel, &slice, &error));
    CHECK(slice.text == NULL);
    OK(capg_cancel_reset(cancel, &error));
    OK(capg_session_advance(session, 0, 0, cancel, &slice, &error));
    capg_cancel_free(cancel);
    for (size_t i = 0; i < slice.token_count; i++) collect(&out, slice.tokens[i], "", 0);
    collect(&out, NO_TOKEN, slice.text, slice.text_len);
    CHECK(same(&out, wanted));
    capg_session_free(session);
    capg_tokens_free(prompt);
}

static void stop_string(const capg_model *model, const output *wanted) {
    output out;
    memset(&out, 0, sizeof out);
    size_t half = wanted->text_len / 2;
    while (half > 0 && ((unsigned char)wanted->text[half] & 0xC0) == 0x80) half--;
    char rest[5] = {0};
    size_t length = 1;
    while (((unsigned char)wanted->text[half + length] & 0xC0) == 0x80) length++;
    memcpy(rest, wanted->text + half, length);
    capg_string stop = {rest, length};
    capg_generate_options options = generation(24);
    options.stop = &stop;
    options.stop_count = 1;
    capg_tokens *prompt = question(model);
    const uint32_t *ids;
    size_t count;
    OK(capg_tokens_view(prompt, &ids, &count, &error));
    capg_session *session;
    OK(capg_session_new(model, NULL, &session, &error));
    uint32_t reason = 0;
    OK(capg_session_generate(session, ids, count, &options, collect, &out, NULL, &reason, &error));
    out.text[out.text_len] = 0;
    CHECK(reason == CAPG_FINISH_STOP && strstr(out.text, rest) == NULL);
    CHECK(memcmp(out.text, wanted->text, out.text_len) == 0);
    capg_session_free(session);
    capg_tokens_free(prompt);
}

static void logits(const capg_model *model) {
    static const char text[] = "the water in the world";
    capg_tokens *tokens;
    OK(capg_model_tokenize(model, text, sizeof text - 1, CAPG_TOKENIZE_ADD_SPECIAL, &tokens, &error));
    const uint32_t *ids;
    size_t count, rows, columns;
    OK(capg_tokens_view(tokens, &ids, &count, &error));
    capg_text *back;
    OK(capg_model_detokenize(model, ids, count, 0, &back, &error));
    CHECK(text_has(back, text));
    capg_session_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.context = 64;
    options.batch = 3;
    capg_session *one, *all;
    OK(capg_session_new(model, &options, &one, &error));
    OK(capg_session_new(model, NULL, &all, &error));
    const float *last, *every;
    OK(capg_session_logits(one, &last, &rows, &columns, &error));
    CHECK(rows == 0);
    OK(capg_session_eval(one, ids, count, 0, NULL, &error));
    OK(capg_session_eval(all, ids, count, CAPG_EVAL_ALL_LOGITS, NULL, &error));
    OK(capg_session_logits(one, &last, &rows, &columns, &error));
    uint32_t vocab;
    OK(capg_model_vocab_size(model, &vocab, &error));
    CHECK(rows == 1 && columns == vocab);
    OK(capg_session_logits(all, &every, &rows, &columns, &error));
    CHECK(rows == count && columns == vocab);
    CHECK(memcmp(last, every + (rows - 1) * columns, columns * sizeof(float)) == 0);
    OK(capg_session_truncate(all, 1, &error));
    OK(capg_session_eval(all, ids + 1, count - 1, 0, NULL, &error));
    OK(capg_session_logits(all, &every, &rows, &columns, &error));
    CHECK(rows == 1 && memcmp(last, every, columns * sizeof(float)) == 0);
    options.kv_type = CAPG_KV_Q8_0;
    capg_session *small;
    OK(capg_session_new(model, &options, &small, &error));
    OK(capg_session_eval(small, ids, count, 0, NULL, &error));
    const float *coarse;
    OK(capg_session_logits(small, &coarse, &rows, &columns, &error));
    CHECK(rows == 1 && memcmp(last, coarse, columns * sizeof(float)) != 0);
    OK(capg_session_report(small, &back, &error));
    CHECK(text_has(back, "\"kv_type\": \"q8_0\""));
    capg_session_free(small);
    const uint32_t many[100] = {0};
    FAILS(CAPG_ERROR_LIMIT, capg_session_eval(one, many, 100, 0, NULL, &error));
    capg_session_free(one);
    capg_session_free(all);
    capg_tokens_free(tokens);
}

static void capsules(capg_model *model, const char *precision) {
    size_t count, len, tensors;
    OK(capg_model_capsule_count(model, &count, &error));
    CHECK(count >= 4);
    const char *id, *found;
    OK(capg_model_capsule_id(model, 1, &id, &len, &error));
    CHECK(strcmp(id, "block.0.attn") == 0 && strlen(id) == len);
    capg_capsule *capsule;
    for (uint32_t layout = CAPG_LAYOUT_SOURCE; layout <= CAPG_LAYOUT_F32; layout++) {
        OK(capg_model_fetch(model, id, len, layout, &capsule, &error));
        size_t found_len;
        OK(capg_capsule_precision(capsule, &found, &found_len, &error));
        CHECK(precision == NULL || strcmp(found, precision) == 0);
        OK(capg_capsule_tensor_count(capsule, &tensors, &error));
        CHECK(tensors >= 5);
        for (size_t i = 0; i < tensors; i++) {
            capg_tensor_view view;
            view.struct_size = sizeof view;
            OK(capg_capsule_tensor(capsule, i, &view, &error));
            CHECK(strlen(view.name) == view.name_len && strlen(view.layout) == view.layout_len);
            uint64_t elements = 1;
            for (size_t d = 0; d < view.dimensions; d++) elements *= view.shape[d];
            if (layout == CAPG_LAYOUT_F32) {
                CHECK(strcmp(view.encoding, "f32") == 0 && view.data_len == elements * 4);
                CHECK((uintptr_t)view.data % 4 == 0);
            }
            uint8_t sum = 0;
            for (size_t b = 0; b < view.data_len; b++) sum ^= ((const uint8_t *)view.data)[b];
            CHECK(view.data_len > 0 || sum == 0);
        }
        if (layout != CAPG_LAYOUT_F32) capg_capsule_free(capsule);
    }
    /* The last capsule outlives its model: see the caller. */
    capg_model_free(model);
    capg_tensor_view view;
    view.struct_size = sizeof view;
    OK(capg_capsule_tensor(capsule, 0, &view, &error));
    CHECK(view.data_len > 0 && ((const uint8_t *)view.data)[view.data_len - 1] <= 255);
    capg_capsule_free(capsule);
}

typedef struct {
    const unsigned char *bytes;
    size_t len;
    size_t calls;
    int32_t answer;
} host_file;

static int32_t host_read(void *user_data, uint64_t offset, void *buffer, size_t len) {
    host_file *file = (host_file *)user_data;
    file->calls++;
    CHECK(offset + len <= file->len);
    memcpy(buffer, file->bytes + offset, len);
    return file->answer;
}

static capg_reader reader_of(host_file *file) {
    capg_reader reader;
    memset(&reader, 0, sizeof reader);
    reader.struct_size = sizeof reader;
    reader.read = host_read;
    reader.user_data = file;
    reader.size = file->len;
    return reader;
}

/* Mini and full file through callbacks, and out of a larger file. */
static void host_files(const char *directory, const char *full, const char *mini, const output *wanted) {
    host_file files[2];
    memset(files, 0, sizeof files);
    unsigned char *bytes[2];
    const char *paths[2] = {mini, full};
    for (int i = 0; i < 2; i++) {
        bytes[i] = read_file(paths[i], &files[i].len);
        files[i].bytes = bytes[i];
    }
    capg_reader readers[2] = {reader_of(&files[0]), reader_of(&files[1])};
    capg_model_options options = opening(CAPG_MODE_EXACT);
    options.full_reader = &readers[1];
    capg_model *model;
    output out;
    OK(capg_model_open_reader(&readers[0], &options, &model, &error));
    size_t calls[2] = {files[0].calls, files[1].calls};
    CHECK(calls[0] > 0 && calls[1] > 0);
    generate(model, &out);
    CHECK(same(&out, wanted) && files[0].calls == calls[0] && files[1].calls == calls[1]);
    uint64_t held;
    OK(capg_model_held_bytes(model, &held, &error));
    CHECK(held >= files[0].len + files[1].len);
    capg_model_free(model);
    files[1].answer = 7;
    FAILS(CAPG_ERROR_HOST, capg_model_open_reader(&readers[0], &options, &model, &error));
    CHECK(model == NULL);
    readers[0].size = UINT64_MAX;
    FAILS(CAPG_ERROR_MALFORMED, capg_model_open_reader(&readers[0], &options, &model, &error));

    /* At an offset that nothing is aligned to. */
    const size_t before = 12345, after = 77;
    size_t len = before + files[1].len + after;
    unsigned char *archive = (unsigned char *)malloc(len);
    CHECK(archive != NULL);
    memset(archive, 0xAB, len);
    memcpy(archive + before, files[1].bytes, files[1].len);
    char *path = path_of(directory, "archive.pak");
    write_file(path, archive, len);
    options = opening(CAPG_MODE_AUTO);
    options.offset = before;
    options.length = files[1].len;
    OK(capg_model_open(path, strlen(path), &options, &model, &error));
    generate(model, &out);
    CHECK(same(&out, wanted));
    capsules(model, "full");
    options = opening(CAPG_MODE_EXACT);
    options.full_path = path;
    options.full_path_len = strlen(path);
    options.full_offset = before;
    options.full_length = files[1].len;
    OK(capg_model_open(mini, strlen(mini), &options, &model, &error));
    generate(model, &out);
    CHECK(same(&out, wanted));
    capg_model_free(model);
    free(path);
    free(archive);
    free(bytes[0]);
    free(bytes[1]);
}

typedef struct {
    size_t lines[5];
    const capg_log *log;
} log_lines;

static void count_line(void *user_data, uint32_t level, const char *line, size_t len) {
    log_lines *lines = (log_lines *)user_data;
    CHECK(level >= CAPG_LOG_ERROR && level <= CAPG_LOG_DEBUG && strlen(line) == len && strchr(line, '\n') == NULL);
    lines->lines[level]++;
    /* Delivering inside a delivery finds an empty queue. */
    OK(capg_log_deliver(lines->log, count_line, user_data, &error));
}

/* Opens with a log, and gives log and model back in any order. */
static void logs(const char *full, const char *mini) {
    capg_log *log;
    OK(capg_log_new(CAPG_LOG_DEBUG, &log, &error));
    log_lines lines;
    memset(&lines, 0, sizeof lines);
    lines.log = log;
    capg_model_options options = opening(CAPG_MODE_FAST);
    options.log = log;
    capg_model *model;
    OK(capg_model_open(mini, strlen(mini), &options, &model, &error));
    capg_model_free(model);
    FAILS(CAPG_ERROR_MISMATCH, capg_model_open(full, strlen(full), &options, &model, &error));
    options.mode = CAPG_MODE_AUTO;
    options.full_path = "/nowhere/full.cgraph";
    options.full_path_len = 20;
    FAILS(CAPG_ERROR_MISMATCH, capg_model_open(mini, strlen(mini), &options, &model, &error));
    /* Without its full file a mini opens in mode fast, with a warning. */
    options.full_path = NULL;
    options.full_path_len = 0;
    char hidden[4096];
    snprintf(hidden, sizeof hidden, "%s.hidden", full);
    CHECK(move_file(full, hidden) == 0);
    OK(capg_model_open(mini, strlen(mini), &options, &model, &error));
    CHECK(move_file(hidden, full) == 0);
    OK(capg_log_deliver(log, count_line, &lines, &error));
    CHECK(lines.lines[CAPG_LOG_INFO] == 1 && lines.lines[CAPG_LOG_ERROR] == 2 && lines.lines[CAPG_LOG_WARNING] == 1);
    capg_log_free(log);
    output out;
    generate(model, &out);
    capg_model_free(model);
}

static void progress(void *user_data, uint32_t phase, uint64_t done, uint64_t total) {
    CHECK(phase >= CAPG_PHASE_CONVERT && phase <= CAPG_PHASE_VERIFY && done <= total);
    ((size_t *)user_data)[phase]++;
}

static void progress_cancels(void *user_data, uint32_t phase, uint64_t done, uint64_t total) {
    CHECK(phase == CAPG_PHASE_CONVERT && done <= total);
    OK(capg_cancel_trigger((const capg_cancel *)user_data, &error));
}

static void make_files(const char *gguf, const char *full, const char *mini) {
    capg_convert_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    capg_cancel *cancel;
    OK(capg_cancel_new(&cancel, &error));
    options.cancel = cancel;
    options.progress = progress_cancels;
    options.progress_user_data = cancel;
    capg_text *summary;
    FAILS(CAPG_ERROR_CANCELLED,
          capg_convert(gguf, strlen(gguf), full, strlen(full), &options, &summary, &error));
    CHECK(summary == NULL && open_file(full, "rb") == NULL);
    uint32_t triggered = 0;
    OK(capg_cancel_is_triggered(cancel, &triggered, &error));
    CHECK(triggered == 1);
    OK(capg_cancel_reset(cancel, &error));
    size_t calls[4] = {0, 0, 0, 0};
    options.progress = progress;
    options.progress_user_data = calls;
    OK(capg_convert(gguf, strlen(gguf), full, strlen(full), &options, &summary, &error));
    CHECK(text_has(summary, "mini") && calls[CAPG_PHASE_CONVERT] > 0 && calls[CAPG_PHASE_SPLIT] > 0);
    capg_cancel_free(cancel);

    capg_split_options split;
    memset(&split, 0, sizeof split);
    split.struct_size = sizeof split;
    split.light = "q8_0";
    split.light_len = 4;
    OK(capg_split(full, strlen(full), mini, strlen(mini), &split, NULL, &error));
    split.light = "best";
    FAILS(CAPG_ERROR_INVALID_ARGUMENT, capg_split(full, strlen(full), mini, strlen(mini), &split, NULL, &error));
    FAILS(CAPG_ERROR_MISMATCH, capg_split(mini, strlen(mini), full, strlen(full), NULL, NULL, &error));
}

static void verify(const char *mini) {
    capg_verify_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.deep = 1;
    size_t problems = 99, calls[4] = {0, 0, 0, 0};
    options.progress = progress;
    options.progress_user_data = calls;
    capg_text *report;
    OK(capg_verify(mini, strlen(mini), &options, &problems, &report, &error));
    CHECK(problems == 0 && text_has(report, "\"deep\": true") && calls[CAPG_PHASE_VERIFY] > 0);
    size_t len;
    unsigned char *bytes = read_file(mini, &len);
    bytes[65536 + 100] ^= 1; /* in the first capsule */
    write_file(mini, bytes, len);
    free(bytes);
    OK(capg_verify(mini, strlen(mini), &options, &problems, NULL, &error));
    CHECK(problems == 1);
    options.repair = 1;
    OK(capg_verify(mini, strlen(mini), &options, &problems, &report, &error));
    CHECK(problems == 0 && text_has(report, "\"repaired\": true"));
}

static void facts(const capg_model *model, const char *full, const char *gguf) {
    const char *data;
    size_t len;
    uint32_t number;
    OK(capg_model_name(model, &data, &len, &error));
    CHECK(len > 0 && strlen(data) == len);
    OK(capg_model_mode_reason(model, &data, &len, &error));
    CHECK(len > 0 && strlen(data) == len);
    OK(capg_model_context_length(model, &number, &error));
    CHECK(number == 256);
    OK(capg_model_threads(model, &number, &error));
    CHECK(number == 2);
    OK(capg_model_has_chat_template(model, &number, &error));
    CHECK(number == 1);
    OK(capg_model_is_end_token(model, 2, &number, &error));
    CHECK(number == 1);
    capg_text *report;
    OK(capg_model_inspect(model, 1, &report, &error));
    CHECK(text_has(report, "block.0.attn"));
    OK(capg_inspect(full, strlen(full), 0, &report, &error));
    CHECK(text_has(report, "\"kind\": \"full\""));
    OK(capg_inspect(gguf, strlen(gguf), 0, &report, &error));
    CHECK(text_has(report, "gguf"));
}

int main(int argc, char **argv) {
    CHECK(argc == 3 && capg_abi_version() == CAPG_ABI_VERSION && strlen(capg_version_string()) >= 5);
    const char *gguf = argv[1];
    char *full = path_of(argv[2], "modèle ☃.cgraph");
    char *mini = path_of(argv[2], "modèle ☃.mini.cgraph");
    make_files(gguf, full, mini);
    verify(mini);

    const uint32_t modes[3] = {CAPG_MODE_EXACT, CAPG_MODE_FAST, CAPG_MODE_SPECULATIVE};
    output reference, out;
    capg_model *model;
    capg_model_options options = opening(CAPG_MODE_AUTO);
    OK(capg_model_open(full, strlen(full), &options, &model, &error));
    generate(model, &reference);
    facts(model, full, gguf);
    capg_model_free(model);
    for (int i = 0; i < 3; i++) {
        options = opening(modes[i]);
        OK(capg_model_open(mini, strlen(mini), &options, &model, &error));
        uint32_t mode;
        OK(capg_model_mode(model, &mode, &error));
        CHECK(mode == modes[i]);
        generate(model, &out);
        CHECK(modes[i] == CAPG_MODE_FAST || same(&out, &reference));
        slices(model, 1, 0, &out);
        slices(model, 2000, 0, &out);
        slices(model, 0, 1, &out);
        slices(model, UINT64_MAX, 0, &out);
        fetch_meanwhile(model);
        together(model, 0, 0, &out);
        together(model, 0, 1, &out);
        together(model, 1500, 0, &out);
        stop_and_go_on(model, &out);
        stop_string(model, &out);
        logits(model);
        capsules(model, NULL);
    }
    host_files(argv[2], full, mini, &reference);
    logs(full, mini);
    free(full);
    free(mini);
    puts("ok");
    return 0;
}
