//! GGUF files in several parts, as llama.cpp's `llama-gguf-split` names and marks them:
//! `NAME-00001-of-00003.gguf`, `split.no` from 0, `split.count`, `split.tensors.count`.
use std::{path::Path, sync::Arc};

use super::{Bytes, Index, Parts, WeightsError};

/// More parts than the five digits of a name can count.
const MAX_PARTS: u64 = 99_999;

fn suffix(number: u64, count: u64) -> String {
    format!("-{number:05}-of-{count:05}.gguf")
}

/// Opens a GGUF file; of a split one, all parts, by its first.
pub(super) fn open(source: &str) -> Result<Parts, WeightsError> {
    let path = Path::new(source);
    let (bytes, mut index) = open_one(path)?;
    let number = |index: &Index, key: &str| index.metadata.get(key).and_then(super::Value::as_u64);
    let count = number(&index, "split.count").unwrap_or(1);
    if count <= 1 {
        return Ok(Parts { bytes: vec![bytes], index });
    }
    let refuse = |path: &Path, problem: String| WeightsError::Split { path: path.display().to_string(), problem };
    if count > MAX_PARTS {
        return Err(refuse(path, format!("it says that it is one of {count} parts, {MAX_PARTS} at most are possible")));
    }
    let own = number(&index, "split.no").map_or(u64::MAX, |number| number.saturating_add(1));
    let Some(stem) = source.strip_suffix(&suffix(own, count)) else {
        let problem =
            format!("it says that it is part {own} of {count}, so its name must end in {}", suffix(own, count));
        return Err(refuse(path, problem));
    };
    if own != 1 {
        return Err(refuse(path, format!("it is part {own} of {count}; name the first: {stem}{}", suffix(1, count))));
    }
    let names: Vec<String> = (1..=count).map(|number| format!("{stem}{}", suffix(number, count))).collect();
    let missing: Vec<&str> = names.iter().map(String::as_str).filter(|name| !Path::new(name).is_file()).collect();
    if !missing.is_empty() {
        return Err(refuse(
            path,
            format!("{} of its {count} parts are missing: {}", missing.len(), missing.join(", ")),
        ));
    }
    let mut parts = vec![bytes];
    for (part, name) in names.iter().enumerate().skip(1) {
        let path = Path::new(name);
        let (bytes, other) = open_one(path)?;
        let (found, of) = (number(&other, "split.no"), number(&other, "split.count"));
        if found != Some(part as u64) || of != Some(count) {
            let (found, of) = (found.map_or(0, |number| number + 1), of.unwrap_or(0));
            return Err(refuse(path, format!("it says that it is part {found} of {of}, by its name it is another")));
        }
        for (name, mut info) in other.tensors {
            info.part = part;
            if index.tensors.contains_key(&name) {
                return Err(refuse(path, format!("tensor {name:?} is in an earlier part, too")));
            }
            index.tensors.insert(name, info);
        }
        parts.push(bytes);
    }
    let (expected, found) = (number(&index, "split.tensors.count"), index.tensors.len() as u64);
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        return Err(refuse(path, format!("its parts hold {found} tensors together, it says {expected}")));
    }
    // The model is one again: what is written of it is no part.
    index.metadata.retain(|key, _| !key.starts_with("split."));
    Ok(Parts { bytes: parts, index })
}

fn open_one(path: &Path) -> Result<(Arc<Bytes>, Index), WeightsError> {
    let name = || path.display().to_string();
    let bytes = Bytes::map(path).map_err(|error| WeightsError::Unreadable { path: name(), error })?;
    let index = Index::parse(bytes.as_slice()).map_err(|error| WeightsError::Gguf { source_name: name(), error })?;
    Ok((Arc::new(bytes), index))
}
