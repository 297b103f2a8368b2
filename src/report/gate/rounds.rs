//! How many rounds a check takes: as many as its gates need to be decided, within what the recipe allows.
use super::{Gate, GateReport, Outcome, Verdict};
use crate::recipe::schema::Launches;

/// The fewest rounds with an interval that is worth judging.
const LEAST: u32 = 3;

/// What a check does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// One more round: a gate is undecided.
    Sample,
    /// A second set of rounds: a regression is unconfirmed.
    Confirm,
    /// Nothing: all is decided, or as far as it can be.
    Conclude,
}

/// How many rounds a set of launches has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetSize {
    /// At least this many.
    pub least: u32,
    /// At most this many.
    pub most: u32,
}

impl SetSize {
    /// Returns what a recipe says, but three rounds at least, and where that does not decide three times as many.
    #[must_use]
    pub fn of(launches: &Launches) -> Self {
        let least = launches.min.max(LEAST);
        Self { least, most: launches.max.max(3 * least) }
    }

    /// Returns what comes after a report, `sampled` rounds having been measured that confirmed nothing.
    #[must_use]
    pub fn next(self, report: &GateReport, sampled: u32) -> Next {
        if report.gates.iter().any(|gate| gate.needs_confirmation) {
            Next::Confirm
        } else if report.is_undecided() && sampled < self.most {
            Next::Sample
        } else {
            Next::Conclude
        }
    }
}

impl GateReport {
    /// Returns whether more rounds could decide something: nothing fails the check yet, and a gate is
    /// open that no second set of launches was asked about.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        let is_open = |gate: &Gate| gate.verdict != Verdict::Pass && gate.confirmation.is_none();
        self.outcome == Outcome::Inconclusive && self.gates.iter().any(is_open)
    }

    /// Returns a judgement of more rounds, with the gates that a second set of launches has settled as
    /// they are here: rounds that were found to be unlucky would only say the same again.
    #[must_use]
    pub fn rejudged(&self, now: Self) -> Self {
        let settled = |gate: &Gate| {
            let same = |old: &&Gate| old.metric == gate.metric && old.workload == gate.workload;
            self.gates.iter().filter(|old| old.confirmation.is_some()).find(same).cloned()
        };
        let gates = now.gates.iter().map(|gate| settled(gate).unwrap_or_else(|| gate.clone())).collect();
        now.with_gates(gates)
    }
}
