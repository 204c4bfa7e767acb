//! How matrix products and attention are cut into tasks. A pure function of shapes, threads and budget, so
//! that a paused call finds the same tasks when it resumes.

use super::backend::AttentionShape;
use super::layout::GROUP;

/// Multiply-adds below which a further cut costs more than it evens out.
const SMALLEST: usize = 1 << 16;

/// Columns of one task at most: weights are expanded once for that many.
const COLUMNS: usize = 256;

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
    /// Cuts a product of `rows * k` weights and `n` columns into tasks of at most `budget` multiply-adds
    /// (or one pair of row groups), and where it is large enough into at least four per thread.
    pub(super) fn new(rows: usize, k: usize, n: usize, budget: usize, threads: usize) -> Self {
        let groups = rows.div_ceil(GROUP);
        let group = GROUP * k.max(1);
        // Where a pair of row groups times all columns exceeds the budget, columns are cut, by eights.
        let fitting = (budget / (2 * group)).clamp(1, COLUMNS);
        let column_block = if n <= fitting { n } else { fitting.next_multiple_of(8).min(n) }.max(1);
        let work = group * column_block;
        let balanced = groups.div_ceil(4 * threads).max(SMALLEST.div_ceil(work));
        let group_block = balanced.min(budget / work).max(1).next_multiple_of(2);
        Self { groups, columns: n, group_block, column_block }
    }

    /// Number of tasks.
    pub(super) fn tasks(&self) -> usize {
        self.groups.div_ceil(self.group_block) * self.columns.div_ceil(self.column_block)
    }

    /// Row groups and columns of task `index`; rows vary fastest.
    pub(super) fn part(&self, index: usize) -> [std::ops::Range<usize>; 2] {
        let blocks = self.groups.div_ceil(self.group_block).max(1);
        let group = index % blocks * self.group_block;
        let column = index / blocks * self.column_block;
        [
            group..(group + self.group_block).min(self.groups),
            column..(column + self.column_block).min(self.columns),
        ]
    }
}

/// The cut of one attention call. The queries of a key head are its pairs (token, query head), token by token.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionCut {
    /// Pairs of one key head, and of one task.
    pairs: usize,
    block: usize,
    kv_heads: usize,
}

/// Pairs of one task at most: enough to share the conversion of keys and values.
const PAIRS: usize = 32;

impl AttentionCut {
    /// Cuts so that a task has at most `budget` multiply-adds (or one pair), and one token's heads are
    /// spread over all threads.
    pub(super) fn new(shape: &AttentionShape, budget: usize, threads: usize) -> Self {
        let pairs = shape.n * (shape.heads / shape.kv_heads.max(1));
        let work = (shape.start + shape.n) * (shape.key_dim + shape.value_dim);
        let mut block = (budget / work.max(1)).clamp(1, PAIRS).min(pairs.max(1));
        let tasks = |block: usize| pairs.div_ceil(block) * shape.kv_heads;
        while block > 1 && tasks(block) < 4 * threads && !tasks(block).is_multiple_of(threads) {
            block /= 2;
        }
        Self { pairs, block, kv_heads: shape.kv_heads }
    }

    /// Number of tasks.
    pub(super) fn tasks(&self) -> usize {
        self.kv_heads * self.pairs.div_ceil(self.block)
    }

    /// Key head and pairs of task `index`.
    pub(super) fn part(&self, index: usize) -> (usize, std::ops::Range<usize>) {
        let blocks = self.pairs.div_ceil(self.block).max(1);
        let first = index % blocks * self.block;
        (index / blocks, first..(first + self.block).min(self.pairs))
    }
}
