//! How much memory a launch needs, before it is started.
use crate::{
    model::spec::ModelSpec,
    recipe::{Recipe, schema::Workload},
    units::Bytes,
};

use super::{ModelIdentity, engine_kind};

/// What the process needs besides the model: code, allocator, thread stacks.
const PROCESS_BYTES: u64 = 64 << 20;

/// Returns the tokens of the longest sequence a recipe's workloads make.
#[must_use]
pub(super) fn longest_sequence(recipe: &Recipe) -> u32 {
    recipe.workloads.iter().map(|workload| shape(workload).0).max().unwrap_or(0)
}

/// Returns tokens a sequence and sequences at once.
fn shape(workload: &Workload) -> (u32, u32) {
    match workload {
        Workload::Prefill(prefill) => (prefill.prompt_tokens.saturating_add(prefill.context_depth), prefill.batch_size),
        Workload::Decode(decode) => (decode.prompt_tokens.saturating_add(decode.output_tokens), decode.batch_size),
        Workload::Perplexity(perplexity) => (perplexity.n_ctx, 1),
    }
}

/// Returns an estimate of a launch's memory: the mapped file and the working copies of the weights,
/// the f32 token embedding of the reference engine (all of its weights, of some models), keys and values in f32, logits and attention
/// scores of the longest prompt.
#[must_use]
pub(super) fn estimate(recipe: &Recipe, spec: &ModelSpec, model: &ModelIdentity) -> Bytes {
    let embedding = (spec.vocab_size * spec.hidden_size * 4) as u64;
    let per_token = (2 * spec.layers * spec.kv_heads * spec.head_dim * 4) as u64;
    let working = recipe
        .workloads
        .iter()
        .map(|workload| {
            let (tokens, batch) = shape(workload);
            let (tokens, batch) = (u64::from(tokens), u64::from(batch));
            let logits = match workload {
                Workload::Perplexity(_) => tokens * spec.vocab_size as u64 * 4 * 2,
                Workload::Prefill(_) | Workload::Decode(_) => batch * spec.vocab_size as u64 * 4,
            };
            let scores = tokens * tokens * spec.heads as u64 * 4 * 2;
            tokens * batch * per_token + logits + scores
        })
        .max()
        .unwrap_or(0);
    // A file, an engine's copy of it, and beside them the other engine while one verifies the other.
    let copies = if recipe.kernels.verify.reference.is_some() { 3 } else { 2 };
    let sets = [Some(recipe.kernels.set), recipe.kernels.verify.reference];
    let widens = sets.into_iter().flatten().filter_map(engine_kind).any(|kind| kind.widens(spec));
    let widened = if widens { model.parameters * 4 } else { 0 };
    Bytes(copies * model.weights_bytes + widened + embedding + working + PROCESS_BYTES)
}
