//! The section `vhosts`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::access::{Access, HttpHooks};
use super::rtc::VhostRtc;
use super::value::{Auto, scalar};

/// Name of the vhost that serves every host name that is not listed.
pub const DEFAULT_VHOST: &str = "__defaultVhost__";

/// One entry of `vhosts`. It inherits nothing from [`DEFAULT_VHOST`]: a key that is left out has its built-in
/// default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vhost {
    /// Off refuses its publishers and players.
    pub enabled: bool,
    /// Players.
    pub play: Play,
    /// Publishers.
    pub publish: Publish,
    /// HTTP-FLV players.
    pub http_flv: HttpFlv,
    /// WebRTC sessions.
    pub rtc: VhostRtc,
    /// Who may publish and play.
    pub access: Access,
    /// Whom to ask and to tell.
    pub http_hooks: HttpHooks,
}

impl Default for Vhost {
    fn default() -> Self {
        Self {
            enabled: true,
            play: Play::default(),
            publish: Publish::default(),
            http_flv: HttpFlv::default(),
            rtc: VhostRtc::default(),
            access: Access::default(),
            http_hooks: HttpHooks::default(),
        }
    }
}

/// Section `play` of a vhost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Play {
    /// Whether a new player begins with the current GOP instead of the next keyframe.
    pub gop_cache: bool,
    /// Merged write: time between two rounds of fan-out, 0s..=10s.
    #[serde(with = "scalar")]
    pub mw_latency: Auto<Duration>,
    /// Lag behind live at which a player skips to a newer keyframe.
    #[serde(with = "scalar")]
    pub queue_length: Duration,
    /// Lag behind live at which a player is closed; at least `queue_length`.
    #[serde(with = "scalar")]
    pub queue_close: Duration,
}

impl Default for Play {
    fn default() -> Self {
        Self {
            gop_cache: true,
            mw_latency: Auto::Auto,
            queue_length: Duration::from_secs(10),
            queue_close: Duration::from_secs(30),
        }
    }
}

/// Section `publish` of a vhost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Publish {
    /// How long a stream without its publisher keeps its players.
    #[serde(with = "scalar")]
    pub grace: Duration,
    /// What a second publisher of the same stream may do.
    pub takeover: Takeover,
    /// From the accepted publish to its first frame.
    #[serde(with = "scalar")]
    pub first_packet_timeout: Duration,
    /// Longest silence between two frames.
    #[serde(with = "scalar")]
    pub timeout: Duration,
}

impl Default for Publish {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(5),
            takeover: Takeover::Refuse,
            first_packet_timeout: Duration::from_secs(20),
            timeout: Duration::from_secs(10),
        }
    }
}

/// `publish.takeover` of a vhost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takeover {
    /// The first publisher stays, the second is refused.
    #[default]
    Refuse,
    /// The second publisher replaces the first.
    Replace,
    /// The second publisher replaces the first when both came with the same query string.
    SameKey,
}

/// Section `http_flv` of a vhost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpFlv {
    /// Off answers 404 to `/app/stream.flv`.
    pub enabled: bool,
    /// How long a request waits for a stream that is not published yet; zero answers 404 at once.
    #[serde(with = "scalar")]
    pub wait: Duration,
}

impl Default for HttpFlv {
    fn default() -> Self {
        Self { enabled: true, wait: Duration::from_secs(20) }
    }
}
