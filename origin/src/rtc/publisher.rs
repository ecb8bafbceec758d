//! A session that sends a stream: what its packets are, what is missing of them, and what it is told.

use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_wire::rtp::nack::{Arrival, Generator};
use weir_wire::rtp::payload;
use weir_wire::rtp::receiver::Receiver;
use weir_wire::rtp::rtcp::{self, Packet as Feedback};
use weir_wire::rtp::twcc::Recorder;
use weir_wire::rtp::{Codec, Header, Media};

use super::log::Packet;
use super::track::{Reference, Track};

/// How often a publisher is told what arrived.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Missing packets and arrival times are gathered so long, so that one packet tells of many.
const FEEDBACK_EVERY: Duration = Duration::from_millis(10);

/// A source whose place was taken is not listened to for so long: its last packets may come behind its successor's first.
const FORMER_FOR: Duration = Duration::from_secs(2);

/// What was negotiated for one medium of a publisher.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) codec: Codec,
    pub(crate) payload_type: u8,
    pub(crate) rtx: Option<u8>,
    pub(crate) mid: String,
    /// Which of a picture's sizes (RFC 8853), and how its packets say so (RFC 8852).
    pub(crate) layer: usize,
    pub(crate) rid: Option<String>,
    /// Sources that the offer names: of the medium, and of its repair stream.
    pub(crate) ssrc: Option<u32>,
    pub(crate) rtx_ssrc: Option<u32>,
    pub(crate) nack: bool,
    pub(crate) pli: bool,
    pub(crate) fir: bool,
    pub(crate) ids: Ids,
}

/// Identifiers of header extensions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) mid: Option<u8>,
    pub(crate) rid: Option<u8>,
    pub(crate) repaired_rid: Option<u8>,
    pub(crate) twcc: Option<u8>,
    pub(crate) audio_level: Option<u8>,
    pub(crate) orientation: Option<u8>,
}

/// What came of a publisher.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quality {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// Packets of no negotiated kind, malformed or late.
    pub(crate) ignored: u64,
    pub(crate) repaired: u64,
    pub(crate) nacks: u64,
    pub(crate) plis: u64,
}

struct Upstream {
    of: Incoming,
    ssrc: Option<u32>,
    /// The source before, and when another took its place.
    former: Option<(u32, Instant)>,
    nack: Generator,
    receiver: Receiver,
    newest: Option<u64>,
    fir: u8,
}

/// See the module.
pub(crate) struct Publisher {
    /// This end's source in feedback.
    ssrc: u32,
    upstreams: Vec<Upstream>,
    twcc: Option<Recorder>,
    feedback_at: Option<Instant>,
    /// More is missing than can be asked for.
    overrun: bool,
    report_at: Instant,
    /// What was lost before the last report, in 1/256.
    lost: u8,
    pub(crate) quality: Quality,
}

/// A packet that was taken: of which medium and size, and what it is.
pub(crate) struct Taken {
    pub(crate) media: Media,
    pub(crate) layer: usize,
    /// The first of another source that takes the place: what came before has nothing to do with it.
    pub(crate) fresh: bool,
    pub(crate) packet: Packet,
}

impl Publisher {
    pub(crate) fn new(ssrc: u32, incoming: Vec<Incoming>, now: Instant) -> Self {
        let twcc = incoming.iter().any(|of| of.ids.twcc.is_some());
        let upstreams = incoming.into_iter().map(|of| Upstream {
            ssrc: of.ssrc,
            former: None,
            nack: Generator::new(),
            receiver: Receiver::new(of.codec.clock()),
            newest: None,
            fir: 0,
            of,
        });
        Self {
            ssrc,
            upstreams: upstreams.collect(),
            twcc: twcc.then(Recorder::new),
            feedback_at: None,
            overrun: false,
            report_at: now + REPORT_EVERY,
            lost: 0,
            quality: Quality::default(),
        }
    }

    /// The tracks that it sends, with their places among the sizes of a picture.
    pub(crate) fn tracks(&self) -> impl Iterator<Item = (Codec, usize)> {
        self.upstreams.iter().map(|up| (up.of.codec, up.of.layer))
    }

