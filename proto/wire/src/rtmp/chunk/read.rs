use bytes::Bytes;

use super::{DEFAULT_CHUNK_SIZE, EXTENDED, MAX_LENGTH};
use crate::rtmp::Error;

/// One whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The chunk stream it came on.
    pub csid: u32,
    /// RTMP message type id.
    pub type_id: u8,
    /// Message stream id.
    pub stream_id: u32,
    /// Milliseconds modulo 2^32, absolute.
    pub timestamp: u32,
    /// The payload.
    pub body: Bytes,
}

/// What a reader accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of one message.
    pub message: u32,
    /// Chunk streams of one connection, which are never forgotten.
    pub chunk_streams: usize,
    /// Bytes allocated for the partly received messages of one connection together.
    pub partial_bytes: usize,
}

/// A message's buffer starts no larger than this, whatever length its header claims, and doubles from there.
pub(super) const FIRST_BUFFER: usize = 256 * 1024;
/// Basic header, message header and extended timestamp at their longest.
pub(super) const MAX_HEADER: usize = 3 + 11 + 4;

/// Puts messages together from chunks. Takes any split of its input; each byte of it is looked at a bounded number of
/// times and payload is copied once (again where a message outgrows its buffer).
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) bounds: Bounds,
    pub(super) chunk_size: u32,
    pub(super) streams: Vec<Stream>,
    /// Bytes allocated in all of `streams`.
    pub(super) partial: usize,
    /// The start of a header whose end has not come yet.
    pub(super) head: [u8; MAX_HEADER],
    pub(super) head_len: usize,
    /// The stream of the chunk that is being read, and what is missing of it.
    pub(super) current: usize,
    pub(super) missing: usize,
}

/// What a chunk stream remembers for the headers that leave it out.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) csid: u32,
    /// Of the message being read, or of the last one.
    pub(super) timestamp: u32,
    /// The time field of the last header that had one: absolute after fmt 0, a difference after fmt 1 and 2.
    pub(super) field: u32,
    pub(super) absolute: bool,
    pub(super) extended: bool,
    pub(super) length: u32,
    pub(super) type_id: u8,
    pub(super) stream_id: u32,
    /// Not empty while a message is unfinished.
    pub(super) body: Vec<u8>,
}

/// A chunk header as it stands, without what it inherits.
#[derive(Clone, Copy, Default)]
struct Header {
    csid: u32,
    fmt: u8,
    /// Its own bytes.
    size: usize,
    /// The time field, extended or not.
    field: u32,
    extended: bool,
    length: u32,
    type_id: u8,
    stream_id: u32,
}

