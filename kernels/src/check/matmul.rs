//! Products and activation codes, against f64 and against the scalar tier.
mod case;

use std::{ops::Range, sync::Arc};

use case::{Case, PRECISIONS, bound, nmse, same, shapes};

use super::random::Random;
use crate::{
    ActivationClass, Activations, Ahead, Chunks, Claims, Format, Kernels, Matrix, Output, Pool, RowBytes, Tier,
    activations::CodeBlock, for_tier, matmul_pooled,
};

/// Bytes that matrices are used from where they lie.
#[derive(Debug)]
struct Rows(Vec<u8>);

impl RowBytes for Rows {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, _: Range<usize>) {}
}

fn products_are_near_f64_and_equal_to_scalar(kernels: &Kernels) {
    for (format, precision) in
        Format::ALL.into_iter().flat_map(|format| PRECISIONS.map(|precision| (format, precision)))
    {
        let mut worst = 0.0f64;
        for (rows, columns, tokens) in shapes(format) {
            let case = Case::new(format, rows, columns, tokens).with(precision);
            let got = case.product(kernels);
            let error = nmse(&got, &case.oracle());
            // A few sums may be near zero all together.
            let wide = rows * tokens >= 64;
            assert!(
                !wide || error <= bound(format, precision),
                "{:?}, {}: NMSE {error:e}",
                kernels.tier(),
                case.name()
            );
            worst = if wide { worst.max(error) } else { worst };
            same(&got, &case.product(for_tier(Tier::Scalar).unwrap()), &case.name());
        }
        println!("{:?} {format} {precision:?}: NMSE at most {worst:.1e}", kernels.tier());
    }
}

/// The largest codes, scales and activations there are, so that no sum may wrap or saturate.
fn extreme_blocks_do_not_saturate(kernels: &Kernels) {
    for format in Format::ALL.into_iter().filter(|format| format.is_quantized()) {
        let columns = 512;
        let mut random = Random::new(3);
        for fill in [0x00u8, 0xff, 0x80, 0x7f, 0x1f] {
            let mut bytes = random.matrix(format, 17, columns);
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                let kept: Vec<u8> = block.to_vec();
                block.fill(fill);
                // The f16 scales stay, or they would be NaN.
                let scales: &[usize] = match format {
                    Format::Q2K => &[80, 82],
                    Format::Q3K => &[108],
                    Format::Q6K => &[208],
                    Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Q13_0 => &[0],
                    _ => &[0, 2],
                };
                for at in scales {
                    block[*at..at + 2].copy_from_slice(&kept[*at..at + 2]);
                }
            }
            for tokens in [1, 9] {
                for sign in 0..3 {
                    let x = (0..tokens * columns)
                        .map(|i| match sign {
                            0 => 5.0,
                            1 => -5.0,
                            _ if i % 3 == 0 => 5.0,
                            _ => -5.0,
                        })
                        .collect();
                    let mut case = Case::of(format, 17, columns, tokens, bytes.clone(), x);
                    for precision in PRECISIONS {
                        case = case.with(precision);
                        let (got, want) = (case.product(kernels), case.oracle());
                        // Activations of one size are exact, so only f32 sums are left to round.
                        let size = want.iter().fold(1.0f64, |size, x| size.max(x.abs()));
                        for (got, want) in got.iter().zip(&want) {
                            let difference = (f64::from(*got) - want).abs();
                            assert!(
                                difference <= 2.0e-5 * size,
                                "{:?} {}, {fill:#x}: {got}, {want}",
                                kernels.tier(),
                                case.name()
                            );
                        }
                        same(&got, &case.product(for_tier(Tier::Scalar).unwrap()), &case.name());
                    }
                }
            }
        }
    }
}

