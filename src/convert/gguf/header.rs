//! The front of a GGUF file: metadata and tensor list.

use std::collections::HashSet;

use super::values::{Array, Value};
use crate::container::disk::ReadAt;
use crate::error::{Error, Result};
use crate::kernels::encoding::{self, Encoding};
use crate::kernels::pack;

/// Longest name (key or tensor), in bytes.
const MAX_NAME: u64 = 65_535;
/// Longest single string value, in bytes.
const MAX_STRING: u64 = 16 << 20;
/// Most elements of an array: far above the largest vocabularies (262,144 tokens, about as many merges).
const MAX_ARRAY: u64 = 4 << 20;
/// Most metadata entries.
const MAX_ENTRIES: u64 = 1 << 16;
/// Most tensors of a file.
const MAX_TENSORS: u64 = 1 << 17;
/// Bytes that all metadata values of a file may hold together.
const MAX_METADATA: u64 = 192 << 20;
/// Largest alignment of tensor data.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Dimensions of a tensor at most (ggml's limit).
const MAX_DIMS: u32 = 4;
/// Nesting of arrays at most.
const MAX_DEPTH: u32 = 2;
/// Bytes read ahead at a time.
const WINDOW: usize = 256 << 10;

/// One tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first (the file lists them the other way round).
    pub shape: Vec<u64>,
    /// How its elements are stored.
    pub encoding: &'static Encoding,
    /// Which shard holds it.
    pub file: usize,
    /// First byte of its data in that file.
    pub offset: u64,
    /// Bytes of its data.
    pub len: u64,
}

/// Metadata and tensors of one file.
pub type Front = (Vec<(String, Value)>, Vec<TensorInfo>);

