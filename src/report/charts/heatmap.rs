//! Generation speed by quantization and kernel set.
use super::{
    Attempt, Chart, canvas,
    canvas::{Anchor, Canvas, Stroke},
    cells::Cells,
    csv::{Csv, number},
    frame::{Frame, LABEL_SIZE, MARGIN, SMALL_SIZE, TICK_SIZE, WIDTH},
    palette::{self, AXIS, GRID, INK, SOFT, WHITE},
    scale::Scale,
    skipped, text,
};
use crate::report::{label::kernel_set_name, number as show};

const NAME: &str = "heatmap";

/// Speeds by row (format) and column (kernel set): the runs of each.
struct Grid {
    formats: Vec<String>,
    kernels: Vec<String>,
    speeds: Vec<Vec<Vec<f64>>>,
}

impl Grid {
    fn mean(&self, row: usize, column: usize) -> Option<f64> {
        let speeds = &self.speeds[row][column];
        (!speeds.is_empty()).then(|| speeds.iter().sum::<f64>() / speeds.len() as f64)
    }
}

fn position(list: &mut Vec<String>, value: String) -> usize {
    list.iter().position(|known| *known == value).unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    })
}

fn grid(cells: &Cells<'_>, workload: &str) -> Grid {
    let (mut formats, mut kernels) = (Vec::new(), Vec::new());
    let mut found: Vec<(usize, usize, f64)> = Vec::new();
    for cell in &cells.list {
        let manifest = &cell.record.manifest;
        let row = position(&mut formats, manifest.model.format.clone());
        let column = position(&mut kernels, kernel_set_name(manifest.kernel_set));
        found.extend(cell.summary.find("decode_tok_s", workload).map(|summary| (row, column, summary.mean)));
    }
    let mut speeds = vec![vec![Vec::new(); kernels.len()]; formats.len()];
    for (row, column, speed) in found {
        speeds[row][column].push(speed);
    }
    Grid { formats, kernels, speeds }
}

pub(super) fn draw(cells: &Cells<'_>) -> Attempt {
    let workloads = cells.workloads("decode_tok_s");
    let Some((workload, _)) = workloads.first() else {
        return skipped(NAME, "no generation speed was measured");
    };
    let grid = grid(cells, workload);
    if grid.formats.len() < 2 || grid.kernels.len() < 2 {
        return skipped(NAME, "needs at least two weight formats and two kernel sets");
    }
    let title = format!("{}: generation speed by weight format and kernel set", cells.recipe);
    let most_runs = grid.speeds.iter().flatten().map(Vec::len).max().unwrap_or(1);
    let several = if most_runs > 1 { " Fields with several runs (seeds, threads) show their mean." } else { "" };
    let summaries = cells.list.iter().filter_map(|cell| cell.summary.find("decode_tok_s", workload));
    let caption = format!(
        "Mean generation speed on {workload} in tokens/s, {} launches a field.{several} Crossed out: not measured.",
        Cells::launches(summaries)
    );
    let frame = Frame::new(&title, &cells.facts, &caption);
    let row = if grid.formats.len() > 6 { 46.0 } else { 62.0 };
    let top = frame.top() + 26.0;
    let bottom = top + row * grid.formats.len() as f64;
    let height = bottom + 18.0 + frame.bottom();
    let svg = canvas::draw(NAME, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        draw_grid(canvas, &grid, top, row);
    })?;
    Ok(Ok(Chart { name: NAME.to_owned(), title, svg, csv: csv(&grid, workload) }))
}

