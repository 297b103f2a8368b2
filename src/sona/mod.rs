//! Loops that learn while a model answers requests.
//!
//! Complementary learning systems: a fast and forgetful store is replayed into a slow one (`McClelland` et al.
//! 1995; CLS-ER, arXiv 2201.12604). A request leaves a [`Trajectory`]; a [`Reservoir`] keeps a fair sample of
//! those, and a [`Bank`] finds what kinds of them there are.
mod patterns;
mod replay;
mod trajectory;

pub use patterns::{Bank, Pattern};
pub use replay::Reservoir;
pub use trajectory::{Baseline, Feedback, Trajectory};

/// Why a loop could not learn.
#[derive(Debug, thiserror::Error)]
pub enum SonaError {
    /// Numbers of another width than the model's.
    #[error("{what} of {found} values, where {needed} make one: they are of another model")]
    Width {
        /// Which numbers.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        needed: usize,
    },
    /// Inputs of the head without a direction.
    #[error("the inputs of the head are as far from their mean as from nothing: they are zero or no numbers")]
    Directionless,
    /// An outcome that is no number.
    #[error("the reward is {0}: give every request that is learned from a finite one")]
    Reward(f64),
}
