//! f16: every value there is, and every rounding that matters.
use super::each_tier;

/// The value of f16 bits, from the format's definition.
fn value(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

#[test]
fn every_f16_widens_to_its_value_and_narrows_back() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    each_tier(|kernels| {
        let mut wide = vec![0.0; all.len()];
        kernels.widen(&all, &mut wide);
        let mut back = vec![0; all.len()];
        kernels.narrow(&wide, &mut back);
        for ((bits, wide), back) in all.iter().zip(&wide).zip(&back) {
            let want = value(*bits);
            assert!(f64::from(*wide) == want || (wide.is_nan() && want.is_nan()), "{bits:#x}: {wide}");
            assert!(bits == back || (want.is_nan() && value(*back).is_nan()), "{bits:#x} came back as {back:#x}");
        }
    });
}

#[test]
fn narrowing_takes_the_nearest_and_of_two_the_even_one() {
    each_tier(|kernels| {
        let narrow = |x: f32| {
            let mut out = [0; 9];
            kernels.narrow(&[x; 9], &mut out);
            assert!(out.iter().all(|y| *y == out[0]), "lanes and tail differ for {x}");
            out[0]
        };
        for bits in 0..0x7c00u16 {
            // 65536 stands for the first value that is infinite.
            let next = if bits == 0x7bff { 65536.0 } else { value(bits + 1) };
            let middle = ((value(bits) + next) / 2.0) as f32;
            let even = bits + (bits & 1);
            for (x, want) in [(middle, even), (middle.next_down(), bits), (middle.next_up(), bits + 1)] {
                assert_eq!([narrow(x), narrow(-x)], [want, want | 0x8000], "{x:e}");
            }
        }
        assert_eq!([narrow(f32::MAX), narrow(f32::MIN_POSITIVE), narrow(-0.0)], [0x7c00, 0, 0x8000]);
    });
}

#[test]
fn every_length_and_offset_is_converted_and_nothing_else() {
    each_tier(|kernels| {
        for range in super::lengths_and_offsets() {
            let x: Vec<f32> = (0..48u8).map(f32::from).collect();
            let mut bits = [0xffffu16; 48];
            kernels.narrow(&x[range.clone()], &mut bits[range.clone()]);
            let mut back = [-1.0f32; 48];
            kernels.widen(&bits[range.clone()], &mut back[range.clone()]);
            for i in 0..48 {
                let want = if range.contains(&i) { x[i] } else { -1.0 };
                assert!(back[i] == want && (bits[i] == 0xffff) != range.contains(&i), "{range:?} at {i}");
            }
        }
    });
}
