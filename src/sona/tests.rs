//! What loops that only pretend to learn would fail, on the built-in model.
mod answering;
mod background;
mod deep;
mod defects;
mod instant;

use std::sync::Arc;

use super::*;
use crate::{
    adapt::{
        micro_lora::{Directions, Rule, Settings},
        registry::{Limits, Registry},
    },
    engine::{self, CacheType, EngineError, EngineKind, LanguageModel, Tier},
    model::{sampler::TopK, tokenizer::Tokenizer, weights::Weights},
};

const PROMPT: usize = 16;
const ANSWER: usize = 32;

/// A model, and texts in requests.
struct Bench {
    engine: Box<dyn LanguageModel>,
    tokenizer: Tokenizer,
    directions: Directions,
    center: Vec<f32>,
}

const MEMORY: MemorySettings = MemorySettings { replayed: 32, held_out: 16, patterns: 3, extract_every: 6, seed: 7 };

const BACKGROUND: BackgroundSettings =
    BackgroundSettings { patterns: 3, batch: 2, judges: 2, similarity: -1.0, slice: None };

/// Returns the instant loop, with a cache that does not count.
fn instant_only(micro: Settings) -> SonaSettings {
    let instant = Some(CacheSettings { share: 0.0, ..CacheSettings::default() });
    SonaSettings { micro, instant, background: None, memory: MEMORY }
}

/// Returns the fastest kernels this processor runs.
fn fastest() -> Tier {
    Tier::ALL.into_iter().rfind(|tier| EngineKind::Native(*tier).is_available()).unwrap()
}

/// A prompt and its answer.
type Pair = (Vec<u32>, Vec<u32>);

impl Bench {
    fn new() -> Self {
        let weights = Weights::open("builtin:pico").unwrap();
        let exact = engine::Settings {
            key_type: CacheType::F32,
            value_type: CacheType::F32,
            threads: std::num::NonZeroUsize::new(1),
            ..engine::Settings::default()
        };
        let engine = engine::load_with(EngineKind::Native(fastest()), &weights, &exact).unwrap();
        let tokenizer = Tokenizer::new(&weights).unwrap();
        let directions = Directions { width: 1, values: Vec::new() };
        let mut bench = Self { engine, tokenizer, directions, center: Vec::new() };
        let general = bench.requests("heldout", 4);
        let read = |(prompt, answer): &Pair| bench.engine.read(prompt, answer);
        let hidden: Vec<f32> = general.iter().map(read).flat_map(|passage| passage.hidden).collect();
        let width = bench.engine.spec().hidden_size;
        bench.directions = Directions::even(&hidden, width).unwrap();
        let rows = (hidden.len() / width) as f32;
        bench.center = (0..width).map(|at| hidden.iter().skip(at).step_by(width).sum::<f32>() / rows).collect();
        bench
    }

    fn requests(&self, text: &str, count: usize) -> Vec<Pair> {
        let content = std::fs::read_to_string(format!("assets/texts/{text}.txt")).unwrap();
        let tokens = self.tokenizer.encode(&content, false).unwrap();
        let pair = |part: &[u32]| (part[..PROMPT].to_vec(), part[PROMPT..].to_vec());
        tokens.chunks_exact(PROMPT + ANSWER).take(count).map(pair).collect()
    }

    fn sona(&self, micro: Settings) -> Sona {
        self.sona_of(&instant_only(micro))
    }

    fn sona_of(&self, settings: &SonaSettings) -> Sona {
        let registry = Arc::new(Registry::new(Limits { adapters: 64, bytes: 1 << 30 }));
        Sona::new(settings, self.engine.spec(), &self.directions, self.center.clone(), registry).unwrap()
    }

    /// Serves a request and returns its loss, and learns from it where there is feedback.
    fn request(
        &mut self,
        sona: &mut Sona,
        (prompt, answer): &Pair,
        feedback: Option<Feedback>,
    ) -> (f64, Option<Account>) {
        let mut served = sona.serve().unwrap();
        let passage = Passage::read(self.engine.as_mut(), served.adapter(), prompt, answer).unwrap();
        sona.recognise(&mut served, &passage.prompt).unwrap();
        let mut request = sona.request(answer.len());
        let addition = served.addition(self.engine.spec()).unwrap();
        passage.record(sona.blank(), &addition, answer, &mut request).unwrap();
        let mut recalled = Vec::new();
        sona.recall(&request, &passage.hidden, answer, &mut recalled);
        let evidence = Evidence { request: &request, hidden: &passage.hidden, tokens: answer, recalled: &recalled };
        let loss = sona.loss(evidence).unwrap();
        let Some(feedback) = feedback else { return (loss, None) };
        let (_, account) = sona.finish(evidence, feedback).unwrap();
        sona.keep(sona.counters().requests, (prompt, answer), &passage.prompt).unwrap();
        (loss, account)
    }

    fn loss(&mut self, sona: &mut Sona, pairs: &[Pair]) -> f64 {
        pairs.iter().map(|pair| self.request(sona, pair, None).0).sum::<f64>() / pairs.len() as f64
    }
}

trait Read {
    fn read(&mut self, prompt: &[u32], answer: &[u32]) -> Passage;
}

impl Read for Box<dyn LanguageModel> {
    fn read(&mut self, prompt: &[u32], answer: &[u32]) -> Passage {
        Passage::read(self.as_mut(), None, prompt, answer).unwrap()
    }
}

/// Small steps down the plain gradient, and nothing else.
fn small() -> Settings {
    Settings { rule: Rule::Sgd, learning_rate: 1e-3, decay: 0.0, ..Settings::default() }
}
