//! Which weights run, in what form, on which engine.
use std::num::NonZeroUsize;

use crate::{
    engine::{AttentionMethod, Device, EngineKind, Precision, Settings, Tier, TierError, WeightLoad, select, setting},
    model::{
        rope::{RopeChange, Scaling},
        source::{locate::Located, synthetic},
        spec::ModelSpec,
        weights::{TensorType, Weights},
    },
    recipe::{
        self, Recipe,
        schema::{ActivationPrecision, Attention, KernelSet, KvCache, ModelLoad, QuantizationFormat, RopeScaling},
    },
};

use super::{Cell, ModelIdentity, cache};

/// Returns the kernel set that `auto` stands for: the fastest this processor has, or the tier that a
/// setting (`RUVLAB_KERNELS`) names.
///
/// # Errors
///
/// If the setting names no tier, or one this processor does not run.
pub fn auto_set(setting: Option<&str>) -> Result<KernelSet, TierError> {
    Ok(match (select(setting)?.tier(), setting) {
        // candle's vectors are faster than our portable kernels.
        (Tier::Scalar, None) => KernelSet::Candle,
        (Tier::Scalar, Some(_)) => KernelSet::Scalar,
        (Tier::Avx2, _) => KernelSet::Avx2,
        (Tier::Avx512, _) => KernelSet::Avx512,
        (Tier::Neon, _) => KernelSet::Neon,
    })
}

/// Returns the kernel set that runs; `auto` stays what it is where `RUVLAB_KERNELS` is wrong, which a
/// plan refuses.
pub(super) fn running_set(set: KernelSet) -> KernelSet {
    match set {
        KernelSet::Auto => auto_set(setting().as_deref()).unwrap_or(KernelSet::Auto),
        set => set,
    }
}

/// Returns how an engine is to hold a cell's model, with room for the cell's context.
#[must_use]
pub fn engine_settings(cell: &Cell) -> Settings {
    let KvCache { page_tokens, budget, pressure, prefix_sharing, .. } = &cell.recipe.kv_cache;
    let types = cache::cache_types(&cell.recipe.kv_cache);
    let settings = Settings {
        context_length: Some(cell.model.context_length as usize),
        device: device(cell.recipe.kernels.device),
        threads: NonZeroUsize::new(usize::from(cell.threads)),
        key_type: types.keys,
        value_type: types.values,
        load: match cell.recipe.model.load {
            ModelLoad::Packed => WeightLoad::Packed,
            ModelLoad::Mapped => WeightLoad::Mapped,
        },
        attention: match cell.recipe.kernels.attention {
            Some(Attention::Naive) => AttentionMethod::Naive,
            Some(Attention::Flash) | None => AttentionMethod::Flash,
        },
        activations: match cell.recipe.kernels.activations {
            Some(ActivationPrecision::Int8) => Precision::Int8,
            Some(ActivationPrecision::Int16) | None => Precision::Int16,
        },
        page_tokens: Some(*page_tokens as usize),
        cache_bytes: budget.map(|budget| budget.0),
        pressure: pressure.as_ref().map(|pressure| cache::policy(pressure, types)),
        share_prefixes: *prefix_sharing,
    };
    // The reference of a divergence may be another engine, which has no such cache.
    if is_native(cell.kernel_set) { settings } else { settings.unlimited() }
}

/// Returns the device that a recipe names.
#[must_use]
pub fn device(device: recipe::schema::Device) -> Device {
    match device {
        recipe::schema::Device::Cpu => Device::Cpu,
        recipe::schema::Device::Cuda => Device::Cuda,
    }
}

/// Returns the engine of a kernel set; none for one that cannot be run yet.
#[must_use]
pub fn engine_kind(set: KernelSet) -> Option<EngineKind> {
    match running_set(set) {
        KernelSet::Reference => Some(EngineKind::Reference),
        KernelSet::Candle => Some(EngineKind::Candle),
        KernelSet::Scalar => Some(EngineKind::Native(Tier::Scalar)),
        KernelSet::Avx2 => Some(EngineKind::Native(Tier::Avx2)),
        KernelSet::Avx512 => Some(EngineKind::Native(Tier::Avx512)),
        KernelSet::Neon => Some(EngineKind::Native(Tier::Neon)),
        KernelSet::Auto | KernelSet::Cuda => None,
    }
}

