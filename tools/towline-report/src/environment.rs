//! The machine and the code of a run, read from `/proc`, `/sys` and git. What cannot be read is `unknown`, never
//! guessed; no absolute path of the machine is kept.

use serde::{Deserialize, Serialize};
use std::fs;
use std::os::linux::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The machine and the code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Environment {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: u32,
    /// Physical memory.
    pub memory_bytes: u64,
    /// Hypervisor, where the processor names one; empty on bare metal.
    pub hypervisor: String,
    /// Type of the file system that holds the log.
    pub file_system: String,
    /// Its mount options, those with a path left out.
    pub mount_options: String,
    /// Block device below it, with its model where it tells one.
    pub device: String,
    /// I/O scheduler of that device.
    pub scheduler: String,
    /// `write back` or `write through`.
    pub write_cache: String,
    /// Whether the device takes a forced-unit-access write.
    pub fua: Option<bool>,
    /// TCP congestion control.
    pub congestion_control: String,
    /// How bytes get to the standbys: `loopback`, `loopback, emulated links`, or `network` where a standby runs
    /// elsewhere.
    pub network_path: String,
    /// Frequency governor of the first core.
    pub governor: String,
    /// Share of processor time that the hypervisor took away during the run, percent.
    pub steal_percent: Option<f64>,
    /// Share of the run in which some task waited for a processor, percent (pressure stall information).
    pub cpu_pressure_percent: Option<f64>,
    /// Limit of locked memory, bytes; `None` is unlimited.
    pub memlock_bytes: Option<u64>,
    /// How flushes are made durable, as calibrated.
    pub durability_primitive: String,
    /// Flushes in flight, as calibrated.
    pub flush_depth: u32,
    /// Git commit of the code.
    pub commit: String,
    /// The work tree had changes.
    pub dirty: Option<bool>,
}

impl Environment {
    /// Reads everything that can be read. `log_dir` is where the logs of the run live, `source_dir` a folder inside
    /// the code's checkout. Durability primitive and flush depth are the caller's to fill in.
    pub fn collect(log_dir: &Path, source_dir: &Path) -> Self {
        let mount = Mount::of(log_dir);
        let disk = Disk::of(log_dir);
        let (commit, dirty) = git(source_dir);
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: proc_value("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(0, |cores| cores.get() as u32),
            memory_bytes: memory_bytes(),
            hypervisor: hypervisor(),
            file_system: mount.as_ref().map_or_else(unknown, |mount| mount.file_system.clone()),
            mount_options: mount.map_or_else(unknown, |mount| mount.options),
            device: disk.as_ref().map_or_else(unknown, Disk::name),
            scheduler: disk.as_ref().map_or_else(unknown, Disk::scheduler),
            write_cache: disk.as_ref().map_or_else(unknown, |disk| disk.queue("write_cache")),
            fua: disk.as_ref().and_then(|disk| match disk.queue("fua").as_str() {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            }),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
            network_path: "loopback".into(),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            steal_percent: None,
            cpu_pressure_percent: None,
            memlock_bytes: memlock_bytes(),
            durability_primitive: unknown(),
            flush_depth: 0,
            commit,
            dirty,
        }
    }
}

/// Processor time since the machine started, to tell what a run lost to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    total_ticks: u64,
    steal_ticks: u64,
    pressure_us: Option<u64>,
    uptime_ms: u64,
}

