//! The phases of a decoder layer, composed of operations that gradients pass through.
//!
//! Sequences are whole and equally long, padded behind where they are not: what stands behind a token
//! changes nothing of it. So all of a batch is one product each, and nothing is cached.
use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};

use super::{
    change::Change,
    operations::{Turn, gate, mask, multiply, norm, softmax},
};
use crate::{
    engine::{
        EngineError,
        candle::{
            executor::bend,
            linear::Linear,
            weights::{Gated, Model, Projections},
        },
        layer_kind::LayerKind,
        places::{Place, Target},
    },
    model::decoder::{Executor, Step},
};

/// Where the gradient of a changed product can be read: its input `[N, I]`, and zeros `[N, O]` that were
/// added to it.
pub(super) struct Tap {
    pub(super) place: Place,
    pub(super) input: Tensor,
    pub(super) zeros: Var,
}

/// Runs layers of a step.
pub(super) struct Learner<'a> {
    model: &'a Model,
    changes: &'a BTreeMap<Place, Change>,
    /// Tokens of every sequence.
    length: usize,
    /// One for each of the model's kinds of layers, and so the masks.
    turns: Vec<Turn>,
    masks: Vec<Tensor>,
    /// Of what ran since they were taken, where they are wanted.
    taps: Option<Vec<Tap>>,
}

impl<'a> Learner<'a> {
    pub(super) fn new(
        model: &'a Model,
        changes: &'a BTreeMap<Place, Change>,
        step: &Step,
        length: usize,
        taps: bool,
    ) -> Result<Self> {
        let dtype = model.output_norm.dtype();
        let turn = |kind: &LayerKind| {
            let (cos, sin) = kind.frequencies.rotations(&step.positions);
            let shape = (step.positions.len(), 1, kind.frequencies.values.len());
            let tensor = |values: Vec<f32>| Tensor::from_vec(values, shape, &model.device)?.to_dtype(dtype);
            Ok(Turn { cos: tensor(cos)?, sin: tensor(sin)?, layout: kind.layout })
        };
        let mask_of = |kind: &LayerKind| mask(length, kind.window, &model.device)?.to_dtype(dtype);
        Ok(Self {
            model,
            changes,
            length,
            turns: model.kinds.iter().map(turn).collect::<Result<_>>()?,
            masks: model.kinds.iter().map(mask_of).collect::<Result<_>>()?,
            taps: taps.then(Vec::new),
        })
    }

    /// Returns the taps since the last call.
    pub(super) fn take_taps(&mut self) -> Option<Vec<Tap>> {
        self.taps.as_mut().map(std::mem::take)
    }

