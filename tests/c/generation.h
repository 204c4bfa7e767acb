/* What main_path.c generates: the same text in every way, and logits. */
#ifndef CAPG_GENERATION_H
#define CAPG_GENERATION_H

#include "test.h"

typedef struct {
    uint32_t ids[256];
    size_t count;
    char text[4096];
    size_t text_len;
    size_t stop_after; /* 0: never */
} output;

#define NO_TOKEN 0xFFFFFFFFu /* collects text only */

static inline int32_t collect(void *user_data, uint32_t token, const char *text, size_t len) {
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

static inline int same(const output *a, const output *b) {
    return a->count == b->count && memcmp(a->ids, b->ids, a->count * sizeof(uint32_t)) == 0
        && a->text_len == b->text_len && memcmp(a->text, b->text, a->text_len) == 0;
}

static inline capg_generate_options generation(uint64_t max_tokens) {
    capg_generate_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.max_tokens = max_tokens;
    options.ignore_end = 1;
    return options;
}

/* Tokens of a conversation of one question. */
static inline capg_tokens *question(const capg_model *model) {
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

static inline void generate(const capg_model *model, output *out) {
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
static inline void slices(const capg_model *model, uint64_t microseconds, size_t max_tokens, const output *wanted) {
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

/* Two sessions together, the second with half the tokens. */
static inline void together(const capg_model *model, uint64_t microseconds, size_t max_tokens, const output *wanted) {
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
static inline void stop_and_go_on(const capg_model *model, const output *wanted) {
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

static inline void stop_string(const capg_model *model, const output *wanted) {
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

static inline void logits(const capg_model *model) {
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

#endif
