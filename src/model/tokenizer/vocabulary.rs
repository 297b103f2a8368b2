//! The tokens of a model: what each is, and which of them end an answer.
use std::collections::{BTreeSet, HashMap};

use super::{TokenizerError, settings::Settings};

/// What a token is for (`llama.h`, `llama_token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Undefined,
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    fn from_number(number: f64) -> Self {
        const KINDS: [Kind; 6] =
            [Kind::Normal, Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];
        (1..).zip(KINDS).find(|(known, _)| f64::from(*known) == number).map_or(Self::Undefined, |(_, kind)| kind)
    }

    /// Whether it is found in text before the text is split.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// Tokens that end an answer wherever a vocabulary has them: files often name only one of theirs.
/// These lists are llama.cpp's (`llama-vocab.cpp`).
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "</s>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Tokens of code completion that end an answer, too: padding, repository, file separator.
const FILL_IN_ENDS: [&[&str]; 3] = [
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];

/// Tokens of code completion that do not.
const FILL_IN: [&[&str]; 3] = [
    &[
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ],
    &[
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ],
    &[
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ],
];

/// Tokens that are always shown, whatever the file says of them.
const SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

pub(super) struct Vocabulary {
    pub(super) texts: Vec<String>,
    pub(super) kinds: Vec<Kind>,
    /// Tokens by text; of two with the same, the later.
    pub(super) tokens: HashMap<String, u32>,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
    /// Those that end an answer.
    pub(super) ends: BTreeSet<u32>,
}

impl Vocabulary {
    pub(super) fn new(settings: &Settings<'_>) -> Result<Self, TokenizerError> {
        let texts: Vec<String> = (0..)
            .zip(settings.tokens()?)
            .map(|(id, text): (u32, _)| if text.is_empty() { format!("[EMPTY_{id}]") } else { text.to_owned() })
            .collect();
        let size = texts.len();
        let kinds = match settings.numbers("tokenizer.ggml.token_type", size)? {
            Some(numbers) => numbers.into_iter().map(Kind::from_number).collect(),
            None => vec![Kind::Normal; size],
        };
        let mut vocabulary = Self {
            tokens: (0..).zip(&texts).map(|(id, text)| (text.clone(), id)).collect(),
            texts,
            kinds,
            bos: settings.id("tokenizer.ggml.bos_token_id", size)?,
            eos: settings.id("tokenizer.ggml.eos_token_id", size)?,
            unknown: settings.id("tokenizer.ggml.unknown_token_id", size)?,
            ends: BTreeSet::new(),
        };
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
            vocabulary.ends.extend(settings.id(key, size)?);
        }
        vocabulary.find_by_name();
        Ok(vocabulary)
    }

    fn control(&mut self, name: &str) -> Option<u32> {
        let token = *self.tokens.get(name)?;
        self.kinds[token as usize] = Kind::Control;
        Some(token)
    }

    fn find_by_name(&mut self) {
        for names in FILL_IN {
            for name in names {
                if self.control(name).is_some() {
                    break;
                }
            }
        }
        for names in FILL_IN_ENDS {
            let found = names.iter().find_map(|name| self.control(name));
            self.ends.extend(found);
        }
        for name in ENDS {
            let found = self.control(name);
            self.ends.extend(found);
        }
        for name in SHOWN {
            if let Some(token) = self.tokens.get(name) {
                self.kinds[*token as usize] = Kind::UserDefined;
            }
        }
        let ends = |name: &str| self.tokens.get(name).is_some_and(|token| self.ends.contains(token));
        let calls = ends("<|call|>") || ends("<|calls|>");
        // In the harmony format (and solar's) <|end|> ends a message, not an answer.
        let several_messages = calls && (ends("<|return|>") || ends("<|flush|>"));
        // gemma 4 and plamo have </s> as an ordinary token.
        let ordinary = ends("<|tool_response>") || ends("<|plamo:eos|>");
        for (applies, name, kind) in
            [(several_messages, "<|end|>", Kind::UserDefined), (ordinary, "</s>", Kind::Normal)]
        {
            if let Some(token) = self.tokens.get(name).filter(|_| applies) {
                self.ends.remove(token);
                self.kinds[*token as usize] = kind;
            }
        }
    }
}
