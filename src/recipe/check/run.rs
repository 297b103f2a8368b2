//! Rules of what runs: workloads, context, positions, launches.
use super::{Report, kv_cache};
use crate::recipe::schema::{
    Adapt, Decode, KlDivergence, KvPressure, Perplexity, Prefill, Recipe, RopeScaling, SonaStream, Workload,
};

pub(super) fn check(recipe: &Recipe, report: &mut Report<'_>) {
    check_workloads(recipe, report);
    kv_cache::check(recipe, report);
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
                // The last token is never fed back.
                let tokens = (u64::from(*prompt_tokens) + u64::from(*output_tokens)).saturating_sub(1);
                let words = format!(
                    "{prompt_tokens} prompt and {output_tokens} output tokens need a context of {tokens}, more than"
                );
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
                kv_cache::check_workload(pressure, &path, recipe, report);
                let tokens = u64::from(pressure.context(&recipe.kv_cache));
                let (words, key) = if tokens == u64::from(*n_ctx) {
                    (format!("texts of {n_ctx} tokens are longer than"), "n_ctx")
                } else {
                    let requests = format!("requests of {prompt_tokens} and {output_tokens} tokens");
                    (format!("{requests}, half as many again at most, are longer than"), "prompt_tokens")
                };
                (tokens, words, format!("{path}.kv_pressure.{key}"))
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
