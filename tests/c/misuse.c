/* Wrong calls of every function: each gives a status and an error and leaves its outputs alone.
   Arguments: a GGUF model, an empty directory. */
#include "test.h"

#define INVALID(call) FAILS(CAPG_ERROR_INVALID_ARGUMENT, call)

/* Values that no call writes on failure. */
static uint32_t number = 77;
static uint64_t wide = 77;
static size_t size = 77;
static const char *data = "untouched";
static const uint32_t *ids_out = NULL;
static const float *floats = NULL;

static void check_untouched(void) {
    CHECK(number == 77 && wide == 77 && size == 77 && strcmp(data, "untouched") == 0);
    CHECK(ids_out == NULL && floats == NULL);
}

static int never_called(void) {
    fail(__FILE__, __LINE__, "a callback was called");
    return 1;
}

static int32_t no_read(void *user_data, uint64_t offset, void *buffer, size_t len) {
    return (user_data != NULL || offset != 0 || buffer != NULL || len != 0) && never_called();
}

static void frees_of_nothing(void) {
    capg_error_free(NULL);
    capg_text_free(NULL);
    capg_tokens_free(NULL);
    capg_cancel_free(NULL);
    capg_log_free(NULL);
    capg_model_free(NULL);
    capg_session_free(NULL);
    capg_capsule_free(NULL);
    CHECK(capg_error_status(NULL) == CAPG_OK && strcmp(capg_error_message(NULL, NULL), "") == 0);
    CHECK(capg_error_message(NULL, &size) != NULL && size == 0);
    size = 77;
    CHECK(strcmp(capg_status_name(CAPG_ERROR_BUSY), "busy") == 0);
    CHECK(strcmp(capg_status_name(12345), "unknown") == 0);
    CHECK(capg_version_string() != NULL && capg_abi_version() == CAPG_ABI_VERSION);
}

static void results_and_logs(void) {
    INVALID(capg_text_view(NULL, &data, &size, &error));
    INVALID(capg_tokens_view(NULL, &ids_out, &size, &error));
    INVALID(capg_cancel_new(NULL, &error));
    INVALID(capg_cancel_trigger(NULL, &error));
    INVALID(capg_cancel_reset(NULL, &error));
    INVALID(capg_cancel_is_triggered(NULL, &number, &error));
    INVALID(capg_log_new(0, NULL, &error));
    capg_log *log = (capg_log *)(void *)&size;
    INVALID(capg_log_new(9, &log, &error));
    CHECK(log == NULL);
    INVALID(capg_log_deliver(NULL, NULL, NULL, &error));
    OK(capg_log_new(CAPG_LOG_ERROR, &log, &error));
    INVALID(capg_log_deliver(log, NULL, NULL, &error));
    capg_log_free(log);
    capg_cancel *cancel;
    OK(capg_cancel_new(&cancel, &error));
    INVALID(capg_cancel_is_triggered(cancel, NULL, &error));
    capg_cancel_free(cancel);
    /* Errors are not wanted. */
    CHECK(capg_cancel_trigger(NULL, NULL) == CAPG_ERROR_INVALID_ARGUMENT);
}

