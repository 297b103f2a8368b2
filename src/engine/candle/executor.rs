//! The phases of a decoder layer, composed of candle's operations.
//!
//! Where candle-transformers computes the same, operations and their shapes are chosen so that one
//! row alone gives the very same bits: then what differs between the two engines is never rounding.
use candle_core::{Device, Result, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};

use super::{
    Cache, Sequences,
    linear::Linear,
    low_rank::{self, Ready, Run},
    rope::Rotation,
    weights::{Gated, Model, Projections},
};
use crate::{
    engine::{EngineError, Target, attached::Attached, layer_kind::LayerKind},
    model::{
        decoder::{Executor, Segment, Step},
        spec::Activation,
    },
};

/// What a step needs in all layers of a kind.
struct Shared {
    rotation: Rotation,
    /// For each segment, `[T, keys]` of 0 and -∞; none for a single row, which sees all keys it gets.
    masks: Vec<Option<Tensor>>,
}

/// Runs one step of a model.
pub(super) struct Walker<'a> {
    model: &'a Model,
    sequences: &'a mut Sequences<Cache>,
    context_length: usize,
    /// One for each of the model's kinds of layers.
    shared: Vec<Shared>,
    /// Of the step's rows, and of those that give logits.
    adapted: [Vec<Run>; 2],
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        model: &'a Model,
        sequences: &'a mut Sequences<Cache>,
        adapters: &Attached<Ready>,
        context_length: usize,
        step: &Step,
    ) -> Result<Self> {
        let share = |kind: &LayerKind| {
            let rotation = Rotation::new(&kind.frequencies, kind.layout, &step.positions, &model.device)?;
            let masks = step.segments.iter().map(|segment| mask(segment, kind.window, &model.device));
            Ok(Shared { rotation, masks: masks.collect::<Result<_>>()? })
        };
        let shared = model.kinds.iter().map(share).collect::<Result<_>>()?;
        Ok(Self { model, sequences, context_length, shared, adapted: low_rank::lay_out(adapters, step) })
    }

    /// Returns a product with what adapters add to it.
    fn adapt(&self, layer: usize, targets: &[Target], inputs: &Tensor, products: Tensor) -> Result<Tensor> {
        low_rank::add(&self.adapted[0], &self.model.spec, layer, targets, inputs, products)
    }

    fn norm(&self, hidden: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm(hidden, weight, self.model.spec.rms_norm_eps as f32)
    }

    fn norm_if(&self, hidden: Tensor, weight: Option<&Tensor>) -> Result<Tensor> {
        match weight {
            None => Ok(hidden),
            Some(weight) => self.norm(&hidden, weight),
        }
    }

    /// Attends within one sequence: queries `[T, H, D]` to `[T, H * D]`, over keys and values
    /// `[K, S, D]`.
    ///
    /// The i-th query heads of all key heads are one product with the keys as they are cached, so
    /// keys and values are never repeated, and each product has the shape, and so the order of
    /// sums, that candle-transformers gives it.
    fn attend_segment(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let spec = &self.model.spec;
        let t = queries.dim(0)?;
        let (k, g, d) = (spec.kv_heads, spec.heads / spec.kv_heads, spec.head_dim);
        let mut queries = queries.reshape((t, k, g, d))?.permute((2, 1, 0, 3))?;
        if !queries.device().is_cpu() {
            // cuBLAS takes rows that lie side by side alone.
            queries = queries.contiguous()?;
        }
        let keys = keys.transpose(1, 2)?;
        let score = |i: usize| queries.get(i)?.matmul(&keys);
        let attended = if t == 1 {
            // So few numbers that starting an operation costs more than it does: one softmax for all.
            let scores = (0..g).map(score).collect::<Result<Vec<_>>>()?;
            let weights = self.weigh(&join(&scores, 1)?, None)?;
            (0..g).map(|i| weights.narrow(1, i, 1)?.matmul(values)).collect::<Result<Vec<_>>>()?
        } else {
            let attend = |i: usize| self.weigh(&score(i)?, mask)?.matmul(values);
            (0..g).map(attend).collect::<Result<Vec<_>>>()?
        };
        // Now `[K, G * T, D]`.
        join(&attended, 1)?.reshape((k, g, t, d))?.permute((2, 0, 1, 3))?.reshape((t, k * g * d))
    }

    /// Returns the softmax over keys of scaled, bent and masked scores.
    fn weigh(&self, scores: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let scores = bend((scores * self.model.spec.attention_scale)?, self.model.spec.attention_softcap)?;
        match mask {
            None => softmax_last_dim(&scores),
            Some(mask) => softmax_last_dim(&scores.broadcast_add(mask)?),
        }
    }
}

/// Returns the tensors side by side.
fn join(tensors: &[Tensor], dimension: usize) -> Result<Tensor> {
    match tensors {
        [one] => Ok(one.clone()),
        several => Tensor::cat(several, dimension),
    }
}

/// Returns `cap * tanh(x / cap)`.
pub(super) fn bend(x: Tensor, cap: Option<f64>) -> Result<Tensor> {
    match cap {
        None => Ok(x),
        Some(cap) => (x / cap)?.tanh()? * cap,
    }
}

/// Returns the first token that any row of a segment sees.
fn first_seen(segment: &Segment, window: Option<usize>) -> usize {
    window.map_or(0, |window| (segment.past + 1).saturating_sub(window))
}

fn mask(segment: &Segment, window: Option<usize>, device: &Device) -> Result<Option<Tensor>> {
    let (t, past) = (segment.rows.len(), segment.past);
    if t == 1 {
        return Ok(None);
    }
    let first = first_seen(segment, window);
    let value = |row: usize, token: usize| {
        let position = past + row;
        let seen = token <= position && window.is_none_or(|window| position - token < window);
        if seen { 0.0 } else { f32::NEG_INFINITY }
    };
    let values: Vec<f32> = (0..t).flat_map(|row| (first..past + t).map(move |token| value(row, token))).collect();
    Tensor::from_vec(values, (t, past + t - first), device).map(Some)
}

