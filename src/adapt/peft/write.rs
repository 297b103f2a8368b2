//! Writing a folder.
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use candle_core::{Device, Tensor};
use serde_json::json;

use super::{
    CONFIG, PeftError, TENSORS,
    modules::{holder, key, magnitude_key, module_path, reordered},
    scaling::Scaling,
};
use crate::{
    adapt::file::{Stored, joined},
    engine::{Adapter, LowRank},
    model::spec::ModelSpec,
};

/// A module's name, and the changes of the matrices it holds.
type Held = (&'static str, Vec<(Stored, LowRank)>);

/// Writes a folder, which is made if need be. Changes whose rank or scale is not that of `scaling` are
/// named in its `rank_pattern` and `alpha_pattern`.
///
/// # Errors
///
/// If a file cannot be written, or only some changes are decomposed (DoRA): a folder says it of all.
pub fn write(
    folder: &Path,
    spec: &ModelSpec,
    base: &str,
    adapter: &Adapter,
    scaling: Scaling,
) -> Result<(), PeftError> {
    let refuse = |problem: String| PeftError::Unsupported { path: folder.display().to_string(), problem };
    let decomposed = adapter.values().filter(|change| change.magnitude.is_some()).count();
    if decomposed != 0 && decomposed != adapter.len() {
        return Err(refuse(format!("{decomposed} of {} changes are decomposed (DoRA)", adapter.len())));
    }
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for (place, change) in adapter {
        let stored = Stored::of(spec, *place).ok_or_else(|| refuse(format!("the model has no {place}")))?;
        let b = reordered(spec, *place, change.rank, change.b.clone(), false);
        let magnitude = change.magnitude.clone().map(|values| reordered(spec, *place, 1, values, false));
        let part = LowRank { b, magnitude, ..change.clone() };
        let name = holder(spec, place.target);
        held.entry(module_path(spec, *place)).or_insert_with(|| (name, Vec::new())).1.push((stored, part));
    }
    let (mut tensors, mut modules) = (HashMap::new(), Vec::new());
    let (mut ranks, mut alphas) = (serde_json::Map::new(), serde_json::Map::new());
    for (path, (name, parts)) in held {
        let parts: Vec<(Stored, &LowRank)> = parts.iter().map(|(stored, part)| (stored.clone(), part)).collect();
        let LowRank { rank, scale, a, b, magnitude } = joined(&parts);
        // Parts of one matrix with an A of their own each make a larger rank, too.
        let own = Scaling { r: rank, ..scaling };
        if rank != scaling.r {
            ranks.insert(path.clone(), json!(rank));
        }
        if (own.factor() as f32).to_bits() != scale.to_bits() {
            alphas.insert(path.clone(), json!(own.alpha_of(scale)));
        }
        if let Some(magnitude) = magnitude {
            let rows = magnitude.len();
            tensors.insert(magnitude_key(&path), Tensor::from_vec(magnitude, rows, &Device::Cpu)?);
        }
        let (width, out) = (a.len() / rank, b.len() / rank);
        tensors.insert(key(&path, "lora_A"), Tensor::from_vec(a, (rank, width), &Device::Cpu)?);
        tensors.insert(key(&path, "lora_B"), Tensor::from_vec(b, (out, rank), &Device::Cpu)?);
        if !modules.contains(&name) {
            modules.push(name);
        }
    }
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": scaling.r,
        "lora_alpha": scaling.lora_alpha,
        "use_rslora": scaling.use_rslora,
        "use_dora": decomposed > 0,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "target_modules": modules,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "modules_to_save": null,
    });
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error| PeftError::File { path, error }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    candle_core::safetensors::save(&tensors, folder.join(TENSORS))?;
    let path = folder.join(CONFIG);
    fs::write(&path, serde_json::to_vec_pretty(&config)?).map_err(failed(&path))
}
