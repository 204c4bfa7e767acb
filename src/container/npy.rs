//! NumPy's `.npy` format: arrays of every element type, read (versions 1 to 3, either byte order, either order of elements)
//! and written (version 1, little-endian, C order).
//!
//! NumPy has no type for some of ONNX's. bfloat16 and the kinds of float8 are written as unsigned integers of the same bits,
//! elements of less than a byte as bytes, one each; they are read again as what the reader wants.

use std::path::Path;

use super::disk::{Disk, ReadAt, WriteFile};
use crate::error::{Error, Result};
use crate::graph::element::ElementType;

/// What every file begins with.
const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Bytes of a header's dictionary at most: far more than one of 64 dimensions has.
const MAX_HEADER: usize = 64 << 10;
/// Dimensions at most, as in NumPy.
const MAX_DIMS: usize = 64;

/// An array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// The element type.
    pub element: ElementType,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The elements in row-major order.
    pub data: ArrayData,
}

/// The elements of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArrayData {
    /// Of every type but strings: little-endian; two or four to a byte where an element has less than one.
    Bytes(Vec<u8>),
    /// Strings.
    Strings(Vec<Vec<u8>>),
}

/// The header of a little-endian f32 array of `shape` in C order.
#[must_use]
pub fn header(shape: &[u64]) -> Vec<u8> {
    header_of("<f4", shape)
}

/// The header of an array in C order whose elements are `descr` in NumPy's terms.
fn header_of(descr: &str, shape: &[u64]) -> Vec<u8> {
    let mut dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
    if shape.len() > 1 {
        dims.truncate(dims.len() - 2); // a tuple of one keeps its comma
    }
    let mut dict = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    // Magic, version and length take 10 bytes; with the line feed the data starts on a multiple of 64.
    let padding = (64 - (10 + dict.len() + 1) % 64) % 64;
    dict.push_str(&" ".repeat(padding));
    dict.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    // A shape has a handful of dimensions: the dictionary is far shorter than 64 KiB.
    out.extend((dict.len() as u16).to_le_bytes());
    out.extend(dict.bytes());
    out
}

/// Reads the array in the file at `path`. Where `wanted` is a type that NumPy lacks, unsigned integers and raw elements of its
/// size are taken for it.
///
/// # Errors
/// [`Error::Io`]; [`Error::Malformed`] where it is no array; [`Error::Unsupported`] for elements that no tensor has;
/// [`Error::InvalidArgument`] for a value that an element of less than a byte does not have; [`Error::Limit`] where there is no
/// memory for it.
pub fn read(disk: &dyn Disk, path: &Path, wanted: Option<ElementType>) -> Result<Array> {
    let source = disk.open(path)?;
    let name = source.name();
    let bad = |why: String| Error::malformed(&name, format!("{why}; save it with numpy.save"));
    let (dict, start) = read_header(source.as_ref(), &bad)?;
    let count = dict.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let bytes = count.and_then(|count| count.checked_mul(dict.item as u64));
    let stored = source.len().saturating_sub(start);
    let (Some(count), Some(bytes)) = (count.and_then(|c| usize::try_from(c).ok()), bytes) else {
        return Err(bad(format!("its shape {:?} is too large", dict.shape)));
    };
    if bytes != stored {
        return Err(bad(format!(
            "{stored} bytes of elements where its shape {:?} needs {bytes}",
            dict.shape
        )));
    }
    let mut data = Vec::new();
    let no_memory = |_| Error::Limit(format!("{name}: no memory for its {bytes} bytes"));
    data.try_reserve_exact(bytes as usize).map_err(no_memory)?;
    data.resize(bytes as usize, 0);
    source.read_exact_at(start, &mut data).map_err(|e| Error::io("read the elements of", &name, e))?;
    if dict.fortran && dict.shape.len() > 1 {
        data = row_major(&data, &dict.shape, dict.item);
    }
    if dict.swapped {
        swap(&mut data, dict.unit);
    }
    let (element, data) = elements(&dict, data, count, wanted, &name)?;
    Ok(Array { element, shape: dict.shape, data })
}

