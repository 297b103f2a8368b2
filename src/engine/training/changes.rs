//! Changes that learn, on top of a group of frozen matrices.
use std::{
    borrow::Cow,
    collections::BTreeMap,
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::{
    Dropout, Gradients, Magnitudes,
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
    dora: Option<Dora>,
    /// What passes, where that is noted.
    pub(super) flow: Option<Mutex<Flow>>,
}

/// What makes a change a decomposed one (DoRA, arXiv 2402.09353): row o of the whole matrix,
/// `V = W + s B A`, acts as `m_o V_o / |V_o|`, and the norm counts as a constant on the way back.
pub(super) struct Dora {
    magnitude: Vec<f32>,
    /// `|W_o|²`.
    squares: Vec<f64>,
    /// `|V_o|`.
    norms: Vec<f32>,
}

impl Pair {
    pub(super) fn new(change: &LowRank) -> Self {
        let LowRank { rank, scale, a, b, .. } = change;
        Self { rank: *rank, scale: *scale, a: a.clone(), b: transposed(b, *rank), dora: None, flow: None }
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

    pub(super) fn is_decomposed(&self) -> bool {
        self.dora.is_some()
    }

    /// Makes it a decomposed one, and returns its magnitudes.
    pub(super) fn decompose(&mut self, dora: Dora) -> &[f32] {
        &self.dora.insert(dora).magnitude
    }

    /// Puts other norms in the place of its own, which are those of other values.
    pub(super) fn renew(&mut self, norms: Vec<f32>) {
        if let Some(dora) = &mut self.dora {
            dora.norms = norms;
        }
    }

    pub(super) fn set_magnitude(&mut self, magnitude: &[f32]) -> Result<(), EngineError> {
        let own = self.dora.as_mut().map(|dora| &mut dora.magnitude);
        let Some(own) = own.filter(|own| own.len() == magnitude.len()) else {
            return Err(EngineError::Adapter(format!("{} magnitudes for a change without as many", magnitude.len())));
        };
        own.copy_from_slice(magnitude);
        Ok(())
    }
}

/// Gradients as they are added up.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) gradients: Gradients,
    pub(super) magnitudes: Magnitudes,
}

/// What the way back needs of a change.
pub(super) struct Narrow {
    target: Target,
    /// `x Aᵀ`, `[N, r]`.
    values: Vec<f32>,
    /// `x Vᵀ`, `[N, O]`, of a decomposed one.
    whole: Vec<f32>,
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
            workers.add(&mut self.product, &workers.outer(&delta.copied(), x, 1.0, self.outputs.len()));
        }
    }
}

/// A group with the changes of one layer.
pub(super) struct Changed<'a> {
    pub(super) group: &'a Group,
    pub(super) layer: usize,
    pub(super) pairs: &'a BTreeMap<Place, Pair>,
    pub(super) workers: &'a Workers,
    /// What of their inputs is dropped, and the number of the first row.
    pub(super) dropout: Option<(Dropout, usize)>,
}

