//! Content hashes: what makes two cells the same.
use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde_json::{Value, json};

use crate::{
    metrics::METRIC_SCHEMA_VERSION,
    recipe::{Recipe, schema::Device},
};

use super::{ModelIdentity, Reference, set_name};

/// Recipe keys that cannot change a result: names for people, how often to repeat, what to compare
/// with, what to check first.
const COSMETIC: [&str; 7] = ["schema", "name", "description", "tags", "extends", "matrix", "baseline"];

/// Returns the BLAKE3, in hexadecimal, of everything that can change a cell's result but the machine.
///
/// Weights and texts stand for themselves by content, so moving a file keeps the hash; threads stay
/// as written, since `auto` resolves by machine; the kernel set is the one that runs, since what
/// `auto` picks changes what is measured.
#[must_use]
pub(super) fn cell_hash(
    recipe: &Recipe,
    kernel_set: &str,
    model: &ModelIdentity,
    texts: &IndexMap<String, String>,
    references: &IndexMap<String, Reference>,
) -> String {
    let mut hashed = recipe.clone();
    for (_, text) in hashed.texts_mut() {
        if let Some(hash) = texts.get(text) {
            text.clone_from(hash);
        }
    }
    let mut tree = serde_json::to_value(hashed).unwrap_or(Value::Null);
    if let Some(map) = tree.as_object_mut() {
        for key in COSMETIC {
            map.shift_remove(key);
        }
        map.insert("weights".to_owned(), model.weights_hash.clone().into());
        map.insert("context_length".to_owned(), model.context_length.into());
        map.insert("metric_schema_version".to_owned(), METRIC_SCHEMA_VERSION.into());
    }
    set(&mut tree, "/kernels/set", kernel_set.into());
    remove(&mut tree, "/measure", "launches");
    remove(&mut tree, "/measure", "order");
    remove(&mut tree, "/measure", "token_trace");
    // It lets a cell run and changes nothing of it.
    remove(&mut tree, "/kv_cache", "force");
    if !recipe.kv_cache.prefix_sharing {
        // Cells stored before there was this key are the same.
        remove(&mut tree, "/kv_cache", "prefix_sharing");
    }
    if recipe.kernels.device == Device::Cpu {
        // Likewise.
        remove(&mut tree, "/kernels", "device");
    }
    if recipe.adapter.as_ref().is_some_and(|adapter| adapter.compose.is_none()) {
        // Likewise.
        remove(&mut tree, "/adapter", "compose");
    }
    remove(&mut tree, "/continual", "data_folder");
    remove(&mut tree, "/model", "source");
    remove(&mut tree, "/model", "revision");
    if let Some(adapter) = &model.adapter {
        // The file says all of it: rank, scale and matrices.
        set(&mut tree, "/adapter", json!({"content": adapter.hash}));
    } else if let Some(hash) = recipe.adapter.as_ref().and_then(|adapter| texts.get(adapter.init.as_ref()?)) {
        set(&mut tree, "/adapter/init", hash.clone().into());
    }
    if let Some(hash) = recipe.sona.as_ref().and_then(|sona| texts.get(sona.init.as_ref()?)) {
        set(&mut tree, "/sona/init", hash.clone().into());
    }
    if let Some(workloads) = tree.pointer_mut("/workloads").and_then(Value::as_array_mut) {
        for (workload, written) in workloads.iter_mut().zip(&recipe.workloads) {
            if let Some(Reference { model, kernel_set }) = references.get(&written.to_string()) {
                let mut content = json!({"weights": model.weights_hash, "kernels": set_name(*kernel_set)});
                if let Some(adapter) = &model.adapter {
                    content["adapter"] = adapter.hash.clone().into();
                }
                set(workload, "/kl_divergence/reference", content);
            }
        }
    }
    blake3::hash(canonical(&tree).to_string().as_bytes()).to_hex().to_string()
}

fn set(tree: &mut Value, pointer: &str, value: Value) {
    if let Some(place) = tree.pointer_mut(pointer) {
        *place = value;
    }
}