/// A result depends on its row and token only.
fn results_do_not_depend_on_batch_or_tile(kernels: &Kernels) {
    for (format, precision) in
        Format::ALL.into_iter().flat_map(|format| PRECISIONS.map(|precision| (format, precision)))
    {
        let (rows, columns) = (77, if format.block_values() == 256 { 512 } else { 288 });
        let all = Case::new(format, rows, columns, 19).with(precision);
        let want = all.product(kernels);
        for (first, count) in [(0, 1), (5, 1), (3, 4), (0, 8), (7, 9), (18, 1)] {
            let x = all.x[first * columns..(first + count) * columns].to_vec();
            let some = Case::of(format, rows, columns, count, all.bytes.clone(), x).with(precision);
            same(&some.product(kernels), &want[first * rows..(first + count) * rows], &some.name());
        }
        let mut out = vec![f32::NAN; 19 * rows];
        let (mut activations, mut claims) = (Activations::with_precision(precision), Claims::new());
        activations.quantize(kernels, &all.x, 19, columns, all.matrix.activation_class());
        let output = Output::new(&mut out, 19, rows, &mut claims);
        let chunks = Chunks::new(rows, 24);
        while let Some(rows) = chunks.next() {
            kernels.matmul(&all.matrix, &activations, &mut output.tile(rows));
        }
        same(&out, &want, &all.name());
        for part in [0..rows, 24..40, 72..rows, 16..16] {
            let mut out = vec![f32::NAN; 19 * part.len()];
            let output = Output::new(&mut out, 19, part.len(), &mut claims);
            kernels.matmul_rows(&all.matrix, part.clone(), &activations, &mut output.tile(0..part.len()));
            let want: Vec<f32> = want.chunks_exact(rows).flat_map(|row| &row[part.clone()]).copied().collect();
            same(&out, &want, &format!("{}, rows {part:?}", all.name()));
        }
        let mapped =
            Matrix::mapped(Arc::new(Rows(all.bytes.clone())), 0..all.bytes.len(), format, rows, columns).unwrap();
        for part in [0..rows, 24..40, 72..rows] {
            let mut out = vec![f32::NAN; 19 * rows];
            let output = Output::new(&mut out, 19, rows, &mut claims);
            kernels.matmul(&mapped, &activations, &mut output.tile(part.clone()));
            for (token, (out, want)) in out.chunks_exact(rows).zip(want.chunks_exact(rows)).enumerate() {
                same(&out[part.clone()], &want[part.clone()], &format!("{}, mapped, token {token}", all.name()));
                assert!(out[..part.start].iter().chain(&out[part.end..]).all(|x| x.is_nan()), "outside of {part:?}");
            }
        }
        let pool = Pool::new(2).unwrap();
        for tokens in [2, 19] {
            let (x, mut out) = (&all.x[..tokens * columns], vec![f32::NAN; tokens * rows]);
            matmul_pooled(kernels, &pool, &all.matrix, x, tokens, &mut activations, &mut claims, &mut out);
            same(&out, &want[..tokens * rows], &format!("pooled {}", all.name()));
        }
    }
}

/// Products added to some tokens of a tile are those that stand by themselves, added; and whatever is
/// fetched meanwhile, a product is the same.
fn added_products_are_products_added(kernels: &Kernels) {
    for format in [Format::F32, Format::F16, Format::Bf16, Format::Q8_0] {
        let columns: &[usize] = if format == Format::Q8_0 { &[32] } else { &[1, 4, 16, 256, 257, 513] };
        for (columns, tokens) in columns.iter().flat_map(|columns| [1, 3, 4, 9].map(|tokens| (*columns, tokens))) {
            let case = Case::new(format, 77, columns, tokens);
            let (products, mut claims) = (case.product(kernels), Claims::new());
            let mut activations = Activations::new();
            activations.quantize(kernels, &case.x, tokens, columns, case.matrix.activation_class());
            let part = 24..77;
            let before: Vec<f32> = (0..(tokens + 3) * part.len()).map(|i| (i as f32 * 0.61).cos()).collect();
            let (mut want, mut got) = (before.clone(), before);
            for (want, products) in want.chunks_exact_mut(part.len()).skip(2).zip(products.chunks_exact(77)) {
                want.iter_mut().zip(&products[part.clone()]).for_each(|(y, product)| *y += product);
            }
            let mut tile = Output::new(&mut got, tokens + 3, part.len(), &mut claims).tile(0..part.len());
            kernels.matmul_adding(
                &case.matrix,
                part,
                &activations,
                &mut tile,
                2..2 + tokens,
                Ahead::beginning(&case.matrix, 8..77, 999),
            );
            same(&got, &want, &case.name());
            let mut got = vec![f32::NAN; products.len()];
            let mut tile = Output::new(&mut got, tokens, 77, &mut claims).tile(0..77);
            let ahead = Ahead::of([None, Some((&case.matrix, 8..80))]);
            kernels.matmul_fetching(&case.matrix, 0..77, &activations, &mut tile, ahead);
            same(&got, &products, &case.name());
        }
    }
}

fn what_is_not_finite_stays_so(kernels: &Kernels) {
    for format in Format::ALL {
        let columns = if format.is_quantized() { 512 } else { 40 };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for tokens in [2, 9] {
                let mut case = Case::new(format, 19, columns, tokens);
                case.x[columns + columns / 3] = bad;
                for precision in PRECISIONS {
                    case = case.with(precision);
                    let got = case.product(kernels);
                    for (i, got) in got.iter().enumerate() {
                        let finite = i / 19 != 1;
                        assert_eq!(
                            got.is_finite(),
                            finite,
                            "{:?} {}, {bad} in token 1: {i} is {got}",
                            kernels.tier(),
                            case.name()
                        );
                    }
                    same(&got, &case.product(for_tier(Tier::Scalar).unwrap()), &case.name());
                }
            }
        }
    }
}

