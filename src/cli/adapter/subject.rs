//! The adapter a subcommand is about, and the model it is for.
use std::path::PathBuf;

use clap::Args;

use crate::{adapt::file, engine::Adapter, model::weights::Weights};

use super::super::{
    Failure, Global,
    access::{self, Offline},
};

#[derive(Debug, Args)]
pub(super) struct Subject {
    /// A PEFT folder, or a GGUF adapter.
    pub(super) adapter: PathBuf,
    /// The model it is for: rows of queries and keys lie in its file's order.
    #[arg(short, long, value_name = "MODEL")]
    pub(super) model: String,
    #[command(flatten)]
    access: Offline,
}

impl Subject {
    /// Returns the model and the adapter.
    pub(super) fn open(&self, global: &Global) -> Result<(Weights, Adapter), Failure> {
        let mut locator = self.access.locator(&self.model, global.quiet)?;
        let weights = Weights::open(&locator.locate(&access::source(&self.model), None)?.path)?;
        let adapter = file::read(&self.adapter, weights.spec())?;
        Ok((weights, adapter))
    }
}
