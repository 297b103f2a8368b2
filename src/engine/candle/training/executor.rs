//! The phases of a decoder layer, composed of operations that gradients pass through.
//!
//! Sequences are whole: nothing is cached, and a step's segments begin at position 0.
use std::{collections::BTreeMap, sync::Arc};

use candle_core::{Result, Tensor, Var};

use super::operations::{Adapted, Frozen, Gate, RmsNorm, Turn, Weigh};
use crate::{
    engine::{
        EngineError,
        candle::{
            linear::Linear,
            weights::{Gated, Model, Projections},
        },
        places::{Place, Target},
    },
    model::decoder::{Executor, Step},
};

/// A change that learns.
pub(super) struct Pair {
    pub(super) a: Var,
    pub(super) b: Var,
    pub(super) scale: f64,
}

/// Runs layers of a step.
pub(super) struct Learner<'a> {
    model: &'a Model,
    pairs: &'a BTreeMap<Place, Pair>,
    /// One for each of the model's kinds of layers.
    turns: Vec<Turn>,
}

impl<'a> Learner<'a> {
    pub(super) fn new(model: &'a Model, pairs: &'a BTreeMap<Place, Pair>, step: &Step) -> Self {
        let turn = |kind: &crate::engine::candle::weights::LayerKind| {
            let (cos, sin) = kind.frequencies.rotations(&step.positions);
            let pairs = kind.frequencies.values.len();
            Turn { cos: Arc::new(cos), sin: Arc::new(sin), pairs, layout: kind.layout }
        };
        Self { model, pairs, turns: model.kinds.iter().map(turn).collect() }
    }

    pub(super) fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1(RmsNorm { weight: weight.clone(), eps: self.model.spec.rms_norm_eps as f32 })
    }

    fn norm_if(&self, x: Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        match weight {
            None => Ok(x),
            Some(weight) => self.norm(&x, weight),
        }
    }

    fn multiply(&self, layer: usize, target: Target, matrix: &Linear, x: &Tensor) -> Result<Tensor> {
        let frozen = Frozen(matrix.clone());
        match self.pairs.get(&Place { layer, target }) {
            None => x.apply_op1(frozen),
            Some(Pair { a, b, scale }) => {
                let adapted = Adapted { frozen, scale: *scale, wants_input: x.track_op() };
                x.apply_op3(a.as_tensor(), b.as_tensor(), adapted)
            }
        }
    }

    /// Attends within sequences of `t` tokens each.
    fn attend_alike(&self, heads: &Heads, t: usize, window: Option<usize>) -> Result<Tensor> {
        let spec = &self.model.spec;
        let (k, g, d) = (spec.kv_heads, spec.heads / spec.kv_heads, spec.head_dim);
        let s = heads.queries.dim(0)? / t;
        let queries = heads.queries.reshape((s, t, k, g, d))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
        let by_head = |x: &Tensor| x.reshape((s, t, k, d))?.permute((0, 2, 1, 3))?.contiguous()?.reshape((s * k, t, d));
        let (keys, values) = (by_head(&heads.keys)?, by_head(&heads.values)?);
        let scores = queries.reshape((s * k, g * t, d))?.matmul(&keys.transpose(1, 2)?)?;
        let scores = super::super::executor::bend((scores * spec.attention_scale)?, spec.attention_softcap)?;
        let attended = scores.apply_op1(Weigh { window })?.matmul(&values)?;
        attended.reshape((s, k, g, t, d))?.permute((0, 3, 1, 2, 4))?.contiguous()?.reshape((s * t, k * g * d))
    }
}

/// Queries `[N, H, D]`, keys and values `[N, K, D]`.
pub(super) struct Heads {
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
}

