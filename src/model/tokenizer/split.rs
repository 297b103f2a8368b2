//! Cutting text into the pieces that are merged each by itself.
use std::ops::Range;

use regex::Regex;

use super::TokenizerError;

/// A pattern as models state it, made ready for an engine without look-ahead, so that no input can
/// make it slow.
///
/// The one look-ahead they use is `\s+(?!\S)`: white space but for its last character, where text
/// follows. That is `\s+`, with the last character given back afterwards.
struct Split {
    regex: Regex,
    /// Whether white space leaves its last character to the text that follows.
    leaves_last: bool,
    /// Whether line ends belong to an alternative of their own, which leaves nothing.
    line_ends_apart: bool,
}

const LOOK_AHEAD: &str = r"\s+(?!\S)";

impl Split {
    fn new(pattern: &str) -> Result<Self, TokenizerError> {
        let plain = pattern.replace(r"\s+(?!\S)|\s+", r"\s+").replace(LOOK_AHEAD, r"\s+");
        let regex = Regex::new(&plain)
            .map_err(|error| TokenizerError::Pattern { pattern: pattern.to_owned(), problem: error.to_string() })?;
        Ok(Self { regex, leaves_last: pattern.contains(LOOK_AHEAD), line_ends_apart: pattern.contains(r"\s*[\r\n]") })
    }

    /// Appends the pieces of one piece: a match is one, and so is what lies between two.
    fn cut(&self, text: &str, piece: Range<usize>, pieces: &mut Vec<Range<usize>>) {
        let (text, offset) = (&text[piece.clone()], piece.start);
        let mut done = 0;
        while let Some(found) = self.regex.find_at(text, done) {
            let end = self.end(text, found.range());
            if found.start() > done {
                pieces.push(offset + done..offset + found.start());
            }
            if end == found.start() {
                // An empty match makes no piece; go on behind the next character.
                let Some(next) = text[end..].chars().next() else { break };
                pieces.push(offset + end..offset + end + next.len_utf8());
                done = end + next.len_utf8();
            } else {
                pieces.push(offset + found.start()..offset + end);
                done = end;
            }
        }
        if done < text.len() {
            pieces.push(offset + done..offset + text.len());
        }
    }

    /// Returns where a match ends. Only white space matched as such ends in white space, but for
    /// line ends where they have an alternative of their own.
    fn end(&self, text: &str, found: Range<usize>) -> usize {
        let mut characters = text[found.clone()].chars();
        match characters.next_back() {
            Some(last)
                if self.leaves_last
                    && found.end < text.len()
                    && last.is_whitespace()
                    && !(self.line_ends_apart && matches!(last, '\r' | '\n'))
                    && !characters.as_str().is_empty() =>
            {
                found.end - last.len_utf8()
            }
            _ => found.end,
        }
    }
}

/// Cuts text by one pattern after the other.
pub(super) struct Splitter(Vec<Split>);

impl Splitter {
    pub(super) fn new(patterns: &[&str]) -> Result<Self, TokenizerError> {
        Ok(Self(patterns.iter().map(|pattern| Split::new(pattern)).collect::<Result<_, _>>()?))
    }

    /// Returns the pieces, which make up the whole text.
    pub(super) fn pieces(&self, text: &str) -> Vec<Range<usize>> {
        let mut pieces = vec![0..text.len()];
        for split in &self.0 {
            let mut next = Vec::with_capacity(pieces.len());
            for piece in pieces {
                split.cut(text, piece, &mut next);
            }
            pieces = next;
        }
        pieces
    }
}
