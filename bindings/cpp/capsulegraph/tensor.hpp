/// Tensors that go into and come out of ONNX models.
#ifndef CAPSULEGRAPH_TENSOR_HPP
#define CAPSULEGRAPH_TENSOR_HPP

#include "handle.hpp"

namespace capsulegraph {

class Model;

/// Type of a tensor's elements. Those below 8 bits share bytes, the first in the low bits.
enum class Element : std::uint32_t {
    none = CAPG_ELEMENT_NONE,
    float32 = CAPG_ELEMENT_FLOAT32,
    uint8 = CAPG_ELEMENT_UINT8,
    int8 = CAPG_ELEMENT_INT8,
    uint16 = CAPG_ELEMENT_UINT16,
    int16 = CAPG_ELEMENT_INT16,
    int32 = CAPG_ELEMENT_INT32,
    int64 = CAPG_ELEMENT_INT64,
    string = CAPG_ELEMENT_STRING,
    boolean = CAPG_ELEMENT_BOOL,
    float16 = CAPG_ELEMENT_FLOAT16,
    float64 = CAPG_ELEMENT_FLOAT64,
    uint32 = CAPG_ELEMENT_UINT32,
    uint64 = CAPG_ELEMENT_UINT64,
    complex64 = CAPG_ELEMENT_COMPLEX64,
    complex128 = CAPG_ELEMENT_COMPLEX128,
    bfloat16 = CAPG_ELEMENT_BFLOAT16,
    float8e4m3fn = CAPG_ELEMENT_FLOAT8E4M3FN,
    float8e4m3fnuz = CAPG_ELEMENT_FLOAT8E4M3FNUZ,
    float8e5m2 = CAPG_ELEMENT_FLOAT8E5M2,
    float8e5m2fnuz = CAPG_ELEMENT_FLOAT8E5M2FNUZ,
    uint4 = CAPG_ELEMENT_UINT4,
    int4 = CAPG_ELEMENT_INT4,
    float4e2m1 = CAPG_ELEMENT_FLOAT4E2M1,
    float8e8m0 = CAPG_ELEMENT_FLOAT8E8M0,
    uint2 = CAPG_ELEMENT_UINT2,
    int2 = CAPG_ELEMENT_INT2,
};

/// What a value is made of. Of a port `none` is an optional value.
enum class Kind : std::uint32_t {
    tensor = CAPG_VALUE_TENSOR,
    sequence = CAPG_VALUE_SEQUENCE,
    none = CAPG_VALUE_NONE,
    map = CAPG_VALUE_MAP,
    sequence_of_maps = CAPG_VALUE_SEQUENCE_OF_MAPS,
    sparse = CAPG_VALUE_SPARSE,
};

namespace detail {

template <class C>
struct IsSpan : std::false_type {};
template <class T>
struct IsSpan<Span<T>> : std::true_type {};

#ifdef __cpp_char8_t
template <class V>
inline constexpr bool is_char8 = std::is_same_v<V, char8_t>;
#else
template <class V>
inline constexpr bool is_char8 = false;
#endif

/// Integers but for those that stand for characters, whose sign or size is the platform's.
template <class V>
inline constexpr bool is_integer = std::is_integral_v<V> && !std::is_same_v<V, char> && !std::is_same_v<V, wchar_t>
                                   && !std::is_same_v<V, char16_t> && !std::is_same_v<V, char32_t> && !is_char8<V>;

} // namespace detail

/// The name of an element type: "float32", "int8", "bool", ...; "unknown" for a number that this header does not have.
constexpr const char *element_name(Element element) noexcept {
    // By the numbers of CAPG_ELEMENT_*.
    constexpr const char *names[] = {
        "none",   "float32",  "uint8",    "int8",         "uint16",         "int16",      "int32",          "int64", "string",
        "bool",   "float16",  "float64",  "uint32",       "uint64",         "complex64",  "complex128",     "bfloat16",
        "float8e4m3fn", "float8e4m3fnuz", "float8e5m2",   "float8e5m2fnuz", "uint4",      "int4",           "float4e2m1",
        "float8e8m0",   "uint2",          "int2"};
    static_assert(sizeof names / sizeof *names == CAPG_ELEMENT_INT2 + 1);
    const auto number = static_cast<std::uint32_t>(element);
    return number < sizeof names / sizeof *names ? names[number] : "unknown";
}

/// The element type of a C++ type; none where it has no counterpart. Characters are no numbers: of the types of one byte signed
/// char, unsigned char and std::byte are.
template <class T>
constexpr Element element_of() noexcept {
    using V = std::remove_cv_t<T>;
    if constexpr (std::is_same_v<V, bool>) {
        return Element::boolean;
    } else if constexpr (std::is_same_v<V, float>) {
        return Element::float32;
    } else if constexpr (std::is_same_v<V, double>) {
        return Element::float64;
    } else if constexpr (std::is_same_v<V, std::byte>) {
        return Element::uint8;
    } else if constexpr (detail::is_integer<V>) {
        constexpr bool is_signed = std::is_signed_v<V>;
        if constexpr (sizeof(V) == 1) return is_signed ? Element::int8 : Element::uint8;
        else if constexpr (sizeof(V) == 2) return is_signed ? Element::int16 : Element::uint16;
        else if constexpr (sizeof(V) == 4) return is_signed ? Element::int32 : Element::uint32;
        else if constexpr (sizeof(V) == 8) return is_signed ? Element::int64 : Element::uint64;
        else return Element::none;
    } else {
        return Element::none;
    }
}

/// A tensor for an input: elements that stay where they are, and must while the model runs; the extents are its own.
class Tensor {
public:
    /// Of a vector, an array, a span of numbers. bool elements: any array but std::vector<bool>.
    template <class C>
    static Tensor of(const C &elements, std::vector<std::int64_t> shape) {
        using T = std::remove_cv_t<std::remove_pointer_t<decltype(elements.data())>>;
        static_assert(element_of<T>() != Element::none, "no element type is this C++ type: use Tensor::raw");
        return raw(element_of<T>(), elements.data(), elements.size() * sizeof(T), std::move(shape));
    }
    template <class T, std::size_t N>
    static Tensor of(const T (&elements)[N], std::vector<std::int64_t> shape) {
        return of(Span<const T>(elements), std::move(shape));
    }
    /// A single element.
    template <class T>
    static Tensor scalar(const T &element) {
        return of(Span<const T>(&element, 1), {});
    }
    // The elements would be gone before the run.
    template <class C, class = std::enable_if_t<!detail::IsSpan<C>::value>>
    static Tensor of(const C &&, std::vector<std::int64_t>) = delete;
    template <class C, class = std::enable_if_t<!detail::IsSpan<C>::value>>
    static Tensor strings(const C &&, std::vector<std::int64_t>) = delete;
    template <class T>
    static Tensor scalar(const T &&) = delete;
    /// Of any element type.
    static Tensor raw(Element element, const void *data, std::size_t bytes, std::vector<std::int64_t> shape) {
        Tensor tensor;
        tensor.element_ = element;
        tensor.data_ = data;
        tensor.length_ = bytes;
        tensor.shape_ = std::move(shape);
        return tensor;
    }
    /// Of strings: whatever std::string_view can be made of. They stay where they are too.
    template <class C>
    static Tensor strings(const C &elements, std::vector<std::int64_t> shape) {
        Tensor tensor;
        tensor.element_ = Element::string;
        tensor.shape_ = std::move(shape);
        for (const std::string_view element : elements) tensor.strings_.push_back({element.data(), element.size()});
        return tensor;
    }

