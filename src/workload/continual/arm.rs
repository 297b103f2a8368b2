//! What a recipe's method means in plain values.
use crate::{
    adapt::{
        continual::{Distillation, Geometry, MeanShift, Orthogonality, Penalty, Protection, Rehearsal, Source},
        ewc::{Convention, Method, Strength},
    },
    recipe::schema::{Boundaries, Continual, ContinualMethod, EwcSpace, FisherKind, MethodName, PenaltyConvention},
};

/// Steps between two looks at the path of `RWalk`.
const PATH_STEPS: u32 = 10;
/// How far losses of another task are taken to be above those of the one before, in standard deviations of
/// these.
const RISE: f64 = 2.0;

/// One method at one strength.
pub(super) struct Arm {
    pub(super) method: ContinualMethod,
    pub(super) lambda: f64,
}

impl Arm {
    /// Returns every method at each of its strengths: first `joint`, since what could be had at best is compared
    /// with, then `sequential`, for the same reason.
    pub(super) fn all(continual: &Continual) -> Vec<Self> {
        let mut arms: Vec<Self> = Vec::new();
        for method in continual.arms() {
            let strengths = if method.lambda.is_empty() { vec![0.0] } else { method.lambda.clone() };
            arms.extend(strengths.into_iter().map(|lambda| Self { method: method.clone(), lambda }));
        }
        arms.sort_by_key(|arm| (arm.method.method != MethodName::Joint, arm.method.method != MethodName::Sequential));
        arms
    }

    /// Returns what results call it, in an order of the tasks.
    pub(super) fn label(&self, order: usize) -> String {
        let strength = if self.method.method.has_strength() { format!(",l{}", self.lambda) } else { String::new() };
        format!("continual({}{strength},o{order})", self.method.label())
    }

    /// Returns the test that says where tasks end, if not the recipe does.
    pub(super) fn detector(&self) -> Option<MeanShift> {
        let detects = self.method.boundaries == Boundaries::Detected;
        detects.then(|| MeanShift::new(RISE, self.method.false_alarm_steps))
    }

    /// Returns what it does against forgetting in a sequence of so many tasks.
    pub(super) fn protection(&self, tasks: usize) -> Protection {
        let ContinualMethod {
            method,
            name: _,
            lambda: _,
            fisher_decay,
            fisher,
            fisher_batches,
            normalize_fisher,
            space,
            penalty_convention,
            replay_sequences,
            logits_weight,
            labels_weight,
            kept_logits,
            boundaries: _,
            false_alarm_steps: _,
        } = &self.method;
        let rate = 1.0 - fisher_decay;
        let penalty = Penalty {
            method: match method {
                MethodName::Sequential
                | MethodName::Replay
                | MethodName::DerPp
                | MethodName::OLora
                | MethodName::Joint => Method::Sequential,
                MethodName::L2 => Method::Anchored,
                MethodName::Ewc => Method::Ewc,
                MethodName::Online => Method::Online { decay: *fisher_decay },
                MethodName::EwcPp => Method::EwcPlusPlus { rate },
                MethodName::Rwalk => Method::RWalk { rate, every: PATH_STEPS },
            },
            strength: Strength {
                lambda: self.lambda,
                convention: match penalty_convention {
                    PenaltyConvention::Half => Convention::Half,
                    PenaltyConvention::Full => Convention::Full,
                },
            },
            geometry: match space {
                EwcSpace::DeltaW => Geometry::Product,
                EwcSpace::DeltaWRank1 => Geometry::Outer,
                EwcSpace::Factors => Geometry::Factors,
            },
            source: match fisher {
                // A recipe with `exact` is refused before it is planned.
                FisherKind::Sampled | FisherKind::Exact => Source::Sampled,
                FisherKind::Empirical => Source::Empirical,
                FisherKind::Batched => Source::Batched,
            },
            batches: *fisher_batches,
            normalized: *normalize_fisher,
        };
        let distillation = Distillation {
            logits_weight: *logits_weight,
            labels_weight: *labels_weight,
            logits: *kept_logits as usize,
        };
        let rehearsal = |distillation| Some(Rehearsal { kept: *replay_sequences as usize, distillation });
        Protection {
            penalty,
            rehearsal: match method {
                MethodName::Replay => rehearsal(None),
                MethodName::DerPp => rehearsal(Some(distillation)),
                _ => None,
            },
            orthogonality: (*method == MethodName::OLora).then_some(Orthogonality { weight: self.lambda, tasks }),
        }
    }
}
