//! The client side of the relay: one link to each origin worker, which carries all streams of this worker.

mod carrier;
mod groups;
mod quic;
mod unix;

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;
use tracing::{info, warn};
use weir_media::{Frame, FrameId, StreamName};
use weir_proto::origin::control_client::ControlClient;
use weir_wire::relay::{OutQueue, Policy, Record};

use crate::hub::{Hub, add};
use crate::publication::Publication;
use crate::stream::Stream;

/// Where an origin worker's relay is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// On this host.
    Unix(PathBuf),
    /// Over QUIC.
    Quic {
        /// Host as configured: what its certificate is checked for.
        host: String,
        /// UDP port.
        port: u16,
        /// Which process of the origin it is. With a new one the connection is made anew at once: that the old one is
        /// dead would be noticed only by its silence.
        process: (String, u64),
    },
}

/// A link that was lost is tried again after this time, then twice as long up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Who a channel belongs to.
#[derive(Clone, Debug)]
enum Target {
    Stream(Weak<Stream>),
    Publication(Weak<Publication>),
}

/// See the module. Up or down, it is always there: what lives on it is told when it changes.
#[derive(Debug)]
pub(crate) struct Link {
    index: usize,
    hub: Weak<Hub>,
    queue_bound: usize,
    out: RefCell<OutQueue>,
    /// Something waits to be written.
    wake: Notify,
    /// Something was written, or the link was lost.
    drained: Notify,
    up: Cell<bool>,
    next_channel: Cell<u32>,
    channels: RefCell<FxHashMap<u32, Target>>,
    /// The control plane of the same origin, as long as that is reached.
    control: RefCell<Option<ControlClient<Channel>>>,
    /// How often it was lost.
    losses: Cell<u64>,
    lost: Notify,
}

impl Link {
    pub(crate) fn new(hub: Weak<Hub>, index: usize, queue_bound: usize) -> Rc<Self> {
        Rc::new(Self {
            index,
            hub,
            queue_bound,
            out: RefCell::new(OutQueue::new(queue_bound)),
            wake: Notify::new(),
            drained: Notify::new(),
            up: Cell::new(false),
            next_channel: Cell::new(1),
            channels: RefCell::default(),
            control: RefCell::default(),
            losses: Cell::new(0),
            lost: Notify::new(),
        })
    }

    /// The origin's place in the directory.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Calls to the origin.
    pub(crate) fn rpc(&self) -> Option<ControlClient<Channel>> {
        self.control.borrow().clone()
    }

    pub(crate) fn set_control(&self, control: Option<ControlClient<Channel>>) {
        let reached = control.is_some();
        self.control.replace(control);
        if !reached {
            self.losses.set(self.losses.get() + 1);
            self.lost.notify_waiters();
        }
    }

