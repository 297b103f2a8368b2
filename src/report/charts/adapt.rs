//! What requests gain by what learns from the ones before: change of their loss by arm and domain.
use super::{
    Chart, ChartError, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::{Cell, Cells},
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, SMALL_SIZE, TICK_SIZE, WIDTH, X_AXIS_HEIGHT},
    palette::{self, AXIS, BASELINE, Color, INK, SOFT},
    scale::Scale,
    text,
};
use crate::{
    metrics::{MetricSummary, stats::Interval},
    report::number as show,
};

const NAME: &str = "adaptation";
const ROW: f64 = 16.0;
const GAP: f64 = 12.0;

/// Arms, from top to bottom.
const ARMS: [(&str, &str); 5] = [
    ("adapt_change_unigram", "unigram cache"),
    ("adapt_change_neural", "neural cache"),
    ("adapt_change_micro", "MicroLoRA"),
    ("adapt_change_both", "MicroLoRA and neural cache"),
    ("adapt_change_placebo", "placebo"),
];

fn color(arm: usize) -> Color {
    if arm + 1 == ARMS.len() { BASELINE } else { palette::series(arm) }
}

/// One domain, or all, with what each arm changed there.
struct Group {
    name: String,
    label: String,
    arms: Vec<(usize, MetricSummary)>,
}

/// Returns a chart for each stream of requests of each cell; few recipes have one.
pub(super) fn draw(cells: &Cells<'_>) -> Result<Vec<Chart>, ChartError> {
    let mut charts = Vec::new();
    for cell in &cells.list {
        let streams = cell.summary.all("adapt_change_micro").filter(|summary| !summary.workload.contains('/'));
        for stream in streams {
            charts.push(draw_stream(cells, cell, &stream.workload, charts.len())?);
        }
    }
    Ok(charts)
}

fn groups(cell: &Cell<'_>, stream: &str) -> Vec<Group> {
    let inside = |label: &str| label == stream || label.strip_prefix(stream).is_some_and(|rest| rest.starts_with('/'));
    let labels = cell.summary.all("adapt_change_micro").map(|summary| summary.workload.clone());
    let mut found: Vec<String> = labels.filter(|label| inside(label)).collect();
    // All of them last.
    found.sort_by_key(|label| label == stream);
    let of = |label: String| {
        let arm = |(at, (metric, _)): (usize, &(&str, &str))| Some((at, cell.summary.find(metric, &label)?.clone()));
        let arms = ARMS.iter().enumerate().filter_map(arm).collect();
        let name = label.strip_prefix(stream).unwrap_or_default().trim_start_matches('/');
        Group { name: if name.is_empty() { "all domains".to_owned() } else { name.to_owned() }, arms, label }
    };
    found.into_iter().map(of).collect()
}

fn draw_stream(cells: &Cells<'_>, cell: &Cell<'_>, stream: &str, at: usize) -> Result<Chart, ChartError> {
    let name = if at == 0 { NAME.to_owned() } else { format!("{NAME}-{}", at + 1) };
    let title = format!("{}: loss of the next request, by what learns from the ones before", cells.recipe);
    let caption = format!(
        "{stream}, {}. Change of the mean negative log-likelihood against the model as it is; every request is scored \
         before anything learns from it. Whiskers: 95 % interval over requests, each paired with itself (Student's t); requests \
         of one text are not independent. Placebo: MicroLoRA given another domain's answers.",
        cell.label
    );
    let groups = groups(cell, stream);
    let frame = Frame::new(&title, &cells.facts, &caption);
    let heights: Vec<f64> = groups.iter().map(|group| group.arms.len() as f64 * ROW + GAP).collect();
    let (top, legend) = (frame.top() + 24.0, frame.top() + 4.0);
    let bottom = top + heights.iter().sum::<f64>();
    let height = bottom + X_AXIS_HEIGHT + frame.bottom();
    let labels = groups.iter().map(|group| text::width(&group.name, LABEL_SIZE)).fold(0.0, f64::max).min(240.0);
    let values = groups.iter().flat_map(|group| &group.arms).map(|(_, summary)| value_text(summary));
    let widest = values.map(|value| text::width(&value, TICK_SIZE)).fold(0.0, f64::max);
    let plot = Plot { left: MARGIN + labels + 14.0, right: WIDTH - MARGIN - widest - 12.0, top, bottom };
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let mut x = MARGIN;
        for (arm, (_, words)) in ARMS.iter().enumerate() {
            canvas.disc((x + 5.0, legend), 4.5, color(arm));
            canvas.text((x + 15.0, legend), words, SMALL_SIZE, SOFT, Anchor::Start);
            x += 15.0 + text::width(words, SMALL_SIZE) + 22.0;
        }
        marks(canvas, &groups, &heights, plot);
    })?;
    Ok(Chart { name, title, svg, csv: csv(cell, &groups) })
}

