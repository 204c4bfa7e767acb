// The C++ header: what works, and what misuse gives. Arguments: a GGUF model, the ONNX model "small", an empty folder.
#include "lifetimes.hpp"

#include <filesystem>
#include <fstream>
#include <thread>

namespace {

std::string at(const std::string &folder, const char *name) { return folder + "/" + name; }

void files(const std::string &gguf, const std::string &onnx, const std::string &folder) {
    const std::string full = at(folder, "full.cgraph"), mini = at(folder, "full.mini.cgraph");
    cg::ConvertOptions options;
    options.mini_path = mini;
    options.calibrate = "The old mill stands where the river bends.";
    const cg::Log log = cg::Log::make(cg::Level::debug);
    options.job.log = &log;
    bool converted = false, split = false;
    options.job.progress = [&](cg::Phase phase, std::uint64_t done, std::uint64_t total) {
        converted |= phase == cg::Phase::convert && done == total;
        split |= phase == cg::Phase::split;
    };
    CHECK(cg::convert(gguf, full, options).find("\"full\"") != std::string::npos);
    CHECK(converted && split);
    std::size_t lines = 0;
    log.deliver([&](cg::Level level, std::string_view line) { lines += level <= cg::Level::debug && !line.empty(); });
    CHECK(lines > 0);

    // An exception of the progress stops the job and comes out of it; nothing is left.
    const std::string never = at(folder, "never.cgraph");
    options.mini_path.clear();
    options.no_mini = true;
    options.job.progress = [](cg::Phase, std::uint64_t, std::uint64_t) { throw Oops{7}; };
    CHECK(throws<Oops>([&] { cg::convert(gguf, never, options); }));
    CHECK(throws<Oops>([&] { (void)cg::try_convert(gguf, never, options); }));
    const cg::Cancel cancel = cg::Cancel::make();
    options.job.cancel = &cancel;
    CHECK(throws<Oops>([&] { cg::convert(gguf, never, options); }) && cancel.triggered());
    options.job.progress = nullptr;
    CHECK(failed(cg::try_convert(gguf, never, options), cg::Status::cancelled));
    CHECK(!std::ifstream(never).good());
    // An exception of a log's receiver comes out of the delivery.
    CHECK(throws<Oops>([&] {
        cg::convert(gguf, at(folder, "logged.cgraph"), [&] {
            cg::ConvertOptions logged;
            logged.no_mini = true;
            logged.job.log = &log;
            return logged;
        }());
        log.deliver([](cg::Level, std::string_view) { throw Oops{1}; });
    }));

    CHECK(cg::split(full, at(folder, "other.mini.cgraph"), cg::SplitOptions{"none", {}, 0, 0, {}, {}}).size() > 2);
    CHECK(failed(cg::try_split(mini, never), cg::Status::mismatch, "this is a mini"));
    cg::VerifyOptions verify;
    verify.deep = true;
    const cg::Verdict verdict = cg::verify(mini, verify);
    CHECK(verdict.problems == 0 && verdict.report.size() > 2);
    CHECK(cg::inspect(full, true).size() > cg::inspect(full).size());
    CHECK(throws(cg::Status::io, [&] { cg::inspect("absent.cgraph"); }));
    CHECK(throws(cg::Status::invalid_argument, [&] { cg::inspect("\xff"); }));

    cg::ConvertOptions plain;
    plain.no_mini = true;
    plain.capsule_count = 100;
    cg::convert(onnx, at(folder, "onnx.cgraph"), plain);
}

/// Files through the host, and as a part of a larger one.
void readers(const std::string &full, const std::string &mini, const std::vector<cg::Token> &ids) {
    std::ifstream in(full, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    cg::Reader reader;
    reader.size = bytes.size();
    reader.name = "the archive";
    reader.read = [&](std::uint64_t offset, void *buffer, std::size_t length) {
        std::memcpy(buffer, bytes.data() + offset, length);
        return 0;
    };
    CHECK(cg::Model::open(reader).tokenize("Hello", cg::add_special) == ids);
    cg::ModelOptions options;
    options.mode = cg::Mode::exact;
    options.full_reader = &reader;
    CHECK(cg::Model::open(mini, options).mode() == cg::Mode::exact);
    reader.read = [](std::uint64_t, void *, std::size_t) { return 42; };
    CHECK(failed(cg::Model::try_open(reader), cg::Status::host, "42"));
    reader.read = [](std::uint64_t, void *, std::size_t) -> int { throw Oops{3}; };
    CHECK(throws<Oops>([&] { cg::Model::open(reader); }) && throws<Oops>([&] { (void)cg::Model::try_open(reader); }));
    CHECK(throws<Oops>([&] { cg::Model::open(mini, options); }));
    reader.read = nullptr;
    CHECK(failed(cg::Model::try_open(reader), cg::Status::invalid_argument));

    // A part of a larger file.
    const std::string archive = mini + ".archive";
    std::ofstream(archive, std::ios::binary) << "before" << bytes << "after";
    cg::ModelOptions part;
    part.offset = 6;
    part.length = bytes.size();
    CHECK(cg::Model::open(archive, part).tokenize("Hello", cg::add_special) == ids);
}

/// Budgets, and options that contradict each other.
void budgets(const std::string &full, const std::string &mini) {
    const cg::Budget budget = cg::Budget::make(64 << 20);
    cg::ModelOptions bounded;
    bounded.budget = &budget;
    const cg::Model inside = cg::Model::open(full, bounded);
    const cg::Session claiming = inside.session();
    CHECK(budget.bytes() == 64u << 20 && budget.claimed() > 0);
    budget.resize(48 << 20);
    CHECK(budget.bytes() == 48u << 20 && failed(budget.try_resize(1), cg::Status::limit));
    CHECK(throws(cg::Status::invalid_argument, [&] { cg::Budget::make(0); }));
    bounded.memory_budget_bytes = 1 << 20;
    CHECK(failed(cg::Model::try_open(full, bounded), cg::Status::invalid_argument));
    cg::ModelOptions small;
    small.memory_budget_bytes = 1000;
    CHECK(failed(cg::Model::try_open(full, small), cg::Status::limit));
    cg::ModelOptions fast;
    fast.mode = cg::Mode::fast;
    CHECK(failed(cg::Model::try_open(full, fast), cg::Status::mismatch));
    CHECK(cg::Model::open(mini, fast).mode() == cg::Mode::fast);
    CHECK(throws(cg::Status::io, [] { cg::Model::open("absent.cgraph"); }));
    // A path of the standard library.
    CHECK(cg::utf8(std::filesystem::path(u"gr\u00fcn.cgraph")) == "gr\xc3\xbcn.cgraph");
}

void models(const std::string &folder) {
    const std::string full = at(folder, "full.cgraph"), mini = at(folder, "full.mini.cgraph");
    const cg::Model model = cg::Model::open(full);
    CHECK(model && model.mode() == cg::Mode::exact && !model.mode_reason().empty() && !model.name().empty());
    CHECK(model.vocab_size() > 0 && model.embedding_length() == 128 && model.context_length() > 0 && model.threads() > 0);
    CHECK(model.held_bytes() > 0 && model.inspect(true).size() > model.inspect().size());
    CHECK(model.has_chat_template());
    const auto ids = model.tokenize("Hello", cg::add_special);
    CHECK(!ids.empty() && model.detokenize(ids).find("Hello") != std::string::npos && !model.is_end_token(ids.back()));
    CHECK(model.chat_prompt({{"user", "Hi"}}).size() > model.chat_prompt({{"user", "Hi"}}, cg::no_reply).size());
    CHECK(throws(cg::Status::invalid_argument, [&] { model.tokenize("\xff"); }));
    CHECK(throws(cg::Status::invalid_argument, [&] { model.tokenize("a", static_cast<cg::TokenizeFlags>(1u << 20)); }));
    const cg::Token wrong[] = {0xffffffff};
    CHECK(throws(cg::Status::invalid_argument, [&] { model.detokenize(wrong); }));
    CHECK(throws(cg::Status::unsupported, [&] { model.inputs(); }) && throws(cg::Status::unsupported, [&] { model.report(); }));

    readers(full, mini, ids);
    budgets(full, mini);
}

void capsules(const std::string &folder) {
    const cg::Model model = cg::Model::open(at(folder, "full.cgraph"));
    const std::size_t count = model.capsule_count();
    CHECK(count > 2 && failed(model.try_capsule_id(count), cg::Status::not_found));
    std::vector<std::string> ids;
    for (std::size_t i = 0; i < count; i++) ids.emplace_back(model.capsule_id(i));
    const std::size_t next[] = {0, 1};
    model.prefetch(next);
    cg::Capsule kept = model.fetch(ids[1], cg::Layout::f32);
    CHECK(kept.precision() == "full" && kept.size() > 0 && kept.tensors().size() == kept.size());
    const cg::Weight first = kept.tensor(0);
    CHECK(kept.tensor(first.name()).bytes().data() == first.bytes().data() && first.encoding() == "f32");
    std::uint64_t elements = 1;
    for (const std::uint64_t extent : first.shape()) elements *= extent;
    CHECK(first.floats().size() == elements);
    CHECK(failed(kept.try_tensor(kept.size()), cg::Status::not_found) && failed(kept.try_tensor("x"), cg::Status::not_found));
    CHECK(throws(cg::Status::not_found, [&] { model.fetch("block.99.attn"); }));
    const cg::Capsule source = model.fetch(ids[1]);
    for (const cg::Weight &weight : source.tensors())
        if (weight.encoding() != "f32") CHECK(throws(cg::Status::invalid_argument, [&] { weight.floats(); }));

    const cg::Fetch fetch = model.fetch_begin(ids);
    while (fetch.poll() < count) std::this_thread::yield();
    for (std::size_t i = 0; i < count; i++) CHECK(fetch.take(i).size() > 0);
    CHECK(failed(fetch.try_take(0), cg::Status::not_found) && failed(fetch.try_take(count), cg::Status::not_found));
    CHECK(failed(model.try_fetch_begin({"absent"}), cg::Status::not_found));
}

/// Wrong names, types, shapes, lengths.
void wrong_tensors(const cg::Model &model, const std::vector<float> &x) {
    const std::vector<std::int32_t> ints = {1, 2, 3, 4};
    const std::int64_t keys[] = {1, 2};
    using cg::Status;
    CHECK(throws(Status::invalid_argument, [&] { model.run({{"x", cg::Tensor::of(ints, {1, 4})}}, {"product"}); }));
    CHECK(throws(Status::invalid_argument, [&] { model.run({{"x", cg::Tensor::of(x, {1, 4})}}, {"product"}); }));
    CHECK(throws(Status::invalid_argument, [&] { model.run({{"x", cg::Tensor::of(x, {8})}}, {"product"}); }));
    CHECK(throws(Status::invalid_argument, [&] { model.run({{"y", cg::Tensor::of(x, {2, 4})}}, {"product"}); }));
    CHECK(throws(Status::invalid_argument, [&] { model.run({}, {"product"}); }));
    CHECK(throws(Status::invalid_argument, [&] { model.run({cg::Input::none("x")}, {"product"}); }));
    CHECK(throws(Status::invalid_argument, [&] {
        model.run({cg::Input::map("x", cg::Tensor::of(keys, {2}), cg::Tensor::of(keys, {2}))}, {"product"});
    }));
    CHECK(failed(model.try_run({{"x", cg::Tensor::of(x, {2, 4})}}, {"absent"}), Status::invalid_argument));
    CHECK(failed(model.try_run({{"x", cg::Tensor::raw(cg::Element::none, nullptr, 0, {})}}), Status::invalid_argument));
    CHECK(failed(model.try_run({cg::Input::maps("x", {}, cg::Element::float32)}, {"product"}), Status::invalid_argument));
    const cg::Cancel cancel = cg::Cancel::make();
    cancel.trigger();
    CHECK(throws(Status::cancelled, [&] { model.run({{"x", cg::Tensor::of(x, {2, 4})}}, {"product"}, &cancel); }));
    CHECK(throws(Status::unsupported, [&] { model.session(); }) && throws(Status::unsupported, [&] { model.vocab_size(); }));
}

void tensors(const std::string &folder) {
    const cg::Model model = cg::Model::open(at(folder, "onnx.cgraph"));
    CHECK(cg::export_onnx(at(folder, "onnx.cgraph"), at(folder, "back.onnx")).find("back.onnx") != std::string::npos);
    CHECK(cg::inspect(at(folder, "back.onnx")).find("\"kind\": \"onnx\"") != std::string::npos);
    CHECK(model.export_capsule(model.capsule_id(0), at(folder, "part.onnx")).find("part.onnx") != std::string::npos);
    CHECK(throws(cg::Status::not_found, [&] { model.export_capsule("absent", at(folder, "part.onnx")); }));
    const auto inputs = model.inputs();
    CHECK(inputs.size() == 5 && model.outputs().size() == 7);
    CHECK(inputs[0].name() == "x" && inputs[0].element() == cg::Element::float32 && inputs[0].has_shape());
    CHECK(inputs[0].shape().size() == 2 && inputs[0].shape()[0] == -1 && inputs[0].extent_name(0) == "n");
    CHECK(inputs[0].extent_name(1).empty() && inputs[0].extent_name(2).empty() && !inputs[0].optional());
    CHECK(inputs[1].optional() && inputs[3].kind() == cg::Kind::sequence && inputs[4].shape().empty());

    const std::vector<float> x = {1, 2, 3, 4, 5, 6, 7, 8};
    const std::vector<std::string> words = {"a", "", "grün"};
    const std::int64_t rounds = 2;
    const cg::Values values = model.run({{"x", cg::Tensor::of(x, {2, 4})},
                                         {"words", cg::Tensor::strings(words, {3})},
                                         {"rounds", cg::Tensor::scalar(rounds)}},
                                        {"doubled", "product", "turned"});
    CHECK(values.size() == 3 && values.at(0).name() == "doubled" && values.at(1).kind() == cg::Kind::tensor);
    const auto doubled = values.at("doubled").tensor().strings();
    CHECK(doubled.size() == 3 && doubled[0] == "aa" && doubled[1].empty() && doubled[2] == "grüngrün");
    const cg::Value product = values.at("product");
    CHECK(product.span<float>().size() == 256 && product.tensor().shape()[1] == 128 && product.size() == 1);
    CHECK(values.at("turned").tensor().bytes().size() == 16 * 16 * sizeof(float));
    CHECK(failed(product.tensor().try_span<int>(), cg::Status::invalid_argument, "type float32, not int32"));
    CHECK(failed(product.tensor().try_strings(), cg::Status::invalid_argument, "type float32, not string"));
    CHECK(std::string_view("bool") == cg::element_name(cg::Element::boolean));
    CHECK(std::string_view("int2") == cg::element_name(cg::Element::int2));
    CHECK(std::string_view("unknown") == cg::element_name(static_cast<cg::Element>(27)));
    CHECK(failed(product.try_tensor(1), cg::Status::not_found) && failed(values.try_at("absent"), cg::Status::not_found));
    CHECK(failed(values.try_at(3), cg::Status::not_found));

    const std::vector<cg::Tensor> list = {cg::Tensor::of(x, {8}), cg::Tensor::of(x, {2, 4})};
    const cg::Values longer = model.run({cg::Input::sequence("list", list), {"x", cg::Tensor::of(x, {2, 4})}}, {"longer"});
    CHECK(longer.at(0).kind() == cg::Kind::sequence && longer.at(0).size() > list.size());
    CHECK(model.report().find("capsulegraph.report/1") != std::string::npos);

    wrong_tensors(model, x);
}

} // namespace

int main(int argc, char **argv) try {
    CHECK(argc == 4 && *cg::version());
    const std::string folder = argv[3];
    files(argv[1], argv[2], folder);
    models(folder);
    capsules(folder);
    tensors(folder);
    sessions(at(folder, "full.cgraph"));
    parts(at(folder, "full.cgraph"));
    lifetimes(at(folder, "full.cgraph"));
    host_threads(at(folder, "full.cgraph"));
    misuse(at(folder, "full.cgraph"));
    std::puts("ok");
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
