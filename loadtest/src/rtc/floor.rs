//! `floor-rtc`: what the kernel and the cipher alone cost. A server, in a process of its own, that encrypts the same
//! packets for each destination and sends each picture in one go (UDP GSO); and sockets that read and drop.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};
use nix::unistd::getppid;
use socket2::{Domain, Socket, Type};
use weir_wire::srtp::{self, Profile, Protect};

use crate::clock::{self, MILLISECOND, SECOND};
use crate::drive::{Outcome, Server};
use crate::report::Report;
use crate::usage::{Usage, percent};

/// Bytes of a payload.
const PAYLOAD: usize = 1200;
/// Between two packets of sound, and their size.
const SOUND: u64 = 20 * MILLISECOND;
const SOUND_BYTES: usize = 80;
/// Between the last destination and the part that is measured.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two looks at the server.
const LOOK: Duration = Duration::from_millis(500);
/// What waits in the server's socket.
const SEND_BUFFER: usize = 8 * 1024 * 1024;
/// Packets of one picture that go at once: the kernel takes 64.
const SEGMENTS_MAX: usize = 64;
/// What one read takes.
const READ: usize = 64 * 1024;

/// What is sent, and to how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Destinations.
    pub(crate) players: usize,
    /// Sound and picture together, to each.
    pub(crate) kbps: u64,
    /// Pictures a second.
    pub(crate) fps: u32,
    /// Length of the part that is measured, nanoseconds.
    pub(crate) duration: u64,
    /// Where the server is kept.
    pub(crate) server_cpu: Option<usize>,
}

/// Runs it. The caller keeps this process, which reads, on a CPU.
///
/// # Errors
/// There are no sockets, or the server does not start.
pub(crate) fn run(load: &Load) -> anyhow::Result<(Report, Outcome)> {
    let sink = Sink::start(load.players)?;
    let mut server = start(load, &sink.ports)?;
    let pid = server.0.id().cast_signed();
    let (mut usage, mut own) = (Usage::of_trees(&[pid]), Usage::own());
    std::thread::sleep(SETTLE);
    let before = usage.memory();
    let from = (clock::now(), sink.packets.load(Ordering::Relaxed), sink.bytes.load(Ordering::Relaxed));
    usage.begin();
    own.begin();
    while clock::now() < from.0 + load.duration {
        std::thread::sleep(LOOK.min(Duration::from_nanos((from.0 + load.duration).saturating_sub(clock::now()))));
        usage.sample();
        own.sample();
    }
    let passed = clock::now() - from.0;
    let packets = sink.packets.load(Ordering::Relaxed) - from.1;
    let bytes = sink.bytes.load(Ordering::Relaxed) - from.2;
    let (processes, after) = (usage.shares(passed), usage.memory());
    let words = server.words();
    drop(server);
    let outcome = Outcome {
        passed,
        own_cpu_percent: percent(own.busy(), passed),
        server: Some(Server { processes, before, after, connections: load.players as u64 }),
        stalls: 0,
    };
    let mut report = Report::default();
    report.count("asked", load.players as u64);
    report.number("duration_s", Some(clock::seconds(passed)));
    report.count("bytes", bytes);
    report.count("packets", packets);
    report.count_if_known("rounds", words.first().copied());
    report.count_if_known("rounds_missed", words.get(1).copied());
    report.count_if_known("refused_sends", words.get(2).copied());
    outcome.report(&mut report);
    Ok((report, outcome))
}

/// The server's process; dropping it ends it.
struct Running(Child);

impl Running {
    /// Ends it with the end of its input, and returns what it says: rounds, missed rounds, sends that failed.
    fn words(&mut self) -> Vec<u64> {
        drop(self.0.stdin.take());
        let mut line = String::new();
        if let Some(out) = &mut self.0.stdout {
            let _ = BufReader::new(out.take(256)).read_line(&mut line);
        }
        line.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(load: &Load, ports: &[u16]) -> anyhow::Result<Running> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["floor-rtc-server", "--parent", &std::process::id().to_string()]);
    command.args(["--kbps", &load.kbps.to_string(), "--fps", &load.fps.to_string()]);
    if let Some(cpu) = load.server_cpu {
        command.args(["--cpu", &cpu.to_string()]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().context("the floor's server")?);
    let text: String = ports.iter().map(|port| format!("{port}\n")).collect();
    // An empty line ends the list; the pipe stays open until the server shall end.
    child.0.stdin.as_mut().context("no input")?.write_all((text + "\n").as_bytes())?;
    Ok(child)
}

/// Sockets that read and drop, on a thread of their own.
struct Sink {
    ports: Vec<u16>,
    packets: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    fn start(count: usize) -> anyhow::Result<Self> {
        let (poll, mut sockets, mut ports) = (Poll::new()?, Vec::new(), Vec::new());
        for token in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(token), Interest::READABLE)?;
            ports.push(socket.local_addr()?.port());
            sockets.push(socket);
        }
        let [packets, bytes] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, summed, stopped) = (packets.clone(), bytes.clone(), stop.clone());
        let thread = std::thread::spawn(move || read(poll, &sockets, &counted, &summed, &stopped));
        Ok(Self { ports, packets, bytes, stop, thread: Some(thread) })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read(mut poll: Poll, sockets: &[UdpSocket], packets: &AtomicU64, bytes: &AtomicU64, stop: &AtomicBool) {
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; READ]);
    while !stop.load(Ordering::Relaxed) {
        if poll.poll(&mut events, Some(Duration::from_millis(100))).is_err() {
            continue;
        }
        for event in events.iter() {
            let Some(socket) = sockets.get(event.token().0) else { continue };
            while let Ok(count) = socket.recv(&mut buffer) {
                packets.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(count as u64, Ordering::Relaxed);
            }
        }
    }
}

