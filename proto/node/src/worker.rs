//! The shell of a worker process: everything between `exec` and the role's own body.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use tokio::runtime::{Builder, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use weir_proto::supervisor::Look;

use crate::config::Config;
use crate::link::{self, Link, LinkHandle};
use crate::log;
use crate::sockets::{self, Inherited, NamedSocket};

/// The environment variable with the supervisor's process id.
pub const PARENT_VARIABLE: &str = "WEIR_INTERNAL_PARENT";

/// The environment variable with the run directory.
pub const RUN_DIR_VARIABLE: &str = "WEIR_INTERNAL_RUN_DIR";

/// The name of the control link's socket in the run directory.
pub const LINK_SOCKET: &str = "link.sock";

/// The name of the socket of the supervisor's service for operators in the run directory.
pub const CTL_SOCKET: &str = "ctl.sock";

/// Where the edge worker of that slot and incarnation takes clients of others.
pub fn handover_socket(run_dir: &Path, slot: u32, incarnation: u64) -> PathBuf {
    run_dir.join(format!("edge-{slot}.{incarnation}.sock"))
}

/// How long a body may take to return after [`Command::Stop`], and after its drain's deadline. The process then
/// ends without it. Shorter than the supervisor's own patience, so that a stop is not a kill.
const LEAVE_WITHIN: Duration = Duration::from_secs(4);

/// Commands that may wait for the body.
const COMMANDS_MAX: usize = 64;

/// Threads for what would block: names to be looked up, files to be read.
const BLOCKING_MAX: usize = 16;

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Owns TCP clients.
    Edge,
    /// Owns streams.
    Origin,
}

impl Role {
    /// The word in command lines, statistics and the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Origin => "origin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "edge" => Ok(Self::Edge),
            "origin" => Ok(Self::Origin),
            other => Err(format!("{other:?} is no role; there are edge and origin")),
        }
    }
}

/// Which worker this process is, as its command line says.
#[derive(Clone, Copy, Debug)]
pub struct WorkerArgs {
    /// Its slot.
    pub slot: u32,
    /// Its number among all workers that the supervisor ever started.
    pub incarnation: u64,
}

/// What the supervisor wants of a body.
#[derive(Debug)]
pub enum Command {
    /// Live by a new configuration; to be answered with [`LinkHandle::ack`].
    Apply {
        /// To name in the answer.
        token: u64,
        /// The configuration's number.
        generation: u64,
        /// The configuration.
        config: Rc<Config>,
    },
    /// Stop accepting, let the clients leave, and return from the body when none is left or at the deadline.
    Drain {
        /// The body must have returned by then.
        deadline: Instant,
    },
    /// Stop accepting, let the clients go on in the worker that listens at `path`, drain those that cannot, and return
    /// from the body when none is left or at the deadline.
    HandOver {
        /// Where the other worker takes them: see [`handover_socket`].
        path: PathBuf,
        /// The body must have returned by then.
        deadline: Instant,
    },
    /// Say who the clients are; to be answered with [`LinkHandle::seen`].
    Look(Look),
    /// Disconnect a client; to be answered with [`LinkHandle::ack`].
    Kick {
        /// To name in the answer.
        token: u64,
        /// The client.
        number: u64,
    },
    /// Close every client and return from the body at once.
    Stop,
    /// Accept from a sibling slot's sockets too, in place of any that were adopted for it before; to be
    /// answered with [`LinkHandle::ack`].
    Adopt {
        /// To name in the answer.
        token: u64,
        /// The slot.
        slot: u32,
        /// Its sockets.
        sockets: Vec<NamedSocket>,
    },
    /// Close that slot's sockets; a slot that was not adopted needs nothing. To be answered with
    /// [`LinkHandle::ack`].
    Release {
        /// To name in the answer.
        token: u64,
        /// The slot.
        slot: u32,
    },
}

