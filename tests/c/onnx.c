/* ONNX models: convert, open, ports, run with every kind of value, wrong calls, cancel, order of freeing.
   Arguments: the model "small" of xtask/python/onnx_models.py, an empty directory, ONNX Runtime's library, a GGUF model. */
#define _POSIX_C_SOURCE 199309L /* nanosleep */

#include "test.h"

#include <pthread.h>
#include <time.h>

#define INVALID(call) FAILS(CAPG_ERROR_INVALID_ARGUMENT, call)

static const char *runtime;

static const float x_data[8] = {0, 1, 2, 3, 4, 5, 6, 7};
static const int64_t x_dims[2] = {2, 4};
static const capg_string words_data[2] = {{"a\0b", 3}, {"\xC3\xBC", 2}};
static const int64_t words_dims[1] = {2};

/* The inputs of the model; what a test changes it changes in its own copy. */
typedef struct {
    capg_tensor x, words, list, rounds, shift;
    capg_value values[5];
} feed;

static capg_tensor tensor(const void *data, size_t len, const int64_t *dims, size_t rank, uint32_t element) {
    capg_tensor made;
    memset(&made, 0, sizeof made);
    made.data = data;
    made.data_len = len;
    made.dims = dims;
    made.rank = rank;
    made.element = element;
    return made;
}

static capg_value value(const char *name, const capg_tensor *tensors, size_t count, uint32_t kind) {
    capg_value made;
    memset(&made, 0, sizeof made);
    made.name = name;
    made.name_len = strlen(name);
    made.tensors = tensors;
    made.count = count;
    made.kind = kind;
    return made;
}

/* x, words, list, rounds, and last shift, which has a default. */
static void fill(feed *f, const int64_t *rounds) {
    static const float shift[4] = {0, 0, 0, 0};
    static const int64_t four[1] = {4};
    f->x = tensor(x_data, sizeof x_data, x_dims, 2, CAPG_ELEMENT_FLOAT32);
    f->words = tensor(words_data, 2, words_dims, 1, CAPG_ELEMENT_STRING);
    f->list = f->x;
    f->rounds = tensor(rounds, sizeof *rounds, NULL, 0, CAPG_ELEMENT_INT64);
    f->shift = tensor(shift, sizeof shift, four, 1, CAPG_ELEMENT_FLOAT32);
    f->values[0] = value("x", &f->x, 1, CAPG_VALUE_TENSOR);
    f->values[1] = value("words", &f->words, 1, CAPG_VALUE_TENSOR);
    f->values[2] = value("list", &f->list, 1, CAPG_VALUE_SEQUENCE);
    f->values[3] = value("rounds", &f->rounds, 1, CAPG_VALUE_TENSOR);
    f->values[4] = value("shift", &f->shift, 1, CAPG_VALUE_TENSOR);
}

static capg_model_options opening(void) {
    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.threads = 2;
    options.onnxruntime_path = runtime;
    options.onnxruntime_path_len = strlen(runtime);
    return options;
}

static capg_model *opened(const char *path) {
    capg_model_options options = opening();
    capg_model *model;
    OK(capg_model_open(path, strlen(path), &options, &model, &error));
    return model;
}

static capg_value output(const capg_values *values, size_t index, const char *name, uint32_t kind, size_t count) {
    capg_value found;
    OK(capg_values_view(values, index, &found, &error));
    CHECK(found.name_len == strlen(name) && strcmp(found.name, name) == 0);
    CHECK(found.kind == kind && found.count == count);
    return found;
}

/* Row r of the product is the sum over i of (x[r][i] + shift[i]) * (i * 128 + column) / 512. */
static void check_product(const capg_tensor *t, int with_shift) {
    CHECK(t->element == CAPG_ELEMENT_FLOAT32 && t->rank == 2 && t->dims[0] == 2 && t->dims[1] == 128);
    CHECK(t->data_len == 2 * 128 * sizeof(float));
    const float *data = (const float *)t->data;
    for (int row = 0; row < 2; row++)
        for (int column = 0; column < 128; column++) {
            float wanted = 0;
            for (int i = 0; i < 4; i++)
                wanted += (x_data[4 * row + i] + (with_shift ? (float)(i + 1) : 0)) * (float)(i * 128 + column) / 512;
            const float off = data[row * 128 + column] - wanted;
            CHECK(off < 1e-4f && off > -1e-4f);
        }
}

