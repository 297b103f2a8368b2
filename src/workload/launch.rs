//! One launch: what a child process does from its specification to its last event.
use std::path::Path;

use super::{
    adapt, continual, decode, error::LaunchError, kl_divergence, kv_pressure, opened, perplexity, prefill,
    prompt::Prompts, recorder::Recorder, sona, train, verify,
};
use crate::{
    event::{Phase, Sink},
    host,
    plan::{Cell, LaunchSpec, LaunchTask, PROTOCOL},
    recipe::schema::Workload,
};

/// Runs one part of a cell and reports everything it measures.
///
/// # Errors
///
/// If weights or texts are missing or changed, the engine cannot run the model, a workload does not
/// fit, or the numbers are invalid. What was measured before has been reported.
pub fn launch(spec: &LaunchSpec, sink: &mut dyn Sink) -> Result<(), LaunchError> {
    let LaunchSpec { protocol, launch, task, cell, artifacts } = spec;
    if *protocol != PROTOCOL {
        return Err(LaunchError::Protocol { found: *protocol });
    }
    let mut recorder = Recorder::new(*launch, sink);
    match task {
        LaunchTask::Verify => verify::run(cell, &mut recorder),
        LaunchTask::Quality | LaunchTask::Speed => workloads(cell, *task, artifacts.as_deref(), &mut recorder),
    }
}

fn workloads(
    cell: &Cell,
    task: LaunchTask,
    artifacts: Option<&Path>,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let own = cell.recipe.workloads.iter().filter(|workload| task.runs(workload));
    let (trainings, others): (Vec<_>, Vec<_>) =
        own.partition(|workload| matches!(workload, Workload::Train(_) | Workload::Continual(_)));
    for workload in trainings {
        recorder.begin(workload.to_string());
        match workload {
            Workload::Train(train) => train::run(train, cell, artifacts, recorder)?,
            Workload::Continual(learning) => continual::run(learning, cell, recorder)?,
            _ => {}
        }
    }
    // Training holds the model in its own way, and needs no engine for inference.
    if others.is_empty() {
        return Ok(());
    }
    let mut loaded = opened::load(cell, task, recorder)?;
    let mut streams = sona::Streams::default();
    for workload in &cell.recipe.workloads {
        recorder.begin(workload.to_string());
        match (workload, task) {
            (Workload::Prefill(prefill), LaunchTask::Speed) => {
                let prompts = Prompts::new(cell)?;
                prefill::run(prefill, cell, &prompts, &mut loaded, recorder)?;
            }
            (Workload::Decode(decode), LaunchTask::Speed) => {
                let prompts = Prompts::new(cell)?;
                decode::run(decode, cell, &prompts, &mut loaded, recorder)?;
            }
            (Workload::Perplexity(perplexity), LaunchTask::Quality) => {
                perplexity::run(perplexity, cell, &mut loaded, recorder)?;
            }
            (Workload::KlDivergence(divergence), LaunchTask::Quality) => {
                kl_divergence::run(divergence, cell, &mut loaded, recorder)?;
            }
            (Workload::KvPressure(pressure), LaunchTask::Speed) => {
                let prompts = Prompts::new(cell)?;
                kv_pressure::run_trace(pressure, cell, &prompts, &mut loaded, recorder)?;
            }
            (Workload::KvPressure(pressure), LaunchTask::Quality) => {
                kv_pressure::run_texts(pressure, cell, &mut loaded, recorder)?;
            }
            (Workload::Adapt(adapt), LaunchTask::Quality) => adapt::run(adapt, cell, &mut loaded, recorder)?,
            (Workload::Adapt(adapt), LaunchTask::Speed) => {
                let prompts = Prompts::new(cell)?;
                adapt::run_speed(adapt, cell, &prompts, &mut loaded, recorder)?;
            }
            (Workload::Sona(stream), LaunchTask::Quality) => {
                sona::run(stream, cell, &mut loaded, artifacts, &mut streams, recorder)?;
            }
            (Workload::Sona(stream), LaunchTask::Speed) => sona::run_speed(stream, cell, &mut loaded, recorder)?,
            (
                Workload::Prefill(_)
                | Workload::Decode(_)
                | Workload::Perplexity(_)
                | Workload::KlDivergence(_)
                | Workload::KvPressure(_)
                | Workload::Train(_)
                | Workload::Continual(_)
                | Workload::Adapt(_)
                | Workload::Sona(_),
                _,
            ) => {}
        }
    }
    if task == LaunchTask::Speed {
        recorder.begin(String::new());
        recorder.finish_energy();
        match host::peak_rss_bytes() {
            Some(bytes) => recorder.once("peak_rss_bytes", Phase::Process, bytes as f64, 1),
            None => recorder.unavailable("peak_rss_bytes", "the kernel does not tell (/proc/self/status)".to_owned()),
        }
    }
    Ok(())
}
