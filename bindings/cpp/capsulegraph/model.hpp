/// Models: opening them, their facts, their text, running them, taking capsules out.
#ifndef CAPSULEGRAPH_MODEL_HPP
#define CAPSULEGRAPH_MODEL_HPP

#include "capsule.hpp"
#include "session.hpp"
#include "tensor.hpp"

namespace capsulegraph {

/// What is computed with.
enum class Mode : std::uint32_t {
    automatic = CAPG_MODE_AUTO,
    exact = CAPG_MODE_EXACT,
    fast = CAPG_MODE_FAST,
    speculative = CAPG_MODE_SPECULATIVE,
};

/// How urgently the library's threads run.
enum class Priority : std::uint32_t {
    inherited = CAPG_PRIORITY_INHERITED,
    low = CAPG_PRIORITY_LOW,
    lowest = CAPG_PRIORITY_LOWEST,
};

/// Whether weights of an ONNX model are copied into the form that ONNX Runtime's kernels like best.
enum class Prepack : std::uint32_t {
    automatic = CAPG_PREPACK_AUTO,
    on = CAPG_PREPACK_ON,
    off = CAPG_PREPACK_OFF,
};

/// Whether ONNX Runtime optimises the graph of each capsule.
enum class Optimization : std::uint32_t {
    standard = CAPG_OPTIMIZATION_DEFAULT,
    off = CAPG_OPTIMIZATION_OFF,
};

/// How to open a model; the defaults of capg_model_options.
struct ModelOptions {
    Mode mode = Mode::automatic;
    /// Bound in bytes on all memory that the library holds for the model and its sessions; 0: none, and the file is mapped.
    std::uint64_t memory_budget_bytes = 0;
    /// A budget that the model shares with others, in its place.
    const Budget *budget = nullptr;
    /// Threads that compute, the caller's included; 0: one per processor.
    std::uint32_t threads = 0;
    /// Numbers of the processors that the library's threads may run on; default: all.
    std::vector<std::uint32_t> processors;
    Priority priority = Priority::inherited;
    /// Runs the parallel loops on the host's threads. An exception of it comes out of the call that computed, whose work is
    /// then done all the same.
    ParallelFor parallel_for;
    /// Receives log lines, those of the model's sessions too.
    const Log *log = nullptr;
    /// Path of a mini's full file; default: the file of the recorded name beside the mini.
    std::string full_path;
    /// The full file of a mini through the host, in its place.
    const Reader *full_reader = nullptr;
    /// The model's place in a larger file; length 0: up to its end.
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    /// The same of full_path.
    std::uint64_t full_offset = 0;
    std::uint64_t full_length = 0;
    /// The capsules that are computed with here (Part); both 0: all.
    std::uint32_t first_capsule = 0;
    std::uint32_t end_capsule = 0;
    /// The session that mode auto leaves room for in a budget; 0: a session's defaults.
    std::uint32_t session_context = 0;
    KvType session_kv_type = KvType::f16;
    /// Of an ONNX model: ONNX Runtime's library or its folder; default: it is looked for.
    std::string onnxruntime_path;
    Prepack prepack = Prepack::automatic;
    Optimization optimization = Optimization::standard;
    /// Of an ONNX model: bytes of weights up to which neighbouring capsules share a session of ONNX Runtime; 0: 4 MiB;
    /// CAPG_JOINED_NONE: each has its own.
    std::uint64_t joined_bytes = 0;
};

/// One message of a conversation.
struct Message {
    /// "system", "user", "assistant", or what the template knows besides.
    std::string role;
    std::string content;
};

/// Flags of tokenize: add_special, parse_special, both (`|`), or none (`{}`).
enum class TokenizeFlags : std::uint32_t {};
constexpr TokenizeFlags operator|(TokenizeFlags a, TokenizeFlags b) noexcept {
    return static_cast<TokenizeFlags>(static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b));
}
/// Adds the BOS and EOS tokens that the model asks for.
inline constexpr TokenizeFlags add_special{CAPG_TOKENIZE_ADD_SPECIAL};
/// The text of a control token becomes that token. Leave it off for text from outside.
inline constexpr TokenizeFlags parse_special{CAPG_TOKENIZE_PARSE_SPECIAL};

