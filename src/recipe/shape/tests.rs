use serde_json::json;

use super::*;

fn problems(value: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    walk(root(), value, &KeyPath::default(), &mut problems);
    problems.into_iter().map(|problem| format!("{}: {}", problem.path, problem.diagnostic.message)).collect()
}

fn recipe(extra: &Value) -> Value {
    let mut value = json!({"schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"}});
    for (key, extra) in extra.as_object().unwrap() {
        value[key] = extra.clone();
    }
    value
}

#[test]
fn a_clean_recipe_has_no_problems_and_is_read() {
    let value = recipe(&json!({
        "workloads": [{"decode": {"output_tokens": 8}}, {"prefill": null}],
        "kernels": {"threads": 4, "verify": {"reference": null}},
        "kv_cache": {"budget": "2GiB"},
        "baseline": {"gates": {"decode_tok_s": "3%"}, "cell": {"kernels.set": "candle"}},
    }));
    assert_eq!(problems(&value), [""; 0]);
    let mut pruned = value;
    prune(root(), &mut pruned);
    let read: super::super::Recipe = serde_json::from_value(pruned).unwrap();
    assert_eq!(read.kernels.verify.reference, None);
    assert_eq!(read.workloads.len(), 2);
}

#[test]
fn all_problems_are_found_at_once() {
    let value = recipe(&json!({
        "kernals": {},
        "model": {"source": 3, "context_length": 1},
        "sampling": {"top_p": 1.5, "top_k": -1},
        "kernels": {"set": "candel", "threads": 0},
        "workloads": [{"decode": {"max_new_tokens": 3}}, "prefill", {"decode": {}, "prefill": {}}, {}],
        "kv_cache": {"budget": 3},
        "training": {},
        "seeds": [1.5],
    }));
    assert_eq!(problems(&value).len(), 14, "{:#?}", problems(&value));
}

#[test]
fn an_empty_optional_section_is_the_default_and_an_empty_required_one_is_missing() {
    assert_eq!(problems(&recipe(&json!({"kernels": null, "training": null}))), [""; 0]);
    assert_eq!(problems(&recipe(&json!({"model": null}))), ["model: `model` has no value"]);
}

#[test]
fn paths_are_followed_through_lists_and_dotted_axes() {
    for (text, path) in [
        ("kernels.set", "kernels.set"),
        ("workloads[0].decode.output_tokens", "workloads[0].decode.output_tokens"),
        ("matrix.axes.kernels.set", "matrix.axes[\"kernels.set\"]"),
        ("matrix.axes[\"kernels.set\"][1]", "matrix.axes[\"kernels.set\"][1]"),
        ("baseline.gates.decode_tok_s", "baseline.gates.decode_tok_s"),
        ("training.lr_scheduler.type", "training.lr_scheduler.type"),
    ] {
        assert_eq!(follow(text).unwrap().0.to_string(), path);
    }
}

#[test]
fn a_path_nothing_has_is_refused_with_a_suggestion() {
    let hint = |text: &str| follow(text).unwrap_err().diagnostic.hint.unwrap_or_default();
    assert_eq!(hint("kernel.set"), "did you mean `kernels`?");
    assert_eq!(hint("threads"), "it belongs elsewhere: `kernels.threads`");
    assert_eq!(hint("workloads[0].decode.max_new_tokens"), "here it is called `output_tokens`");
    assert_eq!(hint("workloads.decode"), "write `workloads[0].decode`");
    assert!(follow("kernels.set.x").is_err());
    assert!(follow("kernels[0]").is_err());
}
