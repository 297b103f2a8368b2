//! Run directories: journal, manifest, Parquet, index.
//!
//! `results/<recipe>/<cell hash>/<run id>/` holds one run of one cell. One writer a directory, held
//! by a file lock; no shared database; every state is reached by appending or by an atomic rename.
mod baseline;
mod durable;
pub mod journal;
mod layout;
mod manifest;
mod parquet;
mod record;
mod select;
mod store;
mod summary;
mod writer;

pub use crate::metrics::TokenRow;
pub use baseline::{BaselineCell, BaselinePointer};
pub use durable::{FileError, JsonError};
pub use layout::FORMAT_VERSION;
pub use parquet::{ParquetError, SCHEMA_VERSION};
pub use record::{Manifest, RunKind, RunRecord, RunState};
pub use store::{Environment, ListOutcome, Problem, RunFiles, Store, StoreError};
pub use summary::Summary;
pub use writer::RunWriter;

#[cfg(test)]
mod tests;
