//! The tensors of a model by name, and the check that a file has exactly those.
use std::collections::HashMap;

use super::{Family, FamilyError};
use crate::model::{rope::RopeScaling, spec::ModelSpec, weights::Index};

/// Names of the tensors outside the layers.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are llama.cpp's")]
pub struct ModelTensors {
    pub token_embedding: &'static str,
    pub output_norm: &'static str,
    /// Absent where the head is the token embedding.
    pub output: &'static str,
    pub rope_divisors: &'static str,
    pub rope_divisors_short: &'static str,
    pub rope_divisors_long: &'static str,
}

/// Names of a layer's tensors. Which of them a model has, [`ModelSpec`] says.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are llama.cpp's")]
pub struct LayerTensors {
    pub attention_norm: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub query_bias: &'static str,
    pub key_bias: &'static str,
    pub value_bias: &'static str,
    /// `[H D + 2 K D, E]`: queries, keys, values.
    pub query_key_value: &'static str,
    pub query_norm: &'static str,
    pub key_norm: &'static str,
    pub attention_output: &'static str,
    pub post_attention_norm: &'static str,
    pub feed_forward_norm: &'static str,
    pub gate: &'static str,
    /// `[2 F, E]` where gate and up are one: gate, up.
    pub up: &'static str,
    pub down: &'static str,
    pub post_feed_forward_norm: &'static str,
}

/// llama.cpp's names (`llama-arch.cpp`).
pub(super) const MODEL: ModelTensors = ModelTensors {
    token_embedding: "token_embd.weight",
    output_norm: "output_norm.weight",
    output: "output.weight",
    rope_divisors: "rope_freqs.weight",
    rope_divisors_short: "rope_factors_short.weight",
    rope_divisors_long: "rope_factors_long.weight",
};

/// llama.cpp's names (`llama-arch.cpp`).
pub(super) const LAYER: LayerTensors = LayerTensors {
    attention_norm: "attn_norm.weight",
    query: "attn_q.weight",
    key: "attn_k.weight",
    value: "attn_v.weight",
    query_bias: "attn_q.bias",
    key_bias: "attn_k.bias",
    value_bias: "attn_v.bias",
    query_key_value: "attn_qkv.weight",
    query_norm: "attn_q_norm.weight",
    key_norm: "attn_k_norm.weight",
    attention_output: "attn_output.weight",
    post_attention_norm: "post_attention_norm.weight",
    feed_forward_norm: "ffn_norm.weight",
    gate: "ffn_gate.weight",
    up: "ffn_up.weight",
    down: "ffn_down.weight",
    post_feed_forward_norm: "post_ffw_norm.weight",
};

/// Returns a tensor's whole name from its name inside a layer.
#[must_use]
pub fn in_layer(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}")
}

/// Returns a layer's tensors with their shapes.
fn layer_shapes(names: &LayerTensors, spec: &ModelSpec) -> Vec<(&'static str, Vec<usize>)> {
    let (e, f, d) = (spec.hidden_size, spec.intermediate_size, spec.head_dim);
    let (q, kv) = (spec.heads * d, spec.kv_heads * d);
    let mut shapes = vec![
        (names.attention_norm, vec![e]),
        (names.attention_output, vec![e, q]),
        (names.feed_forward_norm, vec![e]),
        (names.down, vec![e, f]),
    ];
    if spec.fused_query_key_value {
        shapes.push((names.query_key_value, vec![q + 2 * kv, e]));
    } else {
        shapes.extend([(names.query, vec![q, e]), (names.key, vec![kv, e]), (names.value, vec![kv, e])]);
    }
    if spec.attention_bias {
        shapes.extend([(names.query_bias, vec![q]), (names.key_bias, vec![kv]), (names.value_bias, vec![kv])]);
    }
    if spec.head_norms {
        shapes.extend([(names.query_norm, vec![d]), (names.key_norm, vec![d])]);
    }
    if spec.post_norms {
        shapes.extend([(names.post_attention_norm, vec![e]), (names.post_feed_forward_norm, vec![e])]);
    }
    if spec.fused_gate_up {
        shapes.push((names.up, vec![2 * f, e]));
    } else {
        shapes.extend([(names.gate, vec![f, e]), (names.up, vec![f, e])]);
    }
    shapes
}

/// Checks that the tensors are exactly those of the model, in its shapes.
pub(super) fn check(family: &'static Family, spec: &ModelSpec, index: &Index) -> Result<(), FamilyError> {
    let (e, v) = (spec.hidden_size, spec.vocab_size);
    let ModelTensors { token_embedding, output_norm, output, .. } = family.model;
    let mut expected: HashMap<String, Vec<usize>> = HashMap::new();
    let mut expect = |name: String, shape: Vec<usize>| {
        let missing = !index.tensors.contains_key(&name);
        expected.insert(name.clone(), shape);
        if missing { Err(FamilyError::Missing { name }) } else { Ok(()) }
    };
    expect(token_embedding.to_owned(), vec![v, e])?;
    expect(output_norm.to_owned(), vec![e])?;
    if !spec.tied_embeddings {
        expect(output.to_owned(), vec![v, e])?;
    }
    let divisors: &[&str] = match spec.rope.scaling {
        RopeScaling::Divisors { .. } => &[family.model.rope_divisors],
        RopeScaling::Longrope { .. } => &[family.model.rope_divisors_short, family.model.rope_divisors_long],
        _ => &[],
    };
    for name in divisors {
        expect((*name).to_owned(), vec![spec.rope.dim / 2])?;
    }
    let shapes = layer_shapes(&family.layer, spec);
    for layer in 0..spec.layers {
        for (name, shape) in &shapes {
            expect(in_layer(layer, name), shape.clone())?;
        }
    }
    for (name, info) in &index.tensors {
        let architecture = family.architecture;
        let shape = expected.get(name).ok_or_else(|| FamilyError::Unused { name: name.clone(), architecture })?;
        if info.shape != *shape {
            let (found, expected) = (info.shape.clone(), shape.clone());
            return Err(FamilyError::Shape { name: name.clone(), found, expected });
        }
    }
    Ok(())
}
