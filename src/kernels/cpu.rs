//! The processor as a [`Backend`]: chooses the instruction set, cuts work into tasks, checks shapes.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

#[cfg(target_arch = "aarch64")]
use super::aarch64 as native;
use super::attention::{self, Call, state_len};
use super::backend::{Activations, AttentionWork, Backend, BatchSize, Piece, Product, Queries};
use super::division::{Planes, joined_groups};
use super::encoding::TILE;
use super::kv::{self, BLOCK, KvLayer, KvShape, Rounding, Rows};
use super::layout::{GROUP, Matrix, Part, Shared, Target, float, group_bytes};
use super::panel::{DIRECT, Panel, SPAN, WIDTH, panels, weave};
use super::plan::{AttentionCut, AttentionPart, AttentionSize, Cut, ProductSize, TOGETHER};
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use super::scalar::native;
use super::scalar::{self, attention::Scalar, elementwise::Row};
#[cfg(target_arch = "x86_64")]
use super::x86_64 as native;
use crate::error::{Error, Result};
use crate::pool::{Gate, Pool, Progress, ThreadOptions};

/// Environment variable that forces an instruction set: `scalar`, `avx2`, `avxvnni`, `avx512`, `neon` or
/// `neondot`.
pub const ISA_VARIABLE: &str = "CAPSULEGRAPH_ISA";

/// An instruction set for which there are kernels. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, on every target.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// [`Avx2`](Self::Avx2) and AVX-VNNI.
    AvxVnni,
    /// [`Avx2`](Self::Avx2) and AVX-512 F, BW, VL and VNNI.
    Avx512,
    /// aarch64 with NEON.
    Neon,
    /// [`Neon`](Self::Neon) and the SDOT instruction (feature `dotprod`).
    NeonDot,
}

impl Isa {
    /// All; of one architecture's the fastest last.
    pub const ALL: [Self; 6] =
        [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Neon, Self::NeonDot];

