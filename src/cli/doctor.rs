//! `ruvlab doctor`
use clap::Args;
use serde_json::json;

use crate::{
    exit,
    host::{EnergyReading, Host, Load},
    results::Store,
    ui::Printer,
    units::Bytes,
};

use super::{Failure, Format, Global};

/// Look at this machine with a benchmark's eyes: what it is, and what will disturb measurements.
#[derive(Debug, Args)]
pub(super) struct Arguments {}

/// One finding.
struct Finding {
    name: &'static str,
    fine: bool,
    text: String,
}

pub(super) fn execute(global: &Global, _: &Arguments) -> Result<u8, Failure> {
    let host = Host::detect();
    let load = Load::now();
    let findings = findings(global, &host, &load);
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({
            "host": host,
            "load": load,
            "findings": findings.iter().map(|finding| {
                json!({"name": finding.name, "ok": finding.fine, "text": finding.text})
            }).collect::<Vec<_>>(),
        }))?,
        Format::Human => {
            out.text(&format!(
                "ruvlab {}, {} build, {}\n{}, {} threads, {}\n{}\nmachine id {}\n\n",
                host.build(),
                host.profile,
                host.rustc,
                host.cpu,
                host.cpus,
                Bytes(host.memory_bytes),
                host.os,
                host.host_id
            ))?;
            for finding in &findings {
                let mark = if finding.fine { "ok  " } else { "note" };
                out.text(&format!("{mark}  {:<14} {}\n", finding.name, finding.text))?;
            }
        }
    }
    Ok(exit::OK)
}

fn findings(global: &Global, host: &Host, load: &Load) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |name, fine, text: String| findings.push(Finding { name, fine, text });
    let optimised = host.profile == "release";
    let profile = if optimised { "optimised" } else { "not optimised: build with --release before measuring" };
    add("build", optimised, profile.to_owned());
    let simd = host.cpu_features.iter().any(|feature| feature == "avx2" || feature == "neon");
    let features = if host.cpu_features.is_empty() { "none known".to_owned() } else { host.cpu_features.join(" ") };
    add("instructions", simd, features);
    match &host.governor {
        Some(governor) => {
            let steady = governor == "performance";
            let advice = if steady { "" } else { ": clocks move during a measurement; `performance` is steadier" };
            add("governor", steady, format!("{governor}{advice}"));
        }
        None => add("governor", true, "not shown by this kernel (usual in virtual machines)".to_owned()),
    }
    if let Some([one, ..]) = load.load_average {
        let idle = one < 0.5 * f64::from(host.cpus);
        let advice = if idle { "" } else { ": other programs are busy, intervals will be wide" };
        add("load", idle, format!("{one:.2} over the last minute{advice}"));
    }
    if let Some(steal) = load.steal_share {
        let alone = steal < 0.01;
        let advice = if alone { "" } else { ": another guest uses this processor" };
        add("steal", alone, format!("{:.2} % since boot{advice}", steal * 100.0));
    }
    if let Some(available) = load.memory_available_bytes {
        add("memory", available > 2 << 30, format!("{} free", Bytes(available)));
    }
    let pages = host.transparent_hugepage.as_deref().unwrap_or("not shown by this kernel");
    add("huge pages", !pages.contains("[never]"), pages.to_owned());
    match EnergyReading::now() {
        Ok(_) => add("energy", true, "package counters can be read (RAPL)".to_owned()),
        Err(reason) => add("energy", false, format!("not measured: {reason}")),
    }
    match Store::open(&global.store).and_then(|store| store.list()) {
        Ok(found) => {
            let problems = found.problems.len();
            let text = format!("{}: {} runs, {problems} unreadable", global.store.display(), found.manifests.len());
            add("store", problems == 0, text);
        }
        Err(error) => add("store", false, error.to_string()),
    }
    findings
}
