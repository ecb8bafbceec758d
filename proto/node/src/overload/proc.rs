//! What the kernel writes into `/proc`, `/sys` and control groups, read without trust. Pure.

use std::path::{Component, Path, PathBuf};

/// Interfaces of default routes that are looked at; the rest is passed over.
pub const INTERFACES_MAX: usize = 16;

/// Levels of control groups that are looked at, from the own one up.
pub const CGROUPS_MAX: usize = 16;

/// CPU time of all cores since the start of the host, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// Of everything but idling.
    pub busy: u64,
    /// Of everything.
    pub total: u64,
}

impl CpuTimes {
    /// The first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal; guest times are
    /// in user and nice already. Stolen time counts as busy: this host cannot use it.
    pub fn parse(stat: &str) -> Option<Self> {
        let mut words = stat.lines().next()?.split_ascii_whitespace();
        if words.next()? != "cpu" {
            return None;
        }
        let mut times = Self::default();
        for (place, word) in words.take(8).enumerate() {
            let ticks: u64 = word.parse().ok()?;
            times.total = times.total.checked_add(ticks)?;
            // idle and iowait.
            if !matches!(place, 3 | 4) {
                times.busy = times.busy.checked_add(ticks)?;
            }
        }
        Some(times)
    }

    /// Per cent of all cores that were busy between an earlier sample and this one. Counters of idling cores may go
    /// back a little (proc(5)); then, and without any time in between, there is no number.
    pub fn percent_since(&self, earlier: &Self) -> Option<f64> {
        let total = self.total.checked_sub(earlier.total).filter(|total| *total > 0)?;
        let busy = self.busy.checked_sub(earlier.busy)?;
        Some((100.0 * busy as f64 / total as f64).min(100.0))
    }
}

/// Memory of a host or of a control group, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What can be had without anybody's loss: free, or a cache that can be dropped.
    pub available: u64,
    /// All there is.
    pub total: u64,
}

impl Memory {
    /// `/proc/meminfo`.
    pub fn parse(meminfo: &str) -> Option<Self> {
        let kib = |name: &str| -> Option<u64> {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            let number: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
            number.checked_mul(1024)
        };
        let (total, available) = (kib("MemTotal")?, kib("MemAvailable")?);
        Some(Self { available: available.min(total), total }).filter(|memory| memory.total > 0)
    }

    /// A control group's `memory.max`, `memory.current` and `memory.stat` (cgroup-v2, "Memory Interface Files"). File
    /// pages that nobody used lately can be dropped. `None` without a limit.
    pub fn of_cgroup(max: &str, current: &str, stat: &str) -> Option<Self> {
        let total: u64 = max.trim().parse().ok().filter(|total| *total > 0)?;
        let current: u64 = current.trim().parse().ok()?;
        let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse::<u64>().ok());
        let used = current.saturating_sub(cache.unwrap_or(0));
        Some(Self { available: total.saturating_sub(used), total })
    }

    /// Per cent in use.
    pub fn percent(&self) -> f64 {
        100.0 * (self.total.saturating_sub(self.available)) as f64 / (self.total.max(1)) as f64
    }
}

/// The directories of the control group of a `/proc/PID/cgroup`, below the mount point of version 2: its own first,
/// then those it lies in. Empty where there is no version 2.
pub fn cgroups(text: &str) -> Vec<PathBuf> {
    let Some(path) = text.lines().find_map(|line| line.strip_prefix("0::/")) else { return Vec::new() };
    let path = Path::new(path);
    // Outside of its own namespace a group is called /../..
    if path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return vec![PathBuf::new()];
    }
    path.ancestors().take(CGROUPS_MAX).map(Path::to_owned).collect()
}

/// The interfaces of the default routes of `/proc/net/route`, each once, in its order.
pub fn default_interfaces(route: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in route.lines().skip(1) {
        let mut words = line.split_ascii_whitespace();
        // Interface, destination, ..., mask in the eighth column.
        let (Some(name), Some("00000000"), Some("00000000")) = (words.next(), words.next(), words.nth(5)) else {
            continue;
        };
        if name.len() <= 15 && !name.contains('/') && name != ".." && !found.iter().any(|other| other == name) {
            found.push(name.to_owned());
            if found.len() == INTERFACES_MAX {
                break;
            }
        }
    }
    found
}

/// Mbit/s of `/sys/class/net/NAME/speed`; `None` where the driver does not know.
pub fn speed(text: &str) -> Option<u32> {
    text.trim().parse::<i64>().ok().filter(|speed| *speed > 0)?.try_into().ok()
}

/// A counter that has a file for itself.
pub fn counter(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Datagrams that found no room to be sent, `SndbufErrors` of `/proc/net/snmp`: a line of names, then one of numbers.
pub fn send_errors(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let pairs = names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace());
    pairs.into_iter().find(|(name, _)| *name == "SndbufErrors")?.1.parse().ok()
}

/// The same of IPv6, from `/proc/net/snmp6`: a name and a number a line.
pub fn send_errors6(snmp6: &str) -> Option<u64> {
    snmp6.lines().find_map(|line| line.strip_prefix("Udp6SndbufErrors")?.trim().parse().ok())
}
