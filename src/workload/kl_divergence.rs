//! Divergence of a cell's predictions from a reference's, on [`windows`](super::windows) as llama.cpp
//! cuts them.
//!
//! The two models go through each window side by side, so that only the logits of one piece are ever
//! held. Both take the same steps: what an engine computes can depend on how a prompt is cut, since
//! activations that are quantized to 8 bits in a step share scales there. Where one engine scores one
//! position at a time, so does the other, and what is left is the difference that was asked for.
use super::{
    decode::quantile,
    error::LaunchError,
    opened::{Loaded, engine_kind, load_engine, open_weights},
    recorder::Recorder,
    windows::{Window, Windows},
};
use crate::{
    engine::{Chunk, EngineError, EngineKind, LanguageModel, LogitRows, Logits, SequenceId},
    event::{Phase, TokenScore},
    plan::{self, Cell, SCORED_AT_ONCE},
    recipe::schema::KlDivergence,
};

pub(super) fn run(
    divergence: &KlDivergence,
    cell: &Cell,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let KlDivergence { text, n_ctx, chunks, reference: _ } = divergence;
    let label = recorder.workload().to_owned();
    loaded.check_context(&label, *n_ctx as usize - 1)?;
    let windows = Windows::new(cell, &loaded.tokenizer, text, *n_ctx, *chunks)?;
    let mut pair = Pair::load(divergence, cell, loaded.engine.as_mut(), &label)?;
    let mut totals = Totals::default();
    for window in windows.iter() {
        recorder.progress(window.index.into(), windows.count());
        let scores = pair.score(window)?;
        let of_window = Totals::of(&scores);
        if !of_window.is_finite() {
            let problem = format!("the divergence of window {} is no number", window.index);
            return Err(LaunchError::Numerics { workload: label, problem });
        }
        of_window.record_window(recorder, window.index);
        if cell.recipe.measure.token_trace {
            recorder.scores(window.index, scores);
        }
        totals.add(of_window);
    }
    recorder.progress(windows.count(), windows.count());
    totals.record(recorder);
    Ok(())
}

/// The cell's model and its reference.
struct Pair<'a> {
    candidate: &'a mut dyn LanguageModel,
    reference: Box<dyn LanguageModel>,
    /// Positions scored in one step.
    at_once: usize,
}

impl<'a> Pair<'a> {
    fn load(
        divergence: &KlDivergence,
        cell: &Cell,
        candidate: &'a mut dyn LanguageModel,
        label: &str,
    ) -> Result<Self, LaunchError> {
        let planned = cell.references.get(label).ok_or_else(|| LaunchError::NoReference(label.to_owned()))?;
        let theirs = cell.referring(divergence, planned);
        let kinds = [engine_kind(cell.kernel_set)?, engine_kind(theirs.kernel_set)?];
        let weights = open_weights(&theirs)?;
        let reference = load_engine(&theirs, kinds[1], &weights, &plan::engine_settings(&theirs))?;
        let (ours, found) = (candidate.spec().vocab_size, reference.spec().vocab_size);
        if ours != found {
            return Err(LaunchError::Vocabulary { workload: label.to_owned(), ours, found });
        }
        let at_once = if kinds.into_iter().any(scores_singly) { 1 } else { SCORED_AT_ONCE as usize };
        Ok(Self { candidate, reference, at_once })
    }

    /// Returns the scores of a window's second half.
    fn score(&mut self, window: Window<'_>) -> Result<Vec<TokenScore>, EngineError> {
        let (context, scoring) = window.context();
        let sequences = (self.reference.open()?, self.candidate.open()?);
        self.step(sequences, &context, LogitRows::Last)?;
        let mut scores: Vec<TokenScore> = Vec::with_capacity(scoring.len());
        // The token after the first scored position is the first to be scored.
        let first = context.len() + 1;
        for (tokens, targets) in scoring.chunks(self.at_once).zip(window.targets().chunks(self.at_once)) {
            let (reference, candidate) = self.step(sequences, tokens, LogitRows::All)?;
            for (row, target) in targets.iter().enumerate() {
                let position = u32::try_from(first + scores.len()).unwrap_or(u32::MAX);
                scores.push(score(reference.row(row), candidate.row(row), *target, position));
            }
        }
        self.reference.close(sequences.0);
        self.candidate.close(sequences.1);
        Ok(scores)
    }

