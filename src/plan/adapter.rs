//! Which adapter a cell runs with.
use std::path::Path;

use crate::{
    adapt::file::{self, AdapterFileError},
    diag::Diagnostic,
    recipe::{Recipe, schema::KernelSet},
};

use super::{
    AdapterIdentity,
    identity::{engine_kind, set_name},
    resolve::{Resolver, name},
};

const KEY: &str = "adapter.init";

impl Resolver<'_, '_> {
    /// Returns the adapter a recipe's workloads run with, none where they run without; nothing where it
    /// cannot be had, or not be run, which is reported.
    pub(super) fn adapter(&mut self, recipe: &Recipe, kernel_set: KernelSet) -> Option<Option<AdapterIdentity>> {
        let Some(path) = recipe.attached() else { return Some(None) };
        let verified_by = recipe.kernels.verify.reference.filter(|set| *set != kernel_set);
        for (set, key) in [(Some(kernel_set), "kernels.set"), (verified_by, "kernels.verify.reference")] {
            let Some(set) = set.filter(|set| engine_kind(*set).is_some_and(|kind| !kind.has_adapters())) else {
                continue;
            };
            let message = format!("`{}` runs no adapters", set_name(set));
            let hint = match key {
                "kernels.set" => "take ruvlab's own kernels (`auto`) or `candle`, or merge it (`ruvlab adapter merge`)",
                _ => "set `kernels.verify.reference` to `candle`, or to null to go without this check",
            };
            let problem = Diagnostic::error("adapter", message).at(self.place(key).or_else(|| self.place(KEY)));
            self.report(problem.hint(hint));
            return None;
        }
        let key = (name(recipe), path.to_owned());
        if !self.adapters.contains_key(&key) {
            let found = self.read_adapter(recipe, path);
            self.adapters.insert(key.clone(), found);
        }
        self.adapters.get(&key)?.clone().map(Some)
    }

    fn read_adapter(&mut self, recipe: &Recipe, path: &str) -> Option<AdapterIdentity> {
        match file::read(Path::new(path), self.opened(recipe)?.spec()) {
            Ok(adapter) => Some(AdapterIdentity {
                path: path.to_owned(),
                hash: file::content_hash(&adapter),
                parameters: adapter.values().map(|part| (part.a.len() + part.b.len()) as u64).sum(),
            }),
            Err(error) => {
                let problem = Diagnostic::error("adapter", error.to_string()).at(self.place(KEY));
                match error {
                    AdapterFileError::Unreadable { .. } => self.report_missing(problem),
                    _ => self.report(problem.hint("an adapter belongs to the model it was trained on")),
                }
                None
            }
        }
    }
}
