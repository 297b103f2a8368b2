//! The child's side of a launch: one task from standard input, events to standard output.
use std::io::{self, BufRead, Read, Write};

use clap::Args;

use crate::{
    engine,
    event::Event,
    exit,
    plan::{LaunchSpec, PROTOCOL},
    workload,
};

use super::{Failure, Global};

/// Runs one launch; started by `ruvlab run`, not by hand.
#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn execute(_: &Global, _: &Arguments) -> Result<u8, Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let spec: LaunchSpec = serde_json::from_str(&line)?;
    if spec.protocol != PROTOCOL {
        let message = format!("this build speaks launch protocol {PROTOCOL}, the caller {}", spec.protocol);
        return Err(Failure::new(
            exit::UNEXPECTED,
            "protocol",
            message,
            Some("use builds that speak the same protocol"),
        ));
    }
    // The parent has refused a wrong setting; by hand, a launch must end with a message as well.
    if let Err(error) = engine::select(engine::setting().as_deref()) {
        return Err(Failure::new(exit::RESOURCE, "kernels-unavailable", error.to_string(), None));
    }
    end_with_parent()?;
    let stdout = io::stdout();
    let mut broken = None;
    let mut sink = |event: &Event| {
        // The parent is gone when its end of the pipe is; nothing we measure would be kept.
        if broken.is_none() {
            let mut out = stdout.lock();
            let written = serde_json::to_writer(&mut out, event).map_err(io::Error::from);
            broken = written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).err();
        }
    };
    let outcome = workload::launch(&spec, &mut sink);
    if let Some(error) = broken {
        return Err(error.into());
    }
    match outcome {
        Ok(()) => Ok(exit::OK),
        Err(error) => {
            // Plain text: the parent keeps it as the reason in the journal.
            writeln!(io::stderr(), "{error}")?;
            Ok(error.exit_code())
        }
    }
}

/// Ends this process when standard input closes, which is when the parent ends, however it does.
fn end_with_parent() -> Result<(), Failure> {
    std::thread::Builder::new().name("parent".to_owned()).spawn(|| {
        let mut rest = Vec::new();
        // An unreadable standard input means the same as a closed one.
        let closed = io::stdin().lock().read_to_end(&mut rest);
        drop(closed);
        #[expect(clippy::exit, reason = "the only way to end a process from a thread beside its work")]
        std::process::exit(i32::from(exit::SIGTERM));
    })?;
    Ok(())
}
