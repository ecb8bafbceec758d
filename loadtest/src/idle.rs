//! `idle`: connections that say hello and then nothing.

use crate::clock;
use crate::conn::Greeting;
use crate::drive::{Load, Outcome};
use crate::histogram::Histogram;
use crate::net::{Handler, Net, Reason, Wire};
use crate::report::Report;
use crate::tally::Tally;
use crate::target::Target;

/// The connections together.
pub(crate) struct Idle {
    target: Target,
    tally: Tally,
    connect: Histogram,
    handshake: Histogram,
}

/// One connection.
pub(crate) struct Idler {
    greeting: Greeting,
    opened: u64,
    connected: u64,
    begun: bool,
}

impl Idle {
    /// Connections that are yet to be opened.
    pub(crate) fn new(target: Target, connections: usize) -> Self {
        Self { target, tally: Tally::new(connections), connect: Histogram::default(), handshake: Histogram::default() }
    }

    /// Whether it has said all; true only once.
    fn begins(&mut self, idler: &mut Idler, all: bool) -> bool {
        let begins = all && !idler.begun;
        idler.begun |= all;
        self.tally.begun += u64::from(begins);
        begins
    }
}

impl Handler for Idle {
    type Conn = Idler;

    fn open(&mut self, index: usize, _token: usize, now: u64) -> Idler {
        Idler { greeting: Greeting::idle(&self.target, index), opened: now, connected: now, begun: false }
    }

    fn connected(&mut self, idler: &mut Idler, wire: &mut Wire, now: u64) -> Result<(), Reason> {
        self.connect.add(now.saturating_sub(idler.opened));
        idler.connected = now;
        let all = idler.greeting.connected(wire)?;
        self.begins(idler, all);
        Ok(())
    }

    fn received(&mut self, idler: &mut Idler, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason> {
        let all = idler.greeting.received(wire, bytes)?;
        if self.begins(idler, all) {
            self.handshake.add(now.saturating_sub(idler.connected));
        }
        Ok(())
    }

    fn closed(&mut self, idler: Idler, _now: u64, reason: &Reason) {
        self.tally.lost(idler.begun, reason);
    }
}

impl Load for Idle {
    fn settled(&self) -> usize {
        self.tally.settled()
    }

    fn begun(&self, idler: &Idler) -> bool {
        idler.begun
    }

    fn opened(&self, idler: &Idler) -> u64 {
        idler.opened
    }

    fn steady(&mut self, _net: &mut Net<Idler>, _now: u64) {}

    fn finish(&mut self, net: &mut Net<Idler>, _now: u64) {
        for idler in net.conns() {
            *if idler.begun { &mut self.tally.ok } else { &mut self.tally.failed } += 1;
        }
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn live(&self) -> String {
        self.tally.live()
    }

    fn report(&self, outcome: &Outcome) -> Report {
        let mut report = Report::default();
        self.tally.report(&mut report);
        report.number("duration_s", Some(clock::seconds(outcome.passed)));
        report.percentiles(["connect_p50_ms", "connect_p90_ms", "connect_p99_ms"], &self.connect);
        report.percentiles(["handshake_p50_ms", "handshake_p90_ms", "handshake_p99_ms"], &self.handshake);
        outcome.report(&mut report);
        report
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        self.tally.reasons()
    }
}
