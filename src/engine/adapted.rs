//! A model whose sequences all have one adapter from the start, or several to choose among.
use std::sync::Arc;

use super::{Adapter, Admitted, Chunk, EngineError, HeadRows, LanguageModel, Logits, Mixture, SequenceId};
use crate::{
    kv::{CacheReport, Transition},
    model::{sampler::TopK, spec::ModelSpec},
};

/// A model with what its sequences are given.
struct Adapted {
    model: Box<dyn LanguageModel>,
    given: Given,
}

/// What a sequence is given.
enum Given {
    Adapter(Arc<Adapter>),
    Mixture(Arc<Mixture>),
}

impl Given {
    fn attach(&self, model: &mut dyn LanguageModel, sequence: SequenceId) -> Result<(), EngineError> {
        match self {
            Self::Adapter(adapter) => model.attach(sequence, Some(Arc::clone(adapter))),
            Self::Mixture(mixture) => model.attach_mixture(sequence, Arc::clone(mixture)),
        }
    }
}

/// Returns the model with every new sequence given an adapter, so that whoever drives it need not know
/// of one.
///
/// # Errors
///
/// If the engine has no adapters, or this one's shapes are not the model's.
pub fn adapted(model: Box<dyn LanguageModel>, adapter: Arc<Adapter>) -> Result<Box<dyn LanguageModel>, EngineError> {
    with(model, Given::Adapter(adapter))
}

/// Returns the model with every new sequence given several adapters, which its tokens choose among.
///
/// # Errors
///
/// As [`adapted`].
pub fn mixed(model: Box<dyn LanguageModel>, mixture: Arc<Mixture>) -> Result<Box<dyn LanguageModel>, EngineError> {
    with(model, Given::Mixture(mixture))
}

fn with(mut model: Box<dyn LanguageModel>, given: Given) -> Result<Box<dyn LanguageModel>, EngineError> {
    // What no sequence could be given shows here, and not in the middle of a workload.
    let probe = model.open()?;
    let attached = given.attach(model.as_mut(), probe);
    model.close(probe);
    attached?;
    Ok(Box::new(Adapted { model, given }))
}

impl Adapted {
    /// Gives a sequence what all are given, or closes it.
    fn equip(&mut self, sequence: SequenceId) -> Result<(), EngineError> {
        let attached = self.given.attach(self.model.as_mut(), sequence);
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
        match &self.given {
            Given::Adapter(adapter) => self.model.admit_with(prompt, tokens, Arc::clone(adapter)),
            // No prompt is given, so that nothing is found that was computed without the mixture.
            Given::Mixture(_) => {
                let admitted = self.model.admit(&[], tokens)?;
                self.equip(admitted.sequence)?;
                Ok(admitted)
            }
        }
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

    fn attach_mixture(&mut self, sequence: SequenceId, mixture: Arc<Mixture>) -> Result<(), EngineError> {
        self.model.attach_mixture(sequence, mixture)
    }

    fn attach_head(&mut self, sequence: SequenceId, rows: Option<Arc<HeadRows>>) -> Result<(), EngineError> {
        self.model.attach_head(sequence, rows)
    }

    fn keep_hidden(&mut self, keep: bool) -> Result<(), EngineError> {
        self.model.keep_hidden(keep)
    }

    fn hidden(&self) -> &[f32] {
        self.model.hidden()
    }

    fn normalisers(&self) -> &[f64] {
        self.model.normalisers()
    }

    fn keep_logits(&mut self, keep: bool) -> Result<(), EngineError> {
        self.model.keep_logits(keep)
    }

    fn logits(&self) -> &[f32] {
        self.model.logits()
    }

    fn rouse(&mut self) {
        self.model.rouse();
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
