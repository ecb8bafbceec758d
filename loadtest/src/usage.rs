//! What processes use of the machine, from `/proc`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// CPU time in ticks of the kernel, which are too coarse for more than a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    user: u64,
    system: u64,
}

/// Time on a CPU, in nanoseconds, when it was first and last looked at.
#[derive(Clone, Copy, Debug)]
struct Thread {
    first: u64,
    last: u64,
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident, pages that processes share counted in each.
    pub(crate) rss: u64,
    /// Resident and not backed by a file.
    pub(crate) anon: u64,
    /// Resident, shared pages divided among those that share them.
    pub(crate) pss: u64,
}

/// One process of a group.
#[derive(Debug, Default)]
struct Process {
    name: String,
    alive: bool,
    threads: HashMap<i32, Thread>,
    first: Ticks,
    last: Ticks,
}

/// Processes, and their descendants, over a span of time.
#[derive(Debug)]
pub(crate) struct Usage {
    roots: Vec<i32>,
    descend: bool,
    processes: BTreeMap<i32, Process>,
    /// Once the span has begun, what is new is counted from zero.
    begun: bool,
}

/// What one process used.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Share {
    /// Its id.
    pub(crate) pid: i32,
    /// Its name, as the kernel has it.
    pub(crate) name: String,
    /// Of one core, over the span.
    pub(crate) cpu_percent: f64,
    /// The part of it in user mode.
    pub(crate) cpu_user_percent: f64,
    /// Resident memory at the end, KiB; 0 if it has ended.
    pub(crate) rss_kib: u64,
    /// The part of it that is anonymous.
    pub(crate) anon_kib: u64,
}

impl Usage {
    /// `roots`, with all their descendants.
    pub(crate) fn of_trees(roots: &[i32]) -> Self {
        Self { roots: roots.to_vec(), descend: true, processes: BTreeMap::new(), begun: false }
    }

    /// This process alone.
    pub(crate) fn own() -> Self {
        let roots = vec![std::process::id().cast_signed()];
        Self { roots, descend: false, processes: BTreeMap::new(), begun: false }
    }

    /// Whether there is anything to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// The span begins.
    pub(crate) fn begin(&mut self) {
        self.processes.clear();
        self.begun = false;
        self.sample();
        self.begun = true;
    }

    /// Looks at every process and thread. Needed now and then within the span, because what has ended is known as far
    /// as it was looked at.
    pub(crate) fn sample(&mut self) {
        let alive = if self.descend { descendants(&self.roots) } else { self.roots.clone() };
        for process in self.processes.values_mut() {
            process.alive = false;
        }
        for pid in alive {
            self.sample_process(pid);
        }
    }

    fn sample_process(&mut self, pid: i32) {
        let Some(stat) = read(format!("/proc/{pid}/stat")) else { return };
        let Some((_, ticks)) = parse_stat(&stat) else { return };
        let known = self.processes.contains_key(&pid);
        let process = self.processes.entry(pid).or_default();
        if !known {
            process.name = read(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
            process.first = if self.begun { Ticks::default() } else { ticks };
        }
        process.alive = true;
        process.last = ticks;
        for tid in numbers(format!("/proc/{pid}/task")) {
            let schedstat = read(format!("/proc/{pid}/task/{tid}/schedstat"));
            let Some(busy) = schedstat.and_then(|text| text.split_ascii_whitespace().next()?.parse().ok()) else {
                continue;
            };
            let first = if self.begun { 0 } else { busy };
            process.threads.entry(tid).or_insert(Thread { first, last: busy }).last = busy;
        }
    }

    /// Time on a CPU in nanoseconds since the span began, as of the last sample.
    pub(crate) fn busy(&self) -> u64 {
        self.processes.values().map(Process::busy).sum()
    }

    /// What each process used over a span of `passed` nanoseconds, as of the last sample.
    pub(crate) fn shares(&self, passed: u64) -> Vec<Share> {
        let share = |(pid, process): (&i32, &Process)| {
            let memory = if process.alive { memory(*pid) } else { Memory::default() };
            let cpu_percent = percent(process.busy(), passed);
            Share {
                pid: *pid,
                name: process.name.clone(),
                cpu_percent,
                cpu_user_percent: cpu_percent * process.user_share(),
                rss_kib: memory.rss,
                anon_kib: memory.anon,
            }
        };
        self.processes.iter().map(share).collect()
    }

    /// The memory of all of them now.
    pub(crate) fn memory(&self) -> Memory {
        let alive = if self.descend { descendants(&self.roots) } else { self.roots.clone() };
        let all = alive.into_iter().map(memory);
        all.fold(Memory::default(), |sum, one| Memory {
            rss: sum.rss + one.rss,
            anon: sum.anon + one.anon,
            pss: sum.pss + one.pss,
        })
    }
}

impl Process {
    fn busy(&self) -> u64 {
        self.threads.values().map(|thread| thread.last.saturating_sub(thread.first)).sum()
    }

    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn user_share(&self) -> f64 {
        let user = self.last.user.saturating_sub(self.first.user);
        let system = self.last.system.saturating_sub(self.first.system);
        if user + system == 0 { 0.0 } else { user as f64 / (user + system) as f64 }
    }
}

/// `part` of `whole` in per cent; 0 if there is no whole.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// Whether there is such a process.
pub(crate) fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/stat")).exists()
}

