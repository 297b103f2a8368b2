//! Adapters as PEFT stores them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Matrices keep PEFT's names and row order on disk. Files of the architecture `llama` hold the rows of
//! each head's queries and keys interleaved, so B of those places is brought to that order and back.
use std::{collections::HashMap, fs, io, path::Path};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::{
    engine::{Adapter, LowRank, Magnitudes, Place, Target},
    model::{rope::RopeLayout, spec::ModelSpec},
};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";

/// Why a PEFT folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// A file cannot be read or written.
    #[error("adapter file {path}: {error}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The settings are no JSON.
    #[error("{CONFIG} is damaged: {0}")]
    Json(#[from] serde_json::Error),
    /// The tensors cannot be read or written.
    #[error("{TENSORS}: {0}")]
    Tensors(#[from] candle_core::Error),
    /// The adapter has something that is not computed, or that the model has no place for.
    #[error("adapter {path}: {problem}")]
    Unsupported {
        /// The folder.
        path: String,
        /// What.
        problem: String,
    },
}

/// How an adapter is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// The rank.
    pub r: usize,
    /// The numerator.
    pub lora_alpha: f64,
    /// Whether the root of the rank divides it (arXiv 2312.03732).
    pub use_rslora: bool,
}

impl Scaling {
    /// Returns what `B A x` is multiplied by.
    #[must_use]
    pub fn factor(&self) -> f64 {
        let rank = self.r as f64;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }
}

/// Returns a target's name in PEFT.
#[must_use]
pub fn module(target: Target) -> &'static str {
    match target {
        Target::Query => "q_proj",
        Target::Key => "k_proj",
        Target::Value => "v_proj",
        Target::Output => "o_proj",
        Target::Gate => "gate_proj",
        Target::Up => "up_proj",
        Target::Down => "down_proj",
        Target::Head => "lm_head",
    }
}

fn key(place: Place, matrix: &str) -> String {
    let block = match place.target {
        Target::Query | Target::Key | Target::Value | Target::Output => "self_attn.",
        Target::Gate | Target::Up | Target::Down => "mlp.",
        Target::Head => return format!("base_model.model.lm_head.{matrix}.weight"),
    };
    format!("base_model.model.model.layers.{}.{block}{}.{matrix}.weight", place.layer, module(place.target))
}

/// Returns B with its rows in the order of the model's file, or back in PEFT's.
fn reordered(spec: &ModelSpec, place: Place, rank: usize, b: Vec<f32>, to_file: bool) -> Vec<f32> {
    let moved = matches!(place.target, Target::Query | Target::Key);
    if !moved || spec.rope(place.layer).layout != RopeLayout::Interleaved {
        return b;
    }
    let (head, half) = (spec.head_dim, spec.head_dim / 2);
    let mut out = vec![0.0; b.len()];
    for row in 0..b.len() / rank {
        let (start, at) = (row / head * head, row % head);
        let (pair, side) = (at / 2, at % 2);
        let theirs = start + side * half + pair;
        let (from, to) = if to_file { (theirs, row) } else { (row, theirs) };
        out[to * rank..][..rank].copy_from_slice(&b[from * rank..][..rank]);
    }
    out
}

