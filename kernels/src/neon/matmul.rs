//! Which way a product goes: straight from the weights for few tokens, through panels for many.
use super::{
    dot,
    float::{self, BF16, F16, F32},
    gemm::{gemm, gemm_any},
    gemv::gemv,
    part::{Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q13_0},
};
use crate::{activations::ActivationRows, format::Format, matmul::WeightGroups, matrix::layout::Layout, output::Tile};

/// The most tokens that are multiplied with weights as they are read.
const FEW: usize = 4;

/// Returns the places and bytes of `S` groups, so many groups apart.
#[inline]
fn far<const S: usize>(bytes: &[u8], size: usize, first: usize, apart: usize) -> ([usize; S], [&[u8]; S]) {
    let places: [usize; S] = std::array::from_fn(|s| first + s * apart);
    (places, places.map(|place| &bytes[place * size..][..size]))
}

/// Calls `$kernel::<.., S, M>` for groups that lie far apart and the tokens there are.
macro_rules! far_groups {
    ($weights:ident, $activations:ident, $tile:ident, $kernel:path, $parameters:tt) => {{
        let size = Layout::of($weights.format).group($weights.columns);
        match $activations.rows {
            1 => far_groups!(@ $weights, size, $activations, $tile, $kernel, $parameters, 4, 1),
            2 => far_groups!(@ $weights, size, $activations, $tile, $kernel, $parameters, 4, 2),
            3 => far_groups!(@ $weights, size, $activations, $tile, $kernel, $parameters, 2, 3),
            _ => far_groups!(@ $weights, size, $activations, $tile, $kernel, $parameters, 2, 4),
        }
    }};
    (@ $weights:ident, $size:ident, $activations:ident, $tile:ident, $kernel:path, $parameters:tt, $streams:literal, $tokens:literal) => {{
        let groups = $tile.groups();
        let apart = groups / $streams;
        for index in 0..apart {
            let (places, far) = far::<$streams>($weights.bytes, $size, index, apart);
            far_groups!(= $kernel, $parameters, $streams, $tokens, (places, far, $activations, 0, $tile));
        }
        for index in apart * $streams..groups {
            let (places, one) = far::<1>($weights.bytes, $size, index, 0);
            far_groups!(= $kernel, $parameters, 1, $tokens, (places, one, $activations, 0, $tile));
        }
    }};
    (= $kernel:path, [$($parameter:expr),*], $streams:literal, $tokens:literal, $arguments:tt) => {{
        use $kernel as kernel;
        kernel::<$({ $parameter },)* $streams, $tokens> $arguments
    }};
}

macro_rules! floats {
    ($weights:ident, $activations:ident, $tile:ident, $format:ident) => {
        if $activations.rows <= FEW {
            far_groups!($weights, $activations, $tile, float::gemv, [$format])
        } else {
            float::gemm::<$format>($weights, $activations, $tile)
        }
    };
}

/// A product by what it does with few and with many tokens.
macro_rules! product {
    ($(#[$attribute:meta])* $name:ident, $features:literal, $few:path, $many:path) => {
        $(#[$attribute])*
        #[target_feature(enable = $features)]
        pub(super) fn $name(weights: WeightGroups<'_>, activations: ActivationRows<'_>, tile: &mut Tile<'_>) {
            use $many as many;
            macro_rules! integers {
                ($format:ident, $head:literal, $part:literal) => {
                    if activations.rows <= FEW {
                        far_groups!(weights, activations, tile, $few, [$format, $head, $part])
                    } else {
                        many::<$format, $head, $part>(weights, activations, tile)
                    }
                };
            }
            match weights.format {
                Format::F32 => floats!(weights, activations, tile, F32),
                Format::F16 => floats!(weights, activations, tile, F16),
                Format::Bf16 => floats!(weights, activations, tile, BF16),
                Format::Q4_0 => integers!(Q4_0, 0, 144),
                Format::Q4_1 => integers!(Q4_1, 0, 160),
                Format::Q5_0 => integers!(Q5_0, 0, 176),
                Format::Q5_1 => integers!(Q5_1, 0, 192),
                Format::Q8_0 => integers!(Q8_0, 0, 272),
                // No bytes.
                Format::Q13_0 if activations.rows <= FEW => {
                    far_groups!(weights, activations, tile, gemv, [Q13_0, 0, 528])
                }
                Format::Q13_0 => gemm::<Q13_0, 0, 528>(weights, activations, tile),
                Format::Q4K => integers!(Q4K, 32, 144),
                Format::Q5K => integers!(Q5K, 32, 176),
                Format::Q6K => integers!(Q6K, 16, 208),
                Format::Q2K | Format::Q3K => gemm_any(weights, activations, tile),
            }
        }
    };
}

product!(
    /// On every processor: products of 16-bit numbers.
    by_words, "neon", gemv, gemm
);
product!(
    /// Where there is `sdot`: products of bytes.
    by_bytes, "neon,dotprod", dot::gemv, dot::gemm
);
