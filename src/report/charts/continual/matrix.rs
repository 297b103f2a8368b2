//! What each method left of every task: a small heat map of R for each.
use super::{
    super::{
        Chart, ChartError,
        canvas::{self, Anchor, Canvas},
        cells::{Arm, Cells},
        csv::{Csv, number},
        frame::{Frame, LABEL_SIZE, MARGIN, SMALL_SIZE, WIDTH},
        palette::{self, INK},
        text,
    },
    in_arm, parts, span_of,
};
use crate::{event::Arm as Side, metrics::SampleRow, report::number as show};

/// Heat maps side by side.
const ACROSS: usize = 3;
const ROW: f64 = 24.0;
/// Room for the name of a method, and of the tasks under it.
const HEADER: f64 = 44.0;
/// Room for the stages at the left of a map.
const STAGES: f64 = 62.0;
const GAP: f64 = 22.0;

/// A task's loss after so many tasks, mean over the cells of an arm.
struct Field<'a> {
    through: u32,
    task: &'a str,
    value: f64,
    count: usize,
}

/// One method's matrix in one arm.
struct Map<'a> {
    label: &'a str,
    arm: &'a str,
    fields: Vec<Field<'a>>,
}

impl Map<'_> {
    fn value(&self, through: usize, task: &str) -> Option<f64> {
        let is = |field: &&Field<'_>| field.through as usize == through && field.task == task;
        self.fields.iter().find(is).map(|field| field.value)
    }

    /// Returns what the method is called, its strength, and its arm where there are several.
    fn title(&self) -> String {
        let method = match parts(self.label) {
            Some((name, Some(lambda), _)) => format!("{name}, λ {lambda}"),
            Some((name, None, _)) => name.to_owned(),
            None => self.label.to_owned(),
        };
        in_arm(&method, self.arm)
    }
}

fn counts(row: &SampleRow) -> bool {
    row.metric == "task_nll" && row.valid && row.arm == Side::Candidate.name()
}

/// Returns the matrix of every method that has a whole one, in the first order, mean over the cells of an arm.
fn maps<'a>(arms: &'a [Arm<'_>]) -> Vec<Map<'a>> {
    let mut maps: Vec<Map<'a>> = Vec::new();
    let rows = arms.iter().flat_map(|arm| {
        let rows = arm.cells.iter().flat_map(|cell| &cell.record.samples).filter(|row| counts(row));
        rows.map(move |row| (arm.label.as_str(), row))
    });
    for (arm, row) in rows {
        let is_whole = parts(&row.workload).is_some_and(|(name, _, order)| order == 0 && name != "joint");
        let (Some(task), Some(through)) = (row.task.as_deref(), row.trained_through) else { continue };
        if !is_whole {
            continue;
        }
        let at = maps.iter().position(|map| map.label == row.workload && map.arm == arm).unwrap_or_else(|| {
            maps.push(Map { label: &row.workload, arm, fields: Vec::new() });
            maps.len() - 1
        });
        let fields = &mut maps[at].fields;
        match fields.iter_mut().find(|field| field.task == task && field.through == through) {
            Some(field) => {
                field.value += row.value;
                field.count += 1;
            }
            None => fields.push(Field { through, task, value: row.value, count: 1 }),
        }
    }
    maps.iter_mut().flat_map(|map| &mut map.fields).for_each(|field| field.value /= field.count as f64);
    maps
}

pub(super) fn draw(cells: &Cells<'_>, arms: &[Arm<'_>]) -> Result<Option<Chart>, ChartError> {
    let maps = maps(arms);
    let Some(first) = maps.first() else { return Ok(None) };
    let mut tasks: Vec<&str> = Vec::new();
    for field in &first.fields {
        if !tasks.contains(&field.task) {
            tasks.push(field.task);
        }
    }
    let name = "continual_matrix";
    let title = format!("{}: what is left of every task", cells.recipe);
    let counts: Vec<usize> = arms.iter().map(|arm| arm.cells.len()).collect();
    let caption = format!(
        "Held-out negative log-likelihood of each task, nats/token, before the first task and after each, down to the \
         bottom; mean over {}. Lighter is lower, within a task over all methods.",
        match counts.as_slice() {
            [count] => show::count(*count, "cell", "cells"),
            counts => format!("cells that differ in their seed alone (n = {})", show::range(counts)),
        }
    );
    // A task's least and greatest loss.
    let spans: Vec<(f64, f64)> = tasks
        .iter()
        .map(|task| span_of(maps.iter().flat_map(|map| &map.fields).filter(|f| f.task == *task).map(|f| f.value)))
        .collect();
    let frame = Frame::new(&title, &cells.facts, &caption);
    let panel = HEADER + ROW * (tasks.len() + 1) as f64 + GAP;
    let height = frame.top() + panel * maps.len().div_ceil(ACROSS) as f64 + frame.bottom();
    let width = (WIDTH - 2.0 * MARGIN - GAP * (ACROSS - 1) as f64) / ACROSS as f64;
    let svg = canvas::draw(name, &title, (WIDTH, height), |canvas| {
        frame.write(canvas, height);
        for (at, map) in maps.iter().enumerate() {
            let left = MARGIN + (at % ACROSS) as f64 * (width + GAP);
            paint(canvas, map, &tasks, &spans, (left, frame.top() + (at / ACROSS) as f64 * panel, width));
        }
    })?;
    let mut csv = Csv::new(&["workload", "trained_through", "task", "task_nll", "arm"]);
    for (map, field) in maps.iter().flat_map(|map| map.fields.iter().map(move |field| (map, field))) {
        let (through, value) = (field.through.to_string(), number(Some(field.value)));
        csv.row([map.label.to_owned(), through, field.task.to_owned(), value, map.arm.to_owned()]);
    }
    Ok(Some(Chart { name: name.to_owned(), title, svg, csv: csv.finish() }))
}

fn paint(
    canvas: &mut Canvas<'_>,
    map: &Map<'_>,
    tasks: &[&str],
    spans: &[(f64, f64)],
    (left, top, width): (f64, f64, f64),
) {
    let title = text::fit(&map.title(), LABEL_SIZE, width - STAGES);
    canvas.text((left + STAGES, top + 12.0), &title, LABEL_SIZE, INK, Anchor::Start);
    let (start, column) = (left + STAGES, (width - STAGES) / tasks.len().max(1) as f64);
    for (c, (task, (least, most))) in tasks.iter().zip(spans).enumerate() {
        let x = start + (c as f64 + 0.5) * column;
        let short = text::fit(task, SMALL_SIZE, column - 2.0);
        canvas.text((x, top + HEADER - 11.0), &short, SMALL_SIZE, INK, Anchor::Middle);
        for through in 0..=tasks.len() {
            let Some(value) = map.value(through, task) else { continue };
            let share = if most > least { (most - value) / (most - least) } else { 0.0 };
            let color = palette::viridis(share);
            let y = top + HEADER + through as f64 * ROW;
            let x = start + c as f64 * column;
            canvas.rect((x + 0.5, y + 0.5), (x + column - 0.5, y + ROW - 0.5), color);
            let middle = (x + column / 2.0, y + ROW / 2.0);
            canvas.text(middle, &show::significant(value, 3), SMALL_SIZE, palette::text_on(color), Anchor::Middle);
        }
    }
    for through in 0..=tasks.len() {
        let stage = if through == 0 { "before" } else { tasks[through - 1] };
        let y = top + HEADER + (through as f64 + 0.5) * ROW;
        canvas.text((start - 6.0, y), &text::fit(stage, SMALL_SIZE, STAGES - 8.0), SMALL_SIZE, INK, Anchor::End);
    }
}
