//! Speeds of all cells: bars with their 95 % intervals, a panel a metric.
use super::{
    Attempt, Chart, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::{Cell, Cells},
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, SMALL_SIZE, TICK_SIZE, WIDTH, X_AXIS_HEIGHT},
    palette::{AXIS, INK, SOFT},
    scale::Scale,
    skipped, text,
};
use crate::{
    metrics::{self, MetricSummary},
    report::number as show,
};

const NAME: &str = "throughput";
const GAP: f64 = 34.0;
const LINE_GAP: f64 = 22.0;
const MOST_LABEL_WIDTH: f64 = 300.0;

struct Panel {
    metric: &'static str,
    workload: String,
    title: String,
}

fn panels(cells: &Cells<'_>) -> Vec<Panel> {
    let speeds = ["prefill_tok_s", "decode_tok_s"].into_iter().filter_map(metrics::find);
    speeds
        .flat_map(|metric| {
            cells.workloads(metric.name).into_iter().map(|(workload, _)| Panel {
                metric: metric.name,
                title: format!("{}, {} · {workload}", metric.title, metric.unit),
                workload,
            })
        })
        .collect()
}

pub(super) fn draw(cells: &Cells<'_>) -> Attempt {
    let panels = panels(cells);
    if panels.is_empty() {
        return skipped(NAME, "no prompt or generation speed was measured");
    }
    let title =
        format!("{}: prompt and generation speed of {}", cells.recipe, show::count(cells.list.len(), "cell", "cells"));
    let shown = panels.iter().flat_map(|p| cells.list.iter().filter_map(|c| c.summary.find(p.metric, &p.workload)));
    let against =
        cells.reference().map(|reference| format!(" Multiples are of {reference} (grey).")).unwrap_or_default();
    let caption = format!(
        "Mean over launches (processes), {}; whiskers are 95 % intervals (Student's t). More is better.{against}",
        Cells::launches(shown)
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let row = if cells.list.len() > 8 { 26.0 } else { 36.0 };
    let band = row * cells.list.len() as f64;
    let per_line = panels.len().min(2);
    let lines = panels.len().div_ceil(per_line);
    let line_height = band + X_AXIS_HEIGHT;
    let height = frame.top() + lines as f64 * line_height + (lines - 1) as f64 * LINE_GAP + frame.bottom();
    let widest = cells.list.iter().map(|cell| text::width(&cell.label, LABEL_SIZE)).fold(0.0, f64::max);
    let labels = widest.min(MOST_LABEL_WIDTH);
    let room = WIDTH - 2.0 * MARGIN - labels - 12.0;
    let width = (room - GAP * (per_line - 1) as f64) / per_line as f64;
    let svg = canvas::draw(NAME, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        for (at, panel) in panels.iter().enumerate() {
            let (line, place) = (at / per_line, at % per_line);
            let left = MARGIN + labels + 12.0 + place as f64 * (width + GAP);
            let top = frame.top() + line as f64 * (line_height + LINE_GAP);
            let plot = Plot { left, right: left + width, top, bottom: top + band };
            draw_panel(canvas, cells, panel, plot, row);
            if place == 0 {
                for (i, cell) in cells.list.iter().enumerate() {
                    let label = text::fit(&cell.label, LABEL_SIZE, labels + 0.5);
                    let y = top + (i as f64 + 0.5) * row;
                    canvas.text((MARGIN + labels, y), &label, LABEL_SIZE, INK, Anchor::End);
                }
            }
        }
    })?;
    Ok(Ok(Chart { name: NAME.to_owned(), title, svg, csv: csv(cells, &panels) }))
}

/// Returns the value with its half width, and the multiple of the baseline where there is one.
fn value_texts(cells: &Cells<'_>, at: usize, summary: &MetricSummary) -> (String, String) {
    let value = show::with_interval(summary.mean, summary.interval);
    let baseline = cells.twins.of(at);
    let reference = baseline.and_then(|at| cells.list[at].summary.find(&summary.metric, &summary.workload));
    let multiple = reference
        .filter(|reference| reference.mean > 0.0)
        .map_or_else(String::new, |reference| format!("×{}", show::significant(summary.mean / reference.mean, 3)));
    (value, multiple)
}

