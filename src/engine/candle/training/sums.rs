//! Losses and gradients as they are added up on the device, and their way to the host.
use std::collections::BTreeMap;

use candle_core::{Result, Tensor, backprop::GradStore};

use super::change::Change;
use crate::engine::{Gradients, Magnitudes, places::Place};

/// Gradients of A, B and, of decomposed changes, magnitudes.
#[derive(Default)]
pub(super) struct Sums(pub(super) BTreeMap<Place, Vec<Tensor>>);

impl Sums {
    /// Adds what a part's graph found for the changes in it.
    pub(super) fn collect(&mut self, changes: &BTreeMap<Place, Change>, layer: usize, found: &GradStore) -> Result<()> {
        for (place, change) in changes.iter().filter(|(place, _)| place.layer == layer) {
            let own: Option<Vec<&Tensor>> = change.variables().map(|var| found.get(var.as_tensor())).collect();
            let Some(own) = own else { continue };
            let sums = match self.0.get(place) {
                None => own.into_iter().cloned().collect(),
                Some(sums) => sums.iter().zip(own).map(|(sum, more)| sum + more).collect::<Result<_>>()?,
            };
            self.0.insert(*place, sums);
        }
        Ok(())
    }

    /// Adds them to those on the host.
    pub(super) fn add_to(self, gradients: &mut Gradients, magnitudes: &mut Magnitudes) -> Result<()> {
        let tensors: Vec<Tensor> = self.0.values().flatten().cloned().collect();
        let mut values = to_host(&tensors)?.into_iter();
        let mut add = |sum: &mut Vec<f32>| {
            let more = values.next().unwrap_or_default();
            if sum.is_empty() {
                *sum = more;
            } else {
                sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
            }
        };
        for (place, tensors) in self.0 {
            let (a, b) = gradients.entry(place).or_default();
            add(a);
            add(b);
            if tensors.len() > 2 {
                add(magnitudes.entry(place).or_default());
            }
        }
        Ok(())
    }
}

/// Returns the sum of losses, each of which is a row.
pub(super) fn total(losses: &[Tensor]) -> Result<f64> {
    Ok(to_host(losses)?.iter().flatten().map(|loss| f64::from(*loss)).sum())
}

/// Returns the values of several tensors in one copy: each copy waits for the device.
pub(super) fn to_host(tensors: &[Tensor]) -> Result<Vec<Vec<f32>>> {
    let flat = tensors.iter().map(Tensor::flatten_all).collect::<Result<Vec<_>>>()?;
    if flat.is_empty() {
        return Ok(Vec::new());
    }
    let all = Tensor::cat(&flat, 0)?.to_vec1::<f32>()?;
    let mut rest = all.as_slice();
    let split = |tensor: &Tensor| {
        let (own, after) = rest.split_at(tensor.elem_count());
        rest = after;
        own.to_vec()
    };
    Ok(tensors.iter().map(split).collect())
}
