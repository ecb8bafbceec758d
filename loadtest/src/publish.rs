//! `publish`: one file as many streams, in real time, each message in a write of its own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use weir_media::Kind;

use crate::clock::{self, MILLISECOND, SECOND};
use crate::conn::Rtmp;
use crate::drive::{Load, Outcome};
use crate::flow::{Flow, Flows};
use crate::flvfile::{FlvFile, Tag};
use crate::histogram::Histogram;
use crate::net::{Handler, Net, Reason, Wire};
use crate::report::Report;
use crate::stamp;
use crate::tally::Tally;
use crate::target::Target;

/// Later than this is not made up for: the publisher's clock is put back instead.
const LATE: u64 = SECOND;
/// Messages sent before the sockets are looked after again.
const SEND_AT_ONCE: usize = 1024;

/// What to publish.
pub(crate) struct Options {
    /// Where.
    pub(crate) target: Target,
    /// Publishers, one a stream.
    pub(crate) publishers: usize,
    /// What.
    pub(crate) file: FlvFile,
    /// Bytes of a chunk.
    pub(crate) chunk_size: u32,
    /// Whether video frames tell when they were sent.
    pub(crate) stamp: bool,
}

/// The publishers together.
pub(crate) struct Publish {
    options: Options,
    tally: Tally,
    flows: Flows,
    accepted: Histogram,
    frames: u64,
    late: u64,
    steady: bool,
    /// Who sends next, and when.
    due: BinaryHeap<Reverse<Due>>,
    /// Those whose server has just accepted.
    fresh: Vec<(usize, usize)>,
    /// A body with its stamp.
    stamped: Vec<u8>,
}

/// A publisher's next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: u64,
    token: usize,
    /// Tells it from another that had its token.
    index: usize,
}

/// One publisher.
pub(crate) struct Publisher {
    index: usize,
    token: usize,
    opened: u64,
    session: Rtmp,
    begun: bool,
    flow: Flow,
    /// When its file's first frame was due in its first round, nanoseconds.
    start: u64,
    /// The frame that is next, and how many times the file was sent.
    next: usize,
    round: u64,
}

impl Publish {
    /// Publishers that are yet to be opened.
    pub(crate) fn new(options: Options) -> Self {
        Self {
            tally: Tally::new(options.publishers),
            options,
            flows: Flows::default(),
            accepted: Histogram::default(),
            frames: 0,
            late: 0,
            steady: false,
            due: BinaryHeap::new(),
            fresh: Vec::new(),
            stamped: Vec::new(),
        }
    }

    /// When publisher `index` begins, not before `now`: they share the period of a frame evenly.
    fn start(&self, index: usize, now: u64) -> u64 {
        let period = self.options.file.period_ns();
        let phase = period * index as u64 / (self.options.publishers as u64).max(1);
        (now.saturating_sub(phase) / period + 1) * period + phase
    }

    /// The server has accepted: everything that is sent once.
    fn begin(&self, publisher: &mut Publisher, wire: &mut Wire, now: u64) -> Result<Due, Reason> {
        for config in &self.options.file.configs {
            publisher.session.media(wire, config.kind, 0, &config.body)?;
        }
        publisher.start = self.start(publisher.index, now);
        Ok(Due { at: publisher.start, token: publisher.token, index: publisher.index })
    }

    /// Sends one frame and says when the next one is due.
    fn send(&mut self, publisher: &mut Publisher, wire: &mut Wire, due: Due) -> Result<Due, Reason> {
        let now = clock::now();
        if now.saturating_sub(due.at) > LATE {
            self.late += 1;
            publisher.start += now - due.at;
        }
        let file = &self.options.file;
        let Some(frame) = file.frames.get(publisher.next) else { return Err(Reason::Done) };
        let time = publisher.round * file.length + frame.time;
        let body = if self.options.stamp && stampable(frame) {
            self.stamped.clear();
            stamp::put(&mut self.stamped, &frame.body, file.nal_length_size, now);
            &*self.stamped
        } else {
            &*frame.body
        };
        let before = wire.sent;
        #[expect(clippy::cast_possible_truncation, reason = "RTMP's time wraps at 32 bits")]
        publisher.session.media(wire, frame.kind, time as u32, body)?;
        self.flows.add(&mut publisher.flow, wire.sent - before, now);
        self.frames += u64::from(self.steady);
        publisher.next += 1;
        if publisher.next == file.frames.len() {
            (publisher.next, publisher.round) = (0, publisher.round + 1);
        }
        let next = file.frames.get(publisher.next).map_or(0, |frame| frame.time);
        let at = publisher.start + (publisher.round * file.length + next) * MILLISECOND;
        Ok(Due { at, ..due })
    }
}

