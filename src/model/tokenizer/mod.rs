//! Text to tokens and back, from what a GGUF file says.
//!
//! Byte-level BPE and `SentencePiece`, meant to give the ids llama.cpp gives: a byte the vocabulary has
//! no token for is left out (some vocabularies lack rare control characters), as it does. A
//! `tokenizer.json` becomes the same metadata first ([`metadata_from_json`]), with what llama.cpp has no
//! key for beside it, so that it gives the ids transformers gives.
mod alphabet;
mod bpe;
mod detokenizer;
mod json;
mod merge;
mod pre;
mod settings;
mod specials;
mod split;
mod spm;
mod vocabulary;

use indexmap::IndexMap;
use tokenizers::{NormalizedString, Normalizer, normalizers::NFC};

use self::{
    alphabet::Alphabet,
    bpe::ByteLevel,
    settings::Settings,
    specials::{Part, Special, Specials},
    split::Splitter,
    spm::SentencePieces,
    vocabulary::{Kind, Vocabulary},
};
use super::weights::{Value, Weights};

pub use detokenizer::{Detokenizer, TextStream};
pub use json::{TokenizerFiles, metadata_from_json};

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
    #[error(
        "tokenizer model {found:?} is not supported (supported: gpt2, that is byte-level BPE, and llama, that is SentencePiece BPE)"
    )]
    Model {
        /// What the file says.
        found: String,
    },
    /// A way to split text that is not known.
    #[error("pre-tokenizer {found:?} is not supported (supported: {})", pre::names().collect::<Vec<_>>().join(", "))]
    PreTokenizer {
        /// What the file says.
        found: String,
    },
    /// A pattern that cannot be compiled.
    #[error("pattern {pattern:?}: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A `tokenizer.json`, or a file beside it, that cannot be used.
    #[error("{file}: {problem}")]
    Json {
        /// Which file.
        file: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The text is too long to be merged as one.
    #[error(
        "{bytes} bytes of text without a place to cut are too many to tokenize at once (at most {most}); give it in parts"
    )]
    TooLong {
        /// Its bytes.
        bytes: usize,
        /// The most.
        most: usize,
    },
}

/// Keys of our own, for what a `tokenizer.json` says and GGUF has no key for. llama.cpp ignores them.
mod key {
    /// Which of a rule's `json` patterns split the text, instead of llama.cpp's.
    pub(super) const JSON_SPLITS: &str = "ruvlab.tokenizer.json_splits";
    /// How text is normalised: `nfc` only.
    pub(super) const NORMALIZER: &str = "ruvlab.tokenizer.normalizer";
    /// Whether a piece that is a token as a whole skips merging.
    pub(super) const IGNORE_MERGES: &str = "ruvlab.tokenizer.ignore_merges";
    /// `always` or `first`: where text begins with a space that is not in it, unless it has one.
    pub(super) const METASPACE: &str = "ruvlab.tokenizer.metaspace";
    /// Merges of a SentencePiece vocabulary whose scores do not say everything.
    pub(super) const MERGES: &str = "ruvlab.tokenizer.merges";
    /// Tokens that swallow white space before them.
    pub(super) const STRIPS_LEFT: &str = "ruvlab.tokenizer.strips_left";
    /// Tokens that swallow white space after them.
    pub(super) const STRIPS_RIGHT: &str = "ruvlab.tokenizer.strips_right";
}

