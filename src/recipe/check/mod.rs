//! Rules between keys that need no weights. All run, so all problems show at once; each names the
//! key to look at and the way out.
mod learning;
mod matrix;
mod run;

pub(crate) use matrix::check as matrix;

use serde_json::Value;

use super::path::KeyPath;
use super::problem::Problem;
use super::schema::Recipe;
use crate::diag::{Diagnostic, Severity};

/// Reports what is wrong between the keys of one recipe. `given` is the recipe as written and
/// merged, to tell a key that was set from its default.
pub(crate) fn recipe(recipe: &Recipe, given: &Value) -> Vec<Problem> {
    let mut report = Report { given, problems: Vec::new() };
    identity(recipe, &mut report);
    learning::check(recipe, &mut report);
    run::check(recipe, &mut report);
    report.problems
}

/// The problems so far, and what the user wrote.
struct Report<'a> {
    given: &'a Value,
    problems: Vec<Problem>,
}

impl Report<'_> {
    /// Adds an error at the first of `paths` that was written, or else at the first.
    fn error(&mut self, paths: &[&str], code: &str, message: impl Into<String>, hint: &str) {
        let parsed: Vec<_> = paths.iter().map(|path| KeyPath::parse(path).unwrap_or_default()).collect();
        let written = parsed.iter().find(|path| path.get(self.given).is_some_and(|value| !value.is_null()));
        let path = written.or(parsed.first()).cloned().unwrap_or_default();
        self.problems.push(Problem::value(path, code, message).hint(hint));
    }

    /// Adds a warning, likewise.
    fn warning(&mut self, paths: &[&str], code: &str, message: impl Into<String>, hint: &str) {
        self.error(paths, code, message, hint);
        if let Some(problem) = self.problems.last_mut() {
            problem.diagnostic = Diagnostic { severity: Severity::Warning, ..problem.diagnostic.clone() };
        }
    }
}

fn identity(recipe: &Recipe, report: &mut Report<'_>) {
    let name = &recipe.name;
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !fits || name.is_empty() || name.len() > 100 || name.starts_with(['.', '-']) {
        let message = format!("`{name}` cannot name a folder of results");
        let hint = "give it a `name:` of at most 100 letters, digits, `-`, `_` and `.`, that starts with a letter, a digit or `_`";
        report.error(&["name"], "name", message, hint);
    }
    let seeds = &recipe.seeds;
    if seeds.is_empty() {
        report.error(&["seeds"], "seeds", "`seeds` is an empty list, so nothing would run", "write `seeds: [0]`");
    }
    for (index, seed) in seeds.iter().enumerate() {
        if seeds[..index].contains(seed) {
            let message = format!("the seed {seed} stands in the list twice");
            let hint = "the same seed gives the same run; use another number";
            report.error(&[&format!("seeds[{index}]")], "seeds", message, hint);
        }
    }
}

#[cfg(test)]
mod tests {}