fn remove(tree: &mut Value, pointer: &str, key: &str) {
    if let Some(map) = tree.pointer_mut(pointer).and_then(Value::as_object_mut) {
        map.shift_remove(key);
    }
}

/// Returns the value with all keys sorted, so that order of writing does not matter.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, Value> = map.iter().map(|(key, value)| (key, canonical(value))).collect();
            Value::Object(sorted.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::schema::KernelSet;

    fn identity(weights_hash: &str) -> ModelIdentity {
        ModelIdentity {
            source: "builtin:pico".into(),
            name: "pico".into(),
            architecture: "llama".into(),
            weights_hash: weights_hash.into(),
            format: "q8_0".into(),
            weights_bytes: 1,
            parameters: 1,
            context_length: 512,
            path: "builtin:pico".into(),
            commit: None,
            synthetic: false,
            adapter: None,
        }
    }

    fn hash(change: impl FnOnce(&mut Value)) -> String {
        let mut tree = json!({
            "schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"},
            "workloads": [{"perplexity": {"text": "builtin:heldout"}}, {"decode": {}}],
        });
        change(&mut tree);
        let recipe: Recipe = serde_json::from_value(tree).unwrap();
        let texts = IndexMap::from([("builtin:heldout".to_owned(), "t".to_owned())]);
        cell_hash(&recipe, "candle", &identity("w"), &texts, &IndexMap::new())
    }

    #[test]
    fn a_reference_counts_by_its_weights_and_kernels_and_not_by_its_name() {
        let hash = |reference: Value, weights: &str, kernel_set: KernelSet| {
            let recipe: Recipe = serde_json::from_value(json!({
                "schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"},
                "workloads": [{"kl_divergence": {"reference": reference}}],
            }))
            .unwrap();
            let reference = Reference { model: identity(weights), kernel_set };
            let references = IndexMap::from([(recipe.workloads[0].to_string(), reference)]);
            let texts = IndexMap::from([("builtin:heldout".to_owned(), "t".to_owned())]);
            cell_hash(&recipe, "candle", &identity("w"), &texts, &references)
        };
        let plain = hash(json!({"source": "a.gguf"}), "r", KernelSet::Candle);
        assert_eq!(plain, hash(json!({"source": "elsewhere/b.gguf", "kernels": "candle"}), "r", KernelSet::Candle));
        assert_ne!(plain, hash(json!({"source": "a.gguf"}), "changed", KernelSet::Candle));
        assert_ne!(plain, hash(json!({"source": "a.gguf"}), "r", KernelSet::Reference));
    }

    #[test]
    fn cosmetic_keys_keep_the_hash_and_others_change_it() {
        let plain = hash(|_| {});
        assert_eq!(plain, hash(|tree| tree["name"] = "y".into()));
        assert_eq!(plain, hash(|tree| tree["measure"] = json!({"launches": {"min": 9, "max": 9}})));
        assert_eq!(plain, hash(|tree| tree["model"]["source"] = "elsewhere/pico.gguf".into()));
        assert_eq!(plain, hash(|tree| tree["model"] = json!({"source": "hf:a/b", "revision": "v1"})));
        assert_ne!(plain, hash(|tree| tree["kernels"] = json!({"threads": 1})));
        assert_ne!(plain, hash(|tree| tree["kernels"] = json!({"verify": {"reference": null}})));
        assert_ne!(plain, hash(|tree| tree["seeds"] = json!([1])));
        assert_ne!(plain, hash(|tree| tree["rope"] = json!({"theta": 2e4})));
        assert_ne!(plain, hash(|tree| tree["rope"] = json!({"scaling": "ntk", "factor": 2.0})));
        assert_ne!(plain, hash(|tree| tree["workloads"][1] = json!({"decode": {"output_tokens": 65}})));
        assert_ne!(plain, hash(|tree| tree["measure"] = json!({"warmup": 0})));
    }
}
