//! What a stream gave, as metrics.
use crate::{
    adapt::continual::Matrix,
    event::Phase,
    recipe::schema::{Adapt, SonaStream},
    sona::{Decision, LoopKind},
    workload::recorder::Recorder,
};

/// Losses, each of the model as it came and as it was served.
#[derive(Default)]
pub(super) struct Results {
    /// Each request with its domain, before anything learned from it.
    pub(super) requests: Vec<(usize, [f64; 2])>,
    /// Of requests that are never learned from, domain by domain: at the beginning and after each domain where
    /// those come one after the other, and at the end.
    pub(super) tests: Vec<Vec<Vec<[f64; 2]>>>,
    /// Of requests that were served with a pattern: by how much another one would have been worse.
    pub(super) retrieval: Vec<(u64, f64)>,
    /// What came of each step of each loop.
    pub(super) steps: Vec<(LoopKind, Decision)>,
    /// Of general text, at the end.
    pub(super) general: Vec<[f64; 2]>,
}

pub(super) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len();
    values.sum::<f64>() / count as f64
}

impl Results {
    pub(super) fn record(&self, stream: &SonaStream, label: &str, recorder: &mut Recorder<'_>) {
        let tokens = u64::from(stream.output_tokens);
        let all: Vec<usize> = (0..stream.domains.len()).collect();
        self.record_requests(&all, tokens, recorder);
        self.record_end(tokens, recorder);
        self.record_steps(tokens, recorder);
        for domain in all {
            recorder.begin(format!("{label}/{}", Adapt::short(&stream.domains[domain])));
            self.record_requests(&[domain], tokens, recorder);
        }
    }

    /// Returns the mean loss of a domain's requests by the model as it came.
    pub(super) fn still(&self, domain: usize) -> f64 {
        let own = self.requests.iter().filter(|(of, _)| *of == domain);
        mean(own.map(|(_, losses)| losses[0]).collect::<Vec<_>>().into_iter())
    }

    fn record_requests(&self, domains: &[usize], tokens: u64, recorder: &mut Recorder<'_>) {
        let means: Vec<(usize, f64)> = domains.iter().map(|domain| (*domain, self.still(*domain))).collect();
        let mut sums = [0.0; 3];
        let mut count = 0u32;
        for (step, (domain, losses)) in (0..).zip(&self.requests) {
            let Some((_, still)) = means.iter().find(|(known, _)| known == domain) else { continue };
            // Of the domain's own mean, so that the mean over requests is the change of the mean.
            let values = [losses[0], losses[1], (losses[1] - losses[0]) / still];
            for ((metric, value), sum) in METRICS.into_iter().zip(values).zip(&mut sums) {
                recorder.at_step(metric, Phase::Eval, value, tokens, step);
                *sum += value;
            }
            count += 1;
        }
        for (metric, sum) in METRICS.into_iter().zip(sums) {
            recorder.once(metric, Phase::Eval, sum / f64::from(count), tokens * u64::from(count));
        }
    }

    fn record_steps(&self, tokens: u64, recorder: &mut Recorder<'_>) {
        for (metric, kind) in
            [("sona_instant_applied", LoopKind::Instant), ("sona_background_applied", LoopKind::Background)]
        {
            let own = self.steps.iter().filter(|(of, _)| *of == kind);
            let n = own.clone().count();
            if n > 0 {
                let applied = own.filter(|(_, decision)| *decision == Decision::Applied).count();
                recorder.once(metric, Phase::Eval, applied as f64 / n as f64, n as u64);
            }
        }
        let deep = |wanted: Decision| self.steps.iter().filter(move |step| **step == (LoopKind::Deep, wanted)).count();
        let [commits, rollbacks] = [Decision::Applied, Decision::Rejected].map(deep);
        if commits + rollbacks > 0 {
            let n = (commits + rollbacks) as u64;
            recorder.once("sona_commits", Phase::Eval, commits as f64, n);
            recorder.once("sona_rollbacks", Phase::Eval, rollbacks as f64, n);
        }
        if !self.retrieval.is_empty() {
            for (step, gain) in &self.retrieval {
                recorder.at_step("sona_retrieval_gain", Phase::Eval, *gain, tokens, *step);
            }
            let gain = mean(self.retrieval.iter().map(|(_, gain)| *gain));
            recorder.once("sona_retrieval_gain", Phase::Eval, gain, tokens * self.retrieval.len() as u64);
        }
    }

    fn record_end(&self, tokens: u64, recorder: &mut Recorder<'_>) {
        let Some(last) = self.tests.last() else { return };
        let tests: Vec<[f64; 2]> = last.iter().flatten().copied().collect();
        for (metric, losses) in [("sona_test_change", &tests), ("sona_general_drift", &self.general)] {
            let still = mean(losses.iter().map(|losses| losses[0]));
            for (step, losses) in (0..).zip(losses) {
                recorder.at_step(metric, Phase::Eval, (losses[1] - losses[0]) / still, tokens, step);
            }
            let change = mean(losses.iter().map(|losses| losses[1])) / still - 1.0;
            recorder.once(metric, Phase::Eval, change, tokens * losses.len() as u64);
        }
        if self.tests.len() > 2 {
            let row = |row: &Vec<Vec<[f64; 2]>>| row.iter().map(|of| mean(of.iter().map(|losses| losses[1]))).collect();
            let matrix = Matrix { loss: self.tests.iter().map(row).collect() };
            let n = tests.len() as u64;
            if let Some(retained) = matrix.retained_gain() {
                recorder.once("sona_retained_gain", Phase::Eval, retained, n);
            }
            recorder.once("sona_learned_gain", Phase::Eval, matrix.gain(), n);
        }
    }
}

const METRICS: [&str; 3] = ["sona_nll_static", "sona_nll", "sona_change"];
