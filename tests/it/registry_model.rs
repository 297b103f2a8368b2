//! The core of the adapter registry under every order of its threads' accesses to memory that the memory model
//! allows (loom): its own source, compiled with loom's atomics and locks.
#![expect(dead_code, unreachable_pub, reason = "the registry uses all of it, and shows it")]

mod primitives {
    pub(super) use std::sync::{PoisonError, TryLockError};

    pub(super) use loom::{
        sync::{
            Arc, Mutex, RwLock,
            atomic::{AtomicU32, AtomicU64, Ordering},
        },
        thread::yield_now,
    };
}

#[path = "../../src/adapt/registry/pins.rs"]
mod pins;
#[path = "../../src/adapt/registry/published.rs"]
mod published;

use std::sync::atomic::AtomicUsize;

use loom::{
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use pins::Pins;
use published::Published;

/// Tries all orders in which threads are interrupted no more than so often, and returns how many there were.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) -> usize {
    let tried = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&tried);
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    tried.load(Ordering::Relaxed)
}

/// Two slots, so that the writer comes around to the one a reader may stand in.
#[test]
fn readers_see_whole_values_whose_versions_never_go_back() {
    let tried = explore(3, || {
        let published = Arc::new(Published::with_slots([1u64; 2], 2));
        let reader = {
            let published = Arc::clone(&published);
            thread::spawn(move || {
                let mut last = 0;
                for _ in 0..2 {
                    let (version, value) = published.load();
                    assert_eq!(*value, [version; 2], "a value of another version");
                    assert!(version >= last, "{version} after {last}");
                    last = version;
                }
            })
        };
        for version in 2..=3 {
            assert_eq!(published.publish(Arc::new([version; 2])).0, version);
            assert!(published.load().0 >= version);
        }
        reader.join().unwrap();
        assert_eq!((published.load().0, published.version()), (3, 3));
    });
    assert!(tried > 100, "{tried}");
}

#[test]
fn writers_at_once_get_versions_of_their_own() {
    let tried = explore(3, || {
        let published = Arc::new(Published::with_slots(0u64, 2));
        let write = |value: u64| {
            let published = Arc::clone(&published);
            thread::spawn(move || published.publish(Arc::new(value)).0)
        };
        let writers = [write(10), write(20)];
        let mut versions = writers.map(|writer| writer.join().unwrap());
        versions.sort_unstable();
        assert_eq!((versions, published.version()), ([2, 3], 3));
        assert!([10, 20].contains(&*published.load().1));
    });
    assert!(tried > 10, "{tried}");
}

/// What a request has pinned is not let go of, and a request that comes too late takes the next.
#[test]
fn what_is_pinned_is_never_evicted() {
    struct Resident {
        pins: Pins,
        evicted: AtomicBool,
    }
    let tried = explore(3, || {
        let resident = || Arc::new(Resident { pins: Pins::new(), evicted: AtomicBool::new(false) });
        let first = resident();
        let published = Arc::new(Published::with_slots(Arc::clone(&first), 2));
        // One request has it already, another is about to.
        assert!(first.pins.pin());
        let request = {
            let published = Arc::clone(&published);
            thread::spawn(move || {
                let pinned = loop {
                    let (_, resident) = published.load();
                    if resident.pins.pin() {
                        break Arc::clone(&resident);
                    }
                    thread::yield_now();
                };
                assert!(!pinned.evicted.load(Ordering::Relaxed), "it was let go of while it was pinned");
                assert!(pinned.pins.in_use() && !pinned.pins.retire());
                pinned.pins.unpin();
            })
        };
        // As the registry makes room: only what nobody has goes, and then its successor is published.
        assert!(!first.pins.retire());
        first.pins.unpin();
        let next = resident();
        let evicts = first.pins.retire();
        if evicts {
            first.evicted.store(true, Ordering::Relaxed);
        }
        published.publish(Arc::new(Arc::clone(&next)));
        request.join().unwrap();
        assert!(!first.pins.in_use() && !next.pins.in_use());
        assert!(next.pins.retire() && !next.pins.pin());
        next.pins.reinstate();
        assert!(next.pins.pin());
    });
    assert!(tried > 10, "{tried}");
}
