//! A worker's end of the control link.
//!
//! One gRPC stream to the supervisor for the worker's life. When it breaks the worker calls again for
//! [`PATIENCE`]; a supervisor that replaces itself in place is back by then. After that the worker drains.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};
use tracing::{debug, info, warn};
use weir_proto::metrics::families;
use weir_proto::supervisor::link_client::LinkClient;
use weir_proto::supervisor::{Ack, Adopt, Attach, FromWorker, Ready, Seen, ToWorker, Welcome};
use weir_proto::supervisor::{from_worker, to_worker};

pub use weir_proto::supervisor::Report;

use crate::config::Config;
use crate::fdpass;
use crate::log;
use crate::overload::Watch;
use crate::sockets::NamedSocket;
use crate::worker::{Command, Identity, Orders, handover_socket};

/// How long a worker tries its link before it calls it lost.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Time between two reports, which are the heartbeat.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Time between two attempts.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Time for the supervisor to answer one attempt.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two looks at how late the loop is.
const LAG_EVERY: Duration = Duration::from_millis(100);

/// Time for the last report to be written, and for a supervisor that does not read to be left.
const FLUSH: Duration = Duration::from_millis(10);
const LAST_WORDS_WITHIN: Duration = Duration::from_millis(100);

/// Messages that may wait for the supervisor.
const OUTGOING_MAX: usize = 64;

/// Bytes of one message; the largest is the configuration.
pub const MESSAGE_MAX: usize = 16 << 20;

/// Why a worker has no link.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The supervisor knows no such worker.
    #[error("the supervisor refuses this worker: {0}")]
    Refused(String),
    /// The supervisor is gone: this process has another parent now.
    #[error("the supervisor is gone")]
    Orphan,
    /// No answer within [`PATIENCE`].
    #[error("no link to the supervisor within {PATIENCE:?}: {0}")]
    Lost(String),
    /// The configuration that came is none. Both ends are one version, so this is a defect.
    #[error("the supervisor sent a configuration that cannot be read: {0}")]
    Config(#[from] serde_json::Error),
}

/// The body's way to speak to the supervisor. Cheap to clone; every call returns at once.
#[derive(Clone, Debug)]
pub struct LinkHandle {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    ready: Cell<bool>,
    report: RefCell<Report>,
    /// For the report, and for the overload's judgement.
    lag: Cell<Duration>,
    lag_to_judge: Cell<Duration>,
    overload: Watch,
    /// When the last heartbeat was, and how long the thread had worked until then.
    worked: Cell<Option<(Instant, Duration)>>,
    outgoing: RefCell<Option<mpsc::Sender<FromWorker>>>,
}

impl LinkHandle {
    pub(crate) fn new() -> Self {
        let shared = Shared {
            ready: Cell::default(),
            report: RefCell::default(),
            lag: Cell::default(),
            lag_to_judge: Cell::default(),
            overload: Watch::new(),
            worked: Cell::default(),
            outgoing: RefCell::default(),
        };
        Self { shared: Rc::new(shared) }
    }

    /// Says that this worker accepts from its sockets. Said once; a new attach repeats it.
    pub fn ready(&self) {
        self.shared.ready.set(true);
        self.send(from_worker::Kind::Ready(Ready {}));
    }

    /// Replaces what the next heartbeats carry. The shell sends them each second and fills in the loop's lag
    /// and busy time itself.
    pub fn report(&self, report: Report) {
        self.shared.report.replace(report);
    }

    /// Answers a command that carries a token. Lost with the link; the supervisor then asks again.
    pub fn ack(&self, token: u64, done: Result<(), String>) {
        let error = match done {
            Ok(()) => String::new(),
            Err(error) if error.is_empty() => "refused".to_owned(),
            Err(error) => error,
        };
        self.send(from_worker::Kind::Ack(Ack { token, error }));
    }

    /// Answers a look. Lost with the link, and then nobody waits for it.
    pub fn seen(&self, seen: Seen) {
        self.send(from_worker::Kind::Seen(seen));
    }

    /// Whether new work is taken.
    pub fn overload(&self) -> &Watch {
        &self.shared.overload
    }

    fn send(&self, kind: from_worker::Kind) {
        if let Some(outgoing) = self.shared.outgoing.borrow().as_ref() {
            // A full or closed queue is a link about to break: what must arrive is repeated after it.
            outgoing.try_send(FromWorker { kind: Some(kind) }).ok();
        }
    }

