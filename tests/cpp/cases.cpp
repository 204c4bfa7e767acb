// Runs the table of cases (tests/data/cases.txt) through the C++ header: cases TABLE MODEL ONNX_MODELS FOLDER.
#include "cases.hpp"

#include <capsulegraph.hpp>

#include <cmath>
#include <iostream>
#include <map>
#include <set>

namespace cg = capsulegraph;

namespace {

std::string folder;

std::string path(const std::string &name) { return name.find('/') == std::string::npos ? folder + "/" + name : name; }

void check(bool good, const std::string &why) {
    if (!good) throw Failure(why);
}

void compare(const std::string &what, const std::string &found, const std::string &wanted) {
    check(found == wanted, what + " is \"" + found + "\", not \"" + wanted + "\"");
}

template <class C>
std::string joined(const C &numbers, const char *separator) {
    std::string text;
    for (const auto &number : numbers) text += (text.empty() ? "" : separator) + std::to_string(number);
    return text;
}

cg::Model open(const Case &c) {
    static const std::map<std::string, cg::Mode> modes = {{"", cg::Mode::automatic}, {"auto", cg::Mode::automatic},
        {"exact", cg::Mode::exact}, {"fast", cg::Mode::fast}, {"speculative", cg::Mode::speculative}};
    cg::ModelOptions options;
    options.mode = modes.at(c.maybe("mode"));
    options.memory_budget_bytes = c.number("memory");
    return cg::Model::open(path(c.need("file")), options);
}

void convert(const Case &c) {
    c.only({"source", "target", "mini", "capsules"});
    cg::ConvertOptions options;
    options.no_mini = !c.has("mini");
    if (!options.no_mini) options.mini_path = path(c.need("mini"));
    options.capsule_count = static_cast<std::uint32_t>(c.number("capsules"));
    std::uint64_t last = 0;
    options.job.progress = [&](cg::Phase, std::uint64_t done, std::uint64_t total) {
        check(done <= total, "progress went past its end");
        last = total;
    };
    const std::string summary = cg::convert(path(c.need("source")), path(c.need("target")), options);
    check(last > 0 && summary.rfind("{", 0) == 0, "no progress or no summary: " + summary);
}

void split(const Case &c) {
    c.only({"source", "target", "light", "mini_bytes", "calibrate"});
    cg::SplitOptions options;
    options.light = c.maybe("light");
    options.calibrate = c.maybe("calibrate");
    options.mini_bytes = c.number("mini_bytes");
    const std::string summary = cg::split(path(c.need("source")), path(c.need("target")), options);
    check(summary.rfind("{", 0) == 0, "no summary: " + summary);
}

void tokenize(const Case &c) {
    c.only({"file", "text", "tokens"});
    const cg::Model model = open(c);
    const auto tokens = model.tokenize(c.need("text"));
    compare("tokens", joined(tokens, " "), c.need("tokens"));
}

void generate(const Case &c) {
    c.only({"file", "mode", "memory", "prompt", "chat", "max_tokens", "cancel_after", "stop_after", "tokens", "text"});
    const cg::Model model = open(c);
    std::vector<cg::Token> prompt;
    if (c.has("chat")) prompt = model.chat_tokens({{"user", c.need("chat")}});
    else prompt = model.tokenize(c.need("prompt"), cg::add_special | cg::parse_special);
    cg::Session session = model.session();
    cg::GenerateOptions options;
    options.max_tokens = std::stoull(c.need("max_tokens"));
    const auto cancel = cg::Cancel::make();
    const std::uint64_t cancel_after = c.number("cancel_after"), stop_after = c.number("stop_after");
    std::vector<cg::Token> tokens;
    std::string text;
    const auto receive = [&](cg::Token token, std::string_view piece) {
        tokens.push_back(token);
        text += piece;
        if (tokens.size() == cancel_after) cancel.trigger();
        return tokens.size() != stop_after;
    };
    const auto finish = session.try_generate(prompt, receive, options, &cancel);
    compare("tokens", joined(tokens, " "), c.maybe("tokens")); // missing: there are none
    if (c.has("text")) compare("text", text, c.maybe("text"));
    check(!stop_after || !finish || *finish == cg::Finish::callback, "the callback did not end it");
    finish.value();
    if (cancel_after || stop_after) return;
    // The same tokens as a range, piece by piece.
    std::string pieces;
    for (std::string_view piece : session.stream(prompt, options)) pieces += piece;
    compare("text of the stream", pieces, text);
}

void fetch(const Case &c) {
    static const std::map<std::string, cg::Layout> layouts = {
        {"", cg::Layout::source}, {"source", cg::Layout::source}, {"stored", cg::Layout::stored}, {"f32", cg::Layout::f32}};
    c.only({"file", "mode", "capsule", "layout", "tensor", "type", "shape", "sum"});
    const cg::Model model = open(c);
    const cg::Capsule capsule = model.fetch(c.need("capsule"), layouts.at(c.maybe("layout")));
    const cg::Weight weight = capsule.tensor(c.need("tensor"));
    compare("type", std::string(weight.encoding()), c.need("type"));
    compare("shape", joined(weight.shape(), ","), c.need("shape"));
    std::uint64_t sum = 0;
    for (const std::byte byte : weight.bytes()) sum += std::to_integer<std::uint64_t>(byte);
    compare("sum", std::to_string(sum), c.need("sum"));
}

/// NAME TYPE SHAPE VALUES of the table, with the memory that a tensor for it needs.
struct Port {
    std::string name, type, shape;
    std::vector<std::string> values;
    std::vector<float> floats;
    std::vector<std::int64_t> longs;
    std::vector<std::int32_t> ints;

