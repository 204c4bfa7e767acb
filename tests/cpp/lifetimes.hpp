// The parts of api.cpp about what outlives what: views of temporaries do not compile, handles live as long as their calls.
#ifndef LIFETIMES_HPP
#define LIFETIMES_HPP

#include "api.hpp"

#include <iterator>

template <class T, class F>
constexpr bool compiles(F) {
    return std::is_invocable_v<F, T>;
}
/// Whether the expression compiles behind an object of this type; of a T that is no reference behind a temporary one.
#define COMPILES(T, ...) \
    compiles<T>([]([[maybe_unused]] auto &&object) \
                    -> decltype(static_cast<void>(static_cast<decltype(object)>(object) __VA_ARGS__)) {})
/// The expression is a view of an object: it compiles behind one that stays, and not behind a temporary one.
#define IS_VIEW_OF(T, ...) \
    static_assert(COMPILES(T &, __VA_ARGS__), "a view of an object that stays"); \
    static_assert(!COMPILES(T, __VA_ARGS__) && !COMPILES(const T, __VA_ARGS__), "a view of an object that is gone")

IS_VIEW_OF(cg::Model, .name());
IS_VIEW_OF(cg::Model, .try_name());
IS_VIEW_OF(cg::Model, .mode_reason());
IS_VIEW_OF(cg::Model, .try_mode_reason());
IS_VIEW_OF(cg::Model, .capsule_id(0));
IS_VIEW_OF(cg::Model, .try_capsule_id(0));
IS_VIEW_OF(cg::Model, .inputs());
IS_VIEW_OF(cg::Model, .try_outputs());
IS_VIEW_OF(cg::Session, .logits());
IS_VIEW_OF(cg::Session, .try_logits());
IS_VIEW_OF(cg::Session, .tokens());
IS_VIEW_OF(cg::Session, .try_tokens());
IS_VIEW_OF(cg::Session, .advance(cg::no_limit));
IS_VIEW_OF(cg::Session, .try_advance(cg::no_limit));
IS_VIEW_OF(cg::Session, .slice());
IS_VIEW_OF(cg::Session, .try_slice());
IS_VIEW_OF(cg::Part, .output());
IS_VIEW_OF(cg::Part, .try_output());
IS_VIEW_OF(cg::Stream, .begin());
IS_VIEW_OF(cg::Stream, .result());
IS_VIEW_OF(cg::Capsule, .tensors());
IS_VIEW_OF(cg::Values, .at(0));
IS_VIEW_OF(cg::Tensor, .shape());
IS_VIEW_OF(cg::Result<cg::Model>, ->inputs());
static_assert(COMPILES(cg::Model, .session()) && COMPILES(cg::Session, .stream("Hello")));

template <class T>
using Strings = decltype(cg::Tensor::strings(std::declval<T>(), {}));
template <class T, class = void>
struct TakesStrings : std::false_type {};
template <class T>
struct TakesStrings<T, std::void_t<Strings<T>>> : std::true_type {};
static_assert(TakesStrings<const std::vector<std::string> &>() && TakesStrings<cg::Span<const std::string>>());
static_assert(!TakesStrings<std::vector<std::string>>() && !TakesStrings<const std::vector<std::string>>());

// Elements by type: characters are no numbers, and their types differ between platforms.
static_assert(cg::element_of<char>() == cg::Element::none && cg::element_of<const wchar_t>() == cg::Element::none);
static_assert(cg::element_of<char16_t>() == cg::Element::none && cg::element_of<char32_t>() == cg::Element::none);
#ifdef __cpp_char8_t
static_assert(cg::element_of<char8_t>() == cg::Element::none);
#endif
static_assert(cg::element_of<signed char>() == cg::Element::int8 && cg::element_of<unsigned char>() == cg::Element::uint8);
static_assert(cg::element_of<std::byte>() == cg::Element::uint8 && cg::element_of<bool>() == cg::Element::boolean);
static_assert(cg::element_of<std::int64_t>() == cg::Element::int64 && cg::element_of<int *>() == cg::Element::none);

// Flags of one function are none of another.
static_assert(!std::is_invocable_v<decltype(&cg::Model::tokenize), cg::Model &, std::string_view, cg::DetokenizeFlags>);
static_assert(!std::is_invocable_v<decltype(&cg::Model::detokenize), cg::Model &, cg::Span<const cg::Token>, cg::TokenizeFlags>);
static_assert(std::is_invocable_v<decltype(&cg::Model::tokenize), cg::Model &, std::string_view, cg::TokenizeFlags>);

