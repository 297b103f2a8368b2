//! What to call a cell: by what varies, and nothing else.
mod parts;

use serde_json::Value;

use crate::{recipe::schema::KernelSet, results::Manifest};

/// Returns a kernel set's name, as written in recipes.
pub(super) fn kernel_set_name(set: KernelSet) -> String {
    serde_json::to_value(set).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Returns an axis value as text; `auto` says what it became.
fn axis_text(manifest: &Manifest, key: &str, value: &Value) -> String {
    match value {
        Value::String(text) if key == "kernels.set" && text == "auto" => {
            format!("auto ({})", kernel_set_name(manifest.kernel_set))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What distinguishes cells: a key and each cell's value, in the cells' order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) key: String,
    pub(super) values: Vec<String>,
}

impl Axis {
    fn varies(&self) -> bool {
        self.values.windows(2).any(|pair| pair[0] != pair[1])
    }

    /// Leaves out what all values begin with, up to a `:` or `/`.
    fn leave_out_common_start(&mut self) {
        let Some((first, others)) = self.values.split_first() else { return };
        let same = |other: &String| first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        let same = others.iter().map(same).min().unwrap_or(0);
        let start = first.as_bytes()[..same].iter().rposition(|byte| matches!(byte, b':' | b'/'));
        for value in &mut self.values {
            value.drain(..start.map_or(0, |at| at + 1));
        }
    }

    /// Returns the last part of the key.
    pub(super) fn short_key(&self) -> &str {
        self.key.rsplit('.').next().unwrap_or(&self.key)
    }
}

/// Returns the axes that tell the cells apart: matrix axes that vary, then, only where those are not
/// enough, other facts that vary, and last the run itself.
pub(super) fn varying_axes(manifests: &[&Manifest]) -> Vec<Axis> {
    let mut keys: Vec<&str> = Vec::new();
    for key in manifests.iter().flat_map(|manifest| manifest.axes.keys()) {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let from_matrix = keys.into_iter().map(|key| {
        let given: Vec<Option<&Value>> = manifests.iter().map(|m| m.axes.get(key)).collect();
        let values = if given.iter().flatten().any(|value| value.is_object() || value.is_array()) {
            parts::differences(&given)
        } else {
            let text = |(m, value): (&&Manifest, &Option<&Value>)| {
                value.map_or_else(|| "-".to_owned(), |value| axis_text(m, key, value))
            };
            manifests.iter().zip(&given).map(text).collect()
        };
        Axis { key: key.to_owned(), values }
    });
    let mut axes: Vec<Axis> = from_matrix.filter(Axis::varies).collect();
    // Where all are one model, the title names it.
    if manifests.windows(2).all(|pair| pair[0].model.name == pair[1].model.name) {
        axes.iter_mut().filter(|axis| axis.key == "model.source").for_each(Axis::leave_out_common_start);
    }
    for (key, fact) in FACTS {
        if are_distinct(&axes, manifests.len()) {
            break;
        }
        let axis = Axis { key: (*key).to_owned(), values: manifests.iter().map(|m| fact(m)).collect() };
        if axis.varies() {
            axes.push(axis);
        }
    }
    axes
}

type Fact = fn(&Manifest) -> String;

const FACTS: &[(&str, Fact)] = &[
    ("model", |m| m.model.name.clone()),
    ("format", |m| m.model.format.clone()),
    ("kernels", |m| kernel_set_name(m.kernel_set)),
    ("threads", |m| m.threads.to_string()),
    ("seed", |m| m.seed.to_string()),
    ("recipe", |m| m.recipe.clone()),
    ("machine", |m| m.host.cpu.clone()),
    ("build", |m| m.host.build()),
    ("run", |m| short_run_id(&m.run_id).to_owned()),
];

/// Returns the end of a run id, which differs where the beginning (a time) does not.
pub(super) fn short_run_id(run_id: &str) -> &str {
    run_id.char_indices().rev().nth(7).map_or(run_id, |(at, _)| &run_id[at..])
}

fn are_distinct(axes: &[Axis], cells: usize) -> bool {
    let row = |cell: usize| axes.iter().map(move |axis| &axis.values[cell]);
    (0..cells).all(|a| (a + 1..cells).all(|b| row(a).ne(row(b))))
}

/// Returns a short name for each cell: the values of what varies, with the key where the value alone
/// says little (`threads=4`). A single cell is called by its model, format and kernel set.
#[must_use]
pub fn cell_labels(manifests: &[&Manifest]) -> Vec<String> {
    let axes = varying_axes(manifests);
    let speaks = |value: &str| value != "-" && value.parse::<f64>().is_err() && value != "true" && value != "false";
    manifests
        .iter()
        .enumerate()
        .map(|(cell, manifest)| {
            if axes.is_empty() {
                return format!(
                    "{} {} {}",
                    manifest.model.name,
                    manifest.model.format,
                    kernel_set_name(manifest.kernel_set)
                );
            }
            let parts = axes.iter().map(|axis| {
                let value = &axis.values[cell];
                let is_plain = axis.values.iter().all(|value| speaks(value));
                if is_plain { value.clone() } else { format!("{}={value}", axis.short_key()) }
            });
            parts.collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// Returns what all cells have in common, in one line: model, format, kernels, threads, processor.
pub(super) fn common_facts(manifests: &[&Manifest]) -> String {
    let shared = |fact: fn(&Manifest) -> String| {
        let first = fact(manifests.first()?);
        manifests.iter().all(|m| fact(m) == first).then_some(first)
    };
    let facts: [fn(&Manifest) -> String; 5] = [
        |m| m.model.name.clone(),
        |m| m.model.format.clone(),
        |m| format!("{} kernels", kernel_set_name(m.kernel_set)),
        |m| super::number::count(usize::from(m.threads), "thread", "threads"),
        |m| m.host.cpu.clone(),
    ];
    facts.into_iter().filter_map(shared).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" · ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing::manifest;

    fn with(axes: &[(&str, Value)]) -> Manifest {
        Manifest { axes: axes.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(), ..manifest() }
    }

    #[test]
    fn values_with_parts_are_called_by_the_parts_that_differ() {
        let labels = |key: &str, values: &[&str]| {
            let manifests: Vec<Manifest> =
                values.iter().map(|json| with(&[(key, serde_json::from_str(json).unwrap())])).collect();
            cell_labels(&manifests.iter().collect::<Vec<_>>())
        };
        let policies = [
            r#"{"policy": "spill", "window": 128}"#,
            r#"{"policy": "hybrid", "stages": ["quantize", "spill"], "window": 128}"#,
            r#"{"policy": "hybrid", "stages": ["quantize", "evict"], "window": 128}"#,
        ];
        assert_eq!(
            labels("kv_cache.pressure", &policies),
            ["policy=spill", "policy=hybrid stages=quantize+spill", "policy=hybrid stages=quantize+evict"]
        );
        let tiers = [
            r#"[{"tokens": 256, "type_k": "f16"}, {"type_k": "q8_0"}]"#,
            r#"[{"tokens": 256, "type_k": "f16"}, {"type_k": "q4_0"}]"#,
        ];
        assert_eq!(labels("kv_cache.pressure.tiers", &tiers), ["type_k=q8_0", "type_k=q4_0"]);
        assert_eq!(labels("data.mix", &["[1, 2]", "[1]", "null"]), ["mix=1+2", "mix=1", "mix=null"]);
    }

    #[test]
    fn labels_name_only_what_varies() {
        let a = with(&[("kernels.set", "auto".into()), ("quantization.format", "q8_0".into()), ("seed", 1.into())]);
        let b =
            with(&[("kernels.set", "reference".into()), ("quantization.format", "q8_0".into()), ("seed", 1.into())]);
        assert_eq!(cell_labels(&[&a, &b]), ["auto (avx2)", "reference"]);
    }

    #[test]
    fn sources_of_one_model_leave_out_what_they_share() {
        let of = |source: &str| with(&[("model.source", source.into()), ("kernels.set", "reference".into())]);
        let (a, mut b) = (of("synthetic:qwen2.5-0.5b:q8_0"), of("synthetic:qwen2.5-0.5b:q4_k"));
        assert_eq!(cell_labels(&[&a, &b]), ["q8_0", "q4_k"]);
        b.model.name = "another".to_owned();
        assert_eq!(cell_labels(&[&a, &b]), ["synthetic:qwen2.5-0.5b:q8_0", "synthetic:qwen2.5-0.5b:q4_k"]);
        let (a, b) = (of("models/é.gguf"), of("models/è.gguf"));
        assert_eq!(cell_labels(&[&a, &b]), ["é.gguf", "è.gguf"]);
        let (a, b) = (of("a.gguf"), with(&[("kernels.set", "candle".into())]));
        assert_eq!(cell_labels(&[&a, &b]), ["source=a.gguf reference", "source=- candle"]);
    }

    #[test]
    fn numbers_are_named() {
        let a = with(&[("kernels.threads", 1.into())]);
        let b = with(&[("kernels.threads", "auto".into())]);
        assert_eq!(cell_labels(&[&a, &b]), ["threads=1", "threads=auto"]);
    }

    #[test]
    fn cells_without_axes_are_told_apart_by_facts_and_at_last_by_run() {
        let (a, mut b) = (manifest(), manifest());
        b.model.format = "q4_0".to_owned();
        assert_eq!(cell_labels(&[&a, &b]), ["q8_0", "q4_0"]);
        let c = Manifest { run_id: "0190aaaa-0000-7000-8000-0000deadbeef".to_owned(), ..manifest() };
        let labels = cell_labels(&[&a, &c]);
        assert_ne!(labels[0], labels[1]);
        assert!(labels[1].contains("deadbeef"));
    }

    #[test]
    fn a_single_cell_is_called_by_its_facts() {
        assert_eq!(cell_labels(&[&manifest()]), ["pico q8_0 avx2"]);
        assert!(cell_labels(&[]).is_empty());
    }
}
