//! Gates of the penalties, and the defects of systems that reported success and had learned nothing: each defect
//! must fail its gate.
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

const PENALTIES: [Method; 2] = [Method::Ewc, Method::Online { decay: 1.0 }];

/// How a regularizer can be broken.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    /// Every number's gradient is the same, so that all matter alike.
    ConstantGradient,
    /// The Fisher information stays what it was at first: nothing.
    FisherNeverUpdated,
    /// The pull is to zero and not to what was learned.
    AnchorMissing,
    /// What is of another space is cut to length.
    MismatchIgnored,
}

/// One that is whole but for a defect.
struct Broken {
    whole: Box<dyn Regularizer<f64>>,
    defect: Defect,
}

impl Regularizer<f64> for Broken {
    fn terms(&self) -> &[Term<f64>] {
        self.whole.terms()
    }

    fn consolidate(&mut self, space: &Space, optimum: &[f64], fisher: &[f64]) -> Option<Statistics> {
        let (mut optimum, mut fisher) = (optimum.to_vec(), fisher.to_vec());
        match self.defect {
            Defect::ConstantGradient => fisher.fill(0.01 * 0.01),
            Defect::FisherNeverUpdated => fisher.fill(0.0),
            Defect::AnchorMissing => optimum.fill(0.0),
            Defect::MismatchIgnored => {
                optimum.resize(space.parameters(), 0.0);
                fisher.resize(space.importances(), 0.0);
            }
        }
        self.whole.consolidate(space, &optimum, &fisher)
    }
}

/// Two quadratic tasks `½ (θ - c)ᵀ H (θ - c)` with diagonal H: with the first's curvature for Fisher
/// information and λ = 1, EWC ends where the sum of both losses is least, `(H₁ + H₂)⁻¹ (H₁ c₁ + H₂ c₂)`.
/// Returns how far from there it ends.
fn distance_from_the_optimum(ewc: &mut dyn Regularizer<f64>) -> f64 {
    let (h, c) = ([[4.0, 0.1, 1.0], [0.2, 3.0, 1.0]], [[1.0, -1.0, 0.5], [-2.0, 2.0, 0.0]]);
    let space = Space::plain(3);
    let mut at = vec![0.0; 3];
    for task in 0..2 {
        for _ in 0..40_000 {
            for i in 0..3 {
                at[i] -= 0.01 * h[task][i] * (at[i] - c[task][i]);
            }
            ewc.pull(&space, Strength { lambda: 1.0, convention: HALF }, 0.01, &mut at);
        }
        ewc.consolidate(&space, &at, &h[task]);
    }
    let optimum = |i: usize| (h[0][i] * c[0][i] + h[1][i] * c[1][i]) / (h[0][i] + h[1][i]);
    (0..3).map(|i| (at[i] - optimum(i)).abs()).fold(0.0, f64::max)
}

/// Returns whether it refuses optima and importances that are not as many as the space has numbers.
fn refuses_other_spaces(begin: impl Fn() -> Box<dyn Regularizer<f64>>) -> bool {
    let space = Space::plain(2);
    [(&[0.0; 2][..], &[1.0; 3][..]), (&[0.0; 2], &[1.0]), (&[0.0; 3], &[1.0; 2])].into_iter().all(
        |(optimum, fisher)| {
            let mut own = begin();
            catch_unwind(AssertUnwindSafe(|| own.consolidate(&space, optimum, fisher))).is_err()
        },
    )
}

#[test]
fn two_quadratic_tasks_end_at_the_optimum_of_their_sum() {
    for method in PENALTIES {
        let distance = distance_from_the_optimum(method.begin::<f64>(false).as_mut());
        assert!(distance <= 1.0e-6, "{method:?}: {distance}");
    }
}

#[test]
fn a_defect_that_learns_something_else_ends_elsewhere() {
    for method in PENALTIES {
        for defect in [Defect::ConstantGradient, Defect::FisherNeverUpdated, Defect::AnchorMissing] {
            let distance = distance_from_the_optimum(&mut Broken { whole: method.begin(false), defect });
            assert!(distance >= 0.1, "{method:?} with {defect:?} passes: {distance}");
        }
    }
}

#[test]
fn what_is_of_another_space_is_refused_and_not_cut_to_length() {
    for method in [Method::Ewc, Method::Online { decay: 0.5 }] {
        assert!(refuses_other_spaces(|| method.begin(true)), "{method:?}");
        let broken = || -> Box<dyn Regularizer<f64>> {
            Box::new(Broken { whole: method.begin(true), defect: Defect::MismatchIgnored })
        };
        assert!(!refuses_other_spaces(broken), "{method:?} that cuts to length passes");
    }
    for method in [Method::EwcPlusPlus { rate: 0.5 }, Method::RWalk { rate: 0.5, every: 1 }] {
        for count in [1, 3] {
            let mut own = method.begin::<f64>(true);
            let mut observe = |count: usize| {
                let list = vec![1.0; count];
                let seen = Observation { fisher: &list, gradient: &list, moved: &list };
                catch_unwind(AssertUnwindSafe(|| own.observe(&seen)))
            };
            observe(2).unwrap();
            assert!(observe(count).is_err(), "{method:?}: {count}");
        }
    }
}
