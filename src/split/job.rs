//! The one place that joins conversion and split.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::options::SplitOptions;
use super::plan::Light;
use super::write::{SplitSummary, split};
use crate::container::paths::refuse_overwriting;
use crate::convert::Format;
use crate::convert::import::{ConvertOptions, Converted, Planes, ProgressFn, convert_opened, open_source};
use crate::convert::onnx::import::OnnxModel;
use crate::error::{Error, Result};

/// What a conversion with split wrote.
#[derive(Clone, Debug, Serialize)]
pub struct Produced {
    /// The full file.
    pub full: Converted,
    /// The mini, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mini: Option<SplitSummary>,
    /// Why there is none, of an ONNX model whose mini nobody named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_mini: Option<String>,
}

/// Which files a conversion writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The full file.
    pub full: PathBuf,
    /// The mini, where one is wanted.
    pub mini: Option<PathBuf>,
    /// Whether somebody named the mini. An ONNX model's has to be measured, which needs ONNX Runtime and may show that it is no
    /// good: then one that nobody named is left out.
    pub is_mini_named: bool,
}

impl Targets {
    /// The files' names: `out`, else the source's with the ending `.cgraph`; and `mini`, else the full
    /// file's with `.mini.cgraph`, unless `no_mini`.
    #[must_use]
    pub fn new(source: &Path, out: Option<&Path>, mini: Option<&Path>, no_mini: bool) -> Self {
        let full = out.map_or_else(|| source.with_extension("cgraph"), Path::to_owned);
        let is_mini_named = mini.is_some();
        let mini = (!no_mini).then(|| mini.map_or_else(|| default_mini(&full), Path::to_owned));
        Self { full, mini, is_mini_named }
    }
}

/// `model.cgraph` gives `model.mini.cgraph`.
#[must_use]
pub fn default_mini(full: &Path) -> PathBuf {
    full.with_extension("mini.cgraph")
}

/// Converts a source model and derives its mini.
///
/// # Errors
/// Those of [`convert`](crate::convert::import::convert) and [`split`]; [`Error::InvalidArgument`] where both files have
/// one name or the mini that of a file of the source.
pub fn produce(
    source: &Path,
    targets: &Targets,
    convert_options: &ConvertOptions,
    split_options: &SplitOptions,
    progress: &mut dyn FnMut(Phase, u64, u64),
) -> Result<Produced> {
    let files: Vec<&Path> =
        [Some(&targets.full), targets.mini.as_ref()].into_iter().flatten().map(PathBuf::as_path).collect();
    // Before the source is looked at.
    refuse_overwriting(&[source], &files)?;
    let is_onnx = Format::of(source, convert_options.disk.as_ref())? == Format::Onnx;
    let full = {
        let mut sink: Box<ProgressFn<'_>> = Box::new(|done, total| progress(Phase::Convert, done, total));
        if is_onnx {
            let model = OnnxModel::open(source, &files, convert_options)?;
            model.convert(source, &targets.full, convert_options, &mut sink)?
        } else {
            let gguf = open_source(source, &files, convert_options)?;
            let planes = match (convert_options.planes, &targets.mini) {
                // Other minis hold no first planes.
                (Planes::Auto, Some(_)) if split_options.light == Light::Auto => Planes::Divided,
                (chosen, _) => chosen,
            };
            let options = ConvertOptions { planes, ..convert_options.clone() };
            convert_opened(&gguf, source, &targets.full, &options, &mut sink)?
        }
    };
    let Some(path) = &targets.mini else { return Ok(Produced { full, mini: None, without_mini: None }) };
    let mut sink: Box<ProgressFn<'_>> = Box::new(|done, total| progress(Phase::Split, done, total));
    match split(&targets.full, path, split_options, &mut sink) {
        Ok(mini) => Ok(Produced { full, mini: Some(mini), without_mini: None }),
        // What was named for it must do.
        Err(
            why @ (Error::NotFound(_)
            | Error::Unsupported(_)
            | Error::Limit(_)
            | Error::Mismatch(_)
            | Error::InvalidArgument(_)),
        ) if is_onnx && !targets.is_mini_named && split_options.calibrate.is_none() => {
            Ok(Produced { full, mini: None, without_mini: Some(why.to_string()) })
        }
        Err(why) => Err(full_is_there(why, &targets.full)),
    }
}

/// Says of a mini that could not be made that its full file was.
fn full_is_there(error: Error, full: &Path) -> Error {
    error.with_note(&format!("{} is written, its mini is not", full.display()))
}

/// The phase that a progress report belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The full file is being written.
    Convert,
    /// The mini is being written.
    Split,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_never_written_to() {
        let source = Path::new("no-such-folder/m.gguf");
        for mini in [Some(source.to_owned()), Some("a.cgraph".into())] {
            let targets = Targets { full: "a.cgraph".into(), mini, is_mini_named: true };
            let (convert, split) = (ConvertOptions::default(), SplitOptions::default());
            let error = produce(source, &targets, &convert, &split, &mut |_, _, _| {}).err();
            assert!(matches!(error, Some(Error::InvalidArgument(_))), "{error:?}");
        }
    }
}
