// The table of cases (tests/data/cases.txt): its text.
#ifndef CASES_HPP
#define CASES_HPP

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

/// A case of the table that cannot be read, or that did not do what the table says.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Case {
    std::string name;
    std::vector<std::pair<std::string, std::string>> lines;

    bool has(const std::string &key) const {
        return std::any_of(lines.begin(), lines.end(), [&](const auto &line) { return line.first == key; });
    }
    /// Every value of a key, in order.
    std::vector<std::string> all(const std::string &key) const {
        std::vector<std::string> values;
        for (const auto &[other, value] : lines)
            if (other == key) values.push_back(value);
        return values;
    }
    /// The value of a key, or "".
    std::string maybe(const std::string &key) const {
        const auto values = all(key);
        return values.empty() ? std::string() : values[0];
    }
    std::string need(const std::string &key) const {
        if (!has(key)) throw Failure("key " + key + " is missing");
        return maybe(key);
    }
    /// A number; 0 where the key is missing.
    std::uint64_t number(const std::string &key) const { return has(key) ? std::stoull(maybe(key)) : 0; }
    /// Refuses keys that are not known, and those that say one thing only and are there twice: which of them would count?
    void only(std::vector<std::string> known) const {
        static const std::vector<std::string> many = {"message", "input", "output"};
        known.insert(known.end(), {"do", "expect", "message"});
        for (const auto &line : lines) {
            if (std::find(known.begin(), known.end(), line.first) == known.end())
                throw Failure("this runner does not know the key " + line.first);
            if (all(line.first).size() > 1 && std::find(many.begin(), many.end(), line.first) == many.end())
                throw Failure("the key " + line.first + " is there more than once");
        }
    }
};

inline std::vector<std::string> words(const std::string &text, char separator) {
    std::vector<std::string> all;
    std::string word;
    std::istringstream in(text);
    while (std::getline(in, word, separator)) all.push_back(word);
    if (!text.empty() && text.back() == separator) all.emplace_back();
    return all;
}

/// Undoes \n and \\ and puts the places in that {names} stand for.
inline std::string value_of(const std::string &text, const std::vector<std::pair<std::string, std::string>> &places) {
    std::string value;
    for (std::size_t i = 0; i < text.size(); i++) {
        if (text[i] != '\\') {
            value += text[i];
            continue;
        }
        if (++i == text.size() || (text[i] != 'n' && text[i] != '\\')) throw Failure("a value has a wrong escape: " + text);
        value += text[i] == 'n' ? '\n' : '\\';
    }
    for (const auto &[name, place] : places)
        for (std::size_t at; (at = value.find(name)) != std::string::npos;) value.replace(at, name.size(), place);
    return value;
}

/// Places: what {model} and {onnx} stand for.
inline std::vector<Case> read_cases(const std::string &path, const std::vector<std::pair<std::string, std::string>> &places) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw Failure("cannot read " + path);
    std::vector<Case> cases;
    std::string line;
    for (bool open = false; std::getline(in, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (line.empty()) open = false;
        if (line.empty() || line[0] == '#') continue;
        const std::size_t space = std::min(line.find(' '), line.size());
        const std::string key = line.substr(0, space);
        const std::string value = value_of(line.substr(std::min(space + 1, line.size())), places);
        if (key == "case") {
            cases.push_back({value, {}});
            open = true;
        } else if (open) {
            cases.back().lines.emplace_back(key, value);
        } else {
            throw Failure("a line stands outside of a case: " + line);
        }
    }
    return cases;
}

#endif
