//! How matrix products and attention are cut into tasks. A pure function of shapes, threads and budget, so
//! that a paused call finds the same tasks when it resumes.

use std::ops::Range;

use super::attention::CHUNK;
use super::layout::GROUP;

/// Multiply-adds below which a further cut costs more than it evens out.
const SMALLEST: usize = 1 << 16;

/// Row groups that the widest kernels multiply together.
pub(super) const TOGETHER: usize = 4;

/// Columns of one task at most: weights are expanded once for that many.
const COLUMNS: usize = 256;

/// Bytes of weights of one task at most: what a thread reads in about 0.3 ms.
const READ_BYTES: usize = 1 << 22;

/// Sizes of one product.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProductSize {
    pub rows: usize,
    pub k: usize,
    /// Columns.
    pub n: usize,
    /// Bytes of a packed row group.
    pub group_bytes: usize,
}

/// The cut of one product.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Row groups and columns of the product.
    groups: usize,
    columns: usize,
    /// Row groups and columns of a task.
    group_block: usize,
    column_block: usize,
}

impl Cut {
    /// Cuts a product into tasks of at most `budget` multiply-adds and [`READ_BYTES`] (or, where either is less
    /// than that, of two row groups and eight columns), and where it is large enough into at least four per thread.
    pub(super) fn new(size: ProductSize, budget: usize, threads: usize) -> Self {
        let n = size.n;
        let groups = size.rows.div_ceil(GROUP);
        let group = GROUP * size.k.max(1);
        // Columns of as many groups as the kernels like best that fit the budget, by eights; fewer groups where not
        // even eight columns do.
        let fitting = |together: usize| (budget / (together * group)).min(COLUMNS);
        let readable = READ_BYTES / size.group_bytes.max(1);
        let together = if fitting(TOGETHER) >= n.min(8) && readable >= TOGETHER { TOGETHER } else { 2 };
        let fitting = fitting(together).max(1);
        let column_block = if n <= fitting { n } else { fitting / 8 * 8 }.max(8).min(n).max(1);
        let work = group * column_block;
        let balanced = groups.div_ceil(4 * threads).max(SMALLEST.div_ceil(work));
        let whole = (budget / work).min(readable) / together * together;
        let group_block = balanced.next_multiple_of(together).min(whole).max(2);
        Self { groups, columns: n, group_block, column_block }
    }

    /// Number of tasks.
    pub(super) fn tasks(&self) -> usize {
        self.groups.div_ceil(self.group_block) * self.columns.div_ceil(self.column_block)
    }

    /// Row groups and columns of task `index`; rows vary fastest.
    pub(super) fn part(&self, index: usize) -> [Range<usize>; 2] {
        let blocks = self.groups.div_ceil(self.group_block).max(1);
        let group = index % blocks * self.group_block;
        let column = index / blocks * self.column_block;
        [
            group..(group + self.group_block).min(self.groups),
            column..(column + self.column_block).min(self.columns),
        ]
    }
}

/// Pairs of one task at most: enough to share the decoding of keys and values.
const PAIRS: usize = 64;

/// Pairs whose arithmetic takes at most as long as reading keys and values from memory.
const READ: usize = 8;

/// Elements of the states of split chunks at most (4 MiB): merging them is not interrupted.
const SPLIT_ELEMENTS: usize = 1 << 20;

/// Sizes of one attention call. The queries of a key head are its pairs (token, query head), token by token.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionSize {
    pub kv_heads: usize,
    /// Pairs of one key head.
    pub pairs: usize,
    /// Positions that the last pair sees.
    pub positions: usize,
    /// Multiply-adds of one pair and position.
    pub work: usize,
    /// Elements of the state of one pair.
    pub state: usize,
}

/// The cut of one attention call: tasks are blocks of pairs times runs of chunks. Chunks are either taken in order,
/// one run by all tasks after the other, or *split*: all at once, and merged afterwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionCut {
    size: AttentionSize,
    chunks: usize,
    /// Pairs and chunks of a task.
    block: usize,
    step: usize,
    split: bool,
}

/// What one task computes.
#[derive(Clone, Debug)]
pub(super) struct AttentionPart {
    pub kv: usize,
    pub pairs: Range<usize>,
    pub chunks: Range<usize>,
}

