//! Which launches a plan needs, and in what order.
use std::path::Path;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    event::Arm,
    exit,
    host::Host,
    metrics::{self, SampleRow, stats},
    plan::{Cell, LaunchTask, Plan},
    recipe::schema::Order,
    results::{Manifest, RunKind, RunState, Store},
};

use super::{Context, Observer, RunError, Session, session::Step};

/// The metrics whose interval decides when a cell has enough launches.
const STOP_METRICS: [&str; 3] = ["prefill_tok_s", "decode_tok_s", "trace_tok_s"];

/// Which cells are measured again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rerun {
    /// Only those without enough launches.
    #[default]
    Missing,
    /// Those that failed, too.
    Failed,
    /// All, each in a new run.
    All,
}

/// What became of a cell.
#[derive(Clone, Debug, PartialEq)]
pub struct CellOutcome {
    /// The cell.
    pub cell: Cell,
    /// Its run.
    pub manifest: Manifest,
    /// Whether the results were there already.
    pub cached: bool,
    /// The exit code a failed launch asked for.
    pub exit_code: Option<u8>,
}

struct Work {
    session: Session,
    /// Launches of the speed task that finished well.
    replicates: u32,
    enough: bool,
}

/// Measures every cell that lacks results and returns what became of each, in the plan's order.
///
/// Once a cell: its numerical check, then its deterministic workloads. Then rounds of one timed
/// launch a cell, in random order inside each round, until a cell's intervals are narrow enough or
/// its maximum is reached.
///
/// # Errors
///
/// If a child cannot be started or the store not be written. A failed launch is an outcome.
pub fn execute(
    plan: &Plan,
    context: &Context<'_>,
    rerun: Rerun,
    observer: &mut dyn Observer,
) -> Result<Vec<CellOutcome>, RunError> {
    let executable = super::own_executable()?;
    context.store.set_plan(plan)?;
    let mut outcomes: Vec<Option<CellOutcome>> = plan.cells.iter().map(|_| None).collect();
    let mut work: Vec<(usize, Work)> = Vec::new();
    for (index, cell) in plan.cells.iter().enumerate() {
        match open(context, cell, rerun)? {
            Opened::Cached(manifest) => {
                observer.cached(cell);
                outcomes[index] =
                    Some(CellOutcome { cell: cell.clone(), manifest: *manifest, cached: true, exit_code: None });
            }
            Opened::Work(session) => work.push((index, *session)),
        }
    }
    observer.expect(work.iter().map(|(_, work)| expected_launches(work)).sum());
    once_tasks(context, &executable, &mut work, observer)?;
    let cached = outcomes.iter().flatten().map(|outcome| outcome.manifest.launches_complete);
    let cached_blocks = cached.max().unwrap_or(0);
    rounds(plan, context, &executable, &mut work, cached_blocks, observer)?;
    for (index, work) in work {
        let exit_code = work.session.failure().map(|(code, _)| *code);
        let state = match exit_code {
            Some(exit::NUMERICS) => RunState::Invalid,
            Some(_) => RunState::Failed,
            None if work.enough => RunState::Complete,
            None => RunState::Interrupted,
        };
        let cell = work.session.cell.clone();
        let manifest = work.session.finish(state)?;
        outcomes[index] = Some(CellOutcome { cell, manifest, cached: false, exit_code });
    }
    Ok(outcomes.into_iter().flatten().collect())
}

enum Opened {
    Cached(Box<Manifest>),
    Work(Box<Work>),
}

/// What is stored of a cell, as a run on this machine would see it.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// Nothing that counts here.
    Missing,
    /// All launches it needs.
    Complete(Manifest),
    /// Some of its launches; a run goes on with it.
    Partial(Manifest),
    /// A failure, tried again only when asked.
    Failed(Manifest),
}

/// Returns what is stored of a cell.
#[must_use]
pub fn stored(store: &Store, host: &Host, cell: &Cell) -> Stored {
    let Some(manifest) = store.latest_on(host, &cell.recipe.name, &cell.hash) else {
        return Stored::Missing;
    };
    match manifest.state {
        RunState::Failed | RunState::Invalid => Stored::Failed(manifest),
        // Launches to come would have traces and those there are would not: it starts anew.
        _ if lacks_traces(store, &manifest, cell) => Stored::Missing,
        RunState::Complete if suffices(store, &manifest, cell) => Stored::Complete(manifest),
        // Where more launches are wished for than there are, a complete run goes on, too.
        _ if manifest.resume_problem(host).is_none() => Stored::Partial(manifest),
        // What a new build finds is no continuation: it starts anew.
        _ => Stored::Missing,
    }
}

/// Returns whether a run was measured without the traces of tokens that a cell asks for.
fn lacks_traces(store: &Store, manifest: &Manifest, cell: &Cell) -> bool {
    let keeps = |cell: &Cell| cell.recipe.measure.token_trace;
    keeps(cell) && store.cell(manifest).is_ok_and(|measured| !keeps(&measured)) && cell.has_traces()
}

/// Returns whether a complete run has the launches that a cell wants, which need not be those it was
/// measured for. Its samples are read only where the number of launches leaves that open.
fn suffices(store: &Store, manifest: &Manifest, cell: &Cell) -> bool {
    let (min, max) = needed(cell);
    let replicates = manifest.launches_complete.checked_sub(once_launches(cell));
    replicates.is_some_and(|replicates| {
        let found_narrow = || store.load(manifest).is_ok_and(|record| is_narrow(cell, &record.samples));
        replicates >= min && (replicates >= max || found_narrow())
    })
}

