//! `cgraph run` and `cgraph bench` with ONNX models: tensors in, tensors out.

use std::path::Path;
use std::time::Instant;

use capsulegraph::container::disk::{Disk, SystemDisk};
use capsulegraph::container::npy;
use capsulegraph::container::reader::Contents;
use capsulegraph::convert::gguf::is_gguf;
use capsulegraph::convert::onnx;
use capsulegraph::graph::element::ElementType;
use capsulegraph::graph::onnx::{OnnxDim, OnnxKind};
use capsulegraph::onnx::feed::{Feed, made_up};
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions};
use capsulegraph::onnx::value::Value;
use capsulegraph::pool::CancelToken;
use capsulegraph::report::Report;
use capsulegraph::report::memory::MemorySampler;
use capsulegraph::report::onnx::OutputReport;
use capsulegraph::store::budget::Budget;
use capsulegraph::store::{Mode, Origin};
use capsulegraph::{Error, Result};

use crate::args::{BenchArgs, Binding, ComputeArgs, OnnxArgs, RunArgs, Switch};
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::quote::quoted;
use crate::size::human;
use crate::ui::{self, Ui, converted_name, counted};

/// Bytes of made-up inputs at most.
const MADE_UP_BYTES: u64 = 16 << 30;

/// Elements of an output that are shown.
const SHOWN: usize = 8;

/// Whether `file` is a `.cgraph` file of an ONNX model. Anything that cannot be read is left to whoever opens it.
pub fn is_onnx(file: &Path) -> Result<bool> {
    if is_gguf(file, &SystemDisk)? {
        return Ok(false);
    }
    if onnx::is_onnx(file, &SystemDisk)? {
        return Err(Error::InvalidArgument(format!(
            "{} is an ONNX model as others have it; convert it once with: cgraph convert {} -o {}",
            file.display(),
            quoted(file),
            quoted(&converted_name(file))
        )));
    }
    let contents = Contents::read(SystemDisk.open(file)?.as_ref())?;
    Ok(contents.manifest.model.onnx.is_some())
}

/// `cgraph run` of an ONNX model.
pub fn run(args: &RunArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    let inputs = read_files(&args.file, &args.compute, &args.onnx);
    let written = args.output.iter().map(|output| Some(output.path.as_path()));
    let written: Vec<Option<&Path>> = written.chain([args.report.report.as_deref()]).collect();
    let outputs = Outputs::checked(&written, &inputs)?;
    let sampler = MemorySampler::new();
    let model = open(&args.file, &args.compute, &args.onnx, &outputs, ui)?;
    let mut feed = Feed::default();
    take_files(&model, &args.onnx.input, &mut feed)?;
    sampler.sample();
    let wanted: Vec<&str> = args.output.iter().map(|output| output.name.as_str()).collect();
    refuse_unwritable(&model, &wanted)?;
    let values = model.run(&feed.inputs(), &wanted, Some(cancel))?;
    sampler.sample();
    let names: Vec<&str> = match wanted.is_empty() {
        true => model.outputs().iter().map(|port| port.name.as_str()).collect(),
        false => wanted,
    };
    let mut facts = Vec::with_capacity(values.len());
    for (index, (name, value)) in names.iter().zip(&values).enumerate() {
        let file = args.output.get(index).map(|output| output.path.as_path());
        match file {
            Some(path) => write(name, value, path)?,
            None if !args.report.json => ui::print(&summary(name, value)?)?,
            None => {}
        }
        facts.push(OutputReport::new(name, value, file.map(|path| path.display().to_string())));
    }
    remark(&model, ui);
    args.report.deliver(&Report::of_onnx("run", &model, &sampler).with_outputs(facts))
}