    fn heartbeat(&self) {
        let mut report = self.shared.report.borrow().clone();
        report.loop_lag_us = micros(self.shared.lag.take());
        let (now, busy) = (Instant::now(), Handle::current().metrics().worker_total_busy_duration(0));
        report.busy_us = micros(busy);
        if let Some((then, before)) = self.shared.worked.replace(Some((now, busy)))
            && now > then
        {
            let share = busy.saturating_sub(before).as_secs_f64() / (now - then).as_secs_f64();
            report.snapshot.get_or_insert_default().gauge(&families::BUSY, &[], share.min(1.0));
        }
        self.shared.overload.fill(&mut report);
        self.send(from_worker::Kind::Report(report));
    }

    /// Sends what was counted since the last heartbeat, before the process ends, and waits a little until it has gone.
    pub(crate) async fn last_words(&self) {
        self.heartbeat();
        let sent = async {
            while self.shared.outgoing.borrow().as_ref().is_some_and(|out| out.capacity() < out.max_capacity()) {
                sleep(Duration::from_millis(1)).await;
            }
            // Taken by the transport, which writes in its next turn.
            sleep(FLUSH).await;
        };
        timeout(LAST_WORDS_WITHIN, sent).await.ok();
    }

    /// Watches how late the loop wakes up; ends with the runtime.
    pub(crate) async fn watch_lag(self) {
        loop {
            let due = Instant::now() + LAG_EVERY;
            sleep_until(due).await;
            let late = due.elapsed();
            for lag in [&self.shared.lag, &self.shared.lag_to_judge] {
                lag.set(lag.get().max(late));
            }
        }
    }

