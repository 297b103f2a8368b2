//! The phases of a decoder layer, composed of candle's operations.
use candle_core::{Device, Result, Tensor};
use candle_nn::ops::{rms_norm, silu, softmax_last_dim};

use super::{Cache, Sequences, linear::Linear, rope::Rotation};
use crate::{
    engine::EngineError,
    model::{
        decoder::{Executor, Segment, Step},
        families::{self, in_layer},
        spec::ModelSpec,
        weights::Weights,
    },
};

struct Layer {
    attention_norm: Tensor,
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    feed_forward_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// The weights of a model.
pub(super) struct Model {
    pub(super) spec: ModelSpec,
    embedding: Linear,
    layers: Vec<Layer>,
    output_norm: Tensor,
    output: Linear,
    device: Device,
}

impl Model {
    pub(super) fn load(weights: &Weights) -> std::result::Result<Self, EngineError> {
        let spec = weights.spec().clone();
        let unknown = || EngineError::Weights(format!("architecture {:?} is not supported", spec.architecture));
        let family = families::find(&spec.architecture).ok_or_else(unknown)?;
        let device = Device::Cpu;
        let tensor = |name: &str| weights.tensor(name).map_err(|error| EngineError::Weights(error.to_string()));
        let linear = |name: &str| Ok::<_, EngineError>(Linear::new(tensor(name)?)?);
        let norm = |name: &str| Ok::<_, EngineError>(tensor(name)?.dequantize(&device)?);
        let names = &family.layer;
        let layer = |i: usize| {
            Ok(Layer {
                attention_norm: norm(&in_layer(i, names.attention_norm))?,
                query: linear(&in_layer(i, names.query))?,
                key: linear(&in_layer(i, names.key))?,
                value: linear(&in_layer(i, names.value))?,
                attention_output: linear(&in_layer(i, names.attention_output))?,
                feed_forward_norm: norm(&in_layer(i, names.feed_forward_norm))?,
                gate: linear(&in_layer(i, names.gate))?,
                up: linear(&in_layer(i, names.up))?,
                down: linear(&in_layer(i, names.down))?,
            })
        };
        let embedding = linear(family.model.token_embedding)?;
        Ok(Self {
            layers: (0..spec.layers).map(layer).collect::<std::result::Result<_, EngineError>>()?,
            output_norm: norm(family.model.output_norm)?,
            output: if spec.tied_embeddings { embedding.clone() } else { linear(family.model.output)? },
            embedding,
            spec,
            device,
        })
    }
}

/// Runs one step of a model.
pub(super) struct Walker<'a> {
    model: &'a Model,
    sequences: &'a mut Sequences<Cache>,
    context_length: usize,
    rotation: Rotation,
    /// For each segment, `[T, past + T]` of 0 and -∞; none for a single row, which sees all.
    masks: Vec<Option<Tensor>>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        model: &'a Model,
        sequences: &'a mut Sequences<Cache>,
        context_length: usize,
        step: &Step,
    ) -> Result<Self> {
        let rotation = Rotation::new(&model.spec, &step.positions, &model.device)?;
        let masks = step.segments.iter().map(|segment| mask(segment, &model.device)).collect::<Result<_>>()?;
        Ok(Self { model, sequences, context_length, rotation, masks })
    }

    fn norm(&self, hidden: &Tensor, weight: &Tensor) -> Result<Tensor> {
        rms_norm(hidden, weight, self.model.spec.rms_norm_eps as f32)
    }

    /// Attends within one sequence: queries `[T, H, D]` to `[T, H * D]`.
    ///
    /// The H / K query heads that share a key head become rows of one product with it, so keys and
    /// values are never repeated.
    fn attend_segment(
        &self,
        queries: &Tensor,
        (keys, values): (Tensor, Tensor),
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let spec = &self.model.spec;
        let (t, s) = (queries.dim(0)?, keys.dim(1)?);
        let (k, g, d) = (spec.kv_heads, spec.heads / spec.kv_heads, spec.head_dim);
        let queries = (queries * (d as f64).sqrt().recip())?;
        let queries = queries.reshape((t, k, g, d))?.permute((1, 2, 0, 3))?.contiguous()?.reshape((k, g * t, d))?;
        let scores = queries.matmul(&keys.transpose(1, 2)?)?;
        let weights = match mask {
            None => softmax_last_dim(&scores)?,
            Some(mask) => {
                let scores = scores.reshape((k * g, t, s))?.broadcast_add(mask)?;
                softmax_last_dim(&scores)?.reshape((k, g * t, s))?
            }
        };
        let attended = weights.matmul(&values)?;
        attended.reshape((k, g, t, d))?.permute((2, 0, 1, 3))?.reshape((t, k * g * d))
    }
}

