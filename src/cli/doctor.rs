//! `ruvlab doctor`
use clap::Args;
use serde_json::json;

use crate::{
    engine::{self, Device, EngineKind, Tier, TierError},
    exit,
    host::{EnergyReading, Host, Load},
    plan::{self, set_name},
    recipe::schema::KernelSet,
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
    let kernels = KernelTiers::now();
    let findings = findings(global, &host, &load, &kernels);
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({
            "host": host,
            "load": load,
            "kernels": kernels.json(),
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

/// The tiers of ruvlab's own kernels, and which of them `auto` takes.
struct KernelTiers {
    here: Vec<Tier>,
    elsewhere: Vec<Tier>,
    setting: Option<String>,
    auto: Result<KernelSet, TierError>,
}

impl KernelTiers {
    fn now() -> Self {
        let (here, elsewhere) = Tier::ALL.into_iter().partition(|tier| EngineKind::Native(*tier).is_available());
        let setting = engine::setting();
        let auto = plan::auto_set(setting.as_deref());
        Self { here, elsewhere, setting, auto }
    }

    fn text(&self) -> String {
        let names = |tiers: &[Tier]| tiers.iter().map(|tier| tier.name()).collect::<Vec<_>>().join(", ");
        let why = match &self.setting {
            _ if self.auto == Ok(KernelSet::Candle) => "whose vectors beat portable code".to_owned(),
            None => "the fastest this processor runs".to_owned(),
            Some(setting) => format!("because RUVLAB_KERNELS={setting}"),
        };
        match &self.auto {
            Ok(set) => {
                let (here, elsewhere) = (names(&self.here), names(&self.elsewhere));
                format!("`auto` takes {}, {why} ({here}; not {elsewhere})", set_name(*set))
            }
            Err(error) => format!("{error}: unset it, and `auto` takes the fastest this processor runs"),
        }
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "available": self.here.iter().map(|tier| tier.name()).collect::<Vec<_>>(),
            "unavailable": self.elsewhere.iter().map(|tier| tier.name()).collect::<Vec<_>>(),
            "setting": self.setting,
            "auto": self.auto.as_ref().ok().map(|set| set_name(*set)),
        })
    }
}

/// Returns what this build and this machine can do with a GPU, and whether that is all the build was made for.
fn gpu(host: &Host) -> (bool, String) {
    let here = match (host.gpus.as_slice(), &host.gpu_driver) {
        ([], _) => "no NVIDIA GPU is listed".to_owned(),
        (gpus, driver) => format!("{} ({})", gpus.join(", "), driver.as_deref().unwrap_or("driver unknown")),
    };
    let Some(cuda) = host.libraries.get("cuda") else {
        return (true, format!("{here}; this build has no CUDA (scripts/build-cuda makes one that has)"));
    };
    match Device::Cuda.check() {
        Ok(()) => (true, format!("{here}; `candle` computes on it with CUDA {cuda}")),
        Err(error) => (false, format!("{here}; this build has CUDA {cuda}, and cannot use a GPU: {error}")),
    }
}

fn findings(global: &Global, host: &Host, load: &Load, kernels: &KernelTiers) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |name, fine, text: String| findings.push(Finding { name, fine, text });
    let optimised = host.profile == "release";
    let profile = if optimised { "optimised" } else { "not optimised: build with --release before measuring" };
    add("build", optimised, profile.to_owned());
    let simd = host.cpu_features.iter().any(|feature| feature == "avx2" || feature == "neon");
    let features = if host.cpu_features.is_empty() { "none known".to_owned() } else { host.cpu_features.join(" ") };
    add("instructions", simd, features);
    add("kernels", kernels.auto.is_ok(), kernels.text());
    let (gpu_fine, gpu) = gpu(host);
    add("gpu", gpu_fine, gpu);
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
