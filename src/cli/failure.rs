//! Failures of subcommands, and the exit codes they end with.
use std::fmt;

use crate::{diag::Diagnostic, exit, plan::PlanError, results::StoreError, run::RunError, ui::Printer};

/// Why a subcommand did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    diagnostics: Vec<Diagnostic>,
}

impl Failure {
    /// Returns a failure with a message and, if any, a way out.
    #[must_use]
    pub fn new(code: u8, kind: &str, message: impl Into<String>, hint: Option<&str>) -> Self {
        let mut diagnostic = Diagnostic::error(kind, message);
        diagnostic.hint = hint.map(str::to_owned);
        Self { code, diagnostics: vec![diagnostic] }
    }

    /// Returns a failure that shows diagnostics.
    #[must_use]
    pub fn diagnostics(code: u8, diagnostics: Vec<Diagnostic>) -> Self {
        Self { code, diagnostics }
    }

    /// Prints it and returns its exit code.
    #[must_use]
    pub fn report(&self) -> u8 {
        Printer::stderr().diagnostics(&self.diagnostics);
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages: Vec<&str> = self.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str()).collect();
        f.write_str(&messages.join("; "))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error {
            StoreError::NoBaseline { .. } | StoreError::BadBaseline { .. } => exit::BASELINE,
            _ if error.is_selection() => exit::NO_CELLS,
            _ => exit::UNEXPECTED,
        };
        Self::new(code, "store", error.to_string(), None)
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::new(exit::UNEXPECTED, "run", error.to_string(), None)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            // Whoever reads has seen enough (`| head`), and nobody is left to be told.
            return Self::diagnostics(exit::UNEXPECTED, Vec::new());
        }
        Self::new(exit::UNEXPECTED, "output", error.to_string(), None)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        if let Some(kind) = error.io_error_kind() {
            return std::io::Error::from(kind).into();
        }
        Self::new(exit::UNEXPECTED, "json", error.to_string(), None)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Recipe(diagnostics) => Self::diagnostics(exit::RECIPE, diagnostics),
            PlanError::Resource(diagnostics) => Self::diagnostics(exit::RESOURCE, diagnostics),
        }
    }
}

/// Prints what clap has to say and returns the exit code: help and version are no errors.
pub(super) fn usage(error: &clap::Error) -> u8 {
    let code = if error.use_stderr() { exit::USAGE } else { exit::OK };
    match error.print() {
        Ok(()) => code,
        Err(_) => exit::UNEXPECTED,
    }
}
