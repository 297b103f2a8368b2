//! Changes with their intervals and the thresholds they are held to: the gate's own picture.
use super::{
    Attempt, Chart, ChartError, Skipped, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::Cells,
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, SMALL_SIZE, TICK_SIZE, WIDTH},
    palette::{self, AXIS, Color, GREEN, GRID, INK, SOFT, VERMILION, WHITE},
    skipped, text,
};
use crate::{
    metrics::{self, Direction, stats::Ratio},
    report::{
        compare::{Comparison, MetricComparison, Side, Worse, compare},
        gate::{GateReport, Verdict},
        number as show,
    },
};

const NAME: &str = "forest";
const ROW: f64 = 27.0;
const HEADING: f64 = 34.0;
/// Beyond this change either way the axis is logarithmic in the ratio, so that −50 % and +100 % are
/// equally far.
const LINEAR_TO: f64 = 0.35;

struct Row {
    label: String,
    ratio: Ratio,
    worse: Worse,
    verdict: Option<Verdict>,
    advisory: bool,
}

/// Rows of one metric and workload.
struct Group {
    metric: String,
    workload: String,
    direction: Direction,
    threshold: Option<f64>,
    rows: Vec<Row>,
}

impl Group {
    fn heading(&self) -> String {
        let title = metrics::find(&self.metric).map_or(self.metric.as_str(), |metric| metric.title);
        let workload = if self.workload.is_empty() { String::new() } else { format!(" · {}", self.workload) };
        format!("{title}{workload}")
    }
}

fn push(groups: &mut Vec<Group>, change: &MetricComparison, threshold: Option<f64>, row: Row) {
    match groups.iter_mut().find(|group| group.metric == change.metric && group.workload == change.workload) {
        Some(group) => group.rows.push(row),
        None => groups.push(Group {
            metric: change.metric.clone(),
            workload: change.workload.clone(),
            direction: change.direction,
            threshold,
            rows: vec![row],
        }),
    }
}

/// Returns every cell's changes against the baseline cell.
pub(super) fn of_cells(cells: &Cells<'_>) -> Attempt {
    let Some(baseline) = cells.baseline else {
        return skipped(NAME, "no baseline cell to compare with (baseline.cell)");
    };
    let reference = &cells.list[baseline];
    let mut groups = Vec::new();
    let mut advisory = false;
    for (_, cell) in cells.list.iter().enumerate().filter(|(at, _)| *at != baseline) {
        let comparison = compare(&Side::of(reference.record), &Side::of(cell.record));
        advisory |= comparison.is_advisory();
        for change in &comparison.metrics {
            let gated = metrics::find(&change.metric).and_then(|metric| metric.gate);
            let (Some(threshold), Some(ratio), Some(worse)) = (gated, change.ratio, change.worse()) else { continue };
            let row = Row { label: cell.label.clone(), ratio, worse, verdict: None, advisory: false };
            push(&mut groups, change, Some(threshold), row);
        }
    }
    if groups.is_empty() {
        return skipped(NAME, "no cell has a metric in common with the baseline cell");
    }
    let title = format!("{}: change against {}", cells.recipe, reference.label);
    let how = if advisory {
        "Advisory: not all cells were measured interleaved on one machine."
    } else {
        "Launches paired by round."
    };
    draw(&title, &cells.facts, how, &groups)
}

/// Returns the gates of reports.
pub(super) fn of_gates(reports: &[GateReport]) -> Result<Result<Chart, Skipped>, ChartError> {
    let mut groups: Vec<Group> = Vec::new();
    for report in reports {
        for gate in &report.gates {
            let Comparison { metrics, candidate_label, .. } = &report.comparison;
            let change = metrics.iter().find(|m| m.metric == gate.metric && m.workload == gate.workload);
            let (Some(change), Some(ratio), Some(worse)) = (change, gate.ratio, gate.worse) else { continue };
            let row = Row {
                label: candidate_label.clone(),
                ratio,
                worse,
                verdict: Some(gate.verdict),
                advisory: gate.advisory,
            };
            push(&mut groups, change, Some(gate.threshold), row);
        }
    }
    let Some(first) = reports.first().filter(|_| !groups.is_empty()) else {
        return skipped(NAME, "no gate has a change to draw");
    };
    let title = format!("{}: gates against {}", first.comparison.recipe, first.comparison.baseline_label);
    let how = if reports.iter().any(|report| report.comparison.is_advisory()) {
        "Advisory: not measured side by side."
    } else {
        "Launches paired by round."
    };
    draw(&title, "", how, &groups)
}