static void files(const char *gguf, const char *full) {
    capg_text *text = (capg_text *)(void *)&size;
    INVALID(capg_convert(NULL, 0, full, strlen(full), NULL, &text, &error));
    CHECK(text == NULL);
    INVALID(capg_convert(NULL, 5, full, strlen(full), NULL, NULL, &error));
    INVALID(capg_convert("x", 0, full, strlen(full), NULL, NULL, &error));
    INVALID(capg_convert("\xFFx", 2, full, strlen(full), NULL, NULL, &error));
    INVALID(capg_convert(gguf, strlen(gguf), "a\xC3", 2, NULL, NULL, &error));
    INVALID(capg_convert(gguf, strlen(gguf), gguf, strlen(gguf), NULL, NULL, &error));
    FAILS(CAPG_ERROR_IO, capg_convert("/nowhere", 8, full, strlen(full), NULL, NULL, &error));
    INVALID(capg_convert("a\0b", 3, full, strlen(full), NULL, NULL, &error));
    INVALID(capg_split(NULL, 0, NULL, 0, NULL, NULL, &error));
    INVALID(capg_split("\xFF", 1, NULL, 0, NULL, NULL, &error));
    FAILS(CAPG_ERROR_IO, capg_split("/nowhere", 8, NULL, 0, NULL, NULL, &error));
    FAILS(CAPG_ERROR_MALFORMED, capg_split(gguf, strlen(gguf), full, strlen(full), NULL, NULL, &error));
    INVALID(capg_verify(NULL, 0, NULL, &size, NULL, &error));
    FAILS(CAPG_ERROR_MALFORMED, capg_verify(gguf, strlen(gguf), NULL, &size, &text, &error));
    CHECK(text == NULL);
    INVALID(capg_inspect(full, strlen(full), 0, NULL, &error));
    INVALID(capg_inspect(NULL, 0, 0, &text, &error));
    INVALID(capg_inspect(full, strlen(full), 2, &text, &error));
    FAILS(CAPG_ERROR_IO, capg_inspect("/nowhere", 8, 0, &text, &error));
}

/* Sizes of each options struct: too small, absurd, of a newer host that asks for nothing, and for something. */
#define SIZES(type, call) \
    do { \
        struct { type known; uint64_t newer[2]; } o; \
        const size_t wrong[] = {0, 1, sizeof(size_t), sizeof(type) - 1, 4097, SIZE_MAX}; \
        memset(&o, 0, sizeof o); \
        type *options = &o.known; \
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) { \
            options->struct_size = wrong[i]; \
            INVALID(call); \
        } \
        options->struct_size = sizeof o; \
        o.newer[1] = UINT64_C(1) << 63; \
        FAILS(CAPG_ERROR_UNSUPPORTED, call); \
    } while (0)

static void struct_sizes(const char *gguf, const char *full, const capg_model *model, const capg_session *session) {
    const size_t g = strlen(gguf), f = strlen(full);
    capg_model *opened;
    capg_session *made;
    uint32_t id = 0;
    capg_capsule *capsule;
    SIZES(capg_convert_options, capg_convert(gguf, g, "/nowhere/x", 10, options, NULL, &error));
    SIZES(capg_split_options, capg_split(full, f, "/nowhere/x", 10, options, NULL, &error));
    SIZES(capg_verify_options, capg_verify(full, f, options, &size, NULL, &error));
    SIZES(capg_model_options, capg_model_open(full, f, options, &opened, &error));
    SIZES(capg_reader, capg_model_open_reader(options, NULL, &opened, &error));
    SIZES(capg_session_options, capg_session_new(model, options, &made, &error));
    SIZES(capg_generate_options, capg_session_start(session, &id, 1, options, &error));
    capg_slice slice;
    memset(&slice, 0, sizeof slice);
    INVALID(capg_session_advance(session, 0, 0, NULL, &slice, &error));
    OK(capg_model_fetch(model, "embed", 5, 0, &capsule, &error));
    capg_tensor_view view;
    memset(&view, 0, sizeof view);
    INVALID(capg_capsule_tensor(capsule, 0, &view, &error));
    CHECK(view.data == NULL && slice.text == NULL);
    capg_capsule_free(capsule);
}

