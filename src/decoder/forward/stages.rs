//! The operations of a block, each as a stage that can pause where it takes long.

use super::{Forward, Logits, Squares, Stage};
use crate::decoder::Decoder;
use crate::decoder::kv::KvCache;
use crate::decoder::weights::{MatrixRef, Projection};
use crate::error::Result;
use crate::kernels::backend::{Activations, Product, Queries};
use crate::pool::{Gate, Progress};
use crate::store::{Pass, Reach, View};

impl Decoder {
    /// Computes the operation that comes next, or goes on with it.
    pub(super) fn stage(
        &self,
        f: &mut Forward,
        caches: &mut [&mut KvCache],
        pass: &Pass<'_>,
        gate: &Gate,
    ) -> Result<Progress> {
        let backend = self.backend.as_ref();
        let p = &self.params;
        let block = &self.weights.blocks[f.block];
        let width = p.embedding_length as usize;
        match f.stage {
            Stage::Embed => return self.embed(f, gate),
            // A stage that starts with an addition runs to its end, so resuming never adds twice.
            Stage::AttnNorm => {
                self.enter(f.view, 1 + 2 * f.block);
                self.complete(f);
                self.normalise(f, &block.attn_norm);
            }
            Stage::Qkv => {
                let outs = [(&block.q, &mut f.q), (&block.k, &mut f.k), (&block.v, &mut f.v)];
                let state = (&mut f.reach, &mut f.recorded);
                return self.project(gate, pass, state, &f.input, outs);
            }
            Stage::Rope => self.rope_and_store(f, caches),
            Stage::Attention => return Ok(self.attend(f, caches, gate)),
            Stage::AttnPrepare => {
                let attended = p.head_count as usize * p.value_length as usize;
                if self.gives_logits(f) && self.is_last(f) && f.wanted == Logits::Last {
                    f.rows = f.parts.len();
                    for (row, part) in f.parts.iter().enumerate() {
                        let last = part.first + part.rows - 1;
                        f.hidden.copy_within(last * width..(last + 1) * width, row * width);
                        f.attended.copy_within(last * attended..(last + 1) * attended, row * attended);
                    }
                    f.hidden.truncate(f.rows * width);
                    f.attended.truncate(f.rows * attended);
                }
                backend.activations(&f.attended, attended, &mut f.input);
            }
            Stage::AttnOutput => {
                let outs = [(&block.attn_output, &mut f.branch)];
                let state = (&mut f.reach, &mut f.recorded);
                return self.project(gate, pass, state, &f.input, outs);
            }
            Stage::FfnNorm => {
                self.enter(f.view, 2 + 2 * f.block);
                self.complete(f);
                self.normalise(f, &block.ffn_norm);
            }
            Stage::GateUp => {
                let outs = [(&block.gate, &mut f.gate), (&block.up, &mut f.up)];
                let state = (&mut f.reach, &mut f.recorded);
                return self.project(gate, pass, state, &f.input, outs);
            }
            Stage::Activate => {
                backend.swiglu(&mut f.gate, &f.up);
                backend.activations(&f.gate, p.feed_forward_length as usize, &mut f.input);
            }
            Stage::Down => {
                let outs = [(&block.down, &mut f.branch)];
                let state = (&mut f.reach, &mut f.recorded);
                return self.project(gate, pass, state, &f.input, outs);
            }
            Stage::HeadNorm => {
                self.enter(f.view, 1 + 2 * self.weights.blocks.len());
                self.complete(f);
                self.normalise(f, &self.weights.output_norm);
            }
            Stage::Head => {
                let outs = [(&self.weights.head, &mut f.logits)];
                let state = (&mut f.reach, &mut f.recorded);
                return self.project(gate, pass, state, &f.input, outs);
            }
            Stage::Sum => self.complete(f),
            Stage::Done => {}
        }
        Ok(Progress::Done)
    }

    /// Adds what the capsule before gave to the residual stream; nothing where the batch begins here.
    fn complete(&self, f: &mut Forward) {
        if !f.complete {
            self.backend.add(&mut f.hidden, &f.branch);
        }
        f.complete = false;
    }

    /// Capsule `index` is about to be computed with.
    fn enter(&self, view: View, index: usize) {
        if view == View::Promised {
            self.read_ahead.reach(&self.store, index);
            self.store.count_use(index);
        }
    }

    /// A task is a row. Where weights are streamed each is a read of its own, and a batch has hundreds: `gate` is looked at
    /// after each, so that a call that begins always comes on by one.
    fn embed(&self, f: &mut Forward, gate: &Gate) -> Result<Progress> {
        let width = self.params.embedding_length as usize;
        if f.task == 0 {
            // Before `enter`: what is asked for first comes first.
            for id in &f.tokens {
                self.store.ask_for_row(self.weights.embedding, *id as usize);
            }
            self.enter(f.view, 0);
            f.hidden.resize(f.tokens.len() * width, 0.0);
        }
        let rows = f.tokens.iter().zip(f.hidden.chunks_exact_mut(width)).enumerate();
        for (number, (id, row)) in rows.skip(f.task) {
            self.store.decode_row(f.view, self.weights.embedding, *id as usize, row)?;
            if number + 1 < f.tokens.len() && gate.is_closed() {
                return Ok(Progress::Paused(number + 1));
            }
        }
        self.angles(f);
        Ok(Progress::Done)
    }

