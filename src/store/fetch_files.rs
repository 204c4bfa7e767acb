//! Writing a fetched capsule to a directory: one file per tensor and a description of all.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::fetch::{FetchedCapsule, FetchedTensor};
use crate::container::disk::Disk;
use crate::container::manifest::Layout;
use crate::container::npy;
use crate::container::paths::{is_device, refuse_overwriting};
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::pool::{CancelToken, unless_cancelled};

/// Name of the description in the directory.
pub const DESCRIPTION: &str = "capsule.json";
/// Longest file name that is made from a tensor's name, without its ending.
const MAX_STEM: usize = 120;

/// What was written; also the content of `capsule.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CapsuleFiles {
    /// The capsule.
    pub id: String,
    /// The file that served it.
    pub source: String,
    /// `full`, `pinned`, `light` or `nested`.
    pub precision: String,
    /// The directory.
    #[serde(skip)]
    pub directory: PathBuf,
    /// One entry a tensor, in the order of use.
    pub tensors: Vec<TensorFile>,
}

/// One tensor's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorFile {
    /// The tensor's own name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Encoding of the file's elements.
    pub encoding: String,
    /// `rows`, `packed8` or `plain`.
    pub layout: String,
    /// File name in the directory: `.npy` for f32 in rows and for plain elements, `.bin` for the raw bytes of anything else.
    pub file: String,
    /// Bytes of the tensor's data in it.
    pub bytes: u64,
}

impl FetchedCapsule<'_> {
    /// Writes every tensor and then [`DESCRIPTION`] into `directory`, which is made where it is missing.
    ///
    /// Each file appears whole or not at all, and the description last: without it a directory is not complete. File
    /// names are the tensors' names with everything but ASCII letters, digits, `_`, `-` and `.` replaced, so no name
    /// leaves the directory.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; [`Error::InvalidArgument`] where the capsule's own file would be overwritten;
    /// [`Error::Cancelled`], after which the files that were whole before stay.
    pub fn write_to(
        &self,
        directory: &Path,
        disk: &dyn Disk,
        cancel: Option<&CancelToken>,
    ) -> Result<CapsuleFiles> {
        unless_cancelled(cancel)?;
        std::fs::create_dir_all(directory).map_err(|e| Error::io("create the directory", directory, e))?;
        let mut used = HashSet::new();
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            let file = name_of(tensor, &mut used);
            if let Some(element) = plain_element(tensor) {
                unless_cancelled(cancel)?;
                let path = directory.join(&file);
                refuse_overwriting(&[Path::new(self.file)], &[&path])?;
                npy::write(disk, &path, element, tensor.shape, &tensor.bytes)?;
                tensors.push(described(tensor, file));
                continue;
            }
            let head = if is_npy(tensor) { npy::header(tensor.shape) } else { Vec::new() };
            self.write_file(disk, &directory.join(&file), &[&head, &tensor.bytes], cancel)?;
            tensors.push(described(tensor, file));
        }
        let files = CapsuleFiles {
            id: self.id.to_owned(),
            source: self.file.to_owned(),
            precision: self.precision.to_owned(),
            directory: directory.to_owned(),
            tensors,
        };
        let mut json = serde_json::to_vec_pretty(&files)
            .map_err(|e| Error::Internal(format!("the description of {} is no JSON: {e}", self.id)))?;
        json.push(b'\n');
        self.write_file(disk, &directory.join(DESCRIPTION), &[&json], cancel)?;
        Ok(files)
    }

    fn write_file(
        &self,
        disk: &dyn Disk,
        path: &Path,
        parts: &[&[u8]],
        cancel: Option<&CancelToken>,
    ) -> Result<()> {
        refuse_overwriting(&[Path::new(self.file)], &[path])?;
        let mut file = disk.create(path)?;
        for part in parts.iter().flat_map(|bytes| bytes.chunks(4 << 20)) {
            unless_cancelled(cancel)?;
            file.append(part)?;
        }
        file.commit()
    }
}

fn is_npy(tensor: &FetchedTensor<'_>) -> bool {
    tensor.encoding == "f32" && tensor.layout == "rows"
}

/// The element type of a tensor of plain elements.
fn plain_element(tensor: &FetchedTensor<'_>) -> Option<ElementType> {
    (tensor.layout == Layout::Plain.name()).then(|| ElementType::by_name(tensor.encoding)).flatten()
}

/// The name of a tensor's file; `used` holds those of the others, in small letters.
fn name_of(tensor: &FetchedTensor<'_>, used: &mut HashSet<String>) -> String {
    let stem = safe_name(tensor.name);
    let ending = if is_npy(tensor) || plain_element(tensor).is_some() { "npy" } else { "bin" };
    let mut file = format!("{stem}.{ending}");
    let mut serial = 2;
    // Some systems hold names that differ in case alone for one.
    while !used.insert(file.to_ascii_lowercase()) {
        file = format!("{stem}-{serial}.{ending}");
        serial += 1;
    }
    file
}

fn described(tensor: &FetchedTensor<'_>, file: String) -> TensorFile {
    TensorFile {
        name: tensor.name.to_owned(),
        shape: tensor.shape.to_vec(),
        encoding: tensor.encoding.to_owned(),
        layout: tensor.layout.to_owned(),
        file,
        bytes: tensor.bytes.len() as u64,
    }
}

/// A name as a file name that every system takes and that stays in its directory.
#[must_use]
pub fn safe_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
    let mut safe: String = name.chars().map(plain).take(MAX_STEM).collect();
    if safe.is_empty() || safe.starts_with(['.', '-']) || is_device(&safe) {
        safe.insert(0, '_');
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::safe_name;

    #[test]
    fn no_name_leaves_its_directory() {
        assert_eq!(safe_name("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
        assert_eq!(safe_name("../../etc/passwd"), "_.._.._etc_passwd");
        assert_eq!(safe_name("C:\\x"), "C__x");
        assert_eq!(safe_name(""), "_");
        assert_eq!(safe_name(".."), "_..");
        assert_eq!(safe_name("COM1.weight"), "_COM1.weight");
        assert_eq!(safe_name(&"é".repeat(500)).len(), 120);
    }
}
