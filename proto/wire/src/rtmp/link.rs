//! What both sides do alike once the handshake is over: chunks, flow control and the control messages.
use bytes::Bytes;

use super::chunk::{self, Message, Reader, SavedReader};
use super::{Error, Limits, type_id};
use crate::amf::{self, Value};

/// User control events (7.1.7).
pub(super) const STREAM_BEGIN: u16 = 0;
pub(super) const STREAM_EOF: u16 = 1;
pub(super) const SET_BUFFER_LENGTH: u16 = 3;
pub(super) const PING_REQUEST: u16 = 6;
const PING_RESPONSE: u16 = 7;

/// The only message stream: `createStream` always answers it.
pub(super) const STREAM_ID: u32 = 1;

#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) reader: Reader,
    out: Vec<u8>,
    pending_out: usize,
    pub(super) chunk_size_out: u32,
    /// Bytes received; the protocol counts them modulo 2^32.
    pub(super) received: u64,
    pub(super) acknowledged: u64,
    /// The peer wants an acknowledgement each so many bytes; 0 for never.
    pub(super) peer_window: u32,
    /// What we last told the peer about acknowledging.
    pub(super) window: u32,
}

impl Link {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            reader: Reader::new(limits.bounds()),
            out: Vec::new(),
            pending_out: limits.pending_out,
            chunk_size_out: chunk::DEFAULT_CHUNK_SIZE,
            received: 0,
            acknowledged: 0,
            peer_window: 0,
            window: 0,
        }
    }

    /// A link that goes on where another stood: chunk size out, the peer's window and ours; bytes received and
    /// acknowledged.
    pub(super) fn restore(
        reader: SavedReader,
        limits: &Limits,
        [chunk_size_out, peer_window, window]: [u32; 3],
        [received, acknowledged]: [u64; 2],
    ) -> Option<Self> {
        let reader = Reader::restore(reader, limits.bounds())?;
        let sane = (1..=chunk::MAX_LENGTH).contains(&chunk_size_out) && acknowledged <= received;
        let pending_out = limits.pending_out;
        let out = Vec::new();
        sane.then_some(Self { reader, out, pending_out, chunk_size_out, received, acknowledged, peer_window, window })
    }

    /// Whether nothing waits to be sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// Bytes waiting to be sent, for the handshake to append to.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// What is to be sent, if anything.
    pub(super) fn take_out(&mut self) -> Option<Bytes> {
        (!self.out.is_empty()).then(|| Bytes::from(std::mem::take(&mut self.out)))
    }

    /// Counts bytes that came from the peer.
    pub(super) fn receive(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// Bytes that came from the peer, handshake included.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.out.capacity() + self.reader.heap_bytes()
    }

    /// The next message that is not the link's own business.
    pub(super) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        while let Some(message) = self.reader.read(input)? {
            match message.type_id {
                type_id::SET_CHUNK_SIZE..=type_id::PEER_BANDWIDTH => self.control(&message)?,
                _ => return Ok(Some(message)),
            }
        }
        Ok(None)
    }

    /// Acknowledges what is due, at most once a `handle`.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.peer_window > 0 && self.received - self.acknowledged >= u64::from(self.peer_window) {
            self.acknowledged = self.received;
            let [.., a, b, c, d] = self.received.to_be_bytes();
            self.write(chunk::CSID_CONTROL, type_id::ACKNOWLEDGEMENT, 0, 0, &[a, b, c, d]);
        }
        self.check_pending()
    }

    /// Whether the peer reads what it asks for.
    pub(super) fn check_pending(&self) -> Result<(), Error> {
        if self.out.len() > self.pending_out { Err(Error::PendingOut(self.pending_out)) } else { Ok(()) }
    }

    fn control(&mut self, message: &Message) -> Result<(), Error> {
        let malformed = Error::Control(message.type_id);
        if message.type_id == type_id::USER_CONTROL {
            let (event, rest) = message.body.split_first_chunk::<2>().ok_or(malformed)?;
            if u16::from_be_bytes(*event) == PING_REQUEST {
                let time = *rest.first_chunk::<4>().ok_or(Error::Control(message.type_id))?;
                self.user_control(PING_RESPONSE, u32::from_be_bytes(time));
            }
            return Ok(());
        }
        let number = u32::from_be_bytes(*message.body.first_chunk::<4>().ok_or(malformed)?);
        match message.type_id {
            type_id::SET_CHUNK_SIZE => self.reader.set_chunk_size(number)?,
            type_id::ABORT => self.reader.abort(number),
            type_id::WINDOW_SIZE => self.peer_window = number,
            // 5.4.5: a peer that limits us expects to hear our window, unless it knows it.
            type_id::PEER_BANDWIDTH if number != self.window && number > 0 => self.window_size(number),
            _ => {}
        }
        Ok(())
    }

    /// Appends a message.
    pub(super) fn write(&mut self, csid: u32, type_id: u8, stream_id: u32, timestamp: u32, body: &[u8]) {
        chunk::write_message(&mut self.out, csid, type_id, stream_id, timestamp, body, self.chunk_size_out);
    }

    /// Tells the peer how often to acknowledge.
    pub(super) fn window_size(&mut self, bytes: u32) {
        self.window = bytes;
        self.write(chunk::CSID_CONTROL, type_id::WINDOW_SIZE, 0, 0, &bytes.to_be_bytes());
    }

    /// Limits the peer, with the dynamic limit type.
    pub(super) fn peer_bandwidth(&mut self, bytes: u32) {
        let [a, b, c, d] = bytes.to_be_bytes();
        self.write(chunk::CSID_CONTROL, type_id::PEER_BANDWIDTH, 0, 0, &[a, b, c, d, 2]);
    }

    /// Announces the chunk size and uses it from here on.
    pub(super) fn set_chunk_size(&mut self, size: u32) {
        let size = size.clamp(1, chunk::MAX_LENGTH);
        self.write(chunk::CSID_CONTROL, type_id::SET_CHUNK_SIZE, 0, 0, &size.to_be_bytes());
        self.chunk_size_out = size;
    }

    /// Appends a user control event of one number.
    pub(super) fn user_control(&mut self, event: u16, number: u32) {
        let ([a, b], [c, d, e, f]) = (event.to_be_bytes(), number.to_be_bytes());
        self.write(chunk::CSID_CONTROL, type_id::USER_CONTROL, 0, 0, &[a, b, c, d, e, f]);
    }

    /// Appends a command.
    pub(super) fn command(&mut self, csid: u32, stream_id: u32, name: &str, transaction: f64, arguments: &[Value]) {
        let mut body = Vec::with_capacity(256);
        amf::write(&mut body, &Value::string(name));
        amf::write(&mut body, &Value::Number(transaction));
        for argument in arguments {
            amf::write(&mut body, argument);
        }
        self.write(csid, type_id::COMMAND, stream_id, 0, &body);
    }
}