impl Changed<'_> {
    fn pairs(&self) -> impl Iterator<Item = (Place, &Pair, Range<usize>)> {
        self.group.parts.iter().filter_map(|(target, rows)| {
            let place = Place { layer: self.layer, target: *target };
            Some((place, self.pairs.get(&place)?, rows.clone()))
        })
    }

    /// Returns the columns of outputs, or their gradients, that are a part's.
    fn part<'x>(&self, values: &'x [f32], rows: &Range<usize>) -> Columns<'x> {
        Columns { values, stride: self.group.outputs, first: rows.start, width: rows.len() }
    }

    /// Returns what the change of a place reads.
    fn input<'x>(&self, place: Place, x: &'x [f32]) -> Cow<'x, [f32]> {
        let Some((dropout, first)) = self.dropout else { return Cow::Borrowed(x) };
        let mut kept = x.to_vec();
        dropout.mask(self.workers, place, first, &mut kept, self.group.inputs);
        Cow::Owned(kept)
    }

    /// Returns whether anything of it learns.
    pub(super) fn learns(&self) -> bool {
        self.pairs().next().is_some()
    }

    /// Returns the norms of the rows of `W + s B A`.
    fn norms(&self, pair: &Pair, rows: &Range<usize>, squares: &[f64]) -> Result<Vec<f32>, EngineError> {
        let (rank, scale) = (pair.rank, f64::from(pair.scale));
        // W Aᵀ, transposed.
        let products = self.group.forward(self.workers, &pair.a)?;
        let a = |j: usize| &pair.a[j * self.group.inputs..][..self.group.inputs];
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
        let gram: Vec<f64> = (0..rank * rank).map(|at| dot(a(at / rank), a(at % rank))).collect();
        let norm = |(o, square): (usize, &f64)| {
            let b = |j: usize| scale * f64::from(pair.b[j * rows.len() + o]);
            let cross = |j: usize| b(j) * f64::from(products[j * self.group.outputs + rows.start + o]);
            let inner = |j: usize| (0..rank).map(|k| b(j) * b(k) * gram[j * rank + k]).sum::<f64>();
            let sum: f64 = (0..rank).map(|j| 2.0 * cross(j) + inner(j)).sum();
            (square + sum).max(0.0).sqrt() as f32
        };
        Ok(squares.iter().enumerate().map(norm).collect())
    }

    /// Returns what makes the change of a place a decomposed one, with the norms as they are as magnitudes.
    pub(super) fn decomposed(&self, target: Target) -> Result<Option<Dora>, EngineError> {
        let Some((_, pair, rows)) = self.pairs().find(|(place, ..)| place.target == target) else { return Ok(None) };
        let squares = self.group.row_squares(self.workers)?[rows.clone()].to_vec();
        let norms = self.norms(pair, &rows, &squares)?;
        Ok(Some(Dora { magnitude: norms.clone(), squares, norms }))
    }

    /// Returns the norms of the rows of a decomposed change as its values are now.
    pub(super) fn renewed(&self, target: Target) -> Result<Option<Vec<f32>>, EngineError> {
        let Some((_, pair, rows)) = self.pairs().find(|(place, ..)| place.target == target) else { return Ok(None) };
        pair.dora.as_ref().map(|dora| self.norms(pair, &rows, &dora.squares)).transpose()
    }

    /// Returns `x (W + s B A)ᵀ`, `[N, I]` to `[N, O]`, and notes what the way back needs.
    pub(super) fn forward(&self, x: &[f32], narrows: &mut Vec<Narrow>) -> Result<Vec<f32>, EngineError> {
        let mut out = self.group.forward(self.workers, x)?;
        for (place, pair, rows) in self.pairs() {
            let input = self.input(place, x);
            let narrow = self.workers.narrow(Columns::all(&input, self.group.inputs), &pair.a)?;
            let place_in = (out.as_mut_slice(), self.group.outputs, rows.start);
            self.workers.widen(place_in, &narrow, &pair.b, pair.scale, pair.rank);
            let mut whole = Vec::new();
            if let Some(Dora { magnitude, norms, .. }) = &pair.dora {
                whole = self.part(&out, &rows).copied();
                self.workers.rows(&mut out, self.group.outputs, |_, row| {
                    let factors = magnitude.iter().zip(norms);
                    row[rows.clone()].iter_mut().zip(factors).for_each(|(y, (m, norm))| *y *= m / norm);
                });
            }
            narrows.push(Narrow { target: place.target, values: narrow, whole });
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
        sums: &mut Sums,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        let workers = self.workers;
        let scaled = self.magnitudes_back(grad, narrows, sums);
        let grad = scaled.as_deref().unwrap_or(grad);
        let mut below = if wants_input { Some(self.group.backward(workers, grad)?) } else { None };
        for (place, pair, rows) in self.pairs() {
            let Some(narrow) = narrows.iter().find(|narrow| narrow.target == place.target) else { continue };
            let narrow = &narrow.values;
            let (rank, scale) = (pair.rank, pair.scale);
            let part = self.part(grad, &rows);
            if let Some(flow) = &pair.flow {
                let mut flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
                flow.add(workers, Columns::all(x, self.group.inputs), part);
            }
            let narrow_grad = workers.narrow(part, &pair.b)?;
            let b = transposed(&workers.outer(narrow, part, scale, rank), rows.len());
            let input = self.input(place, x);
            let a = workers.outer(&narrow_grad, Columns::all(&input, self.group.inputs), scale, rank);
            let sums = sums.gradients.entry(place).or_insert_with(|| (vec![0.0; a.len()], vec![0.0; b.len()]));
            workers.add(&mut sums.0, &a);
            workers.add(&mut sums.1, &b);
            match (&mut below, self.dropout) {
                (None, _) => {}
                (Some(below), None) => {
                    workers.widen((below, self.group.inputs, 0), &narrow_grad, &pair.a, scale, rank);
                }
                (Some(below), Some((dropout, first))) => {
                    let mut own = vec![0.0; below.len()];
                    workers.widen((&mut own, self.group.inputs, 0), &narrow_grad, &pair.a, scale, rank);
                    dropout.mask(workers, place, first, &mut own, self.group.inputs);
                    workers.add(below, &own);
                }
            }
        }
        Ok(below)
    }

    /// Adds the gradients of magnitudes and returns those of what they multiply, where there are any.
    fn magnitudes_back(&self, grad: &[f32], narrows: &[Narrow], sums: &mut Sums) -> Option<Vec<f32>> {
        let mut scaled: Option<Vec<f32>> = None;
        for (place, pair, rows) in self.pairs() {
            let Some(Dora { magnitude, norms, .. }) = &pair.dora else { continue };
            let Some(narrow) = narrows.iter().find(|narrow| narrow.target == place.target) else { continue };
            let outputs = self.group.outputs;
            let own = sums.magnitudes.entry(place).or_insert_with(|| vec![0.0; rows.len()]);
            for (grad, whole) in grad.chunks_exact(outputs).zip(narrow.whole.chunks_exact(rows.len())) {
                let terms = grad[rows.clone()].iter().zip(whole).zip(norms);
                own.iter_mut().zip(terms).for_each(|(own, ((grad, y), norm))| *own += grad * y / norm);
            }
            let scaled = scaled.get_or_insert_with(|| grad.to_vec());
            self.workers.rows(scaled, outputs, |_, row| {
                let factors = magnitude.iter().zip(norms);
                row[rows.clone()].iter_mut().zip(factors).for_each(|(g, (m, norm))| *g *= m / norm);
            });
        }
        scaled
    }
}
