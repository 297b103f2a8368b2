//! What protection costs: forgetting against loss of plasticity.
use super::{
    super::{
        Chart, ChartError,
        canvas::{self, Anchor, Stroke},
        cells::Cells,
        frame::{Frame, MARGIN, Plot, SMALL_SIZE, WIDTH, X_AXIS_HEIGHT},
        palette::{AXIS, INK},
        scale::Scale,
    },
    Method, PLOT_HEIGHT, csv, interval, legend, legend_height, mark, mean, names, replicates, span, style,
};
use crate::report::number as show;

/// Forgetting against what learning lost, of all methods.
pub(super) fn draw(cells: &Cells<'_>, methods: &[Method]) -> Result<Chart, ChartError> {
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
    let legend_height = legend_height(&names);
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
                mark(canvas, &names, name, *place);
                let strength = method.lambda.filter(|_| own.len() > 1);
                let label = strength.map_or_else(|| method.name.clone(), |lambda| show::significant(lambda, 2));
                // What is at the right edge is named to its left.
                let (aside, anchor) =
                    if place.0 > plot.right - 110.0 { (-8.0, Anchor::End) } else { (8.0, Anchor::Start) };
                canvas.text((place.0 + aside, place.1 - 9.0), &label, SMALL_SIZE, INK, anchor);
            }
        }
        legend(canvas, &names, (plot.left, bottom + X_AXIS_HEIGHT));
    })?;
    Ok(Chart { name: name.to_owned(), title, svg, csv: csv(methods) })
}
