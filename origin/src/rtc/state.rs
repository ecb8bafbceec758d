//! All sessions and streams of this origin. Datagrams, time and the hub's words in; datagrams and words to the hub out.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use slab::Slab;
use tracing::{debug, info, warn};
use weir_media::{FrameId, StreamName};
use weir_wire::relay::{Record, Refusal};
use weir_wire::rtp::{Header, rtcp};
use weir_wire::stun::{Check, is_stun};

use super::bridges::{Publication, Wanted, Wishes};
use super::dtls::{Dtls, Event, Identity};
use super::lane::Batch;
use super::session::{Keys, Role, Session};
use super::socket::{Path, Peer};
use super::stats::Totals;
use super::stream::{Source, Stream};
use super::track::Track;
use crate::relay::FromHub;

/// A peer's address is left to its session for so long after the last packet that was proven to be its.
const ADDRESS_KEPT: Duration = Duration::from_secs(5);

/// A session has at most one turn by its timer in this time.
const TURN: Duration = Duration::from_millis(1);

/// Sessions that ended are remembered so long, and so many.
const ENDED_KEPT: Duration = Duration::from_secs(30);
const ENDED_MAX: usize = 1000;

/// Where datagrams go.
pub(crate) trait Wire {
    /// Sends one datagram.
    fn send(&self, path: Path, datagram: &[u8]);
    /// Sends datagrams that lie one behind the other.
    fn send_all(&self, path: Path, bytes: &[u8], lengths: &[usize]);
    /// The path leads to no session any more.
    fn forget(&self, path: Path);
}

/// The hub's answer to a claim: the first frame's name and time, or why not.
pub(super) type Claim = Result<(FrameId, i64), (Refusal, String)>;

/// What is counted of all sessions together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Sessions opened.
    pub(crate) publishers: u64,
    pub(crate) players: u64,
    pub(crate) failed: u64,
    /// Datagrams of nobody that is known, malformed, or not authentic.
    pub(crate) strays: u64,
    pub(crate) forged: u64,
}

/// See the module.
pub(crate) struct State {
    identity: Identity,
    silent_for: Duration,
    pub(super) sessions: Slab<Session>,
    pub(super) streams: Slab<Stream>,
    names: FxHashMap<StreamName, usize>,
    by_ufrag: FxHashMap<Box<[u8]>, usize>,
    by_address: FxHashMap<Peer, usize>,
    timers: BTreeSet<(Instant, usize)>,
    dirty: Vec<usize>,
    pub(super) to_hub: VecDeque<Record>,
    /// Transcoders to be started.
    pub(super) wanted: VecDeque<Wanted>,
    /// Answers to claims, by their channels, until they are taken.
    claims: FxHashMap<u32, Claim>,
    /// Streams by the channels of their publications and subscriptions.
    pub(super) by_channel: FxHashMap<u32, usize>,
    next_channel: u32,
    pub(super) next_generation: u64,
    batch: Batch,
    pub(super) counts: Counts,
    /// Of sessions and bridges that ended.
    pub(super) gone: Totals,
    /// Identifiers and tokens of sessions that ended lately.
    ended: VecDeque<(Instant, String, String)>,
}

