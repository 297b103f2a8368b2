//! `x Wᵀ` in the order that every tier keeps to.
use half::{bf16, f16};

use super::part::{Minima, part};
use crate::{
    activations::{ActivationRows, CodeBlock},
    format::Format,
    matmul::WeightGroups,
    matrix::layout::{COLUMNS, Layout, ROWS},
    output::Tile,
};

/// Columns of float weights that are added up before they join the sum.
pub(crate) const FLOAT_COLUMNS: usize = 256;

/// Tokens that share what was decoded of a group.
const TOKENS: usize = 16;

pub(crate) fn matmul(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    let size = Layout::of(weights.format).group(weights.columns);
    for (group, bytes) in weights.bytes.chunks_exact(size).enumerate() {
        for first in (0..activations.rows).step_by(TOKENS) {
            let count = TOKENS.min(activations.rows - first);
            let mut sums = [[0.0; ROWS]; TOKENS];
            if weights.format.is_quantized() {
                integers(weights.format, bytes, activations, first, &mut sums[..count]);
            } else {
                floats(weights.format, bytes, activations, first, &mut sums[..count]);
            }
            for (token, sums) in sums[..count].iter().enumerate() {
                tile.put(first + token, group, std::array::from_ref(sums));
            }
        }
    }
}

fn integers(format: Format, group: &[u8], activations: ActivationRows<'_>, first: usize, sums: &mut [[f32; ROWS]]) {
    let minima = Minima::of(format);
    for index in 0..activations.columns / COLUMNS {
        let part = part(format, group, index);
        for (token, sums) in sums.iter_mut().enumerate() {
            let codes = &activations.row_codes(first + token)[COLUMNS * index..][..COLUMNS];
            let CodeBlock { scale, scaled_total, halves, .. } = activations.row_blocks(first + token)[index];
            let mut products = [0i32; ROWS];
            for (weights, code) in part.codes.iter().zip(codes) {
                for (product, weight) in products.iter_mut().zip(weights) {
                    *product += i32::from(*weight) * i32::from(*code);
                }
            }
            for (row, sum) in sums.iter_mut().enumerate() {
                *sum = (products[row] as f32).mul_add(part.scales[row] * scale, *sum);
                match minima {
                    Minima::None => {}
                    Minima::Whole => *sum = (-part.minima[0][row]).mul_add(scaled_total, *sum),
                    Minima::Halves => {
                        for (minima, total) in part.minima.iter().zip(halves) {
                            *sum = (-minima[row]).mul_add(scale * total as f32, *sum);
                        }
                    }
                }
            }
        }
    }
}

/// Returns the eight numbers of a column.
fn column(format: Format, group: &[u8], index: usize) -> [f32; ROWS] {
    std::array::from_fn(|row| {
        let at = index * ROWS + row;
        let half = || [group[2 * at], group[2 * at + 1]];
        match format {
            Format::F16 => f16::from_le_bytes(half()).to_f32(),
            Format::Bf16 => bf16::from_le_bytes(half()).to_f32(),
            _ => f32::from_le_bytes([group[4 * at], group[4 * at + 1], group[4 * at + 2], group[4 * at + 3]]),
        }
    })
}

fn floats(format: Format, group: &[u8], activations: ActivationRows<'_>, first: usize, sums: &mut [[f32; ROWS]]) {
    for from in (0..activations.columns).step_by(FLOAT_COLUMNS) {
        let to = (from + FLOAT_COLUMNS).min(activations.columns);
        let mut partial = [[0.0f32; ROWS]; TOKENS];
        for index in from..to {
            let weights = column(format, group, index);
            for (token, partial) in partial[..sums.len()].iter_mut().enumerate() {
                let x = activations.row_floats(first + token)[index];
                for (partial, weight) in partial.iter_mut().zip(weights) {
                    *partial = weight.mul_add(x, *partial);
                }
            }
        }
        for (sums, partial) in sums.iter_mut().zip(partial) {
            for (sum, partial) in sums.iter_mut().zip(partial) {
                *sum += partial;
            }
        }
    }
}
