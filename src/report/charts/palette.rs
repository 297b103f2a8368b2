//! Colours that people with any colour vision can tell apart.

/// sRGB.
pub(super) type Color = (u8, u8, u8);

pub(super) const WHITE: Color = (255, 255, 255);
pub(super) const INK: Color = (26, 26, 26);
pub(super) const SOFT: Color = (95, 95, 95);
pub(super) const AXIS: Color = (150, 150, 150);
pub(super) const GRID: Color = (229, 229, 229);
pub(super) const BLUE: Color = (0, 114, 178);
pub(super) const VERMILION: Color = (213, 94, 0);
pub(super) const GREEN: Color = (0, 158, 115);
/// What others are compared with.
pub(super) const BASELINE: Color = (140, 140, 140);

/// Okabe and Ito (2008), without yellow, which is too pale for lines on white; black last.
const SERIES: [Color; 7] = [BLUE, VERMILION, GREEN, (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0)];

/// How many series have a colour of their own; further ones repeat them with another line style.
pub(super) const SERIES_COUNT: usize = SERIES.len();

/// Returns the colour of a series.
pub(super) fn series(index: usize) -> Color {
    SERIES[index % SERIES_COUNT]
}

/// Eleven even steps of matplotlib's viridis (CC0): even in lightness, so also readable in grey.
const VIRIDIS: [Color; 11] = [
    (68, 1, 84),
    (72, 36, 117),
    (65, 68, 135),
    (53, 95, 141),
    (42, 120, 142),
    (33, 145, 140),
    (34, 168, 132),
    (68, 191, 112),
    (122, 209, 81),
    (189, 223, 38),
    (253, 231, 37),
];

/// Returns the colour of a share from 0 to 1.
pub(super) fn viridis(share: f64) -> Color {
    let position = share.clamp(0.0, 1.0) * (VIRIDIS.len() - 1) as f64;
    let below = (position.floor() as usize).min(VIRIDIS.len() - 2);
    mix(VIRIDIS[below], VIRIDIS[below + 1], position - below as f64)
}

/// Returns a colour between two.
pub(super) fn mix(a: Color, b: Color, share: f64) -> Color {
    let channel = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * share).round() as u8;
    (channel(a.0, b.0), channel(a.1, b.1), channel(a.2, b.2))
}

/// Returns WCAG 2's relative luminance.
fn luminance(color: Color) -> f64 {
    let linear = |channel: u8| {
        let c = f64::from(channel) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * linear(color.0) + 0.7152 * linear(color.1) + 0.0722 * linear(color.2)
}

/// Returns black or white, whichever is easier to read on the colour.
pub(super) fn text_on(background: Color) -> Color {
    let contrast_white = 1.05 / (luminance(background) + 0.05);
    let contrast_ink = (luminance(background) + 0.05) / (luminance(INK) + 0.05);
    if contrast_white > contrast_ink { WHITE } else { INK }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_on_every_step_of_the_scale_is_readable() {
        for step in 0..=100 {
            let background = viridis(f64::from(step) / 100.0);
            let (a, b) = (luminance(background) + 0.05, luminance(text_on(background)) + 0.05);
            assert!(a.max(b) / a.min(b) >= 4.0, "step {step}");
        }
    }

    #[test]
    fn the_scale_grows_lighter_throughout() {
        let steps: Vec<f64> = (0..=20).map(|step| luminance(viridis(f64::from(step) / 20.0))).collect();
        assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
    }
}
