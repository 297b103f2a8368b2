//! What candle-transformers' models leave out, and so cannot be asked to run.
use candle_transformers::models::quantized_llama::MAX_SEQ_LEN;

use super::{NAME, dense};
use crate::{
    engine::EngineError,
    model::{rope::RopeScaling, spec::ModelSpec},
};

/// The base that `quantized_phi3` rotates by.
const PHI3_THETA: f64 = 10_000.0;

/// Returns the most tokens a sequence may have.
pub(in crate::engine) fn longest_context(spec: &ModelSpec) -> usize {
    // The length of `quantized_llama`'s table of rotary positions; the others make theirs to measure.
    if spec.architecture == "llama" { spec.context_length.min(MAX_SEQ_LEN) } else { spec.context_length }
}

/// Returns whether all weights are held in f32.
pub(in crate::engine) fn widens(spec: &ModelSpec) -> bool {
    spec.architecture == "gemma3"
}

/// Refuses a model that would be computed wrongly.
///
/// # Errors
///
/// Says what candle-transformers cannot do.
pub(in crate::engine) fn check(spec: &ModelSpec) -> Result<(), EngineError> {
    let has_window = spec.windows.iter().flatten().any(|window| *window < spec.context_length);
    let usual_scale = (spec.attention_scale * (spec.head_dim as f64).sqrt() - 1.0).abs() <= 1e-6;
    let wide = spec.head_dim * spec.heads != spec.hidden_size;
    let (llama, phi3) = (spec.architecture == "llama", spec.architecture == "phi3");
    let gemma3 = spec.architecture == "gemma3";
    let stretched = !matches!(spec.rope.scaling, RopeScaling::None | RopeScaling::Ntk { .. });
    let wrong = [
        (stretched, "stretch the rope"),
        (spec.rope.dim != spec.head_dim, "rotate a part of a head only"),
        (!gemma3 && has_window, "see the last tokens only (a sliding window)"),
        (!usual_scale, "scale attention by anything but the head width"),
        ((llama || phi3 || spec.architecture == "qwen2") && wide, "run heads that are not the hidden size together"),
        (llama && spec.attention_bias, "add biases to queries, keys and values of the llama architecture"),
        (phi3 && (spec.rope.stretched_theta() - PHI3_THETA).abs() > 0.0, "rotate phi3 by another base than 10000"),
        (phi3 && spec.tied_embeddings, "run a phi3 whose head is the token embedding"),
        (phi3 && !spec.fused_query_key_value, "run a phi3 whose queries, keys and values are apart"),
        (gemma3 && !spec.tied_embeddings, "run a gemma3 with a head of its own"),
        (gemma3 && dense::period(&spec.windows).is_none(), "run irregular sliding windows"),
    ];
    match wrong.into_iter().find(|(wrong, _)| *wrong) {
        None => Ok(()),
        Some((_, what)) => {
            let what = format!("{what}: candle-transformers' {} model does not", spec.architecture);
            Err(EngineError::Unsupported { engine: NAME, what })
        }
    }
}