/// The processes of `roots` that live, and all that descend from them.
fn descendants(roots: &[i32]) -> Vec<i32> {
    if roots.is_empty() {
        return Vec::new();
    }
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in numbers("/proc") {
        if let Some((parent, _)) = read(format!("/proc/{pid}/stat")).and_then(|stat| parse_stat(&stat)) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found: Vec<i32> = Vec::new();
    let mut next = roots.to_vec();
    while let Some(pid) = next.pop() {
        if !found.contains(&pid) && exists(pid) {
            found.push(pid);
            next.extend(children.remove(&pid).unwrap_or_default());
        }
    }
    found
}

fn memory(pid: i32) -> Memory {
    let status = read(format!("/proc/{pid}/status")).unwrap_or_default();
    let rollup = read(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let rss = line(&status, "VmRSS:").unwrap_or_default();
    // The roll-up of another user's process is not to be had.
    Memory { rss, anon: line(&status, "RssAnon:").unwrap_or_default(), pss: line(&rollup, "Pss:").unwrap_or(rss) }
}

/// The number behind `name` at the start of a line.
fn line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Parent, user and system time of a `/proc/PID/stat` line (proc(5): fields 4, 14 and 15).
fn parse_stat(stat: &str) -> Option<(i32, Ticks)> {
    // The name may hold spaces and parentheses; what follows its last parenthesis is field 3.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let mut fields = fields.skip(9);
    Some((parent, Ticks { user: fields.next()?.parse().ok()?, system: fields.next()?.parse().ok()? }))
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The entries of a directory that are numbers.
fn numbers(path: impl AsRef<Path>) -> Vec<i32> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| i32::from_str(entry.file_name().to_str()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "12 (weir: edge) 0)) S 7 12 12 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 9 1 1";
        assert_eq!(parse_stat(line), Some((7, Ticks { user: 250, system: 50 })));
        assert_eq!(parse_stat("12 (weir"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn lines_of_numbers() {
        let text = "Name:\tx\nVmRSS:\t   1234 kB\nRssAnon:\t 5 kB\nPss:\n";
        assert_eq!((line(text, "VmRSS:"), line(text, "RssAnon:")), (Some(1234), Some(5)));
        assert_eq!((line(text, "Pss:"), line(text, "None:")), (None, None));
    }

    #[test]
    fn this_process_uses_what_it_uses() {
        let mut usage = Usage::own();
        usage.begin();
        assert_eq!(usage.busy(), 0);
        let start = clock::now();
        while clock::now() < start + 100 * clock::MILLISECOND {
            std::hint::spin_loop();
        }
        usage.sample();
        let shares = usage.shares(clock::now() - start);
        assert_eq!(shares.len(), 1);
        assert!(shares[0].cpu_percent > 20.0 && shares[0].rss_kib > 100, "{shares:?}");
        assert!(usage.memory().pss > 100);
    }

    #[test]
    fn children_belong_to_their_parent() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id().cast_signed();
        let found = descendants(&[std::process::id().cast_signed()]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid) && !exists(pid));
    }
}
