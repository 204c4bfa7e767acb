//! Reading GGUF files, versions 2 and 3, sharded ones too (format: ggml's published specification).
//!
//! Nothing is trusted: every count and length is held against what is left of the file before anything is
//! allocated, all arithmetic is checked, and caps bound what a crafted file can make us hold.

mod header;
mod values;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use header::TensorInfo;
pub use values::{Array, Value};

use crate::container::disk::{Disk, ReadAt};
use crate::error::{Error, Result};

/// Most shards of one model.
const MAX_SHARDS: u64 = 1024;

/// An opened GGUF model: the metadata of its first file and the tensors of all its shards.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<Arc<dyn ReadAt>>,
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

impl Gguf {
    /// Opens a model; of a sharded one, any shard names the others.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`], [`Error::Unsupported`], naming file and place.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        let first = Self::from_source(disk.open(path)?)?;
        let shards = match first.metadata("split.count") {
            Some(value) => value.as_u64().unwrap_or(0),
            None => 1,
        };
        if shards <= 1 {
            return Ok(first);
        }
        if shards > MAX_SHARDS {
            return Err(Error::malformed(
                path.display().to_string(),
                format!("split.count is {shards}; at most {MAX_SHARDS} shards are read"),
            ));
        }
        Self::open_shards(disk, path, shards)
    }

    /// Reads one file's metadata and tensor list.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_source(source: Arc<dyn ReadAt>) -> Result<Self> {
        let (metadata, tensors) = header::read(source.as_ref(), 0)?;
        Self::join(vec![source], metadata, tensors)
    }

    fn open_shards(disk: &dyn Disk, path: &Path, shards: u64) -> Result<Self> {
        let paths = shard_paths(path, shards)?;
        let mut files: Vec<Arc<dyn ReadAt>> = Vec::new();
        let (mut metadata, mut tensors) = (Vec::new(), Vec::new());
        for (number, shard) in paths.iter().enumerate() {
            let source = disk.open(shard).map_err(|e| {
                Error::NotFound(format!("shard {} of {shards} cannot be opened: {e}", number + 1))
            })?;
            let (own_metadata, own_tensors) = header::read(source.as_ref(), number)?;
            let own_number = own_metadata.iter().find(|(k, _)| k == "split.no").and_then(|(_, v)| v.as_u64());
            if own_number.is_some_and(|n| n != number as u64) {
                return Err(Error::malformed(
                    source.name(),
                    format!("its split.no is {}, its name says {number}", own_number.unwrap_or(0)),
                ));
            }
            if number == 0 {
                metadata = own_metadata;
            }
            tensors.extend(own_tensors);
            files.push(source);
        }
        let model = Self::join(files, metadata, tensors)?;
        let expected = model.metadata("split.tensors.count").and_then(Value::as_u64);
        if expected.is_some_and(|n| n != model.tensors.len() as u64) {
            return Err(Error::malformed(
                path.display().to_string(),
                format!(
                    "the shards hold {} tensors where split.tensors.count says {}",
                    model.tensors.len(),
                    expected.unwrap_or(0)
                ),
            ));
        }
        Ok(model)
    }

    fn join(
        files: Vec<Arc<dyn ReadAt>>,
        metadata: Vec<(String, Value)>,
        tensors: Vec<TensorInfo>,
    ) -> Result<Self> {
        let mut index = HashMap::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name.clone(), i).is_some() {
                return Err(Error::malformed(
                    files[tensor.file].name(),
                    format!("tensor {} is listed twice", tensor.name),
                ));
            }
        }
        Ok(Self { files, metadata, tensors, index })
    }

    /// The first file's name for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.files.first().map(|f| f.name()).unwrap_or_default()
    }

    /// The paths of all files that are files of their own.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        self.files.iter().filter_map(|file| file.path()).collect()
    }

    /// Number of files.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.files.len()
    }

    /// The metadata, in file order.
    #[must_use]
    pub fn all_metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// The metadata value called `key`.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&Value> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Every tensor of every shard.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).and_then(|i| self.tensors.get(*i))
    }

    /// Reads part of a tensor's data: `buf.len()` bytes from `offset` within it.
    ///
    /// # Errors
    /// [`Error::Io`] naming file and tensor.
    pub fn read_tensor(&self, tensor: &TensorInfo, offset: u64, buf: &mut [u8]) -> Result<()> {
        let file = &self.files[tensor.file];
        file.read_exact_at(tensor.offset.saturating_add(offset), buf).map_err(|e| {
            Error::io(format!("read {} bytes of tensor {} from", buf.len(), tensor.name), file.name(), e)
        })
    }
}

/// Whether the file begins as a GGUF file does.
///
/// # Errors
/// [`Error::Io`] naming the path.
pub fn is_gguf(path: &Path, disk: &dyn Disk) -> Result<bool> {
    let source = disk.open(path)?;
    let mut magic = [0; 4];
    // A file that is too short for the magic is no GGUF file; what it is, its reader says.
    Ok(source.len() >= 4 && source.read_exact_at(0, &mut magic).is_ok() && magic == *b"GGUF")
}

/// The names of all shards, from the name of one: `NAME-00002-of-00005.gguf`.
fn shard_paths(path: &Path, shards: u64) -> Result<Vec<PathBuf>> {
    let wrong = || {
        Error::InvalidArgument(format!(
            "{}: the model has {shards} shards, but the file is not named NAME-00001-of-{shards:05}.gguf; restore the original names",
            path.display()
        ))
    };
    let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(wrong)?;
    let suffix = format!("-of-{shards:05}.gguf");
    let stem = name.strip_suffix(&suffix).ok_or_else(wrong)?;
    let cut = stem.len().checked_sub(6).filter(|c| stem.is_char_boundary(*c)).ok_or_else(wrong)?;
    let (prefix, number) = stem.split_at(cut);
    if !number.starts_with('-') || !number[1..].bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    Ok((1..=shards).map(|n| path.with_file_name(format!("{prefix}-{n:05}{suffix}"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shard_names_follow_from_any_shard() {
        let paths = shard_paths(Path::new("dir/m-00002-of-00003.gguf"), 3).unwrap();
        assert_eq!(paths[0], Path::new("dir/m-00001-of-00003.gguf"));
        assert_eq!(paths[2], Path::new("dir/m-00003-of-00003.gguf"));
        for bad in ["m.gguf", "m-00001-of-00002.gguf", "-of-00003.gguf", "é-of-00003.gguf"] {
            assert!(shard_paths(Path::new(bad), 3).is_err(), "{bad}");
        }
    }
}
