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
        gate::{GateReport, ThresholdSource, Verdict},
        number as show,
    },
};

const NAME: &str = "forest";
const ROW: f64 = 23.0;
const HEADING: f64 = 34.0;
const TICKS: f64 = 26.0;
/// Beyond this change either way an axis is logarithmic.
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

/// Returns every cell's changes against its baseline cell.
pub(super) fn of_cells(cells: &Cells<'_>) -> Attempt {
    let Some(reference) = cells.reference() else {
        return skipped(NAME, "no baseline cell to compare with (baseline.cell)");
    };
    let mut groups = Vec::new();
    let mut advisory = false;
    for (at, cell) in cells.list.iter().enumerate() {
        let Some(twin) = cells.twins.of(at) else { continue };
        let comparison = compare(&Side::of(cells.list[twin].record), &Side::of(cell.record));
        advisory |= comparison.is_advisory();
        for change in &comparison.metrics {
            let gated = metrics::find(&change.metric).and_then(|metric| metric.gate);
            let (Some(threshold), Some(ratio), Some(worse)) = (gated, change.ratio, change.worse()) else { continue };
            let row = Row { label: cell.label.clone(), ratio, worse, verdict: None, advisory: false };
            push(&mut groups, change, Some(threshold), row);
        }
    }
    if groups.is_empty() {
        return skipped(NAME, "no cell has a metric in common with a baseline cell of its kind");
    }
    let title = format!("{}: change against {reference}", cells.recipe);
    let how = if advisory {
        "Advisory: not all cells were measured interleaved on one machine."
    } else {
        "Launches paired by round."
    };
    draw(&title, &cells.facts, how, &groups, false)
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
                label: if reports.len() > 1 { candidate_label.clone() } else { String::new() },
                ratio,
                worse,
                verdict: Some(gate.verdict),
                advisory: gate.advisory,
            };
            // A bound is no change, so it has no place on this axis.
            let threshold = Some(gate.threshold).filter(|_| gate.threshold_source != ThresholdSource::Bound);
            push(&mut groups, change, threshold, row);
        }
    }
    let Some(first) = reports.first().filter(|_| !groups.is_empty()) else {
        return skipped(NAME, "no gate has a change to draw");
    };
    let title = format!("{}: gates", first.comparison.recipe);
    let subtitle = match reports {
        [only] => format!("{} against {}", only.comparison.candidate_label, only.comparison.baseline_label),
        _ => format!("against {}", first.comparison.baseline_label),
    };
    let how = if reports.iter().any(|report| report.comparison.is_advisory()) {
        "Advisory: not measured side by side."
    } else {
        "Launches paired by round."
    };
    draw(&title, &subtitle, how, &groups, true)
}

fn draw(title: &str, facts: &str, how: &str, groups: &[Group], shared: bool) -> Attempt {
    let counts: Vec<usize> =
        groups.iter().flat_map(|group| &group.rows).map(|row| row.ratio.n).filter(|n| *n > 1).collect();
    let n = if counts.is_empty() { String::new() } else { format!("n = {}. ", show::range(&counts)) };
    let caption = format!(
        "Squares: change of the geometric mean; lines: 95 % interval, {n}Right is better, also where less is better. \
         Tinted: worse by the threshold or more. Green: surely better; orange: surely worse; grey: not sure. {how}"
    );
    let frame = Frame::new(title, facts, &caption);
    let (panels, bottom) = panels(groups, shared, frame.top());
    let height = bottom + 24.0 + frame.bottom();
    let svg = canvas::draw(NAME, title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        draw_body(canvas, groups, &panels, bottom);
    })?;
    Ok(Ok(Chart { name: NAME.to_owned(), title: title.to_owned(), svg, csv: csv(groups) }))
}

/// Places changes for the better: a percentage when all are small, else how many times better, on a
/// logarithmic axis, where half as good and twice as good are equally far.
struct Axis {
    is_log: bool,
    domain: (f64, f64),
    range: (f64, f64),
}

/// Returns how many times better a change for the worse is.
fn times_better(direction: Direction, worse: f64) -> f64 {
    if direction == Direction::Higher { (1.0 - worse).max(0.01) } else { 1.0 / (1.0 + worse).max(0.01) }
}

