//! Text to tokens and back, from what a GGUF file says.
//!
//! Byte-level BPE only, and meant to give the ids llama.cpp gives: a byte the vocabulary has no
//! token for is left out (some vocabularies lack rare control characters), as it does.
mod detokenizer;
mod pre;

use std::collections::HashMap;

use indexmap::IndexMap;
use tokenizers::{
    Tokenizer as Bpe,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
    tokenizer::SplitDelimiterBehavior,
};

use super::weights::{Value, Weights};

pub use detokenizer::Detokenizer;

/// Why there is no tokenizer, or no tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// A setting is not there or makes no sense.
    #[error("metadata {key:?} {problem}")]
    Setting {
        /// Its key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A kind of tokenizer that is not known.
    #[error("tokenizer model {found:?} is not supported yet (supported: gpt2, that is byte-level BPE)")]
    Model {
        /// What the file says.
        found: String,
    },
    /// A way to split text that is not known.
    #[error("pre-tokenizer {found:?} is not supported yet (supported: {})", pre::names().collect::<Vec<_>>().join(", "))]
    PreTokenizer {
        /// What the file says.
        found: String,
    },
    /// The tokenizers library said no.
    #[error("tokenizer: {0}")]
    Library(String),
}

/// ggml's token types (`llama.h`, `llama_token_type`) that matter here.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// A token that is found in text before the text is split.
struct Special {
    text: String,
    id: u32,
    /// Only when special tokens are to be parsed.
    control: bool,
}

/// A tokenizer.
pub struct Tokenizer {
    bpe: Bpe,
    /// The bytes every token stands for.
    pieces: Vec<Vec<u8>>,
    /// Longest first.
    specials: Vec<Special>,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    add_bos: bool,
}

/// Names of the token that ends a turn, as llama.cpp looks for them (`llama-vocab.cpp`).
const END_OF_TURN: [&str; 6] =
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"];

struct Settings<'a>(&'a IndexMap<String, Value>);

impl<'a> Settings<'a> {
    fn wrong(key: &'static str, problem: &str) -> TokenizerError {
        TokenizerError::Setting { key, problem: problem.to_owned() }
    }

