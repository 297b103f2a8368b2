//! From a file's index to the shape of its model.
use super::{Family, FamilyError, Part, Windows, find, in_layer, settings::Settings, tensors};
use crate::model::{
    rope::{Rope, RopeScaling, longrope_magnitude, yarn_magnitude},
    spec::ModelSpec,
    weights::{Index, Value},
};

/// Keys that only families with windows, or with soft-caps, read.
const WINDOW_KEYS: [&str; 4] =
    ["attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa", "rope.local_freq_base"];
const SOFTCAP_KEYS: [&str; 2] = ["attn_logit_softcapping", "final_logit_softcapping"];

/// Layers of the one Gemma 3 whose scores are scaled by `sqrt(H / E)` instead of `1 / sqrt(D)`: the 27B.
/// No key says so; llama.cpp knows it by the same number (`llama-model.cpp`).
const GEMMA3_27B_LAYERS: usize = 62;

/// Returns the shape of the model in a file, after a check of every tensor.
///
/// `values` returns the values of an f32 tensor: divisors of rotary frequencies are part of the shape.
///
/// # Errors
///
/// If the family is unknown, a setting is missing or not supported, or the tensors are not exactly
/// those of the family in the shapes the settings ask for.
pub fn read(index: &Index, values: &dyn Fn(&str) -> Option<Vec<f32>>) -> Result<ModelSpec, FamilyError> {
    let text = |key: &str| index.metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let architecture = text("general.architecture");
    let family = find(architecture).ok_or_else(|| FamilyError::Unknown { found: architecture.to_owned() })?;
    let settings = Settings { architecture, metadata: &index.metadata };
    let windows: &[&str] = if family.windows == Windows::Never { &[] } else { &WINDOW_KEYS };
    let softcaps: &[&str] = if family.softcaps { &SOFTCAP_KEYS } else { &[] };
    settings.refuse_unknown(&[windows, softcaps].concat())?;
    let (hidden_size, heads) = (settings.count("embedding_length")?, settings.count("attention.head_count")?);
    let kv_heads = settings.optional_count("attention.head_count_kv")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        return Err(settings.wrong("attention.head_count", "is no multiple of attention.head_count_kv"));
    }
    let head_dim = head_dim(&settings, hidden_size, heads)?;
    let layers = settings.count("block_count")?;
    if layers > index.tensors.len() {
        return Err(settings.wrong("block_count", "is more than the file has tensors"));
    }
    // Also bounds what is made for each layer by what the file really holds.
    let last = in_layer(layers - 1, family.layer.attention_norm);
    let embedding = family.model.token_embedding;
    for name in [embedding, &last] {
        if !index.tensors.contains_key(name) {
            return Err(FamilyError::Missing { name: name.to_owned() });
        }
    }
    let has = |part: Part, name: &str| match part {
        Part::Never => false,
        Part::Maybe => index.tensors.contains_key(&in_layer(0, name)),
        Part::Always => true,
    };
    let names = &family.layer;
    let context_length = settings.count("context_length")?;
    let windows = read_windows(&settings, family, layers)?;
    let rope = read_rope(&settings, family, head_dim, context_length, index)?;
    let mut spec = ModelSpec {
        architecture: architecture.to_owned(),
        name: text("general.name").to_owned(),
        layers,
        hidden_size,
        intermediate_size: settings.count("feed_forward_length")?,
        heads,
        kv_heads,
        head_dim,
        vocab_size: index.tensors.get(embedding).map_or(0, |info| info.shape[0]),
        context_length,
        rms_norm_eps: settings.positive("attention.layer_norm_rms_epsilon", None)?,
        local_rope: local_rope(&settings, family, &rope, &windows)?,
        rope,
        windows,
        activation: family.activation,
        embedding_scale: if family.scaled_embedding { (hidden_size as f32).sqrt() } else { 1.0 },
        attention_scale: match settings.optional_positive("attention.scale")? {
            Some(scale) => scale,
            None if architecture == "gemma3" && layers == GEMMA3_27B_LAYERS => {
                (heads as f64 / hidden_size as f64).sqrt()
            }
            None => 1.0 / (head_dim as f64).sqrt(),
        },
        attention_softcap: settings.optional_positive(SOFTCAP_KEYS[0])?,
        logit_softcap: settings.optional_positive(SOFTCAP_KEYS[1])?,
        tied_embeddings: !index.tensors.contains_key(family.model.output),
        attention_bias: has(family.attention_bias, names.query_bias),
        head_norms: has(family.head_norms, names.query_norm),
        post_norms: has(family.post_norms, names.post_attention_norm),
        fused_query_key_value: has(family.fused_query_key_value, names.query_key_value),
        fused_gate_up: has(family.fused_gate_up, names.up),
    };
    tensors::check(family, &spec, index)?;
    fill_divisors(family, &mut spec, values)?;
    Ok(spec)
}

