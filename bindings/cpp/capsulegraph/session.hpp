/// Sessions: sequences of tokens on a language model, and what is generated after them.
#ifndef CAPSULEGRAPH_SESSION_HPP
#define CAPSULEGRAPH_SESSION_HPP

#include "control.hpp"

#include <chrono>
#include <iterator>

namespace capsulegraph {

class Model;

/// How keys and values of past tokens are kept.
enum class KvType : std::uint32_t {
    f16 = CAPG_KV_F16,
    q8_0 = CAPG_KV_Q8_0,
};

/// Why a generation ended.
enum class Finish : std::uint32_t {
    none = CAPG_FINISH_NONE,
    end = CAPG_FINISH_END,
    stop = CAPG_FINISH_STOP,
    length = CAPG_FINISH_LENGTH,
    context = CAPG_FINISH_CONTEXT,
    callback = CAPG_FINISH_CALLBACK,
};

/// How to make a session; the defaults of capg_session_options.
struct SessionOptions {
    /// Positions that there is room for; 0: the model's own context, at most 4096.
    std::uint32_t context = 0;
    /// Tokens that are evaluated together while a prompt is read; 0: what suits the machine.
    std::uint32_t batch = 0;
    KvType kv_type = KvType::f16;
    /// In mode speculative the mini drafts alone; text that repeats is not guessed to go on as before.
    bool without_lookup = false;
};

/// What to generate; the defaults are greedy, until the model ends its text or the context is full. With a temperature
/// too the same seed gives the same text: change it for another one.
struct GenerateOptions {
    /// Tokens at most; 0: as many as the context has room for.
    std::uint64_t max_tokens = 0;
    /// The text ends before the first of these.
    std::vector<std::string> stop;
    /// Chooses one of the possible random sequences.
    std::uint64_t seed = 0;
    /// Divides the logits: 0 takes the best token always.
    float temperature = 0;
    /// Keeps the fewest best tokens whose probabilities reach this sum; 0: all.
    float top_p = 0;
    /// Drops tokens less probable than this share of the best one's probability; 0: none.
    float min_p = 0;
    /// Divides positive and multiplies negative logits of recent tokens; 0: changes nothing.
    float repeat_penalty = 0;
    /// Keeps this many best tokens; 0: all.
    std::uint32_t top_k = 0;
    /// How many recent tokens are penalised; 0: 64.
    std::uint32_t repeat_window = 0;
    /// Go on after a token that ends the text (for measurements).
    bool ignore_end = false;
};

/// A slice of no set length. Any other time, 0 and those below too, is a bound.
inline constexpr std::chrono::microseconds no_limit = std::chrono::microseconds::max();

/// What to generate after: tokens, or a text, in which the text of a control token counts as that token (Model::tokenize with
/// add_special and parse_special). A view: what it is made of must live until the call returns.
class Prompt {
public:
    /// Of whatever Span<const Token> or std::string_view can be made of.
    template <class P, class = std::enable_if_t<std::is_convertible_v<const P &, Span<const Token>>
                                                || std::is_convertible_v<const P &, std::string_view>>>
    Prompt(const P &prompt) : is_text_(!std::is_convertible_v<const P &, Span<const Token>>) {
        if constexpr (std::is_convertible_v<const P &, Span<const Token>>) tokens_ = prompt;
        else text_ = prompt;
    }

private:
    friend class Session;
    Span<const Token> tokens_;
    std::string_view text_;
    bool is_text_;
};

/// What a slice of a generation gave: views of the session, valid until its next call that is not a view.
struct Slice {
    /// Text that became complete; never a part of a character.
    std::string_view text;
    Span<const Token> tokens;
    /// Whether the generation goes on.
    bool more = false;
    /// none while there is more.
    Finish finish = Finish::none;
};

/// Logits or activations, row after row: a view of the session or part, valid until its next call that is not a view.
struct Rows {
    Span<const float> data;
    std::size_t rows = 0;
    std::size_t columns = 0;

    Span<const float> row(std::size_t index) const noexcept { return {data.data() + index * columns, columns}; }
};

namespace detail {

/// Options with the arrays that C wants.
class Generate {
public:
    explicit Generate(const GenerateOptions &options) : raw_(detail::options<capg_generate_options>()) {
        for (const std::string &stop : options.stop) stop_.push_back({stop.data(), stop.size()});
        raw_.stop = stop_.data();
        raw_.stop_count = stop_.size();
        raw_.max_tokens = options.max_tokens;
        raw_.seed = options.seed;
        raw_.temperature = options.temperature;
        raw_.top_p = options.top_p;
        raw_.min_p = options.min_p;
        raw_.repeat_penalty = options.repeat_penalty;
        raw_.top_k = options.top_k;
        raw_.repeat_window = options.repeat_window;
        raw_.ignore_end = options.ignore_end;
    }
    Generate(const Generate &) = delete;
    Generate &operator=(const Generate &) = delete;