/// A stream is an input iterator's range, of C++17 and of C++20.
inline void iterators(const cg::Model &model, const std::string &text) {
#ifdef __cpp_lib_ranges
    static_assert(std::input_iterator<cg::Stream::iterator> && std::ranges::input_range<cg::Stream>);
#endif
    cg::Session session = model.session();
    cg::Stream stream = session.stream("Hello, how are you?", at_most(12));
    std::string pieces;
    auto it = stream.begin();
    CHECK(it != stream.end() && it->size() == (*it).size());
    const std::string_view first = *it++;
    pieces += first;
    if (it != stream.end()) pieces += *it++;
    if (it != stream.end()) pieces += *it;
    // A second begin() goes on.
    const std::vector<std::string> rest(stream.begin(), stream.end());
    for (const std::string &piece : rest) pieces += piece;
    CHECK(pieces == text && rest.size() > 1);
}

/// A stream keeps its cancel token, and goes on after a call that was cancelled.
inline void cancelled_streams(const cg::Model &model, const std::string &text) {
    cg::Session session = model.session();
    std::string pieces;
    const auto made = [&] {
        const cg::Cancel cancel = cg::Cancel::make();
        return session.stream("Hello, how are you?", at_most(12), &cancel);
    };
    for (std::string_view piece : made()) pieces += piece;
    CHECK(pieces == text);

    cg::Cancel cancel = cg::Cancel::make();
    cg::Stream stream = session.stream("Hello, how are you?", at_most(12), &cancel);
    pieces.clear();
    CHECK(throws(cg::Status::cancelled, [&] {
        for (std::string_view piece : stream) {
            pieces += piece;
            cancel.trigger();
        }
    }));
    CHECK(stream.result().status() == cg::Status::cancelled && pieces.size() < text.size());
    CHECK(throws(cg::Status::cancelled, [&] { stream.begin(); }));
    cancel.reset();
    for (std::string_view piece : stream) {
        pieces += piece;
        cancel.close();
    }
    CHECK(pieces == text && stream.result().ok() && stream.finish() == cg::Finish::length);
    CHECK(throws(cg::Status::invalid_argument, [&] { session.stream("Hello", {}, &cancel); }));
}

/// A job's callback closes what the job was given, and throws.
inline void closed_in_progress(const std::string &full) {
    cg::Cancel cancel = cg::Cancel::make();
    cg::Log log = cg::Log::make();
    cg::VerifyOptions options;
    options.deep = true;
    options.job.cancel = &cancel;
    options.job.log = &log;
    options.job.progress = [&](cg::Phase, std::uint64_t, std::uint64_t) {
        cancel.close();
        log.close();
        throw Oops{9};
    };
    CHECK(throws<Oops>([&] { cg::verify(full, options); }) && !cancel && !log);
}

/// No time left over is the shortest slice, not the whole generation.
inline void late_frames(const cg::Model &model) {
    using std::chrono::microseconds;
    cg::Session session = model.session(), other = model.session();
    cg::Group group = cg::Group::make();
    for (const microseconds limit : {microseconds(-1), microseconds(0), microseconds::min()}) {
        session.start("Hello, how are you?", at_most(200));
        CHECK(session.advance(limit).more);
        other.start("Hello, how are you?", at_most(200));
        CHECK(group.advance({&session, &other}, limit) == 2);
    }
    other.start("Hello, how are you?", at_most(200));
    const cg::Slice whole = other.advance(cg::no_limit);
    CHECK(!whole.more && whole.tokens.size() == 200);
}

/// Members of a class that are opened later.
struct Character {
    cg::Model model;
    cg::Session session;
    cg::Capsule capsule;
};

inline void empty_objects(const std::string &path) {
    Character character;
    CHECK(!character.model && !character.session && failed(character.capsule.try_size(), cg::Status::invalid_argument));
    CHECK(failed(character.session.try_complete("Hello"), cg::Status::invalid_argument, "never made"));
    CHECK(failed(character.model.try_session(), cg::Status::invalid_argument, "never made"));
    character.model = cg::Model::open(path);
    character.session = character.model.session();
    CHECK(!character.session.complete("Hello", at_most(2)).empty());
    character.session.close();
    CHECK(failed(character.session.try_complete("Hello"), cg::Status::invalid_argument, "the session is closed"));
}

inline void lifetimes(const std::string &path) {
    const cg::Model model = cg::Model::open(path);
    cg::Session session = model.session();
    // A text is a prompt as its tokens are.
    const auto prompt = model.tokenize("Hello, how are you?", cg::add_special | cg::parse_special);
    const std::string text = session.complete("Hello, how are you?", at_most(12));
    CHECK(text == session.complete(prompt, at_most(12)));
    CHECK(failed(session.try_complete("\xff"), cg::Status::invalid_argument));
    iterators(model, text);
    cancelled_streams(model, text);
    closed_in_progress(path);
    late_frames(model);
    empty_objects(path);
}

#endif
