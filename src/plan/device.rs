//! Whether the device a recipe names can be had.
use crate::{
    diag::Diagnostic,
    engine::Device,
    recipe::{Recipe, schema::KernelSet},
};

use super::{
    identity::{device, set_name},
    resolve::Resolver,
};

impl Resolver<'_, '_> {
    /// Refuses a device that the kernel set does not compute on, this build has no code for, or the machine
    /// has not.
    pub(super) fn check_device(&mut self, recipe: &Recipe, kernel_set: KernelSet) -> Option<()> {
        let path = "kernels.device";
        let device = device(recipe.kernels.device);
        if device == Device::Cpu {
            return Some(());
        }
        let place = self.place(path);
        if kernel_set != KernelSet::Candle {
            let message =
                format!("`{}` computes on the processor, and not on `{}`", set_name(kernel_set), device.name());
            let problem = Diagnostic::error("unsupported-device", message).at(place);
            self.report(problem.hint("the kernel set `candle` computes there; or take the device out"));
            return None;
        }
        let (message, hint) = if device.is_built() {
            let Err(error) = device.check() else { return Some(()) };
            (format!("there is no NVIDIA GPU to be used: {error}"), "`nvidia-smi` shows what the driver has")
        } else {
            let message = "this build of ruvlab has no CUDA".to_owned();
            (
                message,
                "build one with scripts/build-cuda, or with `cargo build --release --features cuda` where CUDA is",
            )
        };
        self.report_missing(Diagnostic::error("device-unavailable", message).at(place).hint(hint));
        None
    }
}
