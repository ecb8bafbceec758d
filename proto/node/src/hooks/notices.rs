//! Notices: sent when there is room, in the order of each client, and dropped rather than waited for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::client::Failure;
use super::{Hook, Hooks, Outcome};
use crate::secret::Redacted;

/// Notices of one vhost on their way at once.
const SENDERS_MAX: usize = 8;

/// The pause before a notice is tried again; each further one is twice as long.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Notice {
    hook: Hook,
    client: Rc<str>,
    body: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Notices {
    waiting: RefCell<VecDeque<Notice>>,
    /// Clients of those that are on their way.
    sending: RefCell<Vec<Rc<str>>>,
    limit: usize,
    /// It was said that there is no room; not again before there was.
    full: Cell<bool>,
}

impl Notices {
    pub(super) fn new(limit: usize) -> Self {
        Self { waiting: RefCell::default(), sending: RefCell::default(), limit, full: Cell::new(false) }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.waiting.borrow().is_empty() || !self.sending.borrow().is_empty()
    }

    /// Puts one behind the others; the one that had to make room is returned.
    fn push(&self, notice: Notice) -> Option<Notice> {
        let mut waiting = self.waiting.borrow_mut();
        let dropped = if waiting.len() >= self.limit { waiting.pop_front() } else { None };
        waiting.push_back(notice);
        dropped
    }

    /// The oldest whose client has no other on its way.
    fn next(&self) -> Option<Notice> {
        let mut sending = self.sending.borrow_mut();
        if sending.len() >= SENDERS_MAX {
            return None;
        }
        let mut waiting = self.waiting.borrow_mut();
        let at = waiting.iter().position(|notice| !sending.contains(&notice.client))?;
        let notice = waiting.remove(at)?;
        sending.push(notice.client.clone());
        Some(notice)
    }

    fn sent(&self, client: &Rc<str>) {
        self.sending.borrow_mut().retain(|sending| !Rc::ptr_eq(sending, client));
    }
}

/// Sends one, some time.
pub(super) fn send(hooks: &Rc<Hooks>, hook: Hook, client: &str, body: String) {
    let notices = &hooks.notices;
    if let Some(dropped) = notices.push(Notice { hook, client: client.into(), body }) {
        hooks.stats.count(dropped.hook, Outcome::Dropped);
        if !notices.full.replace(true) {
            warn!(hook = dropped.hook.as_str(), "callbacks do not keep up: the oldest notices are dropped");
        }
    }
    while let Some(notice) = notices.next() {
        spawn_local(sender(hooks.clone(), notice));
    }
}

async fn sender(hooks: Rc<Hooks>, mut notice: Notice) {
    loop {
        deliver(&hooks, &notice).await;
        hooks.notices.sent(&notice.client);
        match hooks.notices.next() {
            Some(next) => notice = next,
            None => break,
        }
    }
    if hooks.notices.waiting() == 0 {
        hooks.notices.full.set(false);
    }
}

/// To every URL, each tried again for itself while nobody takes it.
async fn deliver(hooks: &Hooks, notice: &Notice) {
    let Notice { hook, body, .. } = notice;
    for url in hooks.urls(*hook) {
        let mut pause = AGAIN;
        let mut left = hooks.config.retries;
        loop {
            let begun = Instant::now();
            let sent = timeout(hooks.config.timeout, hooks.client.post(url, body.clone())).await;
            hooks.stats.took(*hook, begun.elapsed());
            match sent.unwrap_or(Err(Failure::Timeout)) {
                // What is said to a notice does not matter.
                Ok(()) | Err(Failure::Refused(_) | Failure::Unclear(_)) => break hooks.stats.count(*hook, Outcome::Ok),
                Err(failure) if left == 0 => {
                    warn!(hook = hook.as_str(), url = %Redacted::new(url), error = %failure, "a notice found nobody");
                    break hooks.stats.count(*hook, Outcome::Failed);
                }
                Err(failure) => {
                    debug!(hook = hook.as_str(), url = %Redacted::new(url), error = %failure, left, "a notice is tried again");
                    left -= 1;
                    sleep(pause).await;
                    pause = pause.saturating_mul(2);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(client: &str, body: &str) -> Notice {
        Notice { hook: Hook::Stop, client: client.into(), body: body.to_owned() }
    }

    #[test]
    fn a_client_has_one_on_its_way_and_keeps_the_order() {
        let notices = Notices::new(10);
        for (client, body) in [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")] {
            assert!(notices.push(notice(client, body)).is_none());
        }
        let (first, second) = (notices.next().unwrap(), notices.next().unwrap());
        assert_eq!((first.body.as_str(), second.body.as_str()), ("1", "3"));
        assert!(notices.next().is_none());
        notices.sent(&first.client);
        assert_eq!(notices.next().unwrap().body, "2");
        assert!(notices.next().is_none() && notices.is_busy());
    }

    #[test]
    fn the_oldest_makes_room_and_senders_are_bounded() {
        let notices = Notices::new(20);
        let dropped = (0..30).filter_map(|i| notices.push(notice(&i.to_string(), &i.to_string()))).count();
        assert_eq!((dropped, notices.waiting()), (10, 20));
        let sending: Vec<Notice> = std::iter::from_fn(|| notices.next()).collect();
        assert_eq!((sending.len(), sending[0].body.as_str()), (SENDERS_MAX, "10"));
        sending.iter().for_each(|notice| notices.sent(&notice.client));
        assert_eq!(notices.next().unwrap().body, "18");
    }
}
