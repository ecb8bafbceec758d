//! The supervisor's loop: everything that happens becomes an input of the plan, and what it answers is done.

mod image;
mod links;
mod look;
mod manager;
mod metrics;
mod operator;
mod pressure;
mod reload;
mod state;
mod status;
mod streams;
mod upgrade;
mod worker;

pub use state::{State, check, inherited};

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

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
use weir_node::link::MESSAGE_MAX;
use weir_node::worker::{LINK_SOCKET, Role, handover_socket};
use weir_proto::supervisor::admin_server::AdminServer;
use weir_proto::supervisor::link_server::LinkServer;
use weir_proto::supervisor::{Drain, HandOver, Release, to_worker};

use crate::admin::{Ask, CTL_SOCKET, Operator, REQUESTS_MAX};
use crate::link::{EVENTS_MAX, Event, Links};
use crate::metrics::Metrics;
use crate::plan::{Action, Input, Limits, Note, Output, Plan, Time, WorkerId};
use crate::slots::{RunDir, Slots};
use crate::spawn::{Program, spawn};
use look::Looks;
use manager::{notify, notify_ready, notify_reloading};
use pressure::HostPressure;
use reload::Reload;
use upgrade::Checked;
use worker::Worker;

/// How long the service manager is to be patient after each second of a stop, in microseconds.
const STOPPING_USEC: u32 = 10_000_000;

/// What answers have to go out before this process becomes another image.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// The configuration's number at start.
const FIRST_GENERATION: u64 = 1;

/// How the configuration is read again; the error is for people.
pub type Load = Box<dyn Fn() -> Result<Config, String>>;

/// Runs the host until it is told to stop: binds, starts the workers, keeps them. `program` is what a worker is
/// started as, `load` what a reload calls. The log is to be set up before.
///
/// Fails when the run directory or an address cannot be had. The code is a failure when processes were left.
pub fn run(config: Config, program: Program, load: Load) -> anyhow::Result<ExitCode> {
    let run_dir = RunDir::lock(&config.run_dir())?;
    raise_file_limit();
    let slots = Slots::bind(&config, &run_dir)?;
    on_runtime(|| {
        let mut host = Host::new(config, program, load, run_dir, slots)?;
        for name in [LINK_SOCKET, CTL_SOCKET] {
            host.services.insert(name.to_owned(), host.run_dir.listen(name)?.into());
        }
        Ok(host)
    })
}

/// Goes on with the host of another image of this process. The log is to be set up before.
///
/// Fails when neither this image nor the one before can go on. The code is as for [`run`].
pub fn resume(state: State, program: Program, load: Load) -> anyhow::Result<ExitCode> {
    state.validate_or_go_back()?;
    on_runtime(|| state.into_host(program, load))
}

