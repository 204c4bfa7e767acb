//! `cgraph inspect`: what a file holds.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use capsulegraph::Error;
use capsulegraph::container::disk::{Disk, SystemDisk};
use capsulegraph::container::manifest::{Capsule, Residence};
use capsulegraph::convert::onnx::import::KIND;
use capsulegraph::graph::onnx::{OnnxDim, OnnxInfo};
use capsulegraph::report::inspect::{GgufFacts, GraphFacts, Group, Inspection, OnnxFacts};

use crate::args::InspectArgs;
use crate::failure::Failure;
use crate::size::human;
use crate::ui::{self, counted};

pub fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let facts = capsulegraph::report::inspect::inspect(&args.file, &disk, args.capsules)?;
    if args.json {
        return ui::print_json(&facts);
    }
    if args.yaml {
        let text = serde_saphyr::to_string(&facts)
            .map_err(|e| Error::Internal(format!("the facts cannot be written as YAML: {e}")))?;
        return ui::print(&text);
    }
    let mut out = String::new();
    let written = match &facts {
        Inspection::Graph(facts) => graph(facts, &mut out),
        Inspection::Gguf(facts) => gguf(facts, &mut out),
        Inspection::Onnx(facts) => source(facts, &mut out),
    };
    written.map_err(|_| Error::Internal("a String refused text".into()))?;
    ui::print(&out)
}

fn graph(facts: &GraphFacts, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}", facts.file)?;
    writeln!(out, "kind        {} (format {}), {}", facts.kind, facts.format, human(facts.bytes))?;
    writeln!(out, "digest      {}", facts.digest)?;
    writeln!(out, "written by  {}", facts.generator)?;
    writeln!(out, "model       {} ({})", facts.model.name, facts.model.arch)?;
    if let Some(p) = &facts.model.decoder {
        writeln!(
            out,
            "            {} blocks, width {}, feed-forward {}, {} heads ({} of keys and values), {} tokens, context {}",
            p.block_count,
            p.embedding_length,
            p.feed_forward_length,
            p.head_count,
            p.head_count_kv,
            p.vocab_size,
            p.context_length
        )?;
    }
    if let Some(info) = &facts.model.onnx {
        onnx(info, out)?;
    }
    writeln!(out, "capsules    {}", facts.capsule_count)?;
    for (residence, group) in facts.residences.iter().flatten() {
        writeln!(out, "  {residence:10} {:4}  {:>10}", group.count, human(group.bytes))?;
    }
    if let Some(share) = facts.agreement {
        writeln!(out, "agreement   {:.0}% of the full file's most likely tokens", 100.0 * share)?;
    }
    encodings(&facts.encodings, out)?;
    for (division, group) in &facts.divisions {
        writeln!(out, "divided     {division} bits: {} tensors, {}", group.count, human(group.bytes))?;
    }
    for asset in &facts.assets {
        writeln!(out, "asset       {} {}", asset.name, human(asset.len))?;
    }
    if let Some(full) = &facts.full {
        writeln!(out, "full file   {} {}, digest {}", full.file_name, human(full.len), full.digest)?;
    }
    for step in &facts.lineage {
        let parameters: Vec<String> = step.parameters.iter().map(|(k, v)| format!("{k} {v}")).collect();
        writeln!(out, "lineage     {}: {}", step.transform, parameters.join(", "))?;
    }
    facts.capsules.iter().flatten().try_for_each(|c| capsule(c, out))
}

/// Operator sets, inputs and outputs of an ONNX model.
fn onnx(info: &OnnxInfo, out: &mut String) -> std::fmt::Result {
    let named = |domain: &str| if domain.is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() };
    let opsets: Vec<String> =
        info.opsets.iter().map(|o| format!("{} {}", named(&o.domain), o.version)).collect();
    writeln!(out, "            format {}, operators {}", info.ir_version, opsets.join(", "))?;
    let ports = info.inputs.iter().map(|p| ("input", p)).chain(info.outputs.iter().map(|p| ("output", p)));
    for (what, port) in ports {
        let dim = |dim: &OnnxDim| match dim {
            OnnxDim::Fixed(n) => n.to_string(),
            OnnxDim::Named(name) => name.clone(),
            OnnxDim::Any(()) => "?".to_owned(),
        };
        let shape = port.shape.as_ref().map_or_else(
            || "of any shape".to_owned(),
            |shape| format!("[{}]", shape.iter().map(dim).collect::<Vec<_>>().join(", ")),
        );
        let default = if port.optional { ", has a default" } else { "" };
        writeln!(out, "{what:11} {}  {} {shape}{default}", port.name, port.type_text())?;
    }
    Ok(())
}

