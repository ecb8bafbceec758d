//! WebRTC: many light peers on the one epoll, each with a UDP socket of its own.
//!
//! A peer is what a browser is to a server: it offers by HTTP, checks connectivity (RFC 8445, with one candidate), shakes
//! hands by DTLS as the client, and exchanges SRTP, with reports, repeated packets and requests for keyframes.

mod dtls;
pub(crate) mod floor;
mod ice;
mod janus;
mod packets;
mod picture;
pub(crate) mod play;
pub(crate) mod publish;
mod receive;
mod rtcp;
mod sdp;
mod session;
mod signal;

use weir_wire::srtp;

pub(crate) use dtls::Identity;

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// SRS's API says so in its body.
    #[error("refused with code {code}: {reason}")]
    Refused {
        /// Not 0.
        code: i64,
        /// Why, if the server says.
        reason: String,
    },
    /// What the answer lacks.
    #[error("the answer has no {0}")]
    Answer(&'static str),
    /// Longer than any answer is.
    #[error("the answer is longer than {} bytes", signal::ANSWER_MAX)]
    AnswerTooLong,
    /// STUN could not be written.
    #[error("STUN: {0}")]
    Stun(String),
    /// The server knows another password, or says that it does.
    #[error("the connectivity check was answered with an error")]
    CheckRefused,
    /// The handshake failed.
    #[error("DTLS: {0}")]
    Dtls(String),
    /// The server's certificate is not the one that its answer names.
    #[error("the certificate has another fingerprint than the answer")]
    Fingerprint,
    /// Keys that cannot be used.
    #[error("SRTP: {0}")]
    Srtp(#[from] srtp::Error),
    /// The server said goodbye.
    #[error("the server ended the session")]
    Ended,
    /// It does not answer connectivity checks any more (RFC 7675).
    #[error("the server has not answered for {0} s")]
    Silent(u64),
}
