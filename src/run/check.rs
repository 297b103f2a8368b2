//! A cell beside its baseline: both arms in every round, in random order, in one run directory.
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    event::Arm,
    metrics::SampleRow,
    plan::{Cell, LaunchTask},
    results::{Manifest, RunKind, RunState},
};

use super::{Context, Observer, RunError, Session, session::Step};

/// What is compared with what.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The cell under test.
    pub candidate: Cell,
    /// What it is held against.
    pub baseline: Cell,
}

/// The programs that run the two arms: the same one, unless builds are compared.
#[derive(Clone, Debug)]
pub struct Executables {
    /// Runs the candidate arm.
    pub candidate: PathBuf,
    /// Runs the baseline arm.
    pub baseline: PathBuf,
}

/// A comparison being measured.
pub struct PairRun {
    /// What is compared.
    pub pair: Pair,
    session: Session,
    blocks: u32,
    order: ChaCha8Rng,
}

impl PairRun {
    /// Begins a comparison in a run directory of its own, under the candidate's cell.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made.
    pub fn create(context: &Context<'_>, pair: Pair) -> Result<Self, RunError> {
        let session = Session::create(context, &pair.candidate, RunKind::Check)?;
        let seed = *blake3::hash(session.writer().manifest().run_id.as_bytes()).as_bytes();
        Ok(Self { pair, session, blocks: 0, order: ChaCha8Rng::from_seed(seed) })
    }

    /// Returns the rounds measured so far.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Returns the run's manifest as it stands.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.session.writer().manifest()
    }

    /// Returns what was measured so far, both arms.
    #[must_use]
    pub fn rows(&self) -> Vec<SampleRow> {
        self.session.writer().rows()
    }

    /// Returns exit code and reason of the launch that failed, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<&(u8, String)> {
        self.session.failure()
    }

    /// Runs what is done once: the candidate's numerical check and both arms' deterministic
    /// workloads.
    ///
    /// # Errors
    ///
    /// If a child cannot be started or the journal not be written.
    pub fn once(
        &mut self,
        context: &Context<'_>,
        executables: &Executables,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        for (arm, task) in [
            (Arm::Candidate, LaunchTask::Verify),
            (Arm::Candidate, LaunchTask::Quality),
            (Arm::Baseline, LaunchTask::Quality),
        ] {
            self.launch(context, executables, arm, task, 0, 0, observer)?;
        }
        Ok(())
    }

    /// Runs one round: one timed launch of each arm, in random order.
    ///
    /// # Errors
    ///
    /// If a child cannot be started or the journal not be written.
    pub fn round(
        &mut self,
        context: &Context<'_>,
        executables: &Executables,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let mut arms = [Arm::Candidate, Arm::Baseline];
        if self.order.random() {
            arms.reverse();
        }
        for (slot, arm) in (0..).zip(arms) {
            self.launch(context, executables, arm, LaunchTask::Speed, self.blocks, slot, observer)?;
        }
        self.blocks += 1;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one call place each; a struct would only rename them")]
    fn launch(
        &mut self,
        context: &Context<'_>,
        executables: &Executables,
        arm: Arm,
        task: LaunchTask,
        block: u32,
        slot: u32,
        observer: &mut dyn Observer,
    ) -> Result<(), RunError> {
        let (cell, executable): (&Cell, &Path) = match arm {
            Arm::Candidate => (&self.pair.candidate, &executables.candidate),
            Arm::Baseline => (&self.pair.baseline, &executables.baseline),
        };
        let stopped = context.interrupt.signal().is_some() || self.session.failure().is_some();
        if stopped || !cell.has_task(task) {
            return Ok(());
        }
        self.session.launch(context, executable, &Step { cell, arm, task, block, slot }, observer)?;
        Ok(())
    }

    /// Ends the comparison and writes its Parquet files.
    ///
    /// # Errors
    ///
    /// If they cannot be written; the journal is kept.
    pub fn finish(self, state: RunState) -> Result<Manifest, RunError> {
        self.session.finish(state)
    }
}
