//! Facts about the machine and the build, as far as they can be read without privileges.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde::{Deserialize, Serialize};

use crate::clock;

/// What a result was measured on and by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// BLAKE3, in 16 hexadecimal digits, of the facts that make timings comparable.
    pub host_id: String,
    /// Operating system and kernel release.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Processor model.
    pub cpu: String,
    /// Threads the process may use.
    pub cpus: u16,
    /// Instruction sets the processor has, of those that matter here.
    pub cpu_features: Vec<String>,
    /// Frequency governor, where the kernel tells.
    pub governor: Option<String>,
    /// Physical memory, bytes.
    pub memory_bytes: u64,
    /// NVIDIA GPUs, as the driver names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// The NVIDIA driver and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_driver: Option<String>,
    /// Transparent huge pages setting.
    pub transparent_hugepage: Option<String>,
    /// `ruvlab`'s version.
    pub ruvlab: String,
    /// The commit it was built from, or `unknown`.
    pub commit: String,
    /// The compiler it was built with.
    pub rustc: String,
    /// The profile it was built with.
    pub profile: String,
    /// The instruction sets it was built for.
    pub target_features: String,
    /// First 48 bits of the BLAKE3 of the program itself: two builds of one commit may differ.
    pub program: String,
    /// Versions of the libraries that compute.
    pub libraries: BTreeMap<String, String>,
}

/// What the machine was busy with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// RFC 3339, UTC.
    pub at: String,
    /// Load averages over 1, 5 and 15 minutes, where the kernel tells.
    pub load_average: Option<[f64; 3]>,
    /// Share of time another guest of the same processor took since boot.
    pub steal_share: Option<f64>,
    /// Memory free for use, bytes: what the system has, or what this process's control group leaves, where that
    /// is less.
    pub memory_available_bytes: Option<u64>,
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':').map(str::trim))
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    let mut found = Vec::new();
    macro_rules! look {
        ($($name:tt),*) => { $(if std::is_x86_feature_detected!($name) { found.push($name.to_owned()); })* };
    }
    look!("sse4.2", "avx", "avx2", "fma", "f16c", "avxvnni", "avx512f", "avx512bw", "avx512vnni", "avx512bf16");
    found
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<String> {
    let mut found = Vec::new();
    macro_rules! look {
        ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name.to_owned()); })* };
    }
    look!("neon", "dotprod", "i8mm", "bf16", "fp16", "sve", "sve2");
    found
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

/// Returns the models of the GPUs that NVIDIA's driver lists, in the order of their addresses.
fn gpus(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join("information")).collect();
    found.sort();
    found.iter().filter_map(|path| field(&fs::read_to_string(path).ok()?, "Model").map(str::to_owned)).collect()
}

/// Returns the beginning of this program's BLAKE3, read once a process.
fn program_digest() -> Option<String> {
    static DIGEST: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs::File::open(std::env::current_exe().ok()?).ok()?).ok()?;
        Some(hasher.finalize().to_hex()[..12].to_owned())
    };
    DIGEST.get_or_init(read).clone()
}

/// Returns the versions of the libraries that compute; CUDA's in a build with the feature `cuda`.
fn libraries() -> BTreeMap<String, String> {
    let cuda = option_env!("RUVLAB_CUDA_VERSION").map(|version| if version.is_empty() { "unknown" } else { version });
    let named = |(name, version): (&str, &str)| (name.to_owned(), version.to_owned());
    [Some(("candle", env!("RUVLAB_CANDLE"))), cuda.map(|version| ("cuda", version))]
        .into_iter()
        .flatten()
        .map(named)
        .collect()
}

