//! Adapters as PEFT stores them: a folder with `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Matrices keep PEFT's names and row order on disk. Files of the architecture `llama` hold the rows of
//! each head's queries and keys interleaved, so B of those places is brought to that order and back.
//! Matrices that a family has in one (`qkv_proj`, `gate_up_proj` of phi3) have one A there: read, all parts
//! have it; written, parts with an A of their own each stand in blocks of a larger rank.
use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use regex::Regex;
use serde_json::{Value, json};

use super::file::{Stored, joined};
use crate::{
    engine::{Adapter, LowRank, Place, Target},
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

/// Returns the module of a model that holds a matrix: where the model's family has queries, keys and values
/// in one matrix, or gate and up, so have transformers and PEFT.
fn holder(spec: &ModelSpec, target: Target) -> &'static str {
    match target {
        Target::Query | Target::Key | Target::Value if spec.fused_query_key_value => "qkv_proj",
        Target::Gate | Target::Up if spec.fused_gate_up => "gate_up_proj",
        target => module(target),
    }
}

/// Returns the path of the module that holds a matrix.
fn module_path(spec: &ModelSpec, place: Place) -> String {
    let block = match place.target {
        Target::Query | Target::Key | Target::Value | Target::Output => "self_attn",
        Target::Gate | Target::Up | Target::Down => "mlp",
        Target::Head => return "lm_head".to_owned(),
    };
    format!("model.layers.{}.{block}.{}", place.layer, holder(spec, place.target))
}

fn key(module: &str, matrix: &str) -> String {
    format!("base_model.model.{module}.{matrix}.weight")
}

/// Numbers of some modules that differ from the folder's own: PEFT's `rank_pattern` and `alpha_pattern`.
/// A key stands for the modules whose names end in what it, a regular expression, fits after a dot.
struct Pattern(Vec<(Regex, f64)>);

impl Pattern {
    fn read(config: &Value, key: &str) -> Result<Self, String> {
        let Some(map) = config[key].as_object() else { return Ok(Self(Vec::new())) };
        let entry = |(name, value): (&String, &Value)| {
            let fits = Regex::new(&format!(r"^(.*\.)?({name})$")).map_err(|error| format!("`{key}`: {error}"))?;
            let number = value.as_f64().ok_or_else(|| format!("`{key}`: {value} is no number"))?;
            Ok((fits, number))
        };
        Ok(Self(map.iter().map(entry).collect::<Result<_, String>>()?))
    }

    /// Returns the number of the first key that fits a module's path.
    fn of(&self, path: &str) -> Option<f64> {
        self.0.iter().find(|(fits, _)| fits.is_match(path)).map(|(_, number)| *number)
    }
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
    for key in ["modules_to_save", "layers_to_transform", "trainable_token_indices"] {
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
    let ranks = Pattern::read(&config, "rank_pattern").map_err(&refuse)?;
    let alphas = Pattern::read(&config, "alpha_pattern").map_err(&refuse)?;
    let mut tensors = candle_core::safetensors::load(folder.join(TENSORS), &Device::Cpu)?;
    let (mut adapter, mut used) = (Adapter::new(), Vec::new());
    for place in Place::all(spec, &Target::ALL) {
        let module = module_path(spec, place);
        let keys = ["lora_A", "lora_B"].map(|matrix| key(&module, matrix));
        let [Some(a), Some(b)] = keys.each_ref().map(|key| tensors.get(key)) else { continue };
        let Some(Stored { rows, of, .. }) = Stored::of(spec, place) else { continue };
        let (_, width) = place.target.shape(spec);
        let own = Scaling {
            r: ranks.of(&module).map_or(scaling.r, |r| r as usize),
            lora_alpha: alphas.of(&module).unwrap_or(scaling.lora_alpha),
            ..scaling
        };
        let r = own.r;
        if r == 0 || a.dims() != [r, width] || b.dims() != [of, r] {
            let shapes =
                format!("{:?} and {:?} where the model needs [{r}, {width}] and [{of}, {r}]", a.dims(), b.dims());
            return Err(refuse(format!("{module}: {shapes}")));
        }
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let b = values(b)?[rows.start * r..rows.end * r].to_vec();
        let b = reordered(spec, place, r, b, true);
        adapter.insert(place, LowRank { rank: r, a: values(a)?, b, scale: own.factor() as f32 });
        used.extend(keys);
    }
    used.into_iter().for_each(|key| drop(tensors.remove(&key)));
    if let Some(unknown) = tensors.keys().min() {
        return Err(refuse(format!("the model has no place for {unknown}")));
    }
    if adapter.is_empty() { Err(refuse("it has no matrices".to_owned())) } else { Ok((adapter, scaling)) }
}

/// A module's name, and the changes of the matrices it holds.
type Held = (&'static str, Vec<(Stored, LowRank)>);

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
    let refuse = |problem: String| PeftError::Unsupported { path: folder.display().to_string(), problem };
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for (place, change) in adapter {
        if change.rank != scaling.r {
            return Err(refuse(format!("{place:?} has rank {}, the folder's is {}", change.rank, scaling.r)));
        }
        let stored = Stored::of(spec, *place).ok_or_else(|| refuse(format!("the model has no {place}")))?;
        let b = reordered(spec, *place, change.rank, change.b.clone(), false);
        let part = LowRank { b, ..change.clone() };
        let name = holder(spec, place.target);
        held.entry(module_path(spec, *place)).or_insert_with(|| (name, Vec::new())).1.push((stored, part));
    }
    let (mut tensors, mut modules) = (HashMap::new(), Vec::new());
    let (mut ranks, mut alphas) = (serde_json::Map::new(), serde_json::Map::new());
    for (path, (name, parts)) in held {
        let parts: Vec<(Stored, &LowRank)> = parts.iter().map(|(stored, part)| (stored.clone(), part)).collect();
        let LowRank { rank, a, b, .. } = joined(&parts);
        if rank != scaling.r {
            // Parts of one matrix with an A of their own each.
            let share = |r: usize| Scaling { r, lora_alpha: 1.0, ..scaling }.factor();
            ranks.insert(path.clone(), json!(rank));
            alphas.insert(path.clone(), json!(scaling.lora_alpha * share(scaling.r) / share(rank)));
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
        "use_dora": false,
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
}
