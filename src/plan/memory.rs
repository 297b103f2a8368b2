//! How much memory a launch needs, before it is started.
use indexmap::IndexMap;

use crate::{
    engine::EngineKind,
    model::{spec::ModelSpec, weights::Weights},
    recipe::{
        Recipe,
        schema::{ModelLoad, Workload},
    },
    units::Bytes,
};

use super::{ModelIdentity, Reference, demand::demand, engine_kind, identity::is_native};

/// What the process needs besides the model: code, allocator, thread stacks.
const PROCESS_BYTES: u64 = 64 << 20;

/// Logits that a training has at once.
const LOGIT_BYTES: u64 = 64 << 20;

/// Copies of the logits of a step at the most: as the engine computes them, with a cap on them, and as it returns them.
const LOGIT_COPIES: u64 = 3;

/// Returns the tokens of the longest sequence a recipe's workloads make.
#[must_use]
pub(super) fn longest_sequence(recipe: &Recipe) -> u32 {
    let needs = |workload: &Workload| match workload {
        Workload::KvPressure(trace) => trace.context(&recipe.kv_cache),
        other => demand(other).sequence_tokens,
    };
    recipe.workloads.iter().map(needs).max().unwrap_or(0)
}

/// Returns an estimate of a launch's memory: the mapped file and the working copies of the weights,
/// the f32 token embedding of the reference engine (all of its weights, of some models), keys and values in f32, and
/// logits and attention scores, as many as are there at once.
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
            let logits = logits(recipe, workload, spec.vocab_size);
            let scores = scores(engine_kind(recipe.kernels.set), spec, tokens);
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
    let training = training(recipe, weights);
    let held = copies * model.weights_bytes + largest + widened + adapter + embedding;
    Bytes(held + working + training + PROCESS_BYTES)
}

/// Returns the bytes of the logits that a workload has at once.
fn logits(recipe: &Recipe, workload: &Workload, vocab_size: usize) -> u64 {
    let demand = demand(workload);
    let positions = match workload {
        Workload::KvPressure(_) => recipe.kv_cache.page_tokens,
        _ => demand.scored_at_once,
    };
    LOGIT_COPIES * u64::from(demand.sequences) * u64::from(positions) * (vocab_size * 4) as u64
}

/// Returns the bytes of the attention scores that an engine has at once of a sequence.
fn scores(kind: Option<EngineKind>, spec: &ModelSpec, tokens: u64) -> u64 {
    let rows = kind.and_then(EngineKind::most_rows).map_or(tokens, |most| tokens.min(most as u64));
    let of_heads = |heads: usize| rows * tokens * (heads * 4) as u64;
    match kind {
        // It attends without all scores at once.
        Some(EngineKind::Native(_)) => 0,
        // A query head of each key head's group at once: as multiplied, scaled, capped, masked, and as weights.
        Some(EngineKind::Candle) => 5 * of_heads(spec.kv_heads),
        Some(EngineKind::Reference) | None => 2 * of_heads(spec.heads),
    }
}

/// Returns what a training takes beside the weights as they are stored: what each layer keeps of a
/// micro-batch for the way back, logits and their gradients. Matrices are widened only where there is room.
fn training(recipe: &Recipe, weights: &Weights) -> u64 {
    let trains =
        recipe.workloads.iter().any(|workload| matches!(workload, Workload::Train(_) | Workload::Continual(_)));
    let own = recipe.training.as_ref().filter(|_| trains).map(|training| {
        let tokens = u64::from(training.batch_size) * u64::from(training.sequence_length);
        (tokens, training.gradient_checkpointing, 0)
    });
    // The deep loop trains a copy of the model beside the one that answers.
    let deep = recipe.sona.as_ref().and_then(|sona| sona.deep.as_ref()).filter(|deep| deep.enabled);
    let loops = deep.map(|deep| {
        let longest = recipe.workloads.iter().filter_map(|workload| match workload {
            Workload::Sona(stream) => Some(stream.tokens() as u64),
            _ => None,
        });
        (u64::from(deep.batch_size) * longest.max().unwrap_or(0), false, weights.total_bytes())
    });
    let Some((tokens, recomputes, beside)) = own.or(loops) else { return 0 };
    let spec = weights.spec();
    let heads = (2 * spec.heads + 2 * spec.kv_heads) * spec.head_dim;
    let kept = if recomputes { spec.hidden_size } else { 4 * spec.hidden_size + heads + 3 * spec.intermediate_size };
    beside + tokens * (spec.layers * kept * 4) as u64 + 3 * LOGIT_BYTES
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::engine::Tier;

    fn recipe(workload: &Value) -> Recipe {
        serde_json::from_value(json!({
            "schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"}, "workloads": [workload],
        }))
        .unwrap()
    }

    #[test]
    fn logits_are_asked_for_as_many_positions_as_are_scored_at_once() {
        let rows = |workload: Value| {
            let recipe = recipe(&workload);
            logits(&recipe, &recipe.workloads[0], 1000) / (LOGIT_COPIES * 4000)
        };
        for n_ctx in [512, 32_768] {
            assert_eq!(rows(json!({"perplexity": {"n_ctx": n_ctx}})), 128);
            assert_eq!(rows(json!({"kl_divergence": {"n_ctx": n_ctx, "reference": {"format": "f32"}}})), 128);
            // A page of 32 tokens of each text.
            assert_eq!(rows(json!({"kv_pressure": {"n_ctx": n_ctx, "concurrency": 4}})), 4 * 32);
        }
        assert_eq!(rows(json!({"perplexity": {"n_ctx": 64}})), 64);
        assert_eq!(rows(json!({"decode": {"prompt_tokens": 4096, "batch_size": 8}})), 8);
    }

    #[test]
    fn attention_scores_are_asked_for_as_many_rows_as_an_engine_takes_at_once() {
        let pico = Weights::open("builtin:pico").unwrap();
        let of = |kind: EngineKind, tokens: u64| scores(Some(kind), pico.spec(), tokens);
        assert_eq!(of(EngineKind::Candle, 32_768), 64 * of(EngineKind::Candle, 512));
        assert_eq!(of(EngineKind::Candle, 512), 4 * of(EngineKind::Candle, 256));
        assert_eq!(of(EngineKind::Reference, 32_768), 64 * 64 * of(EngineKind::Reference, 512));
        assert_eq!(of(EngineKind::Native(Tier::Scalar), 32_768), 0);
    }
}
