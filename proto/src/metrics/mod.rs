//! What a host counts, from the workers' cells to one page of numbers. Pure.
//!
//! A worker counts in plain cells and sends a [`Snapshot`] with each report. The supervisor puts the reports of all
//! workers together in a [`Merge`], which makes a [`Page`] of them.
//!
//! A new number takes two lines: one in the table of [`families`], which says its name, kind and labels, and one
//! where the worker fills its snapshot:
//!
//! ```text
//! UDP_DROPS: Counter, "weir_udp_receive_drops_total", Worker, ["socket"], "Datagrams that the kernel dropped.";
//! snapshot.count(&families::UDP_DROPS, &["rtc.0"], stats.udp_drops.get());
//! ```
//!
//! Numbers of the supervisor itself are put on the page, with all labels, by [`Page::set`].

pub mod families;
mod histogram;
mod merge;
mod page;
mod saved;
#[cfg(test)]
mod tests;

use crate::supervisor::{Counter, Gauge, Histogram, Snapshot};

pub use histogram::{Buckets, Observed};
pub use merge::{Merge, STREAMS_MAX, busier};
pub use page::{Page, Value};
pub use saved::{SavedCounted, SavedMerge};

/// The media type of the text format.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4";

/// Pairs of vhost and app that are told apart; what is more is counted under [`OTHER`].
pub const PAIRS_MAX: usize = 100;

/// Vhost and app of what is not told apart.
pub const OTHER: &str = "other";

/// Bytes of a label's value; a longer one is cut.
pub const LABEL_MAX: usize = 128;

/// A metric's name and what its samples are.
#[derive(Debug)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// How its samples are put together.
    pub kind: Kind,
    /// Who is told apart.
    pub per: Per,
    /// Its own labels, which follow those of `per`.
    pub labels: &'static [&'static str],
}

/// How samples of several workers, and of several incarnations of one slot, become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Added up, with what workers counted that are gone. It never goes back.
    Counter,
    /// Added up over the workers that live.
    Gauge,
    /// The largest of the workers that live.
    Worst,
    /// As a counter, bucket by bucket; the upper bounds of the buckets in seconds.
    Histogram(&'static [f64]),
}

/// Whose numbers are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each slot's, with its role.
    Worker,
    /// Each slot's, of the one role that has such numbers.
    Slot,
    /// Nobody's: all are one.
    Host,
}

impl Per {
    /// The labels that come before a family's own.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::Worker => &["role", "slot"],
            Self::Slot => &["slot"],
            Self::Host => &[],
        }
    }
}

impl Family {
    /// All its labels, in their order.
    pub fn all_labels(&self) -> impl Iterator<Item = &'static str> {
        self.per.labels().iter().chain(self.labels).copied()
    }

    /// Whether clients choose its labels, so that at most [`PAIRS_MAX`] of them are told apart.
    fn is_by_vhost(&self) -> bool {
        self.per == Per::Host && self.labels.starts_with(&["vhost", "app"]) && self.kind == Kind::Counter
    }
}

/// The longest beginning of `text` that fits a label.
pub fn label(text: &str) -> &str {
    let longest = (0..=LABEL_MAX.min(text.len())).rev().find_map(|end| text.get(..end));
    longest.unwrap_or_default()
}

impl Snapshot {
    /// Adds a counter of the worker's whole life.
    pub fn count(&mut self, family: &'static Family, labels: &[&str], value: u64) {
        debug_assert!(family.kind == Kind::Counter && family.labels.len() == labels.len(), "{}", family.name);
        self.counters.push(Counter { name: family.name.to_owned(), labels: owned(labels), value });
    }

    /// Adds a number of this moment.
    pub fn gauge(&mut self, family: &'static Family, labels: &[&str], value: f64) {
        debug_assert!(matches!(family.kind, Kind::Gauge | Kind::Worst), "{}", family.name);
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        self.gauges.push(Gauge { name: family.name.to_owned(), labels: owned(labels), value });
    }

    /// Adds what was observed in the worker's whole life.
    pub fn observed(&mut self, labels: &[&str], observed: &Observed) {
        let family = observed.family();
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let Kind::Histogram(bounds) = family.kind else { return };
        let Buckets { counts, sum_us } = observed.get();
        let (name, bounds) = (family.name.to_owned(), bounds.to_vec());
        self.histograms.push(Histogram { name, labels: owned(labels), bounds, counts, sum_us });
    }
}

fn owned(labels: &[&str]) -> Vec<String> {
    labels.iter().map(|text| label(text).to_owned()).collect()
}
