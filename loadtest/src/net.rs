//! Many connections on one epoll: a slab, one shared read buffer, writes that never wait. A connection begins over TCP,
//! and may go on over a UDP socket of its own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpStream, UdpSocket};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock;
use crate::conn;
use crate::rtc;

/// The one read buffer.
const BUFFER: usize = 256 * 1024;
/// Events taken at once.
const EVENTS: usize = 1024;
/// Datagrams of one socket that are read before the others are looked after.
const DATAGRAMS: usize = 256;
/// Receive buffer of a UDP socket in bytes: what a server sends at once when it begins.
const DATAGRAM_BUFFER: usize = 512 * 1024;
/// What may wait for one server to read.
const PENDING_MAX: usize = 4 * 1024 * 1024;
const SIGNAL: Token = Token(usize::MAX);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Reason {
    /// It never came to be.
    #[error("connect: {0}")]
    Connect(io::Error),
    /// The server ended it without a word.
    #[error("the server closed the connection")]
    Eof,
    /// It broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
    /// The server does not read what it is sent.
    #[error("more than {PENDING_MAX} bytes wait for the server to read")]
    Overflow,
    /// What the server said.
    #[error(transparent)]
    Session(#[from] conn::Error),
    /// What became of a WebRTC session.
    #[error(transparent)]
    Rtc(#[from] rtc::Error),
    /// It did not begin in time.
    #[error("it did not begin within {0} s")]
    Overdue(u64),
    /// It has done what it was opened for: no failure.
    #[error("done")]
    Done,
}

/// What the loop asks of a load. `Err` ends the connection, and `closed` is called with it.
pub(crate) trait Handler {
    /// What is kept for each connection.
    type Conn;
    /// The state of connection `index`; `token` will name it.
    fn open(&mut self, index: usize, token: usize, now: u64) -> Self::Conn;
    /// Bytes of receive buffer that the kernel shall keep; `None` for its own choice.
    fn receive_buffer(&self, _conn: &Self::Conn) -> Option<usize> {
        None
    }
    /// TCP is connected.
    fn connected(&mut self, conn: &mut Self::Conn, wire: &mut Wire, now: u64) -> Result<(), Reason>;
    /// How many bytes may be read now. Whoever holds back calls [`Net::read`] later.
    fn allowance(&mut self, _conn: &mut Self::Conn, _now: u64) -> usize {
        usize::MAX
    }
    /// Bytes came.
    fn received(&mut self, conn: &mut Self::Conn, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason>;
    /// A datagram came; it may be overwritten.
    fn datagram(
        &mut self,
        _conn: &mut Self::Conn,
        _wire: &mut Wire,
        _now: u64,
        _bytes: &mut [u8],
    ) -> Result<(), Reason> {
        Ok(())
    }
    /// The connection is over.
    fn closed(&mut self, conn: Self::Conn, now: u64, reason: &Reason);
}

/// The sending side of a connection.
pub(crate) struct Wire {
    /// `None` once it was hung up.
    stream: Option<TcpStream>,
    udp: Option<UdpSocket>,
    /// The UDP socket is known to epoll.
    udp_known: bool,
    connected: bool,
    pending: Vec<u8>,
    /// Bytes that were given to [`send`](Self::send).
    pub(crate) sent: u64,
}

impl Wire {
    /// Sends, now if the socket takes it, else when it does.
    ///
    /// # Errors
    /// The connection broke, or more than [`PENDING_MAX`] bytes wait.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let sent = if self.pending.is_empty() { write(stream, bytes)? } else { 0 };
        let rest = bytes.get(sent..).unwrap_or_default();
        if self.pending.len() + rest.len() > PENDING_MAX {
            return Err(Reason::Overflow);
        }
        self.pending.extend_from_slice(rest);
        self.sent += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Reason> {
        if let Some(stream) = &mut self.stream
            && !self.pending.is_empty()
        {
            let sent = write(stream, &self.pending)?;
            self.pending.drain(..sent);
        }
        Ok(())
    }

    /// Opens the UDP socket; returns the address at which this host is reached over it.
    ///
    /// # Errors
    /// The kernel gives none.
    pub(crate) fn open_datagrams(&mut self) -> io::Result<SocketAddr> {
        let own =
            self.stream.as_ref().map_or(Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)), |s| s.local_addr().map(|a| a.ip()))?;
        let any: IpAddr = if own.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = Socket::new(Domain::for_address((any, 0).into()), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
        socket.set_recv_buffer_size(DATAGRAM_BUFFER)?;
        socket.bind(&SocketAddr::from((any, 0)).into())?;
        let udp = UdpSocket::from_std(socket.into());
        let port = udp.local_addr()?.port();
        (self.udp, self.udp_known) = (Some(udp), false);
        Ok((own, port).into())
    }

    /// From here on datagrams go to `peer` and come from it alone.
    ///
    /// # Errors
    /// There is no way to it.
    pub(crate) fn aim(&self, peer: SocketAddr) -> io::Result<()> {
        self.udp.as_ref().map_or(Ok(()), |udp| udp.connect(peer))
    }

    /// Closes the TCP connection; what comes is datagrams.
    pub(crate) fn hang_up(&mut self) {
        self.stream = None;
        self.pending = Vec::new();
    }

    /// Sends a datagram. One that the kernel has no room for is lost, as any other may be.
    ///
    /// # Errors
    /// Nobody is there any more.
    pub(crate) fn send_datagram(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let Some(udp) = &self.udp else { return Ok(()) };
        match udp.send(bytes) {
            Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Err(Reason::Io(error))
            }
            _ => {
                self.sent += bytes.len() as u64;
                Ok(())
            }
        }
    }
}

/// How much the socket took.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> Result<usize, Reason> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Reason::Io(error)),
        }
    }
    Ok(sent)
}

