//! Trainings step by step: the learning rate, the loss under it, and the held-out loss where there is one.
use super::{
    Chart, ChartError, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::{Cell, Cells},
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, WIDTH, X_AXIS_HEIGHT},
    palette::INK,
    scale::Scale,
};
use crate::event::Arm;

const NAME: &str = "training";
const LEGEND_LINE: f64 = 20.0;
/// Metrics with their titles and heights, from top to bottom.
const PANELS: [(&str, &str, f64); 3] = [
    ("train_learning_rate", "learning rate", 150.0),
    ("train_loss", "loss, nats/token", 250.0),
    ("train_eval_nll", "held-out loss, nats/token", 210.0),
];

/// The values of a metric over the steps of a cell.
struct Line<'a> {
    cell: &'a Cell<'a>,
    points: Vec<(u64, f64)>,
}

/// A metric with its title and height, and what the cells have of it.
type Panel<'a> = ((&'a str, &'a str, f64), Vec<Line<'a>>);

/// Returns a chart for each workload that trained; nothing is missing where none did.
pub(super) fn draw(cells: &Cells<'_>) -> Result<Vec<Chart>, ChartError> {
    let workloads = cells.workloads("train_loss");
    workloads.iter().enumerate().map(|(at, (workload, _))| draw_workload(cells, workload, at)).collect()
}

fn draw_workload(cells: &Cells<'_>, workload: &str, at: usize) -> Result<Chart, ChartError> {
    let name = if at == 0 { NAME.to_owned() } else { format!("{NAME}-{}", at + 1) };
    let panels: Vec<Panel<'_>> = PANELS
        .iter()
        .map(|panel| (*panel, cells.list.iter().filter_map(|cell| line(cell, panel.0, workload)).collect::<Vec<_>>()))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    let title = format!("{}: {workload}", cells.recipe);
    let caption = "Learning rate: what the update of a step used. Loss: mean over the scored tokens of a step, before its \
                   update. Held-out loss: after so many updates, on data that is not learned from; its least is what was \
                   stored. Steps count from 0.";
    let frame = Frame::new(&title, &cells.facts, caption);
    let shown: Vec<&Cell<'_>> =
        cells.list.iter().filter(|cell| cell.summary.find("train_loss", workload).is_some()).collect();
    let legend = LEGEND_LINE * shown.len() as f64 + 10.0;
    let height = frame.top()
        + legend
        + panels.iter().map(|((_, _, height), _)| height + X_AXIS_HEIGHT).sum::<f64>()
        + frame.bottom();
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        for (row, cell) in shown.iter().enumerate() {
            let y = frame.top() + (row as f64 + 0.5) * LEGEND_LINE;
            canvas
                .path(&[(MARGIN, y), (MARGIN + 28.0, y)], Stroke { dash: cell.dash, ..Stroke::solid(cell.color, 2.0) });
            let least = cell.summary.find("train_eval_nll", workload).map(|nll| format!(" (held-out {:.4})", nll.mean));
            let label = if cell.label.is_empty() { workload } else { &cell.label };
            let label = format!("{label}{}", least.unwrap_or_default());
            canvas.text((MARGIN + 36.0, y), &label, LABEL_SIZE, INK, Anchor::Start);
        }
        let mut top = frame.top() + legend;
        for ((_, title, height), lines) in &panels {
            let plot = Plot { left: MARGIN + 80.0, right: WIDTH - MARGIN - 20.0, top, bottom: top + height };
            draw_panel(canvas, title, lines, plot);
            top += height + X_AXIS_HEIGHT;
        }
    })?;
    Ok(Chart { name, title, svg, csv: csv(&panels) })
}

/// Returns what the last launch that trained recorded: an earlier one was stopped on its way.
fn line<'a>(cell: &'a Cell<'a>, metric: &str, workload: &str) -> Option<Line<'a>> {
    let rows = cell.record.samples.iter().filter(|row| {
        row.metric == metric && row.workload == workload && row.arm == Arm::Candidate.name() && row.valid
    });
    let launch = rows.clone().map(|row| row.launch).max()?;
    let mut points: Vec<(u64, f64)> =
        rows.filter(|row| row.launch == launch).filter_map(|row| Some((row.step?, row.value))).collect();
    points.sort_by_key(|(step, _)| *step);
    (!points.is_empty()).then_some(Line { cell, points })
}

fn draw_panel(canvas: &mut Canvas<'_>, title: &str, lines: &[Line<'_>], plot: Plot) {
    let all = || lines.iter().flat_map(|line| &line.points);
    let last = all().map(|(step, _)| *step).max().unwrap_or(0).max(1);
    let (least, most) =
        all().fold((f64::INFINITY, 0.0f64), |(least, most), (_, value)| (least.min(*value), most.max(*value)));
    // Losses are told apart by where they are, rates by how far from nothing.
    let low = if least > most / 4.0 { least - (most - least) * 0.08 } else { 0.0 };
    let high = if most > low { most + (most - low) * 0.05 } else { low + 1.0 };
    let steps = Scale::linear((0.0, last as f64), (plot.left, plot.right));
    let scale = Scale::linear((low, high), (plot.bottom, plot.top));
    plot.x_axis(canvas, &steps, 10, "step");
    plot.y_axis(canvas, &scale, 5, title);
    for Line { cell, points } in lines {
        let points: Vec<_> = points.iter().map(|(step, value)| (steps.at(*step as f64), scale.at(*value))).collect();
        canvas.path(&points, Stroke { dash: cell.dash, ..Stroke::solid(cell.color, 1.8) });
    }
}

fn csv(panels: &[Panel<'_>]) -> String {
    let mut csv = Csv::new(&["cell", "run_id", "metric", "step", "value"]);
    for ((metric, ..), lines) in panels {
        for Line { cell, points } in lines {
            for (step, value) in points {
                let run = cell.summary.run_id.clone();
                csv.row([cell.label.clone(), run, (*metric).to_owned(), step.to_string(), number(Some(*value))]);
            }
        }
    }
    csv.finish()
}
