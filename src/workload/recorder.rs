//! From measured values to events.
use crate::{
    clock::Stopwatch,
    event::{
        CacheTransition, Event, LearningRequest, LearningStep, Phase, Sample, ScoreTrace, Sink, TokenScore, TokenTrace,
    },
    host::EnergyReading,
    kv::Transition,
    sona::Account,
};

/// Progress is reported no more often than this.
const PROGRESS_NS: u64 = 100_000_000;

/// Where the measured values of a launch go.
pub(super) struct Recorder<'a> {
    launch: u32,
    clock: Stopwatch,
    sink: &'a mut dyn Sink,
    workload: String,
    rep: u32,
    warmup: bool,
    last_progress_ns: Option<u64>,
    /// Of what was metered so far.
    energy: Option<Result<f64, String>>,
}

impl<'a> Recorder<'a> {
    pub(super) fn new(launch: u32, sink: &'a mut dyn Sink) -> Self {
        let clock = Stopwatch::start();
        let workload = String::new();
        Self { launch, clock, sink, workload, rep: 0, warmup: false, last_progress_ns: None, energy: None }
    }

    /// What is recorded from now on belongs to this workload.
    pub(super) fn begin(&mut self, workload: String) {
        (self.workload, self.rep, self.warmup, self.last_progress_ns) = (workload, 0, false, None);
    }

    pub(super) fn workload(&self) -> &str {
        &self.workload
    }

    /// What is recorded from now on belongs to this repetition.
    pub(super) fn repetition(&mut self, rep: u32, warmup: bool) {
        (self.rep, self.warmup) = (rep, warmup);
    }

    fn sample(&mut self, metric: &str, phase: Phase, value: f64, n: u64, step: Option<u64>) {
        let sample = Sample {
            metric: metric.to_owned(),
            phase,
            workload: self.workload.clone(),
            rep: self.rep,
            warmup: self.warmup,
            value,
            n,
            t_ns: self.clock.elapsed_ns(),
            step,
            task: None,
            trained_through: None,
        };
        self.sink.event(&Event::Sample { launch: self.launch, sample });
    }

    /// Records a value of this workload or repetition.
    pub(super) fn once(&mut self, metric: &str, phase: Phase, value: f64, n: u64) {
        self.sample(metric, phase, value, n, None);
    }

    /// Records a value of one position inside this workload.
    pub(super) fn at_step(&mut self, metric: &str, phase: Phase, value: f64, n: u64, step: u64) {
        self.sample(metric, phase, value, n, Some(step));
    }

    /// Records a value of one task after so many had been learned; `step` tells such values apart.
    pub(super) fn of_task(
        &mut self,
        metric: &str,
        value: f64,
        n: u64,
        (task, trained_through): (&str, u32),
        step: u64,
    ) {
        let sample = Sample {
            metric: metric.to_owned(),
            phase: Phase::Eval,
            workload: self.workload.clone(),
            rep: self.rep,
            warmup: self.warmup,
            value,
            n,
            t_ns: self.clock.elapsed_ns(),
            step: Some(step),
            task: Some(task.to_owned()),
            trained_through: Some(trained_through),
        };
        self.sink.event(&Event::Sample { launch: self.launch, sample });
    }

    pub(super) fn tokens(&mut self, request: u32, tokens: Vec<crate::event::TokenTime>) {
        let trace = TokenTrace { workload: self.workload.clone(), rep: self.rep, request, warmup: self.warmup, tokens };
        self.sink.event(&Event::Tokens { launch: self.launch, trace });
    }

    /// Records the scored tokens of one window.
    pub(super) fn scores(&mut self, window: u32, tokens: Vec<TokenScore>) {
        let trace = ScoreTrace { workload: self.workload.clone(), window, t_ns: self.clock.elapsed_ns(), tokens };
        self.sink.event(&Event::Scores { launch: self.launch, trace });
    }

    /// Records what the cache did under pressure before a step.
    pub(super) fn transition(&mut self, step: u64, transition: Transition) {
        let Transition { kind, pages, before_bytes, after_bytes, duration_ns } = transition;
        let transition = CacheTransition {
            workload: self.workload.clone(),
            rep: self.rep,
            step,
            kind: kind.name().to_owned(),
            pages: pages as u64,
            before_bytes,
            after_bytes,
            duration_ns,
            t_ns: self.clock.elapsed_ns(),
        };
        self.sink.event(&Event::CacheTransition { launch: self.launch, transition });
    }

    /// Records a step of a learning loop, made after a request, and how far a transaction drifted.
    pub(super) fn learning_step(&mut self, request: u64, account: &Account, general_drift: Option<f64>) {
        let Account { of, decision, loss_before, loss_after, predicted_decrease, grad_norm, time, version } = *account;
        let step = LearningStep {
            workload: self.workload.clone(),
            request,
            of: of.name().to_owned(),
            decision: decision.name().to_owned(),
            loss_before,
            loss_after,
            predicted_decrease,
            grad_norm,
            duration_ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
            version,
            general_drift,
            t_ns: self.clock.elapsed_ns(),
        };
        self.sink.event(&Event::LearningStep { launch: self.launch, step });
    }

    /// Records a request that learning loops saw; its workload and time are filled in.
    pub(super) fn learning_request(&mut self, request: LearningRequest) {
        let request = LearningRequest { workload: self.workload.clone(), t_ns: self.clock.elapsed_ns(), ..request };
        self.sink.event(&Event::LearningRequest { launch: self.launch, request });
    }

    /// Reports progress, unless that was done a moment ago; the end always.
    pub(super) fn progress(&mut self, done: u64, total: u64) {
        let now = self.clock.elapsed_ns();
        if done < total && self.last_progress_ns.is_some_and(|last| now - last < PROGRESS_NS) {
            return;
        }
        self.last_progress_ns = Some(now);
        self.sink.event(&Event::Progress { launch: self.launch, workload: self.workload.clone(), done, total });
    }

    pub(super) fn unavailable(&mut self, metric: &str, reason: String) {
        self.sink.event(&Event::Unavailable { launch: self.launch, metric: metric.to_owned(), reason });
    }

    /// Runs one repetition and adds its energy to the launch's, unless it warms up.
    pub(super) fn metered<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        if self.warmup {
            return run(self);
        }
        let before = EnergyReading::now();
        let result = run(self);
        let used = before.and_then(|before| Ok(EnergyReading::now()?.joules_since(&before)));
        let earlier = self.energy.take().unwrap_or(Ok(0.0));
        self.energy = Some(earlier.and_then(|joules| Ok(joules + used?)));
        result
    }

    /// Records the energy of all repetitions, or once why there is none.
    pub(super) fn finish_energy(&mut self) {
        let nothing = || Err("it is measured of prefill, decode and kv_pressure, which this recipe lacks".to_owned());
        match self.energy.take().unwrap_or_else(nothing) {
            Ok(joules) => self.once("energy_j", Phase::Process, joules, 1),
            Err(reason) => self.unavailable("energy_j", reason),
        }
    }
}
