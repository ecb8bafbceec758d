//! `rtc-publish`: publishers of a picture and of silence, in real time, that repeat what was lost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{SystemTime, UNIX_EPOCH};

use super::packets::{self, Packet, Source};
use super::session::{Common, Event, Session};
use super::{Error, Identity, rtcp, sdp};
use crate::clock::{self, MILLISECOND, SECOND};
use crate::drive::{Load, Outcome};
use crate::flow::{Flow, Flows};
use crate::histogram::Histogram;
use crate::net::{Handler, Net, Reason, Wire};
use crate::report::Report;
use crate::tally::Tally;
use crate::target::Target;

/// Each session is looked after so often.
const TICK: u64 = 20 * MILLISECOND;
/// Between two packets of sound.
const SOUND: u64 = 20 * MILLISECOND;
/// Bytes of a packet of sound: 32 kbit/s.
const SOUND_BYTES: usize = 80;
/// Between two sender reports.
const REPORT_EVERY: u64 = SECOND;
/// Later than this is not made up for: the publisher's clock is put back instead.
const LATE: u64 = SECOND;
/// Pictures and sounds sent before the sockets are looked after again.
const SEND_AT_ONCE: usize = 512;
/// Keyframes on request are not closer than this.
const KEYFRAME_EVERY: u64 = SECOND / 2;
/// Between the epochs of NTP and of Unix, seconds.
const NTP: u64 = 2_208_988_800;

/// What to publish.
pub(crate) struct Options {
    /// Where.
    pub(crate) target: Target,
    /// Publishers, one a stream.
    pub(crate) publishers: usize,
    /// Sound and picture together, of each publisher.
    pub(crate) kbps: u64,
    /// Pictures a second.
    pub(crate) fps: u32,
    /// Between two keyframes, nanoseconds.
    pub(crate) gop: u64,
    /// Where media goes, whatever the answer says.
    pub(crate) candidate: Option<SocketAddr>,
}

/// The publishers together.
pub(crate) struct Publish {
    common: Common,
    pace: Pace,
    tally: Tally,
    flows: Flows,
    stats: Stats,
    due: BinaryHeap<Reverse<Due>>,
    fresh: Vec<(usize, usize)>,
    next_tick: u64,
    /// A protected packet.
    out: Vec<u8>,
}

/// How pictures come.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Between two of them, nanoseconds.
    period: u64,
    /// Pictures of a GOP.
    gop: u32,
    /// Bytes of one.
    bytes: usize,
    publishers: u64,
}

#[derive(Default)]
struct Stats {
    steady: bool,
    frames: u64,
    packets: u64,
    late: u64,
    nacked: u64,
    repeated: u64,
    requests: u64,
    bad: u64,
    connect: Histogram,
}

/// A publisher's next packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    token: usize,
    /// Tells it from another that had its token.
    index: usize,
}

/// One publisher.
pub(crate) struct Publisher {
    index: usize,
    token: usize,
    opened: u64,
    session: Session,
    begun: bool,
    flow: Flow,
    audio: Source,
    video: Source,
    repair: Source,
    /// When its first picture was due.
    start: u64,
    /// Pictures and sounds that were sent.
    pictures: u64,
    sounds: u64,
    /// Number of the next picture in its GOP, and that GOP's.
    in_gop: u32,
    gop: u32,
    last_key: u64,
    next_report: u64,
}

impl Pace {
    #[expect(clippy::cast_possible_truncation, reason = "bytes of a picture and pictures of a GOP, both bounded")]
    fn new(kbps: u64, fps: u32, gop: u64, publishers: usize) -> Self {
        let fps = u64::from(fps.max(1));
        let sound = (SECOND / SOUND) * SOUND_BYTES as u64 * 8 / 1000;
        Self {
            period: SECOND / fps,
            gop: (gop * fps / SECOND).clamp(1, u64::from(u32::MAX)) as u32,
            bytes: (kbps.saturating_sub(sound) * 125 / fps) as usize,
            publishers: publishers.max(1) as u64,
        }
    }

    /// When publisher `index` begins, not before `now`: they share the time of a picture evenly.
    fn start(&self, index: usize, now: u64) -> u64 {
        let phase = self.period * (index as u64 % self.publishers) / self.publishers;
        (now.saturating_sub(phase) / self.period + 1) * self.period + phase
    }
}

impl Publish {
    /// Publishers that are yet to be opened.
    ///
    /// # Errors
    /// No certificate can be made.
    pub(crate) fn new(options: Options) -> Result<Self, Error> {
        let Options { target, publishers, kbps, fps, gop, candidate } = options;
        let pace = Pace::new(kbps, fps, gop, publishers);
        Ok(Self {
            common: Common { identity: Identity::new()?, target, candidate },
            pace,
            tally: Tally::new(publishers),
            flows: Flows::default(),
            stats: Stats::default(),
            due: BinaryHeap::new(),
            fresh: Vec::new(),
            next_tick: 0,
            out: Vec::new(),
        })
    }

