//! What gates are held to.
use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    metrics::{self, Direction},
    units::Percent,
};

/// Where a threshold comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdSource {
    /// The recipe's `baseline.gates`.
    Recipe,
    /// The recipe's `baseline.bounds`: a limit for the candidate's value itself.
    Bound,
    /// The metric registry.
    Default,
    /// Twice the calibrated noise, which is more than what was asked for.
    Noise,
}

/// What gates are held to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// The recipe's `baseline.gates`: when there are any, only these metrics are gated.
    pub gates: BTreeMap<String, Percent>,
    /// The recipe's `baseline.bounds`: limits for the candidate's own values, beside all gates.
    pub bounds: BTreeMap<String, f64>,
    /// Calibrated A/A noise by metric, as a ratio: no threshold goes below twice this.
    pub noise: BTreeMap<String, f64>,
}

impl Thresholds {
    /// Returns the metrics that are gated, in the order of the registry.
    pub(super) fn gated(&self) -> Result<Vec<(&'static metrics::Metric, f64, ThresholdSource)>, GateError> {
        for metric in self.gates.keys().chain(self.bounds.keys()) {
            match metrics::find(metric) {
                None => return Err(GateError::UnknownMetric { metric: metric.clone() }),
                Some(known) if known.direction == Direction::Neutral => {
                    return Err(GateError::NoBetter { metric: metric.clone() });
                }
                Some(_) => {}
            }
        }
        let asked = metrics::METRICS.iter().filter_map(|metric| {
            if self.gates.is_empty() {
                Some((metric, metric.gate?, ThresholdSource::Default))
            } else {
                Some((metric, self.gates.get(metric.name)?.0, ThresholdSource::Recipe))
            }
        });
        let raised = asked.map(|(metric, threshold, source)| match self.noise.get(metric.name) {
            Some(noise) if 2.0 * noise > threshold => (metric, 2.0 * noise, ThresholdSource::Noise),
            _ => (metric, threshold, source),
        });
        Ok(raised.collect())
    }

    /// Returns the bounds of metrics, in the order of the registry.
    pub(super) fn bounded(&self) -> impl Iterator<Item = (&'static metrics::Metric, f64)> {
        metrics::METRICS.iter().filter_map(|metric| Some((metric, *self.bounds.get(metric.name)?)))
    }
}

/// Why no gate can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// No such metric.
    #[error("gate on unknown metric `{metric}`")]
    UnknownMetric {
        /// Its name.
        metric: String,
    },
    /// A metric that has no better and worse.
    #[error("metric `{metric}` cannot be gated: it has no better and worse")]
    NoBetter {
        /// Its name.
        metric: String,
    },
}