    const capg_generate_options *raw() const noexcept { return &raw_; }

private:
    capg_generate_options raw_;
    std::vector<capg_string> stop_;
};

/// A token callback: `f(text)` or `f(token, text)`, which returns nothing, or whether to go on.
template <class F>
class TokenCallback {
public:
    explicit TokenCallback(F &callable) noexcept : callable_(callable) {}

    static std::int32_t receive(void *self, std::uint32_t token, const char *text, std::size_t length) {
        auto &callback = *static_cast<TokenCallback *>(self);
        bool more = false;
        callback.carrier_.run([&] { more = callback.hand_over(token, std::string_view(text, length)); });
        return more ? 0 : 1;
    }
    void rethrow() { carrier_.rethrow(); }

private:
    bool hand_over(Token token, std::string_view text) {
        if constexpr (std::is_invocable_v<F &, Token, std::string_view>) {
            return ended([&] { return callable_(token, text); });
        } else {
            static_assert(std::is_invocable_v<F &, std::string_view>, "the callable takes (text) or (token, text)");
            return ended([&] { return callable_(text); });
        }
    }
    template <class C>
    static bool ended(C run) {
        using R = decltype(run());
        static_assert(std::is_void_v<R> || std::is_same_v<R, bool>,
                      "the callable returns nothing, or a bool: whether to go on");
        if constexpr (std::is_void_v<R>) {
            run();
            return true;
        } else {
            return run();
        }
    }

    F &callable_;
    Carrier carrier_;
};

inline Slice slice_of(const capg_slice &raw) noexcept {
    return {std::string_view(raw.text, raw.text_len), {raw.tokens, raw.token_count}, raw.more != 0,
            static_cast<Finish>(raw.finish_reason)};
}

/// As C has it, where 0 is no limit. No time left over is the shortest slice.
inline std::uint64_t count_of(std::chrono::microseconds limit) noexcept {
    if (limit == no_limit) return 0;
    return limit.count() > 0 ? static_cast<std::uint64_t>(limit.count()) : 1;
}

} // namespace detail

class Stream;

/// A sequence of tokens on a model, with its KV cache and at most one generation in progress. One call at a time: a second one
/// meanwhile, from another thread or from a callback of the first, ends with Status::busy.
class Session : public detail::Owned<capg_session, capg_session_free> {
public:
    /// Closed, until another one is moved into it.
    Session() = default;

    static Result<Session> try_make(const Model &model, const SessionOptions &options = {});

    /// Generates after this prompt. Each token goes through `callable(text)` or `callable(token, text)`, which returns nothing,
    /// or whether to go on.
    template <class F>
    Result<Finish> try_generate(Prompt prompt, F &&callable, const GenerateOptions &options = {},
                                const Cancel *cancel = nullptr) {
        const auto flag = detail::optional(cancel);
        if (!flag) return *flag.error();
        const detail::Generate raw(options);
        detail::TokenCallback<std::remove_reference_t<F>> callback(callable);
        const capg_cancel *token = flag->get();
        auto reason = with_tokens<Result<std::uint32_t>>(prompt, [&](Span<const Token> ids) {
            return ask<std::uint32_t>(capg_session_generate, ids.data(), ids.size(), raw.raw(),
                                      capg_token_callback{callback.receive}, static_cast<void *>(&callback), token);
        });
        callback.rethrow();
        if (!reason) return *reason.error();
        return static_cast<Finish>(*reason);
    }
    /// The text that is generated after this prompt.
    Result<std::string> try_complete(Prompt prompt, const GenerateOptions &options = {}, const Cancel *cancel = nullptr) {
        std::string all;
        auto done = try_generate(prompt, [&](std::string_view text) { all += text; }, options, cancel);
        if (!done) return *done.error();
        return all;
    }
    /// Begins a generation after this prompt without computing anything.
    Result<void> try_start(Prompt prompt, const GenerateOptions &options = {}) {
        const detail::Generate raw(options);
        return with_tokens<Result<void>>(
            prompt, [&](Span<const Token> ids) { return call(capg_session_start, ids.data(), ids.size(), raw.raw()); });
    }
    /// Goes on for about that long (no_limit: to the end; less than 100 microseconds, 0 and less too, count as 100) and for that
    /// many tokens at most (0: no limit).
    Result<Slice> try_advance(std::chrono::microseconds limit, std::size_t max_tokens = 0, const Cancel *cancel = nullptr) & {
        const auto flag = detail::optional(cancel);
        if (!flag) return *flag.error();
        return advance_with(limit, max_tokens, flag->get());
    }
    /// What became complete of a generation that a group went on with.
    Result<Slice> try_slice() & {
        auto raw = detail::options<capg_slice>();
        auto done = call(capg_session_slice, &raw);
        if (!done) return *done.error();
        return detail::slice_of(raw);
    }
    /// The text that is generated after this prompt, piece by piece in a range-for. An error ends the range; the stream has it.
    Result<Stream> try_stream(Prompt prompt, const GenerateOptions &options = {}, const Cancel *cancel = nullptr);

