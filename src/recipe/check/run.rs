//! Rules of what runs: workloads, context, cache, positions, launches.
use super::Report;
use crate::recipe::schema::{
    Adapt, Decode, KlDivergence, KvPressure, Perplexity, Prefill, Pressure, PressurePolicy, Recipe, RopeScaling,
    SonaStream, Workload,
};

/// Bytes of cache a token takes in the smallest model there could be: one layer, one head of 64,
/// keys and values of 4 bits.
const SMALLEST_TOKEN_BYTES: u64 = 64;

pub(super) fn check(recipe: &Recipe, report: &mut Report<'_>) {
    check_workloads(recipe, report);
    check_kv_cache(recipe, report);
    check_rope(recipe, report);
    let launches = &recipe.measure.launches;
    if launches.min > launches.max {
        let message = format!("`measure.launches.min` is {}, above `max`, {}", launches.min, launches.max);
        let paths = ["measure.launches.min", "measure.launches.max"];
        report.error(&paths, "launches", message, "raise `max` or lower `min`");
    } else if launches.max == 1 {
        let message = "one launch a cell gives no confidence interval";
        report.warning(&["measure.launches.max"], "launches", message, "5 is a good number to start with");
    }
    let sampling = &recipe.sampling;
    let filters = [("top_k", sampling.top_k != 0), ("top_p", sampling.top_p < 1.0), ("min_p", sampling.min_p > 0.0)];
    for (key, set) in filters {
        if set && sampling.temperature <= 0.0 {
            let message = format!("`sampling.{key}` changes nothing at temperature 0, which takes the likeliest token");
            report.warning(&[&format!("sampling.{key}")], "no-effect", message, "raise `sampling.temperature`");
        }
    }
    if recipe.model.revision.is_some() && !recipe.model.source.starts_with("hf:") {
        let message = "`model.revision` changes nothing: only models of the hub (`hf:`) have revisions";
        report.warning(&["model.revision"], "no-effect", message, "take it out");
    }
    if recipe.model.source.starts_with("hf:") && recipe.model.revision.is_none() && !recipe.model.source.contains('@') {
        let message = "the hub's newest revision can change between two runs";
        report.warning(
            &["model.source"],
            "unpinned",
            message,
            "`ruvlab.lock` pins it at the first run; keep that file, or write `revision: <commit>`",
        );
    }
}

fn check_workloads(recipe: &Recipe, report: &mut Report<'_>) {
    let learns = recipe.training.is_some() || recipe.continual.is_some() || recipe.sona.is_some();
    if recipe.workloads.is_empty() && !learns {
        let hint = "add `workloads:` with `- decode: {}` below it";
        report.error(&["workloads"], "empty-list", "the recipe has no workloads, so nothing would run", hint);
    }
    let labels: Vec<_> = recipe.workloads.iter().map(ToString::to_string).collect();
    let context = recipe.model.context_length;
    for (index, (workload, label)) in recipe.workloads.iter().zip(&labels).enumerate() {
        let path = format!("workloads[{index}]");
        if labels[..index].contains(label) {
            let message = format!("two workloads are called `{label}`");
            let hint = "results are stored by that name; change one, or raise `repetitions` of the other";
            report.error(&[&path], "duplicate-name", message, hint);
        }
        let (tokens, words, key) = match workload {
            Workload::Prefill(Prefill { prompt_tokens, .. }) => {
                let words = format!("a prompt of {prompt_tokens} tokens is longer than");
                (u64::from(*prompt_tokens), words, format!("{path}.prefill.prompt_tokens"))
            }
            Workload::Decode(Decode { prompt_tokens, output_tokens, .. }) => {
                let tokens = u64::from(*prompt_tokens) + u64::from(*output_tokens);
                let words = format!("{prompt_tokens} prompt and {output_tokens} output tokens are {tokens}, more than");
                (tokens, words, format!("{path}.decode.output_tokens"))
            }
            Workload::Perplexity(Perplexity { n_ctx, .. }) => {
                let words = format!("a window of {n_ctx} tokens is longer than");
                (u64::from(*n_ctx), words, format!("{path}.perplexity.n_ctx"))
            }
            Workload::KlDivergence(KlDivergence { n_ctx, reference, .. }) => {
                if reference.is_empty() {
                    let message = "`kl_divergence` has no reference, so the cell would be held against itself";
                    let hint = "say what differs: `reference: {format: f32}`, `{kernels: reference}` or `{source: …}`";
                    let reference = format!("{path}.kl_divergence.reference");
                    report.error(&[&reference, &path], "needs", message, hint);
                }
                let words = format!("a window of {n_ctx} tokens is longer than");
                (u64::from(*n_ctx), words, format!("{path}.kl_divergence.n_ctx"))
            }
            Workload::KvPressure(pressure) => {
                let KvPressure { prompt_tokens, output_tokens, n_ctx, .. } = pressure;
                check_kv_pressure(pressure, &path, recipe, report);
                let tokens = u64::from(pressure.longest());
                let words = format!(
                    "requests of {prompt_tokens} and {output_tokens} tokens, half as many again at most, or texts of {n_ctx}, are longer than"
                );
                // Where tokens are evicted, a sequence may outgrow the context.
                let evicts = recipe.kv_cache.pressure.as_ref().is_some_and(evicts);
                (if evicts { 0 } else { tokens }, words, format!("{path}.kv_pressure.prompt_tokens"))
            }
            Workload::Train(_) => {
                let length = recipe.training.as_ref().map_or(0, |training| training.sequence_length);
                let words = format!("a sequence of {length} tokens is longer than");
                (u64::from(length), words, "training.sequence_length".to_owned())
            }
            Workload::Adapt(adapt) => {
                check_adapt(adapt, &path, recipe, report);
                let words = format!("requests of {} tokens are longer than", adapt.tokens());
                (adapt.tokens() as u64, words, format!("{path}.adapt.prompt_tokens"))
            }
            Workload::Sona(stream) => {
                check_sona(stream, &path, recipe, report);
                let words = format!("requests of {} tokens are longer than", stream.tokens());
                (stream.tokens() as u64, words, format!("{path}.sona.prompt_tokens"))
            }
            Workload::Continual(_) => {
                let tokens = recipe.training.as_ref().map_or(0, |training| u64::from(training.sequence_length));
                let words = format!("a sequence of {tokens} tokens is longer than");
                (tokens, words, "training.sequence_length".to_owned())
            }
        };
        if let Some(context) = context.filter(|context| tokens > u64::from(*context)) {
            let message = format!("{words} `model.context_length`, {context}");
            let hint = "shorten the workload or raise `model.context_length`";
            report.error(&[&key, &path], "context-length", message, hint);
        }
    }
}

