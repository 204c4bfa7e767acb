//! GGUF metadata values.

use serde_json::json;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any unsigned integer type.
    Unsigned(u64),
    /// Any signed integer type.
    Signed(i64),
    /// f32 or f64.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string; GGUF asks for UTF-8 but files in the wild break that.
    Text(Vec<u8>),
    /// An array.
    Array(Array),
}

/// An array of metadata values, each kind in its own compact form.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Unsigned integers.
    Unsigned(Vec<u64>),
    /// Signed integers.
    Signed(Vec<i64>),
    /// Floating-point numbers; f32 is kept exactly.
    Float(Vec<f32>),
    /// Double-precision numbers.
    Double(Vec<f64>),
    /// Booleans.
    Bool(Vec<bool>),
    /// Strings: all bytes in one run, and where each ends.
    Text {
        /// The strings, one after the other.
        bytes: Vec<u8>,
        /// End of each string in `bytes`.
        ends: Vec<u32>,
    },
    /// Arrays of arrays; no model needs them, so only their number is kept.
    Nested(u64),
}

impl Array {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Unsigned(v) => v.len(),
            Self::Signed(v) => v.len(),
            Self::Float(v) => v.len(),
            Self::Double(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::Text { ends, .. } => ends.len(),
            Self::Nested(n) => *n as usize,
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The strings of a string array.
    #[must_use]
    pub fn texts(&self) -> Option<Vec<&[u8]>> {
        let Self::Text { bytes, ends } = self else { return None };
        let mut start = 0;
        ends.iter()
            .map(|end| {
                let part = bytes.get(start..*end as usize);
                start = *end as usize;
                part
            })
            .collect()
    }

    /// The numbers of a float array, narrowed to f32.
    #[must_use]
    pub fn floats(&self) -> Option<Vec<f32>> {
        match self {
            Self::Float(v) => Some(v.clone()),
            Self::Double(v) => Some(v.iter().map(|x| *x as f32).collect()),
            _ => None,
        }
    }

    /// The numbers of an integer array.
    #[must_use]
    pub fn integers(&self) -> Option<Vec<i64>> {
        match self {
            Self::Unsigned(v) => v.iter().map(|x| i64::try_from(*x).ok()).collect(),
            Self::Signed(v) => Some(v.clone()),
            _ => None,
        }
    }
}

impl Value {
    /// A non-negative integer.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(v) => Some(*v),
            Self::Signed(v) => u64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// Any number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Unsigned(v) => Some(*v as f64),
            Self::Signed(v) => Some(*v as f64),
            Self::Float(v) => Some(*v),
            _ => None,
        }
    }

    /// A boolean.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// A string that is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(v) => std::str::from_utf8(v).ok(),
            _ => None,
        }
    }

    /// An array.
    #[must_use]
    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Self::Array(v) => Some(v),
            _ => None,
        }
    }

    /// The value as JSON; of an array of more than `max_array` elements only kind and length.
    #[must_use]
    pub fn to_json(&self, max_array: usize) -> serde_json::Value {
        let text = |bytes: &[u8]| json!(String::from_utf8_lossy(bytes));
        match self {
            Self::Unsigned(v) => json!(v),
            Self::Signed(v) => json!(v),
            Self::Float(v) => json!(v),
            Self::Bool(v) => json!(v),
            Self::Text(v) => text(v),
            Self::Array(a) if a.len() > max_array => json!({ "array_of": a.len() }),
            Self::Array(a) => match a {
                Array::Unsigned(v) => json!(v),
                Array::Signed(v) => json!(v),
                Array::Float(v) => json!(v),
                Array::Double(v) => json!(v),
                Array::Bool(v) => json!(v),
                Array::Text { .. } => a.texts().unwrap_or_default().into_iter().map(text).collect(),
                Array::Nested(n) => json!({ "array_of": n }),
            },
        }
    }
}
