//! Instant adaptation: time of an update on 64 tokens, over many, by the thread's own clock and by the
//! wall's; of what it adds to a decoded token; at the shapes of three models. Figures, not criterion's:
//! what counts are the rare slow ones.
//!
//! And of publishing an adapter of a registry while two readers pin it as fast as they can.
//!
//! `cargo bench --bench adapt` prints a table. Updates come twice: one after another, and each after 64 MiB
//! of other data went through the caches, as a model's weights do between two requests.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ruvlab::adapt::{
    micro_lora::{Directions, MicroLora, Outcome, Request, Settings},
    registry::Published,
};

/// A model's name, E and V.
const SHAPES: [(&str, usize, usize); 3] =
    [("smollm2-135m", 576, 49_152), ("llama-2-7b", 4096, 32_000), ("qwen2.5-14b", 5120, 152_064)];
const TOKENS: usize = 64;
const UPDATES: usize = 10_000;
const COLD_UPDATES: usize = 1_000;
/// Requests that take turns.
const REQUESTS: usize = 24;
const OTHER_DATA: usize = 64 << 20;

/// Returns the time this thread has computed.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("a time since the thread began")
}

struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About normal.
    fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.uniform() - 0.5).sum::<f32>() * 1.73
    }
}

/// Fills in logits such as a model's: common tokens likelier, by a power law, and each position its own.
fn logits(random: &mut Random, into: &mut [f32]) {
    for (token, logit) in into.iter_mut().enumerate() {
        *logit = 2.0 * random.normal() - 1.1 * ((token + 3) as f32).ln();
    }
}

struct Stream {
    micro: MicroLora,
    requests: Vec<Request>,
    /// Of the last position.
    logits: Vec<f32>,
    hidden: Vec<f32>,
}

fn stream(hidden_size: usize, vocab_size: usize) -> Stream {
    let mut random = Random(11);
    let inputs: Vec<f32> =
        (0..64 * hidden_size).map(|at| random.normal() + if at % 7 == 0 { 1.0 } else { 0.0 }).collect();
    let directions = Directions::even(&inputs, hidden_size).expect("inputs");
    let micro = MicroLora::new(Settings::default(), &directions, vocab_size).expect("settings");
    let mut row = vec![0.0; vocab_size];
    let requests = (0..REQUESTS).map(|_| {
        let mut request = micro.request(TOKENS);
        for _ in 0..TOKENS {
            logits(&mut random, &mut row);
            let start = (random.uniform() * 60.0) as usize * hidden_size;
            // Where the power law puts it, as text does.
            let came = ((vocab_size as f32).powf(random.uniform()) - 1.0) as u32;
            request.record(micro.project(&inputs[start..][..hidden_size]), &row, came).expect("numbers");
        }
        request
    });
    let requests = requests.collect();
    Stream { requests, logits: row, hidden: inputs[..hidden_size].to_vec(), micro }
}

/// Returns microseconds at a share of sorted times.
fn at(sorted: &[Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e6
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| at(&times, share));
    format!("p50 {p50:7.1}  p99 {p99:7.1}  max {most:8.1}")
}

/// Times updates by both clocks, each after `before`.
#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark reads clocks and reports")]
fn time_updates(name: &str, how: &str, stream: &mut Stream, updates: usize, mut before: impl FnMut()) {
    let (mut own, mut wall) = (Vec::with_capacity(updates), Vec::with_capacity(updates));
    let mut applied = 0;
    for update in 0..updates {
        before();
        let request = &stream.requests[update % REQUESTS];
        let (start, start_own) = (Instant::now(), thread_time());
        let step = stream.micro.step(request, 1.0);
        own.push(thread_time() - start_own);
        wall.push(start.elapsed());
        applied += usize::from(step.outcome == Outcome::Applied);
        assert!(step.loss_after <= step.loss_before, "{step:?}");
    }
    assert!(applied * 10 >= updates * 9, "{applied} of {updates} updates moved anything");
    println!(
        "{name:13} update {how:4}  {updates:6} x {TOKENS} tokens, us: cpu {}   wall {}",
        percentiles(own),
        percentiles(wall)
    );
}

#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark reads clocks and reports")]
fn time_token(name: &str, what: &str, mut run: impl FnMut()) {
    run();
    let mut times = Vec::with_capacity(2000);
    for _ in 0..2000 {
        let start = Instant::now();
        run();
        times.push(start.elapsed());
    }
    println!("{name:13} {what:30} us a token: wall {}", percentiles(times));
}

/// Times swaps of a value that two readers load again and again, as fast as can be.
#[expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a benchmark reads clocks and reports")]
fn time_swaps(readers: usize) {
    const SWAPS: u64 = 1_000_000;
    let values: Vec<Arc<[u64; 8]>> = (0..=SWAPS).map(|tag| Arc::new([tag; 8])).collect();
    let published = Published::new([0u64; 8]);
    let done = AtomicBool::new(false);
    let (mut times, mut reads) = (Vec::with_capacity(values.len()), 0u64);
    std::thread::scope(|scope| {
        let read = || {
            let mut reads = 0u64;
            while !done.load(Ordering::Relaxed) {
                let (version, value) = published.load();
                assert!(value.iter().all(|tag| *tag == version - 1), "version {version} is torn");
                reads += 1;
            }
            reads
        };
        let readers: Vec<_> = (0..readers).map(|_| scope.spawn(read)).collect();
        for value in values.iter().skip(1) {
            let value = Arc::clone(value);
            let start = Instant::now();
            let replaced = published.publish(value);
            times.push(start.elapsed());
            drop(replaced);
        }
        done.store(true, Ordering::Relaxed);
        reads = readers.into_iter().map(|reader| reader.join().expect("a reader")).sum();
    });
    println!("publish, {readers} readers, {SWAPS} swaps, {reads} reads, us: wall {}", precise(times));
}

fn precise(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let [p50, p99, p999, most] = [0.5, 0.99, 0.999, 1.0].map(|share| at(&times, share));
    format!("p50 {p50:.3}  p99 {p99:.3}  p99.9 {p999:.3}  max {most:.1}")
}

fn main() {
    time_swaps(0);
    time_swaps(2);
    // `cargo bench --bench adapt -- swaps` does no more.
    if std::env::args().any(|argument| argument == "swaps") {
        return;
    }
    let mut other = vec![1u8; OTHER_DATA];
    for (name, hidden_size, vocab_size) in SHAPES {
        let mut stream = stream(hidden_size, vocab_size);
        // As in use: everything has its room.
        for request in 0..REQUESTS {
            stream.micro.step(&stream.requests[request], 1.0);
        }
        time_updates(name, "warm", &mut stream, UPDATES, || {});
        time_updates(name, "cold", &mut stream, COLD_UPDATES, || {
            other.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
            std::hint::black_box(&other);
        });
        let Stream { micro, logits, hidden, .. } = &mut stream;
        let projected = micro.project(hidden);
        time_token(name, "apply", || {
            let projected = micro.project(std::hint::black_box(hidden));
            micro.apply(projected, std::hint::black_box(logits));
        });
        let mut request = micro.request(TOKENS);
        time_token(name, "record", || {
            if request.len() == TOKENS {
                request.clear();
            }
            request.record(projected, std::hint::black_box(logits), 17).expect("numbers");
        });
    }
}