    /// Its name in reports and in [`ISA_VARIABLE`].
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
            Self::NeonDot => "neondot",
        }
    }

    /// Whether this machine has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        native::is_available(self)
    }

    /// The fastest that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }

    /// The one that [`ISA_VARIABLE`] names.
    pub(super) fn wanted(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|isa| isa.name().eq_ignore_ascii_case(name));
        found.filter(|isa| isa.is_available()).ok_or_else(|| {
            let names = Self::available();
            Error::InvalidArgument(format!(
                "{ISA_VARIABLE}={name}: this processor has {names}; unset the variable to have the best"
            ))
        })
    }

    /// The names of all that this machine has.
    fn available() -> String {
        let names: Vec<_> = Self::ALL.into_iter().filter(|isa| isa.is_available()).map(Self::name).collect();
        names.join(", ")
    }

    /// Multiply-adds of int8 that one thread does in somewhat less than 0.3 ms.
    fn budget(self) -> usize {
        match self {
            Self::Scalar => 1 << 17,
            Self::Neon => 1 << 20,
            Self::NeonDot => 1 << 22,
            Self::Avx2 => 1 << 23,
            Self::AvxVnni => 1 << 24,
            Self::Avx512 => 1 << 26,
        }
    }

    /// The same of f32: attention, and products with float weights.
    fn float_budget(self) -> usize {
        match self {
            Self::Scalar => 1 << 17,
            Self::Neon | Self::NeonDot => 1 << 22,
            Self::Avx2 | Self::AvxVnni => 1 << 23,
            Self::Avx512 => 1 << 24,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

thread_local! {
    /// Row groups of divided weights as the kernels read them, kept between tasks.
    static JOINED_GROUPS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Elements above which an element-wise operation is shared between threads (about 10 us of work).
const SHARED_ELEMENTS: usize = 1 << 15;

/// The processor. Results are the same bits for every instruction set and number of threads, except that
/// one NaN may stand for another.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    pool: Pool,
}

impl Cpu {
    /// The threads that `threads` says (a number alone will do; 0: as many as the process may use at once) with
    /// the fastest instruction set, or the one that the environment variable [`ISA_VARIABLE`] names where it is not
    /// empty.
    ///
    /// # Errors
    /// `InvalidArgument` where that variable names no instruction set or one that this machine lacks; those of
    /// [`Pool::new`].
    pub fn new(threads: impl Into<ThreadOptions>) -> Result<Self> {
        let name = std::env::var_os(ISA_VARIABLE).unwrap_or_default();
        let isa = if name.is_empty() { Isa::detect() } else { Isa::wanted(&name.to_string_lossy())? };
        Self::with_isa(threads, isa)
    }

    /// As [`new`](Self::new), with the kernels of `isa`.
    ///
    /// # Errors
    /// `InvalidArgument` where this machine lacks `isa`; those of [`Pool::new`].
    pub fn with_isa(threads: impl Into<ThreadOptions>, isa: Isa) -> Result<Self> {
        if !isa.is_available() {
            let names = Isa::available();
            return Err(Error::InvalidArgument(format!("this processor has no {isa}; it has {names}")));
        }
        Ok(Self { isa, pool: Pool::new(threads)? })
    }

    /// The threads that compute.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `f` for each of `n` rows of `len` elements, on all threads where that is worth it.
    fn each_row(&self, n: usize, len: usize, f: &(dyn Fn(usize) + Sync)) {
        if n > 1 && n.saturating_mul(len) >= SHARED_ELEMENTS {
            self.pool.run(&Gate::open(), 0, n, f);
        } else {
            (0..n).for_each(f);
        }
    }

    /// Whether the kernels read `n` tokens as panels.
    fn weaves(&self, n: usize) -> bool {
        self.isa == Isa::Avx512 && n > DIRECT
    }

    /// How attention of this size is cut.
    fn cut(&self, size: AttentionSize) -> AttentionCut {
        AttentionCut::new(size, self.isa.float_budget(), self.threads())
    }

    /// Weaves blocks of tokens into panels where the kernels read them so.
    fn weave(&self, out: &mut Activations) {
        let woven = self.weaves(out.n);
        let blocks = out.blocks();
        let mut panels = std::mem::take(&mut out.panels);
        panels.resize(if woven { out.panel_count() } else { 0 }, Panel::ZERO);
        let shared = Shared::new(&mut panels);
        self.each_row(panels.len() / SPAN, WIDTH * SPAN * TILE, &|i| {
            let (span, block) = (i / blocks, i % blocks);
            // SAFETY: each task has its own span of its own block.
            weave(out, span, block, unsafe { shared.part(out.span_start(span, block), SPAN) });
        });
        out.panels = panels;
    }

    /// Calls `f` with consecutive ranges of `0 .. len`, on all threads where that is worth it.
    fn each_range(&self, len: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        let pieces = len.div_ceil(SHARED_ELEMENTS / 2);
        let piece = SHARED_ELEMENTS / 2;
        self.each_row(pieces, piece, &|i| f(i * piece, piece.min(len - i * piece)));
    }

    /// Computes one task of a product.
    ///
    /// # Safety
    /// As `scalar::matmul::run`.
    unsafe fn multiply(&self, part: &Part<'_>, x: &Activations) {
        // SAFETY: passed on to the caller; `with_isa` checked that the machine has the instruction set.
        unsafe {
            match self.isa {
                Isa::Scalar => scalar::matmul::run(part, x),
                isa => native::matmul(isa, part, x),
            }
        }
    }

    /// Computes the row groups and columns of one task, whose weights are joined first where they are divided.
    ///
    /// # Safety
    /// `layout::is_sound` holds for `piece`; groups and columns lie inside the product, and no other task computes them.
    unsafe fn multiply_piece(
        &self,
        piece: &Piece<'_>,
        target: Target<'_>,
        groups: Range<usize>,
        columns: Range<usize>,
        x: &Activations,
    ) {
        let Piece { encoding, rows, cols, planes, .. } = *piece;
        let (first, second) = match planes {
            Planes::Whole(data) => {
                let weight = Matrix { encoding, rows, cols, data };
                // SAFETY: passed on to the caller.
                return unsafe { self.multiply(&Part { weight, target, groups, columns }, x) };
            }
            Planes::First(first) => (first, None),
            Planes::Both([first, second]) => (first, Some(second)),
        };
        let Some(division) = encoding.division else { return };
        let weight = Matrix { encoding, rows, cols, data: &[] };
        let part = Part { weight, target, groups: groups.clone(), columns: columns.clone() };
        // SAFETY: passed on to the caller; `is_sound` held the planes against the rows.
        if self.isa != Isa::Scalar && unsafe { native::matmul_divided(self.isa, &part, first, second, x) } {
            return;
        }
        let ([coarse, fine], group) = (division.group_bytes(cols), group_bytes(encoding, cols));
        // Where weights are used once a few at a time will do, which the first cache holds.
        let together = if columns.len() > DIRECT { TOGETHER } else { 2 };
        let step = joined_groups(group, together);
        JOINED_GROUPS.with_borrow_mut(|joined| {
            if joined.len() < step * group {
                joined.resize(step * group, 0);
            }
            for g in groups.clone().step_by(step) {
                let n = step.min(groups.end - g);
                let second = second.map(|second| &second[g * fine..][..n * fine]);
                let data = &mut joined[..n * group];
                native::join(self.isa, division, &first[g * coarse..][..n * coarse], second, data);
                let weight = Matrix { encoding, rows: (rows - g * GROUP).min(n * GROUP), cols, data };
                let target = Target { first: target.first + g * GROUP, ..target };
                // SAFETY: passed on to the caller: these groups of the part, with the bytes that were just joined.
                unsafe { self.multiply(&Part { weight, target, groups: 0..n, columns: columns.clone() }, x) };
            }
        });
    }

    /// Computes one task of attention.
    ///
    /// # Safety
    /// As `attention::run`.
    unsafe fn attend(&self, call: &Call<'_>, part: &AttentionPart) {
        // SAFETY: passed on to the caller; `with_isa` checked that the machine has the instruction set.
        unsafe {
            match self.isa {
                Isa::Scalar => attention::run::<Scalar>(call, part),
                isa => native::attend(isa, call, part),
            }
        }
    }

    /// Merges the split chunks of one pair.
    ///
    /// # Safety
    /// As `attention::gather`.
    unsafe fn gather(&self, call: &Call<'_>, kv: usize, pair: usize) {
        // SAFETY: as above.
        unsafe {
            match self.isa {
                Isa::Scalar => attention::gather::<Scalar>(call, kv, pair),
                isa => native::gather(isa, call, kv, pair),
            }
        }
    }
}

/// Chooses between the plain kernel and the one for this architecture's vectors, both called with the same
/// arguments.
macro_rules! by_isa {
    ($self:ident, $module:ident :: $name:ident ( $($argument:expr),* )) => {
        match $self.isa {
            Isa::Scalar => scalar::$module::$name($($argument),*),
            #[allow(unused_unsafe)] // where there are no vector kernels
            _ => {
                // SAFETY: `with_isa` checked that the machine has what all vector kernels of its architecture rely
                // on: AVX2, FMA and F16C, or NEON.
                unsafe { native::$module::$name($($argument),*) }
            }
        }
    };
}

/// The same for kernels that have vectors of several widths and are told the instruction set.
macro_rules! by_width {
    ($self:ident, $name:ident ( $($argument:expr),* )) => {
        match $self.isa {
            Isa::Scalar => scalar::elementwise::$name($($argument),*),
            // SAFETY: `with_isa` checked that the machine has the instruction set.
            isa => unsafe { native::$name(isa, $($argument),*) },
        }
    };
}

impl Rounding for Cpu {
    fn halves(&self, x: &[f32], out: &mut [u16]) {
        by_isa!(self, elementwise::to_f16(x, out));
    }

    fn codes(&self, x: &[f32; BLOCK], out: &mut [i8; BLOCK]) -> f32 {
        by_isa!(self, elementwise::quantize(x, out))
    }
}

/// The size of attention of `n` tokens from `start` on.
fn attention_size(cache: &KvShape, n: usize, heads: usize, start: usize) -> AttentionSize {
    AttentionSize {
        kv_heads: cache.kv_heads,
        pairs: n * heads.checked_div(cache.kv_heads).unwrap_or(0),
        positions: start + n,
        work: cache.key_dim + cache.value_dim,
        state: state_len(cache.value_row()),
    }
}

/// The product of dimensions; `None` on overflow, so that no wrapped length lets parts of a slice overlap.
fn product(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, dim| product.checked_mul(*dim))
}

impl Backend for Cpu {
    fn describe(&self) -> String {
        let threads = self.threads();
        format!("{}, {threads} thread{}", self.isa, if threads == 1 { "" } else { "s" })
    }

    fn threads(&self) -> usize {
        self.pool.threads()
    }

    fn max_batch(&self, sliced: bool) -> usize {
        match (self.isa, sliced) {
            (Isa::Scalar, true) => 8,
            (Isa::Scalar, false) | (_, true) => 64,
            (_, false) => 512,
        }
    }

    fn reserve(
        &self,
        batch: &BatchSize<'_>,
        input: &mut Activations,
        work: &mut AttentionWork,
    ) -> Result<()> {
        let BatchSize { n, attended, k, heads, start, cache } = *batch;
        input.reserve(n, k, if self.weaves(n) { panels(n, k.div_ceil(TILE)) } else { 0 })?;
        work.states.reserve(self.cut(attention_size(cache, attended, heads, start)).state_elements())
    }

    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let k = weight.len();
        debug_assert!(k > 0 && x.len() == out.len() && x.len().is_multiple_of(k));
        let n = x.len().min(out.len()).checked_div(k).unwrap_or(0);
        let out = Shared::new(out);
        self.each_row(n, k, &|t| {
            // SAFETY: each task has its own row.
            let out = unsafe { out.part(t * k, k) };
            let x = &x[t * k..][..k];
            by_isa!(self, elementwise::rms_norm(x, weight, eps, out));
        });
    }

    fn activations(&self, x: &[f32], k: usize, out: &mut Activations) {
        debug_assert!(k > 0 && x.len().is_multiple_of(k));
        let n = x.len().checked_div(k).unwrap_or(0);
        out.resize(n, k);
        let tiles = out.tiles();
        out.values.copy_from_slice(&x[..n * k]);
        let codes = Shared::new(&mut out.codes);
        let (sums, half_sums) = (Shared::new(&mut out.sums), Shared::new(&mut out.half_sums));
        let scales = Shared::new(&mut out.scales);
        let (offsets, half_offsets) = (Shared::new(&mut out.offsets), Shared::new(&mut out.half_offsets));
        self.each_row(n, k, &|t| {
            let (at, half) = (t * tiles, 2 * t * tiles);
            // SAFETY: each task has its own row of each buffer.
            let mut row = unsafe {
                Row {
                    codes: codes.part(at * 32, tiles * 32),
                    scales: scales.part(at, tiles),
                    sums: sums.part(at, tiles),
                    half_sums: half_sums.part(half, 2 * tiles),
                    offsets: offsets.part(at, tiles),
                    half_offsets: half_offsets.part(half, 2 * tiles),
                }
            };
            let x = &x[t * k..][..k];
            by_isa!(self, elementwise::activations(x, &mut row));
        });
        self.weave(out);
    }

    fn matmul(&self, gate: &Gate, from: usize, x: &Activations, products: &mut [Product<'_>]) -> Progress {
        // First task, cut and data of each piece; a product of the wrong shape gives NaN and no tasks.
        let mut planned = Vec::with_capacity(products.iter().map(|product| product.pieces.len()).sum());
        let mut tasks = 0;
        for product in products {
            let fits = product.is_sound(x);
            debug_assert!(fits, "shapes of a product of {} rows do not fit", product.rows);
            if !fits {
                product.out.fill(f32::NAN);
                continue;
            }
            let (bias, rows, out) = (product.bias, product.rows, Shared::new(&mut *product.out));
            for piece in product.pieces.iter().copied() {
                let Piece { first, encoding, rows: own_rows, cols: k, .. } = piece;
                let size = ProductSize { rows: own_rows, k, n: x.n, group_bytes: group_bytes(encoding, k) };
                let budget =
                    if float(encoding).is_some() { self.isa.float_budget() } else { self.isa.budget() };
                let cut = Cut::new(size, budget, self.threads());
                planned.push((tasks, cut, piece, Target { bias, out, rows, first }));
                tasks += cut.tasks();
            }
        }
        self.pool.run(gate, from, tasks, &|task| {
            let at = planned.partition_point(|p| p.0 <= task) - 1;
            let (before, cut, piece, target) = planned[at];
            let [groups, columns] = cut.part(task - before);
            // SAFETY: the shapes fit, the pieces of a product and the parts of a cut are disjoint.
            unsafe { self.multiply_piece(&piece, target, groups, columns, x) };
        })
    }

    fn rope(&self, x: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]) {
        let width = heads * head_dim;
        let n = x.len().checked_div(width).unwrap_or(0);
        let pairs = cos.len().checked_div(n).unwrap_or(0);
        debug_assert!(x.len() == n * width && cos.len() == n * pairs && cos.len() == sin.len());
        if pairs == 0 || 2 * pairs > head_dim || sin.len() < n * pairs {
            return;
        }
        let x = Shared::new(x);
        self.each_row(n, width, &|t| {
            // SAFETY: each task has its own row.
            let x = unsafe { x.part(t * width, width) };
            let (cos, sin) = (&cos[t * pairs..][..pairs], &sin[t * pairs..][..pairs]);
            by_isa!(self, elementwise::rope(x, head_dim, cos, sin));
        });
    }

    fn store_kv(&self, start: usize, keys: &[f32], values: &[f32], cache: &mut KvLayer) {
        let s = *cache.shape();
        let width = s.kv_heads * s.key_dim;
        let n = keys.len().checked_div(width).unwrap_or(0);
        let fits = keys.len() == n * width
            && values.len() == n * s.kv_heads * s.value_dim
            && start.checked_add(n).is_some_and(|end| end <= s.capacity);
        debug_assert!(fits, "{n} positions from {start} do not fit {s:?}");
        if !fits || n == 0 {
            return;
        }
        let rows = Rows { start, n, keys, values };
        let writer = cache.writer();
        let (first, end) = (start / kv::TILE, (start + n).div_ceil(kv::TILE));
        self.each_row(end - first, kv::TILE * (width + s.kv_heads * s.value_dim), &|i| {
            // SAFETY: the rows fit, and each task has its own tile.
            unsafe { writer.store(first + i, &rows, self) };
        });
    }

    fn attention(
        &self,
        gate: &Gate,
        from: usize,
        queries: &Queries<'_>,
        cache: &KvLayer,
        work: &mut AttentionWork,
        out: &mut [f32],
    ) -> Progress {
        let (s, q) = (cache.shape(), queries);
        let fits = s.kv_heads > 0
            && q.heads.is_multiple_of(s.kv_heads)
            && q.start.checked_add(q.n).is_some_and(|end| end <= s.capacity)
            && product(&[q.n, q.heads, s.key_dim]) == Some(q.values.len())
            && product(&[q.n, q.heads, s.value_dim]) == Some(out.len());
        debug_assert!(fits, "shapes of attention do not fit: {s:?}");
        if !fits || out.is_empty() {
            out.fill(f32::NAN);
            return Progress::Done;
        }
        let size = attention_size(s, q.n, q.heads, q.start);
        let cut = self.cut(size);
        let states = Shared::new(work.states.at_least(cut.state_elements()));
        let call = Call { queries: *queries, cache, cut, states, out: Shared::new(out) };
        let mut from = from;
        while from < cut.tasks() {
            let end = cut.barrier(from);
            let progress = self.pool.run(gate, from, end, &|task| {
                // SAFETY: the shapes fit, the parts between two barriers are disjoint.
                unsafe { self.attend(&call, &cut.part(task)) };
            });
            if let Progress::Paused(task) = progress {
                return Progress::Paused(task);
            }
            from = end;
        }
        if cut.is_split() {
            self.each_row(s.kv_heads * size.pairs, cut.chunks() * size.state, &|i| {
                // SAFETY: as above; all chunks are done.
                unsafe { self.gather(&call, i / size.pairs, i % size.pairs) };
            });
        }
        Progress::Done
    }

    fn swiglu(&self, gate: &mut [f32], up: &[f32]) {
        debug_assert!(gate.len() == up.len());
        let len = gate.len().min(up.len());
        let gate = Shared::new(gate);
        self.each_range(len, &|from, len| {
            // SAFETY: each task has its own range.
            let gate = unsafe { gate.part(from, len) };
            by_width!(self, swiglu(gate, &up[from..][..len]));
        });
    }

    fn add(&self, x: &mut [f32], y: &[f32]) {
        debug_assert!(x.len() == y.len());
        let len = x.len().min(y.len());
        let x = Shared::new(x);
        self.each_range(len, &|from, len| {
            // SAFETY: each task has its own range.
            let x = unsafe { x.part(from, len) };
            by_width!(self, add(x, &y[from..][..len]));
        });
    }
}
