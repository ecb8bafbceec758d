//! ICE over TCP (RFC 6544) for peers whose network lets no UDP pass: what would be a datagram comes behind its length
//! (RFC 4571). A connection is the way to one session; it carries nothing until a check over it was verified.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::socket::Path;

/// Connections are numbered behind the sockets ([`Path::socket`]).
const FIRST: usize = 1 << 16;

/// The longest frame that is read. DTLS and RTP of any client fit Ethernet's 1500.
const FRAME_MAX: usize = 4096;

/// What waits for a slow peer: a newcomer's first burst, and what comes while that goes out. More is lost, as a full queue
/// on the way loses it.
const WAITING_MAX: usize = 2 * super::lane::BURST_BYTES;

/// Connections without a session are few and short: they could be anybody's. One too many ends the oldest, of the same
/// host if that has too many, so that nobody keeps others out by coming early.
const STRANGERS_MAX: usize = 512;
const STRANGERS_OF_ONE: usize = 64;
const STRANGER_FOR: Duration = Duration::from_secs(10);

/// What all connections did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) bytes_in: u64,
    pub(crate) sent: u64,
    pub(crate) bytes_out: u64,
    pub(crate) dropped: u64,
}

/// All connections of a worker.
pub(crate) struct Connections {
    stranger_for: Duration,
    all: RefCell<Slab<Rc<Connection>>>,
    /// The oldest first.
    strangers: RefCell<VecDeque<Rc<Connection>>>,
    counts: Cell<Counts>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    waiting: RefCell<VecDeque<u8>>,
    /// Something waits.
    wake: Notify,
    /// It is to end.
    end: Notify,
}

impl Path {
    /// Whether it is a connection.
    pub(crate) fn is_tcp(self) -> bool {
        self.socket >= FIRST
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            stranger_for: STRANGER_FOR,
            all: RefCell::default(),
            strangers: RefCell::default(),
            counts: Cell::default(),
        }
    }
}

