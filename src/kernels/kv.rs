//! The KV cache of one layer, laid out as the attention kernels read it.
//!
//! Keys lie in tiles of `TILE` positions, `[kv_heads, tiles, key_dim, TILE]`: the lanes of a vector are positions,
//! and a score is one chain along the dimension. Values lie `[kv_heads, capacity, row]`, `row` being `value_dim`
//! rounded up to `TILE` and the elements beyond `value_dim` 0: the lanes are dimensions.
//!
//! With q8_0 the elements are int8 codes in the same order, and each `BLOCK` of them along the dimension (the last
//! may be shorter) has an f16 scale: `[kv_heads, tiles, blocks, TILE]` for keys, `[kv_heads, capacity, blocks]` for
//! values. An element is code * scale, which f32 holds exactly.

use std::ops::Range;
use std::str::FromStr;

use super::aligned::Aligned;
use super::layout::Shared;
use super::math::{f16_to_f32, f32_to_f16};
use crate::error::{Error, Result};

/// Positions of a tile of keys; elements to which a row of values is padded. Vectors of every width divide it.
pub(super) const TILE: usize = 16;

/// Elements along the dimension that share a scale.
pub(super) const BLOCK: usize = 32;

/// How a KV cache stores its elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// Half precision.
    #[default]
    F16,
    /// Blocks of 32 elements of a head: an f16 scale d = amax / 127 and int8 codes round(x / d), as ggml's q8_0.
    /// A head's last block may be shorter.
    Q8_0,
}

impl KvFormat {
    /// All formats.
    pub const ALL: [Self; 2] = [Self::F16, Self::Q8_0];

    /// Its name in options and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }
}

impl FromStr for KvFormat {
    type Err = Error;

    /// The format of this name, in whatever case.
    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::InvalidArgument(format!("\"{text}\" is no type of KV cache; there are {names}"))
        })
    }
}

/// Sizes of one layer's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// How elements are stored.
    pub format: KvFormat,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head of a key (and query).
    pub key_dim: usize,
    /// Elements per head of a value.
    pub value_dim: usize,
    /// Positions that there is room for.
    pub capacity: usize,
}

/// Elements and scales of one head's keys or values.
#[derive(Clone, Copy, Debug)]
struct HeadLen {
    elements: usize,
    scales: usize,
}

impl KvShape {
    /// Bytes of the cache, `u64::MAX` where there are more.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let [tiles, row] = [self.capacity.div_ceil(TILE), self.value_dim.div_ceil(TILE)];
        let product = |dims: [usize; 3]| dims.iter().fold(1, |p: u64, d| p.saturating_mul(*d as u64));
        let units = product([self.kv_heads, tiles, self.key_dim]).saturating_add(product([
            self.kv_heads,
            self.capacity,
            row,
        ]));
        let elements = units.saturating_mul(TILE as u64);
        match self.format {
            KvFormat::F16 => elements.saturating_mul(2),
            KvFormat::Q8_0 => {
                let keys = product([self.kv_heads, tiles, self.key_blocks()]).saturating_mul(TILE as u64);
                let scales =
                    keys.saturating_add(product([self.kv_heads, self.capacity, self.value_blocks()]));
                elements.saturating_add(scales.saturating_mul(2))
            }
        }
    }

    /// Scales of a position's key.
    pub(super) fn key_blocks(&self) -> usize {
        self.key_dim.div_ceil(BLOCK)
    }

    /// Scales of a position's value.
    pub(super) fn value_blocks(&self) -> usize {
        self.value_dim.div_ceil(BLOCK)
    }

    /// Stored elements of a position's value.
    pub(super) fn value_row(&self) -> usize {
        self.value_dim.next_multiple_of(TILE)
    }

    fn head_keys(&self) -> HeadLen {
        let tiles = self.capacity.div_ceil(TILE) * TILE;
        HeadLen { elements: tiles * self.key_dim, scales: tiles * self.key_blocks() }
    }

    fn head_values(&self) -> HeadLen {
        HeadLen { elements: self.capacity * self.value_row(), scales: self.capacity * self.value_blocks() }
    }
}

/// Keys or values of all heads.
#[derive(Debug)]
struct Plane {
    /// Elements of q8_0, else empty.
    codes: Aligned<i8>,
    /// Elements of f16, scales of q8_0.
    halves: Aligned<u16>,
}

impl Plane {
    /// Zeroed pages come from the system on first use, so positions never reached cost nothing.
    fn new(format: KvFormat, heads: usize, len: HeadLen) -> Result<Self> {
        let (codes, halves) = match format {
            KvFormat::F16 => (Aligned::default(), Aligned::new(heads * len.elements)?),
            KvFormat::Q8_0 => (Aligned::new(heads * len.elements)?, Aligned::new(heads * len.scales)?),
        };
        Ok(Self { codes, halves })
    }

