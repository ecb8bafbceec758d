//! Figures of the host and of its processes, from `/proc`, in the shapes of SRS's API. A file that is not there gives
//! noughts.

use std::fs;

use serde_json::{Map, Value, json};

/// Fields of `/proc/PID/stat` behind the name, in proc(5)'s order, as SRS names them.
const STAT: [&str; 41] = [
    "ppid",
    "pgrp",
    "session",
    "tty_nr",
    "tpgid",
    "flags",
    "minflt",
    "cminflt",
    "majflt",
    "cmajflt",
    "utime",
    "stime",
    "cutime",
    "cstime",
    "priority",
    "nice",
    "num_threads",
    "itrealvalue",
    "starttime",
    "vsize",
    "rss",
    "rsslim",
    "startcode",
    "endcode",
    "startstack",
    "kstkesp",
    "kstkeip",
    "signal",
    "blocked",
    "sigignore",
    "sigcatch",
    "wchan",
    "nswap",
    "cnswap",
    "exit_signal",
    "processor",
    "rt_priority",
    "policy",
    "delayacct_blkio_ticks",
    "guest_time",
    "cguest_time",
];

/// Fields of the first line of `/proc/stat`.
const CPU: [&str; 9] = ["user", "nice", "sys", "idle", "iowait", "irq", "softirq", "steal", "guest"];

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// A number, signed or beyond 63 bits.
fn number(word: &str) -> Value {
    word.parse::<i64>().map(Value::from).or_else(|_| word.parse::<u64>().map(Value::from)).unwrap_or_else(|_| json!(0))
}

/// Field `name` of lines like `MemTotal:  24684092 kB`.
fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The value under a name in a pair of lines, names and numbers, that begin with a word: `/proc/net/snmp`.
fn paired(text: &str, word: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(word)?.strip_prefix(':'));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
    pairs.find(|(key, _)| *key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// The number behind a word in a line that begins so: `TCP: inuse 5 orphan 0 tw 2`.
fn behind(text: &str, line: &str, word: &str) -> u64 {
    let line = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':')).unwrap_or_default();
    let mut words = line.split_ascii_whitespace().skip_while(|found| *found != word);
    words.nth(1).and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// What is behind `(name)` of `/proc/PID/stat`; the name itself may hold anything.
fn stat(text: &str) -> (&str, impl Iterator<Item = &str>) {
    let (front, behind) = text.rsplit_once(')').unwrap_or(("", ""));
    (front.split_once('(').map_or("", |(_, name)| name), behind.split_ascii_whitespace())
}

/// `self_proc_stats`: of one process. `percent` is its share of one core, 0 to 1.
pub(super) fn process(pid: u32, percent: f64, now_ms: u64) -> Value {
    let text = read(&format!("/proc/{pid}/stat"));
    let (name, mut fields) = stat(&text);
    let mut out = Map::new();
    out.insert("ok".to_owned(), json!(!text.is_empty()));
    out.insert("sample_time".to_owned(), json!(now_ms));
    out.insert("percent".to_owned(), json!(hundredths(percent)));
    out.insert("pid".to_owned(), json!(pid));
    out.insert("comm".to_owned(), json!(format!("({name})")));
    out.insert("state".to_owned(), json!(fields.next().unwrap_or("?")));
    for name in STAT {
        out.insert(name.to_owned(), number(fields.next().unwrap_or("0")));
    }
    Value::Object(out)
}

/// `system_proc_stats`: ticks of all cores since the host's start. `percent` is their share, 0 to 1.
pub(super) fn system(percent: f64, now_ms: u64) -> Value {
    let text = read("/proc/stat");
    let mut words = text.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1);
    let mut out = Map::new();
    out.insert("ok".to_owned(), json!(!text.is_empty()));
    out.insert("sample_time".to_owned(), json!(now_ms));
    out.insert("percent".to_owned(), json!(hundredths(percent)));
    for name in CPU {
        out.insert(name.to_owned(), number(words.next().unwrap_or("0")));
    }
    Value::Object(out)
}

/// Memory of the host in KiB: all, and what is taken of it.
pub(super) struct Memory {
    pub(super) total: u64,
    pub(super) used: u64,
    swap: u64,
    swap_used: u64,
}

impl Memory {
    pub(super) fn read() -> Self {
        let text = read("/proc/meminfo");
        let (total, swap) = (field(&text, "MemTotal"), field(&text, "SwapTotal"));
        let free = field(&text, "MemFree") + field(&text, "Buffers") + field(&text, "Cached");
        let swap_used = swap.saturating_sub(field(&text, "SwapFree"));
        Self { total, used: total.saturating_sub(free), swap, swap_used }
    }

    /// The part of the host's memory that is used, 0 to 1.
    fn share(&self) -> f64 {
        share(self.used, self.total)
    }
}

