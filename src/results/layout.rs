//! Where everything lies in a store.
//!
//! ```text
//! results/
//!   .gitignore  store.json
//!   baselines/<name>.json
//!   <recipe>/plan.json charts/
//!   <recipe>/<cell hash, 16 digits>/<run id>/
//!     manifest.json recipe.yaml resolved.yaml cell.json env.json events.jsonl
//!     samples.parquet tokens.parquet runs.parquet summary.json charts/
//! ```
use std::path::{Path, PathBuf};

use super::{record::Manifest, store::StoreError};

/// Version of the layout and of every JSON file in it.
pub const FORMAT_VERSION: u32 = 1;

/// Charts that compare a recipe's cells.
pub(super) const CHARTS: &str = "charts";
pub(super) const GITIGNORE: &str = ".gitignore";
pub(super) const STORE: &str = "store.json";
pub(super) const BASELINES: &str = "baselines";
pub(super) const PLAN: &str = "plan.json";
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const RECIPE: &str = "recipe.yaml";
pub(super) const RESOLVED: &str = "resolved.yaml";
pub(super) const CELL: &str = "cell.json";
pub(super) const ENVIRONMENT: &str = "env.json";
pub(super) const JOURNAL: &str = "events.jsonl";
pub(super) const SAMPLES: &str = "samples.parquet";
pub(super) const TOKENS: &str = "tokens.parquet";
pub(super) const RUNS: &str = "runs.parquet";
pub(super) const SUMMARY: &str = "summary.json";

/// Results stay on the machine; which of them are baselines is shared.
pub(super) const GITIGNORE_TEXT: &str = "*\n!.gitignore\n!baselines/\n!baselines/*.json\n";

/// What every run directory has, and what it has once it is not running.
pub(super) const ALWAYS: [&str; 5] = [RECIPE, RESOLVED, CELL, ENVIRONMENT, JOURNAL];
pub(super) const ENDED: [&str; 3] = [SAMPLES, RUNS, SUMMARY];

/// Returns the digits of a cell hash that name its directory.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..16).unwrap_or(hash)
}

pub(super) fn cell_directory(root: &Path, recipe: &str, cell_hash: &str) -> PathBuf {
    root.join(recipe).join(short(cell_hash))
}

pub(super) fn run_directory(root: &Path, manifest: &Manifest) -> PathBuf {
    cell_directory(root, &manifest.recipe, &manifest.cell_hash).join(&manifest.run_id)
}

/// Checks a name that becomes a file or directory.
pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), StoreError> {
    let known = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let reserved = [BASELINES, STORE].contains(&name);
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || reserved || !name.chars().all(known) {
        return Err(StoreError::Name { what, name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_store_or_take_its_own_files() {
        for good in ["qwen14b-q8", "a", "v1.2_b"] {
            assert!(check_name("recipe", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".git", "a/b", "a\\b", "baselines", "store.json", "ü", "a b"] {
            assert!(check_name("recipe", bad).is_err(), "{bad}");
        }
    }
}