    fn begin(&self, publisher: &mut Publisher, now: u64) -> Due {
        let types = |types: Option<sdp::Types>| types.unwrap_or_default();
        publisher.audio.kind = types(publisher.session.audio).media;
        let video = types(publisher.session.video);
        publisher.video.kind = video.media;
        publisher.repair.kind = video.repair.unwrap_or_default();
        publisher.start = self.pace.start(publisher.index, now);
        Due { at: publisher.start, token: publisher.token, index: publisher.index }
    }

    /// Sends what is due and says when the next is.
    fn send(&mut self, publisher: &mut Publisher, wire: &mut Wire, due: Due) -> Result<Due, Reason> {
        let now = clock::now();
        if now.saturating_sub(due.at) > LATE {
            self.stats.late += 1;
            publisher.start += now - due.at;
        }
        let picture_at = publisher.start + publisher.pictures * self.pace.period;
        if picture_at <= now {
            if publisher.session.video.is_some() {
                self.picture(publisher, wire, now)?;
            }
            publisher.pictures += 1;
        }
        let sound_at = publisher.start + publisher.sounds * SOUND;
        if sound_at <= now {
            if publisher.session.audio.is_some() {
                let timestamp = timestamp(publisher.sounds * SOUND, 48_000);
                let packet = publisher.audio.packet(timestamp, false, &packets::sound(SOUND_BYTES));
                self.packet(publisher, wire, &packet, now)?;
            }
            publisher.sounds += 1;
        }
        let next_picture = publisher.start + publisher.pictures * self.pace.period;
        Ok(Due { at: next_picture.min(publisher.start + publisher.sounds * SOUND), ..due })
    }

    fn picture(&mut self, publisher: &mut Publisher, wire: &mut Wire, now: u64) -> Result<(), Reason> {
        if publisher.in_gop >= self.pace.gop {
            (publisher.in_gop, publisher.gop) = (0, publisher.gop.wrapping_add(1));
        }
        if publisher.in_gop == 0 {
            publisher.last_key = now;
        }
        let payloads = packets::picture(publisher.in_gop, publisher.gop, self.pace.bytes, now);
        publisher.in_gop += 1;
        let timestamp = timestamp(publisher.pictures * self.pace.period, 90_000);
        let last = payloads.len().saturating_sub(1);
        for (at, payload) in payloads.iter().enumerate() {
            let packet = publisher.video.packet(timestamp, at == last, payload);
            self.packet(publisher, wire, &packet, now)?;
        }
        self.stats.frames += u64::from(self.stats.steady);
        Ok(())
    }

    fn packet(&mut self, publisher: &mut Publisher, wire: &mut Wire, packet: &Packet, now: u64) -> Result<(), Reason> {
        let Some(protect) = publisher.session.protect() else { return Ok(()) };
        let (header, payload) = packet.parts();
        self.out.clear();
        protect.rtp(packet.index, header, payload, &mut self.out).map_err(Error::from)?;
        wire.send_datagram(&self.out)?;
        self.flows.add(&mut publisher.flow, self.out.len() as u64, now);
        self.stats.packets += u64::from(self.stats.steady);
        Ok(())
    }

    fn rtcp(&mut self, publisher: &mut Publisher, wire: &mut Wire, bytes: &[u8], now: u64) -> Result<(), Reason> {
        for packet in rtcp::parse(bytes) {
            match packet {
                rtcp::Packet::Nack { sequences } => {
                    self.stats.nacked += if self.stats.steady { sequences.len() as u64 } else { 0 };
                    self.repeat(publisher, wire, &sequences, now)?;
                }
                rtcp::Packet::Keyframe => {
                    self.stats.requests += u64::from(self.stats.steady);
                    if now.saturating_sub(publisher.last_key) >= KEYFRAME_EVERY {
                        publisher.in_gop = self.pace.gop;
                    }
                }
                rtcp::Packet::Sender { .. } | rtcp::Packet::Other => {}
            }
        }
        Ok(())
    }

    fn repeat(
        &mut self,
        publisher: &mut Publisher,
        wire: &mut Wire,
        sequences: &[u16],
        now: u64,
    ) -> Result<(), Reason> {
        for sequence in sequences {
            let Some(kept) = publisher.video.kept(*sequence) else { continue };
            let again = if publisher.repair.kind == 0 { kept } else { publisher.repair.repeat(&kept) };
            self.packet(publisher, wire, &again, now)?;
            self.stats.repeated += u64::from(self.stats.steady);
        }
        Ok(())
    }

