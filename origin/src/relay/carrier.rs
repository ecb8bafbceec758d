//! One connection of an edge, whatever carries it: records in, records out.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use weir_wire::relay::{self, Decoder, Record, VERSION};

use super::{Carrier, Peer, Relay};

/// Bytes of one write; a read takes a quarter of it.
const BATCH: usize = 256 * 1024;

/// How long an edge may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("closed by the edge")]
    Closed,
    #[error("{0}")]
    Protocol(#[from] relay::Error),
    #[error("the edge speaks version {0} of the relay, this is {VERSION}")]
    Version(u16),
    #[error("it did not say hello")]
    NoHello,
}

/// Greets, then serves the edge until its connection ends. Errors before the greeting have no peer to be told of.
pub(super) async fn run<R, W>(relay: &Rc<Relay>, carrier: Carrier, mut reader: R, mut writer: W) -> Result<(), Lost>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = BytesMut::new();
    let mut decoder = Decoder::new();
    let greeting = greeting(&mut reader, &mut decoder, &mut input);
    let name = tokio::time::timeout(HELLO_WITHIN, greeting).await.map_err(|_| Lost::NoHello)??;
    let mut hello = BytesMut::new();
    relay::encode(&mut hello, &Record::Hello { version: VERSION, name: String::new() });
    writer.write_all(&hello).await?;
    let peer = relay.join(name, carrier);
    let lost = tokio::select! {
        lost = read(relay, &peer, &mut reader, decoder, input) => lost,
        lost = write(&peer, &mut writer) => lost,
    };
    let reason = lost.as_ref().map_or_else(ToString::to_string, |()| String::new());
    relay.leave(&peer, &reason);
    Ok(())
}

async fn greeting<R: AsyncRead + Unpin>(
    reader: &mut R,
    decoder: &mut Decoder,
    input: &mut BytesMut,
) -> Result<String, Lost> {
    loop {
        match decoder.decode(input)? {
            Some(Record::Hello { version: VERSION, name }) => return Ok(name),
            Some(Record::Hello { version, .. }) => return Err(Lost::Version(version)),
            Some(_) => return Err(Lost::NoHello),
            None => {}
        }
        if reader.read_buf(input).await? == 0 {
            return Err(Lost::Closed);
        }
    }
}

async fn read<R: AsyncRead + Unpin>(
    relay: &Relay,
    peer: &Peer,
    reader: &mut R,
    mut decoder: Decoder,
    mut input: BytesMut,
) -> Result<(), Lost> {
    loop {
        let mut any = false;
        while let Some(record) = decoder.decode(&mut input)? {
            relay.record(peer, record);
            any = true;
        }
        if any {
            relay.carry_out();
        }
        input.reserve(BATCH / 4);
        if reader.read_buf(&mut input).await? == 0 {
            return Err(Lost::Closed);
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(peer: &Peer, writer: &mut W) -> Result<(), Lost> {
    let mut batch = BytesMut::new();
    loop {
        peer.out.borrow_mut().fill(&mut batch, BATCH);
        if batch.is_empty() {
            peer.wake.notified().await;
            continue;
        }
        writer.write_all(&batch).await?;
        batch.clear();
    }
}
