//! What a penalty's strength does.
use super::{
    super::{
        Chart, ChartError,
        canvas::{self, Anchor, Stroke},
        cells::Cells,
        frame::{Frame, MARGIN, Plot, SMALL_SIZE, WIDTH, X_AXIS_HEIGHT},
        palette::{AXIS, SOFT},
        scale::Scale,
    },
    Method, PLOT_HEIGHT, csv, legend, legend_height, mark, mean, names, replicates, span, span_of, style, whisker,
};
use crate::metrics::stats::Interval;

/// Forgetting against λ, for the methods with several.
pub(super) fn draw(cells: &Cells<'_>, methods: &[Method]) -> Result<Option<Chart>, ChartError> {
    let swept = |name: &str| methods.iter().filter(|m| m.name == name && m.lambda.is_some_and(|l| l > 0.0)).count() > 1;
    let names: Vec<&str> = names(methods).into_iter().filter(|name| swept(name)).collect();
    if names.is_empty() {
        return Ok(None);
    }
    let name = "continual_lambda";
    let title = format!("{}: forgetting against the strength of the penalty", cells.recipe);
    let caption = format!(
        "Held-out losses of earlier tasks at the end, above the least they were. Whiskers: 95 % intervals of the mean \
         (Student's t) of three values or more, {}. Dashed: sequential learning.",
        replicates(methods)
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let legend_height = legend_height(&names);
    let height = frame.top() + PLOT_HEIGHT + X_AXIS_HEIGHT + legend_height + frame.bottom();
    let shown: Vec<&Method> = methods.iter().filter(|m| names.contains(&m.name.as_str())).collect();
    let plain = methods.iter().filter(|method| method.kind == "sequential");
    let plain: Vec<(&str, f64)> = plain.map(|method| (method.arm.as_str(), mean(&method.forgetting))).collect();
    let lambdas = span_of(shown.iter().filter_map(|method| method.lambda));
    let forgetting = shown.iter().map(|method| mean(&method.forgetting));
    let ys = span(forgetting.chain(plain.iter().map(|(_, value)| *value)).chain([0.0]));
    let svg = canvas::draw(name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        let (top, bottom) = (frame.top(), frame.top() + PLOT_HEIGHT);
        let plot = Plot { left: MARGIN + 72.0, right: WIDTH - MARGIN, top, bottom };
        let x = Scale::log(lambdas, (plot.left, plot.right), 0.06);
        let y = Scale::linear(ys, (plot.bottom, plot.top));
        plot.x_axis(canvas, &x, 8, "λ (logarithmic)");
        plot.y_axis(canvas, &y, 6, "forgetting, nats/token");
        for (arm, plain) in &plain {
            canvas.line((plot.left, y.at(*plain)), (plot.right, y.at(*plain)), Stroke::dashed(AXIS, 1.3));
            if !arm.is_empty() {
                canvas.text((plot.right, y.at(*plain) - 8.0), arm, SMALL_SIZE, SOFT, Anchor::End);
            }
        }
        for name in &names {
            let (color, dash) = style(&names, name);
            let own: Vec<(f64, &Method)> =
                shown.iter().filter(|m| m.name == *name).filter_map(|m| Some((m.lambda?, *m))).collect();
            let places: Vec<_> = own.iter().map(|(lambda, m)| (x.at(*lambda), y.at(mean(&m.forgetting)))).collect();
            canvas.path(&places, Stroke { color, width: 1.8, dash });
            for ((_, method), place) in own.iter().zip(&places) {
                let within = |value: f64| y.at(value).clamp(plot.top, plot.bottom);
                if let Some(Interval { low, high }) = whisker(&method.forgetting) {
                    canvas.line((place.0, within(low)), (place.0, within(high)), Stroke::solid(color, 1.0));
                }
                mark(canvas, &names, name, *place);
            }
        }
        legend(canvas, &names, (plot.left, bottom + X_AXIS_HEIGHT));
    })?;
    Ok(Some(Chart { name: name.to_owned(), title, svg, csv: csv(methods) }))
}