fn on_runtime(host: impl FnOnce() -> anyhow::Result<Host>) -> anyhow::Result<ExitCode> {
    let runtime = Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let abandoned = runtime.block_on(async {
        let mut host = host()?;
        let ears = match host.listen() {
            Ok(ears) => ears,
            Err(error) => {
                host.replacing_failed(&format!("{error:#}"));
                return Err(error);
            }
        };
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
    /// Spreads what hosts do that fail together.
    seed: u64,
    program: Program,
    load: Load,
    /// The number of `config`.
    generation: u64,
    reload: Option<Reload>,
    tokens: u64,
    looks: Looks,
    /// The last number that a configuration was tried with.
    tried: u64,
    /// Counts the changes of the addresses that edges listen on.
    addresses: u64,
    run_dir: RunDir,
    slots: Slots,
    plan: Plan,
    started: Instant,
    workers: BTreeMap<WorkerId, Worker>,
    /// Who speaks on a link.
    links: BTreeMap<u64, WorkerId>,
    metrics: Metrics,
    pressure: HostPressure,
    /// The listening sockets of the two services, by their names in the run directory.
    services: BTreeMap<String, OwnedFd>,
    /// How long images before this one ran.
    before: Duration,
    /// The executable that was started first.
    binary: PathBuf,
    /// The image before, as long as it may be gone back to.
    old: Option<OwnedFd>,
    /// The configuration as the image before had written it, as long as that may be gone back to and it is in force.
    written: Option<serde_json::Value>,
    /// Why this image was gone back to.
    failed: Option<String>,
    /// How the last upgrade went, for the operator.
    upgrade: String,
    /// An image is being looked at; the way for the answer.
    checking: bool,
    checked: mpsc::Sender<Checked>,
    /// Waits for [`Ears`].
    heard_checked: Option<mpsc::Receiver<Checked>>,
    /// The image to become, and when.
    becoming: Option<(Time, PathBuf)>,
    /// This image goes on with workers of another one.
    inherited: bool,
    exit: Option<usize>,
}

/// Everything the loop hears.
struct Ears {
    links: mpsc::Receiver<Event>,
    asks: mpsc::Receiver<Ask>,
    checked: mpsc::Receiver<Checked>,
    child: Signals,
    terminate: Signals,
    interrupt: Signals,
    quit: Signals,
    reopen: Signals,
    upgrade: Signals,
    reload: Signals,
    second: Interval,
}

impl Host {
    fn new(config: Config, program: Program, load: Load, run_dir: RunDir, slots: Slots) -> anyhow::Result<Self> {
        // The standard library's hash keys are the one source of randomness that needs no crate.
        let random = RandomState::new().hash_one(std::process::id());
        let limits = Limits { drain: config.edge.drain_timeout, ..Limits::default() };
        let (checked, heard_checked) = mpsc::channel(1);
        Ok(Self {
            json: serde_json::to_string(&config)?,
            pressure: HostPressure::new(&config.overload),
            config,
            seed: random,
            name: format!("{random:016x}"),
            program,
            load,
            generation: FIRST_GENERATION,
            reload: None,
            tokens: 0,
            looks: Looks::default(),
            tried: FIRST_GENERATION,
            addresses: 0,
            run_dir,
            slots,
            plan: Plan::new(limits, random),
            started: Instant::now(),
            workers: BTreeMap::new(),
            links: BTreeMap::new(),
            metrics: Metrics::new(SystemTime::now()),
            services: BTreeMap::new(),
            before: Duration::ZERO,
            // A file that was replaced since is said to be deleted; its successor has the name.
            binary: std::fs::read_link("/proc/self/exe").map(without_deleted).unwrap_or_default(),
            old: None,
            written: None,
            failed: None,
            upgrade: String::new(),
            checking: false,
            checked,
            heard_checked: Some(heard_checked),
            becoming: None,
            inherited: false,
            exit: None,
        })
    }

    /// Opens the two services and begins to catch signals.
    fn listen(&mut self) -> anyhow::Result<Ears> {
        let (events, links) = mpsc::channel(EVENTS_MAX);
        let (asking, asks) = mpsc::channel(REQUESTS_MAX);
        self.serve_metrics(&asking)?;
        let service = LinkServer::new(Links::new(events)).max_decoding_message_size(MESSAGE_MAX);
        let link = Server::builder().add_service(service);
        spawn_local(link.serve_with_incoming(self.incoming(LINK_SOCKET)?));
        let admin = Server::builder().add_service(AdminServer::new(Operator::new(asking)));
        spawn_local(admin.serve_with_incoming(self.incoming(CTL_SOCKET)?));
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let checked = self.heard_checked.take().context("listened before")?;
        Ok(Ears {
            links,
            asks,
            checked,
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            reopen: signal(SignalKind::user_defined1())?,
            upgrade: signal(SignalKind::user_defined2())?,
            reload: signal(SignalKind::hangup())?,
            second,
        })
    }

    fn incoming(&self, name: &str) -> anyhow::Result<UnixListenerStream> {
        let socket = self.services.get(name).with_context(|| format!("{name} is not listened on"))?.try_clone()?;
        Ok(UnixListenerStream::new(tokio::net::UnixListener::from_std(socket.into())?))
    }

    fn uptime(&self) -> Duration {
        self.before + self.started.elapsed()
    }

    /// The loop. Returns how many processes were left behind.
    async fn serve(&mut self, mut ears: Ears) -> usize {
        image::unblock_signals();
        if self.inherited {
            // Some may have ended while nobody was told.
            self.reap();
            self.go_on();
        } else {
            let edges = self.config.edge_workers();
            self.tell(Input::Desired { edges, origins: self.config.origin.workers });
        }
        loop {
            let wake = self.carry_out();
            let becoming = self.become_image_if_due();
            if let Some(abandoned) = self.exit {
                return abandoned;
            }
            let wake = wake.into_iter().chain(becoming).chain(self.looks_due()).min();
            let wake = wake.map(|at| tokio::time::Instant::from_std(self.started + at));
            tokio::select! {
                Some(event) = ears.links.recv() => self.heard(event),
                Some(ask) = ears.asks.recv() => self.asked(ask),
                Some(checked) = ears.checked.recv() => self.upgrade_checked(checked),
                _ = ears.child.recv() => self.reap(),
                _ = ears.terminate.recv() => self.stop(false),
                _ = ears.interrupt.recv() => self.stop(false),
                _ = ears.quit.recv() => self.stop(true),
                _ = ears.reopen.recv() => self.reopen_logs(),
                _ = ears.reload.recv() => {
                    notify_reloading();
                    self.reload(None);
                }
                _ = ears.upgrade.recv() => self.upgrade(None, None),
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
            Action::Lend { slot, to, token } => self.give_sockets(slot, to, token),
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
            Action::Note(note) => self.noted(note),
        }
    }

    fn noted(&mut self, note: Note) {
        match note {
            Note::Replaced => {
                info!("{note}");
                self.replaced();
            }
            Note::ReplaceFailed { .. } => self.replacing_failed(&note.to_string()),
            Note::Lent { .. } | Note::Returned { .. } => info!("{note}"),
            Note::Died { faulted: true, .. } => error!("{note}"),
            Note::Died { .. } | Note::StartTooLong(_) | Note::Hung(_) | Note::LeaveTooLong(_) => warn!("{note}"),
        }
    }

    fn spawn(&mut self, id: WorkerId) {
        match spawn(&self.program, id, self.slots.sockets(id.slot), self.run_dir.path()) {
            Ok(process) => {
                debug!("{id} started as process {}", process.pid());
                self.workers.insert(id, Worker::new(process, self.addresses));
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

    fn reap(&mut self) {
        let ended = self.workers.iter().filter_map(|(id, worker)| Some((*id, worker.process.try_wait()?)));
        for (id, exit) in ended.collect::<Vec<_>>() {
            self.workers.remove(&id);
            self.links.retain(|_, owner| *owner != id);
            self.metrics.ended(id);
            if id.slot.role == Role::Edge {
                // One that was killed could not.
                std::fs::remove_file(handover_socket(self.run_dir.path(), id.slot.index, id.incarnation)).ok();
            }
            info!("{id} ended: {exit}");
            self.tell(Input::Exited(id));
        }
    }

    fn each_second(&mut self) {
        for worker in self.workers.values_mut() {
            worker.usage.sample(worker.process.pid());
        }
        self.press();
        if sd_notify::watchdog_enabled().is_some() {
            notify(&[NotifyState::Watchdog]);
        }
        if self.plan.is_stopping() {
            // Clients may be given longer than the service manager knows; the plan sees to it that this ends.
            notify(&[NotifyState::ExtendTimeoutUsec(STOPPING_USEC)]);
        }
        self.go_on_reloading();
        self.renew_sockets();
        self.tell(Input::Tick);
    }
}

/// The kernel marks the name of an executable that is not there any more.
fn without_deleted(path: PathBuf) -> PathBuf {
    let name = path.to_str().and_then(|name| name.strip_suffix(" (deleted)")).map(PathBuf::from);
    name.unwrap_or(path)
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