/// `meminfos`, in KiB.
pub(super) fn memory(now_ms: u64) -> Value {
    let (memory, text) = (Memory::read(), read("/proc/meminfo"));
    json!({
        "ok": memory.total > 0,
        "sample_time": now_ms,
        "percent_ram": memory.share(),
        "percent_swap": share(memory.swap_used, memory.swap),
        "MemActive": memory.used,
        "RealInUse": memory.used,
        "NotInUse": memory.total.saturating_sub(memory.used),
        "MemTotal": memory.total,
        "MemFree": field(&text, "MemFree"),
        "Buffers": field(&text, "Buffers"),
        "Cached": field(&text, "Cached"),
        "SwapTotal": memory.swap,
        "SwapFree": field(&text, "SwapFree"),
    })
}

/// `rusages`: what all these processes used together.
pub(super) fn usage(pids: &[u32], now_ms: u64) -> Value {
    let (mut user, mut system, mut memory) = (0, 0, 0);
    let (mut minor, mut major, mut given, mut taken, mut read_in, mut written) = (0, 0, 0, 0, 0, 0);
    for pid in pids {
        let text = read(&format!("/proc/{pid}/stat"));
        let fields: Vec<u64> = stat(&text).1.map(|word| word.parse().unwrap_or(0)).collect();
        let at = |place: usize| fields.get(place).copied().unwrap_or(0);
        (minor, major) = (minor + at(7), major + at(9));
        (user, system) = (user + at(11), system + at(12));
        let status = read(&format!("/proc/{pid}/status"));
        memory += field(&status, "VmHWM");
        given += field(&status, "voluntary_ctxt_switches");
        taken += field(&status, "nonvoluntary_ctxt_switches");
        let io = read(&format!("/proc/{pid}/io"));
        read_in += field(&io, "read_bytes") / 512;
        written += field(&io, "write_bytes") / 512;
    }
    json!({
        "ok": true, "sample_time": now_ms,
        // Seconds: /proc counts in hundredths.
        "ru_utime": user / 100, "ru_stime": system / 100,
        "ru_maxrss": memory, "ru_ixrss": 0, "ru_idrss": 0, "ru_isrss": 0,
        "ru_minflt": minor, "ru_majflt": major, "ru_nswap": 0,
        "ru_inblock": read_in, "ru_oublock": written,
        "ru_msgsnd": 0, "ru_msgrcv": 0, "ru_nsignals": 0, "ru_nvcsw": given, "ru_nivcsw": taken,
    })
}

/// `self.argv` and `self.cwd` of summaries.
pub(super) fn started_as(pid: u32) -> (String, String) {
    let argv = read(&format!("/proc/{pid}/cmdline")).trim_end_matches('\0').replace('\0', " ");
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).map(|path| path.display().to_string()).unwrap_or_default();
    (argv, cwd)
}

