//! Against the `gguf` Python package, through `gguf.txt` (made by `scripts/gguf-fixture`), and the
//! laws of quantisation.
use super::*;

/// Blocks of a format, the FNV-1a hash of the f32 they stand for, and, where the package can quantise
/// to the format, of the blocks that stand for the numbers of the fixture's first line.
struct Line<'a> {
    format: Format,
    bytes: Vec<u8>,
    numbers: &'a str,
    blocks: &'a str,
}

fn fixture() -> Vec<Line<'static>> {
    let lines = include_str!("gguf.txt").lines().filter(|line| !line.starts_with('#'));
    let hex = |text: &str| -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    lines
        .map(|line| {
            let [name, bytes, numbers, blocks] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let format = Format::ALL.into_iter().find(|format| format.name() == name).unwrap();
            Line { format, bytes: hex(bytes), numbers, blocks }
        })
        .collect()
}

fn hash(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

fn numbers(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut row = vec![0.0; bytes.len() / format.block_bytes() * format.block_values()];
    dequantize_row(format, bytes, &mut row);
    row
}

#[test]
fn numbers_are_those_of_the_gguf_package() {
    let lines = fixture();
    let of_files = Format::ALL.into_iter().filter(|format| *format != Format::Q13_0);
    assert!(lines.iter().map(|line| line.format).eq(of_files));
    for Line { format, bytes, numbers: want, .. } in lines {
        let bytes: Vec<u8> = numbers(format, &bytes).into_iter().flat_map(f32::to_le_bytes).collect();
        assert_eq!(hash(&bytes), want, "{format}");
    }
}

#[test]
fn blocks_are_those_of_the_gguf_package() {
    let lines = fixture();
    let row = numbers(Format::F32, &lines[0].bytes);
    let mut compared = 0;
    for Line { format, blocks, .. } in &lines {
        if *blocks != "-" {
            compared += 1;
            let mut bytes = vec![0; format.row_bytes(row.len()).unwrap()];
            quantize_row(*format, &row, &mut bytes).unwrap();
            assert_eq!(hash(&bytes), *blocks, "{format}");
        }
    }
    assert_eq!(compared, 8);
}

/// Numbers like weights: most near zero, some far.
fn weights(n: usize) -> Vec<f32> {
    let mut random = crate::check::random::Random::new(5);
    (0..n).map(|_| 0.02 * (random.unit() + random.unit() + random.unit() + random.unit())).collect()
}

#[test]
fn what_quantisation_loses_is_bounded() {
    let row = weights(256 * 40);
    // Mean squared errors relative to the mean square, each a fifth above what the search reaches.
    for (format, bound) in [
        (Format::Bf16, 3.4e-6),
        (Format::F16, 5.2e-8),
        (Format::Q13_0, 3.1e-8),
        (Format::Q8_0, 3.1e-5),
        (Format::Q6K, 3.5e-4),
        (Format::Q5K, 1.45e-3),
        (Format::Q5_1, 1.6e-3),
        (Format::Q5_0, 2.0e-3),
        (Format::Q4K, 5.7e-3),
        (Format::Q4_1, 6.9e-3),
        (Format::Q4_0, 8.1e-3),
    ] {
        let mut bytes = vec![0; format.row_bytes(row.len()).unwrap()];
        quantize_row(format, &row, &mut bytes).unwrap();
        let error: f64 = numbers(format, &bytes).iter().zip(&row).map(|(y, x)| f64::from(y - x).powi(2)).sum();
        let error = error / row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        println!("{format}: {error:.2e}");
        assert!(error <= bound, "{format}: {error:e}");
    }
}

#[test]
fn edges_are_quantised_to_something_finite() {
    for format in Format::ALL.into_iter().filter(|format| !matches!(format, Format::Q2K | Format::Q3K)) {
        for x in [0.0, -0.0, 1.0e-30, -1.0e-42, 3.5, -3.5] {
            let row = vec![x; 256];
            let mut bytes = vec![0xaa; format.row_bytes(256).unwrap()];
            quantize_row(format, &row, &mut bytes).unwrap();
            for y in numbers(format, &bytes) {
                assert!((y - x).abs() <= 0.02 * x.abs() + 1.0e-29, "{format}: {x} became {y}");
            }
        }
    }
}

#[test]
fn what_has_no_code_is_refused() {
    let mut row = [1.0; 32];
    row[7] = f32::NAN;
    assert_eq!(quantize_row(Format::Q4_0, &row, &mut [0; 18]), Err(QuantizeError::NotFinite { index: 7 }));
    let error = quantize_row(Format::Q3K, &[0.0; 256], &mut [0; 110]).unwrap_err();
    assert_eq!(error.to_string(), "q3_k is read only (quantise to q4_k or q5_k instead)");
}
