//! The threads of an engine: one closure on all of them, many thousand times a second.
//!
//! A token takes some hundred phases of a few microseconds, so waking threads through the system
//! would cost more than the work. Idle workers spin for a bounded time and then park; with more
//! threads than processors they park almost at once, because whoever they wait for needs the core.
use std::{
    any::Any,
    cell::{Cell, UnsafeCell},
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence},
    },
    thread::{self, JoinHandle, Thread},
};

/// Spins before parking: some tens of microseconds, longer than the gap between two phases.
const PATIENT_SPINS: u32 = 1500;
/// Spins where threads share processors.
const SHARED_SPINS: u32 = 20;

type Job = *const (dyn Fn(usize) + Sync);

/// A value alone on its cache lines (two: processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Alone<T>(T);

/// A thread that waits for a counter to change.
#[derive(Debug, Default)]
struct Sleeper {
    parked: AtomicBool,
}

impl Sleeper {
    /// Returns when `done` holds. `wake` of the thread that makes it hold comes afterwards.
    fn wait(&self, spins: &Patience, done: impl Fn() -> bool) {
        let most = spins.get();
        for _ in 0..most {
            if done() {
                spins.worked();
                return;
            }
            std::hint::spin_loop();
        }
        spins.failed(most);
        loop {
            // Either this store is seen by `wake`, or `done` sees what was stored before `wake`: both
            // sides use sequentially consistent accesses. The fence says it once more for emulators,
            // which run ARM's as acquire and release on processors that reorder those.
            self.parked.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if done() {
                self.parked.store(false, Ordering::SeqCst);
                return;
            }
            thread::park();
        }
    }

    fn wake(&self, thread: &Thread) {
        // The flag stays for whoever waits to clear: what woke is not always who waits now, where
        // several threads share a pool, and waking once too often costs nothing.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) {
            thread.unpark();
        }
    }
}

/// How long to spin: less after waits that spinning did not end, so that a machine whose cores are
/// busy with something else is not kept busy for nothing. Every few waits the whole patience is tried
/// again: without that, threads that were once held up would park in every wait from then on, however
/// short, because only spinning can show that waits have become short.
#[derive(Debug)]
struct Patience {
    most: u32,
    now: AtomicU32,
    waits: AtomicU32,
}

/// Of so many waits, one is spun out in full.
const TRIED_AGAIN: u32 = 4;

impl Patience {
    fn new(most: u32) -> Self {
        Self { most, now: AtomicU32::new(most), waits: AtomicU32::new(0) }
    }

    fn get(&self) -> u32 {
        let waits = self.waits.fetch_add(1, Ordering::Relaxed);
        if waits.is_multiple_of(TRIED_AGAIN) { self.most } else { self.now.load(Ordering::Relaxed) }
    }

    fn worked(&self) {
        let now = self.now.load(Ordering::Relaxed);
        if now < self.most {
            self.now.store((now * 4).min(self.most), Ordering::Relaxed);
        }
    }

    /// A wait that was given up early tells nothing.
    fn failed(&self, spins: u32) {
        if spins >= self.most {
            let now = self.now.load(Ordering::Relaxed);
            self.now.store((now / 2).max(SHARED_SPINS), Ordering::Relaxed);
        }
    }
}

struct Shared {
    /// Grows by one for each job.
    generation: Alone<AtomicUsize>,
    /// Workers that are not done with the job.
    running: Alone<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    caller: UnsafeCell<Option<Thread>>,
    caller_sleep: Sleeper,
    sleepers: Box<[Alone<Sleeper>]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    spins: u32,
}

// SAFETY: `job` and `caller` are written only by the thread inside `Pool::run` (which holds the lock
// `turn`) while no worker runs, and read by workers only between the generation that announces them
// (release, acquire) and the decrement of `running` that `run` waits for.
unsafe impl Sync for Shared {}
// SAFETY: a job is `Sync`, so its address may go to another thread.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread is inside a job.
    static WORKING: Cell<bool> = const { Cell::new(false) };
}

