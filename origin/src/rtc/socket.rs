//! UDP sockets: batches in, frames out in one call each where the kernel cuts them up (UDP_SEGMENT). And which way a
//! datagram goes.

use std::cell::Cell;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tracing::warn;

use super::state::Wire;
use super::tcp::Connections;

/// Bytes asked for in each direction. A burst of all publishers' key frames must fit while the worker is in a round.
pub(crate) const BUFFER: usize = 8 * 1024 * 1024;

/// The largest datagram that is read; with UDP_GRO one read returns many, together at most so long.
const READ: usize = 64 * 1024;

/// Datagrams that one send may carry (UDP_MAX_SEGMENTS), and their bytes (a UDP length field, less headers).
const SEGMENTS_MAX: usize = 64;
const SEND_MAX: usize = 65_000;

/// Where a peer is, and by which of this host's addresses it reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Which of the worker's sockets.
    pub(crate) socket: usize,
    pub(crate) peer: SocketAddr,
    pub(crate) local: Option<IpAddr>,
}

/// By what a peer is told from others: one may have the same port of both protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    address: SocketAddr,
    tcp: bool,
}

impl Path {
    pub(crate) fn peer(self) -> Peer {
        Peer { address: self.peer, tcp: self.is_tcp() }
    }
}

/// All the ways out.
pub(crate) struct Sockets {
    pub(crate) udp: Vec<Socket>,
    pub(crate) tcp: Connections,
}

impl Wire for Sockets {
    fn send(&self, path: Path, datagram: &[u8]) {
        if path.is_tcp() {
            self.tcp.send(path, datagram);
        } else if let Some(socket) = self.udp.get(path.socket) {
            socket.send(path, datagram);
        }
    }

    fn send_all(&self, path: Path, mut bytes: &[u8], lengths: &[usize]) {
        if !path.is_tcp() {
            if let Some(socket) = self.udp.get(path.socket) {
                socket.send_all(path, bytes, lengths);
            }
            return;
        }
        for length in lengths {
            let Some((datagram, rest)) = bytes.split_at_checked(*length) else { return };
            self.tcp.send(path, datagram);
            bytes = rest;
        }
    }

    fn forget(&self, path: Path) {
        if path.is_tcp() {
            self.tcp.close(path);
        }
    }
}

/// What the socket did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) bytes_in: u64,
    pub(crate) sent: u64,
    pub(crate) bytes_out: u64,
    /// Calls that sent.
    pub(crate) sends: u64,
    /// Datagrams that the kernel had no room for, or refused.
    pub(crate) dropped: u64,
}

/// See the module.
pub(crate) struct Socket {
    number: usize,
    io: UdpSocket,
    state: UdpSocketState,
    counts: Cell<Counts>,
}

impl Socket {
    /// Takes a bound socket over.
    pub(crate) fn new(number: usize, socket: std::net::UdpSocket) -> io::Result<Self> {
        let options = SockRef::from(&socket);
        // The kernel gives what it may give (net.core.rmem_max).
        options.set_recv_buffer_size(BUFFER).ok();
        options.set_send_buffer_size(BUFFER).ok();
        // It reports twice what it gave.
        let (receive, send) = (options.recv_buffer_size()? / 2, options.send_buffer_size()? / 2);
        if receive < BUFFER || send < BUFFER {
            warn!(
                receive,
                send,
                wanted = BUFFER,
                "UDP buffers are small: raise net.core.rmem_max and net.core.wmem_max (deploy/sysctl/99-weir.conf)"
            );
        }
        let state = UdpSocketState::new((&socket).into())?;
        socket.set_nonblocking(true)?;
        Ok(Self { number, io: UdpSocket::from_std(socket)?, state, counts: Cell::default() })
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// Waits until there may be something to read.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.io.readable().await
    }

    /// Reads what is there, one batch, and hands on each datagram; false: there was nothing.
    pub(crate) fn read(&self, buffers: &mut Buffers, mut each: impl FnMut(Path, &mut [u8])) -> io::Result<bool> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut slices: Vec<IoSliceMut<'_>> = buffers.0.chunks_exact_mut(READ).map(IoSliceMut::new).collect();
        let got = self.io.try_io(Interest::READABLE, || self.state.recv((&self.io).into(), &mut slices, &mut metas));
        let got = match got {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        drop(slices);
        let mut counts = self.counts.get();
        for (buffer, meta) in buffers.0.chunks_exact_mut(READ).zip(&metas).take(got) {
            let path = Path { socket: self.number, peer: meta.addr, local: meta.dst_ip };
            let Some(bytes) = buffer.get_mut(..meta.len) else { continue };
            for datagram in bytes.chunks_mut(meta.stride.max(1)) {
                counts.received += 1;
                counts.bytes_in += datagram.len() as u64;
                each(path, datagram);
            }
        }
        self.add(|all| {
            all.received = counts.received;
            all.bytes_in = counts.bytes_in;
        });
        Ok(got > 0)
    }

    /// Sends one datagram. What the kernel has no room for is lost, as on any network.
    pub(crate) fn send(&self, path: Path, datagram: &[u8]) {
        self.transmit(path, datagram, None, 1);
    }

    /// Sends datagrams that lie one behind the other in `bytes` and are `lengths` long: runs of one length, the last of
    /// which may be shorter, leave in one call.
    pub(crate) fn send_all(&self, path: Path, mut bytes: &[u8], lengths: &[usize]) {
        let most = self.state.max_gso_segments().min(SEGMENTS_MAX);
        let mut rest = lengths;
        while let Some(&first) = rest.first() {
            let mut count = 0;
            let mut total = 0;
            for &length in rest {
                if count == most || length > first || total + length > SEND_MAX {
                    break;
                }
                count += 1;
                total += length;
                if length < first {
                    break;
                }
            }
            // One that is longer than any send still goes alone.
            if count == 0 {
                (count, total) = (1, first);
            }
            let Some((run, behind)) = bytes.split_at_checked(total) else { return };
            self.transmit(path, run, (count > 1).then_some(first), count);
            bytes = behind;
            rest = rest.get(count..).unwrap_or_default();
        }
    }

    fn transmit(&self, path: Path, contents: &[u8], segment_size: Option<usize>, datagrams: usize) {
        let transmit = Transmit { destination: path.peer, ecn: None, contents, segment_size, src_ip: path.local };
        let sent = self.io.try_io(Interest::WRITABLE, || self.state.try_send((&self.io).into(), &transmit));
        let sent = match sent {
            // The readiness that tokio keeps may be stale: a full buffer is found by asking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.state.try_send((&self.io).into(), &transmit)
            }
            other => other,
        };
        self.add(|all| match sent {
            Ok(()) => {
                all.sends += 1;
                all.sent += datagrams as u64;
                all.bytes_out += contents.len() as u64;
            }
            Err(_) => all.dropped += datagrams as u64,
        });
    }

    fn add(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

/// Room for a batch.
pub(crate) struct Buffers(Vec<u8>);

impl Buffers {
    pub(crate) fn new() -> Self {
        Self(vec![0; READ * BATCH_SIZE])
    }
}
