//! Training of the recipe's adapter.
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    error::LaunchError,
    opened::{load_trainee, open_text, open_tokenizer, open_weights},
    recorder::Recorder,
};
use crate::{
    adapt::{
        checkpoint::{self, Bits},
        data::Dataset,
        file,
        peft::{self, Scaling},
        train::{self, Trainer, Update},
    },
    clock::Stopwatch,
    engine::{Adapter, Scored, TraineeSettings},
    event::Phase,
    host::{self, Load},
    model::{chat_template::ChatTemplate, tokenizer::Tokenizer, weights::Weights},
    plan::{self, Cell},
    recipe::schema::{self, Train, TrainEval, TrainSource, Training},
};

/// Checkpoints in all, where the recipe does not say how often.
const CHECKPOINTS: u64 = 10;
/// Evaluations in all, likewise.
const EVALUATIONS: u64 = 20;

/// One update, as a checkpoint remembers it.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Step {
    loss: Bits,
    grad_norm: Bits,
    learning_rate: Bits,
    tok_s: Bits,
    /// Tokens scored.
    scored: u64,
}

/// The best adapter so far, by held-out loss.
#[derive(Clone, Serialize, Deserialize)]
struct Best {
    nll: Bits,
    step: u64,
    /// Of A, B and magnitudes, by place, in the adapter's order.
    values: Vec<[Vec<f32>; 3]>,
}

/// What is known beside the weights.
#[derive(Clone, Serialize, Deserialize)]
struct Course {
    cell_hash: String,
    workload: String,
    steps: Vec<Step>,
    /// Updates made, held-out loss, tokens scored.
    evaluations: Vec<(u64, Bits, u64)>,
    best: Option<Best>,
    /// Evaluations since the best.
    stale: u32,
    tokens: u64,
    seconds: Bits,
}

/// Data and how it is drawn.
struct Source<'a> {
    cell: &'a Cell,
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    length: usize,
    packing: bool,
}

impl Source<'_> {
    fn open(&self, label: &str, source: Option<TrainSource<'_>>) -> Result<Dataset, LaunchError> {
        let wrong = |problem: String| LaunchError::Training { workload: label.to_owned(), problem };
        let source = source.ok_or_else(|| wrong("the recipe names nothing to learn from".to_owned()))?;
        let content = open_text(self.cell, source.name())?.content;
        let data = match source {
            TrainSource::Text(_) => Dataset::text(&content, self.tokenizer, self.length),
            TrainSource::Ids(_) => Dataset::ids(&content, self.length),
            TrainSource::Chat(_) => {
                let template = self.template.as_ref().ok_or_else(|| {
                    wrong("the model has no chat template: learn from `text`, or take an instruct model".to_owned())
                })?;
                Dataset::chats(&content, template, self.tokenizer, self.length, self.packing)
            }
        };
        data.map_err(|error| wrong(format!("{}: {error}", source.name())))
    }
}

/// Returns the adapter a training begins with, checked to be the one that was planned with.
fn beginning(cell: &Cell, adapter: &schema::Adapter, weights: &Weights) -> Result<(Adapter, Scaling), LaunchError> {
    let (begin, scaling) = plan::beginning(adapter, weights.spec(), cell.seed)?;
    if let Some(path) = &adapter.init
        && cell.texts.get(path).is_some_and(|planned| *planned != file::content_hash(&begin))
    {
        return Err(LaunchError::AdapterChanged { path: path.clone() });
    }
    Ok((begin, scaling))
}

/// A training under way.
struct Run<'a, 'r> {
    cell: &'a Cell,
    training: &'a Training,
    trainer: Trainer,
    data: Dataset,
    held_out: Option<(Vec<Vec<Scored<'a>>>, &'a TrainEval)>,
    course: Course,
    recorder: &'a mut Recorder<'r>,
}

