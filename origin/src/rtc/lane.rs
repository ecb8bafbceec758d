//! One source that a player is sent: a track's packets under the player's own numbers.

use std::time::{Duration, Instant};

use weir_wire::rtp::sender::Sender;
use weir_wire::rtp::{Codec, Media};
use weir_wire::srtp::Protect;

use super::log::Packet;
use super::track::Track;

/// A newcomer begins with the newest group if it is not larger and not older than this; else it waits for the next key
/// frame, which the publisher is asked for.
const BURST_BYTES: usize = 512 * 1024;
const BURST_AGE: Duration = Duration::from_secs(10);

/// The newest group is played that much faster than it was sent, so that a newcomer is not behind.
const CATCH_UP: i32 = 32;

/// The longest header with its extensions.
const HEADER_MAX: usize = 12 + 4 + 8;

/// Profile of one-byte extension headers (RFC 8285 4.2).
const ONE_BYTE: [u8; 2] = [0xbe, 0xde];

/// Under which identifiers extensions are sent on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ids {
    pub(crate) audio_level: Option<u8>,
    pub(crate) orientation: Option<u8>,
}

/// What was negotiated for a codec.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) codec: Codec,
    pub(crate) payload_type: u8,
    /// Of its repair stream (RFC 4588).
    pub(crate) rtx: Option<u8>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) media: Media,
    pub(crate) ssrc: u32,
    /// The repair stream's source.
    rtx_ssrc: u32,
    formats: Vec<Format>,
    ids: Ids,
    bound: Option<Bound>,
    /// The next sequence number, counted on beyond 16 bits, of the lane and of its repair stream.
    next: u64,
    next_rtx: u64,
    last_timestamp: u32,
    last_sent: Option<Instant>,
    pub(crate) sender: Sender,
    /// Packets sent again on request.
    pub(crate) repaired: u64,
}

/// How a track's numbers become the lane's.
#[derive(Clone, Copy, Debug)]
struct Bound {
    generation: u64,
    clock: u32,
    format: Format,
    /// Position of the next packet to look at.
    cursor: u64,
    started: Option<Start>,
}

#[derive(Clone, Copy, Debug)]
struct Start {
    /// Index of the first packet, and its number here.
    from: u64,
    to: u64,
    /// Added to timestamps.
    offset: u32,
    /// Timestamps before this one are drawn together towards it.
    live: Option<u32>,
}

impl Start {
    fn timestamp(&self, timestamp: u32) -> u32 {
        let drawn = match self.live {
            #[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "serial number arithmetic")]
            Some(live) if (live.wrapping_sub(timestamp) as i32) > 0 => {
                live.wrapping_sub((live.wrapping_sub(timestamp) as i32 / CATCH_UP) as u32)
            }
            _ => timestamp,
        };
        drawn.wrapping_add(self.offset)
    }
}

/// Protected packets, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lengths: Vec<usize>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.lengths.clear();
    }

    fn add(&mut self, protect: &Protect, index: u64, header: &[u8], payload: &[u8]) -> bool {
        let start = self.bytes.len();
        let sealed = protect.rtp(index, header, payload, &mut self.bytes).is_ok();
        if sealed {
            self.lengths.push(self.bytes.len() - start);
        }
        sealed
    }
}

impl Lane {
    /// `random`: sequence numbers and timestamps start anywhere (RFC 3550 5.1).
    pub(crate) fn new(
        media: Media,
        (ssrc, rtx_ssrc): (u32, u32),
        formats: Vec<Format>,
        ids: Ids,
        random: [u32; 3],
    ) -> Self {
        let [a, b, c] = random;
        Self {
            media,
            ssrc,
            rtx_ssrc,
            formats,
            ids,
            bound: None,
            next: u64::from(a & 0x7fff),
            next_rtx: u64::from(b & 0x7fff),
            last_timestamp: c,
            last_sent: None,
            sender: Sender::new(),
            repaired: 0,
        }
    }

    /// Adds what the track has for this player since the last time. True: it waits for a key frame.
    pub(crate) fn fill(&mut self, track: &Track, now: Instant, protect: &Protect, batch: &mut Batch) -> bool {
        if self.bound.is_none_or(|bound| bound.generation != track.generation) {
            let Some(format) = self.formats.iter().find(|format| format.codec == track.codec) else { return false };
            let cursor = self.begin(track, now);
            let clock = track.codec.clock();
            self.bound = Some(Bound { generation: track.generation, clock, format: *format, cursor, started: None });
        }
        let Some(mut bound) = self.bound else { return false };
        for packet in track.log.from(bound.cursor) {
            let start = match bound.started {
                Some(start) => start,
                None if self.media == Media::Audio || packet.keyframe => {
                    *bound.started.insert(self.start(packet, track, now, &bound))
                }
                None => continue,
            };
            // What was sent before the first is not this player's.
            let Some(ahead) = packet.index.checked_sub(start.from) else { continue };
            self.send(start.to + ahead, start.timestamp(packet.timestamp), packet, bound.format, protect, batch);
        }
        bound.cursor = track.log.end();
        self.last_sent = Some(now);
        self.bound = Some(bound);
        bound.started.is_none() && self.media == Media::Video
    }

    /// Where a newcomer begins.
    fn begin(&self, track: &Track, now: Instant) -> u64 {
        let log = &track.log;
        let live = log.end();
        if self.media == Media::Audio {
            return live;
        }
        let Some(keyframe) = log.keyframe() else { return live };
        let young = log.from(keyframe).next().is_some_and(|p| now.saturating_duration_since(p.arrived) <= BURST_AGE);
        let bytes: usize = log.from(keyframe).map(|packet| packet.payload.len()).sum();
        if young && bytes <= BURST_BYTES { keyframe } else { live }
    }

