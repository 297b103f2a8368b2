//! Variations of a recipe.
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A point of a matrix: dotted recipe keys and their values.
pub type AxisPoint = IndexMap<String, serde_json::Value>;

/// Variations of a recipe, in GitHub Actions' terms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Matrix {
    /// Dotted recipe keys and the values each takes; the cells are all combinations.
    pub axes: IndexMap<String, Vec<serde_json::Value>>,
    /// Groups of axes that move together: the lists of a group have one length.
    pub zip: Vec<IndexMap<String, Vec<serde_json::Value>>>,
    /// Extra points, added as they are.
    pub include: Vec<AxisPoint>,
    /// Points to leave out: a cell goes when all values of an entry match it.
    pub exclude: Vec<AxisPoint>,
}

/// Returns whether two values mean the same: numbers by value, so `1` is `1.0`.
#[must_use]
pub fn same_value(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}
