//! Divergence of every cell from its reference, beside how often both hold the same token likeliest.
use super::{
    Chart, ChartError, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::{Cell, Cells},
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, SMALL_SIZE, TICK_SIZE, WIDTH, X_AXIS_HEIGHT},
    palette::{AXIS, INK, SOFT},
    scale::Scale,
    text,
};
use crate::{
    metrics::{MetricSummary, stats::Interval},
    report::number as show,
};

const NAME: &str = "kl_divergence";
const GAP: f64 = 34.0;
const MOST_LABEL_WIDTH: f64 = 280.0;
/// From this ratio of greatest to least divergence on, the axis is logarithmic.
const LOG_FROM: f64 = 6.0;
/// Metrics with their marks, from left to right.
const MARKS: [(&str, Mark); 3] = [("kl_mean", Mark::Disc), ("kl_p50", Mark::Tick), ("kl_p99", Mark::Ring)];

#[derive(Clone, Copy)]
enum Mark {
    Disc,
    Tick,
    Ring,
}

/// Returns a chart for each workload that measured divergence; few recipes have one, and nothing is
/// missing where none does.
pub(super) fn draw(cells: &Cells<'_>) -> Result<Vec<Chart>, ChartError> {
    let workloads = cells.workloads("kl_mean");
    workloads.iter().enumerate().map(|(at, (workload, _))| draw_workload(cells, workload, at)).collect()
}

fn draw_workload(cells: &Cells<'_>, workload: &str, at: usize) -> Result<Chart, ChartError> {
    let name = if at == 0 { NAME.to_owned() } else { format!("{NAME}-{}", at + 1) };
    let measured: Vec<&Cell<'_>> =
        cells.list.iter().filter(|cell| cell.summary.find("kl_mean", workload).is_some()).collect();
    let title = format!("{}: divergence from the reference", cells.recipe);
    let left_out = cells.list.len() - measured.len();
    let missing = if left_out == 0 {
        String::new()
    } else {
        format!(" {} without it left out.", show::count(left_out, "cell", "cells"))
    };
    let caption = format!(
        "{workload}. Discs: mean over the scored tokens, with its 95 % interval over windows of the text (Student's t). \
         Tick: median; ring: 99th percentile of the tokens. Numbers: the means. Right: share of tokens where both hold the same one \
         likeliest, with its 95 % interval over windows.{missing}"
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let row = if measured.len() > 8 { 26.0 } else { 34.0 };
    let band = row * measured.len() as f64;
    let height = frame.top() + band + X_AXIS_HEIGHT + frame.bottom();
    let widest = measured.iter().map(|cell| text::width(&cell.label, LABEL_SIZE)).fold(0.0, f64::max);
    let labels = widest.min(MOST_LABEL_WIDTH);
    let left = MARGIN + labels + 14.0;
    let split = left + (WIDTH - MARGIN - left) * 0.60;
    let (top, bottom) = (frame.top(), frame.top() + band);
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        for (i, cell) in measured.iter().enumerate() {
            let label = text::fit(&cell.label, LABEL_SIZE, labels + 0.5);
            canvas.text((MARGIN + labels, top + (i as f64 + 0.5) * row), &label, LABEL_SIZE, INK, Anchor::End);
        }
        divergences(canvas, &measured, workload, Plot { left, right: split - GAP / 2.0, top, bottom }, row);
        let plot = Plot { left: split + GAP / 2.0, right: WIDTH - MARGIN, top, bottom };
        agreements(canvas, &measured, workload, plot, row);
    })?;
    Ok(Chart { name, title, svg, csv: csv(&measured, workload) })
}

fn value_text(summary: &MetricSummary) -> String {
    show::with_interval(summary.mean, summary.interval)
}

/// Returns how much of the plot is left of the values written beside the marks.
fn narrowed(plot: Plot, texts: impl Iterator<Item = String>) -> Plot {
    let widest = texts.map(|text| text::width(&text, TICK_SIZE)).fold(0.0, f64::max);
    Plot { right: (plot.right - widest - 12.0).max(plot.left + 60.0), ..plot }
}

