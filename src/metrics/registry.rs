//! Every metric there is, by what measures it.
mod adaptation;
mod continual;
mod kv_pressure;
mod prediction;
mod sona;
mod speed;
mod training;

use serde::{Deserialize, Serialize};

/// Raised when a definition changes, so that old results are not compared with new ones.
pub const METRIC_SCHEMA_VERSION: u32 = 1;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// Neither: a fact, not a goal.
    Neutral,
}

/// What repeats the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replication {
    /// Process launches vary it: statistics over launches.
    Launch,
    /// The same in every launch of a cell: compared as it is. Values of single windows of a text, or of single
    /// requests, are its replicates.
    Deterministic,
    /// The same, but values at steps are a course, and no replicates.
    Course,
}

/// A metric's definition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name, with the unit as suffix where there is one.
    pub name: &'static str,
    /// A heading for people.
    pub title: &'static str,
    /// Its unit; empty for ratios.
    pub unit: &'static str,
    /// Which way is better.
    pub direction: Direction,
    /// What repeats it.
    pub replication: Replication,
    /// The relative change for the worse that fails a gate, when the metric is gated by default.
    pub gate: Option<f64>,
    /// What exactly it is.
    pub definition: &'static str,
}

const fn metric(
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    direction: Direction,
    replication: Replication,
    gate: Option<f64>,
    definition: &'static str,
) -> Metric {
    Metric { name, title, unit, direction, replication, gate, definition }
}

const WEIGHTS: Metric = metric(
    "weights_bytes",
    "weights",
    "bytes",
    Direction::Lower,
    Replication::Deterministic,
    None,
    "bytes of all tensors as they run",
);

/// Groups of metrics, in the order they are shown.
const GROUPS: &[&[Metric]] = &[
    speed::METRICS,
    prediction::METRICS,
    kv_pressure::METRICS,
    training::METRICS,
    adaptation::METRICS,
    continual::METRICS,
    sona::METRICS,
    &[WEIGHTS],
];

const COUNT: usize = {
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
};

/// All metrics, in the order they are shown.
pub const METRICS: &[Metric] = &{
    let mut all = [WEIGHTS; COUNT];
    let (mut at, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut index = 0;
        while index < GROUPS[group].len() {
            all[at] = GROUPS[group][index];
            at += 1;
            index += 1;
        }
        group += 1;
    }
    all
};

/// Returns the metric of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_there_in_its_order() {
        let names = |metrics: &[Metric]| metrics.iter().map(|metric| metric.name).collect::<Vec<_>>();
        assert_eq!(names(METRICS), GROUPS.iter().flat_map(|group| names(group)).collect::<Vec<_>>());
    }

    #[test]
    fn names_are_unique_and_carry_their_unit() {
        for (i, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[i + 1..].iter().all(|other| other.name != metric.name), "{} twice", metric.name);
            let suffix = match metric.unit {
                "ms" => "_ms",
                "bytes" => "_bytes",
                "tokens/s" => "_tok_s",
                "J" => "_j",
                _ => "",
            };
            assert!(metric.name.ends_with(suffix), "{} should end with {suffix}", metric.name);
            assert!(!metric.definition.is_empty());
        }
    }
}