fn draw(title: &str, facts: &str, how: &str, groups: &[Group]) -> Attempt {
    let counts = || groups.iter().flat_map(|group| &group.rows).map(|row| row.ratio.n).filter(|n| *n > 1);
    let n = match (counts().min(), counts().max()) {
        (Some(least), Some(most)) if least == most => format!("n = {least} pairs. "),
        (Some(least), Some(most)) => format!("n = {least} to {most} pairs. "),
        _ => String::new(),
    };
    let caption = format!(
        "Squares: change of the geometric mean; lines: 95 % interval, {n}Right is better, also where less is better. \
         Tinted: worse by the threshold or more. Green: surely better; red: surely worse; grey: neither is sure. {how}"
    );
    let frame = Frame::new(title, facts, &caption);
    let rows: usize = groups.iter().map(|group| group.rows.len()).sum();
    let body = groups.len() as f64 * HEADING + rows as f64 * ROW;
    let height = frame.top() + body + 56.0 + frame.bottom();
    let svg = canvas::draw(NAME, title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        draw_body(canvas, groups, frame.top(), frame.top() + body);
    })?;
    Ok(Ok(Chart { name: NAME.to_owned(), title: title.to_owned(), svg, csv: csv(groups) }))
}

/// Places changes for the better: linear when all are small, logarithmic in the ratio otherwise.
struct Axis {
    is_log: bool,
    domain: (f64, f64),
    range: (f64, f64),
}

impl Axis {
    fn new(groups: &[Group], range: (f64, f64)) -> Self {
        let (mut low, mut high) = (0.0f64, 0.0f64);
        for group in groups {
            let threshold = group.threshold.unwrap_or(0.0);
            low = low.min(-threshold * 1.5);
            high = high.max(threshold * 0.7);
            for row in &group.rows {
                let (from, to) = better(row);
                low = low.min(from);
                high = high.max(to);
            }
        }
        let is_log = high > LINEAR_TO || low < -LINEAR_TO;
        let (low, high) = if is_log { (low.max(-0.97).ln_1p(), high.ln_1p()) } else { (low, high) };
        let room = (high - low) * 0.04;
        Self { is_log, domain: (low - room, high + room), range }
    }

    fn at(&self, better: f64) -> f64 {
        let value = if self.is_log { better.max(-0.99).ln_1p() } else { better };
        let (low, high) = self.domain;
        let share = ((value - low) / (high - low)).clamp(0.0, 1.0);
        self.range.0 + share * (self.range.1 - self.range.0)
    }

    /// Returns round changes, zero among them, no closer than their texts allow.
    fn ticks(&self) -> Vec<f64> {
        const STEPS: [f64; 15] = [0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 4.0, 9.0, 19.0, 49.0];
        let inside = |value: &f64| {
            let place = if self.is_log { value.ln_1p() } else { *value };
            (self.domain.0..=self.domain.1).contains(&place)
        };
        if self.is_log {
            // The inverse of a rise: +100 % mirrors −50 %.
            let mirrored = STEPS.iter().flat_map(|&step| [step, -step / (1.0 + step)]);
            let mut ticks = vec![0.0];
            let mut all: Vec<f64> = mirrored.filter(inside).collect();
            all.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
            for value in all {
                let rounded = (value * 100.0).round() / 100.0;
                if ticks.iter().all(|&other| (self.at(other) - self.at(rounded)).abs() >= 58.0) {
                    ticks.push(rounded);
                }
            }
            return ticks;
        }
        let span = self.domain.1 - self.domain.0;
        let step = STEPS.into_iter().find(|step| span / step <= 9.0).unwrap_or(0.5);
        let (first, last) = ((self.domain.0 / step).ceil() as i32, (self.domain.1 / step).floor() as i32);
        (first..=last).map(|i| f64::from(i) * step).collect()
    }
}

/// Returns the ends of a row's interval, or twice its estimate, as changes for the better.
fn better(row: &Row) -> (f64, f64) {
    row.worse.interval.map_or((-row.worse.estimate, -row.worse.estimate), |i| (-i.high, -i.low))
}

fn draw_body(canvas: &mut Canvas<'_>, groups: &[Group], top: f64, bottom: f64) {
    let rows = || groups.iter().flat_map(|group| &group.rows);
    let labels = rows().map(|row| text::width(&row.label, LABEL_SIZE)).fold(60.0, f64::max).min(280.0);
    let results = rows().map(|row| text::width(&result_text(row), TICK_SIZE)).fold(0.0, f64::max);
    let (left, right) = (MARGIN + labels + 30.0, WIDTH - MARGIN - results - 18.0);
    let axis = Axis::new(groups, (left, right));
    let mut y = top;
    let mut tints = Vec::new();
    for group in groups {
        let from = y + HEADING - 2.0;
        y += HEADING + group.rows.len() as f64 * ROW;
        tints.push((from, y));
    }
    for (group, &(from, to)) in groups.iter().zip(&tints) {
        if let Some(threshold) = group.threshold {
            let edge = axis.at(-threshold);
            canvas.rect((left, from), (edge, to), palette::mix(WHITE, VERMILION, 0.10));
        }
    }
    for tick in axis.ticks() {
        let x = axis.at(tick);
        let is_zero = tick.abs() < 1e-12;
        for &(from, to) in &tints {
            canvas.line((x, from), (x, to), Stroke::solid(if is_zero { INK } else { GRID }, 1.0));
        }
        let label = if is_zero { "0 %".to_owned() } else { show::percent_to(tick, usize::from(tick.abs() < 0.0099)) };
        canvas.text((x, bottom + 13.0), &label, TICK_SIZE, SOFT, Anchor::Middle);
    }
    for (group, &(from, _)) in groups.iter().zip(&tints) {
        draw_group(canvas, group, &axis, from, left, right);
    }
    canvas.text((left, bottom + 36.0), "← worse", LABEL_SIZE, SOFT, Anchor::Start);
    canvas.text(
        (f64::midpoint(left, right), bottom + 36.0),
        "change for the better, %",
        LABEL_SIZE,
        INK,
        Anchor::Middle,
    );
    canvas.text((right, bottom + 36.0), "better →", LABEL_SIZE, SOFT, Anchor::End);
}