enum Model {
    ByteLevel(ByteLevel),
    SentencePieces(SentencePieces),
}

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
        let (model, pieces, bos_by_default) = match settings.text("tokenizer.ggml.model")? {
            "gpt2" => byte_level(&settings, &vocabulary)?,
            "llama" => sentence_pieces(&settings, &vocabulary)?,
            found => return Err(TokenizerError::Model { found: found.to_owned() }),
        };
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
            specials: specials(&settings, &vocabulary)?,
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
                    self.encode_plain(normalized.get(), &mut tokens)?;
                }
                Part::Text(range) => self.encode_plain(&text[range], &mut tokens)?,
            }
        }
        Ok(tokens)
    }

    fn encode_plain(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        match &self.model {
            Model::ByteLevel(model) => model.encode(text, tokens),
            Model::SentencePieces(model) => model.encode(text, tokens.is_empty(), tokens),
        }
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

type Parts = (Model, Vec<Vec<u8>>, bool);

fn byte_level(settings: &Settings<'_>, vocabulary: &Vocabulary) -> Result<Parts, TokenizerError> {
    const PRE: &str = "tokenizer.ggml.pre";
    // Files older than the key split as llama.cpp's `default` does.
    let pre = if settings.has(PRE) { settings.text(PRE)? } else { "default" };
    let rule = pre::find(pre).ok_or_else(|| TokenizerError::PreTokenizer { found: pre.to_owned() })?;
    let splits = match settings.0.get(key::JSON_SPLITS) {
        None => rule.splits,
        Some(place) => {
            let place = place.as_u64().and_then(|place| rule.json.get(usize::try_from(place).ok()?));
            place.ok_or_else(|| Settings::wrong(key::JSON_SPLITS, &format!("is none that {pre:?} has")))?
        }
    };
    let alphabet = Alphabet::new();
    let token_of = |text: &str| vocabulary.tokens.get(text).copied();
    let ignore_merges = settings.flag(key::IGNORE_MERGES)?.unwrap_or(rule.ignore_merges);
    let whole = || {
        let bytes = |(id, text): (u32, &String)| alphabet.bytes(text).map(|bytes| (bytes, id));
        (0..).zip(&vocabulary.texts).filter_map(bytes).collect()
    };
    let model = ByteLevel {
        splitter: Splitter::new(splits)?,
        bytes: (0..=u8::MAX).map(|byte| token_of(&alphabet::letter(byte).to_string())).collect(),
        merges: bpe::merges(settings.texts("tokenizer.ggml.merges")?.into_iter(), token_of)?,
        whole: ignore_merges.then(whole),
    };
    let piece = |(text, kind): (&String, &Kind)| match kind {
        Kind::Normal => alphabet.bytes(text).unwrap_or_else(|| text.clone().into_bytes()),
        Kind::Byte => spm::byte(text).map_or_else(|| text.clone().into_bytes(), |byte| vec![byte]),
        Kind::Unknown | Kind::Control | Kind::UserDefined => text.clone().into_bytes(),
        Kind::Unused | Kind::Undefined => Vec::new(),
    };
    let pieces = vocabulary.texts.iter().zip(&vocabulary.kinds).map(piece).collect();
    Ok((Model::ByteLevel(model), pieces, rule.add_bos))
}

fn sentence_pieces(settings: &Settings<'_>, vocabulary: &Vocabulary) -> Result<Parts, TokenizerError> {
    let size = vocabulary.texts.len();
    let scores = settings.numbers("tokenizer.ggml.scores", size)?;
    let scores = scores.ok_or_else(|| Settings::wrong("tokenizer.ggml.scores", "is missing"))?;
    let token_of = |text: &str| vocabulary.tokens.get(text).copied();
    let byte_token = |byte: u8| {
        let as_text = || char::from(byte).is_ascii().then(|| token_of(&char::from(byte).to_string())).flatten();
        token_of(&format!("<0x{byte:02X}>")).or_else(as_text)
    };
    let merges = settings
        .has(key::MERGES)
        .then(|| bpe::merges(settings.texts(key::MERGES)?.into_iter(), token_of))
        .transpose()?;
    let model = SentencePieces {
        tokens: vocabulary.tokens.clone(),
        orders: scores.into_iter().map(|score| spm::order(score as f32)).collect(),
        merges,
        bytes: (0..=u8::MAX).map(byte_token).collect(),
        unknown: vocabulary.unknown,
        longest: vocabulary.texts.iter().map(String::len).max().unwrap_or(0),
        space: space(settings)?,
    };
    let piece = |(text, kind): (&String, &Kind)| match kind {
        Kind::Normal => text.replace(spm::SPACE, " ").into_bytes(),
        Kind::Byte => spm::byte(text).map_or_else(|| text.clone().into_bytes(), |byte| vec![byte]),
        Kind::Unknown | Kind::Control | Kind::UserDefined => text.clone().into_bytes(),
        Kind::Unused | Kind::Undefined => Vec::new(),
    };
    let pieces = vocabulary.texts.iter().zip(&vocabulary.kinds).map(piece).collect();
    Ok((Model::SentencePieces(model), pieces, true))
}

fn space(settings: &Settings<'_>) -> Result<spm::Space, TokenizerError> {
    let prefix = settings.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let plain = if prefix { spm::Space::Always } else { spm::Space::Never };
    if !settings.has(key::METASPACE) {
        return Ok(plain);
    }
    let name = settings.text(key::METASPACE)?;
    let known = [spm::Space::Metaspace, spm::Space::MetaspaceFirst].into_iter();
    known
        .into_iter()
        .find(|space| space.metaspace() == Some(name))
        .ok_or_else(|| Settings::wrong(key::METASPACE, &format!("is {name:?}, not \"always\" or \"first\"")))
}

fn specials(settings: &Settings<'_>, vocabulary: &Vocabulary) -> Result<Specials, TokenizerError> {
    let size = vocabulary.texts.len();
    let strips_left = settings.ids(key::STRIPS_LEFT, size)?;
    let strips_right = settings.ids(key::STRIPS_RIGHT, size)?;
    // The special tokens of phi-3 swallow the white space after them, which its files do not say.
    let name = settings.0.get("general.name").and_then(Value::as_str).unwrap_or_default().to_lowercase();
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    let list = (0..).zip(vocabulary.texts.iter().zip(&vocabulary.kinds)).filter(|(_, (_, kind))| kind.is_special());
    let special = |(token, (text, kind)): (u32, (&String, &Kind))| Special {
        text: text.clone(),
        token,
        control: *kind != Kind::UserDefined,
        strips_left: strips_left.contains(&token),
        strips_right: strips_right.contains(&token)
            || phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&text.as_str()),
    };
    Ok(Specials::new(list.map(special).collect()))
}

#[cfg(test)]
mod tests;
