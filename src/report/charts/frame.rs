//! What every chart has: title, what is the same in all cells, caption, axes.
use super::{
    canvas::{Anchor, Canvas, Stroke},
    palette::{AXIS, GRID, INK, SOFT},
    scale::Scale,
    text,
};

/// Width of every chart.
pub(super) const WIDTH: f64 = 1000.0;
/// Space around everything.
pub(super) const MARGIN: f64 = 28.0;

pub(super) const TITLE_SIZE: f64 = 21.0;
pub(super) const LABEL_SIZE: f64 = 14.0;
pub(super) const TICK_SIZE: f64 = 12.5;
pub(super) const SMALL_SIZE: f64 = 12.0;

const TITLE_LINE: f64 = 28.0;
const SMALL_LINE: f64 = 17.0;

/// Title, subtitle and caption of a chart.
pub(super) struct Frame {
    title: Vec<String>,
    subtitle: Vec<String>,
    caption: Vec<String>,
}

impl Frame {
    pub(super) fn new(title: &str, subtitle: &str, caption: &str) -> Self {
        let room = WIDTH - 2.0 * MARGIN;
        Self {
            title: text::wrap(title, TITLE_SIZE, room),
            subtitle: text::wrap(subtitle, LABEL_SIZE, room),
            caption: text::wrap(caption, SMALL_SIZE, room),
        }
    }

    /// Returns the height above the plot.
    pub(super) fn top(&self) -> f64 {
        MARGIN * 0.7 + self.title.len() as f64 * TITLE_LINE + self.subtitle.len() as f64 * (SMALL_LINE + 2.0) + 16.0
    }

    /// Returns the height below the plot.
    pub(super) fn bottom(&self) -> f64 {
        14.0 + self.caption.len() as f64 * SMALL_LINE + MARGIN * 0.5
    }

    /// Writes title and subtitle at the top and the caption at the bottom of a chart of that height.
    pub(super) fn write(&self, canvas: &mut Canvas<'_>, height: f64) {
        let mut y = MARGIN * 0.7 + TITLE_LINE / 2.0;
        for line in &self.title {
            canvas.text((MARGIN, y), line, TITLE_SIZE, INK, Anchor::Start);
            y += TITLE_LINE;
        }
        y += (SMALL_LINE + 2.0 - TITLE_LINE) / 2.0;
        for line in &self.subtitle {
            canvas.text((MARGIN, y), line, LABEL_SIZE, SOFT, Anchor::Start);
            y += SMALL_LINE + 2.0;
        }
        let mut y = height - self.bottom() + 14.0 + SMALL_LINE / 2.0;
        for line in &self.caption {
            canvas.text((MARGIN, y), line, SMALL_SIZE, SOFT, Anchor::Start);
            y += SMALL_LINE;
        }
    }
}

/// The rectangle values are drawn in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plot {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Plot {
    /// Draws upright grid lines with their numbers below, and the axis title below those.
    pub(super) fn x_axis(&self, canvas: &mut Canvas<'_>, scale: &Scale, ticks: usize, title: &str) {
        for (value, label) in scale.ticks(ticks) {
            let x = scale.at(value);
            canvas.line((x, self.top), (x, self.bottom), Stroke::solid(GRID, 1.0));
            canvas.text((x, self.bottom + 14.0), &label, TICK_SIZE, SOFT, Anchor::Middle);
        }
        canvas.line((self.left, self.bottom), (self.right, self.bottom), Stroke::solid(AXIS, 1.0));
        canvas.text((f64::midpoint(self.left, self.right), self.bottom + 37.0), title, LABEL_SIZE, INK, Anchor::Middle);
    }

    /// Draws level grid lines with their numbers on the left, and the axis title left of those.
    pub(super) fn y_axis(&self, canvas: &mut Canvas<'_>, scale: &Scale, ticks: usize, title: &str) {
        let mut widest: f64 = 0.0;
        for (value, label) in scale.ticks(ticks) {
            let y = scale.at(value);
            canvas.line((self.left, y), (self.right, y), Stroke::solid(GRID, 1.0));
            canvas.text((self.left - 8.0, y), &label, TICK_SIZE, SOFT, Anchor::End);
            widest = widest.max(text::width(&label, TICK_SIZE));
        }
        canvas.line((self.left, self.top), (self.left, self.bottom), Stroke::solid(AXIS, 1.0));
        let middle = f64::midpoint(self.top, self.bottom);
        canvas.upward((self.left - widest - 26.0, middle), title, LABEL_SIZE, INK, Anchor::Middle);
    }
}

/// Height an x axis needs below its plot: numbers and title.
pub(super) const X_AXIS_HEIGHT: f64 = 52.0;
