//! `ruvlab download`
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::{exit, model::source, ui::Printer};

use super::{
    Failure, Format, Global,
    access::{self, Access},
};

/// Bring a model to this machine: from the hub, or as synthetic weights.
///
/// What it stands for is pinned in `ruvlab.lock` of the current folder; files are kept in
/// `$RUVLAB_MODELS` (`~/.cache/ruvlab/models` by default). A token is taken from `HF_TOKEN`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// `hf:owner/repo[@rev][:file or quant]`, `synthetic:SHAPE:QUANT`, or a short name
    /// (`ruvlab models` lists them).
    #[arg(value_name = "MODEL")]
    model: String,
    /// A branch, tag or commit of the hub's repository.
    #[arg(long, value_name = "REV")]
    revision: Option<String>,
    #[command(flatten)]
    access: Access,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let source = access::source(&arguments.model);
    if arguments.revision.is_some() && !source.starts_with("hf:") {
        let message = format!("{source} is not of the hub, so it has no revisions");
        return Err(Failure::new(exit::USAGE, "model", message, Some("leave --revision out")));
    }
    if let source::Source::Path(path) = source::Source::parse(&source, arguments.revision.as_deref())
        .map_err(|error| Failure::new(exit::USAGE, "model", error.to_string(), Some("ruvlab download --help")))?
    {
        let message = format!("{path:?} is neither a source to download nor a short name");
        let hint = "name hf:owner/repo[:file or quant] or synthetic:SHAPE:QUANT; `ruvlab models` lists short names";
        return Err(Failure::new(exit::USAGE, "model", message, Some(hint)));
    }
    let mut locator = arguments.access.locator(Path::new("."), global.quiet)?;
    let located = locator.locate(&source, arguments.revision.as_deref())?;
    locator.finish()?;
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({"source": source, "path": located.path, "commit": located.commit}))?,
        Format::Human => out.text(&format!("{}\n", located.path))?,
    }
    Ok(exit::OK)
}
