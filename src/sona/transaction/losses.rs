//! What transactions are judged by.
use std::sync::Arc;

use super::super::{Addition, General, Passage, Recall, Recollection, Reservoir, Sona, SonaError, Trajectory};
use crate::engine::{Adapter, LanguageModel};

/// The losses of the model as it came on general text: on that which chooses, and on that which judges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::sona) struct Unchanged {
    pub(in crate::sona) guard: f64,
    pub(in crate::sona) judges: f64,
}

/// What an adapter makes of kept requests.
pub(super) struct Kept {
    /// The cache of those that are learned again, where there is one.
    pub(super) cache: Option<Recall>,
    /// Their keys, and those of requests that judge.
    pub(super) replayed: Vec<Vec<f32>>,
    pub(super) held_out: Vec<Vec<f32>>,
    pub(super) jury: Vec<Vec<f32>>,
}

impl Sona {
    /// Returns the mean loss of kept requests as an adapter would serve them: with a share of the additions of micro
    /// adapters, each request's pattern's among them, and with a cache where there is one.
    pub(super) fn recent_loss(
        &self,
        engine: &mut dyn LanguageModel,
        kept: &[Trajectory],
        adapter: Option<&Arc<Adapter>>,
        share: f64,
        cache: Option<&Recall>,
    ) -> Result<f64, SonaError> {
        let mut found = Recollection::default();
        let mut sum = 0.0;
        for Trajectory { prompt, answer, .. } in kept {
            let passage = Passage::read(engine, adapter, prompt, answer)?;
            let addition = self.learned_addition(&passage.prompt, share)?;
            sum += passage.loss_with(&self.blank, &addition, answer, |loss, (hidden, sure), token| {
                let Some(cache) = cache else { return loss };
                cache.look(hidden, sure, &mut found);
                cache.mixed_loss(loss, found.of(token))
            });
        }
        Ok(sum / kept.len() as f64)
    }

    /// Returns the losses of the model as it came on general text.
    pub(super) fn general_losses(&self, engine: &mut dyn LanguageModel) -> Result<Unchanged, SonaError> {
        let General { guard, judges, .. } = &self.general;
        Ok(Unchanged {
            guard: self.general_loss(engine, guard, None)?,
            judges: self.general_loss(engine, judges, None)?,
        })
    }

    /// Returns the mean loss on general text with an adapter, or of the model as it came.
    pub(super) fn general_loss(
        &self,
        engine: &mut dyn LanguageModel,
        text: &[(Vec<u32>, Vec<u32>)],
        adapter: Option<&Arc<Adapter>>,
    ) -> Result<f64, SonaError> {
        let mut sum = 0.0;
        for (prompt, answer) in text {
            let passage = Passage::read(engine, adapter, prompt, answer)?;
            sum += passage.loss(&self.blank, &Addition::none(), answer);
        }
        Ok(sum / text.len() as f64)
    }

    /// Reads what is kept with an adapter.
    pub(super) fn read_kept(
        &self,
        engine: &mut dyn LanguageModel,
        adapter: Option<&Arc<Adapter>>,
    ) -> Result<Kept, SonaError> {
        let mut cache = self.instant.as_ref().map(|instant| instant.recall.anew());
        let mut found = Recollection::default();
        let mut replayed = Vec::new();
        for Trajectory { prompt, answer, .. } in self.memory.replayed.kept() {
            let passage = Passage::read(engine, adapter, prompt, answer)?;
            replayed.push(self.memory.bank.key(&passage.prompt)?);
            if let Some(cache) = &mut cache {
                let positions = passage.hidden.chunks_exact(self.spec.hidden_size).zip(answer);
                positions.for_each(|(hidden, token)| cache.push(hidden, *token, &mut found));
            }
        }
        let mut key =
            |one: &Trajectory| self.memory.bank.key(&Passage::read(engine, adapter, &one.prompt, &one.answer)?.prompt);
        let held_out = self.memory.held_out.kept().iter().map(&mut key).collect::<Result<_, _>>()?;
        let jury = self.memory.jury.iter().flat_map(Reservoir::kept).map(&mut key).collect::<Result<_, _>>()?;
        Ok(Kept { cache, replayed, held_out, jury })
    }
}
