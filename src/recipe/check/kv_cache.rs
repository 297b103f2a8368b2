//! Rules of the key-value cache, and of the workload that fills it.
use super::Report;
use crate::recipe::schema::{KvPressure, Pressure, PressurePolicy, Recipe};

/// Bytes of cache a token takes in the smallest model there could be: one layer, one head of 64,
/// keys and values of 4 bits.
const SMALLEST_TOKEN_BYTES: u64 = 64;

pub(super) fn check(recipe: &Recipe, report: &mut Report<'_>) {
    let cache = &recipe.kv_cache;
    if let Some(budget) = cache.budget {
        let page = u64::from(cache.page_tokens) * SMALLEST_TOKEN_BYTES;
        if budget.0 < page {
            let message = format!("a budget of {budget} does not hold one page of {} tokens", cache.page_tokens);
            let hint = format!("even the smallest model needs {SMALLEST_TOKEN_BYTES} bytes a token; raise the budget");
            report.error(&["kv_cache.budget"], "budget", message, &hint);
        }
    }
    if !cache.page_tokens.is_power_of_two() {
        let message = format!("pages of {} tokens: the kernels walk pages of 8, 16, 32 or 64", cache.page_tokens);
        report.error(&["kv_cache.page_tokens"], "page-tokens", message, "32 is a good number");
    }
    if cache.prefix_sharing && cache.budget.is_none() {
        let message =
            "`kv_cache.prefix_sharing` keeps pages for sequences to come until a budget runs out, and there is none";
        report.error(&["kv_cache.prefix_sharing"], "needs", message, "add `budget: 512MiB` to `kv_cache`");
    }
    let Some(pressure) = &cache.pressure else { return };
    if cache.budget.is_none() {
        let message = "`kv_cache.pressure` acts when a budget runs out, and there is none";
        report.error(&["kv_cache.pressure"], "needs", message, "add `budget: 512MiB` to `kv_cache`");
    }
    check_stages(pressure, report);
    check_unread(pressure, report);
    check_tiers(pressure, report);
    if let Some(low) = pressure.low_watermark.filter(|low| *low > pressure.high_watermark) {
        let message = format!("`low_watermark` is {low}, above `high_watermark`, {}", pressure.high_watermark);
        let hint = "a policy begins at the high one and stops at the low one";
        report.error(&["kv_cache.pressure.low_watermark"], "pressure", message, hint);
    }
    let kept = pressure.kept(cache.page_tokens);
    if let Some(context) = recipe.model.context_length.filter(|context| pressure.evicts() && kept > *context) {
        let message = format!(
            "{} sinks and a window of {} leave nothing to evict in a context of {context}",
            pressure.sinks, pressure.window
        );
        let hint = "make `window` smaller, two pages smaller than the context at least";
        report.error(&["kv_cache.pressure.window"], "pressure", message, hint);
    }
}

/// Checks that tiers grow older and narrower and are used.
fn check_tiers(pressure: &Pressure, report: &mut Report<'_>) {
    let tiers = &pressure.tiers;
    if !tiers.is_empty() && !pressure.steps().contains(&PressurePolicy::Quantize) {
        let message = "only `quantize` has `tiers`";
        let hint = "leave them out, or choose `policy: quantize`";
        report.error(&["kv_cache.pressure.tiers"], "pressure", message, hint);
    }
    for (index, tier) in tiers.iter().enumerate() {
        let is_last = index + 1 == tiers.len();
        if tier.tokens.is_none() != is_last {
            let path = format!("kv_cache.pressure.tiers[{index}]");
            let message = "all tiers but the last have a number of `tokens`, and the last holds the rest";
            report.error(
                &[&path],
                "pressure",
                message,
                "for example `[{tokens: 256, type_k: f16, type_v: f16}, {type_k: q8_0, type_v: q8_0}]`",
            );
        }
        if tiers[..index].iter().any(|older| older.type_k > tier.type_k || older.type_v > tier.type_v) {
            let path = format!("kv_cache.pressure.tiers[{index}]");
            let message = "a tier is wider than one before it, and what was narrowed once stays as narrow";
            report.warning(&[&path], "no-effect", message, "order tiers from the widest types to the narrowest");
        }
    }
    let first = tiers.first().and_then(|tier| tier.tokens).filter(|tokens| *tokens < pressure.window);
    if let Some(tokens) = first {
        let message = format!(
            "the first tier ends after {tokens} tokens, and the last {} are left as they are (`window`)",
            pressure.window
        );
        let hint = format!("set `window: {tokens}`, or give the tier as many tokens");
        report.warning(&["kv_cache.pressure.tiers[0].tokens"], "no-effect", message, &hint);
    }
}

