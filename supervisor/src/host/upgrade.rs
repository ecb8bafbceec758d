//! The supervisor becomes another image of itself: same process, same children, same sockets.
//!
//! ```text
//! old image                                             new image
//!   NEW upgrade-check   reads the state, says yes or no
//!   exec NEW      ─────── state in a memfd ──────────>  reads the state, attaches its workers, replaces them one by one
//!                 <────── exec the old image ─────────  could not go on, or a new worker did not get ready
//! ```
//!
//! Descriptors keep their numbers over an exec, so the state names them. Signals are blocked meanwhile: without handlers
//! they would end the process.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::SigSet;
use nix::unistd::execve;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tracing::{error, info, warn};
use weir_node::config::Config;
use weir_node::sockets::NamedSocket;
use weir_node::worker::Role;

use super::reload::Answer;
use super::status::millis;
use super::worker::Worker;
use super::{Host, Load, notify_ready, notify_reloading};
use crate::plan::{Input, Limits, Plan, SavedPlan, SlotId, WorkerId};
use crate::slots::{Listener, RunDir, Slots};
use crate::spawn::{FAILED_VARIABLE, Process, Program, STATE_VARIABLE};

/// What the state means. To be changed when an image that passes over what it does not know would go wrong by it.
const VERSION: u32 = 1;

/// How long a new image may take to say whether it can go on.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// How the answer of an image begins that can go on.
const CAN_GO_ON: &str = "can go on";

/// Bytes of a state that is believed.
const STATE_MAX: u64 = 64 << 20;

/// An image that was looked at.
#[derive(Debug)]
pub(super) struct Checked {
    binary: PathBuf,
    result: Result<(), String>,
    answer: Option<Answer>,
}

