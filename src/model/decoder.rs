//! The walk over the layers of a decoder, once for all engines.
//!
//! An executor implements a handful of coarse phases and may fuse whatever it likes inside one. It
//! never sees tokens of other sequences: a step lays the rows of all its sequences side by side, and
//! only attention looks at which row belongs to which.
use std::ops::Range;

/// One sequence's part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The sequence.
    pub sequence: u32,
    /// Its rows among those of the step.
    pub rows: Range<usize>,
    /// S, the tokens it has already cached: the position of its first row.
    pub past: usize,
}

/// What is computed at once: N rows, one a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// The position of each row in its sequence.
    pub positions: Vec<u32>,
    /// Which rows belong to which sequence, in order and without gaps.
    pub segments: Vec<Segment>,
    /// The rows that logits are wanted of, ascending.
    pub logit_rows: Vec<u32>,
}

/// Computes the phases of a decoder layer.
///
/// # Shapes
///
/// `Hidden` is the residual stream, `[N, E]`; `Heads` are queries `[N, H, D]`, keys and values
/// `[N, K, D]`; `Attended` is `[N, H * D]`; `Logits` are `[logit_rows, V]`.
#[expect(missing_docs, reason = "the associated types are described above")]
pub trait Executor {
    type Hidden;
    type Heads;
    type Attended;
    type Logits;
    type Error;

    /// Returns the embedded tokens.
    ///
    /// # Errors
    ///
    /// If the engine fails.
    fn embed(&mut self, step: &Step) -> Result<Self::Hidden, Self::Error>;

    /// Returns normed and projected queries, keys and values, rotated to their positions.
    ///
    /// # Errors
    ///
    /// If the engine fails.
    fn heads(&mut self, layer: usize, hidden: &Self::Hidden, step: &Step) -> Result<Self::Heads, Self::Error>;

    /// Appends keys and values to each sequence's cache and attends, each row to what is not after it.
    ///
    /// # Errors
    ///
    /// If the engine fails.
    fn attend(&mut self, layer: usize, heads: Self::Heads, step: &Step) -> Result<Self::Attended, Self::Error>;

    /// Returns the stream with the projected attention added.
    ///
    /// # Errors
    ///
    /// If the engine fails.
    fn add_attention(
        &mut self,
        layer: usize,
        hidden: Self::Hidden,
        attended: Self::Attended,
    ) -> Result<Self::Hidden, Self::Error>;

    /// Returns the stream with the normed feed-forward layer added.
    ///
    /// # Errors
    ///
    /// If the engine fails.
    fn add_feed_forward(&mut self, layer: usize, hidden: Self::Hidden) -> Result<Self::Hidden, Self::Error>;

    /// Returns the logits of [`Step::logit_rows`]; never called when there are none.
    ///
    /// # Errors
    ///
    /// If the engine fails.
    fn head(&mut self, hidden: Self::Hidden, step: &Step) -> Result<Self::Logits, Self::Error>;
}

/// Computes a step; returns no logits when none are wanted.
///
/// # Errors
///
/// If a phase fails. Caches may then hold rows of the step; a sequence's length tells which count.
pub fn walk<E: Executor>(executor: &mut E, layers: usize, step: &Step) -> Result<Option<E::Logits>, E::Error> {
    let mut hidden = executor.embed(step)?;
    for layer in 0..layers {
        hidden = walk_layer(executor, layer, hidden, step)?;
    }
    if step.logit_rows.is_empty() { Ok(None) } else { executor.head(hidden, step).map(Some) }
}

/// Computes one layer of a step.
///
/// # Errors
///
/// As [`walk`].
pub fn walk_layer<E: Executor>(
    executor: &mut E,
    layer: usize,
    hidden: E::Hidden,
    step: &Step,
) -> Result<E::Hidden, E::Error> {
    let heads = executor.heads(layer, &hidden, step)?;
    let attended = executor.attend(layer, heads, step)?;
    let hidden = executor.add_attention(layer, hidden, attended)?;
    executor.add_feed_forward(layer, hidden)
}
