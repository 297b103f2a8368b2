//! What learning loops gain on a stream of requests: change of its loss with each set of loops, and how that comes
//! about request by request. Cells that differ in their seed alone are one arm.
use indexmap::IndexMap;
use serde_json::Value;

use super::{
    Chart, ChartError, canvas,
    canvas::{Anchor, Canvas, DASHES, Stroke},
    cells::{Cell, Cells},
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, TICK_SIZE, WIDTH, X_AXIS_HEIGHT},
    palette::{self, AXIS, BASELINE, Color, INK, SOFT},
    scale::Scale,
    text,
};
use crate::{
    event::Arm as Side,
    metrics::stats::{self, CONFIDENCE, Interval},
    report::number as show,
};

const ROW: f64 = 17.0;
const GAP: f64 = 14.0;
const HEADING: f64 = 22.0;
const LEGEND_LINE: f64 = 18.0;
const PLOT_HEIGHT: f64 = 300.0;

/// The metrics that are drawn, with what they are called.
const METRICS: [(&str, &str); 4] = [
    ("sona_change", "requests, each before anything learns from it"),
    ("sona_test_change", "requests that are never learned from, at the end"),
    ("sona_general_drift", "general text, at the end"),
    ("sona_against_control", "the same requests with their own feedback, against this control"),
];

/// Cells with the same loops.
struct Arm<'a> {
    name: String,
    cells: Vec<&'a Cell<'a>>,
}

/// Returns what a cell's loops are called, and what else tells it from others.
fn name(axes: &IndexMap<String, Value>) -> String {
    let key = |kind: &str| format!("sona.{kind}.enabled");
    let loops = ["instant", "background", "deep"];
    let mut words: Vec<String> = Vec::new();
    if loops.iter().any(|kind| axes.contains_key(&key(kind))) {
        let on: Vec<&str> = loops.into_iter().filter(|kind| axes.get(&key(kind)) == Some(&Value::Bool(true))).collect();
        words.push(if on.is_empty() { "no loop".to_owned() } else { on.join(" + ") });
    }
    let is_other = |axis: &str| axis != "seed" && !loops.iter().any(|kind| axis == key(kind));
    let others = axes.iter().filter(|(axis, _)| is_other(axis));
    words.extend(others.map(|(axis, value)| format!("{axis} {value}")));
    if words.is_empty() { "as the recipe says".to_owned() } else { words.join(", ") }
}

fn arms<'a>(cells: &'a Cells<'a>) -> Vec<Arm<'a>> {
    let mut arms: Vec<Arm<'a>> = Vec::new();
    for cell in cells.list.iter().filter(|cell| cell.summary.all("sona_change").next().is_some()) {
        let name = name(&cell.summary.axes);
        match arms.iter_mut().find(|arm| arm.name == name) {
            Some(arm) => arm.cells.push(cell),
            None => arms.push(Arm { name, cells: vec![cell] }),
        }
    }
    arms
}

/// Returns the streams that were measured, whole ones only.
fn streams(cells: &Cells<'_>) -> Vec<String> {
    let all = cells.workloads("sona_change").into_iter().map(|(workload, _)| workload);
    all.filter(|workload| !workload.contains('/')).collect()
}

fn style(at: usize, name: &str) -> (Color, canvas::Dash) {
    if name == "no loop" {
        return (BASELINE, DASHES[0]);
    }
    (palette::series(at % palette::SERIES_COUNT), DASHES[at / palette::SERIES_COUNT % DASHES.len()])
}

/// A mean with its interval, in percent.
struct Mark {
    arm: usize,
    mean: f64,
    interval: Option<Interval>,
    seeds: usize,
}

fn mark(arm: usize, own: &Arm<'_>, metric: &str, stream: &str) -> Option<Mark> {
    let found: Vec<_> = own.cells.iter().filter_map(|cell| cell.summary.find(metric, stream)).collect();
    let values: Vec<f64> = found.iter().map(|summary| summary.mean * 100.0).collect();
    let of_requests = || found.first()?.interval.map(|i| Interval { low: i.low * 100.0, high: i.high * 100.0 });
    let interval = stats::mean_interval(&values, CONFIDENCE).ok().flatten().or_else(of_requests);
    Some(Mark { arm, mean: stats::mean(&values).ok()?, interval, seeds: values.len() })
}

/// Returns the charts of recipes with learning loops; nothing is missing where none has any.
pub(super) fn draw(cells: &Cells<'_>) -> Result<Vec<Chart>, ChartError> {
    let arms = arms(cells);
    let streams = streams(cells);
    if arms.is_empty() {
        return Ok(Vec::new());
    }
    let mut charts = Vec::new();
    for (at, stream) in streams.iter().enumerate() {
        charts.push(changes(cells, &arms, stream, at)?);
        charts.push(course(cells, &arms, stream, at)?);
    }
    Ok(charts)
}

