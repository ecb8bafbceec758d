//! What differs between two configurations, and what of it can be taken over while a host runs.

use std::fmt;

use serde_json::Value;

use super::Config;
use crate::secret::{MASK, redact_query};

/// Keys that hold from start to stop, by their beginnings, and why.
const FIXED: [(&str, &str); 11] = [
    ("log.file", "the log is opened at start"),
    ("log.format", "the log is opened at start"),
    ("node.", "workers and other hosts know this one by it"),
    ("edge.rtmp.chunk_size", "players were told it, and share what is encoded by it"),
    ("origin.workers", "it decides where streams live"),
    ("rtc.listen", "sessions are bound to it"),
    ("rtc.tcp", "its listeners are made at start"),
    ("cluster.directory", "it decides where streams live"),
    ("cluster.origins", "it decides where streams live"),
    ("cluster.", "links to other hosts are made by it"),
    ("metrics.listen", "the supervisor answers there from start to stop"),
];

/// Keys whose values are not shown, by their ends, and sections of which none is.
const SECRET: [&str; 3] = [".password", ".token", ".secret"];
const SECRETS: &str = ".sign_keys.";

/// A configuration as operators may see it: without what is secret.
pub fn shown(config: &Config) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    mask(&mut value, "");
    value
}

fn mask(value: &mut Value, key: &str) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| mask(value, &format!("{key}.{name}"))),
        Value::Array(values) => values.iter_mut().for_each(|value| mask(value, key)),
        Value::String(text) if !text.is_empty() && is_secret(key) => MASK.clone_into(text),
        // What a URL carries behind its path may be a secret as well.
        Value::String(text) if text.contains("://") => *text = redact_query(text),
        _ => {}
    }
}

fn is_secret(key: &str) -> bool {
    SECRET.iter().any(|end| key.ends_with(end)) || key.contains(SECRETS)
}

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its path: `edge.rtmp.listen`, `vhosts.__defaultVhost__.play.mw_latency`.
    pub key: String,
    /// As it was; empty where it was not there.
    pub before: String,
    /// As it is to be; empty where it is not there.
    pub after: String,
    /// Why it cannot change while the host runs.
    pub fixed: Option<&'static str>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.before.as_str(), self.after.as_str()) {
            ("", after) => write!(f, "{}: {after} (new)", self.key)?,
            (before, "") => write!(f, "{}: {before} (gone)", self.key)?,
            (before, after) => write!(f, "{}: {before} -> {after}", self.key)?,
        }
        match self.fixed {
            Some(why) => write!(f, " needs a restart: {why}"),
            None => Ok(()),
        }
    }
}

/// Every key that differs, in the order of the configuration's keys.
pub fn changes(before: &Config, after: &Config) -> Vec<Change> {
    let mut found = Vec::new();
    // A configuration always is JSON: that is how workers get it.
    let json = |config: &Config| serde_json::to_value(config).unwrap_or_default();
    walk(String::new(), &json(before), &json(after), &mut found);
    found
}

fn walk(key: String, before: &Value, after: &Value, found: &mut Vec<Change>) {
    if let (Value::Object(before), Value::Object(after)) = (before, after) {
        let gone = after.keys().filter(|name| !before.contains_key(*name));
        for name in before.keys().chain(gone) {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            walk(key, before.get(name).unwrap_or(&Value::Null), after.get(name).unwrap_or(&Value::Null), found);
        }
    } else if before != after {
        let fixed = FIXED.iter().find(|(start, _)| key.starts_with(start)).map(|(_, why)| *why);
        let show = |value: &Value| {
            let mut value = value.clone();
            mask(&mut value, &format!(".{key}"));
            text(&value)
        };
        found.push(Change { before: show(before), after: show(after), key, fixed });
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if !text.is_empty() => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Auto, Vhost};
    use super::*;

    #[test]
    fn names_every_key_that_differs_and_what_is_fixed() {
        let before = Config::default();
        assert_eq!(changes(&before, &before), []);
        let mut after = before.clone();
        after.edge.workers = Auto::Is(8);
        after.origin.workers = 3;
        after.edge.api.password = "hush".into();
        after.cluster.origins = vec!["10.0.0.1:1990".to_owned()];
        let vhost = after.vhosts.values_mut().next().unwrap();
        vhost.play.queue_length = Duration::from_secs(5);
        after.vhosts.insert("a.example".to_owned(), Vhost::default());
        let found: Vec<_> = changes(&before, &after).iter().map(ToString::to_string).collect();
        let has = |start: &str, end: &str| {
            assert!(found.iter().any(|line| line.starts_with(start) && line.ends_with(end)), "{start}: {found:#?}");
        };
        assert_eq!(found.len(), 6, "{found:#?}");
        has("edge.api.password: \"\" -> ***", "***");
        has("edge.workers: auto -> 8", "8");
        has("origin.workers: 1 -> 3 needs a restart:", "where streams live");
        has("cluster.origins: [] -> [\"10.0.0.1:1990\"] needs a restart:", "where streams live");
        has("vhosts.__defaultVhost__.play.queue_length: 10s -> 5s", "5s");
        has("vhosts.a.example: {", "(new)");
        let shown = shown(&after);
        assert_eq!((&shown["edge"]["api"]["password"], &shown["edge"]["api"]["token"]), (&"***".into(), &"".into()));
    }

    #[test]
    fn secrets_are_not_shown() {
        const SECRET: &str = "S3CR3T-0123456789";
        let before = Config::default();
        let mut after = before.clone();
        let vhost = after.vhosts.values_mut().next().unwrap();
        vhost.access.sign_keys.insert("k1".to_owned(), SECRET.into());
        vhost.http_hooks.on_play.push(format!("http://u:{SECRET}@h/x?key={SECRET}"));
        let (secret, alg) = (SECRET.into(), super::super::JwtAlgorithm::Hs256);
        vhost.access.jwt.keys.push(super::super::JwtKey { kid: "a".to_owned(), alg, secret, file: String::new() });
        let new = vhost.clone();
        after.vhosts.insert("a.example".to_owned(), new);
        for (before, after) in [(&before, &after), (&after, &before)] {
            let found = changes(before, after);
            assert_eq!(found.len(), 4, "{found:#?}");
            assert!(!format!("{found:?}").contains(SECRET), "{found:#?}");
        }
        assert!(!shown(&after).to_string().contains(SECRET), "{}", shown(&after));
        assert!(!format!("{after:?}").contains(&format!("\"{SECRET}")), "{after:?}");
    }
}