/// Returns the BLAKE3 of a folder's two files, in 64 hexadecimal digits.
///
/// # Errors
///
/// If one cannot be read.
pub fn content_hash(folder: &Path) -> Result<String, PeftError> {
    let mut hasher = blake3::Hasher::new();
    for name in [CONFIG, TENSORS] {
        let path = folder.join(name);
        let failed = |error| PeftError::File { path: path.display().to_string(), error };
        let bytes = fs::read(&path).map_err(failed)?;
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Reads a folder for a model.
///
/// # Errors
///
/// If a file is missing or damaged, or the adapter is of another kind or for another shape.
pub fn read(folder: &Path, spec: &ModelSpec) -> Result<(Adapter, Scaling), PeftError> {
    let refuse = |problem: String| PeftError::Unsupported { path: folder.display().to_string(), problem };
    let path = folder.join(CONFIG);
    let failed = |error| PeftError::File { path: path.display().to_string(), error };
    let config: Value = serde_json::from_slice(&fs::read(&path).map_err(failed)?)?;
    if config["peft_type"] != "LORA" {
        return Err(refuse(format!("it is of the type {}, only LORA is computed", config["peft_type"])));
    }
    for key in ["use_dora", "fan_in_fan_out", "lora_bias"] {
        if config[key] == true {
            return Err(refuse(format!("`{key}` is not computed")));
        }
    }
    for key in ["rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "trainable_token_indices"] {
        let empty = match &config[key] {
            Value::Null => true,
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        if !empty {
            return Err(refuse(format!("`{key}` is not computed")));
        }
    }
    if config["bias"].as_str().is_some_and(|bias| bias != "none") {
        return Err(refuse("biases are not computed".to_owned()));
    }
    let (Some(r), Some(lora_alpha)) = (config["r"].as_u64().filter(|r| *r > 0), config["lora_alpha"].as_f64()) else {
        return Err(refuse("`r` and `lora_alpha` must be numbers".to_owned()));
    };
    let scaling = Scaling { r: r as usize, lora_alpha, use_rslora: config["use_rslora"] == true };
    let mut tensors = candle_core::safetensors::load(folder.join(TENSORS), &Device::Cpu)?;
    let mut adapter = Adapter::new();
    for place in Place::all(spec, &Target::ALL) {
        let (a, b) = (tensors.remove(&key(place, "lora_A")), tensors.remove(&key(place, "lora_B")));
        let (Some(a), Some(b)) = (a, b) else { continue };
        let (out, width) = place.target.shape(spec);
        if a.dims() != [scaling.r, width] || b.dims() != [out, scaling.r] {
            let shapes =
                format!("{:?} and {:?} where the model needs [{r}, {width}] and [{out}, {r}]", a.dims(), b.dims());
            return Err(refuse(format!("{}: {shapes}", key(place, "lora_A"))));
        }
        let values = |tensor: Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let b = reordered(spec, place, scaling.r, values(b)?, true);
        adapter.insert(place, LowRank { rank: scaling.r, a: values(a)?, b, scale: scaling.factor() as f32 });
    }
    if let Some(unknown) = tensors.keys().min() {
        return Err(refuse(format!("the model has no place for {unknown}")));
    }
    if adapter.is_empty() { Err(refuse("it has no matrices".to_owned())) } else { Ok((adapter, scaling)) }
}

/// Writes a folder, which is made if need be.
///
/// # Errors
///
/// If a file cannot be written, or a change is of another rank than `scaling`.
pub fn write(
    folder: &Path,
    spec: &ModelSpec,
    base: &str,
    adapter: &Adapter,
    scaling: Scaling,
) -> Result<(), PeftError> {
    write_decomposed(folder, spec, base, adapter, &Magnitudes::new(), scaling)
}

/// Writes the folder of a decomposed adapter (DoRA), and a plain one where there are no magnitudes.
///
/// # Errors
///
/// As [`write`].
pub fn write_decomposed(
    folder: &Path,
    spec: &ModelSpec,
    base: &str,
    adapter: &Adapter,
    magnitudes: &Magnitudes,
    scaling: Scaling,
) -> Result<(), PeftError> {
    let mut tensors = HashMap::new();
    for (place, magnitude) in magnitudes {
        let values = reordered(spec, *place, 1, magnitude.clone(), false);
        let key = key(*place, "lora_magnitude_vector");
        let key = key.strip_suffix(".weight").unwrap_or(&key).to_owned();
        tensors.insert(key, Tensor::from_slice(&values, values.len(), &Device::Cpu)?);
    }
    let mut modules: Vec<&str> = Vec::new();
    for (place, change) in adapter {
        let LowRank { rank, a, b, scale: _ } = change;
        if *rank != scaling.r {
            let problem = format!("{place:?} has rank {rank}, the folder's is {}", scaling.r);
            return Err(PeftError::Unsupported { path: folder.display().to_string(), problem });
        }
        let (out, width) = place.target.shape(spec);
        let b = reordered(spec, *place, *rank, b.clone(), false);
        tensors.insert(key(*place, "lora_A"), Tensor::from_slice(a, (*rank, width), &Device::Cpu)?);
        tensors.insert(key(*place, "lora_B"), Tensor::from_slice(&b, (out, *rank), &Device::Cpu)?);
        if !modules.contains(&module(place.target)) {
            modules.push(module(place.target));
        }
    }
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": scaling.r,
        "lora_alpha": scaling.lora_alpha,
        "use_rslora": scaling.use_rslora,
        "use_dora": !magnitudes.is_empty(),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "target_modules": modules,
        "rank_pattern": {},
        "alpha_pattern": {},
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{adapt::train::fresh, model::weights::Weights};

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
            ("rank_pattern", json!({"q_proj": 3})),
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
}