struct Peer<C> {
    wire: Wire,
    conn: C,
}

/// All connections of this process.
pub(crate) struct Net<C> {
    poll: Poll,
    signals: SignalFd,
    peers: Slab<Peer<C>>,
    buffer: Box<[u8]>,
    address: SocketAddr,
}

impl<C> Net<C> {
    /// No connections yet; all will go to `address`. From here on SIGINT and SIGTERM end [`turn`](Self::turn) instead
    /// of the process.
    ///
    /// # Errors
    /// The kernel gives no epoll or signal descriptor.
    pub(crate) fn new(address: SocketAddr) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        poll.registry().register(&mut SourceFd(&signals.as_raw_fd()), SIGNAL, Interest::READABLE)?;
        Ok(Self { poll, signals, peers: Slab::new(), buffer: vec![0; BUFFER].into_boxed_slice(), address })
    }

    /// How many connections there are.
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// What is kept for each connection.
    pub(crate) fn conns(&mut self) -> impl Iterator<Item = &mut C> {
        self.peers.iter_mut().map(|(_, peer)| &mut peer.conn)
    }

    /// What is kept for each connection, with its token.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (usize, &C)> {
        self.peers.iter().map(|(token, peer)| (token, &peer.conn))
    }

    /// Opens connection `index`. A failure is told to `handler.closed`.
    pub(crate) fn open<H: Handler<Conn = C>>(&mut self, handler: &mut H, index: usize) {
        let now = clock::now();
        let entry = self.peers.vacant_entry();
        let token = entry.key();
        let conn = handler.open(index, token, now);
        let opened = connect(self.address, handler.receive_buffer(&conn)).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(token), interest)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => {
                let stream = Some(stream);
                let wire = Wire { stream, udp: None, udp_known: false, connected: false, pending: Vec::new(), sent: 0 };
                entry.insert(Peer { wire, conn });
            }
            Err(error) => handler.closed(conn, now, &Reason::Connect(error)),
        }
    }

    /// Waits for at most `timeout` and handles what happened. True if the process was told to end.
    ///
    /// # Errors
    /// epoll failed.
    pub(crate) fn turn<H: Handler<Conn = C>>(
        &mut self,
        handler: &mut H,
        events: &mut Events,
        timeout: Duration,
    ) -> io::Result<bool> {
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(false),
            done => done?,
        }
        let mut told = false;
        for event in events.iter() {
            if event.token() == SIGNAL {
                told |= matches!(self.signals.read_signal(), Ok(Some(_)));
            } else {
                self.ready(handler, event);
            }
        }
        Ok(told)
    }

    /// Lets `act` use a connection; an `Err` closes it. Nothing happens if it is gone.
    pub(crate) fn with<H: Handler<Conn = C>>(
        &mut self,
        handler: &mut H,
        token: usize,
        act: impl FnOnce(&mut H, &mut C, &mut Wire) -> Result<(), Reason>,
    ) {
        let Some(peer) = self.peers.get_mut(token) else { return };
        if let Err(reason) = act(handler, &mut peer.conn, &mut peer.wire) {
            self.close(handler, token, &reason);
        }
    }

    fn ready<H: Handler<Conn = C>>(&mut self, handler: &mut H, event: &Event) {
        let token = event.token().0;
        let Some(peer) = self.peers.get_mut(token) else { return };
        if !peer.wire.connected && (event.is_writable() || event.is_error()) {
            let error = peer.wire.stream.as_ref().and_then(|stream| stream.take_error().unwrap_or_else(Some));
            if let Some(error) = error {
                return self.close(handler, token, &Reason::Connect(error));
            }
            peer.wire.connected = true;
            if let Err(reason) = handler.connected(&mut peer.conn, &mut peer.wire, clock::now()) {
                return self.close(handler, token, &reason);
            }
            if let Err(error) = self.register_datagrams(token) {
                return self.close(handler, token, &Reason::Io(error));
            }
        }
        let Some(peer) = self.peers.get_mut(token) else { return };
        if event.is_writable()
            && let Err(reason) = peer.wire.flush()
        {
            return self.close(handler, token, &reason);
        }
        if event.is_readable() || event.is_error() {
            self.read(handler, token, event.is_read_closed() || event.is_error());
            self.read_datagrams(handler, token);
        }
    }

    fn register_datagrams(&mut self, token: usize) -> io::Result<()> {
        let Some(Peer { wire, .. }) = self.peers.get_mut(token) else { return Ok(()) };
        if let Some(udp) = &mut wire.udp
            && !wire.udp_known
        {
            self.poll.registry().register(udp, Token(token), Interest::READABLE)?;
            wire.udp_known = true;
        }
        Ok(())
    }

    /// Reads what datagrams there are, up to [`DATAGRAMS`]. Readiness is edge-triggered: what is left is found with the
    /// next one that comes, which for media is soon.
    fn read_datagrams<H: Handler<Conn = C>>(&mut self, handler: &mut H, token: usize) {
        for _ in 0..DATAGRAMS {
            let Some(peer) = self.peers.get_mut(token) else { return };
            let Some(udp) = &peer.wire.udp else { return };
            match udp.recv(&mut self.buffer) {
                Ok(count) => {
                    let bytes = self.buffer.get_mut(..count).unwrap_or_default();
                    if let Err(reason) = handler.datagram(&mut peer.conn, &mut peer.wire, clock::now(), bytes) {
                        return self.close(handler, token, &reason);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.close(handler, token, &Reason::Io(error)),
            }
        }
    }

    /// Reads what may be read. Readiness is edge-triggered: a read that does not fill the buffer has emptied the
    /// socket, unless the server has closed (`to_the_end`).
    pub(crate) fn read<H: Handler<Conn = C>>(&mut self, handler: &mut H, token: usize, to_the_end: bool) {
        while let Some(peer) = self.peers.get_mut(token) {
            let wanted = handler.allowance(&mut peer.conn, clock::now()).min(BUFFER);
            let Some(room) = self.buffer.get_mut(..wanted).filter(|room| !room.is_empty()) else { return };
            let Some(stream) = &mut peer.wire.stream else { return };
            match stream.read(room) {
                Ok(0) => return self.close(handler, token, &Reason::Eof),
                Ok(count) => {
                    let bytes = room.get(..count).unwrap_or_default();
                    if let Err(reason) = handler.received(&mut peer.conn, &mut peer.wire, clock::now(), bytes) {
                        return self.close(handler, token, &reason);
                    }
                    if count < wanted && !to_the_end {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.close(handler, token, &Reason::Io(error)),
            }
        }
    }

    fn close<H: Handler<Conn = C>>(&mut self, handler: &mut H, token: usize, reason: &Reason) {
        if let Some(peer) = self.peers.try_remove(token) {
            handler.closed(peer.conn, clock::now(), reason);
        }
    }
}

/// Begins a connection.
fn connect(address: SocketAddr, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(nix::Error::EINPROGRESS as i32) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// Room for the events of one [`Net::turn`].
pub(crate) fn events() -> Events {
    Events::with_capacity(EVENTS)
}
