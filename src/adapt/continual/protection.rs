//! What keeps earlier tasks from being forgotten, in plain values.
use crate::adapt::ewc::{Method, Strength};

/// Where a penalty is measured, see [`crate::adapt::ewc::Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// On A and B, number by number.
    Factors,
    /// On s B A, with an importance for each element.
    Product,
    /// On s B A, with importances of rank 1: `E δ²` of the outputs by `E x²` of the inputs.
    Outer,
}

/// Whose gradients importances are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Labels drawn from the model, squared a batch at a time: unbiased.
    Sampled,
    /// The text's labels, squared a sequence at a time.
    Empirical,
    /// The text's labels, squared a batch at a time. With importances of rank 1 the squares are those of
    /// single positions, here and above.
    Batched,
}

/// A quadratic pull to what earlier tasks had learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// How anchors and importances come to be; [`Method::Sequential`] pulls nowhere.
    pub method: Method,
    /// How strong it is.
    pub strength: Strength,
    /// Where it is measured.
    pub geometry: Geometry,
    /// What its importances are made of.
    pub source: Source,
    /// Batches a finished task's importances are estimated from.
    pub batches: u32,
    /// Whether importances are brought to a mean of 1.
    pub normalized: bool,
}

/// Examples of earlier tasks that are kept, and learned again beside new ones, as many as those.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rehearsal {
    /// How many are kept, of all tasks together.
    pub kept: usize,
    /// What else they are held to than their labels; replay has nothing else.
    pub distillation: Option<Distillation>,
}

/// DER++ (arXiv 2004.07211): kept examples add `α` times the mean square distance of their logits from those
/// at the end of their task, and others of them `β` times their loss. Of a vocabulary only the greatest
/// logits of a position are kept, and the distance is that of these.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distillation {
    /// α.
    pub logits_weight: f64,
    /// β.
    pub labels_weight: f64,
    /// Logits kept of a position.
    pub logits: usize,
}

/// How tasks are kept apart (O-LoRA, arXiv 2310.14152): every task learns factors of its own beside those of
/// earlier ones, with `λ₁ Σ |A_i Aᵀ|` over earlier tasks i added to its loss. The adapter is one that
/// [`super::widened`] made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Orthogonality {
    /// λ₁.
    pub weight: f64,
    /// Tasks the adapter has room for; those beyond share the last one's.
    pub tasks: usize,
}

/// What protects earlier tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protection {
    /// A pull.
    pub penalty: Penalty,
    /// What is learned again.
    pub rehearsal: Option<Rehearsal>,
    /// Factors of its own for every task.
    pub orthogonality: Option<Orthogonality>,
}
