//! f16 as its bits.
use super::lanes;
use crate::{half::HalfKernels, scalar};

pub(super) const KERNELS: HalfKernels = HalfKernels {
    // SAFETY: these leave only inside the table, which `detect` gives out.
    narrow: |x, out| unsafe { narrow(x, out) },
    // SAFETY: as above.
    widen: |x, out| unsafe { widen(x, out) },
};

#[target_feature(enable = "neon")]
fn narrow(x: &[f32], out: &mut [u16]) {
    let ((x, x_tail), (out, out_tail)) = (x.as_chunks::<4>(), out.as_chunks_mut::<4>());
    for (x, out) in x.iter().zip(out) {
        lanes::store_half(out, lanes::load(x));
    }
    (scalar::HALF.narrow)(x_tail, out_tail);
}

#[target_feature(enable = "neon")]
fn widen(x: &[u16], out: &mut [f32]) {
    let ((x, x_tail), (out, out_tail)) = (x.as_chunks::<4>(), out.as_chunks_mut::<4>());
    for (x, out) in x.iter().zip(out) {
        lanes::store(out, lanes::load_half(x));
    }
    (scalar::HALF.widen)(x_tail, out_tail);
}
