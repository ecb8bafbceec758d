//! The checks of the sections `access` and `http_hooks`. Their texts name no secret.

use std::time::Duration;

use super::check::{Check, seconds};
use super::{Access, HttpHooks, Jwt};
use crate::access::Keys;
use crate::hooks::Target;
use crate::secret::redact_query;

/// Most entries of one list of addresses or pages.
const RULES_MAX: usize = 1000;

/// Most keys of a vhost, of each kind.
const KEYS_MAX: usize = 64;

/// Bytes of a shared secret: as many as are hard to guess.
const SECRET_MIN: usize = 16;

/// Most URLs of one hook.
const URLS_MAX: usize = 8;

impl Check<'_> {
    pub(super) fn access(&mut self, name: &str, access: &Access) {
        for (action, rules) in [("publish", &access.publish), ("play", &access.play)] {
            let counts = [("allow", rules.allow.len()), ("deny", rules.deny.len()), ("referer", rules.referer.len())];
            for (key, count) in counts.into_iter().filter(|(_, count)| *count > RULES_MAX) {
                let message = format!("{count} entries; write at most {RULES_MAX}");
                self.refuse(&["vhosts", name, "access", action, key], message);
            }
            for host in rules.referer.iter().take(RULES_MAX) {
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':');
                if host.is_empty() || host.starts_with('.') || !host.bytes().all(plain) {
                    let message =
                        format!("{host:?} is no host name; write one such as example.com, without scheme and path");
                    self.refuse(&["vhosts", name, "access", action, "referer"], message);
                }
            }
            let no_key = access.sign_keys.is_empty() && access.jwt.keys.is_empty() && access.jwt.jwks.is_empty();
            if rules.token && no_key {
                let message = "nobody could have a token; write access.sign_keys, or keys or jwks in access.jwt";
                self.refuse(&["vhosts", name, "access", action, "token"], message);
            }
        }
        let path = ["vhosts", name, "access", "sign_keys"];
        if access.sign_keys.len() > KEYS_MAX {
            self.refuse(&path, format!("{} keys; write at most {KEYS_MAX}", access.sign_keys.len()));
        }
        for (id, secret) in access.sign_keys.iter().take(KEYS_MAX) {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
            if !(1..=64).contains(&id.len()) || !id.bytes().all(plain) {
                self.refuse(&path, format!("{id:?} is no id of a key; write letters, digits, - _ and ."));
            }
            if secret.reveal().len() < SECRET_MIN {
                self.refuse(
                    &path,
                    format!("the secret of {id} is shorter than {SECRET_MIN} bytes; write a longer one"),
                );
            }
        }
        self.jwt(name, &access.jwt);
    }

    fn jwt(&mut self, name: &str, jwt: &Jwt) {
        let path = ["vhosts", name, "access", "jwt", "keys"];
        self.range(&["vhosts", name, "access", "jwt", "refresh"], jwt.refresh, seconds(1..=86_400));
        self.range(&["vhosts", name, "access", "jwt", "leeway"], jwt.leeway, seconds(0..=300));
        if jwt.keys.len() > KEYS_MAX {
            return self.refuse(&path, format!("{} keys; write at most {KEYS_MAX}", jwt.keys.len()));
        }
        let mut right = true;
        for (i, key) in jwt.keys.iter().enumerate() {
            let shared = key.alg.is_shared();
            let message = if key.kid.is_empty() {
                "a key has no kid; write one".to_owned()
            } else if jwt.keys.iter().take(i).any(|other| other.kid == key.kid) {
                format!("kid {:?} stands there twice; write each once", key.kid)
            } else if shared && !key.file.is_empty() {
                format!("the key {:?} is a shared secret; write secret, not file", key.kid)
            } else if shared && key.secret.reveal().len() < SECRET_MIN {
                format!("the secret of {:?} is shorter than {SECRET_MIN} bytes; write a longer one", key.kid)
            } else if !shared && (key.file.is_empty() || !key.secret.is_empty()) {
                format!("the key {:?} is a public key; write its PEM file as file, and no secret", key.kid)
            } else {
                continue;
            };
            right = false;
            self.refuse(&path, message);
        }
        if right && let Err(error) = Keys::load(&jwt.keys) {
            self.refuse(&path, error.to_string());
        }
        let jwks = ["vhosts", name, "access", "jwt", "jwks"];
        if jwt.jwks.contains("://") {
            if let Err(error) = Target::parse(&jwt.jwks) {
                self.refuse(&jwks, format!("{}: {error}", redact_query(&jwt.jwks)));
            }
        } else if !jwt.jwks.is_empty() {
            let read = std::fs::read(&jwt.jwks).map_err(|error| format!("cannot be read: {error}"));
            let set = read.and_then(|set| Keys::default().fetched(&set).map_err(|error| error.to_string()));
            if let Err(error) = set {
                self.refuse(&jwks, format!("{}: {error}", jwt.jwks));
            }
        }
    }

    pub(super) fn http_hooks(&mut self, name: &str, hooks: &HttpHooks) {
        let urls = [
            ("on_connect", &hooks.on_connect),
            ("on_close", &hooks.on_close),
            ("on_publish", &hooks.on_publish),
            ("on_unpublish", &hooks.on_unpublish),
            ("on_play", &hooks.on_play),
            ("on_stop", &hooks.on_stop),
        ];
        for (hook, urls) in urls {
            let path = ["vhosts", name, "http_hooks", hook];
            if urls.len() > URLS_MAX {
                self.refuse(&path, format!("{} URLs; write at most {URLS_MAX}", urls.len()));
            }
            for url in urls.iter().take(URLS_MAX) {
                if let Err(error) = Target::parse(url) {
                    self.refuse(&path, format!("{}: {error}", redact_query(url)));
                }
            }
        }
        let times = Duration::from_millis(100)..=Duration::from_secs(60);
        self.range(&["vhosts", name, "http_hooks", "connect_timeout"], hooks.connect_timeout, times.clone());
        self.range(&["vhosts", name, "http_hooks", "timeout"], hooks.timeout, times);
        self.range(&["vhosts", name, "http_hooks", "retries"], hooks.retries, 0..=10);
        self.range(&["vhosts", name, "http_hooks", "in_flight"], hooks.in_flight, 1..=1000);
        self.range(&["vhosts", name, "http_hooks", "waiting"], hooks.waiting, 1..=10_000);
    }
}
