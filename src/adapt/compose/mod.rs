//! Several adapters of one model made into one.
//!
//! All methods work on what adapters change, ΔW = scale · B A, and so do not depend on how a change is
//! factored: (B R, R⁻¹ A) gives what (B, A) gives. The exceptions are named: [`Method::Linear`], PEFT's way
//! of adding factors, and [`lora_hub`].
//!
//! PEFT's names and meanings (`add_weighted_adapter`) where it has the method.
mod arrow;
mod change;
mod dense;
mod elect;
mod lora_hub;
mod schedule;

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use arrow::Arrow;
pub use change::{Factors, change, effective_rank, singular_values};
pub use dense::{Dense, Svd, qr, svd};
pub use elect::Majority;
pub use lora_hub::{Search, lora_hub};
pub use schedule::{Stage, Stages};

use crate::engine::{Adapter, LowRank, Place};

/// How adapters become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// `Σ w ΔW`, exactly: factors side by side, of the sum of the ranks. Task arithmetic (arXiv
    /// 2212.04089): a negative weight takes a task away.
    Cat,
    /// The nearest to `Σ w ΔW` of a rank; exact where the rank is that of the sum.
    Svd {
        /// The rank.
        rank: usize,
    },
    /// PEFT's `linear`, factor by factor: `A = Σ ±√|w s| A`, `B = Σ √|w s| B`. Not a sum of changes: each B
    /// meets every A.
    Linear,
    /// The largest changes of each, those that agree with the elected sign, averaged (arXiv 2306.01708).
    Ties {
        /// The share of each ΔW that is kept.
        density: f64,
        /// How signs are elected.
        majority: Majority,
        /// The rank of the result.
        rank: usize,
    },
    /// Changes dropped at random, the others enlarged so that the mean stays (arXiv 2311.03099), then
    /// summed, or elected as in TIES.
    Dare {
        /// The share of each ΔW that is kept.
        density: f64,
        /// How signs are elected; none sums.
        majority: Option<Majority>,
        /// The rank of the result.
        rank: usize,
        /// What is drawn.
        seed: u64,
    },
    /// The largest changes of each, summed.
    MagnitudePrune {
        /// The share of each ΔW that is kept.
        density: f64,
        /// The rank of the result.
        rank: usize,
    },
}

/// Why adapters could not become one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ComposeError {
    /// None were given.
    #[error("there are no adapters to compose")]
    Nothing,
    /// A weight that is no number.
    #[error("a weight is {0}; it must be a finite number")]
    Weight(f64),
    /// A share that is none.
    #[error("the density is {0}; it must be above 0 and at most 1")]
    Density(f64),
    /// A rank of zero.
    #[error("the rank must be at least 1")]
    Rank,
    /// Matrices of different shapes at one place.
    #[error("the {0} has other shapes in another adapter: they are of different models")]
    Shapes(Place),
    /// A decomposed change, which is no sum of the matrix and something.
    #[error("the {0} is a decomposed change (DoRA), and no method composes those: merge it into the model instead")]
    Decomposed(Place),
    /// Factors of different ranks, which cannot be added.
    #[error("the {0} has rank {1} in one adapter and {2} in another, and `linear` adds factors: take svd or cat")]
    Ranks(Place, usize, usize),
    /// Places that only some have, where factors are added.
    #[error("no adapter changes anything")]
    Empty,
    /// A stage that does not fit.
    #[error("{0}")]
    Stages(&'static str),
    /// The loss could not be computed.
    #[error("few-shot loss: {0}")]
    Loss(String),
}

/// An adapter with its weight.
pub type Weighted<'a> = (f64, &'a Adapter);

