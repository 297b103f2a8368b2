//! Adapters as llama.cpp reads them (`llama-adapter.cpp`): `adapter.lora.alpha`, and for every matrix
//! `NAME.lora_a` `[r, I]` and `NAME.lora_b` `[O, r]`, scaled by `alpha / r`, or by 1 where alpha is 0.
//!
//! There is no key for rsLoRA: its scale is an alpha, too, `lora_alpha · sqrt(r)`. Rows of B are in the
//! order of the file's own matrices, as they are in an [`Adapter`].
use std::{collections::BTreeMap, path::Path};

use half::{bf16, f16};
use indexmap::IndexMap;

use super::{AdapterFileError, Stored, one_scale, rescaled};
use crate::{
    engine::{Adapter, LowRank, Place, Target},
    model::{
        spec::ModelSpec,
        weights::{
            Index, TensorInfo, TensorType, Value,
            write::{Layout, Planned},
        },
    },
};

/// Returns a tensor's values.
fn values(bytes: &[u8], info: &TensorInfo) -> Option<Vec<f32>> {
    let bytes = bytes.get(info.range.clone())?;
    let pairs = || bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    Some(match info.kind {
        TensorType::F32 => bytes.chunks_exact(4).map(|x| f32::from_le_bytes([x[0], x[1], x[2], x[3]])).collect(),
        TensorType::F16 => pairs().map(|bits| f16::from_bits(bits).to_f32()).collect(),
        TensorType::Bf16 => pairs().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        _ => return None,
    })
}

/// Returns the adapter of a model that a file holds.
pub(super) fn parse(path: &Path, bytes: &[u8], spec: &ModelSpec) -> Result<Adapter, AdapterFileError> {
    let name = || path.display().to_string();
    let refuse = |problem: String| AdapterFileError::Unsupported { path: name(), problem };
    let mut index = Index::parse(bytes).map_err(|error| AdapterFileError::Gguf { path: name(), error })?;
    let text = |key: &str| index.metadata.get(key).and_then(Value::as_str).unwrap_or("nothing");
    for (key, wanted) in
        [("general.type", "adapter"), ("adapter.type", "lora"), ("general.architecture", spec.architecture.as_str())]
    {
        if text(key) != wanted {
            return Err(refuse(format!("`{key}` is {:?}, {wanted:?} is needed", text(key))));
        }
    }
    let alpha = index.metadata.get("adapter.lora.alpha").and_then(Value::as_f64);
    let alpha = alpha.ok_or_else(|| refuse("it has no `adapter.lora.alpha`".to_owned()))?;
    if index.metadata.contains_key("adapter.alora.invocation_tokens") {
        return Err(refuse("it waits for tokens that invoke it (aLoRA), which is not computed".to_owned()));
    }
    let mut adapter = Adapter::new();
    let mut used: Vec<String> = Vec::new();
    for place in Place::all(spec, &Target::ALL) {
        let Some(stored) = Stored::of(spec, place) else { continue };
        let names = ["lora_a", "lora_b"].map(|part| format!("{}.{part}", stored.tensor));
        let [Some(a), Some(b)] = names.each_ref().map(|name| index.tensors.get(name)) else { continue };
        if place.target == Target::Head && spec.tied_embeddings {
            return Err(refuse("it changes the token embedding, which is not computed".to_owned()));
        }
        let (_, columns) = place.target.shape(spec);
        let rank = a.shape.first().copied().unwrap_or(0);
        if rank == 0 || a.shape != [rank, columns] || b.shape != [stored.of, rank] {
            let rows = stored.of;
            return Err(refuse(format!(
                "{}: {:?} and {:?} where the model needs [r, {columns}] and [{rows}, r]",
                stored.tensor, a.shape, b.shape
            )));
        }
        let kind = |info: &TensorInfo| format!("{}: numbers of the type {}", stored.tensor, info.kind);
        let numbers = |info: &TensorInfo| values(bytes, info).ok_or_else(|| refuse(kind(info)));
        let b = numbers(b)?[stored.rows.start * rank..stored.rows.end * rank].to_vec();
        let scale = if alpha == 0.0 { 1.0 } else { (alpha / rank as f64) as f32 };
        adapter.insert(place, LowRank { rank, scale, a: numbers(a)?, b, magnitude: None });
        used.extend(names);
    }
    used.into_iter().for_each(|name| drop(index.tensors.shift_remove(&name)));
    if let Some(unknown) = index.tensors.keys().min() {
        return Err(refuse(format!("the model has no place for {unknown}")));
    }
    if adapter.is_empty() { Err(refuse("it has no matrices".to_owned())) } else { Ok(adapter) }
}

