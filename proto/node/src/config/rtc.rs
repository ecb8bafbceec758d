//! The sections `rtc`, and `rtc` of a vhost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::value::{Listen, scalar};

/// Section `rtc`: WebRTC at the origin workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtc {
    /// UDP addresses; origin worker i takes port + i ([`Listen::of_worker`]).
    pub listen: Listen,
    /// Also TCP connections to the same ports (RFC 6544), for clients whose networks let no UDP pass.
    pub tcp: bool,
    /// Addresses or names that clients are told, parted by commas; `*` for all of this host, `$NAME` for what a variable
    /// of the environment says.
    pub candidate: String,
    /// Also the host that a client's request names.
    pub api_as_candidates: bool,
    /// If that is a name: its addresses.
    pub resolve_api_domain: bool,
    /// If that is a name: the name itself.
    pub keep_api_domain: bool,
    /// Which of this host's addresses `*` means.
    pub ip_family: IpFamily,
    /// URLs of STUN and TURN servers that clients are told.
    pub ice_servers: Vec<String>,
    /// Sessions of one origin worker.
    #[serde(with = "scalar")]
    pub sessions: u32,
    /// A session that nothing was heard of for so long has ended.
    #[serde(with = "scalar")]
    pub stun_timeout: Duration,
}

impl Default for Rtc {
    fn default() -> Self {
        Self {
            listen: Listen::port(8000),
            tcp: false,
            candidate: "$CANDIDATE".to_owned(),
            api_as_candidates: true,
            resolve_api_domain: true,
            keep_api_domain: false,
            ip_family: IpFamily::Ipv4,
            ice_servers: Vec::new(),
            sessions: 10_000,
            stun_timeout: Duration::from_secs(30),
        }
    }
}

/// `rtc.ip_family`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 alone.
    #[default]
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both.
    All,
}

/// Section `rtc` of a vhost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VhostRtc {
    /// Off refuses its sessions.
    pub enabled: bool,
    /// What is published by RTMP can be played by WebRTC.
    pub rtmp_to_rtc: bool,
    /// What is published by WebRTC can be played by RTMP and HTTP-FLV.
    pub rtc_to_rtmp: bool,
    /// B-frames are sent too.
    pub keep_bframe: bool,
    /// How often a publisher is asked for a keyframe while its stream is played by RTMP; zero for when one is needed.
    #[serde(with = "scalar")]
    pub pli_for_rtmp: Duration,
    /// Bits a second of sound that is transcoded to Opus.
    #[serde(with = "scalar")]
    pub opus_bitrate: u32,
    /// Bits a second of sound that is transcoded to AAC.
    #[serde(with = "scalar")]
    pub aac_bitrate: u32,
}

impl Default for VhostRtc {
    fn default() -> Self {
        Self {
            enabled: true,
            rtmp_to_rtc: true,
            rtc_to_rtmp: true,
            keep_bframe: false,
            pli_for_rtmp: Duration::from_secs(6),
            opus_bitrate: 48_000,
            aac_bitrate: 48_000,
        }
    }
}
