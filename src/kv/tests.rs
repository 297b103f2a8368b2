//! The cache against a naive model of it, under random operations.
mod eviction;
mod sharing;

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ruvlab_kernels::Kernels;

use super::*;

const D: usize = 32;
const PAGE: usize = 8;
/// Longer ones would not be told apart in 8 bits.
const LONGEST: usize = 400;

/// "Rotates" by adding: a key then tells the position it is rotated to.
struct Adding;

impl Rotation for Adding {
    fn rotate(&self, _: usize, keys: &mut [f32], by: u32) {
        keys.iter_mut().for_each(|key| *key += by as f32);
    }
}

/// Returns what stands for a token: it depends on all tokens before it, as values of a model do.
fn value(tokens: &[u32]) -> f32 {
    let mixed = tokens.iter().fold(7u32, |sum, token| sum.wrapping_mul(31).wrapping_add(*token + 1));
    (mixed % 61 + 1) as f32
}

/// A sequence as it should be.
#[derive(Clone, Default)]
struct Model {
    tokens: Vec<u32>,
    /// What is in the cache, oldest first.
    values: Vec<f32>,
    dropped: usize,
    reserved: usize,
}

struct Bench {
    cache: PagedCache,
    model: BTreeMap<u32, Model>,
    random: ChaCha8Rng,
    sinks: usize,
    next: u32,
}

fn kernels() -> &'static Kernels {
    ruvlab_kernels::active()
}

fn settings(types: CacheTypes, pages: usize, policy: Option<Policy>) -> CacheSettings {
    let shape = PageShape { layers: 1, kv_heads: 1, head_dim: D, page_tokens: PAGE };
    CacheSettings {
        shape,
        types,
        budget_bytes: Some((pages * shape.bytes(types)) as u64),
        policy,
        context_length: LONGEST,
        windowed: false,
        prefix_root: Some(prefix_root(&[b"test"])),
    }
}

const WIDE: CacheTypes = CacheTypes { keys: CacheType::F32, values: CacheType::F32 };

impl Bench {
    fn new(seed: u64, policy: Option<Policy>) -> Self {
        let sinks = policy.as_ref().map_or(0, |policy| policy.sinks.div_ceil(PAGE) * PAGE);
        let cache = PagedCache::new(kernels(), settings(WIDE, 40, policy)).unwrap();
        Self { cache, model: BTreeMap::new(), random: ChaCha8Rng::seed_from_u64(seed), sinks, next: 0 }
    }

