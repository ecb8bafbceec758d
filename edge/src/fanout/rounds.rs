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
        let now = Instant::now();
        let due = now + until_round(self.phase + (now - self.start), latency);
        self.timed.borrow_mut().push((due, stream.clone()));
        self.wake.notify_one();
    }

    /// When publishers are to be read whose frames go out in rounds of `latency`: a little before each round, and in
    /// between so often that no more than `longest` passes.
    pub(crate) fn reading(&self, latency: Duration, longest: Duration) -> Instant {
        let now = Instant::now();
        now + until_reading(self.phase + (now - self.start), latency, longest)
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

/// From `now` to the next round of a latency.
fn until_round(now: Duration, latency: Duration) -> Duration {
    latency - remainder(now, latency)
}

/// From `now` to the next reading before rounds of `latency`. Each round has one [`LEAD`] before it, and the time between
/// two rounds is divided evenly.
fn until_reading(now: Duration, latency: Duration, longest: Duration) -> Duration {
    let parts = latency.as_nanos().div_ceil(longest.as_nanos().max(1)).max(1);
    let part = latency / u32::try_from(parts).unwrap_or(u32::MAX);
    let into = remainder(now + LEAD, latency);
    let done = into.as_nanos() / part.as_nanos().max(1);
    // The last part takes what the division left over.
    let next = if done + 1 >= parts { latency } else { part * u32::try_from(done + 1).unwrap_or(u32::MAX) };
    next - into
}

fn remainder(now: Duration, period: Duration) -> Duration {
    let into = now.as_nanos() % period.as_nanos().max(1);
    Duration::from_nanos(u64::try_from(into).unwrap_or(u64::MAX))
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    proptest! {
        /// Whatever the latency: the last reading before a round is a little before it, and none is too far from the last.
        #[test]
        fn readings_go_before_rounds(start in 0_u64..1 << 60, latency in 10_u64..10_000, longest in 10_u64..200) {
            let (mut now, latency, longest) = (Duration::from_nanos(start), millis(latency), millis(longest));
            let round = now + LEAD + until_round(now + LEAD, latency);
            loop {
                let wait = until_reading(now, latency, longest);
                prop_assert!(!wait.is_zero() && wait <= longest + Duration::from_micros(1), "{wait:?}");
                now += wait;
                prop_assert!(now + LEAD <= round, "{:?} too late", now + LEAD - round);
                if now + LEAD == round {
                    break;
                }
            }
        }
    }

    #[test]
    fn rounds_are_at_multiples_of_the_latency() {
        assert_eq!(until_round(millis(1000), millis(350)), millis(50));
        assert_eq!(until_round(millis(1050), millis(350)), millis(350), "never at once");
        assert_eq!(until_reading(millis(1000), millis(350), millis(100)), Duration::from_micros(47_000));
        assert_eq!(until_reading(millis(1047), millis(350), millis(100)), Duration::from_micros(87_500));
        assert_eq!(until_reading(millis(1000), millis(40), millis(100)), millis(37));
    }
}
