//! Our decoder on our kernels: the fast path on a CPU.
//!
//! Weights lie packed in one arena of huge pages. A layer is five rounds of the threads: normed
//! queries, keys and values; attention; its projection; normed gates; their projection. Whatever a
//! round needs is in buffers that are kept, so a token allocates nothing but the logits it returns
//! and, once in [`KEY_TILE`](ruvlab_kernels::KEY_TILE) tokens, room for keys and values. Each result
//! is computed from its own row in an order of its own, so logits do not depend on the number of
//! threads, nor, but for rounding where a step of more than 512 rows is cut, on what else is in it.
mod cache;
mod executor;
mod model;
mod products;

use ruvlab_kernels::{Tier, for_tier};

use super::{
    Chunk, EngineError, LanguageModel, Logits, SequenceId, Settings, room,
    sequences::Sequences,
    steps::{Piece, Steps, hand_out},
};
use crate::model::{
    decoder::{Step, walk},
    spec::ModelSpec,
    weights::Weights,
};
use cache::{Cache, CacheShape};
use executor::{Walker, Workspace};
use model::Model;
use products::Team;

/// Rows computed at once.
const STEP_ROWS: usize = 512;

/// The type of cached keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the memory to read at every token.
    #[default]
    F16,
}

/// How the native engine attends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AttentionMethod {
    /// Tile by tile, with memory that does not grow with the context (arXiv 2307.08691).
    #[default]
    Flash,
    /// All scores of a step's tokens at once: what the other one is compared with.
    Naive,
}

/// Checks what the kernels ask of a model's shape: threads share rows by groups of eight.
pub(super) fn check(tier: Tier, spec: &ModelSpec) -> Result<(), EngineError> {
    for (what, width) in [("heads", spec.head_dim), ("a stream", spec.hidden_size), ("gates", spec.intermediate_size)] {
        if !width.is_multiple_of(8) {
            let what = format!("run {what} of {width} values: that is no multiple of 8");
            return Err(EngineError::Unsupported { engine: tier.name(), what });
        }
    }
    Ok(())
}

/// The engine.
pub(super) struct Native {
    name: &'static str,
    model: Model,
    context_length: usize,
    cache: CacheShape,
    attention: AttentionMethod,
    sequences: Sequences<Cache>,
    team: Team,
    work: Workspace,
    pieces: Vec<Piece>,
    step: Step,
    /// Logits of a step of several chunks, before each gets its own.
    logits: Vec<f32>,
}

impl Native {
    pub(super) fn load(tier: Tier, weights: &Weights, settings: &Settings) -> Result<Self, EngineError> {
        let name = tier.name();
        let unavailable = || EngineError::Unsupported { engine: name, what: "run on this processor".to_owned() };
        let kernels = for_tier(tier).ok_or_else(unavailable)?;
        let context_length = room(name, settings.context_length, weights.spec().context_length)?;
        check(tier, weights.spec())?;
        let threads = match settings.threads {
            Some(threads) => threads.get(),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let team = Team::new(kernels, threads).map_err(EngineError::Threads)?;
        let model = Model::load(weights, context_length, &team.pool)?;
        let ModelSpec { layers, kv_heads, head_dim, .. } = model.spec;
        Ok(Self {
            name,
            context_length,
            cache: CacheShape {
                key_type: settings.key_type,
                value_type: settings.value_type,
                layers,
                kv_heads,
                head_dim,
            },
            attention: settings.attention,
            sequences: Sequences::new(),
            team,
            work: Workspace::default(),
            pieces: Vec::new(),
            step: Step::default(),
            logits: Vec::new(),
            model,
        })
    }

    fn run(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        let vocab_size = self.model.spec.vocab_size;
        let mut all = Vec::with_capacity(batch.len());
        all.resize_with(batch.len(), || Logits { rows: 0, vocab_size, values: Vec::new() });
        let mut steps = Steps::new(STEP_ROWS);
        while steps.next(batch, &self.sequences, &mut self.pieces, &mut self.step)? {
            for segment in &self.step.segments {
                let cache = &mut self.sequences.get_mut(segment.sequence)?.state;
                cache.reserve(segment.past + segment.rows.len());
            }
            let wanted = self.step.logit_rows.len();
            let logits = match (all.as_mut_slice(), self.pieces.as_slice()) {
                // One chunk's logits are computed where they are returned.
                (several, [piece]) => {
                    let Logits { rows, values, .. } = &mut several[piece.chunk];
                    let start = *rows * vocab_size;
                    *rows += wanted;
                    if values.is_empty() {
                        *values = vec![0.0; wanted * vocab_size];
                    } else {
                        values.resize(*rows * vocab_size, 0.0);
                    }
                    &mut values[start..]
                }
                _ => {
                    self.logits.resize(wanted * vocab_size, 0.0);
                    self.logits.as_mut_slice()
                }
            };
            let rows = self.step.tokens.len();
            let Self { model, team, work, sequences, attention, .. } = self;
            let mut walker = Walker { model, team, work, sequences, attention: *attention, rows, logits };
            walk(&mut walker, model.spec.layers, &self.step)?;
            if self.pieces.len() > 1 {
                hand_out(&self.logits, &self.pieces, &self.step, &mut all);
            }
            for segment in &self.step.segments {
                self.sequences.get_mut(segment.sequence)?.length += segment.rows.len();
            }
        }
        Ok(all)
    }
}

impl LanguageModel for Native {
    fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn open(&mut self) -> Result<SequenceId, EngineError> {
        self.sequences.open(self.name, Cache::new(self.cache))
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.close(sequence);
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        self.sequences.check(batch, self.model.spec.vocab_size, self.context_length)?;
        self.run(batch)
    }
}
