//! Weights unpacked to 16-bit numbers, for products that use them many times.
use std::arch::aarch64::*;

use super::{
    part::{Q6K, columns, half_scales, offset, scales},
    vectors::{store_codes, store_sums},
};
use crate::{
    format::Format,
    matrix::layout::{COLUMNS, ROWS},
    scalar::part::part,
};

/// Groups of rows in a panel.
pub(super) const GROUPS: usize = 2;

/// 32 columns of two groups of rows.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct PanelPart {
    /// `[column][group][row]`.
    pub(super) codes: [[[i16; ROWS]; GROUPS]; COLUMNS],
    pub(super) scales: [[f32; ROWS]; GROUPS],
    /// Of the first and the second sixteen columns.
    pub(super) minima: [[[f32; ROWS]; GROUPS]; 2],
}

impl PanelPart {
    pub(super) const EMPTY: Self = Self {
        codes: [[[0; ROWS]; GROUPS]; COLUMNS],
        scales: [[0.0; ROWS]; GROUPS],
        minima: [[[0.0; ROWS]; GROUPS]; 2],
    };
}

/// Writes part `index` of a group as group `at` of a panel.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn unpack<const F: u8, const HEAD: usize, const PART: usize>(
    group: &[u8],
    index: usize,
    panel: &mut PanelPart,
    at: usize,
) {
    let parts_of_block = if HEAD > 0 { 8 } else { 1 };
    let size = HEAD + parts_of_block * PART;
    let block = &group[index / parts_of_block * size..][..size];
    let part = &block[HEAD..].as_chunks::<PART>().0[index % parts_of_block];
    unpack_columns::<F, PART, 0>(part, panel, at);
    unpack_columns::<F, PART, 1>(part, panel, at);
    unpack_columns::<F, PART, 2>(part, panel, at);
    unpack_columns::<F, PART, 3>(part, panel, at);
    let (scales, minima) = scales::<F, PART>(block, part);
    store_sums(&mut panel.scales[at], scales);
    store_sums(&mut panel.minima[0][at], minima);
}

#[inline]
#[target_feature(enable = "neon")]
fn unpack_columns<const F: u8, const PART: usize, const V: usize>(part: &[u8; PART], panel: &mut PanelPart, at: usize) {
    for (c, codes) in columns::<F, PART>(part, V).into_iter().enumerate() {
        let mut codes = vsubq_s16(codes, vdupq_n_s16(offset(F)));
        if F == Q6K {
            codes = vmulq_s16(codes, half_scales(part)[V / 2]);
        }
        store_codes(&mut panel.codes[8 * V + c][at], codes);
    }
}

/// The formats without a fast way, through their portable meaning.
pub(super) fn unpack_any(format: Format, group: &[u8], index: usize, panel: &mut PanelPart, at: usize) {
    let part = part(format, group, index);
    for (codes, column) in panel.codes.iter_mut().zip(part.codes) {
        codes[at] = column;
    }
    panel.scales[at] = part.scales;
    panel.minima[0][at] = part.minima[0];
    panel.minima[1][at] = part.minima[1];
}