/// `cgraph bench` of an ONNX model.
pub fn bench(args: &BenchArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    let inputs = read_files(&args.file, &args.compute, &args.onnx);
    let outputs = Outputs::checked(&[args.report.report.as_deref()], &inputs)?;
    let sampler = MemorySampler::new();
    let model = open(&args.file, &args.compute, &args.onnx, &outputs, ui)?;
    let mut feed = Feed::default();
    take_files(&model, &args.onnx.input, &mut feed)?;
    let dims: Vec<(String, u64)> = args.dim.iter().map(|dim| (dim.0.clone(), dim.1)).collect();
    refuse_unknown(&model, &dims)?;
    let by_hand = feed.inputs().len();
    let (runtime, mut room) = (model.runtime()?, MADE_UP_BYTES);
    for (number, port) in model.inputs().iter().enumerate() {
        if !port.optional && !feed.has(&port.name) {
            feed.add(runtime, &port.name, made_up(port, &dims, number as u64, &mut room)?)?;
        }
    }
    sampler.sample();
    let fed = feed.inputs();
    let bar = ui.count_bar("measuring");
    let mut runs = Vec::with_capacity(args.repeat);
    for run in 0..=args.repeat {
        let begun = Instant::now();
        model.run(&fed, &[], Some(cancel)).map_err(|why| match why {
            Error::Mismatch(text) if by_hand < fed.len() => Error::Mismatch(format!(
                "{text} (made-up inputs may not suit the model: name lengths with --dim, or give inputs with --input)"
            )),
            why => why,
        })?;
        // The first makes the sessions, and is told of by itself.
        if run > 0 {
            runs.push(begun.elapsed());
        }
        sampler.sample();
        ui::show(&bar, run as u64, args.repeat as u64);
    }
    bar.finish_and_clear();
    let report = Report::of_onnx("bench", &model, &sampler).with_runs(&runs);
    if !args.report.json {
        ui::print(&table(&report))?;
    }
    args.report.deliver(&report)
}

fn table(report: &Report) -> String {
    let size = report.model.mini_bytes.or(report.model.full_bytes).unwrap_or(0);
    let mut text = format!(
        "{} ({}), {}, {}, mode {}, {} with {}\n",
        report.model.name,
        report.model.arch,
        human(size),
        counted(report.capsules.total, "capsule"),
        report.mode,
        report.backend,
        counted(report.threads, "thread")
    );
    let Some(facts) = &report.onnx else { return text };
    let mut line = |what: &str, millis: Option<f64>| {
        if let Some(millis) = millis {
            text.push_str(&format!("{what:>14}  {millis:10.2} ms\n"));
        }
    };
    line("open", Some(report.open_ms));
    line("first run", facts.first_run_ms);
    line("mean", facts.run_ms);
    line("fastest", facts.run_min_ms);
    text.push_str(&format!(
        "{:>14}  {} of {}{}\n",
        "prepacked",
        facts.prepacked.len(),
        counted(report.capsules.total, "capsule"),
        if facts.zero_copy { "" } else { "; this runtime copies weights (before 1.31)" }
    ));
    text
}

/// Opens the model at `file`, whose full file `outputs` must spare too.
fn open(
    file: &Path,
    compute: &ComputeArgs,
    onnx: &OnnxArgs,
    outputs: &Outputs<'_>,
    ui: &Ui,
) -> Result<OnnxModel> {
    let mut store = compute.file.open_options();
    store.budget = compute.memory.map(Budget::new);
    let options = OnnxOptions {
        store,
        threads: compute.threads,
        runtime: onnx.onnxruntime.clone(),
        prepack: onnx.prepack.into(),
        optimization: onnx.optimization == Switch::On,
        ..OnnxOptions::default()
    };
    let model = OnnxModel::open(&Origin::Path(file.to_owned()), &options)?;
    if let Some(full) = crate::session::full_file(file, model.store()) {
        outputs.spare(&[&full])?;
    }
    if compute.file.open_options().mode == Mode::Auto && model.store().mode() == Mode::Fast {
        ui.note(&format!("mode fast, from the mini alone: {}", model.store().mode_reason()));
    }
    ui.remark(&format!(
        "mode {} ({}), opened in {:.1} ms",
        model.store().mode().name(),
        model.store().mode_reason(),
        model.open_time().as_secs_f64() * 1e3
    ));
    Ok(model)
}

