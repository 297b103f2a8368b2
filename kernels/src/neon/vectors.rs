//! Loads, stores and conversions of packed weights, codes and sums.
use std::arch::aarch64::*;

use super::lanes;
use crate::matrix::layout::ROWS;

/// Numbers of eight rows: of the first four and the last four.
pub(super) type Floats = [float32x4_t; 2];
/// Integers of eight rows.
pub(super) type Integers = [int32x4_t; 2];

/// Returns the 16 bytes at `at`.
///
/// # Panics
///
/// If there are fewer; where the length is known, the check is compiled away.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(bytes: &[u8], at: usize) -> uint8x16_t {
    let bytes = &bytes[at..at + 16];
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// Returns the even and the odd 16-bit numbers of the 32 bytes at `at`: the low and the high halves
/// of eight lanes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_halves(bytes: &[u8], at: usize) -> [uint16x8_t; 2] {
    let (a, b) = (vreinterpretq_u16_u8(load(bytes, at)), vreinterpretq_u16_u8(load(bytes, at + 16)));
    [vuzp1q_u16(a, b), vuzp2q_u16(a, b)]
}

/// Returns the eight f16 at `at` as f32.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn halves(bytes: &[u8], at: usize) -> Floats {
    let words = vreinterpretq_f16_u8(load(bytes, at));
    [vcvt_f32_f16(vget_low_f16(words)), vcvt_high_f32_f16(words)]
}

/// Returns the eight bf16 at `at` as f32.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn upper_halves(bytes: &[u8], at: usize) -> Floats {
    let words = vreinterpretq_u16_u8(load(bytes, at));
    [
        vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(words))),
        vreinterpretq_f32_u32(vshll_high_n_u16::<16>(words)),
    ]
}

/// Returns the eight f32 at `at`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn floats(bytes: &[u8], at: usize) -> Floats {
    [vreinterpretq_f32_u8(load(bytes, at)), vreinterpretq_f32_u8(load(bytes, at + 16))]
}

/// Returns the 16 unsigned bytes at `at` as two times eight f32.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn unsigned(bytes: &[u8], at: usize) -> [Floats; 2] {
    let bytes = load(bytes, at);
    let widen = |x| [vcvtq_f32_u32(vmovl_u16(vget_low_u16(x))), vcvtq_f32_u32(vmovl_high_u16(x))];
    [widen(vmovl_u8(vget_low_u8(bytes))), widen(vmovl_high_u8(bytes))]
}

/// Returns the 16 signed bytes at `at` as two times eight i16.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn signed(bytes: &[u8], at: usize) -> [int16x8_t; 2] {
    let bytes = vreinterpretq_s8_u8(load(bytes, at));
    [vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes)]
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_codes(codes: &[i16; 8]) -> int16x8_t {
    // SAFETY: 16 readable bytes.
    unsafe { vld1q_s16(codes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store_codes(to: &mut [i16; 8], codes: int16x8_t) {
    // SAFETY: 16 writable bytes.
    unsafe { vst1q_s16(to.as_mut_ptr(), codes) };
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_sums(sums: &[f32; ROWS]) -> Floats {
    let (fours, _) = sums.as_chunks();
    [lanes::load(&fours[0]), lanes::load(&fours[1])]
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store_sums(to: &mut [f32; ROWS], sums: Floats) {
    let (fours, _) = to.as_chunks_mut();
    lanes::store(&mut fours[0], sums[0]);
    lanes::store(&mut fours[1], sums[1]);
}
