//! The weights of a model, in f32.
use super::{group::Group, workers::Workers};
use crate::{
    engine::{EngineError, native::format, places::Target},
    model::{
        families::{self, LayerTensors, in_layer},
        rope::{Frequencies, RopeLayout},
        spec::ModelSpec,
        weights::Weights,
    },
};
use ruvlab_kernels::{Format, dequantize_row};

/// A layer's weights.
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    /// Queries, keys, values.
    pub(super) projections: Group,
    /// The same.
    pub(super) biases: Option<Vec<f32>>,
    /// Of queries and keys, each head by itself.
    pub(super) head_norms: Option<[Vec<f32>; 2]>,
    pub(super) attention_output: Group,
    pub(super) post_attention_norm: Option<Vec<f32>>,
    pub(super) feed_forward_norm: Vec<f32>,
    /// Gate, up.
    pub(super) gated: Group,
    pub(super) down: Group,
    pub(super) post_feed_forward_norm: Option<Vec<f32>>,
    pub(super) frequencies: Frequencies,
    pub(super) layout: RopeLayout,
}

/// The weights of a model.
pub(super) struct Model {
    pub(super) spec: ModelSpec,
    pub(super) layers: Vec<Layer>,
    pub(super) output_norm: Vec<f32>,
    pub(super) output: Group,
    embedding: (Format, Vec<u8>),
}

struct Loader<'a> {
    weights: &'a Weights,
    workers: &'a Workers,
    pack: bool,
}

impl Loader<'_> {
    fn vector(&self, name: &str) -> Result<Vec<f32>, EngineError> {
        let missing = || EngineError::Weights(format!("tensor {name:?} is missing"));
        let info = self.weights.index().tensors.get(name).ok_or_else(missing)?;
        let bytes = self.weights.tensor_bytes(name).map_err(|error| EngineError::Weights(error.to_string()))?;
        let mut out = vec![0.0; info.values()];
        dequantize_row(format(info.kind), &bytes, &mut out);
        Ok(out)
    }

    fn group(&self, names: &[String], targets: &[Target]) -> Result<Group, EngineError> {
        let targets: Vec<_> = targets.iter().map(|target| (*target, target.shape(self.weights.spec()).0)).collect();
        Group::load(self.weights, self.workers, names, &targets, self.pack)
    }

    fn layer(&self, i: usize, names: &LayerTensors) -> Result<Layer, EngineError> {
        let spec = self.weights.spec();
        let name = |part: &str| in_layer(i, part);
        let vector = |part: &str| self.vector(&name(part));
        let projections = if spec.fused_query_key_value {
            vec![name(names.query_key_value)]
        } else {
            vec![name(names.query), name(names.key), name(names.value)]
        };
        let gated = if spec.fused_gate_up { vec![name(names.up)] } else { vec![name(names.gate), name(names.up)] };
        let rope = spec.rope(i);
        Ok(Layer {
            attention_norm: vector(names.attention_norm)?,
            projections: self.group(&projections, &[Target::Query, Target::Key, Target::Value])?,
            biases: if spec.attention_bias {
                let parts = [vector(names.query_bias)?, vector(names.key_bias)?, vector(names.value_bias)?];
                Some(parts.concat())
            } else {
                None
            },
            head_norms: if spec.head_norms { Some([vector(names.query_norm)?, vector(names.key_norm)?]) } else { None },
            attention_output: self.group(&[name(names.attention_output)], &[Target::Output])?,
            post_attention_norm: spec.post_norms.then(|| vector(names.post_attention_norm)).transpose()?,
            feed_forward_norm: vector(names.feed_forward_norm)?,
            gated: self.group(&gated, &[Target::Gate, Target::Up])?,
            down: self.group(&[name(names.down)], &[Target::Down])?,
            post_feed_forward_norm: spec.post_norms.then(|| vector(names.post_feed_forward_norm)).transpose()?,
            frequencies: rope.frequencies(spec.context_length),
            layout: rope.layout,
        })
    }
}

impl Model {
    /// Returns the model, its matrices packed in f32 or as they are stored.
    pub(super) fn load(weights: &Weights, workers: &Workers, pack: bool) -> Result<Self, EngineError> {
        let spec = weights.spec();
        let unknown = || EngineError::Weights(format!("architecture {:?} is not supported", spec.architecture));
        let family = families::find(&spec.architecture).ok_or_else(unknown)?;
        let loader = Loader { weights, workers, pack };
        let embedding = family.model.token_embedding;
        let missing = || EngineError::Weights(format!("tensor {embedding:?} is missing"));
        let kind = weights.index().tensors.get(embedding).ok_or_else(missing)?.kind;
        let bytes = weights.tensor_bytes(embedding).map_err(|error| EngineError::Weights(error.to_string()))?;
        let head = if spec.tied_embeddings { embedding } else { family.model.output };
        Ok(Self {
            layers: (0..spec.layers).map(|i| loader.layer(i, &family.layer)).collect::<Result<_, _>>()?,
            output_norm: loader.vector(family.model.output_norm)?,
            output: loader.group(&[head.to_owned()], &[Target::Head])?,
            embedding: (format(kind), bytes.into_owned()),
            spec: spec.clone(),
        })
    }

    /// Returns the embedded tokens, `[N, E]`.
    pub(super) fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let (format, bytes) = &self.embedding;
        let width = self.spec.hidden_size;
        let size = bytes.len() / self.spec.vocab_size;
        let mut out = vec![0.0; tokens.len() * width];
        for (token, row) in tokens.iter().zip(out.chunks_exact_mut(width)) {
            dequantize_row(*format, &bytes[*token as usize * size..][..size], row);
            row.iter_mut().for_each(|x| *x *= self.spec.embedding_scale);
        }
        out
    }
}
