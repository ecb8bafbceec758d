//! A reader of Prometheus' text format, strict enough to stand in for its own tools.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::http;

/// What `GET /metrics` answered: each sample by its whole name, `weir_sessions{slot="0",...}`.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// The text.
    pub text: String,
    /// How long it took.
    pub took: Duration,
    samples: BTreeMap<String, f64>,
    types: BTreeMap<String, String>,
}

impl Scrape {
    /// Asks for `/metrics`. Panics unless a page of the right form comes.
    pub fn get(address: SocketAddr) -> Self {
        let begun = Instant::now();
        let answer = http::get(address, "/metrics");
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("content-type"), Some("text/plain; version=0.0.4"));
        let text = answer.text();
        Self::parse(text, begun.elapsed())
    }

    /// As [`get`](Self::get), of a supervisor that becomes another image meanwhile: what it had accepted is lost then.
    pub fn try_get(address: SocketAddr) -> Option<Self> {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, text) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200 ").then(|| Self::parse(text.to_owned(), begun.elapsed()))
    }

    /// Reads a page. Panics at what the format does not allow.
    pub fn parse(text: String, took: Duration) -> Self {
        assert!(text.ends_with('\n'));
        let (mut samples, mut types, mut helped) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut family = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(helped.contains(name), "{name} has no help");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
                family = name.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{family}{end}"));
                assert!(
                    if types[&family] == "histogram" { of_histogram } else { name == family },
                    "{line} in {family}"
                );
                check_labels(&series[name.len()..]);
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(samples.insert(series.to_owned(), value).is_none(), "{series} comes twice");
            }
        }
        Self { text, took, samples, types }
    }

    /// One sample, by its whole name.
    pub fn get_sample(&self, series: &str) -> Option<f64> {
        self.samples.get(series).copied()
    }

    /// The sum of the samples of `name` that have all of `labels`, each as `name="value"`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let of = |series: &str| series.split('{').next() == Some(name) && labels.iter().all(|l| series.contains(l));
        self.samples.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    }

    /// Names of the families.
    pub fn names(&self) -> Vec<&str> {
        self.types.keys().map(String::as_str).collect()
    }

    /// Whatever must never go back: counters and the parts of histograms.
    pub fn counters(&self) -> impl Iterator<Item = (&String, f64)> {
        self.samples.iter().filter_map(|(series, value)| {
            let name = series.split('{').next()?;
            let parts = ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
            let kind = self.types.get(name).or_else(|| parts.into_iter().find_map(|name| self.types.get(name)))?;
            (kind != "gauge").then_some((series, *value))
        })
    }

    /// Panics if one of the counters of `before` is less than it was, or gone.
    pub fn assert_not_before(&self, before: &Self) {
        for (series, was) in before.counters() {
            let is = self.samples.get(series).unwrap_or_else(|| panic!("{series} is gone"));
            assert!(*is >= was, "{series} went back from {was} to {is}");
        }
    }
}

/// Either nothing, or `{name="value",...}` with values escaped as they must be.
fn check_labels(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut rest = text.strip_prefix('{').unwrap_or_else(|| panic!("{text}"));
    loop {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !name.is_empty(), "{text}");
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &value[end.unwrap_or_else(|| panic!("{text}")) + 1..];
        if rest == "}" {
            return;
        }
        rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("{text}"));
    }
}
