//! Numbers of this worker: gauges of this moment, and counters of its whole life. Plain cells; nothing is shared.
//!
//! A new one is a cell here and a line in [`snapshot`]; see [`weir_proto::metrics`] for its name.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use rustc_hash::FxHashMap;
use weir_media::{Kind, StreamName};
use weir_proto::metrics::{OTHER, Observed, PAIRS_MAX, busier, families};
use weir_proto::supervisor::{Snapshot, StreamFigures};
use weir_wire::relay::Refusal;

use crate::fanout::Format;
use crate::hub::Hub;
use crate::publish::Ended;
use crate::serve::Signaled;

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Rtmp,
    HttpFlv,
}

impl Protocol {
    const ALL: [Self; 2] = [Self::Rtmp, Self::HttpFlv];

    fn as_str(self) -> &'static str {
        match self {
            Self::Rtmp => "rtmp",
            Self::HttpFlv => "http_flv",
        }
    }
}

impl From<Format> for Protocol {
    fn from(format: Format) -> Self {
        match format {
            Format::Rtmp { .. } => Self::Rtmp,
            Format::Flv => Self::HttpFlv,
        }
    }
}

/// One number for each protocol.
#[derive(Debug, Default)]
pub(crate) struct ByProtocol<T> {
    rtmp: T,
    http_flv: T,
}

impl<T> ByProtocol<T> {
    pub(crate) fn of(&self, protocol: Protocol) -> &T {
        match protocol {
            Protocol::Rtmp => &self.rtmp,
            Protocol::HttpFlv => &self.http_flv,
        }
    }
}

/// Sessions that are open, and how many were ever opened.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    open: Cell<u64>,
    opened: Cell<u64>,
}

impl Sessions {
    pub(crate) fn open(&self) -> u64 {
        self.open.get()
    }

    /// One more was opened; those that come from another process were counted there.
    pub(crate) fn opened(&self) {
        add(&self.opened, 1);
    }
}

/// Why somebody was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// More connections than `edge.connections`.
    Connections,
    /// The worker or its host is overloaded.
    Overload,
    /// The worker leaves.
    Draining,
    /// No such vhost, or the protocol is off in it.
    NoVhost,
    /// There is no origin.
    NoOrigin,
    /// The origin did not answer.
    Unreachable,
    /// Somebody else publishes it.
    Busy,
    /// A newer publication is known.
    Stale,
    /// The origin has too many streams.
    Full,
    /// The origin does not serve it, or is leaving.
    NotHere,
    /// Nobody published what was to be played over HTTP.
    NotPublished,
    /// Its address may not.
    Address,
    /// The page that it is in may not.
    Referer,
    /// It has no valid token.
    Token,
    /// As many as may be are there.
    Limit,
    /// A callback said no, or nothing.
    Callback,
}

impl Refused {
    const ALL: [(Self, &'static str); 16] = [
        (Self::Connections, "connections"),
        (Self::Overload, "overload"),
        (Self::Draining, "draining"),
        (Self::NoVhost, "no_vhost"),
        (Self::NoOrigin, "no_origin"),
        (Self::Unreachable, "unreachable"),
        (Self::Busy, "busy"),
        (Self::Stale, "stale"),
        (Self::Full, "full"),
        (Self::NotHere, "not_here"),
        (Self::NotPublished, "not_published"),
        (Self::Address, "address"),
        (Self::Referer, "referer"),
        (Self::Token, "token"),
        (Self::Limit, "limit"),
        (Self::Callback, "callback"),
    ];
}

impl From<&Ended> for Refused {
    fn from(ended: &Ended) -> Self {
        match ended {
            Ended::Refused(Refusal::Busy | Refusal::TakenOver, _) => Self::Busy,
            Ended::Refused(Refusal::Stale, _) => Self::Stale,
            Ended::Refused(Refusal::Full, _) => Self::Full,
            Ended::Refused(Refusal::NotHere | Refusal::Closing, _) => Self::NotHere,
            Ended::Unreachable => Self::Unreachable,
        }
    }
}

/// Bytes of one vhost and app.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Media of publishers.
    pub(crate) received: ByProtocol<Cell<u64>>,
    /// Written to players.
    pub(crate) sent: ByProtocol<Cell<u64>>,
}

