//! What H.264 and H.265 have in common.

use bytes::Bytes;

use super::{Error, FRAME_MAX, Sink, append, even};

/// Units with sixteen bits of length in front: aggregation packets (RFC 6184 5.7.1, RFC 7798 4.4.2). Ends at one that
/// is cut short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sized16<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Sized16<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (size, rest) = self.0.split_first_chunk::<2>()?;
        let (unit, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        self.0 = rest;
        Some(unit)
    }
}

/// How the two differ.
pub(super) trait Format {
    /// Bytes of a unit's header.
    const HEAD: usize;
    /// Type of packets with several units.
    const AGGREGATE: u8;
    /// Type of packets with a fragment.
    const FRAGMENT: u8;
    /// The type in a header.
    fn kind(head: u8) -> u8;
    /// Appends the header of a packet with these units.
    fn put_aggregate(sink: &mut Sink<'_>, units: &[&[u8]]);
    /// Appends the header of a packet with a fragment of a unit with this header.
    fn put_fragment(sink: &mut Sink<'_>, head: &[u8], first: bool, last: bool);
    /// Appends the header of the unit whose first fragment has this packet header and fragment header.
    fn put_head(out: &mut Vec<u8>, packet: &[u8], fragment: u8);
}

/// Cuts a frame's units into payloads of at most `max` bytes: small neighbours go together, large ones are cut evenly.
pub(super) fn packetise<F: Format>(units: &[&[u8]], max: usize, out: &mut Vec<Bytes>) {
    let total: usize = units.iter().map(|unit| unit.len() + 4).sum();
    let mut sink = Sink::new(total + total / max.max(1) * 4 + 8, out);
    let mut rest = units;
    while let Some((unit, tail)) = rest.split_first() {
        if unit.len() > max {
            fragment::<F>(&mut sink, unit, max);
            rest = tail;
            continue;
        }
        let mut size = F::HEAD;
        let together = rest.iter().take_while(|unit| {
            size += 2 + unit.len();
            size <= max
        });
        match rest.split_at_checked(together.count()) {
            Some((group, tail)) if group.len() > 1 => {
                F::put_aggregate(&mut sink, group);
                for unit in group {
                    sink.put(&u16::try_from(unit.len()).unwrap_or(0).to_be_bytes());
                    sink.put(unit);
                }
                rest = tail;
            }
            _ => {
                sink.put(unit);
                rest = tail;
            }
        }
        sink.done();
    }
}

fn fragment<F: Format>(sink: &mut Sink<'_>, unit: &[u8], max: usize) {
    let Some((head, body)) = unit.split_at_checked(F::HEAD) else { return };
    let size = even(body.len(), max.saturating_sub(F::HEAD + 1));
    let mut pieces = body.chunks(size).peekable();
    let mut first = true;
    while let Some(piece) = pieces.next() {
        F::put_fragment(sink, head, first, pieces.peek().is_none());
        sink.put(piece);
        sink.done();
        first = false;
    }
}

/// See [`super::assemble`].
pub(super) fn assemble<'a, F: Format>(
    payloads: impl Iterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    // Where the length of the unit stands that fragments make.
    let mut open = None;
    for payload in payloads {
        let (head, rest) = payload.split_at_checked(F::HEAD).ok_or(Error::Short)?;
        let kind = F::kind(*head.first().ok_or(Error::Short)?);
        if kind == F::FRAGMENT {
            let (&fragment, piece) = rest.split_first().ok_or(Error::Short)?;
            if fragment & 0x80 != 0 {
                if open.is_some() {
                    return Err(Error::Fragment);
                }
                open = Some(out.len());
                append(out, &[0; 4])?;
                F::put_head(out, head, fragment);
            }
            let start = open.ok_or(Error::Fragment)?;
            append(out, piece)?;
            if fragment & 0x40 != 0 {
                close(out, start);
                open = None;
            }
            continue;
        }
        if open.is_some() {
            return Err(Error::Fragment);
        }
        if kind == F::AGGREGATE {
            let mut units = Sized16(rest);
            for unit in units.by_ref() {
                put_unit(out, unit)?;
            }
            if !units.0.is_empty() {
                return Err(Error::Short);
            }
        } else {
            put_unit(out, payload)?;
        }
    }
    if open.is_some() { Err(Error::Fragment) } else { Ok(()) }
}

fn put_unit(out: &mut Vec<u8>, unit: &[u8]) -> Result<(), Error> {
    let start = out.len();
    append(out, &[0; 4])?;
    append(out, unit)?;
    close(out, start);
    Ok(())
}

/// Writes the length of the unit that began at `start` with four bytes for it.
fn close(out: &mut [u8], start: usize) {
    const { assert!(FRAME_MAX <= u32::MAX as usize) };
    let length = u32::try_from(out.len().saturating_sub(start + 4)).unwrap_or(0);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}
