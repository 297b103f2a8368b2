//! A model whose sequences all have one adapter from the start.
use std::sync::Arc;

use super::{Adapter, Admitted, Chunk, EngineError, LanguageModel, Logits, SequenceId};
use crate::{
    kv::{CacheReport, Transition},
    model::{sampler::TopK, spec::ModelSpec},
};

/// A model with an adapter.
struct Adapted {
    model: Box<dyn LanguageModel>,
    adapter: Arc<Adapter>,
}

/// Returns the model with every new sequence given an adapter, so that whoever drives it need not know
/// of one.
///
/// # Errors
///
/// If the engine has no adapters, or this one's shapes are not the model's.
pub fn adapted(
    mut model: Box<dyn LanguageModel>,
    adapter: Arc<Adapter>,
) -> Result<Box<dyn LanguageModel>, EngineError> {
    // What no sequence could be given shows here, and not in the middle of a workload.
    let probe = model.open()?;
    let attached = model.attach(probe, Some(Arc::clone(&adapter)));
    model.close(probe);
    attached?;
    Ok(Box::new(Adapted { model, adapter }))
}

impl Adapted {
    /// Gives a sequence the adapter, or closes it.
    fn equip(&mut self, sequence: SequenceId) -> Result<(), EngineError> {
        let attached = self.model.attach(sequence, Some(Arc::clone(&self.adapter)));
        if attached.is_err() {
            self.model.close(sequence);
        }
        attached
    }
}

impl LanguageModel for Adapted {
    fn spec(&self) -> &ModelSpec {
        self.model.spec()
    }

    fn context_length(&self) -> usize {
        self.model.context_length()
    }

    fn open(&mut self) -> Result<SequenceId, EngineError> {
        let sequence = self.model.open()?;
        self.equip(sequence)?;
        Ok(sequence)
    }

    fn admit(&mut self, prompt: &[u32], tokens: usize) -> Result<Admitted, EngineError> {
        self.model.admit_with(prompt, tokens, Arc::clone(&self.adapter))
    }

    fn admit_with(&mut self, prompt: &[u32], tokens: usize, adapter: Arc<Adapter>) -> Result<Admitted, EngineError> {
        self.model.admit_with(prompt, tokens, adapter)
    }

    fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId, EngineError> {
        self.model.fork(sequence)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.model.close(sequence);
    }

    fn attach(&mut self, sequence: SequenceId, adapter: Option<Arc<Adapter>>) -> Result<(), EngineError> {
        self.model.attach(sequence, adapter)
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        self.model.step(batch)
    }

    fn step_top_k(&mut self, batch: &[Chunk<'_>], k: usize) -> Result<Vec<TopK>, EngineError> {
        self.model.step_top_k(batch, k)
    }

    fn cache_report(&self) -> Option<CacheReport> {
        self.model.cache_report()
    }

    fn take_transitions(&mut self) -> Vec<Transition> {
        self.model.take_transitions()
    }
}
