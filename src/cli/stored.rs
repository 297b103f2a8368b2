//! From the store to what runs measured.
use crate::{
    results::{Manifest, RunRecord, Store},
    ui::Printer,
};

use super::{Failure, Global};

/// Opens the store and recovers what a killed process left.
pub(super) fn open(global: &Global) -> Result<Store, Failure> {
    let store = Store::open(&global.store)?;
    match store.recover() {
        Ok(recovered) => {
            for manifest in recovered {
                Printer::stderr().note(&format!("recovered run {} from its journal", manifest.run_id));
            }
        }
        // One run that cannot be recovered must not keep the others from being seen.
        Err(error) => Printer::stderr().note(&format!("warning: a stopped run could not be recovered: {error}")),
    }
    Ok(store)
}

/// Loads what runs measured.
pub(super) fn records(store: &Store, manifests: &[Manifest]) -> Result<Vec<RunRecord>, Failure> {
    Ok(manifests.iter().map(|manifest| store.load(manifest)).collect::<Result<_, _>>()?)
}
