//! One connection to an origin, whatever carries it: records out, records in.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use weir_wire::relay::{self, CONTROL_MAX, Decoder, Record, VERSION};

use super::Link;

/// Bytes of one read and of one write.
const BATCH: usize = 256 * 1024;

/// How long the origin may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("closed by the origin")]
    Closed,
    #[error("{0}")]
    Protocol(#[from] relay::Error),
    #[error("the origin speaks version {0} of the relay, this is {VERSION}")]
    Version(u16),
    #[error("the origin did not say hello")]
    NoHello,
    #[error("the origin did not read {CONTROL_MAX} records")]
    Unread,
    #[error("the origin has another address now, or was lost")]
    Moved,
    #[error("an origin on another host needs cluster.tls")]
    NoTls,
    #[error("{0}")]
    Quic(String),
}

/// Greets, then reads and writes until the connection is lost.
pub(super) async fn run<R, W>(link: &Rc<Link>, name: &str, mut reader: R, mut writer: W) -> Result<(), Lost>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut hello = BytesMut::new();
    relay::encode(&mut hello, &Record::Hello { version: VERSION, name: name.to_owned() });
    writer.write_all(&hello).await?;
    let mut input = BytesMut::new();
    let mut decoder = Decoder::new();
    let greeted = tokio::time::timeout(HELLO_WITHIN, greeting(&mut reader, &mut decoder, &mut input)).await;
    greeted.map_err(|_| Lost::NoHello)??;
    link.set_up(true);
    tokio::select! {
        lost = read(link, &mut reader, decoder, input) => lost,
        lost = write(link, &mut writer) => lost,
    }
}

async fn greeting<R: AsyncRead + Unpin>(
    reader: &mut R,
    decoder: &mut Decoder,
    input: &mut BytesMut,
) -> Result<(), Lost> {
    loop {
        match decoder.decode(input)? {
            Some(Record::Hello { version: VERSION, .. }) => return Ok(()),
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
    link: &Rc<Link>,
    reader: &mut R,
    mut decoder: Decoder,
    mut input: BytesMut,
) -> Result<(), Lost> {
    loop {
        while let Some(record) = decoder.decode(&mut input)? {
            link.dispatch(record);
        }
        link.batch_done();
        input.reserve(BATCH / 4);
        if reader.read_buf(&mut input).await? == 0 {
            return Err(Lost::Closed);
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(link: &Rc<Link>, writer: &mut W) -> Result<(), Lost> {
    let mut batch = BytesMut::new();
    loop {
        if link.out.borrow().overflowed() {
            return Err(Lost::Unread);
        }
        link.out.borrow_mut().fill(&mut batch, BATCH);
        if batch.is_empty() {
            link.wake.notified().await;
            continue;
        }
        writer.write_all(&batch).await?;
        batch.clear();
        link.drained.notify_waiters();
    }
}
