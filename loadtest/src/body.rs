//! What an HTTP server answers with: the head, the ways to delimit a body, and FLV tags in it. Pure.

use anyhow::{bail, ensure};

/// A head longer than this is none.
const HEAD_MAX: usize = 16 * 1024;
/// A line that says how long a chunk is.
const LINE_MAX: usize = 256;

/// Takes a response apart as it comes.
#[derive(Debug)]
pub(crate) struct Body {
    state: State,
    line: Vec<u8>,
    tags: Tags,
}

#[derive(Debug)]
enum State {
    Head,
    /// Ends with the connection, or after so many bytes.
    Plain,
    ChunkSize,
    Chunk(u64),
    /// The line end behind a chunk.
    ChunkEnd,
    End,
}

impl Body {
    pub(crate) fn new() -> Self {
        Self { state: State::Head, line: Vec::new(), tags: Tags::new() }
    }

    /// Whether the head has come.
    pub(crate) fn begun(&self) -> bool {
        !matches!(self.state, State::Head)
    }

    /// Takes what was read and tells `tag` of each whole tag: its type, and the first bytes of its body.
    ///
    /// # Errors
    /// The server refused, or this is not FLV.
    pub(crate) fn handle(&mut self, mut input: &[u8], mut tag: impl FnMut(u8, &[u8])) -> anyhow::Result<()> {
        while !input.is_empty() {
            match &mut self.state {
                State::Head => {
                    let Some(end) = self.line(&mut input, b"\r\n\r\n", HEAD_MAX)? else { return Ok(()) };
                    self.state = head(&end)?;
                }
                State::Plain => {
                    self.tags.handle(input, &mut tag)?;
                    return Ok(());
                }
                State::ChunkSize => {
                    let Some(line) = self.line(&mut input, b"\r\n", LINE_MAX)? else { return Ok(()) };
                    let text = String::from_utf8_lossy(&line);
                    let size = text.split(';').next().unwrap_or_default().trim();
                    let Ok(size) = u64::from_str_radix(size, 16) else { bail!("malformed chunk size {size:?}") };
                    self.state = if size == 0 { State::End } else { State::Chunk(size) };
                }
                State::Chunk(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    let (part, rest) = input.split_at(count);
                    *left -= count as u64;
                    let done = *left == 0;
                    self.tags.handle(part, &mut tag)?;
                    input = rest;
                    if done {
                        self.state = State::ChunkEnd;
                    }
                }
                State::ChunkEnd => {
                    if self.line(&mut input, b"\r\n", LINE_MAX)?.is_some() {
                        self.state = State::ChunkSize;
                    }
                }
                State::End => return Ok(()),
            }
        }
        Ok(())
    }

    /// What comes up to `end`, once all of it is here.
    fn line(&mut self, input: &mut &[u8], end: &[u8], max: usize) -> anyhow::Result<Option<Vec<u8>>> {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            self.line.push(*byte);
            if self.line.ends_with(end) {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
            ensure!(self.line.len() <= max, "no end of the line after {max} bytes");
        }
        Ok(None)
    }
}

fn head(bytes: &[u8]) -> anyhow::Result<State> {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(status.split(' ').nth(1) == Some("200"), "{status}");
    let chunked = lines.filter_map(|line| line.split_once(':')).any(|(name, value)| {
        name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked")
    });
    Ok(if chunked { State::ChunkSize } else { State::Plain })
}

/// `FLV`, version, flags, header size, and the size of no tag.
const FILE_HEADER: usize = 13;
const TAG_HEADER: usize = 11;
const TAG_TRAILER: usize = 4;

/// Finds the tags in FLV without keeping their bodies.
#[derive(Debug)]
pub(crate) struct Tags {
    /// Bytes still to be skipped.
    skip: usize,
    gathered: Vec<u8>,
    file_header: bool,
    /// Of the tag whose first bytes are gathered: type and size of the body.
    current: Option<(u8, usize)>,
}

impl Tags {
    pub(crate) fn new() -> Self {
        Self { skip: 0, gathered: Vec::new(), file_header: false, current: None }
    }

