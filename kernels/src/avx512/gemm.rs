//! Integer weights times many tokens: 32 rows unpacked once, twelve tokens at a time.
use std::arch::x86_64::*;

use super::{
    micro_kernel::{self, TOKENS},
    part::pair,
};
use crate::{
    activations::{ActivationRows, CodeBlock, each, slices},
    avx2::panel::{PanelPart, unpack, unpack_any},
    matmul::WeightGroups,
    matrix::layout::{COLUMNS, Layout, ROWS},
    output::Tile,
    scalar::part::Minima,
};

/// Parts that are unpacked at a time, at most. They are read once for twelve tokens, one after the other,
/// so the second-level cache is near enough; the more there are, the less often sums go to the tile.
const PARTS: usize = 48;
/// The same where rows are short, so that no more of the stack is cleared than is used.
const FEW_PARTS: usize = 20;
/// Groups of rows in a panel.
pub(super) const GROUPS: usize = 4;

type Sums = [[f32; ROWS]; GROUPS];

/// Returns the sums of two groups.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn load(sums: &Sums, half: usize) -> __m512 {
    let sums: &[f32; 2 * ROWS] = sums.as_flattened().as_chunks().0[half..].first().unwrap_or(&[0.0; 2 * ROWS]);
    // SAFETY: 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_ps(sums.as_ptr()) }
}