fn head_dim(settings: &Settings<'_>, hidden_size: usize, heads: usize) -> Result<usize, FamilyError> {
    let head_dim = match settings.optional_count("attention.key_length")? {
        Some(length) => length,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(settings.wrong("embedding_length", "is no multiple of attention.head_count")),
    };
    if settings.optional_count("attention.value_length")?.is_some_and(|length| length != head_dim) {
        return Err(settings.wrong("attention.value_length", "differs from the key length: not supported yet"));
    }
    Ok(head_dim)
}

/// Returns the window of each layer. One that no sequence outgrows stays: it tells local layers, which
/// may have a rope of their own, and a recipe may stretch the context beyond it.
fn read_windows(settings: &Settings<'_>, family: &Family, layers: usize) -> Result<Vec<Option<usize>>, FamilyError> {
    let [window, pattern, ..] = WINDOW_KEYS;
    let none = settings.value(window).1.is_none_or(|value| value.as_u64() == Some(0));
    if family.windows == Windows::Never || none {
        return Ok(vec![None; layers]);
    }
    let window = settings.optional_count(window)?;
    let period = match settings.value(pattern).1 {
        Some(Value::List(flags)) if flags.len() == layers => {
            let local = |flag: &Value| flag.as_bool().or_else(|| flag.as_u64().map(|n| n != 0));
            let local = flags.iter().map(local).collect::<Option<Vec<bool>>>();
            let local = local.ok_or_else(|| settings.wrong(pattern, "is no list of truth values"))?;
            return Ok(local.into_iter().map(|local| window.filter(|_| local)).collect());
        }
        Some(Value::List(_)) => return Err(settings.wrong(pattern, "has not one entry for each layer")),
        Some(_) => settings.count(pattern)?,
        None => match family.windows {
            Windows::AllButEach(period) => period,
            Windows::Never | Windows::Every => return Ok(vec![window; layers]),
        },
    };
    Ok((1..=layers).map(|layer| window.filter(|_| layer % period != 0)).collect())
}

/// Returns the rope of layers with a window, if there are any and it is another.
fn local_rope(
    settings: &Settings<'_>,
    family: &Family,
    rope: &Rope,
    windows: &[Option<usize>],
) -> Result<Option<Rope>, FamilyError> {
    let [.., first, second] = WINDOW_KEYS;
    let key = if settings.value(first).1.is_some() { first } else { second };
    let theta = match family.local_rope_theta {
        None => settings.optional_positive(key)?,
        Some(theta) => Some(settings.positive(key, Some(theta))?),
    };
    // Local layers are never stretched: no position is far from another there.
    let local = theta.map(|theta| Rope { theta, scaling: RopeScaling::None, ..rope.clone() });
    Ok(local.filter(|_| windows.iter().any(Option::is_some)))
}