fn mask(segment: &Segment, device: &Device) -> Result<Option<Tensor>> {
    let (t, past) = (segment.rows.len(), segment.past);
    if t == 1 {
        return Ok(None);
    }
    let hidden = |row: usize, column: usize| if column > past + row { f32::NEG_INFINITY } else { 0.0 };
    let values: Vec<f32> = (0..t).flat_map(|row| (0..past + t).map(move |column| hidden(row, column))).collect();
    Tensor::from_vec(values, (t, past + t), device).map(Some)
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
        Ok(self.model.embedding.rows(&tokens)?)
    }

    fn heads(&mut self, layer: usize, hidden: &Tensor, step: &Step) -> std::result::Result<Heads, EngineError> {
        let (spec, layer) = (&self.model.spec, &self.model.layers[layer]);
        let normed = self.norm(hidden, &layer.attention_norm)?;
        let split =
            |linear: &Linear, heads: usize| linear.forward(&normed)?.reshape((step.tokens.len(), heads, spec.head_dim));
        Ok(Heads {
            queries: self.rotation.apply(&split(&layer.query, spec.heads)?)?,
            keys: self.rotation.apply(&split(&layer.key, spec.kv_heads)?)?,
            values: split(&layer.value, spec.kv_heads)?,
        })
    }

    fn attend(&mut self, layer: usize, heads: Heads, step: &Step) -> std::result::Result<Tensor, EngineError> {
        let mut outputs = Vec::with_capacity(step.segments.len());
        for (index, Segment { sequence, rows, past }) in step.segments.iter().enumerate() {
            let part = |tensor: &Tensor| tensor.narrow(0, rows.start, rows.len());
            let by_head = |tensor: &Tensor| part(tensor)?.transpose(0, 1)?.contiguous();
            let (keys, values) = (by_head(&heads.keys)?, by_head(&heads.values)?);
            let cache = &mut self.sequences.get_mut(*sequence)?.state;
            let cached = cache.append(layer, *past, &keys, &values, self.context_length)?;
            outputs.push(self.attend_segment(&part(&heads.queries)?, cached, self.masks[index].as_ref())?);
        }
        Ok(match outputs.as_slice() {
            [one] => one.clone(),
            several => Tensor::cat(several, 0)?,
        })
    }

    fn add_attention(
        &mut self,
        layer: usize,
        hidden: Tensor,
        attended: Tensor,
    ) -> std::result::Result<Tensor, EngineError> {
        Ok((self.model.layers[layer].attention_output.forward(&attended)? + hidden)?)
    }

    fn add_feed_forward(&mut self, layer: usize, hidden: Tensor) -> std::result::Result<Tensor, EngineError> {
        let layer = &self.model.layers[layer];
        let normed = self.norm(&hidden, &layer.feed_forward_norm)?;
        let gated = (silu(&layer.gate.forward(&normed)?)? * layer.up.forward(&normed)?)?;
        Ok((layer.down.forward(&gated)? + hidden)?)
    }

    fn head(&mut self, hidden: Tensor, step: &Step) -> std::result::Result<Tensor, EngineError> {
        let hidden = if step.logit_rows.len() == step.tokens.len() {
            hidden
        } else {
            hidden.index_select(&Tensor::new(step.logit_rows.as_slice(), &self.model.device)?, 0)?
        };
        let normed = self.norm(&hidden, &self.model.output_norm)?;
        Ok(self.model.output.forward(&normed)?)
    }
}
