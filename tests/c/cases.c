/* Runs the table of cases (tests/data/cases.txt) through the C API: cases TABLE MODEL ONNX_MODELS FOLDER. */
#include "cases.h"

/* What a job holds; everything is freed after its case. */
typedef struct {
    capg_error *error;
    capg_model *model;
    capg_session *session;
    capg_tokens *tokens;
    capg_text *summary;
    capg_capsule *capsule;
    capg_cancel *cancel;
    capg_values *values;
} handles;

static void free_all(handles *h) {
    capg_error_free(h->error);
    capg_values_free(h->values);
    capg_cancel_free(h->cancel);
    capg_capsule_free(h->capsule);
    capg_text_free(h->summary);
    capg_tokens_free(h->tokens);
    capg_session_free(h->session);
    capg_model_free(h->model);
}

static capg_status open_model(const table_case *c, handles *h) {
    static const struct { const char *name; uint32_t mode; } modes[] = {
        {"auto", CAPG_MODE_AUTO}, {"exact", CAPG_MODE_EXACT}, {"fast", CAPG_MODE_FAST},
        {"speculative", CAPG_MODE_SPECULATIVE}};
    const char *file = path_in_folder(need(c, "file")), *mode = maybe(c, "mode", "auto");
    capg_model_options options;
    size_t i = 0;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.memory_budget_bytes = number(c, "memory");
    while (i < 4 && strcmp(modes[i].name, mode) != 0) i++;
    if (i == 4) return wrong("there is no mode %s", mode), CAPG_OK;
    options.mode = modes[i].mode;
    return capg_model_open(file, strlen(file), &options, &h->model, &h->error);
}

static void on_progress(void *last, uint32_t phase, uint64_t done, uint64_t total) {
    (void)phase;
    if (done > total) wrong("progress went past its end");
    *(uint64_t *)last = total;
}

static void check_summary(const handles *h) {
    const char *data = "";
    size_t len = 0;
    if (capg_text_view(h->summary, &data, &len, NULL) || len == 0 || data[0] != '{') wrong("no summary: %s", data);
}

static capg_status do_convert(const table_case *c, handles *h) {
    const char *source = path_in_folder(need(c, "source")), *target = path_in_folder(need(c, "target"));
    const char *mini = maybe(c, "mini", NULL);
    uint64_t last = 0;
    capg_convert_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.no_mini = mini == NULL;
    if (mini) options.mini_path = path_in_folder(mini), options.mini_path_len = strlen(options.mini_path);
    options.capsule_count = (uint32_t)number(c, "capsules");
    options.progress = on_progress;
    options.progress_user_data = &last;
    const capg_status status = capg_convert(source, strlen(source), target, strlen(target), &options, &h->summary, &h->error);
    if (status) return status;
    if (last == 0) wrong("no progress");
    check_summary(h);
    return status;
}

static capg_status do_split(const table_case *c, handles *h) {
    const char *source = path_in_folder(need(c, "source")), *target = path_in_folder(need(c, "target"));
    capg_split_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.light = maybe(c, "light", ""), options.light_len = strlen(options.light);
    options.calibrate = maybe(c, "calibrate", ""), options.calibrate_len = strlen(options.calibrate);
    options.mini_bytes = number(c, "mini_bytes");
    const capg_status status = capg_split(source, strlen(source), target, strlen(target), &options, &h->summary, &h->error);
    if (status == CAPG_OK) check_summary(h);
    return status;
}

static capg_status do_tokenize(const table_case *c, handles *h) {
    const char *text = need(c, "text");
    const uint32_t *ids = NULL;
    size_t count = 0;
    capg_status status = open_model(c, h);
    if (status) return status;
    status = capg_model_tokenize(h->model, text, strlen(text), 0, &h->tokens, &h->error);
    if (status) return status;
    capg_tokens_view(h->tokens, &ids, &count, NULL);
    compare_numbers("tokens", need(c, "tokens"), ' ', ids, NULL, count);
    return status;
}

/* What a token callback receives. */
typedef struct {
    uint32_t tokens[256];
    size_t count;
    char text[4096];
    size_t len;
    uint64_t cancel_after, stop_after;
    const capg_cancel *cancel;
} received;

static int32_t on_token(void *user_data, uint32_t token, const char *text, size_t len) {
    received *r = (received *)user_data;
    if (r->count == sizeof r->tokens / sizeof r->tokens[0] || r->len + len >= sizeof r->text)
        return wrong("more tokens than there is room for"), 1;
    r->tokens[r->count++] = token;
    memcpy(r->text + r->len, text, len);
    r->len += len;
    if (r->count == r->cancel_after) capg_cancel_trigger(r->cancel, NULL);
    return r->count == r->stop_after;
}

