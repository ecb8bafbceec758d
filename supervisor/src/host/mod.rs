//! The supervisor's loop: everything that happens becomes an input of the plan, and what it answers is done.

mod links;
mod metrics;
mod status;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tracing::{debug, error, info, warn};
use weir_node::config::Config;
use weir_node::fdpass;
use weir_node::worker::LINK_SOCKET;
use weir_proto::supervisor::admin_server::AdminServer;
use weir_proto::supervisor::link_server::LinkServer;
use weir_proto::supervisor::{Adopt, Drain, HandOver, Release, to_worker};

use crate::admin::{Ask, CTL_SOCKET, Operator, REQUESTS_MAX};
use crate::link::{EVENTS_MAX, Event, Links};
use crate::metrics::Metrics;
use crate::plan::{Action, Input, Limits, Note, Output, Plan, SlotId, Time, WorkerId};
use crate::slots::{RunDir, Slots};
use crate::spawn::{Program, spawn};
use worker::Worker;

/// The configuration's number at start.
const FIRST_GENERATION: u64 = 1;

/// Runs the host until it is told to stop: binds, starts the workers, keeps them. `program` is what a worker is
/// started as. The log is to be set up before.
///
/// Fails when the run directory or an address cannot be had. The code is a failure when processes were left.
pub fn run(config: Config, program: Program) -> anyhow::Result<ExitCode> {
    let run_dir = RunDir::lock(&config.run_dir())?;
    raise_file_limit();
    let slots = Slots::bind(&config, &run_dir)?;
    let runtime = Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let abandoned = runtime.block_on(async {
        let mut host = Host::new(config, program, run_dir, slots)?;
        let ears = host.listen()?;
        let abandoned = host.serve(ears).await;
        host.run_dir.remove_sockets().context("the sockets of the run directory are left")?;
        anyhow::Ok(abandoned)
    });
    runtime.shutdown_background();
    match abandoned? {
        0 => Ok(ExitCode::SUCCESS),
        left => {
            error!("{left} processes do not end, not even by SIGKILL");
            Ok(ExitCode::FAILURE)
        }
    }
}

struct Host {
    config: Config,
    /// As the workers get it.
    json: String,
    /// This instance's name.
    name: String,
    program: Program,
    run_dir: RunDir,
    slots: Slots,
    plan: Plan,
    started: Instant,
    workers: BTreeMap<WorkerId, Worker>,
    /// Who speaks on a link.
    links: BTreeMap<u64, WorkerId>,
    metrics: Metrics,
    exit: Option<usize>,
}

/// Everything the loop hears.
struct Ears {
    links: mpsc::Receiver<Event>,
    asks: mpsc::Receiver<Ask>,
    child: Signals,
    terminate: Signals,
    interrupt: Signals,
    quit: Signals,
    reopen: Signals,
    upgrade: Signals,
    second: Interval,
}

impl Host {
    fn new(config: Config, program: Program, run_dir: RunDir, slots: Slots) -> anyhow::Result<Self> {
        // The standard library's hash keys are the one source of randomness that needs no crate.
        let random = RandomState::new().hash_one(std::process::id());
        let limits = Limits { drain: config.edge.drain_timeout, ..Limits::default() };
        Ok(Self {
            json: serde_json::to_string(&config)?,
            config,
            name: format!("{random:016x}"),
            program,
            run_dir,
            slots,
            plan: Plan::new(limits, random),
            started: Instant::now(),
            workers: BTreeMap::new(),
            links: BTreeMap::new(),
            metrics: Metrics::new(SystemTime::now()),
            exit: None,
        })
    }

    /// Opens the two services and begins to catch signals.
    fn listen(&self) -> anyhow::Result<Ears> {
        let (events, links) = mpsc::channel(EVENTS_MAX);
        let (asking, asks) = mpsc::channel(REQUESTS_MAX);
        self.serve_metrics(&asking)?;
        let link = Server::builder().add_service(LinkServer::new(Links::new(events)));
        spawn_local(link.serve_with_incoming(self.incoming(LINK_SOCKET)?));
        let admin = Server::builder().add_service(AdminServer::new(Operator::new(asking)));
        spawn_local(admin.serve_with_incoming(self.incoming(CTL_SOCKET)?));
        let mut second = interval(std::time::Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Ears {
            links,
            asks,
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
            second,
        })
    }

