//! A full cache: its memory over time, the steps its transitions lengthen, what it costs in quality
//! for its memory, and that by position.
use std::collections::BTreeSet;

use super::{
    Chart, ChartError, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::{Cell, Cells},
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, SMALL_SIZE, WIDTH, X_AXIS_HEIGHT},
    palette::{AXIS, INK, SOFT},
    scale::Scale,
    text,
};
use crate::event::Arm;

const PLOT_HEIGHT: f64 = 320.0;
const PANEL_HEIGHT: f64 = 96.0;
const LEGEND_LINE: f64 = 20.0;
const MIB: f64 = 1_048_576.0;

/// A cell's values by step.
struct Line<'a> {
    cell: &'a Cell<'a>,
    points: Vec<(f64, f64)>,
}

/// Returns the values of a metric that has one at each step, those of the first launch that has any.
fn line<'a>(cell: &'a Cell<'a>, metric: &str, workload: &str, factor: f64) -> Option<Line<'a>> {
    let rows = || {
        cell.record.samples.iter().filter(|row| {
            row.metric == metric && row.workload == workload && row.valid && row.arm == Arm::Candidate.name()
        })
    };
    let first = rows().filter(|row| row.step.is_some()).map(|row| row.launch).min()?;
    let at_steps = rows().filter(|row| row.launch == first);
    let mut points: Vec<(f64, f64)> =
        at_steps.filter_map(|row| row.step.map(|step| (step as f64, row.value * factor))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    (!points.is_empty()).then_some(Line { cell, points })
}

/// What a chart of lines says.
struct Words<'a> {
    name: &'a str,
    title: &'a str,
    caption: &'a str,
    x: &'a str,
    y: &'a str,
    column: &'a str,
}

/// Returns the charts of every workload that filled a cache; few recipes have one, and nothing is
/// missing where none does.
pub(super) fn draw(cells: &Cells<'_>) -> Result<Vec<Chart>, ChartError> {
    let mut workloads: Vec<&str> = Vec::new();
    for row in cells.list.iter().flat_map(|cell| &cell.record.samples) {
        if ["kv_used_bytes", "nll_at_position"].contains(&row.metric.as_str())
            && !workloads.contains(&row.workload.as_str())
        {
            workloads.push(&row.workload);
        }
    }
    let mut charts = Vec::new();
    for (at, workload) in workloads.into_iter().enumerate() {
        let suffix = if at == 0 { String::new() } else { format!("-{}", at + 1) };
        charts.extend(memory(cells, workload, &suffix)?);
        charts.extend(steps(cells, workload, &suffix)?);
        charts.extend(quality(cells, workload, &suffix)?);
        charts.extend(by_position(cells, workload, &suffix)?);
    }
    Ok(charts)
}

fn memory(cells: &Cells<'_>, workload: &str, suffix: &str) -> Result<Option<Chart>, ChartError> {
    let lines: Vec<_> = cells.list.iter().filter_map(|cell| line(cell, "kv_used_bytes", workload, 1.0 / MIB)).collect();
    let caption =
        format!("{workload}, first launch. Bytes of the cache's pages in memory after every step of the trace.");
    let words = Words {
        name: &format!("cache_memory{suffix}"),
        title: &format!("{}: memory of the cache over time", cells.recipe),
        caption: &caption,
        x: "step",
        y: "pages in memory, MiB",
        column: "kv_used_mib",
    };
    draw_lines(cells, &lines, &words, true)
}

fn by_position(cells: &Cells<'_>, workload: &str, suffix: &str) -> Result<Option<Chart>, ChartError> {
    let lines: Vec<_> = cells.list.iter().filter_map(|cell| line(cell, "nll_at_position", workload, 1.0)).collect();
    let caption = format!(
        "{workload}. Mean negative log-likelihood of the tokens in each sixteenth of the texts, from its first position on. Lower is better."
    );
    let words = Words {
        name: &format!("cache_position{suffix}"),
        title: &format!("{}: prediction by position", cells.recipe),
        caption: &caption,
        x: "position, tokens",
        y: "nats a token",
        column: "nll",
    };
    draw_lines(cells, &lines, &words, false)
}

