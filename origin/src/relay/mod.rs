//! The server side of the relay: connections of edge workers, over unix sockets and QUIC.

mod carrier;
mod groups;
mod quic;
mod unix;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;
use tracing::{debug, info};
use weir_media::StreamName;
use weir_wire::relay::{OutQueue, Policy, Record};

use crate::hub::{Event, Hub, Output, PeerId, Port};
use groups::Subscription;

pub(crate) use quic::listen as listen_quic;
pub(crate) use unix::listen as listen_unix;

/// The pause after an accept error (EMFILE and its kind); the loop never ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a peer's subscriptions travel.
enum Carrier {
    /// In the queue, with everything else.
    Queue,
    /// Each group on a QUIC stream of its own.
    Groups(quinn::Connection, RefCell<FxHashMap<u32, Subscription>>),
}

/// A connection of an edge worker.
struct Peer {
    id: PeerId,
    name: String,
    out: RefCell<OutQueue>,
    wake: Notify,
    carrier: Carrier,
}

type OnChange = Box<dyn Fn(&StreamName)>;

/// The hub with its connections.
pub(crate) struct Relay {
    hub: RefCell<Hub>,
    peers: RefCell<FxHashMap<PeerId, Rc<Peer>>>,
    next_peer: Cell<PeerId>,
    queue_bound: usize,
    /// The hub's next deadline may have changed.
    timer: Notify,
    /// Told of each stream whose state changed.
    on_change: RefCell<Option<OnChange>>,
}

impl Relay {
    pub(crate) fn new(hub: Hub, queue_bound: usize) -> Rc<Self> {
        Rc::new(Self {
            hub: RefCell::new(hub),
            peers: RefCell::default(),
            next_peer: Cell::new(1),
            queue_bound,
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

    /// Waits for the hub's deadlines, for as long as the worker lives.
    pub(crate) async fn deadlines(self: Rc<Self>) {
        loop {
            let deadline = self.hub.borrow().deadline();
            match deadline {
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

    fn join(&self, name: String, carrier: Carrier) -> Rc<Peer> {
        let id = self.next_peer.get();
        self.next_peer.set(id + 1);
        info!(peer = name, "edge connected");
        let out = RefCell::new(OutQueue::new(self.queue_bound));
        let peer = Rc::new(Peer { id, name, out, wake: Notify::new(), carrier });
        self.peers.borrow_mut().insert(id, peer.clone());
        peer
    }

    fn leave(&self, peer: &Peer, reason: &str) {
        info!(peer = peer.name, reason, "edge disconnected");
        self.peers.borrow_mut().remove(&peer.id);
        self.hub.borrow_mut().peer_gone(Instant::now(), peer.id);
        self.carry_out();
    }

    /// A record of a peer; what follows from it is done by [`Relay::carry_out`].
    fn record(&self, peer: &Peer, record: Record) {
        if let Record::Claim { channel, .. } = &record {
            peer.out.borrow_mut().open(*channel, Policy::Hold);
        }
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let wall = u64::try_from(wall).unwrap_or(u64::MAX);
        self.hub.borrow_mut().record(Instant::now(), wall, peer.id, record);
    }

    /// Does what the hub wants. Called once a batch of records.
    fn carry_out(&self) {
        let peers = self.peers.borrow();
        loop {
            let Some(output) = self.hub.borrow_mut().poll() else { break };
            match output {
                Output::Send(peer, record) => {
                    if let Some(peer) = peers.get(&peer) {
                        peer.out.borrow_mut().control(record);
                        peer.wake.notify_one();
                    }
                }
                Output::Open(port) => self.open(&peers, port),
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
                    self.timer.notify_one();
                    if let Some(tell) = &*self.on_change.borrow() {
                        tell(&name);
                    }
                }
            }
        }
        self.timer.notify_one();
    }

    fn open(&self, peers: &FxHashMap<PeerId, Rc<Peer>>, port: Port) {
        let Some(peer) = peers.get(&port.peer) else { return };
        match &peer.carrier {
            Carrier::Queue => peer.out.borrow_mut().open(port.channel, Policy::Skip),
            Carrier::Groups(connection, subscriptions) => {
                let subscription = Subscription::new(connection.clone(), port.channel, self.queue_bound);
                subscriptions.borrow_mut().insert(port.channel, subscription);
            }
        }
    }
}

fn log(peers: &FxHashMap<PeerId, Rc<Peer>>, event: &Event) {
    let name = |peer: &PeerId| peers.get(peer).map_or("a lost edge", |p| p.name.as_str());
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
