//! Numbers for people: as many digits as the interval supports, thousands separated, memory in MiB.
use crate::metrics::stats::{Interval, Ratio};

/// Decimals nobody reads beyond.
const MOST_DECIMALS: usize = 6;

/// Below this, a value is shown with its power of ten.
const SMALLEST_PLAIN: f64 = 1e-3;

fn is_tiny(value: f64) -> bool {
    value != 0.0 && value.abs() < SMALLEST_PLAIN
}

/// Returns the value with `decimals` decimals and a comma between thousands.
#[must_use]
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    let text = format!("{value:.decimals$}");
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let sign = if digits.bytes().any(|byte| (b'1'..=b'9').contains(&byte)) { sign } else { "" };
    let (whole, rest) = digits.find('.').map_or((digits, ""), |point| digits.split_at(point));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}{rest}")
}

/// Returns the power of ten of the first significant digit.
fn exponent(value: f64) -> i32 {
    // Through the decimal text: log10 puts 1000 a hair below 3 on some systems.
    format!("{:e}", value.abs()).rsplit('e').next().and_then(|e| e.parse().ok()).unwrap_or(0)
}

/// Returns how many decimals show `digits` significant digits of the value.
fn decimals(value: f64, digits: i32) -> usize {
    if value == 0.0 || !value.is_finite() {
        return 0;
    }
    usize::try_from(digits - 1 - exponent(value)).unwrap_or(0).min(MOST_DECIMALS)
}

/// Returns how many decimals an uncertainty supports: two significant digits of it when it begins
/// with 1 or 2, one otherwise.
#[must_use]
pub fn decimals_of_half_width(half_width: f64) -> usize {
    let leading = half_width.abs() / 10f64.powi(exponent(half_width));
    decimals(half_width, if leading < 3.0 { 2 } else { 1 })
}

/// Returns the value with so many significant digits; digits before the point are never dropped. Tiny
/// values carry their power of ten: `1.2e-4`.
#[must_use]
pub fn significant(value: f64, digits: i32) -> String {
    if is_tiny(value) {
        return format!("{value:.*e}", usize::try_from(digits - 1).unwrap_or(0));
    }
    fixed(value, decimals(value, digits))
}

/// Returns a value as a person would write it: all its digits and none more.
#[must_use]
pub fn short(value: f64) -> String {
    if is_tiny(value) { format!("{value:e}") } else { value.to_string() }
}

/// Returns `38.2 ±1.1`, or four significant digits where there is no uncertainty to go by; of tiny
/// values both with one power of ten, `1.23e-4 ±0.21e-4`.
#[must_use]
pub fn with_interval(value: f64, interval: Option<Interval>) -> String {
    match interval.map(Interval::half_width) {
        Some(half) if half > 0.0 && half.is_finite() && is_tiny(value) => {
            let power = exponent(value).max(exponent(half));
            let scale = 10f64.powi(power);
            let decimals = decimals_of_half_width(half / scale);
            format!("{}e{power} ±{}e{power}", fixed(value / scale, decimals), fixed(half / scale, decimals))
        }
        Some(half) if half > 0.0 && half.is_finite() => {
            let decimals = decimals_of_half_width(half);
            format!("{} ±{}", fixed(value, decimals), fixed(half, decimals))
        }
        _ => significant(value, 4),
    }
}

/// Returns `+38.2 % ±1.1`, both in percent.
#[must_use]
pub fn change(ratio: &Ratio) -> String {
    match ratio.interval.map(|interval| interval.half_width() * 100.0) {
        Some(half) if half > 0.0 && half.is_finite() => {
            let decimals = decimals_of_half_width(half).min(2);
            format!("{} ±{}", percent_to(ratio.change, decimals), fixed(half, decimals))
        }
        _ => percent(ratio.change),
    }
}

/// Returns a signed percentage of a ratio: one decimal, two below 1 %.
#[must_use]
pub fn percent(ratio: f64) -> String {
    percent_to(ratio, if ratio.abs() < 0.01 { 2 } else { 1 })
}

/// Returns a signed percentage of a ratio with so many decimals; zero has no sign.
#[must_use]
pub fn percent_to(ratio: f64, decimals: usize) -> String {
    let text = fixed(ratio * 100.0, decimals);
    let is_zero = !text.bytes().any(|byte| (b'1'..=b'9').contains(&byte));
    let sign = if is_zero || ratio.is_nan() || ratio < 0.0 { "" } else { "+" };
    format!("{sign}{text} %")
}

