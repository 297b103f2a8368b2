//! Beyond the cache's budget: a trace of requests answered as fast as the cache lets them, and texts
//! scored against a cache without limit, and facts to be found in them.
mod drive;
mod needles;
mod texts;
mod trace;

pub(super) use texts::run as run_texts;
pub(super) use trace::run as run_trace;
