//! `tokenizer.json` and the files beside it, as the metadata a GGUF file has.
//!
//! There is one tokenizer, built from metadata, whichever file it came from; and what is written into
//! a GGUF file is what llama.cpp reads. Patterns are recognised, never run as found: a file cannot
//! bring its own.
mod file;
mod steps;

use indexmap::IndexMap;
use serde_json::Value as Json;

use self::{
    file::{AddedToken, Pair, TokenizerJson},
    steps::Shape,
};
use super::{super::weights::Value, TokenizerError, key, pre, settings::MAX_TOKEN_BYTES, spm};

/// The files of a model's folder that say how text becomes tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer_json: &'a [u8],
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `generation_config.json`.
    pub generation_config: Option<&'a [u8]>,
    /// `chat_template.jinja`, which counts more than a template in `tokenizer_config.json`.
    pub chat_template: Option<&'a str>,
}

/// ggml's numbers of token types (`llama.h`, `llama_token_type`).
mod token_type {
    pub(super) const NORMAL: i64 = 1;
    pub(super) const UNKNOWN: i64 = 2;
    pub(super) const CONTROL: i64 = 3;
    pub(super) const USER_DEFINED: i64 = 4;
    pub(super) const UNUSED: i64 = 5;
    pub(super) const BYTE: i64 = 6;
}

/// Most tokens a vocabulary may have; the largest known has 262,208.
const MAX_TOKENS: usize = 1 << 22;

/// Returns the `tokenizer.*` metadata that llama.cpp's converter would write: model, pre-tokenizer,
/// tokens, types, scores, merges, special tokens, chat template. `vocab_size` is V of the model, which
/// often exceeds the tokenizer's: the rest is `[PAD…]`, unused. Added tokens beyond V are left out.
///
/// What GGUF has no key for, and transformers does differently from llama.cpp, stands beside it under
/// `ruvlab.tokenizer.*`, so that [`Tokenizer`](super::Tokenizer) gives transformers' ids: llama.cpp splits some scripts
/// otherwise and never normalises.
///
/// # Errors
///
/// If a file is no JSON, or describes a tokenizer of a kind that is not supported: the message names
/// what was found.
pub fn metadata_from_json(
    files: &TokenizerFiles<'_>,
    vocab_size: usize,
) -> Result<IndexMap<String, Value>, TokenizerError> {
    let tokenizer: TokenizerJson = file::parse("tokenizer.json", files.tokenizer_json)?;
    let shape = steps::read(&tokenizer)?;
    let vocabulary = Listed::new(&tokenizer, &shape, vocab_size)?;
    let mut metadata = IndexMap::new();
    let mut set = |key: &str, value: Value| {
        metadata.insert(key.to_owned(), value);
    };
    set(key::SOURCE, Value::Text("tokenizer.json".to_owned()));
    match &shape {
        Shape::ByteLevel { rule, place, nfc } => {
            set("tokenizer.ggml.model", Value::Text("gpt2".to_owned()));
            set("tokenizer.ggml.pre", Value::Text(rule.names[0].to_owned()));
            set(key::JSON_SPLITS, Value::Unsigned(*place as u64));
            if *nfc {
                set(key::NORMALIZER, Value::Text("nfc".to_owned()));
            }
            if tokenizer.model.ignore_merges != rule.ignore_merges {
                set(key::IGNORE_MERGES, Value::Bool(tokenizer.model.ignore_merges));
            }
            set("tokenizer.ggml.merges", merges(&tokenizer));
        }
        Shape::SentencePieces { space } => {
            set("tokenizer.ggml.model", Value::Text("llama".to_owned()));
            set("tokenizer.ggml.pre", Value::Text("default".to_owned()));
            set("tokenizer.ggml.add_space_prefix", Value::Bool(*space != spm::Space::Never));
            if let Some(name) = space.metaspace() {
                set(key::METASPACE, Value::Text(name.to_owned()));
            }
            let (scores, complete) = scores(&tokenizer, vocabulary.tokens.len());
            set("tokenizer.ggml.scores", Value::List(scores.into_iter().map(Value::Float).collect()));
            if !complete {
                set(key::MERGES, merges(&tokenizer));
            }
        }
    }
    let ids = |ids: &[u64]| Value::List(ids.iter().copied().map(Value::Unsigned).collect());
    for (key, listed) in [(key::STRIPS_LEFT, &vocabulary.strips_left), (key::STRIPS_RIGHT, &vocabulary.strips_right)] {
        if !listed.is_empty() {
            set(key, ids(listed));
        }
    }
    set("tokenizer.ggml.token_type", Value::List(vocabulary.types.iter().copied().map(Value::Signed).collect()));
    metadata.extend(special_tokens(files, &tokenizer, &vocabulary)?);
    metadata.extend(chat_templates(files)?);
    metadata.insert(
        "tokenizer.ggml.tokens".to_owned(),
        Value::List(vocabulary.tokens.into_iter().map(Value::Text).collect()),
    );
    Ok(metadata)
}

