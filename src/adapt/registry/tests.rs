//! What a registry must keep apart, and keep.
use std::sync::atomic::AtomicBool;

use super::{published::SLOTS, *};
use crate::engine::{LowRank, Place, Target};

const WIDTH: usize = 16;

/// An adapter whose numbers all say the same.
fn tagged(tag: f32) -> Adapter {
    let place = |layer| Place { layer, target: Target::Query };
    let part = || LowRank { rank: 1, scale: tag, a: vec![tag; WIDTH], b: vec![tag; WIDTH], magnitude: None };
    (0..2).map(|layer| (place(layer), part())).collect()
}

/// Returns the one number all of an adapter's are.
fn tag(adapter: &Adapter) -> f32 {
    let first = adapter[&Place { layer: 0, target: Target::Query }].scale;
    for LowRank { scale, a, b, .. } in adapter.values() {
        assert!(a.iter().chain(b).chain([scale]).all(|value| value.to_bits() == first.to_bits()), "two tags in one");
    }
    first
}

const BYTES: u64 = (2 * 2 * WIDTH * 4) as u64;

fn registry(adapters: usize) -> Registry {
    Registry::new(Limits { adapters, bytes: 1 << 30 })
}

fn full(result: &Result<Change, RegistryError>) -> bool {
    matches!(result, Err(RegistryError::Full { .. }))
}

#[test]
fn versions_come_with_every_pin_and_what_is_pinned_stays() {
    let registry = registry(8);
    let none = registry.pin_active();
    assert_eq!((none.version(), none.name(), none.adapter().is_none()), (1, None, true));
    assert_eq!(registry.insert("a", tagged(1.0)).unwrap(), Change { version: 2, evicted: vec![] });
    assert_eq!(registry.activate(Some("a")).unwrap(), 3);
    let first = registry.pin_active();
    assert_eq!(registry.insert("a", tagged(2.0)).unwrap().version, 4);
    let second = registry.pin_active();
    assert_eq!([first.version(), second.version()], [3, 4]);
    assert_eq!([&first, &second].map(|pinned| tag(pinned.adapter().unwrap())), [1.0, 2.0]);
    assert_eq!((registry.pin("a").unwrap().version(), registry.names()), (4, vec!["a".to_owned()]));
    let error = registry.pin("b").unwrap_err().to_string();
    assert!(error.contains("\"b\"") && error.contains("there are: a"), "{error}");
    assert!(registry.activate(Some("b")).is_err());
    assert_eq!((registry.activate(None).unwrap(), registry.pin_active().name()), (5, None));
}

#[test]
fn rolling_back_brings_the_very_same_numbers() {
    let registry = registry(8);
    assert!(matches!(registry.rollback(), Err(RegistryError::NothingBefore)));
    registry.insert("a", tagged(1.0)).unwrap();
    registry.activate(Some("a")).unwrap();
    let original = Arc::clone(registry.pin_active().adapter().unwrap());
    registry.insert("a", tagged(2.0)).unwrap();
    registry.insert("b", tagged(3.0)).unwrap();
    registry.activate(Some("b")).unwrap();
    let before = registry.version();
    registry.rollback().unwrap();
    assert!(registry.version() == before + 1 && (tag(registry.pin_active().adapter().unwrap()) - 2.0).abs() <= 0.0);
    registry.rollback().unwrap();
    let back = registry.pin_active();
    assert!(Arc::ptr_eq(back.adapter().unwrap(), &original));
    assert!(Arc::ptr_eq(registry.pin("a").unwrap().adapter().unwrap(), &original));
    registry.rollback().unwrap();
    assert!(registry.pin_active().adapter().is_none());
    assert!(registry.rollback().is_err());
}

#[test]
fn what_is_active_or_pinned_is_never_evicted() {
    let registry = registry(3);
    for (name, number) in [("a", 1.0), ("b", 2.0), ("c", 3.0)] {
        registry.insert(name, tagged(number)).unwrap();
    }
    registry.activate(Some("a")).unwrap();
    let pinned = registry.pin("b").unwrap();
    assert_eq!(registry.insert("d", tagged(4.0)).unwrap().evicted, ["c"]);
    let also = registry.pin("d").unwrap();
    let version = registry.version();
    assert!(full(&registry.insert("e", tagged(5.0))));
    assert_eq!((registry.version(), registry.names()), (version, ["a", "b", "d"].map(str::to_owned).to_vec()));
    // All of them can still be had.
    for name in ["a", "b", "d"] {
        assert_eq!(registry.pin(name).unwrap().name(), Some(name));
    }
    drop(pinned);
    assert_eq!(registry.insert("e", tagged(5.0)).unwrap().evicted, ["b"]);
    drop(also);
    // The one unused for longest goes first.
    drop(registry.pin("d").unwrap());
    assert_eq!(registry.insert("f", tagged(6.0)).unwrap().evicted, ["e"]);
    assert!((tag(registry.pin_active().adapter().unwrap()) - 1.0).abs() <= 0.0);
}

