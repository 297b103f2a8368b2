//! The parts of `tokenizer.json` that matter here.
use indexmap::IndexMap;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value as Json;

use super::TokenizerError;

/// Most bytes of a file; the largest known has 33 MB.
const MAX_BYTES: usize = 1 << 28;

#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Json,
    #[serde(default)]
    pub(super) pre_tokenizer: Json,
    #[serde(default)]
    pub(super) post_processor: Json,
    pub(super) model: Model,
}

#[derive(Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
}

#[derive(Deserialize)]
pub(super) struct Model {
    #[serde(default, rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default, deserialize_with = "vocabulary")]
    pub(super) vocab: IndexMap<String, u32>,
    #[serde(default)]
    pub(super) merges: Vec<Pair>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    #[serde(default)]
    pub(super) dropout: Option<f64>,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(super) end_of_word_suffix: Option<String>,
}

/// Reads a BPE vocabulary; that of another kind of model (a list, for Unigram) is an empty one, so that
/// the kind is what the message is about.
fn vocabulary<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<IndexMap<String, u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Bpe(IndexMap<String, u32>),
        Other(serde::de::IgnoredAny),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Bpe(vocab) => vocab,
        Either::Other(_) => IndexMap::new(),
    })
}

/// Two tokens: as one text with a space between, or, in newer files, as two.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Pair {
    Text(String),
    Parts(String, String),
}

impl Pair {
    pub(super) fn parts(&self) -> (&str, &str) {
        match self {
            Self::Text(text) => text.split_once(' ').unwrap_or((text, "")),
            Self::Parts(left, right) => (left, right),
        }
    }
}

impl TokenizerJson {
    /// Returns the texts of the tokens that are put before and after every text, where the file says.
    pub(super) fn template(&self) -> Option<(Option<String>, Option<String>)> {
        let nested = self.post_processor.get("processors").and_then(Json::as_array);
        let own = std::iter::once(&self.post_processor);
        let is_template =
            |processor: &&Json| processor.get("type").and_then(Json::as_str) == Some("TemplateProcessing");
        let single = own.chain(nested.into_iter().flatten()).find(is_template)?.get("single")?.as_array()?;
        let text = |item: Option<&Json>| item?.get("SpecialToken")?.get("id")?.as_str().map(str::to_owned);
        let last = if single.len() > 1 { text(single.last()) } else { None };
        Some((text(single.first()), last))
    }
}

/// Reads a file.
pub(super) fn parse<T: DeserializeOwned>(file: &'static str, bytes: &[u8]) -> Result<T, TokenizerError> {
    let wrong = |problem: String| TokenizerError::Json { file, problem };
    if bytes.len() > MAX_BYTES {
        return Err(wrong(format!("{} bytes are more than the {MAX_BYTES} that are read", bytes.len())));
    }
    serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))
}

/// Reads a file that need not be there.
pub(super) fn parse_optional(file: &'static str, bytes: Option<&[u8]>) -> Result<Json, TokenizerError> {
    bytes.map_or(Ok(Json::Null), |bytes| parse(file, bytes))
}
