//! Signed addresses: a query that says until when, and by which key, one may publish or play one stream.
//!
//! ```text
//! sig_exp=UNIX_SECONDS & sig_key=ID [& sig_ip=1] & sig=HEX(HMAC-SHA256(secret, text))
//! text = "weir1" LF action LF vhost LF app LF stream LF sig_exp LF (the client's address, or nothing)
//! ```
//!
//! `action` is `publish` or `play`, `vhost` the name under which the configuration lists it. No part can hold a line feed.
//! With `sig_ip=1` the address is only good for one client.

use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::hmac;
use weir_media::StreamName;

use super::query::Query;
use super::{Action, Refusal};
use crate::config::Secret;

/// What is signed.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// What may be done.
    pub action: Action,
    /// With which stream.
    pub name: &'a StreamName,
    /// Until when, in UNIX time.
    pub expires: u64,
    /// By whom alone.
    pub ip: Option<IpAddr>,
}

impl Grant<'_> {
    /// The query that grants this, to be put behind an address. `key` is the id of the secret.
    pub fn sign(&self, key: &str, secret: &Secret) -> String {
        let tag = hmac::sign(&key_of(secret), self.text(&self.expires.to_string()).as_bytes());
        let ip = if self.ip.is_some() { "&sig_ip=1" } else { "" };
        let mut query = format!("sig_exp={}&sig_key={key}{ip}&sig=", self.expires);
        for byte in tag.as_ref() {
            write!(query, "{byte:02x}").ok();
        }
        query
    }

    fn text(&self, expires: &str) -> String {
        let ip = self.ip.map(|ip| ip.to_canonical().to_string()).unwrap_or_default();
        let StreamName { vhost, app, stream } = self.name;
        format!("weir1\n{}\n{vhost}\n{app}\n{stream}\n{expires}\n{ip}", self.action.as_str())
    }
}

fn key_of(secret: &Secret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes())
}

/// 32 bytes as lower-case digits.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    bytes?.try_into().ok()
}

/// Whether a query has a signature.
pub(super) fn is_signed(query: Query<'_>) -> bool {
    query.get("sig").is_some()
}

/// Looks at the signature of a query; `secret_of` finds a secret by its id.
pub(super) fn verify<'a>(
    query: Query<'_>,
    action: Action,
    name: &StreamName,
    ip: IpAddr,
    now: u64,
    secret_of: impl FnOnce(&str) -> Option<&'a Secret>,
) -> Result<(), Refusal> {
    let (Some(text), Some(key), Some(sig)) = (query.get("sig_exp"), query.get("sig_key"), query.get("sig")) else {
        return Err(Refusal::Token);
    };
    let ip = match query.get("sig_ip") {
        None => None,
        Some("1") => Some(ip),
        Some(_) => return Err(Refusal::Token),
    };
    let expires = text.parse::<u64>().ok().filter(|expires| *expires > now).ok_or(Refusal::Token)?;
    let secret = secret_of(key).ok_or(Refusal::Token)?;
    let sig = from_hex(sig).ok_or(Refusal::Token)?;
    // As it was written: "+1" and "01" are the same number, but not what was signed. The comparison takes the same time
    // whatever the signature is.
    let signed = Grant { action, name, expires, ip }.text(text);
    hmac::verify(&key_of(secret), signed.as_bytes(), &sig).map_err(|_| Refusal::Token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn name(vhost: &str, app: &str, stream: &str) -> StreamName {
        StreamName { vhost: vhost.into(), app: app.into(), stream: stream.into() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn opens(query: &str, action: Action, name: &StreamName, from: &str, now: u64, secret: &Secret) -> bool {
        verify(Query(query), action, name, ip(from), now, |id| (id == "k1").then_some(secret)).is_ok()
    }

    #[test]
    fn a_signature_is_good_for_what_it_names_and_nothing_else() {
        let (secret, other) = (Secret::from("0123456789abcdef"), Secret::from("0123456789abcdeg"));
        let river = name("__defaultVhost__", "live", "river");
        let query = Grant { action: Action::Play, name: &river, expires: NOW + 60, ip: None }.sign("k1", &secret);
        let ok = |query: &str| opens(query, Action::Play, &river, "192.0.2.1", NOW, &secret);
        assert!(ok(&query) && ok(&format!("a=b&{query}&vhost=x")));
        assert!(!opens(&query, Action::Publish, &river, "192.0.2.1", NOW, &secret));
        assert!(!opens(&query, Action::Play, &river, "192.0.2.1", NOW + 60, &secret), "expired");
        assert!(!opens(&query, Action::Play, &river, "192.0.2.1", NOW, &other));
        for elsewhere in [
            name("v", "live", "river"),
            name("__defaultVhost__", "live", "rive"),
            name("__defaultVhost__", "liv", "eriver"),
        ] {
            assert!(!opens(&query, Action::Play, &elsewhere, "192.0.2.1", NOW, &secret), "{elsewhere}");
        }
        let later = query.replace(&(NOW + 60).to_string(), &(NOW + 61).to_string());
        for forged in [
            later.as_str(),
            &query.replace("sig_exp=", "sig_exp=0"),
            &query.replace("sig_exp=", "sig_exp=+"),
            &query.replace("k1", "k2"),
            &query.replace("&sig=", "&sig_ip=1&sig="),
            &query.replace("&sig=", "&sig_ip=0&sig="),
            &query.replace("&sig=", "&sig=A"),
            &format!("{query}A"),
            &format!("{query}="),
            &query[..query.len() - 1],
            "sig=",
            "",
        ] {
            assert!(!ok(forged), "{forged}");
        }
    }

    #[test]
    fn one_client_alone() {
        let secret = Secret::from("0123456789abcdef");
        let river = name("v", "live", "river");
        let grant = Grant { action: Action::Publish, name: &river, expires: NOW + 1, ip: Some(ip("192.0.2.1")) };
        let query = grant.sign("k1", &secret);
        for (from, opened) in [("192.0.2.1", true), ("::ffff:192.0.2.1", true), ("192.0.2.2", false), ("::1", false)] {
            assert_eq!(opens(&query, Action::Publish, &river, from, NOW, &secret), opened, "{from}");
        }
        assert!(!opens(&query.replace("&sig_ip=1", ""), Action::Publish, &river, "192.0.2.1", NOW, &secret));
    }

    proptest! {
        #[test]
        fn no_change_of_one_letter_opens(at in 0usize..100, letter in "[ -~]") {
            let secret = Secret::from("0123456789abcdef");
            let river = name("v", "live", "river");
            let query = Grant { action: Action::Play, name: &river, expires: NOW + 60, ip: None }.sign("k1", &secret);
            let at = at % query.len();
            let mut changed = query.clone();
            changed.replace_range(at..=at, &letter);
            prop_assume!(changed != query);
            prop_assert!(!opens(&changed, Action::Play, &river, "192.0.2.1", NOW, &secret), "{}", changed);
        }

        #[test]
        fn nothing_panics(query in "(sig|sig_exp|sig_key|sig_ip|[&=%.A-Za-z0-9\u{e9}]){0,30}") {
            let secret = Secret::from("0123456789abcdef");
            prop_assert!(!opens(&query, Action::Play, &name("v", "a", "s"), "::1", NOW, &secret));
        }
    }
}
