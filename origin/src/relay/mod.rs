//! The server side of the relay: connections of edge workers, over unix sockets and QUIC.

mod carrier;
mod groups;
mod local;
mod quic;
mod unix;

#[cfg(test)]
pub(crate) mod tests;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tracing::{debug, info, warn};
use weir_media::StreamName;
use weir_node::config::Config;
use weir_wire::relay::{OutQueue, Policy, RECORD_MAX, Record};

use crate::hub::{Event, Hub, Offence, Output, PeerId, Port};
use carrier::Lost;
use groups::{Bounds, Subscription};
use local::LOCAL;

pub(crate) use local::{FromHub, Local};
pub(crate) use quic::listen as listen_quic;
pub(crate) use unix::listen as listen_unix;

/// The pause after an accept error (EMFILE and its kind); the loop never ends.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections of edge workers, greeted or not; more are closed.
const PEERS_MAX: usize = 4096;

/// How often it is looked whether subscriptions were skipped.
const SKIPS_EVERY: Duration = Duration::from_secs(5);

/// Times and sizes of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes that may wait for one subscriber of one stream: `cluster.relay.queue`.
    pub(crate) queue: usize,
    /// After which a newer group goes before an older one: `cluster.relay.hold`.
    pub(crate) hold: Duration,
    /// How long an edge may take to say who it is.
    pub(crate) hello_within: Duration,
    /// An edge that takes not a byte for so long is given up; all that waits for it is let go.
    pub(crate) stuck_after: Duration,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        let relay = &config.cluster.relay;
        Self {
            queue: relay.queue,
            hold: relay.hold,
            hello_within: Duration::from_secs(5),
            stuck_after: Duration::from_secs(10),
        }
    }
}

/// How a peer's subscriptions travel.
enum Carrier {
    /// In the queue, with everything else.
    Queue,
    /// Each group on a QUIC stream of its own.
    Groups(quinn::Connection, RefCell<FxHashMap<u32, Subscription>>),
}

/// What connections cost: bytes from edges and to them (of UDP where it is QUIC), and groups left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) skips: u64,
}

impl Cost {
    fn plus(self, other: Self) -> Self {
        Self {
            received: self.received.saturating_add(other.received),
            sent: self.sent.saturating_add(other.sent),
            skips: self.skips.saturating_add(other.skips),
        }
    }
}

/// A connection of an edge worker.
struct Peer {
    id: PeerId,
    name: String,
    out: RefCell<OutQueue>,
    /// Something waits to be written.
    wake: Notify,
    /// Too many records other than frames wait.
    overflow: Notify,
    carrier: Carrier,
    group_skips: Rc<Cell<u64>>,
    /// Bytes on the connection's first stream, which is all there is on a unix socket.
    received: Cell<u64>,
    sent: Cell<u64>,
    joined: Instant,
    skips_told: Cell<u64>,
}

impl Peer {
    fn control(&self, record: Record) {
        let mut out = self.out.borrow_mut();
        out.control(record);
        if out.overflowed() { self.overflow.notify_one() } else { self.wake.notify_one() }
    }

    /// Takes what is to be written next: all records but frames, and about `budget` bytes.
    fn fill(&self, batch: &mut BytesMut, budget: usize) {
        self.out.borrow_mut().fill(batch, budget);
    }

    /// Returns when it does not read what it is told.
    async fn unread(&self) {
        self.overflow.notified().await;
    }

    /// What it cost until now.
    fn cost(&self) -> Cost {
        let (received, sent) = match &self.carrier {
            Carrier::Queue => (self.received.get(), self.sent.get()),
            Carrier::Groups(connection, _) => {
                let stats = connection.stats();
                (stats.udp_rx.bytes, stats.udp_tx.bytes)
            }
        };
        Cost { received, sent, skips: self.skips() }
    }

    /// How often its subscriptions were moved on to a newer group.
    fn skips(&self) -> u64 {
        self.out.borrow().skips() + self.group_skips.get()
    }
}

type OnChange = Box<dyn Fn(&StreamName)>;

/// When a batch of records is handled.
#[derive(Clone, Copy, Debug)]
struct Now {
    instant: Instant,
    /// Microseconds of UNIX time.
    wall: u64,
}