    /// The angles of the batch's positions.
    pub(super) fn angles(&self, f: &mut Forward) {
        f.cos.clear();
        f.sin.clear();
        for part in &f.parts {
            self.rope.extend(part.start, part.rows, &mut f.cos, &mut f.sin);
        }
    }

    /// The hidden rows, normalised, as the input of products.
    fn normalise(&self, f: &mut Forward, weight: &[f32]) {
        let width = self.params.embedding_length as usize;
        f.normed.resize(f.rows * width, 0.0);
        self.backend.rms_norm(&f.hidden, weight, self.params.rms_epsilon, &mut f.normed);
        self.backend.activations(&f.normed, width, &mut f.input);
    }

    /// `out = weight * input + bias` for each pair, whose weights belong to one capsule: as many at a time as are in
    /// memory, in one parallel loop.
    fn project<const N: usize>(
        &self,
        gate: &Gate,
        pass: &Pass<'_>,
        (reach, recorded): (&mut Reach, &mut Option<Squares>),
        input: &Activations,
        mut pairs: [(&Projection, &mut Vec<f32>); N],
    ) -> Result<Progress> {
        for (projection, out) in &mut pairs {
            out.resize(input.rows() * projection.rows, 0.0);
        }
        let places: [MatrixRef; N] = std::array::from_fn(|i| pairs[i].0.weight);
        let tensors = places.map(MatrixRef::tensor);
        // The architecture puts what is projected together into one capsule.
        let capsule = places[0].capsule();
        if let Some(recorded) = recorded.as_mut().filter(|_| reach.is_at_start()) {
            for place in places {
                input.add_squares(recorded.entry([place.capsule(), place.tensor()]).or_default());
            }
        }
        loop {
            let Some(lease) = pass.take(capsule, &tensors, reach, gate)? else {
                return Ok(Progress::Paused(reach.task));
            };
            let mut pieces = Vec::with_capacity(N);
            for place in places {
                pieces.push(place.pieces(&lease)?);
            }
            let mut products: Vec<Product<'_>> = pairs
                .iter_mut()
                .zip(&pieces)
                .map(|((projection, out), pieces)| Product {
                    pieces,
                    bias: projection.bias.as_deref(),
                    rows: projection.rows,
                    out,
                })
                .collect();
            match self.backend.matmul(gate, reach.task, input, &mut products) {
                Progress::Paused(task) => {
                    reach.task = task;
                    return Ok(Progress::Paused(task));
                }
                Progress::Done if lease.is_through(reach) => return Ok(Progress::Done),
                Progress::Done => {}
            }
        }
    }

    fn rope_and_store(&self, f: &mut Forward, caches: &mut [&mut KvCache]) {
        let p = &self.params;
        let (heads, kv_heads) = (p.head_count as usize, p.head_count_kv as usize);
        let (key_dim, value_dim) = (p.key_length as usize, p.value_length as usize);
        if self.rope.pairs() > 0 {
            self.backend.rope(&mut f.q, heads, key_dim, &f.cos, &f.sin);
            self.backend.rope(&mut f.k, kv_heads, key_dim, &f.cos, &f.sin);
        }
        for (part, cache) in f.parts.iter().zip(caches) {
            let rows = |len: usize| part.first * len..(part.first + part.rows) * len;
            let (keys, values) = (&f.k[rows(kv_heads * key_dim)], &f.v[rows(kv_heads * value_dim)]);
            self.backend.store_kv(part.start, keys, values, cache.layer(f.block));
        }
    }

    fn attend(&self, f: &mut Forward, caches: &mut [&mut KvCache], gate: &Gate) -> Progress {
        let p = &self.params;
        let heads = p.head_count as usize;
        let (query, value) = (heads * p.key_length as usize, heads * p.value_length as usize);
        f.attended.resize(f.n * value, 0.0);
        let scale = 1.0 / (p.key_length as f32).sqrt();
        while let (Some(part), Some(cache)) = (f.parts.get(f.part), caches.get_mut(f.part)) {
            let rows = part.first..part.first + part.rows;
            let values = &f.q[rows.start * query..rows.end * query];
            let queries = Queries { values, n: part.rows, heads, start: part.start, scale };
            let out = &mut f.attended[rows.start * value..rows.end * value];
            let layer = cache.layer(f.block);
            match self.backend.attention(gate, f.task, &queries, layer, &mut f.attention, out) {
                Progress::Done => (f.part, f.task) = (f.part + 1, 0),
                paused @ Progress::Paused(_) => return paused,
            }
        }
        f.part = 0;
        Progress::Done
    }
}