    /// Appends tokens and computes the logits of the last, or of every one.
    Result<void> try_eval(Span<const Token> tokens, bool all_logits = false, const Cancel *cancel = nullptr) {
        const auto flag = detail::optional(cancel);
        if (!flag) return *flag.error();
        return call(capg_session_eval, tokens.data(), tokens.size(),
                    std::uint32_t{all_logits ? std::uint32_t{CAPG_EVAL_ALL_LOGITS} : 0u},
                    static_cast<const capg_cancel *>(flag->get()));
    }
    /// Logits of the last evaluation, a column a token of the vocabulary. A view, as Rows says.
    Result<Rows> try_logits() const & {
        const float *data = nullptr;
        std::size_t rows = 0;
        auto columns = ask<std::size_t>(capg_session_logits, &data, &rows);
        if (!columns) return *columns.error();
        return Rows{{data, rows * *columns}, rows, *columns};
    }
    /// The tokens that the session holds. A view, valid until its next call that is not one.
    Result<Span<const Token>> try_tokens() const & { return view<Span<const Token>>(capg_session_tokens); }
    // Views of an object that is gone at the end of the expression.
    Result<Slice> try_advance(std::chrono::microseconds, std::size_t = 0, const Cancel * = nullptr) && = delete;
    Result<Slice> try_slice() && = delete;
    Result<Rows> try_logits() const && = delete;
    Result<Span<const Token>> try_tokens() const && = delete;
    /// Positions that there is room for.
    Result<std::size_t> try_context() const { return ask<std::size_t>(capg_session_context); }
    /// Forgets every token from position `count` on, and a generation in progress.
    Result<void> try_truncate(std::size_t count) { return call(capg_session_truncate, count); }
    /// Forgets all tokens.
    Result<void> try_reset() { return call(capg_session_reset); }
    /// What the session did and cost, as JSON (docs/report.md).
    Result<std::string> try_report() const { return text(capg_session_report); }
    /// Gives the session back; closing it twice does nothing. No other thread may use it at that time.
    void close() noexcept {
        Owned::close();
        model_.reset();
    }

#if CAPSULEGRAPH_EXCEPTIONS
    static Session make(const Model &model, const SessionOptions &options = {}) { return try_make(model, options).value(); }
    template <class F>
    Finish generate(Prompt prompt, F &&callable, const GenerateOptions &options = {}, const Cancel *cancel = nullptr) {
        return try_generate(prompt, std::forward<F>(callable), options, cancel).value();
    }
    std::string complete(Prompt prompt, const GenerateOptions &options = {}, const Cancel *cancel = nullptr) {
        return try_complete(prompt, options, cancel).value();
    }
    void start(Prompt prompt, const GenerateOptions &options = {}) { try_start(prompt, options).value(); }
    Slice advance(std::chrono::microseconds limit, std::size_t max_tokens = 0, const Cancel *cancel = nullptr) & {
        return try_advance(limit, max_tokens, cancel).value();
    }
    Slice slice() & { return try_slice().value(); }
    /// As try_stream; an error comes out of the loop.
    Stream stream(Prompt prompt, const GenerateOptions &options = {}, const Cancel *cancel = nullptr);
    void eval(Span<const Token> tokens, bool all_logits = false, const Cancel *cancel = nullptr) {
        try_eval(tokens, all_logits, cancel).value();
    }
    Rows logits() const & { return try_logits().value(); }
    Span<const Token> tokens() const & { return try_tokens().value(); }
    Slice advance(std::chrono::microseconds, std::size_t = 0, const Cancel * = nullptr) && = delete;
    Slice slice() && = delete;
    Rows logits() const && = delete;
    Span<const Token> tokens() const && = delete;
    std::size_t context() const { return try_context().value(); }
    void truncate(std::size_t count) { try_truncate(count).value(); }
    void reset() { try_reset().value(); }
    std::string report() const { return try_report().value(); }
#endif

private:
    friend class Group;
    friend class Stream;

    /// The same session for a stream or a call in progress, which may outlive the object.
    Session share() const {
        Session other;
        other.host_ = host_;
        other.handle_ = handle_;
        other.model_ = model_;
        return other;
    }