impl State {
    pub(crate) fn new(identity: Identity, silent_for: Duration) -> Self {
        Self {
            identity,
            silent_for,
            sessions: Slab::new(),
            streams: Slab::new(),
            names: FxHashMap::default(),
            by_ufrag: FxHashMap::default(),
            by_address: FxHashMap::default(),
            timers: BTreeSet::new(),
            dirty: Vec::new(),
            to_hub: VecDeque::new(),
            wanted: VecDeque::new(),
            claims: FxHashMap::default(),
            by_channel: FxHashMap::default(),
            next_channel: 1,
            next_generation: 1,
            batch: Batch::default(),
            counts: Counts::default(),
            gone: Totals::default(),
            ended: VecDeque::new(),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The next thing that the hub is to be told.
    pub(crate) fn poll_hub(&mut self) -> Option<Record> {
        self.to_hub.pop_front()
    }

    /// A channel to the hub that is not in use.
    pub(super) fn channel(&mut self) -> u32 {
        let channel = self.next_channel;
        self.next_channel = self.next_channel.checked_add(1).unwrap_or(1);
        channel
    }

    /// The stream of a name, made where there is none.
    pub(super) fn stream(&mut self, name: &StreamName) -> usize {
        if let Some(at) = self.names.get(name) {
            return *at;
        }
        let at = self.streams.insert(Stream::new(name.clone()));
        self.names.insert(name.clone(), at);
        at
    }

    pub(super) fn stream_of(&self, name: &StreamName) -> Option<&Stream> {
        self.streams.get(*self.names.get(name)?)
    }

    /// Whether a path leads to a session.
    pub(super) fn knows(&self, path: Path) -> bool {
        self.by_address.contains_key(&path.peer())
    }

    /// Whether the name of a session is free.
    pub(super) fn is_free(&self, ufrag: &str) -> bool {
        !self.by_ufrag.contains_key(ufrag.as_bytes())
    }

    /// Takes a session in that was negotiated.
    pub(super) fn add(&mut self, mut session: Session, now: Instant) -> usize {
        match session.role {
            Role::Publisher(_) => self.counts.publishers += 1,
            Role::Player(_) => self.counts.players += 1,
        }
        session.number = self.counts.publishers + self.counts.players;
        let ufrag = session.ufrag.as_bytes().into();
        let at = self.sessions.insert(session);
        self.by_ufrag.insert(ufrag, at);
        self.arm(at, now);
        at
    }

    /// The session of an identifier.
    pub(super) fn find(&self, id: &str) -> Option<usize> {
        let (ufrag, remote) = id.split_once(':')?;
        let at = *self.by_ufrag.get(ufrag.as_bytes())?;
        (self.sessions.get(at)?.remote_ufrag == remote).then_some(at)
    }

    /// The token of a session that ended lately.
    pub(super) fn ended(&self, id: &str) -> Option<&str> {
        self.ended.iter().rev().find(|(_, ended, _)| ended == id).map(|(.., token)| token.as_str())
    }

    /// A datagram. It may be overwritten.
    pub(crate) fn datagram(&mut self, now: Instant, path: Path, packet: &mut [u8], wire: &dyn Wire) {
        let at = match packet.first() {
            _ if is_stun(packet) => self.check(now, path, packet, wire),
            // RFC 7983 7.
            Some(20..=63) => self.dtls(now, path, packet, wire),
            Some(128..=191) => self.media(now, path, packet, wire),
            _ => None,
        };
        match at {
            Some(at) => self.arm(at, now),
            None => self.counts.strays += 1,
        }
    }

    /// A connectivity check.
    fn check(&mut self, now: Instant, path: Path, packet: &[u8], wire: &dyn Wire) -> Option<usize> {
        let check = Check::parse(packet).ok()?;
        let at = *self.by_ufrag.get(check.local)?;
        let session = self.sessions.get_mut(at)?;
        if check.remote != session.remote_ufrag.as_bytes() || !check.verify(&session.password) {
            session.forged += 1;
            self.counts.forged += 1;
            return None;
        }
        if check.controlled {
            wire.send(path, &check.role_conflict(&session.password));
            return Some(at);
        }
        // Who has a session could else take another's address by pretending to send from there.
        let other = self.by_address.get(&path.peer()).copied().filter(|other| *other != at);
        if let Some(other) = other.and_then(|other| self.sessions.get(other))
            && now.saturating_duration_since(other.heard) < ADDRESS_KEPT
        {
            return None;
        }
        let session = self.sessions.get_mut(at)?;
        wire.send(path, &check.success(path.peer, &session.password));
        session.heard = now;
        let change = session.paths.verified(path, check.use_candidate);
        if change.added {
            self.by_address.insert(path.peer(), at);
        }
        if let Some(forgotten) = change.forgotten
            && self.by_address.get(&forgotten.peer()) == Some(&at)
        {
            self.by_address.remove(&forgotten.peer());
            wire.forget(forgotten);
        }
        if change.selected {
            debug!(session = session.ufrag, peer = %path.peer, "rtc: the peer is reached here");
            self.send_dtls(at, wire);
        }
        Some(at)
    }

    /// DTLS of a peer whose address was verified; of any other it is a stranger's.
    fn dtls(&mut self, now: Instant, path: Path, packet: &[u8], wire: &dyn Wire) -> Option<usize> {
        let at = *self.by_address.get(&path.peer())?;
        let session = self.sessions.get_mut(at)?;
        let dtls = session.dtls.get_or_insert_with(Dtls::server);
        let result = dtls.handle(&self.identity, now, packet);
        self.send_dtls(at, wire);
        match result {
            Ok(events) => {
                for event in events {
                    match event {
                        Event::Established { keys, certificate } => {
                            let (protect, unprotect) = *keys;
                            self.established(now, at, Keys { protect, unprotect }, &certificate, wire);
                        }
                        Event::Closed => self.close(now, at, "the peer closed it", wire),
                    }
                }
            }
            Err(failed) if self.sessions.get(at)?.keys.is_none() => {
                self.counts.failed += 1;
                self.close(now, at, &failed.to_string(), wire);
            }
            // What is not authentic does no harm to a connection that stands.
            Err(_) => self.counts.forged += 1,
        }
        Some(at)
    }

    fn send_dtls(&mut self, at: usize, wire: &dyn Wire) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        let (Some(path), Some(dtls)) = (session.paths.selected(), &mut session.dtls) else { return };
        while let Some(datagram) = dtls.poll() {
            wire.send(path, &datagram);
        }
    }

    fn established(&mut self, now: Instant, at: usize, keys: Keys, certificate: &[u8], wire: &dyn Wire) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        if !session.fingerprint.fits(certificate) {
            self.counts.failed += 1;
            warn!(session = session.ufrag, "rtc: the certificate is not the one that was announced");
            return self.close(now, at, "wrong certificate", wire);
        }
        session.keys = Some(keys);
        session.heard = now;
        let took = now.saturating_duration_since(session.opened);
        info!(session = session.ufrag, kind = session.kind(), took_ms = took.as_millis() as u64, "rtc: connected");
        let stream = session.stream;
        let Some(of) = self.streams.get_mut(stream) else { return };
        match session.role {
            Role::Publisher(_) => of.want_keyframe(),
            Role::Player(_) => of.players.push(at),
        }
        self.touch(stream);
    }

