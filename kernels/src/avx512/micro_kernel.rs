//! A panel of 32 rows times twelve tokens, instruction by instruction.
//!
//! 24 sums, two vectors of weights and the codes of six tokens fill the 32 registers exactly. Written in
//! intrinsics this comes out slower by a third: the compiler takes dot products apart into
//! multiplications and additions, and spills sums to places that straddle cache lines.
//!
//! What bounds it are the two ports that take dot products, multiplications and multiply-adds of 512 bits
//! (Zen 5). A part of 32 columns is 12,288 products of twelve tokens, and needs of these ports
//!
//! | codes of tokens | dot products | scales (and minima) | cycles | products a cycle, of |
//! | --- | --- | --- | --- | --- |
//! | 16 bits, `vpdpwssd` | 16 x 24 | 12 x 4 (6) | 216 (228) | 57 (54), 64 |
//! | 8 bits, `vpdpbusd` (`byte_kernel`) | 8 x 24 | 12 x 4 (6) | 120 (132) | 102 (93), 128 |
//!
//! Loads, two a cycle, take 112 cycles beside these; unpacking weights is 1 to 3 % from 256 tokens on.
//! Codes of 16 bits taken as two bytes would need two `vpdpbusd` for each four columns, which is as many dot
//! products as now, and a shift and an addition to put them together: nothing is to be had that way.
use std::{
    arch::asm,
    mem::{offset_of, size_of},
};

use super::gemm::GROUPS;
use crate::{
    activations::CodeBlock,
    avx2::panel::PanelPart,
    matrix::layout::{COLUMNS, ROWS},
};

/// Tokens of a step.
pub(super) const TOKENS: usize = 12;
/// Rows of a panel.
const PANEL_ROWS: usize = GROUPS * ROWS;

/// The sums of all tokens and rows, on cache lines of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums {
    pub(super) tokens: [[f32; PANEL_ROWS]; TOKENS],
    /// Parts that are left. There is no register for it.
    left: usize,
}

impl Sums {
    pub(super) const ZERO: Self = Self { tokens: [[0.0; PANEL_ROWS]; TOKENS], left: 0 };
}

/// Adds to two sums the products with a token's pair of codes: `zmm24` and `zmm25` hold weights.
macro_rules! token {
    ($pair:literal, $first:literal, $second:literal, $codes:literal, $at:literal) => {
        concat!(
            concat!("vpbroadcastd zmm", $codes, ", dword ptr [", $at, " + 4*", $pair, "]\n"),
            concat!("vpdpwssd zmm", $first, ", zmm24, zmm", $codes, "\n"),
            concat!("vpdpwssd zmm", $second, ", zmm25, zmm", $codes, "\n"),
        )
    };
}

macro_rules! pair {
    ($pair:literal) => {
        concat!(
            concat!("vmovdqa64 zmm24, [{panel} + 128*", $pair, "]\n"),
            concat!("vmovdqa64 zmm25, [{panel} + 128*", $pair, " + 64]\n"),
            token!($pair, 0, 1, 26, "{codes}"),
            token!($pair, 2, 3, 27, "{codes} + {stride}"),
            token!($pair, 4, 5, 28, "{codes} + 2*{stride}"),
            token!($pair, 6, 7, 29, "{codes} + {stride3}"),
            token!($pair, 8, 9, 30, "{codes} + 4*{stride}"),
            token!($pair, 10, 11, 31, "{codes5}"),
            token!($pair, 12, 13, 26, "{codes5} + {stride}"),
            token!($pair, 14, 15, 27, "{codes5} + 2*{stride}"),
            token!($pair, 16, 17, 28, "{codes5} + {stride3}"),
            token!($pair, 18, 19, 29, "{codes5} + 4*{stride}"),
            token!($pair, 20, 21, 30, "{codes10}"),
            token!($pair, 22, 23, 31, "{codes10} + {stride}"),
        )
    };
}

/// Scales the integer sums of a token and adds them to its sums: `zmm24` and `zmm25` hold the rows'
/// scales, `zmm30` and `zmm31` their minima where there are any.
macro_rules! scale {
    ($token:literal, $first:literal, $second:literal, $block:literal, $minima:tt) => {
        concat!(
            concat!("vbroadcastss zmm26, dword ptr [", $block, " + {of_scale}]\n"),
            "vmulps zmm27, zmm24, zmm26\n",
            "vmulps zmm28, zmm25, zmm26\n",
            concat!("vcvtdq2ps zmm", $first, ", zmm", $first, "\n"),
            concat!("vcvtdq2ps zmm", $second, ", zmm", $second, "\n"),
            concat!("vfmadd213ps zmm", $first, ", zmm27, [{sums} + 128*", $token, "]\n"),
            concat!("vfmadd213ps zmm", $second, ", zmm28, [{sums} + 128*", $token, " + 64]\n"),
            scale!(@minima $first, $second, $block, $minima),
            concat!("vmovaps [{sums} + 128*", $token, "], zmm", $first, "\n"),
            concat!("vmovaps [{sums} + 128*", $token, " + 64], zmm", $second, "\n"),
        )
    };
    (@minima $first:literal, $second:literal, $block:literal, no_minima) => {
        ""
    };
    (@minima $first:literal, $second:literal, $block:literal, minima) => {
        concat!(
            concat!("vbroadcastss zmm29, dword ptr [", $block, " + {of_scale} + 4]\n"),
            concat!("vfnmadd231ps zmm", $first, ", zmm30, zmm29\n"),
            concat!("vfnmadd231ps zmm", $second, ", zmm31, zmm29\n"),
        )
    };
}

