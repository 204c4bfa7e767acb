//! Verifying files, and rebuilding a mini from its full file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::importance::{self, Importance};
use super::options::SplitOptions;
use super::{onnx, write};
use crate::container::checksum::xxh3_hex;
use crate::container::disk::{Disk, SystemDisk};
use crate::container::manifest::Manifest;
use crate::container::reader::{Contents, Damage, check_payload};
use crate::convert::import::{ProgressFn, assets};
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::kernels::cpu::Cpu;
use crate::pool::CancelToken;
use crate::store::mapped::MappedFile;
use crate::store::{Mode, OpenOptions, Origin, Store, other_model};
use crate::text::Tokenizer;

/// How to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// The full file of a mini, where it is not the one beside it.
    pub full: Option<PathBuf>,
    /// Read everything and hold it against the checksums.
    pub deep: bool,
    /// Where files live.
    pub disk: Arc<dyn Disk>,
    /// Stops the work.
    pub cancel: Option<CancelToken>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { full: None, deep: false, disk: Arc::new(SystemDisk), cancel: None }
    }
}

/// What was verified and found.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// The file.
    pub file: String,
    /// `full` or `mini`.
    pub kind: &'static str,
    /// Digest of the file.
    pub digest: String,
    /// Capsules.
    pub capsules: usize,
    /// Whether checksums were read.
    pub deep: bool,
    /// Of a mini: the full file it was held against.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<String>,
    /// Everything that is wrong; empty where all is well.
    pub problems: Vec<Damage>,
}

/// Verifies structure, bounds, and that every edge of the graph is served; of a mini also its link index
/// against the full file; with `deep` every checksum of both.
///
/// # Errors
/// Those of opening the file itself ([`Error::Malformed`], ...), and [`Error::Cancelled`]. What is found
/// beyond that is in the result.
pub fn verify(path: &Path, options: &VerifyOptions, progress: &mut ProgressFn<'_>) -> Result<Verified> {
    let file = MappedFile::open(options.disk.open(path)?)?;
    let contents = file.contents();
    let mut result = Verified {
        file: file.name().to_owned(),
        kind: contents.header.kind.name(),
        digest: contents.digest.clone(),
        capsules: contents.manifest.capsules.len(),
        deep: options.deep,
        full: None,
        problems: Vec::new(),
    };
    match open_store(path, options) {
        Err(error) => result.problems.push(Damage { capsule: None, detail: error.to_string() }),
        Ok(store) => {
            let store = Arc::new(store);
            result.full = store.full().map(|f| f.name().to_owned()).filter(|f| *f != result.file);
            if let Err(error) = check_model(&store) {
                result.problems.push(Damage { capsule: None, detail: error.to_string() });
            }
            if options.deep
                && let Some(full) = store.full().filter(|f| f.name() != result.file)
            {
                deep(full, options, progress, &mut result.problems)?;
            }
        }
    }
    if options.deep {
        deep(&file, options, progress, &mut result.problems)?;
    }
    Ok(result)
}

fn open_store(path: &Path, options: &VerifyOptions) -> Result<Store> {
    let full = options.full.clone().map(Origin::Path);
    let open =
        OpenOptions { mode: Mode::Exact, full, disk: Arc::clone(&options.disk), ..OpenOptions::default() };
    Store::open(&Origin::Path(path.to_owned()), &open)
}

/// Every tensor that the architecture needs is there, and the tokenizer can be read; of an ONNX model the graphs and their
/// weights.
fn check_model(store: &Arc<Store>) -> Result<()> {
    if store.manifest().model.onnx.is_some() {
        return crate::onnx::check(store);
    }
    Decoder::new(Arc::clone(store), Arc::new(Cpu::new(1)?))?;
    if store.manifest().asset(assets::VOCAB).is_some() {
        Tokenizer::new(Arc::new(store.primary().shared_asset(assets::VOCAB)?))?;
    }
    Ok(())
}