impl CpuTimes {
    /// Reads the counters now.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let pressure = fs::read_to_string("/proc/pressure/cpu").unwrap_or_default();
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        Self::parse(&stat, &pressure, &uptime)
    }

    fn parse(stat: &str, pressure: &str, uptime: &str) -> Self {
        let ticks: Vec<u64> = stat
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))
            .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
            .unwrap_or_default();
        let pressure_us = pressure
            .lines()
            .find(|line| line.starts_with("some"))
            .and_then(|line| line.split("total=").nth(1)?.trim().parse().ok());
        let uptime_s: f64 =
            uptime.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        Self {
            // user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
            total_ticks: ticks.iter().take(8).sum(),
            steal_ticks: ticks.get(7).copied().unwrap_or(0),
            pressure_us,
            uptime_ms: (uptime_s * 1000.0) as u64,
        }
    }

    /// Steal since `earlier`, percent of all processor time; `None` where no time has passed.
    pub fn steal_percent_since(&self, earlier: &Self) -> Option<f64> {
        let total = self.total_ticks.checked_sub(earlier.total_ticks).filter(|&ticks| ticks > 0)?;
        Some(100.0 * self.steal_ticks.saturating_sub(earlier.steal_ticks) as f64 / total as f64)
    }

    /// Share of the time since `earlier` in which some task waited for a processor, percent.
    pub fn pressure_percent_since(&self, earlier: &Self) -> Option<f64> {
        let passed_ms = self.uptime_ms.checked_sub(earlier.uptime_ms).filter(|&passed_ms| passed_ms > 0)?;
        let waited_us = self.pressure_us?.saturating_sub(earlier.pressure_us?);
        Some((0.1 * waited_us as f64 / passed_ms as f64).min(100.0))
    }
}

/// A command line without paths of the machine: an absolute path keeps its last name, the program its own.
pub fn portable_command(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().map(|program| last_name(&program).to_owned());
    let rest = arguments.map(|argument| match argument.split_once('=') {
        Some((flag, value)) if flag.starts_with('-') => format!("{flag}={}", without_path(value)),
        _ => without_path(&argument),
    });
    program.into_iter().chain(rest).collect()
}

struct Mount {
    file_system: String,
    options: String,
}

impl Mount {
    fn of(dir: &Path) -> Option<Self> {
        let dir = nearest_existing(dir)?;
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").ok()?, &dir)
    }

    /// The mount with the longest mount point that `dir` lies in; the last of equals hides the others.
    fn parse(mountinfo: &str, dir: &Path) -> Option<Self> {
        let lines = mountinfo.lines().filter_map(|line| {
            let (mount, source) = line.split_once(" - ")?;
            let mount: Vec<&str> = mount.split(' ').collect();
            let source: Vec<&str> = source.split(' ').collect();
            let point = mount.get(4)?.replace("\\040", " ");
            let options = format!("{},{}", mount.get(5)?, source.get(2)?);
            dir.starts_with(&point)
                .then(|| (point.len(), (*source.first().unwrap_or(&"")).to_owned(), options))
        });
        let (_, file_system, options) = lines.max_by_key(|(len, ..)| *len)?;
        let mut kept: Vec<&str> = Vec::new();
        for option in options.split(',').filter(|option| !option.contains('/')) {
            if !kept.contains(&option) {
                kept.push(option);
            }
        }
        Some(Self { file_system, options: kept.join(",") })
    }
}

struct Disk {
    sys: PathBuf,
}

impl Disk {
    /// The whole disk below `dir`; `None` for a file system without a device of its own.
    fn of(dir: &Path) -> Option<Self> {
        let device = fs::metadata(nearest_existing(dir)?).ok()?.st_dev();
        // glibc's layout of dev_t.
        let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
        let minor = (device & 0xff) | ((device >> 12) & !0xff);
        let mut sys = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        if sys.join("partition").exists() {
            sys = sys.parent()?.to_owned();
        }
        Some(Self { sys })
    }

    fn name(&self) -> String {
        let name = self.sys.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let detail =
            |file: &str| fs::read_to_string(self.sys.join(file)).ok().map(|text| text.trim().to_owned());
        let driver = fs::canonicalize(self.sys.join("device/driver")).ok();
        let driver =
            driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        match detail("device/model").filter(|model| !model.is_empty()).or(driver) {
            Some(more) => format!("{name} ({more})"),
            None => name,
        }
    }

