//! How a micro adapter learns.

/// How rows of B move down their gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// `B_k ← B_k − η T g_k / (s² (a + Σ h_k))`, number by number: g is the gradient of the mean loss of T tokens,
    /// `h = Σ_t (0.6 p_tk + 0.4 [k = y_t]) (A h_t)²` a curvature, summed over all requests so far, and a = 0.7.
    ///
    /// Along a direction that is 1 at every position this is how often a token came in place of how often it
    /// was expected: `(n − e) / (a + (n + e) / 2)` is nearly `ln ((n + a) / (e + a))`, the most likely change of its
    /// logit where the rates of tokens vary as they do from text to text. It is Newton's step with some of the
    /// curvature before it and some of that after, so that a token that was not expected and comes ten times is
    /// not overshot; and as evidence adds up, steps become small.
    #[default]
    Newton,
    /// `B_k ← B_k − η g_k / (√Σ ‖g_k‖² + 1e-3)`, summed over all requests so far: AdaGrad (Duchi, Hazan and Singer
    /// 2011) with one rate for each token. A token that came once moves as far as one that comes at
    /// every position, and the latter comes to rest.
    AdaGrad,
    /// `B_k ← B_k − η g_k`.
    Sgd,
}

/// How a micro adapter learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// 1 or 2.
    pub rank: usize,
    /// s, what B A is multiplied by.
    pub scale: f32,
    /// How rows of B move.
    pub rule: Rule,
    /// η, the step size: 1 is the whole step with [`Rule::Newton`]; with [`Rule::AdaGrad`] about how far a row moves
    /// that learns for the first time; for the mean loss of a request with [`Rule::Sgd`].
    pub learning_rate: f32,
    /// The share of B that is forgotten with every request.
    pub decay: f32,
    /// The likeliest tokens of a position that get a gradient, beside the one that came.
    pub top_k: usize,
    /// The greatest Frobenius norm of a step.
    pub max_step_norm: f32,
    /// The greatest Frobenius norm of B.
    pub max_norm: f32,
    /// How often a step that does not help is halved before it is given up.
    pub backtracks: u32,
    /// How many nats a token the adapter may cost on average over recent requests before B is reset.
    pub tolerance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rank: 2,
            scale: 2.0,
            rule: Rule::Newton,
            learning_rate: 1.0,
            decay: 0.02,
            top_k: 24,
            max_step_norm: 8.0,
            max_norm: 64.0,
            backtracks: 6,
            tolerance: 0.05,
        }
    }
}
