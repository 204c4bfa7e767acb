/// What all objects are made of: calls of the C API, owned handles, callables that C calls.
#ifndef CAPSULEGRAPH_HANDLE_HPP
#define CAPSULEGRAPH_HANDLE_HPP

#include "result.hpp"

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

namespace capsulegraph {

/// Runs a parallel loop on the host's threads: calls `task` up to `count` times, each on a thread of its own, and returns when
/// every call that has begun has returned (capg_parallel_for_callback). It must not call the library.
using ParallelFor = std::function<void(std::uint32_t count, const std::function<void()> &task)>;

namespace detail {

/// Asked once: whether the library keeps the contract that this header was written for.
inline bool library_fits() noexcept {
    static const bool fits = capg_abi_version() == CAPG_ABI_VERSION;
    return fits;
}

inline Error other_library() {
    return Error(Status::mismatch, "the CapsuleGraph library " + std::string(capg_version_string()) + " has ABI version "
                                       + std::to_string(capg_abi_version()) + ", and this program was compiled for "
                                       + std::to_string(CAPG_ABI_VERSION) + ": install the library that its headers came with");
}

// What errors call the objects.
constexpr const char *name_of(const capg_budget *) noexcept { return "budget"; }
constexpr const char *name_of(const capg_cancel *) noexcept { return "cancel token"; }
constexpr const char *name_of(const capg_capsule *) noexcept { return "capsule"; }
constexpr const char *name_of(const capg_fetch *) noexcept { return "fetch"; }
constexpr const char *name_of(const capg_group *) noexcept { return "group"; }
constexpr const char *name_of(const capg_log *) noexcept { return "log"; }
constexpr const char *name_of(const capg_model *) noexcept { return "model"; }
constexpr const char *name_of(const capg_part *) noexcept { return "part"; }
constexpr const char *name_of(const capg_session *) noexcept { return "session"; }
constexpr const char *name_of(const capg_values *) noexcept { return "object of outputs"; }

inline Error closed(const char *what) {
    return Error(Status::invalid_argument,
                 std::string("the ") + what + " is closed, was moved from, or was never made: make one");
}

template <auto release>
struct Free {
    template <class T>
    void operator()(T *handle) const noexcept {
        release(handle);
    }
};

using OwnedError = std::unique_ptr<capg_error, Free<capg_error_free>>;

/// Calls a function of the C API, whose last parameter is the error.
template <class F, class... A>
Result<void> call(F function, A... arguments) {
    if (!library_fits()) return other_library();
    capg_error *raw = nullptr;
    const capg_status status = function(arguments..., &raw);
    const OwnedError error(raw);
    if (status == CAPG_OK) return {};
    std::size_t length = 0;
    const char *message = capg_error_message(raw, &length);
    return Error(static_cast<Status>(status), std::string(message, length));
}

/// As call, with one output before the error.
template <class T, class F, class... A>
Result<T> get(F function, A... arguments) {
    T value{};
    auto done = call(function, arguments..., &value);
    if (!done) return *done.error();
    return value;
}

/// As call, with a text before the error.
template <class F, class... A>
Result<std::string> text(F function, A... arguments) {
    capg_text *raw = nullptr;
    auto done = call(function, arguments..., &raw);
    const std::unique_ptr<capg_text, Free<capg_text_free>> owner(raw);
    if (!done) return *done.error();
    const char *data = nullptr;
    std::size_t length = 0;
    done = call(capg_text_view, static_cast<const capg_text *>(raw), &data, &length);
    if (!done) return *done.error();
    return std::string(data, length);
}

/// As call, with tokens before the error.
template <class F, class... A>
Result<std::vector<Token>> tokens(F function, A... arguments) {
    capg_tokens *raw = nullptr;
    auto done = call(function, arguments..., &raw);
    const std::unique_ptr<capg_tokens, Free<capg_tokens_free>> owner(raw);
    if (!done) return *done.error();
    const Token *ids = nullptr;
    std::size_t count = 0;
    done = call(capg_tokens_view, static_cast<const capg_tokens *>(raw), &ids, &count);
    if (!done) return *done.error();
    return count == 0 ? std::vector<Token>() : std::vector<Token>(ids, ids + count);
}

/// Holds an exception of the host's callable until the C call that it must not cross has returned.
class Carrier {
public:
    /// Whether the callable came to its end.
    template <class F>
    bool run(F &&callable) noexcept {
#if CAPSULEGRAPH_EXCEPTIONS
        try {
            callable();
            return true;
        } catch (...) {
            thrown_ = std::current_exception();
            return false;
        }
#else
        callable();
        return true;
#endif
    }

    bool holds() const noexcept { return thrown_ != nullptr; }