    fn scheduler(&self) -> String {
        let list = self.queue("scheduler");
        let chosen = list.split_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0.to_owned()));
        chosen.unwrap_or(list)
    }

    fn queue(&self, file: &str) -> String {
        read(self.sys.join("queue").join(file))
    }
}

fn git(source_dir: &Path) -> (String, Option<bool>) {
    let run = |arguments: &[&str]| {
        let output = Command::new("git").current_dir(source_dir).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match run(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) => (commit, run(&["status", "--porcelain", "-uno"]).map(|changes| !changes.is_empty())),
        None => (unknown(), None),
    }
}

fn hypervisor() -> String {
    let vendor = fs::read_to_string("/sys/hypervisor/type").ok().map(|text| text.trim().to_owned());
    let flagged = proc_value("/proc/cpuinfo", "flags")
        .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    vendor.unwrap_or_else(|| if flagged { "virtual machine".into() } else { String::new() })
}

fn memory_bytes() -> u64 {
    let text = proc_value("/proc/meminfo", "MemTotal").unwrap_or_default();
    text.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn memlock_bytes() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max locked memory"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

fn proc_value(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next().map(str::trim) == Some(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn nearest_existing(dir: &Path) -> Option<PathBuf> {
    dir.ancestors()
        .find_map(|dir| fs::canonicalize(if dir.as_os_str().is_empty() { Path::new(".") } else { dir }).ok())
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).map_or_else(|_| unknown(), |text| text.trim().to_owned())
}

fn without_path(argument: &str) -> String {
    if argument.starts_with('/') || argument.starts_with("~/") || argument.starts_with("../") {
        format!("…/{}", last_name(argument))
    } else {
        argument.to_owned()
    }
}

fn last_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

fn unknown() -> String {
    "unknown".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_flags_and_loses_its_paths() {
        let command =
            ["/home/me/towline", "bench", "--dir=/mnt/x/log", "/etc/a.toml", "--rate", "1/2", "../up/b"];
        let kept = portable_command(command.map(String::from));
        assert_eq!(kept, ["towline", "bench", "--dir=…/log", "…/a.toml", "--rate", "1/2", "…/b"]);
    }

    #[test]
    fn the_innermost_mount_counts_and_its_paths_are_dropped() {
        let mountinfo = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
             30 22 0:30 / /data rw,noatime - overlay overlay rw,lowerdir=/a:/b,xino=off\n\
             31 22 0:31 / /database rw - tmpfs tmpfs rw";
        let mount = Mount::parse(mountinfo, Path::new("/data/log")).unwrap();
        assert_eq!((mount.file_system.as_str(), mount.options.as_str()), ("overlay", "rw,noatime,xino=off"));
        assert_eq!(Mount::parse(mountinfo, Path::new("/srv")).unwrap().file_system, "ext4");
    }

    #[test]
    fn steal_and_pressure_are_shares_of_the_time_between() {
        let early =
            CpuTimes::parse("cpu  100 0 100 700 0 0 0 10 0 0\n", "some avg10=0 total=1000\nfull", "10.00 3");
        let late = CpuTimes::parse(
            "cpu  150 0 150 790 0 0 0 20 0 0\n",
            "some avg10=0 total=501000\nfull",
            "12.00 3",
        );
        assert_eq!(late.steal_percent_since(&early), Some(5.0));
        assert_eq!(late.pressure_percent_since(&early), Some(25.0));
        assert_eq!(early.steal_percent_since(&early), None);
    }

    #[test]
    fn this_machine_can_be_read_without_a_path_in_it() {
        let environment = Environment::collect(Path::new("."), Path::new(env!("CARGO_MANIFEST_DIR")));
        assert_ne!(environment.kernel, "unknown");
        assert!(environment.cores > 0 && environment.memory_bytes > 0);
        let text = serde_json::to_string(&environment).unwrap();
        let manifest_dir = env!("CARGO_MANIFEST_DIR");
        assert!(!text.contains(manifest_dir) && !text.contains("/home/"), "{text}");
    }
}
