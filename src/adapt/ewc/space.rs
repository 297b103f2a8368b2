//! Where deviations are measured.
mod block;
mod pulls;

pub use block::Block;
use block::widened;

use super::{super::optim::Real, Term};

/// Blocks side by side: how a whole list of parameters is measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Space {
    /// The blocks, in the order of the parameters.
    pub blocks: Vec<Block>,
}

/// Where a block's parameters and importances begin.
struct Part {
    block: Block,
    parameters: std::ops::Range<usize>,
    importances: std::ops::Range<usize>,
}

impl Space {
    /// Returns a space of single numbers.
    #[must_use]
    pub fn plain(count: usize) -> Self {
        Self { blocks: vec![Block::Plain { count }] }
    }

    /// Returns how many parameters there are.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.blocks.iter().map(|block| block.parameters()).sum()
    }

    /// Returns how many numbers importances are.
    #[must_use]
    pub fn importances(&self) -> usize {
        self.blocks.iter().map(|block| block.importances()).sum()
    }

    fn parts(&self) -> impl Iterator<Item = Part> {
        self.blocks.iter().scan((0, 0), |(parameter, importance), block| {
            let (parameters, importances) = (block.parameters(), block.importances());
            let part = Part {
                block: *block,
                parameters: *parameter..*parameter + parameters,
                importances: *importance..*importance + importances,
            };
            (*parameter, *importance) = (part.parameters.end, part.importances.end);
            Some(part)
        })
    }

    /// Returns `½ Σ F D²`.
    #[must_use]
    pub fn half_square<T: Real>(&self, importance: &[T], anchor: &[T], parameters: &[T]) -> f64 {
        let of = |Part { block, parameters: p, importances }: Part| {
            block.half_square(&importance[importances], &anchor[p.clone()], &parameters[p])
        };
        self.parts().map(of).sum()
    }

    /// Adds `weight` times the gradient of `½ Σ F D²`.
    pub fn add_gradient<T: Real>(
        &self,
        weight: f64,
        importance: &[T],
        anchor: &[T],
        parameters: &[T],
        gradient: &mut [T],
    ) {
        for Part { block, parameters: p, importances } in self.parts() {
            let (importance, anchor) = (&importance[importances], &anchor[p.clone()]);
            block.add_gradient(weight, importance, anchor, &parameters[p.clone()], &mut gradient[p]);
        }
    }

    /// Moves parameters to where `½ |θ - θ'|² + weight Σ_terms ½ Σ F D²` is least, factors in turn.
    pub fn pull<T: Real>(&self, weight: f64, terms: &[Term<T>], parameters: &mut [T]) {
        if terms.is_empty() {
            return;
        }
        for Part { block, parameters: p, importances } in self.parts() {
            let of = |term: &'_ Term<T>| -> (Vec<T>, Vec<T>) {
                (term.importance[importances.clone()].to_vec(), term.anchor[p.clone()].to_vec())
            };
            let owned: Vec<_> = terms.iter().map(of).collect();
            let terms: Vec<(&[T], &[T])> = owned.iter().map(|(f, a)| (f.as_slice(), a.as_slice())).collect();
            block.pull(weight, &terms, &mut parameters[p]);
        }
    }

    /// Returns where parameters are in the coordinates importances weigh: themselves, or the products.
    #[must_use]
    pub fn positions<T: Real>(&self, parameters: &[T]) -> Vec<T> {
        let mut out = Vec::new();
        for Part { block, parameters: p, .. } in self.parts() {
            let Some(shape) = block.shape() else {
                out.extend_from_slice(&parameters[p]);
                continue;
            };
            let factors = shape.factors(&parameters[p]);
            let mut row = vec![0.0; shape.n];
            for i in 0..shape.m {
                row.fill(0.0);
                shape.row(&factors, i, 1.0, &mut row);
                out.extend(row.iter().map(|value| T::narrow(*value)));
            }
        }
        out
    }

    /// Returns the sum of all importances, least and greatest among them.
    pub(super) fn extent<T: Real>(&self, importance: &[T]) -> (f64, f64, f64) {
        let (mut sum, mut least, mut most) = (0.0, f64::INFINITY, 0.0f64);
        for Part { block, importances, .. } in self.parts() {
            let values = widened(&importance[importances]);
            let ends = |values: &[f64]| {
                let low = values.iter().copied().fold(f64::INFINITY, f64::min);
                (values.iter().sum::<f64>(), low, values.iter().copied().fold(0.0, f64::max))
            };
            let (s, l, m) = match block {
                Block::Plain { .. } | Block::Product { .. } => ends(&values),
                Block::Outer { outputs, .. } => {
                    let (d, a) = (ends(&values[..outputs]), ends(&values[outputs..]));
                    (d.0 * a.0, d.1 * a.1, d.2 * a.2)
                }
            };
            (sum, least, most) = (sum + s, least.min(l), most.max(m));
        }
        (sum, least, most)
    }

    /// Returns how many deviations are weighted.
    #[must_use]
    pub fn coordinates(&self) -> usize {
        self.blocks.iter().map(|block| block.coordinates()).sum()
    }

    /// Multiplies importances: of a rank-1 block only d, since `F = d aᵀ`.
    pub(super) fn scale<T: Real>(&self, importance: &mut [T], factor: f64) {
        for Part { block, importances, .. } in self.parts() {
            let values = &mut importance[importances];
            let count = if let Block::Outer { outputs, .. } = block { outputs } else { values.len() };
            values[..count].iter_mut().for_each(|value| *value = T::narrow(value.widen() * factor));
        }
    }
}
