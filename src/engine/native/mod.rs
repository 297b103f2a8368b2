//! Our decoder on our kernels: the fast path on a CPU.
//!
//! Weights lie packed in one arena of huge pages, or are used from the mapped file
//! ([`WeightLoad`](super::WeightLoad)). A layer is five rounds of the threads: normed
//! queries, keys and values; attention; its projection; normed gates; their projection. Whatever a
//! round needs is in buffers that are kept, so a token allocates nothing but the logits it returns
//! and, once in a page of tokens, room for keys and values. Each result
//! is computed from its own row in an order of its own, so logits do not depend on the number of
//! threads, nor, but for rounding where a step is cut (after 512 rows, or earlier where a policy for a full cache
//! makes room between two), on what else is in it.
mod adapters;
mod executor;
mod low_rank;
mod model;
mod packed;
mod products;
mod run;
mod selection;

use std::sync::Arc;

use ruvlab_kernels::{Tier, for_tier};

use super::{
    Adapter, Admitted, Chunk, EngineError, HeadRows, LanguageModel, Logits, Mixture, SequenceId, Settings,
    mixture::{Choices, NO_CHOICES},
    room,
    sequences::Sequences,
    steps::Piece,
};
use crate::{
    kv::{CacheReport, CacheSettings, CacheTypes, PageShape, PagedCache, PrefixKey, Transition, prefix_root},
    model::{decoder::Step, sampler::TopK, spec::ModelSpec, weights::Weights},
};
use adapters::Adapters;
use executor::{Kept, KeptLogits, Workspace};
use model::Model;
pub(super) use model::format;
use products::Team;
use run::Wanted;

/// Rows computed at once.
pub(super) const STEP_ROWS: usize = 512;

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
    /// What learning needs of the last batch, where it is kept.
    kept: Option<Kept>,
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
            windowed: model.spec.windows.iter().any(Option::is_some),
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
            kept: None,
            model,
        })
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
        self.adapters.close(sequence);
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

    fn attach_head(&mut self, sequence: SequenceId, rows: Option<Arc<HeadRows>>) -> Result<(), EngineError> {
        self.sequences.get(sequence)?;
        let ModelSpec { hidden_size, vocab_size, .. } = self.model.spec;
        rows.as_ref().map_or(Ok(()), |rows| rows.check(hidden_size, vocab_size))?;
        self.adapters.attach_head(sequence, rows);
        Ok(())
    }

    fn step(&mut self, batch: &[Chunk<'_>]) -> Result<Vec<Logits>, EngineError> {
        let vocab_size = self.model.spec.vocab_size;
        let mut all = Vec::with_capacity(batch.len());
        all.resize_with(batch.len(), || Logits { rows: 0, vocab_size, values: Vec::new() });
        self.append(batch, Wanted::Logits(&mut all))?;
        Ok(all)
    }

    fn step_top_k(&mut self, batch: &[Chunk<'_>], k: usize) -> Result<Vec<TopK>, EngineError> {
        let mut lists = Vec::with_capacity(batch.len());
        self.append(batch, Wanted::TopK { k, lists: &mut lists })?;
        Ok(lists)
    }

    fn keep_hidden(&mut self, keep: bool) -> Result<(), EngineError> {
        if keep != self.kept.is_some() {
            self.kept = keep.then(Kept::default);
        }
        Ok(())
    }

    fn hidden(&self) -> &[f32] {
        self.kept.as_ref().map_or(&[], |kept| &kept.hidden)
    }

    fn normalisers(&self) -> &[f64] {
        self.kept.as_ref().map_or(&[], |kept| &kept.normalisers)
    }

    fn keep_logits(&mut self, keep: bool) -> Result<(), EngineError> {
        if keep {
            self.kept.get_or_insert_default().logits.get_or_insert_default();
        } else if let Some(kept) = &mut self.kept {
            kept.logits = None;
        }
        Ok(())
    }

    fn rouse(&mut self) {
        self.team.pool.run(&|_| {});
    }

    fn logits(&self) -> &[f32] {
        self.kept.as_ref().and_then(|kept| kept.logits.as_ref()).map_or(&[], KeptLogits::all)
    }

    fn cache_report(&self) -> Option<CacheReport> {
        Some(self.cache.report())
    }

    fn take_transitions(&mut self) -> Vec<Transition> {
        self.cache.take_transitions()
    }
}