static void option_values(const char *gguf, const char *full, const capg_session *session) {
    capg_convert_options convert;
    memset(&convert, 0, sizeof convert);
    convert.struct_size = sizeof convert;
    convert.no_mini = 2;
    INVALID(capg_convert(gguf, strlen(gguf), "/nowhere/x", 10, &convert, NULL, &error));
    convert.no_mini = 1;
    convert.mini_path = "x";
    convert.mini_path_len = 1;
    INVALID(capg_convert(gguf, strlen(gguf), "/nowhere/x", 10, &convert, NULL, &error));
    convert.no_mini = 0;
    convert.planes = 3;
    INVALID(capg_convert(gguf, strlen(gguf), "/nowhere/x", 10, &convert, NULL, &error));
    capg_verify_options verify;
    memset(&verify, 0, sizeof verify);
    verify.struct_size = sizeof verify;
    verify.deep = 9;
    INVALID(capg_verify(full, strlen(full), &verify, &size, NULL, &error));
    verify.deep = 0;
    verify.full_path_len = 3;
    INVALID(capg_verify(full, strlen(full), &verify, &size, NULL, &error));
    capg_generate_options generate;
    memset(&generate, 0, sizeof generate);
    generate.struct_size = sizeof generate;
    const uint32_t id = 0;
    generate.temperature = -1;
    INVALID(capg_session_start(session, &id, 1, &generate, &error));
    const uint32_t nan = 0x7FC00000;
    memcpy(&generate.temperature, &nan, 4);
    INVALID(capg_session_start(session, &id, 1, &generate, &error));
    generate.temperature = 0;
    generate.stop_count = 1;
    INVALID(capg_session_start(session, &id, 1, &generate, &error));
    capg_string stops[2] = {{"x", 1}, {"\xFF", 1}};
    generate.stop = stops;
    generate.stop_count = 2;
    INVALID(capg_session_start(session, &id, 1, &generate, &error));
    stops[1].len = 0;
    INVALID(capg_session_start(session, &id, 1, &generate, &error));
    generate.stop_count = SIZE_MAX;
    INVALID(capg_session_start(session, &id, 1, &generate, &error));
}

static void fetches(capg_model *model) {
    capg_fetch *fetch = (capg_fetch *)(void *)&size;
    capg_capsule *capsule;
    const capg_string head[1] = {{"head", 4}};
    size_t come;
    INVALID(capg_model_fetch_begin(NULL, head, 1, 0, &fetch, &error));
    CHECK(fetch == NULL);
    INVALID(capg_model_fetch_begin(model, NULL, 1, 0, &fetch, &error));
    INVALID(capg_model_fetch_begin(model, head, 1, 3, &fetch, &error));
    INVALID(capg_model_fetch_begin(model, head, 1, 0, NULL, &error));
    OK(capg_model_fetch_begin(model, head, 0, 0, &fetch, &error));
    INVALID(capg_fetch_poll(NULL, &come, &error));
    INVALID(capg_fetch_poll(fetch, NULL, &error));
    OK(capg_fetch_poll(fetch, &come, &error));
    CHECK(come == 0);
    INVALID(capg_fetch_take(NULL, 0, &capsule, &error));
    INVALID(capg_fetch_take(fetch, 0, NULL, &error));
    FAILS(CAPG_ERROR_NOT_FOUND, capg_fetch_take(fetch, 0, &capsule, &error));
    capg_fetch_free(fetch);
    capg_fetch_free(NULL);
    INVALID(capg_model_prefetch(NULL, NULL, 0, &error));
    INVALID(capg_model_prefetch(model, NULL, 1, &error));
    OK(capg_model_prefetch(model, NULL, 0, &error));
}

static void groups(capg_session *session) {
    capg_group *group = (capg_group *)(void *)&size;
    const capg_session *twice[2] = {session, session};
    const capg_session *none[1] = {NULL};
    size_t running;
    capg_slice slice;
    memset(&slice, 0, sizeof slice);
    INVALID(capg_session_slice(session, &slice, &error)); /* no struct_size */
    slice.struct_size = sizeof slice;
    INVALID(capg_session_slice(session, &slice, &error)); /* nothing started */
    INVALID(capg_session_slice(NULL, &slice, &error));
    INVALID(capg_session_slice(session, NULL, &error));
    INVALID(capg_group_new(NULL, &error));
    OK(capg_group_new(&group, &error));
    INVALID(capg_group_advance(NULL, twice, 1, 0, 0, NULL, &running, &error));
    INVALID(capg_group_advance(group, NULL, 1, 0, 0, NULL, &running, &error));
    INVALID(capg_group_advance(group, none, 1, 0, 0, NULL, &running, &error));
    INVALID(capg_group_advance(group, twice, 2, 0, 0, NULL, &running, &error));
    INVALID(capg_group_advance(group, twice, 1, 0, 0, NULL, &running, &error)); /* nothing started */
    OK(capg_group_advance(group, NULL, 0, 0, 0, NULL, &running, &error));
    CHECK(running == 0);
    capg_group_free(group);
    capg_group_free(NULL);
}

