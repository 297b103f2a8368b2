//! One launch: a child process that reads its task from standard input and tells events on
//! standard output.
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    clock::Stopwatch,
    event::{Event, Outcome},
    plan::LaunchSpec,
};

use super::interrupt::Interrupt;

/// The hidden subcommand a child is started with.
pub const LAUNCH_COMMAND: &str = "launch-cell";

/// How much later than our child we may learn of a signal sent to both.
const SIGNAL_DELAY: Duration = Duration::from_millis(300);

/// How much of a failed child's standard error is kept, bytes.
const STDERR_KEPT: u64 = 16 * 1024;

/// Why a child could not be run at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot start a launch with {}: {source}", executable.display())]
pub struct SpawnError {
    executable: PathBuf,
    source: std::io::Error,
}

/// How a launch ended, seen from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchResult {
    /// How.
    pub outcome: Outcome,
    /// Wall time of the process, milliseconds.
    pub wall_ms: u64,
    /// Whether a signal to us ended it.
    pub interrupted: bool,
}

/// Runs one launch to its end and hands its events to `events` as they come.
///
/// The child gets a process group of its own, so a Ctrl-C reaches only us; it ends by itself when
/// its standard input closes, so it does not outlive us either.
///
/// # Errors
///
/// If the process cannot be started. A launch that fails is not an error here but its outcome.
pub fn launch(
    executable: &Path,
    spec: &LaunchSpec,
    interrupt: &Interrupt,
    mut events: impl FnMut(Event),
) -> Result<LaunchResult, SpawnError> {
    let spawn_error = |source| SpawnError { executable: executable.to_owned(), source };
    let watch = Stopwatch::start();
    let mut child = Command::new(executable)
        .arg(LAUNCH_COMMAND)
        .env("RAYON_NUM_THREADS", spec.cell.threads.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(spawn_error)?;
    // Kept open until the end: its closing tells the child that we are gone.
    let mut stdin = child.stdin.take();
    let mut line = serde_json::to_string(spec).map_err(|error| spawn_error(error.into()))?;
    line.push('\n');
    let told = stdin.as_mut().map(|pipe| pipe.write_all(line.as_bytes()).and_then(|()| pipe.flush()));
    let stderr = child.stderr.take().map(keep_tail);
    let mut strange = None;
    let interrupted = match child.stdout.take() {
        Some(stdout) => follow(stdout, &mut child, interrupt, &mut events, &mut strange),
        None => false,
    };
    let status = child.wait().map_err(spawn_error)?;
    // A batch system signals parent and child alike, and the child may be gone before we are told.
    let interrupted = interrupted || (status.signal().is_some() && interrupt.comes_within(SIGNAL_DELAY));
    drop(stdin);
    let stderr = stderr.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let wall_ms = u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
    let outcome = if status.success() && strange.is_none() && matches!(told, Some(Ok(()))) {
        Outcome::Complete
    } else {
        let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1);
        let said = stderr.trim();
        let reason = match (strange, said.is_empty()) {
            (Some(strange), _) => strange,
            (None, false) => said.to_owned(),
            (None, true) => format!("the launch ended with {status}"),
        };
        Outcome::Failed { exit_code: code, reason }
    };
    Ok(LaunchResult { outcome, wall_ms, interrupted })
}

/// Reads events until the child closes its standard output; returns whether we had to kill it.
fn follow(
    stdout: impl Read + Send + 'static,
    child: &mut Child,
    interrupt: &Interrupt,
    events: &mut impl FnMut(Event),
    strange: &mut Option<String>,
) -> bool {
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut killed = false;
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(Ok(line)) => match serde_json::from_str::<Event>(&line) {
                Ok(event) => events(event),
                Err(error) => {
                    strange
                        .get_or_insert_with(|| format!("the launch said something that is no event ({error}): {line}"));
                }
            },
            Ok(Err(error)) => {
                strange.get_or_insert_with(|| format!("the launch's output cannot be read: {error}"));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if interrupt.is_urgent() && !killed {
            // A child that is gone already cannot be killed, which is as well.
            killed = child.kill().is_ok();
        }
    }
    if reader.join().is_err() {
        strange.get_or_insert_with(|| "the launch's output could not be followed".to_owned());
    }
    killed
}

/// Drains a child's standard error and keeps its end.
fn keep_tail(stderr: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut kept: Vec<u8> = Vec::new();
        let mut reader = BufReader::new(stderr);
        while let Ok(bytes) = reader.fill_buf()
            && !bytes.is_empty()
        {
            let length = bytes.len();
            kept.extend_from_slice(bytes);
            reader.consume(length);
            let excess = kept.len().saturating_sub(usize::try_from(STDERR_KEPT).unwrap_or(usize::MAX));
            kept.drain(..excess);
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}