/// Reads the front of `source`, which is shard number `file`.
pub fn read(source: &dyn ReadAt, file: usize) -> Result<Front> {
    let mut cursor = Cursor { source, position: 0, window: Vec::new(), window_start: 0, held: 0 };
    let magic = cursor.array::<4>("the magic")?;
    if magic != *b"GGUF" {
        if magic == *b"\x8bCGR" {
            return Err(cursor.bad("this is a .cgraph file already, not a GGUF model"));
        }
        let hint = if magic == *b"FUGG" || magic == *b"ggml" || magic == *b"ggjt" {
            "an older or big-endian ggml file; convert it to GGUF version 3 with its own tools"
        } else {
            "not a GGUF file"
        };
        return Err(cursor.bad(format!("{hint} (its first bytes are {magic:02x?})")));
    }
    let version = cursor.u32("the version")?;
    if version == 1 || (version & 0xffff) == 0 {
        return Err(Error::Unsupported(format!(
            "{}: GGUF version {version:#x} (an old or a big-endian file); versions 2 and 3, little-endian, are read",
            source.name()
        )));
    }
    if !(2..=3).contains(&version) {
        return Err(Error::Unsupported(format!(
            "{}: GGUF version {version}; versions 2 and 3 are read",
            source.name()
        )));
    }
    let tensor_count = cursor.count("the tensor count", MAX_TENSORS, 24)?;
    let entry_count = cursor.count("the metadata count", MAX_ENTRIES, 13)?;
    let metadata = read_metadata(&mut cursor, entry_count)?;
    let alignment = match metadata.iter().find(|(key, _)| key == "general.alignment") {
        None => 32,
        Some((_, value)) => {
            value.as_u64().filter(|a| a.is_power_of_two() && *a <= MAX_ALIGNMENT).ok_or_else(|| {
                cursor.bad(format!(
                    "general.alignment is {value:?}; it must be a power of two up to {MAX_ALIGNMENT}"
                ))
            })?
        }
    };
    let mut tensors = Vec::new();
    for number in 0..tensor_count {
        tensors.push(read_tensor_info(&mut cursor, number, file, alignment)?);
    }
    place_tensors(&cursor, &mut tensors, alignment)?;
    Ok((metadata, tensors))
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<(String, Value)>> {
    let mut metadata = Vec::new();
    let mut keys = HashSet::new();
    for number in 0..count {
        let key = cursor.name(&format!("key number {number}"))?;
        if key.is_empty() || !keys.insert(key.clone()) {
            return Err(
                cursor.bad(format!("metadata key number {number} (\"{key}\") is empty or used twice"))
            );
        }
        let kind = cursor.u32(&key)?;
        let value = cursor.value(&key, kind, 0)?;
        metadata.push((key, value));
    }
    Ok(metadata)
}

fn read_tensor_info(cursor: &mut Cursor<'_>, number: u64, file: usize, alignment: u64) -> Result<TensorInfo> {
    let name = cursor.name(&format!("the name of tensor number {number}"))?;
    if name.is_empty() {
        return Err(cursor.bad(format!("tensor number {number} has no name")));
    }
    let dims = cursor.u32(&name)?;
    if dims == 0 || dims > MAX_DIMS {
        return Err(cursor.bad(format!("tensor {name} has {dims} dimensions; 1 to {MAX_DIMS} are possible")));
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        shape.push(cursor.u64(&name)?);
    }
    shape.reverse();
    let ggml_type = cursor.u32(&name)?;
    let offset = cursor.u64(&name)?;
    let Some(encoding) = encoding::by_ggml_type(ggml_type) else {
        let type_name = encoding::ggml_type_name(ggml_type).unwrap_or("unknown");
        return Err(Error::Unsupported(format!(
            "{}: tensor {name} has type {type_name} (number {ggml_type}), which cannot be read; convert a file with another quantisation",
            cursor.source.name()
        )));
    };
    let len = tensor_len(encoding, &shape).ok_or_else(|| {
        cursor.bad(format!(
            "tensor {name}: shape {shape:?} is empty, too large or no multiple of {}'s block of {}",
            encoding.name, encoding.block_len
        ))
    })?;
    if !offset.is_multiple_of(alignment) {
        return Err(cursor.bad(format!("tensor {name}: its offset {offset} is no multiple of {alignment}")));
    }
    Ok(TensorInfo { name, shape, encoding, file, offset, len })
}

fn tensor_len(encoding: &Encoding, shape: &[u64]) -> Option<u64> {
    let (cols, outer) = shape.split_last()?;
    let rows = outer.iter().try_fold(1u64, |product, d| product.checked_mul(*d))?;
    let row = pack::row_bytes(encoding, usize::try_from(*cols).ok()?)? as u64;
    let len = row.checked_mul(rows)?;
    // Elements are counted too, so that their number fits wherever a tensor is decoded.
    rows.checked_mul(*cols).filter(|n| *n <= 1 << 40)?;
    (len > 0).then_some(len)
}

/// Turns offsets relative to the data section into absolute ones, each inside the file.
fn place_tensors(cursor: &Cursor<'_>, tensors: &mut [TensorInfo], alignment: u64) -> Result<()> {
    let file_len = cursor.source.len();
    let data = cursor.position.checked_next_multiple_of(alignment);
    for tensor in tensors.iter_mut() {
        let start = data.and_then(|d| d.checked_add(tensor.offset));
        let end = start.and_then(|s| s.checked_add(tensor.len));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len => tensor.offset = start,
            _ => {
                return Err(Error::malformed(
                    cursor.source.name(),
                    format!(
                        "tensor {} ({} bytes at data offset {}) ends past the end of the file of {file_len} bytes: the download is incomplete",
                        tensor.name, tensor.len, tensor.offset
                    ),
                ));
            }
        }
    }
    // Tensors that share bytes would let a small file describe a conversion of any length.
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.offset);
    for pair in order.windows(2) {
        if let [before, after] = pair
            && before.offset + before.len > after.offset
        {
            return Err(Error::malformed(
                cursor.source.name(),
                format!("tensors {} and {} overlap at byte {}", before.name, after.name, after.offset),
            ));
        }
    }
    Ok(())
}

/// Reads forward through a file in windows and knows how much is left.
struct Cursor<'a> {
    source: &'a dyn ReadAt,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
    held: u64,
}

