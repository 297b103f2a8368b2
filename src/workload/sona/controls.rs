//! Controls held against the stream they are controls of, request by request.
use super::results::{Results, mean};
use crate::{
    event::Phase,
    recipe::schema::{SonaControl, SonaStream},
    workload::recorder::Recorder,
};

/// What the streams of a launch gave whose loops learned from the requests' own feedback.
#[derive(Default)]
pub(in crate::workload) struct Streams(Vec<(SonaStream, Results)>);

impl Streams {
    /// Keeps what a stream gave that is no control, and records of a control how much lower the losses of the very same
    /// requests were with their own feedback, where that came before it.
    pub(super) fn take(&mut self, stream: &SonaStream, results: Results, recorder: &mut Recorder<'_>) {
        if stream.control == SonaControl::None {
            return self.0.push((stream.clone(), results));
        }
        // What else a stream is for changes nothing of its losses.
        let is_own = |known: &SonaStream| {
            let SonaStream { timed_answers, save_state, .. } = *known;
            *known == SonaStream { control: SonaControl::None, timed_answers, save_state, ..stream.clone() }
        };
        let Some((_, own)) = self.0.iter().find(|(known, _)| is_own(known)) else { return };
        let tokens = u64::from(stream.output_tokens);
        record("sona_against_control", &requests(own, &results), tokens, recorder);
        record("sona_test_against_control", &tests(own, &results), tokens, recorder);
    }
}

fn record(metric: &str, differences: &[f64], tokens: u64, recorder: &mut Recorder<'_>) {
    if differences.is_empty() {
        return;
    }
    for (step, difference) in (0..).zip(differences) {
        recorder.at_step(metric, Phase::Eval, *difference, tokens, step);
    }
    recorder.once(metric, Phase::Eval, mean(differences.iter().copied()), tokens * differences.len() as u64);
}

/// Returns by how much each request's loss differs from that under a control, in parts of its domain's mean by the model
/// as it came.
fn requests(own: &Results, control: &Results) -> Vec<f64> {
    let pairs = own.requests.iter().zip(&control.requests);
    pairs.map(|((domain, own_losses), (_, losses))| (own_losses[1] - losses[1]) / own.still(*domain)).collect()
}

/// Returns the same of requests that are never learned from, at the end.
fn tests(own: &Results, control: &Results) -> Vec<f64> {
    let last = |results: &Results| -> Vec<[f64; 2]> {
        results.tests.last().into_iter().flatten().flatten().copied().collect()
    };
    let (own, control) = (last(own), last(control));
    let still = mean(own.iter().map(|losses| losses[0]));
    own.iter().zip(&control).map(|(own, control)| (own[1] - control[1]) / still).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(of: &[(usize, [f64; 2])]) -> Results {
        let tests = vec![vec![of.iter().map(|(_, losses)| *losses).collect()]];
        Results { requests: of.to_vec(), tests, ..Results::default() }
    }

    #[test]
    fn a_control_is_held_against_the_same_requests() {
        let own = results(&[(0, [4.0, 3.0]), (1, [10.0, 9.0]), (0, [2.0, 2.0])]);
        let control = results(&[(0, [4.0, 3.3]), (1, [10.0, 10.0]), (0, [2.0, 1.7])]);
        let near = |found: &[f64], wanted: [f64; 3]| {
            assert_eq!(found.len(), 3);
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() <= 1e-12), "{found:?}");
        };
        near(&requests(&own, &control), [-0.1, -0.1, 0.1]);
        let still = 16.0 / 3.0;
        near(&tests(&own, &control), [-0.3 / still, -1.0 / still, 0.3 / still]);
        near(&requests(&own, &own), [0.0; 3]);
    }
}