fn draw_group(canvas: &mut Canvas<'_>, group: &Group, axis: &Axis, from: f64, left: f64, right: f64) {
    let heading = group.heading();
    canvas.text((MARGIN, from - 12.0), &heading, LABEL_SIZE, INK, Anchor::Start);
    if let Some(threshold) = group.threshold {
        let less = if group.direction == Direction::Lower { ", less is better" } else { "" };
        let note = format!("threshold {}{less}", show::threshold(threshold));
        let x = MARGIN + text::width(&heading, LABEL_SIZE) + 12.0;
        canvas.text((x, from - 12.0), &note, SMALL_SIZE, SOFT, Anchor::Start);
        let edge = axis.at(-threshold);
        let to = from + group.rows.len() as f64 * ROW + 2.0;
        canvas.line((edge, from), (edge, to), Stroke::dashed(VERMILION, 1.0));
    }
    for (at, row) in group.rows.iter().enumerate() {
        let y = from + (at as f64 + 0.5) * ROW + 1.0;
        let color = color(row);
        let (low, high) = better(row);
        let (x_low, x_high, x) = (axis.at(low), axis.at(high), axis.at(-row.worse.estimate));
        canvas.line((x_low, y), (x_high, y), Stroke::solid(color, 2.2));
        for end in [x_low, x_high] {
            if row.worse.interval.is_some() {
                canvas.line((end, y - 4.0), (end, y + 4.0), Stroke::solid(color, 1.6));
            }
        }
        canvas.rect((x - 4.5, y - 4.5), (x + 4.5, y + 4.5), color);
        let label = text::fit(&row.label, LABEL_SIZE, left - MARGIN - 28.0);
        canvas.text((left - 14.0, y), &label, LABEL_SIZE, SOFT, Anchor::End);
        canvas.text((right + 12.0, y), &result_text(row), TICK_SIZE, color, Anchor::Start);
    }
    canvas.line((left, from), (right, from), Stroke::solid(AXIS, 0.8));
}

/// Returns a colour by the verdict, or by whether the interval excludes zero.
fn color(row: &Row) -> Color {
    let unsure = palette::mix(SOFT, WHITE, 0.15);
    let exact = (row.worse.estimate, row.worse.estimate);
    let is_exact = row.ratio.method == metrics::stats::IntervalMethod::Exact;
    let interval = row.worse.interval.map(|i| (i.low, i.high)).or_else(|| is_exact.then_some(exact));
    match (row.verdict, interval) {
        (Some(Verdict::Regression), _) => VERMILION,
        (Some(Verdict::Inconclusive), _) => unsure,
        (_, Some((_, high))) if high < 0.0 => GREEN,
        (None, Some((low, _))) if low > 0.0 => VERMILION,
        _ => unsure,
    }
}

fn result_text(row: &Row) -> String {
    let verdict = match row.verdict {
        None => "",
        Some(Verdict::Pass) => "  pass",
        Some(Verdict::Regression) if row.advisory => "  regression (advisory)",
        Some(Verdict::Regression) => "  regression",
        Some(Verdict::Inconclusive) => "  inconclusive",
    };
    format!("{}{verdict}", show::change(&row.ratio))
}

fn csv(groups: &[Group]) -> String {
    let mut csv = Csv::new(&["metric", "workload", "candidate", "n", "change", "low", "high", "threshold", "verdict"]);
    for group in groups {
        for row in &group.rows {
            let verdict = row.verdict.and_then(|v| serde_json::to_value(v).ok());
            let verdict = verdict.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default();
            let mut fields = vec![group.metric.clone(), group.workload.clone(), row.label.clone()];
            fields.extend([row.ratio.n.to_string(), number(Some(row.ratio.change))]);
            fields.extend([
                number(row.ratio.interval.map(|interval| interval.low)),
                number(row.ratio.interval.map(|interval| interval.high)),
                number(group.threshold),
                verdict,
            ]);
            csv.row(fields);
        }
    }
    csv.finish()
}
