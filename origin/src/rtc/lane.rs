//! One source that a player is sent: a track's packets under the player's own numbers.

use std::time::{Duration, Instant};

use weir_wire::rtp::rtcp::TransportCc;
use weir_wire::rtp::sender::Sender;
use weir_wire::rtp::{Codec, Media};
use weir_wire::srtp::Protect;

use super::log::Packet;
use super::steer::Steer;
use super::track::{Reference, Track};

/// A newcomer begins with the newest group if it is not larger and not older than this; else it waits for the next key
/// frame, which the publisher is asked for.
pub(crate) const BURST_BYTES: usize = 512 * 1024;
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
    /// Put on packets of a picture that comes in several sizes.
    pub(crate) twcc: Option<u8>,
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
    /// Of a picture that comes in several sizes.
    steer: Option<Box<Steer>>,
    /// The next sequence number, counted on beyond 16 bits, of the lane and of its repair stream.
    next: u64,
    next_rtx: u64,
    /// The newest packet's timestamp, and when it was sent.
    last_timestamp: u32,
    last_sent: Option<Instant>,
    pub(crate) sender: Sender,
    /// Bytes of media that were sent.
    pub(crate) bytes: u64,
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
    /// The last packet ended a frame.
    whole: bool,
    /// The clock of the track before, and what was added to its timestamps.
    before: Option<(Reference, u32)>,
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
            steer: None,
            next: u64::from(a & 0x7fff),
            next_rtx: u64::from(b & 0x7fff),
            last_timestamp: c,
            last_sent: None,
            sender: Sender::new(),
            bytes: 0,
            repaired: 0,
        }
    }

    /// Adds what the source has for this player since the last time; asks for a key frame where it needs one.
    pub(crate) fn fill(&mut self, tracks: &[Option<Track>], now: Instant, protect: &Protect, batch: &mut Batch) {
        let Some(track) = self.choose(tracks, now) else { return };
        if self.bound.is_none_or(|bound| bound.generation != track.generation) {
            let Some(format) = self.formats.iter().find(|format| format.codec == track.codec) else { return };
            let before = self.bound.and_then(|old| {
                let reference = self.track(tracks)?.reference?;
                Some((reference, old.started?.offset))
            });
            self.bound = Some(Bound {
                generation: track.generation,
                clock: track.codec.clock(),
                format: *format,
                cursor: self.begin(track, now),
                started: None,
                whole: true,
                before,
            });
        }
        let Some(mut bound) = self.bound else { return };
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
            let timestamp = start.timestamp(packet.timestamp);
            self.send(start.to + ahead, timestamp, packet, bound.format, now, protect, batch);
            bound.whole = packet.marker;
        }
        bound.cursor = track.log.end();
        self.bound = Some(bound);
        if bound.started.is_none() {
            track.want_keyframe();
        }
    }

    /// The track that is sent.
    pub(crate) fn track<'a>(&self, tracks: &'a [Option<Track>]) -> Option<&'a Track> {
        let bound = self.bound?;
        tracks.iter().flatten().find(|track| track.generation == bound.generation)
    }

    /// The track to send now: of several, the one that the player's path carries, from a key frame of it on.
    fn choose<'a>(&mut self, tracks: &'a [Option<Track>], now: Instant) -> Option<&'a Track> {
        let current = self.track(tracks);
        let media = self.media;
        let mut mine = tracks.iter().flatten().filter(|track| track.media() == media);
        let first = mine.next()?;
        if self.media == Media::Audio || mine.next().is_none() {
            self.steer = None;
            return Some(first);
        }
        let mine: Vec<&Track> = tracks.iter().flatten().filter(|track| track.media() == media).collect();
        // What is sent again without a stream for repairs must be the same bytes, and so without a number of its own.
        let tells = self.ids.twcc.is_some() && self.formats.iter().all(|format| format.rtx.is_some());
        let steer = self.steer.get_or_insert_with(|| Box::new(Steer::new(&mine, tells, now)));
        let (wanted, since) = steer.choose(&mine, now);
        let wanted = mine.into_iter().find(|track| track.generation == wanted);
        let (Some(current), Some(next)) = (current, wanted) else { return wanted.or(current) };
        if current.generation == next.generation {
            return wanted;
        }
        let whole = self.bound.is_none_or(|bound| bound.whole) || current.rate(now) == 0;
        if next.has_keyframe_since(since) && whole {
            return wanted;
        }
        if !next.has_keyframe_since(since) {
            next.want_keyframe();
        }
        Some(current)
    }

    /// When packets arrived, says the player.
    pub(crate) fn arrivals(&mut self, now: Instant, feedback: TransportCc<'_>) -> bool {
        let steer = self.steer.as_mut();
        steer.map(|steer| steer.feedback(now, feedback)).is_some()
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
        let by_arrival = self.last_timestamp.wrapping_add((ticks as u32).max(bound.clock / 100));
        // Another size of the same picture is where its sender's clock says, if that is about as long since.
        let by_clock = bound.before.zip(track.reference).map(|((old, offset), new)| {
            let apart = i128::from(new.ntp.wrapping_sub(old.ntp).cast_signed()) * i128::from(bound.clock);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "timestamps wrap")]
            let apart = (apart >> 32) as u32;
            let since = first.timestamp.wrapping_sub(new.timestamp);
            old.timestamp.wrapping_add(apart).wrapping_add(since).wrapping_add(offset)
        });
        let near = |time: &u32| {
            let ahead = time.wrapping_sub(self.last_timestamp).cast_signed();
            ahead > 0 && time.wrapping_sub(by_arrival).cast_signed().unsigned_abs() < bound.clock
        };
        let wanted = by_clock.filter(near).unwrap_or(by_arrival);
        start.offset = wanted.wrapping_sub(start.timestamp(first.timestamp));
        start
    }

    #[expect(clippy::too_many_arguments, reason = "a packet, and all that seals it")]
    fn send(
        &mut self,
        index: u64,
        timestamp: u32,
        packet: &Packet,
        format: Format,
        now: Instant,
        protect: &Protect,
        batch: &mut Batch,
    ) {
        let number = self.steer.as_mut().and_then(|steer| steer.sent(now, HEADER_MAX + packet.payload.len()));
        let (header, length) = self.header((index, timestamp, self.ssrc), packet, format.payload_type, number);
        let Some(header) = header.get(..length) else { return };
        if batch.add(protect, index, header, &packet.payload) {
            self.sender.packet(packet.payload.len());
            self.bytes += (length + packet.payload.len()) as u64;
        }
        if index >= self.next {
            self.next = index + 1;
            (self.last_timestamp, self.last_sent) = (timestamp, Some(now));
        }
    }

    /// Sends a packet again that the player asks for by its sequence number.
    pub(crate) fn repair(
        &mut self,
        sequence: u16,
        tracks: &[Option<Track>],
        now: Instant,
        protect: &Protect,
        batch: &mut Batch,
    ) {
        let found = self.track(tracks).zip(self.bound).and_then(|(track, bound)| {
            let start = bound.started?;
            let newest = self.next.checked_sub(1)?;
            #[expect(clippy::cast_possible_truncation, reason = "serial number arithmetic")]
            let behind = u64::from((newest as u16).wrapping_sub(sequence));
            let ahead = newest.checked_sub(behind)?.checked_sub(start.to)?;
            Some((bound.format, start, start.to + ahead, track.log.find(start.from + ahead)?))
        });
        let Some((format, start, index, packet)) = found else { return };
        let timestamp = start.timestamp(packet.timestamp);
        let repaired = match format.rtx {
            Some(payload_type) => {
                // RFC 4588 4: the original number stands before the payload.
                let mut payload = Vec::with_capacity(2 + packet.payload.len());
                payload.extend_from_slice(&sequence.to_be_bytes());
                payload.extend_from_slice(&packet.payload);
                let number = self.steer.as_mut().and_then(|steer| steer.sent(now, HEADER_MAX + payload.len()));
                let place = (self.next_rtx, timestamp, self.rtx_ssrc);
                let (header, length) = self.header(place, packet, payload_type, number);
                let sent = batch.add(protect, self.next_rtx, header.get(..length).unwrap_or_default(), &payload);
                self.next_rtx += 1;
                sent
            }
            // The same bytes as the first time: only so may an index be used again.
            None => {
                let place = (index, timestamp, self.ssrc);
                let (header, length) = self.header(place, packet, format.payload_type, None);
                batch.add(protect, index, header.get(..length).unwrap_or_default(), &packet.payload)
            }
        };
        self.repaired += u64::from(repaired);
    }

    /// The header of a packet with this index, timestamp and source, and its length.
    fn header(
        &self,
        (index, timestamp, ssrc): (u64, u32, u32),
        packet: &Packet,
        payload_type: u8,
        number: Option<u16>,
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
        let number = self.ids.twcc.zip(number);
        let bytes =
            2 * (usize::from(level.is_some()) + usize::from(orientation.is_some())) + 3 * usize::from(number.is_some());
        put(&[0x80 | u8::from(bytes > 0) << 4, u8::from(packet.marker) << 7 | payload_type]);
        #[expect(clippy::cast_possible_truncation, reason = "the sequence number on the wire")]
        put(&(index as u16).to_be_bytes());
        put(&timestamp.to_be_bytes());
        put(&ssrc.to_be_bytes());
        if bytes > 0 {
            put(&ONE_BYTE);
            #[expect(clippy::cast_possible_truncation, reason = "at most two words")]
            put(&[0, bytes.div_ceil(4) as u8]);
            // The lengths of elements are counted from nought.
            for (id, value) in [level, orientation].into_iter().flatten() {
                put(&[id << 4, value]);
            }
            if let Some((id, number)) = number {
                let [high, low] = number.to_be_bytes();
                put(&[id << 4 | 1, high, low]);
            }
            put(&[0; 3][..bytes.next_multiple_of(4) - bytes]);
        }
        (header, length)
    }

    /// What a sender report says of now (RFC 3550 6.4.1): the source's clock, this lane's timestamp for it, and counts.
    pub(crate) fn report(&self, tracks: &[Option<Track>], now: Instant) -> Option<(u64, u32)> {
        let (track, bound) = self.track(tracks).zip(self.bound)?;
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