type Pair = (Box<str>, Box<str>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) connections: Cell<u64>,
    pub(crate) accepts: Cell<u64>,
    pub(crate) publishers: ByProtocol<Sessions>,
    pub(crate) players: ByProtocol<Sessions>,
    pub(crate) bytes_in: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
    /// Players moved forward to a newer group.
    pub(crate) skips: Cell<u64>,
    /// Players closed because they lagged too far behind.
    pub(crate) slow_closed: Cell<u64>,
    /// Clients that went on in another process, and those that tried and stayed.
    pub(crate) moved: Cell<u64>,
    pub(crate) stayed: Cell<u64>,
    /// Subscriptions at origins.
    pub(crate) pulls: Cell<u64>,
    /// Groups left out on the way from other hosts.
    pub(crate) relay_skips: Cell<u64>,
    pub(crate) frame_latency: Observed,
    pub(crate) signal: Signaled,
    frames: [Cell<u64>; 3],
    refused: [Cell<u64>; Refused::ALL.len()],
    first_frame: [Observed; 2],
    traffic: RefCell<FxHashMap<Pair, Rc<Traffic>>>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            connections: Cell::default(),
            accepts: Cell::default(),
            publishers: ByProtocol::default(),
            players: ByProtocol::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
            skips: Cell::default(),
            slow_closed: Cell::default(),
            moved: Cell::default(),
            stayed: Cell::default(),
            pulls: Cell::default(),
            relay_skips: Cell::default(),
            frame_latency: Observed::new(&families::FRAME_LATENCY),
            signal: Signaled::default(),
            frames: Default::default(),
            refused: Default::default(),
            first_frame: [Observed::new(&families::FIRST_FRAME), Observed::new(&families::FIRST_FRAME)],
            traffic: RefCell::default(),
        }
    }
}

impl Stats {
    /// Counts somebody who was refused.
    pub(crate) fn refuse(&self, why: Refused) {
        if let Some(count) = self.refused.get(why as usize) {
            add(count, 1);
        }
    }

    /// How often somebody was refused for that.
    pub(crate) fn refused(&self, why: Refused) -> u64 {
        self.refused.get(why as usize).map_or(0, Cell::get)
    }

    /// Counts a publisher's frame.
    pub(crate) fn frame(&self, kind: Kind) {
        let [video, audio, data] = &self.frames;
        let count = match kind {
            Kind::Video => video,
            Kind::Audio => audio,
            Kind::Data => data,
        };
        add(count, 1);
    }

    /// Sessions of all protocols that are open.
    pub(crate) fn open(sessions: &ByProtocol<Sessions>) -> u64 {
        Protocol::ALL.into_iter().map(|protocol| sessions.of(protocol).open()).sum()
    }

    fn first_frame(&self, protocol: Protocol) -> &Observed {
        let [rtmp, http_flv] = &self.first_frame;
        match protocol {
            Protocol::Rtmp => rtmp,
            Protocol::HttpFlv => http_flv,
        }
    }

    /// Where the bytes of a stream are counted. To be asked for once a stream, when it has media: clients choose
    /// the names of apps.
    pub(crate) fn traffic(&self, name: &StreamName) -> Rc<Traffic> {
        let mut pairs = self.traffic.borrow_mut();
        let pair = (name.vhost.clone(), name.app.clone());
        let told_apart = pairs.len() < PAIRS_MAX || pairs.contains_key(&pair);
        pairs.entry(if told_apart { pair } else { (OTHER.into(), OTHER.into()) }).or_default().clone()
    }

