//! Prompts of a given length: real text, from places that depend on seed, repetition and sequence.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{error::LaunchError, opened::open_text};
use crate::{
    model::tokenizer::{Tokenizer, TokenizerError},
    plan::Cell,
    text::Text,
};

pub(super) const SOURCE: &str = "builtin:heldout";

/// Bytes of text tried for each token wanted: the first is enough for English, the last for
/// every vocabulary there is.
const BYTES_PER_TOKEN: [usize; 4] = [6, 12, 24, 64];

/// A text to take prompts from.
pub(super) struct Prompts {
    text: Text,
    source_name: String,
    seed: u64,
}

/// Returns a number that depends on all of these and on nothing else.
pub(super) fn derive_seed(purpose: &str, seed: u64, rep: u32, sequence: u32) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [purpose.as_bytes(), &seed.to_le_bytes(), &rep.to_le_bytes(), &sequence.to_le_bytes()] {
        hasher.update(part);
    }
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

impl Prompts {
    pub(super) fn new(cell: &Cell) -> Result<Self, LaunchError> {
        Ok(Self { text: open_text(cell, SOURCE)?, source_name: cell.model.source.clone(), seed: cell.seed })
    }

    /// Returns a text that [`encode`](Self::encode) makes `tokens` tokens of. The text begins at a
    /// word and goes round where it ends.
    pub(super) fn text(
        &self,
        tokenizer: &Tokenizer,
        tokens: usize,
        rep: u32,
        sequence: u32,
    ) -> Result<String, LaunchError> {
        let content = &self.text.content;
        let mut random = ChaCha8Rng::seed_from_u64(derive_seed("prompt", self.seed, rep, sequence));
        let place = random.random_range(0..content.len());
        let is_boundary = |at: &usize| content.as_bytes().get(at - 1).is_none_or(u8::is_ascii_whitespace);
        let start = (1..=place).rev().find(is_boundary).unwrap_or(0);
        let mut found = 0;
        for bytes_per_token in BYTES_PER_TOKEN {
            let around = content[start..].chars().chain(content.chars().cycle());
            let text: String = around.take(tokens * bytes_per_token + 64).collect();
            let ids = tokenizer.encode(&text, false).map_err(|error| self.wrong(error))?;
            // A few tokens more: cutting the text may change the last ones.
            if let Some(ids) = ids.get(..tokens + 8) {
                let cut = tokenizer.decode(ids);
                let cut = cut.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned();
                found = self.encode(tokenizer, &cut, tokens)?.len();
                if found == tokens {
                    return Ok(cut);
                }
            }
        }
        Err(LaunchError::TextTooShort { name: SOURCE.to_owned(), found, needed: tokens })
    }

    /// Returns the first `tokens` tokens of a prompt's text, with the BOS token where the model
    /// wants one.
    pub(super) fn encode(&self, tokenizer: &Tokenizer, text: &str, tokens: usize) -> Result<Vec<u32>, LaunchError> {
        let mut ids: Vec<u32> = tokenizer.bos_to_add().into_iter().collect();
        ids.extend(tokenizer.encode(text, false).map_err(|error| self.wrong(error))?);
        ids.truncate(tokens);
        Ok(ids)
    }

    fn wrong(&self, error: TokenizerError) -> LaunchError {
        LaunchError::Tokenizer { source_name: self.source_name.clone(), error }
    }
}