/// Flags of detokenize: show_special, or none.
enum class DetokenizeFlags : std::uint32_t {};
/// Prints control tokens too.
inline constexpr DetokenizeFlags show_special{CAPG_DETOKENIZE_SPECIAL};

/// Flags of chat_prompt: no_reply, or none.
enum class ChatFlags : std::uint32_t {};
/// Leaves out the beginning of the next answer.
inline constexpr ChatFlags no_reply{CAPG_CHAT_NO_REPLY};

/// An opened language model or ONNX model. It never changes; any threads may use it at the same time, each with sessions of
/// its own.
class Model : public detail::Owned<capg_model, capg_model_free> {
public:
    /// Closed, until another one is moved into it.
    Model() = default;

    /// Opens a full file, or a mini together with its full file (in mode fast without it). Weights are mapped, not read.
    static Result<Model> try_open(std::string_view path, const ModelOptions &options = {}) {
        return make(options, [&](const capg_model_options *raw) {
            return detail::get<capg_model *>(capg_model_open, path.data(), path.size(), raw);
        });
    }
    /// As above, with the file read by the host: all of it, into memory, inside this call.
    static Result<Model> try_open(const Reader &reader, const ModelOptions &options = {}) {
        detail::HostFile file(reader);
        auto model = make(options, [&](const capg_model_options *raw) {
            return detail::get<capg_model *>(capg_model_open_reader, file.raw(), raw);
        });
        file.rethrow();
        return model;
    }

    Result<Mode> try_mode() const {
        auto mode = ask<std::uint32_t>(capg_model_mode);
        if (!mode) return *mode.error();
        return static_cast<Mode>(*mode);
    }
    /// Why that mode was taken. A view of the model.
    Result<std::string_view> try_mode_reason() const & { return view<std::string_view>(capg_model_mode_reason); }
    /// The model's own name. A view of the model.
    Result<std::string_view> try_name() const & { return view<std::string_view>(capg_model_name); }
    // Views of an object that is gone at the end of the expression.
    Result<std::string_view> try_mode_reason() const && = delete;
    Result<std::string_view> try_name() const && = delete;
    /// Tokens of the vocabulary: ids are below it, and it is the width of a row of logits.
    Result<std::uint32_t> try_vocab_size() const { return ask<std::uint32_t>(capg_model_vocab_size); }
    /// Activations of a token between two capsules: the width of a row that Part::eval takes.
    Result<std::uint32_t> try_embedding_length() const { return ask<std::uint32_t>(capg_model_embedding_length); }
    /// Positions that the model was trained for; a session may have fewer (SessionOptions::context).
    Result<std::uint32_t> try_context_length() const { return ask<std::uint32_t>(capg_model_context_length); }
    /// Threads that compute, the caller's included. Of an ONNX model those of ONNX Runtime, which is loaded where it was not.
    Result<std::uint32_t> try_threads() const { return ask<std::uint32_t>(capg_model_threads); }
    /// Bytes of anonymous memory that the model holds.
    Result<std::uint64_t> try_held_bytes() const { return ask<std::uint64_t>(capg_model_held_bytes); }
    Result<bool> try_has_chat_template() const { return truth(ask<std::uint32_t>(capg_model_has_chat_template)); }
    /// Whether the model ends its answer with this token.
    Result<bool> try_is_end_token(Token id) const { return truth(ask<std::uint32_t>(capg_model_is_end_token, id)); }
    /// The facts of the file as JSON, with details every capsule too.
    Result<std::string> try_inspect(bool details = false) const { return text(capg_model_inspect, std::uint32_t{details}); }

