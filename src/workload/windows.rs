//! A text in windows, by llama.cpp's convention (`tools/perplexity/perplexity.cpp`): tokenised once
//! and cut into windows of `n_ctx` tokens side by side. Of each window, positions from `n_ctx / 2` to
//! the last but one score the token after them. Where the model wants a BOS token, it takes the
//! place of each window's first token.
use super::{error::LaunchError, opened::open_text};
use crate::{model::tokenizer::Tokenizer, plan::Cell};

/// The windows of a text.
pub(super) struct Windows {
    tokens: Vec<u32>,
    n_ctx: usize,
    count: usize,
    bos: Option<u32>,
}

impl Windows {
    /// Returns the first `chunks` windows of a text, all when absent.
    pub(super) fn new(
        cell: &Cell,
        tokenizer: &Tokenizer,
        text: &str,
        n_ctx: u32,
        chunks: Option<u32>,
    ) -> Result<Self, LaunchError> {
        let n_ctx = n_ctx as usize;
        let content = open_text(cell, text)?.content;
        let wrong = |error| LaunchError::Tokenizer { source_name: cell.model.source.clone(), error };
        let bos = tokenizer.bos_to_add();
        let mut tokens: Vec<u32> = bos.into_iter().collect();
        tokens.extend(tokenizer.encode(&content, false).map_err(wrong)?);
        if tokens.len() < 2 * n_ctx {
            return Err(LaunchError::TextTooShort { name: text.to_owned(), found: tokens.len(), needed: 2 * n_ctx });
        }
        let count = (tokens.len() / n_ctx).min(chunks.map_or(usize::MAX, |chunks| chunks as usize));
        Ok(Self { tokens, n_ctx, count, bos })
    }

    /// Checks that the text has as many windows as were asked for.
    pub(super) fn all_of(&self, asked: u32, text: &str) -> Result<(), LaunchError> {
        if self.count as u64 >= u64::from(asked) {
            return Ok(());
        }
        let (found, needed) = (self.tokens.len(), self.n_ctx * asked as usize);
        Err(LaunchError::TextTooShort { name: text.to_owned(), found, needed })
    }

    pub(super) fn count(&self) -> u64 {
        self.count as u64
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Window<'_>> {
        let windows = self.tokens.chunks_exact(self.n_ctx).take(self.count);
        (0..).zip(windows).map(|(index, tokens)| Window { index, tokens, bos: self.bos })
    }
}

/// One window.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) index: u32,
    tokens: &'a [u32],
    bos: Option<u32>,
}

impl<'a> Window<'a> {
    /// Returns the tokens that come before the first scored position, and those at scored positions.
    pub(super) fn context(&self) -> (Vec<u32>, Vec<u32>) {
        let mut context = self.tokens[..self.tokens.len() - 1].to_vec();
        if let Some(bos) = self.bos {
            context[0] = bos;
        }
        let scoring = context.split_off(self.tokens.len() / 2);
        (context, scoring)
    }

    /// Returns all tokens but the last, and the one after each.
    pub(super) fn whole(&self) -> (Vec<u32>, Vec<u32>) {
        let (mut tokens, scoring) = self.context();
        tokens.extend(scoring);
        (tokens, self.tokens[1..].to_vec())
    }

    /// Returns the tokens that are scored, one for each scored position.
    pub(super) fn targets(&self) -> &'a [u32] {
        &self.tokens[self.tokens.len() / 2 + 1..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_half_is_scored_and_bos_stands_first() {
        let windows = Windows { tokens: (10..36).collect(), n_ctx: 8, count: 3, bos: Some(1) };
        let all: Vec<Window<'_>> = windows.iter().collect();
        assert_eq!(all.len(), 3);
        assert_eq!(all[1].context(), (vec![1, 19, 20, 21], vec![22, 23, 24]));
        assert_eq!(all[1].targets(), [23, 24, 25]);
        assert_eq!(all[1].whole(), (vec![1, 19, 20, 21, 22, 23, 24], (19..26).collect()));
        let plain = Windows { bos: None, ..windows };
        assert_eq!(plain.iter().next().unwrap().context().0, [10, 11, 12, 13]);
    }
}
