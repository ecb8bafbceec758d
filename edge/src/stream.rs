//! One stream on this worker: its pull, its newest group, and its logs with their players.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tracing::{debug, info};
use weir_media::{Frame, FrameId, Gop, StreamName};
use weir_node::config::Play;
use weir_node::lately::Lately;
use weir_node::rows;
use weir_proto::supervisor::StreamRow;
use weir_wire::relay::{RECORD_MAX, Record};

use crate::fanout::{Blocked, FanOut, Format, Handle, Moving, Patience, Start, Walk};
use crate::hub::{Hub, add};
use crate::pull::{Action, Pull};
use crate::relay::Link;
use crate::stats::{Awaited, Traffic};

/// How long a player may take over what it is to get before it stops.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Stream {
    name: StreamName,
    hub: Weak<Hub>,
    link: Rc<Link>,
    inner: RefCell<Inner>,
    /// Wakes the task that waits for the pull's next deadline.
    timer: Rc<Notify>,
    /// Told when the stream gets or loses its publisher.
    announced: Notify,
}

#[derive(Debug)]
struct Inner {
    pull: Pull,
    channel: Option<u32>,
    gop: Gop,
    last: Option<(FrameId, i64)>,
    live: bool,
    play: Play,
    fans: [Option<FanOut>; Stream::FORMATS],
    /// Has bytes that no round has seen.
    marked: bool,
    /// A round is under way.
    walking: bool,
    /// When the first frame arrived that no round has seen.
    arrived: Option<Instant>,
    traffic: Option<Rc<Traffic>>,
    /// Bytes to its players.
    sent: u64,
    lately: Lately,
    since: Instant,
}

impl Stream {
    /// How many formats there are; see [`Stream::place`].
    pub(crate) const FORMATS: usize = 3;

    /// `sent`: bytes that went to its players when it was pulled here before.
    pub(crate) fn new(hub: &Rc<Hub>, name: StreamName, link: Rc<Link>, play: Play, sent: u64) -> Rc<Self> {
        let config = hub.config();
        let grace = config.vhost(&name.vhost).map_or(Duration::ZERO, |(_, v)| v.publish.grace);
        let recovery = grace + Duration::from_secs(2);
        let pull = Pull::new(Instant::now(), config.cluster.relay.linger, recovery, link.is_up());
        let inner = Inner {
            pull,
            channel: None,
            gop: Gop::new(hub.gop_limits()),
            last: None,
            live: false,
            play,
            fans: Default::default(),
            marked: false,
            walking: false,
            arrived: None,
            traffic: None,
            sent,
            lately: Lately::starting_at(sent),
            since: Instant::now(),
        };
        Rc::new(Self {
            name,
            hub: Rc::downgrade(hub),
            link,
            inner: RefCell::new(inner),
            timer: Rc::default(),
            announced: Notify::new(),
        })
    }

    /// Begins to wait for the pull's deadlines; after the hub holds it.
    pub(crate) fn start(self: &Rc<Self>) {
        spawn_local(deadlines(Rc::downgrade(self)));
    }

    /// The origin worker that it is pulled from.
    pub(crate) fn link(&self) -> &Rc<Link> {
        &self.link
    }

    pub(crate) fn name(&self) -> &StreamName {
        &self.name
    }

    fn place(format: Format) -> usize {
        match format {
            Format::Rtmp { opus: false, .. } => 0,
            Format::Rtmp { opus: true, .. } => 1,
            Format::Flv => 2,
        }
    }

    /// Takes a player in. It is written to at once if there is something to write.
    pub(crate) fn join(self: &Rc<Self>, format: Format, socket: Rc<TcpStream>, start: Start) -> Member {
        self.enter(format, |fan, handle, _| {
            self.await_media(&handle, format);
            fan.join(socket, handle, start)
        })
    }

    /// The time until a player's first media is measured.
    fn await_media(&self, handle: &Handle, format: Format) {
        if let Some(hub) = self.hub.upgrade() {
            handle.awaits(Awaited::new(hub.stats(), format.into()));
        }
    }

