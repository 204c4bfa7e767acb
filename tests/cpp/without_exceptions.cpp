// The C++ header without exceptions and RTTI. Arguments: a GGUF model, an ONNX model, an empty folder; or "misuse".
#include "check.hpp"

namespace cg = capsulegraph;
static_assert(!CAPSULEGRAPH_EXCEPTIONS);

namespace {

void language(const std::string &path) {
    const auto model = cg::Model::try_open(path);
    CHECK(model.ok() && model.status() == cg::Status::ok && !model.error() && !*model.message());
    const auto prompt = model->try_tokenize("Hello, how are you?", cg::add_special);
    auto session = model->try_session();
    CHECK(prompt && session);
    cg::GenerateOptions options;
    options.max_tokens = 8;
    std::string text, pieces;
    const auto finish = session->try_generate(*prompt, [&](std::string_view piece) { text += piece; }, options);
    CHECK(finish && *finish != cg::Finish::none);
    auto stream = session->try_stream(*prompt, options);
    for (std::string_view piece : *stream) pieces += piece;
    CHECK(pieces == text && stream->result().ok());
    const auto capsule = model->try_fetch("embed", cg::Layout::f32);
    const auto weight = capsule->try_tensor(0);
    const auto floats = weight->try_floats();
    CHECK(floats && floats->size() > 0);
    session->close();
    CHECK(failed(session->try_complete(*prompt), cg::Status::invalid_argument, "closed"));
}

void onnx(const std::string &path) {
    const auto model = cg::Model::try_open(path);
    const float x[] = {1, 2, 3, 4};
    const auto values = model->try_run({{"x", cg::Tensor::of(x, {1, 4})}}, {"product"});
    const auto product = values->try_at("product");
    const auto tensor = product->try_tensor();
    const auto span = tensor->try_span<float>();
    CHECK(span && span->size() == 128);
    CHECK(failed(model->try_session(), cg::Status::unsupported));
}

} // namespace

int main(int argc, char **argv) {
    if (argc == 2) return static_cast<bool>(*cg::Model::try_open("absent.cgraph"));
    CHECK(argc == 4);
    const std::string text = std::string(argv[3]) + "/text.cgraph", tensors = std::string(argv[3]) + "/tensors.cgraph";
    cg::ConvertOptions options;
    options.no_mini = true;
    options.capsule_count = 0;
    CHECK(cg::try_convert(argv[1], text, options).ok());
    options.capsule_count = 100;
    CHECK(cg::try_convert(argv[2], tensors, options).ok());
    language(text);
    onnx(tensors);
    std::puts("ok");
}