pub(super) fn run(
    train: &Train,
    cell: &Cell,
    artifacts: Option<&Path>,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let label = recorder.workload().to_owned();
    let wrong = |problem: &str| LaunchError::Training { workload: label.clone(), problem: problem.to_owned() };
    let (Some(adapter), Some(training)) = (&cell.recipe.adapter, &cell.recipe.training) else {
        return Err(wrong("the recipe lacks `adapter` or `training`"));
    };
    let total = training.max_steps.ok_or_else(|| wrong("`training.max_steps` is missing"))?;
    let weights = open_weights(cell)?;
    let tokenizer = open_tokenizer(cell, &weights)?;
    let template = ChatTemplate::from_metadata(&weights.index().metadata, &tokenizer)
        .map_err(|error| wrong(&format!("chat template: {error}")))?;
    let (length, packing) = (training.sequence_length as usize, train.packing);
    let source = Source { cell, tokenizer: &tokenizer, template, length, packing };
    let data = source.open(&label, train.source())?;
    let most = train.eval.as_ref().and_then(|eval| eval.max_sequences).map(|most| most as usize);
    let held_out =
        train.eval.as_ref().map(|eval| Ok::<_, LaunchError>((source.open(&label, eval.source())?.first(most), eval)));
    let held_out = held_out.transpose()?;
    let (begin, scaling) = beginning(cell, adapter, &weights)?;
    // Half of what is free: activations need room, too.
    let free = Load::now().memory_available_bytes.unwrap_or(0);
    let held =
        TraineeSettings { widen: weights.parameters() * 8 <= free / 2, recompute: training.gradient_checkpointing };
    let trainee = load_trainee(cell, &weights, &begin, held)?;
    let course = Course {
        cell_hash: cell.hash.clone(),
        workload: label.clone(),
        steps: Vec::new(),
        evaluations: Vec::new(),
        best: None,
        stale: 0,
        tokens: 0,
        seconds: 0.0.into(),
    };
    let mut trainer = Trainer::of(trainee, begin, plan::training_settings(training));
    plan::prepare(&mut trainer, adapter, cell.seed)?;
    let mut run = Run {
        cell,
        training,
        trainer,
        data,
        held_out: held_out.as_ref().map(|(data, eval)| (batches(data, training.batch_size), *eval)),
        course,
        recorder,
    };
    let folder = artifacts.map(|folder| folder.join(file_name(&label)));
    let checkpoints = folder.as_ref().map(|folder| folder.join("checkpoints"));
    run.resume(checkpoints.as_deref())?;
    let every = train.checkpoint_every_steps.unwrap_or_else(|| total.div_ceil(CHECKPOINTS)).max(1);
    run.learn(total, every, checkpoints.as_deref())?;
    let trained = run.finish();
    if let Some(folder) = folder {
        peft::write(&folder.join("adapter"), weights.spec(), &cell.recipe.model.source, &trained, scaling)?;
    }
    Ok(())
}

/// Returns a label as the name of a folder.
pub(super) fn file_name(label: &str) -> PathBuf {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    label.chars().map(plain).collect::<String>().trim_matches(['-', '.']).into()
}

fn batches(data: &Dataset, size: u32) -> Vec<Vec<Scored<'_>>> {
    let portions: Vec<usize> = (0..data.len()).collect();
    portions.chunks(size as usize).map(|some| some.iter().flat_map(|at| data.portion(*at)).collect()).collect()
}

impl Run<'_, '_> {
    fn numerics(&self, problem: String) -> LaunchError {
        LaunchError::Numerics { workload: self.recorder.workload().to_owned(), problem }
    }

    /// Goes on from the newest checkpoint, and records again what led there: a launch that was stopped
    /// does not count, so the one that ends must have it all.
    fn resume(&mut self, folder: Option<&Path>) -> Result<(), LaunchError> {
        let Some(folder) = folder else { return Ok(()) };
        let Some(course) = checkpoint::restore::<Course>(folder, &mut self.trainer)? else { return Ok(()) };
        let steps = self.trainer.steps();
        let own = (&self.course.cell_hash, &self.course.workload) == (&course.cell_hash, &course.workload);
        if !own || course.steps.len() as u64 != steps {
            return Err(LaunchError::Training {
                workload: self.course.workload.clone(),
                problem: format!("the checkpoint in {} is of another training", folder.display()),
            });
        }
        self.course = course;
        for (step, done) in (0..).zip(self.course.steps.clone()) {
            self.record(step, done);
        }
        for (step, nll, n) in self.course.evaluations.clone() {
            self.recorder.at_step("train_eval_nll", Phase::Train, nll.into(), n, step);
        }
        Ok(())
    }

    fn record(&mut self, step: u64, done: Step) {
        let Step { loss, grad_norm, learning_rate, tok_s, scored } = done;
        for (metric, value) in [
            ("train_loss", loss),
            ("train_grad_norm", grad_norm),
            ("train_learning_rate", learning_rate),
            ("train_tok_s", tok_s),
        ] {
            self.recorder.at_step(metric, Phase::Train, value.into(), scored, step);
        }
    }