/// A fixed number of threads that run one closure at a time, the caller among them.
///
/// # Examples
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// let pool = ruvlab_kernels::Pool::new(3).unwrap();
/// let sum = AtomicUsize::new(0);
/// pool.run(&|worker| {
///     sum.fetch_add(worker, Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 0 + 1 + 2);
/// ```
pub struct Pool {
    shared: Arc<Shared>,
    turn: Mutex<()>,
    patience: Patience,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Pool {
    /// Returns a pool of `threads` threads, of which one is whoever calls [`Pool::run`].
    ///
    /// # Errors
    ///
    /// If the system refuses a thread.
    ///
    /// # Panics
    ///
    /// If `threads` is zero.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        Self::build(threads, false)
    }

    /// Returns a pool whose workers stay on one processor each; the caller is not pinned.
    ///
    /// Worker i runs on processor i of those this process may use, where there are that many.
    ///
    /// # Errors
    ///
    /// If the system refuses a thread.
    ///
    /// # Panics
    ///
    /// If `threads` is zero.
    pub fn pinned(threads: usize) -> std::io::Result<Self> {
        Self::build(threads, true)
    }

    fn build(threads: usize, pinned: bool) -> std::io::Result<Self> {
        assert!(threads > 0, "a pool has at least the caller's thread");
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let spins = if processors < threads { SHARED_SPINS } else { PATIENT_SPINS };
        let shared = Arc::new(Shared {
            generation: Alone::default(),
            running: Alone::default(),
            job: UnsafeCell::new(None),
            caller: UnsafeCell::new(None),
            caller_sleep: Sleeper::default(),
            sleepers: (1..threads).map(|_| Alone::default()).collect(),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            spins,
        });
        let mut pool =
            Self { shared, turn: Mutex::new(()), patience: Patience::new(spins), workers: Vec::with_capacity(threads) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("kernels-{index}")).spawn(move || {
                if pinned {
                    pin(index);
                }
                serve(&shared, index);
            })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Returns the number of threads, the caller's among them.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.sleepers.len() + 1
    }

    /// Calls `job(worker)` once for every worker in `0..threads`, at the same time, and returns when
    /// all are done; the caller is worker 0.
    ///
    /// What one call wrote is seen by the next. Calls from several threads take turns; a call from
    /// inside a job runs all workers' parts one after the other. Nothing is allocated.
    ///
    /// # Panics
    ///
    /// With the panic of a job, after all workers are done. The pool stays usable.
    pub fn run(&self, job: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || WORKING.get() {
            (0..self.threads()).for_each(job);
            return;
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: the lifetime is erased so that the address can lie in `Shared`. Workers use it only
        // until they have decremented `running`, and this function does not return before.
        let erased: Job =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job) };
        // SAFETY: `running` is zero, so no worker reads these; see `Shared`.
        unsafe {
            *shared.job.get() = Some(erased);
            let caller = &mut *shared.caller.get();
            if caller.as_ref().is_none_or(|caller| caller.id() != thread::current().id()) {
                *caller = Some(thread::current());
            }
        }
        shared.running.0.store(self.workers.len(), Ordering::Relaxed);
        shared.generation.0.fetch_add(1, Ordering::SeqCst);
        for (sleeper, worker) in shared.sleepers.iter().zip(&self.workers) {
            sleeper.0.wake(worker.thread());
        }
        let own = working(|| job(0));
        shared.caller_sleep.wait(&self.patience, || shared.running.0.load(Ordering::SeqCst) == 0);
        let others = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(panic) = own.err().or(others) {
            resume_unwind(panic);
        }
    }
}

fn working(job: impl FnOnce()) -> thread::Result<()> {
    WORKING.set(true);
    let result = catch_unwind(AssertUnwindSafe(job));
    WORKING.set(false);
    result
}