/// The parent of a process.
pub(super) fn parent(pid: u32) -> u32 {
    let text = read(&format!("/proc/{pid}/stat"));
    stat(&text).1.nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// `system` of summaries, but for what is known of weir itself. `cpu` is the share of all cores, 0 to 1; `disk` of the disk.
pub(super) fn summary(cpu: f64, disk: &Disk) -> Map<String, Value> {
    let (memory, loads, uptime) = (Memory::read(), read("/proc/loadavg"), read("/proc/uptime"));
    let mut loads = loads.split_ascii_whitespace().map(|word| word.parse::<f64>().unwrap_or(0.0));
    let mut uptime = uptime.split_ascii_whitespace().map(|word| word.parse::<f64>().unwrap_or(0.0));
    let (outer, inner) = interfaces(&read("/proc/net/dev"));
    let (sockets, snmp) = (read("/proc/net/sockstat"), read("/proc/net/snmp"));
    let (tcp, waiting) = (behind(&sockets, "TCP", "inuse"), behind(&sockets, "TCP", "tw"));
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let value = json!({
        "cpu_percent": hundredths(cpu),
        "disk_read_KBps": disk.read, "disk_write_KBps": disk.written, "disk_busy_percent": hundredths(disk.busy),
        "mem_ram_kbyte": memory.total, "mem_ram_percent": memory.share(),
        "mem_swap_kbyte": memory.swap, "mem_swap_percent": share(memory.swap_used, memory.swap),
        "cpus": cpus, "cpus_online": cpus,
        // Spelled as SRS spells it.
        "uptime": uptime.next().unwrap_or(0.0), "ilde_time": uptime.next().unwrap_or(0.0),
        "load_1m": loads.next().unwrap_or(0.0), "load_5m": loads.next().unwrap_or(0.0),
        "load_15m": loads.next().unwrap_or(0.0),
        "net_recv_bytes": outer.0, "net_send_bytes": outer.1, "net_recvi_bytes": inner.0, "net_sendi_bytes": inner.1,
        "conn_sys": tcp + waiting, "conn_sys_et": paired(&snmp, "Tcp", "CurrEstab"), "conn_sys_tw": waiting,
        "conn_sys_udp": behind(&sockets, "UDP", "inuse"),
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Bytes received and sent: by all interfaces, and by the loopback alone.
fn interfaces(text: &str) -> ((u64, u64), (u64, u64)) {
    let (mut outer, mut inner) = ((0, 0), (0, 0));
    for line in text.lines() {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = numbers.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        let (Some(received), Some(sent)) = (numbers.first(), numbers.get(8)) else { continue };
        let sum = if name.trim() == "lo" { &mut inner } else { &mut outer };
        *sum = (sum.0 + received, sum.1 + sent);
    }
    (outer, inner)
}

/// What disks did lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Disk {
    /// KiB a second.
    pub(super) read: u64,
    pub(super) written: u64,
    /// The busiest one's share of the time, 0 to 1.
    pub(super) busy: f64,
}

/// Counters of `/proc/diskstats`: sectors read and written by whole disks, and the milliseconds that the busiest worked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DiskCounters {
    read: u64,
    written: u64,
    busy_ms: u64,
}

impl DiskCounters {
    pub(super) fn now() -> Self {
        Self::parse(&read("/proc/diskstats"))
    }

    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let at = |place: usize| words.get(place).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            // Minor number 0 of each 16: a disk, and not a part of one, of which it would be counted again.
            let virtual_one =
                words.get(2).is_some_and(|name| ["loop", "ram", "dm-", "zram"].iter().any(|v| name.starts_with(v)));
            if words.len() < 14 || virtual_one || at(1) % 16 != 0 {
                continue;
            }
            all.read += at(5);
            all.written += at(9);
            all.busy_ms = all.busy_ms.max(at(12));
        }
        all
    }

    /// What was done since an earlier look, `ms` milliseconds ago.
    pub(super) fn since(self, earlier: Self, ms: u64) -> Disk {
        let ms = ms.max(1);
        // Sectors are 512 bytes here, whatever the disk has.
        let rate = |now: u64, then: u64| now.saturating_sub(then) * 500 / ms;
        let busy = self.busy_ms.saturating_sub(earlier.busy_ms) as f64 / ms as f64;
        Disk { read: rate(self.read, earlier.read), written: rate(self.written, earlier.written), busy: busy.min(1.0) }
    }
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { hundredths(part as f64 / all as f64) }
}

/// SRS tells shares with two digits.
pub(super) fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_proc_are_read() {
        assert_eq!(field("MemTotal:       24684092 kB\nMemFree: 5 kB\n", "MemFree"), 5);
        assert_eq!(behind("sockets: used 1\nTCP: inuse 5 orphan 0 tw 2 alloc 9\nUDP: inuse 3\n", "TCP", "tw"), 2);
        assert_eq!(paired("Tcp: A CurrEstab B\nTcp: 1 77 3\n", "Tcp", "CurrEstab"), 77);
        let (name, fields) = stat("12 (a ) b) S 7 8");
        assert_eq!((name, fields.collect::<Vec<_>>()), ("a ) b", vec!["S", "7", "8"]));
        let dev = "Inter-| x\n face |bytes\n    lo: 10 0 0 0 0 0 0 0 20 0\n  eth0: 1 0 0 0 0 0 0 0 2 0\n";
        assert_eq!(interfaces(dev), ((1, 2), (10, 20)));
        let disks = "8 0 sda 1 2 100 4 5 6 200 8 9 70 11\n8 1 sda1 1 2 100 4 5 6 200 8 9 70 11\n7 0 loop0 1 2 9 4 5 6 9 8 9 9 1\n";
        let disk = DiskCounters::parse(disks).since(DiskCounters::default(), 100);
        assert_eq!((disk.read, disk.written, disk.busy), (500, 1000, 0.7));
        assert_eq!((stat("").0, field("", "x"), behind("", "x", "y"), paired("", "x", "y")), ("", 0, 0, 0));
    }

    #[test]
    fn this_process_is_known() {
        let pid = std::process::id();
        let stats = process(pid, 0.123, 5);
        assert_eq!(
            (stats["ok"].clone(), stats["pid"].clone(), stats["percent"].clone()),
            (json!(true), json!(pid), json!(0.12))
        );
        assert_eq!(stats["ppid"], json!(parent(pid)));
        assert!(stats["rss"].as_i64().unwrap() > 0 && started_as(pid).0.contains("edge"), "{stats}");
        assert!(usage(&[pid], 5)["ru_maxrss"].as_u64().unwrap() > 0);
        assert_eq!(process(0, 0.0, 5)["ok"], json!(false));
    }
}