    Element element() const noexcept { return element_; }
    const std::vector<std::int64_t> &shape() const & noexcept { return shape_; }
    const std::vector<std::int64_t> &shape() const && = delete;

private:
    friend class Model;

    /// Valid until this is changed or gone.
    capg_tensor view() const noexcept {
        capg_tensor raw{};
        const bool texts = element_ == Element::string && data_ == nullptr;
        raw.data = texts ? static_cast<const void *>(strings_.data()) : data_;
        raw.data_len = texts ? strings_.size() : length_;
        raw.dims = shape_.data();
        raw.rank = shape_.size();
        raw.element = static_cast<std::uint32_t>(element_);
        return raw;
    }

    Tensor() = default;
    Element element_ = Element::none;
    const void *data_ = nullptr;
    std::size_t length_ = 0;
    std::vector<std::int64_t> shape_;
    std::vector<capg_string> strings_;
};

/// A value for an input, under its name.
class Input {
public:
    Input(std::string_view name, Tensor tensor) : Input(name, Kind::tensor, Element::none, {}) {
        tensors_.push_back(std::move(tensor));
    }
    /// `element`: of an empty sequence, whose type cannot be seen.
    static Input sequence(std::string_view name, std::vector<Tensor> tensors, Element element = Element::none) {
        return Input(name, Kind::sequence, element, std::move(tensors));
    }
    static Input map(std::string_view name, Tensor keys, Tensor values) {
        return Input(name, Kind::map, Element::none, {std::move(keys), std::move(values)});
    }
    /// Keys and values of each map in turn.
    static Input maps(std::string_view name, std::vector<Tensor> tensors, Element element = Element::none) {
        return Input(name, Kind::sequence_of_maps, element, std::move(tensors));
    }
    /// An optional value that is absent.
    static Input none(std::string_view name) { return Input(name, Kind::none, Element::none, {}); }

private:
    friend class Model;
    Input(std::string_view name, Kind kind, Element element, std::vector<Tensor> tensors)
        : name_(name), kind_(kind), element_(element), tensors_(std::move(tensors)) {}