    fn head(&self, format: KvFormat, head: usize, len: HeadLen) -> Elements<'_> {
        match format {
            KvFormat::F16 => Elements::F16(&self.halves[head * len.elements..][..len.elements]),
            KvFormat::Q8_0 => Elements::Q8_0 {
                codes: &self.codes[head * len.elements..][..len.elements],
                scales: &self.halves[head * len.scales..][..len.scales],
            },
        }
    }
}

/// Keys or values of one head.
#[derive(Clone, Copy, Debug)]
pub(super) enum Elements<'a> {
    /// f16 bits.
    F16(&'a [u16]),
    /// Codes and the f16 bits of their scales.
    Q8_0 { codes: &'a [i8], scales: &'a [u16] },
}

impl Elements<'_> {
    /// The element at index `at`, whose scale is the one at `scale`.
    fn get(&self, at: usize, scale: usize) -> f32 {
        match self {
            Self::F16(halves) => f16_to_f32(halves[at]),
            Self::Q8_0 { codes, scales } => f32::from(codes[at]) * f16_to_f32(scales[scale]),
        }
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer {
    shape: KvShape,
    keys: Plane,
    values: Plane,
}

impl KvLayer {
    /// An empty cache.
    ///
    /// # Errors
    /// [`Error::Limit`] where its size leaves the address space or the system has no memory for it.
    pub fn new(shape: KvShape) -> Result<Self> {
        // Every size at least 1, so that no part of the product overflows either.
        let [kv_heads, key_dim] = [shape.kv_heads.max(1), shape.key_dim.max(1)];
        let [value_dim, capacity] = [shape.value_dim.max(1), shape.capacity.max(1)];
        if (KvShape { kv_heads, key_dim, value_dim, capacity, ..shape }).bytes() > isize::MAX as u64 {
            return Err(Error::Limit(format!(
                "a KV cache of {capacity} positions is more than can be addressed; ask for a smaller context"
            )));
        }
        let plane = |len| Plane::new(shape.format, shape.kv_heads, len);
        Ok(Self { shape, keys: plane(shape.head_keys())?, values: plane(shape.head_values())? })
    }

    /// Its sizes.
    #[must_use]
    pub fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Bytes of the buffers.
    #[cfg(test)]
    pub(super) fn buffer_bytes(&self) -> u64 {
        let bytes = |plane: &Plane| plane.codes.len() + 2 * plane.halves.len();
        (bytes(&self.keys) + bytes(&self.values)) as u64
    }

    /// Keys of head `kv`.
    pub(super) fn keys(&self, kv: usize) -> Elements<'_> {
        self.keys.head(self.shape.format, kv, self.shape.head_keys())
    }

    /// Values of head `kv`.
    pub(super) fn values(&self, kv: usize) -> Elements<'_> {
        self.values.head(self.shape.format, kv, self.shape.head_values())
    }

    /// Writes the key of head `kv` at `position`.
    pub(super) fn read_key(&self, kv: usize, position: usize, key: &mut [f32]) {
        let (keys, tile, lane) = (self.keys(kv), position / TILE, position % TILE);
        let [elements, scales] = [self.shape.key_dim, self.shape.key_blocks()].map(|rows| tile * rows);
        for (d, k) in key.iter_mut().enumerate() {
            *k = keys.get((elements + d) * TILE + lane, (scales + d / BLOCK) * TILE + lane);
        }
    }

    /// Writes the value of head `kv` at `position`.
    pub(super) fn read_value(&self, kv: usize, position: usize, value: &mut [f32]) {
        let (values, s) = (self.values(kv), &self.shape);
        for (d, v) in value.iter_mut().enumerate() {
            *v = values.get(position * s.value_row() + d, position * s.value_blocks() + d / BLOCK);
        }
    }

    /// Access for tasks that store new positions.
    pub(super) fn writer(&mut self) -> Writer {
        let share = |plane: &mut Plane| (Shared::new(&mut plane.codes), Shared::new(&mut plane.halves));
        Writer { shape: self.shape, keys: share(&mut self.keys), values: share(&mut self.values) }
    }
}

/// How elements are rounded; every instruction set gives the same bits.
pub(super) trait Rounding {
    /// Rounds to f16, nearest even.
    fn halves(&self, x: &[f32], out: &mut [u16]);

    /// int8 codes of a block, and the scale before its own rounding.
    fn codes(&self, x: &[f32; BLOCK], out: &mut [i8; BLOCK]) -> f32;
}

/// Keys `[n, kv_heads * key_dim]` and values `[n, kv_heads * value_dim]` of the positions `start .. start + n`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows<'a> {
    pub start: usize,
    pub n: usize,
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

impl<'a> Rows<'a> {
    /// The positions that lie in tile `tile`.
    fn positions(&self, tile: usize) -> Range<usize> {
        self.start.max(tile * TILE)..(self.start + self.n).min((tile + 1) * TILE)
    }

    /// The key at `position`.
    fn key(&self, shape: &KvShape, kv: usize, position: usize) -> &'a [f32] {
        let at = (position - self.start) * shape.kv_heads + kv;
        &self.keys[at * shape.key_dim..][..shape.key_dim]
    }

    /// The value at `position`.
    fn value(&self, shape: &KvShape, kv: usize, position: usize) -> &'a [f32] {
        let at = (position - self.start) * shape.kv_heads + kv;
        &self.values[at * shape.value_dim..][..shape.value_dim]
    }
}