    fn step(
        &mut self,
        (theirs, ours): (SequenceId, SequenceId),
        tokens: &[u32],
        logits: LogitRows,
    ) -> Result<(Logits, Logits), EngineError> {
        let one = |engine: &mut dyn LanguageModel, sequence| {
            let found = engine.step(&[Chunk { sequence, tokens, logits }])?;
            // A step answers every chunk it is given.
            found.into_iter().next().ok_or(EngineError::EmptyChunk)
        };
        Ok((one(self.reference.as_mut(), theirs)?, one(self.candidate, ours)?))
    }
}

/// Returns whether an engine computes [`LogitRows::All`] one position at a time.
fn scores_singly(kind: EngineKind) -> bool {
    kind == EngineKind::Reference
}

/// Returns how two predictions of one position compare. With `Z` the sum of a side's exponentials,
/// `KL(p || q) = Σ p (x_p − x_q) − ln Z_p + ln Z_q`.
///
/// # Numerics
///
/// In f64 from the logits on, all of it: of two nearly equal predictions little is left but the
/// difference of the normalisers. A token the reference holds impossible adds nothing; one that only
/// the candidate does makes the divergence infinite, and a logit that is NaN makes it NaN. What
/// rounding puts below zero is zero.
pub(super) fn score(reference: &[f32], candidate: &[f32], target: u32, position: u32) -> TokenScore {
    let highest = (highest(reference), highest(candidate));
    let (mut sums, mut difference) = ((0.0, 0.0), 0.0);
    for (p, q) in reference.iter().zip(candidate) {
        let (p, q) = (f64::from(*p), f64::from(*q));
        let weight = (p - highest.0).exp();
        sums.0 += weight;
        sums.1 += (q - highest.1).exp();
        if weight > 0.0 || weight.is_nan() {
            difference += weight * (p - q);
        }
    }
    let normalisers = (highest.0 + sums.0.ln(), highest.1 + sums.1.ln());
    let divergence = difference / sums.0 - normalisers.0 + normalisers.1;
    let nll = |logits: &[f32], normaliser: f64| normaliser - f64::from(logits[target as usize]);
    TokenScore {
        position,
        token_id: target,
        nll: nll(candidate, normalisers.1),
        reference_nll: nll(reference, normalisers.0),
        kl_divergence: if divergence < 0.0 { 0.0 } else { divergence },
        top1_equal: likeliest(reference) == likeliest(candidate),
    }
}

/// Returns the greatest logit that is a number.
fn highest(logits: &[f32]) -> f64 {
    f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

/// Returns the index of the greatest logit, the first of equals.
fn likeliest(logits: &[f32]) -> usize {
    let greater = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).reduce(greater).unwrap_or(0)
}

/// Sums over scored positions.
#[derive(Default)]
pub(super) struct Totals {
    divergences: Vec<f64>,
    nll: f64,
    reference_nll: f64,
    agreeing: u64,
}

impl Totals {
    pub(super) fn of(scores: &[TokenScore]) -> Self {
        Self {
            divergences: scores.iter().map(|score| score.kl_divergence).collect(),
            nll: scores.iter().map(|score| score.nll).sum(),
            reference_nll: scores.iter().map(|score| score.reference_nll).sum(),
            agreeing: scores.iter().filter(|score| score.top1_equal).count() as u64,
        }
    }

    pub(super) fn is_finite(&self) -> bool {
        self.divergences.iter().chain([&self.nll, &self.reference_nll]).all(|value| value.is_finite())
    }

    pub(super) fn add(&mut self, window: Self) {
        self.divergences.extend(window.divergences);
        self.nll += window.nll;
        self.reference_nll += window.reference_nll;
        self.agreeing += window.agreeing;
    }

    fn n(&self) -> u64 {
        self.divergences.len() as u64
    }

