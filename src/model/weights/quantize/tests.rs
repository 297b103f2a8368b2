use std::sync::Arc;

use candle_core::Tensor;

use super::*;
use crate::model::weights::{Index, parts::Bytes};

/// Returns values like those of trained matrices: near normal, some much larger.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let normal = |uniform: &mut dyn FnMut() -> f32| (0..12).map(|_| uniform()).sum::<f32>();
    (0..count).map(|i| 0.02 * normal(&mut uniform) * if i % 97 == 5 { 4.0 } else { 1.0 }).collect()
}

fn stored(kind: TensorType, values: &[f32], columns: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; values.len() / kind.block_values() * kind.block_bytes()];
    quantize(kind, values, columns, importance, &mut out).unwrap();
    out
}

fn read(kind: TensorType, bytes: &[u8]) -> Vec<f32> {
    decode(kind, Cow::Borrowed(bytes)).unwrap()
}

/// Returns the weighted root mean square error over that of the values.
fn error(values: &[f32], found: &[f32], weight: impl Fn(usize) -> f32) -> f32 {
    assert_eq!(values.len(), found.len());
    let sum = |term: &dyn Fn(usize) -> f32| (0..values.len()).map(|i| weight(i) * term(i)).sum::<f32>();
    (sum(&|i| (values[i] - found[i]).powi(2)) / sum(&|i| values[i] * values[i])).sqrt()
}

fn with_candle(kind: TensorType, values: &[f32]) -> Vec<u8> {
    let tensor = Tensor::new(values, &Device::Cpu).unwrap();
    QTensor::quantize(&tensor, kind.candle()).unwrap().data().unwrap().into_owned()
}

#[test]
fn every_type_keeps_what_its_bits_can() {
    let values = values(16 * 512, 1);
    for kind in TensorType::all() {
        let bound = match kind {
            TensorType::F32 => 0.0,
            TensorType::F16 => 1e-3,
            TensorType::Bf16 => 4e-3,
            TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q4K => 0.12,
            TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q5K => 0.06,
            TensorType::Q8_0 => 0.01,
            TensorType::Q2K => 0.36,
            TensorType::Q3K => 0.22,
            TensorType::Q6K => 0.03,
        };
        let found = error(&values, &read(kind, &stored(kind, &values, 512, None)), |_| 1.0);
        assert!(found <= bound, "{kind}: {found}");
        assert!(kind.block_values() == 1 || found > bound / 4.0, "{kind}: {found} is too good to be true");
    }
}

#[test]
fn types_of_32_values_are_bit_for_bit_candles_and_k_quants_near_them() {
    let values = values(16 * 512, 2);
    for kind in TensorType::all().filter(|kind| kind.block_values() > 1) {
        let (ours, theirs) = (stored(kind, &values, 512, None), with_candle(kind, &values));
        if kind.block_values() == 32 {
            assert!(ours == theirs, "{kind}");
        } else {
            let ours = error(&values, &read(kind, &ours), |_| 1.0);
            let theirs = error(&values, &read(kind, &theirs), |_| 1.0);
            // The least of another error: large values count more in ours.
            assert!(ours <= theirs * 1.05, "{kind}: {ours} against {theirs}");
        }
    }
}

#[test]
fn importance_moves_the_error_to_where_it_matters_less() {
    let values = values(64 * 512, 3);
    let importance: Vec<f32> = (0..512).map(|column| if column % 7 == 0 { 100.0 } else { 0.1 }).collect();
    for kind in TensorType::all().filter(|kind| kind.block_values() > 1 && *kind != TensorType::Q8_0) {
        let of = |importance: Option<&[f32]>| {
            let found = read(kind, &stored(kind, &values, 512, importance));
            error(&values, &found, |i| if i % 512 % 7 == 0 { 100.0 } else { 0.1 })
        };
        let (plain, weighed) = (of(None), of(Some(&importance)));
        assert!(weighed < plain * 0.97, "{kind}: {weighed} against {plain}");
    }
}

#[test]
fn zeros_and_equal_values_are_kept_and_what_is_no_number_is_refused() {
    for kind in TensorType::all() {
        let zeros = [0.0; 256];
        assert_eq!(read(kind, &stored(kind, &zeros, 256, None)), zeros, "{kind}");
        assert_eq!(read(kind, &stored(kind, &zeros, 256, Some(&[1.0; 256]))), zeros, "{kind}");
        for value in [0.75, -0.75] {
            let found = read(kind, &stored(kind, &[value; 256], 256, None));
            assert!(found.iter().all(|found| (found - value).abs() <= 0.08), "{kind}: {value} became {}", found[0]);
        }
        for value in [f32::NAN, f32::INFINITY, -1e9, f32::MAX] {
            let mut values = [0.5; 256];
            values[200] = value;
            let mut out = vec![0; 256 / kind.block_values() * kind.block_bytes()];
            let result = quantize(kind, &values, 256, None, &mut out);
            let holds = kind == TensorType::F32 || (kind == TensorType::Bf16 && value.abs() <= 1e9);
            assert_eq!(result.is_ok(), holds, "{kind}: {value}");
        }
    }
}

#[test]
fn threads_and_pieces_change_nothing() {
    let values = values(37 * 512, 4);
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![37, 512];
    let info = TensorInfo { kind: TensorType::F32, shape, part: 0, range: 0..bytes.len(), change: None };
    let index = Index { version: 3, metadata: [].into(), tensors: [].into(), alignment: 32 };
    let parts = Parts { bytes: vec![Arc::new(Bytes::Owned(bytes))], index };
    for kind in [TensorType::Q4K, TensorType::F16, TensorType::Q5_1] {
        for threads in [1, 3, 64] {
            let mut found = Vec::new();
            let take = |bytes: &[u8]| {
                found.extend_from_slice(bytes);
                Ok::<_, QuantizeError>(())
            };
            tensor(&parts, &info, kind, None, threads, take).unwrap();
            assert!(found == stored(kind, &values, 512, None), "{kind} with {threads} threads");
        }
    }
}
