//! What differs between two sides besides their results, and what that means for a verdict.
use serde::Serialize;

use super::{Pairing, Side};
use crate::{
    metrics::workloads,
    report::{
        label::{kernel_set_name, short_run_id},
        number,
    },
    results::{Manifest, RunState},
};

/// What a difference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The numbers do not mean the same thing: no verdict.
    Forbids,
    /// Timed metrics are a hint, not a verdict.
    Advisory,
    /// It is what is compared.
    Subject,
    /// Good to know.
    Note,
}

/// Something that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What, such as `machine` or a recipe key.
    pub what: String,
    /// The baseline's.
    pub baseline: String,
    /// The candidate's.
    pub candidate: String,
    /// What it means.
    pub effect: Effect,
}

/// Returns whether launches of the two sides alternated in one session.
pub(super) fn interleaved(a: &Side<'_>, b: &Side<'_>) -> bool {
    if a.run_id() == b.run_id() {
        return a.arm != b.arm;
    }
    let same_bench =
        a.host.host_id == b.host.host_id && a.host.build() == b.host.build() && a.manifest.recipe == b.manifest.recipe;
    same_bench && shares_sessions(a.manifest, b.manifest)
}

/// Rounds of one session go through all its cells, so their launches alternate; two sessions at one
/// time do not alternate, they disturb each other. Where one run went on in a session of its own, the
/// rounds of that session have numbers that the other does not; where both did, numbers could mean
/// different rounds.
fn shares_sessions(a: &Manifest, b: &Manifest) -> bool {
    let within = |x: &Manifest, y: &Manifest| x.sessions.iter().all(|session| y.sessions.contains(session));
    match (a.sessions.is_empty(), b.sessions.is_empty()) {
        (false, false) => within(a, b) || within(b, a),
        (true, true) => overlap(a, b),
        _ => false,
    }
}

/// Of runs that name no session, those of one session overlap in time, and those of different ones on
/// one store mostly do not. A run without an end is of a session that was killed or still goes on.
fn overlap(a: &Manifest, b: &Manifest) -> bool {
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let begins_within = |x: &Manifest, y: &Manifest| {
        let (start, end) = (time(&x.started_at)?, y.ended_at.as_deref().and_then(time)?);
        Some(start < end)
    };
    begins_within(a, b) == Some(true) && begins_within(b, a) == Some(true)
}

/// Returns everything that differs, gravest first.
pub(super) fn differences(baseline: &Side<'_>, candidate: &Side<'_>, pairing: Pairing) -> Vec<Difference> {
    let mut found = Found { list: Vec::new() };
    definitions(&mut found, baseline, candidate);
    circumstances(&mut found, baseline, candidate, pairing);
    subjects(&mut found, baseline.manifest, candidate.manifest);
    let gravity = |difference: &Difference| match difference.effect {
        Effect::Forbids => 0,
        Effect::Advisory => 1,
        Effect::Subject => 2,
        Effect::Note => 3,
    };
    found.list.sort_by_key(gravity);
    found.list
}

struct Found {
    list: Vec<Difference>,
}

impl Found {
    fn look(&mut self, effect: Effect, what: &str, baseline: &str, candidate: &str) {
        if baseline != candidate {
            self.add(effect, what, baseline, candidate);
        }
    }

    fn add(&mut self, effect: Effect, what: &str, baseline: &str, candidate: &str) {
        self.list.push(Difference {
            what: what.to_owned(),
            baseline: baseline.to_owned(),
            candidate: candidate.to_owned(),
            effect,
        });
    }
}

/// What makes numbers mean different things.
fn definitions(found: &mut Found, a: &Side<'_>, b: &Side<'_>) {
    let version = |side: &Side<'_>| side.metric_schema_version.to_string();
    found.look(Effect::Forbids, "metric definitions", &version(a), &version(b));
    for (side, is_baseline) in [(a, true), (b, false)] {
        if side.manifest.state == RunState::Invalid {
            let reason = side.manifest.reason.as_deref().unwrap_or("its numbers differ from the reference's");
            let text = format!("invalid: {reason}");
            let (old, new) = if is_baseline { (text.as_str(), "-") } else { ("-", text.as_str()) };
            found.add(Effect::Forbids, "kernel check", old, new);
        }
    }
    let (old, new) = (workloads(a.samples, a.arm), workloads(b.samples, b.arm));
    for workload in old.iter().filter(|workload| !new.contains(workload)) {
        found.add(Effect::Forbids, "workload", workload, "-");
    }
    for workload in new.iter().filter(|workload| !old.contains(workload)) {
        // Fine beside workloads both have; with none in common there is nothing to compare.
        let effect = if old.iter().any(|label| new.contains(label)) { Effect::Note } else { Effect::Forbids };
        found.add(effect, "workload", "-", workload);
    }
    if let (Some(old), Some(new)) = (a.texts, b.texts) {
        let digest = |hash: Option<&String>| hash.map_or("-", |hash| hash.get(..12).unwrap_or(hash)).to_owned();
        for (name, hash) in old {
            found.look(Effect::Forbids, &format!("text {name}"), &digest(Some(hash)), &digest(new.get(name)));
        }
        for (name, hash) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
            found.add(Effect::Note, &format!("text {name}"), "-", &digest(Some(hash)));
        }
    }
}

