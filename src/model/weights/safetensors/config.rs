//! config.json as GGUF metadata, as llama.cpp's `convert_hf_to_gguf.py` writes it
//! (`conversion/base.py`, `llama.py`, `qwen.py`, `phi.py`, `gemma.py`).
use indexmap::IndexMap;
use serde_json::{Map, Value as Json};

use super::{FolderError, origin::Origin};
use crate::model::weights::Value;

/// A section of config.json, with its name for messages.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    map: &'a Map<String, Json>,
    name: &'a str,
}

impl<'a> Section<'a> {
    pub(super) fn new(map: &'a Map<String, Json>) -> Self {
        Self { map, name: "" }
    }

    /// Returns a value that is there and not null.
    fn get(self, key: &str) -> Option<&'a Json> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(self, key: &str, problem: impl Into<String>) -> FolderError {
        FolderError::Setting { key: format!("{}{key}", self.name), problem: problem.into() }
    }

    fn optional<T>(
        self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, FolderError> {
        let found = |value: &'a Json| read(value).ok_or_else(|| self.wrong(key, format!("is {value}, not {what}")));
        self.get(key).map(found).transpose()
    }

    pub(super) fn optional_count(self, key: &str) -> Result<Option<u64>, FolderError> {
        // llama.cpp reads counts as 32 bits.
        let read = |value: &Json| value.as_u64().filter(|count| u32::try_from(*count).is_ok());
        self.optional(key, "a count of at most 32 bits", read)
    }

    pub(super) fn count(self, key: &str) -> Result<u64, FolderError> {
        self.optional_count(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    fn optional_number(self, key: &str) -> Result<Option<f64>, FolderError> {
        self.optional(key, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    fn number(self, key: &str) -> Result<f64, FolderError> {
        self.optional_number(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    pub(super) fn optional_flag(self, key: &str) -> Result<Option<bool>, FolderError> {
        self.optional(key, "true or false", Json::as_bool)
    }

    pub(super) fn optional_text(self, key: &str) -> Result<Option<&'a str>, FolderError> {
        self.optional(key, "a text", Json::as_str)
    }

    fn section(self, key: &'a str) -> Result<Option<Self>, FolderError> {
        Ok(self.optional(key, "a map", Json::as_object)?.map(|map| Section { map, name: key_prefix(key) }))
    }

    fn numbers(self, key: &str) -> Result<Option<Vec<f32>>, FolderError> {
        let read = |value: &Json| {
            let numbers = value.as_array()?.iter().map(|number| number.as_f64().map(|number| number as f32));
            numbers.collect::<Option<Vec<f32>>>().filter(|numbers| numbers.iter().all(|number| *number > 0.0))
        };
        self.optional(key, "a list of numbers above 0", read)
    }

    /// Refuses a setting that changes the numbers in a way that nothing here knows.
    fn refuse(self, keys: &[&str]) -> Result<(), FolderError> {
        for key in keys {
            if let Some(value) = self.get(key).filter(|value| **value != Json::Bool(false)) {
                return Err(self.wrong(key, format!("is {value}: not supported")));
            }
        }
        Ok(())
    }
}

fn key_prefix(key: &str) -> &'static str {
    match key {
        "rope_parameters" => "rope_parameters.",
        "rope_scaling" => "rope_scaling.",
        "full_attention" => "rope_parameters.full_attention.",
        _ => "rope_parameters.sliding_attention.",
    }
}

/// Tensors that are computed from the settings: names and values.
pub(super) type Tables = Vec<(&'static str, Vec<f32>)>;

/// Metadata under construction: keys of one architecture, in the order they are written.
struct Writer<'a> {
    architecture: &'a str,
    metadata: IndexMap<String, Value>,
}

impl Writer<'_> {
    fn put(&mut self, key: &str, value: Value) {
        self.metadata.insert(format!("{}.{key}", self.architecture), value);
    }

    fn count(&mut self, key: &str, count: u64) {
        self.put(key, Value::Unsigned(count));
    }

    /// Numbers are f32 in GGUF.
    fn number(&mut self, key: &str, number: f64) {
        self.put(key, Value::Float(f64::from(number as f32)));
    }
}

/// The rotary settings of a model, wherever its version of transformers wrote them.
struct Rope<'a> {
    /// What is said of all layers, or of those with full attention.
    full: Option<Section<'a>>,
    sliding_theta: Option<f64>,
    theta: Option<f64>,
    kind: &'a str,
}

impl<'a> Rope<'a> {
    fn read(config: Section<'a>) -> Result<Self, FolderError> {
        let section = match config.section("rope_parameters")? {
            Some(section) => Some(section),
            None => config.section("rope_scaling")?,
        };
        let (mut full, mut sliding) = (section, None);
        if let Some(section) = section {
            if let Some(layers) = section.section("full_attention")? {
                full = Some(layers);
            }
            sliding = section.section("sliding_attention")?;
        }
        let mut kind = "default";
        let (mut theta, mut sliding_theta) = (None, None);
        if let Some(full) = full {
            full.refuse(&["mrope_section", "mscale", "mscale_all_dim"])?;
            if full.optional_flag("truncate")? == Some(false) {
                return Err(full.wrong("truncate", "is false: not supported"));
            }
            theta = full.optional_number("rope_theta")?;
            kind = match full.optional_text("rope_type")? {
                Some(kind) => kind,
                None => full.optional_text("type")?.unwrap_or(kind),
            };
        }
        if let Some(sliding) = sliding {
            sliding_theta = sliding.optional_number("rope_theta")?;
            if let Some(kind) = sliding.optional_text("rope_type")?.filter(|kind| *kind != "default") {
                return Err(sliding.wrong("rope_type", format!("is {kind:?}: not supported in sliding layers")));
            }
        }
        Ok(Self {
            full,
            theta: theta.or(config.optional_number("rope_theta")?),
            sliding_theta: sliding_theta.or(config.optional_number("rope_local_base_freq")?),
            kind,
        })
    }

    /// Returns a setting from beside the scaling, or from the top of config.json.
    fn count(&self, config: Section<'a>, key: &str) -> Result<Option<u64>, FolderError> {
        match self.full.map(|full| full.optional_count(key)).transpose()?.flatten() {
            Some(count) => Ok(Some(count)),
            None => config.optional_count(key),
        }
    }

    fn number(&self, config: Section<'a>, key: &str) -> Result<Option<f64>, FolderError> {
        match self.full.map(|full| full.optional_number(key)).transpose()?.flatten() {
            Some(number) => Ok(Some(number)),
            None => config.optional_number(key),
        }
    }

    fn unknown(&self) -> FolderError {
        let section = self.full.map_or("", |full| full.name);
        FolderError::Setting {
            key: format!("{section}rope_type"),
            problem: format!(
                "is {:?}: not supported here (supported: default, linear, yarn, llama3, longrope)",
                self.kind
            ),
        }
    }
}

/// Returns the metadata of a model and the tables they imply.
pub(super) fn translate(
    config: Section<'_>,
    origin: &Origin,
    name: &str,
) -> Result<(IndexMap<String, Value>, Tables), FolderError> {
    config.refuse(&["quantization_config", "attn_logit_softcapping", "use_bidirectional_attention"])?;
    let (key, expected) = origin.activation;
    if let Some(found) = config.optional_text(key)?.filter(|found| *found != expected) {
        return Err(config.wrong(key, format!("is {found:?}: only {expected:?} is supported in a {}", origin.class)));
    }
    let mut out = Writer { architecture: origin.architecture, metadata: IndexMap::new() };
    for (key, value) in [("architecture", origin.architecture), ("type", "model"), ("name", name)] {
        out.metadata.insert(format!("general.{key}"), Value::Text(value.to_owned()));
    }
    let rope = Rope::read(config)?;
    let tables = if origin.architecture == "phi3" {
        phi3(config, &rope, &mut out)?
    } else {
        common(config, origin, &rope, &mut out)?
    };
    match origin.class {
        "LlamaForCausalLM" | "MistralForCausalLM" => {
            out.count("vocab_size", config.count("vocab_size")?);
            out.count("rope.dimension_count", head_dim(config, origin)?);
        }
        "Gemma3ForCausalLM" => gemma3(config, &mut out)?,
        _ => {}
    }
    if origin.class == "MistralForCausalLM" {
        // A version of transformers that leaves defaults out means 4096; null means none.
        let window = if config.map.contains_key("sliding_window") {
            config.optional_count("sliding_window")?
        } else {
            Some(4096)
        };
        if let Some(window) = window {
            out.count("attention.sliding_window", window);
        }
    }
    if matches!(origin.class, "Qwen2ForCausalLM" | "Qwen3ForCausalLM")
        && config.optional_flag("use_sliding_window")? == Some(true)
    {
        return Err(
            config.wrong("use_sliding_window", "is true: windows in some layers are not supported in this class")
        );
    }
    Ok((out.metadata, tables))
}

/// Returns how wide a head is.
pub(super) fn head_dim(config: Section<'_>, origin: &Origin) -> Result<u64, FolderError> {
    if let Some(width) = config.optional_count("head_dim")?.or(origin.head_dim) {
        return Ok(width);
    }
    let (width, heads) = (config.count("hidden_size")?, config.count("num_attention_heads")?);
    let divides = heads > 0 && width % heads == 0;
    divides.then(|| width / heads).ok_or_else(|| config.wrong("hidden_size", "is no multiple of num_attention_heads"))
}

/// Returns how many heads keys and values have.
pub(super) fn kv_heads(config: Section<'_>) -> Result<u64, FolderError> {
    Ok(match config.optional_count("num_key_value_heads")? {
        Some(heads) => heads,
        None => config.count("num_attention_heads")?,
    })
}

fn common(config: Section<'_>, origin: &Origin, rope: &Rope<'_>, out: &mut Writer<'_>) -> Result<Tables, FolderError> {
    out.count("block_count", config.count("num_hidden_layers")?);
    out.count("context_length", config.count("max_position_embeddings")?);
    out.count("embedding_length", config.count("hidden_size")?);
    out.count("feed_forward_length", config.count("intermediate_size")?);
    out.count("attention.head_count", config.count("num_attention_heads")?);
    out.count("attention.head_count_kv", kv_heads(config)?);
    let tables = scaling(config, origin, rope, out)?;
    let theta = rope.theta.or((origin.architecture == "gemma3").then_some(1_000_000.0));
    if let Some(theta) = theta {
        out.number("rope.freq_base", theta);
    }
    if let Some(theta) = rope.sliding_theta {
        out.number("rope.freq_base_swa", theta);
    }
    out.number("attention.layer_norm_rms_epsilon", config.number("rms_norm_eps")?);
    if let Some(width) = config.optional_count("head_dim")?.or(origin.head_dim) {
        out.count("attention.key_length", width);
        out.count("attention.value_length", width);
    }
    Ok(tables)
}

fn scaling(config: Section<'_>, origin: &Origin, rope: &Rope<'_>, out: &mut Writer<'_>) -> Result<Tables, FolderError> {
    let text = |kind: &str| Value::Text(kind.to_owned());
    match (rope.kind, rope.full) {
        ("default", _) => {}
        ("linear", Some(full)) => {
            out.put("rope.scaling.type", text("linear"));
            out.number("rope.scaling.factor", full.number("factor")?);
        }
        ("yarn", Some(full)) => {
            out.put("rope.scaling.type", text("yarn"));
            out.number("rope.scaling.factor", full.number("factor")?);
            let original = rope.count(config, "original_max_position_embeddings")?;
            let original = original.map_or_else(|| config.count("max_position_embeddings"), Ok)?;
            out.count("rope.scaling.original_context_length", original);
            for (key, names) in [
                ("yarn_ext_factor", &["extrapolation_factor"][..]),
                ("yarn_attn_factor", &["attention_factor", "attn_factor"]),
                ("yarn_beta_fast", &["beta_fast"]),
                ("yarn_beta_slow", &["beta_slow"]),
            ] {
                for name in names {
                    if let Some(number) = full.optional_number(name)? {
                        out.number(&format!("rope.scaling.{key}"), number);
                        break;
                    }
                }
            }
        }
        ("llama3", Some(full)) if origin.architecture == "llama" => {
            let original = rope.count(config, "original_max_position_embeddings")?.unwrap_or(8192);
            return Ok(vec![("rope_freqs.weight", llama3(full, rope, head_dim(config, origin)?, original)?)]);
        }
        _ => return Err(rope.unknown()),
    }
    Ok(Vec::new())
}

/// Returns what llama 3 divides its rotary frequencies by, in f32 as the converter computes it:
/// short waves stay, long ones are stretched by the factor, those between by something between.
fn llama3(full: Section<'_>, rope: &Rope<'_>, width: u64, original: u64) -> Result<Vec<f32>, FolderError> {
    let setting = |key: &str, default: f64| Ok(full.optional_number(key)?.unwrap_or(default) as f32);
    let (factor, low, high) =
        (setting("factor", 8.0)?, setting("low_freq_factor", 1.0)?, setting("high_freq_factor", 4.0)?);
    if !(factor > 0.0 && low > 0.0 && high > low) {
        return Err(full.wrong("high_freq_factor", "must be above low_freq_factor, and both and factor above 0"));
    }
    if width > 1 << 16 {
        return Err(full.wrong("head_dim", "is more than 65536"));
    }
    let (theta, original) = (rope.theta.unwrap_or(10_000.0) as f32, original as f32);
    let divisor = |pair: u64| {
        let frequency = 1.0 / theta.powf((pair * 2) as f32 / width as f32);
        let wave = (2.0 * std::f64::consts::PI) as f32 / frequency;
        if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok((0..width / 2).map(divisor).collect())
}

fn gemma3(config: Section<'_>, out: &mut Writer<'_>) -> Result<(), FolderError> {
    if let Some(cap) = config.optional_number("final_logit_softcapping")?.filter(|cap| *cap != 0.0) {
        out.number("final_logit_softcapping", cap);
    }
    let layers = config.count("num_hidden_layers")?;
    let mut pattern = None;
    for key in ["sliding_window_pattern", "_sliding_window_pattern"] {
        pattern = pattern.or(config.optional_count(key)?);
    }
    let pattern = pattern.unwrap_or(6);
    if let Some(kinds) = config.optional("layer_types", "a list", Json::as_array)? {
        let regular = kinds.iter().zip(1..).all(|(kind, layer): (&Json, u64)| {
            let full = pattern > 0 && layer % pattern == 0;
            kind.as_str() == Some(if full { "full_attention" } else { "sliding_attention" })
        });
        if !regular || kinds.len() as u64 != layers {
            let problem = format!("is not full attention in every layer of {pattern}: not supported");
            return Err(config.wrong("layer_types", problem));
        }
    }
    if pattern != 1 {
        out.count("attention.sliding_window", config.count("sliding_window")?);
    }
    if !matches!(pattern, 1 | 6) {
        out.count("attention.sliding_window_pattern", pattern);
    }
    // llama.cpp takes the heads' width where this is not said, and knows the one model (27B) where
    // that is not so.
    if let Some(scalar) = config.optional_number("query_pre_attn_scalar")?
        && out.metadata.get("gemma3.attention.key_length").and_then(Value::as_f64) != Some(scalar)
    {
        if scalar <= 0.0 {
            return Err(config.wrong("query_pre_attn_scalar", "is not above 0"));
        }
        out.number("attention.scale", scalar.powf(-0.5));
    }
    Ok(())
}

fn phi3(config: Section<'_>, rope: &Rope<'_>, out: &mut Writer<'_>) -> Result<Tables, FolderError> {
    let (width, heads) = (config.count("hidden_size")?, config.count("num_attention_heads")?);
    let context = config.count("max_position_embeddings")?;
    let original = rope.count(config, "original_max_position_embeddings")?.unwrap_or(4096);
    let share = rope.number(config, "partial_rotary_factor")?.unwrap_or(1.0);
    if heads == 0 || !(0.0..=1.0).contains(&share) {
        return Err(config.wrong("partial_rotary_factor", "is not between 0 and 1, or there are no heads"));
    }
    let rotary = (share * width as f64) as u64 / heads;
    out.count("context_length", context);
    out.count("rope.scaling.original_context_length", original);
    out.count("embedding_length", width);
    out.count("feed_forward_length", config.count("intermediate_size")?);
    out.count("block_count", config.count("num_hidden_layers")?);
    out.count("attention.head_count", heads);
    out.count("attention.head_count_kv", kv_heads(config)?);
    out.number("attention.layer_norm_rms_epsilon", config.number("rms_norm_eps")?);
    out.count("rope.dimension_count", rotary);
    out.number("rope.freq_base", rope.theta.unwrap_or(10_000.0));
    out.count("attention.sliding_window", config.optional_count("sliding_window")?.unwrap_or(0));
    match (rope.kind, rope.full) {
        ("default", _) => Ok(Vec::new()),
        ("longrope" | "su", Some(full)) => {
            let stretch = context as f64 / original as f64;
            let attention = if stretch > 1.0 { (1.0 + stretch.ln() / (original as f64).ln()).sqrt() } else { 1.0 };
            out.number("rope.scaling.attn_factor", attention);
            let factors = |key: &str| -> Result<Vec<f32>, FolderError> {
                let factors = full.numbers(key)?.ok_or_else(|| full.wrong(key, "is missing"))?;
                let pairs = rotary / 2;
                let problem = || format!("has {} numbers, one for each of {pairs} pairs is needed", factors.len());
                if factors.len() as u64 == pairs { Ok(factors) } else { Err(full.wrong(key, problem())) }
            };
            Ok(vec![
                ("rope_factors_long.weight", factors("long_factor")?),
                ("rope_factors_short.weight", factors("short_factor")?),
            ])
        }
        _ => Err(rope.unknown()),
    }
}