    fn report_to(&self, publisher: &mut Publisher, wire: &mut Wire, now: u64) -> Result<(), Reason> {
        if !publisher.begun || now < publisher.next_report || publisher.pictures == 0 {
            return Ok(());
        }
        publisher.next_report = now + REPORT_EVERY;
        let since = now.saturating_sub(publisher.start);
        let ntp = ntp_now();
        let mut packet = Vec::new();
        for (source, clock) in [(&publisher.audio, 48_000), (&publisher.video, 90_000)] {
            let Source { ssrc, packets, octets, .. } = *source;
            rtcp::put_sender(&mut packet, ssrc, ntp, timestamp(since, clock), packets, octets);
        }
        publisher.session.send_rtcp(wire, &mut packet)
    }
}

/// Sends one stream as plain RTP for `duration` nanoseconds: sound to the first address, the picture to the second, with
/// the payload types of the offer.
///
/// # Errors
/// There is no socket, or no way to the addresses.
pub(crate) fn feed(to: [SocketAddr; 2], kbps: u64, fps: u32, gop: u64, duration: u64) -> std::io::Result<()> {
    let pace = Pace::new(kbps, fps, gop, 1);
    let any: IpAddr =
        if to.iter().all(SocketAddr::is_ipv4) { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    let [audio_to, video_to] = to;
    let [mut audio, mut video] = sdp::PAYLOAD_TYPES.map(|kind| {
        let mut source = Source::new(kind.into(), 0, false);
        source.kind = kind;
        source
    });
    let start = clock::now();
    let (mut pictures, mut sounds) = (0_u64, 0_u64);
    while clock::now() < start + duration {
        let (picture_at, sound_at) = (start + pictures * pace.period, start + sounds * SOUND);
        let wait = picture_at.min(sound_at).saturating_sub(clock::now());
        std::thread::sleep(std::time::Duration::from_nanos(wait));
        // Before the server listens there is nobody: a datagram is lost then, as later.
        if sound_at <= picture_at {
            let packet = audio.packet(timestamp(sounds * SOUND, 48_000), false, &packets::sound(SOUND_BYTES));
            let _ = socket.send_to(&packet.bytes, audio_to);
            sounds += 1;
            continue;
        }
        let (gop, number) = (pictures / u64::from(pace.gop), pictures % u64::from(pace.gop));
        #[expect(clippy::cast_possible_truncation, reason = "below the pictures of a GOP; only its last bit counts")]
        let payloads = packets::picture(number as u32, gop as u32, pace.bytes, clock::now());
        let last = payloads.len().saturating_sub(1);
        for (at, payload) in payloads.iter().enumerate() {
            let packet = video.packet(timestamp(pictures * pace.period, 90_000), at == last, payload);
            let _ = socket.send_to(&packet.bytes, video_to);
        }
        pictures += 1;
    }
    Ok(())
}

/// Ticks in so many nanoseconds, modulo 2^32.
#[expect(clippy::cast_possible_truncation, reason = "RTP's time wraps at 32 bits")]
fn timestamp(ns: u64, clock: u32) -> u32 {
    (u128::from(ns) * u128::from(clock) / u128::from(SECOND)) as u32
}

/// The time of day in NTP's format (RFC 5905 6).
fn ntp_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ((since.as_secs() + NTP) << 32) | ((u64::from(since.subsec_nanos()) << 32) / SECOND)
}

/// Three sources that no other publisher of this run has.
#[expect(clippy::cast_possible_truncation, reason = "numbers below 2^24")]
fn sources(index: usize) -> [u32; 3] {
    let mut base = [0; 4];
    // Without random numbers they differ within this run at least.
    let _ = aws_lc_rs::rand::fill(&mut base);
    let first = (u32::from_be_bytes(base) & 0xf000_0000) | 1 << 26 | (index as u32 & 0x00ff_ffff) << 2;
    [first, first + 1, first + 2]
}

impl Handler for Publish {
    type Conn = Publisher;

    fn open(&mut self, index: usize, token: usize, now: u64) -> Publisher {
        let [audio, video, repair] = sources(index);
        Publisher {
            index,
            token,
            opened: now,
            session: Session::new(index, Some([audio, video, repair])),
            begun: false,
            flow: Flow::default(),
            // Near the wrap of 16 bits, so that a run sees it.
            audio: Source::new(audio, 65_000, false),
            video: Source::new(video, 64_000, true),
            repair: Source::new(repair, 1, false),
            start: 0,
            pictures: 0,
            sounds: 0,
            in_gop: 0,
            gop: 0,
            last_key: 0,
            next_report: 0,
        }
    }