    /// Returns the means: each is a metric of its own, of the whole and of every window.
    fn means(&self) -> [(&'static str, f64); 4] {
        let mean = |sum: f64| sum / self.n() as f64;
        [
            ("kl_mean", mean(self.divergences.iter().sum())),
            ("top1_agreement", mean(self.agreeing as f64)),
            ("nll", mean(self.nll)),
            ("perplexity_log_ratio", mean(self.nll - self.reference_nll)),
        ]
    }

    pub(super) fn record_window(&self, recorder: &mut Recorder<'_>, window: u32) {
        for (metric, mean) in self.means() {
            recorder.at_step(metric, Phase::Eval, mean, self.n(), window.into());
        }
    }

    pub(super) fn record(mut self, recorder: &mut Recorder<'_>) {
        let n = self.n();
        for (metric, mean) in self.means() {
            recorder.once(metric, Phase::Eval, mean, n);
        }
        recorder.once("perplexity", Phase::Eval, (self.nll / n as f64).exp(), n);
        recorder.once("reference_perplexity", Phase::Eval, (self.reference_nll / n as f64).exp(), n);
        self.divergences.sort_unstable_by(f64::total_cmp);
        for (metric, q) in [("kl_p50", 0.50), ("kl_p99", 0.99), ("kl_p999", 0.999), ("kl_max", 1.0)] {
            recorder.once(metric, Phase::Eval, quantile(&self.divergences, q), n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divergence(reference: &[f32], candidate: &[f32]) -> f64 {
        score(reference, candidate, 0, 0).kl_divergence
    }

    #[test]
    fn the_divergence_is_that_of_the_two_distributions_at_any_height() {
        let ln = |p: [f64; 3], shift: f64| p.map(|p| (p.ln() + shift) as f32);
        let (p, q) = ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25]);
        // 1/2 ln 2 + 1/4 ln 1/2
        let expected = 0.25 * std::f64::consts::LN_2;
        for shift in [0.0, 40.0, -40.0] {
            let found = score(&ln(p, shift), &ln(q, -shift), 1, 7);
            assert!((found.kl_divergence - expected).abs() <= 2.0e-5, "{found:?}");
            assert!((found.nll - 2.0_f64.ln()).abs() <= 1.0e-5 && (found.reference_nll - 4.0_f64.ln()).abs() <= 1.0e-5);
            assert_eq!((found.position, found.token_id, found.top1_equal), (7, 1, false));
        }
    }

    #[test]
    fn it_depends_on_which_side_is_the_reference() {
        let (sure, unsure) = ([9.0, 0.0, 0.0], [1.0, 0.0, 0.0]);
        assert!(divergence(&sure, &unsure) + 0.1 < divergence(&unsure, &sure));
    }

    #[test]
    fn equal_predictions_have_none_and_never_less() {
        let logits: Vec<f32> = (0..4096u16).map(|i| (f32::from(i) * 0.37).sin() * 12.0).collect();
        assert!(divergence(&logits, &logits).abs() <= 0.0);
        let shifted: Vec<f32> = logits.iter().map(|x| x + 64.0).collect();
        let found = divergence(&logits, &shifted);
        assert!((0.0..=1.0e-10).contains(&found), "{found}");
    }

    #[test]
    fn what_is_impossible_or_no_number_is_not_hidden() {
        let never = f32::NEG_INFINITY;
        assert!((divergence(&[0.0, 0.0, never], &[0.0, 0.0, 0.0]) - 1.5f64.ln()).abs() <= 1.0e-9);
        assert!(divergence(&[0.0, 0.0], &[0.0, never]).is_infinite());
        assert!(divergence(&[0.0, f32::NAN], &[0.0, 0.0]).is_nan());
        assert!(divergence(&[0.0, 0.0], &[0.0, f32::NAN]).is_nan());
        let broken = Totals::of(&[score(&[0.0, 0.0], &[0.0, f32::NAN], 0, 0)]);
        assert!(!broken.is_finite());
    }

    #[test]
    fn the_likeliest_is_the_first_of_equals() {
        assert_eq!(likeliest(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(likeliest(&[-1.0]), 0);
    }

    #[test]
    fn means_over_windows_are_those_over_positions() {
        let one = |divergence: f64, agree: bool| TokenScore {
            position: 0,
            token_id: 0,
            nll: 2.0,
            reference_nll: 1.5,
            kl_divergence: divergence,
            top1_equal: agree,
        };
        let mut totals = Totals::of(&[one(0.1, true), one(0.3, false)]);
        totals.add(Totals::of(&[one(0.2, true), one(0.6, true)]));
        let expected = [("kl_mean", 0.3), ("top1_agreement", 0.75), ("nll", 2.0), ("perplexity_log_ratio", 0.5)];
        for ((name, value), (wanted, expected)) in totals.means().into_iter().zip(expected) {
            assert_eq!(name, wanted);
            assert!((value - expected).abs() <= 1e-12, "{name} {value}");
        }
    }
}
