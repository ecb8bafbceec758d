//! Chunks: how RTMP cuts messages into pieces (section 5.3 of the RTMP 1.0 specification).
mod read;
mod saved;
#[cfg(test)]
mod tests;

pub use read::{Bounds, Message, Reader};
pub use saved::SavedReader;

/// The chunk size of both sides until they say otherwise (5.4.1).
pub const DEFAULT_CHUNK_SIZE: u32 = 128;
/// The longest message that the 24-bit length can express, hence the largest chunk size with a meaning.
pub const MAX_LENGTH: u32 = 0x00ff_ffff;
/// The 24-bit time that says that the time follows in 32 bits.
const EXTENDED: u32 = 0x00ff_ffff;

/// The chunk stream of protocol control messages.
pub const CSID_CONTROL: u32 = 2;
/// The chunk stream of answers to commands.
pub const CSID_COMMAND: u32 = 3;
/// The chunk stream of audio and data.
pub const CSID_AUDIO: u32 = 4;
/// The chunk stream of stream status.
pub const CSID_STATUS: u32 = 5;
/// The chunk stream of video.
pub const CSID_VIDEO: u32 = 6;

/// Appends one message: a full (fmt 0) header, then fmt 3 chunks that repeat an extended timestamp. It needs nothing of
/// what was written before it, so a reader may begin at any message.
///
/// `csid` is 2..=65599 and `chunk_size` 1..=16777215; values outside are moved to the nearest inside. A body longer than
/// [`MAX_LENGTH`] cannot be expressed: nothing is appended.
pub fn write_message(
    out: &mut Vec<u8>,
    csid: u32,
    type_id: u8,
    message_stream_id: u32,
    timestamp_ms: u32,
    body: &[u8],
    chunk_size: u32,
) {
    let Some(length) = u32::try_from(body.len()).ok().filter(|length| *length <= MAX_LENGTH) else {
        debug_assert!(false, "a message of {} bytes", body.len());
        return;
    };
    let chunk_size = chunk_size.clamp(1, MAX_LENGTH) as usize;
    let extended = timestamp_ms >= EXTENDED;
    out.reserve(18 + body.len() + body.len() / chunk_size * 7);
    basic_header(out, 0, csid);
    push_u24(out, timestamp_ms.min(EXTENDED));
    push_u24(out, length);
    out.push(type_id);
    out.extend_from_slice(&message_stream_id.to_le_bytes());
    if extended {
        out.extend_from_slice(&timestamp_ms.to_be_bytes());
    }
    let mut chunks = body.chunks(chunk_size);
    out.extend_from_slice(chunks.next().unwrap_or_default());
    for chunk in chunks {
        basic_header(out, 3, csid);
        if extended {
            out.extend_from_slice(&timestamp_ms.to_be_bytes());
        }
        out.extend_from_slice(chunk);
    }
}

/// The one, two or three bytes of 5.3.1.1.
fn basic_header(out: &mut Vec<u8>, fmt: u8, csid: u32) {
    let fmt = fmt << 6;
    let csid = csid.clamp(2, 65_599);
    match u8::try_from(csid) {
        Ok(small) if small < 64 => out.push(fmt | small),
        _ => {
            let [low, high, ..] = (csid - 64).to_le_bytes();
            if high == 0 { out.extend_from_slice(&[fmt, low]) } else { out.extend_from_slice(&[fmt | 1, low, high]) }
        }
    }
}

fn push_u24(out: &mut Vec<u8>, number: u32) {
    let [_, bytes @ ..] = number.to_be_bytes();
    out.extend_from_slice(&bytes);
}