/// Adds the parts of a panel to the sums of `T` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply<const T: usize, const MINIMA: u8>(
    panel: &[PanelPart<GROUPS>],
    codes: [&[[i16; COLUMNS]]; T],
    blocks: [&[CodeBlock]; T],
    sums: &mut [Sums; T],
) {
    for (index, part) in panel.iter().enumerate() {
        let (codes, blocks) = (each(&codes, index), each(&blocks, index));
        let mut products = [[_mm512_setzero_si512(); 2]; T];
        for (p, weights) in part.codes.iter().enumerate() {
            let (weights, _) = weights.as_flattened().as_chunks::<32>();
            // SAFETY: 64 readable bytes each, and `loadu` needs no alignment.
            let weights = unsafe {
                [_mm512_loadu_si512(weights[0].as_ptr().cast()), _mm512_loadu_si512(weights[1].as_ptr().cast())]
            };
            for t in 0..T {
                let pair = pair(codes[t], p);
                products[t][0] = _mm512_dpwssd_epi32(products[t][0], weights[0], pair);
                products[t][1] = _mm512_dpwssd_epi32(products[t][1], weights[1], pair);
            }
        }
        for t in 0..T {
            let block = blocks[t];
            let (to, _) = sums[t].as_flattened_mut().as_chunks_mut::<16>();
            for half in 0..2 {
                let scale = _mm512_mul_ps(load(&part.scales, half), _mm512_set1_ps(block.scale));
                // SAFETY: 64 readable bytes, and `loadu` needs no alignment.
                let mut sum = unsafe { _mm512_loadu_ps(to[half].as_ptr()) };
                sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[t][half]), scale, sum);
                if MINIMA == Minima::Whole as u8 {
                    sum = _mm512_fnmadd_ps(load(&part.minima[0], half), _mm512_set1_ps(block.scaled_total), sum);
                }
                if MINIMA == Minima::Halves as u8 {
                    for (minima, total) in part.minima.iter().zip(block.halves) {
                        let total = _mm512_set1_ps(block.scale * total as f32);
                        sum = _mm512_fnmadd_ps(load(minima, half), total, sum);
                    }
                }
                // SAFETY: 64 writable bytes, and `storeu` needs no alignment.
                unsafe { _mm512_storeu_ps(to[half].as_mut_ptr(), sum) };
            }
        }
    }
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
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn tokens<const T: usize, const MINIMA: u8>(&mut self, panel: &[PanelPart<GROUPS>], first: usize) {
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

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn all<const MINIMA: u8>(&mut self, panel: &[PanelPart<GROUPS>]) {
        let mut first = 0;
        while first < self.activations.rows {
            let left = self.activations.rows - first;
            first += match left {
                1 => self.some::<1, MINIMA>(panel, first),
                2 => self.some::<2, MINIMA>(panel, first),
                3 => self.some::<3, MINIMA>(panel, first),
                4 | 5 => self.some::<4, MINIMA>(panel, first),
                6 | 7 => self.some::<6, MINIMA>(panel, first),
                8..TOKENS => self.some::<8, MINIMA>(panel, first),
                _ if MINIMA == Minima::Halves as u8 => self.some::<TOKENS, MINIMA>(panel, first),
                _ if MINIMA == Minima::Whole as u8 => self.twelve::<true>(panel, first),
                _ => self.twelve::<false>(panel, first),
            };
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn some<const T: usize, const MINIMA: u8>(&mut self, panel: &[PanelPart<GROUPS>], first: usize) -> usize {
        self.tokens::<T, MINIMA>(panel, first);
        T
    }
}

impl Step<'_, '_> {
    /// Returns a token's sums in the tile, if the tile has all rows of the panel.
    fn whole(&mut self, token: usize) -> Option<&mut [f32; GROUPS * ROWS]> {
        self.tile.token(token)[self.group * ROWS..].first_chunk_mut()
    }

    /// Asks for what the tokens from `first` on begin with; the rest follows by itself.
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn fetch_ahead(&mut self, first: usize) {
        let activations = self.activations;
        for token in first..(first + TOKENS).min(activations.rows) {
            let codes = activations.row_codes(token)[self.part * COLUMNS..].as_ptr();
            let blocks = activations.row_blocks(token)[self.part..].as_ptr();
            let rows = self.whole(token).map_or(std::ptr::null(), |rows| rows.as_ptr());
            // Hints, which read nothing, whatever the address.
            _mm_prefetch::<_MM_HINT_T0>(codes.cast());
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(COLUMNS).cast());
            _mm_prefetch::<_MM_HINT_T0>(blocks.cast());
            _mm_prefetch::<_MM_HINT_ET0>(rows.cast());
            _mm_prefetch::<_MM_HINT_ET0>(rows.wrapping_add(2 * ROWS).cast());
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn twelve<const MINIMA: bool>(&mut self, panel: &[PanelPart<GROUPS>], first: usize) -> usize {
        let activations = self.activations;
        self.fetch_ahead(first + TOKENS);
        let mut sums = micro_kernel::Sums::ZERO;
        if self.part > 0 {
            for (token, sums) in (first..).zip(&mut sums.tokens) {
                match self.whole(token) {
                    Some(rows) => *sums = *rows,
                    None => self.tile.get(token, self.group, std::array::from_mut(sums)),
                }
            }
        }
        let step = activations.columns / COLUMNS;
        let codes = &activations.codes[first * activations.stride + self.part * COLUMNS..];
        let blocks = &activations.blocks[first * step + self.part..];
        micro_kernel::multiply::<MINIMA>(panel, (codes, activations.stride), (blocks, step), &mut sums);
        for (token, sums) in (first..).zip(&sums.tokens) {
            match self.whole(token) {
                Some(rows) => *rows = *sums,
                None => self.tile.put(token, self.group, std::array::from_ref(sums)),
            }
        }
        TOKENS
    }
}

/// Writes the products of all groups and tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn gemm<const F: u8, const HEAD: usize, const PART: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
) {
    run(weights, activations, tile, |group, index, panel, at| {
        unpack::<F, HEAD, PART, GROUPS>(group, index, panel, at);
    });
}

/// [`gemm`] for the formats without a fast way to unpack.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn gemm_any(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    let format = weights.format;
    run(weights, activations, tile, |group, index, panel, at| unpack_any(format, group, index, panel, at));
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn run(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
    unpack: impl Fn(&[u8], usize, &mut PanelPart<GROUPS>, usize),
) {
    if weights.columns <= FEW_PARTS * COLUMNS {
        run_in::<FEW_PARTS>(weights, activations, tile, unpack);
    } else {
        run_in::<PARTS>(weights, activations, tile, unpack);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn run_in<const PARTS: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
    unpack: impl Fn(&[u8], usize, &mut PanelPart<GROUPS>, usize),
) {
    let size = Layout::of(weights.format).group(weights.columns);
    let parts = weights.columns / COLUMNS;
    // Steps of about the same size: a short one would not be worth its sums' way to the tile.
    let step = parts.div_ceil(parts.div_ceil(PARTS));
    let mut panel = [PanelPart::EMPTY; PARTS];
    for (index, groups) in weights.bytes.chunks(GROUPS * size).enumerate() {
        for part in (0..parts).step_by(step) {
            let panel = &mut panel[..step.min(parts - part)];
            for (at, group) in groups.chunks_exact(size).enumerate() {
                for (offset, panel) in panel.iter_mut().enumerate() {
                    unpack(group, part + offset, panel, at);
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