/// Returns the name of a chart of the stream at this place.
fn numbered(name: &str, at: usize) -> String {
    if at == 0 { name.to_owned() } else { format!("{name}-{}", at + 1) }
}

/// Returns every arm's changes of one stream.
fn changes(cells: &Cells<'_>, arms: &[Arm<'_>], stream: &str, at: usize) -> Result<Chart, ChartError> {
    let title = format!("{}: what learning from requests changes", cells.recipe);
    let of = |(metric, words): &(&'static str, &'static str)| {
        let marks: Vec<_> = arms.iter().enumerate().filter_map(|(at, arm)| mark(at, arm, metric, stream)).collect();
        (*metric, *words, marks)
    };
    let groups: Vec<(&str, &str, Vec<Mark>)> = METRICS.iter().map(of).filter(|group| !group.2.is_empty()).collect();
    let counts: Vec<usize> = groups.iter().flat_map(|group| &group.2).map(|mark| mark.seeds).collect();
    let caption = format!(
        "{stream}. Change of the mean negative log-likelihood against the model as it came. n = {} seeds; whiskers: 95 % interval \
         over seeds (Student's t), or over requests of one seed. Placebo: as much general text learned in place of the \
         requests; shuffled: feedback dealt out to other requests.",
        show::range(&counts)
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let heights: Vec<f64> = groups.iter().map(|group| HEADING + group.2.len() as f64 * ROW + GAP).collect();
    let top = frame.top();
    let bottom = top + heights.iter().sum::<f64>();
    let height = bottom + X_AXIS_HEIGHT + frame.bottom();
    let names = arms.iter().map(|arm| text::width(&arm.name, LABEL_SIZE)).fold(0.0, f64::max).min(260.0);
    let value = |mark: &Mark| format!("{} %", show::with_interval(mark.mean, mark.interval));
    let widest =
        groups.iter().flat_map(|group| &group.2).map(|mark| text::width(&value(mark), TICK_SIZE)).fold(0.0, f64::max);
    let plot = Plot { left: MARGIN + names + 14.0, right: WIDTH - MARGIN - widest - 12.0, top, bottom };
    let ends = |mark: &Mark| mark.interval.map_or([mark.mean; 2], |i| [i.low, i.high]);
    let all = groups.iter().flat_map(|group| &group.2).flat_map(ends);
    let (low, high) = all.fold((0.0f64, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    let room = ((high - low) * 0.04).max(0.05);
    let scale = Scale::linear((low - room, high + room), (plot.left, plot.right));
    let name = numbered("sona", at);
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        plot.x_axis(canvas, &scale, 7, "change of the loss, % (less is better)");
        canvas.line((scale.at(0.0), plot.top), (scale.at(0.0), plot.bottom), Stroke::solid(INK, 1.0));
        let mut y = plot.top;
        for ((_, words, marks), height) in groups.iter().zip(&heights) {
            canvas.line((MARGIN, y), (plot.right, y), Stroke::solid(AXIS, 0.6));
            canvas.text((MARGIN, y + HEADING / 2.0), words, LABEL_SIZE, SOFT, Anchor::Start);
            for (row, mark) in marks.iter().enumerate() {
                let at = y + HEADING + (row as f64 + 0.5) * ROW;
                let name = text::fit(&arms[mark.arm].name, LABEL_SIZE, plot.left - MARGIN - 13.0);
                canvas.text((plot.left - 14.0, at), &name, LABEL_SIZE, INK, Anchor::End);
                let [low, high] = ends(mark).map(|end| scale.at(end));
                canvas.line((low, at), (high, at), Stroke::solid(INK, 1.2));
                for x in [low, high] {
                    canvas.line((x, at - 3.0), (x, at + 3.0), Stroke::solid(INK, 1.2));
                }
                canvas.disc((scale.at(mark.mean), at), 4.5, style(mark.arm, &arms[mark.arm].name).0);
                canvas.text((WIDTH - MARGIN, at), &value(mark), TICK_SIZE, INK, Anchor::End);
            }
            y += height;
        }
    })?;
    let mut csv = Csv::new(&["workload", "metric", "arm", "seeds", "change_percent", "low", "high"]);
    for (metric, _, marks) in &groups {
        for mark in marks {
            csv.row([
                stream.to_owned(),
                (*metric).to_owned(),
                arms[mark.arm].name.clone(),
                mark.seeds.to_string(),
                number(Some(mark.mean)),
                number(mark.interval.map(|interval| interval.low)),
                number(mark.interval.map(|interval| interval.high)),
            ]);
        }
    }
    Ok(Chart { name, title, svg, csv: csv.finish() })
}

/// Returns the mean change of all requests so far, request by request, mean over seeds.
fn so_far(arm: &Arm<'_>, stream: &str) -> Vec<f64> {
    let of = |cell: &&Cell<'_>| -> Vec<f64> {
        let rows = cell.record.samples.iter().filter(|row| {
            row.metric == "sona_change" && row.workload == stream && row.arm == Side::Candidate.name() && row.valid
        });
        let Some(launch) = rows.clone().filter(|row| row.step.is_some()).map(|row| row.launch).max() else {
            return Vec::new();
        };
        let mut steps: Vec<(u64, f64)> =
            rows.filter(|row| row.launch == launch).filter_map(|row| Some((row.step?, row.value * 100.0))).collect();
        steps.sort_by_key(|(step, _)| *step);
        let mut sum = 0.0;
        let mean = |(count, (_, value)): (usize, (u64, f64))| {
            sum += value;
            sum / (count + 1) as f64
        };
        steps.into_iter().enumerate().map(mean).collect()
    };
    let all: Vec<Vec<f64>> = arm.cells.iter().map(of).filter(|values| !values.is_empty()).collect();
    let length = all.iter().map(Vec::len).min().unwrap_or(0);
    (0..length).map(|at| all.iter().map(|values| values[at]).sum::<f64>() / all.len() as f64).collect()
}

