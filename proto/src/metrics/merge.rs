//! The reports of all workers, those that are gone included.

use std::collections::{BTreeMap, BTreeSet};

use super::{Buckets, Family, Kind, OTHER, PAIRS_MAX, Page, Per, families, label};
use crate::supervisor::{Report, Snapshot, StreamFigures};

/// Samples of one report; further ones are passed over.
const SAMPLES_MAX: usize = 2048;

/// Counters that are remembered of one worker, and of all that are gone; slots and labels are few, so it is never met.
const REMEMBERED_MAX: usize = 65_536;

/// Streams that one worker may tell of.
pub const STREAMS_MAX: usize = 10_000;

/// A family by its name, with the values of all labels.
pub(super) type Series = (&'static str, Vec<String>);

/// See the module. `K` names a worker process and is never used again.
///
/// A counter of the page is the sum over all incarnations, living or gone, so it never goes back: not when a worker
/// dies, nor while several incarnations of a slot live side by side. What a killed worker counted after its last report
/// is lost.
#[derive(Clone, Debug)]
pub struct Merge<K> {
    pub(super) live: BTreeMap<K, Worker>,
    pub(super) past: Counted,
    /// Pairs of vhost and app that are told apart. None is ever taken out: its counters would go back.
    pub(super) pairs: BTreeSet<(String, String)>,
}

/// What never goes back.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) counters: BTreeMap<Series, u64>,
    pub(super) histograms: BTreeMap<Series, Buckets>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Worker {
    pub(super) counted: Counted,
    pub(super) gauges: Vec<(&'static Family, Vec<String>, f64)>,
    pub(super) streams: Vec<StreamFigures>,
}

impl<K: Ord> Default for Merge<K> {
    fn default() -> Self {
        Self { live: BTreeMap::new(), past: Counted::default(), pairs: BTreeSet::new() }
    }
}

impl<K: Ord> Merge<K> {
    /// Takes in what a living worker of that role and slot reports. A counter that is less than it was is taken to
    /// stand still; what has no family, or other labels than it, is passed over.
    pub fn report(&mut self, worker: K, role: &str, slot: u32, report: &Report) {
        let snapshot = whole(role, report);
        let slot = slot.to_string();
        let full = |family: &Family, own: &[String]| -> Option<Vec<String>> {
            let who: &[&str] = match family.per {
                Per::Worker => &[role, &slot],
                Per::Slot => &[&slot],
                Per::Host => &[],
            };
            let own = (own.len() == family.labels.len()).then_some(own)?;
            Some(who.iter().copied().chain(own.iter().map(|text| label(text))).map(str::to_owned).collect())
        };
        let worker = self.live.entry(worker).or_default();
        // Pairs that are one to the page are added up before they are compared with what was.
        let mut counters: BTreeMap<Series, u64> = BTreeMap::new();
        for counter in snapshot.counters.iter().take(SAMPLES_MAX) {
            let Some(family) = find(&counter.name).filter(|family| family.kind == Kind::Counter) else { continue };
            let Some(mut labels) = full(family, &counter.labels) else { continue };
            if family.is_by_vhost() {
                tell_apart(&mut self.pairs, &mut labels);
            }
            let sum = counters.entry((family.name, labels)).or_default();
            *sum = sum.saturating_add(counter.value);
        }
        for (series, value) in counters {
            if let Some(old) = remembered(&mut worker.counted.counters, series) {
                *old = value.max(*old);
            }
        }
        for histogram in snapshot.histograms.iter().take(SAMPLES_MAX) {
            let Some(family) = find(&histogram.name) else { continue };
            let Kind::Histogram(bounds) = family.kind else { continue };
            let Some(labels) = full(family, &histogram.labels) else { continue };
            if histogram.bounds != bounds || histogram.counts.len() != bounds.len() + 1 {
                continue;
            }
            let new = Buckets { counts: histogram.counts.clone(), sum_us: histogram.sum_us };
            if let Some(old) = remembered(&mut worker.counted.histograms, (family.name, labels)) {
                old.grow(&new);
            }
        }
        let gauges = snapshot.gauges.iter().take(SAMPLES_MAX).filter(|gauge| gauge.value.is_finite());
        worker.gauges = gauges
            .filter_map(|gauge| {
                let family = find(&gauge.name).filter(|f| matches!(f.kind, Kind::Gauge | Kind::Worst))?;
                Some((family, full(family, &gauge.labels)?, gauge.value))
            })
            .collect();
        worker.streams = snapshot.streams;
        worker.streams.truncate(STREAMS_MAX);
    }

    /// The worker's process is gone: what it counted is kept, what it had is not.
    pub fn ended(&mut self, worker: &K) {
        let Some(Worker { counted, .. }) = self.live.remove(worker) else { return };
        for (series, value) in counted.counters {
            if let Some(sum) = remembered(&mut self.past.counters, series) {
                *sum = sum.saturating_add(value);
            }
        }
        for (series, buckets) in counted.histograms {
            if let Some(sum) = remembered(&mut self.past.histograms, series) {
                sum.add(&buckets);
            }
        }
    }

    /// How far a counter of workers got in all of a role, those that are gone included. `own`: its own labels.
    pub fn total(&self, family: &Family, role: &str, own: &[&str]) -> u64 {
        let is_asked_for = |labels: &[String]| {
            labels.first().is_some_and(|first| first == role)
                && labels.get(2..).is_some_and(|rest| rest.iter().eq(own.iter()))
        };
        let lives = self.live.values().map(|worker| &worker.counted);
        let counters = lives.chain([&self.past]).flat_map(|counted| &counted.counters);
        let asked_for = counters.filter(|((name, labels), _)| *name == family.name && is_asked_for(labels));
        asked_for.fold(0, |sum, (_, value)| sum.saturating_add(*value))
    }

    /// Everything, with the `streams` busiest streams by themselves.
    pub fn page(&self, streams: usize) -> Page {
        let mut page = Page::default();
        let lives = self.live.values().map(|worker| &worker.counted);
        for counted in lives.chain([&self.past]) {
            for ((name, labels), value) in &counted.counters {
                if let Some(family) = find(name) {
                    page.add(family, &borrowed(labels), *value as f64);
                }
            }
            for ((name, labels), buckets) in &counted.histograms {
                if let Some(family) = find(name) {
                    page.add_buckets(family, labels.clone(), buckets);
                }
            }
        }
        for (family, labels, value) in self.live.values().flat_map(|worker| &worker.gauges) {
            match family.kind {
                Kind::Worst => page.raise(family, &borrowed(labels), *value),
                _ => page.add(family, &borrowed(labels), *value),
            }
        }
        self.streams(&mut page, streams);
        page
    }

    /// The busiest streams of all workers: those with most players, then those with most bits.
    fn streams(&self, page: &mut Page, most: usize) {
        let mut merged: BTreeMap<[&str; 3], StreamFigures> = BTreeMap::new();
        for figures in self.live.values().flat_map(|worker| &worker.streams) {
            let name = [&figures.vhost, &figures.app, &figures.stream].map(|text| label(text));
            let sum = merged.entry(name).or_default();
            sum.players = sum.players.saturating_add(figures.players);
            sum.publisher = sum.publisher.or(figures.publisher);
        }
        let mut busiest: Vec<_> = merged.into_iter().collect();
        busiest.sort_by(|(_, a), (_, b)| busier(a).cmp(&busier(b)).reverse());
        for (name, figures) in busiest.into_iter().take(most) {
            page.set(&families::STREAM_PLAYERS, &name, figures.players as f64);
            let Some(publisher) = figures.publisher else { continue };
            page.set(&families::STREAM_FRAME_RATE, &name, publisher.frame_rate);
            page.set(&families::STREAM_GAPS, &name, publisher.dts_gaps as f64);
            page.set(&families::STREAM_JITTER, &name, publisher.arrival_jitter_seconds);
            page.set(&families::STREAM_BITRATE, &name, publisher.bitrate);
        }
    }
}

/// What streams are ordered by where not all are told of.
pub fn busier(figures: &StreamFigures) -> (u64, u64) {
    // A cast of a float saturates, and takes what is no number for 0.
    (figures.players, figures.publisher.map_or(0, |publisher| publisher.bitrate as u64))
}

/// The snapshot with what the report says besides.
fn whole(role: &str, report: &Report) -> Snapshot {
    let seconds = |micros: u64| micros as f64 / 1e6;
    let mut all = report.snapshot.clone().unwrap_or_default();
    all.gauge(&families::CONNECTIONS, &[], report.connections as f64);
    all.gauge(&families::STREAMS, &[], report.streams as f64);
    all.gauge(&families::LOOP_LAG, &[], seconds(report.loop_lag_us));
    all.gauge(&families::GOP_MEMORY, &[], report.gop_bytes as f64);
    all.count(&families::RECEIVED_BYTES, &[], report.bytes_in);
    all.count(&families::SENT_BYTES, &[], report.bytes_out);
    if role == "edge" {
        all.gauge(&families::ROUND, &[], seconds(report.round_us));
        all.count(&families::SKIPS, &[], report.skips);
        all.count(&families::SLOW_CLOSED, &[], report.slow_closed);
    } else {
        all.gauge(&families::PUBLISHERS, &[], report.publishers as f64);
    }
    all
}

pub(super) fn find(name: &str) -> Option<&'static Family> {
    families::ALL.iter().copied().find(|family| family.name == name)
}

fn borrowed(labels: &[String]) -> Vec<&str> {
    labels.iter().map(String::as_str).collect()
}

/// Puts what is beyond [`PAIRS_MAX`] under [`OTHER`]; which pair that is never changes.
fn tell_apart(pairs: &mut BTreeSet<(String, String)>, labels: &mut [String]) {
    let [vhost, app, ..] = labels else { return };
    if vhost == OTHER && app == OTHER {
        return;
    }
    let pair = (vhost.clone(), app.clone());
    if pairs.contains(&pair) {
        return;
    }
    if pairs.len() < PAIRS_MAX {
        pairs.insert(pair);
        return;
    }
    OTHER.clone_into(vhost);
    OTHER.clone_into(app);
}

fn remembered<T: Default>(counted: &mut BTreeMap<Series, T>, series: Series) -> Option<&mut T> {
    let room = counted.len() < REMEMBERED_MAX || counted.contains_key(&series);
    room.then(|| counted.entry(series).or_default())
}
