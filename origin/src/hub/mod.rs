//! The streams of this origin: who publishes, who subscribes, and the newest group. Pure: records in, records out.

mod words;

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use rustc_hash::FxHashMap;
use weir_media::{Epoch, Frame, FrameId, Gop, GopLimits, StreamName};
use weir_node::config::Takeover;
use weir_node::rows;
use weir_proto::supervisor::StreamRow;
use weir_wire::relay::{Record, Refusal};

pub(crate) use words::{Event, Offence, Output, PeerId, Port, Rules, State};

/// Publications and subscriptions that one connection may have open: one edge worker's connections, all of them on
/// streams of their own.
pub(crate) const CHANNELS_MAX: usize = 20_000;

/// Epochs above this are not believed (the wall clock needs 51 bits), so that there is always a greater one to grant.
const EPOCH_MAX: Epoch = 1 << 62;

/// Times above this are not believed, in microseconds: 36,000 years of one stream.
const DTS_MAX: i64 = 1 << 60;

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
    subscribers: Vec<Subscriber>,
}

#[derive(Clone, Copy, Debug)]
struct Subscriber {
    port: Port,
    /// The newest frame that it has: none is sent twice, and none before it.
    newest: FrameId,
    /// It missed frames of a group that is no longer held: all but configuration is kept from it until the next one.
    until_group: bool,
}

#[derive(Clone, Copy, Debug)]
struct Publisher {
    port: Port,
    key: u64,
}

