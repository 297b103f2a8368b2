//! Rules of the matrix and of the baseline cell that refers to it.
use serde_json::Value;

use super::super::path::{KeyPath, Segment};
use super::super::problem::Problem;
use super::super::schema::{AxisPoint, Matrix, Recipe, same_value};
use super::super::shape;

/// Cells of the largest matrix: far more than anybody can run, few enough to plan at once.
const MAX_CELLS: usize = 10_000;

/// Keys that a matrix may not vary, and why.
pub(crate) const FIXED: [(&str, &str); 9] = [
    ("baseline", "the comparison is made over all cells"),
    ("description", "it changes nothing that is measured"),
    ("extends", "layers are joined before the matrix"),
    ("matrix", "a matrix cannot vary itself"),
    ("measure", "all cells are measured alike, or they could not be compared"),
    ("name", "all cells belong to one recipe"),
    ("schema", "all cells belong to one recipe"),
    ("seeds", "write `seeds: [0, 1, 2]`: every cell runs once for each"),
    ("tags", "it changes nothing that is measured"),
];

/// Reports what is wrong with a recipe's matrix and its baseline's cell.
pub(crate) fn check(recipe: &Recipe, given: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    let empty = Matrix::default();
    let matrix = recipe.matrix.as_ref().unwrap_or(&empty);
    let at = KeyPath::default().key("matrix");
    let axes = at.key("axes");
    for (key, values) in &matrix.axes {
        axis(key, values, &axes.key(key), &mut problems);
    }
    for (index, group) in matrix.zip.iter().enumerate() {
        let at = at.key("zip").index(index);
        for (key, values) in group {
            if matrix.axes.contains_key(key) || matrix.zip[..index].iter().any(|earlier| earlier.contains_key(key)) {
                let message = format!("`{key}` is an axis already");
                problems.push(Problem::key(at.key(key), "matrix", message).hint("keep one of the two"));
            }
            axis(key, values, &at.key(key), &mut problems);
        }
        let lengths: Vec<_> = group.iter().map(|(key, values)| format!("`{key}` has {}", values.len())).collect();
        if group.values().any(|values| values.len() != group[0].len()) {
            let message =
                format!("the lists of a `zip` group move together, and differ in length: {}", lengths.join(", "));
            problems.push(Problem::value(at, "matrix", message).hint("give them one length, or make them `axes`"));
        } else if group.is_empty() {
            problems.push(Problem::value(at, "matrix", "this `zip` group is empty").hint("leave it out"));
        }
    }
    for (index, point) in matrix.include.iter().enumerate() {
        check_point(point, &at.key("include").index(index), &mut problems);
    }
    let keys = axis_keys(matrix);
    for (key, _) in &keys {
        if let Ok((path, _)) = shape::follow(key)
            && let Some((list, items)) = too_short(&path, given)
        {
            let items = if items == 1 { "1 item".to_owned() } else { format!("{items} items") };
            let message = format!("`{list}` has {items}, counted from 0; `{key}` is in none of them");
            problems
                .push(Problem::key(at.key("axes").key(key.as_str()), "matrix", message).hint("vary one that is there"));
        }
    }
    for (index, point) in matrix.exclude.iter().enumerate() {
        let at = at.key("exclude").index(index);
        if point.is_empty() {
            problems.push(
                Problem::value(at.clone(), "matrix", "an empty `exclude` entry matches every cell")
                    .hint("leave it out"),
            );
        }
        for (key, value) in point {
            match keys.iter().find(|(axis, _)| *axis == key) {
                None => problems.push(not_an_axis(key, at.key(key), &keys)),
                Some((_, values)) if !values.iter().any(|known| same_value(known, value)) => {
                    problems.push(not_a_value(key, value, at.key(key), values));
                }
                Some(_) => {}
            }
        }
    }
    problems.extend(overlap(&keys, &at));
    let lengths = matrix.axes.values().map(Vec::len);
    let zipped = matrix.zip.iter().map(|group| group.values().map(Vec::len).max().unwrap_or(1));
    let cells = lengths.chain(zipped).fold(1_usize, usize::saturating_mul).saturating_add(matrix.include.len());
    if cells > MAX_CELLS {
        let message = format!("the matrix has {cells} cells, more than {MAX_CELLS}");
        problems.push(Problem::key(at, "matrix", message).hint("split it into several recipes"));
    }
    check_baseline_cell(recipe, matrix, &keys, &mut problems);
    problems
}

type Axes<'a> = Vec<(&'a String, Vec<&'a Value>)>;

/// Returns each axis with the values that axes, zip groups and includes give it.
fn axis_keys(matrix: &Matrix) -> Axes<'_> {
    let mut keys: Axes<'_> = Vec::new();
    let lists = matrix.axes.iter().chain(matrix.zip.iter().flatten());
    let lists = lists.map(|(key, values)| (key, values.iter().collect::<Vec<_>>()));
    let points = matrix.include.iter().flatten().map(|(key, value)| (key, vec![value]));
    for (key, values) in lists.chain(points) {
        match keys.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => known.extend(values),
            None => keys.push((key, values)),
        }
    }
    keys
}

