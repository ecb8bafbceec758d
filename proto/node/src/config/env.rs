//! Environment variables over the file: `WEIR_EDGE__RTMP__LISTEN=1936` is `edge.rtmp.listen`.
//!
//! - The name is `WEIR_` and the keys in capitals, joined by two underscores.
//! - A value that begins with `{` or `[` is YAML in flow style; sections are joined with those of the file key
//!   by key. Any other value is taken as it stands.
//! - Names of vhosts hold dots and letters of both cases, which names of variables cannot. So only
//!   `__defaultVhost__` has variables of its own, `WEIR_VHOSTS____DEFAULTVHOST____PLAY__MW_LATENCY`; the others
//!   are written as `WEIR_VHOSTS={live.example.com: {play: {gop_cache: off}}}`.
//! - A variable that is no key is an error, like an unknown key of the file. `WEIR_LOG` (the log filter) and
//!   names that begin with `WEIR_INTERNAL_` are not part of the configuration, nor are `WEIR_SERVICE_*` and
//!   `WEIR_PORT*`, which Kubernetes sets in every container beside a service named weir.

use std::net::SocketAddr;

use super::error::{Fault, Place};
use super::tree::{Node, TEXT_MAX, Value};
use super::vhost::DEFAULT_VHOST;

const PREFIX: &str = "WEIR_";

/// The variable of the log filter, which is read by [`crate::log`].
pub const LOG_VARIABLE: &str = "WEIR_LOG";

/// Variables that begin so pass facts between weir's own processes and are never configuration.
pub const INTERNAL_PREFIX: &str = "WEIR_INTERNAL_";

/// Set by Kubernetes for a service named weir.
const KUBERNETES_PREFIXES: [&str; 2] = ["WEIR_SERVICE_", "WEIR_PORT"];

/// Lays the variables over `tree`, sections before their keys.
pub(super) fn overlay(tree: &mut Node, variables: impl Iterator<Item = (String, String)>) -> Vec<Fault> {
    let mut variables: Vec<_> = variables.filter(|(name, _)| is_ours(name)).collect();
    variables.sort_unstable();
    let mut faults = Vec::new();
    for (name, value) in variables {
        match branch(&name, &value) {
            Ok(branch) => tree.overlay(branch),
            Err(fault) => faults.push(fault),
        }
    }
    faults
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
        && name != LOG_VARIABLE
        && !name.starts_with(INTERNAL_PREFIX)
        && !KUBERNETES_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The tree that holds only what this variable says.
fn branch(name: &str, value: &str) -> Result<Node, Fault> {
    let keys = keys(name)?;
    let place = Place::Variable(name.to_owned());
    let leaf = Node { place: place.clone(), value: read(name, value)? };
    let wrap = |inner: Node, key: String| Node { place: place.clone(), value: Value::Section(vec![(key, inner)]) };
    Ok(keys.into_iter().rev().fold(leaf, wrap))
}

fn read(name: &str, value: &str) -> Result<Value, Fault> {
    let value = value.trim();
    let is_flow = value.starts_with(['{', '[']) && value.parse::<SocketAddr>().is_err();
    if is_flow {
        return Node::parse(value, Some(name)).map(|node| node.value);
    }
    if value.len() > TEXT_MAX {
        return Err(refuse(name, format!("the value is longer than {TEXT_MAX} bytes")));
    }
    Ok(if value.is_empty() { Value::Empty } else { Value::Word(value.to_owned()) })
}

fn refuse(name: &str, message: impl Into<String>) -> Fault {
    Fault::at(Place::Variable(name.to_owned()), &[], message)
}

/// The keys that the name of a variable stands for.
fn keys(name: &str) -> Result<Vec<String>, Fault> {
    let path = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    if let Some(below) = path.strip_prefix("vhosts__") {
        let default = DEFAULT_VHOST.to_ascii_lowercase();
        let rest = below.strip_prefix(&default).and_then(|rest| match rest.strip_prefix("__") {
            Some(rest) => Some(rest.split("__").map(str::to_owned).collect()),
            None => rest.is_empty().then(Vec::new),
        });
        let Some(rest) = rest else {
            let hint = "the name of a vhost cannot be part of a variable's name; \
                        write WEIR_VHOSTS='{live.example.com: {...}}', or WEIR_VHOSTS____DEFAULTVHOST____...";
            return Err(refuse(name, hint));
        };
        let mut keys = vec!["vhosts".to_owned(), DEFAULT_VHOST.to_owned()];
        keys.extend::<Vec<String>>(rest);
        return whole(name, keys);
    }
    whole(name, path.split("__").map(str::to_owned).collect())
}

/// No section has an underscore in its name, so one in the first key is a level that was meant.
fn whole(name: &str, keys: Vec<String>) -> Result<Vec<String>, Fault> {
    if keys.iter().any(String::is_empty) || keys.first().is_some_and(|section| section.contains('_')) {
        let hint =
            "not the name of a key; write WEIR_ and the keys joined by two underscores, as in WEIR_EDGE__WORKERS";
        return Err(refuse(name, hint));
    }
    Ok(keys)
}
