//! Bringing a model's matrices to another storage type, in memory.
use std::sync::{Arc, OnceLock};

use super::{Bytes, Index, Parts, TensorInfo, TensorType, Weights, WeightsError, common, quantize};

/// A tensor that could not be brought to the type asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The tensor.
    pub tensor: String,
    /// The type asked for.
    pub wanted: TensorType,
    /// The type it was brought to.
    pub used: TensorType,
}

/// What weights will be once requantised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// The type most weights of matrices are stored in.
    pub common_format: TensorType,
    /// Tensors in another type than the one asked for, in the file's order.
    pub fallbacks: Vec<Fallback>,
}

/// Returns the type a tensor is brought to. Matrices only: norms stay as they are. Rows that are no
/// multiple of 256 cannot be K-quants; they become what `llama-quantize` makes of them
/// (`llama-quant.cpp`, `tensor_type_fallback`), but `q4_0` where that takes `iq4_nl`.
pub(super) fn target(info: &TensorInfo, wanted: TensorType) -> TensorType {
    use TensorType::{F16, Q2K, Q3K, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    let &[_, row] = info.shape.as_slice() else { return info.kind };
    let fits = |kind: TensorType| row % kind.block_values() == 0;
    let narrower = match wanted {
        Q2K | Q3K => Q4_0,
        Q4K => Q5_0,
        Q5K => Q5_1,
        Q6K => Q8_0,
        other => other,
    };
    [wanted, narrower].into_iter().find(|kind| fits(*kind)).unwrap_or(F16)
}

impl Weights {
    /// Returns what [`requantized`](Self::requantized) will give, without doing it; the file as it
    /// is for `None`.
    #[must_use]
    pub fn outline(&self, format: Option<TensorType>) -> Outline {
        let tensors = &self.parts.index.tensors;
        let kind = |info: &TensorInfo| format.map_or(info.kind, |wanted| target(info, wanted));
        let mut fallbacks = Vec::new();
        for (name, info) in tensors.iter().filter(|(_, info)| info.shape.len() == 2) {
            if let Some(wanted) = format.filter(|wanted| kind(info) != *wanted) {
                fallbacks.push(Fallback { tensor: name.clone(), wanted, used: kind(info) });
            }
        }
        Outline {
            tensor_bytes: tensors.values().map(|info| info.bytes_as(kind(info)) as u64).sum(),
            common_format: common(tensors.values().map(|info| (info, kind(info)))),
            fallbacks,
        }
    }

    /// Returns weights whose matrices are stored as `format`, quantised from what the file's
    /// weights stand for (so quantising twice loses twice). Tensors already stored so stay where they
    /// are; of the others a few rows at a time are held as f32.
    ///
    /// # Errors
    ///
    /// If a tensor cannot be decoded.
    pub fn requantized(&self, format: TensorType) -> Result<Self, WeightsError> {
        let Index { version, metadata, tensors, alignment } = &self.parts.index;
        let (part, mut tensors) = (self.parts.bytes.len(), tensors.clone());
        let changed = |info: &TensorInfo| target(info, format) != info.kind;
        let bytes = |info: &TensorInfo| info.bytes_as(target(info, format)).next_multiple_of(*alignment);
        let mut made = Vec::with_capacity(tensors.values().filter(|info| changed(info)).map(bytes).sum());
        for (name, info) in tensors.iter_mut().filter(|(_, info)| changed(info)) {
            let kind = target(info, format);
            let start = made.len().next_multiple_of(*alignment);
            made.resize(start, 0);
            let convert = |error| WeightsError::Convert { tensor: name.clone(), kind, error };
            let take = |bytes: &[u8]| {
                made.extend_from_slice(bytes);
                Ok(())
            };
            quantize::tensor(&self.parts, info, kind, None, quantize::threads(), take).map_err(convert)?;
            let range = start..made.len();
            *info = TensorInfo { kind, shape: info.shape.clone(), part, range, change: None };
        }
        let mut bytes = self.parts.bytes.clone();
        if !made.is_empty() {
            bytes.push(Arc::new(Bytes::Owned(made)));
        }
        let index = Index { version: *version, metadata: metadata.clone(), tensors, alignment: *alignment };
        let (source, spec) = (self.source.clone(), self.spec.clone());
        Ok(Self { source, parts: Parts { bytes, index }, spec, hash: OnceLock::new() })
    }
}
