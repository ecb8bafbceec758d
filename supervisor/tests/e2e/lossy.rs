//! A bad network of the test's own: a UDP proxy that loses, delays and reorders what goes through it, by a seed.

use std::collections::{BinaryHeap, HashMap};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of a datagram.
const DATAGRAM: usize = 2048;
/// Clients that are told apart.
const CLIENTS_MAX: usize = 64;
/// Datagrams on their way; more are lost, as in any router.
const QUEUE_MAX: usize = 10_000;
/// The queue in front of a narrow way; what does not fit is lost.
const QUEUE: Duration = Duration::from_millis(500);
/// The longest sleep.
const REST: Duration = Duration::from_millis(1);

/// How bad the network is, in each direction alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct Badness {
    /// Lost datagrams, of a thousand.
    pub loss: u64,
    /// Every datagram takes so long.
    pub delay: Duration,
    /// Datagrams that take longer by a random part of `jitter`, of a thousand, so that others overtake them.
    pub reordered: u64,
    /// See above.
    pub jitter: Duration,
    /// Datagrams that come twice, of a thousand.
    pub doubled: u64,
    /// Bits a second that it carries, with a queue of [`QUEUE`] in front; 0: all that comes.
    pub rate: u64,
}

/// The proxy; gone with its value.
pub struct Lossy {
    /// Where clients send to.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    badness: Mutex<Badness>,
    passed: AtomicU64,
    lost: AtomicU64,
}

impl Lossy {
    /// Between its own address and `server`, as bad as this; `seed` says what is lost.
    pub fn start(server: SocketAddr, badness: Badness, seed: u64) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            badness: Mutex::new(badness),
            passed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let network = Network {
            server,
            front,
            clients: HashMap::new(),
            way: BinaryHeap::new(),
            free: [Instant::now(); 2],
            next: 0,
            random: seed | 1,
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new().name("lossy".to_owned()).spawn(move || network.run()).unwrap();
        Self { address, shared, thread: Some(thread) }
    }

    /// As bad as this from now on.
    pub fn change(&self, badness: Badness) {
        *self.shared.badness.lock().unwrap() = badness;
    }

    /// Datagrams that came through.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// Datagrams that did not.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A datagram on its way. The one that is due first is the greatest.
struct Travelling {
    due: Instant,
    number: u64,
    /// Whose it is.
    client: SocketAddr,
    to_server: bool,
    bytes: Vec<u8>,
}

impl Travelling {
    fn order(&self) -> std::cmp::Reverse<(Instant, u64)> {
        std::cmp::Reverse((self.due, self.number))
    }
}

impl PartialEq for Travelling {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Travelling {}

impl PartialOrd for Travelling {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Travelling {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

struct Network {
    server: SocketAddr,
    front: UdpSocket,
    /// A socket towards the server for each client, so that the server tells them apart too.
    clients: HashMap<SocketAddr, UdpSocket>,
    way: BinaryHeap<Travelling>,
    /// When a narrow way is free again, towards clients and towards the server.
    free: [Instant; 2],
    next: u64,
    random: u64,
    shared: Arc<Shared>,
}

impl Network {
    fn run(mut self) {
        self.front.set_nonblocking(true).unwrap();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let took = self.take();
            self.deliver();
            if !took {
                std::thread::sleep(REST);
            }
        }
    }

    /// Reads what there is at every socket.
    fn take(&mut self) -> bool {
        let mut came = Vec::new();
        let mut buffer = [0; DATAGRAM];
        while let Ok((count, from)) = self.front.recv_from(&mut buffer) {
            if !self.clients.contains_key(&from) && self.clients.len() < CLIENTS_MAX {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.set_nonblocking(true).unwrap();
                socket.connect(self.server).unwrap();
                self.clients.insert(from, socket);
            }
            came.push((from, true, buffer[..count].to_vec()));
        }
        for (client, socket) in &self.clients {
            loop {
                match socket.recv(&mut buffer) {
                    Ok(count) => came.push((*client, false, buffer[..count].to_vec())),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // Nobody listens there yet, or any more.
                    Err(_) => break,
                }
            }
        }
        let took = !came.is_empty();
        for (client, to_server, bytes) in came {
            self.send_off(client, to_server, bytes);
        }
        took
    }

    fn send_off(&mut self, client: SocketAddr, to_server: bool, bytes: Vec<u8>) {
        let badness = *self.shared.badness.lock().unwrap();
        if self.chance(badness.loss) || self.way.len() >= QUEUE_MAX {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let now = Instant::now();
        let mut through = now;
        if let Some(takes) = (bytes.len() as u64 * 8_000_000).checked_div(badness.rate) {
            let free = &mut self.free[usize::from(to_server)];
            if *free > now + QUEUE {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            *free = (*free).max(now) + Duration::from_micros(takes);
            through = *free;
        }
        let copies = 1 + u64::from(self.chance(badness.doubled));
        for _ in 0..copies {
            let late = if self.chance(badness.reordered) { badness.jitter } else { Duration::ZERO };
            let share = u32::try_from(self.draw() % 1000).unwrap();
            let due = through + badness.delay + late * share / 1000;
            self.next += 1;
            self.way.push(Travelling { due, number: self.next, client, to_server, bytes: bytes.clone() });
        }
    }

    fn deliver(&mut self) {
        let now = Instant::now();
        while self.way.peek().is_some_and(|first| first.due <= now) {
            let Some(Travelling { client, to_server, bytes, .. }) = self.way.pop() else { return };
            if to_server {
                self.clients.get(&client).and_then(|socket| socket.send(&bytes).ok());
            } else {
                self.front.send_to(&bytes, client).ok();
            }
            self.shared.passed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True for so many of a thousand.
    fn chance(&mut self, of_thousand: u64) -> bool {
        of_thousand > 0 && self.draw() % 1000 < of_thousand
    }

    /// xorshift64*.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}