/// What a header says.
#[derive(Debug)]
struct Dict {
    kind: char,
    /// Bytes of an element as it is stored, and of what is swapped in one.
    item: usize,
    unit: usize,
    swapped: bool,
    fortran: bool,
    shape: Vec<u64>,
    descr: String,
}

/// The header, and where the elements begin.
fn read_header(source: &dyn ReadAt, bad: &dyn Fn(String) -> Error) -> Result<(Dict, u64)> {
    let name = source.name();
    let take = |offset: u64, len: usize| -> Result<Vec<u8>> {
        if source.len() < offset.saturating_add(len as u64) {
            return Err(bad("it is too short for a .npy file".into()));
        }
        let mut bytes = vec![0; len];
        source.read_exact_at(offset, &mut bytes).map_err(|e| Error::io("read the header of", &name, e))?;
        Ok(bytes)
    };
    let first = take(0, 10)?;
    if !first.starts_with(MAGIC) {
        return Err(bad("it is no .npy file".into()));
    }
    let (len, at) = match first[6] {
        1 => (usize::from(u16::from_le_bytes([first[8], first[9]])), 10),
        2 | 3 => {
            let more = take(10, 2)?;
            (u32::from_le_bytes([first[8], first[9], more[0], more[1]]) as usize, 12)
        }
        version => return Err(bad(format!("version {version} of the format is not known"))),
    };
    if len > MAX_HEADER {
        return Err(bad(format!("a header of {len} bytes")));
    }
    let text = String::from_utf8_lossy(&take(at, len)?).into_owned();
    let dict =
        parse_dict(&text).ok_or_else(|| bad(format!("its header is not understood: {}", text.trim())))?;
    Ok((dict, at + len as u64))
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`, in any order.
fn parse_dict(text: &str) -> Option<Dict> {
    let value = |key: &str| {
        let at = text.find(&format!("'{key}'")).or_else(|| text.find(&format!("\"{key}\"")))?;
        Some(text.get(at + key.len() + 2..)?.trim_start().strip_prefix(':')?.trim_start())
    };
    let quoted = value("descr")?;
    let quote = quoted.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let descr = quoted.get(1..)?.split(quote).next()?.to_owned();
    let order = value("fortran_order")?;
    let fortran =
        if order.starts_with("True") { true } else { order.starts_with("False").then_some(false)? };
    let shape = value("shape")?.strip_prefix('(')?.split(')').next()?;
    let dims = shape.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let dims = dims.map(|dim| dim.trim_end_matches('L').parse::<u64>().ok());
    let shape = dims.collect::<Option<Vec<u64>>>().filter(|dims| dims.len() <= MAX_DIMS)?;
    let mut chars = descr.chars();
    let (order, kind) = (chars.next()?, chars.next()?);
    let size = chars.as_str().parse::<usize>().ok()?;
    // Characters of NumPy's strings have four bytes, complex numbers two parts.
    let item = if kind == 'U' { size.checked_mul(4)? } else { size };
    let unit = match kind {
        'U' => 4,
        'c' => size / 2,
        'S' | 'V' => 1,
        _ => size,
    };
    let swapped = match order {
        '<' | '|' => false,
        '=' => cfg!(target_endian = "big"),
        '>' => unit > 1,
        _ => return None,
    };
    Some(Dict { kind, item, unit, swapped, fortran, shape, descr })
}

/// Column-major elements in row-major order.
fn row_major(data: &[u8], shape: &[u64], item: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = item;
    for dim in shape {
        strides.push(stride);
        stride = stride.saturating_mul(*dim as usize);
    }
    let mut index = vec![0u64; shape.len()];
    while out.len() < data.len() && item > 0 {
        let at: usize = index.iter().zip(&strides).map(|(i, stride)| *i as usize * stride).sum();
        out.extend_from_slice(data.get(at..at + item).unwrap_or_default());
        for (i, dim) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < *dim {
                break;
            }
            *i = 0;
        }
    }
    out
}

fn swap(data: &mut [u8], unit: usize) {
    if unit > 1 {
        data.chunks_exact_mut(unit).for_each(<[u8]>::reverse);
    }
}

/// What the stored elements are, as tensors have them.
fn elements(
    dict: &Dict,
    data: Vec<u8>,
    count: usize,
    wanted: Option<ElementType>,
    name: &str,
) -> Result<(ElementType, ArrayData)> {
    let strings = |of: &dyn Fn(&[u8]) -> Vec<u8>| {
        // Empty strings have no bytes to divide.
        let mut all: Vec<Vec<u8>> = data.chunks_exact(dict.item.max(1)).map(of).collect();
        all.resize(count, Vec::new());
        Ok((ElementType::String, ArrayData::Strings(all)))
    };
    match dict.kind {
        'U' => return strings(&text_of),
        'S' => {
            return strings(&|bytes| {
                bytes[..bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)].to_vec()
            });
        }
        _ => {}
    }
    let foreign = wanted.filter(|element| element.numpy().is_none() && element.bits().is_some());
    if let Some(element) = foreign {
        let bits = element.bits().unwrap_or(8);
        let raw = matches!(dict.kind, 'u' | 'V') || dict.kind == 'i' && bits < 8;
        if raw && dict.item == bits.div_ceil(8) as usize {
            if bits >= 8 {
                return Ok((element, ArrayData::Bytes(data)));
            }
            refuse_out_of_range(dict, &data, element, name)?;
            return Ok((element, ArrayData::Bytes(packed(&data, bits))));
        }
    }
    let plain = format!("{}{}", dict.kind, dict.item);
    let found = ElementType::all().find(|element| element.numpy().is_some_and(|descr| descr[1..] == plain));
    found.map(|element| (element, ArrayData::Bytes(data))).ok_or_else(|| {
        Error::Unsupported(format!(
            "{name}: an array of {} has no tensor's elements; use numbers, bool, complex, str (U) or bytes (S)",
            dict.descr
        ))
    })
}

/// A string of characters of four bytes, which zeros end.
fn text_of(bytes: &[u8]) -> Vec<u8> {
    let code = |part: &[u8]| u32::from_le_bytes([part[0], part[1], part[2], part[3]]);
    let mut codes: Vec<u32> = bytes.chunks_exact(4).map(code).collect();
    while codes.last() == Some(&0) {
        codes.pop();
    }
    let text: String =
        codes.into_iter().map(|c| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    text.into_bytes()
}

/// Refuses values that an element of less than a byte does not have. Raw elements are bits, whose upper ones are zeros or the
/// sign's.
fn refuse_out_of_range(dict: &Dict, data: &[u8], element: ElementType, name: &str) -> Result<()> {
    let bits = element.bits().unwrap_or(8);
    let (least, most) = match element {
        ElementType::Int4 | ElementType::Int2 => (-(1i16 << (bits - 1)), (1 << (bits - 1)) - 1),
        _ => (0, (1i16 << bits) - 1),
    };
    let value = |byte: u8| if dict.kind == 'i' { i16::from(byte as i8) } else { i16::from(byte) };
    let fits = |byte: u8| {
        let has_sign = dict.kind == 'V' && least < 0;
        let is_bits = has_sign && (byte < 1 << bits || i16::from(byte as i8) >= least && byte >= 0x80);
        is_bits || (least..=most).contains(&value(byte))
    };
    let Some(at) = data.iter().position(|byte| !fits(*byte)) else { return Ok(()) };
    Err(Error::InvalidArgument(format!(
        "{name}: the value {} at {:?} is none of {}, which has {least} to {most}; scale or clip the values before they are \
         saved",
        value(data[at]),
        index_of(at as u64, &dict.shape),
        element.name()
    )))
}

/// The index of element `at` in row-major order.
fn index_of(mut at: u64, shape: &[u64]) -> Vec<u64> {
    let mut index: Vec<u64> = shape
        .iter()
        .rev()
        .map(|dim| {
            let place = at % dim.max(&1);
            at /= dim.max(&1);
            place
        })
        .collect();
    index.reverse();
    index
}

/// Elements of `bits` from bytes that hold one each, the first in the low bits.
fn packed(bytes: &[u8], bits: u32) -> Vec<u8> {
    let mask = (1u8 << bits) - 1;
    let joined = |part: &[u8]| part.iter().rev().fold(0u8, |byte, element| byte << bits | element & mask);
    bytes.chunks((8 / bits) as usize).map(joined).collect()
}

/// `count` elements of `bits`, one to a byte, with the sign's bits filled in.
fn unpacked(bytes: &[u8], bits: u32, count: usize, signed: bool) -> Vec<u8> {
    let (each, mask) = ((8 / bits) as usize, (1u8 << bits) - 1);
    let element = |index: usize| {
        let value = bytes.get(index / each).copied().unwrap_or(0) >> (index % each * bits as usize) & mask;
        let negative = signed && value >> (bits - 1) == 1;
        if negative { value | !mask } else { value }
    };
    (0..count).map(element).collect()
}

/// Writes an array of numbers to `path`, whole or not at all. `bytes` are as [`ArrayData::Bytes`] has them.
///
/// # Errors
/// [`Error::Io`]; [`Error::InvalidArgument`] where they do not fit the shape.
pub fn write(disk: &dyn Disk, path: &Path, element: ElementType, shape: &[u64], bytes: &[u8]) -> Result<()> {
    if element.tensor_bytes(shape) != Some(bytes.len() as u64) {
        return Err(Error::InvalidArgument(format!(
            "{}: {} bytes do not make {} of shape {shape:?}",
            path.display(),
            bytes.len(),
            element.name()
        )));
    }
    let bits = element.bits().unwrap_or(8);
    let count = shape.iter().product::<u64>() as usize;
    let signed = matches!(element, ElementType::Int4 | ElementType::Int2);
    let descr = match (element.numpy(), bits) {
        (Some(descr), _) => descr,
        (None, 16) => "<u2",
        (None, bits) if bits < 8 && signed => "|i1",
        (None, _) => "|u1",
    };
    let mut file = disk.create(path)?;
    file.append(&header_of(descr, shape))?;
    match bits {
        8.. => file.append(bytes)?,
        _ => file.append(&unpacked(bytes, bits, count, signed))?,
    }
    file.commit()
}

/// Writes an array of strings to `path`, whole or not at all: as text where all are UTF-8, else as bytes. Zeros at their ends
/// are lost, as NumPy has no other end of a string.
///
/// # Errors
/// [`Error::Io`]; [`Error::InvalidArgument`] where they do not fit the shape.
pub fn write_strings(disk: &dyn Disk, path: &Path, shape: &[u64], strings: &[Vec<u8>]) -> Result<()> {
    let count = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    if count != Some(strings.len() as u64) {
        let why = format!("{}: {} strings do not make the shape {shape:?}", path.display(), strings.len());
        return Err(Error::InvalidArgument(why));
    }
    let texts: Option<Vec<Vec<char>>> =
        strings.iter().map(|s| Some(std::str::from_utf8(s).ok()?.chars().collect())).collect();
    let mut file = disk.create(path)?;
    match texts {
        Some(texts) => {
            let longest = texts.iter().map(Vec::len).max().unwrap_or(0).max(1);
            file.append(&header_of(&format!("<U{longest}"), shape))?;
            for text in &texts {
                let codes = text.iter().map(|c| *c as u32).chain(std::iter::repeat(0)).take(longest);
                file.append(&codes.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())?;
            }
        }
        None => {
            let longest = strings.iter().map(Vec::len).max().unwrap_or(0).max(1);
            file.append(&header_of(&format!("|S{longest}"), shape))?;
            for string in strings {
                let padded: Vec<u8> =
                    string.iter().copied().chain(std::iter::repeat(0)).take(longest).collect();
                file.append(&padded)?;
            }
        }
    }
    file.commit()
}

/// An f32 array under construction. Nothing has the target's name before [`finish`](Self::finish).
#[derive(Debug)]
pub struct NpyWriter {
    file: Box<dyn WriteFile>,
    name: String,
    left: u64,
    bytes: Vec<u8>,
}

impl NpyWriter {
    /// Begins an array of `shape` at `target`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Limit`] where the shape's product overflows.
    pub fn create(disk: &dyn Disk, target: &Path, shape: &[u64]) -> Result<Self> {
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let left =
            elements.ok_or_else(|| Error::Limit(format!("an array of shape {shape:?} is too large")))?;
        let mut file = disk.create(target)?;
        file.append(&header(shape))?;
        Ok(Self { file, name: target.display().to_string(), left, bytes: Vec::new() })
    }

    /// Appends the next elements.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InvalidArgument`] for more elements than the shape holds.
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        self.left = self.left.checked_sub(values.len() as u64).ok_or_else(|| {
            Error::InvalidArgument(format!("{}: more elements than the array's shape holds", self.name))
        })?;
        for part in values.chunks(64 << 10) {
            self.bytes.clear();
            self.bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
            self.file.append(&self.bytes)?;
        }
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InvalidArgument`] where elements are missing.
    pub fn finish(self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::InvalidArgument(format!("{}: {} elements are missing", self.name, self.left)));
        }
        self.file.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::container::disk::SystemDisk;

    fn file(dict: &str, version: u8, data: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((dict.len() as u16).to_le_bytes()),
            _ => bytes.extend((dict.len() as u32).to_le_bytes()),
        }
        bytes.extend(dict.bytes());
        bytes.extend(data);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn read_file(dict: &str, version: u8, data: &[u8], wanted: Option<ElementType>) -> Result<Array> {
        let (_folder, path) = file(dict, version, data);
        read(&SystemDisk, &path, wanted)
    }

    #[test]
    fn every_element_type_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        for element in ElementType::all().filter(|element| *element != ElementType::String) {
            for shape in [&[][..], &[3], &[2, 3], &[0, 4]] {
                let len = element.tensor_bytes(shape).unwrap() as usize;
                let mut bytes: Vec<u8> = (0..len).map(|i| (i * 37 + 11) as u8).collect();
                // What lies beyond the last element is not written.
                let bits = u64::from(element.bits().unwrap());
                let rest = shape.iter().product::<u64>() * bits % 8;
                if let (Some(last), true) = (bytes.last_mut(), rest > 0) {
                    *last &= (1 << rest) - 1;
                }
                write(&SystemDisk, &path, element, shape, &bytes).unwrap();
                let array = read(&SystemDisk, &path, Some(element)).unwrap();
                assert_eq!(array, Array { element, shape: shape.to_vec(), data: ArrayData::Bytes(bytes) });
            }
            assert!(write(&SystemDisk, &path, element, &[2], &[0; 33]).is_err());
        }
        for strings in [&["a", "", "äöü€"][..], &["", "", ""]] {
            let strings: Vec<Vec<u8>> = strings.iter().map(|s| s.as_bytes().to_vec()).collect();
            write_strings(&SystemDisk, &path, &[3, 1], &strings).unwrap();
            let array = read(&SystemDisk, &path, None).unwrap();
            assert_eq!((array.shape, array.data), (vec![3, 1], ArrayData::Strings(strings)));
        }
        let raw = vec![vec![0xff, 0], vec![1, 2]];
        write_strings(&SystemDisk, &path, &[2], &raw).unwrap();
        let array = read(&SystemDisk, &path, None).unwrap();
        assert_eq!(array.data, ArrayData::Strings(vec![vec![0xff], vec![1, 2]]));
    }

    #[test]
    fn other_orders_and_versions_are_read() {
        let wanted = Array {
            element: ElementType::Int16,
            shape: vec![2, 3],
            data: ArrayData::Bytes(vec![1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]),
        };
        let c = [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0];
        let fortran = [1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6, 0];
        let swapped = [0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6];
        let dict = |descr: &str, order: &str| {
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': (2, 3), }}   \n")
        };
        for version in [1, 2, 3] {
            assert_eq!(read_file(&dict("<i2", "False"), version, &c, None).unwrap(), wanted);
            assert_eq!(read_file(&dict("<i2", "True"), version, &fortran, None).unwrap(), wanted);
            assert_eq!(read_file(&dict(">i2", "True"), version, &swapped, None).unwrap(), wanted);
        }
        let raw = read_file(&dict("|V2", "False"), 1, &c, Some(ElementType::Bfloat16)).unwrap();
        assert_eq!((raw.element, raw.data), (ElementType::Bfloat16, wanted.data));
    }

    #[test]
    fn values_that_elements_of_less_than_a_byte_lack_are_refused() {
        let dict =
            |descr: &str| format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2, 2), }}\n");
        let bytes = |values: [i16; 4]| values.map(|value| value as u8);
        use ElementType::{Float4e2m1, Int2, Int4, Uint2, Uint4};
        for (element, descr, values, packed) in [
            (Int4, "|i1", [-8, 7, 0, -1], vec![0x78, 0xf0]),
            (Int4, "|V1", [-8, 7, 15, -1], vec![0x78, 0xff]),
            (Uint4, "|i1", [15, 0, 1, 2], vec![0x0f, 0x21]),
            (Uint4, "|u1", [15, 0, 1, 2], vec![0x0f, 0x21]),
            (Int2, "|i1", [-2, 1, 0, -1], vec![0b11_00_01_10]),
            (Uint2, "|u1", [3, 0, 1, 2], vec![0b10_01_00_11]),
            (Float4e2m1, "|u1", [15, 0, 1, 2], vec![0x0f, 0x21]),
        ] {
            let array = read_file(&dict(descr), 1, &bytes(values), Some(element)).unwrap();
            assert_eq!(array.data, ArrayData::Bytes(packed), "{descr} for {}", element.name());
        }
        for (element, descr, value) in [
            (Int4, "|i1", 8),
            (Int4, "|i1", -9),
            (Int4, "|u1", 8),
            (Int4, "|V1", 16),
            (Uint4, "|i1", -1),
            (Uint4, "|u1", 200),
            (Uint4, "|V1", 16),
            (Int2, "|i1", 2),
            (Uint2, "|u1", 4),
        ] {
            let error = read_file(&dict(descr), 1, &bytes([0, 1, value, 1]), Some(element)).unwrap_err();
            let wanted = format!("the value {value} at [1, 0] is none of {}", element.name());
            assert!(error.to_string().contains(&wanted), "{error}");
        }
    }

    #[test]
    fn what_is_no_array_is_refused() {
        let dict = |descr: &str, shape: &str| {
            format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
        };
        for (dict, version, len, why) in [
            (dict("<f4", "(2,)"), 1, 7, "7 bytes of elements where its shape [2] needs 8"),
            (dict("<f4", "(2,)"), 1, 9, "9 bytes"),
            (dict("<f4", "(2,)"), 9, 8, "version 9"),
            (dict("<f4", "(18446744073709551615, 2)"), 1, 8, "too large"),
            (dict("<f4", "(-1,)"), 1, 8, "not understood"),
            (dict("[('a', '<f4')]", "(2,)"), 1, 8, "not understood"),
            (dict("<M8", "(1,)"), 1, 8, "has no tensor's elements"),
            ("{}".into(), 1, 8, "not understood"),
        ] {
            let message = read_file(&dict, version, &vec![0; len], None).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
        let (_folder, path) = file("", 1, &[]);
        std::fs::write(&path, b"PK").unwrap();
        assert!(read(&SystemDisk, &path, None).unwrap_err().to_string().contains("too short"));
        std::fs::write(&path, b"no array at all").unwrap();
        assert!(read(&SystemDisk, &path, None).unwrap_err().to_string().contains("no .npy file"));
    }

    #[test]
    fn headers_are_those_of_numpy() {
        for (shape, tuple) in
            [(&[3u64][..], "(3, )"), (&[2, 5], "(2, 5)"), (&[], "()"), (&[1, 2, 3], "(1, 2, 3)")]
        {
            let bytes = header(shape);
            assert!(bytes.len().is_multiple_of(64) && bytes.ends_with(b"\n"));
            assert_eq!(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), bytes.len() - 10);
            let dict = String::from_utf8_lossy(&bytes[10..]).into_owned();
            assert!(dict.contains(&format!("'shape': {tuple}, }}")), "{dict}");
        }
    }
}