fn draw_panel(canvas: &mut Canvas<'_>, cells: &Cells<'_>, panel: &Panel, plot: Plot, row: f64) {
    let found = |cell: &'_ Cell<'_>| cell.summary.find(panel.metric, &panel.workload).cloned();
    let summaries: Vec<Option<MetricSummary>> = cells.list.iter().map(found).collect();
    let texts: Vec<Option<(String, String)>> =
        summaries.iter().enumerate().map(|(at, s)| s.as_ref().map(|s| value_texts(cells, at, s))).collect();
    let text_width = |(value, multiple): &(String, String)| {
        let space = if multiple.is_empty() { 0.0 } else { 8.0 };
        text::width(value, TICK_SIZE) + space + text::width(multiple, TICK_SIZE)
    };
    let reserved = texts.iter().flatten().map(text_width).fold(0.0, f64::max) + 10.0;
    let end = |s: &MetricSummary| s.interval.map_or(s.mean, |interval| interval.high.max(s.mean));
    let most = summaries.iter().flatten().map(end).fold(0.0, f64::max);
    let bars = Plot { right: (plot.right - reserved).max(plot.left + 60.0), ..plot };
    // Bars must begin at zero: their length is the message.
    let scale = Scale::linear((0.0, if most > 0.0 { most } else { 1.0 }), (bars.left, bars.right));
    let ticks = ((bars.right - bars.left) / 50.0) as usize;
    bars.x_axis(canvas, &scale, ticks.max(2), &panel.title);
    for (at, (summary, texts)) in summaries.iter().zip(&texts).enumerate() {
        let y = plot.top + (at as f64 + 0.5) * row;
        let (Some(summary), Some((value, multiple))) = (summary, texts) else {
            canvas.text((plot.left + 6.0, y), "not measured", SMALL_SIZE, SOFT, Anchor::Start);
            continue;
        };
        let half = row * 0.32;
        canvas.rect((plot.left, y - half), (scale.at(summary.mean), y + half), cells.list[at].color);
        if let Some(interval) = summary.interval {
            whisker(canvas, (scale.at(interval.low.max(0.0)), scale.at(interval.high)), y, half * 0.5);
        }
        let x = scale.at(end(summary)) + 8.0;
        canvas.text((x, y), value, TICK_SIZE, INK, Anchor::Start);
        canvas.text((x + text::width(value, TICK_SIZE) + 8.0, y), multiple, TICK_SIZE, SOFT, Anchor::Start);
    }
    canvas.line((plot.left, plot.top), (plot.left, plot.bottom), Stroke::solid(AXIS, 1.0));
}

/// Draws an interval so that it shows on the bar as well as beside it.
fn whisker(canvas: &mut Canvas<'_>, (low, high): (f64, f64), y: f64, half: f64) {
    for stroke in [Stroke::solid(super::palette::WHITE, 3.4), Stroke::solid(INK, 1.4)] {
        canvas.line((low, y), (high, y), stroke);
        for x in [low, high] {
            canvas.line((x, y - half), (x, y + half), stroke);
        }
    }
}

fn csv(cells: &Cells<'_>, panels: &[Panel]) -> String {
    let mut csv =
        Csv::new(&["cell", "run_id", "metric", "workload", "n", "mean", "low", "high", "median", "min", "max"]);
    for panel in panels {
        for cell in &cells.list {
            let Some(summary) = cell.summary.find(panel.metric, &panel.workload) else { continue };
            let mut fields = vec![cell.label.clone(), cell.summary.run_id.clone(), summary.metric.clone()];
            fields.extend([summary.workload.clone(), summary.n.to_string()]);
            fields.extend([
                number(Some(summary.mean)),
                number(summary.interval.map(|interval| interval.low)),
                number(summary.interval.map(|interval| interval.high)),
                number(Some(summary.median)),
                number(Some(summary.min)),
                number(Some(summary.max)),
            ]);
            csv.row(fields);
        }
    }
    csv.finish()
}