impl Cursor<'_> {
    fn bad(&self, detail: impl Into<String>) -> Error {
        Error::malformed(self.source.name(), detail)
    }

    fn left(&self) -> u64 {
        self.source.len().saturating_sub(self.position)
    }

    /// Reads `buf.len()` bytes; the caller has not allocated `buf` beyond what is left of the file.
    fn fill(&mut self, what: &str, buf: &mut [u8]) -> Result<()> {
        let len = buf.len() as u64;
        if len > self.left() {
            return Err(self.bad(format!(
                "the file ends at {} in {what}, which needs {len} bytes at {}",
                self.source.len(),
                self.position
            )));
        }
        let mut done = 0;
        while done < buf.len() {
            let at = (self.position - self.window_start) as usize;
            if self.position < self.window_start || at >= self.window.len() {
                let size = self.left().min(WINDOW as u64) as usize;
                self.window.resize(size, 0);
                self.window_start = self.position;
                let name = self.source.name();
                self.source
                    .read_exact_at(self.position, &mut self.window)
                    .map_err(|e| Error::io(format!("read {what} of"), name, e))?;
                continue;
            }
            let n = (self.window.len() - at).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&self.window[at..at + n]);
            done += n;
            self.position += n as u64;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut buf = [0; N];
        self.fill(what, &mut buf)?;
        Ok(buf)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count of items of at least `item` bytes each, held against `max` and against what is left.
    fn count(&mut self, what: &str, max: u64, item: u64) -> Result<u64> {
        let count = self.u64(what)?;
        if count > max || count.checked_mul(item).is_none_or(|bytes| bytes > self.left()) {
            return Err(self.bad(format!(
                "{what} is {count}; at most {max} and no more than the remaining {} bytes hold are possible",
                self.left()
            )));
        }
        Ok(count)
    }

    fn bytes(&mut self, what: &str, max: u64) -> Result<Vec<u8>> {
        let len = self.count(&format!("the length of {what}"), max, 1)?;
        self.hold(len)?;
        let mut buf = vec![0; len as usize];
        self.fill(what, &mut buf)?;
        Ok(buf)
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let bytes = self.bytes(what, MAX_NAME)?;
        String::from_utf8(bytes).map_err(|_| self.bad(format!("{what} is not UTF-8")))
    }

    /// Accounts for memory that metadata takes.
    fn hold(&mut self, bytes: u64) -> Result<()> {
        self.held = self.held.saturating_add(bytes);
        if self.held > MAX_METADATA {
            return Err(self.bad(format!("the metadata exceeds {MAX_METADATA} bytes")));
        }
        Ok(())
    }

    fn value(&mut self, key: &str, kind: u32, depth: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.array::<1>(key)?[0])),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.array(key)?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array(key)?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.array(key)?))),
            4 => Value::Unsigned(u64::from(self.u32(key)?)),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.array(key)?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array(key)?))),
            7 => match self.array::<1>(key)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.bad(format!("{key} is a boolean of value {other}"))),
            },
            8 => Value::Text(self.bytes(key, MAX_STRING)?),
            9 => Value::Array(self.array_value(key, depth)?),
            10 => Value::Unsigned(self.u64(key)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            other => return Err(self.bad(format!("{key} has the unknown value type {other}"))),
        })
    }

    fn array_value(&mut self, key: &str, depth: u32) -> Result<Array> {
        let kind = self.u32(key)?;
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => return Err(self.bad(format!("{key} is an array of the unknown type {other}"))),
        };
        let count = self.count(&format!("the length of {key}"), MAX_ARRAY, smallest)?;
        match kind {
            8 => self.text_array(key, count),
            9 => {
                if depth + 1 >= MAX_DEPTH {
                    return Err(self.bad(format!("{key} nests arrays more than {MAX_DEPTH} deep")));
                }
                for _ in 0..count {
                    self.array_value(key, depth + 1)?;
                }
                Ok(Array::Nested(count))
            }
            kind => self.number_array(key, kind, count),
        }
    }

    fn text_array(&mut self, key: &str, count: u64) -> Result<Array> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        self.hold(count * 4)?;
        for _ in 0..count {
            bytes.extend_from_slice(&self.bytes(key, MAX_STRING)?);
            // MAX_METADATA bounds the sum below u32::MAX.
            ends.push(bytes.len() as u32);
        }
        Ok(Array::Text { bytes, ends })
    }

    fn number_array(&mut self, key: &str, kind: u32, count: u64) -> Result<Array> {
        self.hold(count * 8)?;
        let mut array = match kind {
            6 => Array::Float(Vec::new()),
            12 => Array::Double(Vec::new()),
            7 => Array::Bool(Vec::new()),
            0 | 2 | 4 | 10 => Array::Unsigned(Vec::new()),
            _ => Array::Signed(Vec::new()),
        };
        for _ in 0..count {
            match (&mut array, self.value(key, kind, MAX_DEPTH)?) {
                (Array::Float(v), Value::Float(x)) => v.push(x as f32),
                (Array::Double(v), Value::Float(x)) => v.push(x),
                (Array::Bool(v), Value::Bool(x)) => v.push(x),
                (Array::Unsigned(v), Value::Unsigned(x)) => v.push(x),
                (Array::Signed(v), Value::Signed(x)) => v.push(x),
                _ => return Err(Error::Internal(format!("{key}: array of type {kind} read as another"))),
            }
        }
        Ok(array)
    }
}
