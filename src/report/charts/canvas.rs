//! Drawing primitives in user units with fractions, on plotters' SVG backend.
use plotters::{
    prelude::{DrawingBackend, RGBAColor, SVGBackend, ShapeStyle},
    style::{
        FontTransform, IntoFont, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{ChartError, palette, palette::Color, text};

/// Plotters draws on whole numbers: a unit of the drawing is ten of them, so lines may lie between.
const STEPS: f64 = 10.0;

/// The baseline lies this share of an em below the middle of a digit, less what the backend does.
const MIDDLE_SHIFT: f64 = 0.10;

/// Where a text stands to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stroke {
    pub(super) color: Color,
    pub(super) width: f64,
    pub(super) dash: Dash,
}

/// Lengths drawn and left out in turn; none for a solid line.
pub(super) type Dash = &'static [f64];

/// Line styles that are easy to tell apart, solid first.
pub(super) const DASHES: [Dash; 4] = [&[], &[7.0, 4.0], &[2.0, 3.0], &[11.0, 3.0, 2.0, 3.0]];

impl Stroke {
    pub(super) fn solid(color: Color, width: f64) -> Self {
        Self { color, width, dash: DASHES[0] }
    }

    pub(super) fn dashed(color: Color, width: f64) -> Self {
        Self { color, width, dash: &[5.0, 3.5] }
    }
}

pub(super) struct Canvas<'a> {
    backend: SVGBackend<'a>,
    error: Option<String>,
}

fn steps((x, y): (f64, f64)) -> (i32, i32) {
    ((x * STEPS).round() as i32, (y * STEPS).round() as i32)
}

fn style(color: Color, alpha: f64, width: f64, filled: bool) -> ShapeStyle {
    let (r, g, b) = color;
    ShapeStyle { color: RGBAColor(r, g, b, alpha), filled, stroke_width: (width * STEPS).round().max(1.0) as u32 }
}

