//! What adapters learn from: sequences of tokens, and which of them are scored.
use serde_json::Value;

use crate::{
    engine::Scored,
    model::{
        chat_template::{ChatTemplate, ChatTemplateError, Conversation},
        tokenizer::{Tokenizer, TokenizerError},
    },
};

/// Why data cannot be learned from.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Too little for one sequence.
    #[error("{found} tokens are too few for a sequence of {needed}: give more, or shorten training.sequence_length")]
    TooShort {
        /// Tokens there are.
        found: usize,
        /// Tokens of a sequence.
        needed: usize,
    },
    /// No JSON array of numbers.
    #[error("no JSON array of token ids: {0}")]
    Ids(#[source] serde_json::Error),
    /// A line that is no chat.
    #[error("line {line}: {problem} (a record is {{\"messages\": [{{\"role\": …, \"content\": …}}, …]}})")]
    Record {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A chat the template cannot write.
    #[error("line {line}: {error}")]
    Template {
        /// The line, from 1.
        line: usize,
        /// Why.
        #[source]
        error: ChatTemplateError,
    },
    /// Text without tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Nothing to learn from.
    #[error("no record has an answer within training.sequence_length, {length} tokens")]
    Empty {
        /// Tokens of a sequence.
        length: usize,
    },
}

/// Tokens that attend to each other, of which those after a prompt are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// How many at the beginning are not scored.
    pub prompt: usize,
}

impl Example {
    /// Returns it as a trainee scores it.
    #[must_use]
    pub fn scored(&self) -> Scored<'_> {
        Scored { tokens: &self.tokens, prompt: self.prompt }
    }
}

/// Examples in the portions they are drawn in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    portions: Vec<Vec<Example>>,
    /// Answers that were left out, because they begin beyond the longest sequence.
    pub dropped: usize,
}

impl Dataset {
    /// Returns tokens cut into sequences side by side; what is left at the end is not used.
    ///
    /// # Errors
    ///
    /// If there is not even one.
    pub fn tokens(ids: &[u32], sequence_length: usize) -> Result<Self, DataError> {
        let example = |tokens: &[u32]| vec![Example { tokens: tokens.to_vec(), prompt: 0 }];
        let portions: Vec<_> = ids.chunks_exact(sequence_length.max(2)).map(example).collect();
        if portions.is_empty() {
            return Err(DataError::TooShort { found: ids.len(), needed: sequence_length });
        }
        Ok(Self { portions, dropped: 0 })
    }

    /// Returns a JSON array of ids as [`Self::tokens`] does.
    ///
    /// # Errors
    ///
    /// If it is none, or too short.
    pub fn ids(json: &str, sequence_length: usize) -> Result<Self, DataError> {
        Self::tokens(&serde_json::from_str::<Vec<u32>>(json).map_err(DataError::Ids)?, sequence_length)
    }

    /// Returns a text as [`Self::tokens`] does.
    ///
    /// # Errors
    ///
    /// If it is too short.
    pub fn text(text: &str, tokenizer: &Tokenizer, sequence_length: usize) -> Result<Self, DataError> {
        Self::tokens(&tokenizer.encode(text, false)?, sequence_length)
    }

    /// Returns the answers of chats, one record `{"messages": […]}` a line, written by a model's template.
    ///
    /// Only what the assistant said is scored, with all that was said before as its prompt: of a chat with
    /// several answers each is an example of its own. Beyond `sequence_length` tokens an example is cut.
    /// `packing` puts as many examples into a portion as fit beside each other; each still attends only
    /// to itself.
    ///
    /// # Errors
    ///
    /// If a line is no record, the template fails, or nothing is left to score.
    pub fn chats(
        lines: &str,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
        sequence_length: usize,
        packing: bool,
    ) -> Result<Self, DataError> {
        let mut dataset = Self::default();
        let mut last = 0;
        for (line, record) in (1..).zip(lines.lines()).filter(|(_, record)| !record.trim().is_empty()) {
            for mut example in answers(line, record, template, tokenizer)? {
                example.tokens.truncate(sequence_length);
                if example.tokens.len() <= example.prompt.max(1) {
                    dataset.dropped += 1;
                    continue;
                }
                let length = example.tokens.len();
                match dataset.portions.last_mut() {
                    Some(portion) if packing && last + length <= sequence_length => {
                        portion.push(example);
                        last += length;
                    }
                    _ => {
                        dataset.portions.push(vec![example]);
                        last = length;
                    }
                }
            }
        }
        if dataset.portions.is_empty() { Err(DataError::Empty { length: sequence_length }) } else { Ok(dataset) }
    }

    /// Returns the same with that many portions at most.
    #[must_use]
    pub fn first(mut self, most: Option<usize>) -> Self {
        self.portions.truncate(most.unwrap_or(usize::MAX).max(1));
        self
    }

