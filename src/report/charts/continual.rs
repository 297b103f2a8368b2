//! Tasks learned one after the other: what each left of every task, forgetting against the strength of a
//! penalty, and forgetting against what learning lost.
mod frontier;
mod matrix;
mod strengths;

use super::{
    Chart, ChartError,
    canvas::{self, Anchor, Canvas, DASHES, Stroke},
    cells::{Arm, Cells},
    csv::{Csv, number},
    frame::{LABEL_SIZE, MARGIN, WIDTH},
    palette::{self, INK},
    text,
};
use crate::{
    metrics::stats::{self, CONFIDENCE, Interval},
    report::number as show,
};

const PLOT_HEIGHT: f64 = 400.0;
const LEGEND_LINE: f64 = 20.0;

/// A method at a strength in an arm, over its cells (seeds) and all orders.
struct Method {
    /// What it is called: `kind`, and the arm's label where there are several.
    name: String,
    kind: String,
    arm: String,
    lambda: Option<f64>,
    forgetting: Vec<f64>,
    plasticity_loss: Vec<f64>,
}

/// Returns the method, strength and order that a label such as `continual(ewc_pp,l10,o0)` names.
fn parts(workload: &str) -> Option<(&str, Option<f64>, usize)> {
    let inside = workload.strip_prefix("continual(")?.strip_suffix(')')?;
    let mut words = inside.split(',');
    let name = words.next()?;
    let (mut lambda, mut order) = (None, None);
    for word in words {
        match word.split_at_checked(1)? {
            ("l", value) => lambda = Some(value.parse().ok()?),
            ("o", value) => order = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some((name, lambda, order?))
}

/// Returns the label with the arm's, where there are several.
fn in_arm(label: &str, arm: &str) -> String {
    if arm.is_empty() { label.to_owned() } else { format!("{label}, {arm}") }
}

fn methods(cells: &Cells<'_>, arms: &[Arm<'_>]) -> Vec<Method> {
    let mut found: Vec<Method> = Vec::new();
    for (workload, _) in cells.workloads("forgetting") {
        let Some((kind, lambda, _)) = parts(&workload) else { continue };
        for (arm, cell) in arms.iter().flat_map(|arm| arm.cells.iter().map(move |cell| (&arm.label, cell))) {
            let of = |metric: &str| Some(cell.summary.find(metric, &workload)?.mean);
            let (Some(forgetting), Some(loss)) = (of("forgetting"), of("plasticity_loss")) else { continue };
            let is_it = |known: &Method| (known.kind.as_str(), known.lambda, &known.arm) == (kind, lambda, arm);
            let at = found.iter().position(is_it).unwrap_or_else(|| {
                let (forgetting, plasticity_loss) = (Vec::new(), Vec::new());
                let (name, kind, arm) = (in_arm(kind, arm), kind.to_owned(), arm.clone());
                found.push(Method { name, kind, arm, lambda, forgetting, plasticity_loss });
                found.len() - 1
            });
            found[at].forgetting.push(forgetting);
            found[at].plasticity_loss.push(loss);
        }
    }
    found
}

fn mean(values: &[f64]) -> f64 {
    stats::mean(values).unwrap_or(f64::NAN)
}

fn interval(values: &[f64]) -> Interval {
    let middle = mean(values);
    stats::mean_interval(values, CONFIDENCE).ok().flatten().unwrap_or(Interval { low: middle, high: middle })
}

/// Returns the interval to draw: none of less than three values, which would be all a chart shows (of two, 9
/// times their distance each way).
fn whisker(values: &[f64]) -> Option<Interval> {
    (values.len() > 2).then(|| interval(values))
}

/// Returns the charts of recipes that learn tasks; nothing is missing where none does.
pub(super) fn draw(cells: &Cells<'_>) -> Result<Vec<Chart>, ChartError> {
    let arms = cells.arms(&["forgetting", "task_nll"]);
    let methods = methods(cells, &arms);
    if methods.is_empty() {
        return Ok(Vec::new());
    }
    let mut charts = vec![frontier::draw(cells, &methods)?];
    charts.extend(strengths::draw(cells, &methods)?);
    charts.extend(matrix::draw(cells, &arms)?);
    Ok(charts)
}

/// Returns the methods' names, each once, in order.
fn names(methods: &[Method]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for method in methods {
        if !names.contains(&method.name.as_str()) {
            names.push(&method.name);
        }
    }
    names
}

fn style(names: &[&str], name: &str) -> (palette::Color, canvas::Dash) {
    let at = names.iter().position(|known| *known == name).unwrap_or(0);
    (palette::series(at % palette::SERIES_COUNT), DASHES[at / palette::SERIES_COUNT % DASHES.len()])
}

fn replicates(methods: &[Method]) -> String {
    let counts: Vec<usize> = methods.iter().map(|method| method.forgetting.len()).collect();
    format!("n = {} seeds and orders", show::range(&counts))
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    let room = if high > low { (high - low) * 0.08 } else { high.abs().max(1.0) * 0.1 };
    (low - room, high + room)
}

/// Columns of a legend.
const COLUMNS: usize = 3;

fn legend_height(names: &[&str]) -> f64 {
    LEGEND_LINE * names.len().div_ceil(COLUMNS) as f64 + 6.0
}

/// Marks a place with a method's colour: a disc, and a ring for those whose colour another has already.
fn mark(canvas: &mut Canvas<'_>, names: &[&str], name: &str, place: (f64, f64)) {
    let (color, _) = style(names, name);
    if names.iter().position(|known| *known == name).unwrap_or(0) < palette::SERIES_COUNT {
        canvas.disc(place, 5.0, color);
    } else {
        canvas.disc(place, 5.0, palette::WHITE);
        canvas.ring(place, 5.0, color);
    }
}

fn legend(canvas: &mut Canvas<'_>, names: &[&str], (left, top): (f64, f64)) {
    let lines = names.len().div_ceil(COLUMNS).max(1);
    let column = (WIDTH - MARGIN - left) / COLUMNS as f64;
    for (at, name) in names.iter().enumerate() {
        let (color, dash) = style(names, name);
        let (left, y) = (left + (at / lines) as f64 * column, top + ((at % lines) as f64 + 0.5) * LEGEND_LINE);
        canvas.line((left, y), (left + 30.0, y), Stroke { color, width: 3.0, dash });
        mark(canvas, names, name, (left + 15.0, y));
        let name = text::fit(name, LABEL_SIZE, column - 46.0);
        canvas.text((left + 40.0, y), &name, LABEL_SIZE, INK, Anchor::Start);
    }
}

fn csv(methods: &[Method]) -> String {
    let mut csv = Csv::new(&[
        "method",
        "lambda",
        "n",
        "forgetting",
        "forgetting_low",
        "forgetting_high",
        "plasticity_loss",
        "plasticity_loss_low",
        "plasticity_loss_high",
        "arm",
    ]);
    for Method { name: _, kind, arm, lambda, forgetting, plasticity_loss } in methods {
        let (f, p) = (interval(forgetting), interval(plasticity_loss));
        let values = [mean(forgetting), f.low, f.high, mean(plasticity_loss), p.low, p.high];
        let fields = [kind.clone(), number(*lambda), forgetting.len().to_string()];
        let fields = fields.into_iter().chain(values.into_iter().map(|value| number(Some(value))));
        csv.row(fields.chain([arm.clone()]));
    }
    csv.finish()
}

fn span_of(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_name_method_strength_and_order() {
        assert_eq!(parts("continual(ewc_pp,l0.5,o1)"), Some(("ewc_pp", Some(0.5), 1)));
        assert_eq!(parts("continual(sequential,o0)"), Some(("sequential", None, 0)));
        assert_eq!(parts("continual(e16,heldout)"), None);
        assert_eq!(parts("decode(p1,n2)"), None);
    }
}
