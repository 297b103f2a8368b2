//! Gaps between tokens: the share of gaps no longer than x, a line a cell.
use std::collections::BTreeSet;

use super::{
    Attempt, Chart, ChartError, Skipped, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::{Cell, Cells},
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, SMALL_SIZE, TICK_SIZE, WIDTH, X_AXIS_HEIGHT},
    palette::{AXIS, INK, SOFT},
    scale::Scale,
    skipped, text,
};
use crate::{event::Arm, metrics::stats, report::number as show, results::TokenRow};

const NAME: &str = "itl_ecdf";
const PLOT_HEIGHT: f64 = 330.0;
const LEGEND_LINE: f64 = 20.0;
/// Points of a line: more cannot be seen at this width.
const POINTS: usize = 400;
/// From this ratio of longest to shortest gap on, the axis is logarithmic.
const LOG_FROM: f64 = 4.0;
const GUIDES: [(f64, &str); 3] = [(0.50, "p50"), (0.95, "p95"), (0.99, "p99")];

struct Line<'a> {
    cell: &'a Cell<'a>,
    /// Milliseconds, ascending.
    gaps: Vec<f64>,
    launches: usize,
}

impl Line<'_> {
    fn quantile(&self, p: f64) -> f64 {
        stats::quantile(&self.gaps, p).unwrap_or(f64::NAN)
    }
}

type Outcome = Result<Chart, Skipped>;

pub(super) fn draw(cells: &Cells<'_>) -> Result<Vec<Outcome>, ChartError> {
    let mut workloads: Vec<&str> = Vec::new();
    // Scored tokens have no times of their own.
    for row in cells.list.iter().flat_map(|cell| cell.tokens).filter(|row| row.nll.is_none()) {
        if !workloads.contains(&row.workload.as_str()) {
            workloads.push(&row.workload);
        }
    }
    let charts: Vec<Outcome> = workloads
        .iter()
        .enumerate()
        .map(|(at, workload)| draw_workload(cells, workload, at))
        .collect::<Result<_, _>>()?;
    if charts.is_empty() {
        return Ok(vec![skipped(NAME, "no token times are stored (measure.token_trace)")?]);
    }
    Ok(charts)
}

fn draw_workload(cells: &Cells<'_>, workload: &str, at: usize) -> Attempt {
    let name = if at == 0 { NAME.to_owned() } else { format!("{NAME}-{}", at + 1) };
    let lines: Vec<Line<'_>> = cells.list.iter().filter_map(|cell| line(cell, workload)).collect();
    let (Some(shortest), Some(longest)) = (
        lines.iter().filter_map(|line| line.gaps.first().copied()).min_by(f64::total_cmp),
        lines.iter().filter_map(|line| line.gaps.last().copied()).max_by(f64::total_cmp),
    ) else {
        return skipped(&name, "the stored token times have no gaps that count");
    };
    let title = format!("{}: gaps between tokens in {workload}", cells.recipe);
    let launches: Vec<usize> = lines.iter().map(|line| line.launches).collect();
    let caption = format!(
        "Share of all gaps between neighbouring output tokens that are no longer than x, all launches (n = {}) \
         together, warm-up left out. Further left is better; a long tail to the right is stutter.",
        show::range(&launches)
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let legend = LEGEND_LINE * (lines.len() + 1) as f64 + 8.0;
    let height = frame.top() + PLOT_HEIGHT + X_AXIS_HEIGHT + legend + frame.bottom();
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let plot = Plot {
            left: MARGIN + 62.0,
            right: WIDTH - MARGIN - 40.0,
            top: frame.top(),
            bottom: frame.top() + PLOT_HEIGHT,
        };
        draw_plot(canvas, &lines, (shortest, longest), plot);
        draw_legend(canvas, &lines, (plot.left, plot.bottom + X_AXIS_HEIGHT + LEGEND_LINE / 2.0 + 4.0));
    })?;
    Ok(Ok(Chart { name, title, svg, csv: csv(&lines) }))
}

fn line<'a>(cell: &'a Cell<'a>, workload: &str) -> Option<Line<'a>> {
    // What earlier versions stored has tokens of launches that failed, too.
    let finished: BTreeSet<u32> = cell.record.samples.iter().filter(|row| row.valid).map(|row| row.launch).collect();
    let counts = |row: &&TokenRow| {
        let is_asked_for = row.workload == workload && row.arm == Arm::Candidate.name();
        is_asked_for && !row.warmup && finished.contains(&row.launch)
    };
    let rows = || cell.tokens.iter().filter(counts);
    let mut gaps: Vec<f64> =
        rows().filter_map(|row| row.itl_ns).map(|ns| ns as f64 * 1.0e-6).filter(|ms| *ms > 0.0).collect();
    gaps.sort_by(f64::total_cmp);
    let launches: BTreeSet<u32> = rows().map(|row| row.launch).collect();
    (!gaps.is_empty()).then_some(Line { cell, gaps, launches: launches.len() })
}

