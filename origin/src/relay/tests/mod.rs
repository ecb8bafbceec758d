//! Real sockets with the test as the edge.

pub(crate) mod quic;
mod unix;

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use weir_media::{Frame, FrameId, Kind, StreamName};
use weir_node::config::Config;
use weir_wire::relay::{Decoder, Record, VERSION, encode};

use super::*;
use crate::hub::Rules;

/// A test that takes longer has failed.
const WITHIN: Duration = Duration::from_secs(60);

/// How long one expected thing may take.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) const KIB: usize = 1024;

/// Runs a test as a worker's body runs.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    let done = runtime.block_on(async { timeout(WITHIN, test).await.expect("the test did not end") });
    runtime.shutdown_background();
    done
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let waited = async {
        while !so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) fn limits() -> Limits {
    Limits {
        queue: 256 * KIB,
        hold: Duration::from_millis(250),
        hello_within: Duration::from_millis(300),
        stuck_after: Duration::from_secs(20),
    }
}

/// An origin's relay.
pub(crate) struct Host {
    pub(crate) relay: Rc<Relay>,
    pub(crate) dir: TempDir,
    path: PathBuf,
}

impl Host {
    pub(crate) fn new(limits: Limits, grace: Duration) -> Self {
        let mut config = Config::default();
        config.vhosts.values_mut().next().unwrap().publish.grace = grace;
        let relay = Relay::new(Hub::new(Rules::new(&Rc::new(config))), limits);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.sock");
        spawn_local(listen_unix(relay.clone(), UnixListener::bind(&path).unwrap()));
        spawn_local(relay.clone().deadlines());
        Self { relay, dir, path }
    }

    pub(crate) async fn socket(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.unwrap()
    }

    pub(crate) async fn edge(&self, name: &str) -> Edge {
        let (reader, writer) = self.socket().await.into_split();
        Edge::greet(name, reader, writer).await
    }
}

/// An edge's end of a connection.
pub(crate) struct Edge {
    reader: Box<dyn AsyncRead + Unpin>,
    writer: Box<dyn AsyncWrite + Unpin>,
    decoder: Decoder,
    input: BytesMut,
}

impl Edge {
    pub(crate) fn new(reader: impl AsyncRead + Unpin + 'static, writer: impl AsyncWrite + Unpin + 'static) -> Self {
        let (reader, writer) = (Box::new(reader), Box::new(writer));
        Self { reader, writer, decoder: Decoder::new(), input: BytesMut::new() }
    }

    async fn greet(
        name: &str,
        reader: impl AsyncRead + Unpin + 'static,
        writer: impl AsyncWrite + Unpin + 'static,
    ) -> Self {
        let mut edge = Self::new(reader, writer);
        edge.send(&Record::Hello { version: VERSION, name: name.to_owned() }).await;
        assert!(matches!(edge.next().await, Some(Record::Hello { version: VERSION, .. })));
        edge
    }

    pub(crate) async fn send(&mut self, record: &Record) {
        assert!(self.try_send(record).await, "the origin closed the connection");
    }

    /// False when the origin has closed the connection.
    async fn try_send(&mut self, record: &Record) -> bool {
        let mut bytes = BytesMut::new();
        encode(&mut bytes, record);
        self.writer.write_all(&bytes).await.is_ok()
    }

    /// The next record; `None` when the origin has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Record> {
        timeout(SOON, self.read()).await.expect("nothing came")
    }

    async fn read(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(record);
            }
            if self.reader.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next frame; other records on the way are passed over.
    async fn frame(&mut self) -> Frame {
        loop {
            match self.next().await.expect("the connection ended") {
                Record::Frame { frame, .. } => return frame,
                Record::Refused { reason, .. } => panic!("refused: {reason}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn claim(&mut self, channel: u32, stream: &str) -> FrameId {
        self.send(&Record::Claim { channel, name: name(stream), key: 0, resume: None }).await;
        match self.next().await {
            Some(Record::Claimed { first, .. }) => first,
            other => panic!("{other:?} is no grant"),
        }
    }

    pub(crate) async fn subscribe(&mut self, channel: u32, stream: &str) {
        self.send(&Record::Subscribe { channel, name: name(stream), have: None }).await;
    }

    async fn publish(&mut self, channel: u32, frame: &Frame) {
        self.send(&Record::Frame { channel, frame: frame.clone() }).await;
    }
}

pub(crate) fn name(stream: &str) -> StreamName {
    StreamName { vhost: "__defaultVhost__".into(), app: "live".into(), stream: stream.into() }
}

/// A key frame or another one, each with bytes of its own.
fn video(first: FrameId, n: u64, ms: i64, key: bool, size: usize) -> Frame {
    let mut body: Vec<u8> = (0..size).map(|i| (i as u64 * 31 + n) as u8).collect();
    body[..6].copy_from_slice(&[if key { 0x17 } else { 0x27 }, 1, 0, 0, 0, n as u8]);
    Frame::new(FrameId { epoch: first.epoch, seq: first.seq + n }, Kind::Video, ms * 1000, body.into())
}

fn config(first: FrameId, n: u64, ms: i64, value: u8) -> Frame {
    let body = Bytes::copy_from_slice(&[0x17, 0, 0, 0, 0, value]);
    Frame::new(FrameId { epoch: first.epoch, seq: first.seq + n }, Kind::Video, ms * 1000, body)
}