    /// Everything that only /metrics shows.
    fn counted(&self) -> Snapshot {
        let mut out = Snapshot::default();
        out.count(&families::ACCEPTS, &[], self.accepts.get());
        out.count(&families::RELAY_PULLS_BEGUN, &[], self.pulls.get());
        out.count(&families::RELAY_SKIPS, &[], self.relay_skips.get());
        out.count(&families::HANDOVER_SESSIONS, &["moved"], self.moved.get());
        out.count(&families::HANDOVER_SESSIONS, &["failed"], self.stayed.get());
        for (count, media) in self.frames.iter().zip(["video", "audio", "data"]) {
            out.count(&families::FRAMES, &["in", media], count.get());
        }
        for ((_, reason), count) in Refused::ALL.iter().zip(&self.refused) {
            out.count(&families::REFUSALS, &[reason], count.get());
        }
        self.signal.add_to(&mut out);
        for protocol in Protocol::ALL {
            let name = protocol.as_str();
            let kinds = [("publish", &self.publishers), ("play", &self.players)];
            // Nobody publishes over HTTP.
            for (kind, sessions) in
                kinds.into_iter().filter(|(kind, _)| (*kind, protocol) != ("publish", Protocol::HttpFlv))
            {
                let sessions = sessions.of(protocol);
                out.gauge(&families::SESSIONS, &[name, kind], sessions.open.get() as f64);
                out.count(&families::SESSIONS_OPENED, &[name, kind], sessions.opened.get());
            }
            let first_frame = self.first_frame(protocol);
            out.count(&families::JOINS, &[name], first_frame.get().count());
            out.observed(&[name], first_frame);
        }
        out.observed(&[], &self.frame_latency);
        for ((vhost, app), traffic) in &*self.traffic.borrow() {
            for protocol in Protocol::ALL {
                let labels: [&str; 3] = [vhost, app, protocol.as_str()];
                let received = traffic.received.of(protocol).get();
                if received > 0 {
                    out.count(&families::VHOST_RECEIVED_BYTES, &labels, received);
                }
                let sent = traffic.sent.of(protocol).get();
                if sent > 0 {
                    out.count(&families::VHOST_SENT_BYTES, &labels, sent);
                }
            }
        }
        out
    }
}

/// What this worker tells /metrics, beside its report.
pub(crate) fn snapshot(hub: &Hub) -> Snapshot {
    let now = Instant::now();
    let mut out = hub.stats().counted();
    hub.guard().callbacks().stats().fill(&mut out);
    out.gauge(&families::LOG_MEMORY, &[], hub.log_memory() as f64);
    out.gauge(&families::RELAY_LINKS, &[], hub.links().iter().filter(|link| link.is_up()).count() as f64);
    let wanted = hub.config().metrics.streams();
    let mut by_name: FxHashMap<StreamName, StreamFigures> = FxHashMap::default();
    let (mut pulled, mut unsteady) = (0, 0);
    hub.each_stream(|stream| {
        pulled += u32::from(stream.is_pulled());
        if wanted > 0 {
            by_name.entry(stream.name().clone()).or_default().players = stream.players();
        }
    });
    hub.each_publication(|publication| {
        let quality = publication.quality(now);
        unsteady += u32::from(quality.unsteady);
        if wanted > 0 {
            by_name.entry(publication.name().clone()).or_default().publisher = Some(quality.figures);
        }
    });
    out.gauge(&families::RELAY_PULLS, &[], f64::from(pulled));
    out.gauge(&families::UNSTEADY, &[], f64::from(unsteady));
    out.streams = by_name.into_iter().map(|(name, figures)| named(&name, figures)).collect();
    if out.streams.len() > wanted {
        out.streams.sort_by_key(|figures| std::cmp::Reverse(busier(figures)));
        out.streams.truncate(wanted);
    }
    out
}

fn named(name: &StreamName, figures: StreamFigures) -> StreamFigures {
    let StreamName { vhost, app, stream } = name;
    StreamFigures { vhost: vhost.to_string(), app: app.to_string(), stream: stream.to_string(), ..figures }
}

/// Adds to a counter.
pub(crate) fn add(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get().wrapping_add(n));
}

