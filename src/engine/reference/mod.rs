//! The baseline: candle-transformers' model files, as they ship.
//!
//! Their caches belong to the model and their `forward` takes one sequence, so each sequence is a
//! clone of the loaded model (weights are shared) and a batch runs one sequence after the other.
//! They read fewer of a file's settings than the file may have; what a model file there does not
//! compute is refused here, and where one is wrong beyond that, it is kept from what it gets wrong:
//!
//! | family | model file (0.11.1) | what it cannot do, and what is done about it |
//! | --- | --- | --- |
//! | llama | `quantized_llama` | 4096 tokens at most; no biases, windows, rope scaling or partial rotation: refused |
//! | qwen2 | `quantized_qwen2` | cannot be cloned: one sequence at a time |
//! | qwen3 | `quantized_qwen3` | cosines are f16 unless `general.dtype` says f32: set to f32. A longer chunk forgets tokens that came singly: after the first single token, all come singly |
//! | phi3 | `quantized_phi3` | base 10,000 whatever the file says, head and embedding apart, no window, `LongRoPE` or partial rotation: others refused |
//! | gemma3 | `gemma3`, on f32 weights | `quantized_gemma3` has SiLU where Gemma has GELU, and fails on a chunk behind another. The window of a chunk is one token too wide and a chunk may not follow another: the first chunk ends with the window, then tokens come singly |
mod dense;
mod models;
mod refusals;

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::{
    Adapter, Chunk, EngineError, LanguageModel, LogitRows, Logits, SequenceId, no_adapters, room, sequences::Sequences,
};
use crate::model::{spec::ModelSpec, weights::Weights};
use models::Model;

pub(super) use refusals::{check, longest_context, widens};

const NAME: &str = "reference";

/// A model that belongs to one sequence.
struct State {
    model: Model,
    /// Whether a token has come singly.
    stepped: bool,
}

/// candle-transformers' models.
pub(super) struct Reference {
    spec: ModelSpec,
    context_length: usize,
    /// Loaded, not stepped since it was; none while its only copy belongs to a sequence.
    pristine: Option<Model>,
    sequences: Sequences<State>,
}

impl Reference {
    pub(super) fn load(weights: &Weights, context_length: Option<usize>) -> Result<Self, EngineError> {
        let spec = weights.spec().clone();
        check(&spec)?;
        let context_length = room(NAME, context_length, longest_context(&spec))?;
        let pristine = Some(Model::load(weights, context_length)?);
        Ok(Self { context_length, pristine, sequences: Sequences::new(), spec })
    }

    fn run(&mut self, chunk: &Chunk<'_>) -> Result<Logits, EngineError> {
        let sequence = self.sequences.get_mut(chunk.sequence)?;
        let mut logits = Logits { rows: 0, vocab_size: self.spec.vocab_size, values: Vec::new() };
        let mut rest = chunk.tokens;
        while !rest.is_empty() {
            // `forward` returns the last position only, so all positions means one at a time.
            let size = match chunk.logits {
                LogitRows::All => 1,
                LogitRows::Last => {
                    let state = &sequence.state;
                    state.model.longest_chunk(&self.spec, sequence.length, state.stepped).min(rest.len())
                }
            };
            let (tokens, tail) = rest.split_at(size);
            let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
            let output = sequence.state.model.forward(&input, sequence.length)?;
            sequence.state.stepped |= size == 1;
            sequence.length += size;
            rest = tail;
            if chunk.logits == LogitRows::All || rest.is_empty() {
                logits.values.extend(output.flatten_all()?.to_vec1::<f32>()?);
                logits.rows += 1;
            }
        }
        Ok(logits)
    }
}

impl LanguageModel for Reference {
    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn open(&mut self) -> Result<SequenceId, EngineError> {
        let busy = || EngineError::Unsupported {
            engine: NAME,
            what: format!(
                "hold two sequences of a {} model: candle-transformers' cannot be cloned. Take a batch size of 1",
                self.spec.architecture
            ),
        };
        let model = match self.pristine.as_ref().map(Model::copy) {
            Some(Some(copy)) => copy,
            Some(None) | None => self.pristine.take().ok_or_else(busy)?,
        };
        self.sequences.open(NAME, State { model, stepped: false })
    }

    fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId, EngineError> {
        self.sequences.get(sequence)?;
        Err(EngineError::Unsupported { engine: NAME, what: "fork a sequence".to_owned() })
    }

    fn close(&mut self, sequence: SequenceId) {
        // Emptied, the only copy serves the next sequence.
        if let Some(mut state) = self.sequences.close(sequence)
            && self.pristine.is_none()
        {
            state.model.clear();
            self.pristine = Some(state.model);
        }
    }

    fn attach(&mut self, sequence: SequenceId, adapter: Option<Arc<Adapter>>) -> Result<(), EngineError> {
        self.sequences.get(sequence)?;
        no_adapters(NAME, adapter.as_deref())
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        self.sequences.check(batch, self.spec.vocab_size, self.context_length)?;
        let mut all = Vec::with_capacity(batch.len());
        for chunk in batch {
            // A cache that failed half way cannot be wound back: the sequence ends there.
            all.push(self.run(chunk).inspect_err(|_| _ = self.sequences.close(chunk.sequence))?);
        }
        Ok(all)
    }
}
