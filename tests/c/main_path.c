/* The whole main path: convert, verify, open in each way, tokenise, generate, slice, evaluate, fetch.
   Arguments: a GGUF model, an empty directory. */
#include "generation.h"

static capg_model_options opening(uint32_t mode) {
    capg_model_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.mode = mode;
    options.threads = 2;
    return options;
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