fn extent(lines: &[Line<'_>], from_zero: bool) -> ((f64, f64), (f64, f64)) {
    let all = || lines.iter().flat_map(|line| &line.points);
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
    };
    let (left, right) = ends(&mut all().map(|point| point.0));
    let (low, high) = ends(&mut all().map(|point| point.1));
    let low = if from_zero { 0.0 } else { low };
    let room = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.1 };
    let low = if from_zero { 0.0 } else { low - room };
    ((left, if right > left { right } else { left + 1.0 }), (low, high + room))
}

fn draw_lines(
    cells: &Cells<'_>,
    lines: &[Line<'_>],
    words: &Words<'_>,
    from_zero: bool,
) -> Result<Option<Chart>, ChartError> {
    if lines.is_empty() {
        return Ok(None);
    }
    let frame = Frame::new(words.title, &cells.facts, words.caption);
    let legend = LEGEND_LINE * lines.len() as f64 + 8.0;
    let height = frame.top() + PLOT_HEIGHT + X_AXIS_HEIGHT + legend + frame.bottom();
    let (xs, ys) = extent(lines, from_zero);
    let svg = canvas::draw(words.name, words.title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let (top, bottom) = (frame.top(), frame.top() + PLOT_HEIGHT);
        let plot = Plot { left: MARGIN + 72.0, right: WIDTH - MARGIN, top, bottom };
        let x = Scale::linear(xs, (plot.left, plot.right));
        let y = Scale::linear(ys, (plot.bottom, plot.top));
        plot.x_axis(canvas, &x, 9, words.x);
        plot.y_axis(canvas, &y, 6, words.y);
        for line in lines {
            let points: Vec<_> = line.points.iter().map(|point| (x.at(point.0), y.at(point.1))).collect();
            canvas.path(&points, Stroke { color: line.cell.color, width: 2.0, dash: line.cell.dash });
        }
        let first = plot.bottom + X_AXIS_HEIGHT + LEGEND_LINE / 2.0;
        for (at, line) in lines.iter().enumerate() {
            draw_key(canvas, line.cell, (plot.left, first + at as f64 * LEGEND_LINE));
        }
    })?;
    let mut csv = Csv::new(&["cell", "run_id", "step", words.column]);
    for line in lines {
        for (step, value) in &line.points {
            let fields = [line.cell.label.clone(), line.cell.summary.run_id.clone()];
            csv.row(fields.into_iter().chain([number(Some(*step)), number(Some(*value))]));
        }
    }
    Ok(Some(Chart { name: words.name.to_owned(), title: words.title.to_owned(), svg, csv: csv.finish() }))
}

fn draw_key(canvas: &mut Canvas<'_>, cell: &Cell<'_>, (left, y): (f64, f64)) {
    canvas.line((left, y), (left + 34.0, y), Stroke { color: cell.color, width: 3.0, dash: cell.dash });
    let label = text::fit(&cell.label, LABEL_SIZE, WIDTH - MARGIN - left - 44.0);
    canvas.text((left + 44.0, y), &label, LABEL_SIZE, INK, Anchor::Start);
}