/// A layer whose tiles are written by several tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    shape: KvShape,
    keys: (Shared<i8>, Shared<u16>),
    values: (Shared<i8>, Shared<u16>),
}

impl Writer {
    /// Stores those of `rows` that lie in tile `tile`.
    ///
    /// # Safety
    /// The layer is still borrowed, its capacity holds the rows, and no other task writes this tile.
    pub(super) unsafe fn store(&self, tile: usize, rows: &Rows<'_>, rounding: &impl Rounding) {
        for kv in 0..self.shape.kv_heads {
            // SAFETY: passed on to the caller.
            unsafe {
                match self.shape.format {
                    KvFormat::F16 => self.store_halves(tile, kv, rows, rounding),
                    KvFormat::Q8_0 => self.store_codes(tile, kv, rows, rounding),
                }
            }
        }
    }

    /// # Safety
    /// As for [`store`](Self::store).
    unsafe fn store_halves(&self, tile: usize, kv: usize, rows: &Rows<'_>, rounding: &impl Rounding) {
        let (s, positions) = (&self.shape, rows.positions(tile));
        let key_tile = s.key_dim * TILE;
        // SAFETY: the tile of this head is this task's alone.
        let keys = unsafe { self.keys.1.part(kv * s.head_keys().elements + tile * key_tile, key_tile) };
        for (block, out) in keys.chunks_mut(BLOCK * TILE).enumerate() {
            let mut halves = [[0; BLOCK]; TILE];
            for position in positions.clone() {
                let key = piece(rows.key(s, kv, position), block);
                rounding.halves(key, &mut halves[position % TILE][..key.len()]);
            }
            interleave(&halves, positions.clone(), out);
        }
        for position in positions {
            let at = kv * s.head_values().elements + position * s.value_row();
            // SAFETY: as above.
            let out = unsafe { self.values.1.part(at, s.value_dim) };
            rounding.halves(rows.value(s, kv, position), out);
        }
    }

    /// # Safety
    /// As for [`store`](Self::store).
    unsafe fn store_codes(&self, tile: usize, kv: usize, rows: &Rows<'_>, rounding: &impl Rounding) {
        let (s, positions) = (&self.shape, rows.positions(tile));
        let (key_tile, scale_tile) = (s.key_dim * TILE, s.key_blocks() * TILE);
        // SAFETY: the tile of this head is this task's alone.
        let (keys, scales) = unsafe {
            (
                self.keys.0.part(kv * s.head_keys().elements + tile * key_tile, key_tile),
                self.keys.1.part(kv * s.head_keys().scales + tile * scale_tile, scale_tile),
            )
        };
        for (block, out) in keys.chunks_mut(BLOCK * TILE).enumerate() {
            let mut codes = [[0; BLOCK]; TILE];
            for position in positions.clone() {
                let key = padded(piece(rows.key(s, kv, position), block));
                let scale = rounding.codes(&key, &mut codes[position % TILE]);
                scales[block * TILE + position % TILE] = f32_to_f16(scale);
            }
            interleave(&codes, positions.clone(), out);
        }
        for position in positions {
            let at = kv * s.head_values().elements + position * s.value_row();
            let scale_at = kv * s.head_values().scales + position * s.value_blocks();
            // SAFETY: as above.
            let (out, scales) = unsafe {
                (self.values.0.part(at, s.value_dim), self.values.1.part(scale_at, s.value_blocks()))
            };
            let value = rows.value(s, kv, position);
            for ((out, value), scale) in out.chunks_mut(BLOCK).zip(value.chunks(BLOCK)).zip(scales) {
                let mut codes = [0; BLOCK];
                *scale = f32_to_f16(rounding.codes(&padded(value), &mut codes));
                out.copy_from_slice(&codes[..out.len()]);
            }
        }
    }
}

/// Block `block` of a head's row.
fn piece(row: &[f32], block: usize) -> &[f32] {
    let rest = &row[block * BLOCK..];
    &rest[..rest.len().min(BLOCK)]
}

/// A block with zeros behind it.
fn padded(block: &[f32]) -> [f32; BLOCK] {
    let mut whole = [0.0; BLOCK];
    whole[..block.len()].copy_from_slice(block);
    whole
}

/// Writes the rows of these positions as columns of `[dimension, TILE]`.
fn interleave<T: Copy>(rows: &[[T; BLOCK]; TILE], positions: Range<usize>, out: &mut [T]) {
    if positions.len() == TILE {
        for (d, column) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
            *column = std::array::from_fn(|lane| rows[lane][d]);
        }
    } else {
        for position in positions {
            let lane = position % TILE;
            for (d, column) in out.chunks_exact_mut(TILE).enumerate() {
                column[lane] = rows[lane][d];
            }
        }
    }
}
