//! `rtc-play`: many players, each of which receives its stream over a UDP socket of its own and looks at it.

use std::net::SocketAddr;

use weir_wire::rtp::{Header, Media};

use super::receive::{Arrival, Receiver};
use super::rtcp::{self, Packet};
use super::session::{Common, Event, Session};
use super::{Error, Identity};
use crate::clock::{MILLISECOND, SECOND};
use crate::drive::{Load, Outcome};
use crate::flow::{Flow, Flows};
use crate::histogram::Histogram;
use crate::net::{Handler, Net, Reason, Wire};
use crate::report::Report;
use crate::stamp;
use crate::tally::Tally;
use crate::target::Target;

/// Each session is looked after so often.
const TICK: u64 = 20 * MILLISECOND;
/// Between two receiver reports.
const REPORT_EVERY: u64 = SECOND;
/// Between two requests for the first keyframe.
const KEYFRAME_EVERY: u64 = SECOND;
/// A picture that is later than the one before it by so many ticks has skipped something: a second.
const SKIP: u32 = 90_000;
/// SSRC of a player's reports.
const OWN: u32 = 1;

/// What to play.
pub(crate) struct Options {
    /// Where.
    pub(crate) target: Target,
    /// Players.
    pub(crate) players: usize,
    /// Streams that they share; 0 for one each.
    pub(crate) streams: usize,
    /// A silence longer than this is a gap, nanoseconds.
    pub(crate) gap: u64,
    /// Where media comes from, whatever the answer says.
    pub(crate) candidate: Option<SocketAddr>,
}

/// The players together.
pub(crate) struct Play {
    common: Common,
    streams: usize,
    tally: Tally,
    flows: Flows,
    stats: Stats,
    next_tick: u64,
}

#[derive(Default)]
struct Stats {
    steady: bool,
    packets: u64,
    lost: u64,
    late: u64,
    recovered: u64,
    duplicates: u64,
    nacks: u64,
    frames: u64,
    keyframes: u64,
    skips: u64,
    bad: u64,
    connect: Histogram,
    first_packet: Histogram,
    first_key: Histogram,
    latency: Histogram,
    jitter: Histogram,
}

/// One player.
pub(crate) struct Player {
    session: Session,
    opened: u64,
    begun: bool,
    key: bool,
    flow: Flow,
    audio: Option<Receiver>,
    video: Option<Receiver>,
    /// Timestamp of the newest picture.
    picture: Option<u32>,
    next_report: u64,
    next_keyframe: u64,
}

impl Play {
    /// Players that are yet to be opened.
    ///
    /// # Errors
    /// No certificate can be made.
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        let Options { target, players, streams, gap, candidate } = options;
        Ok(Self {
            common: Common { identity: Identity::new()?, target, candidate },
            streams,
            tally: Tally::new(players),
            flows: Flows::new(gap),
            stats: Stats::default(),
            next_tick: 0,
        })
    }
}

/// Whether a keyframe begins in this payload (RFC 6184 5.4): a sequence parameter set or a slice of an IDR picture.
fn begins_keyframe(payload: &[u8]) -> bool {
    let key = |header: u8| matches!(header & 0x1f, 5 | 7);
    match payload {
        [stap, _, _, first, ..] if stap & 0x1f == 24 => key(*first),
        [fu, header, ..] if fu & 0x1f == 28 => header & 0x80 != 0 && key(*header),
        [header, ..] => key(*header),
        [] => false,
    }
}

impl Player {
    /// The medium of a payload type, and whether it is one of repeated packets.
    fn medium(&self, kind: u8) -> Option<(Media, bool)> {
        let of = |types: Option<super::sdp::Types>, media| {
            let types = types?;
            let repeated = types.repair == Some(kind);
            (repeated || types.media == kind).then_some((media, repeated))
        };
        of(self.session.video, Media::Video).or_else(|| of(self.session.audio, Media::Audio))
    }

    fn receiver(&mut self, media: Media, header: &Header, index: u64) -> &mut Receiver {
        let (place, clock) = match media {
            Media::Audio => (&mut self.audio, 48_000),
            Media::Video => (&mut self.video, 90_000),
        };
        let fresh = || Receiver::new(header.ssrc, clock, index);
        let receiver = place.get_or_insert_with(fresh);
        // Another publisher, or a server that numbers anew.
        if receiver.ssrc != header.ssrc {
            *receiver = fresh();
        }
        receiver
    }

