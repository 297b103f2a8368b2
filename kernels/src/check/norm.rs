//! Norms against their definitions in f64.
use super::{each_tier, waves, within};

const EPS: f32 = 1.0e-5;

fn rms(x: &[f32], weight: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
    let root = (mean + f64::from(EPS)).sqrt();
    x.iter().zip(weight).map(|(x, w)| f64::from(*x) / root * f64::from(*w)).collect()
}

fn layer(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let root = (variance + f64::from(EPS)).sqrt();
    let affine = x.iter().zip(weight).zip(bias);
    affine.map(|((x, w), b)| (f64::from(*x) - mean) / root * f64::from(*w) + f64::from(*b)).collect()
}

#[test]
fn norms_are_their_definitions_at_every_width() {
    each_tier(|kernels| {
        for width in (1..=33).chain([576, 5120]) {
            for scale in [1.0e-3, 1.0, 1.0e25] {
                let (x, weight, bias) = (waves(3 * width, scale), waves(width, 2.0), waves(width + 1, 1.0));
                let mut out = vec![f32::NAN; x.len()];
                kernels.rms_norm(&x, &weight, EPS, &mut out);
                for (x, out) in x.chunks(width).zip(out.chunks(width)) {
                    for (want, out) in rms(x, &weight).into_iter().zip(out) {
                        within(*out, want, 2.5e-7 * want.abs(), &(width, scale));
                    }
                }
                let bias = &bias[1..];
                kernels.layer_norm(&x, &weight, bias, EPS, &mut out);
                for (x, out) in x.chunks(width).zip(out.chunks(width)) {
                    for (want, out) in layer(x, &weight, bias).into_iter().zip(out) {
                        within(*out, want, 1.0e-6 * (want.abs() + 2.0), &(width, scale));
                    }
                }
            }
        }
    });
}

#[test]
fn the_fused_norm_is_addition_and_norm() {
    each_tier(|kernels| {
        for width in 1..=33 {
            let (mut stream, delta, weight) = (waves(2 * width, 1.0), waves(2 * width, 3.0), waves(width, 1.0));
            let mut sum = stream.clone();
            kernels.add(&mut sum, &delta);
            let (mut want, mut got) = (vec![0.0; sum.len()], vec![0.0; sum.len()]);
            kernels.rms_norm(&sum, &weight, EPS, &mut want);
            kernels.add_rms_norm(&mut stream, &delta, &weight, EPS, &mut got);
            assert!(stream == sum && got == want, "width {width}");
        }
    });
}

#[test]
fn what_is_no_number_spoils_its_row_only() {
    each_tier(|kernels| {
        let weight = vec![1.0; 17];
        for at in 0..17 {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut x = waves(3 * 17, 1.0);
                x[17 + at] = bad;
                let mut out = vec![0.0; x.len()];
                kernels.rms_norm(&x, &weight, EPS, &mut out);
                assert!(out[17 + at].is_nan(), "{bad} at {at}");
                assert!(out[..17].iter().chain(&out[34..]).all(|x| x.is_finite()));
            }
        }
        let (zeros, mut out) = ([0.0; 9], [1.0; 9]);
        kernels.rms_norm(&zeros, &weight[..9], EPS, &mut out);
        assert_eq!(out, zeros);
        let tiny = [f32::MIN_POSITIVE / 2.0; 9];
        kernels.rms_norm(&tiny, &weight[..9], 0.0, &mut out);
        assert!(out.iter().all(|x| (x - 1.0).abs() <= 1.0e-6), "{out:?}");
    });
}
