//! Which way a product goes: straight from the weights for few tokens, through panels for many.
use std::arch::x86_64::*;

use super::{
    byte_gemm,
    float::{self, BF16, F16, F32},
    gemm::{gemm, gemm_any},
    gemv::{FETCHED, gemv},
    part::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q13_0},
};
use crate::{
    activations::ActivationRows,
    format::Format,
    matmul::{CACHE_LINE, WeightGroups},
    matrix::layout::Layout,
    output::Tile,
};

/// The most tokens that are multiplied with weights as they are read.
const FEW: usize = 4;

/// The most columns with which neighbouring groups are multiplied side by side: far apart, each would be over
/// before its memory is read at full speed.
const NARROW: usize = 64;

/// Has bytes brought into the second cache.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn fetch<const N: usize>(parts: [&[u8]; N]) {
    for bytes in parts {
        // Hints, which read nothing.
        bytes.chunks(CACHE_LINE).for_each(|line| _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()));
    }
}

/// Returns the places and bytes of `S` groups, so many groups apart.
#[inline]
fn far<const S: usize>(bytes: &[u8], size: usize, first: usize, apart: usize) -> ([usize; S], [&[u8]; S]) {
    let places: [usize; S] = std::array::from_fn(|s| first + s * apart);
    (places, places.map(|place| &bytes[place * size..][..size]))
}

/// Calls `$kernel::<.., S, M>` for groups that lie far apart, `$streams` of them for one token, and the tokens there
/// are.
macro_rules! far_groups {
    ($weights:ident, $activations:ident, $tile:ident, $kernel:ident, [$($parameter:expr),*], $streams:literal) => {{
        let size = Layout::of($weights.format).group($weights.columns);
        match $activations.rows {
            1 => far_groups!(@ $weights, size, $activations, $tile, $kernel, [$($parameter),*], $streams, 1),
            2 => far_groups!(@ $weights, size, $activations, $tile, $kernel, [$($parameter),*], 4, 2),
            3 => far_groups!(@ $weights, size, $activations, $tile, $kernel, [$($parameter),*], 2, 3),
            _ => far_groups!(@ $weights, size, $activations, $tile, $kernel, [$($parameter),*], 2, 4),
        }
    }};
    (@ $weights:ident, $size:ident, $activations:ident, $tile:ident, $kernel:ident, [$($parameter:expr),*], $streams:literal, $tokens:literal) => {{
        let groups = $tile.groups();
        let apart = groups / $streams;
        let mut ahead = $weights.ahead.up_to(FETCHED).shares(apart);
        for index in 0..apart {
            fetch(ahead.next());
            let (places, far) = far::<$streams>($weights.bytes, $size, index, apart);
            $kernel::<$({ $parameter },)* $streams, $tokens>(places, far, $activations, 0, $tile);
        }
        for index in apart * $streams..groups {
            let (places, one) = far::<1>($weights.bytes, $size, index, 0);
            $kernel::<$({ $parameter },)* 1, $tokens>(places, one, $activations, 0, $tile);
        }
    }};
}

macro_rules! integers {
    ($weights:ident, $activations:ident, $tile:ident, $format:ident, $head:literal, $part:literal) => {
        if $activations.rows <= FEW {
            far_groups!($weights, $activations, $tile, gemv, [$format, $head, $part], 2)
        } else if byte_gemm::takes($format) && !$activations.bytes.is_empty() {
            byte_gemm::gemm::<$format, $head, $part>($weights, $activations, $tile)
        } else {
            gemm::<$format, $head, $part>($weights, $activations, $tile)
        }
    };
}

use float::gemv as float_gemv;

macro_rules! floats {
    ($weights:ident, $activations:ident, $tile:ident, $format:ident, $bytes:literal) => {
        if $activations.rows <= FEW && $weights.columns <= NARROW {
            float::narrow::<$format, $bytes>($weights, $activations, $tile)
        } else if $activations.rows <= FEW {
            far_groups!($weights, $activations, $tile, float_gemv, [$format], 4)
        } else {
            float::gemm::<$format>($weights, $activations, $tile)
        }
    };
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn matmul(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
    match weights.format {
        Format::F32 => floats!(weights, activations, tile, F32, 32),
        Format::F16 => floats!(weights, activations, tile, F16, 16),
        Format::Bf16 => floats!(weights, activations, tile, BF16, 16),
        Format::Q4_0 => integers!(weights, activations, tile, Q4_0, 0, 144),
        Format::Q4_1 => integers!(weights, activations, tile, Q4_1, 0, 160),
        Format::Q5_0 => integers!(weights, activations, tile, Q5_0, 0, 176),
        Format::Q5_1 => integers!(weights, activations, tile, Q5_1, 0, 192),
        Format::Q8_0 => integers!(weights, activations, tile, Q8_0, 0, 272),
        Format::Q13_0 => integers!(weights, activations, tile, Q13_0, 0, 528),
        Format::Q4K => integers!(weights, activations, tile, Q4K, 32, 144),
        Format::Q5K => integers!(weights, activations, tile, Q5K, 32, 176),
        Format::Q6K => integers!(weights, activations, tile, Q6K, 16, 208),
        Format::Q2K | Format::Q3K => gemm_any(weights, activations, tile),
    }
}
