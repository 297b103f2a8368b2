//! `SentencePiece` BPE (Kudo and Richardson 2018), as llama, mistral and gemma have it: characters,
//! merged wherever the text of both is a token, the highest score first; what is no token is
//! written in tokens of single bytes.
use std::collections::HashMap;

use super::{
    TokenizerError,
    bpe::Merges,
    merge::{Merge, Symbols},
};

/// What stands for a space.
pub(super) const SPACE: char = '\u{2581}';

/// Where text begins with a space that is not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// Nowhere.
    Never,
    /// At the start and after special tokens: llama.cpp's `add_space_prefix`.
    Always,
    /// There, too, unless the text has one: `Metaspace` of `tokenizer.json`.
    Metaspace,
    /// At the start only, unless the text has one.
    MetaspaceFirst,
}

impl Space {
    /// Returns the name metadata has for what `add_space_prefix` cannot tell.
    pub(super) fn metaspace(self) -> Option<&'static str> {
        match self {
            Self::Never | Self::Always => None,
            Self::Metaspace => Some("always"),
            Self::MetaspaceFirst => Some("first"),
        }
    }

    /// Returns whether it is added to a text, at the start of all or after a special token.
    fn is_added(self, text: &str, at_start: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Metaspace => !text.starts_with([' ', SPACE]),
            Self::MetaspaceFirst => at_start && !text.starts_with([' ', SPACE]),
        }
    }

    /// Returns whether a space there may be one that was added.
    pub(super) fn is_possible(self, at_start: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Always | Self::Metaspace => true,
            Self::MetaspaceFirst => at_start,
        }
    }
}

pub(super) struct SentencePieces {
    pub(super) tokens: HashMap<String, u32>,
    /// When each token is merged: the lower, the earlier.
    pub(super) orders: Vec<u32>,
    /// Ranks of pairs, where the vocabulary comes with them: they decide instead of the scores.
    pub(super) merges: Option<Merges>,
    pub(super) bytes: Vec<Option<u32>>,
    pub(super) unknown: Option<u32>,
    /// Bytes of the longest token.
    pub(super) longest: usize,
    pub(super) space: Space,
}

impl SentencePieces {
    pub(super) fn encode(&self, text: &str, at_start: bool, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut escaped = String::with_capacity(text.len() + text.len() / 4 + SPACE.len_utf8());
        if self.space.is_added(text, at_start) {
            escaped.push(SPACE);
        }
        escaped.extend(text.chars().map(|letter| if letter == ' ' { SPACE } else { letter }));
        let mut symbols = Symbols::new(escaped.len())?;
        let mut rest = escaped.as_str();
        while let Some(letter) = rest.chars().next() {
            let (this, after) = rest.split_at(letter.len_utf8());
            symbols.push(this.len(), self.tokens.get(this).copied());
            rest = after;
        }
        let merge_of = |start: usize, length: usize| {
            let token =
                *(length <= self.longest).then(|| self.tokens.get(&escaped[start..start + length])).flatten()?;
            Some(Merge { order: self.orders[token as usize], token })
        };
        let merged = symbols.merged(|left, right| match &self.merges {
            Some(merges) => merges.get(&(left.token?, right.token?)).copied(),
            None => merge_of(left.start(), left.length() + right.length()),
        });
        for symbol in merged {
            match symbol.token {
                Some(token) => tokens.push(token),
                None => self.spell(&escaped.as_bytes()[symbol.start()..][..symbol.length()], tokens),
            }
        }
        Ok(())
    }

    /// Appends the tokens of single bytes, and of what has none the unknown one.
    fn spell(&self, bytes: &[u8], tokens: &mut Vec<u32>) {
        tokens.extend(bytes.iter().filter_map(|byte| self.bytes[usize::from(*byte)].or(self.unknown)));
    }
}

/// Returns an order that puts higher scores first and what is no number last.
pub(super) fn order(score: f32) -> u32 {
    if score.is_nan() {
        return u32::MAX;
    }
    // Adding zero makes the two zeros one. The bits of positive floats ascend with their value, those
    // of negative ones descend.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !ascending
}

/// Returns the byte that a token such as `<0x0A>` stands for.
pub(super) fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}