    /// A decrypted packet with its counted-on sequence number; none if it carries nothing that players are sent.
    pub(crate) fn rtp(&mut self, now: Instant, header: &Header, index: u64, bytes: &[u8]) -> Option<Taken> {
        self.quality.packets += 1;
        self.quality.bytes += bytes.len() as u64;
        let Ok(end) = header.payload_end(bytes) else {
            self.quality.ignored += 1;
            return None;
        };
        let payload = bytes.get(header.payload..end).unwrap_or_default();
        let extensions = header.extensions(bytes);
        let Some(at) = self.upstream(header, extensions) else {
            self.quality.ignored += 1;
            return None;
        };
        let up = self.upstreams.get_mut(at)?;
        if let Some((recorder, number)) = self.twcc.as_mut().zip(up.of.ids.twcc.and_then(|id| extensions.get(id)))
            && let Some(number) = number.first_chunk()
        {
            recorder.packet(now, u16::from_be_bytes(*number));
            self.feedback_at.get_or_insert(now + FEEDBACK_EVERY);
        }
        let mut fresh = false;
        let (index, payload, repaired) = match up.of.rtx {
            Some(rtx) if rtx == header.payload_type => {
                up.of.rtx_ssrc = Some(header.ssrc);
                // RFC 4588 4; what only probes the bandwidth has no payload.
                let (original, payload) = payload.split_first_chunk()?;
                let newest = up.newest?;
                self.quality.repaired += 1;
                (nearest(newest, u16::from_be_bytes(*original)), payload, true)
            }
            _ => {
                if up.ssrc != Some(header.ssrc) {
                    let late = |(ssrc, at)| ssrc == header.ssrc && now.saturating_duration_since(at) < FORMER_FOR;
                    if up.former.is_some_and(late) {
                        self.quality.ignored += 1;
                        return None;
                    }
                    // A source that changed counts anew.
                    fresh = up.newest.is_some();
                    up.former = up.ssrc.filter(|_| fresh).map(|ssrc| (ssrc, now));
                    up.ssrc = Some(header.ssrc);
                    up.newest = None;
                    up.nack = Generator::new();
                    up.receiver = Receiver::new(up.of.codec.clock());
                }
                up.newest = Some(up.newest.map_or(index, |newest| newest.max(index)));
                up.receiver.packet(now, index, header.timestamp);
                (index, payload, false)
            }
        };
        if up.of.nack {
            self.overrun |= up.nack.packet(now, index) == Arrival::Reset;
            if let Some(due) = up.nack.deadline() {
                self.feedback_at = Some(self.feedback_at.map_or(due, |at| at.min(due)));
            }
        }
        let one = |id: Option<u8>| id.and_then(|id| extensions.get(id)).and_then(|data| data.first()).copied();
        let audio_level = if repaired { None } else { one(up.of.ids.audio_level) };
        let packet = Packet {
            index,
            timestamp: header.timestamp,
            marker: header.marker,
            keyframe: payload::is_keyframe_start(up.of.codec, payload),
            arrived: now,
            audio_level,
            orientation: one(up.of.ids.orientation),
            payload: Bytes::copy_from_slice(payload),
        };
        Some(Taken { media: up.of.codec.media(), layer: up.of.layer, fresh, packet })
    }

    /// Which medium a packet belongs to: by its source, else by what it says of itself (RFC 8843 9.2).
    fn upstream(&self, header: &Header, extensions: weir_wire::rtp::Extensions<'_>) -> Option<usize> {
        let has = |up: &Upstream| up.of.payload_type == header.payload_type || up.of.rtx == Some(header.payload_type);
        let of_source = |up: &Upstream| up.ssrc == Some(header.ssrc) || up.of.rtx_ssrc == Some(header.ssrc);
        let says = |id: Option<u8>, what: &str| id.and_then(|id| extensions.get(id)) == Some(what.as_bytes());
        let sized = |up: &Upstream| {
            let ids = up.of.ids;
            up.of.rid.as_ref().is_some_and(|rid| says(ids.rid, rid) || says(ids.repaired_rid, rid))
        };
        let named = |up: &Upstream| up.of.rid.is_none() && says(up.of.ids.mid, &up.of.mid);
        let find = |fits: &dyn Fn(&Upstream) -> bool| self.upstreams.iter().position(|up| has(up) && fits(up));
        let any = |up: &Upstream| up.of.rid.is_none();
        find(&of_source).or_else(|| find(&sized)).or_else(|| find(&named)).or_else(|| find(&any))
    }

