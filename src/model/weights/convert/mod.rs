//! A model as a GGUF file of other types, tensor by tensor.
mod mixture;

use std::path::Path;

use indexmap::IndexMap;

use super::{
    Fallback, Importance, QUANTIZATION_VERSION, QuantizeError, TensorType, Value, Weights, quantize,
    requantize::target,
    write::{Layout, Planned, WriteError},
};

pub use mixture::{Mixture, Scheme};

/// The token embedding's name, and the head's where it is not the same matrix.
const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// What becomes of a model's matrices.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The types of all that nothing else is said of.
    pub scheme: Scheme,
    /// Types of tensors whose names fit; the first that fits counts.
    pub overrides: Vec<(NamePattern, TensorType)>,
    /// The type of the head, where it is no other matrix; before any override.
    pub output: Option<TensorType>,
    /// The type of the token embedding; before any override.
    pub token_embedding: Option<TensorType>,
    /// How much the columns count, and where that came from.
    pub importance: Option<(Importance, String)>,
    /// Threads that quantise; all there are if 0.
    pub threads: usize,
}

/// A pattern of tensors' names. With `*` (anything) or `?` (one character) in it, it stands for whole
/// names; without, for every name that contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// Returns the pattern that a text describes; none for an empty one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// Returns whether a name fits.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        if !self.0.contains(['*', '?']) {
            return name.contains(&self.0);
        }
        let (pattern, name): (Vec<char>, Vec<char>) = (self.0.chars().collect(), name.chars().collect());
        // Where the last star was, and how much of the name it stands for so far.
        let (mut at, mut from, mut star) = (0, 0, None);
        while from < name.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at, from));
                    at += 1;
                }
                Some(c) if *c == '?' || *c == name[from] => (at, from) = (at + 1, from + 1),
                _ => {
                    let Some((place, covered)) = star else { return false };
                    star = Some((place, covered + 1));
                    (at, from) = (place + 1, covered + 1);
                }
            }
        }
        pattern[at..].iter().all(|c| *c == '*')
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a model could not be converted.
#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// A pattern that stands for nothing.
    #[error("no matrix of this model fits the pattern {pattern:?}")]
    NoMatch {
        /// The pattern.
        pattern: String,
    },
    /// A type for a head that is not there.
    #[error("this model has no {OUTPUT:?}: its head is the token embedding, which has its own option")]
    TiedOutput,
    /// An importance matrix of another model.
    #[error(
        "the importance matrix has {found} values for {tensor:?}, whose rows have {columns}; it is of another model"
    )]
    Importance {
        /// The tensor.
        tensor: String,
        /// Values there are.
        found: usize,
        /// Values there should be.
        columns: usize,
    },
    /// A tensor could not be quantised.
    #[error("tensor {tensor:?}: {error}")]
    Quantize {
        /// The tensor.
        tensor: String,
        /// Why.
        #[source]
        error: QuantizeError,
    },
    /// The file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What becomes of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its type in the source.
    pub from: TensorType,
    /// The type asked for; its own where nothing is done to it.
    pub wanted: TensorType,
    /// Its type in the file.
    pub kind: TensorType,
    /// Values in a row.
    pub columns: usize,
    /// How many values it has.
    pub values: usize,
    /// Its bytes in the source.
    pub bytes_before: u64,
    /// Its bytes in the file.
    pub bytes: u64,
    /// Whether an importance matrix weighs its errors.
    pub weighed: bool,
}

impl Target {
    /// Returns the fallback, if its type is not the one asked for.
    #[must_use]
    pub fn fallback(&self) -> Option<Fallback> {
        let fallback = Fallback { tensor: self.name.clone(), wanted: self.wanted, used: self.kind };
        (self.kind != self.wanted).then_some(fallback)
    }

    /// Returns whether its values change.
    #[must_use]
    pub fn changes(&self) -> bool {
        self.kind != self.from
    }
}

/// A conversion that has been checked against a model, and can be written.
pub struct Converter<'a> {
    weights: &'a Weights,
    conversion: &'a Conversion,
    targets: Vec<Target>,
    layout: Layout,
}

