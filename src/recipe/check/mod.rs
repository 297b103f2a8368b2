//! Rules between keys that need no weights. All run, so all problems show at once; each names the
//! key to look at and the way out.
mod continual;
mod kv_cache;
mod learning;
mod matrix;
mod run;

pub(crate) use matrix::{FIXED, check as matrix};

use serde_json::Value;

use super::path::KeyPath;
use super::problem::Problem;
use super::schema::Recipe;
use crate::diag::{Diagnostic, Severity};

/// Reports what is wrong between the keys of one recipe. `given` is the recipe as written and
/// merged, to tell a key that was set from its default.
pub(crate) fn recipe(recipe: &Recipe, given: &Value) -> Vec<Problem> {
    let mut report = Report { given, problems: Vec::new() };
    identity(recipe, &mut report);
    learning::check(recipe, &mut report);
    run::check(recipe, &mut report);
    report.problems
}

/// The problems so far, and what the user wrote.
struct Report<'a> {
    given: &'a Value,
    problems: Vec<Problem>,
}

impl Report<'_> {
    /// Returns whether something is written at a path.
    fn was_given(&self, path: &str) -> bool {
        let path = KeyPath::parse(path).unwrap_or_default();
        path.get(self.given).is_some_and(|value| !value.is_null())
    }

    /// Adds an error at the first of `paths` that was written, or else at the first.
    fn error(&mut self, paths: &[&str], code: &str, message: impl Into<String>, hint: &str) {
        let parsed: Vec<_> = paths.iter().map(|path| KeyPath::parse(path).unwrap_or_default()).collect();
        let written = parsed.iter().find(|path| path.get(self.given).is_some_and(|value| !value.is_null()));
        let path = written.or(parsed.first()).cloned().unwrap_or_default();
        self.problems.push(Problem::value(path, code, message).hint(hint));
    }

    /// Adds a warning, likewise.
    fn warning(&mut self, paths: &[&str], code: &str, message: impl Into<String>, hint: &str) {
        self.error(paths, code, message, hint);
        if let Some(problem) = self.problems.last_mut() {
            problem.diagnostic = Diagnostic { severity: Severity::Warning, ..problem.diagnostic.clone() };
        }
    }
}

