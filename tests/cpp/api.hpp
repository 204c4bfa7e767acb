// The parts of api.cpp that compute with language models.
#ifndef API_HPP
#define API_HPP

#include "check.hpp"

#include <atomic>
#include <thread>

namespace cg = capsulegraph;

/// An exception of the host.
struct Oops {
    int number;
};

template <class E, class F>
bool throws(F work) {
    try {
        work();
        return false;
    } catch (const E &) {
        return true;
    }
}

/// Whether the work throws an Error of this status.
template <class F>
bool throws(cg::Status status, F work) {
    try {
        work();
    } catch (const cg::Error &error) {
        if (error.status() == status && *error.what()) return true;
        std::fprintf(stderr, "it ended with %s: %s\n", cg::status_name(error.status()), error.what());
    }
    return false;
}

inline cg::GenerateOptions at_most(std::uint64_t tokens) {
    cg::GenerateOptions options;
    options.max_tokens = tokens;
    options.ignore_end = true;
    return options;
}

/// Cancelling loses nothing.
inline void cancelling(cg::Session &session, const std::vector<cg::Token> &prompt, const std::string &text) {
    std::vector<cg::Token> tokens;
    const cg::Cancel cancel = cg::Cancel::make();
    const auto trigger = [&](cg::Token token, std::string_view) {
        tokens.push_back(token);
        if (tokens.size() == 4) cancel.trigger();
    };
    CHECK(throws(cg::Status::cancelled, [&] { session.generate(prompt, trigger, at_most(12), &cancel); }));
    CHECK(throws(cg::Status::cancelled, [&] { session.advance(cg::no_limit, 0, &cancel); }));
    CHECK(throws(cg::Status::cancelled, [&] {
        for (std::string_view piece : session.stream(prompt, at_most(12), &cancel)) CHECK(piece.empty());
    }));
    auto ended = session.try_stream(prompt, at_most(12), &cancel);
    for (std::string_view piece : *ended) CHECK(piece.empty());
    CHECK(failed(ended->result(), cg::Status::cancelled));
    cancel.reset();
    CHECK(!cancel.triggered() && session.complete(prompt, at_most(12), &cancel) == text);
}

inline void ends(const cg::Model &model, cg::Session &session, const std::vector<cg::Token> &prompt) {
    session.reset();
    session.eval(prompt, true);
    const cg::Rows rows = session.logits();
    CHECK(rows.rows == prompt.size() && rows.columns == model.vocab_size() && rows.row(1).size() == rows.columns);
    session.truncate(2);
    CHECK(session.tokens().size() == 2);

    // A stream outlives its session's object, and both forms see an end at the context.
    cg::SessionOptions options;
    options.context = 16;
    options.kv_type = cg::KvType::q8_0;
    auto orphan = cg::Session::make(model, options).stream(prompt, at_most(0));
    for (std::string_view piece : orphan) CHECK(!piece.empty());
    CHECK(orphan.finish() == cg::Finish::context);
}

/// Sessions together.
inline void together(const cg::Model &model, const std::vector<cg::Token> &prompt, const std::string &text) {
    cg::Session one = model.session(), two = model.session();
    cg::Group group = cg::Group::make();
    one.start(prompt, at_most(12));
    two.start(prompt, at_most(12));
    std::string first, second;
    for (std::size_t running = 2; running > 0;) {
        running = group.advance({&one, &two}, cg::no_limit, 2);
        first += one.slice().text;
        second += two.slice().text;
    }
    CHECK(first == text && second == text);
    CHECK(throws(cg::Status::invalid_argument, [&] { group.advance({&one, &one}, cg::no_limit); }));
    CHECK(throws(cg::Status::invalid_argument, [&] { group.advance({nullptr}, cg::no_limit); }));
}

