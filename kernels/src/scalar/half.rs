//! f16 as its bits.
use crate::half::HalfKernels;

pub(crate) const KERNELS: HalfKernels = HalfKernels {
    narrow: |x, out| out.iter_mut().zip(x).for_each(|(out, x)| *out = narrow(*x)),
    widen: |x, out| out.iter_mut().zip(x).for_each(|(out, x)| *out = widen(*x)),
};

/// Returns the nearest f16, ties to even.
pub(crate) fn narrow(x: f32) -> u16 {
    let sign = ((x.to_bits() >> 16) & 0x8000) as u16;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        // A quiet NaN with the upper bits of its payload.
        return sign | 0x7e00 | ((magnitude >> 13) & 0x01ff) as u16;
    }
    // 65520 is the midpoint between the largest f16 and what would be the next.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    // Below 2^-14 results are subnormal, with a last bit of 2^-24, which is the last of 0.5 in f32.
    if magnitude < 0x3880_0000 {
        let rounded = f32::from_bits(magnitude) + 0.5;
        return sign | (rounded.to_bits() - 0.5f32.to_bits()) as u16;
    }
    let odd = (magnitude >> 13) & 1;
    let rounded = magnitude + 0x0fff + odd;
    sign | ((rounded - 0x3800_0000) >> 13) as u16
}

/// Returns the value of an f16, exactly.
pub(crate) fn widen(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = match magnitude >> 10 {
        // The last bit of a subnormal is worth 2^-24.
        0 => (magnitude as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        31 if magnitude & 0x03ff != 0 => 0x7fc0_0000 | magnitude << 13,
        31 => 0x7f80_0000,
        _ => (magnitude << 13) + 0x3800_0000,
    };
    f32::from_bits(sign | value)
}