fn open(context: &Context<'_>, cell: &Cell, rerun: Rerun) -> Result<Opened, RunError> {
    let session = match (stored(context.store, context.host, cell), rerun) {
        (Stored::Complete(manifest), Rerun::Missing | Rerun::Failed) | (Stored::Failed(manifest), Rerun::Missing) => {
            return Ok(Opened::Cached(Box::new(manifest)));
        }
        (Stored::Partial(manifest), Rerun::Missing | Rerun::Failed) => Session::reopen(context, cell, &manifest)?,
        (_, _) => Session::create(context, cell, RunKind::Run)?,
    };
    let replicates = session.finished(LaunchTask::Speed);
    let mut work = Work { session, replicates, enough: false };
    work.enough = is_enough(&work);
    Ok(Opened::Work(Box::new(work)))
}

/// Returns the least and the most speed launches a cell wants.
fn needed(cell: &Cell) -> (u32, u32) {
    if cell.has_task(LaunchTask::Speed) {
        let launches = &cell.recipe.measure.launches;
        (launches.min, launches.max)
    } else {
        (0, 0)
    }
}

/// Returns how many launches of a cell's complete run are no replicates: what is done once.
fn once_launches(cell: &Cell) -> u32 {
    let once = [LaunchTask::Verify, LaunchTask::Quality].into_iter().filter(|task| cell.has_task(*task));
    u32::try_from(once.count()).unwrap_or(u32::MAX)
}

fn missing_once(work: &Work) -> impl Iterator<Item = LaunchTask> {
    [LaunchTask::Verify, LaunchTask::Quality]
        .into_iter()
        .filter(|task| work.session.cell.has_task(*task) && work.session.finished(*task) == 0)
}

fn expected_launches(work: &Work) -> u64 {
    let once = missing_once(work).count() as u64;
    let (min, max) = needed(&work.session.cell);
    // Behind the minimum each launch is expected when the one before it was not enough.
    let more = u32::from(!work.enough && work.replicates < max);
    once + u64::from(min.saturating_sub(work.replicates).max(more))
}

fn once_tasks(
    context: &Context<'_>,
    executable: &Path,
    work: &mut [(usize, Work)],
    observer: &mut dyn Observer,
) -> Result<(), RunError> {
    for (_, work) in work {
        let tasks: Vec<LaunchTask> = missing_once(work).collect();
        for task in tasks {
            if context.interrupt.signal().is_some() || work.session.failure().is_some() {
                break;
            }
            let cell = work.session.cell.clone();
            let step = Step { cell: &cell, arm: Arm::Candidate, task, block: 0, slot: 0 };
            work.session.launch(context, executable, &step, observer)?;
        }
        work.enough = is_enough(work);
    }
    Ok(())
}

fn rounds(
    plan: &Plan,
    context: &Context<'_>,
    executable: &Path,
    work: &mut [(usize, Work)],
    cached_blocks: u32,
    observer: &mut dyn Observer,
) -> Result<(), RunError> {
    // Rounds of this session pair with no earlier one, of these cells or of those that are cached.
    let first_block = work.iter().map(|(_, work)| work.session.writer().next_block(LaunchTask::Speed.name())).max();
    let first_block = first_block.unwrap_or(0).max(cached_blocks);
    for block in first_block.. {
        let mut order: Vec<usize> =
            (0..work.len()).filter(|&i| !work[i].1.enough && work[i].1.session.failure().is_none()).collect();
        if order.is_empty() || context.interrupt.signal().is_some() {
            break;
        }
        if order.iter().any(|&i| work[i].1.session.cell.recipe.measure.order == Order::Interleaved) {
            order.shuffle(&mut round_rng(plan, block));
        }
        for (slot, i) in (0..).zip(order) {
            if context.interrupt.signal().is_some() {
                break;
            }
            let work = &mut work[i].1;
            let cell = work.session.cell.clone();
            let step = Step { cell: &cell, arm: Arm::Candidate, task: LaunchTask::Speed, block, slot };
            work.session.launch(context, executable, &step, observer)?;
            work.replicates = work.session.finished(LaunchTask::Speed);
            work.enough = is_enough(work);
            if !work.enough && work.replicates >= needed(&work.session.cell).0 {
                observer.expect(1);
            }
        }
    }
    Ok(())
}

/// Returns the generator of a round's order: random, yet the same for the same plan.
fn round_rng(plan: &Plan, block: u32) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    for cell in &plan.cells {
        hasher.update(cell.hash.as_bytes());
    }
    hasher.update(&block.to_le_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Returns whether a cell needs no further launch.
fn is_enough(work: &Work) -> bool {
    let (min, max) = needed(&work.session.cell);
    if work.session.failure().is_some() || missing_once(work).next().is_some() || work.replicates < min {
        return false;
    }
    work.replicates >= max || is_narrow(&work.session.cell, &work.session.writer().rows())
}

/// Returns whether the interval of every throughput is as narrow as a cell wants it.
fn is_narrow(cell: &Cell, rows: &[SampleRow]) -> bool {
    let target = cell.recipe.measure.launches.target_ci_half_width;
    let workloads = cell.recipe.workloads.iter().map(ToString::to_string);
    workloads.flat_map(|label| STOP_METRICS.map(|metric| (label.clone(), metric))).all(|(label, metric)| {
        let values: Vec<f64> = metrics::launch_values(rows, Arm::Candidate, metric, &label)
            .into_iter()
            .map(|(_, _, value)| value)
            .collect();
        let narrow = |interval: stats::Interval| interval.half_width() <= target * interval.middle().abs();
        values.is_empty() || stats::mean_interval(&values, 0.95).is_ok_and(|interval| interval.is_some_and(narrow))
    })
}
