//! Several adapters in one step, and any number of threads: each sequence gets what it gets alone.
use std::sync::{Arc, Mutex};

use ruvlab::engine::{Adapter, Chunk, LogitRows};
use ruvlab_kernels::Pool;

use super::{
    super::logits::{heldout, load_exact, logits, native, pico},
    adapter, with_adapter,
};

/// Returns whether the sequences of a batch give, to the last bit, what each gives alone.
fn assert_together_as_alone(of: &[Option<&Arc<Adapter>>]) {
    let weights = pico();
    let tokens = &heldout(&weights)[..100];
    let parts: Vec<&[u32]> = (0..of.len()).map(|i| &tokens[i * 7..i * 7 + 20 + i]).collect();
    for kind in native() {
        let mut engine = load_exact(kind, &weights, 3);
        let sizes = |part: &[u32]| [part.len() - 5, 1, 1, 1, 2];
        let alone: Vec<_> = of
            .iter()
            .zip(&parts)
            .map(|(adapter, part)| with_adapter(engine.as_mut(), *adapter, part, &sizes(part)))
            .collect();
        for (i, (adapter, part)) in of.iter().zip(&parts).enumerate().filter(|(_, (adapter, _))| adapter.is_none()) {
            let never = logits(load_exact(kind, &weights, 3).as_mut(), part, &sizes(part));
            assert!(alone[i] == never, "{kind:?}: sequence {i}, without an adapter {adapter:?}");
        }
        let open = |adapter: &Option<&Arc<Adapter>>| {
            let sequence = engine.open().unwrap();
            engine.attach(sequence, adapter.cloned()).unwrap();
            sequence
        };
        let sequences: Vec<u32> = of.iter().map(open).collect();
        let mut together = vec![Vec::new(); of.len()];
        for step in 0..5 {
            let chunk = |i: usize| {
                let sizes = sizes(parts[i]);
                let start: usize = sizes[..step].iter().sum();
                Chunk { sequence: sequences[i], tokens: &parts[i][start..start + sizes[step]], logits: LogitRows::All }
            };
            let chunks: Vec<_> = (0..of.len()).map(chunk).collect();
            for (rows, logits) in together.iter_mut().zip(engine.step(&chunks).unwrap()) {
                rows.extend((0..logits.rows).map(|row| logits.row(row).to_vec()));
            }
        }
        for (i, (together, alone)) in together.iter().zip(&alone).enumerate() {
            assert!(together == alone, "{kind:?}: sequence {i}");
        }
    }
}

/// Rows of one step with two adapters and without one, few and many of them, on packed blocks.
#[test]
fn sequences_with_different_adapters_give_what_each_gives_alone() {
    let adapters = [3, 4].map(|seed| Arc::new(adapter(pico().spec(), seed, seed as usize)));
    assert_together_as_alone(&[Some(&adapters[0]), None, Some(&adapters[1]), Some(&adapters[0]), None]);
}

/// Eight requests of one batch, each with an adapter of its own, of several ranks.
#[test]
fn eight_adapters_in_a_batch_give_what_each_gives_alone() {
    let adapters: Vec<_> = (10..18).map(|seed| Arc::new(adapter(pico().spec(), seed, 1 + seed as usize % 4))).collect();
    let of: Vec<Option<&Arc<Adapter>>> = adapters.iter().map(Some).collect();
    assert_eq!(of.len(), 8);
    assert_together_as_alone(&of);
}

/// However many threads share a step, and where one does the work of all since the step is taken inside a job of
/// theirs, the logits are the same.
#[test]
fn an_adapter_gives_the_same_with_any_number_of_threads() {
    let weights = pico();
    let adapter = Arc::new(adapter(weights.spec(), 7, 9));
    let tokens = &heldout(&weights)[..24];
    for kind in native() {
        let run = |threads: usize| {
            with_adapter(load_exact(kind, &weights, threads).as_mut(), Some(&adapter), tokens, &[18, 1, 1, 4])
        };
        let right = run(1);
        for threads in [2, 3, 5] {
            assert!(run(threads) == right, "{kind:?}: {threads} threads");
        }
        let found = Mutex::new(Vec::new());
        Pool::new(2).unwrap().run(&|worker| {
            if worker == 1 {
                *found.lock().unwrap() = run(3);
            }
        });
        assert!(found.into_inner().unwrap() == right, "{kind:?}: inside a job");
    }
}
