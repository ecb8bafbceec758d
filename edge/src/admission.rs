//! Whether a new client is served here: by the number of clients, and by the overload of the worker and its host.
//!
//! ```text
//! accept ─ room ─> serve
//!        ─ none ─> a sibling takes it, unread ─ no ─> another host, or a word why not
//! ```
//!
//! Who is there already is never asked.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::rc::Rc;

use rustc_hash::FxHashMap;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use weir_node::config::{Config, DEFAULT_VHOST};
use weir_node::handover::BATCH_MAX;
use weir_node::overload::{Sibling, State, Turned, Verdict, Watch};
use weir_node::worker::handover_socket;
use weir_proto::session::{Fresh, Session, session::Kind};

use crate::handover::{Departing, carry, give};
use crate::stats::{Refused, Stats};

/// Clients without room that are still told so, and clients of the API above `edge.connections`. More are closed without
/// a word.
const TOLD: u64 = 256;

/// Siblings that are known at a time; a host has no more edge workers.
const SIBLINGS_MAX: usize = 256;

/// The parameter of who was sent on. Two hosts that name each other would else play ball with a client.
const SENT_ON: &str = "redirected";

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// More than `edge.connections`.
    Full,
    /// The worker or its host is overloaded.
    Overload,
}

impl Refusal {
    /// What the client is told. Numbers are for the operator.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Full => "too many connections",
            Self::Overload => "the server is overloaded, try again later",
        }
    }
}

/// What becomes of a new client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is served.
    Serve,
    /// It has no place here, but may be told where there is one.
    Refuse(Refusal),
    /// Too many are being told already.
    Drop(Refusal),
}

/// Decides. `open` clients are there, of at most `limit`. The API is how the operator sees what is going on.
pub(crate) fn admit(api: bool, open: u64, limit: u64, verdict: &Verdict) -> Admission {
    let why = match (open >= limit, verdict.state) {
        (true, _) => Refusal::Full,
        (false, State::Refuse) => Refusal::Overload,
        (false, State::Ok | State::Warn) => return Admission::Serve,
    };
    match open >= limit.saturating_add(TOLD) {
        true => Admission::Drop(why),
        false if api => Admission::Serve,
        false => Admission::Refuse(why),
    }
}

/// The gate of one worker. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    watch: Watch,
    run_dir: Rc<PathBuf>,
    ways: Rc<RefCell<FxHashMap<Sibling, mpsc::Sender<Departing>>>>,
}

impl Gate {
    pub(crate) fn new(watch: Watch, run_dir: PathBuf) -> Self {
        Self { watch, run_dir: Rc::new(run_dir), ways: Rc::default() }
    }

    /// How it stands.
    pub(crate) fn verdict(&self) -> Rc<Verdict> {
        self.watch.verdict()
    }

    /// Counts a client that is not served.
    pub(crate) fn refused(&self, stats: &Stats, why: Refusal) {
        match why {
            Refusal::Full => stats.refuse(Refused::Connections),
            Refusal::Overload => {
                stats.refuse(Refused::Overload);
                self.watch.turned(Turned::Away);
            }
        }
    }

    /// Who takes the next client in the place of this worker, which has `open` and no room for more.
    pub(crate) fn pass_to(&self, open: u64) -> Option<Sibling> {
        self.watch.pass_to(open)
    }

    /// Gives a client of which nothing was read to a sibling. False: that did not take it, and it is still ours.
    pub(crate) async fn pass(&self, to: Sibling, socket: &TcpStream, peer: String, service: &str) -> bool {
        let Ok(permit) = self.way(to).reserve_owned().await else { return false };
        let fresh = Fresh { service: service.to_owned() };
        let passed = carry(permit, socket, &Session { peer, kind: Some(Kind::Fresh(fresh)) }).await;
        if passed {
            self.watch.turned(Turned::ToSibling);
        }
        passed
    }

    /// The way to a sibling, opened with the first client that takes it.
    fn way(&self, to: Sibling) -> mpsc::Sender<Departing> {
        let mut ways = self.ways.borrow_mut();
        ways.retain(|_, way| !way.is_closed());
        if let Some(way) = ways.get(&to) {
            return way.clone();
        }
        let (way, departing) = mpsc::channel(BATCH_MAX);
        spawn_local(give(handover_socket(&self.run_dir, to.slot, to.incarnation), departing));
        if ways.len() < SIBLINGS_MAX {
            ways.insert(to, way.clone());
        }
        way
    }

