//! `exp(x) − 1` on many values at once.

/// What x is held to, either way.
pub(super) const LARGEST: f32 = 80.0;

/// Returns `exp(x) − 1`, for x held between -80 and 80.
///
/// # Numerics
///
/// Within 4 ulp, near zero too. It has no branches, so a loop over values is one of vectors:
/// `x = n ln 2 + f`, `exp(x) − 1 = 2^n (exp(f) − 1) + (2^n − 1)`, `exp(f) − 1` by its series to f^7.
#[inline]
pub(super) fn exp_minus_one(x: f32) -> f32 {
    // Added, it leaves a number rounded to an integer in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > LARGEST { LARGEST } else { x };
    let x = if x < -LARGEST { -LARGEST } else { x };
    let shifted = fused(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let f = fused(n, -LN2_LOW, fused(n, -LN2_HIGH, x));
    let terms = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];
    let series = terms.into_iter().fold(1.0 / 5040.0, |series, term| fused(f, series, term));
    let series = fused(f * f, series, f);
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let power = f32::from_bits(exponent << 23);
    fused(power, series, power - 1.0)
}

/// Returns `a b + c`, rounded once where the program is compiled for processors that do that in one step.
#[inline]
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_near_the_exact_function_everywhere() {
        let mut greatest: f64 = 0.0;
        for i in -800_000i32..=800_000 {
            let x = i as f32 * 1.0e-4;
            let exact = f64::from(x).exp_m1();
            let error = (f64::from(exp_minus_one(x)) - exact).abs() / exact.abs().max(1.0e-30);
            greatest = greatest.max(error);
        }
        for i in 1..40 {
            let x = 0.5f32.powi(i);
            for x in [x, -x] {
                let exact = f64::from(x).exp_m1();
                greatest = greatest.max((f64::from(exp_minus_one(x)) - exact).abs() / exact.abs());
            }
        }
        assert!(greatest <= 5.0e-7, "{greatest:e}");
        assert!(exp_minus_one(0.0).abs() <= 0.0);
    }
}
