//! Where each tensor of the graph lies in the store, and the small tensors decoded.

use crate::container::manifest::{Layout, Manifest, Tensor};
use crate::error::{Error, Result};
use crate::graph::arch::{self, CapsuleRule, TensorKind};
use crate::graph::params::DecoderParams;
use crate::kernels::backend::Piece;
use crate::kernels::pack;
use crate::store::fetch::{encoding_of, rows_cols};
use crate::store::{Lease, PackedRows, Store, View};

/// A weight matrix's place: capsule and tensor, by index.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef {
    capsule: usize,
    tensor: usize,
}

impl MatrixRef {
    /// The capsule that holds it.
    pub fn capsule(self) -> usize {
        self.capsule
    }

    /// Its number in the capsule.
    pub fn tensor(self) -> usize {
        self.tensor
    }

    /// What of it `lease` holds.
    pub fn pieces<'a>(self, lease: &'a Lease<'_>) -> Result<Vec<Piece<'a>>> {
        let (tensor, rows) = lease.rows(self.tensor)?;
        let (encoding, (_, cols)) = (encoding_of(tensor)?, rows_cols(tensor));
        let piece = |PackedRows { first, rows, planes }| Piece { first, encoding, rows, cols, planes };
        Ok(rows.into_iter().map(piece).collect())
    }
}

/// A projection: its weights and, where the model has one, its bias.
#[derive(Debug)]
pub struct Projection {
    pub weight: MatrixRef,
    pub bias: Option<Vec<f32>>,
    /// Output features.
    pub rows: usize,
}

/// Tensors of one transformer block.
#[derive(Debug)]
pub struct Block {
    pub attn_norm: Vec<f32>,
    pub q: Projection,
    pub k: Projection,
    pub v: Projection,
    pub attn_output: Projection,
    pub ffn_norm: Vec<f32>,
    pub gate: Projection,
    pub up: Projection,
    pub down: Projection,
}

/// Every tensor of the graph.
#[derive(Debug)]
pub struct Weights {
    pub embedding: MatrixRef,
    pub rope_factors: Option<Vec<f32>>,
    pub blocks: Vec<Block>,
    pub output_norm: Vec<f32>,
    pub head: Projection,
}

impl Weights {
    pub fn resolve(store: &Store, params: &DecoderParams) -> Result<Self> {
        let manifest = store.manifest();
        let architecture = arch::by_name(&manifest.model.arch).ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: architecture \"{}\" cannot be run by this release",
                store.primary().name(),
                manifest.model.arch
            ))
        })?;
        let rules = (architecture.capsules)(params);
        check_graph(store, manifest, &rules)?;
        ask_for_vectors(store, &rules);
        let resolver = Resolver { store };
        let last = rules.len() - 1;
        let mut blocks = Vec::with_capacity(params.block_count as usize);
        for n in 0..params.block_count as usize {
            blocks.push(resolver.block(n)?);
        }
        let embedding = resolver.find(0, "token_embd.weight")?;
        let weight = if params.tied_embeddings { embedding } else { resolver.find(last, "output.weight")? };
        Ok(Self {
            embedding,
            rope_factors: resolver.vector(0, "rope_freqs.weight")?,
            blocks,
            output_norm: resolver.required_vector(last, "output_norm.weight")?,
            head: Projection { weight, bias: None, rows: params.vocab_size as usize },
        })
    }

    /// Of each capsule in turn the one that its computation reads from end to end: itself, but `None` for the
    /// embedding, which is read by row, and for the head the one that holds its matrix.
    pub fn capsules_in_use(&self) -> impl Iterator<Item = Option<usize>> {
        let blocks = 1..=2 * self.blocks.len();
        std::iter::once(None).chain(blocks.map(Some)).chain([Some(self.head.weight.capsule)])
    }

    /// Bytes of the decoded vectors.
    pub fn vector_bytes(&self) -> usize {
        let bias = |p: &Projection| p.bias.as_ref().map_or(0, Vec::len);
        let block = |b: &Block| {
            let projections = [&b.q, &b.k, &b.v, &b.attn_output, &b.gate, &b.up, &b.down];
            b.attn_norm.len() + b.ffn_norm.len() + projections.into_iter().map(bias).sum::<usize>()
        };
        let factors = self.rope_factors.as_ref().map_or(0, Vec::len);
        4 * (self.blocks.iter().map(block).sum::<usize>() + self.output_norm.len() + factors)
    }
}

impl Store {
    /// Asks for the bytes that hold row `row` of the matrix at `place`, which is about to be decoded.
    pub(super) fn ask_for_row(&self, place: MatrixRef, row: usize) {
        let Ok(stored) = self.described(View::Promised, place.capsule, place.tensor) else { return };
        let (groups, group) = groups(stored);
        for (number, plane) in stored.planes.iter().enumerate() {
            let len = plane.len as usize / groups.max(1);
            let start = row / group * len;
            self.ask_for_tensor(place.capsule, place.tensor, number, start..start + len);
        }
    }

    /// Decodes row `row` of the matrix at `place` into `out`, whatever its layout.
    pub(super) fn decode_row(&self, view: View, place: MatrixRef, row: usize, out: &mut [f32]) -> Result<()> {
        let stored = self.described(view, place.capsule, place.tensor)?;
        let (encoding, (_, cols), (_, group)) = (encoding_of(stored)?, rows_cols(stored), groups(stored));
        let bytes = self.row_group(view, place.capsule, place.tensor, row / group)?;
        match stored.layout {
            Layout::Packed8 => {
                pack::dequantize_row(encoding, &bytes, pack::GROUP, cols, row % pack::GROUP, out)
            }
            Layout::Rows | Layout::Plain => encoding.decode(&bytes, out),
        }
    }
}