    fn incoming(&self, name: &str) -> anyhow::Result<UnixListenerStream> {
        let socket = self.run_dir.listen(name)?;
        let listener = tokio::net::UnixListener::from_std(std::os::fd::OwnedFd::from(socket).into())?;
        Ok(UnixListenerStream::new(listener))
    }

    /// The loop. Returns how many processes were left behind.
    async fn serve(&mut self, mut ears: Ears) -> usize {
        let edges = self.config.edge_workers();
        self.tell(Input::Desired { edges, origins: self.config.origin.workers });
        loop {
            let wake = self.carry_out();
            if let Some(abandoned) = self.exit {
                return abandoned;
            }
            let wake = wake.map(|at| tokio::time::Instant::from_std(self.started + at));
            tokio::select! {
                Some(event) = ears.links.recv() => self.heard(event),
                Some(ask) = ears.asks.recv() => self.asked(ask),
                _ = ears.child.recv() => self.reap(),
                _ = ears.terminate.recv() => self.stop(false),
                _ = ears.interrupt.recv() => self.stop(false),
                _ = ears.quit.recv() => self.stop(true),
                _ = ears.reopen.recv() => self.reopen_logs(),
                _ = ears.upgrade.recv() => self.tell(Input::Replace),
                _ = ears.second.tick() => self.each_second(),
                () = at(wake) => self.tell(Input::Tick),
            }
        }
    }

    fn now(&self) -> Time {
        self.started.elapsed()
    }

    fn tell(&mut self, input: Input) {
        self.plan.handle(self.now(), input);
    }

