//! The deep loop of a recipe.
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use std::time::Duration;

use super::texts::{CALIBRATION, DRIFT, DRIFT_FROM, GUARD, JUDGES, RELEARNED, Texts, pair};
use crate::{
    engine::TraineeSettings,
    host::Load,
    plan::{self, Cell},
    recipe::schema::{SonaDeep, SonaStream},
    sona::{Deep, DeepSettings, General, Sona, When},
    workload::{
        error::LaunchError,
        opened::{load_trainee, open_weights},
        prompt::derive_seed,
    },
};

/// How much of the importances of earlier transactions stays, and the batches behind an estimate.
const DECAY: f64 = 0.5;
const FISHER_BATCHES: usize = 4;

/// The gradient's largest norm.
const MAX_GRAD_NORM: f64 = 1.0;

/// Returns loops with the deep one among them.
pub(super) fn add(
    sona: Sona,
    (own, jury): (&SonaDeep, usize),
    cell: &Cell,
    texts: &Texts,
    stream: &SonaStream,
) -> Result<Sona, LaunchError> {
    let SonaDeep {
        enabled: _,
        every_requests,
        idle_ms,
        r,
        lora_alpha,
        target_modules,
        learning_rate,
        max_steps,
        batch_size,
        distill_sequences,
        lambda,
        max_drift,
    } = own;
    let settings = DeepSettings {
        rank: *r as usize,
        scale: lora_alpha / f64::from(*r),
        targets: target_modules.iter().map(|module| plan::target(*module)).collect(),
        learning_rate: *learning_rate,
        steps: *max_steps,
        batch: *batch_size as usize,
        distilled: *distill_sequences as usize,
        lambda: *lambda,
        decay: DECAY,
        fisher_batches: FISHER_BATCHES,
        max_drift: *max_drift,
        max_grad_norm: MAX_GRAD_NORM,
        jury,
        when: When { every_requests: *every_requests, idle: idle_ms.map(Duration::from_millis) },
    };
    let weights = open_weights(cell)?;
    let beginning = Deep::beginning(&settings, weights.spec(), derive_seed("deep", cell.seed, 0, 0));
    let free = Load::now().memory_available_bytes.unwrap_or(0);
    // Half of what is free: activations need room, too.
    let held = TraineeSettings { widen: weights.parameters() * 8 <= free / 2, recompute: false };
    let trainee = load_trainee(cell, &weights, &beginning, held)?;
    let judges = CALIBRATION..CALIBRATION + JUDGES;
    let guard = DRIFT_FROM + DRIFT..DRIFT_FROM + DRIFT + GUARD;
    let prompts = guard.end..guard.end + RELEARNED;
    let general = |index: usize| pair(&texts.general, stream, (0, index));
    let whole: Vec<Vec<u32>> = prompts.clone().map(|index| [general(index).0, general(index).1].concat()).collect();
    let mut random = ChaCha8Rng::seed_from_u64(derive_seed("fisher", cell.seed, 0, 0));
    let deep = Deep::new(settings, trainee, beginning, whole, &mut random)?;
    let general = General {
        guard: guard.map(general).collect(),
        judges: judges.map(general).collect(),
        prompts: prompts.map(|index| pair(&texts.general, stream, (0, index)).0).collect(),
    };
    Ok(sona.with_deep(deep, general)?)
}