impl Reader {
    /// A reader of a connection's first chunk.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            chunk_size: DEFAULT_CHUNK_SIZE,
            streams: Vec::new(),
            partial: 0,
            head: [0; MAX_HEADER],
            head_len: 0,
            current: 0,
            missing: 0,
        }
    }

    /// Changes how long a message may be; one that has begun is not affected.
    pub fn set_max_message(&mut self, bytes: u32) {
        self.bounds.message = bytes;
    }

    /// The peer's chunk size. Sizes above 16,777,215 mean the same as it; 0 and a set highest bit are errors (5.4.1).
    pub fn set_chunk_size(&mut self, size: u32) -> Result<(), Error> {
        if size == 0 || size > i32::MAX as u32 {
            return Err(Error::ChunkSize(size));
        }
        self.chunk_size = size.min(MAX_LENGTH);
        Ok(())
    }

    /// Drops the unfinished message of a chunk stream (5.4.2).
    pub fn abort(&mut self, csid: u32) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.csid == csid) {
            self.partial -= stream.body.capacity();
            stream.body = Vec::new();
        }
    }

    /// Bytes allocated for unfinished messages.
    pub fn partial_bytes(&self) -> usize {
        self.partial
    }

    #[cfg(test)]
    pub(crate) fn heap_bytes(&self) -> usize {
        self.partial + self.streams.capacity() * size_of::<Stream>()
    }

    /// Reads up to the end of the next message and moves `input` behind it; `None` once all of `input` is read. After
    /// an error the connection is of no use.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        loop {
            if self.missing == 0 {
                let Some(header) = self.header(input)? else { return Ok(None) };
                self.begin(header)?;
            }
            let gathered = self.head;
            let source = if self.head_len > 0 { gathered.get(..self.head_len).unwrap_or_default() } else { *input };
            let taken = source.get(..self.missing).unwrap_or(source);
            let Some(stream) = self.streams.get_mut(self.current) else { return Ok(None) };
            if stream.body.len() + taken.len() > stream.body.capacity() {
                grow(stream, taken.len(), &mut self.partial, self.bounds.partial_bytes)?;
            }
            stream.body.extend_from_slice(taken);
            self.missing -= taken.len();
            let done = stream.body.len() >= stream.length as usize;
            let size = taken.len();
            if self.head_len > 0 {
                self.consume_head(size)
            } else {
                *input = input.get(size..).unwrap_or_default()
            }
            if done {
                return Ok(self.finish());
            }
            if self.missing > 0 && input.is_empty() && self.head_len == 0 {
                return Ok(None);
            }
        }
    }

    /// The next header, if all of it is here.
    fn header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, Error> {
        if self.head_len == 0
            && let Some(header) = self.parse(input)?
        {
            *input = input.get(header.size..).unwrap_or_default();
            return Ok(Some(header));
        }
        // Fewer bytes than a header needs: gather it byte by byte, at most MAX_HEADER of them.
        loop {
            let gathered = self.head;
            if let Some(header) = self.parse(gathered.get(..self.head_len).unwrap_or_default())? {
                // Where a fmt 3 header turns out to lack its extended timestamp, up to four bytes of payload remain.
                self.consume_head(header.size);
                return Ok(Some(header));
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            let Some(slot) = self.head.get_mut(self.head_len) else { return Err(Error::ChunkHeader) };
            *slot = byte;
            self.head_len += 1;
            *input = rest;
        }
    }

    fn consume_head(&mut self, count: usize) {
        let count = count.min(self.head_len);
        self.head.copy_within(count..self.head_len, 0);
        self.head_len -= count;
    }

    /// The header that `bytes` begin with, or `None` where they end inside it.
    fn parse(&self, bytes: &[u8]) -> Result<Option<Header>, Error> {
        let Some((&first, mut rest)) = bytes.split_first() else { return Ok(None) };
        let (fmt, low) = (first >> 6, first & 0x3f);
        let csid = match low {
            0 => take::<1>(&mut rest).map(|[low]| 64 + u32::from(low)),
            1 => take::<2>(&mut rest).map(|[low, high]| 64 + u32::from(low) + u32::from(high) * 256),
            _ => Some(u32::from(low)),
        };
        let Some(csid) = csid else { return Ok(None) };
        let mut header = Header { csid, fmt, ..Header::default() };
        let complete =
            if fmt == 3 { self.parse_continuation(&mut header, &mut rest)? } else { header.parse(&mut rest) };
        header.size = bytes.len() - rest.len();
        Ok(complete.then_some(header))
    }

    /// The extended timestamp of a fmt 3 chunk. Inside a message it repeats what its first chunk said; some clients
    /// leave it out, and some repeat the absolute time where the first chunk had a difference.
    fn parse_continuation(&self, header: &mut Header, rest: &mut &[u8]) -> Result<bool, Error> {
        let stream = self.find(header.csid).and_then(|index| self.streams.get(index));
        let stream = stream.ok_or(Error::UnknownChunkStream(header.csid))?;
        header.extended = stream.extended;
        header.field = stream.field;
        if !stream.extended {
            return Ok(true);
        }
        let seen = rest.get(..4).unwrap_or(rest);
        let repeats = |time: u32| time.to_be_bytes().starts_with(seen);
        if !stream.body.is_empty() && !repeats(stream.field) && !repeats(stream.timestamp) {
            return Ok(true);
        }
        Ok(take(rest).map(|bytes| header.field = u32::from_be_bytes(bytes)).is_some())
    }

    /// Where the stream is, the one of the last chunk first.
    fn find(&self, csid: u32) -> Option<usize> {
        if self.streams.get(self.current).is_some_and(|stream| stream.csid == csid) {
            return Some(self.current);
        }
        self.streams.iter().position(|stream| stream.csid == csid)
    }

    /// Makes `header`'s chunk the current one.
    fn begin(&mut self, header: Header) -> Result<(), Error> {
        self.current = match self.find(header.csid) {
            Some(index) => index,
            // librtmp begins its control stream with fmt 1, which lacks only the message stream id (0) and a time to
            // count from (0).
            None if header.fmt > 1 => return Err(Error::UnknownChunkStream(header.csid)),
            None if self.streams.len() >= self.bounds.chunk_streams => {
                return Err(Error::ChunkStreams(self.bounds.chunk_streams));
            }
            None => {
                self.streams.push(Stream { csid: header.csid, ..Stream::default() });
                self.streams.len() - 1
            }
        };
        let stream = self.streams.get_mut(self.current).ok_or(Error::UnknownChunkStream(header.csid))?;
        if stream.body.is_empty() {
            stream.start(header);
            if stream.length > self.bounds.message {
                return Err(Error::MessageTooLong { length: stream.length, limit: self.bounds.message });
            }
        } else if header.fmt == 0 || header.fmt == 1 && header.length != stream.length {
            // Some encoders continue with fmt 1 or 2; a new length cannot mean that.
            return Err(Error::UnfinishedMessage(header.csid));
        }
        let missing = (stream.length as usize).saturating_sub(stream.body.len());
        self.missing = missing.min(self.chunk_size as usize);
        Ok(())
    }

    /// Takes the current stream's message out.
    fn finish(&mut self) -> Option<Message> {
        self.missing = 0;
        let stream = self.streams.get_mut(self.current)?;
        self.partial -= stream.body.capacity();
        Some(Message {
            csid: stream.csid,
            type_id: stream.type_id,
            stream_id: stream.stream_id,
            timestamp: stream.timestamp,
            body: Bytes::from(std::mem::take(&mut stream.body)),
        })
    }
}

