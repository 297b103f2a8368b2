//! Reading what metadata says about a tokenizer.
use std::collections::HashSet;

use indexmap::IndexMap;

use super::{super::weights::Value, TokenizerError};

/// Most bytes of all tokens together; the largest vocabulary known has 5 MB.
const MAX_VOCABULARY_BYTES: usize = 1 << 28;

/// Most bytes of a token; the longest known are runs of a few hundred spaces. What looks for pieces of
/// text in the vocabulary takes time by the longest there is, or by its square.
pub(super) const MAX_TOKEN_BYTES: usize = 1 << 12;

pub(super) struct Settings<'a>(pub(super) &'a IndexMap<String, Value>);

impl<'a> Settings<'a> {
    pub(super) fn wrong(key: &'static str, problem: &str) -> TokenizerError {
        TokenizerError::Setting { key, problem: problem.to_owned() }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    pub(super) fn text(&self, key: &'static str) -> Result<&'a str, TokenizerError> {
        self.0.get(key).and_then(Value::as_str).ok_or_else(|| Self::wrong(key, "is missing"))
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<Option<bool>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| Self::wrong(key, "is neither true nor false"))
    }

    pub(super) fn texts(&self, key: &'static str) -> Result<Vec<&'a str>, TokenizerError> {
        let list = self.0.get(key).and_then(Value::as_list).ok_or_else(|| Self::wrong(key, "is missing"))?;
        let texts: Option<Vec<_>> = list.iter().map(Value::as_str).collect();
        texts.ok_or_else(|| Self::wrong(key, "is not a list of texts"))
    }

    pub(super) fn tokens(&self) -> Result<Vec<&'a str>, TokenizerError> {
        const KEY: &str = "tokenizer.ggml.tokens";
        let tokens = self.texts(KEY)?;
        let bytes: usize = tokens.iter().map(|token| token.len()).sum();
        if bytes > MAX_VOCABULARY_BYTES || u32::try_from(tokens.len()).is_err() {
            return Err(Self::wrong(KEY, &format!("has {} tokens of {bytes} bytes: too many", tokens.len())));
        }
        if let Some(id) = tokens.iter().position(|token| token.len() > MAX_TOKEN_BYTES) {
            let problem = format!("has token {id} of {} bytes, at most {MAX_TOKEN_BYTES} are read", tokens[id].len());
            return Err(Self::wrong(KEY, &problem));
        }
        Ok(tokens)
    }

    /// Returns a token that a key names; none where the vocabulary has no such token.
    pub(super) fn id(&self, key: &'static str, vocab_size: usize) -> Result<Option<u32>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < vocab_size);
        id.map(Some).ok_or_else(|| Self::wrong(key, "is not a token of the vocabulary"))
    }

    /// Returns a set of tokens; an empty one where the key is absent.
    pub(super) fn ids(&self, key: &'static str, vocab_size: usize) -> Result<HashSet<u32>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(HashSet::new()) };
        let id = |value: &Value| {
            value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < vocab_size)
        };
        let ids: Option<HashSet<u32>> = value.as_list().and_then(|list| list.iter().map(id).collect());
        ids.ok_or_else(|| Self::wrong(key, "is not a list of tokens of the vocabulary"))
    }

    pub(super) fn numbers(&self, key: &'static str, count: usize) -> Result<Option<Vec<f64>>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let numbers: Option<Vec<f64>> = value.as_list().and_then(|list| list.iter().map(Value::as_f64).collect());
        let numbers = numbers.filter(|numbers| numbers.len() == count);
        numbers.map(Some).ok_or_else(|| Self::wrong(key, "is not one number for each token"))
    }
}
