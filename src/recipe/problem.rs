//! A problem before it has a place: what is wrong at which path.
use super::path::KeyPath;
use crate::diag::Diagnostic;

/// Which part of an entry is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Key,
    Value,
}

/// Something wrong at a path; its place is looked up in the layers later.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) path: KeyPath,
    pub(crate) on: On,
    pub(crate) diagnostic: Diagnostic,
}

impl Problem {
    /// Returns an error about the key at `path`.
    pub(crate) fn key(path: KeyPath, code: &str, message: impl Into<String>) -> Self {
        Self { path, on: On::Key, diagnostic: Diagnostic::error(code, message) }
    }

    /// Returns an error about the value at `path`.
    pub(crate) fn value(path: KeyPath, code: &str, message: impl Into<String>) -> Self {
        Self { path, on: On::Value, diagnostic: Diagnostic::error(code, message) }
    }

    /// Returns it with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.diagnostic = self.diagnostic.hint(hint);
        self
    }
}
