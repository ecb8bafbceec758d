//! The configuration: one YAML file, then environment variables, checked as a whole.
//!
//! [`Config`] holds plain values; every section and key has a default, and an unknown key is an error. The
//! supervisor loads it and hands it to its workers as JSON through serde, so a worker never reads the file.

mod access;
mod change;
mod check;
mod check_access;
mod cluster;
mod env;
mod error;
mod gateway;
mod load;
mod overload;
mod rtc;
mod secret;
mod sections;
mod suggest;
#[cfg(test)]
mod tests;
mod tree;
mod typed;
mod value;
mod vhost;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

pub use access::{Access, HttpHooks, Jwt, JwtAlgorithm, JwtKey, Limits, OnError, Rules};
pub use change::{Change, changes, shown};
pub use check::host_port;
pub use cluster::{Cluster, Control, Directory, Relay, Tls};
pub use env::{INTERNAL_PREFIX, LOG_VARIABLE};
pub use error::ConfigErrors;
pub use gateway::{Certificate, Https, Proxy, Rtmps};
pub use load::{DEFAULT_YAML, load};
pub use overload::{
    Connections, Disk, HostCpu, LoopLag, Memory, Nic, Overload, Redirect, Threshold, UdpDrops, WorkerCpu,
};
pub use rtc::{IpFamily, Rtc, VhostRtc};
pub use secret::Secret;
pub use sections::{Api, Edge, Gop, Http, Log, LogFormat, LogLevel, Metrics, Node, Origin, Rtmp, Signal};
pub use value::{Auto, LISTEN_MAX, Listen, Scalar};
pub use vhost::{DEFAULT_VHOST, HttpFlv, Play, Publish, Takeover, Vhost};

/// Most edge workers of a host.
pub const EDGE_WORKERS_MAX: u32 = 256;

/// Most origin workers of a host.
pub const ORIGIN_WORKERS_MAX: u32 = 64;

/// The whole configuration of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Logging of the supervisor and of every worker.
    pub log: Log,
    /// This host.
    pub node: Node,
    /// What Prometheus reads.
    pub metrics: Metrics,
    /// Workers that own TCP clients.
    pub edge: Edge,
    /// Workers that own streams.
    pub origin: Origin,
    /// When new clients are refused.
    pub overload: Overload,
    /// WebRTC.
    pub rtc: Rtc,
    /// Other hosts.
    pub cluster: Cluster,
    /// Virtual hosts by name.
    pub vhosts: BTreeMap<String, Vhost>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: Log::default(),
            node: Node::default(),
            metrics: Metrics::default(),
            edge: Edge::default(),
            origin: Origin::default(),
            overload: Overload::default(),
            rtc: Rtc::default(),
            cluster: Cluster::default(),
            vhosts: BTreeMap::from([(DEFAULT_VHOST.to_owned(), Vhost::default())]),
        }
    }
}

impl Config {
    /// The vhost that serves host name `name`, with its configured name: the listed one (host names know no
    /// case), else [`DEFAULT_VHOST`]. `None`: there is none, or it is disabled; the client is to be refused.
    pub fn vhost(&self, name: &str) -> Option<(&str, &Vhost)> {
        let listed = self.vhosts.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        let (name, vhost) = listed.or_else(|| self.vhosts.get_key_value(DEFAULT_VHOST))?;
        vhost.enabled.then_some((name.as_str(), vhost))
    }

    /// Number of edge workers, with `auto` resolved to one a core that this process may use.
    pub fn edge_workers(&self) -> u32 {
        let cores = || available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(EDGE_WORKERS_MAX));
        self.edge.workers.value().unwrap_or_else(cores).min(EDGE_WORKERS_MAX)
    }

    /// Directory of the unix sockets: `node.run_dir`, else `/run/weir` for root, `$XDG_RUNTIME_DIR/weir` for
    /// others, and without that variable `weir-UID` in the directory for temporary files.
    pub fn run_dir(&self) -> PathBuf {
        let user = nix::unistd::geteuid();
        if !self.node.run_dir.is_empty() {
            return PathBuf::from(&self.node.run_dir);
        }
        if user.is_root() {
            return PathBuf::from("/run/weir");
        }
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir).join("weir"),
            None => std::env::temp_dir().join(format!("weir-{user}")),
        }
    }

    /// Name of this host: `node.name`, else the kernel's host name.
    pub fn node_name(&self) -> String {
        if !self.node.name.is_empty() {
            return self.node.name.clone();
        }
        match std::fs::read_to_string("/proc/sys/kernel/hostname") {
            Ok(name) if !name.trim().is_empty() => name.trim().to_owned(),
            _ => "localhost".to_owned(),
        }
    }
}
