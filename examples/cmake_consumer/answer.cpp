// Answers a question: answer MODEL.cgraph [QUESTION].
#include <capsulegraph.hpp>

#include <iostream>

int main(int argc, char **argv) try {
    const auto model = capsulegraph::Model::open(argc > 1 ? argv[1] : "model.cgraph");
    auto session = model.session();
    capsulegraph::GenerateOptions options;
    options.max_tokens = 100;
    const auto question = model.chat_tokens({{"user", argc > 2 ? argv[2] : "What is the capital of Japan?"}});
    for (std::string_view text : session.stream(question, options)) std::cout << text << std::flush;
    std::cout << '\n';
} catch (const capsulegraph::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
