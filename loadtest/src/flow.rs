//! Bytes over time, a connection each and together: rates and gaps.

use crate::clock;
use crate::report::Report;

/// The bytes of one connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    bytes: u64,
    before_steady: u64,
    /// When bytes last came.
    last: u64,
    gaps: u64,
}

/// The bytes of all connections.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    /// A silence longer than this is a gap, nanoseconds.
    gap: u64,
    steady_from: Option<u64>,
    bytes: u64,
    before_steady: u64,
    in_steady: u64,
    passed: u64,
    gaps: u64,
    gap_flows: u64,
    kbps: Vec<f64>,
}

impl Flows {
    /// Nothing yet. A silence of more than `gap` nanoseconds will be a gap.
    pub(crate) fn new(gap: u64) -> Self {
        Self { gap, ..Self::default() }
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gaps so far.
    pub(crate) fn gaps(&self) -> u64 {
        self.gaps
    }

    /// Bytes of a connection whose silences do not count.
    pub(crate) fn add(&mut self, flow: &mut Flow, bytes: u64, now: u64) {
        flow.last = now;
        flow.bytes += bytes;
        self.bytes += bytes;
    }

    /// Bytes of a connection that should never be silent.
    pub(crate) fn add_watched(&mut self, flow: &mut Flow, bytes: u64, now: u64) {
        self.look(flow, now);
        self.add(flow, bytes, now);
    }

    /// Counts the silence that ends now, if it was one.
    fn look(&mut self, flow: &mut Flow, now: u64) {
        if let Some(from) = self.steady_from
            && now.saturating_sub(flow.last.max(from)) > self.gap
        {
            flow.gaps += 1;
            self.gaps += 1;
        }
    }

    /// The steady part begins.
    pub(crate) fn steady<'a>(&mut self, flows: impl Iterator<Item = &'a mut Flow>, now: u64) {
        self.steady_from = Some(now);
        self.before_steady = self.bytes;
        for flow in flows {
            flow.before_steady = flow.bytes;
        }
    }

    /// The connection is over.
    pub(crate) fn closed(&mut self, flow: &Flow) {
        self.gap_flows += u64::from(flow.gaps > 0);
    }

    /// The steady part ends; each connection that is still there is shown to [`last`](Self::last) after this.
    pub(crate) fn finish(&mut self, now: u64) {
        self.passed = self.steady_from.map_or(0, |from| now.saturating_sub(from));
        self.in_steady = if self.passed > 0 { self.bytes - self.before_steady } else { 0 };
    }

    /// A connection that lasted to the end at `now`. Its silence counts if it is `watched`.
    pub(crate) fn last(&mut self, flow: &mut Flow, now: u64, watched: bool) {
        if watched {
            self.look(flow, now);
        }
        self.closed(flow);
        if self.passed > 0 {
            let bits = (flow.bytes - flow.before_steady) as f64 * 8.0;
            self.kbps.push(bits / 1000.0 / clock::seconds(self.passed));
        }
    }

    /// Adds the bytes and the rates.
    pub(crate) fn report_rates(&self, report: &mut Report) {
        report.number("duration_s", Some(clock::seconds(self.passed)));
        report.count("bytes", self.in_steady);
        report.spread(["kbps_min", "kbps_median", "kbps_max"], self.kbps.clone());
    }

    /// Adds the gaps and how many connections had one.
    pub(crate) fn report_gaps(&self, report: &mut Report) {
        report.count("gaps", self.gaps);
        report.count("gap_players", self.gap_flows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SECOND;

    #[test]
    fn rates_and_gaps_are_those_of_the_steady_part() {
        let mut flows = Flows::new(SECOND);
        let (mut quiet, mut lively) = (Flow::default(), Flow::default());
        // A silence before the steady part is none.
        flows.add_watched(&mut quiet, 5000, SECOND);
        flows.add_watched(&mut lively, 1000, 5 * SECOND);
        flows.steady([&mut quiet, &mut lively].into_iter(), 10 * SECOND);
        for second in 11..=14 {
            flows.add_watched(&mut lively, 1000, second * SECOND);
        }
        flows.add_watched(&mut quiet, 500, 12 * SECOND);
        flows.finish(14 * SECOND);
        flows.last(&mut quiet, 14 * SECOND, true);
        flows.last(&mut lively, 14 * SECOND, true);
        let mut report = Report::default();
        flows.report_rates(&mut report);
        flows.report_gaps(&mut report);
        let wanted = concat!(
            r#"{"duration_s":4.0,"bytes":4500,"kbps_min":1.0,"kbps_median":8.0,"kbps_max":8.0,"#,
            r#""gaps":2,"gap_players":1}"#
        );
        assert_eq!(serde_json::to_string(&report).unwrap(), wanted);
    }

    #[test]
    fn silence_of_an_unwatched_connection_is_no_gap() {
        let mut flows = Flows::new(SECOND);
        let mut flow = Flow::default();
        flows.steady([&mut flow].into_iter(), SECOND);
        flows.add(&mut flow, 1, 9 * SECOND);
        flows.finish(20 * SECOND);
        flows.last(&mut flow, 20 * SECOND, false);
        assert_eq!((flows.gaps(), flows.bytes()), (0, 1));
    }
}