    fn any(&mut self) -> Option<u32> {
        let ids: Vec<u32> = self.model.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.random.random_range(0..ids.len())])
    }

    /// Makes room for rows of a sequence, and lets the model lose what the cache evicted: the first page after the
    /// sinks, but where the lightest go.
    fn prepare(&mut self, id: u32, rows: usize) -> Result<(), CacheError> {
        let result = self.cache.prepare([(id, rows)].into_iter(), &Adding);
        for (id, place) in std::mem::take(&mut self.cache.dropped) {
            assert!(place >= self.sinks / PAGE && (place == self.sinks / PAGE || self.cache.weighs()));
            let model = self.model.get_mut(&id).unwrap();
            model.values.drain(place * PAGE..(place + 1) * PAGE);
            model.dropped += PAGE;
        }
        for (id, model) in &self.model {
            assert_eq!((model.values.len(), model.dropped), self.cache.length(*id).unwrap());
        }
        result
    }

    fn open(&mut self) {
        let id = self.next;
        self.next += 1;
        // Few beginnings, so that some are the same.
        let stream = self.random.random_range(0..3);
        let prompt: Vec<u32> = (0..self.random.random_range(0..60)).map(|at| (at + stream) % 5).collect();
        let reserved = self.random.random_range(1..160);
        let before = self.cache.report();
        match self.cache.open(id, &prompt, reserved, None) {
            Ok(shared) => {
                assert!(shared <= prompt.len().saturating_sub(1) && shared.is_multiple_of(PAGE));
                let values = (0..shared).map(|at| value(&prompt[..=at])).collect();
                let tokens = prompt[..shared].to_vec();
                self.model.insert(id, Model { tokens, values, dropped: 0, reserved });
            }
            Err(CacheError::Full { .. }) => assert_eq!(self.cache.report(), before, "a refusal changed something"),
            Err(error) => panic!("{error}"),
        }
    }

    fn append(&mut self, id: u32, count: usize) {
        let reserves = self.cache.table(id).unwrap().reserved.is_some();
        let model = &self.model[&id];
        let room = if reserves { model.reserved - model.values.len().min(model.reserved) } else { LONGEST };
        // What is evicted makes room for more, where all is exact.
        let policy = self.cache.settings.policy.as_ref();
        let narrows = policy.is_some_and(|policy| policy.stages.contains(&Stage::Quantize));
        let longest = if self.cache.evicts() && !narrows { 4 * LONGEST } else { LONGEST };
        let count = count.min(room).min(longest.saturating_sub(model.values.len() + model.dropped));
        if count == 0 {
            return;
        }
        let result = self.prepare(id, count);
        if reserves {
            result.as_ref().expect("what was reserved is there");
        }
        match result {
            Ok(()) => {}
            Err(CacheError::Full { .. } | CacheError::Context { .. }) => return,
            Err(error) => panic!("{error}"),
        }
        let stream = self.random.random_range(0..2);
        let model = self.model.get_mut(&id).unwrap();
        let mut fresh = Vec::new();
        for _ in 0..count {
            let token = (model.tokens.len() as u32 + stream) % 5;
            model.tokens.push(token);
            fresh.push(token);
            let (index, x) = (model.values.len(), value(&model.tokens));
            model.values.push(x);
            self.cache.write(id, 0, index, &[x + (index + model.dropped) as f32; D], &[x; D]);
        }
        self.cache.advance(id, &fresh).unwrap();
        let pages = self.cache.table(id).unwrap().pages.len();
        for page in 0..pages {
            self.cache.add_mass(id, page, self.random.random());
        }
    }

    fn fork(&mut self, parent: u32) {
        let child = self.next;
        self.next += 1;
        match self.cache.fork(parent, child) {
            Ok(()) => {
                let model = self.model[&parent].clone();
                self.model.insert(child, model);
            }
            Err(CacheError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn truncate(&mut self, id: u32) {
        let model = self.model.get_mut(&id).unwrap();
        let end = self.random.random_range(model.dropped..=model.values.len() + model.dropped);
        let behind = self.cache.table(id).unwrap().behind.clone();
        let position = |index: &usize| index + model.dropped - behind.get(index / PAGE).copied().unwrap_or(0);
        let kept: Vec<usize> = (0..model.values.len()).filter(|index| position(index) < end).collect();
        let next = kept.last().map(|last| position(last) + 1);
        self.cache.truncate(id, end).unwrap();
        let (length, dropped) = self.cache.length(id).unwrap();
        assert_eq!((kept.len(), next.unwrap_or(length + dropped)), (length, length + dropped));
        model.values.truncate(length);
        model.dropped = dropped;
        model.tokens.truncate(length + dropped);
    }

    /// Compares what is in memory with the model.
    fn check(&self) {
        let mut mapped = vec![0; self.cache.pool.slots()];
        for (id, table) in &self.cache.tables {
            table.pages.iter().for_each(|page| mapped[*page as usize] += 1);
            let model = &self.model[id];
            assert_eq!((table.length, table.pages.len()), (model.values.len(), model.values.len().div_ceil(PAGE)));
            for (at, page) in table.pages.iter().enumerate() {
                let Some(page) = self.cache.pool.page(*page) else { continue };
                let tile = page.tile(0, PAGE * D);
                let (mut keys, mut values) = ([0.0; PAGE * D], [0.0; PAGE * D]);
                kernels().read_cached(tile.keys, &mut keys);
                kernels().read_cached(tile.values, &mut values);
                for (index, x) in model.values.iter().enumerate().skip(at * PAGE).take(PAGE) {
                    let place = index % PAGE * D;
                    // Behind a gap that is open it is where it was.
                    let behind = table.behind.get(at).copied().unwrap_or(0);
                    let position = (index + model.dropped - behind) as f32;
                    assert!((values[place] - x).abs() <= 0.4, "sequence {id} token {index}: {} for {x}", values[place]);
                    assert!(
                        (keys[place + D - 1] - x - position).abs() <= 0.4,
                        "sequence {id} token {index}: a key is at {}, not {position}",
                        keys[place] - x
                    );
                }
            }
        }
        self.cache.pool.audit(&mapped).unwrap();
        let report = self.cache.report();
        assert!(report.used_bytes <= report.budget_bytes.unwrap(), "{report:?}");
    }

    fn step(&mut self) {
        let kind = self.random.random_range(0..100);
        let count = self.random.random_range(1..30);
        let Some(id) = self.any() else { return self.open() };
        match kind {
            0..8 | 70..76 if self.model.len() >= 12 => {
                self.cache.close(id);
                self.model.remove(&id);
            }
            0..8 => self.open(),
            8..70 => self.append(id, count),
            70..76 => self.fork(id),
            76..84 => self.truncate(id),
            84..92 => {
                // All of a sequence comes back from a file.
                let result = self.prepare(id, 0);
                if result.is_ok() {
                    let away = self
                        .cache
                        .table(id)
                        .unwrap()
                        .pages
                        .iter()
                        .filter(|page| self.cache.pool.page(**page).is_none());
                    assert_eq!(away.count(), 0);
                }
            }
            _ => {
                self.cache.close(id);
                self.model.remove(&id);
            }
        }
    }
}

fn policy(stages: &[Stage]) -> Policy {
    Policy { window: 20, sinks: 4, low_watermark: 0.6, spill_bytes: 1 << 20, ..Policy::of(stages.to_vec()) }
}

#[test]
fn random_operations_keep_contents_references_and_bytes() {
    let policies = [
        None,
        Some(policy(&[Stage::Evict])),
        Some(Policy { sinks: 0, ..policy(&[Stage::Evict]) }),
        Some(policy(&[Stage::EvictLight])),
        Some(policy(&[Stage::Quantize])),
        Some(policy(&[Stage::Spill])),
        Some(policy(&[Stage::Reject])),
        Some(policy(&[Stage::Quantize, Stage::Spill, Stage::Evict])),
        Some(policy(&[Stage::Spill, Stage::EvictLight])),
        Some(policy(&[Stage::Quantize, Stage::EvictLight])),
    ];
    for (seed, policy) in (11..).zip(policies) {
        println!("seed {seed}: {:?}", policy.as_ref().map(|policy| (&policy.stages, policy.sinks)));
        let mut bench = Bench::new(seed, policy);
        for _ in 0..10_000 {
            bench.step();
            bench.check();
        }
        let acts: std::collections::BTreeSet<&str> =
            bench.cache.take_transitions().iter().map(|transition| transition.kind.name()).collect();
        println!("seed {seed}: {acts:?}");
        let wanted: Vec<&str> = bench
            .cache
            .settings
            .policy
            .iter()
            .flat_map(|policy| &policy.stages)
            .map(|stage| match stage {
                Stage::Evict => "evicted",
                Stage::EvictLight => "evicted_light",
                Stage::Quantize => "narrowed",
                Stage::Reject => "refused",
                Stage::Spill => "spilled",
            })
            .collect();
        assert!(wanted.iter().all(|kind| acts.contains(kind)), "{wanted:?} were to act, {acts:?} did");
        for id in bench.model.keys() {
            bench.cache.close(*id);
        }
        while bench.cache.pool.forget() {}
        let report = bench.cache.report();
        assert_eq!((report.used_bytes, report.pages, report.spilled_bytes, report.tokens), (0, 0, 0, 0), "a leak");
        assert_eq!(bench.cache.pool.in_file(), 0, "a leak");
    }
}

#[test]
fn a_tier_has_the_ages_up_to_its_end() {
    let types = |kind| CacheTypes { keys: kind, values: kind };
    let mut policy = Policy::of(vec![Stage::Quantize]);
    policy.tiers = vec![
        Tier { tokens: Some(256), types: types(CacheType::F16) },
        Tier { tokens: Some(1792), types: types(CacheType::Q8_0) },
        Tier { tokens: None, types: types(CacheType::Q4_0) },
    ];
    let at = |age| policy.types_at(age).unwrap().keys;
    assert_eq!(
        [at(0), at(255), at(256), at(2047), at(2048), at(1 << 20)].map(CacheType::name),
        ["f16", "f16", "q8_0", "q8_0", "q4_0", "q4_0"]
    );
}

#[test]
fn pages_take_the_bytes_that_were_predicted_in_every_type() {
    let all = [CacheType::F32, CacheType::F16, CacheType::Q8_0, CacheType::Q5_1, CacheType::Q4_0];
    for keys in all {
        for values in all {
            let types = CacheTypes { keys, values };
            let mut settings = settings(types, 10, None);
            settings.shape = PageShape { layers: 3, kv_heads: 2, head_dim: 64, page_tokens: 16 };
            settings.budget_bytes = None;
            let mut cache = PagedCache::new(kernels(), settings.clone()).unwrap();
            cache.open(0, &[], 0, None).unwrap();
            cache.prepare([(0, 33)].into_iter(), &Adding).unwrap();
            // Two for 32 values of each: 128, 64, 34, 24 or 18 bytes.
            let block = |kind: CacheType| kind.bytes(32).unwrap();
            let expected = 3 * (3 * 2 * 16) * 2 * (block(keys) + block(values));
            assert_eq!(cache.report().used_bytes, expected as u64);
        }
    }
    let odd = CacheSettings {
        shape: PageShape { head_dim: 80, ..settings(WIDE, 1, None).shape },
        types: CacheTypes { keys: CacheType::Q8_0, values: CacheType::F16 },
        ..settings(WIDE, 1, None)
    };
    let Err(error) = PagedCache::new(kernels(), odd) else { panic!("80 values are no whole blocks") };
    assert!(error.to_string().contains("80"), "{error}");
}

/// Where sequences take turns, only what changed since the last turn is written.
#[test]
fn what_came_back_from_the_file_and_was_not_changed_is_not_written_again() {
    let all = settings(WIDE, 6, Some(Policy { high_watermark: 1.0, low_watermark: 1.0, ..policy(&[Stage::Spill]) }));
    let page = all.shape.bytes(WIDE) as u64;
    let mut cache = PagedCache::new(kernels(), all).unwrap();
    let tokens: Vec<u32> = (0..32).collect();
    for id in [0, 1] {
        cache.open(id, &[], 40, None).unwrap();
        cache.prepare([(id, 32)].into_iter(), &Adding).unwrap();
        cache.advance(id, &tokens).unwrap();
    }
    assert_eq!((cache.report().spilled_bytes, cache.pool.in_file()), (2 * page, 2 * page));
    cache.prepare([(0, 0)].into_iter(), &Adding).unwrap();
    assert_eq!(cache.report().spilled_bytes, 2 * page, "the other's pages made room");
    assert_eq!(cache.pool.in_file(), 4 * page, "and those that came back are there still");
    cache.prepare([(1, 0)].into_iter(), &Adding).unwrap();
    assert_eq!((cache.report().spilled_bytes, cache.pool.in_file()), (2 * page, 4 * page));
    // What is written is another page.
    cache.write(1, 0, 0, &[1.0; D], &[1.0; D]);
    assert_eq!(cache.pool.in_file(), 3 * page);
    (0..2).for_each(|id| cache.close(id));
    while cache.pool.forget() {}
    assert_eq!(cache.pool.in_file(), 0);
}