static void budgets(const char *full, size_t f, capg_model_options options) {
    capg_budget *budget = (capg_budget *)(void *)&size;
    capg_model *model = NULL;
    uint64_t bytes = 0, claimed = 0;
    INVALID(capg_budget_new(0, &budget, &error));
    CHECK(budget == NULL);
    INVALID(capg_budget_new(1, NULL, &error));
    OK(capg_budget_new(1000, &budget, &error));
    INVALID(capg_budget_resize(NULL, 5, &error));
    INVALID(capg_budget_resize(budget, 0, &error));
    INVALID(capg_budget_bytes(NULL, &bytes, NULL, &error));
    INVALID(capg_budget_bytes(budget, NULL, &claimed, &error));
    options.budget = budget;
    FAILS(CAPG_ERROR_LIMIT, capg_model_open(full, f, &options, &model, &error));
    OK(capg_budget_resize(budget, 64 << 20, &error));
    OK(capg_budget_bytes(budget, &bytes, &claimed, &error));
    CHECK(bytes == 64 << 20 && claimed == 0);
    options.memory_budget_bytes = 64 << 20;
    INVALID(capg_model_open(full, f, &options, &model, &error));
    options.memory_budget_bytes = 0;
    OK(capg_model_open(full, f, &options, &model, &error));
    OK(capg_budget_bytes(budget, &bytes, &claimed, &error));
    CHECK(claimed > 0 && claimed < bytes);
    fetches(model);
    FAILS(CAPG_ERROR_LIMIT, capg_budget_resize(budget, claimed - 1, &error));
    capg_budget_free(budget); /* the model keeps it */
    capg_budget_free(NULL);
    capg_model_free(model);
}

static void models(const char *full) {
    const size_t f = strlen(full);
    capg_model *model = (capg_model *)(void *)&size;
    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    INVALID(capg_model_open(NULL, 0, NULL, &model, &error));
    CHECK(model == NULL);
    INVALID(capg_model_open(full, f, NULL, NULL, &error));
    INVALID(capg_model_open("\xC0\xAF", 2, NULL, &model, &error));
    FAILS(CAPG_ERROR_IO, capg_model_open("/", 1, NULL, &model, &error));
    options.mode = 4000000000u;
    INVALID(capg_model_open(full, f, &options, &model, &error));
    options.mode = 0;
    options.memory_budget_bytes = 1;
    FAILS(CAPG_ERROR_LIMIT, capg_model_open(full, f, &options, &model, &error));
    options.memory_budget_bytes = 0;
    budgets(full, f, options);
    options.threads = UINT32_MAX;
    INVALID(capg_model_open(full, f, &options, &model, &error));
    options.threads = 0;
    options.offset = UINT64_MAX;
    INVALID(capg_model_open(full, f, &options, &model, &error));
    options.offset = 1;
    FAILS(CAPG_ERROR_MALFORMED, capg_model_open(full, f, &options, &model, &error));
    options.offset = 0;
    options.full_length = 5;
    INVALID(capg_model_open(full, f, &options, &model, &error));
    options.full_length = 0;
    capg_reader reader;
    memset(&reader, 0, sizeof reader);
    reader.struct_size = sizeof reader;
    options.full_path = full;
    options.full_path_len = f;
    options.full_reader = &reader;
    INVALID(capg_model_open(full, f, &options, &model, &error));
    INVALID(capg_model_open_reader(NULL, NULL, &model, &error));
    INVALID(capg_model_open_reader(&reader, NULL, &model, &error)); /* no function */
    reader.read = no_read;
    FAILS(CAPG_ERROR_MALFORMED, capg_model_open_reader(&reader, NULL, &model, &error)); /* empty */
    INVALID(capg_model_open_reader(&reader, NULL, NULL, &error));
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.offset = 1;
    INVALID(capg_model_open_reader(&reader, &options, &model, &error));
    CHECK(model == NULL);
}