fn value_text(summary: &MetricSummary) -> String {
    let interval = summary.interval.map(|Interval { low, high }| Interval { low: low * 100.0, high: high * 100.0 });
    format!("{} %", show::with_interval(summary.mean * 100.0, interval))
}

fn marks(canvas: &mut Canvas<'_>, groups: &[Group], heights: &[f64], plot: Plot) {
    let ends = |summary: &MetricSummary| summary.interval.map_or([summary.mean; 2], |i| [i.low, i.high]);
    let all = groups.iter().flat_map(|group| &group.arms).flat_map(|(_, summary)| ends(summary));
    let (low, high) =
        all.fold((0.0f64, 0.0f64), |(low, high), value| (low.min(value * 100.0), high.max(value * 100.0)));
    let room = ((high - low) * 0.04).max(0.05);
    let scale = Scale::linear((low - room, high + room), (plot.left, plot.right));
    plot.x_axis(canvas, &scale, 7, "change of the next request's loss, % (less is better)");
    canvas.line((scale.at(0.0), plot.top), (scale.at(0.0), plot.bottom), Stroke::solid(INK, 1.0));
    let mut y = plot.top;
    for (group, height) in groups.iter().zip(heights) {
        let name = text::fit(&group.name, LABEL_SIZE, plot.left - MARGIN - 13.0);
        canvas.text((plot.left - 14.0, y + height / 2.0), &name, LABEL_SIZE, INK, Anchor::End);
        canvas.line((plot.left, y), (plot.right, y), Stroke::solid(AXIS, 0.6));
        for (row, (arm, summary)) in group.arms.iter().enumerate() {
            let at = y + GAP / 2.0 + (row as f64 + 0.5) * ROW;
            let [low, high] = ends(summary).map(|end| scale.at(end * 100.0));
            canvas.line((low, at), (high, at), Stroke::solid(INK, 1.2));
            for x in [low, high] {
                canvas.line((x, at - 3.0), (x, at + 3.0), Stroke::solid(INK, 1.2));
            }
            canvas.disc((scale.at(summary.mean * 100.0), at), 4.5, color(*arm));
            canvas.text((WIDTH - MARGIN, at), &value_text(summary), TICK_SIZE, INK, Anchor::End);
        }
        y += height;
    }
}

fn csv(cell: &Cell<'_>, groups: &[Group]) -> String {
    let mut csv = Csv::new(&["cell", "run_id", "workload", "domain", "arm", "change", "low", "high"]);
    for group in groups {
        for (arm, summary) in &group.arms {
            csv.row([
                cell.label.clone(),
                cell.summary.run_id.clone(),
                group.label.clone(),
                group.name.clone(),
                ARMS[*arm].1.to_owned(),
                number(Some(summary.mean)),
                number(summary.interval.map(|interval| interval.low)),
                number(summary.interval.map(|interval| interval.high)),
            ]);
        }
    }
    csv.finish()
}
