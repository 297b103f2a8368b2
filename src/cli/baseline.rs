//! `ruvlab baseline`
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{exit, host::Host, report::tables, results::Manifest, ui::Printer};

use super::{Failure, Format, Global, check, stored};

/// Keep results to compare with, and gate on them.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Name a run, or the latest runs of a recipe, as a baseline.
    Set {
        /// The baseline's name.
        name: String,
        /// A run id or the beginning of one, a cell hash, or a recipe's name.
        run: String,
    },
    /// List baselines.
    List,
    /// Forget a baseline; its runs stay.
    Rm {
        /// The baseline's name.
        name: String,
    },
    Check(check::Arguments),
}

/// Returns why a cell is not in a baseline that was set for its recipe.
fn lacking(name: &str, label: &str, newest: Option<&Manifest>) -> String {
    let why = match newest {
        None => "it has not been measured".to_owned(),
        Some(Manifest { state, reason, .. }) => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("its newest run is {}{reason}", state.name())
        }
    };
    format!("warning: baseline {name} lacks {label}: {why}")
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let store = stored::open(global)?;
    let out = Printer::stdout();
    match &arguments.action {
        Action::Check(arguments) => return check::execute(global, &store, arguments),
        Action::Set { name, run } => {
            let chosen = store.select(run)?;
            let pointer = store.set_baseline(name, &chosen)?;
            // One run by its id is one run; a recipe's name means all of its cells.
            let left_out = if *run == pointer.recipe { store.left_out(&chosen)? } else { Vec::new() };
            for (label, newest) in &left_out {
                Printer::stderr().note(&lacking(name, label, newest.as_ref()));
            }
            match global.format {
                Format::Json => out.json(&pointer)?,
                Format::Human => out.text(&format!(
                    "baseline {name}: {} of {}\n",
                    if pointer.cells.len() == 1 {
                        "1 cell".to_owned()
                    } else {
                        format!("{} cells", pointer.cells.len())
                    },
                    pointer.recipe
                ))?,
            }
        }
        Action::List => {
            let baselines = store.baselines()?;
            match global.format {
                Format::Json => out.json(&json!(baselines))?,
                Format::Human => out.table(&tables::baselines_table(&baselines, &Host::detect().host_id))?,
            }
        }
        Action::Rm { name } => {
            store.remove_baseline(name)?;
            Printer::stderr().note(&format!("baseline {name} is forgotten; its runs stay"));
        }
    }
    Ok(exit::OK)
}