    fn learn(&mut self, total: u64, checkpoint_every: u64, folder: Option<&Path>) -> Result<(), LaunchError> {
        let eval_every =
            self.held_out.as_ref().map(|(_, eval)| eval.every_steps.unwrap_or(total.div_ceil(EVALUATIONS)));
        while self.trainer.steps() < total {
            let step = self.trainer.steps();
            self.recorder.progress(step, total);
            if eval_every.is_some_and(|every| step.is_multiple_of(every)) && self.evaluate(step)? {
                return Ok(());
            }
            self.update(step)?;
            let done = step + 1;
            if let Some(folder) = folder.filter(|_| done.is_multiple_of(checkpoint_every) && done < total) {
                checkpoint::write(folder, &self.trainer, &self.course)?;
            }
        }
        self.recorder.progress(total, total);
        if self.held_out.is_some() {
            self.evaluate(total)?;
        }
        Ok(())
    }

    fn update(&mut self, step: u64) -> Result<(), LaunchError> {
        let (batch, micro) =
            (u64::from(self.training.batch_size), u64::from(self.training.gradient_accumulation_steps));
        let (data, seed) = (&self.data, self.cell.seed);
        let batches: Vec<Vec<Scored<'_>>> = (step * micro..(step + 1) * micro)
            .map(|part| {
                let draws = part * batch..(part + 1) * batch;
                draws.flat_map(|at| data.portion(train::drawn(data.len(), seed, at))).collect()
            })
            .collect();
        let tokens: u64 = batches.iter().flatten().map(|scored| scored.tokens.len() as u64 - 1).sum();
        let stopwatch = Stopwatch::start();
        let Update { loss, grad_norm, learning_rate, tokens: scored, .. } = self.trainer.step(&batches)?;
        let seconds = stopwatch.elapsed().as_secs_f64();
        if !loss.is_finite() || !grad_norm.is_finite() {
            let problem = format!(
                "step {step}: the loss is {loss}, the gradient's norm {grad_norm}; lower `training.learning_rate` or set `training.max_grad_norm`"
            );
            return Err(self.numerics(problem));
        }
        let done = Step {
            loss: loss.into(),
            grad_norm: grad_norm.into(),
            learning_rate: learning_rate.into(),
            tok_s: (tokens as f64 / seconds).into(),
            scored: scored as u64,
        };
        self.record(step, done);
        self.course.steps.push(done);
        self.course.tokens += tokens;
        self.course.seconds = (f64::from(self.course.seconds) + seconds).into();
        Ok(())
    }

    /// Scores what is held out and returns whether it has long been no better.
    fn evaluate(&mut self, step: u64) -> Result<bool, LaunchError> {
        let Some((batches, eval)) = &self.held_out else { return Ok(false) };
        // A training that goes on from here has this behind it.
        if self.course.evaluations.last().is_some_and(|(last, ..)| *last == step) {
            return Ok(eval.patience.is_some_and(|patience| self.course.stale >= patience));
        }
        let (nll, tokens) = self.trainer.evaluate(batches)?;
        let patience = eval.patience;
        if !nll.is_finite() {
            return Err(self.numerics(format!("the held-out loss after {step} steps is {nll}")));
        }
        self.recorder.at_step("train_eval_nll", Phase::Train, nll, tokens as u64, step);
        self.course.evaluations.push((step, nll.into(), tokens as u64));
        if self.course.best.as_ref().is_some_and(|best| nll >= f64::from(best.nll)) {
            self.course.stale += 1;
        } else {
            let values = self.trainer.adapter().values().map(|change| change.values().map(<[f32]>::to_vec)).collect();
            self.course.best = Some(Best { nll: nll.into(), step, values });
            self.course.stale = 0;
        }
        Ok(patience.is_some_and(|patience| self.course.stale >= patience))
    }

    /// Records what is known at the end and returns the adapter to keep.
    fn finish(self) -> Adapter {
        let Self { trainer, course, recorder, .. } = self;
        let mut adapter = trainer.adapter().clone();
        if let Some(last) = course.steps.last() {
            recorder.once("train_loss", Phase::Train, last.loss.into(), last.scored);
        }
        recorder.once("train_tok_s", Phase::Train, course.tokens as f64 / f64::from(course.seconds), course.tokens);
        if let Some(Best { nll, step, values }) = course.best {
            let tokens = course.evaluations.last().map_or(0, |(_, _, tokens)| *tokens);
            recorder.once("train_eval_nll", Phase::Train, nll.into(), tokens);
            recorder.once("train_best_step", Phase::Train, step as f64, 1);
            for (change, best) in adapter.values_mut().zip(&values) {
                change.values_mut().into_iter().zip(best).for_each(|(own, best)| own.copy_from_slice(best));
            }
        }
        match host::peak_rss_bytes() {
            Some(bytes) => recorder.once("train_peak_bytes", Phase::Process, bytes as f64, 1),
            None => recorder.unavailable("train_peak_bytes", "the kernel does not tell (/proc/self/status)".to_owned()),
        }
        adapter
    }
}