static void model_getters(const capg_model *model) {
    const capg_model *const wrong[1] = {NULL};
    for (int i = 0; i < 1; i++) {
        INVALID(capg_model_mode(wrong[i], &number, &error));
        INVALID(capg_model_mode_reason(wrong[i], &data, &size, &error));
        INVALID(capg_model_name(wrong[i], &data, &size, &error));
        INVALID(capg_model_vocab_size(wrong[i], &number, &error));
        INVALID(capg_model_context_length(wrong[i], &number, &error));
        INVALID(capg_model_threads(wrong[i], &number, &error));
        INVALID(capg_model_held_bytes(wrong[i], &wide, &error));
        INVALID(capg_model_has_chat_template(wrong[i], &number, &error));
        INVALID(capg_model_is_end_token(wrong[i], 0, &number, &error));
        INVALID(capg_model_capsule_count(wrong[i], &size, &error));
        INVALID(capg_model_capsule_id(wrong[i], 0, &data, &size, &error));
    }
    INVALID(capg_model_mode(model, NULL, &error));
    INVALID(capg_model_mode_reason(model, NULL, &size, &error));
    INVALID(capg_model_name(model, &data, NULL, &error));
    INVALID(capg_model_vocab_size(model, NULL, &error));
    INVALID(capg_model_context_length(model, NULL, &error));
    INVALID(capg_model_threads(model, NULL, &error));
    INVALID(capg_model_held_bytes(model, NULL, &error));
    INVALID(capg_model_has_chat_template(model, NULL, &error));
    INVALID(capg_model_is_end_token(model, 0, NULL, &error));
    INVALID(capg_model_capsule_count(model, NULL, &error));
    INVALID(capg_model_capsule_id(model, 0, &data, NULL, &error));
    FAILS(CAPG_ERROR_NOT_FOUND, capg_model_capsule_id(model, SIZE_MAX, &data, &size, &error));
}

