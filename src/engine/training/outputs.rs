//! What the model says at scored positions, read and not learned from.
use super::{LOGIT_BYTES, Scored, Trainee, changes::Changed, predicting, rows_of};
use crate::engine::EngineError;

/// The greatest logits of one position, and whose they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopLogits {
    /// The tokens, in their own order.
    pub tokens: Vec<u32>,
    /// Their logits.
    pub values: Vec<f32>,
}

impl TopLogits {
    pub(in crate::engine) fn of(logits: &[f32], count: usize) -> Self {
        let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
        if count < tokens.len() {
            tokens.select_nth_unstable_by(count, |a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
            tokens.truncate(count);
            tokens.sort_unstable();
        }
        let values = tokens.iter().map(|token| logits[*token as usize]).collect();
        Self { tokens, values }
    }
}

impl Trainee {
    /// Returns what `read` makes of the logits of every scored position.
    pub(super) fn outputs<T: Clone + Default + Send>(
        &self,
        sequences: &[Scored<'_>],
        read: impl Fn(&[f32]) -> T + Sync,
    ) -> Result<Vec<T>, EngineError> {
        let (spec, workers) = (&self.model.spec, &self.workers);
        let (e, v) = (spec.hidden_size, spec.vocab_size);
        let normed = self.normed(sequences)?;
        let head =
            Changed { group: &self.model.output, layer: spec.layers, pairs: &self.pairs, workers, dropout: None };
        let mut out = Vec::new();
        for scored in predicting(sequences).chunks((LOGIT_BYTES / 4 / v).max(16)) {
            let rows = rows_of(&normed, scored, e);
            let mut logits = head.forward(&rows, &mut Vec::new())?;
            let mut read_rows = vec![T::default(); scored.len()];
            workers.each(logits.chunks_exact_mut(v).zip(&mut read_rows), |(logits, out)| {
                if let Some(cap) = spec.logit_softcap {
                    workers.kernels.soft_cap(logits, cap as f32);
                }
                *out = read(logits);
            });
            out.append(&mut read_rows);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::{Adapter, Gradients, Labels, LowRank, Place, Target, Trainable, TraineeSettings},
        model::weights::Weights,
    };

    fn trainee(change: impl Fn(&mut Adapter)) -> Trainee {
        let weights = Weights::open("builtin:pico").unwrap();
        let part = |place: Place| {
            let (outputs, inputs) = place.target.shape(weights.spec());
            let a = (0..2 * inputs).map(|at| 0.1 * (0.7 * at as f32).sin()).collect();
            let b = (0..2 * outputs).map(|at| 0.02 * ((at % 13) as f32 - 6.0)).collect();
            (place, LowRank { rank: 2, scale: 1.0, a, b, magnitude: None })
        };
        let mut adapter: Adapter = Place::all(weights.spec(), &[Target::Value]).into_iter().map(part).collect();
        change(&mut adapter);
        Trainee::load(&weights, &adapter, TraineeSettings::default()).unwrap()
    }

    const TEXTS: [&[u32]; 2] = [&[5, 17, 44, 9, 31], &[8, 8, 60]];

    fn scored() -> Vec<Scored<'static>> {
        vec![Scored { tokens: TEXTS[0], prompt: 2 }, Scored { tokens: TEXTS[1], prompt: 0 }]
    }

    #[test]
    fn likelihoods_of_a_texts_own_tokens_make_its_loss() {
        let trainee = trainee(|_| {});
        let tokens = [44, 9, 31, 8, 60];
        let rows = trainee.log_likelihoods(&scored(), &tokens).unwrap();
        assert_eq!(rows.len(), 5 * tokens.len());
        let own: f64 = (0..5).map(|row| rows[row * 5 + row]).sum();
        let loss = trainee.loss(&scored()).unwrap();
        assert!((own + loss).abs() <= 1.0e-6 * loss, "{own} {loss}");
        let unknown = trainee.log_likelihoods(&scored(), &[u32::MAX]);
        assert!(matches!(unknown, Err(EngineError::TokenOutOfRange { token: u32::MAX, .. })));
    }

    #[test]
    fn the_greatest_logits_are_kept_and_pull_back_to_themselves() {
        let trainee = trainee(|_| {});
        let all = trainee.top_logits(&scored(), usize::MAX).unwrap();
        let some = trainee.top_logits(&scored(), 7).unwrap();
        for (all, some) in all.iter().zip(&some) {
            let least = some.values.iter().copied().fold(f32::INFINITY, f32::min);
            assert_eq!(all.values.iter().filter(|value| **value >= least).count(), 7);
            assert!(some.tokens.iter().zip(&some.values).all(|(token, value)| all.values[*token as usize] == *value));
        }
        let mut gradients = Gradients::new();
        let none = trainee.accumulate_of(&scored(), Labels::Kept(&some), 1.0, &mut gradients).unwrap();
        assert!(none.abs() <= 1.0e-12 && gradients.values().all(|(a, b)| a.iter().chain(b).all(|g| *g == 0.0)));
        let few = trainee.accumulate_of(&scored(), Labels::Kept(&some[1..]), 1.0, &mut gradients);
        assert!(matches!(few, Err(EngineError::Unsupported { .. })));
    }

    #[test]
    fn the_gradient_towards_kept_logits_is_that_of_their_distance() {
        let kept = trainee(|_| {}).top_logits(&scored(), 7).unwrap();
        let at = |step: f32| {
            let moved = trainee(|adapter| {
                let change = adapter.values_mut().nth(1).unwrap();
                change.b[5] += 0.3 + step;
                change.a[11] += 0.2;
            });
            let mut gradients = Gradients::new();
            let loss = moved.accumulate_of(&scored(), Labels::Kept(&kept), 1.0, &mut gradients).unwrap();
            (loss, gradients.values().nth(1).unwrap().1[5])
        };
        let ((up, _), (down, _), (loss, gradient)) = (at(1.0e-2), at(-1.0e-2), at(0.0));
        let slope = (up - down) / 2.0e-2;
        assert!(loss > 0.0 && (slope - f64::from(gradient)).abs() <= 1.0e-2 * slope.abs(), "{slope} {gradient}");
    }
}
