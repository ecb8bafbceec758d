//! FLV tags (E.4.1 of the FLV specification) as they come, without keeping more than their beginning.

use weir_media::Kind;

use super::{Error, Media};
use crate::stamp;

/// Signature, version, flags, header size and the first PreviousTagSize.
const HEADER: usize = 13;
const TAG_HEAD: usize = 11;
/// So much of a body is kept: a stamp, and what tells a keyframe.
const KEPT: usize = if stamp::REACH > 64 { stamp::REACH } else { 64 };
/// PreviousTagSize.
const TAIL: usize = 4;

/// What stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TagHead {
    /// Tag type.
    pub(crate) type_id: u8,
    /// Whether the body is encrypted (the Filter bit).
    pub(crate) encrypted: bool,
    /// Bytes of the body.
    pub(crate) length: usize,
    /// Milliseconds.
    pub(crate) timestamp: u32,
}

impl TagHead {
    /// Reads it.
    pub(crate) fn parse(bytes: &[u8; TAG_HEAD]) -> Self {
        let [type_id, l0, l1, l2, t0, t1, t2, extended, ..] = *bytes;
        Self {
            type_id: type_id & 0x1f,
            encrypted: type_id & 0x20 != 0,
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            timestamp: u32::from_be_bytes([extended, t0, t1, t2]),
        }
    }
}

/// Where in the file the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    Header,
    TagHead,
    Body(TagHead),
}

/// Reads tags out of a stream of bytes.
#[derive(Debug)]
pub(crate) struct Tags {
    place: Place,
    /// The beginning of what stands there.
    kept: Vec<u8>,
    /// Bytes that come before the next place.
    missing: usize,
}

impl Tags {
    /// At the file's first byte.
    pub(crate) fn new() -> Self {
        Self { place: Place::Header, kept: Vec::new(), missing: HEADER }
    }

    /// Takes the next bytes and hands each tag that is complete to `media`.
    ///
    /// # Errors
    /// They are no FLV file.
    pub(crate) fn read(&mut self, mut bytes: &[u8], media: &mut impl FnMut(Media<'_>)) -> Result<(), Error> {
        while let Some((taken, rest)) = bytes.split_at_checked(self.missing) {
            self.keep(taken);
            bytes = rest;
            self.missing = 0;
            self.next(media)?;
        }
        self.keep(bytes);
        self.missing -= bytes.len();
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// What is here is complete.
    fn next(&mut self, media: &mut impl FnMut(Media<'_>)) -> Result<(), Error> {
        match self.place {
            Place::Header => {
                if !self.kept.starts_with(b"FLV") {
                    return Err(Error::Flv);
                }
                (self.place, self.missing) = (Place::TagHead, TAG_HEAD);
            }
            Place::TagHead => {
                let head = TagHead::parse(self.kept.first_chunk().ok_or(Error::Flv)?);
                if Kind::from_type(head.type_id).is_none() {
                    return Err(Error::Flv);
                }
                (self.place, self.missing) = (Place::Body(head), head.length + TAIL);
            }
            Place::Body(head) => {
                let kind = Kind::from_type(head.type_id).ok_or(Error::Flv)?;
                let body = self.kept.get(..head.length).unwrap_or(&self.kept);
                media(Media { kind, timestamp: head.timestamp, body });
                (self.place, self.missing) = (Place::TagHead, TAG_HEAD);
            }
        }
        self.kept.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use weir_media::flv::{FILE_HEADER, write_tag};
    use weir_media::{Frame, FrameId};

    fn seen(file: &[u8], step: usize) -> Result<Vec<(Kind, u32, Vec<u8>)>, Error> {
        let (mut tags, mut seen) = (Tags::new(), Vec::new());
        for piece in file.chunks(step) {
            tags.read(piece, &mut |media| seen.push((media.kind, media.timestamp, media.body.to_vec())))?;
        }
        assert!(tags.kept.len() <= KEPT);
        Ok(seen)
    }

    #[test]
    fn tags_of_any_size_in_pieces_of_any_size() {
        let mut file = FILE_HEADER.to_vec();
        let mut wanted = Vec::new();
        for (index, length) in [0, 1, KEPT - 1, KEPT, KEPT + 1, 70_000].into_iter().enumerate() {
            let body: Vec<u8> = (0..length).map(|byte| byte.to_le_bytes()[0]).collect();
            let kind = [Kind::Data, Kind::Video, Kind::Audio][index % 3];
            let ms = 0x00ff_fff0 + index as u32 * 10;
            wanted.push((kind, ms, body[..length.min(KEPT)].to_vec()));
            write_tag(&mut file, &Frame::new(FrameId::default(), kind, i64::from(ms) * 1000, Bytes::from(body)));
        }
        // What is kept of a body may reach into its tail, never further.
        for step in [1, 2, 3, 7, 64, 1000, file.len()] {
            assert_eq!(seen(&file, step).unwrap(), wanted, "{step}");
        }
    }

    #[test]
    fn what_is_no_flv() {
        assert!(seen(b"<html><body>not here</body>", 5).is_err());
        let mut file = FILE_HEADER.to_vec();
        file.extend_from_slice(&[7; 11]);
        assert!(seen(&file, 100).is_err());
    }

    #[test]
    fn fuzz_tags() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|bytes: &[u8]| {
            let with_header = [&FILE_HEADER, bytes].concat();
            let _ = seen(&with_header, 3);
        });
    }
}