static void texts(const capg_model *model) {
    capg_tokens *tokens = (capg_tokens *)(void *)&size;
    capg_text *text = (capg_text *)(void *)&size;
    const uint32_t beyond = 1u << 30, ids[3] = {1, 2, 3};
    capg_chat_message message = {"user", 4, NULL, 3};
    INVALID(capg_model_tokenize(NULL, "x", 1, 0, &tokens, &error));
    CHECK(tokens == NULL);
    INVALID(capg_model_tokenize(model, NULL, 1, 0, &tokens, &error));
    INVALID(capg_model_tokenize(model, "x", 1, 4, &tokens, &error));
    INVALID(capg_model_tokenize(model, "x", 1, 0, NULL, &error));
    INVALID(capg_model_tokenize(model, "x\x80", 2, 0, &tokens, &error));
    INVALID(capg_model_tokenize(model, "x", SIZE_MAX, 0, &tokens, &error));
    INVALID(capg_model_detokenize(NULL, ids, 1, 0, &text, &error));
    CHECK(text == NULL);
    INVALID(capg_model_detokenize(model, NULL, 1, 0, &text, &error));
    INVALID(capg_model_detokenize(model, &beyond, 1, 0, &text, &error));
    INVALID(capg_model_detokenize(model, ids, 1, 2, &text, &error));
    INVALID(capg_model_detokenize(model, (const uint32_t *)(const void *)((const char *)ids + 1), 1, 0, &text, &error));
    INVALID(capg_model_detokenize(model, ids, SIZE_MAX / 2, 0, &text, &error));
    INVALID(capg_model_detokenize(model, ids, 1, 0, NULL, &error));
    INVALID(capg_model_chat_prompt(NULL, NULL, 0, 0, &text, &error));
    INVALID(capg_model_chat_prompt(model, NULL, 1, 0, &text, &error));
    INVALID(capg_model_chat_prompt(model, &message, 1, 0, &text, &error));
    message.content = "x\xFFz";
    INVALID(capg_model_chat_prompt(model, &message, 1, 0, &text, &error));
    message.content = "xyz";
    INVALID(capg_model_chat_prompt(model, &message, 1, 2, &text, &error));
    INVALID(capg_model_chat_prompt(model, &message, 1, 0, NULL, &error));
    INVALID(capg_model_chat_tokens(NULL, &message, 1, &tokens, &error));
    INVALID(capg_model_chat_tokens(model, NULL, 1, &tokens, &error));
    INVALID(capg_model_chat_tokens(model, &message, 1, NULL, &error));
    INVALID(capg_model_inspect(NULL, 0, &text, &error));
    INVALID(capg_model_inspect(model, 0, NULL, &error));
    INVALID(capg_model_inspect(model, 5, &text, &error));
    OK(capg_model_tokenize(model, NULL, 0, 0, &tokens, &error));
    OK(capg_tokens_view(tokens, &ids_out, &size, &error));
    CHECK(size == 0);
    INVALID(capg_tokens_view(tokens, NULL, &size, &error));
    INVALID(capg_tokens_view(tokens, &ids_out, NULL, &error));
    capg_tokens_free(tokens);
    OK(capg_model_detokenize(model, NULL, 0, 0, &text, &error));
    INVALID(capg_text_view(text, NULL, &size, &error));
    INVALID(capg_text_view(text, &data, NULL, &error));
    capg_text_free(text);
    ids_out = NULL;
    size = 77;
}

static void sessions(const capg_model *model) {
    capg_session *session = (capg_session *)(void *)&size;
    const uint32_t id = 5, beyond = UINT32_MAX;
    capg_slice slice;
    memset(&slice, 0, sizeof slice);
    slice.struct_size = sizeof slice;
    capg_text *text;
    INVALID(capg_session_new(NULL, NULL, &session, &error));
    CHECK(session == NULL);
    INVALID(capg_session_new(model, NULL, NULL, &error));
    capg_session_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
#ifndef __SANITIZE_ADDRESS__ /* which ends the program where malloc would return NULL */
    options.context = UINT32_MAX;
    FAILS(CAPG_ERROR_LIMIT, capg_session_new(model, &options, &session, &error));
#endif
    options.context = 0;
    options.kv_type = 2;
    INVALID(capg_session_new(model, &options, &session, &error));
    options.kv_type = CAPG_KV_Q8_0;
    options.flags = ~(uint32_t)CAPG_SESSION_WITHOUT_LOOKUP;
    INVALID(capg_session_new(model, &options, &session, &error));
    OK(capg_session_new(model, NULL, &session, &error));
    INVALID(capg_session_generate(NULL, &id, 1, NULL, NULL, NULL, NULL, &number, &error));
    INVALID(capg_session_generate(session, NULL, 1, NULL, NULL, NULL, NULL, &number, &error));
    INVALID(capg_session_generate(session, NULL, 0, NULL, NULL, NULL, NULL, &number, &error));
    INVALID(capg_session_generate(session, &beyond, 1, NULL, NULL, NULL, NULL, &number, &error));
    INVALID(capg_session_start(NULL, &id, 1, NULL, &error));
    INVALID(capg_session_start(session, NULL, 1, NULL, &error));
    INVALID(capg_session_start(session, &beyond, 1, NULL, &error));
    INVALID(capg_session_advance(NULL, 0, 0, NULL, &slice, &error));
    INVALID(capg_session_advance(session, 0, 0, NULL, NULL, &error));
    INVALID(capg_session_advance(session, 0, 0, NULL, &slice, &error)); /* nothing started */
    groups(session);
    INVALID(capg_session_eval(NULL, &id, 1, 0, NULL, &error));
    INVALID(capg_session_eval(session, NULL, 1, 0, NULL, &error));
    INVALID(capg_session_eval(session, NULL, 0, 0, NULL, &error));
    INVALID(capg_session_eval(session, &beyond, 1, 0, NULL, &error));
    INVALID(capg_session_eval(session, &id, 1, 8, NULL, &error));
    INVALID(capg_session_logits(NULL, &floats, &size, &size, &error));
    INVALID(capg_session_logits(session, NULL, &size, &size, &error));
    INVALID(capg_session_logits(session, &floats, NULL, &size, &error));
    INVALID(capg_session_logits(session, &floats, &size, NULL, &error));
    INVALID(capg_session_tokens(NULL, &ids_out, &size, &error));
    INVALID(capg_session_tokens(session, NULL, &size, &error));
    INVALID(capg_session_tokens(session, &ids_out, NULL, &error));
    INVALID(capg_session_context(NULL, &size, &error));
    INVALID(capg_session_context(session, NULL, &error));
    INVALID(capg_session_truncate(NULL, 0, &error));
    INVALID(capg_session_reset(NULL, &error));
    INVALID(capg_session_report(NULL, &text, &error));
    INVALID(capg_session_report(session, NULL, &error));
    OK(capg_session_truncate(session, SIZE_MAX, &error));
    OK(capg_session_report(session, &text, &error)); /* of nothing yet */
    CHECK(text_has(text, "memory") && slice.text == NULL);
    capg_session_free(session);
}

