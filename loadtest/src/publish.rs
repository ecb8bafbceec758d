//! `publish`: a file as many streams at once, in real time, each message its own write.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use socket2::Socket;
use weir_wire::rtmp::client::{Event, Purpose};
use weir_wire::rtmp::{Client, Limits, Output};

use crate::drive::{Load, Poll};
use crate::flvfile::FlvFile;
use crate::histogram::Histogram;
use crate::player::Failure;
use crate::report::Report;
use crate::stamp;
use crate::target::Target;

/// What may wait for a server that does not read; one that lets more wait has failed.
const UNSENT_MAX: usize = 4 << 20;

/// One that is later than this goes on from there instead of catching up.
const LATE: Duration = Duration::from_secs(1);

const READ: usize = 16 * 1024;

/// How many failures are told in words.
const TOLD: u64 = 5;

/// See the module.
pub(crate) struct PublishLoad {
    target: Target,
    file: FlvFile,
    asked: usize,
    stamp: bool,
    publishers: Vec<Option<Publisher>>,
    /// When which publisher has its next message to send.
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    scratch: Vec<u8>,
    stamped: Vec<u8>,
    accepted: Histogram,
    failed: u64,
    disconnected: u64,
    late: u64,
    frames: u64,
    bytes: u64,
    bytes_then: u64,
}

struct Publisher {
    socket: Socket,
    client: Client,
    born: Instant,
    /// When the file's first frame was due.
    start: Option<Instant>,
    /// The place of its next message in the file, and how often it began anew.
    place: usize,
    round: u32,
    unsent: Vec<u8>,
    steady_bytes: u64,
}

impl PublishLoad {
    pub(crate) fn new(target: Target, file: FlvFile, publishers: usize, stamp: bool) -> Self {
        Self {
            target,
            file,
            asked: publishers,
            stamp,
            publishers: Vec::new(),
            due: BinaryHeap::new(),
            scratch: vec![0; READ],
            stamped: Vec::new(),
            accepted: Histogram::default(),
            failed: 0,
            disconnected: 0,
            late: 0,
            frames: 0,
            bytes: 0,
            bytes_then: 0,
        }
    }

    fn lost(&mut self, index: usize, why: &Failure) {
        let Some(publisher) = self.publishers.get_mut(index).and_then(Option::take) else { return };
        let count = if publisher.start.is_some() { &mut self.disconnected } else { &mut self.failed };
        *count += 1;
        if *count <= TOLD {
            eprintln!("publisher {index}: {why}");
        }
    }

