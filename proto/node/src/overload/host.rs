//! What the host uses of itself, sampled now and then.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use nix::sys::statvfs::statvfs;

use super::proc::{self, CpuTimes, Memory};
use super::{Criterion, Overload, Time};
use crate::config;

/// Where control groups of version 2 are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Bytes that are read of a file of the kernel; what is needed comes well before that.
const TEXT_MAX: u64 = 64 * 1024;

/// How a host stands. Absent is what could not be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostSample {
    /// Per cent of all cores since the sample before.
    pub cpu: Option<f64>,
    /// Of the host, or of the control group that is nearer to its limit.
    pub memory: Option<Memory>,
    /// Per cent of its limit of the fullest interface, in its fuller direction, since the sample before.
    pub nic: Option<f64>,
    /// Bytes that the watched interfaces received and sent since they are there.
    pub nic_bytes: Option<(u64, u64)>,
    /// Used space in per cent.
    pub disk: Option<f64>,
    /// Datagrams of this host that found no room to be sent, since its start.
    pub send_drops: Option<u64>,
}

impl HostSample {
    /// Gives all criteria of a host to the machine.
    pub fn judge(&self, now: Time, overload: &mut Overload) {
        overload.sample(now, Criterion::HostCpu, self.cpu);
        overload.sample(now, Criterion::Memory, self.memory.map(|memory| memory.percent()));
        overload.sample(now, Criterion::Nic, self.nic);
        overload.sample(now, Criterion::Disk, self.disk);
    }
}

/// Reads the kernel's files, and remembers what it needs for rates.
#[derive(Debug, Default)]
pub struct HostSampler {
    cpu: Option<CpuTimes>,
    nics: Vec<Nic>,
}

/// What an interface had let through at some time.
#[derive(Clone, Debug)]
struct Nic {
    name: String,
    at: Instant,
    received: u64,
    sent: u64,
}

impl HostSampler {
    /// Takes a sample. Reads some ten small files of the kernel and waits for nobody.
    pub fn sample(&mut self, config: &config::Overload) -> HostSample {
        let (nic, nic_bytes) = self.nics(&config.nic);
        HostSample {
            cpu: self.cpu(),
            memory: memory(),
            nic,
            nic_bytes,
            disk: disk(Path::new(&config.disk.path)),
            send_drops: send_drops(),
        }
    }

    fn cpu(&mut self) -> Option<f64> {
        let now = CpuTimes::parse(&read("/proc/stat")?)?;
        let before = self.cpu.replace(now)?;
        now.percent_since(&before)
    }

    fn nics(&mut self, config: &config::Nic) -> (Option<f64>, Option<(u64, u64)>) {
        let names = match config.interface.as_str() {
            "auto" => read("/proc/net/route").map(|text| proc::default_interfaces(&text)).unwrap_or_default(),
            name => vec![name.to_owned()],
        };
        let found: Vec<Nic> = names.into_iter().filter_map(Nic::look).collect();
        let mut fullest: Option<f64> = None;
        for nic in &found {
            let of_driver = || proc::speed(&read(format!("/sys/class/net/{}/speed", nic.name))?);
            let before = self.nics.iter().find(|before| before.name == nic.name);
            if let Some(before) = before
                && let Some(limit) = config.limit.value().or_else(of_driver)
                && let Some(percent) = nic.percent_since(before, limit)
            {
                fullest = Some(fullest.map_or(percent, |fullest| fullest.max(percent)));
            }
        }
        let sum = |part: fn(&Nic) -> u64| found.iter().map(part).fold(0, u64::wrapping_add);
        let bytes = (!found.is_empty()).then(|| (sum(|nic| nic.received), sum(|nic| nic.sent)));
        self.nics = found;
        (fullest, bytes)
    }
}

impl Nic {
    fn look(name: String) -> Option<Self> {
        let bytes = |way| proc::counter(&read(format!("/sys/class/net/{name}/statistics/{way}_bytes"))?);
        let (received, sent) = (bytes("rx")?, bytes("tx")?);
        Some(Self { name, at: Instant::now(), received, sent })
    }