static void check_strings(const capg_tensor *t) {
    CHECK(t->element == CAPG_ELEMENT_STRING && t->data_len == 2 && t->rank == 1 && t->dims[0] == 2);
    const capg_string *strings = (const capg_string *)t->data;
    CHECK(strings[0].len == 6 && memcmp(strings[0].data, "a\0ba\0b", 7) == 0);
    CHECK(strings[1].len == 4 && strcmp(strings[1].data, "\xC3\xBC\xC3\xBC") == 0);
}

static void check_all(const capg_values *values, int with_shift) {
    size_t count;
    OK(capg_values_count(values, &count, &error));
    CHECK(count == 7);
    check_product(output(values, 0, "product", CAPG_VALUE_TENSOR, 1).tensors, with_shift);
    check_strings(output(values, 1, "doubled", CAPG_VALUE_TENSOR, 1).tensors);
    capg_value rows = output(values, 2, "rows", CAPG_VALUE_SEQUENCE, 2);
    CHECK(rows.element == CAPG_ELEMENT_FLOAT32 && rows.tensors[1].rank == 2 && rows.tensors[1].dims[0] == 1);
    CHECK(memcmp(rows.tensors[1].data, x_data + 4, 4 * sizeof(float)) == 0);
    capg_value longer = output(values, 3, "longer", CAPG_VALUE_SEQUENCE, 2);
    CHECK(longer.tensors[0].data_len == sizeof x_data && memcmp(longer.tensors[0].data, x_data, sizeof x_data) == 0);
    capg_value nothing = output(values, 4, "nothing", CAPG_VALUE_NONE, 0);
    CHECK(nothing.element == CAPG_ELEMENT_FLOAT32);
    capg_value maps = output(values, 5, "maps", CAPG_VALUE_SEQUENCE_OF_MAPS, 4);
    const capg_tensor *keys = &maps.tensors[2], *numbers = &maps.tensors[3];
    CHECK(maps.element == CAPG_ELEMENT_FLOAT32 && keys->element == CAPG_ELEMENT_INT64 && keys->dims[0] == 4);
    CHECK(((const int64_t *)keys->data)[3] == 40 && ((const float *)numbers->data)[3] == (with_shift ? 11.0f : 7.0f));
    CHECK(output(values, 6, "turned", CAPG_VALUE_TENSOR, 1).tensors[0].data_len == 16 * 16 * sizeof(float));
}

static void converted(const char *source, const char *target) {
    capg_convert_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.no_mini = 1;
    options.capsule_count = 1000;
    capg_text *summary;
    OK(capg_convert(source, strlen(source), target, strlen(target), &options, &summary, &error));
    CHECK(text_has(summary, "capsules"));
    options.max_error = -1;
    INVALID(capg_convert(source, strlen(source), target, strlen(target), &options, NULL, &error));
    capg_split_options split;
    memset(&split, 0, sizeof split);
    split.struct_size = sizeof split;
    split.reserved = 1;
    INVALID(capg_split(target, strlen(target), "/nowhere/x", 10, &split, NULL, &error));
}

static capg_port port(const capg_model *model, uint32_t direction, size_t index, const char *name) {
    capg_port found;
    memset(&found, 0, sizeof found);
    found.struct_size = sizeof found;
    OK(capg_model_port(model, direction, index, &found, &error));
    CHECK(found.struct_size == sizeof found && found.name_len == strlen(name) && strcmp(found.name, name) == 0);
    return found;
}

