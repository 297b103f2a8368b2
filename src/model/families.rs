//! Families as data: what a model file of each architecture must hold, and its shape.
//!
//! A family is a row. A file is refused when it has anything its row does not know: a tensor or a
//! setting that was left out would give wrong numbers without a word.
use std::collections::HashMap;

use indexmap::IndexMap;

use super::{
    spec::{ModelSpec, RopeLayout},
    weights::{Index, Value},
};

/// A family of models.
#[derive(Debug)]
pub struct Family {
    /// `general.architecture` in the file.
    pub architecture: &'static str,
    /// How rotary pairs are laid out.
    pub rope_layout: RopeLayout,
    /// Names of the tensors outside the layers.
    pub model: ModelTensors,
    /// Names of a layer's tensors, after `blk.N.`.
    pub layer: LayerTensors,
}

/// Names of the tensors outside the layers.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are llama.cpp's")]
pub struct ModelTensors {
    pub token_embedding: &'static str,
    pub output_norm: &'static str,
    /// Absent where the head is the token embedding.
    pub output: &'static str,
}

/// Names of a layer's tensors.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are llama.cpp's")]
pub struct LayerTensors {
    pub attention_norm: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub attention_output: &'static str,
    pub feed_forward_norm: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
}

/// Every family there is. The names are those of llama.cpp's `llama-arch.cpp`.
pub const FAMILIES: &[Family] = &[Family {
    architecture: "llama",
    rope_layout: RopeLayout::Interleaved,
    model: ModelTensors {
        token_embedding: "token_embd.weight",
        output_norm: "output_norm.weight",
        output: "output.weight",
    },
    layer: LayerTensors {
        attention_norm: "attn_norm.weight",
        query: "attn_q.weight",
        key: "attn_k.weight",
        value: "attn_v.weight",
        attention_output: "attn_output.weight",
        feed_forward_norm: "ffn_norm.weight",
        gate: "ffn_gate.weight",
        up: "ffn_up.weight",
        down: "ffn_down.weight",
    },
}];

/// Why a file is not a model that can be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FamilyError {
    /// No family of that name.
    #[error("architecture {found:?} is not supported (supported: {})",
        FAMILIES.iter().map(|family| family.architecture).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What the file says.
        found: String,
    },
    /// A setting is not there or makes no sense.
    #[error("metadata {key:?} {problem}")]
    Setting {
        /// Its key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is not there.
    #[error("tensor {name:?} is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the settings ask for.
    #[error("tensor {name:?} has shape {found:?}, the metadata ask for {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape, rows first.
        found: Vec<usize>,
        /// The right one.
        expected: Vec<usize>,
    },
    /// A tensor nobody would use.
    #[error("tensor {name:?} is no part of a {architecture} model here; running without it would give wrong results")]
    Unused {
        /// Its name.
        name: String,
        /// The family.
        architecture: &'static str,
    },
}

/// Returns the family of that name.
#[must_use]
pub fn find(architecture: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.architecture == architecture)
}

/// Returns a tensor's whole name from its name inside a layer.
#[must_use]
pub fn in_layer(layer: usize, name: &str) -> String {
    format!("blk.{layer}.{name}")
}

struct Settings<'a> {
    architecture: &'a str,
    metadata: &'a IndexMap<String, Value>,
}