    /// Where a refused RTMP client goes instead; `None`: nowhere. `vhost`, `app` and `query` are as it asked for them.
    pub(crate) fn rtmp(&self, config: &Config, vhost: &str, app: &str, query: &str) -> Option<String> {
        let to = Some(&config.overload.redirect.rtmp).filter(|to| !to.is_empty())?;
        let query = sent_on(config, vhost, query)?;
        self.watch.turned(Turned::Elsewhere);
        Some(format!("rtmp://{to}/{app}?{query}"))
    }

    /// Where a refused HTTP client goes instead; `None`: nowhere. `path` and `query` are as it sent them. One that came over
    /// TLS goes on over TLS: its query may have a token, and pages of https take nothing else.
    pub(crate) fn http(&self, config: &Config, over_tls: bool, vhost: &str, path: &str, query: &str) -> Option<String> {
        let redirect = &config.overload.redirect;
        let (scheme, to) = if over_tls { ("https", &redirect.https) } else { ("http", &redirect.http) };
        // What follows the other host's name must not become a part of it.
        let to = Some(to).filter(|to| !to.is_empty() && path.starts_with('/'))?;
        let query = sent_on(config, vhost, query)?;
        self.watch.turned(Turned::Elsewhere);
        Some(format!("{scheme}://{to}{path}?{query}"))
    }
}

/// The query of a client that is sent on; `None`: it was sent on before. The other host has another name, so a vhost that
/// followed from this one's is written down.
fn sent_on(config: &Config, vhost: &str, query: &str) -> Option<String> {
    let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
    if has(SENT_ON) {
        return None;
    }
    let mut text = query.to_owned();
    let mut add = |name: &str, value: &str| {
        let and = if text.is_empty() { "" } else { "&" };
        // Writing into a string does not fail.
        write!(text, "{and}{name}={value}").ok();
    };
    if let Some((listed, _)) = config.vhost(vhost).filter(|(name, _)| *name != DEFAULT_VHOST && !has("vhost")) {
        add("vhost", listed);
    }
    add(SENT_ON, "1");
    Some(text)
}

#[cfg(test)]
mod tests {
    use weir_node::config::Vhost;

    use super::*;

    #[test]
    fn the_api_is_answered_whatever_there_is() {
        let verdict = |state| Verdict { state, reasons: Vec::new() };
        let (well, warned, overloaded) = (verdict(State::Ok), verdict(State::Warn), verdict(State::Refuse));
        for api in [false, true] {
            assert_eq!(admit(api, 9, 10, &well), Admission::Serve);
            assert_eq!(admit(api, 9, 10, &warned), Admission::Serve);
            assert_eq!(admit(api, 10 + TOLD, 10, &well), Admission::Drop(Refusal::Full));
        }
        assert_eq!(admit(false, 10, 10, &well), Admission::Refuse(Refusal::Full));
        assert_eq!(admit(false, 10, 10, &overloaded), Admission::Refuse(Refusal::Full));
        assert_eq!(admit(false, 0, 10, &overloaded), Admission::Refuse(Refusal::Overload));
        assert_eq!(admit(true, 0, 10, &overloaded), Admission::Serve);
        assert_eq!(admit(true, 9 + TOLD, 10, &overloaded), Admission::Serve);
    }

    #[test]
    fn who_is_sent_on_keeps_its_vhost_and_is_not_sent_on_again() {
        let mut config = Config::default();
        config.vhosts.insert("live.example.com".to_owned(), Vhost::default());
        let to = |vhost: &str, query: &str| sent_on(&config, vhost, query);
        assert_eq!(to("203.0.113.9", "").as_deref(), Some("redirected=1"));
        assert_eq!(to("203.0.113.9", "token=a").as_deref(), Some("token=a&redirected=1"));
        assert_eq!(to("LIVE.example.com", "").as_deref(), Some("vhost=live.example.com&redirected=1"));
        assert_eq!(
            to("live.example.com", "vhost=live.example.com").as_deref(),
            Some("vhost=live.example.com&redirected=1")
        );
        assert_eq!(to("", "a=b&redirected=1"), None);
    }
}
