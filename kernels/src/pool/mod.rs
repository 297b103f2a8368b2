//! The threads of an engine: one closure on all of them, many thousand times a second.
//!
//! A token takes some hundred phases of a few microseconds, so waking threads through the system
//! would cost more than the work. Idle workers spin for a bounded time and then park; with more
//! threads than processors they park almost at once, because whoever they wait for needs the core.
mod chunks;
mod sleeper;

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
};

pub use chunks::Chunks;
use sleeper::{PATIENT_SPINS, Patience, SHARED_SPINS, Sleeper};

use crate::arena::{Alone, Borrower, Lender, lending};

/// What the threads of a pool have in common, beside the job that is lent to them.
struct Shared {
    /// Who waits for the workers now.
    caller: Mutex<Option<Thread>>,
    caller_sleep: Sleeper,
    sleepers: Box<[Alone<Sleeper>]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    spins: u32,
}

thread_local! {
    /// Whether this thread is inside a job.
    static WORKING: Cell<bool> = const { Cell::new(false) };
}

/// Returns what is behind a lock; what was written there is whole even after a panic.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Whoever holds it has the workers.
    turn: Mutex<Lender>,
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
        assert!(threads > 0, "a pool has at least the caller's thread");
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let spins = if processors < threads { SHARED_SPINS } else { PATIENT_SPINS };
        let (lender, borrowers) = lending(threads - 1);
        let shared = Arc::new(Shared {
            caller: Mutex::new(None),
            caller_sleep: Sleeper::default(),
            sleepers: borrowers.iter().map(|_| Alone::default()).collect(),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            spins,
        });
        let mut pool = Self {
            shared,
            turn: Mutex::new(lender),
            patience: Patience::new(spins),
            workers: Vec::with_capacity(threads),
        };
        for (borrower, index) in borrowers.into_iter().zip(1..) {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("kernels-{index}"));
            pool.workers.push(worker.spawn(move || serve(&shared, borrower, index))?);
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
        let mut lender = locked(&self.turn);
        let shared = &*self.shared;
        {
            let mut caller = locked(&shared.caller);
            if caller.as_ref().is_none_or(|caller| caller.id() != thread::current().id()) {
                *caller = Some(thread::current());
            }
        }
        let own = lender.lend(job, |is_back| {
            for (sleeper, worker) in shared.sleepers.iter().zip(&self.workers) {
                sleeper.0.wake(|| worker.thread().unpark());
            }
            WORKING.set(true);
            let own = catch_unwind(AssertUnwindSafe(|| job(0)));
            WORKING.set(false);
            shared.caller_sleep.wait(&self.patience, is_back);
            own
        });
        let others = locked(&shared.panic).take();
        drop(lender);
        if let Some(panic) = own.err().or(others) {
            resume_unwind(panic);
        }
    }
}

/// Does what a worker does until the pool is dropped.
fn serve(shared: &Shared, mut borrower: Borrower, index: usize) {
    WORKING.set(true);
    let patience = Patience::new(shared.spins);
    loop {
        let stops = || shared.stop.load(Ordering::SeqCst);
        shared.sleepers[index - 1].0.wait(&patience, || borrower.has_news() || stops());
        if stops() {
            return;
        }
        borrower.borrow(|job| {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job(index))) {
                *locked(&shared.panic) = Some(panic);
            }
        });
        if borrower.is_back() {
            shared.caller_sleep.wake(|| locked(&shared.caller).iter().for_each(Thread::unpark));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (sleeper, worker) in self.shared.sleepers.iter().zip(&self.workers) {
            sleeper.0.wake(|| worker.thread().unpark());
        }
        for worker in self.workers.drain(..) {
            // A worker catches what its jobs throw, so there is nothing to learn here.
            drop(worker.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

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
        let pool = Pool::new(3).unwrap();
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
}