/// Warns of what was written and no part of the policy reads.
fn check_unread(pressure: &Pressure, report: &mut Report<'_>) {
    let has = |policies: &[PressurePolicy]| pressure.steps().iter().any(|step| policies.contains(step));
    let keeps = has(&[PressurePolicy::Evict, PressurePolicy::H2o, PressurePolicy::Quantize]);
    let (keepers, take_out) = ("only `evict`, `h2o` and `quantize` leave tokens as they are", "take it out");
    let reserves = pressure.steps() == [PressurePolicy::Reject];
    let (whole, whole_hint) = ("`reject` alone reserves from the whole budget", "take it out, or lower the budget");
    for (key, is_read, why, hint) in [
        ("sinks", keeps, keepers, take_out),
        ("window", keeps, keepers, take_out),
        ("high_watermark", !reserves, whole, whole_hint),
        ("low_watermark", !reserves, whole, whole_hint),
        ("spill_limit", has(&[PressurePolicy::Spill]), "only `spill` has a file", take_out),
    ] {
        let path = format!("kv_cache.pressure.{key}");
        if !is_read && report.was_given(&path) {
            report.warning(&[&path], "no-effect", format!("`{path}` changes nothing: {why}"), hint);
        }
    }
}

fn check_stages(pressure: &Pressure, report: &mut Report<'_>) {
    let stages = &pressure.stages;
    match pressure.policy {
        PressurePolicy::Hybrid if stages.is_empty() => {
            let message = "a `hybrid` policy tries several policies, and `stages` names none";
            report.error(&["kv_cache.pressure.policy"], "needs", message, "add `stages: [quantize, evict]`");
        }
        PressurePolicy::Hybrid => {
            for (index, _) in stages.iter().enumerate().filter(|(_, stage)| **stage == PressurePolicy::Hybrid) {
                let path = format!("kv_cache.pressure.stages[{index}]");
                let message = format!("stage {} is `hybrid` itself, which would never end", index + 1);
                report.error(&[&path], "pressure", message, "name the policies it should try");
            }
        }
        _ if !stages.is_empty() => {
            let message = "only a `hybrid` policy has `stages`";
            report.error(
                &["kv_cache.pressure.stages"],
                "pressure",
                message,
                "leave them out, or choose `policy: hybrid`",
            );
        }
        _ => {}
    }
}

pub(super) fn check_workload(pressure: &KvPressure, path: &str, recipe: &Recipe, report: &mut Report<'_>) {
    if recipe.kv_cache.budget.is_none() {
        let message = "`kv_pressure` drives requests past the budget of the cache, and there is none";
        report.error(&["kv_cache.budget", path], "needs", message, "add `kv_cache: {budget: 512MiB}`");
    }
    if pressure.needles > 0 && pressure.n_ctx < 64 {
        let message = format!("a text of {} tokens has no room for a fact and a question", pressure.n_ctx);
        let hint = "raise `n_ctx` to 64 or more, or leave out `needles`";
        report.error(&[&format!("{path}.kv_pressure.needles"), path], "needs", message, hint);
    }
}