static void capsules(const capg_model *model) {
    capg_capsule *capsule = (capg_capsule *)(void *)&size;
    capg_tensor_view view;
    memset(&view, 0, sizeof view);
    view.struct_size = sizeof view;
    INVALID(capg_model_fetch(NULL, "embed", 5, 0, &capsule, &error));
    CHECK(capsule == NULL);
    INVALID(capg_model_fetch(model, NULL, 5, 0, &capsule, &error));
    INVALID(capg_model_fetch(model, "embed", 5, 3, &capsule, &error));
    INVALID(capg_model_fetch(model, "embed", 5, 0, NULL, &error));
    FAILS(CAPG_ERROR_NOT_FOUND, capg_model_fetch(model, "embedding", 9, 0, &capsule, &error));
    FAILS(CAPG_ERROR_NOT_FOUND, capg_model_fetch(model, NULL, 0, 0, &capsule, &error));
    OK(capg_model_fetch(model, "embed", 5, 0, &capsule, &error));
    INVALID(capg_capsule_precision(NULL, &data, &size, &error));
    INVALID(capg_capsule_precision(capsule, NULL, &size, &error));
    INVALID(capg_capsule_tensor_count(NULL, &size, &error));
    INVALID(capg_capsule_tensor_count(capsule, NULL, &error));
    INVALID(capg_capsule_tensor(NULL, 0, &view, &error));
    INVALID(capg_capsule_tensor(capsule, 0, NULL, &error));
    FAILS(CAPG_ERROR_NOT_FOUND, capg_capsule_tensor(capsule, 99, &view, &error));
    CHECK(view.data == NULL);
    capg_capsule_free(capsule);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    char *full = path_of(argv[2], "misuse.cgraph");
    capg_convert_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.no_mini = 1;
    frees_of_nothing();
    results_and_logs();
    files(argv[1], full);
    OK(capg_convert(argv[1], strlen(argv[1]), full, strlen(full), &options, NULL, &error));
    capg_model *model;
    capg_session *session;
    OK(capg_model_open(full, strlen(full), NULL, &model, &error));
    OK(capg_session_new(model, NULL, &session, &error));
    models(full);
    struct_sizes(argv[1], full, model, session);
    option_values(argv[1], full, session);
    model_getters(model);
    texts(model);
    sessions(model);
    capsules(model);
    check_untouched();
    capg_session_free(session);
    capg_model_free(model);
    free(full);
    puts("ok");
    return 0;
}
