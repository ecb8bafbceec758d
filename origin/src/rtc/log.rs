//! The packets of one track in the order in which they came, from the newest key frame on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// What a player may ask for again: older packets are kept only as part of the newest group.
const REPAIR: Duration = Duration::from_millis(1500);

/// Bounds of a track's log.
const PACKETS_MAX: usize = 4096;
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// Places in which packets are looked up by their number: at first, and at most.
const INDEX: (usize, usize) = (256, PACKETS_MAX);

/// A packet, without what every player gets anew: source, sequence number, timestamp's offset, extension identifiers.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Its sequence number, counted on beyond 16 bits.
    pub(crate) index: u64,
    pub(crate) timestamp: u32,
    pub(crate) marker: bool,
    /// A decoder can start here.
    pub(crate) keyframe: bool,
    pub(crate) arrived: Instant,
    /// RFC 6464, one byte.
    pub(crate) audio_level: Option<u8>,
    /// 3GPP TS 26.114 7.4.5, one byte.
    pub(crate) orientation: Option<u8>,
    pub(crate) payload: Bytes,
}

/// See the module. A position counts packets from the first that ever came.
#[derive(Debug, Default)]
pub(crate) struct Log {
    packets: VecDeque<Packet>,
    /// Position of the first that is held.
    start: u64,
    bytes: usize,
    /// Position of the packet that the newest key frame starts with.
    keyframe: Option<u64>,
    newest: Option<u64>,
    /// Position and one of the packet with an index, by its low bits; a power of two of places.
    by_index: Vec<u64>,
    /// A bit for each of the newest numbers, by their low bits: whether it came.
    seen: Vec<u64>,
}

impl Log {
    /// Takes a packet in; false: it came before.
    pub(crate) fn push(&mut self, packet: Packet) -> bool {
        if !self.is_new(packet.index) {
            return false;
        }
        // A source may skip numbers: as many places as there are numbers from the oldest to the newest.
        let oldest = self.packets.front().map_or(packet.index, |first| first.index);
        let numbers = usize::try_from(packet.index.saturating_sub(oldest)).unwrap_or(usize::MAX).saturating_add(1);
        let places = numbers.clamp(INDEX.0, INDEX.1).next_power_of_two();
        if places > self.by_index.len() {
            self.by_index = vec![0; places];
            for (position, packet) in (self.start..).zip(&self.packets) {
                note(&mut self.by_index, packet.index, position);
            }
        }
        let position = self.end();
        note(&mut self.by_index, packet.index, position);
        let newer = self.newest.is_none_or(|newest| packet.index > newest);
        if newer {
            self.newest = Some(packet.index);
        }
        // Parameter sets in packets of their own start the picture that they stand before.
        let begins = || self.keyframe_packet().is_none_or(|first| first.timestamp != packet.timestamp);
        if packet.keyframe && newer && begins() {
            self.keyframe = Some(position);
        }
        let now = packet.arrived;
        self.bytes += packet.payload.len();
        self.packets.push_back(packet);
        self.evict(now);
        true
    }

    /// Notes a packet's number; false: it was noted before, or is too old to tell. Players' packets take their numbers from
    /// it, and a number that is sealed twice with different bytes gives away the key (RFC 7714 8.1).
    fn is_new(&mut self, index: u64) -> bool {
        const NUMBERS: u64 = PACKETS_MAX as u64;
        if self.seen.is_empty() {
            self.seen = vec![0; PACKETS_MAX / 64];
        }
        match self.newest {
            Some(newest) if index.saturating_add(NUMBERS) <= newest => return false,
            Some(newest) if index > newest => {
                for skipped in newest.max(index.saturating_sub(NUMBERS)) + 1..=index {
                    let (word, bit) = bit_of(skipped);
                    if let Some(word) = self.seen.get_mut(word) {
                        *word &= !bit;
                    }
                }
            }
            _ => {}
        }
        let (word, bit) = bit_of(index);
        let Some(word) = self.seen.get_mut(word) else { return false };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    fn evict(&mut self, now: Instant) {
        while let Some(first) = self.packets.front() {
            let full = self.packets.len() > PACKETS_MAX || self.bytes > BYTES_MAX;
            let of_newest_group = self.keyframe.is_some_and(|keyframe| self.start >= keyframe);
            let needed = of_newest_group || now.saturating_duration_since(first.arrived) < REPAIR;
            if !full && needed {
                return;
            }
            self.bytes -= first.payload.len();
            self.packets.pop_front();
            self.start += 1;
        }
    }

    #[cfg(test)]
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// Position behind the newest packet.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.packets.len() as u64
    }

    /// Position of the newest key frame's first packet, if that is held.
    pub(crate) fn keyframe(&self) -> Option<u64> {
        self.keyframe.filter(|at| *at >= self.start)
    }

    /// The newest key frame's first packet, if that is held.
    pub(crate) fn keyframe_packet(&self) -> Option<&Packet> {
        self.from(self.keyframe()?).next()
    }

