//! What loops that only pretend to learn would fail, on the built-in model.
mod background;
mod deep;

use std::sync::Arc;

use super::*;
use crate::{
    adapt::{
        micro_lora::{Directions, Rule, Settings},
        registry::{Limits, Registry},
    },
    engine::{self, CacheType, EngineKind, LanguageModel, Tier},
    model::{tokenizer::Tokenizer, weights::Weights},
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
        let settings = SonaSettings {
            micro,
            instant: Some(CacheSettings { share: 0.0, ..CacheSettings::default() }),
            background: None,
            memory: MEMORY,
        };
        self.sona_of(&settings)
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
        let evidence = Evidence { request: &request, hidden: &passage.hidden, tokens: answer };
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

/// What a copy of one vector in every row of A or B would leave at rank 1.
#[test]
fn two_requests_leave_two_directions() {
    let mut bench = Bench::new();
    let mut sona = bench.sona(Settings::default());
    for text in ["kjv.test", "python.test"] {
        let pair = bench.requests(text, 1).remove(0);
        let (_, account) = bench.request(&mut sona, &pair, Some(Feedback::Accepted));
        assert_eq!(account.unwrap().decision, Decision::Applied);
    }
    let change = sona.instant().unwrap().micro().low_rank();
    let columns: [Vec<f64>; 2] = [0, 1].map(|k| change.b.iter().skip(k).step_by(2).map(|x| f64::from(*x)).collect());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let [first, second] = &columns;
    let sine = 1.0 - dot(first, second).powi(2) / (dot(first, first) * dot(second, second));
    assert!(sine >= 0.1, "{sine}: the columns of B lie on one line");
}

/// A pseudo-gradient that is the same whatever was asked promises what does not come.
#[test]
fn the_loss_falls_by_what_the_gradient_promises_and_rises_the_other_way() {
    let mut bench = Bench::new();
    let pair = bench.requests("python.test", 1).remove(0);
    for reward in [None, Some(1.0), Some(-1.0)] {
        let mut sona = bench.sona(small());
        let feedback = match reward {
            None => Feedback::Accepted,
            // After a request without a reward, so that this one is above or below what is usual.
            Some(reward) => {
                bench.request(&mut sona, &pair, Some(Feedback::Reward(0.0)));
                Feedback::Reward(reward)
            }
        };
        let (before, account) = bench.request(&mut sona, &pair, Some(feedback));
        let account = account.unwrap();
        let after = bench.loss(&mut sona, std::slice::from_ref(&pair));
        let sign = reward.unwrap_or(1.0);
        let fell = sign * (before - after);
        assert!(account.predicted_decrease > 0.0 && account.decision == Decision::Applied, "{account:?}");
        assert!((fell / account.predicted_decrease - 1.0).abs() <= 0.05, "{fell:e}, {account:?}");
        assert!((account.loss_before - account.loss_after - fell).abs() <= 0.05 * fell, "{fell:e}, {account:?}");
    }
}

#[test]
fn what_is_learned_of_one_domain_helps_it_more_than_another() {
    let mut bench = Bench::new();
    let [own, other] = ["kjv.test", "python.test"].map(|text| bench.requests(text, 8));
    let mut sona = bench.sona(Settings::default());
    let before = [bench.loss(&mut sona, &own[6..]), bench.loss(&mut sona, &other[6..])];
    own[..6].iter().for_each(|pair| _ = bench.request(&mut sona, pair, Some(Feedback::Accepted)));
    let after = [bench.loss(&mut sona, &own[6..]), bench.loss(&mut sona, &other[6..])];
    let [gained, elsewhere] = [0, 1].map(|at| before[at] - after[at]);
    assert!(gained > 0.0 && gained > elsewhere, "{gained} against {elsewhere}");
}

#[test]
fn a_request_keeps_what_it_was_served_with() {
    let mut bench = Bench::new();
    let pairs = bench.requests("german.test", 2);
    let mut sona = bench.sona(Settings::default());
    let early = sona.serve().unwrap();
    let (_, account) = bench.request(&mut sona, &pairs[0], Some(Feedback::Accepted));
    let late = sona.serve().unwrap();
    assert_eq!(late.version(), account.unwrap().version);
    assert!(early.version() < late.version());
    let spec = bench.engine.spec();
    assert_eq!(early.addition(spec).unwrap(), Addition::none());
    assert!(late.addition(spec).unwrap() != Addition::none());
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let mut bench = Bench::new();
    let pair = bench.requests("german.test", 1).remove(0);
    let mut sona = bench.sona(Settings::default());
    let passage = bench.engine.read(&pair.0, &pair.1);
    let mut request = sona.request(0);
    passage.record(sona.blank(), &Addition::none(), &pair.1, &mut request).unwrap();
    let whole = Evidence { request: &request, hidden: &passage.hidden, tokens: &pair.1 };
    let version = sona.registry().version();
    let narrow = Evidence { hidden: &passage.hidden[1..], ..whole };
    let short = Evidence { tokens: &pair.1[1..], ..whole };
    for wrong in [narrow, short] {
        assert!(matches!(sona.finish(wrong, Feedback::Accepted), Err(SonaError::Width { .. })));
        assert!(sona.loss(wrong).is_err());
    }
    assert!(matches!(sona.finish(whole, Feedback::Reward(f64::NAN)), Err(SonaError::Reward(_))));
    assert_eq!((sona.registry().version(), sona.counters().requests), (version, 0));
    assert!(sona.instant().unwrap().micro().is_zero());
    assert!(matches!(Passage::read(bench.engine.as_mut(), None, &[], &pair.1), Err(SonaError::Empty)));
    assert!(matches!(Passage::read(bench.engine.as_mut(), None, &pair.0, &[]), Err(SonaError::Empty)));
}

#[test]
fn the_cache_in_logits_is_the_cache_in_losses() {
    let mut bench = Bench::new();
    let pairs = bench.requests("kjv.test", 2);
    let mut instant =
        Instant::new(Settings::default(), CacheSettings::default(), &bench.directions, bench.engine.spec().vocab_size)
            .unwrap();
    let passages: Vec<Passage> = pairs.iter().map(|(prompt, answer)| bench.engine.read(prompt, answer)).collect();
    let mut request = instant.micro().request(0);
    passages[0].record(instant.micro(), &Addition::none(), &pairs[0].1, &mut request).unwrap();
    let evidence = Evidence { request: &request, hidden: &passages[0].hidden, tokens: &pairs[0].1 };
    instant.learn(evidence, 1.0).unwrap();
    let (width, token) = (bench.directions.width, pairs[0].1[3]);
    let hidden = &passages[1].hidden[..width];
    let mut logits = passages[1].logits[..bench.engine.spec().vocab_size].to_vec();
    let normaliser = ruvlab_kernels::log_sum_exp_f32(&logits);
    let loss = normaliser - f64::from(logits[token as usize]);
    instant.mix(hidden, normaliser, &mut logits, &mut Vec::new());
    let mixed = ruvlab_kernels::log_sum_exp_f32(&logits) - f64::from(logits[token as usize]);
    let right = instant.mixed_loss(loss, hidden, token);
    assert!((mixed - right).abs() <= 1e-4 && (right - loss).abs() >= 0.05, "{mixed}, {right} from {loss}");
}

#[test]
fn additions_of_other_directions_are_refused() {
    let change = |rank: usize, a: f32, rows: usize| crate::engine::LowRank {
        rank,
        scale: 2.0,
        a: vec![a; rank * 4],
        b: vec![1.0; rows * rank],
        magnitude: None,
    };
    let sum = |parts: &[crate::engine::LowRank]| Addition::of(parts, 4);
    let mut logits = [0.0; 3];
    sum(&[change(2, 1.0, 3), change(2, 1.0, 3)]).unwrap().apply([1.0, 0.5], &mut logits);
    assert!(logits.iter().all(|value| (value - 6.0).abs() <= 1e-6), "{logits:?}");
    for (first, second) in [((2, 1.0, 3), (2, 2.0, 3)), ((2, 1.0, 3), (2, 1.0, 4)), ((2, 1.0, 3), (1, 1.0, 3))] {
        let [first, second] = [first, second].map(|(rank, a, rows)| change(rank, a, rows));
        assert!(matches!(sum(&[first, second]), Err(SonaError::Width { .. })));
    }
    assert!(matches!(Addition::of(&[change(2, 1.0, 3)], 5), Err(SonaError::Width { .. })));
    assert_eq!(Addition::of(&[], 4).unwrap(), Addition::none());
}
