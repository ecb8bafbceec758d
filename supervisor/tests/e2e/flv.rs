//! A reader of FLV of the tests' own, so that the server's is not checked by itself.

use std::io::{self, Read};

/// Tag type of audio.
pub const AUDIO: u8 = 8;
/// Tag type of video.
pub const VIDEO: u8 = 9;

/// A message, as FLV and RTMP know it.
#[derive(Clone, PartialEq, Eq)]
pub struct Tag {
    /// 8 audio, 9 video, 18 data.
    pub kind: u8,
    /// Milliseconds.
    pub timestamp: u32,
    /// Tag body.
    pub body: Vec<u8>,
}

impl Tag {
    /// Whether it is audio or video that is shown, not configuration, end of sequence or metadata.
    pub fn is_frame(&self) -> bool {
        matches!(self.kind, AUDIO | VIDEO) && self.body.get(1) == Some(&1)
    }

    /// Whether it is an H.264 keyframe.
    pub fn is_keyframe(&self) -> bool {
        self.kind == VIDEO && self.is_frame() && self.body.first().is_some_and(|first| first >> 4 == 1)
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let front = self.body.get(..12).unwrap_or(&self.body);
        write!(f, "tag {} at {} ms, {} bytes {front:02x?}", self.kind, self.timestamp, self.body.len())
    }
}

/// The tags of an FLV file or body.
pub struct Tags<R> {
    from: R,
    begun: bool,
}

impl<R: Read> Tags<R> {
    /// Reads from the first byte of the file on.
    pub fn new(from: R) -> Self {
        Self { from, begun: false }
    }

    fn read(&mut self) -> io::Result<Option<Tag>> {
        if !self.begun {
            let mut header = [0; 13];
            self.from.read_exact(&mut header)?;
            assert_eq!(&header[..4], b"FLV\x01", "no FLV header");
            assert_eq!(&header[5..], [0, 0, 0, 9, 0, 0, 0, 0], "no FLV header");
            self.begun = true;
        }
        let mut head = [0; 11];
        let mut filled = 0;
        while filled < head.len() {
            match self.from.read(&mut head[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        let length = u32::from_be_bytes([0, head[1], head[2], head[3]]);
        let mut body = vec![0; length as usize];
        self.from.read_exact(&mut body)?;
        let mut back = [0; 4];
        self.from.read_exact(&mut back)?;
        assert_eq!(u32::from_be_bytes(back), length + 11, "the size behind a tag is not its size");
        let timestamp = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        Ok(Some(Tag { kind: head[0], timestamp, body }))
    }
}

impl<R: Read> Iterator for Tags<R> {
    type Item = io::Result<Tag>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Panics if a time goes back, audio and video each by themselves.
pub fn assert_monotonic<'a>(tags: impl IntoIterator<Item = &'a Tag>, who: &str) {
    let mut last = [0; 2];
    for tag in tags.into_iter().filter(|tag| tag.is_frame()) {
        let last = &mut last[usize::from(tag.kind == VIDEO)];
        assert!(tag.timestamp >= *last, "{who}: {tag:?} comes after {last} ms");
        *last = tag.timestamp;
    }
}