static void ports(const capg_model *model) {
    size_t count;
    OK(capg_model_port_count(model, CAPG_PORT_INPUT, &count, &error));
    CHECK(count == 5);
    OK(capg_model_port_count(model, CAPG_PORT_OUTPUT, &count, &error));
    CHECK(count == 7);
    capg_port x = port(model, CAPG_PORT_INPUT, 0, "x");
    CHECK(x.kind == CAPG_VALUE_TENSOR && x.element == CAPG_ELEMENT_FLOAT32 && x.has_shape == 1 && x.rank == 2);
    CHECK(x.dims[0] == -1 && x.dims[1] == 4 && x.optional == 0);
    CHECK(x.dim_names[0].len == 1 && strcmp(x.dim_names[0].data, "n") == 0 && x.dim_names[1].len == 0);
    CHECK(port(model, CAPG_PORT_INPUT, 1, "shift").optional == 1);
    CHECK(port(model, CAPG_PORT_INPUT, 2, "words").element == CAPG_ELEMENT_STRING);
    CHECK(port(model, CAPG_PORT_INPUT, 3, "list").kind == CAPG_VALUE_SEQUENCE);
    capg_port rounds = port(model, CAPG_PORT_INPUT, 4, "rounds");
    CHECK(rounds.rank == 0 && rounds.has_shape == 1 && rounds.element == CAPG_ELEMENT_INT64);
    CHECK(port(model, CAPG_PORT_OUTPUT, 4, "nothing").kind == CAPG_VALUE_NONE);
    capg_port maps = port(model, CAPG_PORT_OUTPUT, 5, "maps");
    CHECK(maps.kind == CAPG_VALUE_SEQUENCE_OF_MAPS && maps.element == CAPG_ELEMENT_FLOAT32 && maps.has_shape == 0);
    capg_port found;
    INVALID(capg_model_port_count(NULL, 0, &count, &error));
    INVALID(capg_model_port_count(model, 2, &count, &error));
    INVALID(capg_model_port_count(model, 0, NULL, &error));
    INVALID(capg_model_port(model, 0, 0, NULL, &error));
    found.struct_size = sizeof found - 1;
    INVALID(capg_model_port(model, 0, 0, &found, &error));
    found.struct_size = sizeof found;
    INVALID(capg_model_port(NULL, 0, 0, &found, &error));
    INVALID(capg_model_port(model, UINT32_MAX, 0, &found, &error));
    FAILS(CAPG_ERROR_NOT_FOUND, capg_model_port(model, 0, 5, &found, &error));
}

/* What is the same for both kinds of model. */
static void facts(capg_model *model) {
    const char *data;
    size_t len, capsules, found = 0;
    uint32_t number;
    uint64_t bytes;
    OK(capg_model_mode(model, &number, &error));
    CHECK(number == CAPG_MODE_EXACT);
    OK(capg_model_name(model, &data, &len, &error));
    OK(capg_model_mode_reason(model, &data, &len, &error));
    OK(capg_model_held_bytes(model, &bytes, &error));
    OK(capg_model_threads(model, &number, &error));
    CHECK(number == 2);
    capg_text *report;
    OK(capg_model_inspect(model, 1, &report, &error));
    CHECK(text_has(report, "doubled"));
    OK(capg_model_report(model, &report, &error));
    CHECK(text_has(report, "\"prepack\": \"auto\""));
    INVALID(capg_model_report(model, NULL, &error));
    INVALID(capg_model_report(NULL, &report, &error));
    OK(capg_model_capsule_count(model, &capsules, &error));
    CHECK(capsules >= 2);
    for (size_t i = 0; i < capsules; i++) {
        size_t tensors;
        capg_capsule *capsule;
        OK(capg_model_capsule_id(model, i, &data, &len, &error));
        CHECK(strncmp(data, "segment.", 8) == 0);
        OK(capg_model_fetch(model, data, len, CAPG_LAYOUT_SOURCE, &capsule, &error));
        OK(capg_capsule_tensor_count(capsule, &tensors, &error));
        for (size_t t = 0; t < tensors; t++) {
            capg_tensor_view view;
            view.struct_size = sizeof view;
            OK(capg_capsule_tensor(capsule, t, &view, &error));
            if (strcmp(view.name, "weight") == 0) {
                float last;
                CHECK(view.data_len == 512 * sizeof(float) && view.dimensions == 2 && view.shape[1] == 128);
                memcpy(&last, (const char *)view.data + view.data_len - sizeof last, sizeof last);
                CHECK(last == 511.0f / 512);
                found++;
            }
        }
        capg_capsule_free(capsule);
    }
    CHECK(found == 1);
    OK(capg_model_prefetch(model, &found, 1, &error));
}