/// Row groups of a tensor, and rows of a group.
fn groups(tensor: &Tensor) -> (usize, usize) {
    let group = match tensor.layout {
        Layout::Packed8 => pack::GROUP,
        Layout::Rows | Layout::Plain => 1,
    };
    (rows_cols(tensor).0.div_ceil(group), group)
}

/// Holds the manifest's capsules and tensors against those that the architecture demands.
fn check_graph(store: &Store, manifest: &Manifest, rules: &[CapsuleRule]) -> Result<()> {
    let bad = |detail: String| Err(Error::malformed(store.primary().name(), detail));
    if manifest.capsules.len() != rules.len() {
        return bad(format!(
            "{} capsules where the hyper-parameters demand {}",
            manifest.capsules.len(),
            rules.len()
        ));
    }
    for (index, (capsule, rule)) in manifest.capsules.iter().zip(rules).enumerate() {
        if capsule.id != rule.id || capsule.inputs != rule.inputs || capsule.outputs != rule.outputs {
            return bad(format!("capsule number {index} is {} where {} belongs", capsule.id, rule.id));
        }
        let (_, served) = store.capsule(index)?;
        for wanted in &rule.tensors {
            let found = served.tensors.iter().find(|t| t.name == wanted.name);
            let Some(tensor) = found else {
                if wanted.required {
                    return bad(format!("capsule {}: tensor {} is missing", rule.id, wanted.name));
                }
                continue;
            };
            let shape = tensor.shape.iter().map(|d| *d as usize).eq(wanted.shape.iter().copied());
            let layout = match wanted.kind {
                TensorKind::Matrix => Layout::Packed8,
                TensorKind::Table | TensorKind::Vector => Layout::Rows,
            };
            let vector_is_float = wanted.kind != TensorKind::Vector || encoding_of(tensor)?.tile.is_none();
            if !shape || tensor.layout != layout || !vector_is_float {
                return bad(format!(
                    "capsule {}: tensor {} is {:?} {} in layout {}; {:?} in layout {} belongs there",
                    rule.id,
                    tensor.name,
                    tensor.shape,
                    tensor.encoding,
                    tensor.layout.name(),
                    wanted.shape,
                    layout.name()
                ));
            }
        }
    }
    Ok(())
}

/// Asks for all vectors at once, which are decoded one by one: each lies in another place of the file.
fn ask_for_vectors(store: &Store, rules: &[CapsuleRule]) {
    for (index, rule) in rules.iter().enumerate() {
        let Ok((_, served)) = store.capsule(index) else { continue };
        for wanted in rule.tensors.iter().filter(|t| t.kind == TensorKind::Vector) {
            if let Some(tensor) = served.tensors.iter().position(|t| t.name == wanted.name) {
                store.ask_for_tensor(index, tensor, 0, 0..usize::MAX);
            }
        }
    }
}

struct Resolver<'a> {
    store: &'a Store,
}

impl Resolver<'_> {
    fn block(&self, n: usize) -> Result<Block> {
        let (attn, ffn) = (1 + 2 * n, 2 + 2 * n);
        let name = |part: &str| format!("blk.{n}.{part}");
        let projection = |capsule, part: &str| self.projection(capsule, &name(part));
        Ok(Block {
            attn_norm: self.required_vector(attn, &name("attn_norm.weight"))?,
            q: projection(attn, "attn_q")?,
            k: projection(attn, "attn_k")?,
            v: projection(attn, "attn_v")?,
            attn_output: projection(attn, "attn_output")?,
            ffn_norm: self.required_vector(ffn, &name("ffn_norm.weight"))?,
            gate: projection(ffn, "ffn_gate")?,
            up: projection(ffn, "ffn_up")?,
            down: projection(ffn, "ffn_down")?,
        })
    }

    fn projection(&self, capsule: usize, name: &str) -> Result<Projection> {
        let weight = self.find(capsule, &format!("{name}.weight"))?;
        let (rows, _) = rows_cols(self.store.described(View::Promised, weight.capsule, weight.tensor)?);
        Ok(Projection { weight, bias: self.vector(capsule, &format!("{name}.bias"))?, rows })
    }

    fn find(&self, capsule: usize, name: &str) -> Result<MatrixRef> {
        let (_, served) = self.store.capsule(capsule)?;
        let tensor = served.tensors.iter().position(|t| t.name == name).ok_or_else(|| {
            Error::malformed(
                self.store.primary().name(),
                format!("capsule {}: tensor {name} is missing", served.id),
            )
        })?;
        Ok(MatrixRef { capsule, tensor })
    }

    fn required_vector(&self, capsule: usize, name: &str) -> Result<Vec<f32>> {
        self.find(capsule, name)?;
        Ok(self.vector(capsule, name)?.unwrap_or_default())
    }

    fn vector(&self, capsule: usize, name: &str) -> Result<Option<Vec<f32>>> {
        let (_, served) = self.store.capsule(capsule)?;
        let Some(tensor) = served.tensors.iter().position(|t| t.name == name) else { return Ok(None) };
        let place = MatrixRef { capsule, tensor };
        let (_, cols) = rows_cols(&served.tensors[tensor]);
        let mut out = vec![0.0; cols];
        self.store.decode_row(View::Promised, place, 0, &mut out)?;
        Ok(Some(out))
    }
}
