//! Training, as a workload.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Trains the recipe's `adapter`, from its `init` or anew, by its `training`. Every step's loss, gradient
/// norm and learning rate are samples; the trained adapter is a PEFT folder in the run's directory,
/// beside checkpoints from which a run that was stopped goes on as if it had not been.
///
/// One of `text`, `chat` and `ids` says what to learn from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Train {
    /// A text, cut into sequences of `training.sequence_length` tokens: `builtin:NAME` or a path, relative
    /// to the recipe's folder.
    pub text: Option<String>,
    /// JSON lines `{"messages": [{"role": …, "content": …}, …]}`, written by the model's chat template.
    /// Only what the assistant says is scored.
    pub chat: Option<String>,
    /// A JSON array of token ids, cut into sequences of `training.sequence_length`.
    pub ids: Option<String>,
    /// Whether chats share a sequence as far as they fit; each attends only to itself.
    #[serde(default = "yes")]
    pub packing: bool,
    /// Steps between two checkpoints; absent writes ten in all.
    #[schemars(range(min = 1))]
    pub checkpoint_every_steps: Option<u64>,
    /// What is scored along the way and not learned from.
    pub eval: Option<TrainEval>,
}

fn yes() -> bool {
    true
}

/// Held-out data. One of `text`, `chat` and `ids` says which.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainEval {
    /// A text, as above.
    pub text: Option<String>,
    /// Chats, as above.
    pub chat: Option<String>,
    /// Token ids, as above.
    pub ids: Option<String>,
    /// Steps between two evaluations; the first is before the first step, the last after the last.
    #[schemars(range(min = 1))]
    pub every_steps: Option<u64>,
    /// Evaluations in a row without a new best after which training stops. The adapter that is stored is
    /// the best one's, with or without this.
    #[schemars(range(min = 1))]
    pub patience: Option<u32>,
    /// Sequences to score, from the beginning; absent scores all.
    #[schemars(range(min = 1))]
    pub max_sequences: Option<u32>,
}

/// Where to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the keys of the recipe")]
pub enum TrainSource<'a> {
    Text(&'a str),
    Chat(&'a str),
    Ids(&'a str),
}

impl<'a> TrainSource<'a> {
    /// Returns the one key that is given; nothing where none is, or several are.
    fn only(text: Option<&'a String>, chat: Option<&'a String>, ids: Option<&'a String>) -> Option<Self> {
        match (text, chat, ids) {
            (Some(text), None, None) => Some(Self::Text(text)),
            (None, Some(chat), None) => Some(Self::Chat(chat)),
            (None, None, Some(ids)) => Some(Self::Ids(ids)),
            _ => None,
        }
    }

    /// Returns the name or path.
    #[must_use]
    pub fn name(self) -> &'a str {
        let (Self::Text(name) | Self::Chat(name) | Self::Ids(name)) = self;
        name
    }
}

impl Train {
    /// Returns what to learn from; nothing where that is not said in exactly one way.
    #[must_use]
    pub fn source(&self) -> Option<TrainSource<'_>> {
        TrainSource::only(self.text.as_ref(), self.chat.as_ref(), self.ids.as_ref())
    }

    /// Returns every text it names, with its key.
    pub(super) fn texts_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut String)> {
        let keys = [("text", &mut self.text), ("chat", &mut self.chat), ("ids", &mut self.ids)];
        let eval = self.eval.iter_mut().flat_map(|eval| {
            [("eval.text", &mut eval.text), ("eval.chat", &mut eval.chat), ("eval.ids", &mut eval.ids)]
        });
        keys.into_iter().chain(eval).filter_map(|(key, text)| Some((key, text.as_mut()?)))
    }
}

impl TrainEval {
    /// Returns what to score; nothing where that is not said in exactly one way.
    #[must_use]
    pub fn source(&self) -> Option<TrainSource<'_>> {
        TrainSource::only(self.text.as_ref(), self.chat.as_ref(), self.ids.as_ref())
    }
}
