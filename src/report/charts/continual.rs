//! Tasks learned one after the other: what each left of every task, forgetting against the strength of a
//! penalty, and forgetting against what learning lost.
use super::{
    Chart, ChartError, canvas,
    canvas::{Anchor, Canvas, DASHES, Stroke},
    cells::Cells,
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, Plot, SMALL_SIZE, WIDTH, X_AXIS_HEIGHT},
    palette::{self, AXIS, INK},
    scale::Scale,
    text,
};
use crate::{
    event::Arm,
    metrics::{
        SampleRow,
        stats::{self, CONFIDENCE, Interval},
    },
    report::number as show,
};

const PLOT_HEIGHT: f64 = 400.0;
const LEGEND_LINE: f64 = 20.0;

/// A method at a strength, over all cells (seeds) and orders.
struct Method {
    name: String,
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

fn methods(cells: &Cells<'_>) -> Vec<Method> {
    let mut found: Vec<Method> = Vec::new();
    for (workload, _) in cells.workloads("forgetting") {
        let Some((name, lambda, _)) = parts(&workload) else { continue };
        for cell in &cells.list {
            let of = |metric: &str| Some(cell.summary.find(metric, &workload)?.mean);
            let (Some(forgetting), Some(loss)) = (of("forgetting"), of("plasticity_loss")) else { continue };
            let at = found.iter().position(|known| known.name == name && known.lambda == lambda);
            let at = at.unwrap_or_else(|| {
                let (forgetting, plasticity_loss) = (Vec::new(), Vec::new());
                found.push(Method { name: name.to_owned(), lambda, forgetting, plasticity_loss });
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

/// Returns the charts of recipes that learn tasks; nothing is missing where none does.
pub(super) fn draw(cells: &Cells<'_>) -> Result<Vec<Chart>, ChartError> {
    let methods = methods(cells);
    if methods.is_empty() {
        return Ok(Vec::new());
    }
    let mut charts = vec![frontier(cells, &methods)?];
    charts.extend(strengths(cells, &methods)?);
    charts.extend(matrices(cells)?);
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

fn legend(canvas: &mut Canvas<'_>, names: &[&str], (left, top): (f64, f64)) {
    for (at, name) in names.iter().enumerate() {
        let (color, dash) = style(names, name);
        let y = top + (at as f64 + 0.5) * LEGEND_LINE;
        canvas.line((left, y), (left + 30.0, y), Stroke { color, width: 3.0, dash });
        canvas.text((left + 40.0, y), name, LABEL_SIZE, INK, Anchor::Start);
    }
}

fn frontier(cells: &Cells<'_>, methods: &[Method]) -> Result<Chart, ChartError> {
    let name = "continual_frontier";
    let title = format!("{}: forgetting against loss of plasticity", cells.recipe);
    let caption = format!(
        "Forgetting: how far held-out losses of earlier tasks rose by the end. Plasticity loss: the share of the gain that \
         sequential learning has when a task is learned. Numbers: λ. Whiskers: 95 % intervals of the mean (Student's t), {}. \
         Dashed: 10 % plasticity loss. Left and low is better.",
        replicates(methods)
    );
    let names = names(methods);
    let frame = Frame::new(&title, &cells.facts, &caption);
    let legend_height = LEGEND_LINE * names.len() as f64 + 6.0;
    let height = frame.top() + PLOT_HEIGHT + X_AXIS_HEIGHT + legend_height + frame.bottom();
    let point = |method: &Method| (mean(&method.plasticity_loss) * 100.0, mean(&method.forgetting));
    let xs = span(methods.iter().map(|method| point(method).0).chain([0.0, 12.0]));
    let ys = span(methods.iter().map(|method| point(method).1).chain([0.0]));
    let svg = canvas::draw(name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let (top, bottom) = (frame.top(), frame.top() + PLOT_HEIGHT);
        let plot = Plot { left: MARGIN + 72.0, right: WIDTH - MARGIN, top, bottom };
        let (x, y) = (Scale::linear(xs, (plot.left, plot.right)), Scale::linear(ys, (plot.bottom, plot.top)));
        plot.x_axis(canvas, &x, 9, "plasticity loss, % of sequential learning's gain");
        plot.y_axis(canvas, &y, 6, "forgetting, nats/token");
        canvas.line((x.at(10.0), top), (x.at(10.0), bottom), Stroke::dashed(AXIS, 1.3));
        for name in &names {
            let own: Vec<&Method> = methods.iter().filter(|method| method.name == *name).collect();
            let (color, dash) = style(&names, name);
            let places: Vec<(f64, f64)> =
                own.iter().map(|method| point(method)).map(|(loss, forgot)| (x.at(loss), y.at(forgot))).collect();
            canvas.path(&places, Stroke { color, width: 1.8, dash });
            for (method, place) in own.iter().zip(&places) {
                let within = |value: f64| value.clamp(plot.top, plot.bottom);
                let (across, along) = (interval(&method.plasticity_loss), interval(&method.forgetting));
                let inside = |value: f64| x.at(value * 100.0).clamp(plot.left, plot.right);
                canvas.line((inside(across.low), place.1), (inside(across.high), place.1), Stroke::solid(color, 1.0));
                let ends = (within(y.at(along.low)), within(y.at(along.high)));
                canvas.line((place.0, ends.0), (place.0, ends.1), Stroke::solid(color, 1.0));
                canvas.disc(*place, 5.0, color);
                let label = method.lambda.map_or_else(|| method.name.clone(), |lambda| show::significant(lambda, 2));
                canvas.text((place.0 + 8.0, place.1 - 9.0), &label, SMALL_SIZE, INK, Anchor::Start);
            }
        }
        legend(canvas, &names, (plot.left, bottom + X_AXIS_HEIGHT));
    })?;
    Ok(Chart { name: name.to_owned(), title, svg, csv: csv(methods) })
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
    ]);
    for Method { name, lambda, forgetting, plasticity_loss } in methods {
        let (f, p) = (interval(forgetting), interval(plasticity_loss));
        let values = [mean(forgetting), f.low, f.high, mean(plasticity_loss), p.low, p.high];
        let fields = [name.clone(), number(*lambda), forgetting.len().to_string()];
        csv.row(fields.into_iter().chain(values.into_iter().map(|value| number(Some(value)))));
    }
    csv.finish()
}

/// Forgetting against λ, for the methods with several.
fn strengths(cells: &Cells<'_>, methods: &[Method]) -> Result<Option<Chart>, ChartError> {
    let swept = |name: &str| methods.iter().filter(|m| m.name == name && m.lambda.is_some_and(|l| l > 0.0)).count() > 1;
    let names: Vec<&str> = names(methods).into_iter().filter(|name| swept(name)).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let name = "continual_lambda";
    let title = format!("{}: forgetting against the strength of the penalty", cells.recipe);
    let caption = format!(
        "Held-out losses of earlier tasks at the end, above the least they were. Whiskers: 95 % intervals of the mean \
         (Student's t), {}. Dashed: sequential learning.",
        replicates(methods)
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let legend_height = LEGEND_LINE * names.len() as f64 + 6.0;
    let height = frame.top() + PLOT_HEIGHT + X_AXIS_HEIGHT + legend_height + frame.bottom();
    let shown: Vec<&Method> = methods.iter().filter(|m| names.contains(&m.name.as_str())).collect();
    let plain = methods.iter().find(|method| method.name == "sequential").map(|method| mean(&method.forgetting));
    let lambdas = span_of(shown.iter().filter_map(|method| method.lambda));
    let ys = span(shown.iter().map(|method| mean(&method.forgetting)).chain(plain).chain([0.0]));
    let svg = canvas::draw(name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let (top, bottom) = (frame.top(), frame.top() + PLOT_HEIGHT);
        let plot = Plot { left: MARGIN + 72.0, right: WIDTH - MARGIN, top, bottom };
        let x = Scale::log(lambdas, (plot.left, plot.right), 0.06);
        let y = Scale::linear(ys, (plot.bottom, plot.top));
        plot.x_axis(canvas, &x, 8, "λ (logarithmic)");
        plot.y_axis(canvas, &y, 6, "forgetting, nats/token");
        if let Some(plain) = plain {
            canvas.line((plot.left, y.at(plain)), (plot.right, y.at(plain)), Stroke::dashed(AXIS, 1.3));
        }
        for name in &names {
            let (color, dash) = style(&names, name);
            let own: Vec<(f64, &Method)> =
                shown.iter().filter(|m| m.name == *name).filter_map(|m| Some((m.lambda?, *m))).collect();
            let places: Vec<_> = own.iter().map(|(lambda, m)| (x.at(*lambda), y.at(mean(&m.forgetting)))).collect();
            canvas.path(&places, Stroke { color, width: 1.8, dash });
            for ((_, method), place) in own.iter().zip(&places) {
                let Interval { low, high } = interval(&method.forgetting);
                let within = |value: f64| y.at(value).clamp(plot.top, plot.bottom);
                canvas.line((place.0, within(low)), (place.0, within(high)), Stroke::solid(color, 1.0));
                canvas.disc(*place, 4.5, color);
            }
        }
        legend(canvas, &names, (plot.left, bottom + X_AXIS_HEIGHT));
    })?;
    Ok(Some(Chart { name: name.to_owned(), title, svg, csv: csv(methods) }))
}

fn span_of(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
}

/// One row of the matrix: tasks learned, then what each task's loss is above its least.
struct Field<'a> {
    through: u32,
    task: &'a str,
    value: f64,
}

/// The matrix of every method with a whole one, mean over cells, in the order as written.
fn matrices(cells: &Cells<'_>) -> Result<Vec<Chart>, ChartError> {
    let mut labels: Vec<&str> = Vec::new();
    let rows = || cells.list.iter().flat_map(|cell| &cell.record.samples).filter(|row| counts(row));
    for row in rows() {
        let is_first = parts(&row.workload).is_some_and(|(name, _, order)| order == 0 && name != "joint");
        if is_first && !labels.contains(&row.workload.as_str()) {
            labels.push(&row.workload);
        }
    }
    let mut charts = Vec::new();
    for (at, label) in labels.into_iter().enumerate() {
        let mut fields: Vec<(Field<'_>, usize)> = Vec::new();
        for row in rows().filter(|row| row.workload == label) {
            let (Some(task), Some(through)) = (row.task.as_deref(), row.trained_through) else { continue };
            match fields.iter_mut().find(|(field, _)| field.task == task && field.through == through) {
                Some((field, count)) => {
                    field.value += row.value;
                    *count += 1;
                }
                None => fields.push((Field { through, task, value: row.value }, 1)),
            }
        }
        fields.iter_mut().for_each(|(field, count)| field.value /= *count as f64);
        let fields: Vec<Field<'_>> = fields.into_iter().map(|(field, _)| field).collect();
        charts.push(matrix(cells, label, at, &fields)?);
    }
    Ok(charts)
}

fn counts(row: &SampleRow) -> bool {
    row.metric == "task_nll" && row.valid && row.arm == Arm::Candidate.name()
}

fn matrix(cells: &Cells<'_>, label: &str, at: usize, fields: &[Field<'_>]) -> Result<Chart, ChartError> {
    let name = if at == 0 { "continual_matrix".to_owned() } else { format!("continual_matrix-{}", at + 1) };
    let title = format!("{}: what is left of every task", cells.recipe);
    let mut tasks: Vec<&str> = Vec::new();
    for field in fields {
        if !tasks.contains(&field.task) {
            tasks.push(field.task);
        }
    }
    let caption = format!(
        "{label}, mean over {}. Held-out negative log-likelihood of each task, nats/token, after learning the tasks down to \
         each row; colour: how much lower than before the first task, within its column.",
        show::count(cells.list.len(), "cell", "cells")
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let (row, stages) = (46.0, tasks.len() + 1);
    let top = frame.top() + 26.0;
    let height = top + row * stages as f64 + 14.0 + frame.bottom();
    let value = |through: usize, task: &str| {
        fields.iter().find(|field| field.through as usize == through && field.task == task).map(|field| field.value)
    };
    let svg = canvas::draw(&name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let left = MARGIN + 150.0;
        let column = (WIDTH - MARGIN - left) / tasks.len().max(1) as f64;
        for (c, task) in tasks.iter().enumerate() {
            let x = left + (c as f64 + 0.5) * column;
            canvas.text((x, top - 13.0), &text::fit(task, LABEL_SIZE, column - 6.0), LABEL_SIZE, INK, Anchor::Middle);
            let all = (0..stages).filter_map(|through| value(through, task));
            let (least, most) = span_of(all);
            for through in 0..stages {
                let Some(value) = value(through, task) else { continue };
                let share = if most > least { (most - value) / (most - least) } else { 0.0 };
                let color = palette::viridis(share);
                let (x, y) = (left + c as f64 * column, top + through as f64 * row);
                canvas.rect((x + 1.0, y + 1.0), (x + column - 1.0, y + row - 1.0), color);
                let middle = (x + column / 2.0, y + row / 2.0);
                canvas.text(
                    middle,
                    &show::significant(value, 3),
                    LABEL_SIZE + 2.0,
                    palette::text_on(color),
                    Anchor::Middle,
                );
            }
        }
        for through in 0..stages {
            let y = top + (through as f64 + 0.5) * row;
            let stage = if through == 0 { "before" } else { tasks[through - 1] };
            let stage = if through == 0 { stage.to_owned() } else { format!("after {stage}") };
            canvas.text((left - 10.0, y), &text::fit(&stage, LABEL_SIZE, 140.0), LABEL_SIZE, INK, Anchor::End);
        }
    })?;
    let mut csv = Csv::new(&["workload", "trained_through", "task", "task_nll"]);
    for Field { through, task, value } in fields {
        csv.row([label.to_owned(), through.to_string(), (*task).to_owned(), number(Some(*value))]);
    }
    Ok(Chart { name, title, svg, csv: csv.finish() })
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