    /// Returns when the control plane is lost. A call itself may hear nothing of it for a long time.
    pub(crate) async fn unreached(&self) {
        let before = self.losses.get();
        while self.losses.get() == before {
            self.lost.notified().await;
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up.get()
    }

    /// Connects whenever `endpoint` says where, again and again, for as long as the worker lives.
    pub(crate) async fn run(
        self: Rc<Self>,
        name: String,
        quic: Option<quic::Client>,
        endpoint: watch::Receiver<Option<Endpoint>>,
    ) {
        let mut endpoint = endpoint;
        let mut pause = RETRY;
        loop {
            let Ok(target) = endpoint.wait_for(Option::is_some).await.map(|e| e.clone()) else { return };
            let Some(target) = target else { continue };
            endpoint.mark_unchanged();
            let connection = async {
                match &target {
                    Endpoint::Unix(path) => unix::connect(&self, &name, path).await,
                    Endpoint::Quic { host, port, .. } => match &quic {
                        Some(client) => client.connect(&self, &name, host, *port).await,
                        None => Err(carrier::Lost::NoTls),
                    },
                }
            };
            let lost = tokio::select! {
                Err(lost) = connection => lost,
                _ = endpoint.changed() => carrier::Lost::Moved,
            };
            if self.up.get() {
                warn!(origin = self.index, reason = %lost, "relay link lost");
                self.set_up(false);
                pause = RETRY;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn set_up(self: &Rc<Self>, up: bool) {
        if self.up.replace(up) == up {
            return;
        }
        if up {
            info!(origin = self.index, "relay link up");
        }
        self.channels.borrow_mut().clear();
        *self.out.borrow_mut() = OutQueue::new(self.queue_bound);
        if let Some(hub) = self.hub.upgrade() {
            hub.link_changed(self, up);
        }
        self.drained.notify_waiters();
    }

    /// Asks for a stream; frames up to `have` are known here.
    pub(crate) fn subscribe(&self, stream: &Rc<Stream>, have: Option<(FrameId, i64)>) -> u32 {
        let channel = self.open(Target::Stream(Rc::downgrade(stream)));
        self.control(Record::Subscribe { channel, name: stream.name().clone(), have });
        channel
    }

    /// Claims a stream for a publisher.
    pub(crate) fn claim(
        &self,
        publication: &Rc<Publication>,
        name: StreamName,
        key: u64,
        resume: Option<FrameId>,
    ) -> u32 {
        let channel = self.open(Target::Publication(Rc::downgrade(publication)));
        self.out.borrow_mut().open(channel, Policy::Hold);
        self.control(Record::Claim { channel, name, key, resume });
        channel
    }

    /// Sends a publisher's frame. It is never refused: see [`Link::has_room`].
    pub(crate) fn frame(&self, channel: u32, frame: Frame, starts_group: bool) {
        let was_empty = self.out.borrow().is_empty();
        // Above the bound it is taken all the same; the publisher is not read until there is room.
        self.out.borrow_mut().frame(channel, frame, starts_group).ok();
        if was_empty {
            self.wake.notify_one();
        }
    }

    /// Ends a publication, after its frames, or a subscription.
    pub(crate) fn close(&self, channel: u32) {
        if self.channels.borrow_mut().remove(&channel).is_some() {
            self.out.borrow_mut().close(channel, Record::Close { channel });
            self.wake.notify_one();
        }
    }

    /// Forgets a publication that goes on in another process. What waits of it is still written.
    pub(crate) fn abandon(&self, channel: u32) {
        self.channels.borrow_mut().remove(&channel);
    }

    /// Whether a publisher may go on sending.
    pub(crate) fn has_room(&self, channel: u32) -> bool {
        !self.up.get() || self.out.borrow().has_room(channel)
    }

    /// Returns when something was written, or the link was lost.
    pub(crate) async fn room(&self) {
        self.drained.notified().await;
    }

    fn open(&self, target: Target) -> u32 {
        let channel = self.next_channel.get();
        self.next_channel.set(channel.wrapping_add(1).max(1));
        self.channels.borrow_mut().insert(channel, target);
        channel
    }

    fn control(&self, record: Record) {
        self.out.borrow_mut().control(record);
        self.wake.notify_one();
    }

    /// Groups were left out.
    fn skipped(&self, skips: u64) {
        if skips > 0
            && let Some(hub) = self.hub.upgrade()
        {
            add(&hub.stats().relay_skips, skips);
        }
    }

    /// What came from the origin goes to whom it is for. What is for nobody any more was already on its way.
    fn dispatch(&self, record: Record) {
        let channel = match &record {
            Record::Claimed { channel, .. }
            | Record::Refused { channel, .. }
            | Record::Live { channel, .. }
            | Record::Idle { channel }
            | Record::Frame { channel, .. } => *channel,
            _ => return,
        };
        let Some(target) = self.channels.borrow().get(&channel).cloned() else { return };
        if matches!(record, Record::Refused { .. }) {
            self.channels.borrow_mut().remove(&channel);
            self.out.borrow_mut().forget(channel);
        }
        match target {
            Target::Stream(stream) => {
                if let Some(stream) = stream.upgrade() {
                    stream.record(record);
                }
            }
            Target::Publication(publication) => {
                if let Some(publication) = publication.upgrade() {
                    publication.record(record);
                }
            }
        }
    }

    fn batch_done(&self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.batch_done();
        }
    }
}

pub(crate) use quic::Client as QuicClient;