impl Settings<'_> {
    fn value(&self, key: &str) -> (String, Option<&Value>) {
        let key = format!("{}.{key}", self.architecture);
        let value = self.metadata.get(&key);
        (key, value)
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>, FamilyError> {
        let (key, value) = self.value(key);
        let Some(value) = value else { return Ok(None) };
        // Beyond every model, and small enough for products of two to stay inside 64 bits.
        let count = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 24).contains(n));
        let problem = || FamilyError::Setting { key, problem: "is not a number from 1 to 16777216".to_owned() };
        count.map(Some).ok_or_else(problem)
    }

    fn count(&self, key: &str) -> Result<usize, FamilyError> {
        self.optional_count(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    fn positive(&self, key: &str, default: Option<f64>) -> Result<f64, FamilyError> {
        let number = match self.value(key).1 {
            Some(value) => value.as_f64(),
            None => Some(default.ok_or_else(|| self.wrong(key, "is missing"))?),
        };
        number.filter(|x| x.is_finite() && *x > 0.0).ok_or_else(|| self.wrong(key, "is not a number above 0"))
    }

    fn wrong(&self, key: &str, problem: &str) -> FamilyError {
        FamilyError::Setting { key: self.value(key).0, problem: problem.to_owned() }
    }

    /// Refuses what would change the numbers and is not computed here.
    fn refuse_unsupported(&self) -> Result<(), FamilyError> {
        let (key, value) = self.value("rope.scaling.type");
        if value.and_then(Value::as_str).is_some_and(|kind| kind != "none") {
            return Err(FamilyError::Setting { key, problem: "asks for rope scaling: not supported yet".to_owned() });
        }
        for (key, neutral) in [
            ("rope.scale_linear", 1.0),
            ("rope.scaling.factor", 1.0),
            ("expert_count", 0.0),
            ("attention.sliding_window", 0.0),
            ("attention.clamp_kqv", 0.0),
            ("embedding_scale", 1.0),
            ("residual_scale", 1.0),
            ("logit_scale", 1.0),
            ("attention.scale", 0.0),
            ("attn_logit_softcapping", 0.0),
            ("final_logit_softcapping", 0.0),
        ] {
            let (name, value) = self.value(key);
            if let Some(found) = value
                && found.as_f64().is_none_or(|found| (found - neutral).abs() > 0.0)
            {
                let problem = format!("is {found:?}: only {neutral} is supported yet");
                return Err(FamilyError::Setting { key: name, problem });
            }
        }
        Ok(())
    }
}

/// Returns the shape of the model in a file, after a check of every tensor.
///
/// # Errors
///
/// If the family is unknown, a setting is missing or not supported, or the tensors are not exactly
/// those of the family in the shapes the settings ask for.
pub fn read(index: &Index) -> Result<ModelSpec, FamilyError> {
    let text = |key: &str| index.metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let architecture = text("general.architecture");
    let family = find(architecture).ok_or_else(|| FamilyError::Unknown { found: architecture.to_owned() })?;
    let settings = Settings { architecture, metadata: &index.metadata };
    settings.refuse_unsupported()?;
    let (hidden_size, heads) = (settings.count("embedding_length")?, settings.count("attention.head_count")?);
    let kv_heads = settings.optional_count("attention.head_count_kv")?.unwrap_or(heads);
    if heads % kv_heads != 0 {
        return Err(settings.wrong("attention.head_count", "is no multiple of attention.head_count_kv"));
    }
    let head_dim = match settings.optional_count("attention.key_length")? {
        Some(length) => length,
        None if hidden_size % heads == 0 => hidden_size / heads,
        None => return Err(settings.wrong("embedding_length", "is no multiple of attention.head_count")),
    };
    if settings.optional_count("attention.value_length")?.is_some_and(|length| length != head_dim) {
        return Err(settings.wrong("attention.value_length", "differs from the key length: not supported yet"));
    }
    let rope_dim = settings.optional_count("rope.dimension_count")?.unwrap_or(head_dim);
    if rope_dim != head_dim || rope_dim % 2 != 0 {
        let problem = "is not the head width, or odd: partial rotation is not supported yet";
        return Err(settings.wrong("rope.dimension_count", problem));
    }
    let embedding = family.model.token_embedding;
    let missing = || FamilyError::Missing { name: embedding.to_owned() };
    let spec = ModelSpec {
        architecture: architecture.to_owned(),
        name: text("general.name").to_owned(),
        layers: settings.count("block_count")?,
        hidden_size,
        intermediate_size: settings.count("feed_forward_length")?,
        heads,
        kv_heads,
        head_dim,
        vocab_size: index.tensors.get(embedding).ok_or_else(missing)?.shape[0],
        context_length: settings.count("context_length")?,
        rms_norm_eps: settings.positive("attention.layer_norm_rms_epsilon", None)?,
        rope_theta: settings.positive("rope.freq_base", Some(10_000.0))?,
        rope_dim,
        rope_layout: family.rope_layout,
        tied_embeddings: !index.tensors.contains_key(family.model.output),
    };
    check_tensors(family, &spec, index)?;
    Ok(spec)
}

fn check_tensors(family: &Family, spec: &ModelSpec, index: &Index) -> Result<(), FamilyError> {
    let (e, f, v) = (spec.hidden_size, spec.intermediate_size, spec.vocab_size);
    let (q, kv) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let ModelTensors { token_embedding, output_norm, output } = family.model;
    let mut expected: HashMap<String, Vec<usize>> = HashMap::new();
    expected.insert(token_embedding.to_owned(), vec![v, e]);
    expected.insert(output_norm.to_owned(), vec![e]);
    if !spec.tied_embeddings {
        expected.insert(output.to_owned(), vec![v, e]);
    }
    let names = &family.layer;
    for layer in 0..spec.layers {
        for (name, shape) in [
            (names.attention_norm, &[e][..]),
            (names.query, &[q, e]),
            (names.key, &[kv, e]),
            (names.value, &[kv, e]),
            (names.attention_output, &[e, q]),
            (names.feed_forward_norm, &[e]),
            (names.gate, &[f, e]),
            (names.up, &[f, e]),
            (names.down, &[e, f]),
        ] {
            let name = in_layer(layer, name);
            if !index.tensors.contains_key(&name) {
                return Err(FamilyError::Missing { name });
            }
            expected.insert(name, shape.to_vec());
        }
    }
    if !index.tensors.contains_key(output_norm) {
        return Err(FamilyError::Missing { name: output_norm.to_owned() });
    }
    for (name, info) in &index.tensors {
        let architecture = family.architecture;
        let shape = expected.get(name).ok_or_else(|| FamilyError::Unused { name: name.clone(), architecture })?;
        if info.shape != *shape {
            let (found, expected) = (info.shape.clone(), shape.clone());
            return Err(FamilyError::Shape { name: name.clone(), found, expected });
        }
    }
    Ok(())
}