fn capsule(capsule: &Capsule, out: &mut String) -> std::fmt::Result {
    let residence = capsule.residence.map_or("", Residence::name);
    let stored = human(capsule.stored_bytes());
    writeln!(out, "{:24} {residence:7} {stored:>10}", capsule.id)?;
    if capsule.kind == KIND {
        writeln!(out, "  reads {}", capsule.inputs.join(", "))?;
        writeln!(out, "  makes {}", capsule.outputs.join(", "))?;
    }
    for tensor in &capsule.tensors {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let place = if tensor.planes.is_empty() { "in the full file only" } else { "" };
        let line = format!(
            "  {:30} {:>14} {:8} {:8} {:4} {place}",
            tensor.name,
            shape.join("x"),
            tensor.encoding,
            tensor.layout.name(),
            tensor.division.as_deref().unwrap_or_default()
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn gguf(facts: &GgufFacts, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}", facts.file)?;
    writeln!(out, "kind        gguf, {}", counted(facts.shards, "file"))?;
    writeln!(out, "model       {} ({}), {} tokens", facts.name, facts.arch, facts.vocab_tokens)?;
    writeln!(out, "tensors     {}, {}", facts.tensor_count, human(facts.tensor_bytes))?;
    encodings(&facts.encodings, out)?;
    for (key, value) in facts.metadata.as_object().into_iter().flatten() {
        let text = value.to_string();
        let short: String = text.chars().take(80).collect();
        let more = if short.len() < text.len() { "..." } else { "" };
        writeln!(out, "  {key} = {short}{more}")?;
    }
    for tensor in facts.tensors.iter().flatten() {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let bytes = human(tensor.bytes);
        writeln!(out, "  {:32} {:>14} {:8} {bytes:>10}", tensor.name, shape.join("x"), tensor.encoding)?;
    }
    Ok(())
}

/// An ONNX model that is not converted.
fn source(facts: &OnnxFacts, out: &mut String) -> std::fmt::Result {
    writeln!(out, "{}", facts.file)?;
    writeln!(out, "kind        onnx, {}", counted(facts.files, "file"))?;
    if !facts.producer.is_empty() {
        writeln!(out, "written by  {}", facts.producer)?;
    }
    let functions = match facts.function_count {
        0 => String::new(),
        count => format!(", {}", counted(count, "function")),
    };
    writeln!(out, "model       {}{functions}", counted(facts.node_count, "node"))?;
    onnx(&facts.onnx, out)?;
    writeln!(out, "tensors     {}, {}", facts.tensor_count, human(facts.tensor_bytes))?;
    encodings(&facts.encodings, out)?;
    writeln!(
        out,
        "capsules    {} with weights up to {} each (--capsule-size), the largest {}",
        facts.capsule_count,
        human(facts.capsule_bytes),
        human(facts.largest_capsule_bytes)
    )?;
    for capsule in facts.capsules.iter().flatten() {
        writeln!(out, "{:24} {:>10}  {}", capsule.id, human(capsule.bytes), counted(capsule.nodes, "node"))?;
        writeln!(out, "  reads {}", capsule.inputs.join(", "))?;
        writeln!(out, "  makes {}", capsule.outputs.join(", "))?;
        for tensor in &capsule.tensors {
            let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
            let bytes = human(tensor.bytes);
            writeln!(out, "  {:32} {:>14} {:8} {bytes:>10}", tensor.name, shape.join("x"), tensor.encoding)?;
        }
    }
    Ok(())
}

fn encodings(groups: &BTreeMap<String, Group>, out: &mut String) -> std::fmt::Result {
    writeln!(out, "encodings")?;
    for (name, group) in groups {
        writeln!(out, "  {name:10} {:4} tensors  {:>10}", group.count, human(group.bytes))?;
    }
    Ok(())
}