/// Returns a threshold, such as `3 %` or `0.5 %`.
#[must_use]
pub fn threshold(ratio: f64) -> String {
    let text = format!("{:.2}", ratio * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Returns the unit a metric is shown in, and what its values are divided by for that.
#[must_use]
pub fn shown_unit(unit: &str) -> (&str, f64) {
    if unit == "bytes" { ("MiB", 1024.0 * 1024.0) } else { (unit, 1.0) }
}

/// Returns a value of that unit as it is shown, the unit left to a heading.
#[must_use]
pub fn quantity(value: f64, interval: Option<Interval>, unit: &str) -> String {
    let scale = shown_unit(unit).1;
    let interval = interval.map(|i| Interval { low: i.low / scale, high: i.high / scale });
    with_interval(value / scale, interval)
}

/// Returns `1 launch`, `2 launches`.
#[must_use]
pub fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {many}", fixed(n as f64, 0)) }
}

/// Returns `5`, or `3 to 5` where counts differ.
#[must_use]
pub fn range(counts: &[usize]) -> String {
    match (counts.iter().min(), counts.iter().max()) {
        (Some(least), Some(most)) if least == most => least.to_string(),
        (Some(least), Some(most)) => format!("{least} to {most}"),
        _ => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::stats::IntervalMethod;

    fn around(value: f64, half: f64) -> Option<Interval> {
        Some(Interval { low: value - half, high: value + half })
    }

    #[test]
    fn digits_follow_the_interval() {
        for (value, half, text) in [
            (38.2413, 1.13, "38.2 ±1.1"),
            (38.2413, 0.57, "38.2 ±0.6"),
            (12_345.6, 234.0, "12,346 ±234"),
            (12_345.6, 3.4, "12,346 ±3"),
            (0.012_345, 0.000_21, "0.01235 ±0.00021"),
            (99.96, 0.0996, "99.96 ±0.10"),
            (1000.0, 1000.0, "1,000 ±1,000"),
        ] {
            assert_eq!(with_interval(value, around(value, half)), text);
        }
    }

    #[test]
    fn without_interval_four_digits_are_shown() {
        for (value, text) in
            [(7.123_456, "7.123"), (1_234_567.8, "1,234,568"), (0.0, "0"), (-0.000_1, "-1.000e-4"), (1000.0, "1,000")]
        {
            assert_eq!(with_interval(value, None), text);
        }
        assert_eq!(with_interval(7.0, around(7.0, 0.0)), "7.000");
        assert_eq!(with_interval(f64::NAN, None), "NaN");
    }

    #[test]
    fn tiny_values_carry_their_power_of_ten() {
        assert_eq!(with_interval(1.234e-4, around(1.234e-4, 2.1e-5)), "1.23e-4 ±0.21e-4");
        assert_eq!(with_interval(2.0e-8, around(2.0e-8, 3.4e-7)), "0e-7 ±3e-7");
        assert_eq!(with_interval(0.001_234, around(0.001_234, 0.000_05)), "0.00123 ±0.00005");
        assert_eq!((significant(1.2345e-5, 2), significant(0.0, 2)), ("1.2e-5".to_owned(), "0".to_owned()));
        assert_eq!((short(1e-4), short(0.99), short(7.5)), ("1e-4".to_owned(), "0.99".to_owned(), "7.5".to_owned()));
    }

    #[test]
    fn changes_are_signed_percentages() {
        let ratio = |change: f64, half: f64| Ratio {
            change,
            interval: around(change, half),
            n: 5,
            method: IntervalMethod::PairedT,
        };
        assert_eq!(change(&ratio(0.382, 0.0113)), "+38.2 % ±1.1");
        assert_eq!(change(&ratio(-0.031, 0.0004)), "-3.10 % ±0.04");
        assert_eq!(change(&ratio(0.0001, 0.013)), "0.0 % ±1.3");
        assert_eq!(change(&Ratio { interval: None, ..ratio(0.004, 0.0) }), "+0.40 %");
        assert_eq!(percent(-0.0), "0.00 %");
        assert_eq!(percent(12.5), "+1,250.0 %");
        assert_eq!(threshold(0.005), "0.5 %");
        assert_eq!(threshold(0.03), "3 %");
    }

    #[test]
    fn memory_is_shown_in_mib() {
        let mib = 1024.0 * 1024.0;
        assert_eq!(quantity(1536.0 * mib, None, "bytes"), "1,536");
        assert_eq!(quantity(1536.0 * mib, around(1536.0 * mib, 1.5 * mib), "bytes"), "1,536.0 ±1.5");
        assert_eq!(quantity(12.5, None, "ms"), "12.50");
    }
}
