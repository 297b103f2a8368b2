//! The baseline: candle-transformers' llama, as it ships.
//!
//! Its cache belongs to the model and its `forward` takes one sequence, so each sequence is a clone
//! of the loaded model (weights are shared) and a batch runs one sequence after the other.
use candle_core::{Device, Tensor, quantized::gguf_file};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};

use super::{Chunk, EngineError, LanguageModel, LogitRows, Logits, SequenceId, room, sequences::Sequences};
use crate::model::{spec::ModelSpec, weights::Weights};

const NAME: &str = "reference";

/// The length of candle-transformers' table of rotary positions.
pub(super) const LONGEST_CONTEXT: usize = MAX_SEQ_LEN;

/// candle-transformers' `quantized_llama`.
pub(super) struct Reference {
    spec: ModelSpec,
    context_length: usize,
    /// Loaded, never stepped.
    pristine: ModelWeights,
    sequences: Sequences<ModelWeights>,
}

impl Reference {
    pub(super) fn load(weights: &Weights, context_length: Option<usize>) -> Result<Self, EngineError> {
        let spec = weights.spec().clone();
        let refuse = |what: String| Err(EngineError::Unsupported { engine: NAME, what });
        if spec.architecture != "llama" {
            return refuse(format!("run the architecture {:?}", spec.architecture));
        }
        if spec.head_dim * spec.heads != spec.hidden_size {
            return refuse(format!("run heads of width {} in {} values", spec.head_dim, spec.hidden_size));
        }
        let mut file = weights.image().map_err(|error| EngineError::Weights(error.to_string()))?;
        let content = gguf_file::Content::read(&mut file)?;
        Ok(Self {
            context_length: room(NAME, context_length, spec.context_length.min(LONGEST_CONTEXT))?,
            pristine: ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?,
            sequences: Sequences::new(),
            spec,
        })
    }

    fn run(&mut self, chunk: &Chunk<'_>) -> Result<Logits, EngineError> {
        let sequence = self.sequences.get_mut(chunk.sequence)?;
        // `forward` returns the last position only, so all positions means one at a time.
        let size = match chunk.logits {
            LogitRows::Last => chunk.tokens.len(),
            LogitRows::All => 1,
        };
        let mut logits = Logits { rows: 0, vocab_size: self.spec.vocab_size, values: Vec::new() };
        for tokens in chunk.tokens.chunks(size) {
            let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
            let output = sequence.state.forward(&input, sequence.length)?;
            logits.values.extend(output.flatten_all()?.to_vec1::<f32>()?);
            logits.rows += 1;
            sequence.length += tokens.len();
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
        self.sequences.open(NAME, self.pristine.clone())
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.close(sequence);
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        self.sequences.check(batch, self.spec.vocab_size, self.context_length)?;
        let mut all = Vec::with_capacity(batch.len());
        for chunk in batch {
            // A cache that failed half way cannot be wound back: the sequence ends there.
            all.push(self.run(chunk).inspect_err(|_| self.sequences.close(chunk.sequence))?);
        }
        Ok(all)
    }
}
