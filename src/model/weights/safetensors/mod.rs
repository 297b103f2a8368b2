//! A folder of safetensors, as transformers saves models, presented as llama.cpp's
//! `convert_hf_to_gguf.py` would convert it: GGUF's metadata and names of tensors.
//!
//! Matrices stay in their type and, where nothing moves, in their file; vectors are f32, as
//! llama.cpp wants them.
mod config;
mod header;
mod origin;

use std::{collections::BTreeSet, fs, path::Path, sync::Arc};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::{Bytes, Index, Parts, TensorInfo, TensorType, Value, WeightsError, gguf::DEFAULT_ALIGNMENT, parts::Change};
use config::Section;
use header::Stored;
use origin::{COMPUTED, HEAD, ORIGINS, Origin};

/// Far more than any config.json or index.
const MAX_JSON_BYTES: u64 = 1 << 26;
const MAX_FILES: usize = 4096;

/// Why a folder cannot be read as a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// A file is not there.
    #[error("there is no {file} in it{hint}")]
    Missing {
        /// The file.
        file: String,
        /// A way out, or nothing.
        hint: &'static str,
    },
    /// A file cannot be read, or is damaged.
    #[error("{file}: {problem}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A model class that is not known.
    #[error("config.json is of the class {found}, which is not supported (supported: {})",
        ORIGINS.iter().map(|origin| origin.class).collect::<Vec<_>>().join(", "))]
    Class {
        /// What config.json says.
        found: String,
    },
    /// A setting is missing, makes no sense or is not supported.
    #[error("{key:?} in config.json {problem}")]
    Setting {
        /// Its key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor nobody would use, or of a type or shape that cannot be.
    #[error("tensor {name:?} {problem}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}

fn file_error(file: &str, problem: impl Into<String>) -> FolderError {
    FolderError::File { file: file.to_owned(), problem: problem.into() }
}

/// Opens a folder. Its model is not checked to be complete.
pub(super) fn open(folder: &Path) -> Result<Parts, WeightsError> {
    read(folder).map_err(|error| WeightsError::Folder { path: folder.display().to_string(), error })
}

fn read(folder: &Path) -> Result<Parts, FolderError> {
    let hint = "; a model folder holds config.json and *.safetensors";
    let settings = small_file(folder, "config.json")?
        .ok_or_else(|| FolderError::Missing { file: "config.json".to_owned(), hint })?;
    let config: Map<String, Json> =
        serde_json::from_slice(&settings).map_err(|error| file_error("config.json", error.to_string()))?;
    let origin = origin_of(&config)?;
    let config = Section::new(&config);
    let name = fs::canonicalize(folder).ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let (metadata, tables) = config::translate(config, origin, &name.unwrap_or_default())?;
    let tied = config.optional_flag("tie_word_embeddings")?.unwrap_or(origin.tied);

    let mut parts = vec![Arc::new(Bytes::Owned(settings))];
    let mut tensors = Vec::new();
    for (name, values) in tables {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let (part, range, shape) = (parts.len(), 0..bytes.len(), vec![values.len()]);
        let info = TensorInfo { kind: TensorType::F32, shape, part, range, change: None };
        tensors.push(((0, tensors.len()), name.to_owned(), info));
        parts.push(Arc::new(Bytes::Owned(bytes)));
    }
    let mut seen = BTreeSet::new();
    for file in tensor_files(folder)? {
        let bytes = Bytes::map(&folder.join(&file)).map_err(|error| file_error(&file, error.to_string()))?;
        let stored = header::parse(bytes.as_slice()).map_err(|problem| file_error(&file, problem))?;
        for (name, stored) in stored {
            if COMPUTED.iter().any(|end| name.ends_with(end)) || (tied && name == HEAD) {
                continue;
            }
            if !seen.insert(name.clone()) {
                return Err(file_error(&file, format!("tensor {name:?} is in another file, too")));
            }
            let (order, renamed) = origin.rename(&name).ok_or_else(|| FolderError::Tensor {
                name: name.clone(),
                problem: format!("is no part of a {} here; running without it would give wrong results", origin.class),
            })?;
            let info = place(&name, &renamed, stored, parts.len(), origin, config)?;
            tensors.push((order, renamed, info));
        }
        parts.push(Arc::new(bytes));
    }
    if !tied && !seen.contains(HEAD) {
        let problem = "is missing, and config.json does not tie it to the token embedding".to_owned();
        return Err(FolderError::Tensor { name: HEAD.to_owned(), problem });
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors: IndexMap<String, TensorInfo> = tensors.into_iter().map(|(_, name, info)| (name, info)).collect();
    let index =
        Index { version: 3, metadata: finish(metadata, &tensors), tensors, alignment: DEFAULT_ALIGNMENT as usize };
    Ok(Parts { bytes: parts, index })
}

/// Adds what depends on the tensors.
fn finish(mut metadata: IndexMap<String, Value>, tensors: &IndexMap<String, TensorInfo>) -> IndexMap<String, Value> {
    let kind = super::common(tensors.values().map(|info| (info, info.kind)));
    metadata.insert("general.file_type".to_owned(), Value::Unsigned(kind.file_type().into()));
    metadata.insert("general.quantization_version".to_owned(), Value::Unsigned(super::QUANTIZATION_VERSION));
    metadata
}

fn origin_of(config: &Map<String, Json>) -> Result<&'static Origin, FolderError> {
    let classes = config.get("architectures").and_then(Json::as_array);
    let class = classes.and_then(|classes| classes.first()).and_then(Json::as_str);
    let found = class.ok_or_else(|| FolderError::Setting {
        key: "architectures".to_owned(),
        problem: "names no model class".to_owned(),
    })?;
    let origin = ORIGINS.iter().find(|origin| origin.class == found);
    origin.ok_or_else(|| FolderError::Class { found: found.to_owned() })
}

/// Returns the content of a file that should be small; none if there is no such file.
fn small_file(folder: &Path, name: &str) -> Result<Option<Vec<u8>>, FolderError> {
    let path = folder.join(name);
    let Ok(facts) = fs::metadata(&path) else { return Ok(None) };
    if facts.len() > MAX_JSON_BYTES {
        return Err(file_error(name, format!("it has {} bytes, {MAX_JSON_BYTES} at most are read", facts.len())));
    }
    fs::read(&path).map(Some).map_err(|error| file_error(name, error.to_string()))
}

/// The index of a model in several files.
#[derive(Deserialize)]
struct Shards {
    weight_map: IndexMap<String, String>,
}

/// Returns the names of the files that hold the tensors.
fn tensor_files(folder: &Path) -> Result<Vec<String>, FolderError> {
    const INDEX: &str = "model.safetensors.index.json";
    const ONLY: &str = "model.safetensors";
    let Some(index) = small_file(folder, INDEX)? else {
        let hint = "; other formats must be converted to safetensors first";
        let missing = || FolderError::Missing { file: ONLY.to_owned(), hint };
        return folder.join(ONLY).is_file().then(|| vec![ONLY.to_owned()]).ok_or_else(missing);
    };
    let shards: Shards = serde_json::from_slice(&index).map_err(|error| file_error(INDEX, error.to_string()))?;
    let files: BTreeSet<&String> = shards.weight_map.values().collect();
    if files.is_empty() || files.len() > MAX_FILES {
        return Err(file_error(INDEX, format!("it names {} files", files.len())));
    }
    for file in &files {
        // A name, never a way to somewhere else.
        if Path::new(file).file_name().is_none_or(|name| name != file.as_str()) || file.contains('\\') {
            return Err(file_error(INDEX, format!("{file:?} is no plain file name")));
        }
    }
    let missing: Vec<&str> =
        files.iter().map(|file| file.as_str()).filter(|file| !folder.join(file).is_file()).collect();
    if !missing.is_empty() {
        return Err(FolderError::Missing { file: missing.join(", "), hint: "; is the download complete?" });
    }
    Ok(files.into_iter().cloned().collect())
}

/// Returns where a tensor is and what becomes of it.
fn place(
    name: &str,
    renamed: &str,
    stored: Stored,
    part: usize,
    origin: &Origin,
    config: Section<'_>,
) -> Result<TensorInfo, FolderError> {
    let wrong = |problem: String| FolderError::Tensor { name: name.to_owned(), problem };
    let Stored { dtype, shape, range } = stored;
    let from = match dtype.as_str() {
        "F32" => TensorType::F32,
        "F16" => TensorType::F16,
        "BF16" => TensorType::Bf16,
        other => return Err(wrong(format!("is stored as {other}, which is not supported (supported: F32 F16 BF16)"))),
    };
    if shape.is_empty() || shape.contains(&0) {
        return Err(wrong(format!("has the shape {shape:?}")));
    }
    let heads = match renamed.rsplit('.').nth(1) {
        Some("attn_q") if origin.interleaved => Some(config.count("num_attention_heads")?),
        Some("attn_k") if origin.interleaved => Some(config::kv_heads(config)?),
        _ => None,
    };
    let interleaved_heads = heads.map(|heads| usize::try_from(heads).unwrap_or(0));
    if interleaved_heads.is_some_and(|heads| heads == 0 || shape[0] % (2 * heads) != 0) {
        return Err(wrong(format!("of shape {shape:?} cannot be cut into heads of an even width")));
    }
    let plus_one = origin.norm_plus_one && renamed.ends_with("norm.weight");
    let kind = if shape.len() == 1 || renamed.ends_with("_norm.weight") { TensorType::F32 } else { from };
    let change = Change { from, plus_one, interleaved_heads };
    let as_it_is = kind == from && !plus_one && interleaved_heads.is_none();
    Ok(TensorInfo { kind, shape, part, range, change: (!as_it_is).then_some(change) })
}

#[cfg(test)]
mod tests;