inline void sessions(const std::string &path) {
    using std::chrono::microseconds;
    const cg::Model model = cg::Model::open(path);
    const auto prompt = model.tokenize("Hello, how are you?", cg::add_special);
    cg::Session session = model.session();
    std::vector<cg::Token> tokens;
    std::string text;
    const auto both = [&](cg::Token token, std::string_view piece) {
        tokens.push_back(token);
        text += piece;
    };
    CHECK(session.generate(prompt, both, at_most(12)) == cg::Finish::length && tokens.size() == 12);
    CHECK(session.complete(prompt, at_most(12)) == text && session.report().find("\"mode\"") != std::string::npos);
    CHECK(session.tokens().size() >= prompt.size() && session.context() > 12);

    // As a range, in slices, and with a callable that ends it.
    std::string pieces;
    cg::Stream stream = session.stream(prompt, at_most(12));
    for (std::string_view piece : stream) {
        CHECK(!piece.empty());
        pieces += piece;
    }
    CHECK(pieces == text && stream.finish() == cg::Finish::length && stream.result().ok());
    session.start(prompt, at_most(12));
    cg::Slice slice;
    std::size_t count = 0;
    pieces.clear();
    do {
        slice = session.advance(microseconds(200));
        pieces += slice.text;
        count += slice.tokens.size();
    } while (slice.more);
    CHECK(pieces == text && count == 12 && slice.finish == cg::Finish::length);
    count = 0;
    CHECK(session.generate(prompt, [&](std::string_view) { return ++count < 3; }, at_most(12)) == cg::Finish::callback);
    CHECK(count == 3 && session.advance(cg::no_limit).finish == cg::Finish::length);
    cg::GenerateOptions stopped = at_most(12);
    stopped.stop = {text.substr(0, 1), "never"};
    CHECK(session.generate(prompt, [](std::string_view) {}, stopped) == cg::Finish::stop);

    // An exception of the callable comes out, of both forms, and the session goes on.
    CHECK(throws<Oops>([&] { session.generate(prompt, [](std::string_view) { throw Oops{1}; }, at_most(12)); }));
    CHECK(throws<Oops>([&] {
        (void)session.try_generate(prompt, [](cg::Token, std::string_view) -> bool { throw Oops{2}; }, at_most(12));
    }));
    CHECK(session.complete(prompt, at_most(12)) == text);

    cancelling(session, prompt, text);
    ends(model, session, prompt);
    together(model, prompt, text);
}

inline void parts(const std::string &path) {
    const cg::Model whole = cg::Model::open(path);
    const auto prompt = whole.tokenize("Hello, how are you?", cg::add_special);
    cg::Session session = whole.session();
    session.eval(prompt);
    const auto count = static_cast<std::uint32_t>(whole.capsule_count());
    cg::ModelOptions options;
    options.end_capsule = count / 2;
    cg::Part front = cg::Part::make(cg::Model::open(path, options));
    options.first_capsule = count / 2;
    options.end_capsule = count;
    const cg::Model rear = cg::Model::open(path, options);
    CHECK(failed(rear.try_session(), cg::Status::invalid_argument));
    cg::Part back = cg::Part::make(rear, 64);
    front.eval(prompt);
    CHECK(front.size() == prompt.size() && front.output().columns == whole.embedding_length());
    back.eval(front.output());
    const cg::Rows found = back.output(), wanted = session.logits();
    CHECK(found.rows == 1 && found.columns == wanted.columns);
    CHECK(std::memcmp(found.data.data(), wanted.data.data(), wanted.data.size_bytes()) == 0);
    back.truncate(1);
    CHECK(back.size() == 1 && back.output().rows == 0);
    CHECK(throws(cg::Status::invalid_argument, [&] { back.eval(prompt); }));
    CHECK(throws(cg::Status::invalid_argument, [&] { front.eval(front.output()); }));
    CHECK(failed(back.try_eval(cg::Rows{{}, 3, 5}), cg::Status::invalid_argument, "3 rows of 5"));
}

inline void host_threads(const std::string &path) {
    const auto prompt = cg::Model::open(path).tokenize("Hello, how are you?", cg::add_special);
    const std::string wanted = cg::Model::open(path).session().complete(prompt, at_most(8));
    const auto loops = std::make_shared<std::atomic<int>>(0);
    cg::ModelOptions options;
    options.threads = 2;
    options.parallel_for = [loops](std::uint32_t count, const std::function<void()> &task) {
        ++*loops;
        std::thread other([&] {
            if (count > 1) task();
        });
        task();
        other.join();
    };
    cg::Session session = cg::Model::open(path, options).session(); // the model's object is gone, its loop is not
    options.parallel_for = nullptr;
    CHECK(loops.use_count() > 1 && session.complete(prompt, at_most(8)) == wanted && *loops > 0);
    session.close();
    CHECK(loops.use_count() == 1);

    // An exception of the loop comes out of the call that computed, on its thread.
    const auto armed = std::make_shared<bool>(false);
    options.parallel_for = [armed](std::uint32_t, const std::function<void()> &task) {
        task();
        if (*armed) throw Oops{5};
    };
    const cg::Model model = cg::Model::open(path, options);
    cg::Session other = model.session();
    *armed = true;
    CHECK(throws<Oops>([&] { (void)other.try_eval(prompt); }));
    cg::Group group = cg::Group::make();
    *armed = false;
    other.reset();
    other.start(prompt, at_most(8));
    *armed = true;
    CHECK(throws<Oops>([&] { group.advance({&other}, cg::no_limit, 1); }));
    *armed = false;
    CHECK(other.complete(prompt, at_most(8)) == wanted);
}