    /// Calls `work` with the tokens of a prompt.
    template <class R, class W>
    R with_tokens(const Prompt &prompt, W work) const {
        if (!prompt.is_text_) return work(prompt.tokens_);
        const std::shared_ptr<capg_model> model = model_;
        if (!model) return detail::closed(detail::name_of(get()));
        const std::uint32_t flags = CAPG_TOKENIZE_ADD_SPECIAL | CAPG_TOKENIZE_PARSE_SPECIAL;
        const auto ids = detail::tokens(capg_model_tokenize, static_cast<const capg_model *>(model.get()), prompt.text_.data(),
                                        prompt.text_.size(), flags);
        if (!ids) return *ids.error();
        return work(Span<const Token>(*ids));
    }

    Result<Slice> advance_with(std::chrono::microseconds limit, std::size_t max_tokens, const capg_cancel *cancel) {
        auto raw = detail::options<capg_slice>();
        auto done = call(capg_session_advance, detail::count_of(limit), max_tokens, cancel, &raw);
        if (!done) return *done.error();
        return detail::slice_of(raw);
    }

    /// For prompts that are text; there where the handle is.
    std::shared_ptr<capg_model> model_;
};

/// Generated text as an input range of std::string_view: `for (std::string_view piece : session.stream(prompt))`. A piece is
/// never empty and valid until the next one. It keeps its session and its cancel token. Moving it ends its iterators.
class Stream {
public:
    class iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = std::string_view;
        using difference_type = std::ptrdiff_t;
        using pointer = const std::string_view *;
        using reference = std::string_view;
        /// What `it++` gives: the piece that was left, which the stream keeps until the next `it++`.
        struct Left {
            std::string_view piece;
            std::string_view operator*() const noexcept { return piece; }
        };

        iterator() = default;
        std::string_view operator*() const noexcept { return stream_->piece_; }
        const std::string_view *operator->() const noexcept { return &stream_->piece_; }
        iterator &operator++() {
            if (!stream_->next()) stream_ = nullptr;
            return *this;
        }
        Left operator++(int) {
            stream_->left_ = stream_->piece_;
            const Left left{stream_->left_};
            ++*this;
            return left;
        }
        friend bool operator==(const iterator &a, const iterator &b) noexcept { return a.stream_ == b.stream_; }
        friend bool operator!=(const iterator &a, const iterator &b) noexcept { return a.stream_ != b.stream_; }

    private:
        friend class Stream;
        explicit iterator(Stream *stream) noexcept : stream_(stream) {}
        Stream *stream_ = nullptr;
    };

    /// Computes up to the first piece. A second call goes on behind the last piece that was given, and after an error tries
    /// again: a call that was cancelled has lost nothing.
    iterator begin() & {
        result_ = {};
        return next() ? iterator(this) : iterator();
    }
    iterator begin() && = delete; // the iterator would point at a stream that is gone
    iterator end() noexcept { return iterator(); }
    /// Why the text ended; none before its end.
    Finish finish() const noexcept { return finish_; }
    /// Whether no error ended the range.
    const Result<void> &result() const & noexcept { return result_; }
    const Result<void> &result() const && = delete;

private:
    friend class Session;
    Stream(Session session, std::shared_ptr<capg_cancel> cancel) : session_(std::move(session)), cancel_(std::move(cancel)) {}

    bool next() {
        while (result_.ok() && finish_ == Finish::none) {
            auto slice = session_.advance_with(no_limit, 1, cancel_.get());
            if (!slice) {
                result_ = *slice.error();
                break;
            }
            finish_ = slice->finish;
            piece_ = slice->text;
            if (!piece_.empty()) return true;
        }
        if (throws_) result_.value();
        return false;
    }

    Session session_;
    std::shared_ptr<capg_cancel> cancel_;
    std::string_view piece_;
    std::string left_;
    Finish finish_ = Finish::none;
    Result<void> result_;
    bool throws_ = false;
};

inline Result<Stream> Session::try_stream(Prompt prompt, const GenerateOptions &options, const Cancel *cancel) {
    auto flag = detail::optional(cancel);
    if (!flag) return *flag.error();
    auto begun = try_start(prompt, options);
    if (!begun) return *begun.error();
    return Stream(share(), *std::move(flag));
}

#if CAPSULEGRAPH_EXCEPTIONS
inline Stream Session::stream(Prompt prompt, const GenerateOptions &options, const Cancel *cancel) {
    Stream stream = try_stream(prompt, options, cancel).value();
    stream.throws_ = true;
    return stream;
}
#endif

} // namespace capsulegraph

#endif
