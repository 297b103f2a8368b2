//! Integer weights times many tokens whose codes have 8 bits: twice as many products an instruction.
//!
//! The sums are the same integers that 16-bit products give.
use std::arch::x86_64::*;

use super::{
    byte_kernel,
    bytes::{Codes as _, byte_offset, fours},
    part::{Parts, minima, scales},
};
use crate::{
    activations::{ActivationRows, CodeBlock, each, slices},
    avx2::part::has_minima,
    matmul::WeightGroups,
    matrix::layout::{COLUMNS, Layout, ROWS},
    output::Tile,
};

/// Parts that are unpacked at a time.
const PARTS: usize = 24;
/// Groups of rows in a panel, two in a register.
const GROUPS: usize = 4;
/// Tokens whose sums stay in registers, of integers and of numbers.
pub(super) const TOKENS: usize = 6;

pub(super) type Sums = [[f32; 2 * ROWS]; GROUPS / 2];

/// 32 columns of the rows of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct BytePart {
    /// `[four columns][half of the rows][row, column]`, the columns in the order of the codes' bytes.
    pub(super) codes: [[[u8; 8 * ROWS]; 2]; COLUMNS / 4],
    pub(super) scales: Sums,
    pub(super) minima: Sums,
}

impl BytePart {
    const EMPTY: Self =
        Self { codes: [[[0; 8 * ROWS]; 2]; COLUMNS / 4], scales: [[0.0; 2 * ROWS]; 2], minima: [[0.0; 2 * ROWS]; 2] };
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; 2 * ROWS]) -> __m512 {
    // SAFETY: 64 readable bytes, and `loadu` needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(x: &mut [f32; 2 * ROWS], from: __m512) {
    // SAFETY: 64 writable bytes, and `storeu` needs no alignment.
    unsafe { _mm512_storeu_ps(x.as_mut_ptr(), from) };
}

/// Writes a part of two groups as one half of a panel's.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpack<const F: u8, const PART: usize>(
    heads: [&[u8]; 2],
    parts: Parts<'_, PART>,
    half: usize,
    panel: &mut BytePart,
) {
    for v in 0..4 {
        let fours = fours::<F, PART>(parts, v);
        for i in 0..2 {
            // SAFETY: 64 writable bytes, and `storeu` needs no alignment.
            unsafe { _mm512_storeu_si512(panel.codes[2 * v + i][half].as_mut_ptr().cast(), fours[i]) };
        }
    }
    store(&mut panel.scales[half], scales::<F, PART>(heads, parts));
    if has_minima(F) {
        store(&mut panel.minima[half], minima::<F, PART>(heads, parts));
    }
}