/* What only a language model has, and what only an ONNX model has. */
static void other_kind(const capg_model *onnx, const char *gguf, const char *work) {
    uint32_t number = 77;
    capg_tokens *tokens;
    capg_text *text;
    capg_session *session;
    capg_part *part;
    capg_chat_message message = {"user", 4, "x", 1};
#define UNSUPPORTED(call) FAILS(CAPG_ERROR_UNSUPPORTED, call)
    UNSUPPORTED(capg_model_vocab_size(onnx, &number, &error));
    UNSUPPORTED(capg_model_embedding_length(onnx, &number, &error));
    UNSUPPORTED(capg_model_context_length(onnx, &number, &error));
    UNSUPPORTED(capg_model_has_chat_template(onnx, &number, &error));
    UNSUPPORTED(capg_model_is_end_token(onnx, 0, &number, &error));
    CHECK(number == 77);
    UNSUPPORTED(capg_model_tokenize(onnx, "x", 1, 0, &tokens, &error));
    UNSUPPORTED(capg_model_detokenize(onnx, &number, 1, 0, &text, &error));
    UNSUPPORTED(capg_model_chat_prompt(onnx, &message, 1, 0, &text, &error));
    UNSUPPORTED(capg_model_chat_tokens(onnx, &message, 1, &tokens, &error));
    UNSUPPORTED(capg_part_new(onnx, NULL, &part, &error));
    CHECK(capg_session_new(onnx, NULL, &session, &error) == CAPG_ERROR_UNSUPPORTED);
    const char *why = capg_error_message(error, NULL);
    CHECK(strstr(why, "ONNX model") != NULL && strstr(why, "named tensors") != NULL);
    capg_error_free(error);
    error = NULL;

    char *full = path_of(work, "tiny.cgraph");
    capg_convert_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.no_mini = 1;
    OK(capg_convert(gguf, strlen(gguf), full, strlen(full), &options, NULL, &error));
    capg_model *model = opened(full);
    size_t count = 77;
    capg_values *values;
    UNSUPPORTED(capg_model_port_count(model, 0, &count, &error));
    UNSUPPORTED(capg_model_report(model, &text, &error));
    capg_port found;
    found.struct_size = sizeof found;
    UNSUPPORTED(capg_model_port(model, 0, 0, &found, &error));
    CHECK(capg_model_run(model, NULL, 0, NULL, 0, NULL, NULL, &values, &error) == CAPG_ERROR_UNSUPPORTED);
    CHECK(strstr(capg_error_message(error, NULL), "make a session") != NULL && values == NULL && count == 77);
    capg_error_free(error);
    error = NULL;
    capg_model_free(model);
    free(full);
}

static void open_options(const char *path) {
    const uint32_t processor = 0;
    capg_model *model;
    capg_model_options o = opening();
    o.prepack = 3;
    INVALID(capg_model_open(path, strlen(path), &o, &model, &error));
    o = opening();
    o.optimization = 2;
    INVALID(capg_model_open(path, strlen(path), &o, &model, &error));
    o = opening();
    o.onnxruntime_path = NULL;
    INVALID(capg_model_open(path, strlen(path), &o, &model, &error));
    o = opening();
    o.processors = &processor;
    o.processors_len = 1;
    FAILS(CAPG_ERROR_UNSUPPORTED, capg_model_open(path, strlen(path), &o, &model, &error));
    o = opening();
    o.priority = CAPG_PRIORITY_LOW;
    FAILS(CAPG_ERROR_UNSUPPORTED, capg_model_open(path, strlen(path), &o, &model, &error));
    o = opening();
    o.end_capsule = 1;
    FAILS(CAPG_ERROR_UNSUPPORTED, capg_model_open(path, strlen(path), &o, &model, &error));
    CHECK(model == NULL);
}

/* A run with one thing changed. */
#define WRONG(change) \
    do { \
        fill(&f, &rounds); \
        change; \
        INVALID(capg_model_run(model, f.values, 5, NULL, 0, NULL, NULL, &values, &error)); \
        CHECK(values == NULL); \
    } while (0)

static void wrong_values(const capg_model *model) {
    const int64_t rounds = 1;
    capg_values *values = (capg_values *)(void *)&values;
    feed f;
    WRONG(f.values[0].name = "y");
    WRONG(f.values[0].name = "\xFF");
    WRONG(f.values[0].name = NULL);
    WRONG(f.values[0].name = "shift"; f.values[0].name_len = 5);
    WRONG(f.values[0].kind = 9);
    WRONG(f.values[0].kind = CAPG_VALUE_SPARSE);
    WRONG(f.values[0].kind = CAPG_VALUE_SEQUENCE);
    WRONG(f.values[0].kind = CAPG_VALUE_MAP);
    WRONG(f.values[0].kind = CAPG_VALUE_NONE);
    WRONG(f.values[0].count = 0);
    WRONG(f.values[0].tensors = NULL);
    WRONG(f.values[0].element = CAPG_ELEMENT_INT32);
    WRONG(f.values[0].element = 27);
    WRONG(f.values[2].kind = CAPG_VALUE_TENSOR);
}