    /// Does what the plan says; returns when it wants to be called again.
    fn carry_out(&mut self) -> Option<Time> {
        loop {
            match self.plan.poll() {
                Output::Do(action) => self.act(action),
                Output::Wait(wake) => return wake,
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn(id) => self.spawn(id),
            Action::Stop(id) => self.signal(id, Signal::SIGTERM),
            Action::Kill(id) => self.signal(id, Signal::SIGKILL),
            Action::Drain { worker, within } => {
                let deadline_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                if !self.say(worker, to_worker::Kind::Drain(Drain { deadline_ms })) {
                    self.signal(worker, Signal::SIGQUIT);
                }
            }
            Action::HandOver { from, to, within } => {
                let deadline_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                let order = HandOver { slot: to.slot.index, incarnation: to.incarnation, deadline_ms };
                if !self.say(from, to_worker::Kind::HandOver(order)) {
                    self.signal(from, Signal::SIGQUIT);
                }
            }
            Action::Lend { slot, to, token } => self.lend(slot, to, token),
            Action::Return { slot, from, token } => {
                self.say(from, to_worker::Kind::Release(Release { token, slot: slot.index }));
            }
            Action::NotifyReady => self.announce(),
            Action::NotifyStopping => {
                info!("stopping");
                notify(&[NotifyState::Stopping]);
            }
            Action::CloseListeners => self.slots.close(),
            Action::Exit { abandoned } => self.exit = Some(abandoned),
            Action::Note(note) => match note {
                Note::Lent { .. } | Note::Returned { .. } | Note::Replaced => info!("{note}"),
                Note::Died { faulted: true, .. } | Note::ReplaceFailed { .. } => error!("{note}"),
                Note::Died { .. } | Note::StartTooLong(_) | Note::Hung(_) | Note::LeaveTooLong(_) => warn!("{note}"),
            },
        }
    }

    fn spawn(&mut self, id: WorkerId) {
        match spawn(&self.program, id, self.slots.sockets(id.slot), self.run_dir.path()) {
            Ok(process) => {
                debug!("{id} started as process {}", process.pid());
                self.workers.insert(id, Worker::new(process));
            }
            Err(error) => {
                warn!("{id} cannot be started: {error}");
                self.tell(Input::Exited(id));
            }
        }
    }

    fn signal(&self, id: WorkerId, signal: Signal) {
        if let Some(worker) = self.workers.get(&id)
            && let Err(error) = worker.process.signal(signal)
        {
            debug!("{id} takes no {signal}: {error}");
        }
    }

    /// Says something to a worker. False when it has no link; one that does not read loses it.
    fn say(&mut self, id: WorkerId, kind: to_worker::Kind) -> bool {
        let Some(worker) = self.workers.get_mut(&id) else { return false };
        let said = worker.say(kind);
        if !said && let Some(link) = worker.drop_link() {
            self.broken(link);
        }
        said
    }

    fn lend(&mut self, slot: SlotId, to: WorkerId, token: u64) {
        let Some(worker) = self.workers.get(&to) else { return };
        let sockets = self.slots.sockets(slot);
        let fds: Vec<_> = sockets.iter().map(|socket| socket.fd.as_fd()).collect();
        let names = sockets.iter().map(|socket| socket.name.clone()).collect();
        // An adopt whose descriptors did not fit is refused by the worker, or asked for again.
        if let Err(error) = fdpass::send(worker.process.fds.as_fd(), token, &fds) {
            debug!("{to} was not given the sockets of {slot}: {error}");
        }
        self.say(to, to_worker::Kind::Adopt(Adopt { token, slot: slot.index, names }));
    }

    fn reap(&mut self) {
        let ended = self.workers.iter().filter_map(|(id, worker)| Some((*id, worker.process.try_wait()?)));
        for (id, exit) in ended.collect::<Vec<_>>() {
            self.workers.remove(&id);
            self.links.retain(|_, owner| *owner != id);
            self.metrics.ended(id);
            info!("{id} ended: {exit}");
            self.tell(Input::Exited(id));
        }
    }

    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => drop(answer.send(self.status())),
            Ask::Metrics(answer) => drop(answer.send(self.metrics_text())),
            Ask::Stop { graceful, begun } => {
                self.stop(graceful);
                begun.send(()).ok();
            }
        }
    }

    fn stop(&mut self, graceful: bool) {
        self.tell(Input::Stop { graceful });
    }

    fn reopen_logs(&self) {
        if let Err(error) = weir_node::log::reopen() {
            warn!("{error}");
        }
        for id in self.workers.keys() {
            self.signal(*id, Signal::SIGUSR1);
        }
    }

    fn each_second(&mut self) {
        for worker in self.workers.values_mut() {
            worker.usage.sample(worker.process.pid());
        }
        if sd_notify::watchdog_enabled().is_some() {
            notify(&[NotifyState::Watchdog]);
        }
        self.tell(Input::Tick);
    }

    fn announce(&self) {
        let mut where_to = BTreeSet::new();
        for listener in self.slots.listeners() {
            where_to.insert(format!("{} on {}", listener.name, listener.address));
        }
        let listening: Vec<_> = where_to.into_iter().collect();
        info!("ready: {}", listening.join(", "));
        let first = |service: &str| {
            let name = format!("{service}.0");
            let port =
                self.slots.listeners().iter().find(|listener| listener.name == name)?.address.rsplit(':').next()?;
            Some(port.to_owned())
        };
        if let (Some(rtmp), Some(http)) = (first("rtmp"), first("http")) {
            info!("publish to rtmp://HOST:{rtmp}/live/NAME, play that or http://HOST:{http}/live/NAME.flv");
        }
        notify(&[NotifyState::Ready]);
    }
}

/// That moment; without one, never.
async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Lets this process and its workers open as many files as it may ask for.
fn raise_file_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!("the limit of open files cannot be raised: {error}");
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        let error: io::Error = error;
        warn!("the service manager cannot be told: {error}");
    }
}
