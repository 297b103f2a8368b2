//! What the sequences of a cell are given: an adapter, or several as one.
use std::{path::Path, sync::Arc};

use crate::{
    adapt::{
        compose::{Arrow, Majority, Method, compose},
        file::{self, AdapterFileError},
    },
    engine::{self, EngineError, LanguageModel, LowRank, Mixture},
    model::spec::ModelSpec,
    recipe::schema::{Adapter, Compose, ComposeMethod},
};

/// What the sequences of a cell are given.
#[derive(Clone, Debug)]
pub struct Attachment {
    given: Given,
    /// BLAKE3 of the adapters, and of how they become one where there are several.
    pub hash: String,
    /// Numbers in their matrices.
    pub parameters: u64,
}

#[derive(Clone, Debug)]
enum Given {
    Adapter(Arc<engine::Adapter>),
    Mixture(Arc<Mixture>),
}

impl Attachment {
    /// Reads what a recipe's workloads run with.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or adapters do not become one; of a recipe without any, too.
    pub fn read(adapter: &Adapter, spec: &ModelSpec) -> Result<Self, AdapterFileError> {
        if let Some(composed) = &adapter.compose {
            return Self::of_several(composed, spec);
        }
        let found = file::read(Path::new(adapter.init.as_deref().unwrap_or_default()), spec)?;
        let (hash, parameters) = (file::content_hash(&found), parameters(&found));
        Ok(Self { given: Given::Adapter(Arc::new(found)), hash, parameters })
    }

    fn of_several(composed: &Compose, spec: &ModelSpec) -> Result<Self, AdapterFileError> {
        let read = |path: &String| file::read(Path::new(path), spec);
        let adapters = composed.adapters.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let weights = composed.weights();
        let weighted: Vec<_> = weights.iter().copied().zip(&adapters).collect();
        let wrong = |problem: String| AdapterFileError::Unsupported { path: composed.adapters.join(" + "), problem };
        let given = match method(composed, &adapters) {
            Some(method) => {
                Given::Adapter(Arc::new(compose(&weighted, &method).map_err(|error| wrong(error.to_string()))?))
            }
            None => {
                let arrow = Arrow::new(&weighted, composed.top_k as usize, composed.temperature);
                let mixture = arrow.map_err(|error| wrong(error.to_string()))?.mixture();
                Given::Mixture(Arc::new(mixture.map_err(|error| wrong(error.to_string()))?))
            }
        };
        let mut hash = blake3::Hasher::new();
        for adapter in &adapters {
            hash.update(file::content_hash(adapter).as_bytes());
        }
        // How they become one; where the files lie is none of it.
        let how = Compose { adapters: Vec::new(), ..composed.clone() };
        hash.update(serde_json::to_string(&how).unwrap_or_default().as_bytes());
        let parameters = match &given {
            Given::Adapter(adapter) => parameters(adapter),
            Given::Mixture(mixture) => parameters(mixture.adapter()),
        };
        Ok(Self { given, hash: hash.finalize().to_hex().to_string(), parameters })
    }

    /// Returns a model whose sequences all have it from the start.
    ///
    /// # Errors
    ///
    /// If the engine cannot run it.
    pub fn give(self, engine: Box<dyn LanguageModel>) -> Result<Box<dyn LanguageModel>, EngineError> {
        match self.given {
            Given::Adapter(adapter) => engine::adapted(engine, adapter),
            Given::Mixture(mixture) => engine::mixed(engine, mixture),
        }
    }

    /// Returns whether it is plain LoRA at some place, not a decomposed change.
    pub(super) fn lacks_magnitudes(&self) -> bool {
        match &self.given {
            Given::Adapter(adapter) => adapter.values().any(|part| part.magnitude.is_none()),
            Given::Mixture(_) => true,
        }
    }
}

fn parameters(adapter: &engine::Adapter) -> u64 {
    adapter.values().map(|part| part.parameters() as u64).sum()
}

/// Returns the method asked for; none for the one that chooses anew for every token.
fn method(composed: &Compose, adapters: &[engine::Adapter]) -> Option<Method> {
    let largest = adapters.iter().flat_map(|adapter| adapter.values()).map(|part: &LowRank| part.rank).max();
    let rank = composed.rank.map_or(largest.unwrap_or(1), |rank| rank as usize);
    let (density, majority, seed) = (composed.density, Majority::Total, 0);
    Some(match composed.method {
        ComposeMethod::Cat => Method::Cat,
        ComposeMethod::Svd => Method::Svd { rank },
        ComposeMethod::Linear => Method::Linear,
        ComposeMethod::Ties => Method::Ties { density, majority, rank },
        ComposeMethod::DareLinear => Method::Dare { density, majority: None, rank, seed },
        ComposeMethod::DareTies => Method::Dare { density, majority: Some(majority), rank, seed },
        ComposeMethod::MagnitudePrune => Method::MagnitudePrune { density, rank },
        ComposeMethod::Arrow => return None,
    })
}