static void wrong_tensors(const capg_model *model) {
    const int64_t rounds = 1, negative[2] = {2, -4}, three[2] = {2, 3}, deep[3] = {2, 2, 2};
    const capg_string null = {NULL, 3};
    capg_values *values = (capg_values *)(void *)&values;
    feed f;
    WRONG(f.x.element = CAPG_ELEMENT_INT32);
    WRONG(f.x.element = CAPG_ELEMENT_NONE);
    WRONG(f.x.element = UINT32_MAX);
    WRONG(f.x.reserved = 1);
    WRONG(f.x.data = NULL);
    WRONG(f.x.dims = NULL);
    WRONG(f.x.dims = negative);
    WRONG(f.x.data_len--);
    WRONG(f.x.data_len++);
    WRONG(f.x.data_len = SIZE_MAX);
    WRONG(f.x.rank = SIZE_MAX);
    WRONG(f.x.rank = 1);
    WRONG(f.x.dims = three; f.x.data_len = 6 * sizeof(float));
    WRONG(f.x.dims = deep; f.x.rank = 3);
    WRONG(f.words.data_len = 1);
    WRONG(f.words.data = &null; f.words.data_len = 1);
    WRONG(f.words.element = CAPG_ELEMENT_UINT8);
}

static void wrong_runs(const capg_model *model) {
    const int64_t rounds = 1;
    const capg_string doubled = {"doubled", 7}, unknown = {"unknown", 7}, no_text = {"\xFF", 1};
    capg_values *values;
    feed f;
    fill(&f, &rounds);
    /* Without rounds; what needs it not can be computed. */
    INVALID(capg_model_run(model, f.values, 3, NULL, 0, NULL, NULL, &values, &error));
    OK(capg_model_run(model, f.values, 3, &doubled, 1, NULL, NULL, &values, &error));
    capg_values_free(values);
    f.values[3] = value("rounds", NULL, 0, CAPG_VALUE_NONE);
    INVALID(capg_model_run(model, f.values, 4, NULL, 0, NULL, NULL, &values, &error));
    fill(&f, &rounds);
    INVALID(capg_model_run(NULL, f.values, 5, NULL, 0, NULL, NULL, &values, &error));
    INVALID(capg_model_run(model, NULL, 5, NULL, 0, NULL, NULL, &values, &error));
    INVALID(capg_model_run(model, NULL, 0, NULL, 0, NULL, NULL, &values, &error));
    INVALID(capg_model_run(model, f.values, SIZE_MAX, NULL, 0, NULL, NULL, &values, &error));
    INVALID(capg_model_run(model, f.values, 5, NULL, 1, NULL, NULL, &values, &error));
    INVALID(capg_model_run(model, f.values, 5, &unknown, 1, NULL, NULL, &values, &error));
    INVALID(capg_model_run(model, f.values, 5, &no_text, 1, NULL, NULL, &values, &error));
    INVALID(capg_model_run(model, f.values, 5, NULL, 0, NULL, NULL, NULL, &error));
}

static void wrong_run_options(const capg_model *model) {
    const int64_t rounds = 1;
    const capg_string doubled = {"doubled", 7};
    capg_values *values;
    feed f;
    fill(&f, &rounds);
    capg_run_options options;
    memset(&options, 0, sizeof options);
    INVALID(capg_model_run(model, f.values, 5, NULL, 0, &options, NULL, &values, &error));
    options.struct_size = sizeof options;
    options.flags = 1;
    INVALID(capg_model_run(model, f.values, 5, NULL, 0, &options, NULL, &values, &error));
    options.flags = 0;
    options.reserved = 1;
    INVALID(capg_model_run(model, f.values, 5, NULL, 0, &options, NULL, &values, &error));
    options.reserved = 0;
    OK(capg_model_run(model, f.values, 5, &doubled, 1, &options, NULL, &values, &error));
    capg_value found;
    size_t count;
    FAILS(CAPG_ERROR_NOT_FOUND, capg_values_view(values, 1, &found, &error));
    INVALID(capg_values_view(values, 0, NULL, &error));
    INVALID(capg_values_view(NULL, 0, &found, &error));
    INVALID(capg_values_count(NULL, &count, &error));
    INVALID(capg_values_count(values, NULL, &error));
    capg_values_free(values);
    capg_values_free(NULL);
}

