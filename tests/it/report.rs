//! From stored records to a verdict, a page of text and pictures, through the public interface alone.
use std::collections::BTreeMap;

use indexmap::IndexMap;
use ruvlab::{
    event::Arm,
    host::Host,
    metrics::SampleRow,
    plan::ModelIdentity,
    recipe::schema::KernelSet,
    report::{
        self, GateExit, Outcome, Side, Thresholds, charts,
        tables::{gate_table, results_table},
    },
    results::{Manifest, RunKind, RunRecord, RunState},
    ui::table::{TableStyle, render},
};

const DECODE: &str = "decode(p128,n64)";
const PERPLEXITY: &str = "perplexity(heldout,c512)";
/// What five launches of a machine with 1 % noise might show, as factors.
const NOISE: [f64; 5] = [1.004, 0.991, 1.012, 0.998, 0.995];

fn row(arm: Arm, metric: &str, workload: &str, block: u32, value: f64, unit: &str) -> SampleRow {
    SampleRow {
        run_id: String::new(),
        cell_hash: String::new(),
        arm: arm.name().to_owned(),
        block,
        slot: 0,
        launch: 2 * block + u32::from(arm == Arm::Baseline),
        rep: 0,
        warmup: false,
        phase: "decode".to_owned(),
        workload: workload.to_owned(),
        step: None,
        task: None,
        trained_through: None,
        metric: metric.to_owned(),
        value,
        unit: unit.to_owned(),
        n: 64,
        t_ns: 0,
        valid: true,
        reason: None,
    }
}

fn arm(arm: Arm, decode_tok_s: f64, perplexity: f64) -> Vec<SampleRow> {
    // The arms see the same drift in other order, as interleaved launches do.
    let noise = |block: usize| NOISE[(block + usize::from(arm == Arm::Baseline)) % NOISE.len()];
    let mut rows: Vec<SampleRow> = (0..NOISE.len())
        .map(|block| row(arm, "decode_tok_s", DECODE, block as u32, decode_tok_s * noise(block), "tokens/s"))
        .collect();
    rows.push(row(arm, "perplexity", PERPLEXITY, 0, perplexity, ""));
    rows
}

fn record(number: u32, kernels: &str, kind: RunKind, samples: Vec<SampleRow>) -> RunRecord {
    let mut record = RunRecord {
        manifest: Manifest {
            format_version: 1,
            run_id: format!("0190aaaa-0000-7000-8000-{number:012x}"),
            kind,
            state: RunState::Complete,
            recipe: "kernels".to_owned(),
            cell_hash: format!("{number:064x}"),
            axes: IndexMap::from([("kernels.set".to_owned(), kernels.into())]),
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
            host: Host { host_id: "h".repeat(16), cpu: "AMD EPYC".to_owned(), ..Host::default() },
            sessions: vec!["s".to_owned()],
            started_at: "2026-11-22T10:00:00.000Z".to_owned(),
            ended_at: Some("2026-11-22T10:10:00.000Z".to_owned()),
            launches_complete: 5,
            launches_failed: 0,
            reason: None,
        },
        samples,
        texts: None,
    };
    for row in &mut record.samples {
        record.manifest.run_id.clone_into(&mut row.run_id);
        record.manifest.cell_hash.clone_into(&mut row.cell_hash);
    }
    record
}

fn check(decode_tok_s: f64, perplexity: f64) -> report::GateReport {
    let mut rows = arm(Arm::Baseline, 50.0, 7.5);
    rows.extend(arm(Arm::Candidate, decode_tok_s, perplexity));
    let run = record(1, "avx2", RunKind::Check, rows);
    let stored = record(2, "avx2", RunKind::Run, Vec::new()).manifest;
    report::gate(report::compare(&Side::rerun(&stored, &run), &Side::of(&run)), &Thresholds::default()).unwrap()
}

#[test]
fn equal_arms_pass_slow_ones_fail_and_only_when_confirmed() {
    assert_eq!(check(50.0, 7.5).outcome.exit(true), GateExit::Ok);
    let slow = check(45.0, 7.5);
    assert_eq!(slow.outcome.exit(false), GateExit::Regression);
    let refuted = report::confirm(&slow.gates, &check(50.0, 7.5).gates);
    assert_eq!(slow.clone().with_gates(refuted).outcome, Outcome::Pass);
    let confirmed = report::confirm(&slow.gates, &check(45.5, 7.5).gates);
    assert_eq!(slow.with_gates(confirmed).outcome, Outcome::Regression);
    assert_eq!(check(50.0, 7.6).outcome, Outcome::Regression, "1.3 % of perplexity");
}

#[test]
fn a_check_is_told_as_table_json_and_junit() {
    let slow = check(45.0, 7.5);
    let text = render(&gate_table(&slow), TableStyle { width: Some(100), unicode: true, color: false });
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(text.contains("regression (to confirm)"), "{text}");
    let json = serde_json::to_value(&slow).unwrap();
    assert_eq!(json["outcome"], "regression");
    assert_eq!(json["gates"][0]["verdict"], "regression");
    assert!(report::junit(&[slow], &[], false).unwrap().contains(r#"failures="1""#));
}

#[test]
fn cells_of_a_run_are_told_as_table_and_pictures() {
    let cells = [("reference", 20.0, 7.5), ("avx2", 50.0, 7.51)];
    let records: Vec<RunRecord> = cells
        .into_iter()
        .zip(1..)
        .map(|((kernels, speed, perplexity), number)| {
            record(number, kernels, RunKind::Run, arm(Arm::Candidate, speed, perplexity))
        })
        .collect();
    let baseline = BTreeMap::from([("kernels.set".to_owned(), "reference".into())]);
    let table = results_table(&records, Some(&baseline));
    let text = render(&table, TableStyle { width: None, unicode: true, color: false });
    assert!(text.contains("reference") && text.contains("+150"), "{text}");

    let folder = tempfile::tempdir().unwrap();
    let with_tokens: Vec<_> = records.into_iter().map(|record| (record, Vec::new())).collect();
    let drawn = charts::draw_all(&with_tokens, Some(&baseline), folder.path()).unwrap();
    let names: Vec<&str> = drawn.files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["throughput", "pareto", "forest"]);
    for file in drawn.files.iter().flat_map(|file| [&file.svg, &file.png, &file.csv]) {
        assert!(std::fs::metadata(file).unwrap().len() > 100, "{}", file.display());
    }
    let skipped: Vec<&str> = drawn.skipped.iter().map(|skip| skip.name.as_str()).collect();
    assert_eq!(skipped, ["itl_ecdf", "heatmap"]);
}