/// What a body starts with.
#[derive(Debug)]
pub struct Shell {
    /// What this worker is for.
    pub role: Role,
    /// Its slot.
    pub slot: u32,
    /// Its number among all workers that the supervisor ever started.
    pub incarnation: u64,
    /// The supervisor's instance: new at each of its starts.
    pub host: String,
    /// The configuration, and its number.
    pub config: Rc<Config>,
    /// The number of the configuration.
    pub generation: u64,
    /// Edge workers of this host.
    pub edge_workers: u32,
    /// Origin workers of this host.
    pub origin_workers: u32,
    /// Directory of the unix sockets.
    pub run_dir: PathBuf,
    /// The sockets of its slot.
    pub sockets: Vec<NamedSocket>,
    /// What the supervisor wants, from the beginning on.
    pub commands: mpsc::Receiver<Command>,
    /// The way back.
    pub link: LinkHandle,
}

/// Runs a worker: takes the inherited descriptors, attaches to the supervisor, starts logging, then runs `body`
/// on this thread's runtime until it returns. A body says [`LinkHandle::ready`] when it accepts.
///
/// To be called from `main` before anything else opens a descriptor. The code is a failure when the shell
/// could not be set up, when the body failed, and when it did not leave in time.
pub fn run<F, Fut>(role: Role, args: WorkerArgs, body: F) -> ExitCode
where
    F: FnOnce(Shell) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    match try_run(role, args, body) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error, because logging may not have begun.
            eprintln!("weir: {role} {}: {error:#}", args.slot);
            ExitCode::FAILURE
        }
    }
}

fn try_run<F, Fut>(role: Role, args: WorkerArgs, body: F) -> anyhow::Result<()>
where
    F: FnOnce(Shell) -> Fut,
    Fut: Future<Output = anyhow::Result<()>>,
{
    let identity = Identity::take(role, args)?;
    let inherited = sockets::inherited()?;
    let run_dir = PathBuf::from(std::env::var_os(RUN_DIR_VARIABLE).context("the run directory is not set")?);
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(BLOCKING_MAX).enable_all().build_local(Default::default())?;
    let done = runtime.block_on(async {
        let (shell, leave) = enter(identity, inherited, run_dir).await?;
        let who = format!("{role} {}", args.slot);
        let link = shell.link.clone();
        tokio::select! {
            done = body(shell) => {
                link.last_words().await;
                done
            }
            () = overdue(leave) => anyhow::bail!("{who} did not leave in time"),
        }
    });
    leave(runtime);
    done
}

/// Ends the runtime without waiting for what a blocking call may still do.
fn leave(runtime: LocalRuntime) {
    runtime.shutdown_background();
}

async fn enter(
    identity: Identity,
    inherited: Inherited,
    run_dir: PathBuf,
) -> anyhow::Result<(Shell, watch::Receiver<Option<Instant>>)> {
    let (commands_in, commands) = mpsc::channel(COMMANDS_MAX);
    let (leave_in, leave) = watch::channel(None);
    let orders = Orders::new(commands_in, leave_in);
    let handle = LinkHandle::new();
    let socket = run_dir.join(LINK_SOCKET);
    let session = link::attach(&identity, &socket, &handle).await?;
    let welcome = session.welcome.clone();
    let config = Rc::new(link::parse_config(&welcome.config)?);
    log::init(&config.log, identity.role.as_str(), Some(identity.slot))?;
    let drain_timeout = config.edge.drain_timeout;

    spawn_local(signals(orders.clone(), drain_timeout)?);
    handle.overload().begin(identity.role, identity.slot, &config);
    spawn_local(handle.clone().watch_lag());
    spawn_local(handle.clone().watch_overload());
    let fds = inherited.fds;
    let link = Link { identity, socket, fds, handle: handle.clone(), orders, drain_timeout };
    spawn_local(link.run(session));
    let shell = Shell {
        role: identity.role,
        slot: identity.slot,
        incarnation: identity.incarnation,
        host: welcome.host,
        config,
        generation: welcome.generation,
        edge_workers: welcome.edge_workers,
        origin_workers: welcome.origin_workers,
        run_dir,
        sockets: inherited.sockets,
        commands,
        link: handle,
    };
    Ok((shell, leave))
}