static void runs(const capg_model *model) {
    const int64_t rounds = 2;
    feed f;
    capg_values *all, *defaults, *chosen;
    fill(&f, &rounds);
    OK(capg_model_run(model, f.values, 5, NULL, 0, NULL, NULL, &all, &error));
    OK(capg_model_run(model, f.values, 4, NULL, 0, NULL, NULL, &defaults, &error));
    check_all(all, 0);
    check_all(defaults, 1);
    capg_values_free(all);
    const capg_string names[2] = {{"doubled", 7}, {"product", 7}};
    /* At an odd address, with every element type said. */
    unsigned char odd[sizeof x_data + 1];
    memcpy(odd + 1, x_data, sizeof x_data);
    f.x.data = odd + 1;
    f.values[0].element = CAPG_ELEMENT_FLOAT32;
    OK(capg_model_run(model, f.values, 2, names, 2, NULL, NULL, &chosen, &error));
    check_strings(output(chosen, 0, "doubled", CAPG_VALUE_TENSOR, 1).tensors);
    check_product(output(chosen, 1, "product", CAPG_VALUE_TENSOR, 1).tensors, 1);
    capg_values_free(chosen);
    /* A sequence of no tensors. */
    const capg_string longer = {"longer", 6};
    f.values[2] = value("list", NULL, 0, CAPG_VALUE_SEQUENCE);
    OK(capg_model_run(model, f.values, 3, &longer, 1, NULL, NULL, &chosen, &error));
    CHECK(output(chosen, 0, "longer", CAPG_VALUE_SEQUENCE, 1).tensors[0].data_len == sizeof x_data);
    capg_values_free(chosen);
    check_all(defaults, 1);
    capg_values_free(defaults);
}

static void *trigger_soon(void *cancel) {
    const struct timespec moment = {0, 100 * 1000 * 1000};
    nanosleep(&moment, NULL);
    capg_cancel_trigger((const capg_cancel *)cancel, NULL);
    return NULL;
}

static void cancelled(const capg_model *model) {
    const int64_t endless = INT64_MAX, rounds = 1;
    feed f;
    capg_cancel *cancel;
    capg_values *values;
    pthread_t thread;
    OK(capg_cancel_new(&cancel, &error));
    OK(capg_cancel_trigger(cancel, &error));
    fill(&f, &rounds);
    FAILS(CAPG_ERROR_CANCELLED, capg_model_run(model, f.values, 4, NULL, 0, NULL, cancel, &values, &error));
    OK(capg_cancel_reset(cancel, &error));
    fill(&f, &endless);
    CHECK(pthread_create(&thread, NULL, trigger_soon, cancel) == 0);
    FAILS(CAPG_ERROR_CANCELLED, capg_model_run(model, f.values, 4, NULL, 0, NULL, cancel, &values, &error));
    CHECK(values == NULL && pthread_join(thread, NULL) == 0);
    OK(capg_cancel_reset(cancel, &error));
    fill(&f, &rounds);
    OK(capg_model_run(model, f.values, 4, NULL, 0, NULL, cancel, &values, &error));
    check_all(values, 1);
    capg_values_free(values);
    capg_cancel_free(cancel);
}