/// A host on its way from one image to the next. Fields are only ever added.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    version: u32,
    config: Config,
    generation: u64,
    name: String,
    /// The executable that was started first, or given with an upgrade.
    binary: PathBuf,
    uptime_ms: u64,
    plan: SavedPlan,
    #[serde(default)]
    metrics: serde_json::Value,
    run_dir: PathBuf,
    lock: RawFd,
    /// The listening sockets of the two services.
    services: BTreeMap<String, RawFd>,
    listeners: Vec<Listener>,
    own: Vec<(String, RawFd)>,
    slots: Vec<SavedSlot>,
    workers: Vec<SavedWorker>,
    /// The image before, to go back to; none when this is the way back.
    old: Option<RawFd>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSlot {
    role: String,
    index: u32,
    sockets: Vec<(String, RawFd)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedWorker {
    role: String,
    slot: u32,
    incarnation: u64,
    pid: u32,
    uptime_ms: u64,
    fds: RawFd,
}

/// The state that another image left for this one; `None`: this one was started afresh. To be asked before anything else
/// opens a descriptor.
///
/// # Errors
/// It cannot be read, or is not for this version.
pub fn inherited() -> anyhow::Result<Option<State>> {
    let Some(number) = std::env::var_os(STATE_VARIABLE) else { return Ok(None) };
    let number: RawFd = number.to_str().and_then(|text| text.parse().ok()).context(STATE_VARIABLE)?;
    ensure!(number > 2, "{STATE_VARIABLE} names a standard stream");
    // SAFETY: the image before opened it for this one and nobody else knows its number; it is not used again by that
    // number, except by an image that this one becomes.
    let file = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned().context("the state's descriptor")?;
    let mut file = File::from(file);
    let mut text = String::new();
    file.rewind().context("the state")?;
    (&mut file).take(STATE_MAX).read_to_string(&mut text).context("the state")?;
    let version: Versioned = serde_json::from_str(&text).context("the state")?;
    ensure!(version.version == VERSION, "the state is of version {}, this image reads {VERSION}", version.version);
    Ok(Some(serde_json::from_str(&text).context("the state")?))
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// `weir upgrade-check`: whether this image could go on with the state that it was given.
///
/// # Errors
/// It could not.
pub fn check() -> anyhow::Result<String> {
    let state = inherited()?.context("this is asked by a supervisor that is about to become this image")?;
    let plan = Plan::restore(&state.plan, Limits::default(), 0).context("the state speaks of roles unknown here")?;
    let (version, workers) = (env!("CARGO_PKG_VERSION"), plan.worker_ids().len());
    Ok(format!("{CAN_GO_ON}: weir {version}, {workers} workers"))
}

impl State {
    /// The configuration that is in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether this image can go on with it: whatever is taken out of a state is lost to the image before.
    fn validate(&self) -> anyhow::Result<()> {
        let roles = self.slots.iter().map(|slot| &slot.role).chain(self.workers.iter().map(|worker| &worker.role));
        for role in roles {
            role.parse::<Role>().map_err(anyhow::Error::msg)?;
        }
        Plan::restore(&self.plan, Limits::default(), 0).context("the state speaks of roles unknown here")?;
        let sockets = self.slots.iter().flat_map(|slot| &slot.sockets).chain(&self.own).map(|(_, fd)| *fd);
        let others = self.workers.iter().map(|worker| worker.fds).chain(self.services.values().copied());
        for fd in sockets.chain(others).chain([self.lock]).chain(self.old) {
            ensure!(fd > 2, "the state names a standard stream");
            // SAFETY: F_GETFD says of any number whether it is open, and does nothing.
            fcntl(unsafe { BorrowedFd::borrow_raw(fd) }, FcntlArg::F_GETFD)
                .with_context(|| format!("descriptor {fd}"))?;
        }
        Ok(())
    }

    /// Becomes the image before this one, which learns `why`. Returns only when that fails too.
    fn go_back(&self, why: &str) -> anyhow::Error {
        let Some(old) = self.old else { return anyhow::anyhow!("there is no image to go back to") };
        let state = std::env::var_os(STATE_VARIABLE).unwrap_or_default();
        let path = PathBuf::from(format!("/proc/self/fd/{old}"));
        exec(&path, &[(STATE_VARIABLE, state), (FAILED_VARIABLE, why.into())])
    }

    /// As [`go_back`](Self::go_back), unless this image can go on.
    pub(super) fn validate_or_go_back(&self) -> anyhow::Result<()> {
        let Err(error) = self.validate() else { return Ok(()) };
        let why = format!("{error:#}");
        Err(error.context(format!("{:#}", self.go_back(&why))))
    }

    /// The host goes on here.
    pub(super) fn into_host(self, program: Program, load: Load) -> anyhow::Result<Host> {
        let run_dir = RunDir::inherit(self.run_dir, own(self.lock)?);
        let mut slots = BTreeMap::new();
        for slot in self.slots {
            let role = slot.role.parse().map_err(anyhow::Error::msg)?;
            slots.insert(SlotId { role, index: slot.index }, named(slot.sockets)?);
        }
        let slots = Slots::inherit(slots, named(self.own)?, self.listeners);
        let mut host = Host::new(self.config, program, load, run_dir, slots)?;
        let limits = Limits { drain: host.config.edge.drain_timeout, ..Limits::default() };
        host.plan = Plan::restore(&self.plan, limits, host.seed).context("the state's plan")?;
        host.name = self.name;
        host.generation = self.generation;
        host.before = Duration::from_millis(self.uptime_ms);
        host.binary = self.binary;
        host.metrics.restore(self.metrics, host.before);
        for (name, fd) in self.services {
            host.services.insert(name, own(fd)?);
        }
        for worker in self.workers {
            let role = worker.role.parse().map_err(anyhow::Error::msg)?;
            let id = WorkerId { slot: SlotId { role, index: worker.slot }, incarnation: worker.incarnation };
            let uptime = Duration::from_millis(worker.uptime_ms);
            let process = Process::inherit(worker.pid, uptime, own(worker.fds)?)?;
            host.workers.insert(id, Worker::new(process));
        }
        host.old = self.old.map(own).transpose()?;
        // The state itself is done with.
        let state = std::env::var(STATE_VARIABLE).ok().and_then(|number| number.parse().ok());
        drop(state.map(own).transpose()?);
        host.inherited = true;
        host.failed = std::env::var(FAILED_VARIABLE).ok();
        Ok(host)
    }
}

/// Takes a descriptor that the image before left open.
fn own(fd: RawFd) -> anyhow::Result<OwnedFd> {
    ensure!(fd > 2, "the state names a standard stream");
    // SAFETY: the state names each descriptor once, and the image before opened it for nobody else; F_SETFD fails on one
    // that is not open.
    let fd = unsafe {
        fcntl(BorrowedFd::borrow_raw(fd), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).with_context(|| format!("fd {fd}"))?;
        OwnedFd::from_raw_fd(fd)
    };
    Ok(fd)
}

fn named(sockets: Vec<(String, RawFd)>) -> anyhow::Result<Vec<NamedSocket>> {
    sockets.into_iter().map(|(name, fd)| Ok(NamedSocket { name, fd: own(fd)? })).collect()
}

impl Host {
    /// Looks whether `binary`, or the executable that this one was started from, can go on with this host; then becomes it.
    pub(super) fn upgrade(&mut self, binary: Option<PathBuf>, answer: Option<Answer>) {
        let busy = if self.plan.is_stopping() {
            Some("weir is stopping")
        } else if self.reload.is_some() {
            Some("a configuration is just being taken over; try again")
        } else if self.plan.replacing().is_some() || self.checking {
            Some("workers are just being replaced")
        } else {
            None
        };
        if let Some(busy) = busy {
            return self.upgrade_failed(answer, busy.to_owned());
        }
        let binary = binary.unwrap_or_else(|| self.binary.clone());
        let state = match self.state().and_then(|(state, _)| write_state(&state)) {
            Ok(state) => state,
            Err(error) => return self.upgrade_failed(answer, format!("{error:#}")),
        };
        info!("looking at {}", binary.display());
        self.checking = true;
        self.upgrade = "running".to_owned();
        notify_reloading();
        let checked = self.checked.clone();
        spawn_blocking(move || {
            let result = ask(&binary, &state).map_err(|error| format!("{}: {error:#}", binary.display()));
            checked.blocking_send(Checked { binary, result, answer }).ok();
        });
    }

    /// The image was looked at.
    pub(super) fn upgrade_checked(&mut self, checked: Checked) {
        self.checking = false;
        let Checked { binary, result, answer } = checked;
        if let Err(why) = result {
            return self.upgrade_failed(answer, why);
        }
        let text = format!("{} was found good; becoming it", binary.display());
        info!("{text}");
        // The answer needs the runtime to go out, so the loop becomes the image at its next turn.
        if let Some(answer) = answer {
            answer.send(Ok(text)).ok();
        }
        self.becoming = Some(binary);
    }

    /// Becomes the image. Returns only when that fails.
    pub(super) fn become_image(&mut self, binary: &Path) {
        let image = fs::canonicalize(binary).unwrap_or_else(|_| binary.to_owned());
        let error = match File::open("/proc/self/exe") {
            Ok(old) => {
                self.binary = image.clone();
                self.exec_with(&image, Some(OwnedFd::from(old)), None)
            }
            Err(error) => error.into(),
        };
        self.upgrade_failed(None, format!("{error:#}"));
    }

    /// A new worker did not get ready: becomes the image before, if this one was just upgraded to.
    pub(super) fn replacing_failed(&mut self, why: &str) {
        if let Some(old) = self.old.take() {
            error!("going back to the image before: {why}");
            let path = PathBuf::from(format!("/proc/self/fd/{}", old.as_raw_fd()));
            let keep = [old.as_fd()].map(|fd| fd.as_raw_fd());
            let error = self.exec_with(&path, None, Some((why, keep)));
            return self.upgrade_failed(None, format!("{why}; going back failed: {error:#}"));
        }
        self.upgrade_failed(None, why.to_owned());
    }

    pub(super) fn replaced(&mut self) {
        self.old = None;
        if self.upgrade == "running" {
            self.upgrade = "done".to_owned();
        }
        notify_ready();
    }

    /// After the first look at the inherited workers.
    pub(super) fn go_on(&mut self) {
        match self.failed.take() {
            Some(why) => self.upgrade_failed(None, why),
            None => {
                self.upgrade = "running".to_owned();
                info!("this image goes on as {}; replacing the workers", self.binary.display());
                self.tell(Input::Replace);
            }
        }
    }

    fn upgrade_failed(&mut self, answer: Option<Answer>, why: String) {
        error!("not upgraded: {why}");
        self.upgrade = format!("failed: {why}");
        notify_ready();
        if let Some(answer) = answer {
            answer.send(Err(why)).ok();
        }
    }

    fn exec_with(&self, image: &Path, old: Option<OwnedFd>, back: Option<(&str, [RawFd; 1])>) -> anyhow::Error {
        let (mut state, mut keep) = match self.state() {
            Ok(state) => state,
            Err(error) => return error,
        };
        state.old = old.as_ref().map(AsRawFd::as_raw_fd);
        keep.extend(state.old);
        keep.extend(back.iter().flat_map(|(_, fds)| fds));
        let file = match write_state(&state) {
            Ok(file) => file,
            Err(error) => return error,
        };
        let number = file.as_raw_fd();
        keep.push(number);
        if let Err(error) = set_close_on_exec(&keep, false) {
            return error;
        }
        let mut env = vec![(STATE_VARIABLE, OsString::from(number.to_string()))];
        env.extend(back.map(|(why, _)| (FAILED_VARIABLE, OsString::from(why))));
        let error = exec(image, &env);
        set_close_on_exec(&keep, true).ok();
        error
    }

    /// What the next image needs, and the descriptors that must stay open for it.
    fn state(&self) -> anyhow::Result<(State, Vec<RawFd>)> {
        let mut keep = Vec::new();
        let mut number = |fd: BorrowedFd<'_>| {
            keep.push(fd.as_raw_fd());
            fd.as_raw_fd()
        };
        let mut names = |sockets: &[NamedSocket]| -> Vec<(String, RawFd)> {
            sockets.iter().map(|socket| (socket.name.clone(), number(socket.fd.as_fd()))).collect()
        };
        let slots = self.slots.all().map(|(id, sockets)| SavedSlot {
            role: id.role.to_string(),
            index: id.index,
            sockets: names(sockets),
        });
        let slots = slots.collect();
        let own = names(self.slots.own());
        let services = self.services.iter().map(|(name, fd)| (name.clone(), number(fd.as_fd()))).collect();
        let workers = self.workers.iter().map(|(id, worker)| SavedWorker {
            role: id.slot.role.to_string(),
            slot: id.slot.index,
            incarnation: id.incarnation,
            pid: worker.process.pid(),
            uptime_ms: millis(worker.process.started.elapsed()),
            fds: number(worker.process.fds.as_fd()),
        });
        let workers = workers.collect();
        let state = State {
            version: VERSION,
            config: self.config.clone(),
            generation: self.generation,
            name: self.name.clone(),
            binary: self.binary.clone(),
            uptime_ms: millis(self.uptime()),
            plan: self.plan.save(self.now()),
            metrics: self.metrics.save(),
            run_dir: self.run_dir.path().to_owned(),
            lock: number(self.run_dir.lock_fd()),
            services,
            listeners: self.slots.listeners().to_vec(),
            own,
            slots,
            workers,
            old: None,
        };
        Ok((state, keep))
    }
}

/// The state in memory of its own, which stays open over an exec.
fn write_state(state: &State) -> anyhow::Result<File> {
    let mut file = File::from(memfd_create(c"weir-state", MFdFlags::empty()).context("the state")?);
    file.write_all(&serde_json::to_vec(state)?).context("the state")?;
    Ok(file)
}

/// Lets an image look at the state.
fn ask(binary: &Path, state: &File) -> anyhow::Result<()> {
    let mut child = Command::new(binary)
        .arg("upgrade-check")
        .env(STATE_VARIABLE, state.as_raw_fd().to_string())
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let until = Instant::now() + CHECK_WITHIN;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            child.kill().ok();
            child.wait().ok();
            anyhow::bail!("it did not answer within {CHECK_WITHIN:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = first_words(child.stderr.take());
    ensure!(status.success(), "it cannot go on: {}", said.trim());
    // Other programs may be content with any arguments.
    let said = first_words(child.stdout.take());
    ensure!(said.starts_with(CAN_GO_ON), "it is no weir");
    Ok(())
}

fn first_words(said: Option<impl Read>) -> String {
    let mut words = Vec::new();
    if let Some(said) = said {
        said.take(4096).read_to_end(&mut words).ok();
    }
    String::from_utf8_lossy(&words).into_owned()
}

fn set_close_on_exec(fds: &[RawFd], on: bool) -> anyhow::Result<()> {
    let flag = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    for fd in fds {
        // SAFETY: they belong to the host, which is borrowed by the caller.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        fcntl(fd, FcntlArg::F_SETFD(flag)).context("a descriptor of the host")?;
    }
    Ok(())
}

/// Becomes `image`, with the same arguments and with `env` in the environment. Returns only when that fails.
fn exec(image: &Path, env: &[(&str, OsString)]) -> anyhow::Error {
    let text = |text: OsString| CString::new(text.into_vec());
    let arguments: Result<Vec<_>, _> = std::env::args_os().map(text).collect();
    let kept = std::env::vars_os().filter(|(name, _)| name != STATE_VARIABLE && name != FAILED_VARIABLE);
    let added = env.iter().map(|(name, value)| (OsString::from(name), value.clone()));
    let environment: Result<Vec<_>, _> = kept
        .chain(added)
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        })
        .collect();
    let image = text(image.as_os_str().to_owned());
    let (Ok(image), Ok(arguments), Ok(environment)) = (image, arguments, environment) else {
        return anyhow::anyhow!("an argument or variable holds a zero byte");
    };
    let blocked = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK);
    let Err(error) = execve(&image, &arguments, &environment);
    if let Ok(before) = blocked
        && let Err(error) = before.thread_set_mask()
    {
        warn!("signals stay blocked: {error}");
    }
    anyhow::Error::from(error).context(format!("{} cannot be executed", image.to_string_lossy()))
}

/// Lets signals in again, once they are caught.
pub(super) fn unblock_signals() {
    if let Err(error) = SigSet::all().thread_unblock() {
        warn!("signals stay blocked: {error}");
    }
}