/// Returns the rope; its divisors are filled in later.
fn read_rope(
    settings: &Settings<'_>,
    family: &Family,
    head_dim: usize,
    context_length: usize,
    index: &Index,
) -> Result<Rope, FamilyError> {
    let dim = settings.optional_count("rope.dimension_count")?.unwrap_or(head_dim);
    if dim > head_dim || !dim.is_multiple_of(2) {
        return Err(settings.wrong("rope.dimension_count", "is more than the head width, or odd"));
    }
    let theta = settings.positive("rope.freq_base", Some(family.rope_theta))?;
    let scaling = read_scaling(settings, family, context_length, index)?;
    Ok(Rope { theta, dim, layout: family.rope_layout, scaling })
}

fn read_scaling(
    settings: &Settings<'_>,
    family: &Family,
    context_length: usize,
    index: &Index,
) -> Result<RopeScaling, FamilyError> {
    let has = |name: &str| index.tensors.contains_key(name);
    let kind = settings.value("rope.scaling.type").1.map(|value| value.as_str().unwrap_or("?"));
    let factor = match settings.optional_positive("rope.scaling.factor")? {
        Some(factor) => factor,
        None => settings.optional_positive("rope.scale_linear")?.unwrap_or(1.0),
    };
    let magnitude = settings.optional_positive("rope.scaling.attn_factor")?;
    let original_context = settings.optional_count("rope.scaling.original_context_length")?;
    if family.longrope && (kind == Some("longrope") || has(family.model.rope_divisors_long)) {
        let missing = || settings.wrong("rope.scaling.original_context_length", "is missing");
        let original_context = original_context.ok_or_else(missing)?;
        let grown = context_length as f64 / original_context as f64;
        let magnitude = magnitude.unwrap_or_else(|| longrope_magnitude(grown, original_context));
        return Ok(RopeScaling::Longrope { short: Vec::new(), long: Vec::new(), original_context, magnitude });
    }
    let scaling = match kind {
        Some("none") => RopeScaling::None,
        // As in llama.cpp, a factor without a type is linear.
        None | Some("linear") if factor > 1.0 => RopeScaling::Linear { factor },
        None | Some("linear") => RopeScaling::None,
        Some("yarn") => RopeScaling::Yarn {
            factor,
            original_context: original_context.unwrap_or(context_length),
            beta_fast: settings.positive("rope.scaling.yarn_beta_fast", Some(32.0))?,
            beta_slow: settings.positive("rope.scaling.yarn_beta_slow", Some(1.0))?,
            magnitude: yarn_magnitude(factor)
                * magnitude.unwrap_or(1.0)
                * settings.positive("rope.scaling.yarn_attn_factor", Some(1.0))?,
        },
        Some(other) => {
            let problem = format!("is {other:?}, which {} models cannot have here", family.architecture);
            return Err(settings.wrong("rope.scaling.type", &problem));
        }
    };
    match (scaling, family.rope_divisors && has(family.model.rope_divisors)) {
        (RopeScaling::None, true) => Ok(RopeScaling::Divisors { divisors: Vec::new() }),
        (_, true) => Err(settings.wrong("rope.scaling.type", "and the tensor rope_freqs.weight both stretch the rope")),
        (scaling, false) => Ok(scaling),
    }
}

/// Fills in what stands in tensors.
fn fill_divisors(
    family: &Family,
    spec: &mut ModelSpec,
    values: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<(), FamilyError> {
    let count = spec.rope.dim / 2;
    let read = |name: &str| {
        let sound = |found: &Vec<f32>| found.len() == count && found.iter().all(|x| x.is_finite() && *x > 0.0);
        values(name).filter(sound).ok_or_else(|| FamilyError::Values { name: name.to_owned() })
    };
    match &mut spec.rope.scaling {
        RopeScaling::Divisors { divisors } => *divisors = read(family.model.rope_divisors)?,
        RopeScaling::Longrope { short, long, .. } => {
            *short = read(family.model.rope_divisors_short)?;
            *long = read(family.model.rope_divisors_long)?;
        }
        _ => {}
    }
    Ok(())
}