    /// Reads what there is and answers it; begins to send when the server has accepted.
    fn turn(&mut self, index: usize, now: Instant) -> Result<(), Failure> {
        let Some(Some(publisher)) = self.publishers.get_mut(index) else { return Ok(()) };
        publisher.write(&[])?;
        // All there is: the set tells only of what is new.
        loop {
            let read = match (&publisher.socket).read(&mut self.scratch) {
                Ok(0) => anyhow::bail!("closed by the server"),
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            publisher.client.handle(now, self.scratch.get(..read).unwrap_or_default())?;
            while let Some(output) = publisher.next() {
            match output {
                Output::Send(bytes) => publisher.write(&bytes)?,
                Output::Event(Event::Started) => {
                    self.accepted.record(publisher.born.elapsed());
                    for config in &self.file.configs {
                        publisher.client.media(config.kind, 0, &config.body);
                    }
                    // All of them together make an even flow, as many encoders do.
                    let phase = self.file.period.mul_f64(index as f64 / self.asked.max(1) as f64);
                    publisher.start = Some(now + phase);
                    self.due.push(Reverse((now + phase, index)));
                }
                Output::Event(Event::Refused { code, description, .. }) => anyhow::bail!("{code} {description}"),
                Output::Event(_) | Output::Wait(_) => {}
            }
            }
        }
    }

    /// Sends the next message of one; when the one after it is due.
    fn send(&mut self, index: usize, now: Instant) -> Result<Option<Instant>, Failure> {
        let Some(Some(publisher)) = self.publishers.get_mut(index) else { return Ok(None) };
        let (Some(tag), Some(start)) = (self.file.tags.get(publisher.place), publisher.start) else { return Ok(None) };
        let time = tag.time + self.file.duration * publisher.round;
        let start = match now.checked_duration_since(start + time) {
            Some(late) if late > LATE => {
                self.late += 1;
                *publisher.start.insert(start + late)
            }
            _ => start,
        };
        // Modulo 2^32, as RTMP counts.
        let millis = time.as_millis() as u32;
        if self.stamp {
            stamp::write(&mut self.stamped, &tag.body, stamp::now());
            publisher.client.media(tag.kind, millis, &self.stamped);
        } else {
            publisher.client.media(tag.kind, millis, &tag.body);
        }
        while let Some(Output::Send(bytes)) = publisher.next() {
            publisher.write(&bytes)?;
            publisher.steady_bytes += bytes.len() as u64;
            self.bytes += bytes.len() as u64;
        }
        self.frames += 1;
        publisher.place += 1;
        if publisher.place == self.file.tags.len() {
            (publisher.place, publisher.round) = (0, publisher.round + 1);
        }
        let next = self.file.tags.get(publisher.place).map_or(Duration::ZERO, |tag| tag.time);
        Ok(Some(start + next + self.file.duration * publisher.round))
    }
}

impl Publisher {
    /// What the protocol wants next, if anything.
    fn next(&mut self) -> Option<Output<Event>> {
        Some(self.client.poll()).filter(|output| !matches!(output, Output::Wait(_)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut rest = bytes;
        loop {
            let waiting = !self.unsent.is_empty();
            let out = if waiting { self.unsent.as_slice() } else { rest };
            if out.is_empty() {
                return Ok(());
            }
            match (&self.socket).write(out) {
                Ok(written) if waiting => drop(self.unsent.drain(..written)),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent.extend_from_slice(rest);
        anyhow::ensure!(self.unsent.len() <= UNSENT_MAX, "the server does not read: {UNSENT_MAX} bytes wait");
        Ok(())
    }
}

impl Load for PublishLoad {
    fn open(&mut self, poll: &Poll, index: usize, now: Instant) {
        let limits = Limits { handshake: Duration::from_secs(30), ..Limits::default() };
        let opened = self.target.request(Purpose::Publish, index).and_then(|request| {
            let socket = poll.connect(self.target.address, index, None)?;
            let mut client = Client::new(now, request, limits, [index as u8; 32], 65_536);
            let mut unsent = Vec::new();
            while let Output::Send(bytes) = client.poll() {
                unsent.extend_from_slice(&bytes);
            }
            let (start, place, round, steady_bytes) = (None, 0, 0, 0);
            Ok(Publisher { socket, client, born: now, start, place, round, unsent, steady_bytes })
        });
        self.publishers.push(None);
        match (opened, self.publishers.last_mut()) {
            (Ok(publisher), Some(place)) => *place = Some(publisher),
            (Err(why), _) => {
                self.failed += 1;
                if self.failed <= TOLD {
                    eprintln!("publisher {index}: {why}");
                }
            }
            _ => {}
        }
    }

    fn ready(&mut self, _poll: &Poll, index: usize, now: Instant) {
        if let Err(why) = self.turn(index, now) {
            self.lost(index, &why);
        }
    }

    fn tick(&mut self, _poll: &Poll, now: Instant) -> Option<Instant> {
        while let Some(Reverse((due, index))) = self.due.peek().copied() {
            if due > now {
                return Some(due);
            }
            self.due.pop();
            match self.send(index, now) {
                Ok(Some(next)) => self.due.push(Reverse((next, index))),
                Ok(None) => {}
                Err(why) => self.lost(index, &why),
            }
        }
        None
    }

    fn steady(&mut self, _now: Instant) {
        self.frames = 0;
        self.late = 0;
        for publisher in self.publishers.iter_mut().flatten() {
            publisher.steady_bytes = 0;
        }
    }

    fn line(&mut self, passed: Duration) -> String {
        let mbps = (self.bytes - self.bytes_then) as f64 / 125_000.0 / passed.as_secs_f64();
        self.bytes_then = self.bytes;
        let started = self.publishers.iter().flatten().filter(|p| p.start.is_some()).count();
        format!("{started} publishing, {mbps:.1} Mbit/s")
    }

    fn standing(&self) -> usize {
        self.publishers.iter().flatten().count()
    }

    fn report(&mut self, report: &mut Report, passed: Duration) {
        let (mut ok, mut silent, mut bytes, mut rates) = (0, 0, 0, Vec::new());
        for publisher in self.publishers.iter().flatten() {
            *if publisher.start.is_some() { &mut ok } else { &mut silent } += 1;
            bytes += publisher.steady_bytes;
            rates.push(publisher.steady_bytes as f64 / 125.0 / passed.as_secs_f64().max(0.001));
        }
        report.count("asked", self.asked as u64);
        report.count("ok", ok);
        report.loss("failed", self.failed + silent);
        report.loss("disconnected", self.disconnected);
        report.count("frames", self.frames);
        report.count("bytes", bytes);
        report.rates(rates);
        report.times("publish", &self.accepted);
        report.loss("late", self.late);
    }
}
