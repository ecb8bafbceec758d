//! `idle` and `storm`: connections that only say hello.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use socket2::Socket;
use weir_wire::amf::{self, Value};
use weir_wire::rtmp::chunk;
use weir_wire::rtmp::client::Purpose;

use crate::drive::{Load, Poll};
use crate::histogram::Histogram;
use crate::player::Failure;
use crate::report::Report;
use crate::target::{Scheme, Target};

/// Version and one packet of the handshake (5.2).
const PACKET: usize = 1536;
const CONNECT_CSID: u32 = chunk::CSID_COMMAND;
const COMMAND: u8 = 20;
const ACCEPTED: &[u8] = b"NetConnection.Connect.Success";

/// An answer longer than this is none.
const ANSWER_MAX: usize = 64 * 1024;

/// How many failures are told in words.
const TOLD: u64 = 5;

/// What becomes of a connection that has said hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It stays, after the handshake.
    Stay,
    /// It is closed, after the answer to `connect` or `GET`.
    Close,
}

/// See the module.
pub(crate) struct Greet {
    target: Target,
    then: Then,
    asked: usize,
    greeters: Vec<Option<Greeter>>,
    connected: Histogram,
    greeted: Histogram,
    ok: u64,
    failed: u64,
    disconnected: u64,
    ok_then: u64,
    scratch: Vec<u8>,
}

struct Greeter {
    socket: Socket,
    born: Instant,
    step: Step,
    answer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connecting,
    Handshake,
    Asked,
    Done,
}

impl Greet {
    pub(crate) fn new(target: Target, asked: usize, then: Then) -> Self {
        Self {
            target,
            then,
            asked,
            greeters: Vec::new(),
            connected: Histogram::default(),
            greeted: Histogram::default(),
            ok: 0,
            failed: 0,
            disconnected: 0,
            ok_then: 0,
            scratch: vec![0; 16 * 1024],
        }
    }

    fn turn(&mut self, index: usize, now: Instant) -> Result<(), Failure> {
        let Some(Some(greeter)) = self.greeters.get_mut(index) else { return Ok(()) };
        if greeter.step == Step::Connecting {
            if let Some(error) = greeter.socket.take_error()? {
                return Err(error.into());
            }
            if greeter.socket.peer_addr().is_err() {
                return Ok(());
            }
            self.connected.record(now - greeter.born);
            greeter.begin(&self.target, index, self.then)?;
        }
        // All there is: the set tells only of what is new.
        loop {
            let read = match (&greeter.socket).read(&mut self.scratch) {
                Ok(0) => anyhow::bail!("closed by the server"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if greeter.step == Step::Done {
                continue;
            }
            greeter.answer.extend_from_slice(self.scratch.get(..read).unwrap_or_default());
            anyhow::ensure!(greeter.answer.len() <= ANSWER_MAX, "an answer of more than {ANSWER_MAX} bytes");
            if greeter.go_on(&self.target, index, self.then)? {
                greeter.step = Step::Done;
                greeter.answer = Vec::new();
                self.greeted.record(greeter.born.elapsed());
                self.ok += 1;
                if self.then == Then::Close {
                    break;
                }
            }
        }
        if let Some(place) = self.greeters.get_mut(index) {
            *place = None;
        }
        Ok(())
    }
}

impl Greeter {
    fn begin(&mut self, target: &Target, index: usize, then: Then) -> Result<(), Failure> {
        self.step = Step::Handshake;
        if target.scheme == Scheme::Rtmp {
            let mut hello = vec![0; 1 + PACKET];
            if let Some(version) = hello.first_mut() {
                *version = 3;
            }
            (&self.socket).write_all(&hello)?;
        } else if then == Then::Close {
            self.step = Step::Asked;
            (&self.socket).write_all(target.get(index).as_bytes())?;
        }
        Ok(())
    }

    /// Whether it has said all that it had to.
    fn go_on(&mut self, target: &Target, index: usize, then: Then) -> Result<bool, Failure> {
        if target.scheme != Scheme::Rtmp {
            return Ok(self.answer.windows(4).any(|end| end == b"\r\n\r\n"));
        }
        if self.step == Step::Handshake {
            if self.answer.len() < 1 + 2 * PACKET {
                return Ok(false);
            }
            // C2 repeats S1 (5.2.4).
            (&self.socket).write_all(self.answer.get(1..=PACKET).unwrap_or_default())?;
            if then == Then::Stay {
                return Ok(true);
            }
            self.step = Step::Asked;
            self.answer.clear();
            (&self.socket).write_all(&connect(target, index)?)?;
        }
        Ok(self.answer.windows(ACCEPTED.len()).any(|text| text == ACCEPTED))
    }
}

/// The command `connect`.
fn connect(target: &Target, index: usize) -> Result<Vec<u8>, Failure> {
    let request = target.request(Purpose::Play, index)?;
    let object = Value::object([
        ("app", Value::string(request.app)),
        ("type", Value::string("nonprivate")),
        ("tcUrl", Value::string(request.tc_url)),
    ]);
    let mut body = Vec::new();
    for value in [Value::string("connect"), Value::Number(1.0), object] {
        amf::write(&mut body, &value);
    }
    let mut out = Vec::new();
    chunk::write_message(&mut out, CONNECT_CSID, COMMAND, 0, 0, &body, chunk::DEFAULT_CHUNK_SIZE);
    Ok(out)
}

impl Load for Greet {
    fn open(&mut self, poll: &Poll, index: usize, now: Instant) {
        let opened = poll.connect(self.target.address, index, None);
        self.greeters.push(match opened {
            Ok(socket) => Some(Greeter { socket, born: now, step: Step::Connecting, answer: Vec::new() }),
            Err(why) => {
                self.failed += 1;
                if self.failed <= TOLD {
                    eprintln!("connection {index}: {why}");
                }
                None
            }
        });
    }

    fn ready(&mut self, _poll: &Poll, index: usize, now: Instant) {
        if let Err(why) = self.turn(index, now)
            && let Some(greeter) = self.greeters.get_mut(index).and_then(Option::take)
        {
            let count = if greeter.step == Step::Done { &mut self.disconnected } else { &mut self.failed };
            *count += 1;
            if *count <= TOLD {
                eprintln!("connection {index}: {why}");
            }
        }
    }

    fn steady(&mut self, _now: Instant) {}

    fn line(&mut self, passed: Duration) -> String {
        let rate = (self.ok - self.ok_then) as f64 / passed.as_secs_f64();
        self.ok_then = self.ok;
        format!("{} greeted, {rate:.0} a second, {} failed", self.ok, self.failed)
    }

    fn standing(&self) -> usize {
        self.greeters.iter().flatten().count()
    }

    fn report(&mut self, report: &mut Report, _passed: Duration) {
        let waits = |greeter: &&Greeter| greeter.step != Step::Done;
        // Over HTTP there is nothing to say before a request: to be connected is all.
        let silent_ok = self.then == Then::Stay && self.target.scheme != Scheme::Rtmp;
        let waiting = self.greeters.iter().flatten().filter(waits).count() as u64;
        let (ok, waiting) = if silent_ok { (self.ok + waiting, 0) } else { (self.ok, waiting) };
        report.count("asked", self.asked as u64);
        report.count("ok", ok);
        report.loss("failed", self.failed + waiting);
        report.loss("disconnected", self.disconnected);
        report.times("connect", &self.connected);
        report.times("greeting", &self.greeted);
    }
}