    /// RTP or RTCP.
    fn media(&mut self, now: Instant, path: Path, packet: &mut [u8], wire: &dyn Wire) -> Option<usize> {
        let at = *self.by_address.get(&path.peer())?;
        let session = self.sessions.get_mut(at)?;
        let keys = session.keys.as_mut()?;
        // Packet types 192 to 223 are RTCP's (RFC 5761 4).
        if packet.get(1).is_some_and(|kind| (192..=223).contains(kind)) {
            let Ok(length) = keys.unprotect.rtcp(packet) else {
                session.forged += 1;
                self.counts.forged += 1;
                return None;
            };
            (session.heard, session.proven) = (now, true);
            self.feedback(now, at, packet.get(..length)?, wire);
            return Some(at);
        }
        let header = Header::parse(packet).ok()?;
        let Ok((length, index)) = keys.unprotect.rtp(&header, packet) else {
            session.forged += 1;
            self.counts.forged += 1;
            return None;
        };
        (session.heard, session.proven) = (now, true);
        let Role::Publisher(publisher) = &mut session.role else { return Some(at) };
        let Some(taken) = publisher.rtp(now, &header, index, packet.get(..length)?) else { return Some(at) };
        let stream = session.stream;
        let of = self.streams.get_mut(stream)?;
        if taken.fresh {
            let track = of.track(taken.media, taken.layer)?.successor(self.next_generation);
            of.set_track(track);
            self.next_generation += 1;
        }
        let bridged = of.outward.is_some().then(|| taken.packet.clone());
        let track = of.track(taken.media, taken.layer)?;
        let generation = track.generation;
        if track.push(taken.packet) {
            self.touch(stream);
            if let Some(packet) = bridged {
                self.outward(now, stream, generation, &packet);
            }
        }
        Some(at)
    }

