use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use weir_node::config::Auto;

use super::pace::Pace;
use crate::fanout::Walk;
use crate::stream::Stream;

/// How often the busy share is looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// How long before a round the publishers are read whose frames wait for it: time for the way to the origin and back.
const LEAD: Duration = Duration::from_millis(3);

/// The worker's one round clock: which streams have new bytes, and when they are written.
///
/// A stream with an `mw_latency` is written at the next multiple of it, counted from the start of UNIX time: all such
/// streams are written in one burst, and other workers know when. With none, as soon as a batch of frames was taken in. The streams of `auto` are written together, at once or as
/// long after their last round as [`Pace`] says.
#[derive(Debug)]
pub(crate) struct Rounds {
    start: Instant,
    /// UNIX time at `start`.
    phase: Duration,
    at_once: RefCell<Vec<Rc<Stream>>>,
    auto: RefCell<Vec<Rc<Stream>>>,
    last_auto: Cell<Instant>,
    /// The clock knows that it has to wait for `auto`.
    armed: Cell<bool>,
    timed: RefCell<Vec<(Instant, Rc<Stream>)>>,
    wake: Notify,
    pace: Cell<Pace>,
    /// When the pace was last told, and how busy the worker had been until then.
    sampled: Cell<(Instant, Duration)>,
}

impl Rounds {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            start: now,
            phase: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            at_once: RefCell::default(),
            auto: RefCell::default(),
            last_auto: Cell::new(now),
            armed: Cell::new(false),
            timed: RefCell::default(),
            wake: Notify::new(),
            pace: Cell::default(),
            sampled: Cell::new((now, Duration::ZERO)),
        }
    }

    /// What `auto` makes of the worker's load at this moment.
    pub(crate) fn pace(&self) -> Pace {
        let now = Instant::now();
        let (last, busy_then) = self.sampled.get();
        let passed = now - last;
        let mut pace = self.pace.get();
        if passed >= SAMPLE {
            let busy = Handle::current().metrics().worker_total_busy_duration(0);
            pace.observe(busy.saturating_sub(busy_then), passed);
            self.pace.set(pace);
            self.sampled.set((now, busy));
        }
        pace
    }

    /// `stream` has new bytes; it is told only once until its round.
    pub(crate) fn mark(&self, stream: &Rc<Stream>, latency: Auto<Duration>) {
        let latency = match latency {
            Auto::Auto => return self.auto.borrow_mut().push(stream.clone()),
            Auto::Is(Duration::ZERO) => return self.at_once.borrow_mut().push(stream.clone()),
            Auto::Is(latency) => latency,
        };
        let due = self.multiple(latency, Duration::ZERO);
        self.timed.borrow_mut().push((due, stream.clone()));
        self.wake.notify_one();
    }

    /// The next multiple of `period` that is more than `lead` away.
    fn multiple(&self, period: Duration, lead: Duration) -> Instant {
        let now = self.phase + self.start.elapsed();
        let period = period.as_nanos().max(1);
        let into = (now + lead).as_nanos() % period;
        Instant::now() + lead + Duration::from_nanos(u64::try_from(period - into).unwrap_or(u64::MAX))
    }

    /// When publishers are to be read whose frames go out in rounds of `latency`: a little before each round, and in
    /// between so often that no more than `longest` passes.
    pub(crate) fn reading(&self, latency: Duration, longest: Duration) -> Instant {
        let parts = latency.as_nanos().div_ceil(longest.as_nanos().max(1)).max(1);
        let period = latency / u32::try_from(parts).unwrap_or(u32::MAX);
        self.multiple(period, LEAD) - LEAD
    }

    /// Writes the streams that do not wait. Called after each batch of frames.
    pub(crate) fn flush(&self) {
        round_all(&self.at_once);
        if self.auto.borrow().is_empty() {
            return;
        }
        // Frames that come at a steady rate, a little faster than rounds, must not wait for twice that.
        let wait = self.pace().round() * 7 / 8;
        if wait.is_zero() || self.last_auto.get() + wait <= Instant::now() {
            self.auto_round();
        } else if !self.armed.replace(true) {
            self.wake.notify_one();
        }
    }

    fn auto_round(&self) {
        self.armed.set(false);
        self.last_auto.set(Instant::now());
        round_all(&self.auto);
    }

    /// When a round is due of what waits.
    fn next(&self) -> Option<Instant> {
        let timed = self.timed.borrow().iter().map(|(due, _)| *due).min();
        let auto = (!self.auto.borrow().is_empty()).then(|| self.last_auto.get() + self.pace().round());
        timed.into_iter().chain(auto).min()
    }

    /// The clock; ends when the worker does.
    pub(crate) async fn run(this: Weak<Self>) {
        while let Some(rounds) = this.upgrade() {
            let Some(due) = rounds.next() else {
                rounds.wake.notified().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(due) => {}
                () = rounds.wake.notified() => continue,
            }
            let now = Instant::now();
            let due: Vec<_> = rounds.timed.borrow_mut().extract_if(.., |(due, _)| *due <= now).collect();
            for (_, stream) in due {
                round(&stream);
            }
            if rounds.last_auto.get() + rounds.pace().round() <= now {
                rounds.auto_round();
            }
        }
    }
}

/// A round of each stream of the list, which keeps its memory.
fn round_all(list: &RefCell<Vec<Rc<Stream>>>) {
    let mut streams = std::mem::take(&mut *list.borrow_mut());
    for stream in streams.drain(..) {
        round(&stream);
    }
    let mut list = list.borrow_mut();
    if list.is_empty() {
        *list = streams;
    }
}

/// One round of a stream. A long one goes on in a task of its own, so that others get their turn.
fn round(stream: &Rc<Stream>) {
    stream.begin_round();
    let mut walk = [Walk::default(); Stream::FORMATS];
    if stream.round(&mut walk) {
        return;
    }
    let stream = stream.clone();
    tokio::task::spawn_local(async move {
        loop {
            tokio::task::yield_now().await;
            if stream.round(&mut walk) {
                return;
            }
        }
    });
}