/// Adds the parts of a panel to the sums of `T` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn multiply<const F: u8, const T: usize>(
    panel: &[BytePart],
    bytes: [&[[i8; COLUMNS]]; T],
    blocks: [&[CodeBlock]; T],
    sums: &mut [Sums; T],
) {
    let mut results = [[_mm512_setzero_ps(); 2]; T];
    for t in 0..T {
        results[t] = [load(&sums[t][0]), load(&sums[t][1])];
    }
    for (index, part) in panel.iter().enumerate() {
        let (bytes, blocks) = (each(&bytes, index), each(&blocks, index));
        let mut products = [[_mm512_setzero_si512(); 2]; T];
        if byte_offset(F) > 0 {
            for t in 0..T {
                products[t] = [_mm512_set1_epi32(-byte_offset(F) * blocks[t].total); 2];
            }
        }
        for (f, weights) in part.codes.iter().enumerate() {
            // SAFETY: 64 readable bytes each, and `loadu` needs no alignment.
            let weights = unsafe {
                [_mm512_loadu_si512(weights[0].as_ptr().cast()), _mm512_loadu_si512(weights[1].as_ptr().cast())]
            };
            for t in 0..T {
                let four = _mm512_set1_epi32(bytes[t].word(f));
                products[t][0] = _mm512_dpbusd_epi32(products[t][0], weights[0], four);
                products[t][1] = _mm512_dpbusd_epi32(products[t][1], weights[1], four);
            }
        }
        for half in 0..2 {
            let scales = load(&part.scales[half]);
            for t in 0..T {
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(blocks[t].scale));
                results[t][half] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[t][half]), scale, results[t][half]);
            }
            if has_minima(F) {
                let minima = load(&part.minima[half]);
                for t in 0..T {
                    let total = _mm512_set1_ps(blocks[t].scaled_total);
                    results[t][half] = _mm512_fnmadd_ps(minima, total, results[t][half]);
                }
            }
        }
    }
    for t in 0..T {
        store(&mut sums[t][0], results[t][0]);
        store(&mut sums[t][1], results[t][1]);
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
    fn tokens<const F: u8, const T: usize>(&mut self, panel: &[BytePart], first: usize) {
        let bytes = slices(<[i8; COLUMNS]>::of::<T>(self.activations, first), self.part, panel.len());
        let blocks = slices(self.activations.blocks_of::<T>(first), self.part, panel.len());
        let mut sums = [[[0.0; 2 * ROWS]; GROUPS / 2]; T];
        if self.part > 0 {
            for (t, sums) in sums.iter_mut().enumerate() {
                self.tile.get(first + t, self.group, sums);
            }
        }
        multiply::<F, T>(panel, bytes, blocks, &mut sums);
        for (t, sums) in sums.iter().enumerate() {
            self.tile.put(first + t, self.group, sums);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn six<const F: u8>(&mut self, panel: &[BytePart], first: usize) {
        let (activations, part) = (self.activations, self.part);
        for token in first + TOKENS..(first + 2 * TOKENS).min(activations.rows) {
            // Hints, which read nothing: what the next tokens begin with.
            let codes = activations.bytes[token * activations.stride + part * COLUMNS..].as_ptr();
            _mm_prefetch::<_MM_HINT_T0>(codes);
            _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(64));
            _mm_prefetch::<_MM_HINT_T0>(activations.row_blocks(token)[part..].as_ptr().cast());
        }
        let mut sums = [[[0.0; 2 * ROWS]; GROUPS / 2]; TOKENS];
        if part > 0 {
            for (token, sums) in (first..).zip(&mut sums) {
                self.tile.get(token, self.group, sums);
            }
        }
        let step = activations.columns / COLUMNS;
        let codes = (&activations.bytes[first * activations.stride + part * COLUMNS..], activations.stride);
        let blocks = (&activations.blocks[first * step + part..], step);
        byte_kernel::multiply::<F>(panel, codes, blocks, &mut sums);
        for (token, sums) in (first..).zip(&sums) {
            self.tile.put(token, self.group, sums);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn all<const F: u8>(&mut self, panel: &[BytePart]) {
        for first in (0..self.activations.rows).step_by(TOKENS) {
            match self.activations.rows - first {
                1 => self.tokens::<F, 1>(panel, first),
                2 => self.tokens::<F, 2>(panel, first),
                3 => self.tokens::<F, 3>(panel, first),
                4 => self.tokens::<F, 4>(panel, first),
                5 => self.tokens::<F, 5>(panel, first),
                _ => self.six::<F>(panel, first),
            }
        }
    }
}

/// Writes the products of all groups and tokens.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn gemm<const F: u8, const HEAD: usize, const PART: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
) {
    let size = Layout::of(weights.format).group(weights.columns);
    let parts_of_block = if HEAD > 0 { 8 } else { 1 };
    let block = HEAD + parts_of_block * PART;
    let parts = weights.columns / COLUMNS;
    // Steps of about the same size: a short one would not be worth its sums' way to the tile.
    let step = parts.div_ceil(parts.div_ceil(PARTS));
    let mut panel = [BytePart::EMPTY; PARTS];
    for (index, groups) in weights.bytes.chunks(GROUPS * size).enumerate() {
        // Of a panel that is not full, the last group is there more than once.
        let group = |at: usize| &groups[at.min(groups.len() / size - 1) * size..][..size];
        for part in (0..parts).step_by(step) {
            let panel = &mut panel[..step.min(parts - part)];
            for half in 0..2 {
                let groups = [group(2 * half), group(2 * half + 1)];
                for (index, panel) in (part..).zip(&mut *panel) {
                    let blocks = groups.map(|group| &group[index / parts_of_block * block..][..block]);
                    let parts = blocks.map(|block| &block[HEAD..].as_chunks().0[index % parts_of_block]);
                    unpack::<F, PART>(blocks, parts, half, panel);
                }
            }
            Step { activations, part, group: GROUPS * index, tile }.all::<F>(panel);
        }
    }
}
