use core::fmt;
use core::net::Ipv4Addr;

use bytes::Bytes;
use weir_media::Kind;

/// What happened on a connection. After `Connect`, `Publish` and `Play` the machine waits for the shell's answer and
/// reads nothing further; media follows an accepted `Publish` only.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The client connects to an application; answer with one of the connect calls.
    Connect(Box<ConnectRequest>),
    /// The client wants to publish; answer with one of the publish calls.
    Publish(Box<StreamRequest>),
    /// The client wants to play; answer with one of the play calls.
    Play(Box<StreamRequest>),
    /// A message of the publisher.
    Media {
        /// What it is.
        kind: Kind,
        /// Milliseconds modulo 2^32, as sent.
        timestamp: u32,
        /// FLV tag body. For data, what follows `@setDataFrame`.
        body: Bytes,
    },
    /// The publisher stopped; it may publish again.
    Unpublish,
    /// The player stopped; it may play again.
    StopPlay,
    /// The player pauses (`true`) or goes on.
    Pause(bool),
    /// The player does not want, or wants again, audio or video.
    Receive {
        /// `Audio` or `Video`.
        kind: Kind,
        /// Whether it wants it.
        on: bool,
    },
    /// Nothing will be read any more: send what `poll` gave and close the connection. The text says why.
    Close(String),
}

/// The `connect` command. Its query, and the URLs, may carry secrets: `Debug` leaves queries out.
#[derive(Clone, PartialEq)]
pub struct ConnectRequest {
    /// The virtual host as requested: from the query, else the host of `tc_url`; empty if neither names one.
    pub vhost: String,
    /// The application, decoded, without its query. Empty if the client gave none.
    pub app: String,
    /// The query of the application or of `tc_url`, without the question mark.
    pub query: String,
    /// `tcUrl` as sent.
    pub tc_url: String,
    /// `flashVer` as sent.
    pub flash_ver: String,
    /// `pageUrl` as sent.
    pub page_url: String,
    /// `swfUrl` as sent.
    pub swf_url: String,
    /// 0 or 3. The answer always says 0, so commands come in AMF0 afterwards.
    pub object_encoding: u8,
    /// What an Enhanced RTMP client said about itself.
    pub enhanced: Enhanced,
    /// The client's address as a trusted proxy gave it.
    pub client: Option<Ipv4Addr>,
}

/// The Enhanced RTMP v2 properties of `connect`; `None` where the client did not send one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Enhanced {
    /// `fourCcList`.
    pub four_cc_list: Option<Vec<String>>,
    /// `videoFourCcInfoMap`: codec and bits of decode (1), encode (2), forward (4).
    pub video: Option<Vec<(String, u32)>>,
    /// `audioFourCcInfoMap`.
    pub audio: Option<Vec<(String, u32)>>,
    /// `capsEx`: bits of reconnect (1), multitrack (2), ModEx (4), nanosecond offsets (8).
    pub caps_ex: Option<u32>,
}

/// Bits of a codec in `audioFourCcInfoMap` that say that the client takes it: it decodes, or forwards.
const TAKES: u32 = 1 | 4;

impl Enhanced {
    /// Whether the client said that it takes sound in a codec, by its FourCC or by `*`.
    pub fn takes_audio(&self, four_cc: &str) -> bool {
        let named = |name: &str| name == four_cc || name == "*";
        let listed = self.four_cc_list.iter().flatten().any(|name| named(name));
        self.audio.as_ref().map_or(listed, |map| map.iter().any(|(name, bits)| named(name) && bits & TAKES != 0))
    }
}

/// A publish or play command. `Debug` leaves the query out, as it may carry a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamRequest {
    /// The virtual host as requested; empty if the client named none.
    pub vhost: String,
    /// The application, decoded; never empty.
    pub app: String,
    /// The stream, decoded; never empty, without slashes.
    pub stream: String,
    /// The queries of `connect` and of the stream, joined, without a question mark.
    pub query: String,
}

/// Why a publish is refused: the code of the status message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishRefusal {
    /// The stream is busy, or its name is not acceptable.
    BadName,
    /// The client may not publish here.
    Denied,
    /// Something failed on our side.
    Failed,
}

/// Why a play is refused: the code of the status message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlayRefusal {
    /// There is no such stream, or its name is not acceptable.
    StreamNotFound,
    /// The client may not play it, or something failed.
    Failed,
}

impl PublishRefusal {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::BadName => "NetStream.Publish.BadName",
            Self::Denied => "NetStream.Publish.Denied",
            Self::Failed => "NetStream.Publish.Failed",
        }
    }
}

impl PlayRefusal {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::StreamNotFound => "NetStream.Play.StreamNotFound",
            Self::Failed => "NetStream.Play.Failed",
        }
    }
}

/// A URL without what may be secret.
fn redact(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("vhost", &self.vhost)
            .field("app", &self.app)
            .field("tc_url", &redact(&self.tc_url))
            .field("flash_ver", &self.flash_ver)
            .field("page_url", &redact(&self.page_url))
            .field("swf_url", &redact(&self.swf_url))
            .field("object_encoding", &self.object_encoding)
            .field("enhanced", &self.enhanced)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for StreamRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamRequest")
            .field("vhost", &self.vhost)
            .field("app", &self.app)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
