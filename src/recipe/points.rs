//! From a matrix to its points.
use indexmap::IndexMap;
use serde_json::Value;

use super::schema::{AxisPoint, Matrix, same_value};

/// Returns the points of a matrix: the product of its axes in the order they are written, the last
/// one fastest, each `zip` group moving as one axis after them; without the excluded points; with
/// the included ones at the end. A matrix without axes has only its included points; one without
/// anything has one empty point.
///
/// A loaded recipe's matrix has at most 10,000 points.
#[must_use]
pub fn expand(matrix: &Matrix) -> Vec<AxisPoint> {
    let mut points = vec![AxisPoint::new()];
    for (key, values) in &matrix.axes {
        points = product(&points, values.len(), |row| std::iter::once((key, values.get(row))));
    }
    for group in &matrix.zip {
        let rows = group.values().map(Vec::len).min().unwrap_or(1);
        points = product(&points, rows, |row| group.iter().map(move |(key, values)| (key, values.get(row))));
    }
    points.retain(|point| !matrix.exclude.iter().any(|entry| matches(point, entry)));
    if matrix.axes.is_empty() && matrix.zip.is_empty() && !matrix.include.is_empty() {
        points.clear();
    }
    for extra in &matrix.include {
        if !points.iter().any(|point| point.len() == extra.len() && matches(point, extra)) {
            points.push(extra.clone());
        }
    }
    points
}

/// Returns each point with each row's settings added.
fn product<'a, Row>(points: &[AxisPoint], rows: usize, row: impl Fn(usize) -> Row) -> Vec<AxisPoint>
where
    Row: Iterator<Item = (&'a String, Option<&'a Value>)>,
{
    let extended = points.iter().flat_map(|point| (0..rows).map(move |index| (point, index)));
    extended
        .map(|(point, index)| {
            let settings = row(index).filter_map(|(key, value)| Some((key.clone(), value?.clone())));
            point.clone().into_iter().chain(settings).collect::<IndexMap<_, _>>()
        })
        .collect()
}

/// Returns whether all of an entry's values are the point's.
fn matches(point: &AxisPoint, entry: &AxisPoint) -> bool {
    entry.iter().all(|(key, value)| point.get(key).is_some_and(|own| same_value(own, value)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn points(matrix: Value) -> Vec<String> {
        let matrix: Matrix = serde_json::from_value(matrix).unwrap();
        expand(&matrix).iter().map(|point| serde_json::to_string(point).unwrap()).collect()
    }

    #[test]
    fn no_matrix_is_one_point_that_sets_nothing() {
        assert_eq!(points(json!({})), ["{}"]);
    }

    #[test]
    fn axes_multiply_in_the_order_they_are_written() {
        let found = points(json!({"axes": {"b": [1, 2], "a": ["x", "y"]}}));
        assert_eq!(found, [r#"{"b":1,"a":"x"}"#, r#"{"b":1,"a":"y"}"#, r#"{"b":2,"a":"x"}"#, r#"{"b":2,"a":"y"}"#]);
    }

    #[test]
    fn zipped_axes_move_together() {
        let found = points(json!({"axes": {"a": [1, 2]}, "zip": [{"b": [3, 4], "c": [5, 6]}]}));
        assert_eq!(
            found,
            [r#"{"a":1,"b":3,"c":5}"#, r#"{"a":1,"b":4,"c":6}"#, r#"{"a":2,"b":3,"c":5}"#, r#"{"a":2,"b":4,"c":6}"#]
        );
    }

    #[test]
    fn a_point_goes_when_all_values_of_an_entry_match() {
        let found =
            points(json!({"axes": {"a": [1, 2], "b": [3, 4]}, "exclude": [{"a": 1.0, "b": 4}, {"a": 2, "c": 1}]}));
        assert_eq!(found, [r#"{"a":1,"b":3}"#, r#"{"a":2,"b":3}"#, r#"{"a":2,"b":4}"#]);
        assert_eq!(points(json!({"axes": {"a": [1, 2]}, "exclude": [{"a": 1}]})), [r#"{"a":2}"#]);
    }

    #[test]
    fn included_points_come_last_and_survive_exclusion() {
        let found =
            points(json!({"axes": {"a": [1, 2]}, "exclude": [{"a": 2}], "include": [{"a": 2, "b": 9}, {"a": 1}]}));
        assert_eq!(found, [r#"{"a":1}"#, r#"{"a":2,"b":9}"#]);
        assert_eq!(points(json!({"include": [{"a": 7}]})), [r#"{"a":7}"#]);
    }

    #[test]
    fn an_empty_axis_leaves_no_points() {
        assert_eq!(points(json!({"axes": {"a": [], "b": [1]}})), [""; 0]);
    }
}
