//! Integer weights times many tokens: 16 rows are unpacked once to 16-bit numbers, then multiplied
//! with four tokens at a time.
use std::arch::aarch64::*;

use super::{
    gemv,
    panel::{GROUPS, PanelPart, unpack, unpack_any},
    vectors::{load_codes, load_sums, store_sums},
};
use crate::{
    activations::{ActivationRows, CodeBlock, each, slices},
    matmul::WeightGroups,
    matrix::layout::{COLUMNS, Layout, ROWS},
    output::Tile,
    scalar::part::Minima,
};

/// Parts that are unpacked at a time: with the tokens' codes they stay in the first-level cache.
const PARTS: usize = 16;
/// Tokens whose sums stay in registers.
const TOKENS: usize = 4;

/// Adds the parts of a panel to the sums of `T` tokens.
#[inline]
#[target_feature(enable = "neon")]
fn multiply<const T: usize, const MINIMA: u8>(
    panel: &[PanelPart],
    codes: [&[[i16; COLUMNS]]; T],
    blocks: [&[CodeBlock]; T],
    sums: &mut [[[f32; ROWS]; GROUPS]; T],
) {
    for (index, part) in panel.iter().enumerate() {
        let (codes, blocks) = (each(&codes, index), each(&blocks, index));
        let mut products = [[[vdupq_n_s32(0); 2]; GROUPS]; T];
        for (v, columns) in part.codes.as_chunks::<8>().0.iter().enumerate() {
            for half in 0..GROUPS {
                let mut weights = [vdupq_n_s16(0); 8];
                for (weights, column) in weights.iter_mut().zip(columns) {
                    *weights = load_codes(&column[half]);
                }
                for t in 0..T {
                    gemv::multiply(&mut products[t][half], &weights, load_codes(&codes[t].as_chunks().0[v]));
                }
            }
        }
        for t in 0..T {
            for half in 0..GROUPS {
                let result = add_scaled::<MINIMA>(part, half, products[t][half], load_sums(&sums[t][half]), blocks[t]);
                store_sums(&mut sums[t][half], result);
            }
        }
    }
}

/// Returns the sums of a token and a group after a part.
#[inline]
#[target_feature(enable = "neon")]
fn add_scaled<const MINIMA: u8>(
    part: &PanelPart,
    group: usize,
    products: [int32x4_t; 2],
    mut sums: [float32x4_t; 2],
    block: &CodeBlock,
) -> [float32x4_t; 2] {
    let scales = load_sums(&part.scales[group]);
    let subtract = |sums: &mut [float32x4_t; 2], minima: &[f32; ROWS], total: f32| {
        let minima = load_sums(minima);
        *sums = [vfmsq_f32(sums[0], minima[0], vdupq_n_f32(total)), vfmsq_f32(sums[1], minima[1], vdupq_n_f32(total))];
    };
    for half in 0..2 {
        let scale = vmulq_n_f32(scales[half], block.scale);
        sums[half] = vfmaq_f32(sums[half], vcvtq_f32_s32(products[half]), scale);
    }
    if MINIMA == Minima::Whole as u8 {
        subtract(&mut sums, &part.minima[0][group], block.scaled_total);
    }
    if MINIMA == Minima::Halves as u8 {
        for (minima, total) in part.minima.iter().zip(block.halves) {
            subtract(&mut sums, &minima[group], block.scale * total as f32);
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
    #[target_feature(enable = "neon")]
    fn tokens<const T: usize, const MINIMA: u8>(&mut self, panel: &[PanelPart], first: usize) {
        let activations = self.activations;
        let codes = slices(activations.codes_of::<T>(first), self.part, panel.len());
        let blocks = slices(activations.blocks_of::<T>(first), self.part, panel.len());
        let mut sums = [[[0.0; ROWS]; GROUPS]; T];
        if self.part > 0 {
            for (t, sums) in sums.iter_mut().enumerate() {
                self.tile.get(first + t, self.group, sums);
            }
        }
        multiply::<T, MINIMA>(panel, codes, blocks, &mut sums);
        for (t, sums) in sums.iter().enumerate() {
            self.tile.put(first + t, self.group, sums);
        }
    }

    #[target_feature(enable = "neon")]
    fn all<const MINIMA: u8>(&mut self, panel: &[PanelPart]) {
        for first in (0..self.activations.rows).step_by(TOKENS) {
            match self.activations.rows - first {
                1 => self.tokens::<1, MINIMA>(panel, first),
                2 => self.tokens::<2, MINIMA>(panel, first),
                3 => self.tokens::<3, MINIMA>(panel, first),
                _ => self.tokens::<TOKENS, MINIMA>(panel, first),
            }
        }
    }
}

/// Writes the products of all groups and tokens.
#[target_feature(enable = "neon")]
pub(super) fn gemm<const F: u8, const HEAD: usize, const PART: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
) {
    run(weights, activations, tile, |group, index, panel, half| unpack::<F, HEAD, PART>(group, index, panel, half));
}

/// [`gemm`] for the formats without a fast way to unpack.
#[target_feature(enable = "neon")]
pub(super) fn gemm_any(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    let format = weights.format;
    run(weights, activations, tile, |group, index, panel, half| unpack_any(format, group, index, panel, half));
}

#[inline]
#[target_feature(enable = "neon")]
fn run(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
    unpack: impl Fn(&[u8], usize, &mut PanelPart, usize),
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
