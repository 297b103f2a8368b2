//! Events to rows of single tokens.
use std::collections::BTreeMap;

use crate::{
    event::{Arm, Event, ScoreTrace, TokenTrace},
    metrics::TokenRow,
};

/// Returns one row for each generated or scored token of a run, in the order they came.
#[must_use]
pub fn collect_tokens<'a>(run_id: &str, events: impl IntoIterator<Item = &'a Event>) -> Vec<TokenRow> {
    let mut arms: BTreeMap<u32, Arm> = BTreeMap::new();
    let mut rows = Vec::new();
    for event in events {
        match event {
            Event::LaunchStarted { launch, arm, .. } => {
                arms.entry(*launch).or_insert(*arm);
            }
            Event::Tokens { launch, trace } => {
                let arm = arms.get(launch).map_or("unknown", |arm| arm.name());
                append_tokens(&mut rows, run_id, arm, *launch, trace);
            }
            Event::Scores { launch, trace } => {
                let arm = arms.get(launch).map_or("unknown", |arm| arm.name());
                append_scores(&mut rows, run_id, arm, *launch, trace);
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
