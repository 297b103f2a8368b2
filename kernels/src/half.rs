//! f16 as its bits: what caches hold.
use crate::Kernels;

/// The functions a tier has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HalfKernels {
    pub(crate) narrow: fn(&[f32], &mut [u16]),
    pub(crate) widen: fn(&[u16], &mut [f32]),
}

impl Kernels {
    /// Writes each x as the nearest f16, ties to even; beyond 65504 an infinity.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn narrow(&self, x: &[f32], out: &mut [u16]) {
        assert_eq!(x.len(), out.len(), "narrow: {} values, room for {}", x.len(), out.len());
        (self.half.narrow)(x, out);
    }

    /// Writes each f16 as f32, exactly.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn widen(&self, x: &[u16], out: &mut [f32]) {
        assert_eq!(x.len(), out.len(), "widen: {} values, room for {}", x.len(), out.len());
        (self.half.widen)(x, out);
    }
}