    fn connected(&mut self, publisher: &mut Publisher, wire: &mut Wire, _now: u64) -> Result<(), Reason> {
        publisher.session.connected(&self.common, wire)
    }

    fn received(&mut self, publisher: &mut Publisher, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason> {
        publisher.session.received(&self.common, wire, now, bytes)
    }

    fn datagram(
        &mut self,
        publisher: &mut Publisher,
        wire: &mut Wire,
        now: u64,
        bytes: &mut [u8],
    ) -> Result<(), Reason> {
        match publisher.session.datagram(&self.common, wire, now, bytes)? {
            Event::Nothing | Event::Rtp(..) => Ok(()),
            Event::Opened => {
                publisher.begun = true;
                self.tally.begun += 1;
                self.stats.connect.add(now.saturating_sub(publisher.opened));
                self.fresh.push((publisher.token, publisher.index));
                Ok(())
            }
            Event::Rtcp(length) => self.rtcp(publisher, wire, bytes.get(..length).unwrap_or_default(), now),
        }
    }

    fn closed(&mut self, publisher: Publisher, _now: u64, reason: &Reason) {
        self.tally.lost(publisher.begun, reason);
    }
}

impl Load for Publish {
    fn settled(&self) -> usize {
        self.tally.settled()
    }

    fn begun(&self, publisher: &Publisher) -> bool {
        publisher.begun
    }

    fn opened(&self, publisher: &Publisher) -> u64 {
        publisher.opened
    }

    fn steady(&mut self, net: &mut Net<Publisher>, now: u64) {
        self.stats.steady = true;
        self.flows.steady(net.conns().map(|publisher| &mut publisher.flow), now);
    }

    fn finish(&mut self, net: &mut Net<Publisher>, now: u64) {
        self.flows.finish(now);
        let tokens: Vec<usize> = net.entries().map(|(token, _)| token).collect();
        for token in tokens {
            net.with(self, token, |publish, publisher, wire| {
                if publisher.begun {
                    publish.tally.ok += 1;
                    publish.flows.last(&mut publisher.flow, now, false);
                } else {
                    publish.tally.failed += 1;
                }
                publish.stats.bad += publisher.session.bad;
                let mut bye = Vec::new();
                rtcp::put_receiver(&mut bye, publisher.video.ssrc, &[]);
                rtcp::put_bye(&mut bye, publisher.video.ssrc);
                publisher.session.send_rtcp(wire, &mut bye)?;
                publisher.session.close(wire);
                Ok(())
            });
        }
    }

    fn tick(&mut self, net: &mut Net<Publisher>, now: u64) -> u64 {
        for (token, index) in std::mem::take(&mut self.fresh) {
            net.with(self, token, |publish, publisher, _| {
                if publisher.index == index {
                    let due = publish.begin(publisher, now);
                    publish.due.push(Reverse(due));
                }
                Ok(())
            });
        }
        for _ in 0..SEND_AT_ONCE {
            let Some(Reverse(due)) = self.due.peek().copied().filter(|Reverse(due)| due.at <= now) else { break };
            self.due.pop();
            net.with(self, due.token, |publish, publisher, wire| {
                if publisher.index == due.index {
                    let next = publish.send(publisher, wire, due)?;
                    publish.due.push(Reverse(next));
                }
                Ok(())
            });
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            let tokens: Vec<usize> = net.entries().map(|(token, _)| token).collect();
            for token in tokens {
                net.with(self, token, |publish, publisher, wire| {
                    publisher.session.tick(&publish.common, wire, now)?;
                    publish.report_to(publisher, wire, now)
                });
            }
        }
        self.due.peek().map_or(self.next_tick, |Reverse(due)| due.at.min(self.next_tick))
    }

    fn bytes(&self) -> u64 {
        self.flows.bytes()
    }

    fn live(&self) -> String {
        format!("{}, {} late", self.tally.live(), self.stats.late)
    }

    fn report(&self, outcome: &Outcome) -> Report {
        let mut report = Report::default();
        self.tally.report(&mut report);
        self.flows.report_rates(&mut report);
        let stats = &self.stats;
        report.count("frames", stats.frames);
        report.count("packets", stats.packets);
        report.count("late", stats.late);
        report.count("nacked", stats.nacked);
        report.count("repeated", stats.repeated);
        report.count("keyframe_requests", stats.requests);
        report.count("bad", stats.bad);
        report.percentiles(["connect_p50_ms", "connect_p90_ms", "connect_p99_ms"], &stats.connect);
        outcome.report(&mut report);
        report
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        self.tally.reasons()
    }
}
