//! "May this client do this?", asked once for each publish and each play of every protocol.
//!
//! ```text
//! rules of the vhost ─> a seat within its limits ─> on_connect, on_publish or on_play ─> Admitted
//! (weir_node::access)    (seats)                     (weir_node::hooks)                   │ dropped
//!                                                                                        └─> on_unpublish or on_stop
//! ```
//!
//! Only the client that asks waits. Who goes on in another process takes its admission along.

mod keys;
mod seats;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustc_hash::FxHashMap;
use tokio::task::spawn_local;
use tracing::info;
use weir_media::StreamName;
use weir_node::access::{Action, Asking, Refusal, check};
use weir_node::config::{Config, Vhost};
use weir_node::hooks::{About, Denied, Farewell, Hook, Identity, Lanes, Visit};
use weir_proto::session;

use crate::stats::Refused;
use keys::{KEPT_FOR, Ring};
use seats::{Seat, Seats};

/// Bytes of an address that a client says of itself and that is kept; what is behind that is cut off.
const URL_MAX: usize = 1024;

/// Who asks.
#[derive(Clone)]
pub(crate) struct Caller {
    /// Its id, as operators and callbacks know it.
    pub(crate) id: String,
    pub(crate) ip: IpAddr,
    /// `tcUrl` of RTMP, and what SRS writes in its place for others.
    pub(crate) tc_url: String,
    /// The page that it is in, as it says.
    pub(crate) page_url: String,
    /// What stands behind `Bearer`.
    pub(crate) bearer: String,
}

impl Caller {
    /// One that says nothing of itself.
    pub(crate) fn new(id: String, ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        Self { id, ip, tc_url: String::new(), page_url: String::new(), bearer: String::new() }
    }

    /// With the page and the token that the fields `Referer` and `Authorization` of a request name.
    pub(crate) fn with_fields(mut self, referer: &str, authorization: &str) -> Self {
        self.page_url = cut(referer).to_owned();
        // The scheme's capitals make no difference (RFC 9110, 11.1).
        if let Some((scheme, token)) = authorization.split_once(' ')
            && scheme.eq_ignore_ascii_case("bearer")
        {
            self.bearer = token.trim().to_owned();
        }
        self
    }
}

/// What may be kept of an address.
pub(crate) fn cut(url: &str) -> &str {
    let longest = (0..=URL_MAX.min(url.len())).rev().find_map(|end| url.get(..end));
    longest.unwrap_or_default()
}

/// What it wants.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) action: Action,
    pub(crate) name: &'a StreamName,
    /// Of the stream's address, without the question mark. It may carry a secret.
    pub(crate) query: &'a str,
    /// The same as callbacks are told it.
    pub(crate) param: &'a str,
}

/// Why it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    Rule(Refusal),
    /// As many as may be are there.
    Limit,
    Callback(Denied),
}

