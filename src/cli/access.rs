//! Getting models for a subcommand: what may be done for it, and how that is shown.
use std::path::Path;

use clap::Args;

use crate::{
    exit,
    model::source::{
        self,
        locate::{Fetch, LocateError, Locator, Step},
        pins::{Pins, PinsError},
    },
    ui::Transfer,
};

use super::Failure;

/// How a subcommand gets models.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Access {
    /// Use only what is on this machine; nothing is ever fetched with this.
    #[arg(long)]
    pub(super) offline: bool,
    /// Ask the hub again what sources stand for, and pin that in `ruvlab.lock`.
    #[arg(long, visible_alias = "update", conflicts_with = "offline")]
    pub(super) update_lock: bool,
}

/// How a subcommand without a recipe gets models: what `ruvlab.lock` of the current folder pins is
/// honoured, and nothing is pinned.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Offline {
    /// Use only what is on this machine; nothing is ever fetched with this.
    #[arg(long)]
    offline: bool,
}

impl Offline {
    /// Returns a locator that has the model of a command line ready.
    ///
    /// To be called before signals are watched: one that comes while a model is fetched ends the
    /// program, and the next goes on with what was fetched.
    pub(super) fn locator(self, model: &str, quiet: bool) -> Result<Locator<'static>, Failure> {
        let access = Access { offline: self.offline, update_lock: false };
        let mut locator = access.locator(Path::new("."), quiet)?;
        locator.locate(&source(model), None)?;
        Ok(locator)
    }
}

impl Access {
    fn fetch(self) -> Fetch {
        if self.offline { Fetch::Offline } else { Fetch::Allowed }
    }

    /// Returns a locator that honours the lock file of a folder.
    pub(super) fn locator(self, folder: &Path, quiet: bool) -> Result<Locator<'static>, Failure> {
        Ok(watched(self.fetch(), quiet).with_pins(Pins::of_folder(folder)?, self.update_lock))
    }
}

/// Returns a locator that shows what it does.
pub(super) fn watched(fetch: Fetch, quiet: bool) -> Locator<'static> {
    let mut transfer = Transfer::new(quiet);
    Locator::new(fetch, move |step| match step {
        Step::Note(line) => transfer.note(line),
        Step::Begin { what, done, total } => transfer.begin(what, done, total),
        Step::Advance { done, .. } => transfer.advance(done),
        Step::End => transfer.end(),
    })
}

/// Returns the source a model on the command line means: a short name stands for its source, unless
/// there is a file of that name.
pub(super) fn source(model: &str) -> String {
    let alias = source::find_alias(model).filter(|_| !Path::new(model).exists());
    alias.unwrap_or(model).to_owned()
}

/// Returns a model's source with its path, if it is one, as seen from the root.
pub(super) fn absolute_source(model: &str) -> Result<String, Failure> {
    let source = source(model);
    let named = ["builtin:", "hf:", "synthetic:"].iter().any(|scheme| source.starts_with(scheme));
    if named { Ok(source) } else { absolute(&source) }
}

/// Returns a path as seen from the root, without asking whether it exists.
pub(super) fn absolute(path: &str) -> Result<String, Failure> {
    Ok(std::path::absolute(path)?.to_string_lossy().into_owned())
}

/// Returns the folder whose lock file counts for a recipe: its own.
pub(super) fn folder_of(recipe: &Path) -> &Path {
    match recipe.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

impl From<PinsError> for Failure {
    fn from(error: PinsError) -> Self {
        Self::new(exit::RESOURCE, "lock-file", error.to_string(), None)
    }
}

impl From<LocateError> for Failure {
    fn from(error: LocateError) -> Self {
        let code = if matches!(error, LocateError::Grammar(_)) { exit::USAGE } else { exit::RESOURCE };
        Self::new(code, "model", error.to_string(), None)
    }
}
