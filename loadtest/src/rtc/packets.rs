//! What a publisher sends: pictures and sound as RTP payloads (RFC 6184, RFC 7587), and packets kept for repetition.

use std::collections::VecDeque;

use super::picture;
use crate::stamp;

/// Bytes of a payload.
const PAYLOAD: usize = 1200;
/// RFC 6184 5.7.1, with the importance of its NAL units.
const STAP_A: u8 = 24 | 0x60;
/// Packets that are kept for repetition.
const KEPT: usize = 128;
/// Header of every packet.
const HEADER: usize = 12;

/// The payloads of one picture of about `size` bytes.
pub(super) fn picture(number: u32, gop: u32, size: usize, now: u64) -> Vec<Vec<u8>> {
    let mut stamped = Vec::new();
    stamp::put_nal(&mut stamped, now);
    let mut nals = Vec::new();
    if number == 0 {
        nals.extend(picture::parameter_sets());
    }
    nals.push(stamped);
    nals.push(picture::slice(number, gop));
    let mut first = vec![STAP_A];
    for nal in nals {
        first.extend_from_slice(&u16::try_from(nal.len()).unwrap_or(u16::MAX).to_be_bytes());
        first.extend_from_slice(&nal);
    }
    let rest = size.saturating_sub(first.len());
    let count = rest.div_ceil(PAYLOAD);
    let mut payloads = vec![first];
    // Equal parts, so that a server may send them in one go.
    payloads.extend((0..count).map(|_| picture::filler(rest.div_ceil(count))));
    payloads
}

/// An Opus packet of 20 ms of silence, `size` bytes long by its padding (RFC 6716 3.2.5).
pub(super) fn sound(size: usize) -> Vec<u8> {
    // Fullband CELT of 20 ms with code 3: one frame of two bytes, with padding.
    let padding = size.saturating_sub(5).min(254);
    let mut packet = vec![0xfb, 0x41];
    packet.push(u8::try_from(padding).unwrap_or(0));
    packet.extend_from_slice(&[0xff, 0xfe]);
    packet.resize(packet.len() + padding, 0);
    packet
}

/// One source of packets.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Its SSRC.
    pub(super) ssrc: u32,
    /// Its payload type.
    pub(super) kind: u8,
    /// Sequence number of the next packet, beyond 16 bits.
    next: u64,
    /// Packets and bytes of payload so far, for reports.
    pub(super) packets: u32,
    /// See above.
    pub(super) octets: u32,
    /// The newest packets, unprotected.
    kept: VecDeque<(u64, Vec<u8>)>,
    keep: bool,
}

/// A packet that is to be protected: its index, header and payload.
pub(super) struct Packet {
    /// Sequence number, beyond 16 bits.
    pub(super) index: u64,
    /// The whole of it.
    pub(super) bytes: Vec<u8>,
}

impl Packet {
    /// Header and payload.
    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(HEADER).unwrap_or((&self.bytes, &[]))
    }
}

impl Source {
    /// A source that begins at `first`; with `keep` its packets can be repeated.
    pub(super) fn new(ssrc: u32, first: u16, keep: bool) -> Self {
        Self { ssrc, kind: 0, next: first.into(), packets: 0, octets: 0, kept: VecDeque::new(), keep }
    }

    /// The next packet.
    pub(super) fn packet(&mut self, timestamp: u32, marker: bool, payload: &[u8]) -> Packet {
        let index = self.next;
        self.next += 1;
        let [.., s0, s1] = index.to_be_bytes();
        let mut bytes = vec![0x80, self.kind | u8::from(marker) << 7, s0, s1];
        bytes.extend_from_slice(&timestamp.to_be_bytes());
        bytes.extend_from_slice(&self.ssrc.to_be_bytes());
        bytes.extend_from_slice(payload);
        self.packets = self.packets.wrapping_add(1);
        #[expect(clippy::cast_possible_truncation, reason = "a count of 32 bits that wraps")]
        let length = payload.len() as u32;
        self.octets = self.octets.wrapping_add(length);
        if self.keep {
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((index, bytes.clone()));
        }
        Packet { index, bytes }
    }

    /// The packet of that sequence number, if it is still there.
    pub(super) fn kept(&self, sequence: u16) -> Option<Packet> {
        let (index, bytes) = self.kept.iter().rev().find(|(index, _)| index & 0xffff == u64::from(sequence))?;
        Some(Packet { index: *index, bytes: bytes.clone() })
    }

    /// `lost` once more, from this source of repeated packets (RFC 4588 4).
    pub(super) fn repeat(&mut self, lost: &Packet) -> Packet {
        let (header, payload) = lost.parts();
        let marker = header.get(1).is_some_and(|byte| byte & 0x80 != 0);
        let timestamp = header.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        let [.., s0, s1] = lost.index.to_be_bytes();
        let mut repeated = vec![s0, s1];
        repeated.extend_from_slice(payload);
        self.packet(timestamp, marker, &repeated)
    }
}

#[cfg(test)]
mod tests {
    use weir_wire::rtp::Header;

    use super::*;

    #[test]
    fn pictures_have_the_size_that_is_asked_for() {
        for size in [0, 100, 1500, 2400, 10_000] {
            let payloads = picture(1, 0, size, 5);
            let total: usize = payloads.iter().map(Vec::len).sum();
            assert!(total >= size && total <= size.max(100) + payloads.len(), "{size}: {total}");
            assert!(payloads.iter().all(|payload| payload.len() <= PAYLOAD));
            assert_eq!(stamp::search(&payloads[0]), Some(5));
        }
        assert_eq!(stamp::search(&picture(0, 0, 1500, 6)[0]), Some(6));
        assert_eq!(sound(80).len(), 80);
    }

    #[test]
    fn packets_are_repeated() {
        let (mut source, mut repair) = (Source::new(7, 65_535, true), Source::new(8, 5, false));
        repair.kind = 107;
        let packets: Vec<_> = (0..3).map(|n| source.packet(1000 * n, n == 2, &[9; 20])).collect();
        let kept = source.kept(1).unwrap();
        assert_eq!((kept.index, &kept.bytes), (65_537, &packets[2].bytes));
        let again = repair.repeat(&kept);
        let header = Header::parse(&again.bytes).unwrap();
        assert_eq!((header.ssrc, header.sequence, header.timestamp, header.marker), (8, 5, 2000, true));
        assert_eq!(again.parts().1[..3], [0, 1, 9]);
        for _ in 0..KEPT {
            source.packet(0, false, &[]);
        }
        assert!(source.kept(65_535).is_none());
    }
}
