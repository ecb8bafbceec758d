//! What a process uses of the machine, from `/proc`.

use std::fs;
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};

/// CPU and memory of one process, sampled now and then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    last: Option<(Instant, Duration)>,
    /// Of one core, between the last two samples.
    pub cpu_percent: f64,
    /// Resident memory in bytes.
    pub memory: u64,
}

impl Usage {
    /// Takes a sample of process `pid`. A process that is gone keeps its last one.
    pub fn sample(&mut self, pid: u32) {
        let now = Instant::now();
        if let Some(memory) = fs::read_to_string(format!("/proc/{pid}/statm")).ok().and_then(|text| resident(&text)) {
            self.memory = memory;
        }
        let Some(busy) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|text| cpu_time(&text)) else {
            return;
        };
        if let Some((then, before)) = self.last {
            let passed = now.duration_since(then).as_secs_f64();
            if passed > 0.0 {
                self.cpu_percent = 100.0 * busy.saturating_sub(before).as_secs_f64() / passed;
            }
        }
        self.last = Some((now, busy));
    }
}

/// User and system time of a `/proc/PID/stat` line (proc(5): fields 14 and 15, counted from the pid).
fn cpu_time(stat: &str) -> Option<Duration> {
    // The name may hold spaces and parentheses; what follows its last parenthesis is field 3.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks = user.checked_add(system)?.checked_mul(1000)?;
    Some(Duration::from_millis(ticks / per_second()?))
}

fn per_second() -> Option<u64> {
    sysconf(SysconfVar::CLK_TCK).ok()??.try_into().ok().filter(|ticks| *ticks > 0)
}

/// Resident bytes of a `/proc/PID/statm` line (its second field, in pages).
fn resident(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page: u64 = sysconf(SysconfVar::PAGE_SIZE).ok()??.try_into().ok()?;
    pages.checked_mul(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "12 (weir: edge) 0)) S 1 12 12 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 9 1 1";
        let ticks = per_second().unwrap();
        assert_eq!(cpu_time(line), Some(Duration::from_millis(300 * 1000 / ticks)));
        assert_eq!(cpu_time("12 (weir"), None);
        assert_eq!(cpu_time(""), None);
    }

    #[test]
    fn this_process_uses_memory_and_cpu() {
        let mut usage = Usage::default();
        let pid = std::process::id();
        usage.sample(pid);
        assert!(usage.memory > 100_000);
        let until = Instant::now() + Duration::from_millis(100);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        usage.sample(pid);
        assert!(usage.cpu_percent > 10.0, "{usage:?}");
    }
}
