//! What a recipe may say and this version cannot run yet.
use super::schema::{KernelSet, KlReference, Recipe, Workload};

/// Returns each setting that this version of ruvlab cannot run, by its path, and what is missing.
/// Nothing listed here is ignored: a plan refuses a recipe that uses any of it.
#[must_use]
pub fn unimplemented(recipe: &Recipe) -> Vec<(String, String)> {
    let mut used = own(recipe);
    for (index, workload) in recipe.workloads.iter().enumerate() {
        let Workload::KlDivergence(divergence) = workload else { continue };
        let given = |path: &str| {
            let KlReference { source, format: _, kernels } = &divergence.reference;
            match path {
                "model.source" => source.is_some().then_some("source"),
                "kernels.set" => kernels.is_some().then_some("kernels"),
                _ => None,
            }
        };
        // Whatever a cell of the reference's own could not run.
        let theirs = own(&divergence.reference.of(recipe)).into_iter();
        used.extend(theirs.filter_map(|(path, what)| {
            Some((format!("workloads[{index}].kl_divergence.reference.{}", given(&path)?), what))
        }));
    }
    used
}

/// Returns what the recipe's own cell cannot run.
fn own(recipe: &Recipe) -> Vec<(String, String)> {
    let cuda = "ruvlab's CUDA kernels";
    let verifies = recipe.kernels.verify.reference.is_some_and(|set| set == KernelSet::Cuda);
    let learns_tasks = recipe.workloads.iter().any(|workload| matches!(workload, Workload::Continual(_)));
    let streams = recipe.workloads.iter().any(|workload| matches!(workload, Workload::Sona(_)));
    let trains = |workload: &Workload| matches!(workload, Workload::Train(_) | Workload::Continual(_));
    let (training, only_training) = (recipe.workloads.iter().any(trains), recipe.workloads.iter().all(trains));
    let uses = [
        ("kernels.set", recipe.kernels.set == KernelSet::Cuda, cuda),
        ("kernels.verify.reference", verifies, cuda),
        (
            "adapter",
            recipe.adapter.is_some() && recipe.attached().is_none() && !(training && only_training),
            "an adapter without `init` beside workloads that do not train it",
        ),
        ("training", recipe.training.is_some() && !training, "training without a workload that trains"),
        ("continual", recipe.continual.is_some() && !learns_tasks, "tasks without the workload `continual`"),
        ("sona", recipe.sona.is_some() && !streams, "learning loops without the workload `sona`"),
    ];
    let used = uses.into_iter().filter(|(_, used, _)| *used);
    used.map(|(path, _, what)| (path.to_owned(), what.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn paths(more: &serde_json::Value) -> Vec<String> {
        let mut given = json!({"schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"}});
        for (key, value) in more.as_object().unwrap() {
            given[key] = value.clone();
        }
        let recipe = serde_json::from_value(given).unwrap();
        unimplemented(&recipe).into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn defaults_and_f32_caches_can_run() {
        assert_eq!(paths(&json!({})), [""; 0]);
        assert_eq!(paths(&json!({"kv_cache": {"type_k": "f32"}, "kernels": {"set": "candle"}})), [""; 0]);
        assert_eq!(paths(&json!({"rope": {"scaling": "yarn", "factor": 2.0, "theta": 1e4}})), [""; 0]);
        let kernels = json!({"set": "avx2", "verify": {"reference": "scalar"}});
        assert_eq!(paths(&json!({"kv_cache": {"type_k": "f16"}, "kernels": kernels})), [""; 0]);
        let cache = json!({"type_k": "q5_1", "type_v": "q8_0", "page_tokens": 16, "budget": "1GiB", "pressure": {"policy": "h2o"}});
        assert_eq!(paths(&json!({"kv_cache": cache})), [""; 0]);
    }

    #[test]
    fn every_section_to_come_is_listed() {
        let given = json!({
            "model": {"source": "hf:a/b", "revision": "c"},
            "kernels": {"set": "cuda", "verify": {"reference": "cuda"}},
            "adapter": {"target_modules": ["q_proj"]},
            "training": {"learning_rate": 1e-4},
            "continual": {"tasks": []},
            "sona": {},
        });
        assert_eq!(paths(&given).len(), 6);
        let mut given = json!({"adapter": {"target_modules": ["q_proj"]}, "training": {"learning_rate": 1e-4}});
        given["continual"] = json!({"tasks": []});
        given["workloads"] = json!([{"continual": {}}]);
        assert_eq!(paths(&given), [""; 0]);
        for source in ["synthetic:qwen2.5-7b:q4_0", "hf:a/b@main:Q4_0", "/tmp"] {
            assert_eq!(paths(&json!({"model": {"source": source}})), [""; 0]);
        }
    }

    #[test]
    fn training_runs_as_a_workload_and_what_it_lacks_is_named() {
        let with = |adapter: serde_json::Value, workloads: serde_json::Value| json!({"adapter": adapter, "training": {"learning_rate": 1e-4, "max_steps": 2}, "workloads": workloads});
        let plain = json!({"target_modules": ["q_proj"]});
        let train = json!({"train": {"text": "builtin:heldout"}});
        assert_eq!(paths(&with(plain.clone(), json!([train]))), [""; 0]);
        assert_eq!(paths(&with(plain, json!([train, {"decode": {}}]))), ["adapter"]);
        let other = json!({"target_modules": ["q_proj"], "type": "dora"});
        assert_eq!(paths(&with(other, json!([train]))), [""; 0]);
    }

    #[test]
    fn a_reference_that_cannot_run_is_named_where_it_stands() {
        let with = |reference: serde_json::Value| json!({"workloads": [{"decode": {}}, {"kl_divergence": {"reference": reference}}]});
        let at = |key: &str| format!("workloads[1].kl_divergence.reference.{key}");
        assert_eq!(paths(&with(json!({"kernels": "cuda"}))), [at("kernels")]);
        assert_eq!(paths(&with(json!({"kernels": "reference"}))), [""; 0]);
    }
}