/* The model is written back and gives the same; a capsule becomes a model of its own. */
static void exported(const capg_model *model, const char *path, const char *gguf, const char *work) {
    const int64_t rounds = 3;
    feed f;
    capg_values *values;
    capg_text *summary;
    char *back = path_of(work, "back.onnx"), *again = path_of(work, "again.cgraph"), *part = path_of(work, "part.onnx");
    OK(capg_export(path, strlen(path), back, strlen(back), NULL, &summary, &error));
    CHECK(text_has(summary, "back.onnx"));
    OK(capg_inspect(back, strlen(back), 0, &summary, &error));
    CHECK(text_has(summary, "\"kind\": \"onnx\""));
    converted(back, again);
    capg_model *second = opened(again);
    fill(&f, &rounds);
    OK(capg_model_run(second, f.values, 4, NULL, 0, NULL, NULL, &values, &error));
    check_all(values, 1);
    capg_values_free(values);
    capg_model_free(second);
    const char *id;
    size_t len;
    OK(capg_model_capsule_id(model, 0, &id, &len, &error));
    OK(capg_model_export_capsule(model, id, len, part, strlen(part), NULL, NULL, &error));
    OK(capg_inspect(part, strlen(part), 1, &summary, &error));
    CHECK(text_has(summary, "\"kind\": \"onnx\""));
    FAILS(CAPG_ERROR_NOT_FOUND,
          capg_model_export_capsule(model, "segment.x", 9, part, strlen(part), NULL, &summary, &error));
    INVALID(capg_model_export_capsule(model, id, len, NULL, 0, NULL, NULL, &error));
    INVALID(capg_model_export_capsule(NULL, id, len, part, strlen(part), NULL, NULL, &error));
    INVALID(capg_model_export_capsule(model, id, len, path, strlen(path), NULL, NULL, &error));
    INVALID(capg_export(path, strlen(path), NULL, 0, NULL, NULL, &error));
    INVALID(capg_export(path, strlen(path), path, strlen(path), NULL, &summary, &error));
    FAILS(CAPG_ERROR_MALFORMED, capg_export(gguf, strlen(gguf), back, strlen(back), NULL, NULL, &error));
    capg_cancel *cancel;
    OK(capg_cancel_new(&cancel, &error));
    OK(capg_cancel_trigger(cancel, &error));
    FAILS(CAPG_ERROR_CANCELLED, capg_export(path, strlen(path), back, strlen(back), cancel, NULL, &error));
    FAILS(CAPG_ERROR_CANCELLED,
          capg_model_export_capsule(model, id, len, part, strlen(part), cancel, NULL, &error));
    capg_cancel_free(cancel);
    free(part);
    free(again);
    free(back);
}

static void *run_many(void *model) {
    const int64_t rounds = 3;
    feed f;
    fill(&f, &rounds);
    for (int i = 0; i < 5; i++) {
        capg_error *own = NULL;
        capg_values *values;
        CHECK(capg_model_run((const capg_model *)model, f.values, 4, NULL, 0, NULL, NULL, &values, &own) == CAPG_OK);
        check_all(values, 1);
        capg_values_free(values);
    }
    return NULL;
}

/* One model from two threads; values and capsules outlive it; a budget and no optimisation change nothing here. */
static void lifetimes(const char *path) {
    const int64_t rounds = 2;
    feed f;
    pthread_t thread;
    capg_values *values;
    capg_model *model = opened(path);
    CHECK(pthread_create(&thread, NULL, run_many, model) == 0);
    run_many(model);
    CHECK(pthread_join(thread, NULL) == 0);
    fill(&f, &rounds);
    OK(capg_model_run(model, f.values, 4, NULL, 0, NULL, NULL, &values, &error));
    capg_model_free(model);
    check_all(values, 1);
    capg_values_free(values);
    capg_model_options options = opening();
    options.memory_budget_bytes = 64 << 20;
    options.optimization = CAPG_OPTIMIZATION_OFF;
    options.prepack = CAPG_PREPACK_ON;
    OK(capg_model_open(path, strlen(path), &options, &model, &error));
    OK(capg_model_run(model, f.values, 4, NULL, 0, NULL, NULL, &values, &error));
    check_all(values, 1);
    capg_model_free(model);
    capg_values_free(values);
}

int main(int argc, char **argv) {
    CHECK(argc == 5);
    runtime = argv[3];
    char *path = path_of(argv[2], "small.cgraph");
    converted(argv[1], path);
    open_options(path);
    capg_model *model = opened(path);
    ports(model);
    facts(model);
    runs(model);
    wrong_values(model);
    wrong_tensors(model);
    wrong_runs(model);
    wrong_run_options(model);
    cancelled(model);
    exported(model, path, argv[4], argv[2]);
    other_kind(model, argv[4], argv[2]);
    capg_model_free(model);
    lifetimes(path);
    free(path);
    puts("ok");
    return 0;
}
