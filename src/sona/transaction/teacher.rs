//! The state before a transaction as its teacher.
use std::sync::Arc;

use rand::Rng;

use super::super::{Recollection, Sona, SonaError, read_prompt};
use crate::{
    engine::{Adapter, Chunk, LanguageModel, LogitRows},
    model::sampler::{Sampler, Sampling},
};

impl Sona {
    /// Returns sequences drawn from the state as it serves, each with the tokens of its prompt: after prompts of
    /// kept requests and after general text, half of each. Learning them descends `KL(before ‖ after)` of whole
    /// sequences, without bias (sequence-level distillation, arXiv 1606.07947, by samples).
    pub(super) fn teach(
        &mut self,
        engine: &mut dyn LanguageModel,
        adapter: Option<&Arc<Adapter>>,
    ) -> Result<Vec<(usize, Vec<u32>)>, SonaError> {
        let Some(wanted) = self.deep.as_ref().map(|deep| deep.settings.distilled) else { return Ok(Vec::new()) };
        let random = &mut self.memory.random;
        let (kept, general) = (self.memory.replayed.kept(), &self.general.prompts);
        let length = kept.first().map_or(1, |one| one.answer.len());
        let mut draw = |at: usize| {
            let prompt = match at % 2 {
                0 if !general.is_empty() => &general[random.random_range(0..general.len())],
                _ => &kept[random.random_range(0..kept.len())].prompt,
            };
            (prompt.clone(), random.random())
        };
        let drawn: Vec<(Vec<u32>, u64)> = (0..wanted).map(&mut draw).collect();
        let go_on =
            |(prompt, seed): (Vec<u32>, u64)| Ok((prompt.len(), self.go_on(engine, adapter, &prompt, length, seed)?));
        drawn.into_iter().map(go_on).collect()
    }

    /// Returns a prompt with so many tokens after it, drawn as they are served: with an adapter, the additions of micro
    /// adapters, that of the prompt's pattern among them, and the cache.
    fn go_on(
        &self,
        engine: &mut dyn LanguageModel,
        adapter: Option<&Arc<Adapter>>,
        prompt: &[u32],
        tokens: usize,
        seed: u64,
    ) -> Result<Vec<u32>, SonaError> {
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 }, seed);
        engine.keep_hidden(true)?;
        let sequence = engine.open()?;
        let mut write = || {
            engine.attach(sequence, adapter.cloned())?;
            let (inputs, mut logits) = read_prompt(engine, sequence, prompt)?;
            let addition = self.learned_addition(&inputs, 1.0)?;
            let mut hidden = inputs[inputs.len() - self.spec.hidden_size..].to_vec();
            let mut found = Recollection::default();
            let mut text = prompt.to_vec();
            for at in 0..tokens {
                addition.apply(self.blank.project(&hidden), &mut logits);
                if let Some(instant) = &self.instant {
                    let normaliser = ruvlab_kernels::log_sum_exp_f32(&logits);
                    instant.recall.mix(&hidden, normaliser, &mut logits, &mut found);
                }
                let token = sampler.sample(&logits)?;
                text.push(token);
                if at + 1 < tokens {
                    let chunk = Chunk { sequence, tokens: &[token], logits: LogitRows::Last };
                    logits = engine.step(&[chunk])?.remove(0).values;
                    hidden = engine.hidden().to_vec();
                }
            }
            Ok(text)
        };
        let text = write();
        engine.close(sequence);
        text
    }
}
