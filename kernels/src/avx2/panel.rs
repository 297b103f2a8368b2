//! Weights unpacked to 16-bit numbers, for products that use them many times.
use std::arch::x86_64::*;

use super::{
    part::{Q6K, half_scales, minima, quad, raised, scales},
    vectors::{store_codes, store_sums},
};
use crate::{
    format::Format,
    matrix::layout::{COLUMNS, ROWS},
    scalar::part::part,
};

/// 32 columns of `G` groups of rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct PanelPart<const G: usize> {
    /// `[pair of columns][group][row, column of the pair]`.
    pub(crate) codes: [[[i16; 2 * ROWS]; G]; COLUMNS / 2],
    pub(crate) scales: [[f32; ROWS]; G],
    /// Of the first and the second sixteen columns.
    pub(crate) minima: [[[f32; ROWS]; G]; 2],
}

impl<const G: usize> PanelPart<G> {
    pub(crate) const EMPTY: Self =
        Self { codes: [[[0; 2 * ROWS]; G]; COLUMNS / 2], scales: [[0.0; ROWS]; G], minima: [[[0.0; ROWS]; G]; 2] };
}

/// Writes part `index` of a group as group `at` of a panel.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn unpack<const F: u8, const HEAD: usize, const PART: usize, const G: usize>(
    group: &[u8],
    index: usize,
    panel: &mut PanelPart<G>,
    at: usize,
) {
    let parts_of_block = if HEAD > 0 { 8 } else { 1 };
    let size = HEAD + parts_of_block * PART;
    let block = &group[index / parts_of_block * size..][..size];
    let part = &block[HEAD..].as_chunks::<PART>().0[index % parts_of_block];
    unpack_quad::<F, PART, 0, G>(part, panel, at);
    unpack_quad::<F, PART, 1, G>(part, panel, at);
    unpack_quad::<F, PART, 2, G>(part, panel, at);
    unpack_quad::<F, PART, 3, G>(part, panel, at);
    store_sums(&mut panel.scales[at], scales::<F, PART>(block, part));
    store_sums(&mut panel.minima[0][at], minima::<F, PART>(block, part));
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack_quad<const F: u8, const PART: usize, const V: usize, const G: usize>(
    part: &[u8; PART],
    panel: &mut PanelPart<G>,
    at: usize,
) {
    let offset = _mm256_set1_epi16(raised(F) as i16);
    let mut weights = quad::<F, PART>(part, V);
    for codes in &mut weights {
        *codes = _mm256_sub_epi16(*codes, offset);
    }
    if F == Q6K {
        // The same scale in both halves of a lane.
        let scale = half_scales(part)[V / 2];
        let scale = _mm256_or_si256(_mm256_and_si256(scale, _mm256_set1_epi32(0xffff)), _mm256_slli_epi32::<16>(scale));
        for codes in &mut weights {
            *codes = _mm256_mullo_epi16(*codes, scale);
        }
    }
    for j in 0..4 {
        store_codes(&mut panel.codes[4 * V + j][at], weights[j]);
    }
}

/// The formats without a fast way, through their portable meaning.
pub(crate) fn unpack_any<const G: usize>(
    format: Format,
    group: &[u8],
    index: usize,
    panel: &mut PanelPart<G>,
    at: usize,
) {
    let part = part(format, group, index);
    for (pair, codes) in panel.codes.iter_mut().enumerate() {
        for row in 0..ROWS {
            codes[at][2 * row] = part.codes[2 * pair][row];
            codes[at][2 * row + 1] = part.codes[2 * pair + 1][row];
        }
    }
    panel.scales[at] = part.scales;
    panel.minima[0][at] = part.minima[0];
    panel.minima[1][at] = part.minima[1];
}
