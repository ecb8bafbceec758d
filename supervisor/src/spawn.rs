//! Worker processes: started by exec of one's own image, signalled and reaped by process id.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use weir_node::sockets::{FDS_SOCKET, FDS_VARIABLE, NamedSocket, list};
use weir_node::worker::{PARENT_VARIABLE, RUN_DIR_VARIABLE};

use crate::plan::WorkerId;

/// The environment variable with the number of the descriptor of an image's state; see [`crate::host`].
pub(crate) const STATE_VARIABLE: &str = "WEIR_INTERNAL_STATE";

/// The environment variable that tells an image to which it was gone back why.
pub(crate) const FAILED_VARIABLE: &str = "WEIR_INTERNAL_UPGRADE_FAILED";

/// What a worker is started as: `PATH PREFIX... edge --slot 0 --incarnation 7`.
#[derive(Clone, Debug)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Arguments before the role.
    pub prefix: Vec<OsString>,
}

impl Program {
    /// The image that this process runs, even when its file was replaced meanwhile.
    pub fn own_image() -> Self {
        Self { path: PathBuf::from("/proc/self/exe"), prefix: Vec::new() }
    }
}

/// A worker process that was not reaped yet.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    /// When it was started.
    pub started: Instant,
    /// The SEQPACKET socket on which it takes descriptors.
    pub fds: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(Signal),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Starts a worker with exactly `sockets` and one SEQPACKET socket beside the standard streams.
///
/// To be called from the thread that lives as long as the process: the worker asks the kernel for a signal at
/// the death of the thread that started it.
pub fn spawn(program: &Program, worker: WorkerId, sockets: &[NamedSocket], run_dir: &Path) -> io::Result<Process> {
    let (fds, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let named = sockets.iter().map(|socket| (socket.name.as_str(), socket.fd.as_raw_fd()));
    let inherited: Vec<(&str, RawFd)> = named.chain([(FDS_SOCKET, theirs.as_raw_fd())]).collect();
    let keep: Vec<RawFd> = inherited.iter().map(|(_, fd)| *fd).collect();

    let mut command = Command::new(&program.path);
    command
        .arg0("weir:")
        .args(&program.prefix)
        .arg(worker.slot.role.as_str())
        .args(["--slot", &worker.slot.index.to_string()])
        .args(["--incarnation", &worker.incarnation.to_string()])
        .env(FDS_VARIABLE, list(inherited))
        .env(PARENT_VARIABLE, std::process::id().to_string())
        .env(RUN_DIR_VARIABLE, run_dir)
        .env_remove("NOTIFY_SOCKET")
        .env_remove(STATE_VARIABLE)
        .env_remove(FAILED_VARIABLE)
        .stdin(Stdio::null())
        // A group of its own: Ctrl-C in a terminal reaches the supervisor alone, which stops workers in order.
        .process_group(0);
    // SAFETY: the closure runs between fork and exec and makes nothing but system calls that are
    // async-signal-safe; the vector was made before. The descriptors are open: `sockets` and `theirs` outlive the
    // spawn.
    unsafe {
        command.pre_exec(move || {
            close_on_exec();
            keep.iter().try_for_each(|fd| keep_open(*fd))
        });
    }
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(Process { pid: Pid::from_raw(pid), started: Instant::now(), fds })
}

/// Puts the close-on-exec flag on everything but the standard streams: what the supervisor itself inherited may
/// lack it. A kernel before 5.11 refuses; then workers have those descriptors too, which is untidy and harmless.
fn close_on_exec() {
    // SAFETY: the call takes three numbers; CLOEXEC closes nothing in this process.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Takes the close-on-exec flag off.
fn keep_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD takes an int and touches no memory of ours.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

impl Process {
    /// A child of the image that this process ran before, which it had for so long.
    pub fn inherit(pid: u32, uptime: Duration, fds: OwnedFd) -> io::Result<Self> {
        let pid = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
        let now = Instant::now();
        Ok(Self { pid, started: now.checked_sub(uptime).unwrap_or(now), fds })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw().unsigned_abs()
    }

    /// Sends a signal. The process is a child that was not reaped, so the id is still its own.
    pub fn signal(&self, signal: Signal) -> nix::Result<()> {
        kill(self.pid, signal)
    }

    /// How it ended, if it did. Reaps it, so that afterwards this value must not be used again.
    pub fn try_wait(&self) -> Option<Exit> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(Exit::Code(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(Exit::Signal(signal)),
            // Not our child any more: nothing is left to wait for.
            Err(Errno::ECHILD) => Some(Exit::Code(-1)),
            Ok(_) | Err(_) => None,
        }
    }
}