/// Checks one axis: its key, and each value against the schema of that key.
fn axis(key: &str, values: &[Value], at: &KeyPath, problems: &mut Vec<Problem>) {
    if values.is_empty() {
        let problem = Problem::value(at.clone(), "matrix", format!("the axis `{key}` has no values"));
        problems.push(problem.hint("a matrix with an empty axis has no cells; add values or leave the axis out"));
    }
    for (index, value) in values.iter().enumerate() {
        if values[..index].iter().any(|earlier| same_value(earlier, value)) {
            let problem = Problem::value(at.index(index), "matrix", format!("the axis `{key}` has `{value}` twice"));
            problems.push(problem.hint("remove one"));
        }
    }
    check_setting(key, values.iter().enumerate().map(|(index, value)| (at.index(index), value)), at, problems);
}

fn check_point(point: &AxisPoint, at: &KeyPath, problems: &mut Vec<Problem>) {
    if point.is_empty() {
        problems.push(Problem::value(at.clone(), "matrix", "this point sets nothing").hint("leave it out"));
    }
    for (key, value) in point {
        check_setting(key, std::iter::once((at.key(key), value)), &at.key(key), problems);
    }
}

/// Checks that a key can be varied and that each value, with its own place, suits it.
fn check_setting<'a>(
    key: &str,
    values: impl Iterator<Item = (KeyPath, &'a Value)>,
    at: &KeyPath,
    problems: &mut Vec<Problem>,
) {
    let top = key.split(['.', '[']).next().unwrap_or(key);
    if let Some((fixed, reason)) = FIXED.iter().find(|(fixed, _)| *fixed == top) {
        let message = format!("`{fixed}` cannot be varied by a matrix");
        problems.push(Problem::key(at.clone(), "matrix", message).hint(*reason));
        return;
    }
    let (target, schema) = match shape::follow(key) {
        Ok(found) => found,
        Err(problem) => {
            problems.push(Problem { path: at.clone(), ..*problem });
            return;
        }
    };
    for (place, value) in values {
        if value.is_null() {
            continue;
        }
        let mut found = Vec::new();
        shape::walk(schema, value, &target, &mut found);
        problems.extend(found.into_iter().map(|problem| {
            let below = problem.path.0.get(target.0.len()..).unwrap_or_default();
            Problem { path: KeyPath([&place.0, below].concat()), ..problem }
        }));
    }
}

/// Returns the list that has no such entry, and how many it has.
fn too_short(path: &KeyPath, given: &Value) -> Option<(KeyPath, usize)> {
    let indexed = |(depth, segment): (usize, &Segment)| match segment {
        Segment::Index(index) => {
            let list = KeyPath(path.0[..depth].to_vec());
            let items = list.get(given).and_then(Value::as_array).map_or(0, Vec::len);
            (*index >= items).then_some((list, items))
        }
        Segment::Key(_) => None,
    };
    path.0.iter().enumerate().find_map(indexed)
}

/// Reports axes that write to one another's place.
fn overlap(keys: &Axes<'_>, at: &KeyPath) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (inner, _) in keys {
        for (outer, _) in keys {
            let within = inner.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']));
            if within {
                let message = format!("the axes `{outer}` and `{inner}` set the same thing");
                let path = at.key("axes").key(inner.as_str());
                problems.push(Problem::key(path, "matrix", message).hint("vary one of them"));
            }
        }
    }
    problems
}

fn check_baseline_cell(recipe: &Recipe, matrix: &Matrix, keys: &Axes<'_>, problems: &mut Vec<Problem>) {
    let Some(baseline) = &recipe.baseline else { return };
    let at = KeyPath::default().key("baseline").key("cell");
    let seeds: Vec<Value> = recipe.seeds.iter().map(|seed| Value::from(*seed)).collect();
    for (key, value) in &baseline.cell {
        let at = at.key(key);
        let seed = [(key, seeds.iter().collect::<Vec<_>>())];
        let known = if key == "seed" { seed.first() } else { keys.iter().find(|(axis, _)| *axis == key) };
        match known {
            None if matrix == &Matrix::default() => {
                let message = "`baseline.cell` names a cell of the matrix, and there is no matrix";
                problems.push(
                    Problem::key(at, "baseline", message)
                        .hint("leave `baseline.cell` out, or add the axis to `matrix`"),
                );
            }
            None => problems.push(not_an_axis(key, at, keys)),
            Some((_, values)) if !values.iter().any(|known| same_value(known, value)) => {
                problems.push(not_a_value(key, value, at, values));
            }
            Some(_) => {}
        }
    }
}

fn not_an_axis(key: &str, at: KeyPath, keys: &Axes<'_>) -> Problem {
    let names = keys.iter().map(|(key, _)| key.as_str());
    let hint = match crate::diag::nearest(key, names.clone()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the axes are {}", names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Problem::key(at, "matrix", format!("`{key}` is not an axis of the matrix")).hint(hint)
}

fn not_a_value(key: &str, value: &Value, at: KeyPath, values: &[&Value]) -> Problem {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let known: Vec<_> = values.iter().map(|value| format!("`{}`", text(value))).collect();
    let message = format!("`{}` is no value of the axis `{key}`", text(value));
    Problem::value(at, "matrix", message).hint(format!("its values are {}", known.join(", ")))
}