    fn feedback(&mut self, now: Instant, at: usize, compound: &[u8], wire: &dyn Wire) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        let Some(stream) = self.streams.get_mut(session.stream) else { return };
        let (Some(path), Some(keys)) = (session.paths.selected(), &session.keys) else { return };
        self.batch.clear();
        let mut gone = false;
        for packet in rtcp::parse(compound) {
            gone |= matches!(packet, rtcp::Packet::Bye { .. });
            match &mut session.role {
                Role::Publisher(publisher) => {
                    if let Some((generation, ntp, timestamp)) = publisher.feedback(packet, &mut stream.tracks, now) {
                        stream.outward_report(generation, ntp, timestamp);
                    }
                }
                Role::Player(player) => {
                    player.feedback(packet, &stream.tracks, now, &keys.protect, &mut self.batch);
                }
            }
        }
        if !self.batch.lengths.is_empty() {
            wire.send_all(path, &self.batch.bytes, &self.batch.lengths);
        }
        let stream = session.stream;
        self.ask(now, stream, wire);
        if gone {
            self.close(now, at, "the peer said goodbye", wire);
        }
    }

    /// Asks the source for the key frames that somebody wants and that it was not asked for just now.
    pub(super) fn ask(&mut self, now: Instant, stream: usize, wire: &dyn Wire) {
        let Some(of) = self.streams.get_mut(stream) else { return };
        let Source::Session(at) = of.source else { return };
        let Some(session) = self.sessions.get_mut(at) else { return };
        for track in of.tracks.iter_mut().flatten() {
            if track.ask(now)
                && let Role::Publisher(publisher) = &mut session.role
                && let Some(packet) = publisher.ask(track.layer)
            {
                send_rtcp(session, packet, wire);
            }
        }
    }

    pub(super) fn touch(&mut self, stream: usize) {
        if let Some(of) = self.streams.get_mut(stream)
            && !std::mem::replace(&mut of.dirty, true)
        {
            self.dirty.push(stream);
        }
    }

    /// Sends players what came since the last time. To be called behind each batch of datagrams or frames.
    pub(crate) fn flush(&mut self, now: Instant, wire: &dyn Wire) {
        while let Some(at) = self.dirty.pop() {
            let Some(stream) = self.streams.get_mut(at) else { continue };
            stream.dirty = false;
            for player in &stream.players {
                let Some(session) = self.sessions.get_mut(*player) else { continue };
                let (Some(path), Some(keys)) = (session.paths.selected(), &session.keys) else { continue };
                let Role::Player(player) = &mut session.role else { continue };
                self.batch.clear();
                player.fill(&stream.tracks, now, &keys.protect, &mut self.batch);
                if !self.batch.lengths.is_empty() {
                    wire.send_all(path, &self.batch.bytes, &self.batch.lengths);
                }
            }
            self.ask(now, at, wire);
        }
    }

    /// The first time that something is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does what is due.
    pub(crate) fn timeout(&mut self, now: Instant, wire: &dyn Wire) {
        while let Some(&(due, at)) = self.timers.first() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            if let Some(session) = self.sessions.get_mut(at) {
                session.armed = None;
                self.session_due(now, at, wire);
                // Whatever is still due then must not keep others from their turn.
                self.arm(at, now + TURN);
            }
        }
    }

    fn session_due(&mut self, now: Instant, at: usize, wire: &dyn Wire) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        if session.gives_up(self.silent_for) <= now {
            let why = if session.keys.is_some() { "nothing heard" } else { "it was never reached" };
            self.counts.failed += u64::from(session.keys.is_none());
            return self.close(now, at, why, wire);
        }
        if let Some(dtls) = &mut session.dtls {
            dtls.timeout(now);
            if session.proven {
                dtls.settle();
            }
        }
        self.send_dtls(at, wire);
        let Some(session) = self.sessions.get_mut(at) else { return };
        let Some(stream) = self.streams.get_mut(session.stream) else { return };
        if session.keys.is_none() {
            return;
        }
        let packets = match &mut session.role {
            Role::Player(player) => player.reports(&stream.tracks, now).into_iter().collect(),
            Role::Publisher(publisher) => {
                let (packets, lost) = publisher.reports(now);
                if lost {
                    stream.want_keyframe();
                }
                packets
            }
        };
        for packet in packets {
            send_rtcp(session, packet, wire);
        }
        let stream = session.stream;
        if let Role::Publisher(_) = session.role {
            self.outward_due(now, stream);
        }
        self.ask(now, stream, wire);
    }

    /// Notes when a session's turn is: when something is due, but not before `first`.
    fn arm(&mut self, at: usize, first: Instant) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        let mut due = session.deadline(self.silent_for).max(first);
        // Before it is connected there is nobody to ask, and nothing that could be done by asking for a turn.
        if let Role::Publisher(_) = session.role
            && session.keys.is_some()
            && let Some(stream) = self.streams.get(session.stream)
        {
            let asks = stream.tracks.iter().flatten().filter_map(Track::ask_at);
            if let Some(at) = asks.chain(stream.outward_deadline()).min() {
                due = due.min(at.max(first));
            }
        }
        if session.armed.is_none_or(|armed| due < armed) {
            if let Some(armed) = session.armed.replace(due) {
                self.timers.remove(&(armed, at));
            }
            self.timers.insert((due, at));
        }
    }

    /// Ends a session.
    pub(crate) fn close(&mut self, now: Instant, at: usize, why: &str, wire: &dyn Wire) {
        let Some(mut session) = self.sessions.try_remove(at) else { return };
        info!(session = session.ufrag, kind = session.kind(), reason = why, "rtc: session ended");
        if session.keys.is_some() {
            let bye = match &session.role {
                Role::Player(player) => player.goodbye(),
                Role::Publisher(publisher) => publisher.goodbye(),
            };
            send_rtcp(&mut session, bye, wire);
        }
        if let (Some(path), Some(dtls)) = (session.paths.selected(), &mut session.dtls) {
            dtls.close(&self.identity, now);
            while let Some(datagram) = dtls.poll() {
                wire.send(path, &datagram);
            }
        }
        if let Some(armed) = session.armed {
            self.timers.remove(&(armed, at));
        }
        self.by_ufrag.remove(session.ufrag.as_bytes());
        // Callbacks are told.
        drop(session.farewell.take());
        self.gone.add(&session);
        if let Some(stream) = self.streams.get_mut(session.stream) {
            stream.sent += session.moved().1;
        }
        // A client that closes its connection and then says so by HTTP is right, not late.
        while self.ended.front().is_some_and(|(at, ..)| now.saturating_duration_since(*at) > ENDED_KEPT)
            || self.ended.len() >= ENDED_MAX
        {
            self.ended.pop_front();
        }
        self.ended.push_back((now, session.id(), std::mem::take(&mut session.token)));
        for path in session.paths.known() {
            if self.by_address.get(&path.peer()) == Some(&at) {
                self.by_address.remove(&path.peer());
                wire.forget(path);
            }
        }
        self.leave(at, session.stream, matches!(session.role, Role::Player(_)));
    }

    fn leave(&mut self, at: usize, stream: usize, plays: bool) {
        let Some(of) = self.streams.get_mut(stream) else { return };
        of.players.retain(|player| *player != at);
        of.waiting -= usize::from(plays);
        if of.source == Source::Session(at) {
            of.source = Source::None;
            of.close_bridges(&mut self.gone);
            of.clear_tracks();
            if let Some(Publication { channel, .. }) = of.publication.take() {
                self.by_channel.remove(&channel);
                self.to_hub.push_back(Record::Close { channel });
            }
        }
        self.attend(stream);
        self.forget_unused(stream);
    }

    pub(super) fn forget_unused(&mut self, stream: usize) {
        if self.streams.get(stream).is_some_and(Stream::is_unused) {
            let mut of = self.streams.remove(stream);
            of.close_bridges(&mut self.gone);
            if let Some(channel) = of.subscription {
                self.by_channel.remove(&channel);
                self.to_hub.push_back(Record::Close { channel });
            }
            self.names.remove(&of.name);
        }
    }

    /// Something that the hub told.
    pub(crate) fn hear(&mut self, now: Instant, told: FromHub, wire: &dyn Wire) {
        match told {
            FromHub::Record(Record::Claimed { channel, first, base }) => {
                self.claims.insert(channel, Ok((first, base)));
            }
            FromHub::Record(Record::Refused { channel, refusal, reason }) => {
                match self.by_channel.get(&channel).and_then(|at| self.streams.get(*at)) {
                    Some(stream) if stream.publication.is_some_and(|publication| publication.channel == channel) => {
                        if let Source::Session(at) = stream.source {
                            self.close(now, at, &reason, wire);
                        }
                    }
                    _ => {
                        self.claims.insert(channel, Err((refusal, reason)));
                    }
                }
            }
            FromHub::Record(Record::Idle { channel }) => self.idle(channel),
            FromHub::Record(_) => {}
            FromHub::Frame { channel, frame } => self.frame(now, channel, &frame),
            FromHub::Changed { name, subscribers } => {
                if let Some(at) = self.names.get(&name).copied() {
                    self.listened(now, at, subscribers, wire);
                }
            }
        }
    }

    /// The answer to a claim that was told to the hub.
    pub(super) fn claimed(&mut self, channel: u32) -> Option<Claim> {
        self.claims.remove(&channel)
    }

    /// Ends all sessions.
    pub(crate) fn close_all(&mut self, now: Instant, why: &str, wire: &dyn Wire) {
        let all: Vec<usize> = self.sessions.iter().map(|(at, _)| at).collect();
        for at in all {
            self.close(now, at, why, wire);
        }
    }

    /// A session plays a stream, or will as soon as it is connected.
    pub(super) fn plays(&mut self, stream: usize, wishes: Wishes) {
        if let Some(of) = self.streams.get_mut(stream) {
            of.waiting += 1;
            of.wishes = Some(wishes);
            self.attend(stream);
        }
    }

    /// The tracks that a publisher's packets go to.
    pub(super) fn publish(&mut self, stream: usize, at: usize, publication: Option<Publication>, wishes: Wishes) {
        let Some(session) = self.sessions.get(at) else { return };
        let Some(of) = self.streams.get_mut(stream) else { return };
        of.source = Source::Session(at);
        of.publication = publication;
        of.wishes = Some(wishes);
        of.close_bridges(&mut self.gone);
        of.clear_tracks();
        if let Some(Publication { channel, .. }) = publication {
            self.by_channel.insert(channel, stream);
        }
        if let Role::Publisher(publisher) = &session.role {
            for (codec, layer) in publisher.tracks() {
                of.set_track(Track::new(self.next_generation, codec, layer));
                self.next_generation += 1;
            }
        }
        self.attend(stream);
    }
}

fn send_rtcp(session: &mut Session, mut packet: Vec<u8>, wire: &dyn Wire) {
    let (Some(path), Some(keys)) = (session.paths.selected(), &mut session.keys) else { return };
    if keys.protect.rtcp(&mut packet).is_ok() {
        wire.send(path, &packet);
    }
}