impl Executor for Learner<'_> {
    type Hidden = Tensor;
    type Heads = Heads;
    type Attended = Tensor;
    type Logits = Tensor;
    type Error = EngineError;

    fn embed(&mut self, step: &Step) -> std::result::Result<Tensor, EngineError> {
        let rows = self.model.embedding.rows(&Tensor::new(step.tokens.as_slice(), &self.model.device)?)?;
        Ok((rows * f64::from(self.model.spec.embedding_scale))?)
    }

    fn heads(&mut self, index: usize, hidden: &Tensor, step: &Step) -> std::result::Result<Heads, EngineError> {
        let (spec, layer) = (&self.model.spec, &self.model.layers[index]);
        let normed = self.norm(hidden, &layer.attention_norm)?;
        let heads = [spec.heads, spec.kv_heads, spec.kv_heads];
        let mut projected = match &layer.projections {
            Projections::Separate(matrices) => [Target::Query, Target::Key, Target::Value]
                .into_iter()
                .zip(matrices.iter())
                .map(|(target, matrix)| self.multiply(index, target, matrix, &normed))
                .collect::<Result<Vec<_>>>()?,
            Projections::Fused(matrix) => {
                let all = normed.apply_op1(Frozen(matrix.clone()))?;
                let start = |part: usize| heads[..part].iter().sum::<usize>() * spec.head_dim;
                let part = |part: usize| all.narrow(1, start(part), heads[part] * spec.head_dim)?.contiguous();
                (0..3).map(part).collect::<Result<Vec<_>>>()?
            }
        };
        if let Some(biases) = &layer.biases {
            for (part, bias) in projected.iter_mut().zip(biases) {
                *part = part.broadcast_add(bias)?;
            }
        }
        let split = |part: usize| projected[part].reshape((step.tokens.len(), heads[part], spec.head_dim));
        let (mut queries, mut keys) = (split(0)?, split(1)?);
        if let Some([query_norm, key_norm]) = &layer.head_norms {
            queries = self.norm(&queries, query_norm)?;
            keys = self.norm(&keys, key_norm)?;
        }
        let turn = &self.turns[layer.kind];
        Ok(Heads { queries: queries.apply_op1(turn.clone())?, keys: keys.apply_op1(turn.clone())?, values: split(2)? })
    }

    fn attend(&mut self, layer: usize, heads: Heads, step: &Step) -> std::result::Result<Tensor, EngineError> {
        let window = self.model.kinds[self.model.layers[layer].kind].window;
        let t = step.segments[0].rows.len();
        if step.segments.iter().all(|segment| segment.rows.len() == t) {
            return Ok(self.attend_alike(&heads, t, window)?);
        }
        let attended = step.segments.iter().map(|segment| {
            let (start, t) = (segment.rows.start, segment.rows.len());
            let part = |x: &Tensor| x.narrow(0, start, t)?.contiguous();
            let heads =
                Heads { queries: part(&heads.queries)?, keys: part(&heads.keys)?, values: part(&heads.values)? };
            self.attend_alike(&heads, t, window)
        });
        Ok(Tensor::cat(&attended.collect::<Result<Vec<_>>>()?, 0)?)
    }

    fn add_attention(
        &mut self,
        index: usize,
        hidden: Tensor,
        attended: Tensor,
    ) -> std::result::Result<Tensor, EngineError> {
        let layer = &self.model.layers[index];
        let projected = self.multiply(index, Target::Output, &layer.attention_output, &attended)?;
        Ok((self.norm_if(projected, layer.post_attention_norm.as_ref())? + hidden)?)
    }

    fn add_feed_forward(&mut self, index: usize, hidden: Tensor) -> std::result::Result<Tensor, EngineError> {
        let (spec, layer) = (&self.model.spec, &self.model.layers[index]);
        let normed = self.norm(&hidden, &layer.feed_forward_norm)?;
        let (gate, up) = match &layer.gated {
            Gated::Separate { gate, up } => {
                (self.multiply(index, Target::Gate, gate, &normed)?, self.multiply(index, Target::Up, up, &normed)?)
            }
            Gated::Fused(matrix) => {
                let both = normed.apply_op1(Frozen(matrix.clone()))?;
                let half =
                    |part: usize| both.narrow(1, part * spec.intermediate_size, spec.intermediate_size)?.contiguous();
                (half(0)?, half(1)?)
            }
        };
        let gated = gate.apply_op2(&up, Gate(spec.activation))?;
        let fed = self.multiply(index, Target::Down, &layer.down, &gated)?;
        Ok((self.norm_if(fed, layer.post_feed_forward_norm.as_ref())? + hidden)?)
    }

    fn head(&mut self, hidden: Tensor, _: &Step) -> std::result::Result<Tensor, EngineError> {
        // Normed only: logits are made in chunks, by whoever scores them.
        Ok(self.norm(&hidden, &self.model.output_norm)?)
    }
}