    fn rtp(&mut self, stats: &mut Stats, header: &Header, packet: &[u8], index: u64, now: u64) {
        let Some((media, repeated)) = self.medium(header.payload_type) else {
            stats.bad += u64::from(stats.steady);
            return;
        };
        let end = header.payload_end(packet).unwrap_or(packet.len());
        let payload = packet.get(header.payload..end).unwrap_or_default();
        let (arrival, payload) = if repeated {
            // Padding that probes for bandwidth has no payload.
            let Some((osn, payload)) = payload.split_first_chunk::<2>() else { return };
            let Some(receiver) = &mut self.video else { return };
            (receiver.repeated(u16::from_be_bytes(*osn), now), payload)
        } else {
            (self.receiver(media, header, index).packet(index, header.timestamp, now), payload)
        };
        if stats.steady {
            stats.packets += 1;
            match arrival {
                Arrival::Next => {}
                Arrival::Late => stats.late += 1,
                Arrival::Recovered => stats.recovered += 1,
                Arrival::Duplicate => stats.duplicates += 1,
            }
        }
        if media == Media::Video && arrival != Arrival::Duplicate {
            self.video(stats, header.timestamp, payload, now);
        }
    }

    fn video(&mut self, stats: &mut Stats, timestamp: u32, payload: &[u8], now: u64) {
        let step = self.picture.map_or(1, |last| timestamp.wrapping_sub(last));
        if (1..u32::MAX / 2).contains(&step) {
            self.picture = Some(timestamp);
            if stats.steady {
                stats.frames += 1;
                stats.skips += u64::from(step > SKIP);
            }
        }
        if begins_keyframe(payload) {
            stats.keyframes += u64::from(stats.steady);
            if !self.key {
                self.key = true;
                stats.first_key.add(now.saturating_sub(self.opened));
            }
        }
        if stats.steady
            && let Some(sent) = stamp::search(payload)
        {
            stats.latency.add(now.saturating_sub(sent));
        }
    }

    fn rtcp(&mut self, packet: &[u8], now: u64) {
        for one in rtcp::parse(packet) {
            if let Packet::Sender { ssrc, ntp } = one {
                let mut receivers = self.audio.iter_mut().chain(&mut self.video);
                if let Some(receiver) = receivers.find(|receiver| receiver.ssrc == ssrc) {
                    receiver.reported(ntp, now);
                }
            }
        }
    }

    /// Reports, and requests for what is missing.
    fn feedback(&mut self, stats: &mut Stats, wire: &mut Wire, now: u64) -> Result<(), Reason> {
        let mut packet = Vec::new();
        if now >= self.next_report {
            self.next_report = now + REPORT_EVERY;
            let receivers = self.audio.iter_mut().chain(&mut self.video);
            let blocks: Vec<_> = receivers.map(|receiver| receiver.block(now)).collect();
            rtcp::put_receiver(&mut packet, OWN, &blocks);
        }
        let mut lost = 0;
        if let Some(audio) = &mut self.audio {
            // Sound is not asked for again.
            audio.ask(now, &mut lost);
        }
        if let Some(video) = &mut self.video {
            let asked = video.ask(now, &mut lost);
            if !asked.is_empty() {
                stats.nacks += u64::from(stats.steady);
                rtcp::put_nack(&mut packet, OWN, video.ssrc, &asked);
            }
            if !self.key && now >= self.next_keyframe {
                self.next_keyframe = now + KEYFRAME_EVERY;
                rtcp::put_keyframe(&mut packet, OWN, video.ssrc);
            }
        }
        if stats.steady {
            stats.lost += lost;
        }
        if packet.is_empty() { Ok(()) } else { self.session.send_rtcp(wire, &mut packet) }
    }
}

impl Handler for Play {
    type Conn = Player;

    fn open(&mut self, index: usize, _token: usize, now: u64) -> Player {
        let number = index.checked_rem(self.streams).unwrap_or(index);
        Player {
            session: Session::new(number, None),
            opened: now,
            begun: false,
            key: false,
            flow: Flow::default(),
            audio: None,
            video: None,
            picture: None,
            next_report: 0,
            next_keyframe: now + KEYFRAME_EVERY,
        }
    }

    fn connected(&mut self, player: &mut Player, wire: &mut Wire, _now: u64) -> Result<(), Reason> {
        player.session.connected(&self.common, wire)
    }

