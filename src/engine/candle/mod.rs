//! Our decoder on candle tensors: any device candle has, and gradients where they are wanted.
mod executor;
mod kv;
mod linear;
mod low_rank;
mod rope;
mod training;
mod weights;

use std::sync::Arc;

use super::{
    Adapter, Chunk, Device, EngineError, LanguageModel, Logits, Mixture, SequenceId,
    attached::Attached,
    mixture::{Choices, NO_CHOICES},
    room,
    sequences::Sequences,
    steps::{Steps, hand_out},
};
use crate::model::{
    decoder::{Step, walk},
    spec::ModelSpec,
    weights::Weights,
};
use executor::Walker;
use kv::Cache;
use low_rank::Ready;
pub use training::Autograd;
use weights::Model;

const NAME: &str = "candle";

/// Rows computed at once.
pub(super) const STEP_ROWS: usize = 512;

/// The engine.
pub(super) struct Candle {
    model: Model,
    context_length: usize,
    sequences: Sequences<Cache>,
    adapters: Attached<Ready>,
}

impl Candle {
    pub(super) fn load(weights: &Weights, context_length: Option<usize>, device: Device) -> Result<Self, EngineError> {
        let context_length = room(NAME, context_length, weights.spec().context_length)?;
        let model = Model::load(weights, context_length, device)?;
        Ok(Self { context_length, model, sequences: Sequences::new(), adapters: Attached::default() })
    }

    fn attach_with(
        &mut self,
        sequence: SequenceId,
        adapter: Option<(&Arc<Adapter>, &Choices)>,
    ) -> Result<(), EngineError> {
        let model = &self.model;
        self.adapters
            .attach(&model.spec, sequence, adapter, |adapter, choices| Ok(Ready::new(adapter, choices, model)?))
    }

    fn run(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        let vocab_size = self.model.spec.vocab_size;
        let mut all = vec![Logits { rows: 0, vocab_size, values: Vec::new() }; batch.len()];
        let (mut steps, mut pieces, mut step) = (Steps::new(STEP_ROWS), Vec::new(), Step::default());
        while steps.next(batch, &self.sequences, &mut pieces, &mut step)? {
            let Self { model, sequences, adapters, context_length } = self;
            let mut walker = Walker::new(model, sequences, adapters, *context_length, &step)?;
            let logits = walk(&mut walker, model.spec.layers, &step)?;
            let logits = logits.map(|tensor| tensor.flatten_all()?.to_vec1::<f32>()).transpose()?.unwrap_or_default();
            hand_out(&logits, &pieces, &step, &mut all);
            for segment in &step.segments {
                self.sequences.get_mut(segment.sequence)?.length += segment.rows.len();
            }
        }
        Ok(all)
    }
}

impl LanguageModel for Candle {
    fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn open(&mut self) -> Result<SequenceId, EngineError> {
        self.sequences.open(NAME, Cache::new(self.model.spec.layers))
    }

    fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId, EngineError> {
        self.sequences.get(sequence)?;
        Err(EngineError::Unsupported { engine: NAME, what: "fork a sequence".to_owned() })
    }

    fn close(&mut self, sequence: SequenceId) {
        drop(self.sequences.close(sequence));
        self.adapters.detach(sequence);
    }

    fn attach(&mut self, sequence: SequenceId, adapter: Option<Arc<Adapter>>) -> Result<(), EngineError> {
        self.sequences.get(sequence)?;
        self.attach_with(sequence, adapter.as_ref().map(|adapter| (adapter, &NO_CHOICES)))
    }

    fn attach_mixture(&mut self, sequence: SequenceId, mixture: Arc<Mixture>) -> Result<(), EngineError> {
        self.sequences.get(sequence)?;
        self.attach_with(sequence, Some((mixture.adapter(), mixture.choices())))
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        self.sequences.check(batch, self.model.spec.vocab_size, self.context_length)?;
        let length = |chunk: &Chunk<'_>| Ok((chunk.sequence, self.sequences.get(chunk.sequence)?.length));
        let before = batch.iter().map(length).collect::<Result<Vec<_>, EngineError>>()?;
        let result = self.run(batch);
        if result.is_err() {
            for (sequence, length) in before {
                self.sequences.get_mut(sequence)?.length = length;
            }
        }
        result
    }
}
