//! Run directories: journal, manifest, Parquet, index.
//!
//! `results/<recipe>/<cell hash>/<run id>/` holds one run of one cell. One writer a directory, held
//! by a file lock; no shared database; every state is reached by appending or by an atomic rename.
mod record;

pub use record::{Manifest, RunKind, RunRecord, RunState, TokenRow};
