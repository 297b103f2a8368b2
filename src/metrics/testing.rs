//! Rows for tests.
use super::SampleRow;
use crate::event::Arm;

/// The run all rows belong to.
pub(crate) const RUN_ID: &str = "0190aaaa-0000-7000-8000-000000000001";

pub(crate) fn row(metric: &str, workload: &str, block: u32, launch: u32, rep: u32, value: f64) -> SampleRow {
    SampleRow {
        run_id: RUN_ID.to_owned(),
        cell_hash: "c".repeat(64),
        arm: Arm::Candidate.name().to_owned(),
        block,
        slot: 0,
        launch,
        rep,
        warmup: false,
        phase: "decode".to_owned(),
        workload: workload.to_owned(),
        step: None,
        task: None,
        trained_through: None,
        metric: metric.to_owned(),
        value,
        unit: super::find(metric).map_or("", |metric| metric.unit).to_owned(),
        n: 64,
        t_ns: 0,
        valid: true,
        reason: None,
    }
}