/// Refuses lengths of dimensions that no input has.
fn refuse_unknown(model: &OnnxModel, dims: &[(String, u64)]) -> Result<()> {
    let shapes = model.inputs().iter().filter_map(|port| port.shape.as_deref());
    let named = |dim: &OnnxDim| if let OnnxDim::Named(name) = dim { Some(name.clone()) } else { None };
    let known: Vec<String> = shapes.flatten().filter_map(named).collect();
    match dims.iter().find(|(name, _)| !known.contains(name)) {
        Some((name, _)) => Err(Error::InvalidArgument(format!(
            "no input has an open dimension called \"{name}\"; there are: {}",
            if known.is_empty() { "none".to_owned() } else { known.join(", ") }
        ))),
        None => Ok(()),
    }
}

/// The files that a command reads.
fn read_files<'a>(file: &'a Path, compute: &'a ComputeArgs, onnx: &'a OnnxArgs) -> Vec<Option<&'a Path>> {
    let arrays = onnx.input.iter().map(|input| Some(input.path.as_path()));
    arrays.chain([Some(file), compute.file.full.as_deref()]).collect()
}

/// Reads the arrays of `--input`.
fn take_files(model: &OnnxModel, inputs: &[Binding], feed: &mut Feed) -> Result<()> {
    let runtime = model.runtime()?;
    for input in inputs {
        let port = model.inputs().iter().find(|port| port.name == input.name);
        let array = npy::read(&SystemDisk, &input.path, port.and_then(|port| port.element))?;
        feed.add(runtime, &input.name, array)?;
    }
    Ok(())
}

/// Writes an output to a .npy file.
fn write(name: &str, value: &Value, path: &Path) -> Result<()> {
    match (value.kind(), value.element()) {
        (OnnxKind::Tensor, Some(ElementType::String)) => {
            npy::write_strings(&SystemDisk, path, value.shape(), value.strings()?)
        }
        (OnnxKind::Tensor, Some(element)) => {
            npy::write(&SystemDisk, path, element, value.shape(), value.bytes()?)
        }
        (kind, _) => Err(unwritable(name, if value.is_present() { kind.name() } else { "absent" })),
    }
}

fn unwritable(name: &str, kind: &str) -> Error {
    Error::Unsupported(format!(
        "output \"{name}\" is no tensor but {kind}, which a .npy file cannot hold; leave out --output to have it shown"
    ))
}

/// Refuses outputs that no file can hold before anything is computed or written.
fn refuse_unwritable(model: &OnnxModel, wanted: &[&str]) -> Result<()> {
    let port = |name: &&str| model.outputs().iter().find(|port| port.name == *name);
    match wanted.iter().filter_map(port).find(|port| matches!(port.kind, OnnxKind::Sequence | OnnxKind::Map))
    {
        Some(port) => Err(unwritable(&port.name, port.kind.name())),
        None => Ok(()),
    }
}

/// An output in a line: name, type, shape and its first elements; of a sequence or map a line for each part.
fn summary(name: &str, value: &Value) -> Result<String> {
    if !value.is_present() {
        return Ok(format!("{name}  absent\n"));
    }
    match (value.kind(), value.element()) {
        (OnnxKind::Tensor, Some(element)) => {
            let shape = value.shape();
            let count = shape.iter().product::<u64>() as usize;
            let mut shown = match element {
                ElementType::String => {
                    let strings = value.strings()?.iter().take(SHOWN);
                    strings.map(|s| format!("{:?}", String::from_utf8_lossy(s))).collect()
                }
                _ => numbers(element, value.bytes()?, count.min(SHOWN)),
            };
            if count > SHOWN {
                shown.push("...".into());
            }
            Ok(format!("{name}  {} {shape:?}  {}\n", element.name(), shown.join(", ")))
        }
        (OnnxKind::Sequence, _) => {
            let items = value.items()?;
            let mut text = format!("{name}  sequence of {}\n", items.len());
            for (index, item) in items.iter().enumerate().take(SHOWN) {
                text.push_str(&summary(&format!("{name}[{index}]"), item)?);
            }
            Ok(text)
        }
        (OnnxKind::Map, _) => {
            let mut text = format!("{name}  map\n");
            for (part, item) in ["keys", "values"].iter().zip(value.items()?) {
                text.push_str(&summary(&format!("{name}.{part}"), item)?);
            }
            Ok(text)
        }
        (kind, _) => Ok(format!("{name}  {} {:?}\n", kind.name(), value.shape())),
    }
}