/// One destination: its address, and its keys.
struct Destination {
    address: SockaddrIn,
    protect: Protect,
}

/// What the server sends.
struct Sender {
    socket: Socket,
    destinations: Vec<Destination>,
    index: u64,
    out: Vec<u8>,
    refused: u64,
}

/// The server itself, in its own process: it reads its destinations' ports from its input and ends with it.
///
/// # Errors
/// It has no socket, or no destinations.
pub(crate) fn serve(kbps: u64, fps: u32, parent: i32) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != parent {
        bail!("the floor's sink is gone");
    }
    prctl::set_name(c"floor-server")?;
    let mut destinations = Vec::new();
    for (number, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        let mut material = vec![0; Profile::AeadAes128Gcm.material_len()];
        material.iter_mut().zip(number.to_be_bytes()).for_each(|(byte, of_number)| *byte = of_number);
        let (protect, _) = srtp::session(Profile::AeadAes128Gcm, &material, false)?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, line.parse().context("a port")?).into();
        destinations.push(Destination { address, protect });
    }
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read(&mut [0]);
        told.store(true, Ordering::Relaxed);
    });
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    let mut sender = Sender { socket, destinations, index: 0, out: Vec::new(), refused: 0 };
    let (rounds, missed) = sender.run(kbps, fps, &ended)?;
    println!("{rounds} {missed} {}", sender.refused);
    Ok(())
}

impl Sender {
    /// Sends sound and pictures in their rhythm; returns the rounds, and those that it came too late for.
    fn run(&mut self, kbps: u64, fps: u32, ended: &AtomicBool) -> anyhow::Result<(u64, u64)> {
        let sound_bits = SECOND / SOUND * SOUND_BYTES as u64 * 8;
        let picture = usize::try_from((kbps * 1000).saturating_sub(sound_bits) / 8 / u64::from(fps.max(1)))?;
        let count = picture.div_ceil(PAYLOAD).clamp(1, SEGMENTS_MAX);
        let size = picture.div_ceil(count).clamp(1, PAYLOAD);
        let start = clock::now();
        let mut beats = [Beat::new(start, SECOND / u64::from(fps.max(1))), Beat::new(start, SOUND)];
        let (mut rounds, mut missed) = (0, 0);
        while !ended.load(Ordering::Relaxed) {
            let next = beats.iter().map(|beat| beat.due).min().unwrap_or(start);
            let wait = next.saturating_sub(clock::now());
            if wait > 0 {
                std::thread::sleep(Duration::from_nanos(wait));
            }
            for (beat, (count, size)) in beats.iter_mut().zip([(count, size), (1, SOUND_BYTES)]) {
                if beat.due <= clock::now() {
                    self.round(count, size);
                    rounds += 1;
                    missed += beat.pass(clock::now());
                }
            }
        }
        Ok((rounds, missed))
    }

    /// Encrypts `count` packets for each destination and sends them in one go.
    fn round(&mut self, count: usize, size: usize) {
        let payload = [0x41; PAYLOAD];
        let payload = payload.get(..size).unwrap_or(&payload);
        for destination in &self.destinations {
            self.out.clear();
            for packet in 0..count {
                let index = self.index + packet as u64;
                let [.., s0, s1] = index.to_be_bytes();
                let header = [0x80, 106, s0, s1, 0, 0, 0, 0, 0, 0, 0, 1];
                if destination.protect.rtp(index, &header, payload, &mut self.out).is_err() {
                    self.refused += 1;
                }
            }
            self.refused += u64::from(!send(&self.socket, &self.out, count, &destination.address));
        }
        self.index += count as u64;
    }
}

/// One `sendmsg`; false if the socket did not take it.
fn send(socket: &Socket, bytes: &[u8], count: usize, to: &SockaddrIn) -> bool {
    let segment = u16::try_from(bytes.len() / count.max(1)).unwrap_or(u16::MAX);
    let gso = [ControlMessage::UdpGsoSegments(&segment)];
    let control = if count > 1 { &gso[..] } else { &[] };
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_DONTWAIT, Some(to)).is_ok()
}

/// Something that is due again and again.
struct Beat {
    due: u64,
    period: u64,
}

impl Beat {
    fn new(start: u64, period: u64) -> Self {
        Self { due: start, period: period.max(1) }
    }

    /// It was done; says how often it was not.
    fn pass(&mut self, now: u64) -> u64 {
        self.due += self.period;
        let missed = if self.due <= now { (now - self.due) / self.period + 1 } else { 0 };
        self.due += missed * self.period;
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_that_are_missed_are_counted() {
        let mut beat = Beat::new(100, 10);
        assert_eq!((beat.pass(105), beat.due), (0, 110));
        assert_eq!((beat.pass(145), beat.due), (3, 150));
    }

    #[test]
    fn packets_of_a_picture_come_apart_again() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let SocketAddr::V4(to) = receiver.local_addr().unwrap() else { panic!("IPv6") };
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        assert!(send(&socket, &[7; 300], 3, &to.into()) && send(&socket, &[8; 50], 1, &to.into()));
        let mut buffer = [0; 1000];
        let sizes: Vec<_> = (0..4).map(|_| receiver.recv(&mut buffer).unwrap()).collect();
        assert_eq!(sizes, [100, 100, 100, 50]);
    }
}