fn identity(recipe: &Recipe, report: &mut Report<'_>) {
    let name = &recipe.name;
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !fits || name.is_empty() || name.len() > 100 || name.starts_with(['.', '-']) {
        let message = format!("`{name}` cannot name a folder of results");
        let hint = "give it a `name:` of at most 100 letters, digits, `-`, `_` and `.`, that starts with a letter, a digit or `_`";
        report.error(&["name"], "name", message, hint);
    }
    let seeds = &recipe.seeds;
    if seeds.is_empty() {
        report.error(&["seeds"], "seeds", "`seeds` is an empty list, so nothing would run", "write `seeds: [0]`");
    }
    for (index, seed) in seeds.iter().enumerate() {
        if seeds[..index].contains(seed) {
            let message = format!("the seed {seed} stands in the list twice");
            let hint = "the same seed gives the same run; use another number";
            report.error(&[&format!("seeds[{index}]")], "seeds", message, hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns the codes of what is wrong with a recipe that has these keys more.
    fn codes(more: &Value) -> Vec<String> {
        let mut given = json!({"schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"}});
        given["workloads"] = json!([{"decode": {}}]);
        for (key, value) in more.as_object().unwrap() {
            given[key] = value.clone();
        }
        let typed = serde_json::from_value(given.clone()).unwrap();
        recipe(&typed, &given).into_iter().map(|problem| problem.diagnostic.code).collect()
    }

    #[test]
    fn a_plain_recipe_has_no_problems() {
        assert_eq!(codes(&json!({})), [""; 0]);
    }

    #[test]
    fn what_has_no_effect_is_a_warning() {
        let given = json!({"sampling": {"top_k": 5}, "measure": {"launches": {"min": 1, "max": 1}}});
        assert_eq!(codes(&given), ["launches", "no-effect"]);
        let given = json!({"model": {"source": "hf:a/b"}});
        assert_eq!(codes(&given), ["unpinned"]);
        assert_eq!(codes(&json!({"model": {"source": "hf:a/b", "revision": "abc"}})), [""; 0]);
    }

    #[test]
    fn training_may_run_without_workloads() {
        assert_eq!(codes(&json!({"workloads": []})), ["empty-list"]);
        assert_eq!(codes(&json!({"workloads": [], "training": {"learning_rate": 1e-4}})), [""; 0]);
    }

    #[test]
    fn an_adapter_is_trained_or_read() {
        let adapter = |more: Value| json!({"target_modules": ["q_proj"], "init": more});
        assert_eq!(codes(&json!({"adapter": adapter(Value::Null)})), ["needs"]);
        assert_eq!(codes(&json!({"adapter": adapter(json!("a"))})), [""; 0]);
    }

    #[test]
    fn policies_have_what_they_need_and_nothing_they_ignore() {
        let cache = |more: Value| json!({"kv_cache": {"budget": "1GiB", "pressure": more}});
        let tier = |tokens: u32| json!({"tokens": tokens, "type_k": "f16", "type_v": "f16"});
        let tiers = json!([tier(256), {"type_k": "q8_0", "type_v": "q4_0"}]);
        assert_eq!(codes(&cache(json!({"policy": "quantize", "tiers": tiers, "low_watermark": 0.5}))), [""; 0]);
        let young = json!([tier(64), {"type_k": "q8_0", "type_v": "q4_0"}]);
        assert_eq!(codes(&cache(json!({"policy": "quantize", "tiers": young}))), ["no-effect"]);
        assert_eq!(codes(&cache(json!({"policy": "quantize", "tiers": young, "window": 64}))), [""; 0]);
        let wider = json!([{"tokens": 256, "type_k": "q8_0", "type_v": "q8_0"}, {"type_k": "f16", "type_v": "q4_0"}]);
        assert_eq!(codes(&cache(json!({"policy": "quantize", "tiers": wider}))), ["no-effect"]);
        for unread in [
            json!({"policy": "spill", "window": 64}),
            json!({"policy": "spill", "sinks": 4}),
            json!({"policy": "reject", "high_watermark": 0.9}),
            json!({"policy": "evict", "spill_limit": "1GiB"}),
        ] {
            assert_eq!(codes(&cache(unread.clone())), ["no-effect"], "{unread}");
        }
        let all = json!({"policy": "hybrid", "stages": ["quantize", "spill", "reject"], "window": 64, "sinks": 4,
            "high_watermark": 0.9, "spill_limit": "1GiB"});
        assert_eq!(codes(&cache(all)), [""; 0]);
        assert_eq!(codes(&json!({"kv_cache": {"prefix_sharing": true}})), ["needs"]);
        assert_eq!(codes(&cache(json!({"policy": "evict", "tiers": tiers}))), ["pressure"]);
        let endless = json!([tier(256)]);
        assert_eq!(codes(&cache(json!({"policy": "quantize", "tiers": endless}))), ["pressure"]);
        assert_eq!(codes(&cache(json!({"policy": "spill", "low_watermark": 0.9}))), ["pressure"]);
        assert_eq!(codes(&json!({"kv_cache": {"page_tokens": 24}})), ["page-tokens"]);
        let mut narrow = cache(json!({"policy": "evict", "window": 128}));
        narrow["model"] = json!({"source": "builtin:pico", "context_length": 192});
        assert_eq!(codes(&narrow), ["pressure"]);
        let workload = json!({"workloads": [{"kv_pressure": {}}]});
        assert_eq!(codes(&workload), ["needs"]);
        // A request that loses tokens may outgrow the context, a text may not.
        let outgrown = |policy: &str, n_ctx: u32| {
            let mut given = cache(json!({"policy": policy}));
            given["model"] = json!({"source": "builtin:pico", "context_length": 512});
            given["workloads"] = json!([{"kv_pressure": {"prompt_tokens": 800, "n_ctx": n_ctx}}]);
            codes(&given)
        };
        assert_eq!(outgrown("spill", 512), ["context-length"]);
        assert_eq!((outgrown("evict", 512), outgrown("h2o", 513)), (vec![], vec!["context-length".to_owned()]));
    }

    #[test]
    fn limits_are_inclusive() {
        let given = |context: u32| json!({"model": {"source": "builtin:pico", "context_length": context}});
        // The last of 128 + 64 tokens is never fed back.
        assert_eq!(codes(&given(191)), [""; 0]);
        assert_eq!(codes(&given(190)), ["context-length"]);
        assert_eq!(codes(&json!({"kv_cache": {"budget": "2048B"}})), [""; 0]);
        assert_eq!(codes(&json!({"kv_cache": {"budget": "2047B"}})), ["budget"]);
        let schedule = |floor: f64| json!({"training": {"learning_rate": 1e-3, "max_steps": 10, "lr_scheduler": {"type": "cosine", "min_lr": floor}}});
        assert_eq!(codes(&schedule(1e-3)), [""; 0]);
        assert_eq!(codes(&schedule(2e-3)), ["schedule"]);
    }
}
