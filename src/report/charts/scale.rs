//! From values to places, and where to put ticks.
use crate::report::number;

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    Linear,
    Log,
}

/// A mapping from a span of values to a span of places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    spread: Spread,
    domain: (f64, f64),
    range: (f64, f64),
}

impl Scale {
    /// Returns a linear scale between these ends, which must differ.
    pub(super) fn linear(domain: (f64, f64), range: (f64, f64)) -> Self {
        Self { spread: Spread::Linear, domain, range }
    }

    /// Returns a logarithmic scale with some room at both ends; values must be positive.
    pub(super) fn log((low, high): (f64, f64), range: (f64, f64), room: f64) -> Self {
        let room = (high / low).powf(room).max(1.05);
        Self { spread: Spread::Log, domain: (low / room, high * room), range }
    }

    /// Returns where a value lies.
    pub(super) fn at(&self, value: f64) -> f64 {
        let (low, high) = self.domain;
        let share = match self.spread {
            Spread::Linear => (value - low) / (high - low),
            Spread::Log => (value / low).ln() / (high / low).ln(),
        };
        self.range.0 + share * (self.range.1 - self.range.0)
    }

    /// Returns whether it is logarithmic.
    pub(super) fn is_log(&self) -> bool {
        self.spread == Spread::Log
    }

    /// Returns about `count` round values inside, each with its text.
    pub(super) fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let (low, high) = self.domain;
        match self.spread {
            Spread::Linear => {
                let step = step(high - low, count);
                let first = (low / step - 1e-9).ceil() as i64;
                let last = (high / step + 1e-9).floor() as i64;
                // 2.5 needs one decimal more than its power of ten.
                let digits = -(step.log10() + 1e-9).floor() as i64 + i64::from(is_two_and_a_half(step));
                let decimals = usize::try_from(digits).unwrap_or(0);
                (first..=last).map(|i| i as f64 * step).map(|value| (value, number::fixed(value, decimals))).collect()
            }
            Spread::Log => log_ticks(low, high, count),
        }
    }
}

fn is_two_and_a_half(step: f64) -> bool {
    let mantissa = step / 10f64.powf((step.log10() + 1e-9).floor());
    (mantissa - 2.5).abs() < 1e-6
}

/// Returns a round step that makes about `count` of the span.
fn step(span: f64, count: usize) -> f64 {
    let rough = span / count.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let mantissa = rough / power;
    let round = [1.0, 2.0, 2.5, 5.0].into_iter().find(|round| mantissa <= round * 1.000_001).unwrap_or(10.0);
    round * power
}

fn log_ticks(low: f64, high: f64, count: usize) -> Vec<(f64, String)> {
    let sets: [&[f64]; 4] =
        [&[1.0], &[1.0, 3.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]];
    let ticks = |mantissas: &[f64]| -> Vec<f64> {
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let all = (first..=last).flat_map(|power| mantissas.iter().map(move |mantissa| mantissa * 10f64.powi(power)));
        all.filter(|value| (low..=high).contains(value)).collect()
    };
    let fullest = sets.iter().map(|set| ticks(set)).filter(|ticks| ticks.len() <= count + 2).max_by_key(Vec::len);
    let decades = ticks(&[1.0]);
    let values = match fullest {
        None if decades.len() > count + 2 => {
            // So many powers of ten that only every second or third has room.
            let stride = decades.len().div_ceil(count + 1);
            decades.into_iter().step_by(stride).collect()
        }
        Some(values) if values.len() >= 3 => values,
        // Less than a decade: round steps read better.
        _ => return Scale::linear((low, high), (0.0, 1.0)).ticks(count),
    };
    values
        .into_iter()
        .map(|value| (value, number::significant(value, if is_one_digit(value) { 1 } else { 2 })))
        .collect()
}

fn is_one_digit(value: f64) -> bool {
    format!("{value:.0e}").parse::<f64>().is_ok_and(|rounded| (rounded / value - 1.0).abs() < 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: &Scale, count: usize) -> Vec<String> {
        scale.ticks(count).into_iter().map(|(_, text)| text).collect()
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(texts(&Scale::linear((0.0, 47.0), (0.0, 1.0)), 5), ["0", "10", "20", "30", "40"]);
        assert_eq!(texts(&Scale::linear((7.31, 7.52), (0.0, 1.0)), 4), ["7.4", "7.5"]);
        assert_eq!(texts(&Scale::linear((1.0, 2.0), (0.0, 1.0)), 4), ["1.00", "1.25", "1.50", "1.75", "2.00"]);
    }

    #[test]
    fn logarithmic_ticks_fit_the_span() {
        assert_eq!(
            texts(&Scale::log((1.0, 1000.0), (0.0, 1.0), 0.0), 5),
            ["1", "3", "10", "30", "100", "300", "1,000"]
        );
        assert_eq!(
            texts(&Scale::log((1e-6, 0.1), (0.0, 1.0), 0.0), 5),
            ["1e-6", "1e-5", "1e-4", "0.001", "0.01", "0.1"]
        );
        let wide = texts(&Scale::log((3e-8, 1.5), (0.0, 1.0), 0.0), 5);
        assert_eq!(wide, ["1e-7", "1e-5", "0.001", "0.1"], "eight powers of ten, every second shown");
        let narrow = texts(&Scale::log((18.0, 60.0), (0.0, 1.0), 0.0), 6);
        assert!((3..=8).contains(&narrow.len()), "{narrow:?}");
    }

    #[test]
    fn ends_of_the_domain_are_ends_of_the_range() {
        for scale in [Scale::linear((2.0, 8.0), (100.0, 0.0)), Scale::log((2.0, 8.0), (100.0, 0.0), 0.0)] {
            let (low, high) = scale.domain;
            assert!((scale.at(low) - 100.0).abs() <= 1e-9 && scale.at(high).abs() <= 1e-9);
        }
    }
}