fn draw_plot(canvas: &mut Canvas<'_>, lines: &[Line<'_>], (shortest, longest): (f64, f64), plot: Plot) {
    let range = (plot.left, plot.right);
    let scale = if longest / shortest >= LOG_FROM {
        Scale::log((shortest, longest), range, 0.03)
    } else {
        let room = ((longest - shortest) * 0.05).max(longest * 0.01);
        Scale::linear(((shortest - room).max(0.0), longest + room), range)
    };
    let unit = if scale.is_log() { "gap between tokens, ms (logarithmic)" } else { "gap between tokens, ms" };
    plot.x_axis(canvas, &scale, 9, unit);
    let share = Scale::linear((0.0, 100.0), (plot.bottom, plot.top));
    plot.y_axis(canvas, &share, 5, "share of gaps, %");
    for (p, label) in GUIDES {
        let y = share.at(p * 100.0);
        canvas.line((plot.left, y), (plot.right, y), Stroke::dashed(AXIS, 1.0));
        let y = if p > 0.97 { y - 3.0 } else { y + if p > 0.9 { 5.0 } else { 0.0 } };
        canvas.text((plot.right + 6.0, y), label, SMALL_SIZE, SOFT, Anchor::Start);
    }
    for line in lines {
        let points = steps(line).into_iter().map(|(gap, part)| (scale.at(gap), share.at(part * 100.0)));
        let stroke = Stroke { color: line.cell.color, width: 2.0, dash: line.cell.dash };
        canvas.path(&points.collect::<Vec<_>>(), stroke);
    }
}

/// Returns the corners of the distribution's staircase, thinned evenly but for the last steps, where
/// the tail is.
fn steps(line: &Line<'_>) -> Vec<(f64, f64)> {
    let n = line.gaps.len();
    let tail = n.saturating_sub(POINTS / 4);
    let stride = n.div_ceil(POINTS).max(1);
    let mut points = vec![(line.gaps[0], 0.0)];
    let mut reached = 0.0;
    for (at, gap) in line.gaps.iter().enumerate().filter(|(at, _)| *at >= tail || at % stride == 0) {
        points.push((*gap, reached));
        reached = (at + 1) as f64 / n as f64;
        points.push((*gap, reached));
    }
    points
}

fn draw_legend(canvas: &mut Canvas<'_>, lines: &[Line<'_>], (left, top): (f64, f64)) {
    let widest = lines.iter().map(|line| text::width(&line.cell.label, LABEL_SIZE)).fold(0.0, f64::max);
    let label_width = widest.min(380.0);
    let column = |at: usize| left + 46.0 + label_width + 80.0 * (at + 1) as f64;
    for (at, heading) in ["gaps", "p50 ms", "p95 ms", "p99 ms"].into_iter().enumerate() {
        canvas.text((column(at), top), heading, TICK_SIZE, SOFT, Anchor::End);
    }
    for (i, line) in lines.iter().enumerate() {
        let y = top + (i + 1) as f64 * LEGEND_LINE;
        let stroke = Stroke { color: line.cell.color, width: 3.0, dash: line.cell.dash };
        canvas.line((left, y), (left + 34.0, y), stroke);
        let label = text::fit(&line.cell.label, LABEL_SIZE, label_width + 0.5);
        canvas.text((left + 44.0, y), &label, LABEL_SIZE, INK, Anchor::Start);
        canvas.text((column(0), y), &show::fixed(line.gaps.len() as f64, 0), TICK_SIZE, INK, Anchor::End);
        for (at, (p, _)) in GUIDES.iter().enumerate() {
            canvas.text((column(at + 1), y), &show::significant(line.quantile(*p), 3), TICK_SIZE, INK, Anchor::End);
        }
    }
}

fn csv(lines: &[Line<'_>]) -> String {
    let mut csv = Csv::new(&["cell", "run_id", "gaps", "itl_ms", "share"]);
    for line in lines {
        let n = line.gaps.len().to_string();
        for (gap, share) in steps(line).into_iter().skip(2).step_by(2) {
            let fields = [line.cell.label.clone(), line.cell.summary.run_id.clone(), n.clone()];
            csv.row(fields.into_iter().chain([number(Some(gap)), number(Some(share))]));
        }
    }
    csv.finish()
}
