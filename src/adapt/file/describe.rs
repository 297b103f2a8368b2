//! What adapter files say of themselves, without the model they are for.
use std::{collections::BTreeSet, fs, path::Path};

use serde::Serialize;
use serde_json::Value as Json;

use super::AdapterFileError;
use crate::model::weights::{Index, Value};

/// An adapter file at a glance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// `peft` or `gguf`.
    pub kind: &'static str,
    /// The rank; the largest where there are several. None where the file does not say.
    pub r: Option<u64>,
    /// The alpha.
    pub lora_alpha: Option<f64>,
    /// Whether the scale is by the root of the rank.
    pub use_rslora: bool,
    /// Whether its changes are decomposed (arXiv 2402.09353).
    pub use_dora: bool,
    /// What it changes, in the file's own terms, sorted.
    pub modules: Vec<String>,
    /// The model it is for, or its architecture.
    pub base: String,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Returns what a folder or file says of itself; none if it is no adapter.
///
/// # Errors
///
/// If it is one and cannot be read.
pub fn describe(path: &Path) -> Result<Option<Description>, AdapterFileError> {
    let unreadable = |error| AdapterFileError::Unreadable { path: path.display().to_string(), error };
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let config = path.join("adapter_config.json");
    if config.is_file() {
        let text = fs::read(&config).map_err(unreadable)?;
        let config: Json = serde_json::from_slice(&text).map_err(super::PeftError::from)?;
        let modules: BTreeSet<String> = match &config["target_modules"] {
            Json::Array(list) => list.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect(),
            Json::String(pattern) => BTreeSet::from([pattern.clone()]),
            _ => BTreeSet::new(),
        };
        return Ok(Some(Description {
            kind: "peft",
            r: config["r"].as_u64(),
            lora_alpha: config["lora_alpha"].as_f64(),
            use_rslora: config["use_rslora"] == true,
            use_dora: config["use_dora"] == true,
            modules: modules.into_iter().collect(),
            base: config["base_model_name_or_path"].as_str().unwrap_or("").to_owned(),
            bytes: size(&path.join("adapter_model.safetensors")),
        }));
    }
    if !path.is_file() || path.extension().is_none_or(|extension| extension != "gguf") {
        return Ok(None);
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let Ok(index) = Index::parse(&bytes) else { return Ok(None) };
    let text = |key: &str| index.metadata.get(key).and_then(Value::as_str).unwrap_or("");
    if text("general.type") != "adapter" {
        return Ok(None);
    }
    let matrix = |name: &str| {
        let name = name.strip_suffix(".weight.lora_a")?;
        Some(name.split('.').skip_while(|part| *part == "blk" || part.parse::<u64>().is_ok()).collect::<String>())
    };
    let ranks = index.tensors.iter().filter(|(name, _)| name.ends_with(".lora_a"));
    Ok(Some(Description {
        kind: "gguf",
        r: ranks.filter_map(|(_, info)| info.shape.first().map(|rank| *rank as u64)).max(),
        lora_alpha: index.metadata.get("adapter.lora.alpha").and_then(Value::as_f64),
        use_rslora: false,
        use_dora: false,
        modules: index.tensors.keys().filter_map(|name| matrix(name)).collect::<BTreeSet<_>>().into_iter().collect(),
        base: text("general.architecture").to_owned(),
        bytes: bytes.len() as u64,
    }))
}
