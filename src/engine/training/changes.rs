//! Changes that learn, on top of a group of frozen matrices.
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::{
    Gradients,
    group::Group,
    low_rank::{Columns, transposed},
    workers::Workers,
};
use crate::engine::{EngineError, LowRank, places::Place, places::Target};

/// What went through a matrix that has a change, and came back: enough for its Fisher information.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flow {
    /// Positions behind the sums.
    pub rows: u64,
    /// Σ x² of its input x, `[I]`.
    pub inputs: Vec<f32>,
    /// Σ δ² of the gradient δ of its output, `[O]`.
    pub outputs: Vec<f32>,
    /// Σ δ xᵀ, `[O, I]`, the gradient of the matrix itself; empty where that was not asked for.
    pub product: Vec<f32>,
}

/// How much of a [`Flow`] is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Only the squares, which cost next to nothing.
    Squares,
    /// All of it.
    Product,
}

/// A change that learns.
pub(super) struct Pair {
    rank: usize,
    scale: f32,
    /// `[r, I]`.
    a: Vec<f32>,
    /// B transposed, `[r, O]`.
    b: Vec<f32>,
    /// What passes, where that is noted.
    pub(super) flow: Option<Mutex<Flow>>,
}

impl Pair {
    pub(super) fn new(change: &LowRank) -> Self {
        let LowRank { rank, scale, a, b } = change;
        Self { rank: *rank, scale: *scale, a: a.clone(), b: transposed(b, *rank), flow: None }
    }

    /// Puts other values in the place of its own.
    pub(super) fn set(&mut self, a: &[f32], b: &[f32]) -> Result<(), EngineError> {
        if (a.len(), b.len()) != (self.a.len(), self.b.len()) {
            let message = format!("{} and {} values for {} and {}", a.len(), b.len(), self.a.len(), self.b.len());
            return Err(EngineError::Adapter(message));
        }
        a.clone_into(&mut self.a);
        self.b = transposed(b, self.rank);
        Ok(())
    }
}

impl Flow {
    /// Returns one of nothing; `product` is as long as the matrix, or empty.
    pub(super) fn new(noted: Noted, (outputs, inputs): (usize, usize)) -> Self {
        let product = if noted == Noted::Product { vec![0.0; outputs * inputs] } else { Vec::new() };
        Self { rows: 0, inputs: vec![0.0; inputs], outputs: vec![0.0; outputs], product }
    }

    fn add(&mut self, workers: &Workers, x: Columns<'_>, delta: Columns<'_>) {
        self.rows += x.rows() as u64;
        for (sums, columns) in [(&mut self.inputs, x), (&mut self.outputs, delta)] {
            for row in 0..columns.rows() {
                sums.iter_mut().zip(columns.row(row)).for_each(|(sum, x)| *sum = x.mul_add(*x, *sum));
            }
        }
        if !self.product.is_empty() {
            let delta: Vec<f32> = (0..delta.rows()).flat_map(|row| delta.row(row)).copied().collect();
            workers.add(&mut self.product, &workers.outer(&delta, x, 1.0, self.outputs.len()));
        }
    }
}

/// What the way back needs of a change: `x Aᵀ`, `[N, r]`.
pub(super) type Narrow = (Target, Vec<f32>);

/// A group with the changes of one layer.
pub(super) struct Changed<'a> {
    pub(super) group: &'a Group,
    pub(super) layer: usize,
    pub(super) pairs: &'a BTreeMap<Place, Pair>,
    pub(super) workers: &'a Workers,
}

impl Changed<'_> {
    fn pairs(&self) -> impl Iterator<Item = (Place, &Pair, Range<usize>)> {
        self.group.parts.iter().filter_map(|(target, rows)| {
            let place = Place { layer: self.layer, target: *target };
            Some((place, self.pairs.get(&place)?, rows.clone()))
        })
    }

    /// Returns whether anything of it learns.
    pub(super) fn learns(&self) -> bool {
        self.pairs().next().is_some()
    }

    /// Returns `x (W + s B A)ᵀ`, `[N, I]` to `[N, O]`, and notes what the way back needs.
    pub(super) fn forward(&self, x: &[f32], narrows: &mut Vec<Narrow>) -> Result<Vec<f32>, EngineError> {
        let mut out = self.group.forward(self.workers, x)?;
        for (place, pair, rows) in self.pairs() {
            let narrow = self.workers.narrow(Columns::all(x, self.group.inputs), &pair.a)?;
            let place_in = (out.as_mut_slice(), self.group.outputs, rows.start);
            self.workers.widen(place_in, &narrow, &pair.b, pair.scale, pair.rank);
            narrows.push((place.target, narrow));
        }
        Ok(out)
    }

    /// Adds the gradients of the changes, and returns that of the input if it is wanted.
    pub(super) fn backward(
        &self,
        x: &[f32],
        grad: &[f32],
        narrows: &[Narrow],
        wants_input: bool,
        gradients: &mut Gradients,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        let workers = self.workers;
        let mut below = if wants_input { Some(self.group.backward(workers, grad)?) } else { None };
        for (place, pair, rows) in self.pairs() {
            let Some((_, narrow)) = narrows.iter().find(|(target, _)| *target == place.target) else { continue };
            let (rank, scale) = (pair.rank, pair.scale);
            let part = Columns { values: grad, stride: self.group.outputs, first: rows.start, width: rows.len() };
            if let Some(flow) = &pair.flow {
                let mut flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
                flow.add(workers, Columns::all(x, self.group.inputs), part);
            }
            let narrow_grad = workers.narrow(part, &pair.b)?;
            let b = transposed(&workers.outer(narrow, part, scale, rank), rows.len());
            let a = workers.outer(&narrow_grad, Columns::all(x, self.group.inputs), scale, rank);
            let sums = gradients.entry(place).or_insert_with(|| (vec![0.0; a.len()], vec![0.0; b.len()]));
            workers.add(&mut sums.0, &a);
            workers.add(&mut sums.1, &b);
            if let Some(below) = &mut below {
                workers.widen((below, self.group.inputs, 0), &narrow_grad, &pair.a, scale, rank);
            }
        }
        Ok(below)
    }
}