    /// Per cent of `limit` Mbit/s. `None` when the interface was made anew in between.
    fn percent_since(&self, before: &Self, limit: u32) -> Option<f64> {
        let bytes = self.received.checked_sub(before.received)?.max(self.sent.checked_sub(before.sent)?);
        let seconds = self.at.saturating_duration_since(before.at).as_secs_f64();
        let possible = f64::from(limit) * 1e6 * seconds;
        (possible > 0.0).then(|| 100.0 * 8.0 * bytes as f64 / possible)
    }
}

fn memory() -> Option<Memory> {
    let host = Memory::parse(&read("/proc/meminfo")?);
    let groups = proc::cgroups(&read("/proc/self/cgroup").unwrap_or_default());
    let of_groups = groups.iter().filter_map(|group| {
        let file = |name: &str| read(Path::new(CGROUPS).join(group).join(name));
        Memory::of_cgroup(&file("memory.max")?, &file("memory.current")?, &file("memory.stat").unwrap_or_default())
    });
    host.into_iter().chain(of_groups).max_by(|a, b| a.percent().total_cmp(&b.percent()))
}

/// As df(1) has it: what is reserved for root counts as used.
fn disk(path: &Path) -> Option<f64> {
    let space = statvfs(path).ok()?;
    let used = space.blocks().checked_sub(space.blocks_free())?;
    let all = used.checked_add(space.blocks_available()).filter(|all| *all > 0)?;
    Some(100.0 * used as f64 / all as f64)
}

fn send_drops() -> Option<u64> {
    let v4 = proc::send_errors(&read("/proc/net/snmp")?)?;
    let v6 = read("/proc/net/snmp6").and_then(|text| proc::send_errors6(&text));
    v4.checked_add(v6.unwrap_or(0))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(TEXT_MAX).read_to_end(&mut text).ok()?;
    // A name in another encoding must not hide the rest.
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_be_measured() {
        let mut sampler = HostSampler::default();
        let config = config::Overload::default();
        assert_eq!(sampler.sample(&config).cpu, None, "a rate needs two samples");
        let until = Instant::now() + std::time::Duration::from_millis(200);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let sample = sampler.sample(&config);
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        assert!(sample.cpu.unwrap() > 50.0 / cores && sample.cpu.unwrap() <= 100.0, "{sample:?}");
        assert!(sample.memory.unwrap().percent() > 0.1, "{sample:?}");
        assert!((0.0..=100.0).contains(&sample.disk.unwrap()), "{sample:?}");
        assert!(sample.send_drops.is_some());
    }

    #[test]
    fn an_interface_is_as_full_as_its_fuller_direction() {
        let mut config = config::Overload::default();
        config.nic.interface = "lo".to_owned();
        config.nic.limit = config::Auto::Is(1000);
        let mut sampler = HostSampler::default();
        assert!(sampler.sample(&config).nic_bytes.is_some());
        assert!(sampler.sample(&config).nic.is_some());
        let at = Instant::now();
        let before = Nic { name: "lo".to_owned(), at, received: 1_000, sent: 0 };
        let second = at + std::time::Duration::from_secs(1);
        let after = Nic { name: "lo".to_owned(), at: second, received: 12_501_000, sent: 62_500_000 };
        assert_eq!(after.percent_since(&before, 1000), Some(50.0));
        assert_eq!(before.percent_since(&after, 1000), None);
        assert_eq!(before.percent_since(&before, 1000), None);
        config.nic.interface = "there.is.none".to_owned();
        let none = sampler.sample(&config);
        assert_eq!((none.nic, none.nic_bytes), (None, None));
    }

    #[test]
    fn a_file_that_is_not_there_is_no_number() {
        assert_eq!(read("/proc/no/such/file"), None);
        assert_eq!(disk(Path::new("/no/such/path")), None);
    }
}