    fn norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        norm(x, weight, self.model.spec.rms_norm_eps)
    }

    fn norm_if(&self, x: Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        match weight {
            None => Ok(x),
            Some(weight) => self.norm(&x, weight),
        }
    }

    /// Returns the product of a place's own matrix with its change, if there is one.
    fn change(&mut self, place: Place, x: &Tensor, product: Tensor) -> Result<Tensor> {
        let Some(change) = self.changes.get(&place) else { return Ok(product) };
        let mut whole = change.add_to(&product, x)?;
        if let Some(taps) = &mut self.taps {
            let zeros = Var::zeros(whole.shape(), whole.dtype(), whole.device())?;
            whole = (whole + zeros.as_tensor())?;
            taps.push(Tap { place, input: x.detach(), zeros });
        }
        change.bring(whole)
    }

    fn multiply(&mut self, place: Place, matrix: &Linear, x: &Tensor) -> Result<Tensor> {
        let product = multiply(x, matrix)?;
        self.change(place, x, product)
    }

    /// Returns the products of a matrix that several targets share, each with its change.
    fn multiply_fused<const N: usize>(
        &mut self,
        layer: usize,
        targets: [Target; N],
        matrix: &Linear,
        x: &Tensor,
    ) -> Result<Vec<Tensor>> {
        let (all, mut start) = (multiply(x, matrix)?, 0);
        let mut parts = Vec::with_capacity(N);
        for target in targets {
            let (width, _) = target.shape(&self.model.spec);
            let part = all.narrow(1, start, width)?;
            start += width;
            parts.push(self.change(Place { layer, target }, x, part)?.contiguous()?);
        }
        Ok(parts)
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
        const TARGETS: [Target; 3] = [Target::Query, Target::Key, Target::Value];
        let model = self.model;
        let (spec, layer) = (&model.spec, &model.layers[index]);
        let normed = self.norm(hidden, &layer.attention_norm)?;
        let mut projected = match &layer.projections {
            Projections::Separate(matrices) => {
                let both = TARGETS.into_iter().zip(matrices.iter());
                both.map(|(target, matrix)| self.multiply(Place { layer: index, target }, matrix, &normed))
                    .collect::<Result<Vec<_>>>()?
            }
            Projections::Fused(matrix) => self.multiply_fused(index, TARGETS, matrix, &normed)?,
        };
        if let Some(biases) = &layer.biases {
            for (part, bias) in projected.iter_mut().zip(biases) {
                *part = part.broadcast_add(bias)?;
            }
        }
        let heads = [spec.heads, spec.kv_heads, spec.kv_heads];
        let split = |part: usize| projected[part].reshape((step.tokens.len(), heads[part], spec.head_dim));
        let (mut queries, mut keys) = (split(0)?, split(1)?);
        if let Some([query_norm, key_norm]) = &layer.head_norms {
            queries = self.norm(&queries, query_norm)?;
            keys = self.norm(&keys, key_norm)?;
        }
        let turn = &self.turns[layer.kind];
        Ok(Heads { queries: turn.apply(&queries)?, keys: turn.apply(&keys)?, values: split(2)? })
    }

    fn attend(&mut self, layer: usize, heads: Heads, step: &Step) -> std::result::Result<Tensor, EngineError> {
        let spec = &self.model.spec;
        let (k, g, d, t) = (spec.kv_heads, spec.heads / spec.kv_heads, spec.head_dim, self.length);
        let s = step.tokens.len() / t;
        let Heads { queries, keys, values } = heads;
        let queries = queries.reshape((s, t, k, g, d))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
        let by_head = |x: &Tensor| x.reshape((s, t, k, d))?.transpose(1, 2)?.contiguous()?.reshape((s * k, t, d));
        let (keys, values) = (by_head(&keys)?, by_head(&values)?);
        let scores = queries.reshape((s * k, g * t, d))?.matmul(&keys.transpose(1, 2)?)?;
        let scores = bend((scores * spec.attention_scale)?, spec.attention_softcap)?;
        let scores = scores.reshape((s * k * g, t, t))?.broadcast_add(&self.masks[self.model.layers[layer].kind])?;
        let attended = softmax(&scores)?.reshape((s * k, g * t, t))?.matmul(&values)?;
        let by_row = attended.reshape((s, k, g, t, d))?.permute((0, 3, 1, 2, 4))?.contiguous()?;
        Ok(by_row.reshape((s * t, k * g * d))?)
    }

    fn add_attention(
        &mut self,
        index: usize,
        hidden: Tensor,
        attended: Tensor,
    ) -> std::result::Result<Tensor, EngineError> {
        let layer = &self.model.layers[index];
        let place = Place { layer: index, target: Target::Output };
        let projected = self.multiply(place, &layer.attention_output, &attended)?;
        Ok((self.norm_if(projected, layer.post_attention_norm.as_ref())? + hidden)?)
    }

    fn add_feed_forward(&mut self, index: usize, hidden: Tensor) -> std::result::Result<Tensor, EngineError> {
        let model = self.model;
        let layer = &model.layers[index];
        let place = |target: Target| Place { layer: index, target };
        let normed = self.norm(&hidden, &layer.feed_forward_norm)?;
        let both = match &layer.gated {
            Gated::Separate { gate, up } => {
                vec![self.multiply(place(Target::Gate), gate, &normed)?, self.multiply(place(Target::Up), up, &normed)?]
            }
            Gated::Fused(matrix) => self.multiply_fused(index, [Target::Gate, Target::Up], matrix, &normed)?,
        };
        let gated = gate(model.spec.activation, &both[0], &both[1])?;
        let fed = self.multiply(place(Target::Down), &layer.down, &gated)?;
        Ok((self.norm_if(fed, layer.post_feed_forward_norm.as_ref())? + hidden)?)
    }

    fn head(&mut self, hidden: Tensor, _: &Step) -> std::result::Result<Tensor, EngineError> {
        let model = self.model;
        let normed = self.norm(&hidden, &model.output_norm)?;
        let place = Place { layer: model.spec.layers, target: Target::Head };
        let logits = self.multiply(place, &model.output, &normed)?;
        Ok(bend(logits, model.spec.logit_softcap)?)
    }
}
