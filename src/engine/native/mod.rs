//! Our decoder on our kernels: the fast path on a CPU.
//!
//! Weights lie packed in one arena of huge pages, or are used from the mapped file
//! ([`WeightLoad`](super::WeightLoad)). A layer is five rounds of the threads: normed
//! queries, keys and values; attention; its projection; normed gates; their projection. Whatever a
//! round needs is in buffers that are kept, so a token allocates nothing but the logits it returns
//! and, once in a page of tokens, room for keys and values. Each result
//! is computed from its own row in an order of its own, so logits do not depend on the number of
//! threads, nor, but for rounding where a step of more than 512 rows is cut, on what else is in it.
mod adapters;
mod executor;
mod low_rank;
mod model;
mod products;

use std::sync::Arc;

use ruvlab_kernels::{Tier, for_tier};

use super::{
    Adapter, Admitted, Chunk, EngineError, LanguageModel, Logits, Mixture, SequenceId, Settings,
    mixture::{Choices, NO_CHOICES},
    room,
    sequences::Sequences,
    steps::{Piece, Steps, hand_out},
};
use crate::{
    kv::{CacheReport, CacheSettings, CacheTypes, PageShape, PagedCache, PrefixKey, Transition, prefix_root},
    model::{
        decoder::{Step, walk},
        spec::ModelSpec,
        weights::Weights,
    },
};
use adapters::Adapters;
use executor::{CachedRotation, Walker, Workspace};
use model::Model;
pub(super) use model::format;
use products::Team;

/// Rows computed at once.
const STEP_ROWS: usize = 512;