/// Returns the SVG that `paint` draws on a white ground of that size.
pub(super) fn draw(
    chart: &str,
    title: &str,
    (width, height): (f64, f64),
    paint: impl FnOnce(&mut Canvas<'_>),
) -> Result<String, ChartError> {
    let failed = |message: String| ChartError::Draw { chart: chart.to_owned(), message };
    let (inner_width, inner_height) = steps((width, height));
    let mut svg = String::new();
    {
        let size = (inner_width.unsigned_abs(), inner_height.unsigned_abs());
        let mut canvas = Canvas { backend: SVGBackend::with_string(&mut svg, size), error: None };
        canvas.rect((0.0, 0.0), (width, height), palette::WHITE);
        paint(&mut canvas);
        let presented = canvas.backend.present().map_err(|error| error.to_string());
        canvas.note(presented);
        if let Some(message) = canvas.error {
            return Err(failed(message));
        }
    }
    let inner = format!(r#"width="{inner_width}" height="{inner_height}""#);
    if !svg.starts_with(&format!("<svg {inner} ")) {
        return Err(failed("the backend wrote another head than expected".to_owned()));
    }
    let label = title.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let outer = format!(r#"role="img" aria-label="{label}" width="{width}" height="{height}""#);
    Ok(svg.replacen(&inner, &outer, 1))
}

impl Canvas<'_> {
    /// Keeps the first error; drawing goes on, and `draw` returns it.
    fn note(&mut self, result: Result<(), String>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: Stroke) {
        self.path(&[from, to], stroke);
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], stroke: Stroke) {
        let style = style(stroke.color, 1.0, stroke.width, false);
        let pieces = if stroke.dash.is_empty() { vec![points.to_vec()] } else { dashes(points, stroke.dash) };
        for piece in pieces {
            let result = self.backend.draw_path(piece.into_iter().map(steps), &style);
            self.note(result.map_err(|error| error.to_string()));
        }
    }

    /// Fills a rectangle between two corners.
    pub(super) fn rect(&mut self, a: (f64, f64), b: (f64, f64), color: Color) {
        let (low, high) = ((a.0.min(b.0), a.1.min(b.1)), (a.0.max(b.0), a.1.max(b.1)));
        let result = self.backend.draw_rect(steps(low), steps(high), &style(color, 1.0, 0.0, true), true);
        self.note(result.map_err(|error| error.to_string()));
    }

    /// Fills a circle with some transparency and outlines it.
    pub(super) fn disc(&mut self, center: (f64, f64), radius: f64, color: Color) {
        let inner = (radius * STEPS).round().max(1.0) as u32;
        let fill = self.backend.draw_circle(steps(center), inner, &style(color, 0.55, 0.0, true), true);
        self.note(fill.map_err(|error| error.to_string()));
        let edge = self.backend.draw_circle(steps(center), inner, &style(color, 1.0, 1.5, false), false);
        self.note(edge.map_err(|error| error.to_string()));
    }

    /// Outlines a circle.
    pub(super) fn ring(&mut self, center: (f64, f64), radius: f64, color: Color) {
        let inner = (radius * STEPS).round().max(1.0) as u32;
        let edge = self.backend.draw_circle(steps(center), inner, &style(color, 1.0, 1.8, false), false);
        self.note(edge.map_err(|error| error.to_string()));
    }

    /// Writes a line of text whose digits are centred on the point's height.
    pub(super) fn text(&mut self, at: (f64, f64), content: &str, size: f64, color: Color, anchor: Anchor) {
        self.write(steps((at.0, at.1 + MIDDLE_SHIFT * size)), content, size, color, anchor, FontTransform::None);
    }

    /// Writes a line of text upwards.
    pub(super) fn upward(&mut self, at: (f64, f64), content: &str, size: f64, color: Color, anchor: Anchor) {
        self.write(steps((at.0 + MIDDLE_SHIFT * size, at.1)), content, size, color, anchor, FontTransform::Rotate270);
    }

    fn write(
        &mut self,
        at: (i32, i32),
        content: &str,
        size: f64,
        (r, g, b): Color,
        anchor: Anchor,
        transform: FontTransform,
    ) {
        let anchor = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        // The backend divides font sizes by 1.24, from its own idea of an em.
        let font = (text::FAMILY, size * STEPS * 1.24).into_font().transform(transform);
        let color = RGBAColor(r, g, b, 1.0);
        let style = TextStyle::from(font).color(&color).pos(Pos::new(anchor, VPos::Center));
        let result = self.backend.draw_text(content, &style, at);
        self.note(result.map_err(|error| error.to_string()));
    }
}

/// Returns the drawn pieces of a dashed path, the pattern going round along its length.
fn dashes(points: &[(f64, f64)], pattern: &[f64]) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = points.first().map(|&first| vec![first]).into_iter().collect();
    let (mut turn, mut left) = (0, pattern[0]);
    for pair in points.windows(2) {
        let ((mut x, mut y), (to_x, to_y)) = (pair[0], pair[1]);
        let mut length = (to_x - x).hypot(to_y - y);
        while length > left {
            let share = left / length;
            (x, y) = (x + (to_x - x) * share, y + (to_y - y) * share);
            length -= left;
            match pieces.last_mut() {
                Some(piece) if turn % 2 == 0 => piece.push((x, y)),
                _ => pieces.push(vec![(x, y)]),
            }
            turn += 1;
            left = pattern[turn % pattern.len()];
        }
        left -= length;
        if let Some(piece) = pieces.last_mut().filter(|_| turn % 2 == 0) {
            piece.push((to_x, to_y));
        }
    }
    pieces.retain(|piece| piece.len() > 1);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_cover_their_share_of_the_path() {
        let pieces = dashes(&[(0.0, 0.0), (50.0, 0.0), (50.0, 35.0)], &[5.0, 3.5]);
        let length = |piece: &Vec<(f64, f64)>| -> f64 {
            piece.windows(2).map(|p| (p[1].0 - p[0].0).hypot(p[1].1 - p[0].1)).sum()
        };
        let drawn: f64 = pieces.iter().map(length).sum();
        assert!((drawn - 50.0).abs() <= 1e-9, "{drawn} of 85 with 5 in 8.5");
    }

    #[test]
    fn coordinates_keep_a_tenth_of_a_unit() {
        let svg = draw("test", "a & b", (100.0, 50.0), |canvas| {
            canvas.line((1.25, 2.0), (3.0, 4.5), Stroke::solid(palette::INK, 1.0));
        })
        .unwrap();
        assert!(svg.contains(r#"width="100" height="50" viewBox="0 0 1000 500""#), "{svg}");
        assert!(svg.contains("13,20 30,45"), "{svg}");
        assert!(svg.contains("a &amp; b"));
    }
}