    /// # Errors
    /// This is not FLV.
    pub(crate) fn handle(&mut self, mut input: &[u8], tag: &mut impl FnMut(u8, &[u8])) -> anyhow::Result<()> {
        loop {
            let count = self.skip.min(input.len());
            self.skip -= count;
            input = input.get(count..).unwrap_or_default();
            if self.skip > 0 {
                return Ok(());
            }
            // A tag is told when its last byte has come.
            if let Some((kind, size)) = self.current
                && self.gathered.len() >= size.min(crate::stamp::HEAD)
            {
                tag(kind, &self.gathered);
                self.gathered.clear();
                self.current = None;
            }
            if input.is_empty() {
                return Ok(());
            }
            let wanted = match self.current {
                None if !self.file_header => FILE_HEADER,
                None => TAG_HEADER,
                Some((_, size)) => size.min(crate::stamp::HEAD),
            };
            let count = (wanted - self.gathered.len()).min(input.len());
            self.gathered.extend_from_slice(input.get(..count).unwrap_or_default());
            input = input.get(count..).unwrap_or_default();
            if self.gathered.len() < wanted {
                return Ok(());
            }
            self.complete()?;
        }
    }

    /// The header, or the first bytes of a body, are gathered.
    fn complete(&mut self) -> anyhow::Result<()> {
        match (self.current, self.gathered.as_slice()) {
            (Some((_, size)), first) => self.skip = size - first.len() + TAG_TRAILER,
            (None, [b'F', b'L', b'V', ..]) if !self.file_header => {
                self.file_header = true;
                self.gathered.clear();
            }
            (None, &[kind, a, b, c, ..]) if self.file_header => {
                let size = u32::from_be_bytes([0, a, b, c]) as usize;
                ensure!(matches!(kind, 8 | 9 | 18), "{kind} is no type of an FLV tag");
                self.gathered.clear();
                self.current = Some((kind, size));
                if size == 0 {
                    self.skip = TAG_TRAILER;
                }
            }
            _ => bail!("this is not FLV"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use weir_media::{Frame, FrameId, Kind, flv};

    use super::*;

    fn file(sizes: &[usize]) -> Vec<u8> {
        let mut out = flv::FILE_HEADER.to_vec();
        for (i, size) in sizes.iter().enumerate() {
            let body = vec![i as u8; *size];
            flv::write_tag(&mut out, &Frame::new(FrameId::default(), Kind::Video, 0, body.into()));
        }
        out
    }

    fn read(response: &[u8], part: usize) -> anyhow::Result<Vec<(u8, Vec<u8>)>> {
        let (mut body, mut seen) = (Body::new(), Vec::new());
        for part in response.chunks(part) {
            body.handle(part, |kind, first| seen.push((kind, first.to_vec())))?;
        }
        Ok(seen)
    }

    #[test]
    fn tags_are_found_in_any_split_and_either_encoding() {
        let sizes = [5, 1, 4000, 40, 41, 60];
        let file = file(&sizes);
        let plain = [&b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..], &file].concat();
        let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n".to_vec();
        for part in file.chunks(37) {
            chunked.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
            chunked.extend_from_slice(part);
            chunked.extend_from_slice(b"\r\n");
        }
        chunked.extend_from_slice(b"0\r\n\r\n");
        for response in [plain, chunked] {
            for part in [1, 2, 7, 100, 1 << 20] {
                let seen = read(&response, part).unwrap();
                let wanted: Vec<_> =
                    sizes.iter().enumerate().map(|(i, s)| (9, vec![i as u8; (*s).min(crate::stamp::HEAD)])).collect();
                assert_eq!(seen, wanted, "in parts of {part}");
            }
        }
    }

    #[test]
    fn refusals_and_nonsense_are_told() {
        let refused = read(b"HTTP/1.1 404 Not Found\r\n\r\n", 100).unwrap_err();
        assert_eq!(refused.to_string(), "HTTP/1.1 404 Not Found");
        assert!(read(b"HTTP/1.1 200 OK\r\n\r\n<html>this is a page</html>", 100).is_err());
        assert!(read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 100).is_err());
        assert!(read(&vec![b'x'; HEAD_MAX * 2], 100).is_err());
    }
}
