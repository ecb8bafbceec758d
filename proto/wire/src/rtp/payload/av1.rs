//! AV1 (RTP Payload Format For AV1, version 1.0, of the Alliance for Open Media).

use bytes::Bytes;
use weir_media::codec::av1::{Obu, Obus, kind, leb128_len, read_leb128, unit, write_obu};

use super::{Error, FRAME_MAX, Sink, even};

/// Elements in a packet: W counts no more of them, and the last then needs no length (4.4).
const ELEMENTS: usize = 3;

/// A piece of an element: a unit's header, without its size field, and payload.
struct Piece<'a> {
    obu: Obu<'a>,
    from: usize,
    to: usize,
}

impl Piece<'_> {
    fn put(&self, sink: &mut Sink<'_>) {
        let head = self.obu.head;
        if let (0, Some((first, rest))) = (self.from, head.split_first()) {
            sink.put(&[first & !0x02]);
            sink.put(rest);
        }
        let (from, to) = (self.from.saturating_sub(head.len()), self.to.saturating_sub(head.len()));
        sink.put(self.obu.payload.get(from..to).unwrap_or_default());
    }
}

/// Cuts a temporal unit in the low-overhead format into payloads of at most `max` bytes, 64 at least, of one size but
/// the last. `sequence` says that a new coded video sequence begins with it.
pub fn packetise(temporal_unit: &[u8], sequence: bool, max: usize, out: &mut Vec<Bytes>) {
    let max = max.max(64);
    let carried = |obu: &Obu<'_>| !matches!(obu.kind(), unit::TEMPORAL_DELIMITER | unit::TILE_LIST | unit::PADDING);
    let units = || Obus(temporal_unit).filter(carried).map(|obu| (obu, obu.head.len() + obu.payload.len()));
    let total: usize = units().map(|(_, length)| length + leb128_len(length)).sum();
    let room = even(total, max - 1);
    let mut sink = Sink::new(total + total / room + 16, out);
    let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(ELEMENTS);
    let (mut space, mut start) = (room, sequence);
    for (obu, length) in units() {
        let mut from = 0;
        while from < length {
            let rest = length - from;
            let whole = rest + leb128_len(rest) < space && pieces.len() + 1 < ELEMENTS;
            // A header is not torn: one of two bytes would be, and the others lose nothing by it.
            let to = match from + rest.min(space) {
                1 if length > 1 => 0,
                to => to,
            };
            if to > from {
                pieces.push(Piece { obu, from, to });
                from = to;
            }
            if whole {
                space -= rest + leb128_len(rest);
                continue;
            }
            flush(&mut sink, &mut pieces, from < length, &mut start);
            space = room;
        }
    }
    if !pieces.is_empty() {
        flush(&mut sink, &mut pieces, false, &mut start);
    }
}

/// Writes a packet: its aggregation header, and lengths in front of all elements but the last.
fn flush(sink: &mut Sink<'_>, pieces: &mut Vec<Piece<'_>>, more: bool, start: &mut bool) {
    let continues = pieces.first().is_some_and(|piece| piece.from > 0);
    let torn = more && pieces.last().is_some_and(|piece| piece.to < piece.obu.head.len() + piece.obu.payload.len());
    let count = u8::try_from(pieces.len()).unwrap_or(0) & 3;
    sink.put(&[u8::from(continues) << 7 | u8::from(torn) << 6 | count << 4 | u8::from(*start) << 3]);
    *start = false;
    let last = pieces.pop();
    for piece in pieces.drain(..) {
        let mut length = Vec::with_capacity(4);
        weir_media::codec::av1::write_leb128(&mut length, piece.to - piece.from);
        sink.put(&length);
        piece.put(sink);
    }
    if let Some(last) = last {
        last.put(sink);
    }
    sink.done();
}

/// See [`super::assemble`].
pub(super) fn assemble<'a>(payloads: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> Result<(), Error> {
    // The element that goes on in the next packet.
    let mut open: Option<Vec<u8>> = None;
    for payload in payloads {
        let (&head, mut rest) = payload.split_first().ok_or(Error::Short)?;
        let (continues, torn, count) = (head & 0x80 != 0, head & 0x40 != 0, head >> 4 & 3);
        if continues != open.is_some() {
            return Err(Error::Fragment);
        }
        let mut index = 0;
        while !rest.is_empty() {
            index += 1;
            let element = if index == count {
                core::mem::take(&mut rest)
            } else {
                let (length, tail) = read_leb128(rest).ok_or(Error::Short)?;
                let length = usize::try_from(length).map_err(|_| Error::Long)?;
                let (element, tail) = tail.split_at_checked(length).ok_or(Error::Short)?;
                rest = tail;
                element
            };
            let torn = torn && rest.is_empty();
            match open.take() {
                Some(mut begun) => {
                    if out.len() + begun.len() + element.len() > FRAME_MAX {
                        return Err(Error::Long);
                    }
                    begun.extend_from_slice(element);
                    if torn { open = Some(begun) } else { put_element(out, &begun)? }
                }
                None if torn => open = Some(element.to_vec()),
                None => put_element(out, element)?,
            }
        }
        // W says how many there are (4.4).
        if count != 0 && index != count {
            return Err(Error::Short);
        }
    }
    if open.is_some() { Err(Error::Fragment) } else { Ok(()) }
}

/// Appends an element with a size field, whether it came with one or not.
fn put_element(out: &mut Vec<u8>, element: &[u8]) -> Result<(), Error> {
    let Some(first) = element.first() else { return Ok(()) };
    if matches!(kind(*first), unit::TEMPORAL_DELIMITER | unit::TILE_LIST | unit::PADDING) {
        return Ok(());
    }
    let obu = Obus(element).next().ok_or(Error::Short)?;
    if out.len() + element.len() + 8 > FRAME_MAX {
        return Err(Error::Long);
    }
    write_obu(out, obu);
    Ok(())
}
