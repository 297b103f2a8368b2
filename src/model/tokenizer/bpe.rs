//! Byte-level BPE (Radford et al. 2019): bytes, merged by rank within pieces of text.
use std::collections::HashMap;

use super::{
    TokenizerError,
    merge::{Merge, Symbols},
    split::Splitter,
};

/// Pairs of tokens, with their rank and the token they become.
pub(super) type Merges = HashMap<(u32, u32), Merge>;

pub(super) struct ByteLevel {
    pub(super) splitter: Splitter,
    /// The token of each byte. Some vocabularies lack rare control characters.
    pub(super) bytes: Vec<Option<u32>>,
    pub(super) merges: Merges,
    /// Tokens by their bytes, where a piece that is a token as a whole is not merged.
    pub(super) whole: Option<HashMap<Vec<u8>, u32>>,
}

impl ByteLevel {
    pub(super) fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        for piece in self.splitter.pieces(text) {
            let bytes = &text.as_bytes()[piece];
            match self.whole.as_ref().and_then(|whole| whole.get(bytes)) {
                Some(token) => tokens.push(*token),
                None => self.merge(bytes, tokens)?,
            }
        }
        Ok(())
    }

    /// Appends the tokens of a piece. A byte without a token is left out, as in llama.cpp.
    fn merge(&self, bytes: &[u8], tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let mut symbols = Symbols::new(bytes.len())?;
        for byte in bytes {
            symbols.push(1, self.bytes[usize::from(*byte)]);
        }
        let merged = symbols.merged(|left, right| self.merges.get(&(left.token?, right.token?)).copied());
        tokens.extend(merged.filter_map(|symbol| symbol.token));
        Ok(())
    }
}

/// Returns the merges of a list of pairs, in the order of rank.
pub(super) fn merges<'a>(
    pairs: impl Iterator<Item = &'a str>,
    token_of: impl Fn(&str) -> Option<u32>,
) -> Result<Merges, TokenizerError> {
    let mut merges = Merges::new();
    for (order, pair) in (0..).zip(pairs) {
        // A token may begin with the space that parts the two.
        let cut = pair.char_indices().skip(1).find(|(_, letter)| *letter == ' ').map(|(place, _)| place);
        let merge = cut.and_then(|cut| {
            let (left, right) = (&pair[..cut], &pair[cut + 1..]);
            let token = token_of(&format!("{left}{right}"))?;
            Some(((token_of(left)?, token_of(right)?), Merge { order, token }))
        });
        let (parts, merge) = merge.ok_or_else(|| TokenizerError::Setting {
            key: "tokenizer.ggml.merges",
            problem: format!("has {pair:?}, which is no pair of known tokens"),
        })?;
        merges.entry(parts).or_insert(merge);
    }
    Ok(merges)
}