    /// The packets from a position on.
    pub(crate) fn from(&self, position: u64) -> impl Iterator<Item = &Packet> {
        let skip = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.packets.len());
        self.packets.range(skip..)
    }

    /// The packet with an index.
    pub(crate) fn find(&self, index: u64) -> Option<&Packet> {
        let position = self.by_index.get(slot(&self.by_index, index))?.checked_sub(1)?;
        let at = usize::try_from(position.checked_sub(self.start)?).ok()?;
        self.packets.get(at).filter(|packet| packet.index == index)
    }

    /// The newest packet by sequence number.
    pub(crate) fn newest(&self) -> Option<&Packet> {
        self.find(self.newest?)
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Notes where the packet with an index is.
fn note(places: &mut [u64], index: u64, position: u64) {
    let at = slot(places, index);
    if let Some(place) = places.get_mut(at) {
        *place = position + 1;
    }
}

/// The word and the bit of a number.
fn bit_of(index: u64) -> (usize, u64) {
    #[expect(clippy::cast_possible_truncation, reason = "below the number of packets")]
    let at = (index % PACKETS_MAX as u64) as usize;
    (at / 64, 1 << (at % 64))
}

#[expect(clippy::cast_possible_truncation, reason = "below the number of places")]
fn slot(places: &[u64], index: u64) -> usize {
    (index % (places.len() as u64).max(1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(index: u64, at: Instant, keyframe: bool) -> Packet {
        let payload = Bytes::from(vec![1; 100]);
        Packet {
            index,
            timestamp: u32::try_from(index).unwrap() / 10,
            marker: false,
            keyframe,
            arrived: at,
            audio_level: None,
            orientation: None,
            payload,
        }
    }

    #[test]
    fn packets_are_found_by_number_and_taken_once() {
        let (mut log, now) = (Log::default(), Instant::now());
        for index in [10, 12, 11, 12, 14] {
            log.push(packet(index, now, index == 10));
        }
        assert_eq!((log.end(), log.from(0).count(), log.bytes()), (4, 4, 400));
        assert_eq!(log.from(0).map(|p| p.index).collect::<Vec<_>>(), [10, 12, 11, 14], "in order of arrival");
        assert!(log.find(11).is_some() && log.find(13).is_none() && log.find(10 + PACKETS_MAX as u64).is_none());
        assert!(!log.push(packet(11, now, false)), "a repetition");
        assert_eq!((log.keyframe(), log.newest().unwrap().index), (Some(0), 14));
    }

    #[test]
    fn the_newest_group_is_kept_and_older_packets_for_a_while() {
        let (mut log, begin) = (Log::default(), Instant::now());
        for i in 0..300u32 {
            log.push(packet(u64::from(i), begin + Duration::from_millis(20) * i, i % 100 == 0));
        }
        assert_eq!((log.keyframe(), log.start()), (Some(200), 200), "a group of 2 s is longer than the repair window");
        log.push(packet(300, begin + Duration::from_secs(6), true));
        assert_eq!((log.keyframe(), log.start()), (Some(300), 226), "and 1.5 s before a new one");
        assert!(log.find(226).is_some() && log.find(225).is_none());
    }

    /// Where parameter sets travel alone (RFC 6184 5.6), what follows them in the same picture starts nothing.
    #[test]
    fn a_group_begins_with_its_parameter_sets() {
        let (mut log, now) = (Log::default(), Instant::now());
        for (index, keyframe) in [(5, false), (10, true), (11, true), (12, true), (13, false)] {
            log.push(packet(index, now, keyframe));
        }
        assert_eq!(log.keyframe(), Some(1));
        log.push(packet(20, now, true));
        log.push(packet(21, now, true));
        assert_eq!(log.keyframe(), Some(5), "the next picture");
    }

    /// A source may skip numbers.
    #[test]
    fn packets_far_apart_are_found() {
        let (mut log, now) = (Log::default(), Instant::now());
        for index in [10, 10 + 256, 10 + 512, 10 + 2048] {
            log.push(packet(index, now, false));
        }
        for index in [10, 10 + 256, 10 + 512, 10 + 2048] {
            assert!(log.find(index).is_some(), "{index}");
        }
    }

    /// Who repeats a number with other bytes would have them sealed under an index that was used.
    #[test]
    fn a_number_is_taken_once_whatever_came_between() {
        let (mut log, begin) = (Log::default(), Instant::now());
        for index in [10, 266, 300] {
            assert!(log.push(packet(index, begin, false)));
        }
        assert!(!log.push(packet(10, begin, false)), "another packet has its place in the index");
        assert!(log.push(packet(11, begin, false)), "late, but for the first time");
        let later = begin + Duration::from_secs(9);
        assert!(log.push(packet(301, later, true)));
        assert!(log.find(300).is_none(), "it is gone");
        for index in [10, 11, 266, 300, 301] {
            assert!(!log.push(packet(index, later, false)), "{index}");
        }
        let far = 300 + 3 * PACKETS_MAX as u64;
        assert!(log.push(packet(far, later, false)) && !log.push(packet(far, later, false)));
        assert!(log.push(packet(far - 7, later, false)) && !log.push(packet(far - 7, later, false)));
    }

    #[test]
    fn the_log_is_bounded() {
        let (mut log, now) = (Log::default(), Instant::now());
        for index in 0..3 * PACKETS_MAX as u64 {
            log.push(packet(index, now, index == 0));
            assert!(log.packets.len() <= PACKETS_MAX && log.bytes() <= BYTES_MAX);
        }
        assert_eq!(log.keyframe(), None, "its start is gone");
        assert!(!log.push(packet(5, now, false)), "far too late");
        assert_eq!(log.from(0).count(), PACKETS_MAX);
        let big = Packet { payload: Bytes::from(vec![0; BYTES_MAX / 2]), ..packet(1 << 20, now, true) };
        log.push(big.clone());
        log.push(Packet { index: (1 << 20) + 1, ..big });
        assert!(log.bytes() <= BYTES_MAX);
    }
}