impl Host {
    /// Reads the facts of this machine and this build.
    #[must_use]
    pub fn detect() -> Self {
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let mut host = Self {
            host_id: String::new(),
            os: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").unwrap_or_default()),
            arch: std::env::consts::ARCH.to_owned(),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus: crate::units::Threads::Auto.resolve(),
            cpu_features: cpu_features(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_bytes: kib_field(&meminfo, "MemTotal").unwrap_or(0),
            gpus: gpus(Path::new("/proc/driver/nvidia/gpus")),
            gpu_driver: read("/proc/driver/nvidia/version").and_then(|text| text.lines().next().map(str::to_owned)),
            transparent_hugepage: read("/sys/kernel/mm/transparent_hugepage/enabled"),
            ruvlab: env!("CARGO_PKG_VERSION").to_owned(),
            commit: env!("RUVLAB_COMMIT").to_owned(),
            rustc: env!("RUVLAB_RUSTC").to_owned(),
            profile: env!("RUVLAB_PROFILE").to_owned(),
            target_features: env!("RUVLAB_TARGET_FEATURES").to_owned(),
            program: program_digest().unwrap_or_else(|| "unknown".to_owned()),
            libraries: libraries(),
        };
        host.host_id = host.identity();
        host
    }

    /// Returns the digest of what makes timings comparable: the machine, not the build.
    fn identity(&self) -> String {
        // The kernel reports total memory a little differently after each boot: whole GiB are stable.
        let gib = (self.memory_bytes as f64 / f64::from(1u32 << 30)).round();
        let mut facts = format!("{}|{}|{}|{}|{:?}|{gib}", self.os, self.arch, self.cpu, self.cpus, self.cpu_features);
        // Machines without a GPU keep the digest they had before there was a word of it.
        self.gpus.iter().for_each(|gpu| facts.extend(["|", gpu.as_str()]));
        blake3::hash(facts.as_bytes()).to_hex()[..16].to_owned()
    }

    /// Returns what identifies the build, in one text: version, commit, program.
    #[must_use]
    pub fn build(&self) -> String {
        format!("{} ({} {})", self.ruvlab, self.commit, self.program)
    }
}

impl Load {
    /// Reads what the machine is busy with now.
    #[must_use]
    pub fn now() -> Self {
        let averages = read("/proc/loadavg").and_then(|text| {
            let mut numbers = text.split(' ').map_while(|word| word.parse::<f64>().ok());
            Some([numbers.next()?, numbers.next()?, numbers.next()?])
        });
        let steal = read("/proc/stat").and_then(|text| {
            let times: Vec<f64> =
                text.lines().next()?.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
            let total: f64 = times.iter().take(8).sum();
            (total > 0.0).then(|| times.get(7).map(|steal| steal / total))?
        });
        let meminfo = read("/proc/meminfo").unwrap_or_default();
        let groups = read("/proc/self/cgroup").unwrap_or_default();
        let group = control_group_memory(Path::new("/sys/fs/cgroup"), &groups).unwrap_or(u64::MAX);
        Self {
            at: clock::timestamp(),
            load_average: averages,
            steal_share: steal,
            memory_available_bytes: kib_field(&meminfo, "MemAvailable").map(|system| system.min(group)),
        }
    }
}

/// Returns the memory that the control groups of `/proc/self/cgroup` still leave, in both versions
/// (`Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/memory.rst`); none if none has a limit. Every
/// group's parents limit it too, and what a group has of files' pages the kernel takes back.
fn control_group_memory(mount: &Path, groups: &str) -> Option<u64> {
    let left = |folder: &Path, limit: &str, usage: &str, prefix: &str| {
        let text = |name: &str| fs::read_to_string(folder.join(name)).ok();
        // "max" is no limit.
        let limit = text(limit)?.trim().parse::<u64>().ok()?;
        let used = text(usage)?.trim().parse::<u64>().ok()?;
        let statistics = text("memory.stat").unwrap_or_default();
        let pages = |name: &str| {
            let number = |line: &str| line.strip_prefix(prefix)?.strip_prefix(name)?.trim().parse::<u64>().ok();
            statistics.lines().find_map(number).unwrap_or(0)
        };
        Some(limit.saturating_sub(used.saturating_sub(pages("inactive_file ") + pages("active_file "))))
    };
    let of_line = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        // Where a container does not see its group's path, its group is the root of what it sees.
        let up = |root: &Path| {
            root.join(path).ancestors().take_while(|at| at.starts_with(root)).map(Path::to_owned).collect()
        };
        let (folders, names): (Vec<PathBuf>, _) = match controllers {
            "" => (up(mount), ("memory.max", "memory.current", "")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (up(&mount.join("memory")), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"))
            }
            _ => return None,
        };
        folders.iter().filter_map(|folder| left(folder, names.0, names.1, names.2)).min()
    };
    groups.lines().filter_map(of_line).min()
}

/// Returns the most resident memory this process has had, bytes, where the kernel tells.
#[must_use]
pub fn peak_rss_bytes() -> Option<u64> {
    kib_field(&read("/proc/self/status")?, "VmHWM")
}

/// A reading of the package energy counters (RAPL).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnergyReading {
    /// Microjoules and the value at which the counter wraps, by package.
    packages: Vec<(u64, u64)>,
}

