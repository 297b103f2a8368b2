//! What an engine makes of adapters, and which sequence uses which.
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use super::{Adapter, EngineError, SequenceId, adapter::check, mixture::Choices};
use crate::model::spec::ModelSpec;

/// The adapters in use, each as `T`.
pub(super) struct Attached<T> {
    /// One of each, for as long as its owner has it.
    made: Vec<(Weak<Adapter>, Arc<T>)>,
    of: BTreeMap<SequenceId, Arc<T>>,
}

impl<T> Default for Attached<T> {
    fn default() -> Self {
        Self { made: Vec::new(), of: BTreeMap::new() }
    }
}

impl<T> Attached<T> {
    /// Gives a sequence an adapter, which `make` makes unless another sequence has it already; or takes it away.
    ///
    /// # Errors
    ///
    /// If the adapter is not one of this model, or cannot be made.
    pub(super) fn attach(
        &mut self,
        spec: &ModelSpec,
        sequence: SequenceId,
        adapter: Option<(&Arc<Adapter>, &Choices)>,
        make: impl FnOnce(&Adapter, &Choices) -> Result<T, EngineError>,
    ) -> Result<(), EngineError> {
        self.made.retain(|(owner, _)| owner.strong_count() > 0);
        let Some((adapter, choices)) = adapter else {
            self.detach(sequence);
            return Ok(());
        };
        let known = self.made.iter().find(|(owner, _)| owner.as_ptr() == Arc::as_ptr(adapter));
        let made = if let Some((_, made)) = known {
            Arc::clone(made)
        } else {
            check(adapter, spec)?;
            let made = Arc::new(make(adapter, choices)?);
            self.made.push((Arc::downgrade(adapter), Arc::clone(&made)));
            made
        };
        self.of.insert(sequence, made);
        Ok(())
    }

    /// Returns what a sequence has.
    pub(super) fn get(&self, sequence: SequenceId) -> Option<&Arc<T>> {
        self.of.get(&sequence)
    }

    /// Gives a sequence what another has, if that has any.
    pub(super) fn copy(&mut self, from: SequenceId, to: SequenceId) {
        if let Some(made) = self.of.get(&from) {
            self.of.insert(to, Arc::clone(made));
        }
    }

    pub(super) fn detach(&mut self, sequence: SequenceId) {
        self.of.remove(&sequence);
    }

    /// Returns whether no sequence has any.
    pub(super) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}