    void rethrow() {
#if CAPSULEGRAPH_EXCEPTIONS
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
#endif
    }

private:
    std::exception_ptr thrown_;
};

/// The host's parallel loop. It lives as long as anything that may compute with its model.
class Host {
public:
    explicit Host(ParallelFor loop) : loop_(std::move(loop)) {}

    static void parallel_for(void *self, std::uint32_t count, capg_parallel_task task, void *data) {
        static_cast<Host *>(self)->run(count, task, data);
    }

    /// Throws what the loop threw on this thread. The library has finished the work that was left.
    void rethrow() {
        if (!thrown_) return;
        Carrier carrier;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            const auto found = carriers_.find(std::this_thread::get_id());
            if (found == carriers_.end()) return;
            carrier = found->second;
            carriers_.erase(found);
            thrown_ = !carriers_.empty();
        }
        carrier.rethrow();
    }

private:
    void run(std::uint32_t count, capg_parallel_task task, void *data) noexcept {
        Carrier carrier;
        if (carrier.run([&] { loop_(count, [task, data] { task(data); }); })) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        carriers_[std::this_thread::get_id()] = carrier;
        thrown_ = true;
    }

    ParallelFor loop_;
    std::atomic<bool> thrown_{false};
    std::mutex mutex_;
    std::unordered_map<std::thread::id, Carrier> carriers_;
};

template <class T, void (*release)(T *)>
class Owned;

/// The handle of an object that options or parameters may leave out, kept for as long as the call or stream that it was given
/// to. A closed one counts as an error, not as left out.
template <class T, void (*release)(T *)>
Result<std::shared_ptr<T>> optional(const Owned<T, release> *object);

/// An owned handle: moved, not copied. The handle is shared with calls in progress and with streams only, so that an object
/// may be closed in a callback of a call that uses it.
template <class T, void (*release)(T *)>
class Owned {
public:
    Owned(Owned &&) noexcept = default;
    Owned &operator=(Owned &&) noexcept = default;
    Owned(const Owned &) = delete;
    Owned &operator=(const Owned &) = delete;

    /// Gives the object back; closing it twice does nothing. No other thread may use it at that time.
    void close() noexcept {
        handle_.reset();
        host_.reset();
    }
    /// Whether it is neither closed nor moved from.
    explicit operator bool() const noexcept { return handle_ != nullptr; }
    /// The handle for functions of capsulegraph.h; it stays this object's.
    const T *get() const noexcept { return handle_.get(); }

protected:
    Owned() = default;
    ~Owned() = default;

    /// Takes the handle over; the host's loop lives as long as it does.
    void own(T *handle, std::shared_ptr<Host> host = nullptr) {
        host_ = host;
        handle_ = std::shared_ptr<T>(handle, [host](T *owned) { release(owned); });
    }

    /// Calls `work` with the handle.
    template <class R, class W>
    R with(W work) const {
        const std::shared_ptr<T> handle = handle_;
        const std::shared_ptr<Host> host = host_;
        if (!handle) return closed(name_of(handle.get()));
        R result = work(static_cast<const T *>(handle.get()));
        if (host) host->rethrow();
        return result;
    }

    template <class F, class... A>
    Result<void> call(F function, A... arguments) const {
        return with<Result<void>>([&](const T *self) { return detail::call(function, self, arguments...); });
    }
    template <class V, class F, class... A>
    Result<V> ask(F function, A... arguments) const {
        return with<Result<V>>([&](const T *self) { return detail::get<V>(function, self, arguments...); });
    }
    template <class F, class... A>
    Result<std::string> text(F function, A... arguments) const {
        return with<Result<std::string>>([&](const T *self) { return detail::text(function, self, arguments...); });
    }
    template <class F, class... A>
    Result<std::vector<Token>> tokens(F function, A... arguments) const {
        return with<Result<std::vector<Token>>>([&](const T *self) { return detail::tokens(function, self, arguments...); });
    }
    /// A view of a pointer and a length.
    template <class V, class F, class... A>
    Result<V> view(F function, A... arguments) const {
        return with<Result<V>>([&](const T *self) -> Result<V> {
            decltype(std::declval<V>().data()) data = nullptr;
            std::size_t length = 0;
            auto done = detail::call(function, self, arguments..., &data, &length);
            if (!done) return *done.error();
            return V(data, length);
        });
    }

    std::shared_ptr<Host> host_;
    std::shared_ptr<T> handle_;

private:
    friend Result<std::shared_ptr<T>> optional<T, release>(const Owned *object);
};

template <class T, void (*release)(T *)>
Result<std::shared_ptr<T>> optional(const Owned<T, release> *object) {
    if (object && !*object) return closed(name_of(object->get()));
    return object ? object->handle_ : nullptr;
}

/// An options struct of the C API with all defaults.
template <class T>
T options() noexcept {
    T value{};
    value.struct_size = sizeof value;
    return value;
}

} // namespace detail

} // namespace capsulegraph

#endif