/// A call in progress in one thread, and one on the same session in this.
inline void shared_by_threads(const cg::Model &model, const std::vector<cg::Token> &prompt) {
    cg::Session session = model.session();
    std::atomic<bool> computing{false}, leave{false};
    std::thread other([&] {
        session.generate(prompt, [&](std::string_view) {
            computing = true;
            while (!leave) std::this_thread::yield();
            return false;
        });
    });
    while (!computing) std::this_thread::yield();
    const bool busy = throws(cg::Status::busy, [&] { session.advance(cg::no_limit); })
                      && throws(cg::Status::busy, [&] { session.tokens(); })
                      && throws(cg::Status::busy, [&] { session.reset(); });
    leave = true;
    other.join();
    CHECK(busy);
    session.reset();
}

inline void misuse(const std::string &path) {
    cg::Model model = cg::Model::open(path);
    const auto prompt = model.tokenize("Hello", cg::add_special);
    shared_by_threads(model, prompt);
    cg::Session session = model.session();
    // From a callback of its own call: busy; and closing the session there ends nothing before its time.
    CHECK(session.generate(prompt, [&](std::string_view) {
        CHECK(throws(cg::Status::busy, [&] { session.reset(); }));
        return false;
    }) == cg::Finish::callback);
    CHECK(session.generate(prompt, [&](std::string_view) { session.close(); }, at_most(3)) == cg::Finish::length);
    CHECK(!session && session.get() == nullptr);
    session.close();
    CHECK(throws(cg::Status::invalid_argument, [&] { session.complete(prompt); }));
    CHECK(failed(session.try_advance(cg::no_limit), cg::Status::invalid_argument, "the session is closed"));
    CHECK(failed(session.try_stream(prompt), cg::Status::invalid_argument, "the session is closed"));

    // Moved: the new object works, the old one says what it is.
    cg::Session moved = model.session();
    cg::Session target = std::move(moved);
    CHECK(target && !moved && failed(moved.try_report(), cg::Status::invalid_argument, "moved from"));
    target = model.session();
    CHECK(!target.complete(prompt, at_most(2)).empty());
    cg::Group group = cg::Group::make();
    CHECK(failed(group.try_advance({&moved}, cg::no_limit), cg::Status::invalid_argument, "number 0"));

    // A model's sessions and capsules stay usable without it.
    const cg::Capsule capsule = model.fetch("embed");
    model.close();
    model.close();
    CHECK(failed(model.try_name(), cg::Status::invalid_argument) && failed(model.try_session(), cg::Status::invalid_argument));
    CHECK(throws(cg::Status::invalid_argument, [&] { cg::Part::make(model); }));
    CHECK(capsule.size() > 0 && !target.complete(prompt, at_most(2)).empty());

    // Closed things in options are an error, not left out.
    cg::Cancel cancel = cg::Cancel::make();
    cg::Log log = cg::Log::make();
    cg::Budget budget = cg::Budget::make(1 << 26);
    cancel.close();
    log.close();
    budget.close();
    CHECK(throws(cg::Status::invalid_argument, [&] { target.complete(prompt, {}, &cancel); }));
    CHECK(failed(cancel.try_trigger(), cg::Status::invalid_argument, "the cancel token is closed"));
    cg::ModelOptions options;
    options.log = &log;
    CHECK(failed(cg::Model::try_open(path, options), cg::Status::invalid_argument, "log"));
    options.log = nullptr;
    options.budget = &budget;
    CHECK(failed(cg::Model::try_open(path, options), cg::Status::invalid_argument, "budget"));
    CHECK(failed(target.try_eval({}), cg::Status::invalid_argument));
    const auto result = cg::Model::try_open("absent.cgraph");
    CHECK(throws(cg::Status::io, [&] { result.value(); }) && throws(cg::Status::io, [&] { (void)result->get(); }));
}

#endif
