//! Events to rows of single tokens.
use super::Collector;
use crate::{
    event::{Event, ScoreTrace, TokenTrace},
    metrics::TokenRow,
};

/// Returns one row for each generated or scored token of a run, in the order they came.
///
/// `collector` has seen the run: what a launch generated that did not finish well counts as little as
/// its samples, and as a row cannot say so, it has none.
#[must_use]
pub fn collect_tokens<'a>(collector: &Collector, events: impl IntoIterator<Item = &'a Event>) -> Vec<TokenRow> {
    let arm_of = |launch: &u32| {
        let record = collector.launches.get(launch).filter(|record| record.is_complete());
        record.map(|record| record.arm.name())
    };
    let mut rows = Vec::new();
    for event in events {
        match event {
            Event::Tokens { launch, trace } => {
                if let Some(arm) = arm_of(launch) {
                    append_tokens(&mut rows, &collector.run_id, arm, *launch, trace);
                }
            }
            Event::Scores { launch, trace } => {
                if let Some(arm) = arm_of(launch) {
                    append_scores(&mut rows, &collector.run_id, arm, *launch, trace);
                }
            }
            _ => {}
        }
    }
    rows
}

fn append_tokens(rows: &mut Vec<TokenRow>, run_id: &str, arm: &str, launch: u32, trace: &TokenTrace) {
    let TokenTrace { workload, rep, request, warmup, tokens } = trace;
    let mut before: Option<u64> = None;
    rows.extend(tokens.iter().map(|token| TokenRow {
        run_id: run_id.to_owned(),
        arm: arm.to_owned(),
        launch,
        workload: workload.clone(),
        rep: *rep,
        warmup: *warmup,
        request: *request,
        position: token.position,
        token_id: token.token_id,
        t_ns: token.t_ns,
        itl_ns: before.replace(token.t_ns).and_then(|before| token.t_ns.checked_sub(before)),
        ..TokenRow::default()
    }));
}

fn append_scores(rows: &mut Vec<TokenRow>, run_id: &str, arm: &str, launch: u32, trace: &ScoreTrace) {
    let ScoreTrace { workload, window, t_ns, tokens } = trace;
    rows.extend(tokens.iter().map(|token| TokenRow {
        run_id: run_id.to_owned(),
        arm: arm.to_owned(),
        launch,
        workload: workload.clone(),
        request: *window,
        position: token.position,
        token_id: token.token_id,
        t_ns: *t_ns,
        nll: Some(token.nll),
        reference_nll: Some(token.reference_nll),
        kl_divergence: Some(token.kl_divergence),
        top1_equal: Some(token.top1_equal),
        ..TokenRow::default()
    }));
}
