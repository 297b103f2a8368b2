//! What a person means when naming a run.
use std::collections::BTreeMap;

use super::{
    durable::read_json,
    layout,
    record::{Manifest, RunKind, RunState},
    store::{ListOutcome, PlanFile, Store, StoreError, age},
};

use crate::plan::axes_label;

/// So short a part of an id says nothing, and could be the beginning of a word.
const SHORTEST: usize = 6;

impl Store {
    /// Returns the runs a selector means:
    ///
    /// - the name of a recipe: the newest complete run of each of its cells. The cells are those of
    ///   its newest plan ([`Store::set_plan`]), in the plan's order; without a plan, one cell for
    ///   each combination of axis values, by start.
    /// - a run id, or its beginning or end, 6 characters at least: that run.
    /// - a cell hash or its beginning, 6 digits at least: the newest run of that cell, complete
    ///   runs before others.
    ///
    /// Runs made for a comparison are meant by their id only.
    ///
    /// # Errors
    ///
    /// If nothing or more than one thing is meant (the nearest are named), if a recipe has no
    /// complete run, or if the store cannot be read.
    pub fn select(&self, selector: &str) -> Result<Vec<Manifest>, StoreError> {
        let ListOutcome { manifests, problems } = self.list()?;
        if manifests.iter().any(|manifest| manifest.recipe == selector) {
            return self.of_recipe(selector, manifests);
        }
        if let Some(exact) = manifests.iter().find(|manifest| manifest.run_id == selector) {
            return Ok(vec![exact.clone()]);
        }
        let (mut runs, mut cells) = (Vec::new(), BTreeMap::new());
        if selector.len() >= SHORTEST {
            for manifest in &manifests {
                if manifest.run_id.starts_with(selector) || manifest.run_id.ends_with(selector) {
                    runs.push(manifest);
                }
                if manifest.kind == RunKind::Run && manifest.cell_hash.starts_with(selector) {
                    cells
                        .entry((&manifest.recipe, &manifest.cell_hash))
                        .and_modify(|newest| *newest = std::cmp::max_by_key(manifest, *newest, |m| age(m)))
                        .or_insert(manifest);
                }
            }
        }
        let mut meant: Vec<&Manifest> = runs.iter().chain(cells.values()).copied().collect();
        meant.dedup_by(|a, b| a.run_id == b.run_id);
        match meant.as_slice() {
            [] => Err(StoreError::NotFound {
                selector: selector.to_owned(),
                nearest: nearest(selector, &manifests),
                unreadable: problems.len(),
            }),
            [one] => Ok(vec![(*one).clone()]),
            _ => {
                let runs = runs.iter().map(|manifest| format!("run {}", manifest.run_id));
                let cells = cells.values().map(|m| format!("cell {} of {}", layout::short(&m.cell_hash), m.recipe));
                Err(StoreError::Ambiguous { selector: selector.to_owned(), matches: runs.chain(cells).collect() })
            }
        }
    }

    /// Returns what `chosen` leaves out of its recipe: of each cell of the recipe's newest plan that is
    /// not among them, its label or hash, and the newest run there is.
    ///
    /// # Errors
    ///
    /// If the plan or the store cannot be read.
    pub fn left_out(&self, chosen: &[Manifest]) -> Result<Vec<(String, Option<Manifest>)>, StoreError> {
        let Some(recipe) = chosen.first().map(|manifest| manifest.recipe.as_str()) else { return Ok(Vec::new()) };
        let path = self.root().join(recipe).join(layout::PLAN);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let plan: PlanFile = read_json(&path)?;
        let others = plan.cells.iter().filter(|hash| chosen.iter().all(|manifest| manifest.cell_hash != **hash));
        let named = others.map(|hash| {
            let newest = self.latest(recipe, hash);
            let label = newest.as_ref().map(|manifest| axes_label(&manifest.axes)).filter(|label| !label.is_empty());
            (label.unwrap_or_else(|| format!("cell {}", layout::short(hash))), newest)
        });
        Ok(named.collect())
    }

    fn of_recipe(&self, recipe: &str, manifests: Vec<Manifest>) -> Result<Vec<Manifest>, StoreError> {
        let runs: Vec<Manifest> =
            manifests.into_iter().filter(|m| m.recipe == recipe && m.kind == RunKind::Run).collect();
        let complete = runs.iter().filter(|manifest| manifest.state == RunState::Complete);
        let path = self.root().join(recipe).join(layout::PLAN);
        let chosen: Vec<Manifest> = if path.exists() {
            // Sorted by start, so the last of a cell is its newest.
            let newest: BTreeMap<&str, &Manifest> = complete.map(|m| (m.cell_hash.as_str(), m)).collect();
            let plan: PlanFile = read_json(&path)?;
            plan.cells.iter().filter_map(|hash| newest.get(hash.as_str()).map(|m| (*m).clone())).collect()
        } else {
            let mut newest: Vec<&Manifest> = Vec::new();
            for manifest in complete {
                newest.retain(|other| (&other.axes, other.seed) != (&manifest.axes, manifest.seed));
                newest.push(manifest);
            }
            newest.into_iter().cloned().collect()
        };
        if chosen.is_empty() {
            let runs = runs.iter().map(|manifest| format!("{} ({})", manifest.run_id, manifest.state.name())).collect();
            return Err(StoreError::NoCompleteRun { recipe: recipe.to_owned(), runs });
        }
        Ok(chosen)
    }
}

/// Returns the recipes and runs whose names are most like what was asked for, the most alike first.
fn nearest(selector: &str, manifests: &[Manifest]) -> Vec<String> {
    let recipes = manifests.iter().map(|manifest| format!("recipe {}", manifest.recipe));
    let runs = manifests.iter().map(|manifest| format!("run {}", manifest.run_id));
    let mut scored: Vec<(f64, String)> = recipes
        .chain(runs)
        .map(|text| {
            let name = text.split_once(' ').map_or("", |(_, name)| name);
            (strsim::jaro_winkler(selector, name), text)
        })
        .filter(|(score, _)| *score >= 0.7)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(3).map(|(_, text)| text).collect()
}
