//! A host on its way into another image of the supervisor. Descriptors keep their numbers over an exec, so it names them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use weir_node::config::Config;
use weir_node::sockets::NamedSocket;
use weir_node::worker::Role;

use super::image::{CAN_GO_ON, exec};
use super::status::millis;
use super::worker::Worker;
use super::{Host, Load};
use crate::plan::{Limits, Plan, SavedPlan, SlotId, WorkerId};
use crate::slots::{Listener, RunDir, Slots};
use crate::spawn::{FAILED_VARIABLE, Process, Program, STATE_VARIABLE};

/// What the state means. To be changed when an image that passes over what it does not know would go wrong by it.
const VERSION: u32 = 1;

/// Bytes of a state that is believed.
const STATE_MAX: u64 = 64 << 20;

/// A host on its way from one image to the next. Fields are only ever added.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// As it was written by the image that read it: the one before may not know every key of this one.
    config: serde_json::Value,
    #[serde(skip)]
    parsed: Config,
    generation: u64,
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    addresses: u64,
    name: String,
    /// The executable that was started first.
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
    pub(super) old: Option<RawFd>,
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
    #[serde(default)]
    addresses: u64,
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
    let begun: Begun = serde_json::from_str(&text).context("the state")?;
    let state = || {
        ensure!(begun.version == VERSION, "the state is of version {}, this image reads {VERSION}", begun.version);
        let mut state: State = serde_json::from_str(&text).context("the state")?;
        state.parsed = serde_json::from_value(state.config.clone()).context("the state's configuration")?;
        Ok(state)
    };
    match (state(), begun.old) {
        (Ok(state), _) => Ok(Some(state)),
        (Err(error), Some(old)) => {
            let why = format!("{error:#}");
            Err(error.context(format!("{:#}", go_back(old, &why))))
        }
        (Err(error), None) => Err(error),
    }
}

/// What every image can read of any state.
#[derive(Deserialize)]
struct Begun {
    version: u32,
    old: Option<RawFd>,
}

/// Becomes the image before this one, which learns `why`. Returns only when that fails too.
fn go_back(old: RawFd, why: &str) -> anyhow::Error {
    let state = std::env::var_os(STATE_VARIABLE).unwrap_or_default();
    let path = PathBuf::from(format!("/proc/self/fd/{old}"));
    exec(&path, &[(STATE_VARIABLE, state), (FAILED_VARIABLE, why.into())])
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
        &self.parsed
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

    /// Becomes the image before, unless this one can go on.
    pub(super) fn validate_or_go_back(&self) -> anyhow::Result<()> {
        match self.validate() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.give_up(error)),
        }
    }

    /// This image cannot go on: becomes the one before. Returns only when that fails too, or there is none.
    pub fn give_up(&self, why: anyhow::Error) -> anyhow::Error {
        match self.old {
            Some(old) => {
                let text = format!("{why:#}");
                why.context(format!("{:#}", go_back(old, &text)))
            }
            None => why,
        }
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
        let mut host = Host::new(self.parsed, program, load, run_dir, slots)?;
        let limits = Limits { drain: host.config.edge.drain_timeout, ..Limits::default() };
        host.plan = Plan::restore(&self.plan, limits, host.seed).context("the state's plan")?;
        host.name = self.name;
        host.generation = self.generation;
        host.tried = self.generation;
        host.tokens = self.tokens;
        host.addresses = self.addresses;
        host.written = Some(self.config);
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
            host.workers.insert(id, Worker::new(process, worker.addresses));
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
    /// What the next image needs, and the descriptors that must stay open for it. `back`: it is the one before.
    pub(super) fn state(&self, back: bool) -> anyhow::Result<(State, Vec<RawFd>)> {
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
            addresses: worker.addresses,
            fds: number(worker.process.fds.as_fd()),
        });
        let workers = workers.collect();
        let state = State {
            version: VERSION,
            config: match (&self.written, back) {
                (Some(written), true) => written.clone(),
                _ => serde_json::to_value(&self.config)?,
            },
            parsed: Config::default(),
            generation: self.generation,
            tokens: self.tokens,
            addresses: self.addresses,
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
pub(super) fn write_state(state: &State) -> anyhow::Result<File> {
    let mut file = File::from(memfd_create(c"weir-state", MFdFlags::empty()).context("the state")?);
    file.write_all(&serde_json::to_vec(state)?).context("the state")?;
    Ok(file)
}
