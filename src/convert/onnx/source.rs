//! The files of an ONNX model: the model itself, mapped, and those that its external data lies in.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::proto::{ModelProto, TensorProto};
use super::wire;
use crate::container::disk::{Disk, ReadAt};
use crate::container::paths;
use crate::error::{Error, Result};
use crate::store::mapped;

/// Files of external data at most.
const MAX_FILES: usize = 1 << 16;
/// Longest model file, protobuf's own limit; larger models have external data.
const MAX_MODEL: u64 = (1 << 31) - 1;

/// Bytes of external data that are kept in memory at most: those that are no weights.
const MAX_KEPT: u64 = 256 << 20;

/// Where bytes lie in one of a source's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Number of the file; 0 is the model itself.
    pub file: usize,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// The files of an opened model.
#[derive(Debug)]
pub struct Source {
    disk: Arc<dyn Disk>,
    /// The model's bytes: mapped where it is a file.
    bytes: Bytes,
    /// Path and length of every file, the model's first.
    files: Vec<(PathBuf, u64)>,
    /// Numbers of the data files by location.
    numbers: HashMap<String, usize>,
    /// The file that was read last: some models have one for each tensor, more than a process may hold open.
    open: Mutex<(usize, Arc<dyn ReadAt>)>,
    /// Bytes of external data that are kept in memory.
    kept: u64,
}

impl Source {
    /// Opens the model at `path` and decodes it; no data of a tensor is read.
    ///
    /// # Errors
    /// [`Error::Io`]; those of [`wire::decode`].
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<(Self, ModelProto)> {
        let model = disk.open(path)?;
        let (name, len) = (model.name(), model.len());
        if len > MAX_MODEL {
            return Err(Error::malformed(
                name,
                format!(
                    "{len} bytes are too long for an ONNX model; above 2 GiB its weights lie in other files"
                ),
            ));
        }
        let bytes = Bytes::from_owner(mapped::whole(model.as_ref())?);
        let decoded = wire::decode(bytes.clone(), &name)?;
        let source = Self {
            disk,
            bytes,
            files: vec![(path.to_owned(), len)],
            numbers: HashMap::new(),
            open: Mutex::new((0, model)),
            kept: 0,
        };
        Ok((source, decoded))
    }

    /// The model's name for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.files.first().map(|(path, _)| path.display().to_string()).unwrap_or_default()
    }

    /// The paths of all files that are known so far.
    #[must_use]
    pub fn paths(&self) -> Vec<&Path> {
        self.files.iter().map(|(path, _)| path.as_path()).collect()
    }

    /// Where `data`, which was decoded from the model, lies in its file; `None` where it is memory of its own.
    #[must_use]
    pub fn place_of(&self, data: &[u8]) -> Option<Region> {
        let offset = (data.as_ptr() as usize).checked_sub(self.bytes.as_ptr() as usize)?;
        let inside = offset.checked_add(data.len()).is_some_and(|end| end <= self.bytes.len());
        inside.then_some(Region { file: 0, offset: offset as u64, len: data.len() as u64 })
    }

    /// Where the external data of `tensor`, which takes `needed` bytes, lies.
    ///
    /// # Errors
    /// [`Error::Malformed`] where its path is not one inside the model's folder, or the data leaves its file;
    /// [`Error::NotFound`] and [`Error::Io`] where the file cannot be opened.
    pub fn external(&mut self, tensor: &TensorProto, needed: u64) -> Result<Region> {
        let name = self.name();
        let bad = |why: String| Error::malformed(&name, format!("tensor {}: {why}", tensor.name()));
        let entry = |key: &str| {
            let found = tensor.external_data.iter().find(|e| e.key() == key);
            found.map(|e| e.value())
        };
        let number =
            |key: &str| match entry(key) {
                None => Ok(None),
                Some(text) => text.trim().parse::<u64>().map(Some).map_err(|_| {
                    bad(format!("the {key} {text:?} of its external data is not a number from 0"))
                }),
            };
        let location = entry("location")
            .filter(|location| !location.is_empty())
            .ok_or_else(|| bad("its external data has no location".into()))?;
        let (offset, len) = (number("offset")?.unwrap_or(0), number("length")?);
        if let Some(len) = len.filter(|len| *len != needed) {
            return Err(bad(format!(
                "its external data has {len} bytes where its shape and type need {needed}"
            )));
        }
        let file = self.file(location).map_err(|e| match e {
            Error::Malformed { detail, .. } => bad(detail),
            other => other.with_note(&format!("the data of tensor {} lies there", tensor.name())),
        })?;
        let file_len = self.files.get(file).map_or(0, |(_, len)| *len);
        if offset.checked_add(needed).is_none_or(|end| end > file_len) {
            return Err(bad(format!(
                "its external data, {needed} bytes at {offset}, leaves {location}, which has {file_len} bytes; copy that file again"
            )));
        }
        Ok(Region { file, offset, len: needed })
    }

    /// Counts `len` bytes of external data that are to be kept in memory.
    ///
    /// # Errors
    /// [`Error::Limit`] where all of them would be too many.
    pub fn keep_in_memory(&mut self, len: u64) -> Result<()> {
        self.kept = self.kept.saturating_add(len);
        if self.kept <= MAX_KEPT {
            return Ok(());
        }
        Err(Error::Limit(format!(
            "{}: more than {} MiB of external data belong to no weights (attributes, outputs of subgraphs)",
            self.name(),
            MAX_KEPT >> 20
        )))
    }

    /// The number of the data file at `location`.
    fn file(&mut self, location: &str) -> Result<usize> {
        if let Some(number) = self.numbers.get(location) {
            return Ok(*number);
        }
        let model = self.files.first().map(|(path, _)| path.clone()).unwrap_or_default();
        let path = inside(&model, location).map_err(|why| {
            Error::malformed("", format!("the location {location:?} of its external data {why}"))
        })?;
        if self.files.len() >= MAX_FILES {
            return Err(Error::Limit(format!(
                "{}: more than {MAX_FILES} files of external data",
                self.name()
            )));
        }
        let opened = self.disk.open(&path)?;
        let number = self.files.len();
        self.files.push((path, opened.len()));
        self.numbers.insert(location.to_owned(), number);
        self.open = Mutex::new((number, opened));
        Ok(number)
    }

    /// Reads `buf.len()` bytes from `at` within `region`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn read(&self, region: &Region, at: u64, buf: &mut [u8]) -> Result<()> {
        let Some((path, len)) = self.files.get(region.file) else {
            return Err(Error::Internal(format!("a region is of file {}, which is not there", region.file)));
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.0 != region.file {
            let opened = self.disk.open(path)?;
            if opened.len() != *len {
                return Err(Error::malformed(
                    path.display().to_string(),
                    "its length changed while it was read",
                ));
            }
            *open = (region.file, opened);
        }
        let wanted = buf.len();
        let offset = region.offset.saturating_add(at);
        let done = open.1.read_exact_at(offset, buf);
        done.map_err(|e| Error::io(format!("read {wanted} bytes at {offset} of"), path, e))
    }
}

