/// Statuses, errors, results and spans.
#ifndef CAPSULEGRAPH_RESULT_HPP
#define CAPSULEGRAPH_RESULT_HPP

#include <capsulegraph.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#if __cplusplus >= 202002L || (defined(_MSVC_LANG) && _MSVC_LANG >= 202002L)
#include <version>
#endif
#ifdef __cpp_lib_span
#include <span>
#endif

/// 1 where functions that throw are declared; a program may define it as 0 itself.
#ifndef CAPSULEGRAPH_EXCEPTIONS
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define CAPSULEGRAPH_EXCEPTIONS 1
#else
#define CAPSULEGRAPH_EXCEPTIONS 0
#endif
#endif

namespace capsulegraph {

/// How a call ended. Expect numbers that are not named here and treat them as failures.
enum class Status : std::uint32_t {
    ok = CAPG_OK,
    invalid_argument = CAPG_ERROR_INVALID_ARGUMENT,
    unsupported = CAPG_ERROR_UNSUPPORTED,
    io = CAPG_ERROR_IO,
    malformed = CAPG_ERROR_MALFORMED,
    mismatch = CAPG_ERROR_MISMATCH,
    corrupt = CAPG_ERROR_CORRUPT,
    not_found = CAPG_ERROR_NOT_FOUND,
    limit = CAPG_ERROR_LIMIT,
    cancelled = CAPG_ERROR_CANCELLED,
    host = CAPG_ERROR_HOST,
    busy = CAPG_ERROR_BUSY,
    internal = CAPG_ERROR_INTERNAL,
};

/// The name of a status: "ok", "invalid_argument", ...; "unknown" for a number that the library does not have.
inline const char *status_name(Status status) noexcept {
    return capg_status_name(static_cast<capg_status>(status));
}

/// The library's release, such as "0.1.0".
inline const char *version() noexcept { return capg_version_string(); }

/// Why a call failed. what() is one line for a person: what failed, where, why, what to do.
class Error : public std::runtime_error {
public:
    Error(Status status, const std::string &message) : std::runtime_error(message), status_(status) {}

    /// Never Status::ok.
    Status status() const noexcept { return status_; }

private:
    Status status_;
};

/// What a call gave, or why it gave nothing. Asking for a value that is not there throws the Error; in a program without
/// exceptions it prints the message and aborts.
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : held_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : held_(std::in_place_index<1>, std::move(error)) {}

    bool ok() const noexcept { return held_.index() == 0; }
    explicit operator bool() const noexcept { return ok(); }
    Status status() const noexcept { return ok() ? Status::ok : std::get_if<1>(&held_)->status(); }
    /// The message, "" where there is a value.
    const char *message() const noexcept { return ok() ? "" : std::get_if<1>(&held_)->what(); }
    /// The error; NULL where there is a value.
    const Error *error() const noexcept { return std::get_if<1>(&held_); }

    T &value() & { return need(), *std::get_if<0>(&held_); }
    const T &value() const & { return need(), *std::get_if<0>(&held_); }
    T value() && { return need(), std::move(*std::get_if<0>(&held_)); }
    T &operator*() & { return value(); }
    const T &operator*() const & { return value(); }
    T operator*() && { return std::move(*this).value(); }
    T *operator->() & { return &value(); }
    const T *operator->() const & { return &value(); }
    // The value would be gone at the end of the expression, and with it what its views are of: name the Result first.
    const T *operator->() const && = delete;

private:
    void need() const;

    std::variant<T, Error> held_;
};

/// Whether a call that gives nothing worked.
template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : held_(std::in_place_index<1>, std::move(error)) {}

    bool ok() const noexcept { return held_.index() == 0; }
    explicit operator bool() const noexcept { return ok(); }
    Status status() const noexcept { return ok() ? Status::ok : std::get_if<1>(&held_)->status(); }
    const char *message() const noexcept { return ok() ? "" : std::get_if<1>(&held_)->what(); }
    const Error *error() const noexcept { return std::get_if<1>(&held_); }
    void value() const;

private:
    std::variant<std::monostate, Error> held_;
};

namespace detail {

[[noreturn]] inline void fail(const Error &error) {
#if CAPSULEGRAPH_EXCEPTIONS
    throw error;
#else
    std::fprintf(stderr, "capsulegraph: the value of a failed call was used: %s\n", error.what());
    std::abort();
#endif
}

} // namespace detail

template <class T>
void Result<T>::need() const {
    if (const Error *failed = error()) detail::fail(*failed);
}

inline void Result<void>::value() const {
    if (const Error *failed = error()) detail::fail(*failed);
}

#ifdef __cpp_lib_span
/// A view of elements that follow each other in memory.
template <class T>
using Span = std::span<T>;
#else
/// A view of elements that follow each other in memory; std::span where there is that.
template <class T>
class Span {
public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;

    constexpr Span() noexcept = default;
    constexpr Span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <std::size_t N>
    constexpr Span(T (&array)[N]) noexcept : data_(array), size_(N) {}
    /// Of a vector, an array, a string, another span: whatever has data() and size().
    template <class C, class = std::enable_if_t<
                           !std::is_same_v<std::decay_t<C>, Span>
                           && (std::is_lvalue_reference_v<C &&> || std::is_const_v<T>)
                           && std::is_convertible_v<
                               std::remove_pointer_t<decltype(std::declval<C &>().data())> (*)[], T (*)[]>
                           && std::is_convertible_v<decltype(std::declval<C &>().size()), std::size_t>>>
    constexpr Span(C &&container) noexcept : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T &operator[](std::size_t index) const noexcept { return data_[index]; }
    constexpr T &front() const noexcept { return data_[0]; }
    constexpr T &back() const noexcept { return data_[size_ - 1]; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr Span subspan(std::size_t offset, std::size_t count) const noexcept { return {data_ + offset, count}; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/// A token of a model's vocabulary.
using Token = std::uint32_t;

/// A std::filesystem::path as the functions here take paths: UTF-8, on Windows too.
template <class P>
std::string utf8(const P &path) {
    const auto text = path.u8string(); // std::string in C++17, std::u8string later
    return {reinterpret_cast<const char *>(text.data()), text.size()};
}

} // namespace capsulegraph

#endif
