//! What a kernel set cannot do on this processor, or of what a recipe asks.
use crate::{
    diag::Diagnostic,
    recipe::{
        Recipe,
        schema::{KernelSet, KvType, Workload},
    },
};

use super::{
    cache,
    identity::{engine_kind, is_native, running_set, set_name},
    resolve::Resolver,
};

impl Resolver<'_, '_> {
    /// Refuses kernels this processor does not run.
    pub(super) fn check_available(&mut self, path: &str, set: KernelSet) -> Option<()> {
        if engine_kind(set).is_none_or(|kind| kind.is_available()) {
            return Some(());
        }
        let message = format!("this processor does not run the {} kernels", set_name(set));
        let diagnostic = Diagnostic::error("kernels-unavailable", message);
        self.report_missing(diagnostic.at(self.place(path)).hint("`auto` takes the fastest it runs"));
        None
    }

    /// Refuses kernels this processor does not run, and what they cannot do.
    pub(super) fn check_kernels(&mut self, recipe: &Recipe, kernel_set: KernelSet) -> Option<()> {
        self.check_available("kernels.set", kernel_set)?;
        if let Some(reference) = recipe.kernels.verify.reference {
            self.check_available("kernels.verify.reference", running_set(reference))?;
        }
        if recipe.kernels.attention.is_some() && !is_native(kernel_set) {
            let message = format!("`{}` attends in its own way only", set_name(kernel_set));
            let diagnostic = Diagnostic::error("unsupported-attention", message)
                .at(self.place("kernels.attention"))
                .hint("take `kernels.attention` out, or a kernel set of ruvlab's own such as `auto`");
            self.report(diagnostic);
            return None;
        }
        if recipe.kernels.activations.is_some() && !is_native(kernel_set) {
            let message = format!("`{}` has a precision of activations of its own", set_name(kernel_set));
            let diagnostic = Diagnostic::error("unsupported-activations", message)
                .at(self.place("kernels.activations"))
                .hint("take `kernels.activations` out, or a kernel set of ruvlab's own such as `auto`");
            self.report(diagnostic);
        }
        let adapts = |workload: &Workload| matches!(workload, Workload::Adapt(_) | Workload::Sona(_));
        if let Some(index) = recipe.workloads.iter().position(adapts).filter(|_| !is_native(kernel_set)) {
            let message =
                format!("`{}` does not show what goes into its head, which is learned from", set_name(kernel_set));
            let diagnostic = Diagnostic::error("unsupported-adapt", message);
            let place = self.place(&format!("workloads[{index}]"));
            self.report(diagnostic.at(place).hint("take the kernel set `auto`"));
            return None;
        }
        let cache = &recipe.kv_cache;
        for (path, kind) in [("kv_cache.type_k", cache.type_k), ("kv_cache.type_v", cache.type_v)] {
            if !is_native(kernel_set) && kind.is_some_and(|kind| kind != KvType::F32) {
                let message = format!("`{}` has caches of f32 only", set_name(kernel_set));
                let diagnostic = Diagnostic::error("cache-type", message).at(self.place(path));
                self.report(diagnostic.hint("take it out, or take ruvlab's own kernels"));
                return None;
            }
        }
        let foreign = cache::native_only(cache).first().copied().filter(|_| !is_native(kernel_set));
        if let Some(path) = foreign {
            let set = set_name(kernel_set);
            let message = format!("`{path}` is for the cache of ruvlab's own kernels, which `{set}` has not");
            let diagnostic = Diagnostic::error("cache", message).at(self.place(path));
            self.report(diagnostic.hint("take it out, or take the kernel set `auto`"));
            return None;
        }
        Some(())
    }
}