    /// Returns how many portions there are, at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.portions.len()
    }

    /// Returns whether there are none, which is never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.portions.is_empty()
    }

    /// Returns a portion; none beyond the last.
    pub fn portion(&self, index: usize) -> impl Iterator<Item = Scored<'_>> {
        self.portions.get(index).into_iter().flatten().map(Example::scored)
    }
}

/// Returns one example for each of the assistant's messages.
fn answers(
    line: usize,
    record: &str,
    template: &ChatTemplate,
    tokenizer: &Tokenizer,
) -> Result<Vec<Example>, DataError> {
    let wrong = |problem: String| DataError::Record { line, problem };
    let record: Value = serde_json::from_str(record).map_err(|error| wrong(error.to_string()))?;
    let messages = record["messages"].as_array().filter(|messages| !messages.is_empty());
    let messages = messages.ok_or_else(|| wrong("`messages` is no list of messages".to_owned()))?;
    let render = |count: usize, add_generation_prompt: bool| {
        let conversation =
            Conversation { messages: &messages[..count], add_generation_prompt, ..Conversation::default() };
        template.render(&conversation).map_err(|error| DataError::Template { line, error })
    };
    let mut examples = Vec::new();
    for (at, _) in messages.iter().enumerate().filter(|(_, message)| message["role"] == "assistant") {
        let (before, whole) = (render(at, true)?, render(at + 1, false)?);
        let Some(answer) = whole.strip_prefix(&before) else {
            return Err(wrong(format!("the template writes what comes before message {} differently with it", at + 1)));
        };
        let mut tokens = tokenizer.encode(&before, true)?;
        let prompt = tokens.len();
        tokens.extend(tokenizer.encode(answer, true)?);
        examples.push(Example { tokens, prompt });
    }
    if examples.is_empty() { Err(wrong("no message is the assistant's".to_owned())) } else { Ok(examples) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::weights::Weights;

    const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

    fn tools() -> (ChatTemplate, Tokenizer) {
        let weights = Weights::open("builtin:pico").unwrap();
        (ChatTemplate::new(TEMPLATE, indexmap::IndexMap::new()).unwrap(), Tokenizer::new(&weights).unwrap())
    }

    #[test]
    fn only_what_the_assistant_said_is_scored() {
        let (template, tokenizer) = tools();
        let line = r#"{"messages": [{"role": "user", "content": "two?"}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "sure?"}, {"role": "assistant", "content": "no"}]}"#;
        let data = Dataset::chats(&format!("{line}\n\n{line}\n"), &template, &tokenizer, 200, false).unwrap();
        assert_eq!((data.len(), data.dropped), (4, 0));
        let second: Vec<Scored<'_>> = data.portion(1).collect();
        let (prompt, answer) = second[0].tokens.split_at(second[0].prompt);
        assert_eq!(tokenizer.decode(prompt).trim_start(), "<user>two?\n<assistant>yes\n<user>sure?\n<assistant>");
        assert_eq!(tokenizer.decode(answer).trim(), "no");
        assert_eq!(second[0].count(), answer.len());
    }

    #[test]
    fn portions_are_filled_and_long_examples_cut() {
        let (template, tokenizer) = tools();
        let line = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
        let lines = format!("{line}\n").repeat(7);
        let one = Dataset::chats(line, &template, &tokenizer, 200, true).unwrap().portions[0][0].tokens.len();
        let packed = Dataset::chats(&lines, &template, &tokenizer, 3 * one, true).unwrap();
        let sizes: Vec<usize> = packed.portions.iter().map(Vec::len).collect();
        assert_eq!(sizes, [3, 3, 1]);
        let cut = Dataset::chats(line, &template, &tokenizer, one - 1, true).unwrap();
        assert_eq!(cut.portions[0][0].tokens.len(), one - 1);
        assert!(matches!(Dataset::chats(line, &template, &tokenizer, 3, true), Err(DataError::Empty { length: 3 })));
    }

    #[test]
    fn what_is_no_data_is_named() {
        let (template, tokenizer) = tools();
        for line in ["{", "{}", r#"{"messages": []}"#, r#"{"messages": [{"role": "user", "content": "a"}]}"#] {
            let error = Dataset::chats(&format!("\n{line}"), &template, &tokenizer, 9, true).unwrap_err();
            assert!(error.to_string().starts_with("line 2: "), "{error}");
        }
        assert!(Dataset::ids("[1, 2", 2).is_err() && Dataset::ids("[1, -2]", 2).is_err());
        assert!(matches!(Dataset::ids("[1]", 2), Err(DataError::TooShort { found: 1, needed: 2 })));
        assert_eq!(Dataset::ids("[1, 2, 3, 4, 5]", 2).unwrap().len(), 2);
    }
}
