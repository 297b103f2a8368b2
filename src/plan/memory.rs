//! How much memory a launch needs, before it is started.
use indexmap::IndexMap;

use crate::{
    model::weights::Weights,
    recipe::{
        Recipe,
        schema::{ModelLoad, Workload},
    },
    units::Bytes,
};

use super::{ModelIdentity, Reference, demand::demand, engine_kind, identity::is_native};

/// What the process needs besides the model: code, allocator, thread stacks.
const PROCESS_BYTES: u64 = 64 << 20;

/// Returns the tokens of the longest sequence a recipe's workloads make.
#[must_use]
pub(super) fn longest_sequence(recipe: &Recipe) -> u32 {
    recipe.workloads.iter().map(|workload| demand(workload).sequence_tokens).max().unwrap_or(0)
}

/// Returns an estimate of a launch's memory: the mapped file and the working copies of the weights,
/// the f32 token embedding of the reference engine (all of its weights, of some models), keys and values in f32, logits and attention
/// scores of the longest prompt.
#[must_use]
pub(super) fn estimate(recipe: &Recipe, weights: &Weights, model: &ModelIdentity) -> Bytes {
    let spec = weights.spec();
    let native = is_native(recipe.kernels.set);
    let embedding = if native { 0 } else { (spec.vocab_size * spec.hidden_size * 4) as u64 };
    let per_token = (2 * spec.layers * spec.kv_heads * spec.head_dim * 4) as u64;
    let working = recipe
        .workloads
        .iter()
        .map(|workload| {
            let demand = demand(workload);
            let (tokens, batch) = (u64::from(demand.sequence_tokens), u64::from(demand.sequences));
            let logits = if demand.keeps_logits { tokens * 2 } else { batch } * spec.vocab_size as u64 * 4;
            let scores = if native { 0 } else { tokens * tokens * spec.heads as u64 * 4 * 2 };
            demand.engines * tokens * batch * per_token + logits + scores
        })
        .max()
        .unwrap_or(0);
    // A file, an engine's copy of it, and beside them the other engine while one verifies the other.
    // Our own engine lets go of a file's pages as it packs them, and attends without all scores at once.
    let converted = weights.content_hash() != model.weights_hash;
    // Used from the file, a matrix is in memory while it is multiplied with, and no longer.
    let mapped = recipe.model.load == ModelLoad::Mapped;
    let engines = recipe.workloads.iter().map(|workload| demand(workload).engines).max().unwrap_or(1);
    let own = if native && !converted { u64::from(!mapped) } else { 2 } + engines - 1;
    let copies = if recipe.kernels.verify.reference.is_some() { 3 } else { own };
    let sets = [Some(recipe.kernels.set), recipe.kernels.verify.reference];
    let widens = sets.into_iter().flatten().filter_map(engine_kind).any(|kind| kind.widens(spec));
    let widened = if widens { model.parameters * 4 } else { 0 };
    let largest = weights.index().tensors.values().map(|info| info.bytes() as u64).max().unwrap_or(0);
    let largest = if own == 0 { largest } else { 0 };
    // As read, and as the engine packs it.
    let adapter = model.adapter.as_ref().map_or(0, |adapter| adapter.parameters * 4 * 2);
    Bytes(copies * model.weights_bytes + largest + widened + adapter + embedding + working + PROCESS_BYTES)
}

/// Returns an estimate of the launch that measures divergences: the cell and the most demanding of
/// its references, both loaded. Nothing without references.
#[must_use]
pub(super) fn beside<'a>(
    recipe: &Recipe,
    model: &ModelIdentity,
    references: &IndexMap<String, Reference>,
    weights: &dyn Fn(&Recipe) -> Option<&'a Weights>,
) -> Bytes {
    let alone = |recipe: Recipe, model: &ModelIdentity, workload: &Workload| {
        let mut recipe = Recipe { workloads: vec![workload.clone()], ..recipe };
        recipe.kernels.verify.reference = None;
        Some(estimate(&recipe, weights(&recipe)?, model).0)
    };
    let both = recipe.workloads.iter().filter_map(|workload| {
        let Workload::KlDivergence(divergence) = workload else { return None };
        let reference = references.get(&workload.to_string())?;
        let theirs = alone(divergence.reference.of(recipe), &reference.model, workload)?;
        Some(alone(recipe.clone(), model, workload)? + theirs - PROCESS_BYTES)
    });
    Bytes(both.max().unwrap_or(0))
}