    /// A text as tokens.
    Result<std::vector<Token>> try_tokenize(std::string_view words, TokenizeFlags flags = {}) const {
        return tokens(capg_model_tokenize, words.data(), words.size(), static_cast<std::uint32_t>(flags));
    }
    /// Tokens as a text; bytes that form no character become U+FFFD.
    Result<std::string> try_detokenize(Span<const Token> ids, DetokenizeFlags flags = {}) const {
        return text(capg_model_detokenize, ids.data(), ids.size(), static_cast<std::uint32_t>(flags));
    }
    /// A conversation as the model's template writes it.
    Result<std::string> try_chat_prompt(const std::vector<Message> &messages, ChatFlags flags = {}) const {
        const auto raw = raw_messages(messages);
        return text(capg_model_chat_prompt, raw.data(), raw.size(), static_cast<std::uint32_t>(flags));
    }
    /// A conversation as tokens, ready to be answered by a session.
    Result<std::vector<Token>> try_chat_tokens(const std::vector<Message> &messages) const {
        const auto raw = raw_messages(messages);
        return tokens(capg_model_chat_tokens, raw.data(), raw.size());
    }
    /// A session, which keeps the model in memory.
    Result<Session> try_session(const SessionOptions &options = {}) const { return Session::try_make(*this, options); }

    /// Inputs and outputs of an ONNX model, in its own order. Views of the model.
    Result<std::vector<Port>> try_inputs() const & { return ports(CAPG_PORT_INPUT); }
    Result<std::vector<Port>> try_outputs() const & { return ports(CAPG_PORT_OUTPUT); }
    Result<std::vector<Port>> try_inputs() const && = delete;
    Result<std::vector<Port>> try_outputs() const && = delete;
    /// Computes outputs of an ONNX model, those of these names (none: all), from inputs by name, which are read where they are.
    Result<Values> try_run(const std::vector<Input> &inputs, const std::vector<std::string> &outputs = {},
                           const Cancel *cancel = nullptr) const {
        const auto flag = detail::optional(cancel);
        if (!flag) return *flag.error();
        std::vector<std::vector<capg_tensor>> tensors(inputs.size());
        std::vector<capg_value> values(inputs.size());
        for (std::size_t i = 0; i < inputs.size(); i++) {
            for (const Tensor &tensor : inputs[i].tensors_) tensors[i].push_back(tensor.view());
            values[i] = {inputs[i].name_.data(), inputs[i].name_.size(), tensors[i].data(), tensors[i].size(),
                         static_cast<std::uint32_t>(inputs[i].kind_), static_cast<std::uint32_t>(inputs[i].element_)};
        }
        std::vector<capg_string> wanted;
        for (const std::string &name : outputs) wanted.push_back({name.data(), name.size()});
        auto made = ask<capg_values *>(capg_model_run, static_cast<const capg_value *>(values.data()), values.size(),
                                       static_cast<const capg_string *>(wanted.data()), wanted.size(),
                                       static_cast<const capg_run_options *>(nullptr),
                                       static_cast<const capg_cancel *>(flag->get()));
        if (!made) return *made.error();
        Values given;
        given.own(*made);
        return given;
    }
    /// What an ONNX model did and cost up to now, as JSON (docs/report.md).
    Result<std::string> try_report() const { return text(capg_model_report); }