fn draw_grid(canvas: &mut Canvas<'_>, grid: &Grid, top: f64, row: f64) {
    let widest = grid.formats.iter().map(|format| text::width(format, LABEL_SIZE)).fold(0.0, f64::max).min(220.0);
    let left = MARGIN + widest + 12.0;
    let bar = 110.0;
    let right = WIDTH - MARGIN - bar;
    let column = ((right - left) / grid.kernels.len() as f64).min(240.0);
    let right = left + column * grid.kernels.len() as f64;
    let bottom = top + row * grid.formats.len() as f64;
    let values: Vec<f64> =
        (0..grid.formats.len()).flat_map(|r| (0..grid.kernels.len()).filter_map(move |c| grid.mean(r, c))).collect();
    let most = values.iter().copied().fold(0.0, f64::max);
    let shades = Scale::linear((0.0, most.max(f64::MIN_POSITIVE)), (0.0, 1.0));
    for (c, kernels) in grid.kernels.iter().enumerate() {
        let x = left + (c as f64 + 0.5) * column;
        canvas.text((x, top - 13.0), &text::fit(kernels, LABEL_SIZE, column - 6.0), LABEL_SIZE, INK, Anchor::Middle);
    }
    for (r, format) in grid.formats.iter().enumerate() {
        let y = top + (r as f64 + 0.5) * row;
        let label = text::fit(format, LABEL_SIZE, widest + 0.5);
        canvas.text((left - 10.0, y), &label, LABEL_SIZE, INK, Anchor::End);
        for c in 0..grid.kernels.len() {
            let x = left + c as f64 * column;
            let (a, b) = ((x + 1.0, y - row / 2.0 + 1.0), (x + column - 1.0, y + row / 2.0 - 1.0));
            field(canvas, (a, b), grid.mean(r, c), &shades);
        }
    }
    color_bar(canvas, (right + 26.0, top), bottom, most);
}

fn field(canvas: &mut Canvas<'_>, (a, b): ((f64, f64), (f64, f64)), value: Option<f64>, shades: &Scale) {
    let middle = (f64::midpoint(a.0, b.0), f64::midpoint(a.1, b.1));
    match value {
        Some(value) => {
            let color = palette::viridis(shades.at(value));
            canvas.rect(a, b, color);
            canvas.text(
                middle,
                &show::significant(value, 3),
                LABEL_SIZE + 3.0,
                palette::text_on(color),
                Anchor::Middle,
            );
        }
        None => {
            canvas.rect(a, b, palette::mix(WHITE, GRID, 0.5));
            canvas.line(a, b, Stroke::solid(GRID, 1.0));
            canvas.line((a.0, b.1), (b.0, a.1), Stroke::solid(GRID, 1.0));
            let half = text::width("not measured", SMALL_SIZE) / 2.0 + 4.0;
            canvas.rect(
                (middle.0 - half, middle.1 - 9.0),
                (middle.0 + half, middle.1 + 9.0),
                palette::mix(WHITE, GRID, 0.5),
            );
            canvas.text(middle, "not measured", SMALL_SIZE, SOFT, Anchor::Middle);
        }
    }
}

fn color_bar(canvas: &mut Canvas<'_>, (x, top): (f64, f64), bottom: f64, most: f64) {
    let slices = 64;
    let slice = (bottom - top) / f64::from(slices);
    for i in 0..slices {
        let y = bottom - f64::from(i) * slice;
        let color = palette::viridis((f64::from(i) + 0.5) / f64::from(slices));
        // A hair of overlap, so that no seams show.
        canvas.rect((x, y), (x + 14.0, (y - slice - 0.5).max(top)), color);
    }
    let scale = Scale::linear((0.0, most.max(f64::MIN_POSITIVE)), (bottom, top));
    for (value, label) in scale.ticks(5) {
        let y = scale.at(value);
        canvas.line((x + 14.0, y), (x + 18.0, y), Stroke::solid(AXIS, 1.0));
        canvas.text((x + 23.0, y), &label, TICK_SIZE, SOFT, Anchor::Start);
    }
    canvas.text((x, top - 13.0), "tokens/s", SMALL_SIZE, SOFT, Anchor::Start);
}

fn csv(grid: &Grid, workload: &str) -> String {
    let mut csv = Csv::new(&["format", "kernel_set", "workload", "runs", "decode_tok_s"]);
    for (r, format) in grid.formats.iter().enumerate() {
        for (c, kernels) in grid.kernels.iter().enumerate() {
            let runs = grid.speeds[r][c].len().to_string();
            let fields = [format.clone(), kernels.clone(), workload.to_owned(), runs, number(grid.mean(r, c))];
            csv.row(fields);
        }
    }
    csv.finish()
}
