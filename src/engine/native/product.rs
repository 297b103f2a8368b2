//! One matrix product of a phase: what goes in, what is done with its rows, and where they go.
use std::{
    ops::{Deref, Range},
    sync::Arc,
};

use ruvlab_kernels::{ActivationClass, Activations, Kernels, Matrix, Output, Tile};

use super::{
    low_rank::{Additions, Following, Reduced},
    products::room,
    selection::Selection,
};
use crate::{
    engine::{HEAD_RANK, HeadRows},
    model::spec::Activation,
};

/// The rows that go into a product.
#[derive(Clone, Copy)]
pub(super) enum Input<'a> {
    /// As they are.
    Plain(&'a [f32]),
    /// Their RMS norms; of those rows only, where some are named.
    Normed { stream: &'a [f32], weight: &'a [f32], eps: f32, rows: Option<&'a [u32]> },
}

impl<'a> Input<'a> {
    pub(super) fn row<'s>(self, kernels: &Kernels, index: usize, columns: usize, buffer: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        match self {
            Self::Plain(rows) => &rows[index * columns..][..columns],
            Self::Normed { stream, weight, eps, rows } => {
                let index = rows.map_or(index, |rows| rows[index] as usize);
                let out = room(buffer, columns);
                kernels.rms_norm(&stream[index * columns..][..columns], weight, eps, out);
                out
            }
        }
    }
}

/// What is done with the rows of a product where they were computed.
pub(super) enum Then<'a> {
    Nothing,
    /// Adds a bias.
    Bias(&'a [f32]),
    /// Takes the product as the gate of another one.
    Gate {
        up: &'a Matrix,
        output: &'a Output<'a>,
        activation: Activation,
    },
    /// Adds it to the stream.
    AddTo(&'a Output<'a>),
    /// Bends logits, and then adds to rows of them what A h of the row comes to.
    Head {
        soft_cap: Option<f32>,
        rows: &'a [(usize, Arc<HeadRows>)],
        projected: &'a [[f32; HEAD_RANK]],
    },
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub(super) enum Destination<'a> {
    /// All of it here.
    Output(&'a Output<'a>),
    /// The greatest numbers of each row, into what the thread keeps; all of them here, too, where there is room.
    Selection(Option<&'a Output<'a>>),
}

/// A product `x Wᵀ`.
pub(super) struct Product<'a> {
    pub(super) matrix: &'a Matrix,
    pub(super) destination: Destination<'a>,
    pub(super) then: Then<'a>,
}

fn index(class: ActivationClass) -> usize {
    match class {
        ActivationClass::Float => 0,
        ActivationClass::Integer => 1,
    }
}

impl Product<'_> {
    pub(super) fn needs(&self, class: ActivationClass) -> bool {
        let other = if let Then::Gate { up, .. } = &self.then { Some(up.activation_class()) } else { None };
        self.matrix.activation_class() == class || other == Some(class)
    }

    /// Computes some rows of product number `slot` of its group.
    pub(super) fn compute(
        &self,
        kernels: &Kernels,
        slot: usize,
        from: Inputs<'_>,
        rows: Range<usize>,
        selection: &mut Selection,
    ) {
        if rows.is_empty() {
            return;
        }
        match self.destination {
            Destination::Output(output) => {
                self.fill(kernels, slot, from, rows.clone(), &mut output.tile(rows));
            }
            Destination::Selection(output) => {
                selection.keep(kernels, rows, output, |some, tile| self.fill(kernels, slot, from, some, tile));
            }
        }
    }

    /// Computes some rows into a tile of as many.
    fn fill(&self, kernels: &Kernels, slot: usize, from: Inputs<'_>, rows: Range<usize>, tile: &mut Tile<'_>) {
        let Inputs { activations, additions, reduced, following } = from;
        let of = |matrix: &Matrix| &activations[index(matrix.activation_class())];
        let ahead = additions.ahead(slot, rows.clone(), following);
        kernels.matmul_fetching(self.matrix, rows.clone(), of(self.matrix), tile, ahead);
        let of_gate = if let Then::Gate { up, .. } = self.then { following.instead(up) } else { following };
        if additions.any() {
            additions.add(kernels, reduced, slot, rows.clone(), tile, of_gate);
        }
        match &self.then {
            Then::Nothing => {}
            Then::Bias(bias) => {
                (0..tile.tokens()).for_each(|token| kernels.add(tile.token(token), &bias[rows.clone()]));
            }
            Then::Head { soft_cap, rows: added, projected } => {
                if let Some(cap) = soft_cap {
                    (0..tile.tokens()).for_each(|token| kernels.soft_cap(tile.token(token), *cap));
                }
                for ((token, head), projected) in added.iter().zip(*projected) {
                    head.add(*projected, rows.start, tile.token(*token));
                }
            }
            Then::AddTo(stream) => {
                let mut stream = stream.tile(rows);
                (0..tile.tokens()).for_each(|token| kernels.add(stream.token(token), tile.token(token)));
            }
            Then::Gate { up, output, activation } => {
                let mut other = output.tile(rows.clone());
                let ahead = additions.ahead(slot + 1, rows.clone(), following);
                kernels.matmul_fetching(up, rows.clone(), of(up), &mut other, ahead);
                if additions.any() {
                    additions.add(kernels, reduced, slot + 1, rows, &mut other, following);
                }
                for token in 0..tile.tokens() {
                    match activation {
                        Activation::Silu => kernels.silu_gate(tile.token(token), other.token(token)),
                        Activation::GeluTanh => kernels.gelu_tanh_gate(tile.token(token), other.token(token)),
                    }
                }
            }
        }
    }
}

/// What products of a phase read.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) activations: &'a [Activations; 2],
    pub(super) additions: Additions<'a>,
    /// What A made of the rows, which is there when it is looked for.
    pub(super) reduced: &'a dyn Deref<Target = &'a Reduced>,
    pub(super) following: Following<'a>,
}
