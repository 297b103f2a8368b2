//! Which pages are dropped, and where what is left stands.
use super::{sharing::append, *};

/// Returns a cache of so many pages, whose sequences have 80 tokens at most.
fn cache(types: CacheTypes, pages: usize, policy: Policy) -> PagedCache {
    PagedCache::new(kernels(), CacheSettings { context_length: 80, ..settings(types, pages, Some(policy)) }).unwrap()
}

/// Returns the first value and the first key of each page of a sequence.
fn pages(cache: &PagedCache, id: u32) -> Vec<(f32, f32)> {
    let first = |page: &u32| {
        let page = cache.pool.page(*page).unwrap().tile(0, PAGE * D);
        let (mut keys, mut values) = ([0.0; PAGE * D], [0.0; PAGE * D]);
        kernels().read_cached(page.keys, &mut keys);
        kernels().read_cached(page.values, &mut values);
        (values[0], keys[0])
    };
    cache.table(id).unwrap().pages.iter().map(first).collect()
}

/// Returns what pages of these values hold, each at its position.
fn placed(all: &[(u32, u32)]) -> Vec<(f32, f32)> {
    all.iter().map(|(value, position)| (*value as f32, (value + position) as f32)).collect()
}

#[test]
fn the_lightest_go_and_the_others_stay_where_they_are_until_the_context_ends() {
    let light = Policy { sinks: 8, window: 8, high_watermark: 1.0, low_watermark: 1.0, ..policy(&[Stage::EvictLight]) };
    let mut cache = cache(WIDE, 6, light);
    cache.open(0, &[], 0, None).unwrap();
    for page in 0..6u32 {
        append(&mut cache, 0, &[page; PAGE]).unwrap();
        cache.add_mass(0, page as usize, [9.0, 5.0, 1.0, 7.0, 3.0, 8.0][page as usize]);
    }
    append(&mut cache, 0, &[6; PAGE]).unwrap();
    append(&mut cache, 0, &[7; PAGE]).unwrap();
    // Those of weight 1 and 3 went; nothing was moved.
    assert_eq!(pages(&cache, 0), placed(&[(0, 0), (1, 8), (3, 24), (5, 40), (6, 48), (7, 56)]));
    append(&mut cache, 0, &[8; PAGE]).unwrap();
    append(&mut cache, 0, &[9; PAGE]).unwrap();
    assert_eq!(pages(&cache, 0), placed(&[(0, 0), (1, 8), (3, 24), (5, 40), (8, 64), (9, 72)]));
    // The next token would be the 81st from the first: all gaps are closed at once, before another page goes.
    append(&mut cache, 0, &[10; PAGE]).unwrap();
    assert_eq!(pages(&cache, 0), placed(&[(0, 32), (1, 40), (3, 48), (5, 56), (9, 72), (10, 80)]));
    assert_eq!(cache.length(0).unwrap(), (48, 40));
    let kinds: std::collections::BTreeSet<_> = cache.take_transitions().iter().map(|act| act.kind.name()).collect();
    assert_eq!(kinds, ["evicted_light"].into());
}

/// A layer that sees a window counts what is cached.
#[test]
fn where_tokens_are_counted_there_are_no_gaps() {
    let light = Policy { sinks: 0, window: 8, high_watermark: 1.0, low_watermark: 1.0, ..policy(&[Stage::EvictLight]) };
    let all = CacheSettings { windowed: true, ..settings(WIDE, 4, Some(light)) };
    let mut cache = PagedCache::new(kernels(), all).unwrap();
    cache.open(0, &[], 0, None).unwrap();
    for page in 0..6u32 {
        append(&mut cache, 0, &[page; PAGE]).unwrap();
        cache.add_mass(0, cache.table(0).unwrap().pages.len() - 1, f64::from(6 - page));
    }
    assert_eq!(pages(&cache, 0), placed(&[(0, 16), (1, 24), (4, 32), (5, 40)]));
}

/// Rounding a key each time a page after it goes would wear the heaviest away.
#[test]
fn what_is_heavy_is_not_rounded_again_however_much_goes_after_it() {
    let types = CacheTypes { keys: CacheType::Q8_0, values: CacheType::Q8_0 };
    let light = Policy { sinks: 0, window: 8, high_watermark: 1.0, low_watermark: 1.0, ..policy(&[Stage::EvictLight]) };
    let all = CacheSettings { context_length: 4000, ..settings(types, 4, Some(light)) };
    let mut cache = PagedCache::new(kernels(), all).unwrap();
    cache.open(0, &[], 0, None).unwrap();
    append(&mut cache, 0, &[77; PAGE]).unwrap();
    cache.add_mass(0, 0, 1e9);
    let first = cache.table(0).unwrap().pages[0];
    let before = cache.pool.page(first).unwrap().store();
    for token in 1..200 {
        append(&mut cache, 0, &[token % 50; PAGE]).unwrap();
    }
    assert_eq!(cache.table(0).unwrap().pages[0], first);
    assert!(cache.pool.page(first).unwrap().store() == before);
}