    /// Number of capsules, in the order of computation.
    Result<std::size_t> try_capsule_count() const { return ask<std::size_t>(capg_model_capsule_count); }
    /// The id of a capsule, such as "block.0.attn". A view of the model.
    Result<std::string_view> try_capsule_id(std::size_t index) const & {
        return view<std::string_view>(capg_model_capsule_id, index);
    }
    Result<std::string_view> try_capsule_id(std::size_t) const && = delete;
    /// Takes a capsule out, each tensor held against its checksum.
    Result<Capsule> try_fetch(std::string_view id, Layout layout = Layout::source) const {
        return Capsule::take(
            ask<capg_capsule *>(capg_model_fetch, id.data(), id.size(), static_cast<std::uint32_t>(layout)), host_);
    }
    /// Begins to take capsules out, in this order, on a thread of its own.
    Result<Fetch> try_fetch_begin(const std::vector<std::string> &ids, Layout layout = Layout::source) const {
        std::vector<capg_string> raw;
        for (const std::string &id : ids) raw.push_back({id.data(), id.size()});
        auto made = ask<capg_fetch *>(capg_model_fetch_begin, static_cast<const capg_string *>(raw.data()), raw.size(),
                                      static_cast<std::uint32_t>(layout));
        if (!made) return *made.error();
        Fetch fetch;
        fetch.own(*made, host_);
        return fetch;
    }
    /// Says that these capsules, by number, are needed next. Only a hint.
    Result<void> try_prefetch(Span<const std::size_t> capsules) const {
        return call(capg_model_prefetch, capsules.data(), capsules.size());
    }
    /// Writes what a capsule of an ONNX model computes as an ONNX model of its own, in mode fast as the mini has it. Gives a JSON
    /// object about the files written.
    Result<std::string> try_export_capsule(std::string_view id, std::string_view target, const Cancel *cancel = nullptr) const {
        const auto flag = detail::optional(cancel);
        if (!flag) return *flag.error();
        return text(capg_model_export_capsule, id.data(), id.size(), target.data(), target.size(),
                    static_cast<const capg_cancel *>(flag->get()));
    }

#if CAPSULEGRAPH_EXCEPTIONS
    static Model open(std::string_view path, const ModelOptions &options = {}) { return try_open(path, options).value(); }
    static Model open(const Reader &reader, const ModelOptions &options = {}) { return try_open(reader, options).value(); }
    Mode mode() const { return try_mode().value(); }
    std::string_view mode_reason() const & { return try_mode_reason().value(); }
    std::string_view name() const & { return try_name().value(); }
    std::string_view mode_reason() const && = delete;
    std::string_view name() const && = delete;
    std::uint32_t vocab_size() const { return try_vocab_size().value(); }
    std::uint32_t embedding_length() const { return try_embedding_length().value(); }
    std::uint32_t context_length() const { return try_context_length().value(); }
    std::uint32_t threads() const { return try_threads().value(); }
    std::uint64_t held_bytes() const { return try_held_bytes().value(); }
    bool has_chat_template() const { return try_has_chat_template().value(); }
    bool is_end_token(Token id) const { return try_is_end_token(id).value(); }
    std::string inspect(bool details = false) const { return try_inspect(details).value(); }
    std::vector<Token> tokenize(std::string_view words, TokenizeFlags flags = {}) const {
        return try_tokenize(words, flags).value();
    }
    std::string detokenize(Span<const Token> ids, DetokenizeFlags flags = {}) const { return try_detokenize(ids, flags).value(); }
    std::string chat_prompt(const std::vector<Message> &messages, ChatFlags flags = {}) const {
        return try_chat_prompt(messages, flags).value();
    }
    std::vector<Token> chat_tokens(const std::vector<Message> &messages) const { return try_chat_tokens(messages).value(); }
    Session session(const SessionOptions &options = {}) const { return try_session(options).value(); }
    std::vector<Port> inputs() const & { return try_inputs().value(); }
    std::vector<Port> outputs() const & { return try_outputs().value(); }
    std::vector<Port> inputs() const && = delete;
    std::vector<Port> outputs() const && = delete;
    Values run(const std::vector<Input> &inputs, const std::vector<std::string> &outputs = {},
               const Cancel *cancel = nullptr) const {
        return try_run(inputs, outputs, cancel).value();
    }
    std::string report() const { return try_report().value(); }
    std::size_t capsule_count() const { return try_capsule_count().value(); }
    std::string_view capsule_id(std::size_t index) const & { return try_capsule_id(index).value(); }
    std::string_view capsule_id(std::size_t) const && = delete;
    Capsule fetch(std::string_view id, Layout layout = Layout::source) const { return try_fetch(id, layout).value(); }
    Fetch fetch_begin(const std::vector<std::string> &ids, Layout layout = Layout::source) const {
        return try_fetch_begin(ids, layout).value();
    }
    void prefetch(Span<const std::size_t> capsules) const { try_prefetch(capsules).value(); }
    std::string export_capsule(std::string_view id, std::string_view target, const Cancel *cancel = nullptr) const {
        return try_export_capsule(id, target, cancel).value();
    }
#endif

private:
    friend class Session;
    friend class Part;

