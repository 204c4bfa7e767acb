/// Capsules taken out of a model.
#ifndef CAPSULEGRAPH_CAPSULE_HPP
#define CAPSULEGRAPH_CAPSULE_HPP

#include "handle.hpp"

namespace capsulegraph {

class Model;

/// The form in which a capsule's tensors come.
enum class Layout : std::uint32_t {
    source = CAPG_LAYOUT_SOURCE,
    stored = CAPG_LAYOUT_STORED,
    f32 = CAPG_LAYOUT_F32,
};

/// A tensor of a capsule: a view of the capsule.
class Weight {
public:
    std::string_view name() const noexcept { return {raw_.name, raw_.name_len}; }
    /// How the elements are stored: "f32", "f16", "q4_k", ...
    std::string_view encoding() const noexcept { return {raw_.encoding, raw_.encoding_len}; }
    /// How rows are arranged: "rows", "packed8", or "plain".
    std::string_view layout() const noexcept { return {raw_.layout, raw_.layout_len}; }
    /// Extents in elements, outermost first.
    Span<const std::uint64_t> shape() const noexcept { return {raw_.shape, raw_.dimensions}; }
    /// Little-endian, of any alignment.
    Span<const std::byte> bytes() const noexcept { return {static_cast<const std::byte *>(raw_.data), raw_.data_len}; }

    /// The elements as floats, where the encoding is "f32".
    Result<Span<const float>> try_floats() const {
        if (encoding() != "f32" && encoding() != "float32")
            return Error(Status::invalid_argument, "tensor \"" + std::string(name()) + "\" is stored as "
                                                       + std::string(encoding()) + ", not as f32: fetch the capsule with Layout::f32");
        if (reinterpret_cast<std::uintptr_t>(raw_.data) % alignof(float) != 0)
            return Error(Status::unsupported, "tensor \"" + std::string(name()) + "\" lies at an address that no float may have: "
                                                                                  "copy its bytes");
        return Span<const float>(static_cast<const float *>(raw_.data), raw_.data_len / sizeof(float));
    }
#if CAPSULEGRAPH_EXCEPTIONS
    Span<const float> floats() const { return try_floats().value(); }
#endif

private:
    friend class Capsule;
    explicit Weight(const capg_tensor_view &raw) noexcept : raw_(raw) {}
    capg_tensor_view raw_;
};

/// A capsule's tensors. It never changes and keeps its model in memory.
class Capsule : public detail::Owned<capg_capsule, capg_capsule_free> {
public:
    /// Closed, until another one is moved into it.
    Capsule() = default;

    /// "full", "pinned", "light" or "nested". A view of the capsule.
    Result<std::string_view> try_precision() const & { return view<std::string_view>(capg_capsule_precision); }
    /// Number of tensors.
    Result<std::size_t> try_size() const { return ask<std::size_t>(capg_capsule_tensor_count); }
    /// Tensor number `index`, in the order of use.
    Result<Weight> try_tensor(std::size_t index) const & {
        return with<Result<Weight>>([&](const capg_capsule *self) -> Result<Weight> {
            auto raw = detail::options<capg_tensor_view>();
            auto done = detail::call(capg_capsule_tensor, self, index, &raw);
            if (!done) return *done.error();
            return Weight(raw);
        });
    }
    /// All tensors, in the order of use.
    Result<std::vector<Weight>> try_tensors() const & {
        auto count = try_size();
        if (!count) return *count.error();
        std::vector<Weight> all;
        for (std::size_t i = 0; i < *count; i++) {
            auto weight = try_tensor(i);
            if (!weight) return *weight.error();
            all.push_back(*weight);
        }
        return all;
    }
    /// The tensor of this name.
    Result<Weight> try_tensor(std::string_view name) const & {
        auto all = try_tensors();
        if (!all) return *all.error();
        for (const Weight &weight : *all)
            if (weight.name() == name) return weight;
        return Error(Status::not_found, "the capsule has no tensor \"" + std::string(name) + "\"");
    }
    // Views of an object that is gone at the end of the expression.
    Result<std::string_view> try_precision() const && = delete;
    Result<Weight> try_tensor(std::size_t) const && = delete;
    Result<Weight> try_tensor(std::string_view) const && = delete;
    Result<std::vector<Weight>> try_tensors() const && = delete;
#if CAPSULEGRAPH_EXCEPTIONS
    std::string_view precision() const & { return try_precision().value(); }
    std::size_t size() const { return try_size().value(); }
    Weight tensor(std::size_t index) const & { return try_tensor(index).value(); }
    Weight tensor(std::string_view name) const & { return try_tensor(name).value(); }
    std::vector<Weight> tensors() const & { return try_tensors().value(); }
    std::string_view precision() const && = delete;
    Weight tensor(std::size_t) const && = delete;
    Weight tensor(std::string_view) const && = delete;
    std::vector<Weight> tensors() const && = delete;
#endif

private:
    friend class Model;
    friend class Fetch;

    static Result<Capsule> take(Result<capg_capsule *> made, std::shared_ptr<detail::Host> host) {
        if (!made) return *made.error();
        Capsule capsule;
        capsule.own(*made, std::move(host));
        return capsule;
    }
};

/// Capsules on their way. Destroying it gives up those that have not come.
class Fetch : public detail::Owned<capg_fetch, capg_fetch_free> {
public:
    /// Closed, until another one is moved into it.
    Fetch() = default;

    /// How many have come by now; a failure counts as one. Never waits.
    Result<std::size_t> try_poll() const { return ask<std::size_t>(capg_fetch_poll); }
    /// Takes capsule number `index` of those that were asked for; once. Status::busy where it has not come.
    Result<Capsule> try_take(std::size_t index) const {
        return Capsule::take(ask<capg_capsule *>(capg_fetch_take, index), host_);
    }
#if CAPSULEGRAPH_EXCEPTIONS
    std::size_t poll() const { return try_poll().value(); }
    Capsule take(std::size_t index) const { return try_take(index).value(); }
#endif

private:
    friend class Model;
};

} // namespace capsulegraph

#endif
