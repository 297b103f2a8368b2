//! Carries out a plan: rounds of launches in child processes, each written to its run's journal.
//!
//! `child` runs one launch, `session` ties launches to a run directory, `schedule` decides which
//! launches a plan needs, `check` interleaves a cell with its baseline.
mod check;
mod child;
mod interrupt;
mod schedule;
mod session;

use std::{io, path::PathBuf};

use crate::{event::Event, plan::Cell, results::StoreError};

pub use check::{Executables, Pair, PairRun};
pub use child::{LAUNCH_COMMAND, LaunchResult, SpawnError, launch};
pub use interrupt::Interrupt;
pub use schedule::{CellOutcome, Rerun, Stored, execute, stored};
pub use session::{Context, Session};

/// Why a run had to stop as a whole. What was journaled is kept.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A child process could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signal handlers could not be installed.
    #[error("cannot watch signals: {0}")]
    Signals(io::Error),
    /// Our own executable could not be found.
    #[error("cannot tell where this program is ({0}), so it cannot start launches")]
    OwnPath(io::Error),
    /// A cell's recipe cannot be written as YAML.
    #[error("the resolved recipe cannot be written: {0}")]
    Resolved(String),
}

/// Watches a run; never changes it.
pub trait Observer {
    /// A cell's results are there already.
    fn cached(&mut self, cell: &Cell);
    /// The number of launches now expected in all.
    fn expect(&mut self, launches: u64);
    /// Something happened in a launch of this cell.
    fn event(&mut self, cell: &Cell, event: &Event);
}

/// Returns the path of this very program.
///
/// # Errors
///
/// If the system does not tell.
pub fn own_executable() -> Result<PathBuf, RunError> {
    std::env::current_exe().map_err(RunError::OwnPath)
}
