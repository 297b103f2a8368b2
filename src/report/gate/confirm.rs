//! The second set of launches that a regression needs.
use serde::Serialize;

use super::{Gate, Verdict};
use crate::metrics::stats::Ratio;

/// What the second set of launches said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confirmation {
    /// Its change.
    pub ratio: Option<Ratio>,
    /// Its verdict.
    pub verdict: Verdict,
}

/// Returns the first gates with the regressions among them confirmed, or not, by a second set of
/// launches: a regression only if both say so, otherwise what the second says. This keeps the layout
/// and placement luck of one set of processes from failing a build.
#[must_use]
pub fn confirm(first: &[Gate], second: &[Gate]) -> Vec<Gate> {
    first
        .iter()
        .map(|gate| {
            if !gate.needs_confirmation {
                return gate.clone();
            }
            let again = second.iter().find(|again| again.metric == gate.metric && again.workload == gate.workload);
            let verdict = again.map_or(Verdict::Inconclusive, |again| again.verdict);
            let reason = match (again, verdict) {
                (None, _) => "not confirmed: the second set of launches did not measure it",
                (_, Verdict::Regression) => "confirmed by a second set of launches",
                (_, Verdict::Pass | Verdict::Inconclusive) => "not confirmed by a second set of launches",
            };
            Gate {
                verdict,
                needs_confirmation: false,
                // Also where it said nothing: it was asked.
                confirmation: Some(Confirmation { ratio: again.and_then(|again| again.ratio), verdict }),
                reason: Some(reason.to_owned()),
                ..gate.clone()
            }
        })
        .collect()
}