/// Returns how one stream went, arm by arm.
fn course(cells: &Cells<'_>, arms: &[Arm<'_>], stream: &str, at: usize) -> Result<Chart, ChartError> {
    let name = numbered("sona-stream", at);
    let title = format!("{}: {stream}", cells.recipe);
    let caption = "Mean change of the loss of all requests so far against the model as it came, each request scored before \
                   anything learns from it (prequentially); mean over seeds.";
    let lines: Vec<Vec<f64>> = arms.iter().map(|arm| so_far(arm, stream)).collect();
    let frame = Frame::new(&title, &cells.facts, caption);
    let legend = LEGEND_LINE * arms.len() as f64 + 10.0;
    let top = frame.top() + legend;
    let height = top + PLOT_HEIGHT + X_AXIS_HEIGHT + frame.bottom();
    let plot = Plot { left: MARGIN + 80.0, right: WIDTH - MARGIN - 20.0, top, bottom: top + PLOT_HEIGHT };
    // The first few means are of single requests, and would hide all others.
    let settled = lines.iter().flat_map(|line| line.iter().skip(line.len() / 12));
    let (low, high) = settled.fold((0.0f64, 0.0f64), |(low, high), value| (low.min(*value), high.max(*value)));
    let room = ((high - low) * 0.08).max(0.05);
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        for (row, arm) in arms.iter().enumerate() {
            let y = frame.top() + (row as f64 + 0.5) * LEGEND_LINE;
            let (color, dash) = style(row, &arm.name);
            canvas.path(&[(MARGIN, y), (MARGIN + 28.0, y)], Stroke { dash, ..Stroke::solid(color, 2.0) });
            canvas.text((MARGIN + 36.0, y), &arm.name, LABEL_SIZE, INK, Anchor::Start);
        }
        lines_of(canvas, arms, &lines, (low - room, high + room), plot);
    })?;
    let mut csv = Csv::new(&["workload", "arm", "request", "change_percent"]);
    for (arm, line) in arms.iter().zip(&lines) {
        for (step, value) in line.iter().enumerate() {
            csv.row([stream.to_owned(), arm.name.clone(), step.to_string(), number(Some(*value))]);
        }
    }
    Ok(Chart { name, title, svg, csv: csv.finish() })
}

fn lines_of(canvas: &mut Canvas<'_>, arms: &[Arm<'_>], lines: &[Vec<f64>], (low, high): (f64, f64), plot: Plot) {
    let last = lines.iter().map(Vec::len).max().unwrap_or(0).saturating_sub(1).max(1);
    let steps = Scale::linear((0.0, last as f64), (plot.left, plot.right));
    let scale = Scale::linear((low, high), (plot.bottom, plot.top));
    plot.x_axis(canvas, &steps, 10, "request");
    plot.y_axis(canvas, &scale, 6, "change of the loss so far, %");
    for (at, (arm, line)) in arms.iter().zip(lines).enumerate() {
        let (color, dash) = style(at, &arm.name);
        let inside = |(step, value): (usize, &f64)| {
            (*value >= low && *value <= high).then(|| (steps.at(step as f64), scale.at(*value)))
        };
        let points: Vec<_> = line.iter().enumerate().filter_map(inside).collect();
        canvas.path(&points, Stroke { dash, ..Stroke::solid(color, 1.8) });
    }
}
