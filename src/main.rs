//! The `ruvlab` program: arguments, command, exit code.
use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(ruvlab::cli::main())
}