/// Counts one thing for as long as it lives.
pub(crate) struct Counted {
    stats: Rc<Stats>,
    which: fn(&Stats) -> &Cell<u64>,
}

impl Counted {
    pub(crate) fn new(stats: &Rc<Stats>, which: fn(&Stats) -> &Cell<u64>) -> Self {
        add(which(stats), 1);
        Self { stats: stats.clone(), which }
    }

    /// A client that publishes.
    pub(crate) fn publisher(stats: &Rc<Stats>) -> Self {
        Self::new(stats, |s| &s.publishers.rtmp.open)
    }

    /// A client that plays.
    pub(crate) fn player(stats: &Rc<Stats>, protocol: Protocol) -> Self {
        match protocol {
            Protocol::Rtmp => Self::new(stats, |s| &s.players.rtmp.open),
            Protocol::HttpFlv => Self::new(stats, |s| &s.players.http_flv.open),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let cell = (self.which)(&self.stats);
        cell.set(cell.get().saturating_sub(1));
    }
}

/// A player that waits for its first media.
#[derive(Debug)]
pub(crate) struct Awaited {
    stats: Rc<Stats>,
    protocol: Protocol,
    since: Instant,
}

impl Awaited {
    /// It waits from now on.
    pub(crate) fn new(stats: &Rc<Stats>, protocol: Protocol) -> Self {
        Self { stats: stats.clone(), protocol, since: Instant::now() }
    }

    /// It has come.
    pub(crate) fn came(self) {
        self.stats.first_frame(self.protocol).observe(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count() {
        let stats = Stats::default();
        for (place, (why, _)) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place);
            stats.refuse(why);
            assert_eq!(stats.refused(why), 1);
        }
    }

    #[test]
    fn apps_are_told_apart_up_to_a_limit() {
        let stats = Stats::default();
        for app in 0..PAIRS_MAX * 2 {
            let name = StreamName { vhost: "v".into(), app: app.to_string().into(), stream: "s".into() };
            add(stats.traffic(&name).sent.of(Protocol::HttpFlv), 1);
        }
        let snapshot = stats.counted();
        let sent: Vec<_> = snapshot.counters.iter().filter(|c| c.name == families::VHOST_SENT_BYTES.name).collect();
        assert_eq!(sent.len(), PAIRS_MAX + 1);
        let other = sent.iter().find(|c| c.labels == [OTHER, OTHER, "http_flv"]).unwrap();
        assert_eq!(other.value, PAIRS_MAX as u64);
    }

    #[test]
    fn sessions_are_open_while_they_live_and_opened_for_ever() {
        let stats: Rc<Stats> = Rc::default();
        let first = Counted::player(&stats, Protocol::HttpFlv);
        let second = Counted::player(&stats, Protocol::Rtmp);
        let publisher = Counted::publisher(&stats);
        stats.players.of(Protocol::HttpFlv).opened();
        stats.players.of(Protocol::Rtmp).opened();
        stats.publishers.of(Protocol::Rtmp).opened();
        assert_eq!((Stats::open(&stats.players), Stats::open(&stats.publishers)), (2, 1));
        drop((first, second, publisher));
        assert_eq!((Stats::open(&stats.players), Stats::open(&stats.publishers)), (0, 0));
        let opened = |protocol, kind| {
            let counters = stats.counted().counters;
            counters
                .iter()
                .find(|c| c.name == families::SESSIONS_OPENED.name && c.labels == [protocol, kind])
                .unwrap()
                .value
        };
        assert_eq!([opened("rtmp", "play"), opened("rtmp", "publish"), opened("http_flv", "play")], [1, 1, 1]);
    }

    #[test]
    fn a_first_frame_is_a_join() {
        let stats: Rc<Stats> = Rc::default();
        Awaited::new(&stats, Protocol::HttpFlv).came();
        drop(Awaited::new(&stats, Protocol::HttpFlv));
        assert_eq!(stats.first_frame(Protocol::HttpFlv).get().count(), 1);
        assert_eq!(stats.first_frame(Protocol::Rtmp).get().count(), 0);
    }
}
