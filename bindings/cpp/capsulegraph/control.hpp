/// What calls are given besides: budgets, cancel tokens, logs, files that the host reads.
#ifndef CAPSULEGRAPH_CONTROL_HPP
#define CAPSULEGRAPH_CONTROL_HPP

#include "handle.hpp"

namespace capsulegraph {

/// A bound on all memory that the library holds for the models that were opened with it, and for their sessions.
class Budget : public detail::Owned<capg_budget, capg_budget_free> {
public:
    static Result<Budget> try_make(std::uint64_t bytes) {
        Budget budget;
        auto made = detail::get<capg_budget *>(capg_budget_new, bytes);
        if (!made) return *made.error();
        budget.own(*made);
        return budget;
    }
    /// Another bound from now on; less gives weights up before the call returns.
    Result<void> try_resize(std::uint64_t bytes) const { return call(capg_budget_resize, bytes); }
    /// The bound.
    Result<std::uint64_t> try_bytes() const {
        std::uint64_t claimed = 0;
        return with<Result<std::uint64_t>>([&](const capg_budget *self) -> Result<std::uint64_t> {
            std::uint64_t bytes = 0;
            auto done = detail::call(capg_budget_bytes, self, &bytes, &claimed);
            if (!done) return *done.error();
            return bytes;
        });
    }
    /// Bytes of it that KV caches, activations, tables and fetched capsules claim; the rest holds weights.
    Result<std::uint64_t> try_claimed() const {
        std::uint64_t bytes = 0;
        return ask<std::uint64_t>(capg_budget_bytes, &bytes);
    }
#if CAPSULEGRAPH_EXCEPTIONS
    static Budget make(std::uint64_t bytes) { return try_make(bytes).value(); }
    void resize(std::uint64_t bytes) const { try_resize(bytes).value(); }
    std::uint64_t bytes() const { return try_bytes().value(); }
    std::uint64_t claimed() const { return try_claimed().value(); }
#endif

private:
    Budget() = default;
};

/// A flag that any thread puts up to stop the calls and streams that were given it. They keep the flag itself: the object may be
/// closed or gone before they end. Calls may share one. No call resets it; a job whose progress callback throws triggers it.
class Cancel : public detail::Owned<capg_cancel, capg_cancel_free> {
public:
    static Result<Cancel> try_make() {
        Cancel cancel;
        auto made = detail::get<capg_cancel *>(capg_cancel_new);
        if (!made) return *made.error();
        cancel.own(*made);
        return cancel;
    }
    /// Asks every call that was given this token to end with Status::cancelled. The flag stays up until it is reset.
    Result<void> try_trigger() const { return call(capg_cancel_trigger); }
    /// Makes a triggered token usable again.
    Result<void> try_reset() const { return call(capg_cancel_reset); }
    /// Whether it was triggered since it was last reset.
    Result<bool> try_triggered() const {
        auto up = ask<std::uint32_t>(capg_cancel_is_triggered);
        if (!up) return *up.error();
        return *up != 0;
    }
#if CAPSULEGRAPH_EXCEPTIONS
    static Cancel make() { return try_make().value(); }
    void trigger() const { try_trigger().value(); }
    void reset() const { try_reset().value(); }
    bool triggered() const { return try_triggered().value(); }
#endif

private:
    Cancel() = default;
};

/// How important a line of a log is.
enum class Level : std::uint32_t {
    error = CAPG_LOG_ERROR,
    warning = CAPG_LOG_WARNING,
    info = CAPG_LOG_INFO,
    debug = CAPG_LOG_DEBUG,
};

/// A queue of log lines. Name it in options, and take its lines when it suits.
class Log : public detail::Owned<capg_log, capg_log_free> {
public:
    static Result<Log> try_make(Level level = Level::info) {
        Log log;
        auto made = detail::get<capg_log *>(capg_log_new, static_cast<std::uint32_t>(level));
        if (!made) return *made.error();
        log.own(*made);
        return log;
    }
    /// Empties the queue into `line(Level, std::string_view)`, oldest first. After an exception of it, which comes out of this
    /// call, the lines behind are lost.
    template <class F>
    Result<void> try_deliver(F &&line) const {
        using Line = std::remove_reference_t<F>;
        struct Context {
            Line &line;
            detail::Carrier carrier;
        } context{line, {}};
        const capg_log_callback receive = [](void *data, std::uint32_t level, const char *text, std::size_t length) {
            auto &into = *static_cast<Context *>(data);
            if (into.carrier.holds()) return;
            into.carrier.run([&] { into.line(static_cast<Level>(level), std::string_view(text, length)); });
        };
        auto done = call(capg_log_deliver, receive, static_cast<void *>(&context));
        context.carrier.rethrow();
        return done;
    }
#if CAPSULEGRAPH_EXCEPTIONS
    static Log make(Level level = Level::info) { return try_make(level).value(); }
    template <class F>
    void deliver(F &&line) const {
        try_deliver(std::forward<F>(line)).value();
    }
#endif

private:
    Log() = default;
};

/// A file that the host reads: out of its archive, decrypted, from a network. It is used only inside the call that opens the
/// model.
struct Reader {
    /// Fills all of the buffer from `offset` and returns 0; any other number is a failure, which the error names.
    std::function<int(std::uint64_t offset, void *buffer, std::size_t length)> read;
    /// The file's length in bytes.
    std::uint64_t size = 0;
    /// The file's name for messages.
    std::string name;
};

namespace detail {

/// A Reader as C calls it. Neither may move while it is in use.
class HostFile {
public:
    explicit HostFile(const Reader &reader) : reader_(reader), raw_(options<capg_reader>()) {
        if (reader.read) raw_.read = receive;
        raw_.user_data = this;
        raw_.name = reader.name.data();
        raw_.name_len = reader.name.size();
        raw_.size = reader.size;
    }
    HostFile(const HostFile &) = delete;
    HostFile &operator=(const HostFile &) = delete;

    const capg_reader *raw() const noexcept { return &raw_; }
    void rethrow() { carrier_.rethrow(); }

private:
    static std::int32_t receive(void *self, std::uint64_t offset, void *buffer, std::size_t length) {
        auto &file = *static_cast<HostFile *>(self);
        std::int32_t outcome = -1;
        file.carrier_.run([&] { outcome = file.reader_.read(offset, buffer, length); });
        return outcome;
    }

    const Reader &reader_;
    capg_reader raw_;
    Carrier carrier_;
};

} // namespace detail

} // namespace capsulegraph

#endif
