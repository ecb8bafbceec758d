//! H.264 (RFC 6184, packetization-mode 1).

use bytes::Bytes;

use super::{Sink, nal};

/// Several units in a packet.
pub const STAP_A: u8 = 24;
/// A fragment of a unit.
pub const FU_A: u8 = 28;

/// Cuts the units of a frame into payloads of at most `max` bytes, 64 at least: neighbours that fit go together in a
/// STAP-A, units that are too large become FU-A of one size but the last.
pub fn packetise(units: &[&[u8]], max: usize, out: &mut Vec<Bytes>) {
    nal::packetise::<Format>(units, max.max(64), out);
}

pub(super) struct Format;

impl nal::Format for Format {
    const HEAD: usize = 1;
    const AGGREGATE: u8 = STAP_A;
    const FRAGMENT: u8 = FU_A;

    fn kind(head: u8) -> u8 {
        head & 0x1f
    }

    /// F is set if it is in any unit, NRI is the largest of theirs (5.7).
    fn put_aggregate(sink: &mut Sink<'_>, units: &[&[u8]]) {
        let heads = || units.iter().filter_map(|unit| unit.first());
        let forbidden = heads().fold(0, |sum, head| sum | head & 0x80);
        let importance = heads().map(|head| head & 0x60).max().unwrap_or(0);
        sink.put(&[forbidden | importance | STAP_A]);
    }

    fn put_fragment(sink: &mut Sink<'_>, head: &[u8], first: bool, last: bool) {
        let head = head.first().copied().unwrap_or(0);
        sink.put(&[head & 0xe0 | FU_A, u8::from(first) << 7 | u8::from(last) << 6 | head & 0x1f]);
    }

    fn put_head(out: &mut Vec<u8>, packet: &[u8], fragment: u8) {
        out.push(packet.first().map_or(0, |head| head & 0xe0) | fragment & 0x1f);
    }
}
