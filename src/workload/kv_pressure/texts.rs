//! The untimed part: what a limited cache predicts, held against one without limit.
use super::{
    super::{
        error::LaunchError,
        kl_divergence::{Totals, score},
        opened::{Loaded, engine_kind, load_engine, open_weights},
        recorder::Recorder,
        windows::Windows,
    },
    drive::{Request, Stepped, drive},
    needles, nothing_fits,
};
use crate::{
    engine::{Chunk, EngineError, LanguageModel, LogitRows, Logits, SequenceId},
    event::{Phase, TokenScore},
    plan::{self, Cell},
    recipe::schema::KvPressure,
};

/// Parts of a text that have a value each.
const STRETCHES: usize = 16;

/// The cache without limit and with keys and values of 16 bits at least, fed the same tokens in the same pieces.
struct Unlimited {
    engine: Box<dyn LanguageModel>,
    /// Of each request, and how many tokens it was given.
    sequences: Vec<Option<(SequenceId, usize)>>,
}

impl Unlimited {
    fn step(&mut self, sequence: SequenceId, tokens: &[u32], logits: LogitRows) -> Result<Logits, EngineError> {
        let logits = self.engine.step(&[Chunk { sequence, tokens, logits }])?;
        // A step answers every chunk it is given.
        logits.into_iter().next().ok_or(EngineError::EmptyChunk)
    }

    /// Returns the logits of a part of a request, whose sequence may have begun again.
    fn follow(&mut self, request: usize, all: &[u32], start: usize, length: usize) -> Result<Logits, EngineError> {
        let (sequence, done) = match self.sequences[request] {
            Some((sequence, done)) if done <= start => (sequence, done),
            other => {
                if let Some((sequence, _)) = other {
                    self.engine.close(sequence);
                }
                (self.engine.open()?, 0)
            }
        };
        if done < start {
            self.step(sequence, &all[done..start], LogitRows::Last)?;
        }
        let logits = self.step(sequence, &all[start..start + length], LogitRows::All)?;
        self.sequences[request] = Some((sequence, start + length));
        if start + length == all.len() {
            self.engine.close(sequence);
            self.sequences[request] = None;
        }
        Ok(logits)
    }
}

pub(in crate::workload) fn run(
    pressure: &KvPressure,
    cell: &Cell,
    loaded: &mut Loaded,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let label = recorder.workload().to_owned();
    let windows = Windows::new(cell, &loaded.tokenizer, &pressure.text, pressure.n_ctx, Some(pressure.concurrency))?;
    windows.all_of(pressure.concurrency, &pressure.text)?;
    // A page at once: rows of a page see each other as they are written, and what is older as it is kept.
    let piece = cell.recipe.kv_cache.page_tokens as usize;
    let (requests, targets): (Vec<Request>, Vec<Vec<u32>>) = windows
        .iter()
        .map(|window| {
            let (tokens, targets) = window.whole();
            (Request { tokens, prompt: piece.min(targets.len()), piece }, targets)
        })
        .unzip();
    let weights = open_weights(cell)?;
    let settings = plan::engine_settings(cell).unlimited().with_wide_cache();
    let engine = load_engine(cell, engine_kind(cell.kernel_set)?, &weights, &settings)?;
    let mut unlimited = Unlimited { engine, sequences: vec![None; requests.len()] };
    let mut scores: Vec<Vec<Option<TokenScore>>> = targets.iter().map(|targets| vec![None; targets.len()]).collect();
    let total = targets.iter().map(Vec::len).sum::<usize>() as u64;
    let mut done = 0;
    let fate = drive(
        loaded.engine.as_mut(),
        &requests,
        pressure.concurrency as usize,
        LogitRows::All,
        |step: Stepped<'_>| -> Result<(), LaunchError> {
            for (part, found) in step.parts.iter().zip(step.logits) {
                let right = unlimited.follow(part.request, &requests[part.request].tokens, part.start, part.length)?;
                for row in 0..found.rows.min(part.length) {
                    let place = part.start + row;
                    let position = u32::try_from(place + 1).unwrap_or(u32::MAX);
                    let target = targets[part.request][place];
                    scores[part.request][place] = Some(score(right.row(row), found.row(row), target, position));
                }
                done += part.length as u64;
            }
            recorder.progress(done.min(total), total);
            Ok(())
        },
    )?;
    if fate.dropped > 0 {
        let what = format!("{} of {} texts of {} tokens", fate.dropped, requests.len(), pressure.n_ctx);
        return Err(nothing_fits(&label, what, loaded));
    }
    report(cell, &scores, &label, recorder)?;
    if pressure.needles > 0 {
        needles::run(pressure, cell, loaded, unlimited.engine.as_mut(), recorder)?;
    }
    Ok(())
}

fn report(
    cell: &Cell,
    scores: &[Vec<Option<TokenScore>>],
    label: &str,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let length = scores.iter().map(Vec::len).max().unwrap_or(0);
    let all = |range: std::ops::Range<usize>| -> Vec<TokenScore> {
        let within = |text: &Vec<Option<TokenScore>>| text.get(range.clone()).unwrap_or(&[]).to_vec();
        scores.iter().flat_map(within).flatten().collect()
    };
    let stretch = length.div_ceil(STRETCHES).max(1);
    for start in (0..length).step_by(stretch) {
        let of = all(start..(start + stretch).min(length));
        let n = of.len() as u64;
        if n == 0 {
            continue;
        }
        let mean = |value: fn(&TokenScore) -> f64| of.iter().map(value).sum::<f64>() / n as f64;
        for (metric, value) in [
            ("kl_at_position", mean(|score| score.kl_divergence)),
            ("nll_at_position", mean(|score| score.nll)),
            ("reference_nll_at_position", mean(|score| score.reference_nll)),
        ] {
            recorder.at_step(metric, Phase::Eval, value, n, start as u64 + 1);
        }
    }
    let mut totals = Totals::default();
    for (window, text) in (0..).zip(scores) {
        // As in a divergence: the second half of each text is what counts.
        let second: Vec<TokenScore> = text.iter().skip(text.len().div_ceil(2)).flatten().copied().collect();
        if second.is_empty() {
            continue;
        }
        let of = Totals::of(&second);
        if !of.is_finite() {
            let problem = format!("the divergence of text {window} is no number");
            return Err(LaunchError::Numerics { workload: label.to_owned(), problem });
        }
        of.record_window(recorder, window);
        if cell.recipe.measure.token_trace {
            recorder.scores(window, text.iter().flatten().copied().collect());
        }
        totals.add(of);
    }
    totals.record(recorder);
    Ok(())
}
