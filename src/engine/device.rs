//! Where candle computes.
use std::sync::OnceLock;

use super::EngineError;

/// A device of candle's. All other engines have the processor alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}

impl Device {
    /// Returns its name, as recipes write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// Returns whether this build has code for it.
    #[must_use]
    pub fn is_built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => cfg!(feature = "cuda"),
        }
    }

    /// Checks that it can be used: that there is one, and a driver.
    ///
    /// # Errors
    ///
    /// If this build has no code for it, or the driver finds none.
    pub fn check(self) -> Result<(), EngineError> {
        self.open().map(drop)
    }

    /// Returns it, the same one to all that ask: tensors of two openings cannot meet in an operation.
    pub(super) fn open(self) -> Result<candle_core::Device, EngineError> {
        static CUDA: OnceLock<candle_core::Device> = OnceLock::new();
        match self {
            Self::Cpu => Ok(candle_core::Device::Cpu),
            Self::Cuda if !self.is_built() => {
                let what = "compute on a GPU: this build has no CUDA (scripts/build-cuda makes one)".to_owned();
                Err(EngineError::Unsupported { engine: "candle", what })
            }
            Self::Cuda => match CUDA.get() {
                Some(device) => Ok(device.clone()),
                None => {
                    let device = candle_core::Device::new_cuda(0)?;
                    Ok(CUDA.get_or_init(|| device).clone())
                }
            },
        }
    }
}