    explicit Port(const std::string &line) {
        const auto parts = words(line, ' ');
        check(parts.size() >= 3, "no NAME TYPE SHAPE VALUES: " + line);
        name = parts[0], type = parts[1], shape = parts[2];
        static const std::set<std::string> types = {"float32", "int64", "int32", "string"};
        check(types.count(type) > 0, name + ": this runner does not know the type " + type);
        values = words(line.substr(std::min(line.size(), name.size() + type.size() + shape.size() + 3)), ',');
        for (const std::string &value : values) {
            if (type == "float32") floats.push_back(std::stof(value));
            if (type == "int64") longs.push_back(std::stoll(value));
            if (type == "int32") ints.push_back(std::stoi(value));
        }
    }
    std::vector<std::int64_t> dims() const {
        std::vector<std::int64_t> all;
        if (shape == "-") return all;
        for (const std::string &extent : words(shape, ',')) all.push_back(std::stoll(extent));
        return all;
    }
    cg::Tensor tensor() const {
        if (type == "float32") return cg::Tensor::of(floats, dims());
        if (type == "int64") return cg::Tensor::of(longs, dims());
        if (type == "int32") return cg::Tensor::of(ints, dims());
        return cg::Tensor::strings(values, dims());
    }
    /// Whether an output has these extents and values.
    void compare_with(const cg::TensorView &found, double tolerance) const {
        const auto extents = found.shape();
        compare("shape of " + name, extents.empty() ? "-" : joined(extents, ","), shape);
        if (type == "string") {
            const auto strings = found.strings();
            check(std::equal(strings.begin(), strings.end(), values.begin(), values.end()), "strings of " + name + " differ");
        } else if (type == "float32") {
            near(found.span<float>(), floats, tolerance);
        } else if (type == "int64") {
            near(found.span<std::int64_t>(), longs, tolerance);
        } else {
            near(found.span<std::int32_t>(), ints, tolerance);
        }
    }

private:
    template <class T>
    void near(cg::Span<const T> found, const std::vector<T> &wanted, double tolerance) const {
        check(found.size() == wanted.size(), name + " has " + std::to_string(found.size()) + " values");
        for (std::size_t i = 0; i < wanted.size(); i++) {
            const double far = std::fabs(static_cast<double>(found[i]) - static_cast<double>(wanted[i]));
            check(far <= tolerance, name + " is " + std::to_string(found[i]) + " at " + std::to_string(i));
        }
    }
};

void run(const Case &c) {
    c.only({"file", "memory", "input", "output", "tolerance"});
    std::vector<Port> ports, wanted;
    for (const std::string &line : c.all("input")) ports.emplace_back(line);
    for (const std::string &line : c.all("output")) wanted.emplace_back(line);
    std::vector<cg::Input> inputs;
    for (const Port &port : ports) inputs.emplace_back(port.name, port.tensor());
    std::vector<std::string> names;
    for (const Port &port : wanted) names.push_back(port.name);
    const cg::Model model = open(c);
    const cg::Values values = model.run(inputs, names);
    check(!wanted.empty() && values.size() == wanted.size(), "another number of outputs");
    const double tolerance = c.has("tolerance") ? std::stod(c.maybe("tolerance")) : 0;
    for (const Port &port : wanted) port.compare_with(values.at(port.name).tensor(), tolerance);
}

void bytes(const Case &c) {
    c.only({"target", "hex"});
    const std::string hex = c.need("hex");
    std::ofstream out(path(c.need("target")), std::ios::binary);
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) out.put(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
    check(hex.size() % 2 == 0 && out.flush(), "cannot write it");
}

void run_case(const Case &c) {
    static const std::map<std::string, void (*)(const Case &)> jobs = {{"convert", convert}, {"split", split},
        {"tokenize", tokenize}, {"generate", generate}, {"fetch", fetch}, {"run", run}, {"bytes", bytes}};
    const auto job = jobs.find(c.need("do"));
    check(job != jobs.end(), "this runner does not know how to " + c.need("do"));
    const std::string expected = c.has("expect") ? c.need("expect") : "ok";
    try {
        job->second(c);
    } catch (const cg::Error &error) {
        check(cg::status_name(error.status()) == expected,
              std::string("it ended with ") + cg::status_name(error.status()) + ": " + error.what());
        for (const std::string &part : c.all("message"))
            check(std::string(error.what()).find(part) != std::string::npos,
                  std::string("the message does not have \"") + part + "\": " + error.what());
        return;
    }
    compare("the status", "ok", expected);
    check(!c.has("message"), "nothing failed, so there is no message");
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 5) return std::cerr << "cases TABLE MODEL ONNX_MODELS FOLDER\n", 2;
    folder = argv[4];
    std::size_t passed = 0, failed = 0;
    try {
        for (const Case &c : read_cases(argv[1], {{"{model}", argv[2]}, {"{onnx}", argv[3]}})) {
            try {
                run_case(c);
                passed++;
                std::cout << "case " << c.name << " ... ok" << std::endl;
            } catch (const std::exception &why) {
                failed++;
                std::cout << "case " << c.name << " ... FAILED: " << why.what() << std::endl;
            }
        }
    } catch (const std::exception &why) {
        failed++;
        std::cout << why.what() << std::endl;
    }
    const bool good = failed == 0 && passed > 0;
    std::cout << "test result: " << (good ? "ok" : "FAILED") << ". " << passed << " passed; " << failed << " failed\n";
    return good ? 0 : 1;
}
