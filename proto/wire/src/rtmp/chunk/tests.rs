use std::collections::HashMap;

use proptest::prelude::*;

use super::{Bounds, Message, Reader, SavedReader, write_message};
use crate::rtmp::Error;

const BOUNDS: Bounds = Bounds { message: 1 << 20, chunk_streams: 64, partial_bytes: 1 << 22 };

fn reader(chunk_size: u32) -> Reader {
    let mut reader = Reader::new(BOUNDS);
    reader.set_chunk_size(chunk_size).unwrap();
    reader
}

fn read_all(reader: &mut Reader, mut input: &[u8]) -> Result<Vec<Message>, Error> {
    let mut messages = Vec::new();
    while let Some(message) = reader.read(&mut input)? {
        messages.push(message);
    }
    assert!(input.is_empty());
    Ok(messages)
}

fn message(csid: u32, type_id: u8, timestamp: u32, body: &[u8]) -> Message {
    Message { csid, type_id, stream_id: 1, timestamp, body: body.to_vec().into() }
}

/// A writer that uses every header form, as a client may; `write_message` uses only the full one.
#[derive(Default)]
struct Writer {
    last: HashMap<u32, Last>,
    omit_extended: bool,
}

#[derive(Clone, Copy)]
struct Last {
    timestamp: u32,
    field: u32,
    absolute: bool,
    length: usize,
    type_id: u8,
    stream_id: u32,
}

impl Writer {
    /// The chunks of one message with the shortest legal header up to `fmt`.
    fn chunks(&mut self, message: &Message, fmt: u8, chunk_size: usize) -> Vec<Vec<u8>> {
        let last = self.last.get(&message.csid).copied();
        let delta = message.timestamp.wrapping_sub(last.map_or(0, |last| last.timestamp));
        let legal = match last {
            None => 0,
            Some(last) if last.stream_id != message.stream_id => 0,
            Some(last) if (last.length, last.type_id) != (message.body.len(), message.type_id) => 1,
            Some(last) if last.absolute && last.field >= 0xff_ffff => 3,
            Some(last) if last.field == delta => 3,
            Some(_) => 2,
        };
        let fmt = fmt.min(legal);
        let absolute = fmt == 0 || fmt == 3 && last.is_some_and(|last| last.absolute);
        let field = match (fmt, last) {
            (3, Some(last)) if last.field < 0xff_ffff => last.field,
            _ if absolute => message.timestamp,
            _ => delta,
        };
        let extended = if fmt == 3 { last.is_some_and(|last| last.field >= 0xff_ffff) } else { field >= 0xff_ffff };
        let mut chunk = basic(fmt, message.csid);
        if fmt < 3 {
            chunk.extend_from_slice(&field.min(0xff_ffff).to_be_bytes()[1..]);
        }
        if fmt < 2 {
            chunk.extend_from_slice(&(message.body.len() as u32).to_be_bytes()[1..]);
            chunk.push(message.type_id);
        }
        if fmt == 0 {
            chunk.extend_from_slice(&message.stream_id.to_le_bytes());
        }
        if extended {
            chunk.extend_from_slice(&field.to_be_bytes());
        }
        let mut pieces = message.body.chunks(chunk_size);
        chunk.extend_from_slice(pieces.next().unwrap_or_default());
        let mut chunks = vec![chunk];
        for piece in pieces {
            let mut chunk = basic(3, message.csid);
            if extended && !self.omit_extended {
                chunk.extend_from_slice(&field.to_be_bytes());
            }
            chunk.extend_from_slice(piece);
            chunks.push(chunk);
        }
        // A fmt 3 header with its own extended time changes it, but not whether it is extended.
        let (length, type_id, stream_id) = (message.body.len(), message.type_id, message.stream_id);
        let last = Last { timestamp: message.timestamp, field, absolute, length, type_id, stream_id };
        self.last.insert(message.csid, last);
        chunks
    }
}

fn basic(fmt: u8, csid: u32) -> Vec<u8> {
    match csid {
        2..64 => vec![fmt << 6 | csid as u8],
        64..320 => vec![fmt << 6, (csid - 64) as u8],
        _ => vec![fmt << 6 | 1, (csid - 64) as u8, ((csid - 64) >> 8) as u8],
    }
}

#[derive(Clone, Debug)]
struct Sent {
    message: Message,
    fmt: u8,
    /// Chooses which chunk stream goes on when several have chunks left.
    pick: usize,
}

