//! Plain element types of tensors: ONNX's own, under its own numbers and names.

use serde::{Deserialize, Serialize};

/// An element type of ONNX (`TensorProto.DataType` in onnx.proto, whose numbers the discriminants are).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names are ONNX's own
pub enum ElementType {
    Float32 = 1,
    Uint8 = 2,
    Int8 = 3,
    Uint16 = 4,
    Int16 = 5,
    Int32 = 6,
    Int64 = 7,
    String = 8,
    Bool = 9,
    Float16 = 10,
    Float64 = 11,
    Uint32 = 12,
    Uint64 = 13,
    Complex64 = 14,
    Complex128 = 15,
    Bfloat16 = 16,
    Float8e4m3fn = 17,
    Float8e4m3fnuz = 18,
    Float8e5m2 = 19,
    Float8e5m2fnuz = 20,
    Uint4 = 21,
    Int4 = 22,
    Float4e2m1 = 23,
    Float8e8m0 = 24,
    Uint2 = 25,
    Int2 = 26,
}

/// A type, its name, the bits of an element (0: of no fixed size), and NumPy's description of an array of it where NumPy
/// has the type.
type Row = (ElementType, &'static str, u32, Option<&'static str>);

const TABLE: [Row; 26] = [
    (ElementType::Float32, "float32", 32, Some("<f4")),
    (ElementType::Uint8, "uint8", 8, Some("|u1")),
    (ElementType::Int8, "int8", 8, Some("|i1")),
    (ElementType::Uint16, "uint16", 16, Some("<u2")),
    (ElementType::Int16, "int16", 16, Some("<i2")),
    (ElementType::Int32, "int32", 32, Some("<i4")),
    (ElementType::Int64, "int64", 64, Some("<i8")),
    (ElementType::String, "string", 0, None),
    (ElementType::Bool, "bool", 8, Some("|b1")),
    (ElementType::Float16, "float16", 16, Some("<f2")),
    (ElementType::Float64, "float64", 64, Some("<f8")),
    (ElementType::Uint32, "uint32", 32, Some("<u4")),
    (ElementType::Uint64, "uint64", 64, Some("<u8")),
    (ElementType::Complex64, "complex64", 64, Some("<c8")),
    (ElementType::Complex128, "complex128", 128, Some("<c16")),
    (ElementType::Bfloat16, "bfloat16", 16, None),
    (ElementType::Float8e4m3fn, "float8e4m3fn", 8, None),
    (ElementType::Float8e4m3fnuz, "float8e4m3fnuz", 8, None),
    (ElementType::Float8e5m2, "float8e5m2", 8, None),
    (ElementType::Float8e5m2fnuz, "float8e5m2fnuz", 8, None),
    (ElementType::Uint4, "uint4", 4, None),
    (ElementType::Int4, "int4", 4, None),
    (ElementType::Float4e2m1, "float4e2m1", 4, None),
    (ElementType::Float8e8m0, "float8e8m0", 8, None),
    (ElementType::Uint2, "uint2", 2, None),
    (ElementType::Int2, "int2", 2, None),
];

impl ElementType {
    /// Every type.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    /// The type with ONNX's number.
    #[must_use]
    pub fn from_onnx(number: i32) -> Option<Self> {
        Self::all().find(|element| element.onnx() == number)
    }

    /// The type called `name`, as in a manifest.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// ONNX's number.
    #[must_use]
    pub fn onnx(self) -> i32 {
        self as i32
    }

    /// The name in manifests and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Bits of an element; `None` for strings.
    #[must_use]
    pub fn bits(self) -> Option<u32> {
        Some(self.row().2).filter(|bits| *bits > 0)
    }

    /// NumPy's description of an array of it, little-endian; `None` where NumPy has no such type.
    #[must_use]
    pub fn numpy(self) -> Option<&'static str> {
        self.row().3
    }

    /// Bytes of `count` elements one after the other, those of less than a byte without gaps; `None` for strings and on
    /// overflow.
    #[must_use]
    pub fn bytes_of(self, count: u64) -> Option<u64> {
        let bits = u64::from(self.bits()?);
        match bits % 8 {
            0 => count.checked_mul(bits / 8),
            _ => Some(count.div_ceil(8 / bits)),
        }
    }

    /// Bytes of a tensor of these dimensions; `None` for strings and on overflow.
    #[must_use]
    pub fn tensor_bytes(self, shape: &[u64]) -> Option<u64> {
        self.bytes_of(shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim))?)
    }

    fn row(self) -> &'static Row {
        // The table has the types in the order of their numbers, from 1 on, as a test makes sure.
        &TABLE[self as usize - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_numbers() {
        for (i, element) in ElementType::all().enumerate() {
            assert_eq!(element.onnx(), i as i32 + 1);
            assert_eq!(ElementType::from_onnx(element.onnx()), Some(element));
            assert_eq!(ElementType::by_name(element.name()), Some(element));
            assert_eq!(serde_json::to_value(element).unwrap(), element.name());
        }
        assert_eq!((ElementType::from_onnx(0), ElementType::from_onnx(27)), (None, None));
    }

    #[test]
    fn small_elements_share_bytes() {
        assert_eq!(ElementType::Int4.bytes_of(5), Some(3));
        assert_eq!(ElementType::Uint2.bytes_of(5), Some(2));
        assert_eq!(ElementType::Complex128.tensor_bytes(&[2, 3]), Some(96));
        assert_eq!(ElementType::Float32.tensor_bytes(&[]), Some(4));
        assert_eq!(ElementType::String.bytes_of(1), None);
        assert_eq!(ElementType::Int64.bytes_of(u64::MAX / 4), None);
    }
}