    fn received(&mut self, player: &mut Player, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason> {
        player.session.received(&self.common, wire, now, bytes)
    }

    fn datagram(&mut self, player: &mut Player, wire: &mut Wire, now: u64, bytes: &mut [u8]) -> Result<(), Reason> {
        match player.session.datagram(&self.common, wire, now, bytes)? {
            Event::Nothing => {}
            Event::Opened => self.stats.connect.add(now.saturating_sub(player.opened)),
            Event::Rtcp(length) => player.rtcp(bytes.get(..length).unwrap_or_default(), now),
            Event::Rtp(header, length, index) => {
                self.flows.add_watched(&mut player.flow, bytes.len() as u64, now);
                if !player.begun {
                    player.begun = true;
                    self.tally.begun += 1;
                    self.stats.first_packet.add(now.saturating_sub(player.opened));
                }
                player.rtp(&mut self.stats, &header, bytes.get(..length).unwrap_or_default(), index, now);
            }
        }
        Ok(())
    }

    fn closed(&mut self, player: Player, _now: u64, reason: &Reason) {
        self.flows.closed(&player.flow);
        self.tally.lost(player.begun, reason);
    }
}

impl Load for Play {
    fn settled(&self) -> usize {
        self.tally.settled()
    }

    fn begun(&self, player: &Player) -> bool {
        player.begun
    }

    fn opened(&self, player: &Player) -> u64 {
        player.opened
    }

    fn steady(&mut self, net: &mut Net<Player>, now: u64) {
        self.stats.steady = true;
        self.flows.steady(net.conns().map(|player| &mut player.flow), now);
    }

    fn finish(&mut self, net: &mut Net<Player>, now: u64) {
        self.flows.finish(now);
        let tokens: Vec<usize> = net.entries().map(|(token, _)| token).collect();
        for token in tokens {
            net.with(self, token, |play, player, wire| {
                if player.begun {
                    play.tally.ok += 1;
                    play.flows.last(&mut player.flow, now, true);
                } else {
                    play.tally.failed += 1;
                }
                if let Some(receiver) = player.video.as_ref().or(player.audio.as_ref()) {
                    play.stats.jitter.add(receiver.jitter_ns());
                }
                play.stats.bad += player.session.bad;
                player.session.close(wire);
                Ok(())
            });
        }
    }

    fn tick(&mut self, net: &mut Net<Player>, now: u64) -> u64 {
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            let tokens: Vec<usize> = net.entries().map(|(token, _)| token).collect();
            for token in tokens {
                net.with(self, token, |play, player, wire| {
                    player.session.tick(&play.common, wire, now)?;
                    player.feedback(&mut play.stats, wire, now)
                });
            }
        }
        self.next_tick
    }

    fn bytes(&self) -> u64 {
        self.flows.bytes()
    }

    fn live(&self) -> String {
        format!("{}, {} gaps, {} lost packets", self.tally.live(), self.flows.gaps(), self.stats.lost)
    }

    fn report(&self, outcome: &Outcome) -> Report {
        let mut report = Report::default();
        self.tally.report(&mut report);
        self.flows.report_rates(&mut report);
        let stats = &self.stats;
        report.count("packets", stats.packets);
        report.count("frames", stats.frames);
        report.count("keyframes", stats.keyframes);
        self.flows.report_gaps(&mut report);
        report.count("skips", stats.skips);
        report.count("lost", stats.lost);
        report.count("overtaken", stats.late);
        report.count("recovered", stats.recovered);
        report.count("duplicates", stats.duplicates);
        report.count("bad", stats.bad);
        report.count("nacks", stats.nacks);
        report.percentiles(["connect_p50_ms", "connect_p90_ms", "connect_p99_ms"], &stats.connect);
        report.percentiles(["first_packet_p50_ms", "first_packet_p90_ms", "first_packet_p99_ms"], &stats.first_packet);
        report.percentiles(["first_key_p50_ms", "first_key_p90_ms", "first_key_p99_ms"], &stats.first_key);
        report.percentiles(["latency_p50_ms", "latency_p90_ms", "latency_p99_ms"], &stats.latency);
        report.percentiles(["jitter_p50_ms", "jitter_p90_ms", "jitter_p99_ms"], &stats.jitter);
        outcome.report(&mut report);
        report
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        self.tally.reasons()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_are_recognized() {
        for payload in [&[0x65, 1][..], &[0x67, 1], &[0x78, 0, 4, 0x67, 1], &[0x7c, 0x85, 1], &[0x7c, 0x87]] {
            assert!(begins_keyframe(payload), "{payload:?}");
        }
        for payload in [&[][..], &[0x41, 1], &[0x78, 0, 4, 0x06, 1], &[0x7c, 0x05, 1], &[0x7c], &[0x78, 0, 4]] {
            assert!(!begins_keyframe(payload), "{payload:?}");
        }
    }
}
