//! The threads of candle's pool, which is made once, from the environment.
use std::{env, os::unix::process::CommandExt, process::Command};

use crate::run;

use super::Failure;

const THREADS: &str = "RAYON_NUM_THREADS";

/// Starts this program again with so many threads, unless it has them: nothing can tell candle's pool otherwise.
/// To be called before anything is shown or fetched.
pub(super) fn start_with(threads: u16) -> Result<(), Failure> {
    let threads = threads.to_string();
    if env::var(THREADS).is_ok_and(|set| set == threads) {
        return Ok(());
    }
    let mut again = Command::new(run::own_executable()?);
    // Only returns when it fails.
    Err(again.args(env::args_os().skip(1)).env(THREADS, threads).exec().into())
}
