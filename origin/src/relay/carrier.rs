//! One connection of an edge, whatever carries it: records in, records out.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use weir_wire::relay::{self, CONTROL_MAX, Decoder, Record, VERSION};

use super::{Carrier, Now, Peer, Relay};
use crate::hub::Offence;

/// Bytes of one write; a read takes a quarter of it.
const BATCH: usize = 256 * 1024;

/// What the hub wants is done before it is more than this, however many records came at once.
const PENDING_MAX: usize = 4096;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("closed by the edge")]
    Closed,
    #[error("{0}")]
    Protocol(#[from] relay::Error),
    #[error("{0}")]
    Offence(#[from] Offence),
    #[error("the edge speaks version {0} of the relay, this is {VERSION}")]
    Version(u16),
    #[error("the edge did not say hello")]
    NoHello,
    #[error("the edge took nothing for {0:?}")]
    Stuck(Duration),
    #[error("the edge did not read {CONTROL_MAX} answers")]
    Unread,
}

/// Greets, then serves the edge until its connection ends; returns why it ended.
///
/// # Errors
/// It was not served at all.
pub(super) async fn run<R, W>(relay: &Rc<Relay>, carrier: Carrier, mut reader: R, mut writer: W) -> Result<Lost, Lost>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut input = BytesMut::new();
    let mut decoder = Decoder::new();
    let greeted = async {
        let name = greeting(&mut reader, &mut decoder, &mut input).await?;
        let mut hello = BytesMut::new();
        relay::encode(&mut hello, &Record::Hello { version: VERSION, name: String::new() });
        writer.write_all(&hello).await?;
        Ok::<_, Lost>(name)
    };
    let name = timeout(relay.limits().hello_within, greeted).await.map_err(|_| Lost::NoHello)??;
    let peer = relay.join(name, carrier);
    let lost = tokio::select! {
        lost = read(relay, &peer, &mut reader, decoder, input) => lost,
        lost = write(&peer, &mut writer, relay.limits().stuck_after) => lost,
        () = peer.unread() => Ok(Lost::Unread),
    };
    let lost = lost.unwrap_or_else(|lost| lost);
    relay.leave(&peer, &lost);
    Ok(lost)
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
) -> Result<Lost, Lost> {
    loop {
        let now = Now::take();
        while let Some(record) = decoder.decode(&mut input)? {
            relay.record(now, peer, record)?;
            if relay.hub().borrow().pending() > PENDING_MAX {
                relay.carry_out();
            }
        }
        relay.carry_out();
        input.reserve(BATCH / 4);
        let read = reader.read_buf(&mut input).await?;
        if read == 0 {
            return Ok(Lost::Closed);
        }
        peer.received.set(peer.received.get() + read as u64);
    }
}

async fn write<W: AsyncWrite + Unpin>(peer: &Peer, writer: &mut W, stuck_after: Duration) -> Result<Lost, Lost> {
    let mut batch = BytesMut::new();
    loop {
        peer.fill(&mut batch, BATCH);
        if batch.is_empty() {
            peer.wake.notified().await;
            continue;
        }
        while !batch.is_empty() {
            // What waits for an edge that is stuck is bounded by this time, not only stream by stream.
            let wrote = timeout(stuck_after, writer.write_buf(&mut batch)).await;
            let wrote = wrote.map_err(|_| Lost::Stuck(stuck_after))??;
            if wrote == 0 {
                return Ok(Lost::Closed);
            }
            peer.sent.set(peer.sent.get() + wrote as u64);
        }
    }
}
