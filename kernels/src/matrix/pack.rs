//! File blocks to interleaved ones, and back.
use super::layout::{COLUMNS, Layout, Plane, ROWS};
use crate::{
    format::Format,
    quant::{
        blocks::q13_0_codes,
        k_blocks::{q4_k_code, q5_k_code, q6_k_code},
        sub_scales::{pack_scales_and_minima, scales_and_minima},
    },
};

fn copy_half(from: &[u8], at: usize, to: &mut [u8], row: usize) {
    to[2 * row..2 * row + 2].copy_from_slice(&from[at..at + 2]);
}

/// Returns the 4-bit codes of a block of 32 and, with their fifth bits, the 5-bit ones.
fn codes_of_32(nibbles: &[u8], fifth: Option<&[u8]>) -> [u8; COLUMNS] {
    std::array::from_fn(|k| {
        let low = (nibbles[k % 16] >> (4 * (k / 16))) & 15;
        low | fifth.map_or(0, |bits| (bits[k / 8] >> (k % 8)) & 1) << 4
    })
}

/// Writes one row's block into lane `row` of a packed block, which was zero there.
pub(crate) fn pack_block(format: Format, from: &[u8], row: usize, to: &mut [u8]) {
    match format {
        Format::F32 | Format::F16 | Format::Bf16 | Format::Q2K | Format::Q3K => {
            to[row * from.len()..][..from.len()].copy_from_slice(from);
        }
        Format::Q8_0 => {
            copy_half(from, 0, to, row);
            Plane::<8>::put(&mut to[16..], row, &std::array::from_fn(|k| from[2 + k]));
        }
        Format::Q4_0 => {
            copy_half(from, 0, to, row);
            Plane::<4>::put(&mut to[16..], row, &codes_of_32(&from[2..], None));
        }
        Format::Q4_1 => {
            copy_half(from, 0, to, row);
            copy_half(from, 2, &mut to[16..], row);
            Plane::<4>::put(&mut to[32..], row, &codes_of_32(&from[4..], None));
        }
        Format::Q5_0 => {
            copy_half(from, 0, to, row);
            put_five(&mut to[16..], row, &codes_of_32(&from[6..], Some(&from[2..6])));
        }
        Format::Q5_1 => {
            copy_half(from, 0, to, row);
            copy_half(from, 2, &mut to[16..], row);
            put_five(&mut to[32..], row, &codes_of_32(&from[8..], Some(&from[4..8])));
        }
        Format::Q13_0 => {
            copy_half(from, 0, to, row);
            let vectors = to[16..]
                .as_chunks_mut::<32>()
                .0
                .iter_mut()
                .flat_map(|vector| vector[4 * row..4 * row + 4].as_chunks_mut::<2>().0);
            q13_0_codes(from).zip(vectors).for_each(|(code, to)| *to = code.to_le_bytes());
        }
        Format::Q4K | Format::Q5K => pack_with_minima(format, from, row, to),
        Format::Q6K => {
            let layout = Layout::of(format);
            copy_half(from, 208, to, row);
            for (j, part) in to[layout.head..].chunks_exact_mut(layout.part).enumerate() {
                part[row] = from[192 + 2 * j];
                part[8 + row] = from[193 + 2 * j];
                let codes: [u8; COLUMNS] = std::array::from_fn(|k| q6_k_code(from, 32 * j + k));
                Plane::<2>::put(&mut part[16..], row, &codes.map(|code| code >> 4));
                Plane::<4>::put(&mut part[80..], row, &codes);
            }
        }
    }
}

fn put_five(to: &mut [u8], row: usize, codes: &[u8; COLUMNS]) {
    Plane::<1>::put(to, row, &codes.map(|code| code >> 4));
    Plane::<4>::put(&mut to[32..], row, codes);
}

fn pack_with_minima(format: Format, from: &[u8], row: usize, to: &mut [u8]) {
    let layout = Layout::of(format);
    copy_half(from, 0, to, row);
    copy_half(from, 2, &mut to[16..], row);
    let (scales, minima) = scales_and_minima(&from[4..16]);
    for (j, part) in to[layout.head..].chunks_exact_mut(layout.part).enumerate() {
        part[row] = scales[j];
        part[8 + row] = minima[j];
        if format == Format::Q4K {
            Plane::<4>::put(&mut part[16..], row, &std::array::from_fn(|k| q4_k_code(from, 32 * j + k)));
        } else {
            put_five(&mut part[16..], row, &std::array::from_fn(|k| q5_k_code(from, 32 * j + k)));
        }
    }
}