impl Now {
    fn take() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Self { instant: Instant::now(), wall: u64::try_from(wall).unwrap_or(u64::MAX) }
    }
}

/// The hub with its connections.
pub(crate) struct Relay {
    hub: RefCell<Hub>,
    limits: Limits,
    peers: RefCell<FxHashMap<PeerId, Rc<Peer>>>,
    /// This process as a peer.
    local: Rc<Local>,
    /// What connections cost that are gone.
    gone: Cell<Cost>,
    next_peer: Cell<PeerId>,
    /// Counts connections by its clones.
    entered: Rc<()>,
    /// The deadline of the hub that is waited for.
    deadline: Cell<Option<Instant>>,
    /// It has changed.
    timer: Notify,
    /// Told of each stream whose state changed.
    on_change: RefCell<Option<OnChange>>,
}

/// A connection's place among [`PEERS_MAX`].
struct Entered {
    _one: Rc<()>,
}

impl Relay {
    pub(crate) fn new(hub: Hub, limits: Limits) -> Rc<Self> {
        Rc::new(Self {
            hub: RefCell::new(hub),
            limits,
            peers: RefCell::default(),
            local: Rc::default(),
            gone: Cell::default(),
            next_peer: Cell::new(1),
            entered: Rc::new(()),
            deadline: Cell::new(None),
            timer: Notify::new(),
            on_change: RefCell::default(),
        })
    }

    pub(crate) fn on_change(&self, tell: impl Fn(&StreamName) + 'static) {
        *self.on_change.borrow_mut() = Some(Box::new(tell));
    }

    pub(crate) fn hub(&self) -> &RefCell<Hub> {
        &self.hub
    }

    pub(crate) fn peer_count(&self) -> usize {
        self.peers.borrow().len()
    }