    /// RTCP of the publisher: its clock. Returns the track's generation, the time and the timestamp.
    pub(crate) fn feedback(
        &mut self,
        feedback: Feedback<'_>,
        tracks: &mut [Option<Track>],
        now: Instant,
    ) -> Option<(u64, u64, u32)> {
        let Feedback::SenderReport { ssrc, info, .. } = feedback else { return None };
        let up = self.upstreams.iter_mut().find(|up| up.ssrc == Some(ssrc))?;
        up.receiver.sender_report(now, info);
        let of = &up.of;
        let mut tracks = tracks.iter_mut().flatten();
        let track = tracks.find(|track| track.codec == of.codec && track.layer == of.layer)?;
        track.reference = Some(Reference { ntp: info.ntp, timestamp: info.rtp, at: now });
        Some((track.generation, info.ntp, info.rtp))
    }

    /// When [`Publisher::reports`] has something.
    pub(crate) fn deadline(&self) -> Instant {
        self.feedback_at.map_or(self.report_at, |at| at.min(self.report_at))
    }

    /// The compound packets that are due: what is missing, when packets came, and how they came. True: so much is
    /// missing that only a key frame helps.
    pub(crate) fn reports(&mut self, now: Instant) -> (Vec<Vec<u8>>, bool) {
        let mut packets = Vec::new();
        if self.feedback_at.is_some_and(|at| at <= now) {
            for up in &mut self.upstreams {
                let mut missing = Vec::new();
                up.nack.poll(now, &mut missing);
                if let Some(source) = up.ssrc.filter(|_| !missing.is_empty()) {
                    self.quality.nacks += missing.len() as u64;
                    let mut packet = Vec::new();
                    rtcp::nack(&mut packet, self.ssrc, source, &missing);
                    packets.push(packet);
                }
            }
            // It speaks of the path: which of the sources it names does not matter.
            if let Some((recorder, media)) = self.twcc.as_mut().zip(self.upstreams.iter().find_map(|up| up.ssrc)) {
                let mut packet = Vec::new();
                while recorder.poll(now, self.ssrc, media, &mut packet) {
                    packets.push(std::mem::take(&mut packet));
                }
            }
            let nack = self.upstreams.iter().filter_map(|up| up.nack.deadline()).min();
            let twcc = self.twcc.as_ref().and_then(Recorder::deadline);
            let next = nack.into_iter().chain(twcc).min();
            self.feedback_at = next.map(|at| at.max(now + FEEDBACK_EVERY));
        }
        if self.report_at <= now {
            self.report_at = now + REPORT_EVERY;
            let blocks: Vec<_> = self.upstreams.iter_mut().filter_map(|up| up.receiver.report(now, up.ssrc?)).collect();
            self.lost = blocks.iter().map(|block| block.fraction_lost).max().unwrap_or(0);
            if !blocks.is_empty() {
                let mut packet = Vec::new();
                rtcp::receiver_report(&mut packet, self.ssrc, &blocks);
                packets.push(packet);
            }
        }
        (packets, std::mem::take(&mut self.overrun))
    }

    /// The compound packet that says that it is over.
    pub(crate) fn goodbye(&self) -> Vec<u8> {
        let mut compound = Vec::new();
        rtcp::bye(&mut compound, &[self.ssrc]);
        compound
    }

    /// The share of packets that were lost on their way here lately, at the worst of its sources.
    pub(crate) fn loss(&self) -> f64 {
        f64::from(self.lost) / 256.0
    }

    /// Asks for a key frame of the picture in one of its sizes.
    pub(crate) fn ask(&mut self, layer: usize) -> Option<Vec<u8>> {
        let mut ups = self.upstreams.iter_mut();
        let up = ups.find(|up| up.of.codec.media() == Media::Video && up.of.layer == layer)?;
        let source = up.ssrc?;
        let mut packet = Vec::new();
        if up.of.pli || !up.of.fir {
            rtcp::pli(&mut packet, self.ssrc, source);
        } else {
            up.fir = up.fir.wrapping_add(1);
            rtcp::fir(&mut packet, self.ssrc, source, up.fir);
        }
        self.quality.plis += 1;
        Some(packet)
    }
}

/// The index nearest to `newest` that a sequence number stands for.
fn nearest(newest: u64, sequence: u16) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "serial number arithmetic")]
    let step = i64::from(sequence.wrapping_sub(newest as u16) as i16);
    newest.saturating_add_signed(step)
}
