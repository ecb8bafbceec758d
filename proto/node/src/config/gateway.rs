//! What of section `edge` makes it a gateway: TLS towards clients, and other programs behind the same ports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::value::Listen;

/// An entry of `edge.tls`: a certificate that clients are shown. Clients choose by the name that they ask for; who asks for
/// none of the names, or for no name, is shown the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificate {
    /// PEM file with the certificate, and behind it those that lead to its authority.
    pub cert: String,
    /// PEM file of its private key.
    pub key: String,
}

/// Section `edge.https`: all of `edge.http` and of `edge.api`'s paths, over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Https {
    /// TCP addresses.
    pub listen: Listen,
    /// Whether who comes to `edge.http` is sent here instead.
    pub redirect: bool,
}

impl Default for Https {
    fn default() -> Self {
        Self { listen: Listen::OFF, redirect: false }
    }
}

/// Section `edge.rtmps`: RTMP over TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtmps {
    /// TCP addresses.
    pub listen: Listen,
}

impl Default for Rtmps {
    fn default() -> Self {
        Self { listen: Listen::OFF }
    }
}

/// Section `edge.proxy`: by the beginning of a path, `http://HOST:PORT` of another program that answers there.
pub type Proxy = BTreeMap<String, String>;
