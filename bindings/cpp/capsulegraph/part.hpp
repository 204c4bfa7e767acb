/// Parts: some of a model's capsules, where several processes share the work.
#ifndef CAPSULEGRAPH_PART_HPP
#define CAPSULEGRAPH_PART_HPP

#include "model.hpp"

namespace capsulegraph {

/// A sequence on the capsules that a model was opened for. One call at a time.
class Part : public detail::Owned<capg_part, capg_part_free> {
public:
    /// Closed, until another one is moved into it.
    Part() = default;

    /// `context`: positions; 0: the model's own context, at most 4096. Both the same in every part.
    static Result<Part> try_make(const Model &model, std::uint32_t context = 0, KvType kv_type = KvType::f16) {
        auto raw = detail::options<capg_part_options>();
        raw.context = context;
        raw.kv_type = static_cast<std::uint32_t>(kv_type);
        auto made = model.ask<capg_part *>(capg_part_new, static_cast<const capg_part_options *>(&raw));
        if (!made) return *made.error();
        Part part;
        part.own(*made, model.host_);
        return part;
    }
    /// Appends tokens, of the part that begins with capsule 0.
    Result<void> try_eval(Span<const Token> tokens, bool all_logits = false, const Cancel *cancel = nullptr) {
        const auto flag = detail::optional(cancel);
        if (!flag) return *flag.error();
        return call(capg_part_eval, tokens.data(), tokens.size(), flags(all_logits),
                    static_cast<const capg_cancel *>(flag->get()));
    }
    /// Appends what the part before gave, of any other part. The output of another part may be handed in as it is.
    Result<void> try_eval(const Rows &activations, bool all_logits = false, const Cancel *cancel = nullptr) {
        const auto flag = detail::optional(cancel);
        if (!flag) return *flag.error();
        const std::size_t rows = activations.rows, columns = activations.columns;
        if (activations.data.size() != rows * columns)
            return Error(Status::invalid_argument, std::to_string(activations.data.size()) + " activations are not "
                                                       + std::to_string(rows) + " rows of " + std::to_string(columns));
        return call(capg_part_eval_activations, activations.data.data(), rows, columns, flags(all_logits),
                    static_cast<const capg_cancel *>(flag->get()));
    }
    /// What the last evaluation gave: logits of the part that has the head, else activations for the part behind.
    Result<Rows> try_output() const & {
        const float *data = nullptr;
        std::size_t rows = 0;
        auto columns = ask<std::size_t>(capg_part_output, &data, &rows);
        if (!columns) return *columns.error();
        return Rows{{data, rows * *columns}, rows, *columns};
    }
    Result<Rows> try_output() const && = delete;
    /// Positions that were evaluated.
    Result<std::size_t> try_size() const { return ask<std::size_t>(capg_part_len); }
    /// Forgets every position from `count` on, and the output.
    Result<void> try_truncate(std::size_t count) { return call(capg_part_truncate, count); }
#if CAPSULEGRAPH_EXCEPTIONS
    static Part make(const Model &model, std::uint32_t context = 0, KvType kv_type = KvType::f16) {
        return try_make(model, context, kv_type).value();
    }
    void eval(Span<const Token> tokens, bool all_logits = false, const Cancel *cancel = nullptr) {
        try_eval(tokens, all_logits, cancel).value();
    }
    void eval(const Rows &activations, bool all_logits = false, const Cancel *cancel = nullptr) {
        try_eval(activations, all_logits, cancel).value();
    }
    Rows output() const & { return try_output().value(); }
    Rows output() const && = delete;
    std::size_t size() const { return try_size().value(); }
    void truncate(std::size_t count) { try_truncate(count).value(); }
#endif

private:
    static std::uint32_t flags(bool all_logits) noexcept { return all_logits ? CAPG_EVAL_ALL_LOGITS : 0; }
};

} // namespace capsulegraph

#endif