    std::string name_;
    Kind kind_;
    Element element_;
    std::vector<Tensor> tensors_;
};

/// A tensor that a run gave: a view of the Values.
class TensorView {
public:
    Element element() const noexcept { return static_cast<Element>(raw_.element); }
    /// Extents, outermost first.
    Span<const std::int64_t> shape() const noexcept {
        return {raw_.rank == 0 ? nullptr : raw_.dims, raw_.rank};
    }
    /// The elements, little-endian; of strings nothing.
    Span<const std::byte> bytes() const noexcept {
        if (element() == Element::string || raw_.data_len == 0) return {};
        return {static_cast<const std::byte *>(raw_.data), raw_.data_len};
    }
    /// The elements, where they are of this type.
    template <class T>
    Result<Span<const T>> try_span() const {
        static_assert(element_of<T>() != Element::none, "no element type is this C++ type: use bytes()");
        if (element() != element_of<T>())
            return Error(Status::invalid_argument,
                         std::string("the tensor has elements of type ") + element_name(element()) + ", not "
                             + element_name(element_of<T>()) + ": ask element() first");
        if (raw_.data_len == 0) return Span<const T>();
        return Span<const T>(static_cast<const T *>(raw_.data), raw_.data_len / sizeof(T));
    }
    /// The elements of a tensor of strings.
    Result<std::vector<std::string_view>> try_strings() const {
        if (element() != Element::string)
            return Error(Status::invalid_argument, std::string("the tensor has elements of type ") + element_name(element())
                                                       + ", not string: ask element() first");
        const auto *strings = static_cast<const capg_string *>(raw_.data);
        std::vector<std::string_view> all;
        for (std::size_t i = 0; i < raw_.data_len; i++) all.emplace_back(strings[i].data, strings[i].len);
        return all;
    }
#if CAPSULEGRAPH_EXCEPTIONS
    template <class T>
    Span<const T> span() const {
        return try_span<T>().value();
    }
    std::vector<std::string_view> strings() const { return try_strings().value(); }
#endif

private:
    friend class Value;
    explicit TensorView(const capg_tensor &raw) noexcept : raw_(raw) {}
    capg_tensor raw_;
};

/// An output under its name: a view of the Values.
class Value {
public:
    std::string_view name() const noexcept { return {raw_.name, raw_.name_len}; }
    Kind kind() const noexcept { return static_cast<Kind>(raw_.kind); }
    Element element() const noexcept { return static_cast<Element>(raw_.element); }
    /// Number of tensors: 1 of a tensor, 0 of an absent value, 2 of a map.
    std::size_t size() const noexcept { return raw_.count; }
    Result<TensorView> try_tensor(std::size_t index = 0) const {
        if (index < raw_.count) return TensorView(raw_.tensors[index]);
        return Error(Status::not_found, "output \"" + std::string(name()) + "\" has " + std::to_string(raw_.count)
                                            + " tensors, and number " + std::to_string(index) + " was asked for");
    }
#if CAPSULEGRAPH_EXCEPTIONS
    TensorView tensor(std::size_t index = 0) const { return try_tensor(index).value(); }
    /// The elements of the only tensor.
    template <class T>
    Span<const T> span() const {
        return tensor().span<T>();
    }
#endif

private:
    friend class Values;
    explicit Value(const capg_value &raw) noexcept : raw_(raw) {}
    capg_value raw_;
};

/// What a run gave, in the order in which outputs were asked for. It keeps neither the model nor the inputs.
class Values : public detail::Owned<capg_values, capg_values_free> {
public:
    /// Closed, until another one is moved into it.
    Values() = default;

