//! Quality against speed: which cells no other cell beats in both, and how large their weights are.
use super::{
    Attempt, Chart, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::{Cell, Cells},
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, WIDTH, X_AXIS_HEIGHT},
    palette::{AXIS, INK, SOFT},
    scale::Scale,
    skipped, text,
};
use crate::{
    metrics::{self, MetricSummary, stats::Interval},
    report::number as show,
};

const NAME: &str = "pareto";
const PLOT_HEIGHT: f64 = 430.0;
const LARGEST_RADIUS: f64 = 17.0;
const SMALLEST_RADIUS: f64 = 4.5;
/// From this ratio of fastest to slowest on, the speed axis is logarithmic.
const LOG_FROM: f64 = 6.0;

/// What quality is told by: the divergence from a reference where it was measured, which sees more
/// than the likelihood of the text's own tokens, or else the perplexity.
struct Quality {
    metric: &'static str,
    workload: String,
    axis: &'static str,
}

const QUALITIES: [(&str, &str); 2] =
    [("kl_mean", "KL divergence from the reference, nats"), ("perplexity", "perplexity")];

impl Quality {
    /// Returns the first that at least two cells have beside their speed.
    fn of(cells: &Cells<'_>, speed: &str) -> Option<Self> {
        QUALITIES.into_iter().find_map(|(metric, axis)| {
            let (workload, _) = cells.workloads(metric).into_iter().next()?;
            let has_both = |cell: &&Cell<'_>| {
                cell.summary.find(metric, &workload).is_some() && cell.summary.find("decode_tok_s", speed).is_some()
            };
            (cells.list.iter().filter(has_both).count() > 1).then_some(Self { metric, workload, axis })
        })
    }

    fn title(&self) -> &'static str {
        metrics::find(self.metric).map_or(self.metric, |metric| metric.title)
    }
}

struct Point<'a> {
    cell: &'a Cell<'a>,
    label: String,
    speed: f64,
    /// The ends of its interval.
    speeds: (f64, f64),
    /// Less is better.
    loss: f64,
    /// Its interval over windows of the text, where there is one.
    interval: Option<Interval>,
    bytes: u64,
    /// Whether no other is at least as good in both and better in one.
    best: bool,
}

pub(super) fn draw(cells: &Cells<'_>) -> Attempt {
    let speeds = cells.workloads("decode_tok_s");
    let Some((speed, _)) = speeds.first() else { return skipped(NAME, "no generation speed was measured") };
    if cells.workloads("perplexity").is_empty() {
        return skipped(NAME, "no perplexity was measured");
    }
    let Some(quality) = Quality::of(cells, speed) else {
        return skipped(NAME, "fewer than two cells have both perplexity and generation speed");
    };
    let points = points(cells, speed, &quality);
    if points.len() < 2 {
        return skipped(NAME, "fewer than two cells have values to compare");
    }
    let told = quality.title();
    let left_out = cells.list.len() - points.len();
    let missing = if left_out == 0 {
        String::new()
    } else {
        format!(" {} without {told} or speed left out.", show::count(left_out, "cell", "cells"))
    };
    let mib = |bytes: u64| show::quantity(bytes as f64, None, "bytes");
    let (least, most) = points.iter().fold((u64::MAX, 0), |(l, m), point| (l.min(point.bytes), m.max(point.bytes)));
    let weights =
        if least == most { format!("all {} MiB", mib(least)) } else { format!("{} to {} MiB", mib(least), mib(most)) };
    let summaries = cells.list.iter().filter_map(|cell| cell.summary.find("decode_tok_s", speed));
    let caption = format!(
        "Area of a point: bytes of the weights as they run ({weights}). Whiskers: 95 % interval of the speed, {} \
         launches{}. Line: cells that no other beats in both. Speed on {speed}, {told} on {}.{missing}",
        Cells::launches(summaries),
        if points.iter().any(|point| point.interval.is_some()) {
            format!(", and of the {told} over windows of the text")
        } else {
            String::new()
        },
        quality.workload
    );
    let title = format!("{}: quality against speed", cells.recipe);
    let frame = Frame::new(&title, &cells.facts, &caption);
    let height = frame.top() + PLOT_HEIGHT + X_AXIS_HEIGHT + frame.bottom();
    let svg = canvas::draw(NAME, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let plot =
            Plot { left: MARGIN + 72.0, right: WIDTH - MARGIN, top: frame.top(), bottom: frame.top() + PLOT_HEIGHT };
        draw_plot(canvas, &points, plot, &quality);
    })?;
    Ok(Ok(Chart { name: NAME.to_owned(), title, svg, csv: csv(&points, &quality) }))
}

