//! The packed form of a weight matrix, and the ways in and out of it.
//!
//! Rows are taken in groups of [`GROUP`]. Within a group, each block index along k holds the eight rows' blocks
//! interleaved: field by field, and within a field unit by unit, the eight rows' units lie side by side. With
//! rows `r`, block index `b`, a field at `offset` in the source block, and unit `u` of that field, the bytes
//! `row[r].block[b][offset + u * unit ..][..unit]` are found at
//! `b * 8 * block_bytes + 8 * (offset + u * unit) + r * unit` of the group. So one vector load brings the same
//! part of eight rows, and no byte is added: a group takes as many bytes as its eight rows. The last group of a
//! matrix is filled up with rows of zero bytes, which decode to finite values in every encoding.

use super::encoding::{Encoding, Field};
use crate::error::{Error, Result};

/// Rows that are interleaved.
pub const GROUP: usize = 8;

/// Room for one block of any encoding, and for a run of the blocks of one element.
const BLOCK_ROOM: usize = 256;

/// Bytes of one source row of `cols` elements: `None` where `cols` is not a multiple of the block length, or on
/// overflow.
#[must_use]
pub fn row_bytes(enc: &Encoding, cols: usize) -> Option<usize> {
    enc.row_bytes(cols)
}

/// Bytes of a packed matrix `[rows, cols]`, rows rounded up to whole groups; `None` as for [`row_bytes`].
#[must_use]
pub fn packed_len(enc: &Encoding, rows: usize, cols: usize) -> Option<usize> {
    rows.div_ceil(GROUP).checked_mul(GROUP)?.checked_mul(enc.row_bytes(cols)?)
}

/// Packs whole source rows, one after the other in `rows`, into `out`.
///
/// `rows` holds n rows of `cols` elements, `out` takes `packed_len(enc, n, cols)` bytes. A matrix may be packed
/// in parts, each but the last a multiple of [`GROUP`] rows.
///
/// # Errors
/// [`Error::InvalidArgument`] where the lengths do not belong together.
pub fn pack(enc: &Encoding, cols: usize, rows: &[u8], out: &mut [u8]) -> Result<()> {
    let row = checked_row(enc, cols)?;
    let n = rows.len().checked_div(row).unwrap_or(0);
    if n * row != rows.len() || packed_len(enc, n, cols) != Some(out.len()) {
        return Err(lengths(enc, cols, rows.len(), out.len()));
    }
    if row == 0 {
        return Ok(());
    }
    let padding = if n.is_multiple_of(GROUP) { Vec::new() } else { vec![0; row] };
    for (rows, group) in rows.chunks(GROUP * row).zip(out.chunks_exact_mut(GROUP * row)) {
        let mut sources: [&[u8]; GROUP] = [&padding; GROUP];
        for (source, row) in sources.iter_mut().zip(rows.chunks_exact(row)) {
            *source = row;
        }
        each_field(enc, row, |field, at| {
            let sources = sources.map(|row| &row[at..at + field.len]);
            let packed = &mut group[GROUP * at..][..GROUP * field.len];
            match field.unit {
                1 => interleave::<1>(sources, packed),
                2 => interleave::<2>(sources, packed),
                4 => interleave::<4>(sources, packed),
                unit => interleave_any(sources, packed, unit),
            }
        });
    }
    Ok(())
}

/// Brings `n_rows` rows back into source order: the exact inverse of [`pack`].
///
/// `packed` has `packed_len(enc, n_rows, cols)` bytes, `out` takes `n_rows * row_bytes(enc, cols)`.
///
/// # Errors
/// [`Error::InvalidArgument`] where the lengths do not belong together.
pub fn unpack(enc: &Encoding, cols: usize, n_rows: usize, packed: &[u8], out: &mut [u8]) -> Result<()> {
    let row = checked_row(enc, cols)?;
    if packed_len(enc, n_rows, cols) != Some(packed.len()) || out.len() != n_rows * row {
        return Err(lengths(enc, cols, out.len(), packed.len()));
    }
    if row == 0 {
        return Ok(());
    }
    for (group, rows) in packed.chunks_exact(GROUP * row).zip(out.chunks_mut(GROUP * row)) {
        for (r, row_out) in rows.chunks_exact_mut(row).enumerate() {
            each_field(enc, row, |field, at| {
                let packed = &group[GROUP * at..][..GROUP * field.len];
                gather(packed, r, field.unit, &mut row_out[at..at + field.len]);
            });
        }
    }
    Ok(())
}

/// Gathers source block `block_index` of row `row_in_group` (0..8) out of one packed group.
///
/// `group` has `8 * row_bytes(enc, cols)` bytes, `out` takes `block_bytes`.
///
/// # Errors
/// [`Error::InvalidArgument`] where an index is out of range or the lengths do not belong together.
pub fn unpack_block(
    enc: &Encoding,
    group: &[u8],
    cols: usize,
    row_in_group: usize,
    block_index: usize,
    out: &mut [u8],
) -> Result<()> {
    if packed_len(enc, GROUP, cols) != Some(group.len()) || out.len() != enc.block_bytes {
        return Err(lengths(enc, cols, out.len(), group.len()));
    }
    if row_in_group >= GROUP || block_index >= cols / enc.block_len {
        return Err(Error::InvalidArgument(format!(
            "block {block_index} of row {row_in_group} of a group lies outside of {GROUP} rows of {} blocks",
            cols / enc.block_len
        )));
    }
    let stride = GROUP * enc.block_bytes;
    gather_block(enc, &group[block_index * stride..][..stride], row_in_group, out);
    Ok(())
}