/// Returns whether a set is ruvlab's own kernels.
pub(super) fn is_native(set: KernelSet) -> bool {
    matches!(engine_kind(set), Some(EngineKind::Native(_)))
}

/// Returns the most tokens of context a kernel set can hold of a model.
pub(super) fn longest_context(spec: &ModelSpec, set: KernelSet) -> u32 {
    let trained = spec.context_length;
    let longest = engine_kind(set).map_or(trained, |kind| trained.min(kind.longest_context(spec)));
    u32::try_from(longest).unwrap_or(u32::MAX)
}

/// Returns what a recipe wants other than the file's own rope.
#[must_use]
pub fn rope_change(rope: &recipe::schema::Rope) -> RopeChange {
    let scaling = rope.scaling.map(|scaling| match scaling {
        RopeScaling::None => Scaling::None,
        RopeScaling::Linear => Scaling::Linear,
        RopeScaling::Ntk => Scaling::Ntk,
        RopeScaling::Yarn => Scaling::Yarn,
        RopeScaling::Llama3 => Scaling::Llama3,
        RopeScaling::Longrope => Scaling::Longrope,
    });
    let original_context = rope.original_context_length.map(|tokens| tokens as usize);
    RopeChange { scaling, factor: rope.factor, original_context, theta: rope.theta }
}

/// Returns which weights a recipe runs, `context_length` being what the engine can hold at most.
pub(super) fn identity(weights: &Weights, located: &Located, recipe: &Recipe, longest: u32) -> ModelIdentity {
    let spec = weights.spec();
    let format = storage_type(recipe.quantization.format);
    let outline = weights.outline(format);
    let changed =
        |format: TensorType| weights.index().tensors.values().any(|info| info.shape.len() == 2 && info.kind != format);
    let weights_hash = match format.filter(|format| changed(*format)) {
        None => weights.content_hash().to_owned(),
        Some(format) => {
            let content = format!("{} as {}", weights.content_hash(), format.name());
            blake3::hash(content.as_bytes()).to_hex().to_string()
        }
    };
    ModelIdentity {
        source: recipe.model.source.clone(),
        name: spec.name.clone(),
        architecture: spec.architecture.clone(),
        weights_hash,
        format: outline.common_format.name().to_owned(),
        weights_bytes: outline.tensor_bytes,
        parameters: weights.parameters(),
        context_length: recipe.model.context_length.unwrap_or(longest),
        path: located.path.clone(),
        commit: located.commit.clone(),
        synthetic: weights.index().metadata.contains_key(synthetic::MARK),
        adapter: None,
    }
}

/// Returns the storage type a recipe asks for; none for `as_is`.
#[must_use]
pub fn storage_type(format: QuantizationFormat) -> Option<TensorType> {
    Some(match format {
        QuantizationFormat::AsIs => return None,
        QuantizationFormat::F32 => TensorType::F32,
        QuantizationFormat::F16 => TensorType::F16,
        QuantizationFormat::Bf16 => TensorType::Bf16,
        QuantizationFormat::Q4_0 => TensorType::Q4_0,
        QuantizationFormat::Q4_1 => TensorType::Q4_1,
        QuantizationFormat::Q5_0 => TensorType::Q5_0,
        QuantizationFormat::Q5_1 => TensorType::Q5_1,
        QuantizationFormat::Q8_0 => TensorType::Q8_0,
        QuantizationFormat::Q2K => TensorType::Q2K,
        QuantizationFormat::Q3K => TensorType::Q3K,
        QuantizationFormat::Q4K => TensorType::Q4K,
        QuantizationFormat::Q5K => TensorType::Q5K,
        QuantizationFormat::Q6K => TensorType::Q6K,
    })
}

/// Returns a kernel set's name, as recipes write it.
#[must_use]
pub fn set_name(set: KernelSet) -> &'static str {
    match set {
        KernelSet::Auto => "auto",
        KernelSet::Reference => "reference",
        KernelSet::Candle => "candle",
        KernelSet::Scalar => "scalar",
        KernelSet::Avx2 => "avx2",
        KernelSet::Avx512 => "avx512",
        KernelSet::Neon => "neon",
        KernelSet::Cuda => "cuda",
    }
}