/// What a channel is.
#[derive(Clone, Debug)]
enum Channel {
    Publication(StreamName),
    Subscription(StreamName),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Hub {
    rules: Rules,
    overloaded: bool,
    streams: FxHashMap<StreamName, Stream>,
    peers: FxHashMap<PeerId, FxHashMap<u32, Channel>>,
    publications: usize,
    subscriptions: usize,
    /// Streams in their grace, by its end.
    graces: BTreeSet<(Instant, StreamName)>,
    out: VecDeque<Output>,
}

impl Hub {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            overloaded: false,
            streams: FxHashMap::default(),
            peers: FxHashMap::default(),
            publications: 0,
            subscriptions: 0,
            graces: BTreeSet::new(),
            out: VecDeque::new(),
        }
    }

    /// Takes over a changed configuration; groups that are held keep their bounds.
    pub(crate) fn configure(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Whether streams that are new are refused. Those that are there go on, and come back after a lost link.
    pub(crate) fn set_overloaded(&mut self, overloaded: bool) {
        self.overloaded = overloaded;
    }

    /// The next thing to do.
    pub(crate) fn poll(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// How much there is to do.
    pub(crate) fn pending(&self) -> usize {
        self.out.len()
    }

    /// A record of a peer. `wall` is the clock in microseconds since 1970.
    ///
    /// # Errors
    /// What no edge does; the peer's connection is to end.
    pub(crate) fn record(&mut self, now: Instant, wall: u64, peer: PeerId, record: Record) -> Result<(), Offence> {
        match record {
            Record::Frame { channel, frame } => self.frame(now, Port { peer, channel }, &frame),
            Record::Claim { channel, name, key, resume } => {
                let port = Port { peer, channel };
                self.check_channel(port)?;
                match self.claim(now, wall, port, &name, key, resume) {
                    Ok((first, base)) => {
                        self.out.push_back(Output::Send(peer, Record::Claimed { channel, first, base }));
                        self.go_live(&name, first.epoch);
                    }
                    Err((refusal, reason)) => self.refuse(port, name, refusal, reason),
                }
            }
            Record::Subscribe { channel, name, have } => {
                let port = Port { peer, channel };
                self.check_channel(port)?;
                let have = have.filter(|(id, dts)| id.epoch <= EPOCH_MAX && (0..=DTS_MAX).contains(dts));
                self.subscribe(now, port, name, have);
            }
            // What the origin ended may be ended by the edge at the same moment.
            Record::Close { channel } => self.close(now, Port { peer, channel }),
            _ => return Err(Offence::NotAnEdges),
        }
        Ok(())
    }

    /// The connection of a peer has ended.
    pub(crate) fn peer_gone(&mut self, now: Instant, peer: PeerId) {
        let channels: Vec<u32> = self.peers.get(&peer).into_iter().flat_map(|c| c.keys().copied()).collect();
        for channel in channels {
            self.close(now, Port { peer, channel });
        }
    }

    /// When [`Hub::handle_timeout`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.graces.first().map(|(until, _)| *until)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while self.graces.first().is_some_and(|(until, _)| *until <= now)
            && let Some((_, name)) = self.graces.pop_first()
        {
            self.end(&name);
        }
    }

    /// What is known of a stream.
    pub(crate) fn state(&self, name: &StreamName) -> Option<State> {
        self.streams.get(name).map(|s| State {
            live: s.is_live(),
            epoch: s.newest_epoch(),
            subscribers: s.subscribers.len(),
        })
    }

    /// All streams.
    pub(crate) fn names(&self) -> impl Iterator<Item = &StreamName> {
        self.streams.keys()
    }

    /// What operators are told of the streams that are published. `wall` is the clock in microseconds since 1970.
    pub(crate) fn rows(&self, wall: u64) -> BTreeMap<StreamName, StreamRow> {
        let live = self.streams.iter().filter(|(_, stream)| stream.publisher.is_some());
        let rows = live.map(|(name, stream)| {
            let alive_ms = wall.saturating_sub(stream.last.epoch) / 1000;
            let mut row = StreamRow { frames: stream.last.seq, alive_ms, ..StreamRow::default() };
            rows::describe(&mut row, &stream.gop);
            (name.clone(), row)
        });
        rows.collect()
    }

    /// Bodies of the frames in the streams' current groups.
    pub(crate) fn gop_bytes(&self) -> usize {
        self.streams.values().map(|stream| stream.gop.bytes()).sum()
    }

    pub(crate) fn stream_count(&self) -> usize {
        self.streams.len()
    }

    pub(crate) fn publication_count(&self) -> usize {
        self.publications
    }

    pub(crate) fn subscription_count(&self) -> usize {
        self.subscriptions
    }

    /// Streams with a publisher, or in their grace.
    fn live_count(&self) -> usize {
        self.publications + self.graces.len()
    }

    fn check_channel(&self, port: Port) -> Result<(), Offence> {
        match self.peers.get(&port.peer) {
            Some(channels) if channels.contains_key(&port.channel) => Err(Offence::ChannelOpen(port.channel)),
            Some(channels) if channels.len() >= CHANNELS_MAX => Err(Offence::TooManyChannels),
            _ => Ok(()),
        }
    }

    fn open(&mut self, port: Port, channel: Channel) {
        *self.count_of(&channel) += 1;
        self.peers.entry(port.peer).or_default().insert(port.channel, channel);
    }

    fn take_channel(&mut self, port: Port) -> Option<Channel> {
        let channels = self.peers.get_mut(&port.peer)?;
        let channel = channels.remove(&port.channel)?;
        if channels.is_empty() {
            self.peers.remove(&port.peer);
        }
        *self.count_of(&channel) -= 1;
        Some(channel)
    }

    fn count_of(&mut self, channel: &Channel) -> &mut usize {
        match channel {
            Channel::Publication(_) => &mut self.publications,
            Channel::Subscription(_) => &mut self.subscriptions,
        }
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
        let limits = self.rules.gop;
        let live = self.streams.get(name).is_some_and(Stream::is_live);
        if self.live_count() >= self.rules.streams && !live {
            return Err((Refusal::Full, "this origin holds as many streams as it may"));
        }
        if self.overloaded && !live && resume.is_none() {
            return Err((Refusal::Full, "this origin is overloaded, try again later"));
        }
        let stream = self.streams.entry(name.clone()).or_insert_with(|| Stream::new(now, limits));
        if let Some(resume) = resume {
            if resume.epoch < stream.newest_epoch() || resume.epoch > EPOCH_MAX {
                return Err((Refusal::Stale, "the stream was published anew meanwhile"));
            }
        } else if let Some(old) = stream.publisher
            && !(takeover == Takeover::Replace || takeover == Takeover::SameKey && old.key == key)
        {
            return Err((Refusal::Busy, "the stream is already published"));
        }
        let old = stream.publisher.replace(Publisher { port, key });
        // Of the same epoch it is the same publisher, whose link was lost before it was missed here.
        let same = resume.is_some_and(|id| id.epoch == stream.last.epoch);
        if let Some(until) = stream.grace_until.take() {
            self.graces.remove(&(until, name.clone()));
        }
        let granted = match resume {
            Some(id) => stream.resume(id),
            None => stream.publish(now, wall),
        };
        if let Some(old) = old {
            self.replace(old.port, name, same);
        }
        self.open(port, Channel::Publication(name.clone()));
        let event =
            Event::Published { name: name.clone(), epoch: granted.0.epoch, peer: port.peer, resumed: resume.is_some() };
        self.out.push_back(Output::Log(event));
        Ok(granted)
    }

    /// Ends the publication that another has taken the place of; `same`: it is its publisher's own older link.
    fn replace(&mut self, old: Port, name: &StreamName, same: bool) {
        self.take_channel(old);
        self.out.push_back(Output::Shut(old));
        if !same {
            let reason = "another publisher took the stream over".to_owned();
            let refused = Record::Refused { channel: old.channel, refusal: Refusal::TakenOver, reason };
            self.out.push_back(Output::Send(old.peer, refused));
            self.out.push_back(Output::Log(Event::TakenOver { name: name.clone() }));
        }
    }

    fn refuse(&mut self, port: Port, name: StreamName, refusal: Refusal, reason: &'static str) {
        let record = Record::Refused { channel: port.channel, refusal, reason: reason.to_owned() };
        self.out.push_back(Output::Send(port.peer, record));
        self.forget_unused(&name);
        self.out.push_back(Output::Log(Event::Refused { name, reason }));
    }

    fn go_live(&mut self, name: &StreamName, epoch: Epoch) {
        if let Some(stream) = self.streams.get(name) {
            for Subscriber { port, .. } in &stream.subscribers {
                self.out.push_back(Output::Send(port.peer, Record::Live { channel: port.channel, epoch }));
            }
        }
        self.out.push_back(Output::Changed(name.clone()));
    }

    fn frame(&mut self, now: Instant, port: Port, frame: &Frame) {
        // Frames of a publication that was refused or taken over may be on their way: they are for nobody.
        let Some(Channel::Publication(name)) = self.peers.get(&port.peer).and_then(|c| c.get(&port.channel)) else {
            return;
        };
        let Some(stream) = self.streams.get_mut(name) else { return };
        if frame.id <= stream.last || frame.id.epoch != stream.last.epoch {
            return;
        }
        if frame.body.is_empty() || !(0..=DTS_MAX).contains(&frame.dts) {
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
        for subscriber in stream.subscribers.iter_mut().filter(|s| s.newest < frame.id) {
            if subscriber.until_group && !starts_group && !frame.info.config {
                continue;
            }
            subscriber.until_group &= !starts_group;
            subscriber.newest = frame.id;
            self.out.push_back(Output::Frame { to: subscriber.port, frame: frame.clone(), starts_group });
        }
    }

    fn subscribe(&mut self, now: Instant, port: Port, name: StreamName, have: Option<(FrameId, i64)>) {
        // Streams that are only waited for are counted apart: players of names that nobody publishes keep no
        // publisher out.
        let waited_for = self.streams.len().saturating_sub(self.live_count());
        if waited_for >= self.rules.streams && !self.streams.contains_key(&name) {
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
        self.out.push_back(Output::Open(port));
        let channel = port.channel;
        let mut newest = have.map_or_else(FrameId::default, |(id, _)| id);
        if stream.is_live() {
            self.out.push_back(Output::Send(port.peer, Record::Live { channel, epoch: stream.last.epoch }));
            // In the order of their names, since what is older than the newest is taken for a repetition.
            let mut frames: Vec<(&Frame, bool)> = stream.gop.start_configs().iter().map(|f| (f, false)).collect();
            frames.sort_by_key(|(frame, _)| frame.id);
            frames.extend(stream.gop.frames().enumerate().map(|(i, frame)| (frame, i == 0)));
            for (frame, starts_group) in frames {
                if frame.id > newest {
                    newest = frame.id;
                    self.out.push_back(Output::Frame { to: port, frame: frame.clone(), starts_group });
                }
            }
        } else {
            self.out.push_back(Output::Send(port.peer, Record::Idle { channel }));
        }
        let until_group = stream.is_live() && !stream.gop.joinable() && newest < stream.last && stream.last.seq > 0;
        stream.subscribers.push(Subscriber { port, newest, until_group });
        self.out.push_back(Output::Changed(name.clone()));
        self.open(port, Channel::Subscription(name));
    }

    fn close(&mut self, now: Instant, port: Port) {
        let Some(channel) = self.take_channel(port) else { return };
        self.out.push_back(Output::Shut(port));
        match channel {
            Channel::Publication(name) => self.unpublish(now, port, name),
            Channel::Subscription(name) => {
                if let Some(stream) = self.streams.get_mut(&name) {
                    stream.subscribers.retain(|s| s.port != port);
                }
                self.forget_unused(&name);
                self.out.push_back(Output::Changed(name));
            }
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
        self.graces.insert((now + grace, name));
    }

    /// The publisher did not come back: subscribers are told, and what it sent is forgotten.
    fn end(&mut self, name: &StreamName) {
        let limits = self.rules.gop;
        let Some(stream) = self.streams.get_mut(name) else { return };
        stream.grace_until = None;
        stream.gop = Gop::new(limits);
        stream.forget_frames();
        for Subscriber { port, .. } in &stream.subscribers {
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

    /// A new publication: frames are numbered from the first and timed from the base that it returns.
    fn publish(&mut self, now: Instant, wall: u64) -> (FrameId, i64) {
        let known = self.newest_epoch() > 0;
        let elapsed = i64::try_from(now.saturating_duration_since(self.last_at).as_micros()).unwrap_or(0);
        let base = if known { self.last_dts.max(self.heard.1) + elapsed } else { 0 };
        let first = FrameId { epoch: wall.max(self.newest_epoch() + 1), seq: 1 };
        self.fresh = true;
        self.last = FrameId { epoch: first.epoch, seq: 0 };
        (first, base)
    }

    /// A publication that goes on over another link. What is known of it is dropped when it comes again.
    fn resume(&mut self, id: FrameId) -> (FrameId, i64) {
        self.fresh = false;
        if id.epoch > self.last.epoch {
            self.last = FrameId { epoch: id.epoch, seq: 0 };
        }
        (id, self.last_dts)
    }

    /// The frames are gone but how far they went stays known. A publisher whose link was away for longer than the
    /// grace sends its group again, and then none of it is taken for a repetition.
    fn forget_frames(&mut self) {
        if self.last > self.heard.0 {
            self.heard = (self.last, self.last_dts);
        }
        self.last = FrameId::default();
        self.fresh = true;
    }

    fn newest_epoch(&self) -> Epoch {
        self.last.epoch.max(self.heard.0.epoch)
    }

    fn is_live(&self) -> bool {
        self.publisher.is_some() || self.grace_until.is_some()
    }
}