impl Header {
    /// The message header of fmt 0, 1 and 2 (5.3.1.2); false where `rest` ends inside it.
    fn parse(&mut self, rest: &mut &[u8]) -> bool {
        let Some([a, b, c]) = take(rest) else { return false };
        self.field = u32::from_be_bytes([0, a, b, c]);
        if self.fmt < 2 {
            let Some([a, b, c, type_id]) = take(rest) else { return false };
            self.length = u32::from_be_bytes([0, a, b, c]);
            self.type_id = type_id;
        }
        if self.fmt == 0 {
            let Some(id) = take(rest) else { return false };
            self.stream_id = u32::from_le_bytes(id);
        }
        self.extended = self.field == EXTENDED;
        if self.extended {
            let Some(time) = take(rest) else { return false };
            self.field = u32::from_be_bytes(time);
        }
        true
    }
}

impl Stream {
    /// Starts a message: what the header leaves out stays as it was.
    fn start(&mut self, header: Header) {
        if header.fmt < 3 {
            self.absolute = header.fmt == 0;
            self.extended = header.extended;
        }
        if header.fmt < 2 {
            self.length = header.length;
            self.type_id = header.type_id;
        }
        if header.fmt == 0 {
            self.stream_id = header.stream_id;
        }
        self.field = header.field;
        // After fmt 0, fmt 3 takes the absolute time for the difference (5.3.1.2.4). No writer means that once the time
        // is so large that it is extended: there it is a new absolute time.
        let absolute = header.fmt == 0 || header.fmt == 3 && self.extended && self.absolute;
        self.timestamp = if absolute { header.field } else { self.timestamp.wrapping_add(header.field) };
    }
}

/// Makes room for `more` bytes: the whole message if it is small, else by doubling.
fn grow(stream: &mut Stream, more: usize, partial: &mut usize, limit: usize) -> Result<(), Error> {
    let before = stream.body.capacity();
    let wanted = (stream.body.len() + more).max(before * 2).max(FIRST_BUFFER).min(stream.length as usize);
    if *partial - before + wanted > limit {
        return Err(Error::PartialBytes(limit));
    }
    stream.body.reserve_exact(wanted - stream.body.len());
    *partial = *partial - before + stream.body.capacity();
    Ok(())
}

/// The first `N` bytes, if they are there.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}
