//! A reader between two reads, as it travels to another process.
use super::read::{MAX_HEADER, Stream};
use super::{Bounds, Reader};

/// A [`Reader`] in mid-stream: what it remembers of each chunk stream, and the part of a message that has come. As with
/// every message of its kind, fields are only ever added.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SavedReader {
    /// The peer's chunk size.
    #[prost(uint32, tag = "1")]
    chunk_size: u32,
    /// Bytes that one message may have by now.
    #[prost(uint32, tag = "2")]
    message_max: u32,
    #[prost(message, repeated, tag = "3")]
    streams: Vec<SavedStream>,
    /// The start of a header whose end has not come yet.
    #[prost(bytes = "vec", tag = "4")]
    head: Vec<u8>,
    /// Index into `streams` of the chunk that is being read, and the bytes that are missing of it.
    #[prost(uint32, tag = "5")]
    current: u32,
    #[prost(uint32, tag = "6")]
    missing: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SavedStream {
    #[prost(uint32, tag = "1")]
    csid: u32,
    #[prost(uint32, tag = "2")]
    timestamp: u32,
    #[prost(uint32, tag = "3")]
    field: u32,
    #[prost(bool, tag = "4")]
    absolute: bool,
    #[prost(bool, tag = "5")]
    extended: bool,
    #[prost(uint32, tag = "6")]
    length: u32,
    #[prost(uint32, tag = "7")]
    type_id: u32,
    #[prost(uint32, tag = "8")]
    stream_id: u32,
    #[prost(bytes = "vec", tag = "9")]
    body: Vec<u8>,
}

impl Reader {
    /// What [`restore`](Self::restore) needs.
    pub fn save(&self) -> SavedReader {
        let streams = self.streams.iter().map(|stream| SavedStream {
            csid: stream.csid,
            timestamp: stream.timestamp,
            field: stream.field,
            absolute: stream.absolute,
            extended: stream.extended,
            length: stream.length,
            type_id: u32::from(stream.type_id),
            stream_id: stream.stream_id,
            body: stream.body.clone(),
        });
        SavedReader {
            chunk_size: self.chunk_size,
            message_max: self.bounds.message,
            streams: streams.collect(),
            head: self.head.get(..self.head_len).unwrap_or_default().to_vec(),
            current: number(self.current),
            missing: number(self.missing),
        }
    }

    /// A reader that goes on where another stood. `None`: that one cannot have stood there, or had more than `bounds`
    /// allow; their message length is the one that was saved.
    pub fn restore(saved: SavedReader, bounds: Bounds) -> Option<Self> {
        let mut reader = Self::new(Bounds { message: saved.message_max, ..bounds });
        reader.set_chunk_size(saved.chunk_size).ok()?;
        if saved.streams.len() > bounds.chunk_streams || saved.head.len() > MAX_HEADER {
            return None;
        }
        for stream in saved.streams {
            if stream.body.len() > stream.length as usize || stream.length > super::MAX_LENGTH {
                return None;
            }
            reader.partial += stream.body.capacity();
            reader.streams.push(Stream {
                csid: stream.csid,
                timestamp: stream.timestamp,
                field: stream.field,
                absolute: stream.absolute,
                extended: stream.extended,
                length: stream.length,
                type_id: u8::try_from(stream.type_id).ok()?,
                stream_id: stream.stream_id,
                body: stream.body,
            });
        }
        reader.head.get_mut(..saved.head.len())?.copy_from_slice(&saved.head);
        reader.head_len = saved.head.len();
        (reader.current, reader.missing) = (saved.current as usize, saved.missing as usize);
        let left = reader.streams.get(reader.current).map_or(0, |stream| stream.length as usize - stream.body.len());
        (reader.missing <= left && reader.partial <= bounds.partial_bytes).then_some(reader)
    }
}

/// Sizes of a reader are all below 2^24.
fn number(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