macro_rules! load_scales {
    (no_minima) => {
        "vmovaps zmm24, [{panel} + {of_scales}]\nvmovaps zmm25, [{panel} + {of_scales} + 64]"
    };
    (minima) => {
        concat!(
            load_scales!(no_minima),
            "\nvmovaps zmm30, [{panel} + {of_scales} + 128]\nvmovaps zmm31, [{panel} + {of_scales} + 192]"
        )
    };
}

// The minima follow the scales.
const _: () = assert!(offset_of!(PanelPart<GROUPS>, minima) == offset_of!(PanelPart<GROUPS>, scales) + 128);
const _: () = assert!(offset_of!(PanelPart<GROUPS>, codes) == 0 && PANEL_ROWS == 32 && COLUMNS == 32);
const _: () = assert!(offset_of!(CodeBlock, scaled_total) == offset_of!(CodeBlock, scale) + 4);

macro_rules! zero {
    ($($register:literal)*) => {
        concat!($("vpxord zmm", $register, ", zmm", $register, ", zmm", $register, "\n"),*)
    };
}

macro_rules! parts {
    ($minima:tt, $panel:expr, $codes:expr, $stride:expr, $blocks:expr, $step:expr, $sums:expr) => {
        asm!(
            "2:",
            zero!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23),
            pair!(0), pair!(1), pair!(2), pair!(3), pair!(4), pair!(5), pair!(6), pair!(7),
            pair!(8), pair!(9), pair!(10), pair!(11), pair!(12), pair!(13), pair!(14), pair!(15),
            load_scales!($minima),
            scale!(0, 0, 1, "{blocks}", $minima),
            scale!(1, 2, 3, "{blocks} + {step}", $minima),
            scale!(2, 4, 5, "{blocks} + 2*{step}", $minima),
            scale!(3, 6, 7, "{blocks} + {step3}", $minima),
            scale!(4, 8, 9, "{blocks} + 4*{step}", $minima),
            scale!(5, 10, 11, "{blocks5}", $minima),
            scale!(6, 12, 13, "{blocks5} + {step}", $minima),
            scale!(7, 14, 15, "{blocks5} + 2*{step}", $minima),
            scale!(8, 16, 17, "{blocks5} + {step3}", $minima),
            scale!(9, 18, 19, "{blocks5} + 4*{step}", $minima),
            scale!(10, 20, 21, "{blocks10}", $minima),
            scale!(11, 22, 23, "{blocks10} + {step}", $minima),
            "add {panel}, {part_bytes}",
            "add {codes}, {code_bytes}",
            "add {codes5}, {code_bytes}",
            "add {codes10}, {code_bytes}",
            "add {blocks}, {block_bytes}",
            "add {blocks5}, {block_bytes}",
            "add {blocks10}, {block_bytes}",
            "dec qword ptr [{sums} + {of_left}]",
            "jnz 2b",
            of_scales = const offset_of!(PanelPart<GROUPS>, scales),
            part_bytes = const size_of::<PanelPart<GROUPS>>(),
            code_bytes = const size_of::<[i16; COLUMNS]>(),
            of_scale = const offset_of!(CodeBlock, scale),
            block_bytes = const size_of::<CodeBlock>(),
            of_left = const offset_of!(Sums, left),
            panel = inout(reg) $panel.as_ptr() => _,
            codes = inout(reg) $codes => _,
            codes5 = inout(reg) $codes.wrapping_byte_add(5 * $stride) => _,
            codes10 = inout(reg) $codes.wrapping_byte_add(10 * $stride) => _,
            stride = in(reg) $stride,
            stride3 = in(reg) 3 * $stride,
            blocks = inout(reg) $blocks => _,
            blocks5 = inout(reg) $blocks.wrapping_byte_add(5 * $step) => _,
            blocks10 = inout(reg) $blocks.wrapping_byte_add(10 * $step) => _,
            step = in(reg) $step,
            step3 = in(reg) 3 * $step,
            sums = in(reg) std::ptr::from_mut::<Sums>($sums),
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
            out("zmm6") _, out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _,
            out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            out("zmm30") _, out("zmm31") _,
            options(nostack),
        )
    };
}

/// Adds the products of a panel with twelve tokens to `sums`.
///
/// `codes` and `blocks` are those of the panel's parts, of the first token; the others' are `stride` and
/// `step` further.
///
/// # Panics
///
/// If there are fewer codes or blocks than that.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply<const MINIMA: bool>(
    panel: &[PanelPart<GROUPS>],
    (codes, stride): (&[i16], usize),
    (blocks, step): (&[CodeBlock], usize),
    sums: &mut Sums,
) {
    assert!(codes.len() >= (TOKENS - 1) * stride + panel.len() * COLUMNS, "codes of {TOKENS} tokens");
    assert!(blocks.len() >= (TOKENS - 1) * step + panel.len(), "blocks of {TOKENS} tokens");
    if panel.is_empty() {
        return;
    }
    sums.left = panel.len();
    let (codes, stride) = (codes.as_ptr(), size_of::<i16>() * stride);
    let (blocks, step) = (blocks.as_ptr(), size_of::<CodeBlock>() * step);
    // SAFETY: for each of the panel's parts, of which there is at least one, this reads the part (aligned
    // to 64 bytes by its type), and 64 bytes of codes and a block of each token at the places checked
    // above; it reads and writes `sums`, also aligned; the registers it changes are named.
    unsafe {
        if MINIMA {
            parts!(minima, panel, codes, stride, blocks, step, sums);
        } else {
            parts!(no_minima, panel, codes, stride, blocks, step, sums);
        }
    }
}
