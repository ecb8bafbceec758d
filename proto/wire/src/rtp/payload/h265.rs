//! H.265 (RFC 7798), without decoding order numbers.

use bytes::Bytes;
use weir_media::codec::hevc;

use super::{Sink, nal};

/// Several units in a packet.
pub const AP: u8 = 48;
/// A fragment of a unit.
pub const FU: u8 = 49;

/// Cuts the units of a frame into payloads of at most `max` bytes, 64 at least: neighbours that fit go together in an
/// AP, units that are too large become FUs of one size but the last.
pub fn packetise(units: &[&[u8]], max: usize, out: &mut Vec<Bytes>) {
    nal::packetise::<Format>(units, max.max(64), out);
}

pub(super) struct Format;

impl nal::Format for Format {
    const HEAD: usize = 2;
    const AGGREGATE: u8 = AP;
    const FRAGMENT: u8 = FU;

    fn kind(head: u8) -> u8 {
        hevc::kind(&[head])
    }

    /// F is set if it is in any unit, layer and temporal id are the lowest of theirs (4.4.2).
    fn put_aggregate(sink: &mut Sink<'_>, units: &[&[u8]]) {
        let heads = || units.iter().filter_map(|unit| unit.first_chunk::<2>());
        let forbidden = heads().fold(0, |sum, [first, _]| sum | first & 0x80);
        let layers = heads().map(|[first, second]| u16::from(first & 1) << 8 | u16::from(second & 0xf8)).min();
        let temporal = heads().map(|[_, second]| second & 7).min().unwrap_or(1);
        let [high, low] = layers.unwrap_or(0).to_be_bytes();
        sink.put(&[forbidden | AP << 1 | high, low | temporal]);
    }

    fn put_fragment(sink: &mut Sink<'_>, head: &[u8], first: bool, last: bool) {
        let &[one, two] = head.first_chunk().unwrap_or(&[0, 1]);
        let kind = hevc::kind(&[one]);
        sink.put(&[one & 0x81 | FU << 1, two, u8::from(first) << 7 | u8::from(last) << 6 | kind]);
    }

    fn put_head(out: &mut Vec<u8>, packet: &[u8], fragment: u8) {
        let &[one, two] = packet.first_chunk().unwrap_or(&[0, 1]);
        out.extend([one & 0x81 | (fragment & 0x3f) << 1, two]);
    }
}