/// Tokens of a page where nothing else is asked for.
const PAGE_TOKENS: usize = 32;

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
    cache: PagedCache,
    attention: AttentionMethod,
    sequences: Sequences<()>,
    adapters: Adapters,
    /// How long the sequences of a batch were before it, evicted tokens included.
    before: Vec<(SequenceId, usize)>,
    team: Team,
    work: Workspace,
    pieces: Vec<Piece>,
    step: Step,
    /// Logits of a step of several chunks, before each gets its own.
    logits: Vec<f32>,
    /// The head's inputs of the last batch, where they are kept.
    hidden: Option<Vec<f32>>,
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
        let team = Team::new(kernels, settings.activations, threads).map_err(EngineError::Threads)?;
        let model = Model::load(weights, context_length, &team.pool, settings.load)?;
        let ModelSpec { layers, kv_heads, head_dim, .. } = model.spec;
        let page_tokens = settings.page_tokens.unwrap_or(PAGE_TOKENS);
        let shape = PageShape { layers, kv_heads, head_dim, page_tokens };
        let types = CacheTypes { keys: settings.key_type, values: settings.value_type };
        let cache = CacheSettings {
            shape,
            types,
            budget_bytes: settings.cache_bytes,
            policy: settings.pressure.clone(),
            context_length,
            prefix_root: settings.share_prefixes.then(|| {
                let layout = format!("{} {} {page_tokens}", types.keys.name(), types.values.name());
                prefix_root(&[weights.content_hash().as_bytes(), layout.as_bytes()])
            }),
        };
        Ok(Self {
            name,
            context_length,
            cache: PagedCache::new(team.kernels, cache)?,
            attention: settings.attention,
            sequences: Sequences::new(),
            adapters: Adapters::default(),
            before: Vec::new(),
            team,
            work: Workspace::default(),
            pieces: Vec::new(),
            step: Step::default(),
            logits: Vec::new(),
            hidden: None,
            model,
        })
    }

    fn run(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        let vocab_size = self.model.spec.vocab_size;
        let mut all = Vec::with_capacity(batch.len());
        all.resize_with(batch.len(), || Logits { rows: 0, vocab_size, values: Vec::new() });
        let mut steps = Steps::new(STEP_ROWS.min(self.cache.most_rows()));
        while steps.next(batch, &self.sequences, &mut self.pieces, &mut self.step)? {
            let rotation = CachedRotation { model: &self.model, kernels: self.team.kernels };
            self.cache.prepare(self.step.segments.iter().map(|part| (part.sequence, part.rows.len())), &rotation)?;
            if self.cache.evicts() {
                place(&mut self.step, &self.cache)?;
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
            self.adapters.lay_out(&self.step);
            let rows = self.step.tokens.len();
            let Self { model, team, work, cache, adapters, attention, hidden, .. } = self;
            let attention = *attention;
            let mut walker =
                Walker { model, team, work, cache, adapters, attention, rows, logits, kept: hidden.as_mut() };
            walk(&mut walker, model.spec.layers, &self.step)?;
            if self.pieces.len() > 1 {
                hand_out(&self.logits, &self.pieces, &self.step, &mut all);
            }
            for segment in &self.step.segments {
                self.cache.advance(segment.sequence, &self.step.tokens[segment.rows.clone()])?;
                self.sequences.get_mut(segment.sequence)?.length = self.cache.length(segment.sequence)?.0;
            }
        }
        Ok(all)
    }

    /// Runs a batch in as many parts as its pages need that come from a file.
    fn run_parts(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        let mut all = Vec::new();
        let mut rest = batch;
        loop {
            let fitting = self.cache.fitting(rest.iter().map(|chunk| (chunk.sequence, chunk.tokens.len())))?;
            let (part, after) = rest.split_at(fitting.min(rest.len()));
            let logits = self.run(part)?;
            if all.is_empty() && after.is_empty() {
                return Ok(logits);
            }
            all.extend(logits);
            rest = after;
            if rest.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Takes all sequences of a batch back to where they were before it.
    fn undo(&mut self) -> Result<(), EngineError> {
        for (sequence, tokens) in std::mem::take(&mut self.before) {
            self.cache.truncate(sequence, tokens)?;
            self.sequences.get_mut(sequence)?.length = self.cache.length(sequence)?.0;
        }
        Ok(())
    }

    fn open_with(
        &mut self,
        prompt: &[u32],
        tokens: usize,
        adapter: Option<&Arc<Adapter>>,
    ) -> Result<Admitted, EngineError> {
        let sequence = self.sequences.open(self.name, ())?;
        let found = self.attach_key(sequence, adapter.map(|adapter| (adapter, &NO_CHOICES)));
        match found.and_then(|key| Ok(self.cache.open(sequence, prompt, tokens, key.as_ref())?)) {
            Ok(cached) => {
                self.sequences.get_mut(sequence)?.length = cached;
                Ok(Admitted { sequence, cached })
            }
            Err(error) => {
                self.sequences.close(sequence);
                self.adapters.detach(sequence);
                Err(error)
            }
        }
    }

    /// Gives a sequence an adapter, and returns what names the adapter where prefixes are shared.
    fn attach_key(
        &mut self,
        sequence: SequenceId,
        adapter: Option<(&Arc<Adapter>, &Choices)>,
    ) -> Result<Option<PrefixKey>, EngineError> {
        self.adapters.attach(&self.model, sequence, adapter)?;
        let shares = self.cache.shares();
        let key = |(adapter, choices): (&Arc<Adapter>, &Choices)| self.adapters.key(sequence, adapter, choices);
        Ok(adapter.filter(|_| shares).and_then(key))
    }
}

/// Gives the rows of a step their places anew, after tokens before them were evicted.
fn place(step: &mut Step, cache: &PagedCache) -> Result<(), EngineError> {
    for at in 0..step.segments.len() {
        let (earlier, rest) = step.segments.split_at_mut(at);
        let Some(segment) = rest.first_mut() else { break };
        let (length, dropped) = cache.length(segment.sequence)?;
        let same = earlier.iter().filter(|other| other.sequence == segment.sequence);
        segment.past = length + same.map(|other| other.rows.len()).sum::<usize>();
        let first = segment.past + dropped;
        for (position, row) in (first..).zip(segment.rows.clone()) {
            step.positions[row] = position as u32;
        }
    }
    Ok(())
}

impl LanguageModel for Native {
    fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn open(&mut self) -> Result<SequenceId, EngineError> {
        self.open_with(&[], self.context_length, None).map(|admitted| admitted.sequence)
    }

    fn admit(&mut self, prompt: &[u32], tokens: usize) -> Result<Admitted, EngineError> {
        self.open_with(prompt, tokens, None)
    }

    fn admit_with(&mut self, prompt: &[u32], tokens: usize, adapter: Arc<Adapter>) -> Result<Admitted, EngineError> {
        self.open_with(prompt, tokens, Some(&adapter))
    }

    fn fork(&mut self, sequence: SequenceId) -> Result<SequenceId, EngineError> {
        let length = self.sequences.get(sequence)?.length;
        let child = self.sequences.open(self.name, ())?;
        if let Err(error) = self.cache.fork(sequence, child) {
            self.sequences.close(child);
            return Err(error.into());
        }
        self.sequences.get_mut(child)?.length = length;
        self.adapters.copy(sequence, child);
        Ok(child)
    }

    fn close(&mut self, sequence: SequenceId) {
        self.sequences.close(sequence);
        self.cache.close(sequence);
        self.adapters.detach(sequence);
    }

    fn attach(&mut self, sequence: SequenceId, adapter: Option<Arc<Adapter>>) -> Result<(), EngineError> {
        self.sequences.get(sequence)?;
        let key = self.attach_key(sequence, adapter.as_ref().map(|adapter| (adapter, &NO_CHOICES)))?;
        Ok(self.cache.attach(sequence, key.as_ref())?)
    }

    fn attach_mixture(&mut self, sequence: SequenceId, mixture: Arc<Mixture>) -> Result<(), EngineError> {
        self.sequences.get(sequence)?;
        let key = self.attach_key(sequence, Some((mixture.adapter(), mixture.choices())))?;
        Ok(self.cache.attach(sequence, key.as_ref())?)
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        let context_length = if self.cache.evicts() { usize::MAX } else { self.context_length };
        self.sequences.check(batch, self.model.spec.vocab_size, context_length)?;
        if let Some(hidden) = &mut self.hidden {
            hidden.clear();
        }
        self.before.clear();
        for chunk in batch {
            let (length, dropped) = self.cache.length(chunk.sequence)?;
            self.before.push((chunk.sequence, length + dropped));
        }
        match self.run_parts(batch) {
            Ok(logits) => Ok(logits),
            Err(error) => {
                self.undo()?;
                Err(error)
            }
        }
    }

    fn keep_hidden(&mut self, keep: bool) -> Result<(), EngineError> {
        if keep != self.hidden.is_some() {
            self.hidden = keep.then(Vec::new);
        }
        Ok(())
    }

    fn hidden(&self) -> &[f32] {
        self.hidden.as_deref().unwrap_or_default()
    }

    fn cache_report(&self) -> Option<CacheReport> {
        Some(self.cache.report())
    }

    fn take_transitions(&mut self) -> Vec<Transition> {
        self.cache.take_transitions()
    }
}
