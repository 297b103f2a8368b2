//! Models that candle-transformers has right only for f32 weights under transformers' names.
use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::gemma3::{Config, Model};

use crate::{
    engine::EngineError,
    model::{
        families::{self, in_layer},
        weights::Weights,
    },
};

/// Returns the distance of layers without a window, if it is the same all along.
pub(super) fn period(windows: &[Option<usize>]) -> Option<usize> {
    let period = windows.iter().position(Option::is_none).map_or(windows.len() + 1, |first| first + 1);
    let regular = (1..).zip(windows).all(|(layer, window)| (layer % period == 0) == window.is_none());
    Some(period).filter(|_| regular)
}

/// Returns Gemma 3 with its weights in f32 and room for `room` tokens.
pub(super) fn gemma3(weights: &Weights, room: usize) -> Result<Model, EngineError> {
    let (spec, device) = (weights.spec(), Device::Cpu);
    let unknown = || EngineError::Weights("no gemma3 model".to_owned());
    let family = families::find(&spec.architecture).ok_or_else(unknown)?;
    let names = &family.layer;
    let mut tensors: HashMap<String, Tensor> = HashMap::new();
    let mut put = |name: String, file_name: &str, is_norm: bool| {
        let stored = weights.tensor(file_name).map_err(|error| EngineError::Weights(error.to_string()))?;
        let values = stored.dequantize(&device)?;
        // Files hold 1 + w, the model file adds the 1 itself.
        tensors.insert(name, if is_norm { (values - 1.0)? } else { values });
        Ok::<_, EngineError>(())
    };
    put("model.embed_tokens.weight".to_owned(), family.model.token_embedding, false)?;
    put("model.norm.weight".to_owned(), family.model.output_norm, true)?;
    for layer in 0..spec.layers {
        for (name, file_name, is_norm) in [
            ("self_attn.q_proj", names.query, false),
            ("self_attn.k_proj", names.key, false),
            ("self_attn.v_proj", names.value, false),
            ("self_attn.o_proj", names.attention_output, false),
            ("self_attn.q_norm", names.query_norm, true),
            ("self_attn.k_norm", names.key_norm, true),
            ("mlp.gate_proj", names.gate, false),
            ("mlp.up_proj", names.up, false),
            ("mlp.down_proj", names.down, false),
            ("input_layernorm", names.attention_norm, true),
            ("post_attention_layernorm", names.post_attention_norm, true),
            ("pre_feedforward_layernorm", names.feed_forward_norm, true),
            ("post_feedforward_layernorm", names.post_feed_forward_norm, true),
        ] {
            put(format!("model.layers.{layer}.{name}.weight"), &in_layer(layer, file_name), is_norm)?;
        }
    }
    let window = spec.windows.iter().flatten().copied().next();
    let config = Config {
        attention_bias: false,
        head_dim: spec.head_dim,
        hidden_activation: Activation::GeluPytorchTanh,
        hidden_size: spec.hidden_size,
        intermediate_size: spec.intermediate_size,
        num_attention_heads: spec.heads,
        num_hidden_layers: spec.layers,
        num_key_value_heads: spec.kv_heads,
        rms_norm_eps: spec.rms_norm_eps,
        rope_theta: spec.rope.stretched_theta(),
        rope_local_base_freq: spec.local_rope.as_ref().map_or(spec.rope.theta, |rope| rope.theta),
        vocab_size: spec.vocab_size,
        final_logit_softcapping: spec.logit_softcap,
        attn_logit_softcapping: spec.attention_softcap,
        query_pre_attn_scalar: spec.head_dim,
        sliding_window: window.unwrap_or(room),
        sliding_window_pattern: period(&spec.windows).unwrap_or(1),
        max_position_embeddings: room,
    };
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &device);
    Ok(Model::new(false, &config, builder)?)
}
