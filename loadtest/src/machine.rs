//! What this process may use of the machine.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

/// Descriptors beside the connections: the standard ones, epoll, signals, /proc.
const OTHER_DESCRIPTORS: u64 = 64;

/// Why the machine will not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The hard limit is too low.
    #[error(
        "{wanted} connections need more file descriptors than the hard limit of {hard} (ulimit -Hn); raise it, or run \
         several generators"
    )]
    Descriptors {
        /// Connections.
        wanted: usize,
        /// The limit.
        hard: u64,
    },
    /// No such CPU, or not one for this process.
    #[error("this process cannot be pinned to CPU {cpu}: {reason}")]
    Cpu {
        /// Its number.
        cpu: usize,
        /// What the kernel says.
        reason: nix::Error,
    },
    /// The kernel said no.
    #[error("the limit of file descriptors: {0}")]
    Kernel(#[from] nix::Error),
}

/// Raises the limit of descriptors as far as it goes, and sees whether it is enough.
///
/// # Errors
/// It is not.
pub(crate) fn allow_connections(wanted: usize) -> Result<(), Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    if wanted as u64 + OTHER_DESCRIPTORS > hard {
        return Err(Error::Descriptors { wanted, hard });
    }
    Ok(())
}

/// Keeps this process on one CPU.
///
/// # Errors
/// There is no such CPU.
pub(crate) fn pin(cpu: Option<usize>) -> Result<(), Error> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    let done = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    done.map_err(|reason| Error::Cpu { cpu, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_descriptors_are_refused() {
        allow_connections(1).unwrap();
        let error = allow_connections(usize::MAX / 2).unwrap_err();
        assert!(matches!(error, Error::Descriptors { .. }), "{error}");
    }

    #[test]
    fn no_such_cpu() {
        pin(None).unwrap();
        assert!(matches!(pin(Some(1023)), Err(Error::Cpu { .. })));
        assert!(matches!(pin(Some(usize::MAX)), Err(Error::Cpu { .. })));
    }
}