fn deep(
    file: &MappedFile,
    options: &VerifyOptions,
    progress: &mut ProgressFn<'_>,
    problems: &mut Vec<Damage>,
) -> Result<()> {
    let total = file.contents().header.file_len;
    let found = check_payload(file.source(), file.contents(), options.cancel.as_ref(), &mut |done| {
        progress(done, total);
    })?;
    problems.extend(
        found
            .into_iter()
            .map(|damage| Damage { detail: format!("{}: {}", file.name(), damage.detail), ..damage }),
    );
    Ok(())
}

/// What [`check`] found and did.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The last verification.
    #[serde(flatten)]
    pub verified: Verified,
    /// Whether the mini was rebuilt before it.
    pub repaired: bool,
    /// What had been wrong before the mini was rebuilt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mended: Vec<Damage>,
}

/// [`verify`], and where that finds problems and `may_repair` allows it, [`repair`] and [`verify`] again.
///
/// # Errors
/// Those of [`verify`] and [`repair`].
pub fn check(
    path: &Path,
    options: &VerifyOptions,
    may_repair: bool,
    progress: &mut ProgressFn<'_>,
) -> Result<Outcome> {
    let verified = verify(path, options, progress)?;
    if verified.problems.is_empty() || !may_repair {
        return Ok(Outcome { verified, repaired: false, mended: Vec::new() });
    }
    repair(path, options, progress)?;
    let mended = verified.problems;
    Ok(Outcome { verified: verify(path, options, progress)?, repaired: true, mended })
}

/// Rebuilds the mini at `path` from its full file with the plan that the mini recorded, or where that does
/// not suit the full file, with the same size and light option. Another conversion of the same model will do. Returns the
/// new length.
///
/// # Errors
/// [`Error::Mismatch`] where no full file can be reached, `path` is no mini, or the full file is of another model: it
/// names what differs, and nothing is written.
pub fn repair(path: &Path, options: &VerifyOptions, progress: &mut ProgressFn<'_>) -> Result<u64> {
    // Not mapped: Windows replaces no file that is.
    let Contents { name, manifest, .. } = Contents::read(options.disk.open(path)?.as_ref())?;
    let (Some(plan), Some(reference)) = (&manifest.plan, &manifest.full) else {
        return Err(Error::Mismatch(format!(
            "{name}: this is a full file; only a mini can be rebuilt (convert the source again)"
        )));
    };
    let beside = Path::new(&reference.file_name).file_name().map(|name| path.with_file_name(name));
    let source = options.full.clone().or(beside).ok_or_else(|| {
        Error::Mismatch(format!("{name}: the mini names no full file; give it with --full"))
    })?;
    let full = write::open_full(&source, options.disk.as_ref())?;
    if let Some(why) = other_model(&manifest, &full.contents().manifest) {
        return Err(Error::Mismatch(format!(
            "{name}: it cannot be rebuilt from {}, which is of another model: {why}; name a full file of the mini's own \
             model with --full, or derive another mini with cgraph split",
            full.name()
        )));
    }
    let split_options = SplitOptions {
        size: plan.size,
        light: plan.light.parse()?,
        calibrate: None,
        disk: Arc::clone(&options.disk),
        cancel: options.cancel.clone(),
        ..SplitOptions::default()
    };
    let importance = recorded_importance(&manifest, path, options);
    let written = match &full.contents().manifest.model.onnx {
        Some(info) => onnx::write(&full, info, path, plan, &split_options, progress),
        None => write::write(&full, path, plan, importance.as_ref(), &split_options, progress),
    };
    match written {
        Err(Error::Mismatch(_)) => Ok(write::split(&source, path, &split_options, progress)?.bytes),
        other => other,
    }
}

/// The importance that the light forms of a mini were fitted with, where its asset is whole.
fn recorded_importance(manifest: &Manifest, path: &Path, options: &VerifyOptions) -> Option<Importance> {
    let asset = manifest.asset(importance::ASSET)?;
    let mut bytes = vec![0; usize::try_from(asset.len).ok()?];
    options.disk.open(path).ok()?.read_exact_at(asset.offset, &mut bytes).ok()?;
    (xxh3_hex(&bytes) == asset.xxh3).then(|| Importance::read(&manifest.capsules, &bytes))?
}
