//! Events to rows: joins every sample to its launch, and says of each whether it counts and why not.
mod tokens;

use std::collections::BTreeMap;

use super::{NOT_MEASURED, SampleRow, registry};
use crate::event::{Arm, Event, Outcome, Sample};

pub use tokens::collect_tokens;

/// What is known of one launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRecord {
    /// Number inside the run.
    pub launch: u32,
    /// Which side it measures.
    pub arm: Arm,
    /// Number of the pair or round it belongs to.
    pub block: u32,
    /// Its place in the order of execution inside the block.
    pub slot: u32,
    /// The name of its `plan::LaunchTask`; empty when it was not told.
    pub task: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// How it ended; absent while it runs, or when nobody saw it end.
    pub outcome: Option<Outcome>,
    /// Wall time of the process, milliseconds; 0 before its end.
    pub wall_ms: u64,
    /// What became unreadable in the journal while it ran.
    pub damage: Option<String>,
}

impl LaunchRecord {
    /// Returns whether everything it measured was measured and is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.problem().is_none()
    }

    /// Returns why its samples do not count.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match (&self.damage, &self.outcome) {
            (Some(damage), _) => Some(damage.clone()),
            (None, None) => Some("launch did not finish".to_owned()),
            (None, Some(Outcome::Failed { reason, exit_code: _ })) => Some(format!("launch failed: {reason}")),
            (None, Some(Outcome::Complete)) => None,
        }
    }
}

/// Takes events one by one and returns rows at any time.
#[derive(Clone, Debug)]
pub struct Collector {
    run_id: String,
    cell_hash: String,
    launches: BTreeMap<u32, LaunchRecord>,
    samples: Vec<(u32, Sample, Option<String>)>,
    next_launch: u32,
}

impl Collector {
    /// Returns a collector of one run's events.
    #[must_use]
    pub fn new(run_id: &str, cell_hash: &str) -> Self {
        Self {
            run_id: run_id.to_owned(),
            cell_hash: cell_hash.to_owned(),
            launches: BTreeMap::new(),
            samples: Vec::new(),
            next_launch: 0,
        }
    }

    /// Takes note of one event.
    pub fn event(&mut self, event: &Event) {
        let seen = match event {
            Event::SessionStarted { .. } => return,
            Event::LaunchStarted { launch, arm, block, slot, task, at } => {
                self.launches.entry(*launch).or_insert_with(|| LaunchRecord {
                    launch: *launch,
                    arm: *arm,
                    block: *block,
                    slot: *slot,
                    task: task.clone(),
                    started_at: at.clone(),
                    outcome: None,
                    wall_ms: 0,
                    damage: None,
                });
                launch
            }
            Event::Sample { launch, sample } => {
                self.samples.push((*launch, sample.clone(), own_problem(sample)));
                launch
            }
            Event::Unavailable { launch, metric, reason } => {
                self.samples.push((*launch, absent(metric), Some(format!("{NOT_MEASURED}{reason}"))));
                launch
            }
            Event::LaunchFinished { launch, outcome, wall_ms } => {
                if let Some(record) = self.launches.get_mut(launch) {
                    record.outcome = Some(outcome.clone());
                    record.wall_ms = *wall_ms;
                }
                launch
            }
            Event::Tokens { launch, .. }
            | Event::Scores { launch, .. }
            | Event::CacheTransition { launch, .. }
            | Event::LearningStep { launch, .. }
            | Event::LearningRequest { launch, .. }
            | Event::Progress { launch, .. } => launch,
        };
        self.next_launch = self.next_launch.max(seen.saturating_add(1));
    }

    /// Takes note that events are missing here: the launches open at this point do not count,
    /// because a sample, or their failure, may be what is missing.
    pub fn damage(&mut self, reason: &str) {
        for record in self.launches.values_mut().filter(|record| record.outcome.is_none()) {
            record.damage.get_or_insert_with(|| reason.to_owned());
        }
    }

    /// Returns the number the next launch gets: one more than any seen.
    #[must_use]
    pub fn next_launch(&self) -> u32 {
        self.next_launch
    }

    /// Returns the launches, by number.
    pub fn launches(&self) -> impl Iterator<Item = &LaunchRecord> {
        self.launches.values()
    }

    /// Returns a row for each sample so far, in the order they came, invalid ones included.
    #[must_use]
    pub fn rows(&self) -> Vec<SampleRow> {
        self.samples.iter().map(|(launch, sample, problem)| self.row(*launch, sample, problem.as_deref())).collect()
    }

    fn row(&self, launch: u32, sample: &Sample, problem: Option<&str>) -> SampleRow {
        let Sample { metric, phase, workload, rep, warmup, value, n, t_ns, step, task, trained_through } = sample;
        let record = self.launches.get(&launch);
        let reason = problem.map(str::to_owned).or_else(|| match record {
            Some(record) => record.problem(),
            None => Some("the start of its launch is not in the journal".to_owned()),
        });
        SampleRow {
            run_id: self.run_id.clone(),
            cell_hash: self.cell_hash.clone(),
            arm: record.map_or("unknown", |record| record.arm.name()).to_owned(),
            block: record.map_or(0, |record| record.block),
            slot: record.map_or(0, |record| record.slot),
            launch,
            rep: *rep,
            warmup: *warmup,
            phase: phase.name().to_owned(),
            workload: workload.clone(),
            step: *step,
            task: task.clone(),
            trained_through: *trained_through,
            metric: metric.clone(),
            value: *value,
            unit: registry::find(metric).map_or("", |metric| metric.unit).to_owned(),
            n: *n,
            t_ns: *t_ns,
            valid: reason.is_none(),
            reason,
        }
    }
}

/// Returns what is wrong with a sample whatever becomes of its launch.
fn own_problem(sample: &Sample) -> Option<String> {
    if registry::find(&sample.metric).is_none() {
        Some(format!("metric {:?} is not registered", sample.metric))
    } else if sample.value.is_finite() {
        None
    } else {
        Some(format!("value is {}", sample.value))
    }
}

/// Returns the sample that stands for a metric that was not measured.
fn absent(metric: &str) -> Sample {
    Sample {
        metric: metric.to_owned(),
        phase: crate::event::Phase::Process,
        workload: String::new(),
        rep: 0,
        warmup: false,
        value: f64::NAN,
        n: 0,
        t_ns: 0,
        step: None,
        task: None,
        trained_through: None,
    }
}

/// Returns the rows of a run's samples, in the order they came.
///
/// A sample of an unknown metric, a NaN or an infinity, and whatever belongs to a launch that did
/// not finish well are kept, with `valid` false and the reason. A metric that could not be measured
/// is one such row of value NaN.
#[must_use]
pub fn collect<'a>(run_id: &str, cell_hash: &str, events: impl IntoIterator<Item = &'a Event>) -> Vec<SampleRow> {
    let mut collector = Collector::new(run_id, cell_hash);
    for event in events {
        collector.event(event);
    }
    collector.rows()
}

#[cfg(test)]
mod tests;