impl Connections {
    /// What all connections did so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts.get()
    }

    /// Sends one datagram; one that there is no room for is lost.
    pub(crate) fn send(&self, path: Path, datagram: &[u8]) {
        let sent = self.connection(path).is_some_and(|connection| connection.send(datagram));
        self.add(|counts| {
            counts.sent += u64::from(sent);
            counts.dropped += u64::from(!sent);
            counts.bytes_out += if sent { datagram.len() as u64 } else { 0 };
        });
    }

    /// Ends a connection that leads to no session any more. What waits is sent if there is room for it.
    pub(crate) fn close(&self, path: Path) {
        if let Some(connection) = self.connection(path) {
            connection.end.notify_one();
        }
    }

    /// The connection of a path: its number may be another's by now.
    fn connection(&self, path: Path) -> Option<Rc<Connection>> {
        let connection = self.all.borrow().get(path.socket.checked_sub(FIRST)?).cloned();
        connection.filter(|connection| connection.peer == path.peer)
    }

    /// Serves a connection to its end. `each` takes a datagram; `behind` is called behind each batch of them and tells
    /// whether the path leads to a session by now.
    pub(crate) async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        mut each: impl FnMut(Path, &mut [u8]),
        mut behind: impl FnMut(Path) -> bool,
    ) {
        // Frames are small, and each counts.
        stream.set_nodelay(true).ok();
        let (waiting, wake, end) = Default::default();
        let connection = Rc::new(Connection { stream, peer, waiting, wake, end });
        let at = self.all.borrow_mut().insert(connection.clone());
        let path = Path { socket: FIRST + at, peer, local: None };
        self.admit(&connection);
        let mut stranger = true;
        let mut came = Vec::with_capacity(FRAME_MAX);
        let known_by = Instant::now() + self.stranger_for;
        loop {
            let turn = async {
                tokio::select! {
                    over = connection.read(&mut came) => over,
                    () = connection.flush() => false,
                    () = connection.end.notified() => true,
                }
            };
            let over = if stranger { timeout_at(known_by, turn).await.unwrap_or(true) } else { turn.await };
            // Also of one that never stops sending.
            if over || !self.cut(path, &mut came, &mut each) || (stranger && Instant::now() >= known_by) {
                break;
            }
            if behind(path) && std::mem::replace(&mut stranger, false) {
                self.strangers.borrow_mut().retain(|stranger| !Rc::ptr_eq(stranger, &connection));
            }
            // As long as there is something to read, nothing above waits.
            tokio::task::yield_now().await;
        }
        connection.write();
        self.strangers.borrow_mut().retain(|stranger| !Rc::ptr_eq(stranger, &connection));
        self.all.borrow_mut().try_remove(at);
    }

    /// Makes room for one more of nobody that is known.
    fn admit(&self, connection: &Rc<Connection>) {
        let mut strangers = self.strangers.borrow_mut();
        let same = |other: &Rc<Connection>| other.peer.ip() == connection.peer.ip();
        let oldest = if strangers.iter().filter(|other| same(other)).count() >= STRANGERS_OF_ONE {
            strangers.iter().position(same)
        } else {
            (strangers.len() >= STRANGERS_MAX).then_some(0)
        };
        if let Some(oldest) = oldest.and_then(|at| strangers.remove(at)) {
            oldest.end.notify_one();
        }
        strangers.push_back(connection.clone());
    }

    /// Hands on the frames that came whole; false: this is not the protocol.
    fn cut(&self, path: Path, came: &mut Vec<u8>, each: &mut impl FnMut(Path, &mut [u8])) -> bool {
        let (mut whole, mut taken) = (true, 0);
        while let Some(length) = came.get(taken..).and_then(|rest| rest.first_chunk()) {
            let length = usize::from(u16::from_be_bytes(*length));
            whole = length <= FRAME_MAX;
            let Some(frame) = came.get_mut(taken + 2..taken + 2 + length).filter(|_| whole) else { break };
            self.add(|counts| {
                counts.received += 1;
                counts.bytes_in += length as u64;
            });
            each(path, frame);
            taken += 2 + length;
        }
        came.drain(..taken);
        whole
    }

    fn add(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

impl Connection {
    fn send(&self, datagram: &[u8]) -> bool {
        let Ok(length) = u16::try_from(datagram.len()) else { return false };
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() + datagram.len() > WAITING_MAX {
            return false;
        }
        let idle = waiting.is_empty();
        waiting.extend(length.to_be_bytes());
        waiting.extend(datagram);
        if idle {
            self.wake.notify_one();
        }
        true
    }

    /// Adds what came; true: no more will.
    async fn read(&self, came: &mut Vec<u8>) -> bool {
        if self.stream.readable().await.is_err() {
            return true;
        }
        match self.stream.try_read_buf(came) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    /// Writes what waits. A connection that breaks is noticed by reading.
    async fn flush(&self) {
        if self.waiting.borrow().is_empty() {
            self.wake.notified().await;
        }
        if self.stream.ready(Interest::WRITABLE).await.is_err() {
            return std::future::pending().await;
        }
        self.write();
    }

    fn write(&self) {
        let mut waiting = self.waiting.borrow_mut();
        if let Ok(written) = self.stream.try_write(waiting.as_slices().0) {
            waiting.drain(..written);
        }
        if waiting.is_empty() {
            waiting.shrink_to(FRAME_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// Serves one connection with that patience, and returns what came within it.
    fn serve(write: impl FnOnce(std::net::TcpStream) + Send + 'static, known: bool) -> Option<(Vec<Vec<u8>>, Counts)> {
        let came = RefCell::new(Vec::new());
        let counts = serve_with(write, known, |connections, path, packet| {
            came.borrow_mut().push(packet.to_vec());
            connections.send(path, packet);
        })?;
        Some((came.into_inner(), counts))
    }

    /// The same, with each datagram left to `each`.
    fn serve_with(
        write: impl FnOnce(std::net::TcpStream) + Send + 'static,
        known: bool,
        each: impl Fn(&Connections, Path, &[u8]),
    ) -> Option<Counts> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let writer = std::thread::spawn(move || write(client));
            let (stream, peer) = listener.accept().await.unwrap();
            let connections = Connections { stranger_for: Duration::from_millis(200), ..Connections::default() };
            let each = |path: Path, packet: &mut [u8]| {
                assert!(path.is_tcp());
                each(&connections, path, packet);
            };
            let served = timeout(Duration::from_secs(5), connections.serve(stream, peer, each, |_| known)).await;
            let counts = connections.counts();
            assert_eq!((connections.strangers.borrow().len(), connections.all.borrow().len()), (0, 0));
            writer.join().unwrap();
            served.ok().map(|()| counts)
        })
    }

    #[test]
    fn frames_are_cut_and_answers_come_behind_their_length() {
        let (came, counts) = serve(
            |mut client| {
                client.write_all(&[0, 3, 1, 2]).unwrap();
                client.write_all(&[3, 0, 0, 0, 1, 9]).unwrap();
                let mut answers = [0; 10];
                client.read_exact(&mut answers).unwrap();
                assert_eq!(answers, [0, 3, 1, 2, 3, 0, 0, 0, 1, 9]);
            },
            true,
        )
        .unwrap();
        assert_eq!(came, [vec![1, 2, 3], vec![], vec![9]]);
        assert_eq!((counts.received, counts.sent, counts.bytes_in), (3, 3, 4));
    }

    /// All other sessions live on the same thread.
    #[test]
    fn one_that_never_stops_sending_leaves_others_their_turn() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let writer = std::thread::spawn(move || while client.write_all(&[0; 60_000]).is_ok() {});
            let (stream, peer) = listener.accept().await.unwrap();
            let connections = Connections { stranger_for: Duration::from_millis(500), ..Connections::default() };
            let turns = Rc::new(Cell::new(0));
            let counted = turns.clone();
            let others = tokio::task::spawn_local(async move {
                loop {
                    counted.set(counted.get() + 1);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            connections.serve(stream, peer, |_, _| {}, |_| false).await;
            others.abort();
            writer.join().unwrap();
            assert!(turns.get() >= 10, "others had {} turns in half a second", turns.get());
        });
    }

    #[test]
    fn a_stranger_is_closed_though_it_never_stops_sending() {
        let served = serve(|mut client| while client.write_all(&[0, 1, 7].repeat(1000)).is_ok() {}, false);
        assert!(served.is_some_and(|(came, _)| came.len() > 1000));
        let silent = serve(|mut client| drop(client.read(&mut [0])), false);
        assert!(silent.is_some_and(|(came, _)| came.is_empty()));
        let too_long = serve(|mut client| client.write_all(&[0xff; 5000]).unwrap_or_default(), true).unwrap();
        assert!(too_long.0.is_empty());
    }
    #[test]
    fn a_burst_goes_out_whole() {
        const DATAGRAM: usize = 1200;
        const DATAGRAMS: usize = crate::rtc::lane::BURST_BYTES / DATAGRAM;
        let burst = |connections: &Connections, path: Path, _: &[u8]| {
            (0..DATAGRAMS).for_each(|_| connections.send(path, &[7; DATAGRAM]));
        };
        let counts = serve_with(
            |mut client| {
                client.write_all(&[0, 1, 9]).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                client.read_exact(&mut vec![0; DATAGRAMS * (DATAGRAM + 2)]).unwrap();
            },
            true,
            burst,
        )
        .unwrap();
        assert_eq!((counts.sent, counts.dropped), (DATAGRAMS as u64, 0));
    }

    /// Whoever comes has its turn, however many came before and say nothing.
    #[test]
    fn strangers_do_not_keep_others_out() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let connections = Rc::new(Connections::default());
            let mut clients = Vec::new();
            for number in 0..2 * STRANGERS_OF_ONE {
                // One other host, which came first.
                let from: SocketAddr = ([127, 0, 0, if number == 0 { 2 } else { 1 }], 0).into();
                let socket = tokio::net::TcpSocket::new_v4().unwrap();
                socket.bind(from).unwrap();
                clients.push(socket.connect(listener.local_addr().unwrap()).await.unwrap());
                let (stream, peer) = listener.accept().await.unwrap();
                let connections = connections.clone();
                tokio::task::spawn_local(async move {
                    let each = |path: Path, packet: &mut [u8]| connections.send(path, packet);
                    connections.serve(stream, peer, each, |_| false).await;
                });
                tokio::task::yield_now().await;
            }
            let answers = async |client: &mut TcpStream| {
                client.write_all(&[0, 1, 9]).await.ok();
                timeout(Duration::from_secs(5), client.read(&mut [0; 3])).await.unwrap().unwrap_or(0)
            };
            let mut answered = Vec::new();
            for client in &mut clients {
                answered.push(answers(client).await > 0);
            }
            let closed = STRANGERS_OF_ONE - 1;
            assert!(answered[0], "a host that has not too many");
            assert_eq!(answered[1..].iter().position(|answered| *answered), Some(closed), "{answered:?}");
            assert!(answered[closed + 1..].iter().all(|answered| *answered), "{answered:?}");
            assert_eq!(connections.strangers.borrow().len(), STRANGERS_OF_ONE + 1);
        });
    }

    #[test]
    fn a_connection_ends_with_its_session() {
        let close = |connections: &Connections, path: Path, _: &[u8]| {
            connections.send(path, b"bye");
            connections.close(path);
        };
        let client = |mut client: std::net::TcpStream| {
            client.write_all(&[0, 1, 9]).unwrap();
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            assert_eq!(all, [0, 3, b'b', b'y', b'e']);
        };
        assert!(serve_with(client, true, close).is_some());
    }
}
