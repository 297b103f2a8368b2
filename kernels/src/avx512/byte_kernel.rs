//! A panel of 32 rows times six tokens of 8-bit codes, instruction by instruction.
//!
//! Twelve sums of integers, twelve of numbers, and what they are made of fill the 32 registers. Written
//! in intrinsics the compiler takes one token after the other, waits for each sum, and spills others.
//! Twelve tokens whose sums lie in memory, as in `micro_kernel`, would move them for half as many products.
use std::{
    arch::asm,
    mem::{offset_of, size_of},
};

use super::{
    byte_gemm::{BytePart, Sums, TOKENS},
    bytes::byte_offset,
};
use crate::{activations::CodeBlock, avx2::part::has_minima, matrix::layout::COLUMNS};

/// Adds to two sums the products with a word of a token's codes: `zmm24` and `zmm25` hold weights.
macro_rules! token {
    ($word:literal, $first:literal, $second:literal, $codes:literal, $at:literal) => {
        concat!(
            concat!("vpbroadcastd zmm", $codes, ", dword ptr [", $at, " + 4*", $word, "]\n"),
            concat!("vpdpbusd zmm", $first, ", zmm24, zmm", $codes, "\n"),
            concat!("vpdpbusd zmm", $second, ", zmm25, zmm", $codes, "\n"),
        )
    };
}

macro_rules! word {
    ($word:literal) => {
        concat!(
            concat!("vmovdqa64 zmm24, [{panel} + 128*", $word, "]\n"),
            concat!("vmovdqa64 zmm25, [{panel} + 128*", $word, " + 64]\n"),
            token!($word, 0, 1, 26, "{codes}"),
            token!($word, 2, 3, 27, "{codes} + {stride}"),
            token!($word, 4, 5, 28, "{codes} + 2*{stride}"),
            token!($word, 6, 7, 29, "{codes} + {stride3}"),
            token!($word, 8, 9, 30, "{codes} + 4*{stride}"),
            token!($word, 10, 11, 31, "{codes} + {stride5}"),
        )
    };
}

/// Sets the sums of a token's integers to where they begin: at zero, or at the total of its codes times
/// what the weights are too large by. `zmm24` is zero.
macro_rules! start {
    ($first:literal, $second:literal, $block:literal, minima) => {
        concat!(
            concat!("vpxord zmm", $first, ", zmm", $first, ", zmm", $first, "\n"),
            concat!("vpxord zmm", $second, ", zmm", $second, ", zmm", $second, "\n"),
        )
    };
    ($first:literal, $second:literal, $block:literal, offset) => {
        concat!(
            concat!("vpbroadcastd zmm", $first, ", dword ptr [", $block, " + {of_total}]\n"),
            concat!("vpslld zmm", $first, ", zmm", $first, ", {offset_bits}\n"),
            concat!("vpsubd zmm", $first, ", zmm24, zmm", $first, "\n"),
            concat!("vmovdqa64 zmm", $second, ", zmm", $first, "\n"),
        )
    };
}

/// Scales the sums of a token's integers and adds them to its others: `zmm24` and `zmm25` hold the
/// rows' scales, `zmm30` and `zmm31` their minima where there are any.
macro_rules! scale {
    ($first:literal, $second:literal, $to_first:literal, $to_second:literal, $block:literal, $kind:tt) => {
        concat!(
            concat!("vbroadcastss zmm26, dword ptr [", $block, " + {of_scale}]\n"),
            "vmulps zmm27, zmm24, zmm26\n",
            "vmulps zmm28, zmm25, zmm26\n",
            concat!("vcvtdq2ps zmm", $first, ", zmm", $first, "\n"),
            concat!("vcvtdq2ps zmm", $second, ", zmm", $second, "\n"),
            concat!("vfmadd231ps zmm", $to_first, ", zmm", $first, ", zmm27\n"),
            concat!("vfmadd231ps zmm", $to_second, ", zmm", $second, ", zmm28\n"),
            scale!(@minima $to_first, $to_second, $block, $kind),
        )
    };
    (@minima $to_first:literal, $to_second:literal, $block:literal, offset) => {
        ""
    };
    (@minima $to_first:literal, $to_second:literal, $block:literal, minima) => {
        concat!(
            concat!("vbroadcastss zmm29, dword ptr [", $block, " + {of_scale} + 4]\n"),
            concat!("vfnmadd231ps zmm", $to_first, ", zmm30, zmm29\n"),
            concat!("vfnmadd231ps zmm", $to_second, ", zmm31, zmm29\n"),
        )
    };
}

macro_rules! load_scales {
    (offset) => {
        "vmovaps zmm24, [{panel} + {of_scales}]\nvmovaps zmm25, [{panel} + {of_scales} + 64]"
    };
    (minima) => {
        concat!(
            load_scales!(offset),
            "\nvmovaps zmm30, [{panel} + {of_scales} + 128]\nvmovaps zmm31, [{panel} + {of_scales} + 192]"
        )
    };
}

