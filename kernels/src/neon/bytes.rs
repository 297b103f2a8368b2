//! Products of bytes, four columns in a lane: for processors with `sdot`.
//!
//! A 15-bit code is `128 high + low`, with high in −128 ..= 127 and low in 0 ..= 127, so two byte
//! products make one of its products, and the sums are the same integers.
use std::arch::{aarch64::*, asm};

use super::{
    part::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, high_bits, low_bits},
    vectors::{Integers, load, load_codes},
};
use crate::matrix::layout::COLUMNS;

/// The codes of 32 columns in the order of a format's weights, the first and the second sixteen.
#[derive(Clone, Copy)]
pub(super) struct Split {
    high: [int8x16_t; 2],
    low: [int8x16_t; 2],
}

/// Where the columns of sixteen codes go: to where those of their weights lie.
const fn order(format: u8) -> [u8; 16] {
    match format {
        Q8_0 => [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15],
        _ => [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15],
    }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn split<const F: u8>(codes: &[i16; COLUMNS]) -> Split {
    let order = load(&const { order(F) }, 0);
    let (codes, _) = codes.as_chunks::<8>();
    let zero = vdupq_n_s8(0);
    let mut split = Split { high: [zero; 2], low: [zero; 2] };
    for half in 0..2 {
        let (a, b) = (load_codes(&codes[2 * half]), load_codes(&codes[2 * half + 1]));
        let high = vshrn_high_n_s16::<7>(vshrn_n_s16::<7>(a), b);
        let mask = vdupq_n_s16(127);
        let low = vmovn_high_s16(vmovn_s16(vandq_s16(a, mask)), vandq_s16(b, mask));
        split.high[half] = vqtbl1q_s8(high, order);
        split.low[half] = vqtbl1q_s8(low, order);
    }
    split
}

/// Returns the codes of columns `8 v .. 8 v + 8` before the offset is subtracted: four columns of
/// eight rows, twice.
#[inline]
#[target_feature(enable = "neon")]
fn weights<const F: u8, const PART: usize>(part: &[u8; PART], v: usize) -> [[int8x16_t; 2]; 2] {
    let mut all = [[vdupq_n_s8(0); 2]; 2];
    for rows in 0..2 {
        if F == Q8_0 {
            let at = low_bits(F) + 64 * v + 16 * rows;
            all[0][rows] = vreinterpretq_s8_u8(load(part, at));
            all[1][rows] = vreinterpretq_s8_u8(load(part, at + 32));
            continue;
        }
        let low = load(part, low_bits(F) + 32 * v + 16 * rows);
        let low = [vandq_u8(low, vdupq_n_u8(15)), vshrq_n_u8::<4>(low)];
        for four in 0..2 {
            let codes = match F {
                Q4_0 | Q4_1 | Q4K => low[four],
                Q5_0 | Q5_1 | Q5K => {
                    let high = load(part, high_bits(F) + 16 * rows);
                    join::<1>(low[four], high, four, 4 * v as i16)
                }
                _ => {
                    let high = load(part, high_bits(F) + 32 * (v / 2) + 16 * rows);
                    join::<2>(low[four], high, four, 8 * (v % 2) as i16)
                }
            };
            all[four][rows] = vreinterpretq_s8_u8(codes);
        }
    }
    all
}

/// Returns four columns with `BITS` more bits each. The four pairs of columns of the eight have
/// theirs at `first` and `BITS` further each in both halves of a lane; bytes hold, of each half, the
/// first and the third pair or the second and the fourth.
#[inline]
#[target_feature(enable = "neon")]
fn join<const BITS: i16>(low: uint8x16_t, high: uint8x16_t, four: usize, first: i16) -> uint8x16_t {
    let high = vreinterpretq_u16_u8(high);
    let at = first + BITS * four as i16;
    let mask = ((1 << BITS) - 1) << 4;
    let near = vandq_u16(vshlq_u16(high, vdupq_n_s16(4 - at)), vdupq_n_u16(mask));
    let far = vandq_u16(vshlq_u16(high, vdupq_n_s16(12 - 2 * BITS - at)), vdupq_n_u16(mask << 8));
    vorrq_u8(low, vreinterpretq_u8_u16(vorrq_u16(near, far)))
}

/// Adds to each lane the products of its four bytes with the four of a lane of `x`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn dot<const LANE: u8>(mut sums: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // The intrinsic is not stable (rust-lang/rust#117224).
    // SAFETY: `sdot` is what `dotprod` stands for; it reads and writes these registers only.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {weights:v}.16b, {x:v}.4b[{lane}]",
            sums = inout(vreg) sums,
            weights = in(vreg) weights,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Sums with the high and with the low bytes of a token.
type Pair = [Integers; 2];

#[inline]
#[target_feature(enable = "neon")]
fn join_sums([high, low]: Pair) -> Integers {
    [vaddq_s32(vshlq_n_s32::<7>(high[0]), low[0]), vaddq_s32(vshlq_n_s32::<7>(high[1]), low[1])]
}

/// Adds columns `8 V .. 8 V + 8` of a part.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add<const F: u8, const PART: usize, const M: usize, const V: usize>(
    sums: &mut [Pair; M],
    part: &[u8; PART],
    codes: &[Split; M],
) {
    let [first, second] = weights::<F, PART>(part, V);
    for t in 0..M {
        for (byte, x) in [codes[t].high[V / 2], codes[t].low[V / 2]].into_iter().enumerate() {
            for rows in 0..2 {
                let sum = &mut sums[t][byte][rows];
                *sum = if V.is_multiple_of(2) {
                    dot::<1>(dot::<0>(*sum, first[rows], x), second[rows], x)
                } else {
                    dot::<3>(dot::<2>(*sum, first[rows], x), second[rows], x)
                };
            }
        }
    }
}

/// Returns the products of a part and `M` tokens, for each token those of the first and of the second
/// sixteen columns; all together as the second where nothing depends on it.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn products<const F: u8, const PART: usize, const M: usize>(
    part: &[u8; PART],
    codes: &[Split; M],
) -> [[Integers; 2]; M] {
    let none = [[vdupq_n_s32(0); 2]; 2];
    let (mut sums, mut all) = ([none; M], [none; M]);
    add::<F, PART, M, 0>(&mut sums, part, codes);
    add::<F, PART, M, 1>(&mut sums, part, codes);
    if F == Q6K {
        for t in 0..M {
            all[t][0] = join_sums(sums[t]);
        }
        sums = [none; M];
    }
    add::<F, PART, M, 2>(&mut sums, part, codes);
    add::<F, PART, M, 3>(&mut sums, part, codes);
    for t in 0..M {
        all[t][1] = join_sums(sums[t]);
    }
    all
}
