//! VP8 (RFC 7741).

use bytes::Bytes;

use super::{Error, Sink, append, even};

/// Cuts a frame into payloads of at most `max` bytes, 64 at least, of one size but the last. `picture` is its number,
/// of which 15 bits count. All of it is sent as one partition, as senders do that do not look into frames.
pub fn packetise(frame: &[u8], picture: u16, max: usize, out: &mut Vec<Bytes>) {
    const DESCRIPTOR: usize = 4;
    let [high, low] = picture.to_be_bytes();
    let size = even(frame.len(), max.max(64) - DESCRIPTOR);
    let mut sink = Sink::new(frame.len() + (frame.len() / size + 1) * DESCRIPTOR, out);
    for (i, piece) in frame.chunks(size).enumerate() {
        sink.put(&[0x80 | u8::from(i == 0) << 4, 0x80, 0x80 | high, low]);
        sink.put(piece);
        sink.done();
    }
}

/// See [`super::assemble`].
pub(super) fn assemble<'a>(payloads: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> Result<(), Error> {
    for (i, payload) in payloads.enumerate() {
        let (descriptor, piece) = Descriptor::parse(payload).ok_or(Error::Short)?;
        if i == 0 && !(descriptor.start && descriptor.partition == 0) {
            return Err(Error::Fragment);
        }
        append(out, piece)?;
    }
    Ok(())
}

/// The payload descriptor (4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// N: the frame may be left out.
    pub non_reference: bool,
    /// S: the packet begins a partition.
    pub start: bool,
    /// PID: which partition.
    pub partition: u8,
    /// Its number, and whether it has 15 bits (M) or 7.
    pub picture_id: Option<(u16, bool)>,
    /// TL0PICIDX: counts the frames of the base temporal layer.
    pub tl0: Option<u8>,
    /// TID: the temporal layer.
    pub temporal: Option<u8>,
    /// Where the picture id and TL0PICIDX lie in the payload: what a router rewrites as it goes from layer to layer.
    pub picture_id_at: usize,
    /// See `picture_id_at`.
    pub tl0_at: usize,
}

impl Descriptor {
    /// Reads the descriptor and gives what is behind it; none where it is cut short.
    pub fn parse(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (&head, mut rest) = payload.split_first()?;
        let at = |rest: &[u8]| payload.len() - rest.len();
        let mut this = Self {
            non_reference: head & 0x20 != 0,
            start: head & 0x10 != 0,
            partition: head & 0x07,
            ..Self::default()
        };
        if head & 0x80 == 0 {
            return Some((this, rest));
        }
        let (&extended, tail) = rest.split_first()?;
        rest = tail;
        if extended & 0x80 != 0 {
            this.picture_id_at = at(rest);
            let (&first, tail) = rest.split_first()?;
            rest = tail;
            let mut id = u16::from(first & 0x7f);
            if first & 0x80 != 0 {
                let (&second, tail) = rest.split_first()?;
                rest = tail;
                id = id << 8 | u16::from(second);
            }
            this.picture_id = Some((id, first & 0x80 != 0));
        }
        if extended & 0x40 != 0 {
            this.tl0_at = at(rest);
            let (&tl0, tail) = rest.split_first()?;
            rest = tail;
            this.tl0 = Some(tl0);
        }
        // TID and KEYIDX share a byte that is there for either.
        if extended & 0x30 != 0 {
            let (&layer, tail) = rest.split_first()?;
            rest = tail;
            this.temporal = (extended & 0x20 != 0).then_some(layer >> 6);
        }
        Some((this, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors() {
        let all = [0x90, 0xf0, 0x81, 0x02, 9, 0xc5, 0xaa];
        let (found, rest) = Descriptor::parse(&all).unwrap();
        assert_eq!((found.picture_id, found.tl0, found.temporal), (Some((0x102, true)), Some(9), Some(3)));
        assert_eq!((found.picture_id_at, found.tl0_at, rest), (2, 4, &[0xaa][..]));
        let short = [0x90, 0x80, 0x7f, 0xaa];
        let (found, rest) = Descriptor::parse(&short).unwrap();
        assert_eq!((found.picture_id, found.tl0, rest), (Some((127, false)), None, &[0xaa][..]));
        for end in 0..6 {
            assert_eq!(Descriptor::parse(&all[..end]), None);
        }
    }
}
