//! What PEFT calls a model's matrices, and the order it has their rows in.
use crate::{
    engine::{Place, Target},
    model::{rope::RopeLayout, spec::ModelSpec},
};

/// Returns a target's name in PEFT.
#[must_use]
pub fn module(target: Target) -> &'static str {
    match target {
        Target::Query => "q_proj",
        Target::Key => "k_proj",
        Target::Value => "v_proj",
        Target::Output => "o_proj",
        Target::Gate => "gate_proj",
        Target::Up => "up_proj",
        Target::Down => "down_proj",
        Target::Head => "lm_head",
    }
}

/// Returns the module of a model that holds a matrix: where the model's family has queries, keys and values
/// in one matrix, or gate and up, so have transformers and PEFT.
pub(super) fn holder(spec: &ModelSpec, target: Target) -> &'static str {
    match target {
        Target::Query | Target::Key | Target::Value if spec.fused_query_key_value => "qkv_proj",
        Target::Gate | Target::Up if spec.fused_gate_up => "gate_up_proj",
        target => module(target),
    }
}

/// Returns the path of the module that holds a matrix.
pub(super) fn module_path(spec: &ModelSpec, place: Place) -> String {
    let block = match place.target {
        Target::Query | Target::Key | Target::Value | Target::Output => "self_attn",
        Target::Gate | Target::Up | Target::Down => "mlp",
        Target::Head => return "lm_head".to_owned(),
    };
    format!("model.layers.{}.{block}.{}", place.layer, holder(spec, place.target))
}

pub(super) fn key(module: &str, matrix: &str) -> String {
    format!("base_model.model.{module}.{matrix}.weight")
}

/// The name of a decomposed change's magnitudes.
pub(super) fn magnitude_key(module: &str) -> String {
    format!("base_model.model.{module}.lora_magnitude_vector")
}

/// Returns B with its rows in the order of the model's file, or back in PEFT's.
pub(super) fn reordered(spec: &ModelSpec, place: Place, rank: usize, b: Vec<f32>, to_file: bool) -> Vec<f32> {
    let moved = matches!(place.target, Target::Query | Target::Key);
    if !moved || spec.rope(place.layer).layout != RopeLayout::Interleaved {
        return b;
    }
    let (head, half) = (spec.head_dim, spec.head_dim / 2);
    let mut out = vec![0.0; b.len()];
    for row in 0..b.len() / rank {
        let (start, at) = (row / head * head, row % head);
        let (pair, side) = (at / 2, at % 2);
        let theirs = start + side * half + pair;
        let (from, to) = if to_file { (theirs, row) } else { (row, theirs) };
        out[to * rank..][..rank].copy_from_slice(&b[from * rank..][..rank]);
    }
    out
}
