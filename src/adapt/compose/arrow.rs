//! Routing tokens among adapters (Ostapenko et al., "Towards Modular LLMs by Building and Reusing a
//! Library of `LoRAs`", arXiv 2405.11157).
use std::collections::BTreeMap;

use super::{ComposeError, Svd, Weighted, change::Factors, places};
use crate::engine::{Adapter, Choice, EngineError, LowRank, Member, Mixture, Place};

/// Adapters that every token, at every matrix, chooses among for itself.
///
/// The prototype of an adapter at a matrix is the input its ΔW answers most to, the first right singular
/// vector v. A token's input x scores `|x · v|`; the `top_k` best share its change by the softmax of
/// their scores over `temperature`.
#[derive(Clone, Debug)]
pub struct Arrow {
    top_k: usize,
    temperature: f64,
    places: BTreeMap<Place, Vec<Expert>>,
}

#[derive(Clone, Debug)]
struct Expert {
    /// Its number among all adapters.
    adapter: usize,
    /// With the adapter's weight in its scale.
    part: LowRank,
    prototype: Vec<f64>,
    /// The same by the rows of A: w, so that `w · (A x)` is the prototype's product with x.
    by_rank: Vec<f32>,
}

impl Arrow {
    /// Returns the router of adapters; their weights multiply what they change.
    ///
    /// # Errors
    ///
    /// If there are none, they are of different models, or nothing would be chosen.
    pub fn new(adapters: &[Weighted<'_>], top_k: usize, temperature: f64) -> Result<Self, ComposeError> {
        if adapters.is_empty() {
            return Err(ComposeError::Nothing);
        }
        if top_k == 0 || temperature.is_nan() || temperature <= 0.0 {
            return Err(ComposeError::Stages("Arrow needs a top_k of at least 1 and a temperature above 0"));
        }
        places(adapters)?;
        let mut places: BTreeMap<Place, Vec<Expert>> = BTreeMap::new();
        for (adapter, (weight, of)) in adapters.iter().enumerate() {
            for (place, part) in *of {
                let found = Factors::sum(&[(1.0, part)]).svd();
                let prototype = found.v.transposed().row(0).to_vec();
                let by_rank = by_rank(part, &found);
                let part = LowRank { scale: (f64::from(part.scale) * weight) as f32, ..part.clone() };
                places.entry(*place).or_default().push(Expert { adapter, part, prototype, by_rank });
            }
        }
        Ok(Self { top_k, temperature, places })
    }

    /// Returns the prototype of an adapter at a place, if it changes it: of length 1, its sign of no
    /// meaning.
    #[must_use]
    pub fn prototype(&self, adapter: usize, place: Place) -> Option<&[f64]> {
        let experts = self.places.get(&place)?;
        Some(&experts.iter().find(|expert| expert.adapter == adapter)?.prototype)
    }

    /// Returns the shares of the adapters a token chooses at a place, by their numbers; they sum to 1.
    #[must_use]
    pub fn shares(&self, place: Place, x: &[f32]) -> Vec<(usize, f64)> {
        self.chosen(place, x).into_iter().map(|(expert, share)| (expert.adapter, share)).collect()
    }

    fn chosen(&self, place: Place, x: &[f32]) -> Vec<(&Expert, f64)> {
        let score = |expert: &Expert| -> f64 {
            expert.prototype.iter().zip(x).map(|(v, x)| v * f64::from(*x)).sum::<f64>().abs()
        };
        let experts = self.places.get(&place).map(Vec::as_slice).unwrap_or_default();
        let mut scored: Vec<(&Expert, f64)> = experts.iter().map(|expert| (expert, score(expert))).collect();
        scored.sort_by(|a, b| b.1.total_cmp(&a.1));
        scored.truncate(self.top_k);
        let highest = scored.first().map_or(0.0, |(_, score)| *score);
        let weight = |score: f64| ((score - highest) / self.temperature).exp();
        let total: f64 = scored.iter().map(|(_, score)| weight(*score)).sum();
        scored.into_iter().map(|(expert, score)| (expert, weight(score) / total)).collect()
    }

    /// Returns the adapter that a token's choice makes at a place: what is added to `W x` is its
    /// `scale · B A x`. None where no adapter changes it.
    #[must_use]
    pub fn routed(&self, place: Place, x: &[f32]) -> Option<LowRank> {
        let chosen = self.chosen(place, x);
        let parts: Vec<(f64, &LowRank)> = chosen.iter().map(|(expert, share)| (*share, &expert.part)).collect();
        (!parts.is_empty()).then(|| super::cat(&parts))
    }

    /// Returns what an engine runs it as: all adapters side by side, and how each token chooses.
    ///
    /// # Errors
    ///
    /// If there are more adapters than an engine lets tokens choose among.
    pub fn mixture(&self) -> Result<Mixture, EngineError> {
        let (mut all, mut choices) = (Adapter::new(), BTreeMap::new());
        for (place, experts) in &self.places {
            let (mut members, mut start) = (Vec::with_capacity(experts.len()), 0);
            for Expert { part, by_rank, .. } in experts {
                let ranks = start..start + part.rank;
                start = ranks.end;
                members.push(Member { ranks, scale: part.scale, prototype: by_rank.clone() });
            }
            let a = experts.iter().flat_map(|expert| &expert.part.a).copied().collect();
            let outputs = experts.first().map_or(0, |expert| expert.part.b.len() / expert.part.rank);
            let mut b = Vec::with_capacity(outputs * start);
            for row in 0..outputs {
                for Expert { part, .. } in experts {
                    b.extend_from_slice(&part.b[row * part.rank..][..part.rank]);
                }
            }
            all.insert(*place, LowRank { rank: start, scale: 1.0, a, b, magnitude: None });
            choices.insert(*place, Choice { members, top_k: self.top_k, temperature: self.temperature as f32 });
        }
        Mixture::new(all, choices)
    }

    /// Returns the adapter of one text: at every place, shares by the mean scores of these inputs.
    ///
    /// A whole text then runs with one adapter, as any engine can.
    #[must_use]
    pub fn for_text(&self, inputs: &BTreeMap<Place, Vec<f32>>) -> Adapter {
        let part = |(place, x): (&Place, &Vec<f32>)| Some((*place, self.routed(*place, x)?));
        inputs.iter().filter_map(part).collect()
    }
}

/// Returns `w = s Bᵀ u / σ`, of the largest singular value of `s B A` and its left vector: then `w · (A x) = v · x`.
fn by_rank(part: &LowRank, Svd { u, s, .. }: &Svd) -> Vec<f32> {
    let largest = s.first().copied().unwrap_or(0.0);
    let mut sums = vec![0.0; part.rank];
    if largest > 0.0 {
        for (b, u) in part.b.chunks_exact(part.rank).zip(u.transposed().row(0)) {
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += f64::from(*b) * u);
        }
        sums.iter_mut().for_each(|sum| *sum *= f64::from(part.scale) / largest);
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}
