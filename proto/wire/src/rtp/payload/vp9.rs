//! VP9 (RFC 9628).

use bytes::Bytes;

use super::{Error, Sink, append, even};

/// Layer frames in a picture.
const LAYERS_MAX: usize = 8;

/// Cuts a frame into payloads of at most `max` bytes, 64 at least, of one size but the last. `picture` is its number,
/// of which 15 bits count; `keyframe` that it is not predicted from others.
pub fn packetise(frame: &[u8], keyframe: bool, picture: u16, max: usize, out: &mut Vec<Bytes>) {
    const DESCRIPTOR: usize = 3;
    let [high, low] = picture.to_be_bytes();
    let size = even(frame.len(), max.max(64) - DESCRIPTOR);
    let mut sink = Sink::new(frame.len() + (frame.len() / size + 1) * DESCRIPTOR, out);
    let mut pieces = frame.chunks(size).peekable();
    let mut first = true;
    while let Some(piece) = pieces.next() {
        let flags = u8::from(!keyframe) << 6 | u8::from(first) << 3 | u8::from(pieces.peek().is_none()) << 2;
        sink.put(&[0x80 | flags, 0x80 | high, low]);
        sink.put(piece);
        sink.done();
        first = false;
    }
}

/// See [`super::assemble`]. A picture of several spatial layers becomes a superframe (Annex B of the VP9
/// specification), which is how files hold it.
pub(super) fn assemble<'a>(payloads: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut starts = Vec::new();
    let mut ended = true;
    for payload in payloads {
        let (descriptor, piece) = Descriptor::parse(payload).ok_or(Error::Short)?;
        if descriptor.begin != ended || starts.len() > LAYERS_MAX {
            return Err(Error::Fragment);
        }
        if descriptor.begin {
            starts.push(out.len());
        }
        append(out, piece)?;
        ended = descriptor.end;
    }
    if !ended || starts.len() > LAYERS_MAX {
        return Err(Error::Fragment);
    }
    if starts.len() > 1 {
        let ends = starts.iter().skip(1).copied().chain([out.len()]);
        let sizes: Vec<usize> = starts.iter().zip(ends).map(|(start, end)| end - start).collect();
        let marker = 0xc0 | 3 << 3 | u8::try_from(sizes.len() - 1).unwrap_or(0) & 7;
        out.push(marker);
        for size in sizes {
            out.extend_from_slice(&u32::try_from(size).unwrap_or(0).to_le_bytes());
        }
        out.push(marker);
    }
    Ok(())
}

/// Pictures that a P_DIFF list names at most (4.2).
const REFERENCES: usize = 3;

/// The payload descriptor (4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// P: predicted from an earlier picture.
    pub predicted: bool,
    /// F: flexible mode.
    pub flexible: bool,
    /// B: the packet begins a layer's frame.
    pub begin: bool,
    /// E: the packet ends a layer's frame.
    pub end: bool,
    /// Its number, and whether it has 15 bits (M) or 7.
    pub picture_id: Option<(u16, bool)>,
    /// TID.
    pub temporal: u8,
    /// U: from here on a receiver may go up to this temporal layer.
    pub switch_up: bool,
    /// SID.
    pub spatial: u8,
    /// D: predicted from the layer below of the same picture.
    pub inter_layer: bool,
    /// TL0PICIDX, in non-flexible mode.
    pub tl0: Option<u8>,
}

impl Descriptor {
    /// Reads the descriptor and gives what is behind it; none where it is cut short.
    pub fn parse(payload: &[u8]) -> Option<(Self, &[u8])> {
        let (&head, mut rest) = payload.split_first()?;
        let mut this = Self {
            predicted: head & 0x40 != 0,
            flexible: head & 0x10 != 0,
            begin: head & 0x08 != 0,
            end: head & 0x04 != 0,
            ..Self::default()
        };
        if head & 0x80 != 0 {
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
        if head & 0x20 != 0 {
            let (&layer, tail) = rest.split_first()?;
            rest = tail;
            this.temporal = layer >> 5;
            this.switch_up = layer & 0x10 != 0;
            this.spatial = (layer >> 1) & 7;
            this.inter_layer = layer & 1 != 0;
            if !this.flexible {
                let (&tl0, tail) = rest.split_first()?;
                rest = tail;
                this.tl0 = Some(tl0);
            }
        }
        if this.flexible && this.predicted {
            for _ in 0..REFERENCES {
                let (&difference, tail) = rest.split_first()?;
                rest = tail;
                if difference & 1 == 0 {
                    break;
                }
            }
        }
        if head & 0x02 != 0 {
            rest = skip_scalability(rest)?;
        }
        Some((this, rest))
    }
}

/// The scalability structure (4.2.1): sizes of the spatial layers and the pictures of a group.
fn skip_scalability(rest: &[u8]) -> Option<&[u8]> {
    let (&head, mut rest) = rest.split_first()?;
    let layers = usize::from(head >> 5) + 1;
    if head & 0x10 != 0 {
        rest = rest.get(4 * layers..)?;
    }
    if head & 0x08 != 0 {
        let (&pictures, tail) = rest.split_first()?;
        rest = tail;
        for _ in 0..pictures {
            let (&picture, tail) = rest.split_first()?;
            rest = tail.get(usize::from((picture >> 2) & 3)..)?;
        }
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors() {
        let structure = [0x8a, 0x81, 0x02, 0x18, 0x01, 0x40, 0x00, 0xf0, 1, 0x04, 1, 0xaa];
        let (found, rest) = Descriptor::parse(&structure).unwrap();
        assert_eq!((found.picture_id, found.begin, found.end, rest), (Some((0x102, true)), true, false, &[0xaa][..]));
        let flexible = [0xf4, 0x05, 0x4d, 0x03, 0x02, 0xaa];
        let (found, rest) = Descriptor::parse(&flexible).unwrap();
        assert_eq!((found.temporal, found.spatial, found.inter_layer, found.switch_up), (2, 6, true, false));
        assert_eq!((found.tl0, rest), (None, &[0xaa][..]));
        for end in 0..11 {
            assert_eq!(Descriptor::parse(&structure[..end]), None);
        }
    }
}