/// Returns one adapter made of several; a place that one does not change counts as a change of zero.
///
/// # Errors
///
/// If there are none, they are of different models, or a weight or setting is out of its range.
pub fn compose(adapters: &[Weighted<'_>], method: &Method) -> Result<Adapter, ComposeError> {
    Ok(compose_to_rank(adapters, method)?.0)
}

/// Returns what [`compose`] does, and how much of the merged change had no room in the rank:
/// `‖ΔW − ΔW'‖ / ‖ΔW‖` over all places, by the singular values left out.
///
/// # Errors
///
/// As [`compose`].
pub fn compose_to_rank(adapters: &[Weighted<'_>], method: &Method) -> Result<(Adapter, f64), ComposeError> {
    check(adapters, method)?;
    let (mut all, mut sums) = (Adapter::new(), Squares::default());
    for (place, parts) in places(adapters)? {
        let (part, squares) = one(place, &parts, method)?;
        sums.left_out += squares.left_out;
        sums.whole += squares.whole;
        all.insert(place, part);
    }
    Ok((all, if sums.whole > 0.0 { (sums.left_out / sums.whole).sqrt() } else { 0.0 }))
}

/// Sums of squares of singular values.
#[derive(Clone, Copy, Debug, Default)]
struct Squares {
    left_out: f64,
    whole: f64,
}

fn check(adapters: &[Weighted<'_>], method: &Method) -> Result<(), ComposeError> {
    if adapters.is_empty() {
        return Err(ComposeError::Nothing);
    }
    if let Some((weight, _)) = adapters.iter().find(|(weight, _)| !weight.is_finite()) {
        return Err(ComposeError::Weight(*weight));
    }
    let (density, rank) = match *method {
        Method::Cat | Method::Linear => (1.0, 1),
        Method::Svd { rank } => (1.0, rank),
        Method::Ties { density, rank, .. }
        | Method::Dare { density, rank, .. }
        | Method::MagnitudePrune { density, rank } => (density, rank),
    };
    if !(density > 0.0 && density <= 1.0) {
        return Err(ComposeError::Density(density));
    }
    if rank == 0 { Err(ComposeError::Rank) } else { Ok(()) }
}

/// What several adapters change at one place, with their weights.
type Parts<'a> = Vec<(f64, &'a LowRank)>;

/// Returns what the adapters change at each place.
fn places<'a>(adapters: &[Weighted<'a>]) -> Result<BTreeMap<Place, Parts<'a>>, ComposeError> {
    let all: BTreeSet<Place> = adapters.iter().flat_map(|(_, adapter)| adapter.keys().copied()).collect();
    let mut places = BTreeMap::new();
    for place in all {
        let parts: Parts<'_> =
            adapters.iter().filter_map(|(weight, adapter)| Some((*weight, adapter.get(&place)?))).collect();
        if parts.iter().any(|(_, part)| change::shape(part) != change::shape(parts[0].1)) {
            return Err(ComposeError::Shapes(place));
        }
        if parts.iter().any(|(_, part)| part.magnitude.is_some()) {
            return Err(ComposeError::Decomposed(place));
        }
        places.insert(place, parts);
    }
    if places.is_empty() { Err(ComposeError::Empty) } else { Ok(places) }
}

/// Returns what becomes of one place.
fn one(place: Place, parts: &[(f64, &LowRank)], method: &Method) -> Result<(LowRank, Squares), ComposeError> {
    let square = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
    let rank = match *method {
        Method::Cat => return Ok((cat(parts), Squares::default())),
        Method::Linear => return Ok((linear(place, parts)?, Squares::default())),
        Method::Svd { rank } => {
            let svd = Factors::sum(parts).svd();
            let left_out = square(&svd.s[rank.min(svd.s.len())..]);
            return Ok((change::truncated(&svd, rank), Squares { left_out, whole: square(&svd.s) }));
        }
        Method::Ties { rank, .. } | Method::Dare { rank, .. } | Method::MagnitudePrune { rank, .. } => rank,
    };
    let merged = merged(place, parts, method);
    let svd = change::leading(&merged, rank);
    let (whole, kept) = (square(&merged.values), square(&svd.s[..rank.min(svd.s.len())]));
    Ok((change::truncated(&svd, rank), Squares { left_out: (whole - kept).max(0.0), whole }))
}