    fn enter(
        self: &Rc<Self>,
        format: Format,
        enter: impl FnOnce(&mut FanOut, Rc<Handle>, bool) -> (usize, Option<Blocked>),
    ) -> Member {
        let handle = Rc::new(Handle::default());
        let place = Self::place(format);
        let (key, blocked) = {
            let inner = &mut *self.inner.borrow_mut();
            handle.set_live(inner.live);
            inner.pull.player_joined();
            let hub = self.hub.upgrade();
            let fan = inner.fans[place].get_or_insert_with(|| {
                let fan = FanOut::new(format, &inner.gop);
                if let Some(hub) = &hub {
                    hub.log_memory_grew(fan.memory());
                }
                fan
            });
            let entered = enter(fan, handle.clone(), inner.play.gop_cache);
            if let Some(hub) = &hub {
                let counts = fan.take_counts();
                inner.sent += counts.1;
                hub.count(counts, fan.protocol(), inner.traffic.as_deref());
            }
            entered
        };
        self.wait_for(place, blocked);
        self.drive();
        Member { stream: self.clone(), place, key, handle }
    }

    /// Takes in a player that comes from another process; `told_live`: what it knows of the publisher there.
    pub(crate) fn arrive(
        self: &Rc<Self>,
        format: Format,
        socket: Rc<TcpStream>,
        moving: Moving,
        told_live: bool,
    ) -> Member {
        if told_live {
            let inner = &mut *self.inner.borrow_mut();
            inner.live |= inner.pull.presume_live(Instant::now());
        }
        self.enter(format, |fan, handle, cached| {
            if moving.last.is_none() {
                self.await_media(&handle, format);
            }
            fan.arrive(socket, handle, moving, cached)
        })
    }

    /// Pulls it without playing it.
    pub(crate) fn watch(self: &Rc<Self>) -> Watch {
        self.inner.borrow_mut().pull.player_joined();
        self.drive();
        Watch { stream: self.clone() }
    }

    /// The origin's answer or a frame on this stream's channel.
    pub(crate) fn record(self: &Rc<Self>, record: Record) {
        match record {
            Record::Frame { frame, .. } => return self.frame(frame),
            Record::Live { epoch, .. } => {
                debug!(stream = %self.name, epoch, "stream is live");
                self.inner.borrow_mut().pull.heard_live();
            }
            Record::Idle { .. } => self.inner.borrow_mut().pull.heard_idle(),
            Record::Refused { reason, .. } => {
                info!(stream = %self.name, reason, "the origin refused the pull");
                self.inner.borrow_mut().pull.refused();
            }
            _ => return,
        }
        self.drive();
    }

    pub(crate) fn link_changed(self: &Rc<Self>, up: bool) {
        {
            let inner = &mut *self.inner.borrow_mut();
            inner.channel = None;
            if up { inner.pull.link_up(Instant::now()) } else { inner.pull.link_down() }
        }
        self.drive();
    }

    fn frame(self: &Rc<Self>, mut frame: Frame) {
        let Some(hub) = self.hub.upgrade() else { return };
        let inner = &mut *self.inner.borrow_mut();
        // What was had before a lost link comes again; configuration of the past is sent with each subscription.
        if inner.last.is_some_and(|(last, _)| frame.id <= last) {
            return;
        }
        if inner.last.is_some_and(|(last, _)| last.epoch != frame.id.epoch) {
            // Another publication: nothing of the last one's configuration is true of it.
            inner.gop = Gop::new(hub.gop_limits());
        }
        inner.last = Some((frame.id, frame.dts));
        if frame.body.len() <= RECORD_MAX {
            // A slice of what was read. Kept in a group, a few bytes of it would keep all of it.
            frame.body = Bytes::copy_from_slice(&frame.body);
        }
        let frame = &frame;
        let starts = inner.gop.push(frame);
        let mut players = 0;
        for fan in inner.fans.iter_mut().flatten() {
            let before = fan.memory();
            fan.push(frame, starts, &inner.gop);
            hub.log_memory_grew(fan.memory() - before);
            players += fan.len();
        }
        inner.traffic.get_or_insert_with(|| hub.stats().traffic(&self.name));
        if players > 0 && !std::mem::replace(&mut inner.marked, true) {
            inner.arrived = Some(Instant::now());
            if !inner.walking {
                hub.rounds().mark(self, inner.play.mw_latency);
            }
        }
    }

    /// Does what the pull wants.
    fn drive(self: &Rc<Self>) {
        loop {
            let action = self.inner.borrow_mut().pull.poll();
            match action {
                Action::Subscribe => self.subscribe(),
                Action::Unsubscribe => self.unsubscribe(),
                Action::Live => self.announce(true),
                Action::Idle => self.announce(false),
                Action::Forget => {
                    if let Some(hub) = self.hub.upgrade() {
                        hub.forget(self);
                    }
                }
                Action::Wait(_) => break,
            }
        }
        self.timer.notify_one();
    }

