//! Answering with what the loops learned, token by token, and taking note of what they learn from.
use super::{Evidence, Recalled, Recollection, Served, Sona, SonaError, read_prompt};
use crate::{
    adapt::micro_lora::Request,
    engine::{Chunk, LanguageModel, LogitRows, SequenceId},
    model::sampler::{Sampler, TopK},
};

/// An answer as it is given, with what is left of it to learn from, and room that is used again.
#[derive(Clone, Debug)]
pub struct Answering {
    request: Request,
    recalled: Vec<Recalled>,
    tokens: Vec<u32>,
    /// The inputs of the head at the end of the prompt, and at each token.
    prompt: Vec<f32>,
    hidden: Vec<f32>,
    found: Recollection,
    /// The greatest logits, and all of them, with the cache mixed in.
    mixed: TopK,
    logits: Vec<f32>,
}

impl Answering {
    /// Returns the tokens so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Returns the inputs of the head at the end of the prompt, `[rows, E]`: what [`Sona::keep`] wants of it.
    #[must_use]
    pub fn prompt(&self) -> &[f32] {
        &self.prompt
    }

    /// Returns what there is to learn from.
    #[must_use]
    pub fn evidence(&self) -> Evidence<'_> {
        let Self { request, recalled, tokens, hidden, .. } = self;
        Evidence { request, hidden, tokens, recalled }
    }

    fn clear(&mut self) {
        self.request.clear();
        self.recalled.clear();
        self.tokens.clear();
        self.hidden.clear();
    }
}

/// What an engine computed of a position.
#[derive(Clone, Copy)]
struct Position<'a> {
    hidden: &'a [f32],
    logits: &'a [f32],
    greatest: &'a TopK,
    normaliser: f64,
}

impl Sona {
    /// Returns room for answers of so many tokens.
    #[must_use]
    pub fn answering(&self, tokens: usize) -> Answering {
        Answering {
            request: self.request(tokens),
            recalled: Vec::with_capacity(tokens),
            tokens: Vec::with_capacity(tokens),
            prompt: Vec::new(),
            hidden: Vec::with_capacity(tokens * self.spec.hidden_size),
            found: Recollection::default(),
            mixed: TopK::new(1),
            logits: Vec::new(),
        }
    }

    /// Reads a prompt into an empty sequence, gives that what the request is served with, and chooses the first token
    /// of the answer.
    ///
    /// # Errors
    ///
    /// If the engine fails or does not show what is learned from ([`LanguageModel::keep_logits`]), or its logits allow
    /// no choice.
    pub fn begin_answer(
        &self,
        engine: &mut dyn LanguageModel,
        sequence: SequenceId,
        prompt: &[u32],
        sampler: &mut Sampler,
        answer: &mut Answering,
    ) -> Result<Served, SonaError> {
        answer.clear();
        engine.keep_logits(true)?;
        let mut served = self.serve()?;
        engine.attach(sequence, served.adapter().cloned())?;
        let (inputs, mut logits) = read_prompt(engine, sequence, prompt)?;
        self.recognise(&mut served, &inputs)?;
        let addition = served.addition(&self.spec)?;
        // From the next token on the engine adds it.
        engine.attach_head(sequence, addition.rows().cloned())?;
        let hidden = &inputs[inputs.len() - self.spec.hidden_size..];
        addition.apply(self.blank.project(hidden), &mut logits);
        let position = Position {
            hidden,
            greatest: &TopK::of(&logits, deciding(sampler)),
            normaliser: ruvlab_kernels::log_sum_exp_f32(&logits),
            logits: &logits,
        };
        self.take(position, sampler, answer)?;
        // Threads have gone to sleep over all this.
        engine.rouse();
        answer.prompt = inputs;
        Ok(served)
    }

    /// Appends the last token of an answer to its sequence and chooses the one that follows.
    ///
    /// # Errors
    ///
    /// As [`Self::begin_answer`].
    pub fn go_on_answering(
        &self,
        engine: &mut dyn LanguageModel,
        sequence: SequenceId,
        sampler: &mut Sampler,
        answer: &mut Answering,
    ) -> Result<(), SonaError> {
        let last = answer.tokens.last().map(std::slice::from_ref).ok_or(SonaError::Empty)?;
        let chunk = Chunk { sequence, tokens: last, logits: LogitRows::Last };
        let greatest = engine.step_top_k(&[chunk], deciding(sampler))?.remove(0);
        let position = Position {
            hidden: engine.hidden(),
            logits: engine.logits(),
            greatest: &greatest,
            normaliser: engine.normalisers().first().copied().unwrap_or(f64::NAN),
        };
        self.take(position, sampler, answer)
    }

    /// Chooses the token at a position, with the cache mixed in, and takes note of it. What is learned from are the
    /// probabilities without the cache, which has no gradient.
    fn take(&self, at: Position<'_>, sampler: &mut Sampler, answer: &mut Answering) -> Result<(), SonaError> {
        let Position { hidden, logits, greatest, normaliser } = at;
        let Answering { request, recalled, found, mixed, logits: all, .. } = answer;
        let recall = self.instant.as_ref().map(|instant| &instant.recall);
        let token = match (sampler.sampling().deciding_logits(), recall) {
            (Some(_), None) => sampler.sample_top_k(greatest)?,
            (Some(deciding), Some(recall)) => {
                mixed.reset(deciding);
                recall.mix_greatest(hidden, normaliser, (greatest.entries()?, logits), found, mixed);
                sampler.sample_top_k(mixed)?
            }
            (None, recall) => {
                all.clear();
                all.extend_from_slice(logits);
                if let Some(recall) = recall {
                    recall.mix(hidden, normaliser, all, found);
                }
                sampler.sample(all)?
            }
        };
        request.record_normalised(self.blank.project(hidden), logits, normaliser, token)?;
        if recall.is_some() {
            recalled.push(found.of(token));
        }
        answer.hidden.extend_from_slice(hidden);
        answer.tokens.push(token);
        Ok(())
    }
}

/// Returns how many of the greatest logits are asked for: those that decide, where few do.
fn deciding(sampler: &Sampler) -> usize {
    sampler.sampling().deciding_logits().unwrap_or(1)
}