static capg_status make_prompt(const table_case *c, handles *h) {
    const char *chat = maybe(c, "chat", NULL), *text = maybe(c, "prompt", "");
    const uint32_t flags = CAPG_TOKENIZE_ADD_SPECIAL | CAPG_TOKENIZE_PARSE_SPECIAL;
    if (chat == NULL) return capg_model_tokenize(h->model, text, strlen(text), flags, &h->tokens, &h->error);
    const capg_chat_message message = {"user", 4, chat, strlen(chat)};
    return capg_model_chat_tokens(h->model, &message, 1, &h->tokens, &h->error);
}

static capg_status do_generate(const table_case *c, handles *h) {
    static received r;
    const uint32_t *ids = NULL;
    size_t count = 0;
    uint32_t reason = CAPG_FINISH_NONE;
    capg_generate_options options;
    capg_status status = open_model(c, h);
    if (status || (status = make_prompt(c, h)) || (status = capg_session_new(h->model, NULL, &h->session, &h->error))
        || (status = capg_cancel_new(&h->cancel, &h->error))
        || (status = capg_tokens_view(h->tokens, &ids, &count, &h->error)))
        return status;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    need(c, "max_tokens");
    options.max_tokens = number(c, "max_tokens");
    memset(&r, 0, sizeof r);
    r.cancel_after = number(c, "cancel_after"), r.stop_after = number(c, "stop_after"), r.cancel = h->cancel;
    status = capg_session_generate(h->session, ids, count, &options, on_token, &r, h->cancel, &reason, &h->error);
    r.text[r.len] = 0;
    compare_numbers("tokens", maybe(c, "tokens", ""), ' ', r.tokens, NULL, r.count); /* missing: there are none */
    if (maybe(c, "text", NULL)) compare_text("text", r.text, need(c, "text"));
    if (status == CAPG_OK && r.stop_after && reason != CAPG_FINISH_CALLBACK) wrong("the callback did not end it");
    return status;
}

static capg_status do_fetch(const table_case *c, handles *h) {
    static const char *const layouts[] = {"source", "stored", "f32"}; /* as CAPG_LAYOUT_* */
    const char *capsule = need(c, "capsule"), *layout = maybe(c, "layout", "source"), *name = need(c, "tensor");
    uint32_t number_of_layout = 0;
    size_t count = 0;
    capg_status status = open_model(c, h);
    if (status) return status;
    while (number_of_layout < 3 && strcmp(layouts[number_of_layout], layout) != 0) number_of_layout++;
    status = capg_model_fetch(h->model, capsule, strlen(capsule), number_of_layout, &h->capsule, &h->error);
    if (status || (status = capg_capsule_tensor_count(h->capsule, &count, &h->error))) return status;
    for (size_t i = 0; i < count; i++) {
        capg_tensor_view view;
        uint64_t sum = 0;
        memset(&view, 0, sizeof view);
        view.struct_size = sizeof view;
        if ((status = capg_capsule_tensor(h->capsule, i, &view, &h->error))) return status;
        if (strcmp(view.name, name) != 0) continue;
        compare_text("type", view.encoding, need(c, "type"));
        compare_numbers("shape", need(c, "shape"), ',', NULL, view.shape, view.dimensions);
        for (size_t b = 0; b < view.data_len; b++) sum += ((const unsigned char *)view.data)[b];
        compare_numbers("sum", need(c, "sum"), ',', NULL, &sum, 1);
        return CAPG_OK;
    }
    return wrong("the capsule has no tensor %s", name), CAPG_OK;
}

static void compare_output(const capg_tensor *found, const port *wanted, double tolerance) {
    const capg_string *strings = (const capg_string *)found->data;
    if (found->rank != wanted->tensor.rank || found->element != wanted->tensor.element
        || found->data_len != wanted->tensor.data_len
        || (found->rank > 0 && memcmp(found->dims, wanted->dims, found->rank * sizeof *found->dims) != 0)) {
        wrong("output %s has another shape or type", wanted->name);
        return;
    }
    for (size_t i = 0; i < wanted->count; i++) {
        double far = 0;
        switch (wanted->tensor.element) {
        case CAPG_ELEMENT_FLOAT32:
            far = (double)((const float *)found->data)[i] - (double)wanted->values.floats[i];
            break;
        case CAPG_ELEMENT_INT64:
            far = (double)((const int64_t *)found->data)[i] - (double)wanted->values.longs[i];
            break;
        case CAPG_ELEMENT_INT32:
            far = (double)((const int32_t *)found->data)[i] - (double)wanted->values.ints[i];
            break;
        default:
            far = strings[i].len != wanted->values.strings[i].len
                || memcmp(strings[i].data, wanted->values.strings[i].data, strings[i].len) != 0;
        }
        if (!(far <= tolerance && -far <= tolerance))
            wrong("output %s is off by %g at %lu", wanted->name, far, (unsigned long)i);
    }
}

