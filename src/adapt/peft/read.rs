//! Reading a folder.
use std::{fs, path::Path};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{
    CONFIG, PeftError, TENSORS,
    modules::{key, magnitude_key, module_path, reordered},
    scaling::{Patterns, Scaling},
};
use crate::{
    adapt::file::Stored,
    engine::{Adapter, LowRank, Place, Target},
    model::spec::ModelSpec,
};

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