#[test]
fn the_lightest_go_at_the_end_of_the_context_too() {
    let light = Policy { sinks: 0, window: 8, ..policy(&[Stage::EvictLight]) };
    let mut cache = cache(WIDE, 40, light);
    cache.open(0, &[], 0, None).unwrap();
    for page in 0..10u32 {
        append(&mut cache, 0, &[page; PAGE]).unwrap();
        cache.add_mass(0, page as usize, if page == 4 { 1.0 } else { 2.0 });
    }
    append(&mut cache, 0, &[10; PAGE]).unwrap();
    let values: Vec<f32> = pages(&cache, 0).iter().map(|(value, _)| *value).collect();
    assert_eq!(values, [0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
    assert!(cache.take_transitions().iter().all(|act| act.kind == TransitionKind::EvictedLight));
}

/// Nothing is left to follow a gap at the end: what comes then follows what is there.
#[test]
fn a_sequence_that_is_taken_back_to_a_gap_goes_on_before_it() {
    let light = Policy { sinks: 0, window: 8, high_watermark: 1.0, low_watermark: 1.0, ..policy(&[Stage::EvictLight]) };
    let mut cache = cache(WIDE, 4, light);
    cache.open(0, &[], 0, None).unwrap();
    for page in 0..6u32 {
        append(&mut cache, 0, &[page; PAGE]).unwrap();
        cache.add_mass(0, cache.table(0).unwrap().pages.len() - 1, f64::from(6 - page));
    }
    // Pages 3 and 2 went, the lightest when there was no room.
    assert_eq!(pages(&cache, 0), placed(&[(0, 0), (1, 8), (4, 32), (5, 40)]));
    // In the gap, and inside what is before it.
    cache.truncate(0, 20).unwrap();
    assert_eq!((cache.length(0).unwrap(), pages(&cache, 0)), ((16, 0), placed(&[(0, 0), (1, 8)])));
    cache.truncate(0, 12).unwrap();
    append(&mut cache, 0, &[7; PAGE]).unwrap();
    let table = cache.table(0).unwrap();
    assert_eq!((table.length, table.dropped, table.span()), (20, 0, 20));
    assert_eq!(pages(&cache, 0)[2], (7.0, 7.0 + 16.0));
}

/// Dropping what others have too makes no room by itself.
#[test]
fn what_one_sequence_has_alone_goes_before_what_many_share() {
    let evict = Policy { sinks: 8, window: 8, high_watermark: 1.0, low_watermark: 1.0, ..policy(&[Stage::Evict]) };
    let mut all = settings(WIDE, 20, Some(evict));
    all.prefix_root = None;
    let mut cache = PagedCache::new(kernels(), all).unwrap();
    cache.open(0, &[], 0, None).unwrap();
    append(&mut cache, 0, &[1; 10 * PAGE]).unwrap();
    for child in 1..6 {
        cache.fork(0, child).unwrap();
    }
    cache.open(6, &[], 0, None).unwrap();
    for part in 0..8 {
        append(&mut cache, 6, &[part; PAGE]).unwrap();
    }
    // Two pages are free, and two more are had from the last alone.
    append(&mut cache, 1, &[2; 4 * PAGE]).unwrap();
    assert!((0..6).all(|id| cache.length(id).unwrap().1 == 0) && cache.length(6).unwrap() == (6 * PAGE, 2 * PAGE));
    // And when that has no more, the shared ones go one by one until room comes of it.
    append(&mut cache, 1, &[3; 6 * PAGE]).unwrap();
    let report = cache.report();
    assert!(report.used_bytes <= report.budget_bytes.unwrap(), "{report:?}");
}

#[test]
fn a_sequence_in_the_file_comes_back_before_it_loses_what_is_beyond_its_context() {
    let both = Policy {
        sinks: 8,
        window: 8,
        high_watermark: 0.95,
        low_watermark: 0.95,
        ..policy(&[Stage::Spill, Stage::Evict])
    };
    let mut cache = cache(WIDE, 14, both);
    for id in [0, 1] {
        cache.open(id, &[], 0, None).unwrap();
        for part in 0..10 {
            append(&mut cache, id, &[part; PAGE]).unwrap();
        }
    }
    assert!(cache.report().spilled_bytes > 0);
    for _ in 0..3 {
        for id in [0, 1] {
            append(&mut cache, id, &[11; PAGE]).unwrap();
            let report = cache.report();
            assert!(report.used_bytes <= report.budget_bytes.unwrap(), "{report:?}");
        }
    }
    assert_eq!(pages(&cache, 1)[0].0, 0.0, "the sinks are there");
    assert_eq!(cache.length(1).unwrap(), (10 * PAGE, 3 * PAGE));
}

#[test]
fn a_step_adds_no_more_than_fits_beside_sinks_and_window() {
    let evict = Policy { sinks: 4, window: 20, ..policy(&[Stage::Evict]) };
    let mut cache = cache(WIDE, 400, evict);
    // 8 + 20 tokens stay, and one less than a page.
    cache.open(0, &[], 0, None).unwrap();
    assert!(cache.most_rows([(0, 80)].into_iter()) >= 80, "what is within the context needs no steps of its own");
    let rows = cache.most_rows([(0, 81)].into_iter());
    assert_eq!(rows, 80 - 8 - 20 - 7);
    for part in 0..40 {
        append(&mut cache, 0, &vec![part; rows]).unwrap();
    }
}
