//! Rotary position embedding, applied.
use crate::Kernels;

/// How the values that rotate together are laid out in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairs {
    /// `(2i, 2i + 1)`.
    Interleaved,
    /// `(i, i + R/2)`, R being how many values rotate.
    Halves,
}

/// The functions a tier has: heads, head width, cosines, sines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeKernels {
    pub(crate) interleaved: fn(&mut [f32], usize, &[f32], &[f32]),
    pub(crate) halves: fn(&mut [f32], usize, &[f32], &[f32]),
}

impl Kernels {
    /// Rotates the pairs of every head by one position's angles:
    /// `(a, b) ← (a·cos − b·sin, a·sin + b·cos)` (Su et al., arXiv 2104.09864).
    ///
    /// # Shapes
    ///
    /// `heads` is `[heads, D]`; `cos` and `sin` are `[R/2]`. The first R values of a head rotate, the
    /// others stay as they are.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    ///
    /// # Examples
    ///
    /// ```
    /// use ruvlab_kernels::{RopePairs, active};
    /// let mut head = [1.0, 0.0, 7.0];
    /// active().rotate(&mut head, 3, &[0.0], &[1.0], RopePairs::Interleaved);
    /// assert_eq!(head, [0.0, 1.0, 7.0]);
    /// ```
    pub fn rotate(&self, heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], pairs: RopePairs) {
        assert!(
            head_dim > 0 && heads.len().is_multiple_of(head_dim),
            "rotate: {} values, heads of {head_dim}",
            heads.len()
        );
        assert_eq!(cos.len(), sin.len(), "rotate: {} cosines, {} sines", cos.len(), sin.len());
        assert!(2 * cos.len() <= head_dim, "rotate: {} pairs in a head of {head_dim}", cos.len());
        match pairs {
            RopePairs::Interleaved => (self.rope.interleaved)(heads, head_dim, cos, sin),
            RopePairs::Halves => (self.rope.halves)(heads, head_dim, cos, sin),
        }
    }
}
