use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::supervisor::{PublisherFigures, Report, StreamFigures};

fn number(page: &Page, family: &'static Family, labels: &[&str]) -> f64 {
    page.number(family, labels).unwrap_or_else(|| panic!("no {} {labels:?}", family.name))
}

fn joins(value: u64) -> Report {
    let mut snapshot = Snapshot::default();
    snapshot.count(&families::JOINS, &["rtmp"], value);
    Report { snapshot: Some(snapshot), ..Report::default() }
}

#[test]
fn names_are_well_formed_and_used_once() {
    let mut names = BTreeSet::new();
    for family in families::ALL {
        let name = family.name;
        assert!(names.insert(name), "{name} twice");
        assert!(name.starts_with("weir_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert_eq!(family.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert!(family.help.ends_with('.'), "{name}");
        let labels: BTreeSet<_> = family.all_labels().collect();
        assert_eq!(labels.len(), family.all_labels().count(), "{name}");
        if let Kind::Histogram(bounds) = family.kind {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{name}");
        }
    }
}

#[test]
fn a_worker_that_died_is_still_counted_but_has_nothing() {
    let mut merge = Merge::default();
    let of = |connections, skips| Report { connections, skips, loop_lag_us: 1000, ..Report::default() };
    merge.report(1, "edge", 0, &of(5, 10));
    merge.report(2, "edge", 1, &of(7, 1));
    merge.ended(&1);
    let page = merge.page(0);
    assert_eq!(number(&page, &families::SKIPS, &["0"]), 10.0);
    assert_eq!(page.number(&families::CONNECTIONS, &["edge", "0"]), None);
    // Two incarnations of a slot, as in a hand-over.
    merge.report(3, "edge", 0, &of(2, 4));
    merge.report(4, "edge", 0, &Report { loop_lag_us: 2000, ..of(1, 3) });
    let page = merge.page(0);
    assert_eq!(number(&page, &families::SKIPS, &["0"]), 17.0);
    assert_eq!(number(&page, &families::SKIPS, &["1"]), 1.0);
    assert_eq!(number(&page, &families::CONNECTIONS, &["edge", "0"]), 3.0);
    assert_eq!(number(&page, &families::LOOP_LAG, &["edge", "0"]), 0.002, "the worst, not the sum");
    merge.ended(&3);
    merge.ended(&3);
    assert_eq!(number(&merge.page(0), &families::SKIPS, &["0"]), 17.0);
}

#[test]
fn what_makes_no_sense_is_passed_over() {
    let mut merge = Merge::default();
    merge.report(1, "edge", 0, &joins(10));
    let mut bad = joins(3);
    let snapshot = bad.snapshot.as_mut().unwrap();
    let name = |family: &Family| family.name.to_owned();
    for labels in [vec![], vec!["rtmp".to_owned(), "more".to_owned()]] {
        snapshot.counters.push(Counter { name: name(&families::JOINS), labels, value: 99 });
    }
    snapshot.counters.push(Counter { name: "nobody_knows".to_owned(), labels: vec![], value: 99 });
    snapshot.counters.push(Counter { name: name(&families::RELAY_LINKS), labels: vec![], value: 99 });
    snapshot.gauges.push(Gauge { name: name(&families::RELAY_LINKS), labels: vec![], value: f64::NAN });
    let bounds = vec![1.0];
    snapshot.histograms.push(Histogram {
        name: name(&families::FRAME_LATENCY),
        bounds,
        counts: vec![1, 2],
        ..Histogram::default()
    });
    merge.report(1, "edge", 0, &bad);
    let page = merge.page(0);
    assert_eq!(number(&page, &families::JOINS, &["rtmp"]), 10.0, "it does not go back");
    assert_eq!(page.get(&families::RELAY_LINKS, &["edge", "0"]), None);
    assert_eq!(page.get(&families::FRAME_LATENCY, &[]), None);
    let joins = page.families().find(|(family, _)| family.name == families::JOINS.name).unwrap();
    assert_eq!(joins.1.len(), 1);
}

#[test]
fn observations_lie_in_the_bucket_of_the_next_bound() {
    let observed = Observed::new(&families::FRAME_LATENCY);
    for millis in [0, 1, 2, 350, 3600 * 1000] {
        observed.observe(Duration::from_millis(millis));
    }
    let buckets = observed.get();
    assert_eq!(buckets.counts, [2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
    assert_eq!((buckets.count(), buckets.sum_us), (5, 3_600_353_000));
    let mut merge = Merge::default();
    for worker in [1, 2_u32] {
        let mut snapshot = Snapshot::default();
        snapshot.observed(&[], &observed);
        merge.report(worker, "edge", worker, &Report { snapshot: Some(snapshot), ..Report::default() });
    }
    merge.ended(&1);
    let mut twice = buckets.clone();
    twice.add(&buckets);
    assert_eq!(merge.page(0).get(&families::FRAME_LATENCY, &[]), Some(&Value::Buckets(twice)));
}

#[test]
fn clients_cannot_make_labels_without_end() {
    let mut merge = Merge::default();
    for worker in 0..3_u32 {
        let mut snapshot = Snapshot::default();
        for app in 0..90 {
            let app = format!("{worker}-{app}-{}", "é".repeat(200));
            snapshot.count(&families::VHOST_SENT_BYTES, &["v", &app, "rtmp"], 10);
        }
        merge.report(worker, "edge", worker, &Report { snapshot: Some(snapshot), ..Report::default() });
        merge.ended(&worker);
    }
    let page = merge.page(0);
    let (_, samples) = page.families().find(|(f, _)| f.name == families::VHOST_SENT_BYTES.name).unwrap();
    assert_eq!(samples.len(), PAIRS_MAX + 1);
    assert!(samples.keys().flatten().all(|text| text.len() <= LABEL_MAX));
    assert_eq!(number(&page, &families::VHOST_SENT_BYTES, &[OTHER, OTHER, "rtmp"]), 1700.0);
}

#[test]
fn the_busiest_streams_are_told_of() {
    let figures = |stream: &str, players, bitrate: Option<f64>| StreamFigures {
        vhost: "v".to_owned(),
        app: "a".to_owned(),
        stream: stream.to_owned(),
        players,
        publisher: bitrate.map(|bitrate| PublisherFigures { bitrate, dts_gaps: 2, ..PublisherFigures::default() }),
    };
    let mut merge = Merge::default();
    let report = |streams| {
        let snapshot = Snapshot { streams, ..Snapshot::default() };
        Report { snapshot: Some(snapshot), ..Report::default() }
    };
    merge.report(1, "edge", 0, &report(vec![figures("x", 3, None), figures("y", 0, Some(1e6)), figures("z", 4, None)]));
    merge.report(2, "edge", 1, &report(vec![figures("x", 3, Some(5e5)), figures("w", 0, Some(9.0))]));
    let page = merge.page(3);
    let (_, players) = page.families().find(|(f, _)| f.name == families::STREAM_PLAYERS.name).unwrap();
    let shown: Vec<&str> = players.keys().map(|labels| labels[2].as_str()).collect();
    assert_eq!(shown, ["x", "y", "z"]);
    assert_eq!(number(&page, &families::STREAM_PLAYERS, &["v", "a", "x"]), 6.0);
    assert_eq!(number(&page, &families::STREAM_BITRATE, &["v", "a", "x"]), 5e5);
    assert_eq!(number(&page, &families::STREAM_GAPS, &["v", "a", "y"]), 2.0);
    assert_eq!(page.number(&families::STREAM_GAPS, &["v", "a", "z"]), None, "nobody publishes it here");
    assert!(merge.page(0).families().all(|(f, _)| f.name != families::STREAM_PLAYERS.name));
}

#[test]
fn what_is_restored_is_what_was_saved_and_nothing_strange() {
    let mut merge = Merge::default();
    let mut snapshot = Snapshot::default();
    snapshot.count(&families::VHOST_SENT_BYTES, &["v", "a", "rtmp"], 10);
    merge.report(1, "edge", 0, &Report { snapshot: Some(snapshot), skips: 3, ..Report::default() });
    merge.report(2, "edge", 1, &joins(4));
    merge.ended(&2);
    let (mut past, live, pairs) = merge.save();
    past.0.push((families::JOINS.name.to_owned(), vec![], 9));
    past.0.push((families::RELAY_LINKS.name.to_owned(), vec!["edge".to_owned(), "0".to_owned()], 9));
    past.0.push(("nobody_knows".to_owned(), vec![], 9));
    past.1.push((families::FRAME_LATENCY.name.to_owned(), vec![], vec![1, 2], 3));
    let restored = Merge::restore((past, live, pairs));
    assert_eq!(counters(&restored.page(0)), counters(&merge.page(0)));
    assert_eq!(restored.save(), merge.save());
}

/// What can happen to the workers of a host.
#[derive(Clone, Debug)]
enum Step {
    Start { slot: u32 },
    Count { which: usize, app: u8, more: u64, micros: u64 },
    Report { which: usize },
    Die { which: usize },
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..3_u32).prop_map(|slot| Step::Start { slot }),
        6 => (any::<usize>(), any::<u8>(), 0..1_000_000_u64, 0..30_000_000_u64)
            .prop_map(|(which, app, more, micros)| Step::Count { which, app, more, micros }),
        6 => any::<usize>().prop_map(|which| Step::Report { which }),
        2 => any::<usize>().prop_map(|which| Step::Die { which }),
        1 => Just(Step::Restore),
    ]
}

/// A worker as it counts.
struct Counting {
    slot: u32,
    skips: u64,
    apps: BTreeMap<u8, u64>,
    waits: Observed,
    /// What it last reported: skips, bytes, observations.
    told: (u64, u64, u64),
}

impl Counting {
    fn report(&mut self) -> Report {
        let mut snapshot = Snapshot::default();
        for (app, bytes) in &self.apps {
            snapshot.count(&families::VHOST_SENT_BYTES, &["v", &app.to_string(), "rtmp"], *bytes);
        }
        snapshot.observed(&["rtmp"], &self.waits);
        self.told = (self.skips, self.apps.values().sum(), self.waits.get().count());
        Report { skips: self.skips, snapshot: Some(snapshot), ..Report::default() }
    }
}

/// Every counter of a page, histograms as their parts.
fn counters(page: &Page) -> BTreeMap<(&'static str, Vec<String>, usize), f64> {
    let mut all = BTreeMap::new();
    for (family, samples) in page.families() {
        for (labels, value) in samples {
            match value {
                Value::Number(number) if family.kind == Kind::Counter => {
                    all.insert((family.name, labels.clone(), 0), *number);
                }
                Value::Number(_) => {}
                Value::Buckets(buckets) => {
                    for (i, n) in buckets.counts.iter().chain([&buckets.sum_us]).enumerate() {
                        all.insert((family.name, labels.clone(), i), *n as f64);
                    }
                }
            }
        }
    }
    all
}

proptest! {
    /// Whatever workers start, count, report and die, side by side in a slot or not, and also when the supervisor replaces
    /// itself: no counter goes back or is lost,
    /// and the sums are what the workers told.
    #[test]
    fn counters_never_go_back(steps in prop::collection::vec(step(), 1..120)) {
        let mut merge = Merge::default();
        let mut workers: BTreeMap<u64, Counting> = BTreeMap::new();
        let mut dead = (0, 0, 0);
        let mut before = BTreeMap::new();
        for (next, step) in (0_u64..).zip(steps) {
            let pick = |which: usize| workers.keys().copied().nth(which % workers.len().max(1));
            match step.clone() {
                Step::Restore => {}
                Step::Start { slot } => {
                    let waits = Observed::new(&families::FIRST_FRAME);
                    let new = Counting { slot, skips: 0, apps: BTreeMap::new(), waits, told: (0, 0, 0) };
                    workers.insert(next, new);
                }
                Step::Count { which, app, more, micros } => {
                    if let Some(worker) = pick(which).and_then(|id| workers.get_mut(&id)) {
                        worker.skips += more;
                        *worker.apps.entry(app).or_default() += more;
                        worker.waits.observe(Duration::from_micros(micros));
                    }
                }
                Step::Report { which } => {
                    if let Some(id) = pick(which) {
                        let worker = workers.get_mut(&id).unwrap();
                        let report = worker.report();
                        merge.report(id, "edge", worker.slot, &report);
                    }
                }
                Step::Die { which } => {
                    if let Some(id) = pick(which) {
                        let (skips, bytes, waits) = workers.remove(&id).unwrap().told;
                        dead = (dead.0 + skips, dead.1 + bytes, dead.2 + waits);
                        merge.ended(&id);
                    }
                }
            }
            if let Step::Restore = step {
                merge = Merge::restore(merge.save());
            }
            let now = counters(&merge.page(0));
            for (series, value) in &before {
                prop_assert!(now.get(series).is_some_and(|now| now >= value), "{series:?} was {value}");
            }
            let sum = |name: &str| now.iter().filter(|((n, ..), _)| *n == name).map(|(_, value)| value).sum::<f64>();
            let told = workers.values().fold(dead, |s, w| (s.0 + w.told.0, s.1 + w.told.1, s.2 + w.told.2));
            prop_assert_eq!(sum(families::SKIPS.name), told.0 as f64);
            prop_assert_eq!(sum(families::VHOST_SENT_BYTES.name), told.1 as f64);
            let buckets = |page: &Page| match page.get(&families::FIRST_FRAME, &["rtmp"]) {
                Some(Value::Buckets(buckets)) => buckets.count(),
                _ => 0,
            };
            prop_assert_eq!(buckets(&merge.page(0)), told.2);
            before = now;
        }
    }
}

#[test]
fn a_total_is_of_one_role_and_of_all_times() {
    let mut merge = Merge::default();
    let report = |bytes_in| Report { bytes_in, ..Report::default() };
    merge.report(1, "edge", 0, &report(10));
    merge.ended(&1);
    merge.report(2, "edge", 0, &report(5));
    merge.report(3, "edge", 1, &report(2));
    merge.report(4, "origin", 0, &report(100));
    assert_eq!(merge.total(&families::RECEIVED_BYTES, "edge", &[]), 17);
    assert_eq!(merge.total(&families::RECEIVED_BYTES, "edge", &["other"]), 0);
    assert_eq!(merge.total(&families::SENT_BYTES, "edge", &[]), 0);
}