impl Axis {
    fn new(groups: &[Group], range: (f64, f64)) -> Self {
        let worse = groups.iter().flat_map(|group| {
            let threshold = group.threshold.unwrap_or(0.0);
            let ends = group.rows.iter().flat_map(ends);
            let direction = group.direction;
            [threshold * 1.5, -threshold * 0.7].into_iter().chain(ends).map(move |worse| (direction, worse))
        });
        let worse: Vec<(Direction, f64)> = worse.collect();
        let is_log = worse.iter().any(|(_, worse)| worse.abs() > LINEAR_TO);
        let mut axis = Self { is_log, domain: (0.0, 0.0), range };
        for (direction, worse) in worse {
            let value = axis.value(direction, worse);
            axis.domain = (axis.domain.0.min(value), axis.domain.1.max(value));
        }
        let room = (axis.domain.1 - axis.domain.0).max(1e-6) * 0.04;
        axis.domain = (axis.domain.0 - room, axis.domain.1 + room);
        axis
    }

    fn value(&self, direction: Direction, worse: f64) -> f64 {
        if self.is_log { times_better(direction, worse).ln() } else { -worse }
    }

    fn place(&self, value: f64) -> f64 {
        let (low, high) = self.domain;
        self.range.0 + ((value - low) / (high - low)).clamp(0.0, 1.0) * (self.range.1 - self.range.0)
    }

    /// Returns where a change for the worse lies.
    fn at(&self, direction: Direction, worse: f64) -> f64 {
        self.place(self.value(direction, worse))
    }

    /// Returns round values with their texts; no change is among them.
    fn ticks(&self) -> Vec<(f64, String)> {
        let (low, high) = self.domain;
        let inside = |value: &f64| (low..=high).contains(value);
        if self.is_log {
            const TIMES: [f64; 15] = [1.0, 2.0, 0.5, 5.0, 0.2, 10.0, 0.1, 1.5, 0.67, 3.0, 0.33, 1.25, 0.8, 20.0, 0.05];
            let mut ticks: Vec<(f64, String)> = Vec::new();
            for times in TIMES.into_iter().filter(|times| inside(&times.ln())) {
                let is_free = |(other, _): &(f64, String)| (self.place(*other) - self.place(times.ln())).abs() >= 44.0;
                if ticks.iter().all(is_free) {
                    ticks.push((times.ln(), format!("×{times}")));
                }
            }
            return ticks;
        }
        const STEPS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5];
        let step = STEPS.into_iter().find(|step| (high - low) / step <= 9.0).unwrap_or(0.5);
        let (first, last) = ((low / step).ceil() as i32, (high / step).floor() as i32);
        let text = |i: i32| show::percent_to(f64::from(i) * step, usize::from(step < 0.0099));
        (first..=last).map(|i| (f64::from(i) * step, if i == 0 { "0 %".to_owned() } else { text(i) })).collect()
    }
}

/// Returns the ends of a row's interval, or twice its estimate, as changes for the worse.
fn ends(row: &Row) -> [f64; 2] {
    row.worse.interval.map_or([row.worse.estimate; 2], |interval| [interval.low, interval.high])
}

/// Groups drawn on one axis, from here to there.
struct Panel<'a> {
    groups: &'a [Group],
    top: f64,
    bottom: f64,
}

/// Returns the panels and where the last ends: one for all groups, or one each.
fn panels(groups: &[Group], shared: bool, top: f64) -> (Vec<Panel<'_>>, f64) {
    let mut y = top;
    let mut panels = Vec::new();
    for groups in groups.chunks(if shared { groups.len().max(1) } else { 1 }) {
        let height: f64 = groups.iter().map(|group| HEADING + group.rows.len() as f64 * ROW).sum();
        panels.push(Panel { groups, top: y, bottom: y + height });
        y += height + TICKS;
    }
    (panels, y)
}