/// Decodes row `row` of a packed matrix `[rows, cols]` to `cols` f32 values.
///
/// # Errors
/// [`Error::InvalidArgument`] where the row is out of range or the lengths do not belong together.
pub fn dequantize_row(
    enc: &Encoding,
    packed: &[u8],
    rows: usize,
    cols: usize,
    row: usize,
    out: &mut [f32],
) -> Result<()> {
    if packed_len(enc, rows, cols) != Some(packed.len()) || out.len() != cols {
        return Err(lengths(enc, cols, out.len(), packed.len()));
    }
    if row >= rows {
        return Err(Error::InvalidArgument(format!("row {row} was asked of a matrix of {rows} rows")));
    }
    let group_bytes = GROUP * checked_row(enc, cols)?;
    let group = &packed[row / GROUP * group_bytes..][..group_bytes];
    let mut room = [0; BLOCK_ROOM];
    if let ([field], 1) = (enc.fields, enc.block_len) {
        let elements = BLOCK_ROOM / enc.block_bytes;
        let packed = group.chunks(elements * GROUP * enc.block_bytes);
        for (out, packed) in out.chunks_mut(elements).zip(packed) {
            let bytes = &mut room[..out.len() * enc.block_bytes];
            gather(packed, row % GROUP, field.unit, bytes);
            (enc.dequantize)(bytes, out);
        }
        return Ok(());
    }
    let block = &mut room[..enc.block_bytes];
    let blocks = group.chunks_exact(GROUP * enc.block_bytes);
    for (out, packed) in out.chunks_exact_mut(enc.block_len).zip(blocks) {
        gather_block(enc, packed, row % GROUP, block);
        (enc.dequantize)(block, out);
    }
    Ok(())
}

/// Calls `visit` with each field of each block along a row of `row` bytes and its offset in the row; the field
/// is at [`GROUP`] times that offset in the packed group. Blocks of a single field are joined to one long field,
/// whose layout is the same.
fn each_field(enc: &Encoding, row: usize, mut visit: impl FnMut(Field, usize)) {
    if let [field] = enc.fields {
        return visit(Field { len: row, unit: field.unit }, 0);
    }
    for block in (0..row).step_by(enc.block_bytes) {
        let mut at = block;
        for field in enc.fields {
            visit(*field, at);
            at += field.len;
        }
    }
}

/// Interleaves the units of one field of eight rows.
fn interleave<const UNIT: usize>(rows: [&[u8]; GROUP], packed: &mut [u8]) {
    // Equal lengths let the compiler drop the bounds checks of the loop.
    let units = packed.len() / (GROUP * UNIT);
    let rows = rows.map(|row| &row.as_chunks::<UNIT>().0[..units]);
    let packed = packed.as_chunks_mut::<UNIT>().0.as_chunks_mut::<GROUP>().0;
    for (u, packed) in packed[..units].iter_mut().enumerate() {
        for r in 0..GROUP {
            packed[r] = rows[r][u];
        }
    }
}

/// [`interleave`] for a unit that has no fast loop.
fn interleave_any(rows: [&[u8]; GROUP], packed: &mut [u8], unit: usize) {
    for (u, packed) in packed.chunks_exact_mut(GROUP * unit).enumerate() {
        for (row, packed) in rows.iter().zip(packed.chunks_exact_mut(unit)) {
            packed.copy_from_slice(&row[u * unit..][..unit]);
        }
    }
}

/// Gathers row `r`'s units of one packed field.
fn gather(packed: &[u8], r: usize, unit: usize, out: &mut [u8]) {
    fn fixed<const UNIT: usize>(packed: &[u8], r: usize, out: &mut [u8]) {
        let packed = packed.as_chunks::<UNIT>().0.as_chunks::<GROUP>().0;
        for (out, packed) in out.as_chunks_mut::<UNIT>().0.iter_mut().zip(packed) {
            *out = packed[r];
        }
    }
    match unit {
        1 => fixed::<1>(packed, r, out),
        2 => fixed::<2>(packed, r, out),
        4 => fixed::<4>(packed, r, out),
        unit => {
            for (out, packed) in out.chunks_exact_mut(unit).zip(packed.chunks_exact(GROUP * unit)) {
                out.copy_from_slice(&packed[r * unit..][..unit]);
            }
        }
    }
}

/// Gathers row `r`'s block out of eight interleaved ones, as a group stores them.
pub(super) fn gather_block(enc: &Encoding, packed: &[u8], r: usize, out: &mut [u8]) {
    let mut at = 0;
    for field in enc.fields {
        gather(&packed[GROUP * at..][..GROUP * field.len], r, field.unit, &mut out[at..at + field.len]);
        at += field.len;
    }
}

fn checked_row(enc: &Encoding, cols: usize) -> Result<usize> {
    enc.row_bytes(cols).ok_or_else(|| {
        Error::InvalidArgument(format!(
            "rows of {cols} elements cannot be {}: its blocks hold {} elements",
            enc.name, enc.block_len
        ))
    })
}

fn lengths(enc: &Encoding, cols: usize, plain: usize, packed: usize) -> Error {
    Error::InvalidArgument(format!(
        "{plain} plain and {packed} packed units do not belong together for {} rows of {cols} elements",
        enc.name
    ))
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