/// The tokens by number.
struct Listed {
    tokens: Vec<String>,
    types: Vec<i64>,
    strips_left: Vec<u64>,
    strips_right: Vec<u64>,
}

impl Listed {
    fn new(tokenizer: &TokenizerJson, shape: &Shape, vocab_size: usize) -> Result<Self, TokenizerError> {
        let wrong = |problem: String| TokenizerError::Json { file: "tokenizer.json", problem };
        if vocab_size > MAX_TOKENS {
            return Err(wrong(format!("a vocabulary of {vocab_size} tokens is beyond reason (at most {MAX_TOKENS})")));
        }
        let mut listed = Self {
            tokens: (0..vocab_size).map(|id| format!("[PAD{id}]")).collect(),
            types: vec![token_type::UNUSED; vocab_size],
            strips_left: Vec::new(),
            strips_right: Vec::new(),
        };
        let outside = |text: &str, id: u32| {
            wrong(format!("token {text:?} has number {id}, the model has {vocab_size} tokens only"))
        };
        let unknown = tokenizer.model.unk_token.as_deref();
        for (text, id) in &tokenizer.model.vocab {
            if text.len() > MAX_TOKEN_BYTES {
                return Err(wrong(format!("token {id} has {} bytes, at most {MAX_TOKEN_BYTES} are read", text.len())));
            }
            let kind = match shape {
                Shape::SentencePieces { .. } if spm::byte(text).is_some() => token_type::BYTE,
                Shape::SentencePieces { .. } if Some(text.as_str()) == unknown => token_type::UNKNOWN,
                _ => token_type::NORMAL,
            };
            let place = listed.tokens.get_mut(*id as usize).ok_or_else(|| outside(text, *id))?;
            text.clone_into(place);
            listed.types[*id as usize] = kind;
        }
        for AddedToken { id, content, special, lstrip, rstrip } in &tokenizer.added_tokens {
            // Gemma 3's `<image_soft_token>`: the model has no embedding for it, and llama.cpp's converter
            // leaves it out, too.
            let Some(place) = listed.tokens.get_mut(*id as usize) else { continue };
            let kind = &mut listed.types[*id as usize];
            let user_defined = !special && *kind != token_type::UNKNOWN;
            // What a person adds is looked for in the text as it is, which has spaces.
            *place = if user_defined && matches!(shape, Shape::SentencePieces { .. }) {
                content.replace(spm::SPACE, " ")
            } else {
                content.clone()
            };
            if *kind != token_type::UNKNOWN {
                *kind = if *special { token_type::CONTROL } else { token_type::USER_DEFINED };
            }
            for (strips, list) in [(*lstrip, &mut listed.strips_left), (*rstrip, &mut listed.strips_right)] {
                if strips {
                    list.push(u64::from(*id));
                }
            }
        }
        Ok(listed)
    }

    fn find(&self, text: &str) -> Option<u64> {
        let id = self.tokens.iter().position(|token| token == text)?;
        (self.types[id] != token_type::UNUSED).then_some(id as u64)
    }
}

fn merges(tokenizer: &TokenizerJson) -> Value {
    // A space within a token is written as llama.cpp's converter writes it.
    let text = |part: &str| part.replace(' ', "\u{120}");
    let pairs = tokenizer.model.merges.iter().map(Pair::parts);
    Value::List(pairs.map(|(left, right)| Value::Text(format!("{} {}", text(left), text(right)))).collect())
}

/// Returns a score for every token, higher for one that is merged earlier, and whether the scores say
/// all that the merges do: that is so where every way to cut a merged token in two is among them, as
/// in what was made from a `SentencePiece` model.
fn scores(tokenizer: &TokenizerJson, count: usize) -> (Vec<f64>, bool) {
    let vocab = &tokenizer.model.vocab;
    let mut scores = vec![0.0; count];
    let mut cuts: IndexMap<u32, usize> = IndexMap::new();
    for (rank, pair) in tokenizer.model.merges.iter().enumerate() {
        let (left, right) = pair.parts();
        let Some(token) = vocab.get(&format!("{left}{right}")) else { continue };
        let seen = cuts.entry(*token).or_insert(0);
        if *seen == 0 {
            scores[*token as usize] = -(rank as f64) - 1.0;
        }
        *seen += 1;
    }
    let all_cuts = |text: &str| {
        let cuts = text.char_indices().skip(1).map(|(place, _)| text.split_at(place));
        cuts.filter(|(left, right)| vocab.contains_key(*left) && vocab.contains_key(*right)).count()
    };
    let complete = vocab
        .iter()
        .all(|(text, token)| spm::byte(text).is_some() || cuts.get(token).is_none_or(|seen| *seen == all_cuts(text)));
    (scores, complete)
}