fn points<'a>(cells: &'a Cells<'a>, speed: &str, quality: &Quality) -> Vec<Point<'a>> {
    let measured = cells.list.iter().filter_map(|cell| {
        let decode = cell.summary.find("decode_tok_s", speed)?;
        let found = cell.summary.find(quality.metric, &quality.workload)?;
        (decode.mean > 0.0 && found.median >= 0.0).then_some((cell, decode, found))
    });
    let all: Vec<_> = measured.collect();
    let bytes = |cell: &Cell<'_>| cell.record.manifest.model.weights_bytes;
    let sizes_differ = all.windows(2).any(|pair| bytes(pair[0].0) != bytes(pair[1].0));
    all.iter()
        .map(|&(cell, speed, found)| {
            let (s, loss) = (speed.mean, found.median);
            let beats = |&(_, other, quality): &(&Cell<'_>, &MetricSummary, &MetricSummary)| {
                let (o, q) = (other.mean, quality.median);
                o >= s && q <= loss && (o > s || q < loss)
            };
            let size = show::quantity(bytes(cell) as f64, None, "bytes");
            let label = if sizes_differ { format!("{} · {size} MiB", cell.label) } else { cell.label.clone() };
            Point {
                cell,
                label,
                speed: s,
                speeds: speed.interval.map_or((s, s), |i| (i.low.max(s * 0.1), i.high)),
                loss,
                interval: found.interval,
                bytes: bytes(cell),
                best: !all.iter().any(beats),
            }
        })
        .collect()
}

fn span(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
}

