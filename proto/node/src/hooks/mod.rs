//! HTTP callbacks: SRS's questions and notices about clients, as POST with JSON.
//!
//! ```text
//! a client's task ─ ask ─> a place (in_flight) ─> each URL in turn ─> yes, no, or nobody answered
//!                 ─ tell ─> waiting (the oldest is dropped) ─> a sender ─> each URL, tried again
//! ```
//!
//! A client waits for the answer about itself. Nobody waits for anybody else's, and nobody at all for a notice.

mod answer;
mod body;
mod client;
mod notices;
mod stats;
mod target;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::config::{HttpHooks, OnError};
use crate::secret::Redacted;

pub use body::{About, Hook, Identity, Visit};
pub use client::{Failure, Tls, fetch};
pub use stats::{HookStats, Outcome};
pub use target::{Target, TargetError};

use client::Client;
use notices::Notices;

/// Why a client may not, by the word of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Somebody said no.
    #[error("refused by a callback")]
    Refused,
    /// Nobody answered, and the vhost's `on_error` is `refuse`.
    #[error("nobody answered a callback")]
    Unanswered,
}

/// The callbacks of one vhost in one process.
pub struct Hooks {
    config: HttpHooks,
    client: Client,
    /// For questions.
    places: Semaphore,
    notices: Notices,
    stats: Rc<HookStats>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").field("notices", &self.notices.waiting()).finish_non_exhaustive()
    }
}

impl Hooks {
    fn new(config: HttpHooks, tls: &Tls, stats: Rc<HookStats>) -> Rc<Self> {
        Rc::new(Self {
            client: Client::new(&config, tls.clone()),
            places: Semaphore::new(config.in_flight as usize),
            notices: Notices::new(config.waiting as usize),
            config,
            stats,
        })
    }

    fn urls(&self, hook: Hook) -> &[String] {
        match hook {
            Hook::Connect => &self.config.on_connect,
            Hook::Close => &self.config.on_close,
            Hook::Publish => &self.config.on_publish,
            Hook::Unpublish => &self.config.on_unpublish,
            Hook::Play => &self.config.on_play,
            Hook::Stop => &self.config.on_stop,
        }
    }

    /// Whether anybody wants to hear of it.
    pub fn wants(&self, hook: Hook) -> bool {
        !self.urls(hook).is_empty()
    }

    /// Asks every URL of a hook, one after the other: all have to say yes.
    ///
    /// # Errors
    /// One does not.
    pub async fn ask(&self, hook: Hook, body: &str) -> Result<(), Denied> {
        for url in self.urls(hook) {
            let begun = Instant::now();
            let asked = async {
                // Never closed.
                let _place = self.places.acquire().await.ok();
                self.client.post(url, body.to_owned()).await
            };
            let answer = timeout(self.config.timeout, asked).await.unwrap_or(Err(Failure::Timeout));
            self.stats.took(hook, begun.elapsed());
            match answer {
                Ok(()) => self.stats.count(hook, Outcome::Ok),
                Err(Failure::Refused(why)) => {
                    self.stats.count(hook, Outcome::Refused);
                    info!(hook = hook.as_str(), url = %Redacted::new(url), why, "callback refused a client");
                    return Err(Denied::Refused);
                }
                Err(failure) => {
                    self.stats.count(hook, Outcome::Failed);
                    let lets_in = self.config.on_error == OnError::Allow;
                    warn!(hook = hook.as_str(), url = %Redacted::new(url), error = %failure, lets_in, "callback failed");
                    if !lets_in {
                        return Err(Denied::Unanswered);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends a notice to every URL of a hook, some time. Those of one client keep their order.
    pub fn tell(self: &Rc<Self>, hook: Hook, client: &str, body: String) {
        if self.wants(hook) {
            notices::send(self, hook, client, body);
        }
    }

    fn is_busy(&self) -> bool {
        self.notices.is_busy()
    }
}

/// The callbacks of all vhosts of a process.
#[derive(Debug)]
pub struct Lanes {
    tls: Tls,
    stats: Rc<HookStats>,
    lanes: RefCell<BTreeMap<Arc<str>, Rc<Hooks>>>,
    /// Of configurations before the last one, while they have something to send.
    leaving: RefCell<Vec<Rc<Hooks>>>,
}

impl Default for Lanes {
    fn default() -> Self {
        let (tls, stats) = (Tls::default(), Rc::new(HookStats::default()));
        Self { tls, stats, lanes: RefCell::default(), leaving: RefCell::default() }
    }
}

impl Lanes {
    /// Those of a vhost, with its configuration of this moment.
    pub fn of(&self, vhost: &str, config: &HttpHooks) -> Rc<Hooks> {
        let mut lanes = self.lanes.borrow_mut();
        if let Some(lane) = lanes.get(vhost).filter(|lane| lane.config == *config) {
            return lane.clone();
        }
        let lane = Hooks::new(config.clone(), &self.tls, self.stats.clone());
        let mut leaving = self.leaving.borrow_mut();
        leaving.extend(lanes.insert(vhost.into(), lane.clone()));
        leaving.retain(|lane| lane.is_busy());
        lane
    }

    /// Forgets the vhosts that are not there any more.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        self.lanes.borrow_mut().retain(|vhost, _| is_there(vhost));
    }

    /// The certificates that https is checked by.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// What was counted.
    pub fn stats(&self) -> &HookStats {
        &self.stats
    }

    /// Returns when no notice waits or is on its way, or after that time.
    pub async fn told(&self, within: Duration) {
        let by = Instant::now() + within;
        while self.is_busy() && Instant::now() < by {
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn is_busy(&self) -> bool {
        self.lanes.borrow().values().chain(&*self.leaving.borrow()).any(|lane| lane.is_busy())
    }
}

/// A notice of the end of what a client does, told when it is dropped.
pub struct Farewell {
    hooks: Rc<Hooks>,
    hook: Hook,
    client: String,
    body: String,
}

impl std::fmt::Debug for Farewell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Farewell").field("hook", &self.hook).field("client", &self.client).finish_non_exhaustive()
    }
}

impl Farewell {
    /// `client` is its id, `body` what is to be told.
    pub fn new(hooks: Rc<Hooks>, hook: Hook, client: &str, body: String) -> Self {
        Self { hooks, hook, client: client.to_owned(), body }
    }

    /// The client's id.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// What is to be told.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Somebody else tells it.
    pub fn forget(mut self) {
        self.body.clear();
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        if !self.body.is_empty() {
            self.hooks.tell(self.hook, &self.client, std::mem::take(&mut self.body));
        }
    }
}