/// Queries `[N, H, D]`, keys and values `[N, K, D]`.
pub(super) struct Heads {
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
}

impl Executor for Walker<'_> {
    type Hidden = Tensor;
    type Heads = Heads;
    type Attended = Tensor;
    type Logits = Tensor;
    type Error = EngineError;

    fn embed(&mut self, step: &Step) -> std::result::Result<Tensor, EngineError> {
        let tokens = Tensor::new(step.tokens.as_slice(), &self.model.device)?;
        let rows = self.model.embedding.rows(&tokens)?;
        let scale = f64::from(self.model.spec.embedding_scale);
        Ok(if scale == 1.0 { rows } else { (rows * scale)? })
    }

    fn heads(&mut self, number: usize, hidden: &Tensor, step: &Step) -> std::result::Result<Heads, EngineError> {
        const TARGETS: [Target; 3] = [Target::Query, Target::Key, Target::Value];
        let (spec, layer) = (&self.model.spec, &self.model.layers[number]);
        let normed = self.norm(hidden, &layer.attention_norm)?;
        let heads = [spec.heads, spec.kv_heads, spec.kv_heads];
        let mut projected = match &layer.projections {
            Projections::Separate(matrices) => {
                let project = |(matrix, target): (&Linear, Target)| {
                    self.adapt(number, &[target], &normed, matrix.forward(&normed)?)
                };
                matrices.iter().zip(TARGETS).map(project).collect::<Result<Vec<_>>>()?
            }
            Projections::Fused(matrix) => {
                let all = self.adapt(number, &TARGETS, &normed, matrix.forward(&normed)?)?;
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
        let rotation = &self.shared[layer.kind].rotation;
        Ok(Heads { queries: rotation.apply(&queries)?, keys: rotation.apply(&keys)?, values: split(2)? })
    }

    fn attend(&mut self, layer: usize, heads: Heads, step: &Step) -> std::result::Result<Tensor, EngineError> {
        let kind = self.model.layers[layer].kind;
        let window = self.model.kinds[kind].window;
        let mut outputs = Vec::with_capacity(step.segments.len());
        for (index, segment) in step.segments.iter().enumerate() {
            let Segment { sequence, rows, past } = segment;
            let part = |tensor: &Tensor| tensor.narrow(0, rows.start, rows.len());
            let by_head = |tensor: &Tensor| part(tensor)?.transpose(0, 1)?.contiguous();
            let (keys, values) = (by_head(&heads.keys)?, by_head(&heads.values)?);
            let cache = &mut self.sequences.get_mut(*sequence)?.state;
            let (keys, values) = cache.append(layer, *past, &keys, &values, self.context_length)?;
            let first = first_seen(segment, window);
            let seen = |cached: &Tensor| cached.narrow(1, first, past + rows.len() - first);
            let mask = self.shared[kind].masks[index].as_ref();
            outputs.push(self.attend_segment(&part(&heads.queries)?, &seen(&keys)?, &seen(&values)?, mask)?);
        }
        Ok(join(&outputs, 0)?)
    }

    fn add_attention(
        &mut self,
        number: usize,
        hidden: Tensor,
        attended: Tensor,
    ) -> std::result::Result<Tensor, EngineError> {
        let layer = &self.model.layers[number];
        let projected = layer.attention_output.forward(&attended)?;
        let projected = self.adapt(number, &[Target::Output], &attended, projected)?;
        Ok((self.norm_if(projected, layer.post_attention_norm.as_ref())? + hidden)?)
    }

    fn add_feed_forward(&mut self, number: usize, hidden: Tensor) -> std::result::Result<Tensor, EngineError> {
        let (spec, layer) = (&self.model.spec, &self.model.layers[number]);
        let adapt = |targets: &[Target], inputs: &Tensor, matrix: &Linear| {
            self.adapt(number, targets, inputs, matrix.forward(inputs)?)
        };
        let normed = self.norm(&hidden, &layer.feed_forward_norm)?;
        let (gate, up) = match &layer.gated {
            Gated::Separate { gate, up } => {
                (adapt(&[Target::Gate], &normed, gate)?, adapt(&[Target::Up], &normed, up)?)
            }
            Gated::Fused(matrix) => {
                let both = adapt(&[Target::Gate, Target::Up], &normed, matrix)?;
                let half = |part: usize| both.narrow(1, part * spec.intermediate_size, spec.intermediate_size);
                (half(0)?.contiguous()?, half(1)?)
            }
        };
        let activated = match spec.activation {
            Activation::Silu => silu(&gate)?,
            Activation::GeluTanh => gate.gelu()?,
        };
        let fed = adapt(&[Target::Down], &(activated * up)?, &layer.down)?;
        Ok((self.norm_if(fed, layer.post_feed_forward_norm.as_ref())? + hidden)?)
    }

    fn head(&mut self, hidden: Tensor, step: &Step) -> std::result::Result<Tensor, EngineError> {
        let hidden = if step.logit_rows.len() == step.tokens.len() {
            hidden
        } else {
            hidden.index_select(&Tensor::new(step.logit_rows.as_slice(), &self.model.device)?, 0)?
        };
        let normed = self.norm(&hidden, &self.model.output_norm)?;
        let (spec, logits) = (&self.model.spec, self.model.output.forward(&normed)?);
        let logits = low_rank::add(&self.adapted[1], spec, spec.layers, &[Target::Head], &normed, logits)?;
        Ok(bend(logits, spec.logit_softcap)?)
    }
}
