//! A workload that the command line asks for, without a recipe.
use std::path::PathBuf;

use clap::ValueEnum;

use crate::{
    event::{Event, Outcome},
    model::source::locate::Locator,
    plan::{self, Cell, LaunchSpec, LaunchTask, PROTOCOL, set_name},
    recipe::{
        Recipe,
        schema::{ActivationPrecision, Device, KernelSet, Workload},
    },
    run::{self, Interrupt, RunError},
    ui::Printer,
    units::Threads,
};

use super::{Failure, access::absolute_source};

/// A kernel set on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KernelChoice {
    /// The fastest this processor runs, or the tier that `RUVLAB_KERNELS` names.
    Auto,
    /// candle-transformers as it ships.
    Reference,
    /// ruvlab's decoder on candle tensors.
    Candle,
    /// ruvlab's portable kernels.
    Scalar,
    /// ruvlab's AVX2 kernels.
    Avx2,
    /// ruvlab's AVX-512 kernels.
    Avx512,
    /// ruvlab's NEON kernels.
    Neon,
    /// ruvlab's kernels on an NVIDIA GPU.
    Cuda,
}

impl From<KernelChoice> for KernelSet {
    fn from(choice: KernelChoice) -> Self {
        match choice {
            KernelChoice::Auto => Self::Auto,
            KernelChoice::Reference => Self::Reference,
            KernelChoice::Candle => Self::Candle,
            KernelChoice::Scalar => Self::Scalar,
            KernelChoice::Avx2 => Self::Avx2,
            KernelChoice::Avx512 => Self::Avx512,
            KernelChoice::Neon => Self::Neon,
            KernelChoice::Cuda => Self::Cuda,
        }
    }
}

/// A device on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU, in a build that `scripts/build-cuda` makes.
    Cuda,
}

impl From<DeviceChoice> for Device {
    fn from(choice: DeviceChoice) -> Self {
        match choice {
            DeviceChoice::Cpu => Self::Cpu,
            DeviceChoice::Cuda => Self::Cuda,
        }
    }
}

/// Returns what computes in a cell, in one text: the kernel set, and what it was told to do differently.
pub(super) fn backend(cell: &Cell) -> String {
    let set = set_name(cell.kernel_set);
    let kernels = &cell.recipe.kernels;
    match (kernels.device, kernels.activations) {
        (Device::Cuda, _) => format!("{set} cuda"),
        (Device::Cpu, Some(ActivationPrecision::Int8)) => format!("{set} int8"),
        (Device::Cpu, _) => set.to_owned(),
    }
}

/// Reads a precision of activations as recipes write it.
pub(super) fn precision(text: &str) -> Result<ActivationPrecision, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

/// One workload on one model, asked for on the command line instead of in a recipe.
pub(super) struct AdHoc {
    /// The model's source.
    pub(super) model: String,
    /// The kernel set.
    pub(super) kernels: KernelChoice,
    /// Where it computes.
    pub(super) device: DeviceChoice,
    /// The precision of activations.
    pub(super) activations: Option<ActivationPrecision>,
    /// Worker threads.
    pub(super) threads: Threads,
    /// The adapter it runs with: a PEFT folder or a GGUF adapter.
    pub(super) adapter: Option<PathBuf>,
    /// The workload.
    pub(super) workload: Workload,
}

impl AdHoc {
    /// Returns the cell it makes.
    pub(super) fn cell(self, locator: &mut Locator<'_>) -> Result<Cell, Failure> {
        let source = absolute_source(&self.model)?;
        let adapter = self.adapter.map(std::path::absolute).transpose()?;
        let tree = serde_json::json!({
            "schema": "ruvlab/v1",
            "name": "command-line",
            "model": {"source": source},
            "kernels": {
                "set": KernelSet::from(self.kernels),
                "device": Device::from(self.device),
                "activations": self.activations,
                "threads": self.threads,
                "verify": {"reference": null},
            },
            "adapter": adapter.map(|init| serde_json::json!({"init": init})),
            "workloads": [self.workload],
            "measure": {"token_trace": false},
        });
        let recipe: Recipe = serde_json::from_value(tree)?;
        let cell = plan::single(recipe, locator)?;
        Printer::stderr().diagnostics(cell.warning().as_slice());
        Ok(cell)
    }
}

/// Runs one launch of a cell and returns its events; nothing is stored.
pub(super) fn launch_once(cell: &Cell, task: LaunchTask, interrupt: &Interrupt) -> Result<Vec<Event>, Failure> {
    let executable = run::own_executable()?;
    let spec = LaunchSpec { protocol: PROTOCOL, launch: 0, task, cell: cell.clone(), artifacts: None };
    let mut events = Vec::new();
    let result = run::launch(&executable, &spec, interrupt, |event| events.push(event)).map_err(RunError::Spawn)?;
    match (interrupt.signal().and_then(|signal| u8::try_from(128 + signal).ok()), result.outcome) {
        (Some(code), _) => Err(Failure::new(code, "interrupted", "stopped by a signal", None)),
        (None, Outcome::Complete) => Ok(events),
        (None, Outcome::Failed { exit_code, reason }) => Err(Failure::new(exit_code, "launch", reason, None)),
    }
}