fn draw_body(canvas: &mut Canvas<'_>, groups: &[Group], panels: &[Panel<'_>], bottom: f64) {
    let rows = || groups.iter().flat_map(|group| &group.rows);
    let is_named = rows().any(|row| !row.label.is_empty());
    let labels = rows().map(|row| text::width(&row.label, LABEL_SIZE)).fold(0.0, f64::max).min(280.0);
    let results = rows().map(|row| text::width(&result_text(row), TICK_SIZE)).fold(0.0, f64::max);
    let left = MARGIN + if is_named { labels + 18.0 } else { 0.0 };
    let right = WIDTH - MARGIN - results - 18.0;
    for panel in panels {
        let axis = Axis::new(panel.groups, (left, right));
        let mut y = panel.top;
        for group in panel.groups {
            y += HEADING;
            draw_group(canvas, group, &axis, y);
            y += group.rows.len() as f64 * ROW;
        }
        for (value, label) in axis.ticks() {
            canvas.text((axis.place(value), panel.bottom + 14.0), &label, TICK_SIZE, SOFT, Anchor::Middle);
        }
    }
    let y = bottom + 12.0;
    canvas.text((left, y), "← worse", LABEL_SIZE, SOFT, Anchor::Start);
    canvas.text((f64::midpoint(left, right), y), "change for the better", LABEL_SIZE, INK, Anchor::Middle);
    canvas.text((right, y), "better →", LABEL_SIZE, SOFT, Anchor::End);
}

fn draw_group(canvas: &mut Canvas<'_>, group: &Group, axis: &Axis, top: f64) {
    let (left, right) = axis.range;
    let bottom = top + group.rows.len() as f64 * ROW;
    let heading = group.heading();
    let unsaid = if group.direction == Direction::Lower { ", less is better" } else { "" };
    canvas.text((MARGIN, top - 12.0), &heading, LABEL_SIZE, INK, Anchor::Start);
    if let Some(threshold) = group.threshold {
        let note = format!("threshold {}{unsaid}", show::threshold(threshold));
        let x = MARGIN + text::width(&heading, LABEL_SIZE) + 12.0;
        canvas.text((x, top - 12.0), &note, SMALL_SIZE, SOFT, Anchor::Start);
        canvas.rect((left, top), (axis.at(group.direction, threshold), bottom), palette::mix(WHITE, VERMILION, 0.10));
    }
    for (value, _) in axis.ticks() {
        let x = axis.place(value);
        canvas.line((x, top), (x, bottom), Stroke::solid(if value == 0.0 { INK } else { GRID }, 1.0));
    }
    if let Some(threshold) = group.threshold {
        let x = axis.at(group.direction, threshold);
        canvas.line((x, top), (x, bottom), Stroke::dashed(VERMILION, 1.0));
    }
    for (at, row) in group.rows.iter().enumerate() {
        draw_row(canvas, row, group.direction, axis, top + (at as f64 + 0.5) * ROW);
    }
    canvas.line((left, top), (right, top), Stroke::solid(AXIS, 0.8));
}

fn draw_row(canvas: &mut Canvas<'_>, row: &Row, direction: Direction, axis: &Axis, y: f64) {
    let (left, right) = axis.range;
    let color = color(row);
    let [low, high] = ends(row).map(|end| axis.at(direction, end));
    canvas.line((low, y), (high, y), Stroke::solid(color, 2.2));
    if row.worse.interval.is_some() {
        for end in [low, high] {
            canvas.line((end, y - 4.0), (end, y + 4.0), Stroke::solid(color, 1.6));
        }
    }
    let x = axis.at(direction, row.worse.estimate);
    canvas.rect((x - 4.2, y - 4.2), (x + 4.2, y + 4.2), color);
    if !row.label.is_empty() {
        let label = text::fit(&row.label, LABEL_SIZE, left - MARGIN - 16.0);
        canvas.text((left - 14.0, y), &label, LABEL_SIZE, SOFT, Anchor::End);
    }
    canvas.text((right + 12.0, y), &result_text(row), TICK_SIZE, color, Anchor::Start);
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
        Some(Verdict::Pass) => " · pass",
        Some(Verdict::Regression) if row.advisory => " · regression (advisory)",
        Some(Verdict::Regression) => " · regression",
        Some(Verdict::Inconclusive) => " · inconclusive",
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
