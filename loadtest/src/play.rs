//! `play`: many players, each of which reads its stream and looks at it.

use weir_media::Kind;
use weir_media::flv::TagInfo;

use crate::clock::{MILLISECOND, SECOND};
use crate::conn;
use crate::drive::{Load, Outcome};
use crate::flow::{Flow, Flows};
use crate::histogram::Histogram;
use crate::net::{Handler, Net, Reason, Wire};
use crate::report::Report;
use crate::stamp;
use crate::tally::Tally;
use crate::target::Target;

/// Video that goes on so many milliseconds later than it stopped has skipped something.
const SKIP_MS: u32 = 1000;
/// Between the reads of slow players.
const SLOW_READ_EVERY: u64 = 20 * MILLISECOND;
/// What a slow player may make up for at once.
const SLOW_BURST: u64 = 200 * MILLISECOND;
/// Receive buffer of a slow player in bytes, so that its slowness reaches the server soon.
const SLOW_BUFFER: usize = 8192;

/// What to play.
pub(crate) struct Options {
    /// Where.
    pub(crate) target: Target,
    /// Players.
    pub(crate) players: usize,
    /// Streams that they share; 0 for one each.
    pub(crate) streams: usize,
    /// So many of the players are slow.
    pub(crate) slow: usize,
    /// What a slow one reads.
    pub(crate) slow_kbps: u64,
    /// A silence longer than this is a gap, nanoseconds.
    pub(crate) gap: u64,
}

/// The players together.
pub(crate) struct Play {
    options: Options,
    tally: Tally,
    stats: Stats,
    flows: Flows,
    slow_ok: u64,
    slow_closed: u64,
    slow_tokens: Vec<usize>,
    next_slow_read: u64,
}

/// What the streams say.
#[derive(Default)]
struct Stats {
    steady: bool,
    messages: u64,
    skips: u64,
    slow_skips: u64,
    first_byte: Histogram,
    first_key: Histogram,
    latency: Histogram,
}

/// One player.
pub(crate) struct Player {
    session: conn::Player,
    seen: Seen,
    flow: Flow,
    meter: Option<Meter>,
}

/// What one player has seen of its stream.
struct Seen {
    opened: u64,
    begun: bool,
    key: bool,
    video: Option<u32>,
    slow: bool,
}

/// What a slow player may read.
struct Meter {
    bytes_per_second: u64,
    /// Up to when it has used its share; 0 while it has not begun.
    used_until: u64,
}

impl Meter {
    fn allowance(&mut self, now: u64) -> usize {
        if self.used_until == 0 {
            return usize::MAX;
        }
        self.used_until = self.used_until.max(now.saturating_sub(SLOW_BURST));
        let bytes = u128::from(now.saturating_sub(self.used_until)) * u128::from(self.bytes_per_second);
        usize::try_from(bytes / u128::from(SECOND)).unwrap_or(usize::MAX)
    }

    fn take(&mut self, bytes: usize, now: u64) {
        if self.used_until == 0 {
            self.used_until = now;
        }
        self.used_until += bytes as u64 * SECOND / self.bytes_per_second.max(1);
    }
}

impl Play {
    /// Players that are yet to be opened.
    pub(crate) fn new(options: Options) -> Self {
        Self {
            tally: Tally::new(options.players),
            flows: Flows::new(options.gap),
            options,
            stats: Stats::default(),
            slow_ok: 0,
            slow_closed: 0,
            slow_tokens: Vec::new(),
            next_slow_read: 0,
        }
    }
}

impl Stats {
    fn media(&mut self, seen: &mut Seen, media: &conn::Media<'_>, now: u64) {
        // Servers send data of their own before there is a stream.
        if media.kind == Kind::Data {
            return;
        }
        let since_opened = now.saturating_sub(seen.opened);
        if !seen.begun {
            seen.begun = true;
            self.first_byte.add(since_opened);
        }
        self.messages += u64::from(self.steady);
        if media.kind != Kind::Video {
            return;
        }
        let info = TagInfo::parse(media.kind, media.body);
        if info.config {
            return;
        }
        if info.keyframe && !seen.key {
            seen.key = true;
            self.first_key.add(since_opened);
        }
        // Going back in time is what a new publication does.
        let step = seen.video.replace(media.timestamp).map_or(0, |last| media.timestamp.wrapping_sub(last));
        if !self.steady {
            return;
        }
        if (SKIP_MS + 1..u32::MAX / 2).contains(&step) {
            *if seen.slow { &mut self.slow_skips } else { &mut self.skips } += 1;
        }
        if !seen.slow
            && let Some(sent) = stamp::find(media.body)
        {
            self.latency.add(now.saturating_sub(sent));
        }
    }
}

impl Handler for Play {
    type Conn = Player;

