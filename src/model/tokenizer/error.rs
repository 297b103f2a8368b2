//! What can be wrong with a tokenizer, or a text.
use super::pre;

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
