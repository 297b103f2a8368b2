//! What each workload takes of a machine: the one place that says it, for whoever plans memory, time and
//! launches.
use super::LaunchTask;
use crate::{recipe::schema::Workload, text};

/// Bytes of a text that make a token, about.
const BYTES_PER_TOKEN: u64 = 4;

/// Positions of a window that are scored at once, which bounds the memory of their logits.
pub(crate) const SCORED_AT_ONCE: u32 = 128;

/// What a workload takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// The launches it has something to do in.
    pub(crate) tasks: &'static [LaunchTask],
    /// Tokens of its longest sequence.
    pub(crate) sequence_tokens: u32,
    /// Of those, what is processed at once before anything is generated.
    pub(crate) prompt_tokens: u32,
    /// Sequences side by side.
    pub(crate) sequences: u32,
    /// Positions of a sequence whose logits are there at once; where a text is read a page at once, a page of the
    /// recipe's cache takes the place of this.
    pub(super) scored_at_once: u32,
    /// Engines at once, each with a cache: some workloads compare two.
    pub(crate) engines: u64,
    /// What goes through the model in a launch that is timed, each time.
    pub(super) timed: Tokens,
    /// How often, without warming up; nothing where it happens once and cold.
    pub(super) repetitions: Option<u32>,
    /// What goes through the model in the launch for quality.
    pub(super) quality: Tokens,
    /// Whether it tells of single tokens, where `measure.token_trace` is on.
    pub(super) traced: bool,
}

/// Tokens that go through a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    /// Many at once.
    pub(super) together: u64,
    /// Steps that give every sequence one.
    pub(super) steps: u64,
    /// Sequences in those steps.
    pub(super) batch: u64,
}

impl Tokens {
    pub(super) fn times(self, count: u64) -> Self {
        Self { together: self.together * count, steps: self.steps * count, ..self }
    }

    fn together(tokens: u64) -> Self {
        Self { together: tokens, ..Self::default() }
    }

    fn of_text(text: &str, n_ctx: u32, chunks: Option<u32>) -> Self {
        let whole = || text::load(text).map_or(0, |text| text.content.len() as u64 / BYTES_PER_TOKEN);
        Self::together(chunks.map_or_else(whole, |chunks| u64::from(chunks) * u64::from(n_ctx)))
    }
}

const NOTHING: Demand = Demand {
    tasks: &[],
    sequence_tokens: 0,
    prompt_tokens: 0,
    sequences: 1,
    scored_at_once: 1,
    engines: 1,
    timed: Tokens { together: 0, steps: 0, batch: 0 },
    repetitions: None,
    quality: Tokens { together: 0, steps: 0, batch: 0 },
    traced: false,
};

