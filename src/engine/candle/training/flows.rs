//! What passes changes, summed where it is computed.
use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::to_host;
use crate::{
    engine::{Flow, Noted, Place},
    model::spec::ModelSpec,
};

/// See [`Flow`].
struct Sums {
    rows: u64,
    /// Inputs, outputs and, where it is wanted, the product.
    values: Vec<Tensor>,
}

/// The flows of all changes.
#[derive(Default)]
pub(super) struct Flows {
    /// Whether they are noted, and how much of them.
    pub(super) noted: Option<Noted>,
    sums: BTreeMap<Place, Sums>,
}

impl Flows {
    pub(super) fn new(noted: Option<Noted>) -> Self {
        Self { noted, sums: BTreeMap::new() }
    }

    /// Adds inputs `[N, I]` and the gradients `[N, O]` of what became of them.
    pub(super) fn add(&mut self, place: Place, x: &Tensor, delta: &Tensor) -> Result<()> {
        let mut values = vec![x.sqr()?.sum(0)?, delta.sqr()?.sum(0)?];
        if self.noted == Some(Noted::Product) {
            values.push(delta.t()?.contiguous()?.matmul(&x.contiguous()?)?);
        }
        let mut rows = x.dim(0)? as u64;
        if let Some(earlier) = self.sums.remove(&place) {
            rows += earlier.rows;
            values = values.iter().zip(&earlier.values).map(|(a, b)| a + b).collect::<Result<_>>()?;
        }
        self.sums.insert(place, Sums { rows, values });
        Ok(())
    }

    /// Returns what was noted of these places, and begins anew; nothing where nothing is noted.
    pub(super) fn take<'a>(
        &mut self,
        spec: &ModelSpec,
        places: impl Iterator<Item = &'a Place>,
    ) -> Result<BTreeMap<Place, Flow>> {
        let Some(noted) = self.noted else { return Ok(BTreeMap::new()) };
        let nothing = |place: &Place| {
            let (outputs, inputs) = place.target.shape(spec);
            let product = if noted == Noted::Product { vec![0.0; outputs * inputs] } else { Vec::new() };
            (*place, Flow { rows: 0, inputs: vec![0.0; inputs], outputs: vec![0.0; outputs], product })
        };
        let mut flows: BTreeMap<Place, Flow> = places.map(nothing).collect();
        let sums = std::mem::take(&mut self.sums);
        let tensors: Vec<Tensor> = sums.values().flat_map(|sums| sums.values.iter().cloned()).collect();
        let mut values = to_host(&tensors)?.into_iter();
        for (place, Sums { rows, values: own }) in sums {
            let mut next = || values.next().unwrap_or_default();
            let (inputs, outputs) = (next(), next());
            let product = if own.len() > 2 { next() } else { Vec::new() };
            flows.insert(place, Flow { rows, inputs, outputs, product });
        }
        Ok(flows)
    }
}
