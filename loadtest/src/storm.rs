//! `storm`: clients that come, are greeted, and go.

use std::io::ErrorKind;

use crate::clock;
use crate::conn::{self, Greeting};
use crate::drive::{Load, Outcome};
use crate::histogram::Histogram;
use crate::net::{Handler, Net, Reason, Wire};
use crate::report::Report;
use crate::tally::Tally;
use crate::target::Target;

/// The clients together.
pub(crate) struct Storm {
    target: Target,
    tally: Tally,
    refused: u64,
    connect: Histogram,
    handshake: Histogram,
}

/// One client.
pub(crate) struct Caller {
    greeting: Greeting,
    opened: u64,
    connected: u64,
}

impl Storm {
    /// Clients that are yet to come.
    pub(crate) fn new(target: Target, clients: usize) -> Self {
        let (connect, handshake) = (Histogram::default(), Histogram::default());
        Self { target, tally: Tally::new(clients), refused: 0, connect, handshake }
    }
}

/// Whether the server said no, rather than nothing.
fn is_refusal(reason: &Reason) -> bool {
    match reason {
        Reason::Connect(error) => error.kind() == ErrorKind::ConnectionRefused,
        Reason::Session(error) => matches!(error, conn::Error::Refused(_) | conn::Error::HttpStatus(_)),
        _ => false,
    }
}

impl Handler for Storm {
    type Conn = Caller;

    fn open(&mut self, index: usize, _token: usize, now: u64) -> Caller {
        Caller { greeting: Greeting::call(&self.target, index), opened: now, connected: now }
    }

    fn connected(&mut self, caller: &mut Caller, wire: &mut Wire, now: u64) -> Result<(), Reason> {
        self.connect.add(now.saturating_sub(caller.opened));
        caller.connected = now;
        caller.greeting.connected(wire).map(|_| ())
    }

    fn received(&mut self, caller: &mut Caller, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason> {
        if !caller.greeting.received(wire, bytes)? {
            return Ok(());
        }
        self.handshake.add(now.saturating_sub(caller.connected));
        Err(Reason::Done)
    }

    fn closed(&mut self, _caller: Caller, _now: u64, reason: &Reason) {
        match reason {
            Reason::Done => self.tally.ok += 1,
            reason if is_refusal(reason) => {
                self.refused += 1;
                self.tally.remember("refused", reason);
            }
            reason => self.tally.lost(false, reason),
        }
    }
}

impl Load for Storm {
    fn settled(&self) -> usize {
        usize::try_from(self.tally.ok + self.tally.failed + self.refused).unwrap_or(usize::MAX)
    }

    fn begun(&self, _caller: &Caller) -> bool {
        false
    }

    fn opened(&self, caller: &Caller) -> u64 {
        caller.opened
    }

    fn steady(&mut self, _net: &mut Net<Caller>, _now: u64) {}

    fn finish(&mut self, _net: &mut Net<Caller>, _now: u64) {
        // Those that were still waiting when the run was ended are neither.
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn live(&self) -> String {
        let Tally { asked, ok, failed, .. } = self.tally;
        format!("{ok} of {asked} greeted, {failed} failed, {} refused", self.refused)
    }

    fn report(&self, outcome: &Outcome) -> Report {
        let mut report = Report::default();
        report.count("asked", self.tally.asked);
        report.count("ok", self.tally.ok);
        report.count("failed", self.tally.failed);
        report.count("refused", self.refused);
        let seconds = clock::seconds(outcome.passed);
        report.number("duration_s", Some(seconds));
        report.number("ok_per_second", Some(self.tally.ok as f64 / seconds));
        report.percentiles(["connect_p50_ms", "connect_p90_ms", "connect_p99_ms"], &self.connect);
        report.percentiles(["handshake_p50_ms", "handshake_p90_ms", "handshake_p99_ms"], &self.handshake);
        outcome.report(&mut report);
        report
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        self.tally.reasons()
    }
}
