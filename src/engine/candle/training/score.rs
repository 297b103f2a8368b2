//! The head: losses of scored positions, and what goes back from them.
use candle_core::{D, Result, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Autograd,
    batch::Batch,
    executor::Learner,
    operations::{log_sum_exp, softmax},
    sums::Sums,
};
use crate::{
    engine::{EngineError, Labels, Scored, TopLogits},
    model::decoder::{Executor, walk_layer},
};

/// The most memory of logits at once.
const LOGIT_BYTES: usize = 64 << 20;

impl Autograd {
    /// Returns what comes out of the last layer, without a graph.
    pub(super) fn top(&self, learner: &mut Learner<'_>, batch: &Batch) -> std::result::Result<Tensor, EngineError> {
        let mut hidden = learner.embed(&batch.step)?;
        for layer in 0..self.model.spec.layers {
            hidden = walk_layer(learner, layer, hidden, &batch.step)?.detach();
        }
        Ok(hidden)
    }

    /// Returns how many rows have logits at once.
    fn at_once(&self) -> usize {
        (LOGIT_BYTES / 4 / self.model.spec.vocab_size).max(16)
    }

    fn logits(
        &self,
        learner: &mut Learner<'_>,
        batch: &Batch,
        top: &Tensor,
        scored: &[(u32, u32)],
    ) -> std::result::Result<Tensor, EngineError> {
        let rows: Vec<u32> = scored.iter().map(|(row, _)| *row).collect();
        learner.head(top.index_select(&Tensor::new(rows, &self.model.device)?, 0)?, &batch.step)
    }

    /// Returns what `read` makes of the logits of every scored position.
    pub(super) fn outputs<T>(
        &self,
        sequences: &[Scored<'_>],
        read: impl Fn(&Tensor) -> Result<Vec<T>>,
    ) -> std::result::Result<Vec<T>, EngineError> {
        let batch = Batch::new(sequences, &self.model)?;
        let mut learner = self.learner(&batch, false)?;
        let top = self.top(&mut learner, &batch)?;
        let mut all = Vec::with_capacity(batch.scored.len());
        for scored in batch.scored.chunks(self.at_once()) {
            all.extend(read(&self.logits(&mut learner, &batch, &top, scored)?.detach())?);
        }
        Ok(all)
    }

    /// Returns the losses of all scored positions, `[positions]` in parts, and the gradient of `top` if it is a
    /// leaf and gradients are wanted.
    pub(super) fn score(
        &self,
        learner: &mut Learner<'_>,
        batch: &Batch,
        top: &Tensor,
        mut wanted: Option<(f64, Labels<'_>, &mut Sums)>,
    ) -> std::result::Result<(Vec<Tensor>, Option<Tensor>), EngineError> {
        let (spec, device) = (&self.model.spec, &self.model.device);
        let mut random = match wanted {
            Some((_, Labels::Drawn { seed }, _)) => Some(ChaCha8Rng::seed_from_u64(seed)),
            _ => None,
        };
        let mut kept = match wanted {
            Some((_, Labels::Kept(kept), _)) => Some(kept),
            _ => None,
        };
        if let Some(kept) = kept.filter(|kept| kept.len() != batch.scored.len()) {
            let what = format!("hold {} positions against logits of {}", batch.scored.len(), kept.len());
            return Err(EngineError::Unsupported { engine: "candle", what });
        }
        let (mut all, mut grad): (Vec<Tensor>, Option<Tensor>) = (Vec::new(), None);
        for scored in batch.scored.chunks(self.at_once()) {
            let logits = self.logits(learner, batch, top, scored)?;
            let own = kept.map(|kept| kept.split_at(scored.len()));
            kept = own.map(|(_, rest)| rest);
            let labels: Vec<u32> = match &mut random {
                None => scored.iter().map(|(_, token)| *token).collect(),
                Some(random) => drawn(&logits, random)?,
            };
            let losses = if let Some((own, _)) = own {
                distance(&logits, own)?
            } else {
                let labels = Tensor::new(labels, device)?.unsqueeze(1)?;
                (log_sum_exp(&logits)? - logits.gather(&labels, D::Minus1)?)?.squeeze(1)?
            };
            all.push(losses.detach());
            let taps = learner.take_taps();
            let Some((weight, _, sums)) = &mut wanted else { continue };
            let found = (losses.sum_all()? * *weight)?.backward()?;
            sums.collect(&self.changes, spec.layers, &found)?;
            self.note(taps, &found, None)?;
            if let Some(more) = found.get(top) {
                grad = Some(match grad {
                    None => more.clone(),
                    Some(sum) => (sum + more)?,
                });
            }
        }
        Ok((all, grad))
    }
}

/// Returns the mean square of how far the logits of each row are from kept ones.
fn distance(logits: &Tensor, kept: &[TopLogits]) -> Result<Tensor> {
    let count = kept.first().map_or(0, |kept| kept.tokens.len());
    let tokens: Vec<u32> = kept.iter().flat_map(|kept| &kept.tokens).copied().collect();
    let values: Vec<f32> = kept.iter().flat_map(|kept| &kept.values).copied().collect();
    let tokens = Tensor::from_vec(tokens, (kept.len(), count), logits.device())?;
    let values = Tensor::from_vec(values, (kept.len(), count), logits.device())?;
    (logits.gather(&tokens, D::Minus1)? - values)?.sqr()?.mean(1)
}

/// Returns a token for each row of logits, drawn as the model holds it likely.
fn drawn(logits: &Tensor, random: &mut ChaCha8Rng) -> Result<Vec<u32>> {
    let rows = softmax(&logits.detach())?.to_vec2::<f32>()?;
    let draw = |row: &Vec<f32>| {
        let mut left = random.random::<f64>() * row.iter().map(|p| f64::from(*p)).sum::<f64>();
        let passes = |p: &f32| {
            left -= f64::from(*p);
            left < 0.0
        };
        row.iter().position(passes).unwrap_or(row.len() - 1) as u32
    };
    Ok(rows.iter().map(draw).collect())
}
