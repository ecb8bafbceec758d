//! The sections `log`, `node`, `metrics`, `edge` and `origin`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::gateway::{Certificate, Https, Proxy, Rtmps};
use super::secret::Secret;
use super::value::{Auto, Listen, scalar};
use crate::access::Network;

const MIB: usize = 1 << 20;

/// Section `log`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// Shape of a line.
    pub format: LogFormat,
    /// File to append to; empty for standard error.
    pub file: String,
}

/// `log.level`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Every message of every connection.
    Trace,
    /// Decisions of the protocol machines.
    Debug,
    /// Streams, clients and workers that come and go.
    #[default]
    Info,
    /// What an operator should look at some time.
    Warn,
    /// What an operator should look at now.
    Error,
}

impl LogLevel {
    /// The word of the configuration, which is also a directive of tracing's filter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// `log.format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event and line.
    Json,
}

/// Section `node`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Name of this host in statistics and callbacks; empty for the host name
    /// ([`Config::node_name`](super::Config::node_name)).
    pub name: String,
    /// Directory of the unix sockets, mode 0700; empty for a default that depends on the user
    /// ([`Config::run_dir`](super::Config::run_dir)).
    pub run_dir: String,
}

/// Section `edge`: the workers that own TCP clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edge {
    /// Number of edge workers, 0..=256 ([`Config::edge_workers`](super::Config::edge_workers)).
    #[serde(with = "scalar")]
    pub workers: Auto<u32>,
    /// RTMP.
    pub rtmp: Rtmp,
    /// HTTP-FLV and the other HTTP outputs.
    pub http: Http,
    /// The HTTP API.
    pub api: Api,
    /// The same over TLS.
    pub https: Https,
    /// RTMP over TLS.
    pub rtmps: Rtmps,
    /// What clients over TLS are shown.
    pub tls: Vec<Certificate>,
    /// Other programs behind the HTTP ports.
    pub proxy: Proxy,
    /// Signaling.
    pub signal: Signal,
    /// Bytes that the fan-out logs of one worker may hold together.
    #[serde(with = "scalar")]
    pub log_memory: usize,
    /// Bytes that the GOPs and relay queues of one worker's publishers may hold together.
    #[serde(with = "scalar")]
    pub publish_memory: usize,
    /// TCP clients of one worker; further ones are refused.
    #[serde(with = "scalar")]
    pub connections: u32,
    /// How long a draining worker waits for its clients to leave.
    #[serde(with = "scalar")]
    pub drain_timeout: Duration,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            workers: Auto::Auto,
            rtmp: Rtmp::default(),
            http: Http::default(),
            api: Api::default(),
            https: Https::default(),
            rtmps: Rtmps::default(),
            tls: Vec::new(),
            proxy: Proxy::new(),
            signal: Signal::default(),
            log_memory: 512 * MIB,
            publish_memory: 256 * MIB,
            connections: 20_000,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Section `edge.rtmp`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtmp {
    /// TCP addresses.
    pub listen: Listen,
    /// Payload bytes of the chunks that weir sends, 128..=65536 (RTMP 1.0, 5.4.1).
    #[serde(with = "scalar")]
    pub chunk_size: u32,
    /// From accept to the end of the handshake.
    #[serde(with = "scalar")]
    pub handshake_timeout: Duration,
    /// From the handshake to publish or play, and again from one stream to the next.
    #[serde(with = "scalar")]
    pub request_timeout: Duration,
}

impl Default for Rtmp {
    fn default() -> Self {
        Self {
            listen: Listen::port(1935),
            chunk_size: 60_000,
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// Section `edge.http`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// TCP addresses.
    pub listen: Listen,
    /// From accept, or from the end of the last answer, to the end of a request's head.
    #[serde(with = "scalar")]
    pub header_timeout: Duration,
    /// Whether pages of other sites may play (`Access-Control-Allow-Origin`).
    pub cors: bool,
    /// Whether there are pages to publish and to watch with, here and on the API port.
    pub pages: bool,
    /// Proxies whose word of who asks (X-Forwarded-For) is taken.
    pub trusted_proxies: Vec<Network>,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: Listen::port(8080),
            header_timeout: Duration::from_secs(10),
            cors: true,
            pages: true,
            trusted_proxies: Vec::new(),
        }
    }
}

/// Section `edge.api`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// TCP addresses.
    pub listen: Listen,
    /// Who may ask, by HTTP's Basic scheme; without a password nobody may so.
    pub user: String,
    /// See `user`.
    pub password: Secret,
    /// Who sends it as a Bearer token may ask; empty: nobody may so.
    pub token: Secret,
    /// Whether the configuration can be read again by `/api/v1/raw?rpc=reload`.
    pub raw: bool,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: Listen::port(1985),
            user: "admin".to_owned(),
            password: Secret::default(),
            token: Secret::default(),
            raw: false,
        }
    }
}

/// Section `edge.signal`: rooms of WebRTC clients, over WebSocket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Signal {
    /// Whether there is signaling, here and on the ports of `edge.http` and `edge.api`.
    pub enabled: bool,
    /// TCP addresses.
    pub listen: Listen,
    /// Whether pages of other sites may connect.
    pub cross_origin: bool,
    /// How often a client is asked for a sign of life; one that gave none since the last time is closed.
    #[serde(with = "scalar")]
    pub ping: Duration,
    /// Connections of one address to one worker; 0: any number.
    #[serde(with = "scalar")]
    pub connections_per_ip: u32,
}

impl Default for Signal {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: Listen::port(1989),
            cross_origin: true,
            ping: Duration::from_secs(15),
            connections_per_ip: 500,
        }
    }
}

/// Section `metrics`: what Prometheus reads, answered by the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// TCP addresses.
    pub listen: Listen,
    /// Whether streams are told of one by one.
    pub per_stream: bool,
    /// Streams that are told of then, 1..=10000: the busiest.
    #[serde(with = "scalar")]
    pub per_stream_max: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Listen::port(9972), per_stream: false, per_stream_max: 200 }
    }
}

impl Metrics {
    /// How many streams are told of one by one.
    pub fn streams(&self) -> usize {
        if self.per_stream { self.per_stream_max as usize } else { 0 }
    }
}

/// Section `origin`: the workers that own streams.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Origin {
    /// Number of origin workers, 0..=64.
    #[serde(with = "scalar")]
    pub workers: u32,
    /// Bounds of the GOP cache of one stream.
    pub gop: Gop,
    /// Streams of one worker; further ones are refused.
    #[serde(with = "scalar")]
    pub streams: u32,
    /// Signaling rooms of one worker; further ones are refused.
    #[serde(with = "scalar")]
    pub rooms: u32,
    /// Members of one room; further ones are refused.
    #[serde(with = "scalar")]
    pub room_members: u32,
}

impl Default for Origin {
    fn default() -> Self {
        Self { workers: 1, gop: Gop::default(), streams: 10_000, rooms: 10_000, room_members: 50 }
    }
}

/// Section `origin.gop`: a GOP that passes one of these bounds is no longer cached, so players wait for the
/// next keyframe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gop {
    /// Bytes of all its frames.
    #[serde(with = "scalar")]
    pub bytes: usize,
    /// Audio and video frames.
    #[serde(with = "scalar")]
    pub frames: u32,
    /// Time from its first frame to its last.
    #[serde(with = "scalar")]
    pub duration: Duration,
}

impl Default for Gop {
    fn default() -> Self {
        Self { bytes: 32 * MIB, frames: 2_500, duration: Duration::from_secs(30) }
    }
}
