//! The alphabet that byte-level vocabularies are written in.
use std::collections::HashMap;

/// Returns the letter GPT-2 writes a byte as (`bytes_to_unicode` of its `encoder.py`): itself where
/// it is printable, the next unused one from U+0100 where it is not.
pub(super) fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !printable(*other)).count();
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Reads words of this alphabet.
pub(super) struct Alphabet(HashMap<char, u8>);

impl Alphabet {
    pub(super) fn new() -> Self {
        Self((0..=u8::MAX).map(|byte| (letter(byte), byte)).collect())
    }

    /// Returns the bytes a word stands for; none if a letter is not of the alphabet.
    pub(super) fn bytes(&self, word: &str) -> Option<Vec<u8>> {
        word.chars().map(|letter| self.0.get(&letter).copied()).collect()
    }
}