/// Returns which tokens begin and end texts, and whether they are added.
fn special_tokens(
    files: &TokenizerFiles<'_>,
    tokenizer: &TokenizerJson,
    vocabulary: &Listed,
) -> Result<IndexMap<String, Value>, TokenizerError> {
    let mut metadata = IndexMap::new();
    let config = file::parse_optional("tokenizer_config.json", files.tokenizer_config)?;
    let map = file::parse_optional("special_tokens_map.json", files.special_tokens_map)?;
    let generation = file::parse_optional("generation_config.json", files.generation_config)?;
    let name_of = |name: &str| {
        [&config, &map].into_iter().find_map(|file| {
            let token = file.get(name)?;
            token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
        })
    };
    let inside = |id: u64| usize::try_from(id).is_ok_and(|id| id < vocabulary.tokens.len());
    let generated: Vec<u64> = match generation.get("eos_token_id") {
        Some(Json::Array(ids)) => ids.iter().filter_map(Json::as_u64).filter(|id| inside(*id)).collect(),
        Some(id) => id.as_u64().filter(|id| inside(*id)).into_iter().collect(),
        None => Vec::new(),
    };
    let named = |name: &str| name_of(name).and_then(|text| vocabulary.find(&text));
    let bos = named("bos_token").or_else(|| generation.get("bos_token_id")?.as_u64().filter(|id| inside(*id)));
    let eos = named("eos_token").or_else(|| generated.first().copied());
    let unknown = named("unk_token").or_else(|| vocabulary.find(tokenizer.model.unk_token.as_deref()?));
    let eot = generated.iter().copied().find(|id| Some(*id) != eos);
    for (key, id) in [("bos", bos), ("eos", eos), ("eot", eot), ("unknown", unknown), ("padding", named("pad_token"))] {
        if let Some(id) = id {
            metadata.insert(format!("tokenizer.ggml.{key}_token_id"), Value::Unsigned(id));
        }
    }
    let (first, last) = match tokenizer.template() {
        Some((first, last)) => (first, last),
        None => {
            let flag = |name: &str| config.get(name).and_then(Json::as_bool).unwrap_or(false);
            (
                flag("add_bos_token").then(|| name_of("bos_token")).flatten(),
                flag("add_eos_token").then(|| name_of("eos_token")).flatten(),
            )
        }
    };
    for (key, text, token) in [("bos", first, bos), ("eos", last, eos)] {
        let adds = match text {
            None => false,
            Some(text) if token.is_some() && vocabulary.find(&text) == token => true,
            Some(text) => {
                let problem = format!("the post-processor adds {text:?}, which is not the {key} token");
                return Err(TokenizerError::Json { file: "tokenizer.json", problem });
            }
        };
        metadata.insert(format!("tokenizer.ggml.add_{key}_token"), Value::Bool(adds));
    }
    Ok(metadata)
}

/// Returns the chat template, and those that have a name.
fn chat_templates(files: &TokenizerFiles<'_>) -> Result<IndexMap<String, Value>, TokenizerError> {
    const KEY: &str = "tokenizer.chat_template";
    let mut metadata = IndexMap::new();
    let config = file::parse_optional("tokenizer_config.json", files.tokenizer_config)?;
    match config.get("chat_template") {
        Some(Json::String(template)) => {
            metadata.insert(KEY.to_owned(), Value::Text(template.clone()));
        }
        Some(Json::Array(templates)) => {
            let mut names = Vec::new();
            for template in templates {
                let text = |key: &str| template.get(key).and_then(Json::as_str).map(str::to_owned);
                match (text("name"), text("template")) {
                    (Some(name), Some(template)) if name == "default" => {
                        metadata.insert(KEY.to_owned(), Value::Text(template));
                    }
                    (Some(name), Some(template)) => {
                        metadata.insert(format!("{KEY}.{name}"), Value::Text(template));
                        names.push(Value::Text(name));
                    }
                    _ => {}
                }
            }
            if !names.is_empty() {
                metadata.insert("tokenizer.chat_templates".to_owned(), Value::List(names));
            }
        }
        _ => {}
    }
    if let Some(template) = files.chat_template {
        metadata.insert(KEY.to_owned(), Value::Text(template.to_owned()));
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests;
