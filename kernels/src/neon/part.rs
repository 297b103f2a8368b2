//! Codes and scales of 32 columns of eight interleaved rows, in lanes.
//!
//! The layout is described in `matrix/layout.rs`. Formats are constants here, so that each gets its
//! own straight-line code.
use std::arch::aarch64::*;

use super::vectors::{Floats, Integers, halves, load_halves, signed, unsigned};
use crate::{activations::CodeBlock, format::Format};

pub(super) const Q4_0: u8 = Format::Q4_0 as u8;
pub(super) const Q4_1: u8 = Format::Q4_1 as u8;
pub(super) const Q5_0: u8 = Format::Q5_0 as u8;
pub(super) const Q5_1: u8 = Format::Q5_1 as u8;
pub(super) const Q8_0: u8 = Format::Q8_0 as u8;
pub(super) const Q13_0: u8 = Format::Q13_0 as u8;
pub(super) const Q4K: u8 = Format::Q4K as u8;
pub(super) const Q5K: u8 = Format::Q5K as u8;
pub(super) const Q6K: u8 = Format::Q6K as u8;

/// Returns what has to be subtracted from the codes of a format.
pub(super) const fn offset(format: u8) -> i16 {
    match format {
        Q4_0 => 8,
        Q5_0 => 16,
        Q6K => 32,
        _ => 0,
    }
}

/// Returns whether a format has minima.
pub(super) const fn has_minima(format: u8) -> bool {
    matches!(format, Q4_1 | Q5_1 | Q4K | Q5K)
}

/// Returns where the code vectors of a part begin, behind its scales and its plane of high bits.
pub(super) const fn low_bits(format: u8) -> usize {
    match format {
        Q4_1 => 32,
        Q5_0 | Q5K => 48,
        Q5_1 => 64,
        Q6K => 80,
        _ => 16,
    }
}

/// Returns where a part's plane of high bits begins.
pub(super) const fn high_bits(format: u8) -> usize {
    if format == Q5_1 { 32 } else { 16 }
}

/// Returns the codes of columns `8 v .. 8 v + 8` before the offset is subtracted: a column of eight
/// rows in each vector.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn columns<const F: u8, const PART: usize>(part: &[u8; PART], v: usize) -> [int16x8_t; 8] {
    let at = low_bits(F);
    let [even, odd] = match F {
        Q8_0 => return eights(part, at + 64 * v),
        Q13_0 => return words(part, at + 128 * v),
        Q4_0 | Q4_1 | Q4K => load_halves(part, at + 32 * v).map(|low| nibbles(low)),
        Q5_0 | Q5_1 | Q5K => {
            let ([high, high_odd], [low, low_odd]) = (load_halves(part, high_bits(F)), load_halves(part, at + 32 * v));
            let first = 4 - 4 * v as i16;
            [join::<1>(nibbles(low), high, first), join::<1>(nibbles(low_odd), high_odd, first)]
        }
        _ => {
            let ([high, high_odd], [low, low_odd]) =
                (load_halves(part, high_bits(F) + 32 * (v / 2)), load_halves(part, at + 32 * v));
            let first = 4 - 8 * (v % 2) as i16;
            [join::<2>(nibbles(low), high, first), join::<2>(nibbles(low_odd), high_odd, first)]
        }
    };
    let signed = |x| vreinterpretq_s16_u16(x);
    [
        signed(even[0]),
        signed(odd[0]),
        signed(even[1]),
        signed(odd[1]),
        signed(even[2]),
        signed(odd[2]),
        signed(even[3]),
        signed(odd[3]),
    ]
}

#[inline]
#[target_feature(enable = "neon")]
fn words(part: &[u8], at: usize) -> [int16x8_t; 8] {
    let signed = |x| vreinterpretq_s16_u16(x);
    let pair = |j: usize| load_halves(part, at + 32 * j).map(signed);
    let ([a, b], [c, d], [e, f], [g, h]) = (pair(0), pair(1), pair(2), pair(3));
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "neon")]
fn eights(part: &[u8], at: usize) -> [int16x8_t; 8] {
    let low = |x| vshrq_n_s16::<8>(vshlq_n_s16::<8>(vreinterpretq_s16_u16(x)));
    let high = |x| vshrq_n_s16::<8>(vreinterpretq_s16_u16(x));
    let ([a, b], [c, d]) = (load_halves(part, at), load_halves(part, at + 32));
    [low(a), low(b), high(a), high(b), low(c), low(d), high(c), high(d)]
}

