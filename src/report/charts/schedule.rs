//! The learning rate of every step of a training, and the momentum below it where it moves.
use super::{
    Chart, ChartError, canvas,
    canvas::{Canvas, Stroke},
    csv::{Csv, number},
    frame::{Frame, MARGIN, Plot, WIDTH, X_AXIS_HEIGHT},
    palette::{BLUE, Color, VERMILION},
    scale::Scale,
};
use crate::adapt::schedule::Rate;

const NAME: &str = "schedule";
const PLOT_HEIGHT: f64 = 260.0;

/// A line over the steps.
struct Line {
    title: &'static str,
    values: Vec<f64>,
    color: Color,
}

pub(super) fn draw(title: &str, rates: &[Rate]) -> Result<Chart, ChartError> {
    let momenta: Option<Vec<f64>> = rates.iter().map(|rate| rate.momentum).collect();
    let rate =
        Line { title: "learning rate", values: rates.iter().map(|rate| rate.learning_rate).collect(), color: BLUE };
    let momentum = momenta.filter(|values| !values.is_empty()).map(|values| Line {
        title: "momentum (beta 1)",
        values,
        color: VERMILION,
    });
    let lines: Vec<Line> = [Some(rate), momentum].into_iter().flatten().collect();
    let frame = Frame::new(title, "", "Each step's value is the one its own update uses; steps count from 0.");
    let panel = PLOT_HEIGHT + X_AXIS_HEIGHT;
    let height = frame.top() + lines.len() as f64 * panel + frame.bottom();
    let svg = canvas::draw(NAME, title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        for (at, line) in lines.iter().enumerate() {
            let top = frame.top() + at as f64 * panel;
            let plot = Plot { left: MARGIN + 80.0, right: WIDTH - MARGIN - 20.0, top, bottom: top + PLOT_HEIGHT };
            draw_line(canvas, line, plot);
        }
    })?;
    Ok(Chart { name: NAME.to_owned(), title: title.to_owned(), svg, csv: csv(rates) })
}

fn draw_line(canvas: &mut Canvas<'_>, line: &Line, plot: Plot) {
    let last = line.values.len().saturating_sub(1).max(1);
    let most = line.values.iter().copied().fold(0.0, f64::max);
    let steps = Scale::linear((0.0, last as f64), (plot.left, plot.right));
    let scale = Scale::linear((0.0, if most > 0.0 { most * 1.05 } else { 1.0 }), (plot.bottom, plot.top));
    plot.x_axis(canvas, &steps, 10, "step");
    plot.y_axis(canvas, &scale, 5, line.title);
    let points: Vec<_> =
        line.values.iter().enumerate().map(|(step, value)| (steps.at(step as f64), scale.at(*value))).collect();
    canvas.path(&points, Stroke::solid(line.color, 2.0));
}

fn csv(rates: &[Rate]) -> String {
    let mut csv = Csv::new(&["step", "learning_rate", "momentum"]);
    for (step, rate) in rates.iter().enumerate() {
        csv.row([step.to_string(), number(Some(rate.learning_rate)), number(rate.momentum)]);
    }
    csv.finish()
}
