//! The key-value cache of a cell, in the engine's terms.
use crate::{
    diag::Diagnostic,
    kv::{CacheType, CacheTypes, PageShape, Policy, Stage, Tier},
    model::spec::ModelSpec,
    recipe::{
        Recipe,
        schema::{CacheTier, KvCache, KvType, Pressure, PressurePolicy},
    },
};

use super::ModelIdentity;

/// Below so many parameters keys of 4 bits cost more than they save: of Qwen3-0.6B they make the
/// perplexity 3.5 times as high, of Qwen3-8B 1.02 times (`ik_llama.cpp` #1509).
const SMALL_MODEL_PARAMETERS: u64 = 3_000_000_000;

pub(super) fn cache_type(asked: Option<KvType>) -> CacheType {
    match asked {
        Some(KvType::F32) => CacheType::F32,
        Some(KvType::Q8_0) => CacheType::Q8_0,
        Some(KvType::Q5_1) => CacheType::Q5_1,
        Some(KvType::Q4_0) => CacheType::Q4_0,
        Some(KvType::F16) | None => CacheType::F16,
    }
}

pub(super) fn cache_types(cache: &KvCache) -> CacheTypes {
    CacheTypes { keys: cache_type(cache.type_k), values: cache_type(cache.type_v) }
}

pub(super) fn policy(pressure: &Pressure, types: CacheTypes) -> Policy {
    let stage = |policy: &PressurePolicy| {
        Some(match policy {
            PressurePolicy::Evict => Stage::Evict,
            PressurePolicy::H2o => Stage::EvictLight,
            PressurePolicy::Quantize => Stage::Quantize,
            PressurePolicy::Reject => Stage::Reject,
            PressurePolicy::Spill => Stage::Spill,
            // A recipe is refused that has one inside another.
            PressurePolicy::Hybrid => return None,
        })
    };
    let window = pressure.window as usize;
    let tiers = if pressure.tiers.is_empty() {
        let narrow = CacheTypes { keys: CacheType::Q8_0, values: CacheType::Q8_0 };
        vec![Tier { tokens: Some(window), types }, Tier { tokens: None, types: narrow }]
    } else {
        let tier = |tier: &CacheTier| Tier {
            tokens: tier.tokens.map(|tokens| tokens as usize),
            types: CacheTypes { keys: cache_type(Some(tier.type_k)), values: cache_type(Some(tier.type_v)) },
        };
        pressure.tiers.iter().map(tier).collect()
    };
    Policy {
        stages: pressure.steps().iter().filter_map(stage).collect(),
        high_watermark: pressure.high_watermark,
        low_watermark: pressure.low_watermark.unwrap_or(pressure.high_watermark),
        sinks: pressure.sinks as usize,
        window,
        tiers,
        spill_bytes: pressure.spill_limit.0,
    }
}

/// Returns what of a recipe only ruvlab's own kernels have, by its path.
pub(super) fn native_only(cache: &KvCache) -> Vec<&'static str> {
    let KvCache { type_k: _, type_v: _, page_tokens, budget, pressure, prefix_sharing, force: _ } = cache;
    let uses = [
        ("kv_cache.page_tokens", *page_tokens != KvCache::default().page_tokens),
        ("kv_cache.budget", budget.is_some()),
        ("kv_cache.pressure", pressure.is_some()),
        ("kv_cache.prefix_sharing", *prefix_sharing),
    ];
    uses.into_iter().filter(|(_, used)| *used).map(|(path, _)| path).collect()
}

/// Returns what is wrong with a recipe's cache for this model, with the path to look at.
pub(super) fn problem(recipe: &Recipe, spec: &ModelSpec, model: &ModelIdentity) -> Option<(&'static str, Diagnostic)> {
    let cache = &recipe.kv_cache;
    let tiers = cache.pressure.as_ref().map_or(&[][..], |pressure| &pressure.tiers);
    let page_tokens = cache.page_tokens as usize;
    let shape = PageShape { layers: spec.layers, kv_heads: spec.kv_heads, head_dim: spec.head_dim, page_tokens };
    if let Some(pressure) = cache.pressure.as_ref().filter(|pressure| pressure.evicts()) {
        let kept = pressure.kept(cache.page_tokens);
        if kept > model.context_length {
            let message = format!(
                "{} sinks and a window of {} leave nothing to evict in the model's context of {}",
                pressure.sinks, pressure.window, model.context_length
            );
            let hint = "make `window` smaller, two pages smaller than the context at least";
            return Some(("kv_cache.pressure.window", Diagnostic::error("pressure", message).hint(hint)));
        }
    }
    let own = ("kv_cache.type_k", cache_types(cache), cache.type_k);
    let all = std::iter::once(own).chain(tiers.iter().map(|tier| {
        let types = CacheTypes { keys: cache_type(Some(tier.type_k)), values: cache_type(Some(tier.type_v)) };
        ("kv_cache.pressure.tiers", types, Some(tier.type_k))
    }));
    for (path, types, keys) in all {
        if let Err(error) = shape.check(types) {
            let diagnostic = Diagnostic::error("cache-type", error.to_string());
            return Some((path, diagnostic.hint("take `f16`, or other pages")));
        }
        if keys == Some(KvType::Q4_0) && model.parameters < SMALL_MODEL_PARAMETERS && !cache.force {
            let message = format!(
                "keys of 4 bits do much harm to small models, and {} has {:.2} billion parameters",
                model.source,
                model.parameters as f64 * 1e-9
            );
            let hint =
                "take `q8_0` for keys (values may have 4 bits), or set `kv_cache.force: true` to measure the harm";
            return Some((path, Diagnostic::error("narrow-keys", message).hint(hint)));
        }
    }
    None
}
