//! What a recipe's `training` means in plain values.
use crate::{
    adapt::{
        optim::AdamW,
        schedule::{Anneal, OneCycle, Schedule, Shape},
        train::{Rule, Settings},
    },
    engine::Target,
    recipe::schema::{AnnealStrategy, LrScheduler, LrSchedulerType, Optimizer, TargetModule, Training},
};

/// Returns the matrix a recipe's name stands for.
#[must_use]
pub fn target(module: TargetModule) -> Target {
    match module {
        TargetModule::QProj => Target::Query,
        TargetModule::KProj => Target::Key,
        TargetModule::VProj => Target::Value,
        TargetModule::OProj => Target::Output,
        TargetModule::GateProj => Target::Gate,
        TargetModule::UpProj => Target::Up,
        TargetModule::DownProj => Target::Down,
        TargetModule::LmHead => Target::Head,
    }
}

/// Returns how updates are made.
#[must_use]
pub fn training_settings(training: &Training) -> Settings {
    Settings {
        schedule: schedule(training),
        rule: match training.optimizer {
            Optimizer::Adamw => Rule::AdamW(AdamW::default()),
            Optimizer::Sgd => Rule::Sgd,
        },
        weight_decay: training.weight_decay,
        max_grad_norm: training.max_grad_norm,
        b_ratio: training.loraplus_lr_ratio,
    }
}

/// Returns how the learning rate moves.
#[must_use]
pub fn schedule(training: &Training) -> Schedule {
    let LrScheduler {
        kind,
        warmup_steps,
        min_lr,
        pct_start,
        div_factor,
        final_div_factor,
        three_phase,
        anneal_strategy,
    } = &training.lr_scheduler;
    let warmup = warmup_steps.unwrap_or(0);
    let usual = OneCycle::default();
    let shape = match kind {
        LrSchedulerType::Constant => Shape::Constant { warmup },
        LrSchedulerType::Linear => Shape::Linear { warmup },
        LrSchedulerType::Cosine => Shape::Cosine { warmup, floor: min_lr.unwrap_or(0.0) },
        LrSchedulerType::OneCycle => Shape::OneCycle(OneCycle {
            pct_start: pct_start.unwrap_or(usual.pct_start),
            div_factor: div_factor.unwrap_or(usual.div_factor),
            final_div_factor: final_div_factor.unwrap_or(usual.final_div_factor),
            three_phase: three_phase.unwrap_or(usual.three_phase),
            anneal: match anneal_strategy.unwrap_or_default() {
                AnnealStrategy::Cos => Anneal::Cos,
                AnnealStrategy::Linear => Anneal::Linear,
            },
            ..usual
        }),
    };
    Schedule { shape, peak: training.learning_rate, total: training.max_steps.unwrap_or(0) }
}