/// The path of the data file at `location`, which must lie in the folder of `model`, or in that of the file to which
/// `model` links: whoever wrote the model must not choose other files of this machine.
fn inside(model: &Path, location: &str) -> Result<PathBuf, &'static str> {
    // Models from Windows hold `\` where others would take it for a part of the name.
    let relative = PathBuf::from(location.replace('\\', "/"));
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if paths::says_more(location) || !relative.components().all(plain) {
        return Err("is not a path inside the model's folder; only such files are read");
    }
    let folder = |model: &Path| model.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    let parts = relative.components().filter(|part| matches!(part, Component::Normal(_)));
    let path = folder(model).join(parts.collect::<PathBuf>());
    // What does not exist, or not on the system's disk, is left to whoever opens it.
    let Ok(real) = path.canonicalize() else { return Ok(path) };
    let named =
        if model.parent().is_none_or(|p| p.as_os_str().is_empty()) { ".".into() } else { folder(model) };
    let folders = [named.canonicalize().ok(), model.canonicalize().ok().map(|model| folder(&model))];
    if folders.iter().flatten().any(|folder| real.starts_with(folder)) {
        Ok(path)
    } else {
        Err("leaves the model's folder through a link; put the data file into the model's folder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_files_of_the_models_folder_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        fs::create_dir_all(folder.join("sub")).unwrap();
        let model = folder.join("m.onnx");
        for file in [&model, &folder.join("w"), &folder.join("sub/w"), &dir.path().join("secret")] {
            fs::write(file, "x").unwrap();
        }
        for good in ["w", "./w", "sub/w", "sub\\w", "missing"] {
            assert!(inside(&model, good).is_ok(), "{good}");
        }
        for bad in ["../secret", "sub/../../secret", "/etc/passwd", "..\\secret", "\\\\host\\w", "a\0b"] {
            assert!(inside(&model, bad).is_err(), "{bad}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_may_not_leave_the_folder() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["a", "blobs"] {
            fs::create_dir(at(folder)).unwrap();
        }
        for file in ["secret", "a/m.onnx", "blobs/1", "blobs/2"] {
            fs::write(at(file), "x").unwrap();
        }
        symlink(at("secret"), at("a/w")).unwrap();
        symlink("../blobs/1", at("a/linked.onnx")).unwrap();
        symlink("../blobs/2", at("a/linked.data")).unwrap();
        assert!(inside(&at("a/m.onnx"), "w").is_err());
        assert!(inside(&at("a/m.onnx"), "linked.data").is_err());
        // Caches keep the files of a model in one folder and link to them.
        assert!(inside(&at("a/linked.onnx"), "linked.data").is_ok());
        assert!(inside(&at("a/linked.onnx"), "w").is_err());
    }
}
