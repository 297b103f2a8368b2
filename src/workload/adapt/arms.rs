//! Everything that is scored on a request, and then learns from it.
use crate::{
    adapt::{
        caches::{NeuralCache, UnigramCache, mixed_loss},
        micro_lora::{Directions, MicroLora, MicroLoraError, Outcome, Request, Settings, Step},
    },
    engine::Logits,
    model::spec::ModelSpec,
};

/// The arms, each with its metric; the first is the model as it is.
pub(super) const ARMS: [&str; 6] = [
    "adapt_nll_static",
    "adapt_nll_unigram",
    "adapt_nll_neural",
    "adapt_nll_micro",
    "adapt_nll_both",
    "adapt_nll_placebo",
];

/// Which arm is compared with which, and the metric of that.
pub(super) const CHANGES: [(&str, usize, usize); 7] = [
    ("adapt_change_unigram", 1, 0),
    ("adapt_change_neural", 2, 0),
    ("adapt_change_micro", 3, 0),
    ("adapt_change_both", 4, 0),
    ("adapt_change_placebo", 5, 0),
    ("adapt_both_to_neural", 4, 2),
    ("adapt_both_to_micro", 4, 3),
];

/// What the caches hold, and how much they count for.
const CACHE_TOKENS: usize = 1536;
const UNIGRAM_SHARE: f64 = 0.05;
const NEURAL_SHARE: f64 = 0.1;
const NEURAL_THETA: f64 = 20.0;

/// A request's answer: logits without any adapter, and the inputs of the head.
pub(super) struct Scored {
    pub(super) logits: Logits,
    pub(super) hidden: Vec<f32>,
}

/// What learns from the requests of one domain, or of all.
struct Learner {
    micro: MicroLora,
    unigram: UnigramCache,
    neural: NeuralCache,
}

/// All arms.
pub(super) struct Arms {
    learners: Vec<Learner>,
    /// One each domain, whatever the learners share: none ever sees what it is scored on.
    placebos: Vec<MicroLora>,
    request: Request,
    placebo_request: Request,
    row: Vec<f32>,
    steps: Vec<Outcome>,
}

impl Arms {
    pub(super) fn new(
        settings: &Settings,
        directions: &Directions,
        spec: &ModelSpec,
        learners: usize,
        domains: usize,
    ) -> Result<Self, MicroLoraError> {
        let micro = || MicroLora::new(*settings, directions, spec.vocab_size);
        let learner = |_| {
            let neural = NeuralCache::new(CACHE_TOKENS, spec.hidden_size, NEURAL_THETA);
            Ok(Learner { micro: micro()?, unigram: UnigramCache::new(CACHE_TOKENS), neural })
        };
        let learners = (0..learners).map(learner).collect::<Result<Vec<_>, MicroLoraError>>()?;
        let placebos = (0..domains).map(|_| micro()).collect::<Result<Vec<_>, _>>()?;
        let room = micro()?.request(0);
        let row = vec![0.0; spec.vocab_size];
        Ok(Self { learners, placebos, placebo_request: room.clone(), request: room, row, steps: Vec::new() })
    }

    /// Returns how many steps moved the adapter, how many reset it, and how many there were.
    pub(super) fn outcomes(&self) -> (u64, u64, u64) {
        let count = |wanted: Outcome| self.steps.iter().filter(|outcome| **outcome == wanted).count() as u64;
        (count(Outcome::Applied), count(Outcome::Reset), self.steps.len() as u64)
    }

    /// Returns every arm's mean loss on a request, and lets each learn from it; the placebo from the targets
    /// of another domain.
    pub(super) fn next(
        &mut self,
        domain: usize,
        scored: &Scored,
        targets: &[u32],
        others: &[u32],
    ) -> Result<[f64; ARMS.len()], MicroLoraError> {
        let at = domain % self.learners.len();
        let Self { learners, placebos, request, placebo_request, row, steps } = self;
        let (Learner { micro, unigram, neural }, placebo) = (&mut learners[at], &mut placebos[domain]);
        request.clear();
        placebo_request.clear();
        let mut sums = [0.0; ARMS.len()];
        let width = scored.hidden.len() / targets.len().max(1);
        let positions = scored.hidden.chunks_exact(width).zip(targets.iter().zip(others));
        for (position, (hidden, (target, other))) in positions.enumerate() {
            let plain = scored.logits.row(position);
            let nll = ruvlab_kernels::log_sum_exp_f32(plain) - f64::from(plain[*target as usize]);
            let near = neural.probability(hidden, *target);
            row.copy_from_slice(plain);
            let projected = micro.project(hidden);
            micro.apply(projected, row);
            request.record(projected, row, *target)?;
            let adapted = request.losses()[position];
            row.copy_from_slice(plain);
            placebo.apply(projected, row);
            let misled = placebo_request.record(projected, row, *other)? - f64::from(row[*target as usize]);
            let losses = [
                nll,
                mixed_loss(nll, unigram.probability(*target), UNIGRAM_SHARE),
                mixed_loss(nll, near, NEURAL_SHARE),
                adapted,
                mixed_loss(adapted, near, NEURAL_SHARE),
                misled,
            ];
            sums.iter_mut().zip(losses).for_each(|(sum, loss)| *sum += loss);
        }
        for (hidden, target) in scored.hidden.chunks_exact(width).zip(targets) {
            unigram.push(*target);
            neural.push(hidden, *target);
        }
        let Step { outcome, .. } = micro.step(request, 1.0);
        steps.push(outcome);
        placebo.step(placebo_request, 1.0);
        Ok(sums.map(|sum| sum / targets.len() as f64))
    }
}
