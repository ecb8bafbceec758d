//! One peer: its addresses, its keys, and what it does here.

use std::time::{Duration, Instant};

use weir_node::hooks::Farewell;
use weir_node::lately::Lately;
use weir_wire::srtp::{Protect, Unprotect};
use weir_wire::stun::Password;

use super::dtls::Dtls;
use super::path::Paths;
use super::player::Player;
use super::publisher::Publisher;

/// How long a peer may take from its offer to the end of the handshake.
const START_WITHIN: Duration = Duration::from_secs(30);

/// What a session does.
pub(crate) enum Role {
    Publisher(Publisher),
    Player(Player),
}

/// The certificate that the offer announces (RFC 8122).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) algorithm: &'static aws_lc_rs::digest::Algorithm,
    pub(crate) digest: Vec<u8>,
}

impl Fingerprint {
    /// Whether this is of a certificate, in DER.
    pub(crate) fn fits(&self, certificate: &[u8]) -> bool {
        aws_lc_rs::digest::digest(self.algorithm, certificate).as_ref() == self.digest
    }
}

/// Both halves of the session's keys.
pub(crate) struct Keys {
    pub(crate) protect: Protect,
    pub(crate) unprotect: Unprotect,
}

/// See the module.
pub(crate) struct Session {
    /// Counts all sessions of this process; set by the state.
    pub(crate) number: u64,
    /// Names the session: this end's user name fragment and the peer's.
    pub(crate) ufrag: String,
    pub(crate) remote_ufrag: String,
    pub(crate) password: Password,
    /// What ends the session by HTTP.
    pub(crate) token: String,
    pub(crate) fingerprint: Fingerprint,
    /// Index of the stream.
    pub(crate) stream: usize,
    pub(crate) paths: Paths,
    pub(crate) dtls: Option<Dtls>,
    pub(crate) keys: Option<Keys>,
    pub(crate) role: Role,
    pub(crate) opened: Instant,
    /// Media or its feedback came: the peer has the keys.
    pub(crate) proven: bool,
    /// The last packet that was proven to be the peer's.
    pub(crate) heard: Instant,
    /// Packets that were not.
    pub(crate) forged: u64,
    /// How its bytes grew.
    pub(crate) lately: Lately,
    /// What is waited for; in the timers under this time.
    pub(crate) armed: Option<Instant>,
    /// Tells callbacks when the session is gone.
    pub(crate) farewell: Option<Farewell>,
}

impl Session {
    /// `ufrag:ufrag`, as SRS names sessions.
    pub(crate) fn id(&self) -> String {
        format!("{}:{}", self.ufrag, self.remote_ufrag)
    }

    /// When it is given up if nothing is heard.
    pub(crate) fn gives_up(&self, silent_for: Duration) -> Instant {
        if self.keys.is_some() { self.heard + silent_for } else { self.opened + START_WITHIN }
    }

    /// The next time that something is due.
    pub(crate) fn deadline(&self, silent_for: Duration) -> Instant {
        let mut at = self.gives_up(silent_for);
        if let Some(due) = self.dtls.as_ref().and_then(Dtls::deadline) {
            at = at.min(due);
        }
        if self.keys.is_some() {
            at = at.min(match &self.role {
                Role::Publisher(publisher) => publisher.deadline(),
                Role::Player(player) => player.deadline(),
            });
        }
        at
    }

    /// Bytes of media from it, and to it.
    pub(crate) fn moved(&self) -> (u64, u64) {
        match &self.role {
            Role::Publisher(publisher) => (publisher.quality.bytes, 0),
            Role::Player(player) => (0, player.lanes.iter().map(|lane| lane.bytes).sum()),
        }
    }

    /// `rtc-publish` or `rtc-play`, as SRS's API says.
    pub(crate) fn kind(&self) -> &'static str {
        match self.role {
            Role::Publisher(_) => "rtc-publish",
            Role::Player(_) => "rtc-play",
        }
    }
}
