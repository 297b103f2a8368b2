//! Bringing a model's matrices to another storage type, as a file of the same form in memory.
use candle_core::{Device, quantized::QTensor};

use super::{Bytes, TensorInfo, TensorType, Weights, WeightsError, common};

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
fn target(info: &TensorInfo, wanted: TensorType) -> TensorType {
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

fn bytes_of(info: &TensorInfo, kind: TensorType) -> usize {
    info.values() / kind.block_values() * kind.block_bytes()
}

impl Weights {
    /// Returns what [`requantized`](Self::requantized) will give, without doing it; the file as it
    /// is for `None`.
    #[must_use]
    pub fn outline(&self, format: Option<TensorType>) -> Outline {
        let tensors = &self.index.tensors;
        let kind = |info: &TensorInfo| format.map_or(info.kind, |wanted| target(info, wanted));
        let mut fallbacks = Vec::new();
        for (name, info) in tensors.iter().filter(|(_, info)| info.shape.len() == 2) {
            if let Some(wanted) = format.filter(|wanted| kind(info) != *wanted) {
                fallbacks.push(Fallback { tensor: name.clone(), wanted, used: kind(info) });
            }
        }
        Outline {
            tensor_bytes: tensors.values().map(|info| bytes_of(info, kind(info)) as u64).sum(),
            common_format: common(tensors.values().map(|info| (info, kind(info)))),
            fallbacks,
        }
    }

    /// Returns weights whose matrices are stored as `format`, quantised from what the file's
    /// weights stand for (so quantising twice loses twice). Tensors already stored so are copied.
    ///
    /// # Errors
    ///
    /// If candle cannot quantise a tensor.
    pub fn requantized(&self, format: TensorType) -> Result<Self, WeightsError> {
        let alignment = self.index.alignment;
        let tensors = &self.index.tensors;
        let mut header = Vec::new();
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(self.index.metadata.len() as u64).to_le_bytes());
        header.extend_from_slice(&self.bytes()[self.index.metadata_bytes.clone()]);
        let mut offset = 0usize;
        for (name, info) in tensors {
            let kind = target(info, format);
            header.extend_from_slice(&(name.len() as u64).to_le_bytes());
            header.extend_from_slice(name.as_bytes());
            header.extend_from_slice(&(info.shape.len() as u32).to_le_bytes());
            for length in info.shape.iter().rev() {
                header.extend_from_slice(&(*length as u64).to_le_bytes());
            }
            header.extend_from_slice(&kind.id().to_le_bytes());
            header.extend_from_slice(&(offset as u64).to_le_bytes());
            offset = (offset + bytes_of(info, kind)).next_multiple_of(alignment);
        }
        let data_start = header.len().next_multiple_of(alignment);
        let mut file = Vec::with_capacity(data_start + offset);
        file.extend_from_slice(&header);
        for (name, info) in tensors {
            file.resize(file.len().next_multiple_of(alignment), 0);
            let kind = target(info, format);
            if kind == info.kind {
                file.extend_from_slice(&self.bytes()[info.range.clone()]);
            } else {
                let convert = |error| WeightsError::Convert { tensor: name.clone(), kind, error };
                let values = self.tensor(name)?.dequantize(&Device::Cpu).map_err(convert)?;
                let tensor = QTensor::quantize(&values, kind.candle()).map_err(convert)?;
                file.extend_from_slice(&tensor.data().map_err(convert)?);
            }
        }
        Self::from_bytes(&self.source, Bytes::Owned(file))
    }
}
