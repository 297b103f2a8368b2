//! Weights of 4 or 5 bits times many tokens whose codes have 8 bits: twice as many products an instruction.
//!
//! A product of four columns is two 16-bit sums, at most 2 · 15 · 127 (or 2 · 31 · 127) each, so eight (or
//! four) of them are added up before they are widened, and nothing saturates. The sums are the same integers
//! that 16-bit products give. Weights of 8 bits would have to be widened at once, which is no faster than
//! those.
use std::arch::x86_64::*;

use super::{
    part::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, has_minima, minima, offset, scales},
    vectors::{load, load_sums, store_sums},
};
use crate::{
    activations::{ActivationRows, CodeBlock, each, slices},
    matmul::WeightGroups,
    matrix::layout::{COLUMNS, Layout, ROWS},
    output::Tile,
};

/// Parts that are unpacked at a time.
const PARTS: usize = 24;
/// Groups of rows in a panel.
const GROUPS: usize = 2;
/// Tokens whose sums stay in registers.
const TOKENS: usize = 6;

/// Returns whether weights of a format are multiplied this way.
pub(super) const fn takes(format: u8) -> bool {
    matches!(format, Q4_0 | Q4_1 | Q4K | Q5_0 | Q5_1 | Q5K)
}

/// Returns how many 16-bit sums of a format are added up before they are widened.
const fn added_up(format: u8) -> usize {
    if matches!(format, Q5_0 | Q5_1 | Q5K) { 4 } else { 8 }
}

type Sums = [[f32; ROWS]; GROUPS];

/// 32 columns of the rows of a panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct BytePart {
    /// `[four columns][group][row, column]`, the columns in the order of the codes' bytes.
    codes: [[[u8; 4 * ROWS]; GROUPS]; COLUMNS / 4],
    scales: Sums,
    minima: Sums,
}

impl BytePart {
    const EMPTY: Self = Self {
        codes: [[[0; 4 * ROWS]; GROUPS]; COLUMNS / 4],
        scales: [[0.0; ROWS]; GROUPS],
        minima: [[0.0; ROWS]; GROUPS],
    };
}

/// Returns the codes of columns `8 v .. 8 v + 8` before the offset is subtracted, in the order of the
/// activations' bytes: that in which 4-bit codes come apart with a shift and a mask.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fours<const F: u8, const PART: usize>(part: &[u8; PART], v: usize) -> [__m256i; 2] {
    match F {
        Q4_1 => nibbles(load(part, 32 + 32 * v)),
        Q5_0 | Q5K => fives(load(part, 16), load(part, 48 + 32 * v), v),
        Q5_1 => fives(load(part, 32), load(part, 64 + 32 * v), v),
        _ => nibbles(load(part, 16 + 32 * v)),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn nibbles(x: __m256i) -> [__m256i; 2] {
    let mask = _mm256_set1_epi8(15);
    [_mm256_and_si256(x, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask)]
}

/// `high` holds the fifth bits of all 32 columns, one for each pair in a half lane: bits 4 v and 4 v + 2 are
/// those of the first four columns, 4 v + 1 and 4 v + 3 those of the other ones.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fives(high: __m256i, low: __m256i, v: usize) -> [__m256i; 2] {
    let high = _mm256_srl_epi16(high, _mm_cvtsi32_si128(4 * v as i32));
    let (lower, upper) = (_mm256_set1_epi16(0x10), _mm256_set1_epi16(0x1000));
    let with = |codes, lower_bit, upper_bit| {
        let bits = _mm256_or_si256(_mm256_and_si256(lower_bit, lower), _mm256_and_si256(upper_bit, upper));
        _mm256_or_si256(codes, bits)
    };
    let [first, second] = nibbles(low);
    [
        with(first, _mm256_slli_epi16::<4>(high), _mm256_slli_epi16::<10>(high)),
        with(second, _mm256_slli_epi16::<3>(high), _mm256_slli_epi16::<9>(high)),
    ]
}

/// Writes part `index` of a group as group `at` of a panel's part.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unpack<const F: u8, const HEAD: usize, const PART: usize>(
    group: &[u8],
    index: usize,
    panel: &mut BytePart,
    at: usize,
) {
    let parts_of_block = if HEAD > 0 { 8 } else { 1 };
    let size = HEAD + parts_of_block * PART;
    let block = &group[index / parts_of_block * size..][..size];
    let part = &block[HEAD..].as_chunks::<PART>().0[index % parts_of_block];
    for v in 0..4 {
        let fours = fours::<F, PART>(part, v);
        for i in 0..2 {
            // SAFETY: 32 writable bytes, and `storeu` needs no alignment.
            unsafe { _mm256_storeu_si256(panel.codes[2 * v + i][at].as_mut_ptr().cast(), fours[i]) };
        }
    }
    store_sums(&mut panel.scales[at], scales::<F, PART>(block, part));
    if has_minima(F) {
        store_sums(&mut panel.minima[at], minima::<F, PART>(block, part));
    }
}

