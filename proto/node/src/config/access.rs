//! The sections `access` and `http_hooks` of a vhost.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secret::Secret;
use super::value::scalar;
use crate::access::Network;

/// Section `access` of a vhost: who may publish and play.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Publishers.
    pub publish: Rules,
    /// Players.
    pub play: Rules,
    /// Secrets of signed addresses, by their ids.
    pub sign_keys: BTreeMap<String, Secret>,
    /// Tokens of somebody else.
    pub jwt: Jwt,
    /// How many.
    pub limits: Limits,
}

/// Sections `access.publish` and `access.play`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Addresses that may; empty for all.
    pub allow: Vec<Network>,
    /// Addresses that may not, whatever `allow` says.
    pub deny: Vec<Network>,
    /// Hosts of pages that a client may be in, with the names below them; empty for all, and for none.
    pub referer: Vec<String>,
    /// Whether a signed address or a JWT is needed.
    pub token: bool,
}

/// Section `access.jwt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jwt {
    /// Keys that are known from the start.
    pub keys: Vec<JwtKey>,
    /// File or URL of a set of public keys (RFC 7517); empty for none.
    pub jwks: String,
    /// The shortest time between two fetches of it.
    #[serde(with = "scalar")]
    pub refresh: Duration,
    /// What `iss` has to be; empty for whatever it is.
    pub issuer: String,
    /// What `aud` has to name; empty for tokens without one.
    pub audience: String,
    /// How far the clocks may differ.
    #[serde(with = "scalar")]
    pub leeway: Duration,
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            jwks: String::new(),
            refresh: Duration::from_secs(30),
            issuer: String::new(),
            audience: String::new(),
            leeway: Duration::from_secs(5),
        }
    }
}

/// One entry of `access.jwt.keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtKey {
    /// Its id; a token without one is by the only key there is.
    pub kid: String,
    /// The one algorithm that it is used with.
    pub alg: JwtAlgorithm,
    /// The secret of HS256, HS384 and HS512.
    #[serde(default)]
    pub secret: Secret,
    /// PEM file of the public key of the others.
    #[serde(default)]
    pub file: String,
}

/// `alg` of a key (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl JwtAlgorithm {
    /// Whether its key is a shared secret.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

/// Section `access.limits`: counted by each edge worker for itself; 0 is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Publishers of one address.
    #[serde(with = "scalar")]
    pub publishers_per_ip: u32,
    /// Players of one address.
    #[serde(with = "scalar")]
    pub players_per_ip: u32,
    /// Players of one stream.
    #[serde(with = "scalar")]
    pub players_per_stream: u32,
}

/// Section `http_hooks` of a vhost: whom to ask and to tell, by URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpHooks {
    /// Asked before the first publish or play of an RTMP connection.
    pub on_connect: Vec<String>,
    /// Told of the end of a connection that on_connect was asked about.
    pub on_close: Vec<String>,
    /// Asked before a publish.
    pub on_publish: Vec<String>,
    /// Told of its end.
    pub on_unpublish: Vec<String>,
    /// Asked before a play.
    pub on_play: Vec<String>,
    /// Told of its end.
    pub on_stop: Vec<String>,
    /// What no answer means.
    pub on_error: OnError,
    /// From the name to the connection, TLS included.
    #[serde(with = "scalar")]
    pub connect_timeout: Duration,
    /// From the question to the whole answer, of each URL.
    #[serde(with = "scalar")]
    pub timeout: Duration,
    /// How often a notice is tried again that found nobody.
    #[serde(with = "scalar")]
    pub retries: u32,
    /// Questions on their way at once; the others wait within their timeout.
    #[serde(with = "scalar")]
    pub in_flight: u32,
    /// Notices that wait; past that the oldest is dropped.
    #[serde(with = "scalar")]
    pub waiting: u32,
    /// Whether URLs may lead to link-local addresses, where clouds keep their metadata.
    pub link_local: bool,
}

impl Default for HttpHooks {
    fn default() -> Self {
        Self {
            on_connect: Vec::new(),
            on_close: Vec::new(),
            on_publish: Vec::new(),
            on_unpublish: Vec::new(),
            on_play: Vec::new(),
            on_stop: Vec::new(),
            on_error: OnError::Refuse,
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(10),
            retries: 3,
            in_flight: 64,
            waiting: 1000,
            link_local: false,
        }
    }
}

/// `http_hooks.on_error` of a vhost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Who cannot be asked about is refused.
    #[default]
    Refuse,
    /// Who cannot be asked about is let in.
    Allow,
}