    /// Number of outputs.
    Result<std::size_t> try_size() const { return ask<std::size_t>(capg_values_count); }
    /// Output number `index`, in the order in which they were asked for.
    Result<Value> try_at(std::size_t index) const & {
        auto raw = ask<capg_value>(capg_values_view, index);
        if (!raw) return *raw.error();
        return Value(*raw);
    }
    /// The output of this name.
    Result<Value> try_at(std::string_view name) const & {
        auto count = try_size();
        if (!count) return *count.error();
        for (std::size_t i = 0; i < *count; i++) {
            auto value = try_at(i);
            if (!value || value->name() == name) return value;
        }
        return Error(Status::not_found, "there is no output \"" + std::string(name) + "\" among those that were asked for");
    }
    // Views of an object that is gone at the end of the expression.
    Result<Value> try_at(std::size_t) const && = delete;
    Result<Value> try_at(std::string_view) const && = delete;
#if CAPSULEGRAPH_EXCEPTIONS
    std::size_t size() const { return try_size().value(); }
    Value at(std::size_t index) const & { return try_at(index).value(); }
    Value at(std::string_view name) const & { return try_at(name).value(); }
    Value at(std::size_t) const && = delete;
    Value at(std::string_view) const && = delete;
#endif

private:
    friend class Model;
};

/// An input or output of an ONNX model: a view of the model.
class Port {
public:
    std::string_view name() const noexcept { return {raw_.name, raw_.name_len}; }
    Kind kind() const noexcept { return static_cast<Kind>(raw_.kind); }
    Element element() const noexcept { return static_cast<Element>(raw_.element); }
    /// Whether the number of extents is known.
    bool has_shape() const noexcept { return raw_.has_shape != 0; }
    /// Extents, outermost first; -1: any.
    Span<const std::int64_t> shape() const noexcept { return {raw_.rank == 0 ? nullptr : raw_.dims, raw_.rank}; }
    /// The name of an extent that may be any; empty where there is none.
    std::string_view extent_name(std::size_t index) const noexcept {
        if (index >= raw_.rank || raw_.dim_names[index].len == 0) return {};
        return {raw_.dim_names[index].data, raw_.dim_names[index].len};
    }
    /// Whether an input has a default and may be left out.
    bool optional() const noexcept { return raw_.optional != 0; }

private:
    friend class Model;
    explicit Port(const capg_port &raw) noexcept : raw_(raw) {}
    capg_port raw_;
};

} // namespace capsulegraph

#endif
