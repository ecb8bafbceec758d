use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::fanout::Walk;
use crate::stream::Stream;

/// The worker's one round clock: which streams have new bytes, and when they are written.
///
/// A stream without a latency is written as soon as a batch of frames was taken in; one with `mw_latency` at the next
/// multiple of it, so that all such streams are written in one burst.
#[derive(Debug)]
pub(crate) struct Rounds {
    start: Instant,
    at_once: RefCell<Vec<Rc<Stream>>>,
    timed: RefCell<Vec<(Instant, Rc<Stream>)>>,
    wake: Notify,
}

impl Rounds {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), at_once: RefCell::default(), timed: RefCell::default(), wake: Notify::new() }
    }

    /// `stream` has new bytes; it is told only once until its round.
    pub(crate) fn mark(&self, stream: &Rc<Stream>, latency: Duration) {
        if latency.is_zero() {
            self.at_once.borrow_mut().push(stream.clone());
            return;
        }
        let period = latency.as_nanos().max(1);
        let rounds = self.start.elapsed().as_nanos() / period + 1;
        let due = self.start + Duration::from_nanos(u64::try_from(rounds * period).unwrap_or(u64::MAX));
        self.timed.borrow_mut().push((due, stream.clone()));
        self.wake.notify_one();
    }

    /// Writes the streams that do not wait. Called after each batch of frames.
    pub(crate) fn flush(&self) {
        let streams = std::mem::take(&mut *self.at_once.borrow_mut());
        for stream in &streams {
            round(stream);
        }
        // The list keeps its memory.
        let mut list = self.at_once.borrow_mut();
        if list.is_empty() {
            *list = streams;
            list.clear();
        }
    }

    /// The clock; ends when the worker does.
    pub(crate) async fn run(this: Weak<Self>) {
        while let Some(rounds) = this.upgrade() {
            let next = rounds.timed.borrow().iter().map(|(due, _)| *due).min();
            match next {
                None => rounds.wake.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = sleep_until(due) => {}
                        () = rounds.wake.notified() => continue,
                    }
                    let now = Instant::now();
                    let due: Vec<_> = rounds.timed.borrow_mut().extract_if(.., |(due, _)| *due <= now).collect();
                    for (_, stream) in due {
                        round(&stream);
                    }
                }
            }
        }
    }
}

/// One round of a stream. A long one goes on in a task of its own, so that others get their turn.
fn round(stream: &Rc<Stream>) {
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
