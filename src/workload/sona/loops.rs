//! The loops of a recipe, before anything was learned.
use std::{path::Path, sync::Arc, time::Duration};

use super::{
    deep,
    texts::{CALIBRATION, Texts, pair},
};
use crate::{
    adapt::{
        micro_lora::{Directions, MicroLoraError},
        registry::{Limits, Registry},
    },
    plan::Cell,
    recipe::schema::{Sona as Section, SonaStream},
    sona::{BackgroundSettings, CacheSettings, MemorySettings, Passage, Sona, SonaSettings},
    workload::{adapt::settings, error::LaunchError, opened::Loaded, prompt::derive_seed},
};

/// What the loops may publish.
const LIMITS: Limits = Limits { adapters: 256, bytes: 4 << 30 };

/// Returns which loops a recipe runs, and how.
fn loops(section: &Section, cell: &Cell) -> SonaSettings {
    let Section { init: _, instant, background, deep: _, replay_requests, held_out_requests, max_drift: _ } = section;
    let background = background.as_ref().filter(|own| own.enabled);
    SonaSettings {
        micro: settings(cell),
        instant: instant.as_ref().filter(|own| own.enabled).map(|own| CacheSettings {
            tokens: own.cache_tokens as usize,
            neighbours: own.cache_neighbours as usize,
            theta: own.cache_theta,
            share: own.cache_share,
            general_weight: own.general_weight,
        }),
        background: background.map(|own| BackgroundSettings {
            patterns: own.patterns as usize,
            batch: own.batch_size as usize,
            judges: own.judges as usize,
            similarity: own.similarity,
            slice: None,
        }),
        memory: MemorySettings {
            replayed: *replay_requests as usize,
            held_out: *held_out_requests as usize,
            patterns: background.map_or(1, |own| own.patterns as usize),
            extract_every: background.map_or(u64::MAX, |own| own.extract_every),
            seed: derive_seed("sona", cell.seed, 0, 0),
        },
    }
}

/// Returns the mean of rows.
fn mean_row(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64; width];
    rows.chunks_exact(width).for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x)));
    let count = (rows.len() / width) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

/// Returns loops that know nothing yet, or what their recipe says they begin with; slices are limited where time is measured.
pub(super) fn begin(
    stream: &SonaStream,
    cell: &Cell,
    loaded: &mut Loaded,
    texts: &Texts,
    is_timed: bool,
) -> Result<Sona, LaunchError> {
    let mut inputs = Vec::new();
    let calibration: Vec<_> = (0..CALIBRATION).map(|index| pair(&texts.general, stream, (0, index))).collect();
    for (prompt, answer) in &calibration {
        inputs.extend(Passage::read(loaded.engine.as_mut(), None, prompt, answer)?.hidden);
    }
    let spec = loaded.engine.spec();
    let nothing = || MicroLoraError::Setting("the head's inputs of the general text are all zero".to_owned());
    let directions = Directions::even(&inputs, spec.hidden_size).ok_or_else(nothing)?;
    let center = mean_row(&inputs, spec.hidden_size);
    let section = cell.recipe.sona.clone().unwrap_or_default();
    let mut own = loops(&section, cell);
    if let (Some(own), Some(written), true) = (&mut own.background, &section.background, is_timed) {
        own.slice = Some(Duration::from_millis(written.slice_ms));
    }
    let sona = Sona::new(&own, spec, &directions, center, Arc::new(Registry::new(LIMITS)))?;
    let sona = match section.deep.filter(|own| own.enabled && !is_timed) {
        Some(deep) => deep::add(sona, (&deep, section.held_out_requests as usize), cell, texts, stream)?,
        None => sona,
    };
    let mut sona = sona.with_reserve(loaded.engine.as_mut(), calibration, section.max_drift)?;
    if let Some(init) = section.init {
        sona.read(loaded.engine.as_mut(), Path::new(&init))?;
    }
    Ok(sona)
}