/// Returns the scale of what is lost: logarithmic where values lie powers of ten apart.
fn loss_scale(points: &[Point<'_>], plot: Plot) -> Scale {
    let losses = span(points.iter().map(|point| point.loss));
    let range = (plot.bottom, plot.top);
    if losses.0 > 0.0 && losses.1 / losses.0 >= LOG_FROM {
        return Scale::log(losses, range, 0.12);
    }
    let room = ((losses.1 - losses.0) * 0.14).max(losses.1 * 0.002).max(f64::MIN_POSITIVE);
    Scale::linear((losses.0 - room, losses.1 + room), range)
}

fn draw_plot(canvas: &mut Canvas<'_>, points: &[Point<'_>], plot: Plot, quality: &Quality) {
    let ends = |point: &Point<'_>| point.speeds;
    let speeds = span(points.iter().flat_map(|point| [ends(point).0, ends(point).1]));
    let inner = (plot.left, plot.right);
    let x = if speeds.1 / speeds.0 >= LOG_FROM {
        Scale::log(speeds, inner, 0.10)
    } else {
        let room = ((speeds.1 - speeds.0) * 0.12).max(speeds.1 * 0.01);
        Scale::linear(((speeds.0 - room).max(0.0), speeds.1 + room), inner)
    };
    let y = loss_scale(points, plot);
    let unit = if x.is_log() { "generation speed, tokens/s (logarithmic)" } else { "generation speed, tokens/s" };
    plot.x_axis(canvas, &x, 8, unit);
    let spread = if y.is_log() { ", logarithmic" } else { "" };
    plot.y_axis(canvas, &y, 6, &format!("{} (lower is better{spread})", quality.axis));
    let places: Vec<(f64, f64)> = points.iter().map(|point| (x.at(point.speed), y.at(point.loss))).collect();
    let frontier = frontier(points, &places, plot);
    canvas.path(&frontier, Stroke::dashed(AXIS, 1.3));
    let heaviest = points.iter().map(|point| point.bytes).max().unwrap_or(1).max(1) as f64;
    let radii: Vec<f64> = points
        .iter()
        .map(|point| (LARGEST_RADIUS * (point.bytes as f64 / heaviest).sqrt()).max(SMALLEST_RADIUS))
        .collect();
    // Large ones first, so that none hides another.
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| radii[b].total_cmp(&radii[a]).then(a.cmp(&b)));
    for (point, (at_x, at_y), radius) in order.into_iter().map(|at| (&points[at], places[at], radii[at])) {
        let (low, high) = ends(point);
        canvas.line((x.at(low), at_y), (x.at(high), at_y), Stroke::solid(point.cell.color, 1.5));
        if let Some((top, bottom)) = heights(point, &y, plot) {
            canvas.line((at_x, top), (at_x, bottom), Stroke::solid(point.cell.color, 1.5));
        }
        canvas.disc((at_x, at_y), radius, point.cell.color);
    }
    better_corner(canvas, plot);
    // Neither line may run through a name.
    let whisker = |(point, place): (&Point<'_>, &(f64, f64))| {
        let (low, high) = ends(point);
        Area(x.at(low), place.1 - 2.0, x.at(high), place.1 + 2.0)
    };
    let mut lines: Vec<Area> = points.iter().zip(&places).map(whisker).collect();
    lines.extend(points.iter().zip(&places).filter_map(|(point, place)| {
        let (top, bottom) = heights(point, &y, plot)?;
        Some(Area(place.0 - 2.0, top, place.0 + 2.0, bottom))
    }));
    lines.extend(frontier.windows(2).map(|pair| {
        let ((a, b), (c, d)) = (pair[0], pair[1]);
        Area(a.min(c) - 2.0, b.min(d) - 2.0, a.max(c) + 2.0, b.max(d) + 2.0)
    }));
    labels(canvas, points, &places, &radii, (plot, &lines));
}

/// Returns the ends of a point's upright whisker, as far as they lie on the plot.
fn heights(point: &Point<'_>, y: &Scale, plot: Plot) -> Option<(f64, f64)> {
    let interval = point.interval?;
    let low = if y.is_log() { interval.low.max(point.loss * 0.01) } else { interval.low };
    Some((y.at(interval.high).max(plot.top), y.at(low).min(plot.bottom)))
}

