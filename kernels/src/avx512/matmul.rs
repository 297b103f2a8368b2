//! Which way a product goes.
use super::{
    byte_gemm, float,
    gemm::{gemm, gemm_any},
    gemv::gemv,
};
use crate::{
    activations::ActivationRows,
    avx2::{
        self,
        float::{BF16, F16, F32},
        part::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q13_0},
    },
    format::Format,
    matmul::WeightGroups,
    matrix::layout::{COLUMNS, Layout},
    output::Tile,
};

/// The most tokens that are multiplied with weights as they are read.
const FEW: usize = 4;

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn matmul(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    match weights.format {
        // Few tokens are bound by the memory, whatever the width of the registers.
        Format::F32 | Format::F16 | Format::Bf16 if activations.rows <= FEW => {
            avx2::matmul::matmul(weights, activations, tile);
        }
        Format::F32 => float::gemm::<F32>(weights, activations, tile),
        Format::F16 => float::gemm::<F16>(weights, activations, tile),
        Format::Bf16 => float::gemm::<BF16>(weights, activations, tile),
        Format::Q4_0 => integers::<Q4_0, 0, 144>(weights, activations, tile),
        Format::Q4_1 => integers::<Q4_1, 0, 160>(weights, activations, tile),
        Format::Q5_0 => integers::<Q5_0, 0, 176>(weights, activations, tile),
        Format::Q5_1 => integers::<Q5_1, 0, 192>(weights, activations, tile),
        Format::Q8_0 => integers::<Q8_0, 0, 272>(weights, activations, tile),
        Format::Q13_0 => integers::<Q13_0, 0, 528>(weights, activations, tile),
        Format::Q4K => integers::<Q4K, 32, 144>(weights, activations, tile),
        Format::Q5K => integers::<Q5K, 32, 176>(weights, activations, tile),
        Format::Q6K => integers::<Q6K, 16, 208>(weights, activations, tile),
        Format::Q2K | Format::Q3K => gemm_any(weights, activations, tile),
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn integers<const F: u8, const HEAD: usize, const PART: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
) {
    match activations.rows {
        1 => few::<F, HEAD, PART, 1>(weights, activations, tile),
        2 => few::<F, HEAD, PART, 2>(weights, activations, tile),
        3 => few::<F, HEAD, PART, 3>(weights, activations, tile),
        FEW => few::<F, HEAD, PART, FEW>(weights, activations, tile),
        // With its scales folded in, a weight of `q6_k` is no byte.
        _ if activations.bytes.is_empty() || F == Q6K || F == Q13_0 => {
            gemm::<F, HEAD, PART>(weights, activations, tile)
        }
        _ => byte_gemm::gemm::<F, HEAD, PART>(weights, activations, tile),
    }
}

/// Products with `M` tokens, of two groups at once that lie far apart: with registers of this width
/// two streams keep a core's share of the bandwidth busy, and four take turns with each other.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn few<const F: u8, const HEAD: usize, const PART: usize, const M: usize>(
    weights: WeightGroups<'_>,
    activations: ActivationRows<'_>,
    tile: &mut Tile<'_>,
) {
    let size = Layout::of(weights.format).group(weights.columns);
    let groups = tile.groups();
    let apart = groups / 2;
    let group = |index: usize| &weights.bytes[index * size..][..size];
    let mut ahead = weights.ahead.shares(apart);
    for index in 0..apart {
        avx2::matmul::fetch(ahead.next());
        let places = [[index], [apart + index]];
        let groups = [[group(index)], [group(apart + index)]];
        if activations.bytes.is_empty() || F == Q13_0 {
            gemv::<F, HEAD, PART, 1, M, [i16; COLUMNS]>(places, groups, activations, 0, tile);
        } else {
            gemv::<F, HEAD, PART, 1, M, [i8; COLUMNS]>(places, groups, activations, 0, tile);
        }
    }
    for index in 2 * apart..groups {
        avx2::gemv::gemv::<F, HEAD, PART, 1, M>([index], [group(index)], activations, 0, tile);
    }
}