#[inline]
#[target_feature(enable = "neon")]
fn nibbles(x: uint16x8_t) -> [uint16x8_t; 4] {
    let mask = vdupq_n_u16(15);
    [
        vandq_u16(x, mask),
        vandq_u16(vshrq_n_u16::<4>(x), mask),
        vandq_u16(vshrq_n_u16::<8>(x), mask),
        vshrq_n_u16::<12>(x),
    ]
}

/// Returns four columns with `BITS` more bits each, of which the first column's come to their place,
/// above the nibble, when they are shifted left by `first`.
#[inline]
#[target_feature(enable = "neon")]
fn join<const BITS: i16>(mut low: [uint16x8_t; 4], high: uint16x8_t, first: i16) -> [uint16x8_t; 4] {
    let mask = vdupq_n_u16(((1 << BITS) - 1) << 4);
    for j in 0..4 {
        let shifted = vshlq_u16(high, vdupq_n_s16(first - BITS * j as i16));
        low[j] = vorrq_u16(low[j], vandq_u16(shifted, mask));
    }
    low
}

/// Returns the scales of a part and its minima: what is subtracted from every number. `head` is the
/// head of its block.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scales<const F: u8, const PART: usize>(head: &[u8], part: &[u8; PART]) -> (Floats, Floats) {
    let none = [vdupq_n_f32(0.0); 2];
    match F {
        Q4K | Q5K => {
            let ([scale, minimum], d, m) = (unsigned(part, 0), halves(head, 0), halves(head, 16));
            let product = |a: Floats, b: Floats| [vmulq_f32(a[0], b[0]), vmulq_f32(a[1], b[1])];
            (product(d, scale), product(m, minimum))
        }
        Q6K => (halves(head, 0), none),
        Q4_1 | Q5_1 => (halves(part, 0), halves(part, 16).map(|m| vnegq_f32(m))),
        _ => (halves(part, 0), none),
    }
}

/// Returns the integer scales of the first and the second sixteen columns (`q6_k`).
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn half_scales<const PART: usize>(part: &[u8; PART]) -> [int16x8_t; 2] {
    signed(part, 0)
}

/// Returns the sums of a part's products, of those of its first and second sixteen columns before the
/// offset was subtracted from the codes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn settle<const F: u8, const PART: usize>(
    [first, second]: [Integers; 2],
    part: &[u8; PART],
    block: &CodeBlock,
) -> Integers {
    let less = |x: Integers, total: i32| {
        let offset = vdupq_n_s32(i32::from(offset(F)) * total);
        [vsubq_s32(x[0], offset), vsubq_s32(x[1], offset)]
    };
    if F == Q6K {
        let [a, b] = half_scales(part);
        let (first, second) = (less(first, block.halves[0]), less(second, block.halves[1]));
        let add = |first, a, second, b| vmlaq_s32(vmulq_s32(first, vmovl_s16(a)), second, vmovl_s16(b));
        return [
            add(first[0], vget_low_s16(a), second[0], vget_low_s16(b)),
            add(first[1], vget_high_s16(a), second[1], vget_high_s16(b)),
        ];
    }
    let sums = [vaddq_s32(first[0], second[0]), vaddq_s32(first[1], second[1])];
    if offset(F) > 0 { less(sums, block.total) } else { sums }
}

/// Adds a part to a token's results.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_scaled<const F: u8>(
    results: &mut Floats,
    products: Integers,
    (scales, minima): (Floats, Floats),
    block: &CodeBlock,
) {
    for half in 0..2 {
        let scale = vmulq_n_f32(scales[half], block.scale);
        results[half] = vfmaq_f32(results[half], vcvtq_f32_s32(products[half]), scale);
        if has_minima(F) {
            results[half] = vfmsq_f32(results[half], minima[half], vdupq_n_f32(block.scaled_total));
        }
    }
}