/// Writes lane `row` of a packed block as one block of a file: the inverse of [`pack_block`].
pub(crate) fn unpack_block(format: Format, from: &[u8], row: usize, to: &mut [u8]) {
    let half = |at: usize| [from[at + 2 * row], from[at + 2 * row + 1]];
    match format {
        Format::F32 | Format::F16 | Format::Bf16 | Format::Q2K | Format::Q3K => {
            to.copy_from_slice(&from[row * to.len()..][..to.len()]);
        }
        Format::Q8_0 => {
            to[..2].copy_from_slice(&half(0));
            to[2..].copy_from_slice(&Plane::<8>::get(&from[16..], row));
        }
        Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 => unpack_32(format, from, row, to),
        Format::Q13_0 => {
            to[..2].copy_from_slice(&half(0));
            for (pair, vector) in to[2..].as_chunks_mut::<4>().0.iter_mut().zip(from[16..].as_chunks::<32>().0) {
                pair.copy_from_slice(&vector[4 * row..4 * row + 4]);
            }
        }
        Format::Q4K | Format::Q5K => unpack_with_minima(format, from, row, to),
        Format::Q6K => {
            let layout = Layout::of(format);
            to.fill(0);
            to[208..].copy_from_slice(&half(0));
            for (j, part) in from[layout.head..].chunks_exact(layout.part).enumerate() {
                to[192 + 2 * j] = part[row];
                to[193 + 2 * j] = part[8 + row];
                let (high, low) = (Plane::<2>::get(&part[16..], row), Plane::<4>::get(&part[80..], row));
                for (k, (high, low)) in (32 * j..).zip(high.into_iter().zip(low)) {
                    to[k / 128 * 64 + k % 64] |= low << (4 * (k % 128 / 64));
                    to[128 + k / 128 * 32 + k % 32] |= high << (2 * (k % 128 / 32));
                }
            }
        }
    }
}

fn unpack_32(format: Format, from: &[u8], row: usize, to: &mut [u8]) {
    let with_minimum = matches!(format, Format::Q4_1 | Format::Q5_1);
    let with_fifth = matches!(format, Format::Q5_0 | Format::Q5_1);
    let (heads, at) = if with_minimum { (2, 32) } else { (1, 16) };
    to.fill(0);
    for head in 0..heads {
        to[2 * head] = from[16 * head + 2 * row];
        to[2 * head + 1] = from[16 * head + 2 * row + 1];
    }
    let (mut plane, mut out) = (&from[at..], &mut to[2 * heads..]);
    if with_fifth {
        for (k, bit) in Plane::<1>::get(plane, row).into_iter().enumerate() {
            out[k / 8] |= bit << (k % 8);
        }
        (plane, out) = (&plane[32..], &mut out[4..]);
    }
    for (k, code) in Plane::<4>::get(plane, row).into_iter().enumerate() {
        out[k % 16] |= code << (4 * (k / 16));
    }
}

fn unpack_with_minima(format: Format, from: &[u8], row: usize, to: &mut [u8]) {
    let layout = Layout::of(format);
    to.fill(0);
    for head in 0..2 {
        to[2 * head] = from[16 * head + 2 * row];
        to[2 * head + 1] = from[16 * head + 2 * row + 1];
    }
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    let nibbles = if format == Format::Q4K { 16 } else { 48 };
    for (j, part) in from[layout.head..].chunks_exact(layout.part).enumerate() {
        (scales[j], minima[j]) = (part[row], part[8 + row]);
        let mut plane = &part[16..];
        if format == Format::Q5K {
            for (k, bit) in Plane::<1>::get(plane, row).into_iter().enumerate() {
                to[16 + k] |= bit << j;
            }
            plane = &plane[32..];
        }
        for (k, code) in (32 * j..).zip(Plane::<4>::get(plane, row)) {
            to[nibbles + k / 64 * 32 + k % 32] |= code << (4 * (k % 64 / 32));
        }
    }
    to[4..16].copy_from_slice(&pack_scales_and_minima(&scales, &minima));
}

/// Writes the rows of a file (at most eight, the others of the group stay zero) into a group.
pub(crate) fn pack_group(format: Format, rows: &[u8], to: &mut [u8]) {
    let (size, layout) = (format.block_bytes(), Layout::of(format));
    let row_bytes = to.len() / layout.block * size;
    for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
        debug_assert!(row < ROWS);
        for (from, to) in bytes.chunks_exact(size).zip(to.chunks_exact_mut(layout.block)) {
            pack_block(format, from, row, to);
        }
    }
}
