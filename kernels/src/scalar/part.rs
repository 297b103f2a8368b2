//! The integers and scales of 32 columns of eight interleaved rows.
use crate::{
    format::Format,
    matrix::layout::{COLUMNS, Layout, Plane, ROWS},
    quant::{
        f16_at,
        k_blocks::{q2_k_code, q3_k_code},
        sub_scales::signed_scales,
    },
};

/// 32 columns of eight rows: a weight is `scale * code - minimum of its half`.
///
/// Scales for 16 columns that are integers are multiplied into the codes, which stay below 4096.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// `[column][row]`.
    pub(crate) codes: [[i16; ROWS]; COLUMNS],
    pub(crate) scales: [f32; ROWS],
    /// Of the first and the second sixteen columns; equal where a format has one for 32.
    pub(crate) minima: [[f32; ROWS]; 2],
}

/// How a format's minima are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Minima {
    None,
    /// One for 32 columns.
    Whole,
    /// One for 16 columns.
    Halves,
}

impl Minima {
    pub(crate) const fn of(format: Format) -> Self {
        match format {
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => Self::Whole,
            Format::Q2K => Self::Halves,
            _ => Self::None,
        }
    }
}

/// Returns columns `32 index ..` of a group of rows in an integer format.
pub(crate) fn part(format: Format, group: &[u8], index: usize) -> Part {
    let layout = Layout::of(format);
    let parts = layout.values / COLUMNS;
    let block = &group[index / parts * layout.block..][..layout.block];
    let bytes = if layout.part == layout.block { block } else { &block[layout.head + index % parts * layout.part..] };
    let mut part = Part { codes: [[0; ROWS]; COLUMNS], scales: [0.0; ROWS], minima: [[0.0; ROWS]; 2] };
    for row in 0..ROWS {
        let (codes, scale, minima) = lane(format, block, bytes, index % parts, row);
        for (all, code) in part.codes.iter_mut().zip(codes) {
            all[row] = code;
        }
        part.scales[row] = scale;
        (part.minima[0][row], part.minima[1][row]) = (minima[0], minima[1]);
    }
    part
}

type Lane = ([i16; COLUMNS], f32, [f32; 2]);

fn lane(format: Format, block: &[u8], bytes: &[u8], index: usize, row: usize) -> Lane {
    let d = f16_at(block, 2 * row);
    let of_part = |at: usize| f16_at(bytes, at + 2 * row);
    let nibbles = |at: usize| Plane::<4>::get(&bytes[at..], row).map(i16::from);
    let fives = |at: usize| {
        let (high, low) = (Plane::<1>::get(&bytes[at..], row), Plane::<4>::get(&bytes[at + 32..], row));
        std::array::from_fn(|k| i16::from(low[k] | high[k] << 4))
    };
    match format {
        Format::Q8_0 => (Plane::<8>::get(&bytes[16..], row).map(|code| i16::from(code as i8)), of_part(0), [0.0; 2]),
        Format::Q13_0 => {
            let code = |k: usize| {
                let at = 16 + 32 * (k / 2) + 4 * row + 2 * (k % 2);
                i16::from_le_bytes([bytes[at], bytes[at + 1]])
            };
            (std::array::from_fn(code), of_part(0), [0.0; 2])
        }
        Format::Q4_0 => (nibbles(16).map(|code| code - 8), of_part(0), [0.0; 2]),
        Format::Q4_1 => (nibbles(32), of_part(0), [-of_part(16); 2]),
        Format::Q5_0 => (fives(16).map(|code: i16| code - 16), of_part(0), [0.0; 2]),
        Format::Q5_1 => (fives(32), of_part(0), [-of_part(16); 2]),
        Format::Q4K | Format::Q5K => {
            let codes = if format == Format::Q4K { nibbles(16) } else { fives(16) };
            let minimum = f16_at(block, 16 + 2 * row) * f32::from(bytes[8 + row]);
            (codes, d * f32::from(bytes[row]), [minimum; 2])
        }
        Format::Q6K => {
            let (high, low) = (Plane::<2>::get(&bytes[16..], row), nibbles(80));
            let scales = [bytes[row], bytes[8 + row]].map(|scale| i16::from(scale as i8));
            let code = |k: usize| (low[k] | i16::from(high[k]) << 4) - 32;
            (std::array::from_fn(|k| code(k) * scales[k / 16]), d, [0.0; 2])
        }
        Format::Q2K => {
            let block = &block[format.block_bytes() * row..][..format.block_bytes()];
            let scales = [block[2 * index], block[2 * index + 1]];
            let codes =
                std::array::from_fn(|k| i16::from(q2_k_code(block, 32 * index + k)) * i16::from(scales[k / 16] & 15));
            (codes, f16_at(block, 80), scales.map(|scale| f16_at(block, 82) * f32::from(scale >> 4)))
        }
        Format::Q3K => {
            let block = &block[format.block_bytes() * row..][..format.block_bytes()];
            let scales = signed_scales(&block[96..108]);
            let codes = std::array::from_fn(|k| {
                i16::from(q3_k_code(block, 32 * index + k)) * i16::from(scales[2 * index + k / 16])
            });
            (codes, f16_at(block, 108), [0.0; 2])
        }
        Format::F32 | Format::F16 | Format::Bf16 => unreachable!("{format} has no integer codes"),
    }
}