fn stampable(frame: &Tag) -> bool {
    frame.kind == Kind::Video && stamp::fits(&frame.body)
}

impl Handler for Publish {
    type Conn = Publisher;

    fn open(&mut self, index: usize, token: usize, now: u64) -> Publisher {
        let session = Rtmp::publisher(&self.options.target, index, self.options.chunk_size);
        Publisher {
            index,
            token,
            opened: now,
            session,
            begun: false,
            flow: Flow::default(),
            start: 0,
            next: 0,
            round: 0,
        }
    }

    fn connected(&mut self, publisher: &mut Publisher, wire: &mut Wire, _now: u64) -> Result<(), Reason> {
        publisher.session.connected(wire)
    }

    fn received(&mut self, publisher: &mut Publisher, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason> {
        let done = publisher.session.received(wire, bytes, &mut |_| ());
        if publisher.session.started() && !publisher.begun {
            publisher.begun = true;
            self.tally.begun += 1;
            self.accepted.add(now.saturating_sub(publisher.opened));
            self.fresh.push((publisher.token, publisher.index));
        }
        done
    }

    fn closed(&mut self, publisher: Publisher, _now: u64, reason: &Reason) {
        self.tally.lost(publisher.begun, reason);
    }
}

impl Load for Publish {
    fn settled(&self) -> usize {
        self.tally.settled()
    }

    fn begun(&self, publisher: &Publisher) -> bool {
        publisher.begun
    }

    fn opened(&self, publisher: &Publisher) -> u64 {
        publisher.opened
    }

    fn steady(&mut self, net: &mut Net<Publisher>, now: u64) {
        self.steady = true;
        self.flows.steady(net.conns().map(|publisher| &mut publisher.flow), now);
    }

    fn finish(&mut self, net: &mut Net<Publisher>, now: u64) {
        self.flows.finish(now);
        for publisher in net.conns() {
            if publisher.begun {
                self.tally.ok += 1;
                self.flows.last(&mut publisher.flow, now, false);
            } else {
                self.tally.failed += 1;
            }
        }
    }

    fn tick(&mut self, net: &mut Net<Publisher>, now: u64) -> u64 {
        for (token, index) in std::mem::take(&mut self.fresh) {
            net.with(self, token, |publish, publisher, wire| {
                if publisher.index == index {
                    let due = publish.begin(publisher, wire, now)?;
                    publish.due.push(Reverse(due));
                }
                Ok(())
            });
        }
        for _ in 0..SEND_AT_ONCE {
            let Some(Reverse(due)) = self.due.peek().copied().filter(|Reverse(due)| due.at <= now) else { break };
            self.due.pop();
            net.with(self, due.token, |publish, publisher, wire| {
                if publisher.index == due.index {
                    let next = publish.send(publisher, wire, due)?;
                    publish.due.push(Reverse(next));
                }
                Ok(())
            });
        }
        self.due.peek().map_or(u64::MAX, |Reverse(due)| due.at)
    }

    fn bytes(&self) -> u64 {
        self.flows.bytes()
    }

    fn live(&self) -> String {
        format!("{}, {} late", self.tally.live(), self.late)
    }

    fn report(&self, outcome: &Outcome) -> Report {
        let mut report = Report::default();
        self.tally.report(&mut report);
        self.flows.report_rates(&mut report);
        report.count("frames", self.frames);
        report.count("late", self.late);
        report.percentiles(["publish_p50_ms", "publish_p90_ms", "publish_p99_ms"], &self.accepted);
        outcome.report(&mut report);
        report
    }

    fn reasons(&self) -> Vec<(String, u64)> {
        self.tally.reasons()
    }
}