    fn text(&self, key: &'static str) -> Result<&'a str, TokenizerError> {
        self.0.get(key).and_then(Value::as_str).ok_or_else(|| Self::wrong(key, "is missing"))
    }

    fn texts(&self, key: &'static str) -> Result<Vec<&'a str>, TokenizerError> {
        let list = self.0.get(key).and_then(Value::as_list).ok_or_else(|| Self::wrong(key, "is missing"))?;
        let texts: Option<Vec<_>> = list.iter().map(Value::as_str).collect();
        texts.ok_or_else(|| Self::wrong(key, "is not a list of texts"))
    }

    fn id(&self, key: &'static str, vocab_size: usize) -> Result<Option<u32>, TokenizerError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < vocab_size);
        id.map(Some).ok_or_else(|| Self::wrong(key, "is not a token of the vocabulary"))
    }

    fn token_types(&self, vocab_size: usize) -> Result<Vec<u64>, TokenizerError> {
        const KEY: &str = "tokenizer.ggml.token_type";
        let Some(value) = self.0.get(KEY) else { return Ok(vec![1; vocab_size]) };
        let types: Option<Vec<_>> = value.as_list().and_then(|list| list.iter().map(Value::as_u64).collect());
        types
            .filter(|types| types.len() == vocab_size)
            .ok_or_else(|| Self::wrong(KEY, "is not one number for each token"))
    }

    fn merges(&self, vocab: &Vocab) -> Result<Vec<(String, String)>, TokenizerError> {
        const KEY: &str = "tokenizer.ggml.merges";
        let pair = |merge: &str| {
            // A token of this vocabulary never holds a space, but a pair is written with one.
            let (left, right) = merge.split_once(' ')?;
            let known = [left, right, &format!("{left}{right}")].iter().all(|part| vocab.contains_key(*part));
            known.then(|| (left.to_owned(), right.to_owned()))
        };
        let wrong = |merge: &str| Self::wrong(KEY, &format!("has {merge:?}, which is no pair of known tokens"));
        self.texts(KEY)?.into_iter().map(|merge| pair(merge).ok_or_else(|| wrong(merge))).collect()
    }
}

impl Tokenizer {
    /// Returns the tokenizer a model file describes.
    ///
    /// # Errors
    ///
    /// If the file describes none, one of a kind that is not supported, or a broken one.
    pub fn new(weights: &Weights) -> Result<Self, TokenizerError> {
        let settings = Settings(&weights.index().metadata);
        let model = settings.text("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(TokenizerError::Model { found: model.to_owned() });
        }
        let pre = settings.text("tokenizer.ggml.pre")?;
        let rule = pre::find(pre).ok_or_else(|| TokenizerError::PreTokenizer { found: pre.to_owned() })?;
        let tokens = settings.texts("tokenizer.ggml.tokens")?;
        if tokens.len() != weights.spec().vocab_size {
            let problem = format!("has {} tokens, the embedding {}", tokens.len(), weights.spec().vocab_size);
            return Err(Settings::wrong("tokenizer.ggml.tokens", &problem));
        }
        let types = settings.token_types(tokens.len())?;
        let vocab: Vocab = (0..).zip(&tokens).map(|(id, token)| ((*token).to_owned(), id)).collect();
        let merges = settings.merges(&vocab)?;
        let eot = match settings.id("tokenizer.ggml.eot_token_id", tokens.len())? {
            Some(id) => Some(id),
            None => END_OF_TURN.iter().find_map(|name| vocab.get(*name)).copied(),
        };
        Ok(Self {
            pieces: pieces(&tokens, &types),
            specials: specials(&tokens, &types),
            bos: settings.id("tokenizer.ggml.bos_token_id", tokens.len())?,
            eos: settings.id("tokenizer.ggml.eos_token_id", tokens.len())?,
            eot,
            add_bos: match settings.0.get("tokenizer.ggml.add_bos_token") {
                Some(value) => value.as_bool().unwrap_or(false),
                None => rule.add_bos,
            },
            bpe: bpe(vocab, merges, rule)?,
        })
    }

    /// Returns the tokens of a text, without any that are not in it (see [`bos`](Self::bos)).
    ///
    /// With `parse_special`, control tokens such as `<|im_end|>` are recognised in the text;
    /// without, they are text like any other.
    ///
    /// # Errors
    ///
    /// If the tokenizers library fails.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut tokens = Vec::new();
        let candidates: Vec<&Special> =
            self.specials.iter().filter(|special| parse_special || !special.control).collect();
        self.encode_around(text, &candidates, &mut tokens)?;
        Ok(tokens)
    }

    /// Splits at the longest special token first, then at the next in what is left, as llama.cpp
    /// does (`tokenizer_st_partition`).
    fn encode_around(&self, text: &str, specials: &[&Special], tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let found = specials.iter().position(|special| text.contains(&special.text));
        let Some(found) = found else { return self.encode_plain(text, tokens) };
        let (special, shorter) = (specials[found], &specials[found + 1..]);
        for (part, piece) in text.split(special.text.as_str()).enumerate() {
            if part > 0 {
                tokens.push(special.id);
            }
            self.encode_around(piece, shorter, tokens)?;
        }
        Ok(())
    }

    fn encode_plain(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if !text.is_empty() {
            let encoding = self.bpe.encode_fast(text, false);
            let encoding = encoding.map_err(|error| TokenizerError::Library(error.to_string()))?;
            tokens.extend_from_slice(encoding.get_ids());
        }
        Ok(())
    }

    /// Returns the bytes a token stands for; none for one outside the vocabulary.
    #[must_use]
    pub fn piece(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// Returns the text of tokens; bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| self.piece(*token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns V, the number of tokens there are.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the token that begins a text, where there is one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Returns the token that every text of this model begins with, where it wants one.
    #[must_use]
    pub fn bos_to_add(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// Returns the token that ends a text, where there is one.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Returns whether the model ends its answer with this token.
    #[must_use]
    pub fn is_end(&self, token: u32) -> bool {
        [self.eos, self.eot].contains(&Some(token))
    }
}

fn bpe(vocab: Vocab, merges: Vec<(String, String)>, rule: &pre::Rule) -> Result<Bpe, TokenizerError> {
    let library = |error: Box<dyn std::error::Error + Send + Sync>| TokenizerError::Library(error.to_string());
    let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(rule.ignore_merges).build();
    let mut steps = Vec::new();
    for pattern in rule.splits {
        let split = Split::new(SplitPattern::Regex((*pattern).to_owned()), SplitDelimiterBehavior::Isolated, false);
        steps.push(PreTokenizerWrapper::Split(split.map_err(library)?));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
    let mut bpe = Bpe::new(model.map_err(library)?);
    bpe.with_pre_tokenizer(Some(Sequence::new(steps)));
    Ok(bpe)
}

fn specials(tokens: &[&str], types: &[u64]) -> Vec<Special> {
    let mut specials: Vec<Special> = (0..)
        .zip(tokens.iter().zip(types))
        .filter(|(_, (text, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind) && !text.is_empty())
        .map(|(id, (text, kind))| Special { text: (*text).to_owned(), id, control: *kind != USER_DEFINED })
        .collect();
    specials.sort_by_key(|special| std::cmp::Reverse(special.text.len()));
    specials
}

/// Returns the bytes of every token: special tokens as written, all others through the alphabet
/// that GPT-2 writes bytes in.
fn pieces(tokens: &[&str], types: &[u64]) -> Vec<Vec<u8>> {
    let alphabet: HashMap<char, u8> = (0..=u8::MAX).map(|byte| (letter(byte), byte)).collect();
    let mapped = |token: &str| token.chars().map(|c| alphabet.get(&c).copied()).collect::<Option<Vec<u8>>>();
    let piece = |(token, kind): (&&str, &u64)| {
        let plain = ![UNKNOWN, CONTROL, USER_DEFINED].contains(kind);
        plain.then(|| mapped(token)).flatten().unwrap_or_else(|| token.as_bytes().to_vec())
    };
    tokens.iter().zip(types).map(piece).collect()
}

/// Returns the letter GPT-2 writes a byte as (`bytes_to_unicode` of its `encoder.py`): itself where
/// it is printable, the next unused one from U+0100 where it is not.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !printable(*other)).count();
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests;