impl AttentionCut {
    /// Cuts so that a task has at most `budget` multiply-adds (or one pair and chunk), and all threads have work.
    pub(super) fn new(size: AttentionSize, budget: usize, threads: usize) -> Self {
        let chunks = size.positions.div_ceil(CHUNK).max(1);
        // Multiply-adds of one pair and chunk.
        let unit = (size.positions.min(CHUNK) * size.work).max(1);
        let mut cut = Self { size, chunks, block: 1, step: 1, split: false };
        cut.block = (budget / unit).clamp(1, PAIRS).min(size.pairs.max(1));
        let states = size.kv_heads.saturating_mul(size.pairs).saturating_mul(chunks * size.state);
        cut.split = threads > 1 && chunks > 1 && cut.wave() < 8 * threads && states <= SPLIT_ELEMENTS;
        let few = |cut: &Self| cut.wave() < 4 * threads && !cut.wave().is_multiple_of(threads);
        while !cut.split && few(&cut) && cut.block * unit > 2 * SMALLEST && cut.block > 1 {
            cut.block = cut.block.div_ceil(2);
        }
        cut.step = (budget / (cut.block.max(READ) * unit)).clamp(1, chunks);
        if cut.split {
            cut.step = cut.step.min((cut.wave() * chunks / (8 * threads)).max(1));
        }
        cut
    }

    /// Pairs of one key head.
    pub(super) fn pairs(&self) -> usize {
        self.size.pairs
    }

    /// Number of chunks.
    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Whether all chunks are computed at once and merged afterwards.
    pub(super) fn is_split(&self) -> bool {
        self.split
    }

    /// Whether a pair's chunks are computed by several tasks, one after the other.
    pub(super) fn keeps_states(&self) -> bool {
        !self.split && self.step < self.chunks
    }

    /// Elements of the states that outlive their task.
    pub(super) fn state_elements(&self) -> usize {
        let one = self.size.kv_heads * self.size.pairs * self.size.state;
        if self.split {
            one * self.chunks
        } else if self.keeps_states() {
            one
        } else {
            0
        }
    }

    /// Tasks of one run of chunks.
    fn wave(&self) -> usize {
        self.size.kv_heads * self.size.pairs.div_ceil(self.block)
    }

    /// Number of tasks.
    pub(super) fn tasks(&self) -> usize {
        self.wave() * self.chunks.div_ceil(self.step)
    }

    /// The first task after `task` that may not begin before all below it are done.
    pub(super) fn barrier(&self, task: usize) -> usize {
        if self.split { self.tasks() } else { (task / self.wave() + 1) * self.wave() }
    }

    /// What task `index` computes. Later pairs, which see more, come first.
    pub(super) fn part(&self, index: usize) -> AttentionPart {
        let (run, index) = (index / self.wave(), index % self.wave());
        let blocks = self.size.pairs.div_ceil(self.block);
        let first = (blocks - 1 - index / self.size.kv_heads) * self.block;
        AttentionPart {
            kv: index % self.size.kv_heads,
            pairs: first..(first + self.block).min(self.size.pairs),
            chunks: run * self.step..((run + 1) * self.step).min(self.chunks),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn products_are_cut_into_bounded_parts_that_cover_them(
            (rows, k, n) in (1usize..3000, 1usize..400, 0usize..700),
            (bits, budget, threads) in (2usize..33, 15u32..27, 1usize..9),
        ) {
            let (k, budget) = (32 * k, 1 << budget);
            let size = ProductSize { rows, k, n, group_bytes: GROUP * k * bits / 8 };
            let cut = Cut::new(size, budget, threads);
            let mut seen = vec![0; rows.div_ceil(GROUP) * n];
            for task in 0..cut.tasks() {
                let [groups, columns] = cut.part(task);
                let work = groups.len() * columns.len() * GROUP * k;
                prop_assert!(work <= budget || groups.len() <= 2 && columns.len() <= 8);
                prop_assert!(groups.len() * size.group_bytes <= READ_BYTES || groups.len() <= 2);
                for (g, c) in groups.flat_map(|g| columns.clone().map(move |c| (g, c))) {
                    seen[g * n + c] += 1;
                }
            }
            prop_assert!(seen.iter().all(|times| *times == 1));
        }
    }

    #[test]
    fn a_large_product_has_work_for_all_threads() {
        let size = ProductSize { rows: 4096, k: 4096, n: 1, group_bytes: GROUP * 4096 * 9 / 16 };
        for threads in [1, 2, 4, 16] {
            assert!(Cut::new(size, 1 << 26, threads).tasks() >= 4 * threads);
        }
    }
}