/// Writes an adapter of a model, in f32.
pub(super) fn write(path: &Path, spec: &ModelSpec, adapter: &Adapter) -> Result<(), AdapterFileError> {
    let refuse = |problem: String| AdapterFileError::Unsupported { path: path.display().to_string(), problem };
    let mut tensors: BTreeMap<String, Vec<(Stored, &LowRank)>> = BTreeMap::new();
    if let Some((place, _)) = adapter.iter().find(|(_, part)| part.magnitude.is_some()) {
        let way = "write a PEFT folder, or merge it into the model (`ruvlab adapter merge`)";
        return Err(refuse(format!("the {place} is a decomposed change (DoRA), which the format cannot hold: {way}")));
    }
    for (place, part) in adapter {
        if place.target == Target::Head && spec.tied_embeddings {
            let problem = "the head is the token embedding, and llama.cpp would change both: write a PEFT folder";
            return Err(refuse(problem.to_owned()));
        }
        let stored = Stored::of(spec, *place).ok_or_else(|| refuse(format!("the model has no {place}")))?;
        tensors.entry(stored.tensor.clone()).or_default().push((stored, part));
    }
    let all: BTreeMap<String, LowRank> = tensors.into_iter().map(|(name, parts)| (name, joined(&parts))).collect();
    // One alpha says the scale of all: `alpha / rank`, each with its own rank.
    let alpha = one_scale(all.values().map(|part| part.scale * part.rank as f32));
    let scaled = |(name, part): (String, LowRank)| {
        let scale = (f64::from(alpha) / part.rank as f64) as f32;
        (name, rescaled(&part, scale))
    };
    let parts: BTreeMap<String, LowRank> = all.into_iter().map(scaled).collect();
    let text = |text: &str| Value::Text(text.to_owned());
    let metadata = IndexMap::from([
        ("general.architecture".to_owned(), text(&spec.architecture)),
        ("general.type".to_owned(), text("adapter")),
        ("general.name".to_owned(), text(&format!("adapter of {}", spec.name))),
        ("adapter.type".to_owned(), text("lora")),
        ("adapter.lora.alpha".to_owned(), Value::Float(f64::from(alpha))),
    ]);
    let planned = |(name, part): (&String, &LowRank)| {
        let matrix = |which: &str, shape: [usize; 2]| Planned {
            name: format!("{name}.{which}"),
            kind: TensorType::F32,
            shape: shape.to_vec(),
        };
        let LowRank { rank, a, b, .. } = part;
        [matrix("lora_a", [*rank, a.len() / rank]), matrix("lora_b", [b.len() / rank, *rank])]
    };
    let mut numbers = parts.values().flat_map(|part| [&part.a, &part.b]);
    let layout = Layout::new(&metadata, parts.iter().flat_map(planned).collect())?;
    layout.write_file::<AdapterFileError>(path, |_, sink| {
        let numbers = numbers.next().map(Vec::as_slice).unwrap_or_default();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(sink.push(&bytes)?)
    })
}

/// Returns the addition to a tensor of what its parts add: their A one below the other, their B in
/// blocks. Parts with one and the same A, as they are read from such a file, keep it. All or none are
/// decomposed.
pub(in crate::adapt) fn joined(parts: &[(Stored, &LowRank)]) -> LowRank {
    if let [(stored, part)] = parts
        && stored.rows == (0..stored.of)
    {
        return (*part).clone();
    }
    let scale = one_scale(parts.iter().map(|(_, part)| part.scale));
    let parts: Vec<(&Stored, LowRank)> = parts.iter().map(|(stored, part)| (stored, rescaled(part, scale))).collect();
    let shared = parts.iter().all(|(_, part)| part.a == parts[0].1.a);
    let rank = if shared { parts[0].1.rank } else { parts.iter().map(|(_, part)| part.rank).sum() };
    let (mut a, mut b, mut column) = (Vec::new(), vec![0.0; parts[0].0.of * rank], 0);
    for (stored, part) in &parts {
        if !shared || a.is_empty() {
            a.extend_from_slice(&part.a);
        }
        for (row, values) in stored.rows.clone().zip(part.b.chunks_exact(part.rank)) {
            b[row * rank + column..][..part.rank].copy_from_slice(values);
        }
        column += if shared { 0 } else { part.rank };
    }
    let magnitude = parts.iter().all(|(_, part)| part.magnitude.is_some()).then(|| {
        let mut all = vec![0.0; parts[0].0.of];
        for (stored, part) in &parts {
            all[stored.rows.clone()].copy_from_slice(part.magnitude.as_deref().unwrap_or_default());
        }
        all
    });
    LowRank { rank, scale, a, b, magnitude }
}