/// What makes timings hard to compare.
fn circumstances(found: &mut Found, a: &Side<'_>, b: &Side<'_>, pairing: Pairing) {
    let (old, new) = (a.host, b.host);
    if old.host_id != new.host_id {
        let name = |host: &crate::host::Host| format!("{} ({})", host.cpu, host.host_id);
        found.add(Effect::Advisory, "machine", &name(old), &name(new));
    }
    found.look(Effect::Advisory, "build", &old.build(), &new.build());
    found.look(Effect::Advisory, "profile", &old.profile, &new.profile);
    found.look(Effect::Advisory, "compiler", &old.rustc, &new.rustc);
    for (name, version) in &old.libraries {
        found.look(Effect::Advisory, name, version, new.libraries.get(name).map_or("-", String::as_str));
    }
    let text = |governor: &Option<String>| governor.clone().unwrap_or_else(|| "-".to_owned());
    found.look(Effect::Advisory, "frequency governor", &text(&old.governor), &text(&new.governor));
    if pairing == Pairing::Unpaired {
        let when = |manifest: &Manifest| format!("{} ({})", manifest.started_at, short_run_id(&manifest.run_id));
        found.add(Effect::Advisory, "not interleaved", &when(a.manifest), &when(b.manifest));
    }
    let state = |manifest: &Manifest| match manifest.state {
        RunState::Complete | RunState::Invalid => "complete".to_owned(),
        RunState::Running => "still running".to_owned(),
        RunState::Interrupted => "interrupted".to_owned(),
        RunState::Failed => format!("failed: {}", manifest.reason.as_deref().unwrap_or("unknown")),
    };
    found.look(Effect::Note, "state", &state(a.manifest), &state(b.manifest));
}

/// What is compared: matrix axes, and facts no axis explains.
fn subjects(found: &mut Found, a: &Manifest, b: &Manifest) {
    let text = |manifest: &Manifest, key: &str| {
        manifest
            .axes
            .get(key)
            .map_or_else(|| "-".to_owned(), |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let keys: Vec<&String> = a.axes.keys().chain(b.axes.keys().filter(|key| !a.axes.contains_key(*key))).collect();
    for key in keys {
        found.look(Effect::Subject, key, &text(a, key), &text(b, key));
    }
    let axes: Vec<String> = found.list.iter().filter(|d| d.effect == Effect::Subject).map(|d| d.what.clone()).collect();
    let explained = |prefixes: &[&str]| axes.iter().any(|axis| prefixes.iter().any(|prefix| axis.starts_with(prefix)));
    if !explained(&["model.", "quantization."]) && a.model.weights_hash != b.model.weights_hash {
        let weights = |manifest: &Manifest| {
            let (model, hash) = (&manifest.model, &manifest.model.weights_hash);
            let size = number::quantity(model.weights_bytes as f64, None, "bytes");
            format!("{} {} ({size} MiB, {})", model.name, model.format, hash.get(..8).unwrap_or(hash))
        };
        found.add(Effect::Subject, "weights", &weights(a), &weights(b));
    }
    let adapter = |manifest: &Manifest| {
        let adapter = manifest.model.adapter.as_ref();
        adapter.map_or_else(|| "none".to_owned(), |adapter| adapter.hash.get(..8).unwrap_or(&adapter.hash).to_owned())
    };
    if !explained(&["adapter"]) {
        found.look(Effect::Subject, "adapter", &adapter(a), &adapter(b));
    }
    if !explained(&["kernels.set"]) {
        found.look(Effect::Subject, "kernel set", &kernel_set_name(a.kernel_set), &kernel_set_name(b.kernel_set));
    }
    if !explained(&["kernels.threads"]) {
        found.look(Effect::Subject, "threads", &a.threads.to_string(), &b.threads.to_string());
    }
    if !explained(&["seed"]) {
        found.look(Effect::Note, "seed", &a.seed.to_string(), &b.seed.to_string());
    }
    // The hash covers the whole resolved recipe: whatever else differs shows in it alone.
    let nothing_else = found.list.iter().all(|d| matches!(d.effect, Effect::Advisory | Effect::Note));
    if nothing_else && a.cell_hash != b.cell_hash {
        let digest = |hash: &str| hash.get(..12).unwrap_or(hash).to_owned();
        found.add(Effect::Subject, "recipe (see resolved.yaml)", &digest(&a.cell_hash), &digest(&b.cell_hash));
    }
}
