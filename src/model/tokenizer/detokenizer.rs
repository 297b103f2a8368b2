//! Text out of tokens as they come.
use super::Tokenizer;

/// Puts bytes together to text, and never gives out half a character.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Takes the bytes of the next token and returns the text that is certain now. Bytes that can
    /// no longer become a character are U+FFFD.
    pub fn push(&mut self, piece: &[u8]) -> String {
        self.pending.extend_from_slice(piece);
        let mut text = String::new();
        let mut certain = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            certain += chunk.valid().len();
            let invalid = chunk.invalid();
            let at_end = certain + invalid.len() == self.pending.len();
            let unfinished = str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if at_end && unfinished {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                certain += invalid.len();
            }
        }
        self.pending.drain(..certain);
        text
    }

    /// Returns what is left at the end of the tokens: an unfinished character as U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Makes text of tokens that come one by one: together, the text that decoding all at once gives.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    previous: Option<u32>,
    bytes: Detokenizer,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, previous: Option<u32>) -> Self {
        Self { tokenizer, previous, bytes: Detokenizer::default() }
    }

    /// Takes the next token and returns the text that is certain now.
    pub fn push(&mut self, token: u32) -> String {
        let bytes = self.tokenizer.bytes_after(self.previous, token);
        self.previous = Some(token);
        self.bytes.push(bytes)
    }

    /// Returns what is left at the end: an unfinished character as U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        self.bytes.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_cut_anywhere_come_out_whole_and_once() {
        let text = "naïve 日本語 🦀👩‍👩‍👧 \u{0}\n";
        for size in 1..5 {
            let mut detokenizer = Detokenizer::default();
            let mut out = String::new();
            for piece in text.as_bytes().chunks(size) {
                let part = detokenizer.push(piece);
                assert!(!part.contains('\u{fffd}'), "{part:?} in pieces of {size}");
                out.push_str(&part);
            }
            out.push_str(&detokenizer.finish());
            assert_eq!(out, text);
        }
    }

    #[test]
    fn broken_bytes_are_replaced_as_the_standard_library_does() {
        let bytes = b"a\xff\xe2\x82b\xf0\x9f\x92";
        let mut detokenizer = Detokenizer::default();
        let mut out: String = bytes.iter().map(|byte| detokenizer.push(&[*byte])).collect();
        out.push_str(&detokenizer.finish());
        assert_eq!(out, String::from_utf8_lossy(bytes));
    }
}
