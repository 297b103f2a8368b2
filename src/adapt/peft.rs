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

    /// Returns the alpha whose factor is `scale`, to the bit in f32.
    fn alpha_of(self, scale: f32) -> f64 {
        f64::from(scale) / Self { lora_alpha: 1.0, ..self }.factor()
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

/// The name of a decomposed change's magnitudes.
fn magnitude_key(module: &str) -> String {
    format!("base_model.model.{module}.lora_magnitude_vector")
}

/// Numbers of some modules that differ from the others': PEFT's `rank_pattern` and `alpha_pattern`. A key
/// stands for the modules whose names end in what it, a regular expression, fits after a dot.
#[derive(Debug, Default)]
struct Pattern(Vec<(Regex, f64)>);

impl Pattern {
    fn new<'a>(key: &str, entries: impl IntoIterator<Item = (&'a str, f64)>) -> Result<Self, String> {
        let entry = |(name, number): (&str, f64)| {
            let fits = Regex::new(&format!(r"^(.*\.)?({name})$")).map_err(|error| format!("`{key}`: {error}"))?;
            Ok((fits, number))
        };
        Ok(Self(entries.into_iter().map(entry).collect::<Result<_, String>>()?))
    }

    fn read(config: &Value, key: &str) -> Result<Self, String> {
        let Some(map) = config[key].as_object() else { return Ok(Self::default()) };
        let number = |value: &Value| value.as_f64().ok_or_else(|| format!("`{key}`: {value} is no number"));
        let entries = map.iter().map(|(name, value)| Ok((name.as_str(), number(value)?)));
        Self::new(key, entries.collect::<Result<Vec<_>, String>>()?)
    }

    /// Returns the number of the first key that fits a module's path.
    fn of(&self, path: &str) -> Option<f64> {
        self.0.iter().find(|(fits, _)| fits.is_match(path)).map(|(_, number)| *number)
    }
}

/// Which modules are scaled in their own way: PEFT's `rank_pattern` and `alpha_pattern`.
#[derive(Debug, Default)]
pub struct Patterns {
    ranks: Pattern,
    alphas: Pattern,
}

impl Patterns {
    /// Returns the patterns of these keys, regular expressions for the ends of modules' names.
    ///
    /// # Errors
    ///
    /// If one is no regular expression.
    pub fn new<'a>(
        ranks: impl IntoIterator<Item = (&'a str, f64)>,
        alphas: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> Result<Self, String> {
        Ok(Self { ranks: Pattern::new("rank_pattern", ranks)?, alphas: Pattern::new("alpha_pattern", alphas)? })
    }

    fn read(config: &Value) -> Result<Self, String> {
        Ok(Self { ranks: Pattern::read(config, "rank_pattern")?, alphas: Pattern::read(config, "alpha_pattern")? })
    }

    fn of_module(&self, path: &str, other: Scaling) -> Scaling {
        Scaling {
            r: self.ranks.of(path).map_or(other.r, |r| r as usize),
            lora_alpha: self.alphas.of(path).unwrap_or(other.lora_alpha),
            ..other
        }
    }

    /// Returns how a place is scaled, where all others are as `other`.
    #[must_use]
    pub fn scaling(&self, spec: &ModelSpec, place: Place, other: Scaling) -> Scaling {
        self.of_module(&module_path(spec, place), other)
    }

    /// Returns whether the key, in `rank_pattern` or `alpha_pattern`, fits any place of these targets.
    #[must_use]
    pub fn fits(key: &str, spec: &ModelSpec, targets: &[Target]) -> bool {
        let pattern = Pattern::new("", [(key, 0.0)]);
        let fits = |place| pattern.as_ref().is_ok_and(|pattern| pattern.of(&module_path(spec, place)).is_some());
        Place::all(spec, targets).into_iter().any(fits)
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
    for key in ["fan_in_fan_out", "lora_bias"] {
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
    let patterns = Patterns::read(&config).map_err(&refuse)?;
    let mut tensors = candle_core::safetensors::load(folder.join(TENSORS), &Device::Cpu)?;
    let (mut adapter, mut used) = (Adapter::new(), Vec::new());
    for place in Place::all(spec, &Target::ALL) {
        let module = module_path(spec, place);
        let keys = ["lora_A", "lora_B"].map(|matrix| key(&module, matrix));
        let [Some(a), Some(b)] = keys.each_ref().map(|key| tensors.get(key)) else { continue };
        let Some(Stored { rows, of, .. }) = Stored::of(spec, place) else { continue };
        let (_, width) = place.target.shape(spec);
        let own = patterns.of_module(&module, scaling);
        let r = own.r;
        if r == 0 || a.dims() != [r, width] || b.dims() != [of, r] {
            let shapes =
                format!("{:?} and {:?} where the model needs [{r}, {width}] and [{of}, {r}]", a.dims(), b.dims());
            return Err(refuse(format!("{module}: {shapes}")));
        }
        let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let b = values(b)?[rows.start * r..rows.end * r].to_vec();
        let b = reordered(spec, place, r, b, true);
        let magnitude = match (tensors.get(&magnitude_key(&module)), config["use_dora"] == true) {
            (None, false) => None,
            (Some(magnitude), true) if magnitude.dims() == [of] => {
                let own = values(magnitude)?[rows].to_vec();
                used.push(magnitude_key(&module));
                Some(reordered(spec, place, 1, own, true))
            }
            (found, _) => {
                let found = found.map_or("none".to_owned(), |found| format!("{:?}", found.dims()));
                return Err(refuse(format!("{module}: magnitudes {found}, with `use_dora` {}", config["use_dora"])));
            }
        };
        adapter.insert(place, LowRank { rank: r, a: values(a)?, b, scale: own.factor() as f32, magnitude });
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
    fn magnitudes_ranks_and_scales_of_their_own_are_kept() {
        for source in ["builtin:pico", "tests/it/golden/phi3-longrope"] {
            let weights = Weights::open(source).unwrap();
            let spec = weights.spec();
            let mut adapter = fresh(spec, &[Target::Query, Target::Key, Target::Value, Target::Down], 2, 3.0, 1);
            for (place, change) in &mut adapter {
                change.b.iter_mut().enumerate().for_each(|(at, b)| *b = at as f32);
                change.magnitude = Some((0..place.target.shape(spec).0).map(|row| 1.0 + row as f32).collect());
                // Parts of one matrix have one A.
                change.a =
                    fresh(spec, &[Target::Query], 2, 3.0, 1)[&Place { layer: 0, target: Target::Query }].a.clone();
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
}
