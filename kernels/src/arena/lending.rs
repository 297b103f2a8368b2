//! A closure that lives in one thread's stack, shown to others for as long as a call lasts.
use std::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What a pool's threads run, given the index of the thread.
pub(crate) type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// A value alone on its cache lines (two: processors fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(pub(crate) T);

#[derive(Debug, Default)]
struct Place {
    /// Grows by one for each loan.
    loans: Alone<AtomicUsize>,
    /// Borrowers that have not returned the job.
    out: Alone<AtomicUsize>,
    job: UnsafeCell<Option<*const Job<'static>>>,
}

// SAFETY: `job` is written only by the one lender while no borrower is out, and read by a borrower only
// between the count of loans that announces it (release, acquire) and its return, which the lender waits for.
unsafe impl Sync for Place {}
// SAFETY: a job is `Sync`, so its address may go to another thread.
unsafe impl Send for Place {}

/// The one who lends.
#[derive(Debug)]
pub(crate) struct Lender {
    place: Arc<Place>,
    borrowers: usize,
}

/// One of those who borrow, each loan once.
#[derive(Debug)]
pub(crate) struct Borrower {
    place: Arc<Place>,
    seen: usize,
}

/// Returns one who lends and so many who borrow.
pub(crate) fn lending(borrowers: usize) -> (Lender, Vec<Borrower>) {
    let place = Arc::new(Place::default());
    let all = (0..borrowers).map(|_| Borrower { place: Arc::clone(&place), seen: 0 }).collect();
    (Lender { place, borrowers }, all)
}

impl Place {
    fn is_back(&self) -> bool {
        self.out.0.load(Ordering::SeqCst) == 0
    }
}

/// The end of a loan: what was lent may not go before all borrowers are back, however the call ends.
struct End<'a>(&'a Place);

impl Drop for End<'_> {
    fn drop(&mut self) {
        while !self.0.is_back() {
            std::thread::yield_now();
        }
    }
}

impl Lender {
    /// Lends `job` to every borrower, calls `meanwhile` with a function that says whether all have returned
    /// it, and returns when they have: `meanwhile` should wait for that in its own way.
    ///
    /// A borrower that never borrows keeps this waiting.
    pub(crate) fn lend<R>(&mut self, job: &Job<'_>, meanwhile: impl FnOnce(&dyn Fn() -> bool) -> R) -> R {
        let place = &*self.place;
        // SAFETY: the lifetime is erased so that the address can lie in `Place`. Borrowers use it only until
        // they are counted as back, and this function does not return, nor unwind, before: see `End`.
        let erased = unsafe { std::mem::transmute::<&Job<'_>, &'static Job<'static>>(job) };
        // SAFETY: nobody is out, since the last loan has ended and this one is not announced, and there is
        // no other lender of this place; so nobody reads this.
        unsafe { *place.job.get() = Some(erased) };
        place.out.0.store(self.borrowers, Ordering::Relaxed);
        place.loans.0.fetch_add(1, Ordering::SeqCst);
        let _end = End(place);
        meanwhile(&|| place.is_back())
    }
}

/// One borrower's return, also when it panics.
struct Return<'a>(&'a Place);

impl Drop for Return<'_> {
    fn drop(&mut self) {
        self.0.out.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Borrower {
    /// Returns whether something is lent that this borrower has not had.
    pub(crate) fn has_news(&self) -> bool {
        self.place.loans.0.load(Ordering::SeqCst) != self.seen
    }

    /// Calls `using` with what is lent, if this borrower has not had it.
    pub(crate) fn borrow(&mut self, using: impl FnOnce(&Job<'_>)) {
        if !self.has_news() {
            return;
        }
        // No other loan begins before this one is returned.
        self.seen += 1;
        let _return = Return(&self.place);
        // SAFETY: the count of loans has announced it, and the lender neither returns nor writes again
        // before this borrower is counted as back, which `_return` does at the end.
        let job = unsafe { (*self.place.job.get()).map(|job| &*job) };
        if let Some(job) = job {
            using(job);
        }
    }

    /// Returns whether nobody has anything lent.
    pub(crate) fn is_back(&self) -> bool {
        self.place.is_back()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        thread,
    };

    use super::*;

    fn borrow_each(borrowers: &mut [Borrower]) {
        for (index, borrower) in borrowers.iter_mut().enumerate() {
            borrower.borrow(|job| job(index));
        }
    }

    #[test]
    fn every_borrower_has_each_loan_once() {
        let (mut lender, mut borrowers) = lending(3);
        let counts: [AtomicUsize; 3] = Default::default();
        for round in 1..=3 {
            assert!(borrowers.iter().all(|borrower| !borrower.has_news()));
            lender.lend(&|index| _ = counts[index].fetch_add(1, Ordering::Relaxed), |is_back| {
                borrow_each(&mut borrowers[..2]);
                assert!(!is_back() && borrowers[2].has_news() && !borrowers[2].is_back());
                borrow_each(&mut borrowers);
                assert!(is_back() && borrowers[2].is_back());
                borrow_each(&mut borrowers);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == round));
        }
    }

    /// The lender's own part may panic while a borrower still reads what lies in the lender's stack.
    #[test]
    fn a_loan_ends_when_all_are_back_even_in_a_panic() {
        let (mut lender, mut borrowers) = lending(1);
        let mut borrower = borrowers.remove(0);
        let read = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !borrower.has_news() {
                    thread::yield_now();
                }
                thread::sleep(std::time::Duration::from_millis(50));
                borrower.borrow(|job| job(7));
            });
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let on_the_stack = 35;
                lender.lend(&|index| read.store(on_the_stack + index, Ordering::Relaxed), |_| -> () {
                    std::panic::resume_unwind(Box::new(()))
                })
            }));
            assert!(panicked.is_err());
            assert_eq!(read.load(Ordering::Relaxed), 42, "the loan ended before the borrower was back");
        });
    }

    #[test]
    fn a_borrower_that_panics_is_back() {
        let (mut lender, mut borrowers) = lending(1);
        lender.lend(&|_| (), |is_back| {
            let panicked = catch_unwind(AssertUnwindSafe(|| borrowers[0].borrow(|_| panic!("the borrower's"))));
            assert!(panicked.is_err() && is_back());
        });
    }
}
