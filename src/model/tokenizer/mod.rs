//! Text to tokens and back, from what a GGUF file says.
//!
//! Byte-level BPE and `SentencePiece`, meant to give the ids llama.cpp gives: a byte the vocabulary has
//! no token for is left out (some vocabularies lack rare control characters), as it does. A
//! `tokenizer.json` becomes the same metadata first ([`metadata_from_json`]), with what llama.cpp has no
//! key for beside it, so that it gives the ids transformers gives.
mod alphabet;
mod bpe;
mod detokenizer;
mod error;
mod json;
mod key;
mod merge;
mod model;
mod pre;
mod settings;
mod specials;
mod split;
mod spm;
mod vocabulary;

use indexmap::IndexMap;
use tokenizers::{NormalizedString, Normalizer, normalizers::NFC};

use self::{
    model::Model,
    settings::Settings,
    specials::{Part, Specials},
    vocabulary::Vocabulary,
};
use super::weights::{Value, Weights};

pub use detokenizer::{Detokenizer, TextStream};
pub use error::TokenizerError;
pub use json::{TokenizerFiles, metadata_from_json};

/// A tokenizer.
pub struct Tokenizer {
    model: Model,
    normalizes: bool,
    /// The bytes every token stands for.
    pieces: Vec<Vec<u8>>,
    /// Whether each token is found in text before anything else.
    special: Vec<bool>,
    specials: Specials,
    vocabulary: Ends,
    add_bos: bool,
    add_eos: bool,
}

/// What is left of a vocabulary once the tokenizer is made.
struct Ends {
    bos: Option<u32>,
    eos: Option<u32>,
    all: std::collections::BTreeSet<u32>,
}

impl Tokenizer {
    /// Returns the tokenizer a model file describes.
    ///
    /// # Errors
    ///
    /// If the file describes none, one of a kind that is not supported, or a broken one.
    pub fn new(weights: &Weights) -> Result<Self, TokenizerError> {
        let tokenizer = Self::from_metadata(&weights.index().metadata)?;
        let (found, needed) = (tokenizer.vocab_size(), weights.spec().vocab_size);
        if found != needed {
            return Err(Settings::wrong(
                "tokenizer.ggml.tokens",
                &format!("has {found} tokens, the embedding {needed}"),
            ));
        }
        Ok(tokenizer)
    }

    /// Returns the tokenizer that GGUF metadata describes.
    ///
    /// # Errors
    ///
    /// If it describes none, one of a kind that is not supported, or a broken one.
    pub fn from_metadata(metadata: &IndexMap<String, Value>) -> Result<Self, TokenizerError> {
        let settings = Settings(metadata);
        let vocabulary = Vocabulary::new(&settings)?;
        let (model, pieces, bos_by_default) = model::read(&settings, &vocabulary)?;
        let normalizes = match settings.has(key::NORMALIZER).then(|| settings.text(key::NORMALIZER)).transpose()? {
            None => false,
            Some("nfc") => true,
            Some(found) => return Err(Settings::wrong(key::NORMALIZER, &format!("is {found:?}, not \"nfc\""))),
        };
        Ok(Self {
            model,
            normalizes,
            pieces,
            special: vocabulary.kinds.iter().map(|kind| kind.is_special()).collect(),
            specials: Specials::read(&settings, &vocabulary)?,
            add_bos: settings.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(bos_by_default),
            add_eos: settings.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            vocabulary: Ends { bos: vocabulary.bos, eos: vocabulary.eos, all: vocabulary.ends },
        })
    }

    /// Returns the tokens of a text, without any that are not in it (see [`bos`](Self::bos)).
    ///
    /// With `parse_special`, control tokens such as `<|im_end|>` are recognised in the text;
    /// without, they are text like any other.
    ///
    /// # Errors
    ///
    /// If a stretch of text without a place to cut is beyond reason.
    pub fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let mut tokens = Vec::new();
        for part in self.specials.parts(text, parse_special) {
            match part {
                Part::Token(token) => tokens.push(token),
                Part::Text(range) if self.normalizes => {
                    let mut normalized = NormalizedString::from(&text[range]);
                    NFC.normalize(&mut normalized)
                        .map_err(|error| Settings::wrong(key::NORMALIZER, &format!("failed: {error}")))?;
                    self.model.encode(normalized.get(), &mut tokens)?;
                }
                Part::Text(range) => self.model.encode(&text[range], &mut tokens)?,
            }
        }
        Ok(tokens)
    }

    /// Returns the bytes a token stands for; none for one outside the vocabulary.
    #[must_use]
    pub fn piece(&self, token: u32) -> &[u8] {
        self.pieces.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// Returns the bytes a token adds to a text, which are fewer than its piece where the space it begins
    /// with is one that encoding adds: at the start, and after special tokens.
    fn bytes_after(&self, previous: Option<u32>, token: u32) -> &[u8] {
        let piece = self.piece(token);
        let Model::SentencePieces(model) = &self.model else { return piece };
        let begins = previous.is_none_or(|token| self.is_special(token)) && !self.is_special(token);
        if begins && model.space.is_possible(previous.is_none()) {
            piece.strip_prefix(b" ").unwrap_or(piece)
        } else {
            piece
        }
    }

    /// Returns whether a token is one that is found in text before anything else: a control token, the
    /// unknown one, or one that was added to the vocabulary.
    #[must_use]
    pub fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }

    /// Returns the text of tokens; bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        let mut previous = None;
        for token in tokens {
            bytes.extend_from_slice(self.bytes_after(previous, *token));
            previous = Some(*token);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns what makes text of tokens that come one by one, the first of them after `previous`.
    #[must_use]
    pub fn stream(&self, previous: Option<u32>) -> TextStream<'_> {
        TextStream::new(self, previous)
    }

    /// Returns V, the number of tokens there are.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the token that begins a text, where there is one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.vocabulary.bos
    }

    /// Returns the token that every text of this model begins with, where it wants one.
    #[must_use]
    pub fn bos_to_add(&self) -> Option<u32> {
        self.bos().filter(|_| self.add_bos)
    }

    /// Returns the token that ends a text, where there is one.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.vocabulary.eos
    }

    /// Returns the token that every text of this model ends with, where it wants one.
    #[must_use]
    pub fn eos_to_add(&self) -> Option<u32> {
        self.eos().filter(|_| self.add_eos)
    }

    /// Returns whether the model ends its answer with this token.
    #[must_use]
    pub fn is_end(&self, token: u32) -> bool {
        self.vocabulary.all.contains(&token)
    }
}

#[cfg(test)]
mod tests;