    /// Judges the process once a second, with and without a link; ends with the runtime.
    pub(crate) async fn watch_overload(self) {
        let mut ticks = interval(REPORT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.shared.overload.sample(&self.shared.report.borrow(), self.shared.lag_to_judge.take());
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// An attached link.
pub(crate) struct Session {
    pub(crate) welcome: Welcome,
    incoming: Streaming<ToWorker>,
    heartbeat: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// What it takes to attach and to carry out what the supervisor says.
pub(crate) struct Link {
    pub(crate) identity: Identity,
    pub(crate) socket: PathBuf,
    pub(crate) fds: OwnedFd,
    pub(crate) handle: LinkHandle,
    pub(crate) orders: Orders,
    pub(crate) drain_timeout: Duration,
}

/// Reads the configuration of a welcome or an apply.
pub(crate) fn parse_config(json: &str) -> Result<Config, Error> {
    Ok(serde_json::from_str(json)?)
}

/// Attaches, trying for [`PATIENCE`].
pub(crate) async fn attach(identity: &Identity, socket: &Path, handle: &LinkHandle) -> Result<Session, Error> {
    let lost_at = Instant::now() + PATIENCE;
    loop {
        if identity.is_orphan() {
            return Err(Error::Orphan);
        }
        let failure = match timeout(ATTACH_TIMEOUT, attach_once(identity, socket, handle)).await {
            Ok(Ok(session)) => return Ok(session),
            Ok(Err(status)) if status.code() == Code::PermissionDenied => {
                return Err(Error::Refused(status.message().to_owned()));
            }
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() + RETRY_EVERY >= lost_at {
            return Err(Error::Lost(failure));
        }
        sleep(RETRY_EVERY).await;
    }
}

async fn attach_once(identity: &Identity, socket: &Path, handle: &LinkHandle) -> Result<Session, tonic::Status> {
    let unreachable = |e: tonic::transport::Error| tonic::Status::unavailable(format!("{}: {e}", socket.display()));
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).map_err(unreachable)?;
    let channel = endpoint.connect().await.map_err(unreachable)?;
    let (outgoing, queue) = mpsc::channel(OUTGOING_MAX);
    let attach = Attach {
        role: identity.role.to_string(),
        slot: identity.slot,
        incarnation: identity.incarnation,
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    outgoing.try_send(FromWorker { kind: Some(from_worker::Kind::Attach(attach)) }).ok();
    let mut client = LinkClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
    let mut incoming = client.attach(ReceiverStream::new(queue)).await?.into_inner();
    let first = incoming.message().await?;
    let Some(ToWorker { kind: Some(to_worker::Kind::Welcome(welcome)) }) = first else {
        return Err(tonic::Status::data_loss("the first answer is no welcome"));
    };
    handle.shared.outgoing.replace(Some(outgoing));
    if handle.shared.ready.get() {
        handle.ready();
    }
    let heartbeat = tokio::task::spawn_local(heartbeats(handle.clone())).abort_handle();
    Ok(Session { welcome, incoming, heartbeat })
}

async fn heartbeats(handle: LinkHandle) {
    let mut ticks = interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        handle.heartbeat();
    }
}

impl Link {
    /// Carries out what the supervisor says until the link is lost for good; then drains.
    pub(crate) async fn run(mut self, mut session: Session) {
        let mut generation = session.welcome.generation;
        loop {
            let why = self.serve(&mut session, &mut generation).await;
            drop(session);
            self.handle.shared.outgoing.take();
            debug!("the link to the supervisor broke: {why}");
            session = match attach(&self.identity, &self.socket, &self.handle).await {
                Ok(session) => session,
                Err(error) => {
                    warn!("draining: {error}");
                    return self.orders.drain(self.drain_timeout).await;
                }
            };
            info!("attached to the supervisor again");
            if session.welcome.generation != generation {
                let Welcome { generation, config, .. } = session.welcome.clone();
                self.apply(0, generation, &config).await;
            }
            generation = session.welcome.generation;
        }
    }

    async fn serve(&mut self, session: &mut Session, generation: &mut u64) -> String {
        loop {
            let kind = match session.incoming.message().await {
                Ok(Some(message)) => message.kind,
                Ok(None) => return "it was closed".to_owned(),
                Err(status) => return status.message().to_owned(),
            };
            match kind {
                Some(to_worker::Kind::Apply(apply)) => {
                    *generation = apply.generation;
                    self.apply(apply.token, apply.generation, &apply.config).await;
                }
                Some(to_worker::Kind::Drain(drain)) => {
                    self.orders.drain(Duration::from_millis(drain.deadline_ms)).await;
                }
                Some(to_worker::Kind::HandOver(to)) => {
                    let run_dir = self.socket.parent().unwrap_or_else(|| Path::new("/"));
                    let path = handover_socket(run_dir, to.slot, to.incarnation);
                    self.orders.hand_over(path, Duration::from_millis(to.deadline_ms)).await;
                }
                Some(to_worker::Kind::Adopt(adopt)) => self.adopt(adopt).await,
                Some(to_worker::Kind::Release(release)) => {
                    self.orders.send(Command::Release { token: release.token, slot: release.slot }).await;
                }
                Some(to_worker::Kind::Pressure(pressure)) => self.handle.overload().told(&pressure),
                Some(to_worker::Kind::Look(look)) => self.orders.send(Command::Look(look)).await,
                Some(to_worker::Kind::Kick(kick)) => {
                    self.orders.send(Command::Kick { token: kick.token, number: kick.number }).await;
                }
                Some(to_worker::Kind::Welcome(_)) => return "it welcomed twice".to_owned(),
                // A newer supervisor knows more words; what it needs an answer to it says again, or in another way.
                None => debug!("the supervisor said what this version does not know"),
            }
        }
    }

    async fn apply(&mut self, token: u64, generation: u64, config: &str) {
        match parse_config(config) {
            Ok(config) => {
                self.drain_timeout = config.edge.drain_timeout;
                log::set_level(config.log.level);
                self.handle.overload().configure(&config);
                self.orders.send(Command::Apply { token, generation, config: Rc::new(config) }).await;
            }
            Err(error) => self.handle.ack(token, Err(error.to_string())),
        }
    }

    async fn adopt(&self, adopt: Adopt) {
        match fdpass::receive(self.fds.as_fd(), adopt.token, adopt.names.len()) {
            Ok(fds) => {
                let named = adopt.names.into_iter().zip(fds);
                let sockets = named.map(|(name, fd)| NamedSocket { name, fd }).collect();
                self.orders.send(Command::Adopt { token: adopt.token, slot: adopt.slot, sockets }).await;
            }
            Err(error) => self.handle.ack(adopt.token, Err(error.to_string())),
        }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
