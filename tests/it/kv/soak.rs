//! Sequences that come and go at more than the budget, for as long as one likes.
use std::{collections::BTreeSet, env, fs};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ruvlab::{
    clock::Stopwatch,
    engine::{CacheType, Chunk, LogitRows, SequenceId},
    kv::{CacheTypes, Policy, Stage, Tier},
};

use super::{
    super::logits::{heldout, pico},
    kinds, limited, policy,
};

/// Seconds of the soak: `RUVLAB_SOAK_SECONDS`, 5 where it does not say.
#[test]
fn sixteen_sequences_at_one_and_a_half_budgets_neither_stop_nor_grow() {
    let seconds: f64 = env::var("RUVLAB_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5.0);
    let weights = pico();
    let tokens = heldout(&weights);
    let types = |kind| CacheTypes { keys: kind, values: kind };
    let tiers = vec![
        Tier { tokens: Some(64), types: types(CacheType::F16) },
        Tier { tokens: None, types: types(CacheType::Q8_0) },
    ];
    // Sixteen sequences of up to 192 tokens are 96 pages.
    let mut engine = limited(
        &weights,
        64,
        Some(Policy {
            high_watermark: 0.9,
            low_watermark: 0.8,
            tiers,
            ..policy(&[Stage::Quantize, Stage::Spill, Stage::Evict])
        }),
    );
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut open: Vec<(SequenceId, usize)> = Vec::new();
    let (clock, mut steps, mut settled) = (Stopwatch::start(), 0u64, None);
    while clock.elapsed().as_secs_f64() < seconds {
        while open.len() < 16 {
            open.push((engine.open().unwrap(), 0));
        }
        let count = random.random_range(1..=16);
        let chosen: BTreeSet<usize> = (0..count).map(|_| random.random_range(0..16)).collect();
        let length = |done: usize, random: &mut ChaCha8Rng| if done == 0 { random.random_range(20..100) } else { 1 };
        let parts: Vec<_> = chosen.iter().map(|at| (open[*at].0, length(open[*at].1, &mut random))).collect();
        let chunks: Vec<_> = parts
            .iter()
            .map(|(sequence, length)| Chunk {
                sequence: *sequence,
                tokens: &tokens[..*length],
                logits: LogitRows::Last,
            })
            .collect();
        let found = engine.step(&chunks).unwrap();
        assert!(found.iter().all(|logits| logits.values.iter().all(|logit| logit.is_finite())));
        for (at, (_, length)) in chosen.iter().zip(&parts) {
            open[*at].1 += length;
        }
        open.retain(|(sequence, done)| {
            if *done >= 192 {
                engine.close(*sequence);
            }
            *done < 192
        });
        let report = engine.cache_report().unwrap();
        assert!(report.peak_bytes <= report.budget_bytes.unwrap(), "{report:?}");
        steps += 1;
        if steps % 50 == 0 {
            let resident = resident_bytes();
            let least = *settled.get_or_insert(resident);
            assert!(resident <= least + (128 << 20), "{resident} bytes are resident, {least} were");
        }
    }
    let acts = kinds(engine.as_mut());
    println!("{steps} steps in {seconds} s: {acts:?}, {:?}", engine.cache_report().unwrap());
    assert!(
        steps >= 50 && ["narrowed", "spilled", "restored"].iter().all(|kind| acts.contains(kind)),
        "{steps} {acts:?}"
    );
}

/// Returns the resident memory of this process; 0 where the system does not say.
fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
}