/// Returns the merged ΔW of one place, before it is brought to a rank.
fn merged(place: Place, parts: &[(f64, &LowRank)], method: &Method) -> Dense {
    let changes = || parts.iter().map(|(weight, part)| (*weight, change::change(part))).collect::<Vec<_>>();
    match *method {
        Method::Ties { density, majority, .. } => {
            let mut changes = changes();
            changes.iter_mut().for_each(|(_, change)| elect::keep_largest(change, density));
            elect::merge(&changes, majority)
        }
        Method::Dare { density, majority, seed, .. } => {
            let mut changes = changes();
            for (which, (_, change)) in changes.iter_mut().enumerate() {
                // Every matrix of every adapter has its own draws.
                let mut random = ChaCha8Rng::seed_from_u64(seed);
                random.set_stream(((place.layer as u64) << 16) | ((place.target as u64) << 8) | which as u64);
                elect::drop_at_random(change, density, &mut random);
            }
            majority.map_or_else(|| elect::sum(&changes), |majority| elect::merge(&changes, majority))
        }
        Method::MagnitudePrune { density, .. } => {
            let mut changes = changes();
            changes.iter_mut().for_each(|(_, change)| elect::keep_largest(change, density));
            elect::sum(&changes)
        }
        Method::Cat | Method::Svd { .. } | Method::Linear => Factors::sum(parts).product(),
    }
}

/// Returns factors side by side.
fn cat(parts: &[(f64, &LowRank)]) -> LowRank {
    let Factors { left, right } = Factors::sum(parts);
    LowRank { rank: left.columns, scale: 1.0, a: right.transposed().to_f32(), b: left.to_f32(), magnitude: None }
}

/// Returns sums of factors, as PEFT makes them.
fn linear(place: Place, parts: &[(f64, &LowRank)]) -> Result<LowRank, ComposeError> {
    let first = parts.first().map_or(0, |(_, part)| part.rank);
    if let Some((_, other)) = parts.iter().find(|(_, part)| part.rank != first) {
        return Err(ComposeError::Ranks(place, first, other.rank));
    }
    let factor = |weight: f64, scale: f32| weight * f64::from(scale);
    let sum = |of: fn(&LowRank) -> &Vec<f32>, weight: &dyn Fn(f64) -> f64| {
        let mut sum = vec![0.0; parts.first().map_or(0, |(_, part)| of(part).len())];
        for (own, part) in parts {
            let weight = weight(factor(*own, part.scale));
            sum.iter_mut().zip(of(part)).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        }
        sum.into_iter().map(|x| x as f32).collect()
    };
    let signed = |x: f64| if x >= 0.0 { x.sqrt() } else { -(-x).sqrt() };
    Ok(LowRank {
        rank: first,
        scale: 1.0,
        a: sum(|part| &part.a, &signed),
        b: sum(|part| &part.b, &|x| x.abs().sqrt()),
        magnitude: None,
    })
}

/// Returns how far an adapter is from what a method would give with any rank, relative:
/// `‖ΔW − ΔW'‖ / ‖ΔW‖` over all places.
///
/// # Errors
///
/// As [`compose`].
pub fn lost(adapters: &[Weighted<'_>], method: &Method, found: &Adapter) -> Result<f64, ComposeError> {
    check(adapters, method)?;
    let (mut error, mut size) = (0.0, 0.0);
    for (place, parts) in places(adapters)? {
        let right = merged(place, &parts, method);
        let ours = found.get(&place).map_or_else(|| Dense::zeros(right.rows, right.columns), change::change);
        for (a, b) in right.values.iter().zip(&ours.values) {
            error += (a - b).powi(2);
            size += a.powi(2);
        }
    }
    Ok(if size > 0.0 { (error / size).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests;