fn codes_equal_scalar(kernels: &Kernels) {
    let scalar = for_tier(Tier::Scalar).unwrap();
    let mut random = Random::new(11);
    for blocks in [1, 2, 3, 8] {
        let mut rows = vec![random.row(32 * blocks), vec![0.0; 32 * blocks], vec![-3.0e38; 32 * blocks]];
        for tiny in [1.0e-45, 1.0e-38, 1.9e-34, 2.1e-34, 1.0e-30, 1.0e30] {
            rows.push(random.row(32 * blocks).iter().map(|x| x * tiny).collect());
        }
        // Halfway between two codes.
        rows.push((0..32 * blocks).map(|i| if i % 32 == 0 { 16383.0 } else { i as f32 + 0.5 }).collect());
        for at in 0..32 * blocks {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut row = random.row(32 * blocks);
                row[at] = bad;
                rows.push(row);
            }
        }
        for (x, precision) in rows.iter().flat_map(|x| PRECISIONS.map(|precision| (x, precision))) {
            let coded = |kernels: &Kernels| {
                let (mut codes, mut sums) = (vec![7; 32 * blocks], vec![CodeBlock::default(); blocks]);
                (kernels.quantize_codes)(x, precision.largest_code(), &mut codes, &mut sums);
                let sums: Vec<_> = sums
                    .iter()
                    .map(|sums| {
                        let float = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
                        (float(sums.scale), float(sums.scaled_total), sums.total, sums.halves)
                    })
                    .collect();
                (codes, sums)
            };
            assert_eq!(coded(kernels), coded(scalar), "{:?} {x:?}", kernels.tier());
            let (codes, sums) = coded(kernels);
            for (i, x) in x.iter().enumerate().filter(|(i, _)| f32::from_bits(sums[i / 32].0).is_finite()) {
                let scale = f64::from(f32::from_bits(sums[i / 32].0));
                let difference = (f64::from(codes[i]) * scale - f64::from(*x)).abs();
                assert!(difference <= 0.51 * scale + 2.0e-34, "{x} is coded as {} of {scale:e}", codes[i]);
            }
        }
    }
}

fn probes_read_and_multiply_all(kernels: &Kernels) {
    for rows in [1, 8, 24, 160] {
        let case = Case::new(Format::Q8_0, rows, 96, 1);
        let words = case.matrix.groups(0..rows.div_ceil(8)).unwrap().as_chunks::<8>().0;
        let want = words.iter().fold(0, |sum, word| sum ^ u64::from_le_bytes(*word));
        assert_eq!(kernels.read(&case.matrix, 0..rows), want);
    }
    // Lanes of the chains, and rounds that are done in one step, so that none is left out. Every lane
    // of floats goes towards 0.9999 / 0.0001.
    let (lanes, at_once) = if kernels.tier() == Tier::Avx512 { (192.0, 2) } else { (96.0, 1) };
    let lane = (0..1000 / at_once).fold(1.0f32, |lane, _| lane.mul_add(0.999_9, 0.999_9));
    let sum = kernels.multiply_adds(1000);
    assert!((sum - lanes * lane).abs() <= 1.0e-4 * sum, "{sum}, {lane}");
    // Every lane of integers is multiplied by four in a step; two dot products of bytes are one of words.
    let sums = match kernels.tier() {
        Tier::Scalar => vec![96 * 256],
        Tier::Avx2 => vec![96 * 16],
        Tier::Avx512 => vec![192 * 4],
        Tier::Neon => vec![96 * 256, 48 * 256],
    };
    assert!(sums.contains(&kernels.multiply_add_pairs(4)), "{}", kernels.multiply_add_pairs(4));
}

macro_rules! matmul_tests {
    ($module:ident, $tier:expr) => {
        mod $module {
            use super::*;

            macro_rules! run {
                ($name:ident) => {
                    #[test]
                    fn $name() {
                        if let Some(kernels) = for_tier($tier) {
                            super::$name(kernels);
                        }
                    }
                };
            }
            run!(products_are_near_f64_and_equal_to_scalar);
            run!(extreme_blocks_do_not_saturate);
            run!(results_do_not_depend_on_batch_or_tile);
            run!(added_products_are_products_added);
            run!(what_is_not_finite_stays_so);
            run!(codes_equal_scalar);
            run!(probes_read_and_multiply_all);
        }
    };
}

matmul_tests!(scalar, Tier::Scalar);
matmul_tests!(avx2, Tier::Avx2);
matmul_tests!(avx512, Tier::Avx512);
matmul_tests!(neon, Tier::Neon);

#[test]
#[should_panic(expected = "class of activations")]
fn activations_of_another_class_are_refused() {
    let case = Case::new(Format::Q8_0, 8, 32, 1);
    let kernels = for_tier(Tier::Scalar).unwrap();
    let (mut activations, mut claims, mut out) = (Activations::new(), Claims::new(), [0.0; 8]);
    activations.quantize(kernels, &case.x, 1, 32, ActivationClass::Float);
    let output = Output::new(&mut out, 1, 8, &mut claims);
    kernels.matmul(&case.matrix, &activations, &mut output.tile(0..8));
}