    fn subscribe(self: &Rc<Self>) {
        if let Some(hub) = self.hub.upgrade() {
            add(&hub.stats().pulls, 1);
        }
        let have = self.inner.borrow().last;
        let channel = self.link.subscribe(self, have);
        self.inner.borrow_mut().channel = Some(channel);
    }

    fn unsubscribe(&self) {
        if let Some(channel) = self.inner.borrow_mut().channel.take() {
            self.link.close(channel);
        }
    }

    fn announce(&self, live: bool) {
        let inner = &mut *self.inner.borrow_mut();
        inner.live = live;
        if !live {
            // The configuration stays: a publisher that comes back within its grace goes on without saying it again.
            inner.gop.clear_frames();
        }
        for fan in inner.fans.iter_mut().flatten() {
            fan.announce(live);
        }
        self.announced.notify_waiters();
    }

    /// Before the first [`Stream::round`] of a walk.
    pub(crate) fn begin_round(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.marked = false;
        inner.walking = true;
        if let (Some(arrived), Some(hub)) = (inner.arrived.take(), self.hub.upgrade()) {
            hub.stats().frame_latency.observe(arrived.elapsed());
        }
    }

    /// A round, or as much of it as `walk` has left to do. True when it is complete.
    pub(crate) fn round(self: &Rc<Self>, walk: &mut [Walk; Self::FORMATS]) -> bool {
        let Some(hub) = self.hub.upgrade() else { return true };
        let mut complete = true;
        for (place, walk) in walk.iter_mut().enumerate() {
            let mut blocked = Vec::new();
            {
                let inner = &mut *self.inner.borrow_mut();
                let patience = patience(&inner.play);
                let Some(fan) = &mut inner.fans[place] else { continue };
                let before = fan.memory();
                complete &= fan.walk(walk, patience, &mut blocked);
                hub.log_memory_shrank(before - fan.memory());
                let counts = fan.take_counts();
                inner.sent += counts.1;
                hub.count(counts, fan.protocol(), inner.traffic.as_deref());
            }
            for blocked in blocked {
                self.wait_for(place, Some(blocked));
            }
        }
        if complete {
            let inner = &mut *self.inner.borrow_mut();
            inner.walking = false;
            if inner.marked {
                hub.rounds().mark(self, inner.play.mw_latency);
            }
        }
        complete
    }

    /// Whether it is subscribed to at its origin.
    pub(crate) fn is_pulled(&self) -> bool {
        self.inner.borrow().channel.is_some()
    }

    /// Its players, of all formats.
    pub(crate) fn players(&self) -> u64 {
        self.inner.borrow().fans.iter().flatten().map(|fan| fan.len() as u64).sum()
    }

    /// Bytes to its players so far.
    pub(crate) fn sent(&self) -> u64 {
        self.inner.borrow().sent
    }

    /// Notes how many bytes went to its players so far.
    pub(crate) fn note(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.lately.note(inner.sent);
    }

    /// What operators are told of it. `noted`: the time since [`Stream::note`].
    pub(crate) fn describe(&self, row: &mut StreamRow, noted: Duration) {
        row.clients += self.players();
        let inner = self.inner.borrow();
        row.sent += inner.sent;
        row.sent_bps += inner.lately.bps(inner.sent, noted, inner.since.elapsed());
        rows::describe(row, &inner.gop);
    }

    /// Memory of the logs, in bytes.
    pub(crate) fn log_memory(&self) -> usize {
        self.inner.borrow().fans.iter().flatten().map(FanOut::memory).sum()
    }

    /// Lets the logs go; nobody plays it. Bytes gained.
    pub(crate) fn close(&self) -> usize {
        let gained = self.log_memory();
        self.inner.borrow_mut().fans = Default::default();
        gained
    }

    /// Lets the oldest block of the larger log go. Bytes gained.
    pub(crate) fn shed(&self) -> usize {
        let inner = &mut *self.inner.borrow_mut();
        inner.fans.iter_mut().flatten().max_by_key(|fan| fan.memory()).map_or(0, FanOut::shed)
    }

    /// Takes over a changed configuration.
    pub(crate) fn configure(&self, play: Play) {
        self.inner.borrow_mut().play = play;
    }

