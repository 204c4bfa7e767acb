// A game that talks: 60 frames a second, of each at most 4 ms for the model, and no thread but this one.
//
//     g++ -std=c++17 -I include game_loop.cpp -L lib -lcapsulegraph -Wl,-rpath,'$ORIGIN/lib' -o game_loop
//     ./game_loop model.cgraph [QUESTION [TOKENS [MILLISECONDS]]]
//
// The text appears as it comes; at the end there are histograms of what the slices took, and of the frames. 0 milliseconds:
// the whole answer in one slice, to see what that would do to a frame.
#include <capsulegraph.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <thread>

using std::chrono::microseconds;
using Clock = std::chrono::steady_clock;

constexpr microseconds FRAME{16667};
/// How late a slice may come back: a piece of work inside a capsule (docs/c-api.md).
constexpr microseconds LATE{1000};

/// Times in classes of one width; the last class has what is longer.
class Histogram {
public:
    explicit Histogram(microseconds width) : width_(width) {}

    void add(microseconds time) {
        const auto index = static_cast<std::size_t>(time / width_);
        classes_[std::min(index, classes_.size() - 1)]++;
        longest_ = std::max(longest_, time);
        count_++;
    }
    void print() const {
        const std::size_t most = *std::max_element(classes_.begin(), classes_.end());
        for (std::size_t i = 0; i < classes_.size(); i++) {
            if (classes_[i] == 0) continue;
            const std::string bar((classes_[i] * 50 + most - 1) / most, '#');
            std::printf("  from %5.1f ms %6zu %s\n", milliseconds(width_ * static_cast<long>(i)), classes_[i], bar.c_str());
        }
        std::printf("  longest %.1f ms of %zu\n", milliseconds(longest_), count_);
    }
    static double milliseconds(microseconds time) { return static_cast<double>(time.count()) / 1000; }

private:
    microseconds width_;
    std::array<std::size_t, 32> classes_{};
    microseconds longest_{0};
    std::size_t count_ = 0;
};

/// Processor time of this program, which other programs do not make longer.
static microseconds processor_time() {
    return microseconds(static_cast<long long>(std::clock()) * 1000000 / CLOCKS_PER_SEC);
}

/// What a game does in a frame besides: here it sleeps until the next one is due.
static void rest_of_the_frame(Clock::time_point due) { std::this_thread::sleep_until(due); }

static void play(const std::string &path, const std::string &question, std::uint64_t tokens, microseconds budget) {
    capsulegraph::ModelOptions how;
    how.threads = 1; // the game's other threads have the other processors
    const auto model = capsulegraph::Model::open(path, how);
    auto session = model.session();
    capsulegraph::GenerateOptions options;
    options.max_tokens = tokens;
    session.start(model.chat_tokens({{"user", question}}), options);

    Histogram slices(microseconds(500)), frames(microseconds(1000));
    std::size_t held = 0, count = 0;
    bool talking = true;
    for (auto begin = Clock::now(); talking;) {
        const auto computed = processor_time();
        const auto slice = session.advance(budget.count() == 0 ? capsulegraph::no_limit : budget);
        const microseconds took = processor_time() - computed;
        std::cout << slice.text << std::flush;
        talking = slice.more;
        held += budget.count() == 0 || took <= budget + LATE;
        count++;
        slices.add(took);

        rest_of_the_frame(begin + FRAME);
        const auto end = Clock::now();
        frames.add(std::chrono::duration_cast<microseconds>(end - begin));
        begin = end;
    }
    std::printf("\n--- %zu frames of 16.7 ms, slices of %.1f ms; %zu held the budget\n", count,
                Histogram::milliseconds(budget), held);
    std::printf("compute of a slice\n");
    slices.print();
    std::printf("frame\n");
    frames.print();
}

int main(int argc, char **argv) try {
    const std::string path = argc > 1 ? argv[1] : "model.cgraph";
    const std::string question = argc > 2 ? argv[2] : "What is the capital of Japan?";
    const std::uint64_t tokens = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 60;
    const double milliseconds = argc > 4 ? std::strtod(argv[4], nullptr) : 4;
    play(path, question, tokens, microseconds(static_cast<long>(milliseconds * 1000)));
} catch (const capsulegraph::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
