//! Beyond the cache's budget: a trace of requests answered as fast as the cache lets them, and texts
//! scored against a cache without limit, and facts to be found in them.
mod drive;
mod needles;
mod texts;
mod trace;

use super::{error::LaunchError, opened::Loaded};

pub(super) use texts::run as run_texts;
pub(super) use trace::run as run_trace;

/// Returns that a budget holds not even one of what it was to hold.
fn nothing_fits(workload: &str, what: String, loaded: &Loaded) -> LaunchError {
    let budget_bytes = loaded.engine.cache_report().and_then(|report| report.budget_bytes).unwrap_or(0);
    LaunchError::NothingFits { workload: workload.to_owned(), what, budget_bytes }
}
