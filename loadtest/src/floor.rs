//! `floor`: what the kernel alone costs. A server, in a process of its own, that does nothing but write the same bytes
//! to all sockets in one rhythm; and clients that read them.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::getppid;
use socket2::{Domain, Socket, Type};

use crate::clock::{self, SECOND};
use crate::drive::{Load, Outcome};
use crate::flow::{Flow, Flows};
use crate::net::{Handler, Net, Reason, Wire};
use crate::report::Report;
use crate::tally::Tally;

/// A silence of so many intervals, and of a second, is a gap.
const GAP_INTERVALS: u64 = 3;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// What a socket is given at once.
const BURST_MAX: u64 = 64 * 1024 * 1024;
/// How long the server may take to notice that all its clients are gone, milliseconds: two of its rounds.
const WORDS_WITHIN: u16 = 5000;

/// What the server writes, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    /// Sockets.
    pub(crate) players: usize,
    /// Between two rounds, nanoseconds.
    pub(crate) interval: u64,
    /// To each socket, kbit/s.
    pub(crate) kbps: u64,
}

impl Rhythm {
    /// Bytes that each socket gets each round, at least one.
    ///
    /// # Errors
    /// More than [`BURST_MAX`].
    pub(crate) fn burst(&self) -> anyhow::Result<usize> {
        let bytes = (u128::from(self.kbps) * 125).saturating_mul(self.interval.into()) / u128::from(SECOND);
        match u64::try_from(bytes.max(1)) {
            Ok(bytes) if bytes <= BURST_MAX => Ok(usize::try_from(bytes)?),
            _ => bail!("{bytes} bytes a round to each player; {BURST_MAX} is the most"),
        }
    }
}

/// The server's process. Dropping it ends it.
pub(crate) struct Server {
    child: Child,
    words: BufReader<ChildStdout>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

/// What the server says at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    rounds: u64,
    missed: u64,
    short: u64,
}

