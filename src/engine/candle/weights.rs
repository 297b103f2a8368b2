//! The weights of a model as candle tensors.
use std::slice;

use candle_core::Tensor;

use super::linear::{Embedding, Linear};
use crate::{
    engine::{
        Device, EngineError, Place, Target,
        layer_kind::{self, LayerKind},
    },
    model::{
        families::{self, in_layer},
        spec::ModelSpec,
        weights::{Weights, WeightsError},
    },
};

/// How queries, keys and values are stored.
pub(super) enum Projections {
    Separate(Box<[Linear; 3]>),
    /// Rows of queries, keys and values, one after the other.
    Fused(Linear),
}

/// How gate and up are stored.
pub(super) enum Gated {
    Separate {
        gate: Linear,
        up: Linear,
    },
    /// Rows of gate and up, one after the other.
    Fused(Linear),
}

pub(super) struct Layer {
    pub(super) attention_norm: Tensor,
    pub(super) projections: Projections,
    /// Of queries, keys and values.
    pub(super) biases: Option<[Tensor; 3]>,
    /// Of queries and keys.
    pub(super) head_norms: Option<[Tensor; 2]>,
    pub(super) attention_output: Linear,
    pub(super) post_attention_norm: Option<Tensor>,
    pub(super) feed_forward_norm: Tensor,
    pub(super) gated: Gated,
    pub(super) down: Linear,
    pub(super) post_feed_forward_norm: Option<Tensor>,
    /// Its place in [`Model::kinds`].
    pub(super) kind: usize,
}

impl Layer {
    /// Returns all its matrices.
    pub(super) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let projections = match &mut self.projections {
            Projections::Separate(matrices) => matrices.as_mut_slice(),
            Projections::Fused(matrix) => slice::from_mut(matrix),
        };
        let gated = match &mut self.gated {
            Gated::Separate { gate, up } => vec![gate, up],
            Gated::Fused(matrix) => vec![matrix],
        };
        projections.iter_mut().chain(gated).chain([&mut self.attention_output, &mut self.down])
    }
}

/// The weights of a model.
pub(super) struct Model {
    pub(super) spec: ModelSpec,
    pub(super) embedding: Embedding,
    pub(super) layers: Vec<Layer>,
    pub(super) kinds: Vec<LayerKind>,
    pub(super) output_norm: Tensor,
    pub(super) output: Linear,
    pub(super) device: candle_core::Device,
}

impl Model {
    /// Returns the matrix of a place in f32, `[O, I]`.
    pub(super) fn matrix(&self, place: Place) -> candle_core::Result<Tensor> {
        let Some(layer) = self.layers.get(place.layer) else { return self.output.dense() };
        let rows = |target: Target| target.shape(&self.spec).0;
        let part = |fused: &Linear, before: &[Target]| {
            let start = before.iter().map(|target| rows(*target)).sum();
            fused.dense()?.narrow(0, start, rows(place.target))
        };
        match (place.target, &layer.projections, &layer.gated) {
            (Target::Query, Projections::Separate(parts), _) => parts[0].dense(),
            (Target::Key, Projections::Separate(parts), _) => parts[1].dense(),
            (Target::Value, Projections::Separate(parts), _) => parts[2].dense(),
            (Target::Query, Projections::Fused(all), _) => part(all, &[]),
            (Target::Key, Projections::Fused(all), _) => part(all, &[Target::Query]),
            (Target::Value, Projections::Fused(all), _) => part(all, &[Target::Query, Target::Key]),
            (Target::Output, ..) => layer.attention_output.dense(),
            (Target::Gate, _, Gated::Separate { gate, .. }) => gate.dense(),
            (Target::Up, _, Gated::Separate { up, .. }) => up.dense(),
            (Target::Gate, _, Gated::Fused(all)) => part(all, &[]),
            (Target::Up, _, Gated::Fused(all)) => part(all, &[Target::Gate]),
            (Target::Down, ..) => layer.down.dense(),
            (Target::Head, ..) => self.output.dense(),
        }
    }

    /// Returns the model on a device, with room for `room` tokens a sequence.
    pub(super) fn load(weights: &Weights, room: usize, device: Device) -> Result<Self, EngineError> {
        let spec = weights.spec().clone();
        let unknown = || EngineError::Weights(format!("architecture {:?} is not supported", spec.architecture));
        let family = families::find(&spec.architecture).ok_or_else(unknown)?;
        let device = device.open()?;
        let wrong = |error: WeightsError| EngineError::Weights(error.to_string());
        let tensor = |name: &str| weights.tensor_on(name, &device).map_err(wrong);
        let linear = |name: &str| Ok::<_, EngineError>(Linear::new(tensor(name)?)?);
        let vector = |name: &str| Ok::<_, EngineError>(tensor(name)?.dequantize(&device)?);
        let names = &family.layer;
        let (kinds, places) = layer_kind::kinds(&spec, room);
        let mut layers = Vec::with_capacity(spec.layers);
        for (i, kind) in places.into_iter().enumerate() {
            let linear = |name: &str| linear(&in_layer(i, name));
            let vector = |name: &str| vector(&in_layer(i, name));
            layers.push(Layer {
                attention_norm: vector(names.attention_norm)?,
                projections: if spec.fused_query_key_value {
                    Projections::Fused(linear(names.query_key_value)?)
                } else {
                    Projections::Separate(Box::new([linear(names.query)?, linear(names.key)?, linear(names.value)?]))
                },
                biases: if spec.attention_bias {
                    Some([vector(names.query_bias)?, vector(names.key_bias)?, vector(names.value_bias)?])
                } else {
                    None
                },
                head_norms: if spec.head_norms {
                    Some([vector(names.query_norm)?, vector(names.key_norm)?])
                } else {
                    None
                },
                attention_output: linear(names.attention_output)?,
                post_attention_norm: spec.post_norms.then(|| vector(names.post_attention_norm)).transpose()?,
                feed_forward_norm: vector(names.feed_forward_norm)?,
                gated: if spec.fused_gate_up {
                    Gated::Fused(linear(names.up)?)
                } else {
                    Gated::Separate { gate: linear(names.gate)?, up: linear(names.up)? }
                },
                down: linear(names.down)?,
                post_feed_forward_norm: spec.post_norms.then(|| vector(names.post_feed_forward_norm)).transpose()?,
                kind,
            });
        }
        let embedding = Embedding::new(tensor(family.model.token_embedding)?)?;
        Ok(Self {
            layers,
            kinds,
            output_norm: vector(family.model.output_norm)?,
            output: if spec.tied_embeddings { embedding.head()? } else { linear(family.model.output)? },
            embedding,
            spec,
            device,
        })
    }
}