fn any_sent() -> impl Strategy<Value = Sent> {
    let csid = prop_oneof![2u32..8, Just(63), Just(64), Just(319), Just(320), Just(65_599)];
    let time = prop_oneof![0u32..100, 0xff_fff0u32..0x100_0010, any::<u32>(), 0xffff_ff00u32..];
    let length = prop_oneof![0usize..4, Just(40), 0usize..600];
    (csid, 8u8..10, 0u32..2, time, length, any::<u8>(), 0u8..4, any::<usize>()).prop_map(
        |(csid, type_id, stream_id, timestamp, length, seed, fmt, pick)| {
            let body: Vec<u8> = (0..length).map(|index| (index as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            Sent { message: Message { csid, type_id, stream_id, timestamp, body: body.into() }, fmt, pick }
        },
    )
}

/// The bytes of one chunk, and the message that it ends.
type Chunk = (Vec<u8>, Option<Message>);

/// Interleaves the messages of different chunk streams, and says in which order they end.
fn interleave(sent: &[Sent], chunk_size: usize, omit_extended: bool) -> (Vec<u8>, Vec<Message>) {
    let mut writer = Writer { omit_extended, ..Writer::default() };
    let mut queues: Vec<(u32, Vec<Chunk>)> = Vec::new();
    for one in sent {
        let chunks = writer.chunks(&one.message, one.fmt, chunk_size);
        let count = chunks.len();
        let tagged = chunks.into_iter().enumerate();
        let tagged = tagged.map(|(index, chunk)| (chunk, (index + 1 == count).then(|| one.message.clone())));
        match queues.iter_mut().find(|(csid, _)| *csid == one.message.csid) {
            Some((_, queue)) => queue.extend(tagged),
            None => queues.push((one.message.csid, tagged.collect())),
        }
    }
    let (mut bytes, mut order, mut picks) = (Vec::new(), Vec::new(), sent.iter().map(|one| one.pick).cycle());
    while !queues.is_empty() {
        let at = picks.next().unwrap() % queues.len();
        let (chunk, end) = queues[at].1.remove(0);
        bytes.extend(chunk);
        order.extend(end);
        if queues[at].1.is_empty() {
            queues.remove(at);
        }
    }
    (bytes, order)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_what_any_writer_may_write(
        sent in prop::collection::vec(any_sent(), 1..12),
        chunk_size in prop_oneof![1usize..5, Just(128), 1usize..700, Just(16_777_215)],
        cuts in prop::collection::vec(1usize..40, 1..20),
        omit in any::<bool>(),
        travels in any::<bool>(),
    ) {
        let (mut bytes, order) = interleave(&sent, chunk_size, omit);
        // Behind an omitted timestamp the reader may have to look at what follows.
        write_message(&mut bytes, 9, 18, 0, 0, b"end", chunk_size as u32);
        let mut reader = reader(chunk_size as u32);
        let (mut rest, mut messages, mut cuts) = (&bytes[..], Vec::new(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            messages.extend(read_all(&mut reader, piece).unwrap());
            if travels {
                let bytes = prost::Message::encode_to_vec(&reader.save());
                let saved = <SavedReader as prost::Message>::decode(&*bytes).unwrap();
                reader = Reader::restore(saved, BOUNDS).unwrap();
            }
            rest = after;
        }
        prop_assert!(messages.pop().is_some());
        prop_assert_eq!(messages, order);
        prop_assert_eq!(reader.partial_bytes(), 0);
    }

    #[test]
    fn reads_what_the_log_writes(
        csid in 2u32..65_600, timestamp: u32, length in 0usize..70_000, chunk_size in 1u32..=16_777_215,
    ) {
        let body = vec![0x5a; length];
        let mut bytes = Vec::new();
        // The shortest chunks of the longest bodies are slow and show nothing more.
        let chunk_size = chunk_size.max(length as u32 / 1000 + 1);
        write_message(&mut bytes, csid, 9, 1, timestamp, &body, chunk_size);
        prop_assert_eq!(read_all(&mut reader(chunk_size), &bytes).unwrap(), [message(csid, 9, timestamp, &body)]);
    }
}

#[test]
fn writes_the_bytes_of_the_specification() {
    let mut bytes = Vec::new();
    write_message(&mut bytes, 6, 9, 1, 0x10203, b"abcde", 4);
    assert_eq!(bytes, b"\x06\x01\x02\x03\x00\x00\x05\x09\x01\x00\x00\x00abcd\xc6e");
    bytes.clear();
    write_message(&mut bytes, 64, 8, 1, 0x0100_0000, b"abcde", 4);
    assert_eq!(
        bytes,
        b"\x00\x00\xff\xff\xff\x00\x00\x05\x08\x01\x00\x00\x00\x01\x00\x00\x00abcd\xc0\x00\x01\x00\x00\x00e"
    );
    bytes.clear();
    write_message(&mut bytes, 65_599, 18, 0, 0, b"", 128);
    assert_eq!(bytes, b"\x01\xff\xff\x00\x00\x00\x00\x00\x00\x12\x00\x00\x00\x00");
}

#[test]
fn fmt_3_begins_a_message_with_the_last_difference() {
    let bytes = b"\x04\x00\x00\x64\x00\x00\x01\x08\x01\x00\x00\x00a\x84\x00\x00\x14b\xc4c\xc4d";
    let times: Vec<u32> = read_all(&mut reader(128), bytes).unwrap().iter().map(|message| message.timestamp).collect();
    assert_eq!(times, [100, 120, 140, 160]);
}

#[test]
fn times_wrap_at_32_bits() {
    let bytes = b"\x04\xff\xff\xff\x00\x00\x01\x08\x01\x00\x00\x00\xff\xff\xff\xf0a\x84\x00\x00\x20b";
    let times: Vec<u32> = read_all(&mut reader(128), bytes).unwrap().iter().map(|message| message.timestamp).collect();
    assert_eq!(times, [0xffff_fff0, 0x10]);
}

#[test]
fn a_continuation_may_repeat_the_absolute_time_of_a_long_step() {
    // fmt 1 with an extended difference of 0x01000000 after 16, then the sum in the continuation.
    let mut bytes = Vec::new();
    write_message(&mut bytes, 4, 8, 1, 16, b"x", 4);
    bytes.extend_from_slice(b"\x44\xff\xff\xff\x00\x00\x05\x08\x01\x00\x00\x00abcd\xc4\x01\x00\x00\x10e");
    let messages = read_all(&mut reader(4), &bytes).unwrap();
    assert_eq!(messages[1], message(4, 8, 0x0100_0010, b"abcde"));
}

#[test]
fn abort_drops_an_unfinished_message() {
    let mut bytes = Vec::new();
    write_message(&mut bytes, 4, 8, 1, 7, b"abcdefgh", 4);
    let mut reader = reader(4);
    assert_eq!(read_all(&mut reader, &bytes[..16]).unwrap(), []);
    assert_eq!(reader.partial_bytes(), 8);
    reader.abort(4);
    reader.abort(999);
    assert_eq!(reader.partial_bytes(), 0);
    assert_eq!(read_all(&mut reader, &bytes).unwrap(), [message(4, 8, 7, b"abcdefgh")]);
}

#[test]
fn the_chunk_size_may_change_inside_a_message() {
    let mut reader = reader(2);
    assert_eq!(read_all(&mut reader, b"\x04\x00\x00\x00\x00\x00\x06\x08\x01\x00\x00\x00ab").unwrap(), []);
    reader.set_chunk_size(4).unwrap();
    assert_eq!(read_all(&mut reader, b"\xc4cdef").unwrap(), [message(4, 8, 0, b"abcdef")]);
}

#[test]
fn chunk_sizes_are_checked() {
    let mut reader = reader(128);
    for size in [0, 0x8000_0000, 0x8000_0080, u32::MAX] {
        assert_eq!(reader.set_chunk_size(size), Err(Error::ChunkSize(size)));
    }
    // Larger than any message: legal, and means the largest.
    for size in [1, 0xff_ffff, 0x100_0000, 0x7fff_ffff] {
        reader.set_chunk_size(size).unwrap();
    }
    let mut bytes = Vec::new();
    write_message(&mut bytes, 4, 8, 1, 0, &[0; 1000], 16_777_215);
    assert_eq!(read_all(&mut reader, &bytes).unwrap().len(), 1);
    assert_eq!(reader.partial_bytes(), 0);
}

#[test]
fn chunk_streams_are_bounded() {
    let mut reader = reader(128);
    let mut bytes = Vec::new();
    for csid in 3..3 + 64 {
        write_message(&mut bytes, csid, 8, 1, 0, b"a", 128);
    }
    assert_eq!(read_all(&mut reader, &bytes).unwrap().len(), 64);
    bytes.clear();
    write_message(&mut bytes, 65_599, 8, 1, 0, b"a", 128);
    assert_eq!(read_all(&mut reader, &bytes), Err(Error::ChunkStreams(64)));
}

#[test]
fn a_stream_cannot_begin_in_the_middle() {
    assert_eq!(read_all(&mut reader(128), b"\xc4a"), Err(Error::UnknownChunkStream(4)));
    assert_eq!(read_all(&mut reader(128), b"\x84\x00\x00\x00a"), Err(Error::UnknownChunkStream(4)));
    // librtmp's control stream.
    let messages = read_all(&mut reader(128), b"\x42\x00\x00\x00\x00\x00\x04\x05\x00\x26\x25\xa0").unwrap();
    assert_eq!((messages[0].stream_id, messages[0].type_id), (0, 5));
}

#[test]
fn a_header_inside_a_message_is_an_error_unless_it_fits() {
    let start = b"\x04\x00\x00\x00\x00\x00\x06\x08\x01\x00\x00\x00abcd";
    for (next, expected) in [
        (&b"\x04\x00\x00\x00\x00\x00\x06\x08\x01\x00\x00\x00ef"[..], Err(Error::UnfinishedMessage(4))),
        (b"\x44\x00\x00\x00\x00\x00\x07\x08ef", Err(Error::UnfinishedMessage(4))),
        (b"\x44\x00\x00\x00\x00\x00\x06\x08ef", Ok(vec![message(4, 8, 0, b"abcdef")])),
        (b"\x84\x00\x00\x00ef", Ok(vec![message(4, 8, 0, b"abcdef")])),
    ] {
        assert_eq!(read_all(&mut reader(4), &[start, next].concat()), expected);
    }
}

#[test]
fn messages_and_their_memory_are_bounded() {
    let claim = |csid: u8, length: u32| {
        let [_, a, b, c] = length.to_be_bytes();
        [csid, 0, 0, 0, a, b, c, 9, 1, 0, 0, 0, b'x']
    };
    let too_long = Error::MessageTooLong { length: (1 << 20) + 1, limit: 1 << 20 };
    assert_eq!(read_all(&mut reader(1), &claim(4, (1 << 20) + 1)), Err(too_long));

    // A claim costs what is sent of it, not what it says.
    let mut reader = reader(1);
    read_all(&mut reader, &claim(4, 1 << 20)).unwrap();
    assert_eq!(reader.partial_bytes(), super::read::FIRST_BUFFER);
    for csid in 5..20 {
        read_all(&mut reader, &claim(csid, 1 << 20)).unwrap();
    }
    assert_eq!(reader.partial_bytes(), BOUNDS.partial_bytes);
    assert_eq!(read_all(&mut reader, &claim(20, 1 << 20)), Err(Error::PartialBytes(BOUNDS.partial_bytes)));
}

#[test]
fn a_long_message_in_the_smallest_chunks_is_read_in_one_go() {
    // Were any byte looked at more often the more came before it, this would not end.
    let mut bytes = Vec::new();
    write_message(&mut bytes, 4, 9, 1, 0xffff_ffff, &vec![7; 4 << 20], 1);
    let mut reader = Reader::new(Bounds { message: 1 << 24, partial_bytes: 1 << 25, ..BOUNDS });
    reader.set_chunk_size(1).unwrap();
    assert_eq!(read_all(&mut reader, &bytes).unwrap()[0].body.len(), 4 << 20);
}

#[test]
fn survives_anything() {
    bolero::check!().with_test_time(core::time::Duration::from_secs(2)).for_each(|bytes| {
        let read = |cut: usize| {
            let mut reader = Reader::new(BOUNDS);
            reader.set_chunk_size(u32::from(*bytes.first().unwrap_or(&9)) + 1).unwrap();
            let (mut messages, mut end) = (Vec::new(), None);
            for piece in bytes.chunks(cut) {
                let mut input = piece;
                loop {
                    match reader.read(&mut input) {
                        Ok(Some(message)) => messages.push(message),
                        Ok(None) => break,
                        Err(error) => {
                            end = Some(error);
                            break;
                        }
                    }
                }
                if end.is_some() {
                    break;
                }
            }
            (messages, end)
        };
        // Any split of the input tells the same.
        let whole = read(usize::MAX);
        assert_eq!(read(1), whole);
        assert_eq!(read(3), whole);
    });
}

#[test]
fn a_saved_reader_that_cannot_be_is_refused() {
    let mut begun = reader(128);
    let mut bytes = Vec::new();
    write_message(&mut bytes, 6, 9, 1, 0, &[7; 100], 128);
    read_all(&mut begun, &bytes[..50]).unwrap();
    let saved = prost::Message::encode_to_vec(&begun.save());
    let decode = |bytes: &[u8]| <SavedReader as prost::Message>::decode(bytes);
    assert!(Reader::restore(decode(&saved).unwrap(), BOUNDS).is_some());
    assert!(Reader::restore(decode(&saved).unwrap(), Bounds { chunk_streams: 0, ..BOUNDS }).is_none());
    assert!(Reader::restore(decode(&saved).unwrap(), Bounds { partial_bytes: 10, ..BOUNDS }).is_none());
    assert!(Reader::restore(SavedReader::default(), BOUNDS).is_none(), "no chunk size");
    // Whatever a byte of it is changed to: a reader that works, or none.
    for at in 0..saved.len() {
        for value in 0..=255 {
            let mut changed = saved.clone();
            changed[at] = value;
            let Some(mut reader) = decode(&changed).ok().and_then(|saved| Reader::restore(saved, BOUNDS)) else {
                continue;
            };
            read_all(&mut reader, &bytes[50..]).ok();
        }
    }
}
