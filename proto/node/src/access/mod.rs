//! "May this client do this?": the rules of a vhost that need nobody else's word. Pure.
//!
//! The process that terminates a client asks once for each publish and each play, whatever the protocol. In this order:
//!
//! ```text
//! address (deny, then allow) ─> page ─> token (signed address, or JWT) ─> limits ─> callbacks
//! ```
//!
//! Limits are counted, and callbacks called, by whoever asks.

mod jwt;
mod network;
mod query;
mod referer;
mod sign;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use weir_media::StreamName;

use crate::config::{Access, Rules};

pub use jwt::{JWKS_MAX, JwtError, Keys};
pub use network::{Network, subscriber};
pub use sign::Grant;

use query::Query;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a stream.
    Publish,
    /// Get one.
    Play,
}

impl Action {
    /// The word of the configuration, and of tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Play => "play",
        }
    }
}

/// Who asks for what. The query may carry a secret.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// What it wants.
    pub action: Action,
    /// With which stream; the vhost by its name in the configuration.
    pub name: &'a StreamName,
    /// Its address.
    pub ip: IpAddr,
    /// Query of the stream's address, without the question mark.
    pub query: &'a str,
    /// Address of the page that it is in, as it says; empty for none.
    pub page_url: &'a str,
    /// What stands behind `Bearer` in its Authorization field; empty for nothing.
    pub bearer: &'a str,
}

/// Why a client may not. What it is told must not say which rule it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its address is denied, or not allowed.
    #[error("its address")]
    Address,
    /// The page that it is in.
    #[error("its page")]
    Page,
    /// It has no token, or none that is good for this.
    #[error("no good token")]
    Token,
    /// Its token names a key that is not known: it may be so new that the set of keys has to be fetched again.
    #[error("a token by an unknown key")]
    UnknownKey,
}

/// Applies the rules of a vhost, but for its limits and callbacks. `keys` are those of its JWTs, `now` is UNIX time in
/// seconds.
///
/// # Errors
/// The client is to be refused.
pub fn check(access: &Access, keys: &Keys, asking: &Asking<'_>, now: u64) -> Result<(), Refusal> {
    let rules = match asking.action {
        Action::Publish => &access.publish,
        Action::Play => &access.play,
    };
    if !admits(rules, asking.ip) {
        return Err(Refusal::Address);
    }
    if !rules.referer.is_empty() && !referer::allows(&rules.referer, asking.page_url) {
        return Err(Refusal::Page);
    }
    if !rules.token {
        return Ok(());
    }
    let query = Query(asking.query);
    if sign::is_signed(query) {
        return sign::verify(query, asking.action, asking.name, asking.ip, now, |id| access.sign_keys.get(id));
    }
    let in_query = query.get("token").or_else(|| query.get("jwt"));
    let token = Some(asking.bearer).filter(|bearer| !bearer.is_empty()).or(in_query).ok_or(Refusal::Token)?;
    keys.verify(&access.jwt, token, asking.action, asking.name, now)
}

/// SRS's meaning: who is denied is refused, whoever is allowed; where somebody is allowed, everybody else is not.
fn admits(rules: &Rules, ip: IpAddr) -> bool {
    let among = |networks: &[Network]| networks.iter().any(|network| network.contains(ip));
    !among(&rules.deny) && (rules.allow.is_empty() || among(&rules.allow))
}
