//! The section `cluster`: how hosts find and trust each other.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::value::{Listen, Scalar, scalar};

/// Section `cluster`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// How a stream's origin is found.
    #[serde(with = "scalar")]
    pub directory: Directory,
    /// Control addresses `HOST:PORT` of every origin worker of the cluster, in the same order on all hosts.
    /// Empty: the origin workers of this host.
    pub origins: Vec<String>,
    /// The media path between hosts.
    pub relay: Relay,
    /// The control plane between hosts.
    pub control: Control,
    /// Certificates of both.
    pub tls: Tls,
}

/// `cluster.directory`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Directory {
    /// Rendezvous hashing over the configured list of origins.
    #[default]
    Static,
}

impl Scalar for Directory {
    const WANTED: &'static str = "static";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "static" => Ok(Self::Static),
            "etcd" => Err("this version has no etcd directory; write static and list cluster.origins".to_owned()),
            other => Err(format!("{other:?} is not a directory; write static")),
        }
    }

    fn show(&self) -> String {
        "static".to_owned()
    }
}

/// Section `cluster.relay`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// UDP addresses of QUIC; origin worker i takes port + i ([`Listen::of_worker`]).
    pub listen: Listen,
    /// How long an edge waits for an older group before it goes on with a newer one.
    #[serde(with = "scalar")]
    pub hold: Duration,
    /// Bytes that may wait for one subscriber of one stream.
    #[serde(with = "scalar")]
    pub queue: usize,
    /// How long an edge keeps a stream after its last player left.
    #[serde(with = "scalar")]
    pub linger: Duration,
}

impl Default for Relay {
    fn default() -> Self {
        Self { listen: Listen::OFF, hold: Duration::from_millis(250), queue: 8 << 20, linger: Duration::from_secs(5) }
    }
}

/// Section `cluster.control`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// TCP addresses of gRPC; origin worker i takes port + i ([`Listen::of_worker`]).
    pub listen: Listen,
}

/// Section `cluster.tls`: PEM files, all three or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificate of the cluster's own authority, the only one that peers are checked against.
    pub ca: String,
    /// Certificate of this host.
    pub cert: String,
    /// Private key of this host.
    pub key: String,
}

impl Tls {
    /// True when no file is named: the host is alone.
    pub fn is_off(&self) -> bool {
        self.ca.is_empty() && self.cert.is_empty() && self.key.is_empty()
    }
}