    fn start(&self, first: &Packet, track: &Track, now: Instant, bound: &Bound) -> Start {
        let live = track.log.newest().map(|newest| newest.timestamp).filter(|_| self.media == Media::Video);
        let mut start = Start { from: first.index, to: self.next, offset: 0, live };
        // A source that takes another's place goes on where the player's clock stands.
        let elapsed = self.last_sent.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let ticks = u64::from(bound.clock) * elapsed.as_micros().try_into().unwrap_or(0) / 1_000_000;
        #[expect(clippy::cast_possible_truncation, reason = "timestamps wrap")]
        let wanted = self.last_timestamp.wrapping_add(ticks as u32);
        start.offset = wanted.wrapping_sub(start.timestamp(first.timestamp));
        start
    }

    fn send(
        &mut self,
        index: u64,
        timestamp: u32,
        packet: &Packet,
        format: Format,
        protect: &Protect,
        batch: &mut Batch,
    ) {
        let (header, length) = self.header(index, timestamp, packet, format.payload_type, self.ssrc);
        let Some(header) = header.get(..length) else { return };
        if batch.add(protect, index, header, &packet.payload) {
            self.sender.packet(packet.payload.len());
        }
        if index >= self.next {
            self.next = index + 1;
            self.last_timestamp = timestamp;
        }
    }

    /// Sends a packet again that the player asks for by its sequence number.
    pub(crate) fn repair(&mut self, sequence: u16, track: &Track, protect: &Protect, batch: &mut Batch) {
        let found = self.bound.filter(|bound| bound.generation == track.generation).and_then(|bound| {
            let start = bound.started?;
            let newest = self.next.checked_sub(1)?;
            #[expect(clippy::cast_possible_truncation, reason = "serial number arithmetic")]
            let behind = u64::from((newest as u16).wrapping_sub(sequence));
            let ahead = newest.checked_sub(behind)?.checked_sub(start.to)?;
            Some((bound, start, start.to + ahead, track.log.find(start.from + ahead)?))
        });
        let Some((bound, start, index, packet)) = found else { return };
        let timestamp = start.timestamp(packet.timestamp);
        let repaired = match bound.format.rtx {
            Some(payload_type) => {
                // RFC 4588 4: the original number stands before the payload.
                let (header, length) = self.header(self.next_rtx, timestamp, packet, payload_type, self.rtx_ssrc);
                let mut payload = Vec::with_capacity(2 + packet.payload.len());
                payload.extend_from_slice(&sequence.to_be_bytes());
                payload.extend_from_slice(&packet.payload);
                let sent = batch.add(protect, self.next_rtx, header.get(..length).unwrap_or_default(), &payload);
                self.next_rtx += 1;
                sent
            }
            // The same bytes as the first time: only so may an index be used again.
            None => {
                let (header, length) = self.header(index, timestamp, packet, bound.format.payload_type, self.ssrc);
                batch.add(protect, index, header.get(..length).unwrap_or_default(), &packet.payload)
            }
        };
        self.repaired += u64::from(repaired);
    }

    fn header(
        &self,
        index: u64,
        timestamp: u32,
        packet: &Packet,
        payload_type: u8,
        ssrc: u32,
    ) -> ([u8; HEADER_MAX], usize) {
        let mut header = [0; HEADER_MAX];
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(to) = header.get_mut(length..length + bytes.len()) {
                to.copy_from_slice(bytes);
                length += bytes.len();
            }
        };
        let level = self.ids.audio_level.zip(packet.audio_level);
        let orientation = self.ids.orientation.zip(packet.orientation);
        let extended = level.is_some() || orientation.is_some();
        put(&[0x80 | u8::from(extended) << 4, u8::from(packet.marker) << 7 | payload_type]);
        #[expect(clippy::cast_possible_truncation, reason = "the sequence number on the wire")]
        put(&(index as u16).to_be_bytes());
        put(&timestamp.to_be_bytes());
        put(&ssrc.to_be_bytes());
        if extended {
            put(&ONE_BYTE);
            put(&[0, 1]);
            // Elements of one byte, their length counted from nought.
            let both = [level, orientation].into_iter().flatten();
            let elements: Vec<u8> = both.flat_map(|(id, value)| [id << 4, value]).chain([0, 0]).take(4).collect();
            put(&elements);
        }
        (header, length)
    }

    /// What a sender report says of now (RFC 3550 6.4.1): the source's clock, this lane's timestamp for it, and counts.
    pub(crate) fn report(&self, track: &Track, now: Instant) -> Option<(u64, u32)> {
        let bound = self.bound.filter(|bound| bound.generation == track.generation)?;
        let start = bound.started?;
        let reference = track.reference?;
        let since = now.saturating_duration_since(reference.at);
        let micros = u64::try_from(since.as_micros()).unwrap_or(0);
        let ticks = u64::from(bound.clock) * micros / 1_000_000;
        let ntp =
            reference.ntp.wrapping_add((u128::from(micros) << 32).checked_div(1_000_000)?.try_into().unwrap_or(0));
        #[expect(clippy::cast_possible_truncation, reason = "timestamps wrap")]
        Some((ntp, reference.timestamp.wrapping_add(ticks as u32).wrapping_add(start.offset)))
    }
}