impl Server {
    /// Starts this program once more, as the server.
    ///
    /// # Errors
    /// It does not start, or does not listen.
    pub(crate) fn start(rhythm: Rhythm, cpu: Option<usize>) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["floor-server", "--parent", &std::process::id().to_string()]);
        command.args(["--players", &rhythm.players.to_string()]);
        command.args(["--interval-ns", &rhythm.interval.to_string(), "--kbps", &rhythm.kbps.to_string()]);
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the floor's server")?;
        let mut words = BufReader::new(child.stdout.take().context("the floor's server has no output")?);
        let mut line = String::new();
        // It speaks at once or ends.
        words.by_ref().take(64).read_line(&mut line)?;
        let port = line.trim().parse().context("the floor's server did not start")?;
        Ok(Self { child, words, address: (Ipv4Addr::LOCALHOST, port).into() })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it did, once all its clients are gone; `None` if it does not say in time.
    pub(crate) fn words(&mut self) -> Option<Words> {
        let mut ready = [PollFd::new(self.words.get_ref().as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, WORDS_WITHIN).ok()? == 0 {
            return None;
        }
        let mut line = String::new();
        self.words.by_ref().take(256).read_line(&mut line).ok()?;
        let mut numbers = line.split_ascii_whitespace().map_while(|word| word.parse().ok());
        Some(Words { rounds: numbers.next()?, missed: numbers.next()?, short: numbers.next()? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server itself, in its own process: it ends when all its clients are gone, or the process `parent`, which started
/// it.
///
/// # Errors
/// It cannot listen or accept.
pub(crate) fn serve(rhythm: Rhythm, parent: i32) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid().as_raw() != parent {
        bail!("the floor's clients are gone");
    }
    // Ctrl-C reaches both processes: the clients end the run, and this one with it.
    let mut interrupt = SigSet::empty();
    interrupt.add(Signal::SIGINT);
    interrupt.thread_block()?;
    prctl::set_name(c"floor-server")?;
    let burst = vec![b'.'; rhythm.burst()?];
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    say(&listener.local_addr()?.port().to_string())?;
    let mut sockets = Vec::with_capacity(rhythm.players);
    for _ in 0..rhythm.players {
        let (socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    let mut words = Words::default();
    let mut due = clock::now();
    while !sockets.is_empty() {
        let wait = due.saturating_sub(clock::now());
        if wait > 0 {
            std::thread::sleep(Duration::from_nanos(wait));
        }
        words.rounds += 1;
        sockets.retain_mut(|socket| give(socket, &burst, &mut words.short));
        due += rhythm.interval;
        let now = clock::now();
        if due <= now {
            let missed = (now - due) / rhythm.interval + 1;
            words.missed += missed;
            due += missed * rhythm.interval;
        }
    }
    say(&format!("{} {} {}", words.rounds, words.missed, words.short))
}

/// One write. False once the client is gone.
fn give(socket: &mut TcpStream, burst: &[u8], short: &mut u64) -> bool {
    match socket.write(burst) {
        Ok(count) => *short += u64::from(count < burst.len()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => *short += 1,
        Err(_) => return false,
    }
    true
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// The clients.
pub(crate) struct Floor {
    tally: Tally,
    flows: Flows,
    words: Option<Words>,
}

/// One client.
pub(crate) struct Reader {
    opened: u64,
    begun: bool,
    flow: Flow,
}

impl Floor {
    /// Clients for a server of that rhythm.
    pub(crate) fn new(rhythm: Rhythm) -> Self {
        let gap = SECOND.max(GAP_INTERVALS * rhythm.interval);
        Self { tally: Tally::new(rhythm.players), flows: Flows::new(gap), words: None }
    }

    /// What the server said at its end.
    pub(crate) fn heard(&mut self, words: Option<Words>) {
        self.words = words;
    }
}

impl Handler for Floor {
    type Conn = Reader;

    fn open(&mut self, _index: usize, _token: usize, now: u64) -> Reader {
        Reader { opened: now, begun: false, flow: Flow::default() }
    }

    fn connected(&mut self, _reader: &mut Reader, _wire: &mut Wire, _now: u64) -> Result<(), Reason> {
        Ok(())
    }

    fn received(&mut self, reader: &mut Reader, _wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason> {
        if !reader.begun {
            reader.begun = true;
            self.tally.begun += 1;
        }
        self.flows.add_watched(&mut reader.flow, bytes.len() as u64, now);
        Ok(())
    }

    fn closed(&mut self, reader: Reader, _now: u64, reason: &Reason) {
        self.flows.closed(&reader.flow);
        self.tally.lost(reader.begun, reason);
    }
}

impl Load for Floor {
    fn settled(&self) -> usize {
        self.tally.settled()
    }

    fn begun(&self, reader: &Reader) -> bool {
        reader.begun
    }

    fn opened(&self, reader: &Reader) -> u64 {
        reader.opened
    }

    fn steady(&mut self, net: &mut Net<Reader>, now: u64) {
        self.flows.steady(net.conns().map(|reader| &mut reader.flow), now);
    }

    fn finish(&mut self, net: &mut Net<Reader>, now: u64) {
        self.flows.finish(now);
        for reader in net.conns() {
            if reader.begun {
                self.tally.ok += 1;
                self.flows.last(&mut reader.flow, now, true);
            } else {
                self.tally.failed += 1;
            }
        }
    }

    fn bytes(&self) -> u64 {
        self.flows.bytes()
    }

    fn live(&self) -> String {
        format!("{}, {} gaps", self.tally.live(), self.flows.gaps())
    }

    fn report(&self, outcome: &Outcome) -> Report {
        let mut report = Report::default();
        self.tally.report(&mut report);
        self.flows.report_rates(&mut report);
        self.flows.report_gaps(&mut report);
        report.count_if_known("rounds", self.words.map(|words| words.rounds));
        report.count_if_known("rounds_missed", self.words.map(|words| words.missed));
        report.count_if_known("short_writes", self.words.map(|words| words.short));
        outcome.report(&mut report);
        report
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        self.tally.reasons()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::MILLISECOND;

    #[test]
    fn bursts() {
        let rhythm = |interval, kbps| Rhythm { players: 1, interval, kbps };
        assert_eq!(rhythm(350 * MILLISECOND, 677).burst().unwrap(), 29_618);
        assert_eq!(rhythm(14_700_000, 677).burst().unwrap(), 1243);
        assert_eq!(rhythm(1, 1).burst().unwrap(), 1);
        assert!(rhythm(u64::MAX, u64::MAX).burst().is_err());
    }
}