/// Returns four codes in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn four(codes: &[i8; COLUMNS], index: usize) -> __m256i {
    _mm256_set1_epi32(i32::from_le_bytes(codes.as_chunks::<4>().0[index].map(|code| code as u8)))
}

/// Adds the parts of a panel to the sums of `T` tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<const F: u8, const T: usize>(
    panel: &[BytePart],
    bytes: [&[[i8; COLUMNS]]; T],
    blocks: [&[CodeBlock]; T],
    sums: &mut [Sums; T],
) {
    let ones = _mm256_set1_epi16(1);
    for (index, part) in panel.iter().enumerate() {
        let (bytes, blocks) = (each(&bytes, index), each(&blocks, index));
        let mut products = [[_mm256_setzero_si256(); GROUPS]; T];
        for t in 0..T {
            products[t] = [_mm256_set1_epi32(-offset(F) * blocks[t].total); GROUPS];
        }
        for (some, weights) in part.codes.chunks_exact(added_up(F)).enumerate() {
            let mut narrow = [[_mm256_setzero_si256(); GROUPS]; T];
            for (f, weights) in weights.iter().enumerate() {
                let weights = [load(&weights[0], 0), load(&weights[1], 0)];
                for t in 0..T {
                    let four = four(bytes[t], some * added_up(F) + f);
                    narrow[t][0] = _mm256_add_epi16(narrow[t][0], _mm256_maddubs_epi16(weights[0], four));
                    narrow[t][1] = _mm256_add_epi16(narrow[t][1], _mm256_maddubs_epi16(weights[1], four));
                }
            }
            for t in 0..T {
                for group in 0..GROUPS {
                    let wide = _mm256_madd_epi16(narrow[t][group], ones);
                    products[t][group] = _mm256_add_epi32(products[t][group], wide);
                }
            }
        }
        for t in 0..T {
            for group in 0..GROUPS {
                let scale = _mm256_mul_ps(load_sums(&part.scales[group]), _mm256_set1_ps(blocks[t].scale));
                let product = _mm256_cvtepi32_ps(products[t][group]);
                let mut sum = _mm256_fmadd_ps(product, scale, load_sums(&sums[t][group]));
                if has_minima(F) {
                    let total = _mm256_set1_ps(blocks[t].scaled_total);
                    sum = _mm256_fnmadd_ps(load_sums(&part.minima[group]), total, sum);
                }
                store_sums(&mut sums[t][group], sum);
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
    #[target_feature(enable = "avx2,fma,f16c")]
    fn tokens<const F: u8, const T: usize>(&mut self, panel: &[BytePart], first: usize) {
        let bytes = slices(self.activations.bytes_of::<T>(first), self.part, panel.len());
        let blocks = slices(self.activations.blocks_of::<T>(first), self.part, panel.len());
        let mut sums = [[[0.0; ROWS]; GROUPS]; T];
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

    #[target_feature(enable = "avx2,fma,f16c")]
    fn all<const F: u8>(&mut self, panel: &[BytePart]) {
        for first in (0..self.activations.rows).step_by(TOKENS) {
            match self.activations.rows - first {
                1 => self.tokens::<F, 1>(panel, first),
                2 => self.tokens::<F, 2>(panel, first),
                3 => self.tokens::<F, 3>(panel, first),
                4 => self.tokens::<F, 4>(panel, first),
                5 => self.tokens::<F, 5>(panel, first),
                _ => self.tokens::<F, 6>(panel, first),
            }
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
    let size = Layout::of(weights.format).group(weights.columns);
    let parts = weights.columns / COLUMNS;
    // Steps of about the same size: a short one would not be worth its sums' way to the tile.
    let step = parts.div_ceil(parts.div_ceil(PARTS));
    let mut panel = [BytePart::EMPTY; PARTS];
    for (index, groups) in weights.bytes.chunks(GROUPS * size).enumerate() {
        for part in (0..parts).step_by(step) {
            let panel = &mut panel[..step.min(parts - part)];
            for (at, group) in groups.chunks_exact(size).enumerate() {
                for (index, panel) in (part..).zip(&mut *panel) {
                    unpack::<F, HEAD, PART>(group, index, panel, at);
                }
            }
            Step { activations, part, group: GROUPS * index, tile }.all::<F>(panel);
        }
    }
}