    /// A task for a player whose socket is full: it goes on where the rounds left it.
    fn wait_for(self: &Rc<Self>, place: usize, blocked: Option<Blocked>) {
        let Some(Blocked { key, socket, handle }) = blocked else { return };
        let stream = Rc::downgrade(self);
        spawn_local(async move {
            let writable = tokio::select! {
                writable = socket.writable() => writable,
                // Else one that was closed would keep its connection for as long as its client does not read.
                () = handle.left() => return,
            };
            let Some(stream) = stream.upgrade() else { return };
            let again = {
                let inner = &mut *stream.inner.borrow_mut();
                let patience = patience(&inner.play);
                let Some(fan) = &mut inner.fans[place] else { return };
                if writable.is_err() { None } else { fan.writable(key, &socket, patience) }
            };
            stream.wait_for(place, again);
        });
    }
}

fn patience(play: &Play) -> Patience {
    let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    Patience { skip: micros(play.queue_length), close: micros(play.queue_close) }
}

/// Waits for the pull's deadlines until the stream is forgotten.
async fn deadlines(stream: Weak<Stream>) {
    loop {
        let Some(this) = stream.upgrade() else { return };
        if this.hub.upgrade().is_none_or(|hub| !hub.holds(&this)) {
            return;
        }
        // `drive` has taken every action but the waiting.
        let Action::Wait(next) = this.inner.borrow_mut().pull.poll() else { return };
        let timer = this.timer.clone();
        drop(this);
        match next {
            None => timer.notified().await,
            Some(at) => {
                if tokio::time::timeout_at(at.into(), timer.notified()).await.is_ok() {
                    continue;
                }
                let Some(this) = stream.upgrade() else { return };
                this.inner.borrow_mut().pull.handle_timeout(Instant::now());
                this.drive();
            }
        }
    }
}

/// Keeps a stream pulled; ends when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: Rc<Stream>,
}

impl Watch {
    /// Returns when the stream has a publisher.
    pub(crate) async fn live(&self) {
        loop {
            let announced = self.stream.announced.notified();
            if self.stream.inner.borrow().live {
                return;
            }
            announced.await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stream.inner.borrow_mut().pull.player_left(Instant::now());
        self.stream.drive();
    }
}

/// A player's place in a stream; leaves it when dropped.
#[derive(Debug)]
pub(crate) struct Member {
    stream: Rc<Stream>,
    place: usize,
    key: usize,
    handle: Rc<Handle>,
}

impl Member {
    /// What the fan-out knows about this player.
    pub(crate) fn handle(&self) -> &Rc<Handle> {
        &self.handle
    }

    /// Queues bytes of the player's own.
    pub(crate) fn control(&self, bytes: &[u8]) {
        self.with(|fan, key| fan.control(key, bytes));
    }

    /// Stops or restarts the media.
    pub(crate) fn pause(&self, on: bool) {
        self.with(|fan, key| fan.pause(key, on));
    }

    /// Leaves for another process: what it takes to go on there. `None`: the player was closed.
    pub(crate) fn depart(&self) -> Option<Moving> {
        if self.handle.closed().is_some() {
            return None;
        }
        self.stream.inner.borrow_mut().fans[self.place].as_mut()?.depart(self.key)
    }

    pub(crate) fn stream(&self) -> &Rc<Stream> {
        &self.stream
    }

    /// Stops the media behind what there is by now, and waits until that is written. False: it took too long.
    pub(crate) async fn finish(&self) -> bool {
        self.with(|fan, key| fan.finish(key));
        self.stopped().await
    }

    /// Waits until a player that was told to stop has. False: it took too long.
    pub(crate) async fn stopped(&self) -> bool {
        let stopped = async {
            while !self.handle.stopped() && self.handle.closed().is_none() {
                self.handle.changed().await;
            }
        };
        tokio::time::timeout(FINISH_WITHIN, stopped).await.is_ok()
    }

    fn with(&self, act: impl FnOnce(&mut FanOut, usize) -> Option<Blocked>) {
        if self.handle.closed().is_some() {
            return;
        }
        let blocked = self.stream.inner.borrow_mut().fans[self.place].as_mut().and_then(|fan| act(fan, self.key));
        self.stream.wait_for(self.place, blocked);
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        {
            let inner = &mut *self.stream.inner.borrow_mut();
            if self.handle.closed().is_none()
                && let Some(fan) = &mut inner.fans[self.place]
            {
                fan.leave(self.key);
            }
            inner.pull.player_left(Instant::now());
        }
        self.stream.drive();
    }
}
