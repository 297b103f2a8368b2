//! Elementwise functions, and the gates of feed-forward layers.
use crate::Kernels;

/// The functions a tier has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ActivationKernels {
    pub(crate) exp: fn(&mut [f32]),
    pub(crate) silu: fn(&mut [f32]),
    pub(crate) gelu: fn(&mut [f32]),
    pub(crate) gelu_tanh: fn(&mut [f32]),
    pub(crate) silu_gate: fn(&mut [f32], &[f32]),
    pub(crate) gelu_gate: fn(&mut [f32], &[f32]),
    pub(crate) gelu_tanh_gate: fn(&mut [f32], &[f32]),
    pub(crate) soft_cap: fn(&mut [f32], f32),
    pub(crate) add: fn(&mut [f32], &[f32]),
    pub(crate) scale: fn(&mut [f32], f32),
    pub(crate) fetch: fn(&[f32]),
}

fn check(name: &str, x: &[f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "{name}: {} and {} values", x.len(), y.len());
}

/// What a value becomes does not depend on where it stands in its slice, in any of these.
impl Kernels {
    /// Replaces each x by `exp(x)`.
    ///
    /// # Numerics
    ///
    /// Within 2 ulp, down to subnormal results; NaN stays NaN.
    pub fn exp(&self, x: &mut [f32]) {
        (self.activation.exp)(x);
    }

    /// Replaces each x by `x / (1 + exp(−x))`.
    ///
    /// # Numerics
    ///
    /// Relative error at most 4e-7, results below 3e-37 in magnitude may be 0; −∞ gives NaN, as the
    /// formula does.
    pub fn silu(&self, x: &mut [f32]) {
        (self.activation.silu)(x);
    }

    /// Replaces each x by `x · Φ(x)`, Φ the normal distribution function (Hendrycks and Gimpel,
    /// arXiv 1606.08415).
    ///
    /// # Numerics
    ///
    /// Absolute error at most 4e-7 · max(1, |x|).
    pub fn gelu(&self, x: &mut [f32]) {
        (self.activation.gelu)(x);
    }

    /// Replaces each x by `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`, the usual approximation
    /// of [`gelu`](Self::gelu).
    ///
    /// # Numerics
    ///
    /// Absolute error at most 1e-6 · max(1, |x|).
    pub fn gelu_tanh(&self, x: &mut [f32]) {
        (self.activation.gelu_tanh)(x);
    }

    /// Replaces each gate g by `silu(g) · up` (`SwiGLU`; Shazeer, arXiv 2002.05202).
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn silu_gate(&self, gate: &mut [f32], up: &[f32]) {
        check("silu_gate", gate, up);
        (self.activation.silu_gate)(gate, up);
    }

    /// Replaces each gate g by `gelu(g) · up` (`GeGLU`).
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn gelu_gate(&self, gate: &mut [f32], up: &[f32]) {
        check("gelu_gate", gate, up);
        (self.activation.gelu_gate)(gate, up);
    }

    /// Replaces each gate g by `gelu_tanh(g) · up` (`GeGLU`, as Gemma has it).
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn gelu_tanh_gate(&self, gate: &mut [f32], up: &[f32]) {
        check("gelu_tanh_gate", gate, up);
        (self.activation.gelu_tanh_gate)(gate, up);
    }

    /// Replaces each x by `cap · tanh(x / cap)`, which keeps it inside ±cap.
    ///
    /// # Numerics
    ///
    /// Absolute error at most 4e-7 · cap.
    pub fn soft_cap(&self, x: &mut [f32], cap: f32) {
        (self.activation.soft_cap)(x, cap);
    }

    /// Adds `y` to `x`.
    ///
    /// # Panics
    ///
    /// If the lengths differ.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        check("add", x, y);
        (self.activation.add)(x, y);
    }

    /// Multiplies each x by `factor`.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        (self.activation.scale)(x, factor);
    }

    /// Has values that are used soon brought into the nearest cache: a hint, which some tiers do without, and which
    /// changes no result. Worth its time for short rows that lie far apart, which no processor expects.
    pub fn fetch(&self, x: &[f32]) {
        (self.activation.fetch)(x);
    }
}