/// SIGTERM stops; SIGQUIT drains, and is what the kernel sends when the supervisor dies; SIGUSR1 opens the log
/// file anew.
fn signals(orders: Orders, drain_timeout: Duration) -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut reopen = signal(SignalKind::user_defined1())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => orders.stop().await,
                _ = quit.recv() => {
                    info!("draining: asked by a signal, or the supervisor is gone");
                    orders.drain(drain_timeout).await;
                }
                _ = reopen.recv() => {
                    if let Err(error) = log::reopen() {
                        warn!("{error}");
                    }
                }
            }
        }
    })
}

/// Returns when the body should have left and did not.
async fn overdue(mut leave: watch::Receiver<Option<Instant>>) {
    loop {
        let Some(by) = *leave.borrow_and_update() else {
            if leave.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            continue;
        };
        tokio::select! {
            () = sleep_until(by) => return,
            Ok(()) = leave.changed() => {}
        }
    }
}

/// Commands on their way to the body, with the time by which it must have left.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    commands: mpsc::Sender<Command>,
    leave: Rc<watch::Sender<Option<Instant>>>,
}

impl Orders {
    pub(crate) fn new(commands: mpsc::Sender<Command>, leave: watch::Sender<Option<Instant>>) -> Self {
        Self { commands, leave: Rc::new(leave) }
    }

    /// Queues a command; waits while the body does not take the ones before it.
    pub(crate) async fn send(&self, command: Command) {
        if self.commands.send(command).await.is_err() {
            warn!("a command came after the end of this worker's work");
        }
    }

    pub(crate) async fn drain(&self, within: Duration) {
        let deadline = self.leave_after(within);
        self.send(Command::Drain { deadline }).await;
    }

    pub(crate) async fn hand_over(&self, path: PathBuf, within: Duration) {
        let deadline = self.leave_after(within);
        self.send(Command::HandOver { path, deadline }).await;
    }

    fn leave_after(&self, within: Duration) -> Instant {
        let deadline = Instant::now() + within;
        self.leave_by(deadline + LEAVE_WITHIN);
        deadline
    }

    async fn stop(&self) {
        self.leave_by(Instant::now() + LEAVE_WITHIN);
        self.send(Command::Stop).await;
    }

    /// The earliest order counts.
    fn leave_by(&self, by: Instant) {
        self.leave.send_modify(|leave| *leave = Some(leave.map_or(by, |earlier| earlier.min(by))));
    }
}

/// Which worker this is, and whose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) role: Role,
    pub(crate) slot: u32,
    pub(crate) incarnation: u64,
    parent: Pid,
}

impl Identity {
    /// Ties this process to its supervisor: when that dies the kernel sends SIGQUIT.
    fn take(role: Role, args: WorkerArgs) -> anyhow::Result<Self> {
        let parent = std::env::var(PARENT_VARIABLE).ok().and_then(|pid| pid.parse().ok());
        let parent = Pid::from_raw(parent.context("workers are started by `weir run`")?);
        prctl::set_pdeathsig(Signal::SIGQUIT).context("the death of the supervisor cannot be watched")?;
        let identity = Self { role, slot: args.slot, incarnation: args.incarnation, parent };
        // It may have died before the line above; then no signal comes.
        ensure!(!identity.is_orphan(), "the supervisor is gone");
        let name = std::ffi::CString::new(format!("weir: {role} {}", args.slot))?;
        prctl::set_name(&name).context("this process cannot be named")?;
        Ok(identity)
    }

    /// A worker of the process that started the tests.
    #[cfg(test)]
    pub(crate) fn of_test(role: Role, slot: u32, incarnation: u64) -> Self {
        Self { role, slot, incarnation, parent: getppid() }
    }

    pub(crate) fn is_orphan(&self) -> bool {
        getppid() != self.parent
    }
}