static capg_status do_run(const table_case *c, handles *h) {
    static port inputs[MOST_PORTS], outputs[MOST_PORTS];
    capg_value values[MOST_PORTS];
    capg_string names[MOST_PORTS];
    size_t given = 0, wanted = 0, count = 0;
    for (size_t i = 0; i < c->count; i++) {
        const int input = strcmp(c->keys[i], "input") == 0;
        if (!input && strcmp(c->keys[i], "output") != 0) continue;
        port *p = input ? &inputs[given] : &outputs[wanted];
        if (given == MOST_PORTS || wanted == MOST_PORTS || !read_port(c->values[i], p))
            return wrong("input or output that this runner cannot make: %.80s", c->values[i]), CAPG_OK;
        const capg_value value = {p->name, strlen(p->name), &p->tensor, 1, CAPG_VALUE_TENSOR, 0};
        const capg_string name = {p->name, strlen(p->name)};
        if (input) values[given++] = value;
        else names[wanted++] = name;
    }
    capg_status status = open_model(c, h);
    if (status) return status;
    status = capg_model_run(h->model, values, given, names, wanted, NULL, NULL, &h->values, &h->error);
    if (status || (status = capg_values_count(h->values, &count, &h->error))) return status;
    if (wanted == 0 || count != wanted) wrong("another number of outputs");
    for (size_t i = 0; i < wanted && i < count; i++) {
        capg_value value;
        if ((status = capg_values_view(h->values, i, &value, &h->error))) return status;
        if (value.count != 1 || strcmp(value.name, outputs[i].name) != 0) wrong("output %s is not there", outputs[i].name);
        else compare_output(value.tensors, &outputs[i], strtod(maybe(c, "tolerance", "0"), NULL));
    }
    return status;
}

static capg_status do_bytes(const table_case *c, handles *h) {
    const char *hex = need(c, "hex");
    FILE *file = fopen(path_in_folder(need(c, "target")), "wb");
    (void)h;
    if (file == NULL) return wrong("cannot write it"), CAPG_OK;
    for (; hex[0] && hex[1]; hex += 2) {
        const char pair[3] = {hex[0], hex[1], 0};
        fputc((int)strtoul(pair, NULL, 16), file);
    }
    if (fclose(file) != 0 || *hex) wrong("cannot write it");
    return CAPG_OK;
}

/* What a case can do, and the keys that it may have besides do, expect and message. */
static const struct { const char *name; capg_status (*run)(const table_case *, handles *); const char *keys; } jobs[] = {
    {"convert", do_convert, " source target mini capsules "},
    {"split", do_split, " source target light mini_bytes calibrate "},
    {"tokenize", do_tokenize, " file text tokens "},
    {"generate", do_generate, " file mode memory prompt chat max_tokens cancel_after stop_after tokens text "},
    {"fetch", do_fetch, " file mode capsule layout tensor type shape sum "},
    {"run", do_run, " file memory input output tolerance "},
    {"bytes", do_bytes, " target hex "}};

static void run_case(const table_case *c) {
    handles h;
    size_t job = 0;
    const char *what = need(c, "do"), *expected = maybe(c, "expect", "ok");
    const size_t count = sizeof jobs / sizeof jobs[0];
    memset(&h, 0, sizeof h);
    while (job < count && strcmp(jobs[job].name, what) != 0) job++;
    if (job == count) {
        wrong("this runner does not know how to %s", what);
        return;
    }
    only(c, jobs[job].keys);
    const capg_status status = jobs[job].run(c, &h);
    const char *message = capg_error_message(h.error, NULL);
    if (strcmp(capg_status_name(status), expected) != 0)
        wrong("it ended with %s, not %s: %s", capg_status_name(status), expected, message);
    for (size_t i = 0; i < c->count; i++)
        if (strcmp(c->keys[i], "message") == 0 && strstr(message, c->values[i]) == NULL)
            wrong("the message does not have \"%s\": %s", c->values[i], message);
    free_all(&h);
}

int main(int argc, char **argv) {
    static table_case c;
    unsigned long passed = 0, failed = 0;
    if (argc != 5) return fputs("cases TABLE MODEL ONNX_MODELS FOLDER\n", stderr), 2;
    open_table(argv[1], argv[2], argv[3], argv[4]);
    while (next_case(&c)) {
        run_case(&c);
        if (why[0]) printf("case %s ... FAILED: %s\n", c.name, why);
        else printf("case %s ... ok\n", c.name);
        *(why[0] ? &failed : &passed) += 1;
        why[0] = 0;
        fflush(stdout);
    }
    close_table();
    const int good = passed > 0 && failed == 0;
    printf("test result: %s. %lu passed; %lu failed\n", good ? "ok" : "FAILED", passed, failed);
    return !good;
}