fn serve(shared: &Shared, index: usize) {
    let patience = Patience::new(shared.spins);
    let mut seen = 0;
    loop {
        let news = || shared.generation.0.load(Ordering::SeqCst) != seen || shared.stop.load(Ordering::SeqCst);
        shared.sleepers[index - 1].0.wait(&patience, news);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        seen = shared.generation.0.load(Ordering::SeqCst);
        // SAFETY: the generation has announced a job, `run` waits for the decrement below before it
        // returns or writes again, and so the job and the caller's handle are alive and unchanged.
        let (job, caller) = unsafe { (*shared.job.get(), (*shared.caller.get()).clone()) };
        if let Some(job) = job {
            // SAFETY: as above.
            let result = working(|| unsafe { (*job)(index) });
            if let Err(panic) = result {
                *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
        if shared.running.0.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(caller) = caller
        {
            shared.caller_sleep.wake(&caller);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (sleeper, worker) in self.shared.sleepers.iter().zip(&self.workers) {
            sleeper.0.wake(worker.thread());
        }
        for worker in self.workers.drain(..) {
            // A worker catches what its jobs throw, so there is nothing to learn here.
            drop(worker.join());
        }
    }
}

/// Keeps this thread on the index-th processor the process may use. Best effort.
#[cfg(target_os = "linux")]
fn pin(index: usize) {
    // SAFETY: the sets are plain bit masks of the size given, and the calls write only those.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut allowed) != 0 {
            return;
        }
        let processors = (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &allowed));
        if let Some(cpu) = processors.into_iter().nth(index) {
            let mut only: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut only);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const only);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn pin(_index: usize) {}

/// Ranges of `0..total` handed out as they are asked for, so that a thread whose core is taken away
/// holds up the others by one range at most.
#[derive(Debug)]
pub struct Chunks {
    next: AtomicUsize,
    total: usize,
    size: usize,
}

impl Chunks {
    /// Returns the ranges `0..size`, `size..2 size` and so on up to `total`.
    ///
    /// # Panics
    ///
    /// If `size` is zero.
    #[must_use]
    pub fn new(total: usize, size: usize) -> Self {
        assert!(size > 0, "chunks of nothing");
        Self { next: AtomicUsize::new(0), total, size }
    }

    /// Returns a range nobody else got, or nothing when all are taken.
    #[must_use]
    pub fn next(&self) -> Option<Range<usize>> {
        let start = self.next.fetch_add(1, Ordering::Relaxed).checked_mul(self.size)?;
        (start < self.total).then(|| start..(start + self.size).min(self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_runs_every_job_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            let counts: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            for round in 1..=2000 {
                pool.run(&|worker| {
                    counts[worker].fetch_add(1, Ordering::Relaxed);
                });
                for (worker, count) in counts.iter().enumerate() {
                    assert_eq!(count.load(Ordering::Relaxed), round, "worker {worker} of {threads}");
                }
            }
        }
    }

    #[test]
    fn patience_comes_back_when_waits_are_short_again() {
        let patience = Patience::new(PATIENT_SPINS);
        for _ in 0..20 {
            patience.failed(PATIENT_SPINS);
        }
        assert_eq!(patience.now.load(Ordering::Relaxed), SHARED_SPINS);
        // Waits that need a thousand spins.
        for _ in 0..40 {
            let spins = patience.get();
            if spins >= 1000 { patience.worked() } else { patience.failed(spins) }
        }
        assert_eq!(patience.now.load(Ordering::Relaxed), PATIENT_SPINS);
    }

    #[test]
    fn workers_wake_after_they_have_parked() {
        let pool = Pool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        for round in 1..=5 {
            thread::sleep(std::time::Duration::from_millis(20));
            pool.run(&|worker| {
                if worker == 1 {
                    // The caller parks too.
                    thread::sleep(std::time::Duration::from_millis(20));
                }
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.load(Ordering::Relaxed), 2 * round);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::pinned(3).unwrap();
        for guilty in 0..3 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(&|worker| assert_ne!(worker, guilty, "worker's panic"));
            }));
            let text = *result.unwrap_err().downcast::<String>().unwrap();
            assert!(text.contains("worker's panic"), "{text}");
            let count = AtomicUsize::new(0);
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 3);
        }
    }

    #[test]
    fn calls_from_inside_and_from_many_threads_are_served() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        pool.run(&|_| {
                            pool.run(&|_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * 200 * 9);
    }

    #[test]
    fn chunks_cover_the_range_once() {
        let chunks = Chunks::new(130, 64);
        assert_eq!(std::iter::from_fn(|| chunks.next()).collect::<Vec<_>>(), [0..64, 64..128, 128..130]);
        assert_eq!(chunks.next(), None);
        assert_eq!(Chunks::new(0, 4).next(), None);
    }
}
