//! Low-rank additions to a model's matrices, as values.
//!
//! Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021): a matrix W `[O, I]` acts
//! as `W + scale · B A`, without being changed.
use super::{Changes, EngineError, Place, Target};
use crate::model::spec::ModelSpec;

/// An addition `scale · B A` to one matrix `[O, I]`.
///
/// # Shapes
///
/// `a` is `[rank, I]` and `b` `[O, rank]`, both row-major. The rows of `b` are in the order in which
/// the weights' own rows lie in the file: where queries and keys are stored with interleaved pairs
/// for rope ([`RopeLayout::Interleaved`](crate::model::rope::RopeLayout), the llama family in GGUF), an
/// adapter trained on rows in halves has to permute the rows of its `b` first, as a converter
/// permutes those of W. `a` is the same in both.
///
/// # Numerics
///
/// `y = W x + B (scale · (A x))`. What the rounding of `W x` to blocks or codes loses is not gained
/// back; the addition itself is computed in f32 from activations that are not rounded.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// r, at least 1.
    pub rank: usize,
    /// What the product is multiplied by: `alpha / r`, or `alpha / sqrt(r)` (rsLoRA).
    pub scale: f32,
    /// A.
    pub a: Vec<f32>,
    /// B.
    pub b: Vec<f32>,
}

/// What is added to the matrices of one layer; the file's fused matrices count as the parts they hold.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "they are the matrices of a decoder layer")]
pub struct LayerAdapter {
    pub query: Option<LowRank>,
    pub key: Option<LowRank>,
    pub value: Option<LowRank>,
    pub attention_output: Option<LowRank>,
    pub gate: Option<LowRank>,
    pub up: Option<LowRank>,
    pub down: Option<LowRank>,
}

/// What is added to the matrices of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapter {
    /// As many as the model has layers.
    pub layers: Vec<LayerAdapter>,
    /// To the matrix that gives logits. Where it is the embedding, tokens are still embedded as before.
    pub head: Option<LowRank>,
}

impl LowRank {
    fn check(&self, what: &str, outputs: usize, inputs: usize) -> Result<(), EngineError> {
        let Self { rank, a, b, .. } = self;
        let fits = |values: &[f32], width: usize| rank.checked_mul(width) == Some(values.len());
        if *rank > 0 && fits(a, inputs) && fits(b, outputs) {
            return Ok(());
        }
        Err(EngineError::Adapter(format!(
            "{what}: rank {rank} on a matrix of {outputs} x {inputs} takes {rank} x {inputs} and {outputs} x {rank} \
             numbers, not {} and {} (is it an adapter of another model?)",
            a.len(),
            b.len()
        )))
    }
}

impl Adapter {
    /// Returns changes of a model of that many layers by the matrices they belong to.
    #[must_use]
    pub fn new(layers: usize, changes: &Changes) -> Self {
        let of = |layer: usize, target: Target| changes.get(&Place { layer, target }).cloned();
        let layer = |layer: usize| LayerAdapter {
            query: of(layer, Target::Query),
            key: of(layer, Target::Key),
            value: of(layer, Target::Value),
            attention_output: of(layer, Target::Output),
            gate: of(layer, Target::Gate),
            up: of(layer, Target::Up),
            down: of(layer, Target::Down),
        };
        Self { layers: (0..layers).map(layer).collect(), head: of(layers, Target::Head) }
    }

    /// Checks that all additions have the shapes of a model's matrices.
    ///
    /// # Errors
    ///
    /// Names the first that has not.
    pub fn check(&self, spec: &ModelSpec) -> Result<(), EngineError> {
        if self.layers.len() != spec.layers {
            let (found, layers) = (self.layers.len(), spec.layers);
            return Err(EngineError::Adapter(format!("it has {found} layers, the model {layers}")));
        }
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let (stream, gates) = (spec.hidden_size, spec.intermediate_size);
        for (i, layer) in self.layers.iter().enumerate() {
            for (name, low_rank, outputs, inputs) in [
                ("query", &layer.query, queries, stream),
                ("key", &layer.key, keys, stream),
                ("value", &layer.value, keys, stream),
                ("attention output", &layer.attention_output, stream, queries),
                ("gate", &layer.gate, gates, stream),
                ("up", &layer.up, gates, stream),
                ("down", &layer.down, stream, gates),
            ] {
                if let Some(low_rank) = low_rank {
                    low_rank.check(&format!("{name} of layer {i}"), outputs, inputs)?;
                }
            }
        }
        self.head.as_ref().map_or(Ok(()), |head| head.check("head", spec.vocab_size, stream))
    }
}
