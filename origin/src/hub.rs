//! The streams of this origin: who publishes, who subscribes, and the newest group. Pure: records in, records out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustc_hash::{FxHashMap, FxHashSet};
use weir_media::{Epoch, Frame, FrameId, Gop, GopLimits, StreamName};
use weir_node::config::{Config, Takeover};
use weir_wire::relay::{Record, Refusal};

/// A connection of an edge worker.
pub(crate) type PeerId = u64;

/// One end of a publication or subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Port {
    pub(crate) peer: PeerId,
    pub(crate) channel: u32,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send a record to a peer, before frames that wait.
    Send(PeerId, Record),
    /// A subscription begins: frames will follow on it.
    Open(Port),
    /// Send a frame of a subscription; `starts_group` says that a reader can start at it.
    Frame { to: Port, frame: Frame, starts_group: bool },
    /// A publication or subscription has ended: nothing more goes out on it.
    Shut(Port),
    /// Something an operator cares about.
    Log(Event),
    /// The state of this stream changed.
    Changed(StreamName),
}

/// See [`Output::Log`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Published { name: StreamName, epoch: Epoch, peer: PeerId, resumed: bool },
    Unpublished { name: StreamName, peer: PeerId },
    TakenOver { name: StreamName },
    Ended { name: StreamName },
    Refused { name: StreamName, reason: &'static str },
}

/// What is known of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) live: bool,
    pub(crate) epoch: Epoch,
    pub(crate) subscribers: usize,
}

#[derive(Debug)]
struct Stream {
    publisher: Option<Publisher>,
    /// Without a publisher, but its subscribers are not told until then.
    grace_until: Option<Instant>,
    gop: Gop,
    last: FrameId,
    last_dts: i64,
    last_at: Instant,
    /// How far an edge says that the stream was, before this origin lost its memory.
    heard: (FrameId, i64),
    /// Since the epoch began only configuration came.
    fresh: bool,
    subscribers: Vec<Port>,
}

#[derive(Clone, Copy, Debug)]
struct Publisher {
    port: Port,
    key: u64,
}

/// Rules and bounds, from the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    gop: GopLimits,
    streams: usize,
    vhosts: std::rc::Rc<Config>,
}

impl Rules {
    pub(crate) fn new(config: &std::rc::Rc<Config>) -> Self {
        let gop = &config.origin.gop;
        Self {
            gop: GopLimits {
                bytes: gop.bytes,
                frames: gop.frames as usize,
                duration: i64::try_from(gop.duration.as_micros()).unwrap_or(i64::MAX),
            },
            streams: config.origin.streams as usize,
            vhosts: config.clone(),
        }
    }