impl Denial {
    /// What the client is told: not which rule it was.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Rule(Refusal::Token | Refusal::UnknownKey) => "this needs a valid token",
            Self::Rule(Refusal::Address | Refusal::Page) | Self::Callback(Denied::Refused) => "access denied",
            Self::Limit => "too many clients, try again later",
            Self::Callback(Denied::Unanswered) => "access could not be checked, try again later",
        }
    }

    /// Status of an HTTP answer.
    pub(crate) fn status(self) -> hyper::StatusCode {
        match self {
            Self::Rule(Refusal::Token | Refusal::UnknownKey) => hyper::StatusCode::UNAUTHORIZED,
            Self::Rule(Refusal::Address | Refusal::Page) | Self::Callback(Denied::Refused) => {
                hyper::StatusCode::FORBIDDEN
            }
            Self::Limit => hyper::StatusCode::TOO_MANY_REQUESTS,
            Self::Callback(Denied::Unanswered) => hyper::StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Under which reason it is counted.
    pub(crate) fn counted(self) -> Refused {
        match self {
            Self::Rule(Refusal::Address) => Refused::Address,
            Self::Rule(Refusal::Page) => Refused::Referer,
            Self::Rule(Refusal::Token | Refusal::UnknownKey) => Refused::Token,
            Self::Limit => Refused::Limit,
            Self::Callback(_) => Refused::Callback,
        }
    }
}

/// What `WWW-Authenticate` says where a token is missing or wrong (RFC 6750, 3).
pub(crate) const CHALLENGE: &str = "Bearer realm=\"weir\"";

/// See the module.
#[derive(Debug)]
pub(crate) struct Guard {
    identity: Identity,
    worker: String,
    lanes: Lanes,
    rings: RefCell<FxHashMap<String, Rc<Ring>>>,
    seats: Rc<Seats>,
}

impl Guard {
    /// `worker` is what the ids of its clients begin with: `edge.SLOT.INCARNATION`.
    pub(crate) fn new(identity: Identity, worker: String) -> Self {
        Self { identity, worker, lanes: Lanes::default(), rings: RefCell::default(), seats: Rc::default() }
    }

    /// The id by which operators and callbacks know a client of this worker.
    pub(crate) fn client_id(&self, number: u64) -> String {
        format!("{}.{number}", self.worker)
    }

    /// Callbacks, for their numbers.
    pub(crate) fn callbacks(&self) -> &Lanes {
        &self.lanes
    }

    /// Forgets what vhosts that are gone needed.
    pub(crate) fn configure(&self, config: &Config) {
        self.lanes.keep(|vhost| config.vhosts.contains_key(vhost));
        self.rings.borrow_mut().retain(|vhost, _| config.vhosts.contains_key(vhost));
    }

    /// Applies the rules that need neither a seat nor a callback.
    pub(crate) async fn check(&self, rules: &Vhost, caller: &Caller, wish: Wish<'_>) -> Result<(), Denial> {
        let Wish { action, name, query, .. } = wish;
        let asking = Asking { action, name, ip: caller.ip, query, page_url: &caller.page_url, bearer: &caller.bearer };
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let ring = self.ring(rules, &name.vhost);
        if ring.is_older_than(KEPT_FOR) {
            let (ring, hooks, tls) = (ring.clone(), rules.http_hooks.clone(), self.lanes.tls().clone());
            spawn_local(async move { ring.refresh(&hooks, &tls).await });
        }
        let mut checked = check(&rules.access, &ring.keys(), &asking, now());
        if checked == Err(Refusal::UnknownKey) {
            // The set of keys may have changed since.
            ring.refresh(&rules.http_hooks, self.lanes.tls()).await;
            checked = check(&rules.access, &ring.keys(), &asking, now());
        }
        checked.map_err(|refusal| {
            info!(client = %caller.id, ip = %caller.ip, stream = %name, action = action.as_str(), because = %refusal, "refused");
            Denial::Rule(refusal)
        })
    }

    fn ring(&self, rules: &Vhost, vhost: &str) -> Rc<Ring> {
        let mut rings = self.rings.borrow_mut();
        match rings.get(vhost) {
            Some(ring) if ring.is_of(&rules.access.jwt) => ring.clone(),
            _ => {
                let ring = Rc::new(Ring::new(rules.access.jwt.clone()));
                rings.insert(vhost.to_owned(), ring.clone());
                ring
            }
        }
    }

    async fn ask(&self, hook: Hook, rules: &Vhost, caller: &Caller, wish: Wish<'_>) -> Result<(), Denial> {
        let lane = self.lanes.of(&wish.name.vhost, &rules.http_hooks);
        if !lane.wants(hook) {
            return Ok(());
        }
        lane.ask(hook, &self.body(hook, caller, wish)).await.map_err(Denial::Callback)
    }

    fn body(&self, hook: Hook, caller: &Caller, wish: Wish<'_>) -> String {
        let ip = caller.ip.to_string();
        self.identity.body(hook, visit(caller, &ip), About { name: wish.name, param: wish.param })
    }

    /// Lets it in, or says why not. Its seat is kept for as long as the admission lives. `first`: on_connect was not asked
    /// about its connection yet.
    pub(crate) async fn admit(
        &self,
        rules: &Vhost,
        caller: &Caller,
        wish: Wish<'_>,
        first: &mut bool,
    ) -> Result<Admitted, Denial> {
        self.check(rules, caller, wish).await?;
        let seats = self.seats.take(&rules.access.limits, wish.action, wish.name, caller.ip).ok_or(Denial::Limit)?;
        if *first {
            self.ask(Hook::Connect, rules, caller, wish).await?;
            *first = false;
        }
        self.ask(begin_of(wish.action), rules, caller, wish).await?;
        Ok(Admitted { farewell: self.farewell(rules, caller, wish), seats })
    }

    /// Lets a client of WebRTC in: its session has its seat at the origin, and its end is told there.
    pub(crate) async fn admit_elsewhere(
        &self,
        rules: &Vhost,
        caller: &Caller,
        wish: Wish<'_>,
    ) -> Result<Option<Farewell>, Denial> {
        self.check(rules, caller, wish).await?;
        self.ask(begin_of(wish.action), rules, caller, wish).await?;
        Ok(self.farewell(rules, caller, wish))
    }

    fn farewell(&self, rules: &Vhost, caller: &Caller, wish: Wish<'_>) -> Option<Farewell> {
        let hook = end_of(wish.action);
        let lane = self.lanes.of(&wish.name.vhost, &rules.http_hooks);
        lane.wants(hook).then(|| Farewell::new(lane, hook, &caller.id, self.body(hook, caller, wish)))
    }

    /// Takes over the admission of a client that comes from another process.
    pub(crate) fn arrive(
        &self,
        config: &Config,
        action: Action,
        name: &StreamName,
        ip: IpAddr,
        told: session::Admission,
    ) -> Admitted {
        let seats = self.seats.keep(action, name, ip);
        let farewell = config.vhost(&name.vhost).filter(|_| !told.end.is_empty()).map(|(_, rules)| {
            Farewell::new(self.lanes.of(&name.vhost, &rules.http_hooks), end_of(action), &told.client, told.end)
        });
        Admitted { farewell, seats }
    }

    /// Tells of the end of a connection that on_connect was asked about.
    pub(crate) fn close(&self, config: &Config, caller: &Caller, (vhost, app): (&str, &str), sent: u64, received: u64) {
        let Some((_, rules)) = config.vhost(vhost) else { return };
        let ip = caller.ip.to_string();
        let lane = self.lanes.of(vhost, &rules.http_hooks);
        if lane.wants(Hook::Close) {
            let body = self.identity.close(visit(caller, &ip), (vhost, app), sent, received);
            lane.tell(Hook::Close, &caller.id, body);
        }
    }
}

fn visit<'a>(caller: &'a Caller, ip: &'a str) -> Visit<'a> {
    Visit { client_id: &caller.id, ip, tc_url: &caller.tc_url, page_url: &caller.page_url }
}

fn begin_of(action: Action) -> Hook {
    match action {
        Action::Publish => Hook::Publish,
        Action::Play => Hook::Play,
    }
}

fn end_of(action: Action) -> Hook {
    match action {
        Action::Publish => Hook::Unpublish,
        Action::Play => Hook::Stop,
    }
}

/// A client was let in. Dropped, its seat is free, and on_unpublish or on_stop is told.
#[derive(Debug)]
pub(crate) struct Admitted {
    farewell: Option<Farewell>,
    seats: [Seat; 2],
}

impl Admitted {
    /// What another process has to know to go on with it.
    pub(crate) fn departing(&self) -> session::Admission {
        let farewell = self.farewell.as_ref();
        let text = |of: fn(&Farewell) -> &str| farewell.map(of).unwrap_or_default().to_owned();
        session::Admission { client: text(Farewell::client), end: text(Farewell::body) }
    }

    /// It goes on in another process: nothing is told here.
    pub(crate) fn departed(self) {
        let Self { farewell, seats } = self;
        drop(seats);
        if let Some(farewell) = farewell {
            farewell.forget();
        }
    }
}