impl EnergyReading {
    /// Reads the counters.
    ///
    /// # Errors
    ///
    /// Says why when there are none or they may not be read.
    pub fn now() -> Result<Self, String> {
        let mut packages = Vec::new();
        for package in 0.. {
            let folder = format!("/sys/class/powercap/intel-rapl:{package}");
            if !std::path::Path::new(&folder).exists() {
                break;
            }
            let number = |name: &str| {
                let path = format!("{folder}/{name}");
                let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
                text.trim().parse::<u64>().map_err(|error| format!("{path}: {error}"))
            };
            packages.push((number("energy_uj")?, number("max_energy_range_uj")?));
        }
        if packages.is_empty() {
            return Err("this machine shows no RAPL energy counters (/sys/class/powercap/intel-rapl:0)".to_owned());
        }
        Ok(Self { packages })
    }

    /// Returns the joules since `earlier`, at most one wrap of a counter between the two.
    #[must_use]
    pub fn joules_since(&self, earlier: &Self) -> f64 {
        let difference = |(now, range): &(u64, u64), (before, _): &(u64, u64)| {
            if now >= before { now - before } else { range.saturating_sub(*before) + now }
        };
        let microjoules: u64 = self.packages.iter().zip(&earlier.packages).map(|(a, b)| difference(a, b)).sum();
        microjoules as f64 * 1.0e-6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_counters_may_wrap_once() {
        let before = EnergyReading { packages: vec![(900, 1000), (5, 1000)] };
        let after = EnergyReading { packages: vec![(100, 1000), (25, 1000)] };
        assert!((after.joules_since(&before) - 220.0e-6).abs() <= 1e-12);
    }

    #[test]
    fn gpus_are_named_and_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert!(gpus(&folder.path().join("none")).is_empty());
        for (address, model) in [("0000:02:00.0", "B"), ("0000:01:00.0", "A")] {
            fs::create_dir(folder.path().join(address)).unwrap();
            let text = format!("Model: \t\t {model}\nIRQ:   \t\t 12\n");
            fs::write(folder.path().join(address).join("information"), text).unwrap();
        }
        assert_eq!(gpus(folder.path()), ["A", "B"]);
        let plain = Host { gpus: Vec::new(), ..Host::detect() };
        assert_ne!(plain.identity(), Host { gpus: vec!["A".to_owned()], ..plain.clone() }.identity());
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let mount = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = mount.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let left = |groups: &str| control_group_memory(mount.path(), groups);
        assert_eq!(left("0::/a/b\n"), None);
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "900\n");
        assert_eq!(left("0::/a/b\n"), None);
        write("a/memory.max", "1000\n");
        write("a/memory.current", "950\n");
        write("a/memory.stat", "anon 750\ninactive_file 150\nactive_file 50\n");
        assert_eq!(left("0::/a/b\n"), Some(250));
        assert_eq!(left("0::/\n"), None);
        assert_eq!(left("0::/../elsewhere\n"), None);
        write("memory/memory.limit_in_bytes", "500\n");
        write("memory/memory.usage_in_bytes", "600\n");
        write("memory/memory.stat", "inactive_file 0\ntotal_inactive_file 140\ntotal_active_file 10\n");
        assert_eq!(left("3:cpu,memory:/docker/x\n2:pids:/y\n0::/a/b"), Some(50));
        assert_eq!(left("3:cpu:/docker/x\n"), None);
    }

    #[test]
    fn this_machine_has_an_identity_that_stays() {
        assert_eq!(Host::detect(), Host::detect());
        assert_eq!(Host::detect().host_id.len(), 16);
    }
}