impl Weights {
    /// Returns what a conversion makes of this model. Matrices only: whatever is no `*.weight` of
    /// two dimensions stays as it is, and so do norms.
    ///
    /// # Errors
    ///
    /// If a pattern fits nothing, the importance matrix is of another model, or the metadata cannot
    /// be written.
    pub fn converter<'a>(&'a self, conversion: &'a Conversion) -> Result<Converter<'a>, ConversionError> {
        let tensors = &self.parts.index.tensors;
        let quantised = |name: &str, dimensions: usize| {
            dimensions == 2 && name.ends_with("weight") && !name.contains("_norm.weight")
        };
        for (pattern, _) in &conversion.overrides {
            if !tensors.iter().any(|(name, info)| quantised(name, info.shape.len()) && pattern.fits(name)) {
                return Err(ConversionError::NoMatch { pattern: pattern.to_string() });
            }
        }
        if conversion.output.is_some() && !tensors.contains_key(OUTPUT) {
            return Err(ConversionError::TiedOutput);
        }
        let (layers, tied) = (self.spec().layers, !tensors.contains_key(OUTPUT));
        let mut targets = Vec::with_capacity(tensors.len());
        for (name, info) in tensors {
            let fitting = || conversion.overrides.iter().find(|(pattern, _)| pattern.fits(name)).map(|(_, kind)| *kind);
            let usual = || conversion.scheme.tensor_type(name, layers, tied);
            let wanted = match name.as_str() {
                _ if !quantised(name, info.shape.len()) => info.kind,
                EMBEDDING => conversion.token_embedding.or_else(fitting).unwrap_or_else(usual),
                OUTPUT => conversion.output.or_else(fitting).unwrap_or_else(usual),
                _ => fitting().unwrap_or_else(usual),
            };
            let kind = target(info, wanted);
            let mut target = Target {
                name: name.clone(),
                from: info.kind,
                wanted,
                kind,
                columns: info.columns(),
                values: info.values(),
                bytes_before: info.bytes() as u64,
                bytes: info.bytes_as(kind) as u64,
                weighed: false,
            };
            target.weighed = self.importance(conversion, &target)?.is_some();
            targets.push(target);
        }
        let planned = targets.iter().zip(tensors.values()).map(|(target, info)| Planned {
            name: target.name.clone(),
            kind: target.kind,
            shape: info.shape.clone(),
        });
        let layout = Layout::new(&self.metadata(conversion), planned.collect())?;
        Ok(Converter { weights: self, conversion, targets, layout })
    }

    /// Returns the weights of a tensor's columns, where they are used.
    fn importance<'a>(
        &self,
        conversion: &'a Conversion,
        target: &Target,
    ) -> Result<Option<&'a [f32]>, ConversionError> {
        let weighs = target.changes() && target.kind.block_values() > 1 && target.kind != TensorType::Q8_0;
        let Some((importance, _)) = conversion.importance.as_ref().filter(|_| weighs) else { return Ok(None) };
        let Some(columns) = importance.of(&target.name) else { return Ok(None) };
        if columns.len() == target.columns {
            return Ok(Some(columns));
        }
        // llama-imatrix stores other things under the embedding's name, which is looked up, not multiplied.
        if target.name == EMBEDDING {
            return Ok(None);
        }
        let (tensor, found) = (target.name.clone(), columns.len());
        Err(ConversionError::Importance { tensor, found, columns: target.columns })
    }

    /// Returns the file's metadata: the model's, and how it is stored (as `llama-quantize` says it).
    fn metadata(&self, conversion: &Conversion) -> IndexMap<String, Value> {
        let mut metadata = self.parts.index.metadata.clone();
        let mut set = |key: &str, value: Value| _ = metadata.insert(key.to_owned(), value);
        set("general.quantization_version", Value::Unsigned(QUANTIZATION_VERSION));
        set("general.file_type", Value::Unsigned(conversion.scheme.file_type().into()));
        if let Some((importance, file)) = &conversion.importance {
            set("quantize.imatrix.file", Value::Text(file.clone()));
            if let Some(dataset) = importance.datasets.first() {
                set("quantize.imatrix.dataset", Value::Text(dataset.clone()));
            }
            set("quantize.imatrix.entries_count", Value::Unsigned(importance.len() as u64));
            if let Some(chunks) = importance.chunks {
                set("quantize.imatrix.chunks_count", Value::Unsigned(chunks));
            }
        }
        metadata
    }
}

impl Converter<'_> {
    /// Returns what becomes of every tensor, in the file's order.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Returns how many bytes the file will have.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layout.size()
    }

    /// Writes the file, which afterwards is all there or what was there before. `progress` hears of
    /// every tensor before it is converted. Some rows of one tensor at a time are in memory.
    ///
    /// # Errors
    ///
    /// If a value has no place in a type, or the file cannot be written.
    pub fn write(&self, path: &Path, mut progress: impl FnMut(&Target)) -> Result<(), ConversionError> {
        let parts = &self.weights.parts;
        let threads = if self.conversion.threads == 0 { quantize::threads() } else { self.conversion.threads };
        let mut targets = self.targets.iter().zip(parts.index.tensors.values());
        self.layout.write_file(path, |_, sink| {
            // The layout asks in the order it was given.
            let Some((target, info)) = targets.next() else { return Ok(()) };
            progress(target);
            if !target.changes() {
                return Ok(sink.push(&parts.tensor(info))?);
            }
            let importance = self.weights.importance(self.conversion, target)?;
            let taken = quantize::tensor(parts, info, target.kind, importance, threads, |bytes| {
                sink.push(bytes).map_err(Failure::Write)
            });
            taken.map_err(|failure| match failure {
                Failure::Write(error) => error.into(),
                Failure::Quantize(error) => ConversionError::Quantize { tensor: target.name.clone(), error },
            })
        })
    }
}

enum Failure {
    Write(WriteError),
    Quantize(QuantizeError),
}

impl From<QuantizeError> for Failure {
    fn from(error: QuantizeError) -> Self {
        Self::Quantize(error)
    }
}

#[cfg(test)]
mod tests;
