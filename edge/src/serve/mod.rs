//! What this worker's listeners answer.

pub(crate) mod api;
mod feed;
pub(crate) mod flv;
mod forwarded;
pub(crate) mod http;
mod ingest;
mod pages;
mod proxy;
pub(crate) mod query;
mod rtc;
pub(crate) mod rtmp;
mod signal;
pub(crate) mod tls;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::admission::Gate;
use crate::hub::Hub;
use api::events::Events;
use api::host::{Host, Supervisor};
use ingest::Ingest;
pub(crate) use signal::Signaled;

/// Bytes of one read from a client. One buffer serves all clients of the worker, so an idle one has none.
const READ: usize = 64 * 1024;

/// How long an answer may take to be taken by the client.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked whether a socket is nobody else's any more.
const DETACH_TRIES: usize = 100;

/// What every client's task needs.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) hub: Rc<Hub>,
    pub(crate) gate: Gate,
    ingest: Rc<Ingest>,
    scratch: Rc<RefCell<Vec<u8>>>,
    /// Who knows the whole host.
    pub(crate) supervisor: Rc<Supervisor>,
    pub(crate) host: Rc<Host>,
    pub(crate) certificates: Rc<tls::Certificates>,
    pub(crate) events: Rc<Events>,
    rooms: Rc<signal::Rooms>,
    signalers: Rc<signal::Addresses>,
    next_client: Rc<Cell<u64>>,
}

impl Context {
    /// `ctl` is the socket of the supervisor's service for operators.
    ///
    /// # Errors
    /// The publishers' set cannot be made.
    pub(crate) fn new(hub: Rc<Hub>, gate: Gate, host: Host, ctl: PathBuf) -> io::Result<Self> {
        Ok(Self {
            ingest: Ingest::new(&hub)?,
            hub,
            gate,
            scratch: Rc::new(RefCell::new(vec![0; READ])),
            supervisor: Rc::new(Supervisor::new(ctl)),
            host: Rc::new(host),
            certificates: Rc::default(),
            events: Rc::default(),
            rooms: Rc::default(),
            signalers: Rc::default(),
            next_client: Rc::default(),
        })
    }

    /// An id for a client, unique among those of this worker process.
    pub(crate) fn client_id(&self) -> u64 {
        self.next_client.set(self.next_client.get() + 1);
        self.next_client.get()
    }
}

/// A client's socket, its address, and the number by which logs name it.
pub(crate) struct Client {
    /// Nobody's while it is a publisher's: see [`ingest`].
    socket: Option<Rc<TcpStream>>,
    pub(crate) peer: SocketAddr,
    pub(crate) id: u64,
    /// Its socket is the decrypted end of another one.
    over_tls: bool,
}

impl Client {
    pub(crate) fn new(socket: TcpStream, peer: SocketAddr, id: u64) -> Self {
        Self { socket: Some(Rc::new(socket)), peer, id, over_tls: false }
    }

    fn socket(&self) -> io::Result<&Rc<TcpStream>> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Takes the socket away from the runtime. Who plays on it must have left.
    async fn detach(&mut self) -> io::Result<std::net::TcpStream> {
        let mut socket = self.socket.take().ok_or(io::ErrorKind::NotConnected)?;
        for _ in 0..DETACH_TRIES {
            match Rc::try_unwrap(socket) {
                Ok(socket) => return socket.into_std(),
                Err(shared) => socket = shared,
            }
            // A task that waited for it to be writable learns in its next turn that there is no need.
            tokio::task::yield_now().await;
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Gives it back.
    fn attach(&mut self, socket: std::net::TcpStream) -> io::Result<()> {
        self.socket = Some(Rc::new(TcpStream::from_std(socket)?));
        Ok(())
    }

    /// Reads what there is and gives it to `take`. `Ok(0)` at the end of the stream.
    async fn read<T>(&self, cx: &Context, take: impl FnOnce(&[u8]) -> T) -> io::Result<Option<T>> {
        let socket = self.socket()?;
        loop {
            socket.readable().await?;
            let mut scratch = cx.scratch.borrow_mut();
            match socket.try_read(&mut scratch) {
                Ok(0) => return Ok(None),
                Ok(n) => {
                    crate::hub::add(&cx.hub.stats().bytes_in, n as u64);
                    return Ok(Some(take(&scratch[..n])));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Writes all of it, within [`WRITE_WITHIN`].
    async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let socket = self.socket()?;
        let all = async {
            let mut rest = bytes;
            while !rest.is_empty() {
                match socket.try_write(rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        };
        tokio::time::timeout(WRITE_WITHIN, all).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
