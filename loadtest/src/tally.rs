//! What every load counts of its connections.

use std::collections::BTreeMap;

use crate::net::Reason;
use crate::report::Report;

/// Different reasons that are told apart.
const REASONS_MAX: usize = 16;

/// Connections, by what became of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// That were to be opened.
    pub(crate) asked: u64,
    /// That began.
    pub(crate) begun: u64,
    /// That began and were there to the end.
    pub(crate) ok: u64,
    /// That never began.
    pub(crate) failed: u64,
    /// That began and ended too early.
    pub(crate) disconnected: u64,
    reasons: BTreeMap<String, u64>,
}

impl Tally {
    /// Nothing yet of `asked` connections.
    pub(crate) fn new(asked: usize) -> Self {
        Self { asked: asked as u64, ..Self::default() }
    }

    /// A connection is over.
    pub(crate) fn lost(&mut self, begun: bool, reason: &Reason) {
        *if begun { &mut self.disconnected } else { &mut self.failed } += 1;
        self.remember(if begun { "disconnected" } else { "failed" }, reason);
    }

    /// Keeps why, unless there are too many different reasons.
    pub(crate) fn remember(&mut self, what: &str, reason: &Reason) {
        let text = format!("{what}: {reason}");
        if self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&text) {
            *self.reasons.entry(text).or_default() += 1;
        }
    }

    /// How many will not begin any more, or have.
    pub(crate) fn settled(&self) -> usize {
        usize::try_from(self.begun + self.failed).unwrap_or(usize::MAX)
    }

    /// Why connections ended, and how many of them.
    pub(crate) fn reasons(&self) -> Vec<(String, u64)> {
        self.reasons.iter().map(|(reason, count)| (reason.clone(), *count)).collect()
    }

    /// How it stands.
    pub(crate) fn live(&self) -> String {
        let Self { asked, begun, failed, disconnected, .. } = self;
        format!("{begun} of {asked} began, {failed} failed, {disconnected} lost")
    }

    /// Adds asked, ok, failed and disconnected.
    pub(crate) fn report(&self, report: &mut Report) {
        report.count("asked", self.asked);
        report.count("ok", self.ok);
        report.count("failed", self.failed);
        report.count("disconnected", self.disconnected);
    }
}