/// Returns the staircase of what is reachable, from the left edge to the bottom.
fn frontier(points: &[Point<'_>], places: &[(f64, f64)], plot: Plot) -> Vec<(f64, f64)> {
    let mut best: Vec<(f64, f64)> = points.iter().zip(places).filter(|(p, _)| p.best).map(|(_, at)| *at).collect();
    // Slow and good first: going right the perplexity rises, so the place goes up.
    best.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut stairs: Vec<(f64, f64)> = Vec::new();
    if let Some(&(_, y)) = best.first() {
        stairs.push((plot.left, y));
    }
    for pair in best.windows(2) {
        stairs.extend([pair[0], (pair[0].0, pair[1].1)]);
    }
    if let Some(&(x, y)) = best.last() {
        stairs.extend([(x, y), (x, plot.top)]);
    }
    stairs
}

fn better_corner(canvas: &mut Canvas<'_>, plot: Plot) {
    let (tip_x, tip_y) = (plot.right - 10.0, plot.bottom - 10.0);
    let stroke = Stroke::solid(AXIS, 1.5);
    canvas.line((tip_x - 22.0, tip_y - 22.0), (tip_x, tip_y), stroke);
    canvas.path(&[(tip_x - 9.0, tip_y), (tip_x, tip_y), (tip_x, tip_y - 9.0)], stroke);
    canvas.text((tip_x - 28.0, tip_y - 22.0), "better", LABEL_SIZE, SOFT, Anchor::End);
}

/// A rectangle on the drawing: left, top, right, bottom.
#[derive(Clone, Copy, Debug)]
struct Area(f64, f64, f64, f64);

impl Area {
    fn overlaps(&self, other: &Self) -> bool {
        self.0 < other.2 && other.0 < self.2 && self.1 < other.3 && other.1 < self.3
    }

    fn is_inside(&self, plot: Plot) -> bool {
        self.0 >= plot.left && self.2 <= plot.right && self.1 >= plot.top && self.3 <= plot.bottom
    }
}

/// Writes each point's name beside it, at the first place around it that is free; farther ones get a
/// line to their point.
fn labels(
    canvas: &mut Canvas<'_>,
    points: &[Point<'_>],
    places: &[(f64, f64)],
    radii: &[f64],
    (plot, lines): (Plot, &[Area]),
) {
    let mut taken: Vec<Area> = places.iter().zip(radii).map(|(&(x, y), &r)| Area(x - r, y - r, x + r, y + r)).collect();
    taken.extend(lines);
    taken.push(Area(plot.right - 85.0, plot.bottom - 45.0, plot.right, plot.bottom));
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| places[a].1.total_cmp(&places[b].1).then(places[a].0.total_cmp(&places[b].0)));
    for at in order {
        let ((x, y), radius) = (places[at], radii[at]);
        let content = text::fit(&points[at].label, LABEL_SIZE, 260.0);
        let (width, height) = (text::width(&content, LABEL_SIZE), LABEL_SIZE + 3.0);
        let candidates = [6.0, 20.0, 38.0, 58.0, 80.0, 105.0].into_iter().flat_map(|distance| {
            [0.0f64, 180.0, 270.0, 90.0, 315.0, 45.0, 225.0, 135.0].into_iter().map(move |angle| (distance, angle))
        });
        let area_of = |(distance, angle): (f64, f64)| {
            let (sin, cos) = angle.to_radians().sin_cos();
            let (cx, cy) = (x + cos * (radius + distance + width / 2.0), y + sin * (radius + distance + height / 2.0));
            Area(cx - width / 2.0 - 1.0, cy - height / 2.0, cx + width / 2.0 + 1.0, cy + height / 2.0)
        };
        let free = |area: &Area| area.is_inside(plot) && !taken.iter().any(|other| area.overlaps(other));
        let found = candidates.map(|place| (place, area_of(place))).find(|(_, area)| free(area));
        let ((distance, _), area) = found.unwrap_or_else(|| ((6.0, 0.0), area_of((6.0, 0.0))));
        let middle = (f64::midpoint(area.0, area.2), f64::midpoint(area.1, area.3));
        if distance > 6.0 {
            let near = (middle.0.clamp(area.0.min(x), area.2.max(x)), if y < area.1 { area.1 } else { area.3 });
            let near = (x.clamp(area.0, area.2), if (area.1..=area.3).contains(&y) { middle.1 } else { near.1 });
            canvas.line((x, y), near, Stroke::solid(AXIS, 0.8));
        }
        canvas.text(middle, &content, LABEL_SIZE, if points[at].best { INK } else { SOFT }, Anchor::Middle);
        taken.push(area);
    }
}

fn csv(points: &[Point<'_>], quality: &Quality) -> String {
    let mut csv = Csv::new(&["cell", "run_id", "decode_tok_s", quality.metric, "weights_bytes", "on_frontier"]);
    for point in points {
        csv.row([
            point.cell.label.clone(),
            point.cell.summary.run_id.clone(),
            number(Some(point.speed)),
            number(Some(point.loss)),
            point.bytes.to_string(),
            point.best.to_string(),
        ]);
    }
    csv.finish()
}
