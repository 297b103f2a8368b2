//! f16 as its bits.
use ::half::f16;

use crate::half::HalfKernels;

pub(crate) const KERNELS: HalfKernels = HalfKernels {
    narrow: |x, out| out.iter_mut().zip(x).for_each(|(out, x)| *out = f16::from_f32(*x).to_bits()),
    widen: |x, out| out.iter_mut().zip(x).for_each(|(out, x)| *out = widen(*x)),
};

/// Returns the value of an f16, exactly.
pub(crate) fn widen(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}