/// Returns what a workload takes.
#[must_use]
pub(crate) fn demand(workload: &Workload) -> Demand {
    match workload {
        Workload::Prefill(prefill) => {
            let tokens = prefill.prompt_tokens.saturating_add(prefill.context_depth);
            Demand {
                tasks: &[LaunchTask::Speed],
                sequence_tokens: tokens,
                prompt_tokens: prefill.prompt_tokens,
                sequences: prefill.batch_size,
                timed: Tokens::together(u64::from(tokens) * u64::from(prefill.batch_size)),
                repetitions: Some(prefill.repetitions),
                ..NOTHING
            }
        }
        Workload::Decode(decode) => {
            let batch = u64::from(decode.batch_size);
            Demand {
                tasks: &[LaunchTask::Speed],
                // The last token is never fed back.
                sequence_tokens: decode.prompt_tokens.saturating_add(decode.output_tokens.saturating_sub(1)),
                prompt_tokens: decode.prompt_tokens,
                sequences: decode.batch_size,
                timed: Tokens {
                    together: u64::from(decode.prompt_tokens) * batch,
                    steps: u64::from(decode.output_tokens),
                    batch,
                },
                repetitions: Some(decode.repetitions),
                traced: true,
                ..NOTHING
            }
        }
        Workload::Perplexity(scored) => scoring(&scored.text, scored.n_ctx, scored.chunks),
        Workload::KlDivergence(scored) => Demand { traced: true, ..scoring(&scored.text, scored.n_ctx, scored.chunks) },
        Workload::KvPressure(trace) => {
            let (requests, batch) = (u64::from(trace.requests), u64::from(trace.concurrency));
            Demand {
                tasks: &[LaunchTask::Quality, LaunchTask::Speed],
                sequence_tokens: trace.longest(),
                prompt_tokens: trace.prompt_tokens,
                sequences: trace.concurrency,
                engines: 2,
                timed: Tokens {
                    together: requests * u64::from(trace.prompt_tokens),
                    steps: (requests * u64::from(trace.output_tokens)).div_ceil(batch.max(1)),
                    batch,
                },
                // With its cache and with an unlimited one.
                quality: Tokens::of_text(&trace.text, trace.n_ctx, Some(2 * (trace.concurrency + trace.needles))),
                traced: true,
                ..NOTHING
            }
        }
        // What its tokens are is in the recipe's `training`: see `effort` and `memory`.
        Workload::Train(_) | Workload::Continual(_) => Demand { tasks: &[LaunchTask::Quality], ..NOTHING },
        Workload::Adapt(adapt) => {
            let requests = u64::from(adapt.requests) * adapt.domains.len() as u64;
            Demand {
                tasks: &[LaunchTask::Quality, LaunchTask::Speed],
                sequence_tokens: adapt.prompt_tokens.saturating_add(adapt.output_tokens),
                prompt_tokens: adapt.prompt_tokens,
                scored_at_once: adapt.prompt_tokens.saturating_add(adapt.output_tokens),
                // Its timed pairs; what they decode is little beside the stream.
                timed: Tokens { together: 0, steps: 30 * u64::from(adapt.output_tokens), batch: 1 },
                quality: Tokens::together(requests * adapt.tokens() as u64),
                ..NOTHING
            }
        }
        Workload::Sona(stream) => {
            let requests = u64::from(stream.requests + stream.test_requests) * stream.domains.len() as u64;
            Demand {
                tasks: &[LaunchTask::Quality, LaunchTask::Speed],
                sequence_tokens: stream.prompt_tokens.saturating_add(stream.output_tokens),
                prompt_tokens: stream.prompt_tokens,
                scored_at_once: stream.prompt_tokens.saturating_add(stream.output_tokens),
                timed: Tokens {
                    together: 0,
                    steps: 2 * u64::from(stream.timed_answers) * u64::from(stream.output_tokens),
                    batch: 1,
                },
                // As it came, as it is served, and what is read again between requests.
                quality: Tokens::together(6 * requests * stream.tokens() as u64),
                ..NOTHING
            }
        }
    }
}

/// Scoring windows of a text one after the other.
fn scoring(text: &str, n_ctx: u32, chunks: Option<u32>) -> Demand {
    Demand {
        tasks: &[LaunchTask::Quality],
        sequence_tokens: n_ctx,
        prompt_tokens: n_ctx / 2,
        scored_at_once: SCORED_AT_ONCE.min(n_ctx),
        quality: Tokens::of_text(text, n_ctx, chunks),
        ..NOTHING
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::schema::{Decode, Perplexity, Prefill};

    #[test]
    fn tokens_are_counted_as_the_workloads_run_them() {
        let prefill = Prefill { prompt_tokens: 500, context_depth: 100, batch_size: 2, repetitions: 3 };
        let found = demand(&Workload::Prefill(prefill));
        assert_eq!((found.timed, found.repetitions, found.traced), (Tokens::together(1200), Some(3), false));
        let decode = Decode { prompt_tokens: 100, output_tokens: 50, batch_size: 4, repetitions: 2 };
        let found = demand(&Workload::Decode(decode));
        assert_eq!((found.timed, found.repetitions), (Tokens { together: 400, steps: 50, batch: 4 }, Some(2)));
        assert_eq!((found.sequence_tokens, found.traced), (149, true));
        let mut scored = Perplexity { chunks: Some(3), ..Perplexity::default() };
        assert_eq!(demand(&Workload::Perplexity(scored.clone())).quality.together, 3 * 512);
        scored.chunks = None;
        let whole = demand(&Workload::Perplexity(scored)).quality.together;
        assert!((30_000..60_000).contains(&whole), "{whole}");
    }
}