fn divergences(canvas: &mut Canvas<'_>, cells: &[&Cell<'_>], workload: &str, plot: Plot, row: f64) {
    let of = |cell: &Cell<'_>, metric: &str| cell.summary.find(metric, workload).cloned();
    let means: Vec<MetricSummary> = cells.iter().filter_map(|cell| of(cell, "kl_mean")).collect();
    let bars = narrowed(plot, means.iter().map(value_text));
    let shown: Vec<f64> = cells
        .iter()
        .flat_map(|cell| MARKS.iter().filter_map(|(metric, _)| Some(of(cell, metric)?.mean)))
        .chain(means.iter().filter_map(|mean| Some(mean.interval?.high)))
        .collect();
    let least = shown.iter().copied().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    let most = shown.iter().copied().fold(0.0, f64::max);
    let is_log = means.iter().all(|mean| mean.mean > 0.0) && most / least >= LOG_FROM;
    let range = (bars.left, bars.right);
    let scale = if is_log {
        Scale::log((least, most), range, 0.04)
    } else {
        Scale::linear((0.0, if most > 0.0 { most * 1.04 } else { 1.0 }), range)
    };
    let place = |value: f64| scale.at(if is_log { value.max(least) } else { value.max(0.0) }).max(bars.left);
    let spread = if is_log { " (logarithmic)" } else { "" };
    bars.x_axis(canvas, &scale, 5, &format!("KL divergence, nats{spread}"));
    for (at, cell) in cells.iter().enumerate() {
        let y = plot.top + (at as f64 + 0.5) * row;
        for (metric, mark) in MARKS {
            let Some(summary) = of(cell, metric) else { continue };
            if let Some(Interval { low, high }) = summary.interval {
                whisker(canvas, (place(low), place(high)), y, row * 0.16);
            }
            let x = place(summary.mean);
            match mark {
                Mark::Disc => canvas.disc((x, y), 5.5, cell.color),
                Mark::Tick => canvas.line((x, y - row * 0.26), (x, y + row * 0.26), Stroke::solid(cell.color, 2.2)),
                Mark::Ring => canvas.ring((x, y), 4.5, cell.color),
            }
        }
        if let Some(mean) = of(cell, "kl_mean") {
            canvas.text((plot.right, y), &value_text(&mean), TICK_SIZE, INK, Anchor::End);
        }
    }
    canvas.line((plot.left, plot.top), (plot.left, plot.bottom), Stroke::solid(AXIS, 1.0));
}

fn agreements(canvas: &mut Canvas<'_>, cells: &[&Cell<'_>], workload: &str, plot: Plot, row: f64) {
    let found: Vec<Option<MetricSummary>> =
        cells.iter().map(|cell| cell.summary.find("top1_agreement", workload).cloned()).collect();
    let percent = |summary: &MetricSummary| {
        let interval = summary.interval.map(|Interval { low, high }| Interval { low: low * 100.0, high: high * 100.0 });
        show::with_interval(summary.mean * 100.0, interval)
    };
    let bars = narrowed(plot, found.iter().flatten().map(percent));
    let lowest = found.iter().flatten().map(|s| s.interval.map_or(s.mean, |i| i.low) * 100.0).fold(100.0, f64::min);
    let room = ((100.0 - lowest) * 0.08).max(0.05);
    let scale = Scale::linear(((lowest - room).max(0.0), 100.0), (bars.left, bars.right));
    bars.x_axis(canvas, &scale, 4, "top-1 agreement, %");
    for (at, (cell, summary)) in cells.iter().zip(&found).enumerate() {
        let y = plot.top + (at as f64 + 0.5) * row;
        let Some(summary) = summary else {
            canvas.text((plot.left + 6.0, y), "not measured", SMALL_SIZE, SOFT, Anchor::Start);
            continue;
        };
        let place = |share: f64| scale.at((share * 100.0).min(100.0)).max(bars.left);
        if let Some(Interval { low, high }) = summary.interval {
            whisker(canvas, (place(low), place(high)), y, row * 0.16);
        }
        canvas.disc((place(summary.mean), y), 5.5, cell.color);
        canvas.text((plot.right, y), &percent(summary), TICK_SIZE, INK, Anchor::End);
    }
    canvas.line((plot.left, plot.top), (plot.left, plot.bottom), Stroke::solid(AXIS, 1.0));
}

fn whisker(canvas: &mut Canvas<'_>, (low, high): (f64, f64), y: f64, half: f64) {
    let stroke = Stroke::solid(INK, 1.3);
    canvas.line((low, y), (high, y), stroke);
    for x in [low, high] {
        canvas.line((x, y - half), (x, y + half), stroke);
    }
}

fn csv(cells: &[&Cell<'_>], workload: &str) -> String {
    const METRICS: [&str; 8] = [
        "kl_mean",
        "kl_p50",
        "kl_p99",
        "kl_p999",
        "kl_max",
        "top1_agreement",
        "perplexity_log_ratio",
        "reference_perplexity",
    ];
    let mut csv = Csv::new(&["cell", "run_id", "workload", "metric", "value", "low", "high"]);
    for cell in cells {
        for summary in METRICS.iter().filter_map(|metric| cell.summary.find(metric, workload)) {
            csv.row([
                cell.label.clone(),
                cell.summary.run_id.clone(),
                workload.to_owned(),
                summary.metric.clone(),
                number(Some(summary.mean)),
                number(summary.interval.map(|interval| interval.low)),
                number(summary.interval.map(|interval| interval.high)),
            ]);
        }
    }
    csv.finish()
}