/// The time of every step, a panel a cell, with those marked that waited for a transition.
fn steps(cells: &Cells<'_>, workload: &str, suffix: &str) -> Result<Option<Chart>, ChartError> {
    let lines: Vec<_> = cells.list.iter().filter_map(|cell| line(cell, "step_ms", workload, 1.0)).collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let (name, title) =
        (format!("cache_steps{suffix}"), format!("{}: steps around transitions of the cache", cells.recipe));
    let caption = format!(
        "{workload}, first launch. Time of every step of the trace, prompts included. Discs: steps before which the \
         cache did something under pressure."
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let height = frame.top() + PANEL_HEIGHT * lines.len() as f64 + X_AXIS_HEIGHT + frame.bottom();
    let (xs, (_, highest)) = extent(&lines, true);
    let lowest = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(highest, f64::min);
    let marked: Vec<BTreeSet<u64>> = lines
        .iter()
        .map(|of| {
            let stalls = line(of.cell, "kv_stall_ms", workload, 1.0);
            stalls.map_or_else(BTreeSet::new, |stalls| stalls.points.iter().map(|point| point.0 as u64).collect())
        })
        .collect();
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        for (at, line) in lines.iter().enumerate() {
            let top = frame.top() + PANEL_HEIGHT * at as f64;
            let plot =
                Plot { left: MARGIN + 72.0, right: WIDTH - MARGIN, top: top + 22.0, bottom: top + PANEL_HEIGHT - 6.0 };
            let x = Scale::linear(xs, (plot.left, plot.right));
            let y = Scale::log((lowest.max(1e-3), highest.max(2e-3)), (plot.bottom, plot.top), 0.05);
            plot.y_axis(canvas, &y, 3, "ms");
            if at + 1 == lines.len() {
                plot.x_axis(canvas, &x, 9, "step");
            }
            canvas.text(
                (plot.left, top + 10.0),
                &text::fit(&line.cell.label, LABEL_SIZE, 640.0),
                LABEL_SIZE,
                INK,
                Anchor::Start,
            );
            let count = format!("{} with transitions", marked[at].len());
            canvas.text((plot.right, top + 10.0), &count, SMALL_SIZE, SOFT, Anchor::End);
            let place = |point: &(f64, f64)| (x.at(point.0), y.at(point.1.max(1e-3)));
            canvas.path(&line.points.iter().map(place).collect::<Vec<_>>(), Stroke::solid(line.cell.color, 1.2));
            for point in line.points.iter().filter(|point| marked[at].contains(&(point.0 as u64))) {
                canvas.disc(place(point), 3.0, line.cell.color);
            }
        }
    })?;
    let mut csv = Csv::new(&["cell", "run_id", "step", "step_ms", "transition"]);
    for (line, marked) in lines.iter().zip(&marked) {
        for (step, ms) in &line.points {
            csv.row([
                line.cell.label.clone(),
                line.cell.summary.run_id.clone(),
                number(Some(*step)),
                number(Some(*ms)),
                marked.contains(&(*step as u64)).to_string(),
            ]);
        }
    }
    Ok(Some(Chart { name, title, svg, csv: csv.finish() }))
}

/// Divergence from a cache without limit against the most memory the cache took.
fn quality(cells: &Cells<'_>, workload: &str, suffix: &str) -> Result<Option<Chart>, ChartError> {
    let points: Vec<(&Cell<'_>, f64, f64)> = cells
        .list
        .iter()
        .filter_map(|cell| {
            let bytes = cell.summary.find("kv_peak_bytes", workload)?.mean;
            Some((cell, bytes / MIB, cell.summary.find("kl_mean", workload)?.mean))
        })
        .collect();
    if points.len() < 2 {
        return Ok(None);
    }
    let (name, title) =
        (format!("cache_quality{suffix}"), format!("{}: quality against memory of the cache", cells.recipe));
    let caption = format!(
        "{workload}. Across: the most bytes of pages in memory, mean over launches. Up: mean divergence of the predictions from those of a cache without limit. Left and down is better."
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let height = frame.top() + PLOT_HEIGHT + X_AXIS_HEIGHT + frame.bottom();
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let (widest, highest) = (most(&mut points.iter().map(|p| p.1)), most(&mut points.iter().map(|p| p.2)));
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let (top, bottom) = (frame.top(), frame.top() + PLOT_HEIGHT);
        let plot = Plot { left: MARGIN + 72.0, right: WIDTH - MARGIN, top, bottom };
        let x = Scale::linear((0.0, widest.max(1e-6) * 1.05), (plot.left, plot.right));
        let y = Scale::linear((0.0, highest.max(1e-9) * 1.1), (plot.bottom, plot.top));
        plot.x_axis(canvas, &x, 8, "most memory of the cache, MiB");
        plot.y_axis(canvas, &y, 6, "KL divergence, nats");
        canvas.line((plot.left, plot.bottom), (plot.right, plot.bottom), Stroke::solid(AXIS, 1.0));
        for (at, (cell, bytes, kl)) in points.iter().enumerate() {
            let (px, py) = (x.at(*bytes), y.at(*kl));
            canvas.disc((px, py), 6.0, cell.color);
            // Points of equal quality lie on one line: their names go up in turn.
            let level = points[..at].iter().filter(|other| (y.at(other.2) - py).abs() < 14.0).count();
            let label = text::fit(&cell.label, LABEL_SIZE, 420.0);
            canvas.text((px - 10.0, py - 12.0 - 17.0 * level as f64), &label, LABEL_SIZE, cell.color, Anchor::End);
        }
    })?;
    let mut csv = Csv::new(&["cell", "run_id", "kv_peak_mib", "kl_mean"]);
    for (cell, bytes, kl) in &points {
        csv.row([cell.label.clone(), cell.summary.run_id.clone(), number(Some(*bytes)), number(Some(*kl))]);
    }
    Ok(Some(Chart { name, title, svg, csv: csv.finish() }))
}
