//! Whether what a baseline is gated and bound by can be.
use crate::{
    diag::{self, Diagnostic},
    metrics,
    recipe::Recipe,
};

use super::resolve::Resolver;

impl Resolver<'_, '_> {
    /// Refuses gates of metrics that there are not, or that have no better and worse.
    pub(super) fn check_gates(&mut self, recipe: &Recipe) {
        let Some(baseline) = &recipe.baseline else { return };
        for name in baseline.gates.keys() {
            if metrics::find(name).is_some_and(|metric| metric.direction == metrics::Direction::Neutral) {
                let message = format!("metric `{name}` cannot be gated: it has no better and worse");
                let place = self.place(&format!("baseline.gates.{name}"));
                self.report(Diagnostic::error("neutral-metric", message).at(place));
            }
            self.known_metric(name, "gates");
        }
    }

    /// Refuses bounds of metrics that there are not, or that no bound can hold.
    pub(super) fn check_bounds(&mut self, recipe: &Recipe) {
        let Some(baseline) = &recipe.baseline else { return };
        for (name, bound) in &baseline.bounds {
            let place = self.place(&format!("baseline.bounds.{name}"));
            let Some(metric) = self.known_metric(name, "bounds") else { continue };
            let varies = metric.replication == metrics::Replication::Launch;
            if varies || metric.direction == metrics::Direction::Neutral || !bound.is_finite() {
                let why = if varies {
                    "it varies between launches"
                } else if bound.is_finite() {
                    "it has no better and worse"
                } else {
                    "the bound is no number"
                };
                let message = format!("metric `{name}` cannot be held to a bound: {why}");
                let hint = "bound metrics such as `perplexity`, `kl_mean` and `top1_agreement`; gate the others";
                self.report(Diagnostic::error("bound", message).at(place).hint(hint));
            }
        }
    }

    /// Returns a metric that `baseline` names, or reports that there is none.
    fn known_metric(&mut self, name: &str, section: &str) -> Option<&'static metrics::Metric> {
        let found = metrics::find(name);
        if found.is_none() {
            let known = || metrics::METRICS.iter().map(|metric| metric.name);
            let hint = match diag::nearest(name, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known metrics: {}", known().collect::<Vec<_>>().join(", ")),
            };
            let diagnostic = Diagnostic::error("unknown-metric", format!("unknown metric `{name}`"))
                .at(self.place(&format!("baseline.{section}.{name}")))
                .hint(hint);
            self.report(diagnostic);
        }
        found
    }
}
