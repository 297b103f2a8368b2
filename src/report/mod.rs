//! What results mean: summaries, comparisons, gates, tables as data, `JUnit`, charts. Everything here is
//! a value or a file; `ui` prints.
//!
//! The structs that are serialised are the JSON a person's scripts read: their field names are part of
//! the contract.
pub mod charts;
mod compare;
mod gate;
mod junit;
mod label;
pub mod number;
mod summary;
pub mod tables;
#[cfg(test)]
mod testing;
mod twins;

pub use compare::{Comparison, Difference, Effect, MetricComparison, Pairing, Side, Worse, compare, compare_at};
pub use gate::{
    Confirmation, Gate, GateError, GateExit, GateReport, Next, Outcome, SetSize, ThresholdSource, Thresholds, Verdict,
    confirm, gate, overall,
};
pub use junit::{Cause, JunitError, Untold, junit};
pub use label::cell_labels;
pub use summary::{RunSummary, summarize};
pub use twins::Twins;