/// Moves the sums of numbers between memory and registers.
macro_rules! sums {
    (load $($index:literal $register:literal)*) => {
        concat!($("vmovups zmm", $register, ", [{sums} + 64*", $index, "]\n"),*)
    };
    (store $($index:literal $register:literal)*) => {
        concat!($("vmovups [{sums} + 64*", $index, "], zmm", $register, "\n"),*)
    };
}

// The minima follow the scales.
const _: () = assert!(offset_of!(BytePart, minima) == offset_of!(BytePart, scales) + 128);
const _: () = assert!(offset_of!(BytePart, codes) == 0 && size_of::<Sums>() == 128 && TOKENS == 6);
const _: () = assert!(offset_of!(CodeBlock, scaled_total) == offset_of!(CodeBlock, scale) + 4);

macro_rules! parts {
    ($kind:tt, $panel:expr, $codes:expr, $stride:expr, $blocks:expr, $step:expr, $sums:expr
     $(, $name:ident = const $value:expr)*) => {
        asm!(
            sums!(load 0 12 1 13 2 14 3 15 4 16 5 17 6 18 7 19 8 20 9 21 10 22 11 23),
            "2:",
            "vpxord zmm24, zmm24, zmm24",
            start!(0, 1, "{blocks}", $kind),
            start!(2, 3, "{blocks} + {step}", $kind),
            start!(4, 5, "{blocks} + 2*{step}", $kind),
            start!(6, 7, "{blocks} + {step3}", $kind),
            start!(8, 9, "{blocks} + 4*{step}", $kind),
            start!(10, 11, "{blocks} + {step5}", $kind),
            word!(0), word!(1), word!(2), word!(3), word!(4), word!(5), word!(6), word!(7),
            load_scales!($kind),
            scale!(0, 1, 12, 13, "{blocks}", $kind),
            scale!(2, 3, 14, 15, "{blocks} + {step}", $kind),
            scale!(4, 5, 16, 17, "{blocks} + 2*{step}", $kind),
            scale!(6, 7, 18, 19, "{blocks} + {step3}", $kind),
            scale!(8, 9, 20, 21, "{blocks} + 4*{step}", $kind),
            scale!(10, 11, 22, 23, "{blocks} + {step5}", $kind),
            "add {panel}, {part_bytes}",
            "add {codes}, {code_bytes}",
            "add {blocks}, {block_bytes}",
            "dec {left}",
            "jnz 2b",
            sums!(store 0 12 1 13 2 14 3 15 4 16 5 17 6 18 7 19 8 20 9 21 10 22 11 23),
            $($name = const $value,)*
            of_scales = const offset_of!(BytePart, scales),
            part_bytes = const size_of::<BytePart>(),
            code_bytes = const size_of::<[i8; COLUMNS]>(),
            of_scale = const offset_of!(CodeBlock, scale),
            block_bytes = const size_of::<CodeBlock>(),
            panel = inout(reg) $panel.as_ptr() => _,
            left = inout(reg) $panel.len() => _,
            codes = inout(reg) $codes => _,
            stride = in(reg) $stride,
            stride3 = in(reg) 3 * $stride,
            stride5 = in(reg) 5 * $stride,
            blocks = inout(reg) $blocks => _,
            step = in(reg) $step,
            step3 = in(reg) 3 * $step,
            step5 = in(reg) 5 * $step,
            sums = in(reg) $sums.as_mut_ptr(),
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

/// Adds the products of a panel with six tokens to `sums`.
///
/// `codes` and `blocks` are those of the panel's parts, of the first token; the others' are `stride` and
/// `step` further.
///
/// # Panics
///
/// If there are fewer codes or blocks than that.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply<const F: u8>(
    panel: &[BytePart],
    (codes, stride): (&[i8], usize),
    (blocks, step): (&[CodeBlock], usize),
    sums: &mut [Sums; TOKENS],
) {
    assert!(codes.len() >= (TOKENS - 1) * stride + panel.len() * COLUMNS, "codes of {TOKENS} tokens");
    assert!(blocks.len() >= (TOKENS - 1) * step + panel.len(), "blocks of {TOKENS} tokens");
    if panel.is_empty() {
        return;
    }
    let (codes, blocks, step) = (codes.as_ptr(), blocks.as_ptr(), size_of::<CodeBlock>() * step);
    // SAFETY: for each of the panel's parts, of which there is at least one, this reads the part (aligned
    // to 64 bytes by its type), and 32 bytes of codes and a block of each token at the places checked
    // above; it reads and writes `sums`; the registers it changes are named.
    unsafe {
        if has_minima(F) {
            const { assert!(!has_minima(F) || byte_offset(F) == 0, "either minima or an offset") };
            parts!(minima, panel, codes, stride, blocks, step, sums);
        } else {
            parts!(
                offset, panel, codes, stride, blocks, step, sums,
                of_total = const offset_of!(CodeBlock, total),
                offset_bits = const byte_offset(F).trailing_zeros()
            );
        }
    }
}
