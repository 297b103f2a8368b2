//! Signals: the first asks for a clean stop, the second for one at once.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    iterator::Signals,
    low_level,
};

use crate::clock::Stopwatch;

/// What a person or the system asked for while we ran. Clones share what they saw.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    interrupts: Arc<AtomicUsize>,
    terminations: Arc<AtomicUsize>,
    /// How many SIGINTs wait for the launch under way.
    patience: usize,
    /// Whether a signal has come that nobody took: for work in this process, where the next one ends it.
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Returns one that watches SIGINT and SIGTERM from now on; the first SIGINT lets the launch
    /// under way end.
    ///
    /// # Errors
    ///
    /// If the system lets us install no handler.
    pub fn watch() -> io::Result<Self> {
        Self::with_patience(1)
    }

    /// Returns one for work that keeps nothing: the first SIGINT ends the launch under way.
    ///
    /// # Errors
    ///
    /// If the system lets us install no handler.
    pub fn watch_impatiently() -> io::Result<Self> {
        Self::with_patience(0)
    }

    /// Returns one for work in this process, which looks here only between two steps: the first signal asks for
    /// its end, the second ends the process at once.
    ///
    /// # Errors
    ///
    /// If the system lets us install no handler.
    pub fn watch_in_process() -> io::Result<Self> {
        let interrupt = Self::with_patience(0)?;
        for signal in [SIGINT, SIGTERM] {
            // They are called in this order: the first signal finds the flag down and raises it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&interrupt.asked))?;
            flag::register(signal, Arc::clone(&interrupt.asked))?;
        }
        Ok(interrupt)
    }

    /// Lets the first signal from now on end the process after `tidy`: for work that cannot be asked to stop.
    ///
    /// # Errors
    ///
    /// If the system lets us install no handler.
    pub fn end_after(tidy: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            if let Some(signal) = signals.forever().next() {
                tidy();
                low_level::exit(128 + signal);
            }
        })?;
        Ok(())
    }

    fn with_patience(patience: usize) -> io::Result<Self> {
        let interrupt = Self { patience, ..Self::default() };
        let seen = interrupt.clone();
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let counter = if signal == SIGTERM { &seen.terminations } else { &seen.interrupts };
                counter.fetch_add(1, Ordering::SeqCst);
            }
        })?;
        Ok(interrupt)
    }

    /// Returns the signal that asked us to stop after the launch under way, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        if self.terminations.load(Ordering::SeqCst) > 0 {
            Some(SIGTERM)
        } else if self.interrupts.load(Ordering::SeqCst) > 0 {
            Some(SIGINT)
        } else {
            None
        }
    }

    /// Returns whether SIGINT came, and forgets it: what it was to end has ended.
    #[must_use]
    pub fn take_interrupt(&self) -> bool {
        let is_taken = self.interrupts.swap(0, Ordering::SeqCst) > 0 && self.terminations.load(Ordering::SeqCst) == 0;
        if is_taken {
            self.asked.store(false, Ordering::SeqCst);
        }
        is_taken
    }

    /// Returns whether even the launch under way must end: SIGTERM, or SIGINT once more than it waits.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.terminations.load(Ordering::SeqCst) > 0 || self.interrupts.load(Ordering::SeqCst) > self.patience
    }

    /// Returns whether a signal has come, or does within `time`.
    #[must_use]
    pub fn comes_within(&self, time: Duration) -> bool {
        let watch = Stopwatch::start();
        while self.signal().is_none() && watch.elapsed() < time {
            thread::sleep(Duration::from_millis(10));
        }
        self.signal().is_some()
    }
}
