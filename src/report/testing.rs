//! Records made by simulation, for tests: a known truth plus seeded noise.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    event::Arm,
    host::Host,
    metrics::{
        SampleRow,
        testing::{RUN_ID, row},
    },
    plan::ModelIdentity,
    recipe::schema::KernelSet,
    results::{Manifest, RunKind, RunRecord, RunState, TokenRow},
};

pub(super) const DECODE: &str = "decode(p128,n64)";
pub(super) const PREFILL: &str = "prefill(p512)";
pub(super) const PERPLEXITY: &str = "perplexity(heldout,c512)";

pub(super) fn manifest() -> Manifest {
    Manifest {
        format_version: 1,
        run_id: RUN_ID.to_owned(),
        kind: RunKind::Run,
        state: RunState::Complete,
        recipe: "smoke".to_owned(),
        cell_hash: "c".repeat(64),
        axes: indexmap::IndexMap::new(),
        seed: 0,
        kernel_set: KernelSet::Avx2,
        threads: 2,
        model: ModelIdentity {
            source: "builtin:pico".to_owned(),
            name: "pico".to_owned(),
            architecture: "llama".to_owned(),
            weights_hash: "w".repeat(64),
            format: "q8_0".to_owned(),
            weights_bytes: 3 << 20,
            parameters: 3_000_000,
            context_length: 512,
            path: "builtin:pico".to_owned(),
            commit: None,
            synthetic: false,
            adapter: None,
        },
        host: Host {
            host_id: "h".repeat(16),
            cpu: "AMD EPYC 9R14".to_owned(),
            ruvlab: "0.1.0".to_owned(),
            commit: "0123456789ab".to_owned(),
            ..Host::default()
        },
        sessions: vec!["s".to_owned()],
        started_at: "2026-11-22T10:00:00.000Z".to_owned(),
        ended_at: Some("2026-11-22T10:10:00.000Z".to_owned()),
        launches_complete: 5,
        launches_failed: 0,
        reason: None,
    }
}

pub(super) fn record(samples: Vec<SampleRow>) -> RunRecord {
    RunRecord { manifest: manifest(), samples, texts: None }
}

/// Normal deviates by Box and Muller.
pub(super) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// A bench whose truth is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Truth {
    pub(super) decode_tok_s: f64,
    pub(super) prefill_tok_s: f64,
    pub(super) perplexity: Option<f64>,
    /// Standard deviation of the logarithm between launches.
    pub(super) noise: f64,
    pub(super) launches: u32,
}

impl Default for Truth {
    fn default() -> Self {
        Self { decode_tok_s: 50.0, prefill_tok_s: 400.0, perplexity: Some(7.5), noise: 0.02, launches: 5 }
    }
}

impl Truth {
    /// Returns the rows one arm measures.
    pub(super) fn rows(self, arm: Arm, rng: &mut ChaCha8Rng) -> Vec<SampleRow> {
        let mut rows = Vec::new();
        for block in 0..self.launches {
            let launch = 2 * block + u32::from(arm == Arm::Baseline);
            let mut timed = |metric: &str, workload: &str, value: f64, rng: &mut ChaCha8Rng| {
                let value = value * (self.noise * normal(rng)).exp();
                rows.extend((0..3).map(|rep| row(metric, workload, block, launch, rep, value)));
            };
            timed("prefill_tok_s", PREFILL, self.prefill_tok_s, rng);
            timed("decode_tok_s", DECODE, self.decode_tok_s, rng);
            timed("ttft_ms", DECODE, 128_000.0 / self.prefill_tok_s, rng);
            timed("itl_p99_ms", DECODE, 1_400.0 / self.decode_tok_s, rng);
            rows.push(row("peak_rss_bytes", "", block, launch, 0, 180.0 * 1_048_576.0));
        }
        if let Some(perplexity) = self.perplexity {
            rows.push(row("perplexity", PERPLEXITY, 0, 90 + u32::from(arm == Arm::Baseline), 0, perplexity));
        }
        for row in &mut rows {
            arm.name().clone_into(&mut row.arm);
        }
        rows
    }

    /// Returns a run of it.
    pub(super) fn record(self, seed: u64) -> RunRecord {
        record(self.rows(Arm::Candidate, &mut ChaCha8Rng::seed_from_u64(seed)))
    }
}

/// Returns a check run of both arms.
pub(super) fn check(baseline: Truth, candidate: Truth, seed: u64) -> RunRecord {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = baseline.rows(Arm::Baseline, &mut rng);
    rows.extend(candidate.rows(Arm::Candidate, &mut rng));
    let mut record = record(rows);
    record.manifest.kind = RunKind::Check;
    record
}

/// Returns a cell of a matrix with its tokens: speeds in tokens a second.
pub(super) fn cell(axes: &[(&str, &str)], number: u32, truth: Truth) -> (RunRecord, Vec<TokenRow>) {
    let mut rng = ChaCha8Rng::seed_from_u64(u64::from(number));
    let mut record = truth.record(u64::from(number) + 1000);
    let manifest = &mut record.manifest;
    manifest.run_id = format!("0190aaaa-0000-7000-8000-{number:012x}");
    manifest.cell_hash = format!("{number:064x}");
    manifest.axes = axes.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    for (key, value) in axes {
        match *key {
            "quantization.format" => (*value).clone_into(&mut manifest.model.format),
            "kernels.set" => {
                manifest.kernel_set = serde_json::from_value((*value).into()).unwrap_or(KernelSet::Avx2);
            }
            _ => {}
        }
    }
    let bits = match manifest.model.format.as_str() {
        "f16" => 16.0,
        "q8_0" => 8.5,
        "q6_k" => 6.56,
        "q5_k" => 5.5,
        _ => 4.5,
    };
    manifest.model.weights_bytes = (135e6 * bits / 8.0) as u64;
    manifest.model.weights_hash = format!("{:0<64}", manifest.model.format);
    for row in &mut record.samples {
        record.manifest.run_id.clone_into(&mut row.run_id);
        record.manifest.cell_hash.clone_into(&mut row.cell_hash);
    }
    let tokens = tokens(&record.manifest.run_id, truth, &mut rng);
    (record, tokens)
}

fn tokens(run_id: &str, truth: Truth, rng: &mut ChaCha8Rng) -> Vec<TokenRow> {
    let mut rows = Vec::new();
    for launch in 0..truth.launches {
        let mut t_ns = 0;
        for position in 0..64u32 {
            let slow = if rng.random::<f64>() < 0.03 { 1.0 + 2.5 * rng.random::<f64>() } else { 1.0 };
            let gap = (1e9 / truth.decode_tok_s * slow * (0.04 * normal(rng)).exp()) as u64;
            t_ns += gap;
            rows.push(TokenRow {
                run_id: run_id.to_owned(),
                arm: Arm::Candidate.name().to_owned(),
                // As its rows have it: between two of a candidate is one of a baseline.
                launch: 2 * launch,
                workload: DECODE.to_owned(),
                rep: 0,
                warmup: false,
                request: 0,
                position,
                token_id: position,
                t_ns,
                itl_ns: (position > 0).then_some(gap),
                ..TokenRow::default()
            });
        }
    }
    rows
}