#[test]
fn bytes_count_and_a_failed_change_leaves_everything() {
    let registry = Registry::new(Limits { adapters: 100, bytes: 2 * BYTES + 1 });
    registry.insert("a", tagged(1.0)).unwrap();
    registry.insert("b", tagged(2.0)).unwrap();
    let (a, b) = (registry.pin("a").unwrap(), registry.pin("b").unwrap());
    assert!(full(&registry.insert("c", tagged(3.0))));
    // A name's old numbers are held for as long as a request has them.
    assert!(full(&registry.insert("a", tagged(4.0))));
    assert!((tag(registry.pin("a").unwrap().adapter().unwrap()) - 1.0).abs() <= 0.0);
    drop(a);
    assert!(registry.insert("a", tagged(4.0)).unwrap().evicted.is_empty());
    drop(b);
    assert_eq!(registry.insert("c", tagged(3.0)).unwrap().evicted, ["b"]);
    // What could be rolled back to makes room at last.
    registry.activate(Some("a")).unwrap();
    registry.activate(Some("c")).unwrap();
    assert!(registry.insert("d", tagged(5.0)).is_ok());
    assert!(full(&Registry::new(Limits { adapters: 1, bytes: 1 }).insert("a", tagged(1.0))));
}

#[test]
fn an_adapter_is_loaded_while_requests_go_on() {
    let registry = Arc::new(registry(4));
    registry.insert("a", tagged(1.0)).unwrap();
    registry.activate(Some("a")).unwrap();
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let read = move || wait.recv().map(|()| tagged(7.0));
    let loading = registry.load("slow", read).unwrap();
    for _ in 0..100 {
        assert_eq!(registry.pin_active().version(), 3);
        assert!(registry.pin("slow").is_err());
    }
    release.send(()).unwrap();
    assert_eq!(loading.join().unwrap().unwrap().version, 4);
    assert!((tag(registry.pin("slow").unwrap().adapter().unwrap()) - 7.0).abs() <= 0.0);
    let missing = || Err::<Adapter, _>(io::Error::other("no such folder"));
    let error = registry.load("gone", missing).unwrap().join().unwrap().unwrap_err();
    assert!(matches!(error, RegistryError::Load { .. }) && error.to_string().contains("gone"));
    assert_eq!(registry.version(), 4);
}

/// A million swaps under two readers: no reader sees two tags in one adapter, nor a version go back.
#[test]
fn a_million_swaps_tear_nothing() {
    const SWAPS: u32 = 1_000_000;
    let registry = registry(4);
    let adapters: Vec<Arc<Adapter>> = (0..64u8).map(|tag| Arc::new(tagged(f32::from(tag)))).collect();
    registry.insert("a", Arc::clone(&adapters[0])).unwrap();
    registry.activate(Some("a")).unwrap();
    let published = Published::new(tagged(0.0));
    let done = AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut reads, mut last) = (0u64, (0, 0));
                    while !done.load(Ordering::Relaxed) {
                        let (version, adapter) = published.load();
                        // The tag is that of the version, too.
                        let expected = ((version - 1) % 64) as f32;
                        assert!((tag(&adapter) - expected).abs() <= 0.0, "version {version}");
                        let pinned = registry.pin_active();
                        tag(pinned.adapter().unwrap());
                        assert!(version >= last.0 && pinned.version() >= last.1);
                        last = (version, pinned.version());
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        for swap in 1..=SWAPS {
            published.publish(Arc::clone(&adapters[swap as usize % 64]));
            // The registry's own changes are prepared with more care, so there are fewer of them.
            if swap % 64 == 0 {
                registry.insert("a", Arc::clone(&adapters[swap as usize / 64 % 64])).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>()
    });
    assert_eq!(published.version(), u64::from(SWAPS) + 1);
    assert!(reads >= 1000, "{reads} reads in {SWAPS} swaps");
}

#[test]
fn versions_grow_by_one_and_values_are_theirs() {
    let published = Published::new(10u64);
    assert_eq!(published.load(), (1, Arc::new(10)));
    for i in 2..300 {
        let (version, replaced) = published.publish(Arc::new(10 * i));
        assert_eq!(version, i);
        // Whoever was there a round ago, the first value where nobody was.
        let expected = if i <= SLOTS as u64 { 10 } else { 10 * (i - SLOTS as u64) };
        assert_eq!(*replaced, expected);
        assert_eq!((published.load(), published.version()), ((i, Arc::new(10 * i)), i));
    }
}

/// A writer goes around slots that are held, and comes back to them.
#[test]
fn a_reader_that_stands_still_holds_nobody_up() {
    let published = Published::new(0u64);
    let held = published.slots[5].read().unwrap();
    for i in 1..200 {
        published.publish(Arc::new(i));
        assert_eq!(*published.load().1, i);
    }
    assert_eq!(held.version, 0);
    drop(held);
    (200..300).for_each(|i| _ = published.publish(Arc::new(i)));
    assert!(published.slots[5].read().unwrap().version > 200);
}

#[test]
fn writers_at_once_get_versions_of_their_own() {
    let published = Published::new(0u64);
    let (stop, write) = (AtomicBool::new(false), |_| (0..5000).map(|i| published.publish(Arc::new(i)).0).collect());
    let versions: Vec<Vec<u64>> = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !stop.load(Ordering::Relaxed) {
                let (version, _) = published.load();
                assert!(version >= last, "{version} after {last}");
                last = version;
            }
        });
        let writers: Vec<_> = (0..2).map(|writer| scope.spawn(move || write(writer))).collect();
        let versions = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        versions
    });
    let mut all = versions.concat();
    all.sort_unstable();
    assert_eq!(all, (2..10_002).collect::<Vec<u64>>());
    assert!(versions.iter().all(|own| own.is_sorted()));
}
