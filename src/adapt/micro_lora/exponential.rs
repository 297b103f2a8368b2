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
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let f = x - n * LN2_HIGH - n * LN2_LOW;
    let series = 1.0 / 120.0 + f * (1.0 / 720.0 + f * (1.0 / 5040.0));
    let series = f + f * f * (0.5 + f * (1.0 / 6.0 + f * (1.0 / 24.0 + f * series)));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let power = f32::from_bits(exponent << 23);
    power * series + (power - 1.0)
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
