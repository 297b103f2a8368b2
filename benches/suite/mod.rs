//! What the suites share: a benchmark is timed only after its result was verified, by whoever calls;
//! its figure is given as a share of what this machine could do at most, and one above that fails
//! the run, because then bytes or operations were counted wrongly, or work was left out.
mod machine;

use std::process::ExitCode;

use criterion::{
    BenchmarkId, Criterion, Throughput,
    measurement::{Measurement, WallTime},
};
use ruvlab_kernels::{Kernels, Tier, for_tier};

use machine::{Arithmetic, Machine};

/// A figure may be this much above a ceiling: two timings of the same thing differ by as much.
const JITTER: f64 = 1.03;

/// What one call of a benchmark does, of which nothing can be left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Work {
    /// Bytes read; in each pass, all of them once.
    pub(crate) read: usize,
    /// Bytes written, likewise.
    pub(crate) written: usize,
    /// How often the same bytes are gone through: what lies in a cache is that much smaller. None is one.
    pub(crate) passes: usize,
    /// Operations on floats; a multiply-add is two, an exponential one.
    pub(crate) float_operations: usize,
    /// Operations of products of integers; a multiply-add is two.
    pub(crate) integer_operations: usize,
    /// Threads that share it.
    pub(crate) threads: usize,
}

/// Returns the tiers this machine has.
pub(crate) fn tiers() -> impl Iterator<Item = &'static Kernels> {
    Tier::ALL.into_iter().filter_map(for_tier)
}

/// Panics unless what was computed is near what an independent computation says: `Σ (got − want)²` is
/// at most `bound` times `Σ want²`. NaN is never near.
pub(crate) fn verify(name: &str, got: &[f32], want: &[f64], bound: f64) {
    assert!(got.len() == want.len() && !got.is_empty(), "{name}: {} values, {} wanted", got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).powi(2)).sum();
    let power: f64 = want.iter().map(|want| want * want).sum();
    assert!(error <= bound * power, "{name}: NMSE {:e} is above {bound:e}", error / power);
}

/// The benchmarks of a program.
pub(crate) struct Suite {
    criterion: Criterion,
    machine: Machine,
    /// Figures above a ceiling.
    impossible: Vec<String>,
}

impl Suite {
    /// Returns one with the settings of the command line.
    pub(crate) fn new() -> Self {
        let criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(std::time::Duration::from_millis(100))
            .measurement_time(std::time::Duration::from_millis(400))
            .without_plots()
            .configure_from_args();
        Self { criterion, machine: Machine::new(), impossible: Vec::new() }
    }

    /// Returns whether benchmarks are timed, rather than only verified (`-- --test`).
    pub(crate) fn is_timing(&self) -> bool {
        let arguments: Vec<String> = std::env::args().collect();
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        has("--bench") && !has("--test")
    }

    /// Times `run`, which does `work`, as benchmark `group/who/what`.
    pub(crate) fn time(&mut self, group: &str, who: &str, what: &str, work: Work, mut run: impl FnMut()) {
        let mut fastest = f64::INFINITY;
        let mut benchmarks = self.criterion.benchmark_group(group);
        let elements = (work.float_operations + work.integer_operations) as u64;
        benchmarks.throughput(Throughput::ElementsAndBytes { elements, bytes: (work.read + work.written) as u64 });
        benchmarks.bench_function(BenchmarkId::new(who, what), |bencher| {
            bencher.iter_custom(|iterations| {
                let start = WallTime.start();
                for _ in 0..iterations {
                    run();
                }
                let elapsed = WallTime.end(start);
                fastest = fastest.min(elapsed.as_secs_f64() / iterations as f64);
                elapsed
            });
        });
        benchmarks.finish();
        // Infinite where a filter has left it out.
        if self.is_timing() && fastest.is_finite() {
            self.judge(&format!("{group}/{who}/{what}"), work, fastest);
        }
    }

    fn judge(&mut self, name: &str, work: Work, seconds: f64) {
        let mut limit = self.limit(work, false);
        // A probe may have been held up where the benchmark was not.
        for _ in 0..3 {
            if limit.0 > JITTER * seconds {
                limit = self.limit(work, true);
            }
        }
        let rate = |amount: usize| amount as f64 / seconds / 1.0e9;
        let (least, by) = limit;
        let figure = format!(
            "{name}: {:.2} GB/s, {:.2} GFLOP/s: {:.1} % of what {by} allows",
            rate(work.read + work.written),
            rate(work.float_operations + work.integer_operations),
            100.0 * least / seconds
        );
        #[expect(clippy::print_stderr, reason = "a benchmark's report")]
        {
            eprintln!("{figure}");
        }
        if least > JITTER * seconds {
            self.impossible.push(figure);
        }
    }

    /// Returns the least seconds the work takes, and what takes them.
    fn limit(&mut self, work: Work, again: bool) -> (f64, &'static str) {
        let threads = work.threads.max(1);
        let reading =
            work.read as f64 / self.machine.bandwidth(threads, (work.read + work.written) / work.passes.max(1), again);
        let mut multiplying = |operations: usize, kind| match operations {
            0 => 0.0,
            _ => operations as f64 / 2.0 / self.machine.multiply_adds(threads, kind, again),
        };
        let floats = multiplying(work.float_operations, Arithmetic::Floats);
        let integers = multiplying(work.integer_operations, Arithmetic::Integers);
        if reading >= floats + integers { (reading, "reading") } else { (floats + integers, "multiplying") }
    }

    /// Says what the ceilings were, and fails if a figure was above one.
    pub(crate) fn finish(self) -> ExitCode {
        self.criterion.final_summary();
        #[expect(clippy::print_stderr, reason = "a benchmark's report")]
        {
            self.machine.ceilings().for_each(|line| eprintln!("this machine: {line}"));
            self.impossible.iter().for_each(|figure| eprintln!("impossible: {figure}"));
        }
        if self.impossible.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
