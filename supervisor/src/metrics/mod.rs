//! What Prometheus reads: the numbers of all workers, put together, and the supervisor's own.
//!
//! The loop holds a [`Metrics`] and makes the text; [`http`] serves it and holds a channel to the loop, nothing else. So
//! it is there while workers hang, and as long as the loop runs. How a number is added is told in
//! [`weir_proto::metrics`].

pub mod http;
mod saved;
mod text;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_proto::metrics::{Merge, Page, families};
use weir_proto::supervisor::Report;

use crate::plan::WorkerId;

pub use text::encode;

/// A text is given out again for so long, however often it is asked for.
const FRESH: Duration = Duration::from_millis(200);

/// The numbers of a host.
#[derive(Debug)]
pub struct Metrics {
    merge: Merge<WorkerId>,
    /// One moment on both clocks, so that a moment of the past has the same UNIX time in each page.
    clock: (Instant, Duration),
    started: Duration,
    reloads: [u64; 2],
    last_reload_refused: bool,
    text: Option<(Instant, String)>,
}

impl Metrics {
    /// No workers yet; the supervisor started at `started`.
    pub fn new(started: SystemTime) -> Self {
        let started = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            merge: Merge::default(),
            clock: (Instant::now(), started),
            started,
            reloads: [0; 2],
            last_reload_refused: false,
            text: None,
        }
    }

    /// Takes in what a living worker reports.
    pub fn report(&mut self, worker: WorkerId, report: &Report) {
        self.merge.report(worker, worker.slot.role.as_str(), worker.slot.index, report);
    }

    /// A worker's process is gone.
    pub fn ended(&mut self, worker: WorkerId) {
        self.merge.ended(&worker);
    }

    /// Bytes from and to clients, by TCP and by WebRTC, since this supervisor began.
    pub fn bytes(&self) -> (u64, u64) {
        let of_edges = |family| self.merge.total(family, "edge", &[]);
        let of_rtc = |direction| self.merge.total(&families::RTC_BYTES, "origin", &[direction]);
        (of_edges(&families::RECEIVED_BYTES) + of_rtc("in"), of_edges(&families::SENT_BYTES) + of_rtc("out"))
    }

    /// A reload of the configuration was taken over, or refused.
    pub fn reloaded(&mut self, taken: bool) {
        let [ok, refused] = &mut self.reloads;
        *(if taken { ok } else { refused }) += 1;
        self.last_reload_refused = !taken;
    }

    /// The UNIX time of a moment.
    pub fn unix_time(&self, moment: Instant) -> Duration {
        let (then, unix) = self.clock;
        match moment.checked_duration_since(then) {
            Some(later) => unix.saturating_add(later),
            None => unix.saturating_sub(then.saturating_duration_since(moment)),
        }
    }

    /// What the workers told, the `streams` busiest streams by themselves, and what is known here.
    pub fn page(&self, streams: usize) -> Page {
        let mut page = self.merge.page(streams);
        page.set(&families::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        page.set(&families::START_TIME, &[], self.started.as_secs_f64());
        page.set(&families::RELOAD_SUCCESS, &[], f64::from(u8::from(!self.last_reload_refused)));
        for (result, count) in ["ok", "refused"].into_iter().zip(self.reloads) {
            page.set(&families::RELOADS, &[result], count as f64);
        }
        page
    }

    /// The text that was made last, if that was lately.
    pub fn fresh(&self, now: Instant) -> Option<&str> {
        let (made, text) = self.text.as_ref()?;
        (now.saturating_duration_since(*made) < FRESH).then_some(text.as_str())
    }

    /// Makes the text of a page, and remembers it.
    pub fn write(&mut self, now: Instant, page: &Page) -> String {
        let text = encode(page);
        self.text = Some((now, text.clone()));
        text
    }
}
