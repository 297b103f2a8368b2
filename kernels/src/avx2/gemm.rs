//! Integer weights times many tokens: 16 rows are unpacked once to 16-bit numbers, then multiplied
//! with six tokens at a time.
use std::arch::x86_64::*;

use super::{
    panel::{PanelPart, unpack, unpack_any},
    vectors::{load_codes, load_sums, pair, store_sums},
};
use crate::{
    activations::{ActivationRows, CodeBlock, each, slices},
    matmul::WeightGroups,
    matrix::layout::{COLUMNS, Layout, ROWS},
    output::Tile,
    scalar::part::Minima,
};

/// Parts that are unpacked at a time: with the tokens' codes they stay in the first-level cache.
const PARTS: usize = 24;
/// Groups of rows in a panel.
const GROUPS: usize = 2;
/// Tokens whose sums stay in registers.
const TOKENS: usize = 6;

/// Adds the parts of a panel to the sums of `T` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const T: usize, const MINIMA: u8>(
    panel: &[PanelPart<GROUPS>],
    codes: [&[[i16; COLUMNS]]; T],
    blocks: [&[CodeBlock]; T],
    mut sums: [[__m256; GROUPS]; T],
) -> [[__m256; GROUPS]; T] {
    for (index, part) in panel.iter().enumerate() {
        let (codes, blocks) = (each(&codes, index), each(&blocks, index));
        let mut products = [[_mm256_setzero_si256(); GROUPS]; T];
        for (p, weights) in part.codes.iter().enumerate() {
            let weights = [load_codes(&weights[0]), load_codes(&weights[1])];
            for t in 0..T {
                let pair = pair(codes[t], p);
                products[t][0] = _mm256_add_epi32(products[t][0], _mm256_madd_epi16(weights[0], pair));
                products[t][1] = _mm256_add_epi32(products[t][1], _mm256_madd_epi16(weights[1], pair));
            }
        }
        for t in 0..T {
            let block = blocks[t];
            for half in 0..GROUPS {
                let scale = _mm256_mul_ps(load_sums(&part.scales[half]), _mm256_set1_ps(block.scale));
                let sum = &mut sums[t][half];
                *sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(products[t][half]), scale, *sum);
                if MINIMA == Minima::Whole as u8 {
                    let total = _mm256_set1_ps(block.scaled_total);
                    *sum = _mm256_fnmadd_ps(load_sums(&part.minima[0][half]), total, *sum);
                }
                if MINIMA == Minima::Halves as u8 {
                    for (minima, total) in part.minima.iter().zip(block.halves) {
                        let total = _mm256_set1_ps(block.scale * total as f32);
                        *sum = _mm256_fnmadd_ps(load_sums(&minima[half]), total, *sum);
                    }
                }
            }
        }
    }
    sums
}

/// What a panel is multiplied with, and where the sums go.
struct Step<'a, 'b> {
    activations: ActivationRows<'a>,
    /// The first part of the panel.
    part: usize,
    /// The first group of the panel in the tile.
    group: usize,
    tile: &'a mut Tile<'b>,
}

impl Step<'_, '_> {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn tokens<const T: usize, const MINIMA: u8>(&mut self, panel: &[PanelPart<GROUPS>], first: usize) {
        let activations = self.activations;
        let codes = slices(activations.codes_of::<T>(first), self.part, panel.len());
        let blocks = slices(activations.blocks_of::<T>(first), self.part, panel.len());
        let mut sums = [[_mm256_setzero_ps(); GROUPS]; T];
        for (t, sums) in sums.iter_mut().enumerate() {
            if self.part == 0 {
                self.fetch(first + t);
            } else {
                let mut values = [[0.0; ROWS]; GROUPS];
                self.tile.get(first + t, self.group, &mut values);
                *sums = [load_sums(&values[0]), load_sums(&values[1])];
            }
        }
        let sums = multiply::<T, MINIMA>(panel, codes, blocks, sums);
        for (t, sums) in sums.iter().enumerate() {
            let mut values = [[0.0; ROWS]; GROUPS];
            store_sums(&mut values[0], sums[0]);
            store_sums(&mut values[1], sums[1]);
            self.tile.put(first + t, self.group, &values);
        }
    }

    /// Has the place of a token's sums brought near: what waits to be stored there would hold up all later stores.
    #[target_feature(enable = "avx2")]
    fn fetch(&mut self, token: usize) {
        // A hint, which reads nothing.
        _mm_prefetch::<_MM_HINT_T0>(self.tile.token(token)[ROWS * self.group..].as_ptr().cast());
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    fn all<const MINIMA: u8>(&mut self, panel: &[PanelPart<GROUPS>]) {
        let mut first = 0;
        while first < self.activations.rows {
            match self.activations.rows - first {
                1 => self.tokens::<1, MINIMA>(panel, first),
                2 => self.tokens::<2, MINIMA>(panel, first),
                3 => self.tokens::<3, MINIMA>(panel, first),
                4 => self.tokens::<4, MINIMA>(panel, first),
                5 => self.tokens::<5, MINIMA>(panel, first),
                _ => self.tokens::<6, MINIMA>(panel, first),
            }
            first += TOKENS;
        }
    }
}

/// Writes the products of all groups and tokens.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemm<const F: u8, const HEAD: usize, const PART: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
) {
    run(weights, activations, tile, |group, index, panel, half| {
        unpack::<F, HEAD, PART, GROUPS>(group, index, panel, half)
    });
}

/// [`gemm`] for the formats without a fast way to unpack.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn gemm_any(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    let format = weights.format;
    run(weights, activations, tile, |group, index, panel, half| unpack_any(format, group, index, panel, half));
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn run(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
    unpack: impl Fn(&[u8], usize, &mut PanelPart<GROUPS>, usize),
) {
    let size = Layout::of(weights.format).group(weights.columns);
    let parts = weights.columns / COLUMNS;
    let mut panel = [PanelPart::EMPTY; PARTS];
    for (index, groups) in weights.bytes.chunks(GROUPS * size).enumerate() {
        for part in (0..parts).step_by(PARTS) {
            let panel = &mut panel[..PARTS.min(parts - part)];
            for (half, group) in groups.chunks_exact(size).enumerate() {
                for (at, panel) in panel.iter_mut().enumerate() {
                    unpack(group, part + at, panel, half);
                }
            }
            let mut step = Step { activations, part, group: GROUPS * index, tile };
            match Minima::of(weights.format) {
                Minima::None => step.all::<{ Minima::None as u8 }>(panel),
                Minima::Whole => step.all::<{ Minima::Whole as u8 }>(panel),
                Minima::Halves => step.all::<{ Minima::Halves as u8 }>(panel),
            }
        }
    }
}
