//! What is done with every damaged file, and the small models that are damaged.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use capsulegraph::container::disk::ReadAt;
use capsulegraph::convert::gguf::Gguf;
use capsulegraph::convert::import::{ConvertOptions, assets, convert};
use capsulegraph::decoder::Decoder;
use capsulegraph::decoder::forward::{Forward, Logits};
use capsulegraph::decoder::kv::KvCache;
use capsulegraph::kernels::backend::Backend;
use capsulegraph::kernels::cpu::Cpu;
use capsulegraph::kernels::kv::KvFormat;
use capsulegraph::pool::{Gate, Progress};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::fetch::FetchLayout;
use capsulegraph::store::{Mode, OpenOptions, Origin, Store};
use capsulegraph::text::Tokenizer;
use capsulegraph::{Error, Result};

use crate::disk::{MemoryDisk, View};
use crate::support::TinyModel;

/// Most bytes that one damaged file of a few hundred KiB may make the library hold.
pub const MEMORY_CAP: usize = 64 << 20;
/// Longest that anything may take with such a file.
pub const TIME_CAP: Duration = Duration::from_secs(5);

/// The files of one small model.
pub struct Files {
    /// Its full file.
    pub full: Arc<[u8]>,
    /// A mini that holds its feed-forward layer in a light form.
    pub light: Arc<[u8]>,
    /// A mini that only links it.
    pub linked: Arc<[u8]>,
    /// All of them: `m.gguf`, `m.cgraph`, `light.cgraph`, `linked.cgraph`.
    pub disk: MemoryDisk,
}

/// The GGUF file that is damaged: one block, width 32, to be as small as can be.
pub fn tiny() -> TinyModel {
    TinyModel { blocks: 1, width: 32, ffn: 32, heads: 2, kv_heads: 1, context: 64, ..TinyModel::default() }
}

/// The model whose `.cgraph` files are damaged: its feed-forward layer takes two units of 64 KiB, so that a light
/// form of it is smaller.
pub fn two_extents() -> TinyModel {
    TinyModel { width: 64, ffn: 192, encoding: "f16", ..tiny() }
}

/// [`two_extents`], converted and split.
pub fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| make(&two_extents()))
}

/// Converts and splits a model in memory.
pub fn make(model: &TinyModel) -> Files {
    let disk = MemoryDisk::default();
    disk.put("m.gguf", model.gguf());
    let options = ConvertOptions { disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
    convert("m.gguf".as_ref(), "m.cgraph".as_ref(), &options, &mut |_, _| {}).unwrap();
    let full = disk.get("m.cgraph").unwrap();
    let mini = |name: &str, light: &str| {
        // One unit less than pinning everything needs.
        let size = full.len() as u64 - (48 << 10);
        let light = light.parse().unwrap();
        let options = SplitOptions { size, light, disk: Arc::new(disk.clone()), ..SplitOptions::default() };
        split("m.cgraph".as_ref(), name.as_ref(), &options, &mut |_, _| {}).unwrap();
        disk.get(name).unwrap()
    };
    let (light, linked) = (mini("light.cgraph", "q4_0"), mini("linked.cgraph", "none"));
    Files { full, light, linked, disk }
}

/// The first `len` of `bytes` as a file.
pub fn view(bytes: &Arc<[u8]>, len: usize) -> Arc<dyn ReadAt> {
    Arc::new(View { path: "m.cgraph".into(), bytes: Arc::clone(bytes), len })
}

/// One processor for all: opening threads for each damaged file would cost more than the file.
fn cpu() -> Arc<dyn Backend> {
    static CPU: OnceLock<Arc<Cpu>> = OnceLock::new();
    Arc::clone(CPU.get_or_init(|| Arc::new(Cpu::new(1).unwrap()))) as Arc<dyn Backend>
}

/// How far a damaged file was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It was refused when it was opened.
    Refused,
    /// It was opened; its decoder, its tokenizer or a fetch was refused.
    Opened,
    /// Everything worked.
    Computed,
}

/// Opens a `.cgraph` and uses all of it: capsules, tokenizer, one forward pass.
pub fn use_graph(source: Arc<dyn ReadAt>, mode: Mode, full: Option<Arc<dyn ReadAt>>) -> Reached {
    let options = OpenOptions { mode, full: full.map(Origin::Source), ..OpenOptions::default() };
    let store = match Store::open(&Origin::Source(source), &options) {
        Ok(store) => Arc::new(store),
        Err(error) => {
            expected(&error);
            return Reached::Refused;
        }
    };
    let mut reached = Reached::Computed;
    let mut check = |result: Result<()>| {
        if let Err(error) = result {
            expected(&error);
            reached = Reached::Opened;
        }
    };
    for capsule in &store.manifest().capsules {
        for layout in [FetchLayout::Source, FetchLayout::F32] {
            check(store.fetch(&capsule.id, layout).map(drop));
        }
    }
    check(use_tokenizer(&store));
    check(evaluate(&store));
    reached
}

/// An error is told in words that a person can use, and is never blamed on the library itself.
pub fn expected(error: &Error) {
    assert!(!matches!(error, Error::Internal(_)), "{error}");
    assert!(error.to_string().len() > 10, "{error}");
}

const TEXT: &str = "the wörld is\t<|im_start|>user said 1234 <|im_end|>  ok \u{1f600}";

fn use_tokenizer(store: &Store) -> Result<()> {
    let tokenizer = Tokenizer::new(Arc::new(store.primary().shared_asset(assets::VOCAB)?))?;
    let ids = tokenizer.encode(TEXT, true, true)?;
    let plain = tokenizer.encode(TEXT, false, false)?;
    let text = tokenizer.decode(&ids, true) + &tokenizer.decode(&plain, false);
    let ends = (0..tokenizer.n_tokens().min(64)).filter(|id| tokenizer.is_end_of_generation(*id)).count();
    std::hint::black_box((text, ends));
    Ok(())
}

fn evaluate(store: &Arc<Store>) -> Result<()> {
    let decoder = Decoder::new(Arc::clone(store), cpu())?;
    let tokens = [1, 5, 77, 2].map(|id| id % decoder.params().vocab_size);
    let mut cache = KvCache::new(decoder.params(), tokens.len(), KvFormat::F16)?;
    let mut forward = Forward::default();
    decoder.begin(&mut forward, &cache, &tokens, Logits::All)?;
    let gate = Gate { deadline: Some(Instant::now() + TIME_CAP), cancel: None };
    let progress = decoder.advance(&mut forward, &mut cache, &gate)?;
    assert_eq!(progress, Progress::Done, "a forward pass took longer than {TIME_CAP:?}");
    Ok(())
}

/// Opens a GGUF file and, where that works, converts it and uses the result.
pub fn use_gguf(bytes: Arc<[u8]>) -> Reached {
    let len = bytes.len();
    if let Err(error) = Gguf::from_source(view(&bytes, len)) {
        expected(&error);
        return Reached::Refused;
    }
    let disk = MemoryDisk::default();
    disk.put("m.gguf", bytes);
    let options = ConvertOptions { disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
    match convert(Path::new("m.gguf"), Path::new("m.cgraph"), &options, &mut |_, _| {}) {
        Err(error) => {
            expected(&error);
            assert!(disk.get("m.cgraph").is_none(), "a failed conversion left a file");
            Reached::Opened
        }
        Ok(_) => {
            let full = disk.get("m.cgraph").unwrap();
            let len = full.len();
            match use_graph(view(&full, len), Mode::Auto, None) {
                Reached::Refused => panic!("what the converter wrote cannot be opened"),
                reached => reached,
            }
        }
    }
}
