use std::fs;

use candle_core::Device;
use serde_json::{Value, json};

use super::*;
use crate::{
    adapt::train::fresh,
    engine::{LowRank, Place, Target},
    model::{rope::RopeLayout, weights::Weights},
};

#[test]
fn what_is_written_is_read_back_and_rows_are_pefts_on_disk() {
    let weights = Weights::open("builtin:pico").unwrap();
    let spec = weights.spec();
    let mut adapter = fresh(spec, &Target::ALL, 2, 3.0, 1);
    for change in adapter.values_mut() {
        change.b.iter_mut().enumerate().for_each(|(at, b)| *b = at as f32);
    }
    let scaling = Scaling { r: 2, lora_alpha: 6.0, use_rslora: false };
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), spec, "builtin:pico", &adapter, scaling).unwrap();
    assert_eq!(read(folder.path(), spec).unwrap(), (adapter, scaling));
    let tensors = candle_core::safetensors::load(folder.path().join(TENSORS), &Device::Cpu).unwrap();
    let b = tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"].to_vec2::<f32>().unwrap();
    // The second of the first pair stands half a head below the first.
    assert_eq!(spec.rope(0).layout, RopeLayout::Interleaved);
    assert_eq!((b[0][0], b[1][0], b[spec.head_dim / 2][0]), (0.0, 4.0, 2.0));
    let v = tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"].to_vec2::<f32>().unwrap();
    assert_eq!(v[1][0], 2.0);
}

#[test]
fn magnitudes_ranks_and_scales_of_their_own_are_kept() {
    for source in ["builtin:pico", "tests/it/golden/phi3-longrope"] {
        let weights = Weights::open(source).unwrap();
        let spec = weights.spec();
        let mut adapter = fresh(spec, &[Target::Query, Target::Key, Target::Value, Target::Down], 2, 3.0, 1);
        for (place, change) in &mut adapter {
            change.b.iter_mut().enumerate().for_each(|(at, b)| *b = at as f32);
            change.magnitude = Some((0..place.target.shape(spec).0).map(|row| 1.0 + row as f32).collect());
            // Parts of one matrix have one A.
            change.a = fresh(spec, &[Target::Query], 2, 3.0, 1)[&Place { layer: 0, target: Target::Query }].a.clone();
            if place.target == Target::Down {
                *change = LowRank { scale: 0.7, ..fresh(spec, &[Target::Down], 5, 0.7, 2)[place].clone() };
                change.magnitude = Some(vec![2.0; spec.hidden_size]);
            }
        }
        let scaling = Scaling { r: 2, lora_alpha: 6.0, use_rslora: false };
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), spec, source, &adapter, scaling).unwrap();
        assert_eq!(read(folder.path(), spec).unwrap(), (adapter.clone(), scaling), "{source}");
        let config: Value = serde_json::from_slice(&fs::read(folder.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!(config["use_dora"], true);
        adapter.values_mut().next().unwrap().magnitude = None;
        assert!(write(folder.path(), spec, source, &adapter, scaling).is_err());
    }
}

/// As PEFT matches them: a name, the end of a path, or an expression over the whole path.
#[test]
fn ranks_and_alphas_differ_where_a_pattern_fits() {
    let weights = Weights::open("builtin:pico").unwrap();
    let spec = weights.spec();
    let folder = tempfile::tempdir().unwrap();
    let adapter = fresh(spec, &[Target::Query, Target::Down], 2, 4.0, 1);
    let scaling = Scaling { r: 2, lora_alpha: 8.0, use_rslora: false };
    write(folder.path(), spec, "x", &adapter, scaling).unwrap();
    let path = folder.path().join(CONFIG);
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["r"] = json!(7);
    config["rank_pattern"] = json!({"q_proj": 2, r"model\.layers\.\d+\.mlp\.down_proj": 2, "proj": 9});
    config["alpha_pattern"] = json!({"layers.0.mlp.down_proj": 3, "own_proj": 5});
    fs::write(&path, config.to_string()).unwrap();
    let (found, _) = read(folder.path(), spec).unwrap();
    assert_eq!(found.len(), adapter.len());
    for (place, part) in found {
        let alpha = if place == (Place { layer: 0, target: Target::Down }) { 3.0 } else { 8.0 };
        assert_eq!((part.rank, part.scale), (2, alpha / 2.0), "{place}");
        assert!(part.a == adapter[&place].a, "{place}");
    }
}

#[test]
fn what_is_not_computed_is_refused() {
    let weights = Weights::open("builtin:pico").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let adapter = fresh(weights.spec(), &[Target::Down], 2, 1.0, 1);
    let scaling = Scaling { r: 2, lora_alpha: 2.0, use_rslora: true };
    write(folder.path(), weights.spec(), "x", &adapter, scaling).unwrap();
    let path = folder.path().join(CONFIG);
    let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("use_dora", json!(true)),
        ("rank_pattern", json!({"down_proj": 3})),
        ("alpha_pattern", json!({"down_proj": "x"})),
        ("rank_pattern", json!({"(": 3})),
        ("bias", json!("all")),
        ("r", json!(3)),
        ("r", json!(0)),
        ("lora_alpha", json!("x")),
    ] {
        let mut config = good.clone();
        config[key] = value;
        fs::write(&path, config.to_string()).unwrap();
        assert!(read(folder.path(), weights.spec()).is_err(), "{key}");
    }
    fs::write(&path, good.to_string()).unwrap();
    assert!(read(folder.path(), weights.spec()).is_ok());
    fs::write(folder.path().join(TENSORS), b"no tensors").unwrap();
    assert!(read(folder.path(), weights.spec()).is_err());
}