fn check_kv_pressure(pressure: &KvPressure, path: &str, recipe: &Recipe, report: &mut Report<'_>) {
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

fn check_adapt(adapt: &Adapt, path: &str, recipe: &Recipe, report: &mut Report<'_>) {
    let domains = format!("{path}.adapt.domains");
    if recipe.micro_lora.is_none() {
        let message = "`adapt` measures an adapter that learns from requests, and there is none";
        report.error(&["micro_lora", path], "needs", message, "add `micro_lora: {}`");
    }
    if adapt.domains.len() < 2 {
        let message = "`adapt` needs two domains at least: the placebo learns each from another";
        report.error(&[&domains, path], "needs", message, "add a text such as `builtin:kjv.test`");
    }
    check_domain_names(&adapt.domains, &domains, path, report);
}

fn check_sona(stream: &SonaStream, path: &str, recipe: &Recipe, report: &mut Report<'_>) {
    let domains = format!("{path}.sona.domains");
    if recipe.sona.is_none() {
        let message = "the workload `sona` runs the recipe's learning loops, and there is no section `sona`";
        report.error(&["sona", path], "needs", message, "add `sona: {instant: {}}`");
    }
    if stream.domains.len() < 2 {
        let message = "`sona` needs two domains at least: patterns and forgetting are between domains";
        report.error(&[&domains, path], "needs", message, "add a text such as `builtin:kjv.test`");
    }
    check_domain_names(&stream.domains, &domains, path, report);
}

fn check_domain_names(texts: &[String], domains: &str, path: &str, report: &mut Report<'_>) {
    let names: Vec<&str> = texts.iter().map(|text| Adapt::short(text)).collect();
    for (index, name) in names.iter().enumerate() {
        if names[..index].contains(name) {
            let message = format!("two domains are called `{name}`");
            let hint = "results are stored by that name; rename one file";
            report.error(&[&format!("{domains}[{index}]"), path], "duplicate-name", message, hint);
        }
    }
}

fn check_kv_cache(recipe: &Recipe, report: &mut Report<'_>) {
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
    let Some(pressure) = &cache.pressure else { return };
    if cache.budget.is_none() {
        let message = "`kv_cache.pressure` acts when a budget runs out, and there is none";
        report.error(&["kv_cache.pressure"], "needs", message, "add `budget: 512MiB` to `kv_cache`");
    }
    check_stages(pressure, report);
    check_tiers(pressure, report);
    if let Some(low) = pressure.low_watermark.filter(|low| *low > pressure.high_watermark) {
        let message = format!("`low_watermark` is {low}, above `high_watermark`, {}", pressure.high_watermark);
        let hint = "a policy begins at the high one and stops at the low one";
        report.error(&["kv_cache.pressure.low_watermark"], "pressure", message, hint);
    }
    let kept = pressure.sinks.saturating_add(pressure.window).saturating_add(2 * cache.page_tokens);
    if let Some(context) = recipe.model.context_length.filter(|context| evicts(pressure) && kept > *context) {
        let message = format!(
            "{} sinks and a window of {} leave nothing to evict in a context of {context}",
            pressure.sinks, pressure.window
        );
        let hint = "make `window` smaller, two pages smaller than the context at least";
        report.error(&["kv_cache.pressure.window"], "pressure", message, hint);
    }
}

fn evicts(pressure: &Pressure) -> bool {
    pressure.steps().iter().any(|step| matches!(step, PressurePolicy::Evict | PressurePolicy::H2o))
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

fn check_rope(recipe: &Recipe, report: &mut Report<'_>) {
    let rope = &recipe.rope;
    match (rope.scaling, rope.factor) {
        (Some(RopeScaling::Linear | RopeScaling::Ntk | RopeScaling::Yarn | RopeScaling::Llama3), None) => {
            let message = "this scaling needs `rope.factor`, by which the context grows";
            report.error(&["rope.scaling"], "needs", message, "add `factor: 2.0` to `rope`");
        }
        (None | Some(RopeScaling::None), Some(_)) => {
            let message = "`rope.factor` says nothing without a scaling";
            report.error(&["rope.factor"], "needs", message, "add `scaling: linear`, `ntk` or `yarn` to `rope`");
        }
        _ => {}
    }
    if rope.scaling.is_none() && rope.original_context_length.is_some() {
        let message = "`rope.original_context_length` says nothing without a scaling";
        let hint = "add `scaling:` to `rope`, or take it out";
        report.error(&["rope.original_context_length"], "needs", message, hint);
    }
}