    /// What all connections together cost until now, those included that are gone.
    pub(crate) fn cost(&self) -> Cost {
        self.peers.borrow().values().fold(self.gone.get(), |sum, peer| sum.plus(peer.cost()))
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn enter(&self) -> Option<Entered> {
        // The relay's own is one of them.
        (Rc::strong_count(&self.entered) <= PEERS_MAX).then(|| Entered { _one: self.entered.clone() })
    }

    /// Waits for the hub's deadlines, for as long as the worker lives.
    pub(crate) async fn deadlines(self: Rc<Self>) {
        loop {
            match self.deadline.get() {
                None => self.timer.notified().await,
                Some(at) => {
                    if tokio::time::timeout_at(at.into(), self.timer.notified()).await.is_err() {
                        self.hub.borrow_mut().handle_timeout(Instant::now());
                        self.carry_out();
                    }
                }
            }
        }
    }

    /// Tells now and then which edges do not keep up, for as long as the worker lives.
    pub(crate) async fn watch_skips(self: Rc<Self>) {
        let mut tick = tokio::time::interval(SKIPS_EVERY);
        loop {
            tick.tick().await;
            for peer in self.peers.borrow().values() {
                let skips = peer.skips();
                let new = skips - peer.skips_told.replace(skips);
                if new > 0 {
                    warn!(peer = peer.name, skips = new, "an edge does not keep up: streams skipped to newer groups");
                }
            }
        }
    }

    fn join(&self, name: String, carrier: Carrier) -> Rc<Peer> {
        let id = self.next_peer.get();
        self.next_peer.set(id + 1);
        info!(peer = name, "edge connected");
        let peer = Rc::new(Peer {
            id,
            name,
            out: RefCell::new(OutQueue::new(self.limits.queue)),
            wake: Notify::new(),
            overflow: Notify::new(),
            carrier,
            group_skips: Rc::default(),
            received: Cell::new(0),
            sent: Cell::new(0),
            joined: Instant::now(),
            skips_told: Cell::new(0),
        });
        self.peers.borrow_mut().insert(id, peer.clone());
        peer
    }

    fn leave(&self, peer: &Peer, lost: &Lost) {
        match lost {
            Lost::Closed | Lost::Io(_) => info!(peer = peer.name, reason = %lost, "edge disconnected"),
            _ => warn!(peer = peer.name, reason = %lost, "edge disconnected"),
        }
        if self.peers.borrow_mut().remove(&peer.id).is_some() {
            self.gone.set(self.gone.get().plus(peer.cost()));
        }
        self.hub.borrow_mut().peer_gone(Instant::now(), peer.id);
        self.carry_out();
    }

    /// A record of a peer; what follows from it is done by [`Relay::carry_out`].
    fn record(&self, now: Now, peer: &Peer, mut record: Record) -> Result<(), Offence> {
        if let Record::Frame { frame, .. } = &mut record
            && frame.body.len() <= RECORD_MAX
        {
            // A slice of what was read. Kept in a group, a few bytes of it would keep all of it.
            frame.body = Bytes::copy_from_slice(&frame.body);
        }
        self.hub.borrow_mut().record(now.instant, now.wall, peer.id, record)
    }

    /// Does what the hub wants. Called once a batch of records.
    fn carry_out(&self) {
        let peers = self.peers.borrow();
        loop {
            let Some(output) = self.hub.borrow_mut().poll() else { break };
            match output {
                Output::Send(LOCAL, record) => self.local.record(record),
                Output::Send(peer, record) => {
                    if let Some(peer) = peers.get(&peer) {
                        peer.control(record);
                    }
                }
                Output::Open(port) => self.open(&peers, port),
                Output::Frame { to, frame, .. } if to.peer == LOCAL => self.local.frame(to, frame),
                Output::Frame { to, frame, starts_group } => {
                    let Some(peer) = peers.get(&to.peer) else { continue };
                    match &peer.carrier {
                        Carrier::Queue => {
                            // A subscription is never held: it skips.
                            peer.out.borrow_mut().frame(to.channel, frame, starts_group).ok();
                            peer.wake.notify_one();
                        }
                        Carrier::Groups(_, subscriptions) => {
                            if let Some(s) = subscriptions.borrow_mut().get_mut(&to.channel) {
                                s.push(frame, starts_group);
                            }
                        }
                    }
                }
                Output::Shut(port) => {
                    if let Some(peer) = peers.get(&port.peer) {
                        peer.out.borrow_mut().forget(port.channel);
                        if let Carrier::Groups(_, subscriptions) = &peer.carrier {
                            subscriptions.borrow_mut().remove(&port.channel);
                        }
                    }
                }
                Output::Log(event) => log(&peers, &event),
                Output::Changed(name) => {
                    let subscribers = self.hub.borrow().state(&name).map_or(0, |state| state.subscribers);
                    self.local.changed(&name, subscribers);
                    if let Some(tell) = &*self.on_change.borrow() {
                        tell(&name);
                    }
                }
            }
        }
        let deadline = self.hub.borrow().deadline();
        if self.deadline.replace(deadline) != deadline {
            self.timer.notify_one();
        }
    }

    fn open(&self, peers: &FxHashMap<PeerId, Rc<Peer>>, port: Port) {
        let Some(peer) = peers.get(&port.peer) else { return };
        match &peer.carrier {
            Carrier::Queue => peer.out.borrow_mut().open(port.channel, Policy::Skip),
            Carrier::Groups(connection, subscriptions) => {
                let bounds = Bounds { queue: self.limits.queue, hold: self.limits.hold, origin: peer.joined };
                let subscription =
                    Subscription::new(connection.clone(), port.channel, bounds, peer.group_skips.clone());
                subscriptions.borrow_mut().insert(port.channel, subscription);
            }
        }
    }
}

fn log(peers: &FxHashMap<PeerId, Rc<Peer>>, event: &Event) {
    let name = |peer: &PeerId| match *peer {
        LOCAL => "this origin",
        ref peer => peers.get(peer).map_or("a lost edge", |p| p.name.as_str()),
    };
    match event {
        Event::Published { name: stream, epoch, peer, resumed: false } => {
            info!(%stream, epoch, peer = name(peer), "published");
        }
        Event::Published { name: stream, epoch, peer, resumed: true } => {
            info!(%stream, epoch, peer = name(peer), "publisher is back after a lost link");
        }
        Event::Unpublished { name: stream, peer } => info!(%stream, peer = name(peer), "publisher left"),
        Event::TakenOver { name: stream } => info!(%stream, "publication taken over"),
        Event::Ended { name: stream } => info!(%stream, "ended: no publisher came back within the grace"),
        Event::Refused { name: stream, reason } => debug!(%stream, reason, "refused"),
    }
}