    /// Everything of the options but what needs objects of its own.
    static capg_model_options numbers(const ModelOptions &options) noexcept {
        auto raw = detail::options<capg_model_options>();
        raw.full_path = options.full_path.data(), raw.full_path_len = options.full_path.size();
        raw.offset = options.offset, raw.length = options.length;
        raw.full_offset = options.full_offset, raw.full_length = options.full_length;
        raw.memory_budget_bytes = options.memory_budget_bytes;
        raw.mode = static_cast<std::uint32_t>(options.mode);
        raw.threads = options.threads;
        raw.processors = options.processors.data(), raw.processors_len = options.processors.size();
        raw.priority = static_cast<std::uint32_t>(options.priority);
        raw.first_capsule = options.first_capsule, raw.end_capsule = options.end_capsule;
        raw.session_context = options.session_context;
        raw.session_kv_type = static_cast<std::uint32_t>(options.session_kv_type);
        raw.onnxruntime_path = options.onnxruntime_path.data(), raw.onnxruntime_path_len = options.onnxruntime_path.size();
        raw.prepack = static_cast<std::uint32_t>(options.prepack);
        raw.optimization = static_cast<std::uint32_t>(options.optimization);
        raw.joined_bytes = options.joined_bytes;
        return raw;
    }

    template <class F>
    static Result<Model> make(const ModelOptions &options, F open) {
        auto raw = numbers(options);
        const auto log = detail::optional(options.log);
        if (!log) return *log.error();
        raw.log = log->get();
        const auto budget = detail::optional(options.budget);
        if (!budget) return *budget.error();
        raw.budget = budget->get();
        const Reader none{};
        detail::HostFile full(options.full_reader ? *options.full_reader : none);
        if (options.full_reader) raw.full_reader = full.raw();
        std::shared_ptr<detail::Host> host;
        if (options.parallel_for) {
            host = std::make_shared<detail::Host>(options.parallel_for);
            raw.parallel_for = host->parallel_for;
            raw.parallel_for_data = host.get();
        }
        auto made = open(static_cast<const capg_model_options *>(&raw));
        Model model;
        if (made) model.own(*made, host);
        full.rethrow();
        if (host) host->rethrow();
        if (!made) return *made.error();
        return model;
    }

    static Result<bool> truth(const Result<std::uint32_t> &number) {
        if (!number) return *number.error();
        return *number != 0;
    }

    static std::vector<capg_chat_message> raw_messages(const std::vector<Message> &messages) {
        std::vector<capg_chat_message> raw;
        for (const Message &message : messages)
            raw.push_back({message.role.data(), message.role.size(), message.content.data(), message.content.size()});
        return raw;
    }

    Result<std::vector<Port>> ports(std::uint32_t direction) const {
        auto count = ask<std::size_t>(capg_model_port_count, direction);
        if (!count) return *count.error();
        std::vector<Port> all;
        for (std::size_t i = 0; i < *count; i++) {
            auto raw = detail::options<capg_port>();
            auto done = call(capg_model_port, direction, i, &raw);
            if (!done) return *done.error();
            all.push_back(Port(raw));
        }
        return all;
    }
};

inline Result<Session> Session::try_make(const Model &model, const SessionOptions &options) {
    auto raw = detail::options<capg_session_options>();
    raw.context = options.context;
    raw.batch = options.batch;
    raw.kv_type = static_cast<std::uint32_t>(options.kv_type);
    raw.flags = options.without_lookup ? CAPG_SESSION_WITHOUT_LOOKUP : 0;
    auto made = model.ask<capg_session *>(capg_session_new, static_cast<const capg_session_options *>(&raw));
    if (!made) return *made.error();
    Session session;
    session.own(*made, model.host_);
    session.model_ = model.handle_;
    return session;
}

} // namespace capsulegraph

#endif