    fn open(&mut self, index: usize, token: usize, now: u64) -> Player {
        let Options { target, players, streams, slow, slow_kbps, .. } = &self.options;
        let number = index.checked_rem(*streams).unwrap_or(index);
        // The slow ones are spread evenly among the others.
        let slow = (index * slow) % (*players).max(1) < *slow;
        if slow {
            self.slow_tokens.push(token);
        }
        Player {
            session: conn::Player::new(target, number),
            seen: Seen { opened: now, begun: false, key: false, video: None, slow },
            flow: Flow::default(),
            meter: slow.then(|| Meter { bytes_per_second: slow_kbps * 125, used_until: 0 }),
        }
    }

    fn receive_buffer(&self, player: &Player) -> Option<usize> {
        player.meter.as_ref().map(|_| SLOW_BUFFER)
    }

    fn connected(&mut self, player: &mut Player, wire: &mut Wire, _now: u64) -> Result<(), Reason> {
        player.session.connected(wire)
    }

    fn allowance(&mut self, player: &mut Player, now: u64) -> usize {
        player.meter.as_mut().map_or(usize::MAX, |meter| meter.allowance(now))
    }

    fn received(&mut self, player: &mut Player, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason> {
        match &mut player.meter {
            None => self.flows.add_watched(&mut player.flow, bytes.len() as u64, now),
            Some(meter) => {
                self.flows.add(&mut player.flow, bytes.len() as u64, now);
                if player.seen.begun {
                    meter.take(bytes.len(), now);
                }
            }
        }
        let (stats, seen) = (&mut self.stats, &mut player.seen);
        let begun = seen.begun;
        let done = player.session.received(wire, bytes, |media| stats.media(seen, &media, now));
        self.tally.begun += u64::from(seen.begun && !begun);
        done
    }

    fn closed(&mut self, player: Player, _now: u64, reason: &Reason) {
        self.flows.closed(&player.flow);
        if player.seen.slow && player.seen.begun {
            self.slow_closed += 1;
            self.tally.remember("slow closed", reason);
        } else {
            self.tally.lost(player.seen.begun, reason);
        }
    }
}

impl Load for Play {
    fn settled(&self) -> usize {
        self.tally.settled()
    }

    fn begun(&self, player: &Player) -> bool {
        player.seen.begun
    }

    fn opened(&self, player: &Player) -> u64 {
        player.seen.opened
    }

    fn steady(&mut self, net: &mut Net<Player>, now: u64) {
        self.stats.steady = true;
        self.flows.steady(net.conns().map(|player| &mut player.flow), now);
    }

    fn finish(&mut self, net: &mut Net<Player>, now: u64) {
        self.flows.finish(now);
        for player in net.conns() {
            match (player.seen.begun, player.seen.slow) {
                (false, _) => self.tally.failed += 1,
                (true, true) => self.slow_ok += 1,
                (true, false) => {
                    self.tally.ok += 1;
                    self.flows.last(&mut player.flow, now, true);
                }
            }
        }
    }

    fn tick(&mut self, net: &mut Net<Player>, now: u64) -> u64 {
        if self.options.slow == 0 {
            return u64::MAX;
        }
        if now >= self.next_slow_read {
            self.next_slow_read = now + SLOW_READ_EVERY;
            let tokens = std::mem::take(&mut self.slow_tokens);
            for token in &tokens {
                net.read(self, *token, false);
            }
            self.slow_tokens = tokens;
        }
        self.next_slow_read
    }

    fn bytes(&self) -> u64 {
        self.flows.bytes()
    }

    fn live(&self) -> String {
        let slow = if self.options.slow > 0 { format!(", {} slow closed", self.slow_closed) } else { String::new() };
        format!("{}, {} gaps{slow}", self.tally.live(), self.flows.gaps())
    }

    fn report(&self, outcome: &Outcome) -> Report {
        let mut report = Report::default();
        self.tally.report(&mut report);
        report.count("slow_ok", self.slow_ok);
        report.count("slow_closed", self.slow_closed);
        report.count("slow_skips", self.stats.slow_skips);
        self.flows.report_rates(&mut report);
        report.count("messages", self.stats.messages);
        self.flows.report_gaps(&mut report);
        report.count("skips", self.stats.skips);
        let Stats { first_byte, first_key, latency, .. } = &self.stats;
        report.percentiles(["first_byte_p50_ms", "first_byte_p90_ms", "first_byte_p99_ms"], first_byte);
        report.percentiles(["first_key_p50_ms", "first_key_p90_ms", "first_key_p99_ms"], first_key);
        report.percentiles(["latency_p50_ms", "latency_p90_ms", "latency_p99_ms"], latency);
        outcome.report(&mut report);
        report
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        self.tally.reasons()
    }
}