/// The first elements as text; those of types that this program has no arithmetic for as their bits.
fn numbers(element: ElementType, bytes: &[u8], count: usize) -> Vec<String> {
    fn each<const N: usize>(bytes: &[u8], count: usize, text: impl Fn([u8; N]) -> String) -> Vec<String> {
        bytes.chunks_exact(N).take(count).filter_map(|part| part.try_into().ok()).map(text).collect()
    }
    match element {
        ElementType::Float32 => each(bytes, count, |b| f32::from_le_bytes(b).to_string()),
        ElementType::Float64 => each(bytes, count, |b| f64::from_le_bytes(b).to_string()),
        ElementType::Int64 => each(bytes, count, |b| i64::from_le_bytes(b).to_string()),
        ElementType::Uint64 => each(bytes, count, |b| u64::from_le_bytes(b).to_string()),
        ElementType::Int32 => each(bytes, count, |b| i32::from_le_bytes(b).to_string()),
        ElementType::Uint32 => each(bytes, count, |b| u32::from_le_bytes(b).to_string()),
        ElementType::Int16 => each(bytes, count, |b| i16::from_le_bytes(b).to_string()),
        ElementType::Uint16 => each(bytes, count, |b| u16::from_le_bytes(b).to_string()),
        ElementType::Int8 => each(bytes, count, |b| i8::from_le_bytes(b).to_string()),
        ElementType::Uint8 => each(bytes, count, |b| u8::from_le_bytes(b).to_string()),
        ElementType::Bool => each(bytes, count, |b: [u8; 1]| (b[0] != 0).to_string()),
        ElementType::Float16 => each(bytes, count, |b| half::f16::from_le_bytes(b).to_string()),
        ElementType::Bfloat16 => each(bytes, count, |b| half::bf16::from_le_bytes(b).to_string()),
        other => {
            let bits = other.bits().unwrap_or(8) as usize;
            let shown = (count * bits).div_ceil(8).min(bytes.len());
            let hex: String = bytes[..shown].iter().map(|byte| format!("{byte:02x}")).collect();
            if hex.is_empty() { Vec::new() } else { vec![format!("0x{hex}")] }
        }
    }
}

/// Times and memory, with `-v`.
fn remark(model: &OnnxModel, ui: &Ui) {
    let (stats, memory) = (model.stats(), model.memory());
    let Ok(runtime) = model.runtime() else { return };
    ui.remark(&format!(
        "ONNX Runtime {} ({}), {}; run in {:.1} ms, {} made in {:.1} ms of it, {} prepacked",
        runtime.version(),
        runtime.loaded().path.display(),
        counted(runtime.threads(), "thread"),
        stats.last_run.as_secs_f64() * 1e3,
        counted(stats.sessions_made as usize, "session"),
        stats.making.as_secs_f64() * 1e3,
        stats.prepacked
    ));
    if let Some(budget) = memory.budget {
        ui.remark(&format!(
            "budget {}, weights of {} stay ({}), {} read again",
            human(budget),
            counted(memory.pinned_capsules, "capsule"),
            human(memory.pinned),
            human(memory.streamed)
        ));
    }
}
