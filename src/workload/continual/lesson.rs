//! A recipe's tasks in tokens.
use super::super::{error::LaunchError, opened::open_text};
use crate::{
    adapt::{
        continual::{Choices, Question},
        data::Example,
        labelled,
    },
    model::tokenizer::Tokenizer,
    plan::Cell,
    recipe::schema::Task,
};

/// A task, in tokens.
pub(super) struct Lesson {
    pub(super) name: String,
    pub(super) train: Vec<Example>,
    pub(super) test: Test,
}

/// What a task is tested on.
pub(super) enum Test {
    /// A text.
    Text(Vec<Example>),
    /// Texts with labels.
    Questions(Choices, Vec<Question>),
}

/// Reads tasks.
pub(super) struct Reader<'a> {
    pub(super) cell: &'a Cell,
    pub(super) tokenizer: &'a Tokenizer,
    /// Tokens of a sequence.
    pub(super) length: usize,
    /// The most examples to learn from.
    pub(super) train: usize,
    /// The most examples to test with.
    pub(super) test: usize,
}

impl Reader<'_> {
    fn encode(&self, text: &str) -> Result<Vec<u32>, LaunchError> {
        let wrong = |error| LaunchError::Tokenizer { source_name: self.cell.model.source.clone(), error };
        self.tokenizer.encode(text, false).map_err(wrong)
    }

    /// Returns the first sequences of a text, so many at most, each beginning as the model wants.
    fn text(&self, source: &str, most: usize) -> Result<Vec<Example>, LaunchError> {
        let tokens = self.encode(&open_text(self.cell, source)?.content)?;
        let begin = self.tokenizer.bos_to_add();
        let own = self.length - usize::from(begin.is_some());
        let example =
            |part: &[u32]| Example { tokens: begin.into_iter().chain(part.iter().copied()).collect(), prompt: 0 };
        let sequences: Vec<Example> = tokens.chunks_exact(own).take(most).map(example).collect();
        if sequences.is_empty() {
            return Err(LaunchError::TextTooShort { name: source.to_owned(), found: tokens.len(), needed: own });
        }
        Ok(sequences)
    }

    /// Returns the first sequences of a text that are tested with.
    pub(super) fn tested(&self, source: &str) -> Result<Vec<Example>, LaunchError> {
        self.text(source, self.test)
    }

    pub(super) fn lesson(&self, task: &Task) -> Result<Lesson, LaunchError> {
        let name = task.name.clone();
        let Some(labels) = &task.labels else {
            let (train, test) = (self.text(&task.train, self.train)?, self.tested(&task.test)?);
            return Ok(Lesson { name, train, test: Test::Text(test) });
        };
        let wrong = |error| LaunchError::Labels { name: labels.clone(), error };
        let labels = labelled::names(&open_text(self.cell, labels)?.content).map_err(wrong)?;
        // A label is a word of its own.
        let tokens = labels.iter().map(|label| self.encode(&format!(" {label}"))).collect::<Result<Vec<_>, _>>()?;
        let choices = Choices::new(tokens);
        let questions = |source: &str, most| self.questions(task, source, most, (&labels, &choices));
        let train = questions(&task.train, self.train)?.iter().map(|question| choices.example(question)).collect();
        let test = questions(&task.test, self.test)?;
        Ok(Lesson { name, train, test: Test::Questions(choices, test) })
    }

    /// Returns the first texts with labels of a file. A text is cut at its end where its prompt and the
    /// longest label would be longer than a sequence.
    fn questions(
        &self,
        task: &Task,
        source: &str,
        most: usize,
        (labels, choices): (&[String], &Choices),
    ) -> Result<Vec<Question>, LaunchError> {
        let wrong = |error| LaunchError::Labels { name: source.to_owned(), error };
        let content = open_text(self.cell, source)?.content;
        let mut records = labelled::records(&content).map_err(wrong)?;
        records.truncate(most);
        let places = labelled::places(&records, labels).map_err(wrong)?;
        let (before, after) = task.prompt.split_once("{text}").unwrap_or(("", &task.prompt));
        let (before, after) = (self.encode(before)?, self.encode(after)?);
        let begin = self.tokenizer.bos_to_add();
        let longest = choices.labels().iter().map(Vec::len).max().unwrap_or(0);
        let fixed = before.len() + after.len() + usize::from(begin.is_some()) + longest;
        if fixed >= self.length {
            let name = format!("{source}: the prompt around a text");
            return Err(LaunchError::TextTooLong { name, found: fixed, most: self.length });
        }
        let question = |(record, label): (&labelled::Labelled, usize)| {
            let mut text = self.encode(&record.text)?;
            text.truncate(self.length - fixed);
            let prompt = begin.iter().chain(&before).chain(&text).chain(&after).copied().collect();
            Ok(Question { prompt, label })
        };
        records.iter().zip(places).map(question).collect()
    }
}