    fn of(&self, name: &StreamName) -> (Duration, Takeover) {
        self.vhosts
            .vhost(&name.vhost)
            .map_or((Duration::ZERO, Takeover::Refuse), |(_, v)| (v.publish.grace, v.publish.takeover))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    rules: Rules,
    streams: FxHashMap<StreamName, Stream>,
    publications: FxHashMap<Port, StreamName>,
    subscriptions: FxHashMap<Port, StreamName>,
    /// Streams in their grace.
    graces: FxHashSet<StreamName>,
    out: VecDeque<Output>,
}

impl Hub {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            streams: FxHashMap::default(),
            publications: FxHashMap::default(),
            subscriptions: FxHashMap::default(),
            graces: FxHashSet::default(),
            out: VecDeque::new(),
        }
    }

    /// Takes over a changed configuration; groups that are held keep their bounds.
    pub(crate) fn configure(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// The next thing to do.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// A record of a peer. `wall` is the clock in microseconds since 1970.
    pub(crate) fn record(&mut self, now: Instant, wall: u64, peer: PeerId, record: Record) {
        match record {
            Record::Frame { channel, frame } => self.frame(now, Port { peer, channel }, &frame),
            Record::Claim { channel, name, key, resume } => {
                let port = Port { peer, channel };
                if self.publications.contains_key(&port) || self.subscriptions.contains_key(&port) {
                    return;
                }
                match self.claim(now, wall, port, &name, key, resume) {
                    Ok((first, base)) => {
                        self.out.push_back(Output::Send(peer, Record::Claimed { channel, first, base }));
                        self.go_live(&name, first.epoch);
                    }
                    Err((refusal, reason)) => self.refuse(port, name, refusal, reason),
                }
            }
            Record::Subscribe { channel, name, have } => self.subscribe(now, Port { peer, channel }, name, have),
            Record::Close { channel } => self.close(now, Port { peer, channel }),
            // The rest is what an origin says.
            _ => {}
        }
    }

    /// The connection of a peer has ended.
    pub(crate) fn peer_gone(&mut self, now: Instant, peer: PeerId) {
        let ports = |map: &FxHashMap<Port, StreamName>| -> Vec<Port> {
            map.keys().filter(|port| port.peer == peer).copied().collect()
        };
        for port in ports(&self.publications).into_iter().chain(ports(&self.subscriptions)) {
            self.close(now, port);
        }
    }

    /// When [`Hub::handle_timeout`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.graces.iter().filter_map(|name| self.streams.get(name)?.grace_until).min()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let due =
            |name: &&StreamName| self.streams.get(*name).is_none_or(|s| s.grace_until.is_none_or(|until| until <= now));
        let ended: Vec<StreamName> = self.graces.iter().filter(due).cloned().collect();
        for name in ended {
            self.graces.remove(&name);
            self.end(&name);
        }
    }

    /// What is known of a stream.
    pub(crate) fn state(&self, name: &StreamName) -> Option<State> {
        self.streams.get(name).map(|s| State {
            live: s.is_live(),
            epoch: s.last.epoch,
            subscribers: s.subscribers.len(),
        })
    }

    /// All streams.
    pub(crate) fn names(&self) -> impl Iterator<Item = &StreamName> {
        self.streams.keys()
    }

    pub(crate) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn publication_count(&self) -> usize {
        self.publications.len()
    }

    pub(crate) fn subscription_count(&self) -> usize {
        self.subscriptions.len()
    }

    fn claim(
        &mut self,
        now: Instant,
        wall: u64,
        port: Port,
        name: &StreamName,
        key: u64,
        resume: Option<FrameId>,
    ) -> Result<(FrameId, i64), (Refusal, &'static str)> {
        let (_, takeover) = self.rules.of(name);
        let room = self.streams.len() < self.rules.streams;
        let limits = self.rules.gop;
        let stream = match self.streams.get_mut(name) {
            Some(stream) => stream,
            None if !room => return Err((Refusal::Full, "this origin holds as many streams as it may")),
            None => self.streams.entry(name.clone()).or_insert_with(|| Stream::new(now, limits)),
        };
        if let Some(resume) = resume {
            if resume.epoch < stream.newest_epoch() {
                return Err((Refusal::Stale, "the stream was published anew meanwhile"));
            }
        } else if let Some(old) = stream.publisher
            && !(takeover == Takeover::Replace || takeover == Takeover::SameKey && old.key == key)
        {
            return Err((Refusal::Busy, "the stream is already published"));
        }
        if let Some(old) = stream.publisher.replace(Publisher { port, key }) {
            self.publications.remove(&old.port);
            self.out.push_back(Output::Shut(old.port));
            // Of the same epoch it is the same publisher, whose link was lost before it was missed here.
            if resume.is_none() {
                let reason = "another publisher took the stream over".to_owned();
                let refused = Record::Refused { channel: old.port.channel, refusal: Refusal::TakenOver, reason };
                self.out.push_back(Output::Send(old.port.peer, refused));
                self.out.push_back(Output::Log(Event::TakenOver { name: name.clone() }));
            }
        }
        self.publications.insert(port, name.clone());
        self.graces.remove(name);
        stream.grace_until = None;
        let granted = match resume {
            Some(id) => {
                // What is known already is dropped when it comes again.
                stream.fresh = false;
                if id.epoch > stream.last.epoch {
                    stream.last = FrameId { epoch: id.epoch, seq: 0 };
                }
                (id, stream.last_dts)
            }
            None => {
                let elapsed = i64::try_from(now.saturating_duration_since(stream.last_at).as_micros()).unwrap_or(0);
                let known = stream.newest_epoch() > 0;
                let last_dts = stream.last_dts.max(stream.heard.1);
                let first = FrameId { epoch: wall.max(stream.newest_epoch() + 1), seq: 1 };
                stream.fresh = true;
                stream.last = FrameId { epoch: first.epoch, seq: 0 };
                (first, if known { last_dts + elapsed } else { 0 })
            }
        };
        let event =
            Event::Published { name: name.clone(), epoch: granted.0.epoch, peer: port.peer, resumed: resume.is_some() };
        self.out.push_back(Output::Log(event));
        Ok(granted)
    }

    fn refuse(&mut self, port: Port, name: StreamName, refusal: Refusal, reason: &'static str) {
        let record = Record::Refused { channel: port.channel, refusal, reason: reason.to_owned() };
        self.out.push_back(Output::Send(port.peer, record));
        self.forget_unused(&name);
        self.out.push_back(Output::Log(Event::Refused { name, reason }));
    }

    fn go_live(&mut self, name: &StreamName, epoch: Epoch) {
        if let Some(stream) = self.streams.get(name) {
            for port in &stream.subscribers {
                self.out.push_back(Output::Send(port.peer, Record::Live { channel: port.channel, epoch }));
            }
        }
        self.out.push_back(Output::Changed(name.clone()));
    }

    fn frame(&mut self, now: Instant, port: Port, frame: &Frame) {
        let Some(stream) = self.publications.get(&port).and_then(|name| self.streams.get_mut(name)) else { return };
        if frame.id <= stream.last || frame.id.epoch != stream.last.epoch {
            return;
        }
        stream.last = frame.id;
        stream.last_dts = stream.last_dts.max(frame.dts);
        stream.last_at = now;
        if frame.info.config {
            // A publisher who came back sends its configuration again; players who have it need not know.
            if stream.fresh && stream.gop.configs().repeats(frame) {
                return;
            }
        } else {
            stream.fresh = false;
        }
        let starts_group = stream.gop.push(frame);
        for &to in &stream.subscribers {
            self.out.push_back(Output::Frame { to, frame: frame.clone(), starts_group });
        }
    }

    fn subscribe(&mut self, now: Instant, port: Port, name: StreamName, have: Option<(FrameId, i64)>) {
        if self.subscriptions.contains_key(&port) || self.publications.contains_key(&port) {
            return;
        }
        if self.streams.len() >= self.rules.streams && !self.streams.contains_key(&name) {
            return self.refuse(port, name, Refusal::Full, "this origin holds as many streams as it may");
        }
        let limits = self.rules.gop;
        let stream = self.streams.entry(name.clone()).or_insert_with(|| Stream::new(now, limits));
        // An origin that has lost its memory learns from its edges how far the stream was.
        if let Some((id, dts)) = have
            && id > stream.last.max(stream.heard.0)
        {
            stream.heard = (id, dts);
            stream.last_at = now;
        }
        stream.subscribers.push(port);
        self.subscriptions.insert(port, name.clone());
        self.out.push_back(Output::Open(port));
        let channel = port.channel;
        if stream.is_live() {
            self.out.push_back(Output::Send(port.peer, Record::Live { channel, epoch: stream.last.epoch }));
            let known = |frame: &Frame| have.is_some_and(|(id, _)| frame.id <= id);
            let mut configs: Vec<&Frame> = stream.gop.start_configs().iter().filter(|f| !known(f)).collect();
            // In the order of their names, since what is older than the newest is taken for a repetition.
            configs.sort_by_key(|frame| frame.id);
            for frame in configs {
                self.out.push_back(Output::Frame { to: port, frame: frame.clone(), starts_group: false });
            }
            for (i, frame) in stream.gop.frames().enumerate().filter(|(_, f)| !known(f)) {
                self.out.push_back(Output::Frame { to: port, frame: frame.clone(), starts_group: i == 0 });
            }
        } else {
            self.out.push_back(Output::Send(port.peer, Record::Idle { channel }));
        }
        self.out.push_back(Output::Changed(name));
    }

    fn close(&mut self, now: Instant, port: Port) {
        if let Some(name) = self.publications.remove(&port) {
            self.out.push_back(Output::Shut(port));
            self.unpublish(now, port, name);
        }
        if let Some(name) = self.subscriptions.remove(&port) {
            self.out.push_back(Output::Shut(port));
            if let Some(stream) = self.streams.get_mut(&name) {
                stream.subscribers.retain(|p| *p != port);
            }
            self.forget_unused(&name);
            self.out.push_back(Output::Changed(name));
        }
    }

    fn unpublish(&mut self, now: Instant, port: Port, name: StreamName) {
        let (grace, _) = self.rules.of(&name);
        let Some(stream) = self.streams.get_mut(&name) else { return };
        if stream.publisher.is_none_or(|p| p.port != port) {
            return;
        }
        stream.publisher = None;
        self.out.push_back(Output::Log(Event::Unpublished { name: name.clone(), peer: port.peer }));
        if grace.is_zero() {
            return self.end(&name);
        }
        stream.grace_until = Some(now + grace);
        self.graces.insert(name);
    }

    /// The publisher did not come back: subscribers are told, and what it sent is forgotten.
    fn end(&mut self, name: &StreamName) {
        let limits = self.rules.gop;
        let Some(stream) = self.streams.get_mut(name) else { return };
        stream.grace_until = None;
        stream.gop = Gop::new(limits);
        for port in &stream.subscribers {
            self.out.push_back(Output::Send(port.peer, Record::Idle { channel: port.channel }));
        }
        self.out.push_back(Output::Log(Event::Ended { name: name.clone() }));
        self.out.push_back(Output::Changed(name.clone()));
        self.forget_unused(name);
    }

    fn forget_unused(&mut self, name: &StreamName) {
        if self.streams.get(name).is_some_and(|s| !s.is_live() && s.subscribers.is_empty()) {
            self.streams.remove(name);
        }
    }
}

impl Stream {
    fn new(now: Instant, limits: GopLimits) -> Self {
        Self {
            publisher: None,
            grace_until: None,
            gop: Gop::new(limits),
            last: FrameId::default(),
            last_dts: 0,
            last_at: now,
            heard: (FrameId::default(), 0),
            fresh: true,
            subscribers: Vec::new(),
        }
    }

    fn newest_epoch(&self) -> Epoch {
        self.last.epoch.max(self.heard.0.epoch)
    }

    fn is_live(&self) -> bool {
        self.publisher.is_some() || self.grace_until.is_some()
    }
}
