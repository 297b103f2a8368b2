//! Adapters folded into the deep loop's own.
use super::Deep;
use crate::{
    adapt::{
        compose::{Method, compose, compose_to_rank},
        micro_lora::MicroLora,
        train::fresh,
    },
    engine::{Adapter, LowRank, Target},
    sona::{SonaError, serving::head},
};

/// What of a direction is less than this has no use for it.
const UNNEEDED: f32 = 1.0e-7;

impl Deep {
    /// Folds micro adapters, each with its weight, into the adapter's head: their exact sum with it (`cat`), then the
    /// nearest to that of the adapter's rank (`svd`). Returns the share of the sum that had no room. A direction
    /// that the sum does not need begins anew, so that it can learn.
    pub(in crate::sona) fn fold<'a>(
        &mut self,
        micros: impl Iterator<Item = (f64, &'a MicroLora)>,
        seed: u64,
    ) -> Result<f64, SonaError> {
        let spec = self.trainee.spec();
        let place = head(spec);
        let Some(own) = self.adapter.get_mut(&place) else { return Ok(0.0) };
        let whole = |change: LowRank| Adapter::from([(place, change)]);
        let mut parts = vec![(1.0, whole(own.clone()))];
        let learned = micros.filter(|(weight, micro)| weight.abs() > 0.0 && !micro.is_zero());
        parts.extend(learned.map(|(weight, micro)| (weight, whole(micro.low_rank()))));
        if parts.len() == 1 {
            return Ok(0.0);
        }
        let parts: Vec<(f64, &Adapter)> = parts.iter().map(|(weight, adapter)| (*weight, adapter)).collect();
        let rank = own.rank;
        let sum = compose(&parts, &Method::Cat)?;
        let (folded, lost) = compose_to_rank(&[(1.0, &sum)], &Method::Svd { rank })?;
        let anew = fresh(spec, &[Target::Head], rank, self.settings.scale, seed);
        let (Some(found), Some(anew)) = (folded.get(&place), anew.get(&place)) else { return Ok(lost) };
        refit(own, Some(found), anew);
        self.settle()?;
        Ok(lost)
    }

    /// Returns what is so large a share of the way from another adapter to this one: `ΔW` in a straight line, then the
    /// nearest to that of the adapter's rank.
    pub(in crate::sona) fn on_the_way(&self, from: &Adapter, share: f64, seed: u64) -> Result<Adapter, SonaError> {
        let mut own = self.adapter.clone();
        if share >= 1.0 {
            return Ok(own);
        }
        let parts = [(1.0 - share, from), (share, &self.adapter)];
        let (found, _) = compose_to_rank(&parts, &Method::Svd { rank: self.settings.rank })?;
        let anew = Self::beginning(&self.settings, self.trainee.spec(), seed);
        for (place, change) in &mut own {
            if let Some(anew) = anew.get(place) {
                refit(change, found.get(place), anew);
            }
        }
        Ok(own)
    }
}

/// Puts other factors in a change's place, at its own scale and rank. A direction they do not need begins anew, so that it
/// can learn: with none of B, and A of `anew`.
fn refit(own: &mut LowRank, found: Option<&LowRank>, anew: &LowRank) {
    let (rank, width) = (own.rank, own.a.len() / own.rank);
    own.b.fill(0.0);
    for k in 0..rank {
        let factors = found.filter(|found| k < found.rank).map(|found| {
            let factor = found.scale / own.scale;
            let column: Vec<f32> = found.b.iter().skip(k).step_by(found.rank).map(|x| x * factor).collect();
            (&found.a[k * width..][..width], column)
        });
        let needed = factors.filter(|(_, column)| column.iter().any(|x| x.abs() > UNNEEDED));
        let row = needed.as_ref().map_or(&anew.a[k * width..][..width], |(row, _)| row);
        own.a[k * width..][..width].copy_from_slice(row);
        if let Some((_, column)) = needed {
            own.b.iter_mut().skip(k).step_by(rank).zip(column).for_each(|(own, value)| *own = value);
        }
    }
}
