//! Weights searched for on a few examples (Huang et al., "`LoraHub`", arXiv 2307.13269).
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{ComposeError, Weighted, places};
use crate::engine::{Adapter, LowRank};

/// How weights are searched for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// How often the loss is computed.
    pub evaluations: usize,
    /// The largest weight, to either side.
    pub bound: f64,
    /// What `Σ |w|` counts in the loss.
    pub l1: f64,
    /// What is drawn.
    pub seed: u64,
}

impl Default for Search {
    /// The paper's bound and penalty.
    fn default() -> Self {
        Self { evaluations: 40, bound: 1.5, l1: 0.05, seed: 0 }
    }
}

/// Returns the best weights found, and their loss without the penalty, from weights of zero on.
///
/// Factor by factor: the adapter that is tried is `A = Σ w A`, `B = Σ w B`, so what it changes depends on
/// how its parts are factored, and grows with w². The search is an evolution strategy of one parent and
/// one child whose step is enlarged on success and shrunk else (Rechenberg's rule of one success in
/// five): no gradient, and never worse than no adapter.
///
/// # Errors
///
/// If the adapters cannot be added factor by factor, or `loss` fails or returns no number for no adapter.
pub fn lora_hub(
    adapters: &[&Adapter],
    search: &Search,
    loss: &mut dyn FnMut(&Adapter) -> Result<f64, ComposeError>,
) -> Result<(Vec<f64>, Adapter, f64), ComposeError> {
    let mut random = ChaCha8Rng::seed_from_u64(search.seed);
    let mut best = vec![0.0; adapters.len()];
    let mut made = summed(adapters, &best)?;
    let penalty = |weights: &[f64]| search.l1 * weights.iter().map(|w| w.abs()).sum::<f64>();
    let mut found = loss(&made)?;
    if !found.is_finite() {
        return Err(ComposeError::Loss(format!("without any adapter it is {found}")));
    }
    let mut step = 0.5 * search.bound;
    for _ in 1..search.evaluations {
        // Sums of twelve are near enough to normal.
        let mut normal = || (0..12).map(|_| random.random_range(-0.5..0.5)).sum::<f64>();
        let tried: Vec<f64> = best.iter().map(|w| (w + step * normal()).clamp(-search.bound, search.bound)).collect();
        let adapter = summed(adapters, &tried)?;
        let value = loss(&adapter)?;
        if value + penalty(&tried) < found + penalty(&best) {
            (best, made, found) = (tried, adapter, value);
            step *= 1.5;
        } else {
            step *= 1.5f64.powf(-0.25);
        }
    }
    Ok((best, made, found))
}

/// Returns sums of factors, each with its weight; the scale of a part goes to its factors' B.
fn summed(adapters: &[&Adapter], weights: &[f64]) -> Result<Adapter, ComposeError> {
    let weighted: Vec<Weighted<'_>> = weights.iter().copied().zip(adapters.iter().copied()).collect();
    if weighted.is_empty() {
        return Err(ComposeError::Nothing);
    }
    let mut all = Adapter::new();
    for (place, parts) in places(&weighted)? {
        let first = parts[0].1.rank;
        if let Some((_, other)) = parts.iter().find(|(_, part)| part.rank != first) {
            return Err(ComposeError::Ranks(place, first, other.rank));
        }
        let sum = |of: fn(&LowRank) -> &Vec<f32>, scaled: bool| {
            let mut sum = vec![0.0; of(parts[0].1).len()];
            for (weight, part) in &parts {
                let factor = weight * if scaled { f64::from(part.scale) } else { 1.0 };
                sum.iter_mut().zip(of(part)).for_each(|(sum, x)| *sum += factor * f64::from(*x));
            }
            sum.into_iter().map(|x| x as f32).collect()
        };
        let (a, b) = (sum(|part| &part.a, false), sum(|part| &part.b, true));
        all.insert(place, LowRank { rank: first, scale: 1.0, a, b, magnitude: None });
    }
    Ok(all)
}
