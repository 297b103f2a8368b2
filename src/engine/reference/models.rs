//! candle-transformers' models of the five architectures, behind one enum.
use candle_core::{
    Device, Result, Tensor,
    quantized::gguf_file::{Content, Value},
};
use candle_transformers::models::{gemma3, quantized_llama, quantized_phi3, quantized_qwen2, quantized_qwen3};

use super::dense;
use crate::{
    engine::EngineError,
    model::{spec::ModelSpec, weights::Weights},
};

/// A model with the cache of one sequence.
pub(super) enum Model {
    Llama(quantized_llama::ModelWeights),
    Qwen2(quantized_qwen2::ModelWeights),
    Qwen3(quantized_qwen3::ModelWeights),
    Phi3(quantized_phi3::ModelWeights),
    Gemma3(gemma3::Model),
}

impl Model {
    /// Returns the model with room for `room` tokens.
    pub(super) fn load(weights: &Weights, room: usize) -> std::result::Result<Self, EngineError> {
        let (spec, device) = (weights.spec(), Device::Cpu);
        if spec.architecture == "gemma3" {
            return dense::gemma3(weights, room).map(Self::Gemma3);
        }
        let mut file = weights.image().map_err(|error| EngineError::Weights(error.to_string()))?;
        let mut content = Content::read(&mut file)?;
        // Settings that the model files want to find, and one they take too much memory by.
        let architecture = spec.architecture.as_str();
        let mut set = |key: &str, value: Value| content.metadata.insert(format!("{architecture}.{key}"), value);
        set("attention.head_count_kv", Value::U32(spec.kv_heads as u32));
        set("attention.key_length", Value::U32(spec.head_dim as u32));
        set("rope.dimension_count", Value::U32(spec.rope.dim as u32));
        set("rope.freq_base", Value::F32(spec.rope.stretched_theta() as f32));
        set("context_length", Value::U32(room as u32));
        content.metadata.insert("general.dtype".to_owned(), Value::U32(0));
        Ok(match architecture {
            "qwen2" => Self::Qwen2(quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &device)?),
            "qwen3" => Self::Qwen3(quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &device)?),
            "phi3" => Self::Phi3(quantized_phi3::ModelWeights::from_gguf(false, content, &mut file, &device)?),
            _ => Self::Llama(quantized_llama::ModelWeights::from_gguf(content, &mut file, &device)?),
        })
    }

    /// Returns a copy that shares the weights, if there can be one.
    pub(super) fn copy(&self) -> Option<Self> {
        Some(match self {
            Self::Llama(model) => Self::Llama(model.clone()),
            Self::Qwen2(_) => return None,
            Self::Qwen3(model) => Self::Qwen3(model.clone()),
            Self::Phi3(model) => Self::Phi3(model.clone()),
            Self::Gemma3(model) => Self::Gemma3(model.clone()),
        })
    }

    /// Empties the cache of the model that cannot be copied.
    pub(super) fn clear(&mut self) {
        if let Self::Qwen2(model) = self {
            model.clear_kv_cache();
        }
    }

    /// Returns how many tokens may come at once behind `length` others.
    pub(super) fn longest_chunk(&self, spec: &ModelSpec, length: usize, stepped: bool) -> usize {
        match self {
            Self::Qwen3(_) if stepped => 1,
            Self::Gemma3(_) if length > 0 => 1,
            Self::Gemma3(_) => spec.windows.iter().flatten().copied().min().unwrap_or(usize::MAX),
            _ => usize::MAX,
        }
    }

    /// Returns the logits of the last token.
    pub(super) fn forward(&mut self, tokens: &Tensor, position: usize) -> Result<Tensor> {
        match self {
            Self::Llama(model) => model.forward(tokens, position),
            Self::Qwen2(model) => model.forward(tokens, position),
            Self::Qwen3(model) => model.forward(tokens, position),
            Self::Phi3(model) => model.forward(tokens, position),
            Self::Gemma3(model) => model.forward(tokens, position),
        }
    }
}
