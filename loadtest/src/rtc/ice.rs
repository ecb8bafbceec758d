//! Connectivity checks of a full agent with one candidate against one of the server's (RFC 8445, RFC 7675).

use rtc::stun::attributes::{
    ATTR_ICE_CONTROLLED, ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME,
};
use rtc::stun::fingerprint::FINGERPRINT;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, Message, Setter, TransactionId};
use weir_wire::stun::{Check, Password};

use super::{Error, Identity};
use crate::clock::{MILLISECOND, SECOND};
use crate::net::{Reason, Wire};

/// Until the first check is answered it is repeated so often.
const CHECK_EVERY: u64 = 100 * MILLISECOND;
/// Afterwards consent is asked for so often (RFC 7675 5.1).
const CONSENT_EVERY: u64 = 5 * SECOND;
/// Without an answer for so long there is none any more (RFC 7675 5.1).
const CONSENT_LASTS: u64 = 30 * SECOND;
/// Of a peer-reflexive candidate, the first of its component (RFC 8445 5.1.2.1).
const PRIORITY: u32 = 110 << 24 | 65_535 << 8 | 255;

/// User name fragment and password of one end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Credentials {
    /// `a=ice-ufrag`.
    pub(super) ufrag: String,
    /// `a=ice-pwd`.
    pub(super) password: String,
}

impl Credentials {
    /// New ones.
    ///
    /// # Errors
    /// There are no random numbers.
    pub(super) fn random() -> Result<Self, Error> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Error::Stun("no random numbers".to_owned()))?;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let (ufrag, _) = hex.split_at(8);
        Ok(Self { ufrag: ufrag.to_owned(), password: hex })
    }
}

/// The agent.
pub(super) struct Agent {
    own: Credentials,
    own_key: Password,
    peer: Credentials,
    /// Identifier of the newest check.
    transaction: TransactionId,
    next: u64,
    /// When the newest check was answered.
    answered: Option<u64>,
    started: u64,
    /// Chooses the way; else the server does (RFC 8445 6.1.1: who offers does, and a full agent where the other is lite).
    controlling: bool,
}

impl Agent {
    /// Begins to check at the next [`tick`](Self::tick).
    pub(super) fn new(own: Credentials, peer: Credentials, controlling: bool, now: u64) -> Self {
        let own_key = Password::new(&own.password);
        Self {
            own,
            own_key,
            peer,
            transaction: TransactionId::new(),
            next: now,
            answered: None,
            started: now,
            controlling,
        }
    }

    /// Whether media may be sent.
    pub(super) fn connected(&self) -> bool {
        self.answered.is_some()
    }

    /// Sends what is due.
    ///
    /// # Errors
    /// There is no consent any more, or nobody is there.
    pub(super) fn tick(&mut self, identity: &Identity, wire: &mut Wire, now: u64) -> Result<(), Reason> {
        if now < self.next {
            return Ok(());
        }
        if now.saturating_sub(self.answered.unwrap_or(self.started)) > CONSENT_LASTS {
            return Err(Error::Silent(CONSENT_LASTS / SECOND).into());
        }
        self.next = now + if self.connected() { CONSENT_EVERY } else { CHECK_EVERY };
        let request = self.request(identity).map_err(|error| Error::Stun(error.to_string()))?;
        wire.send_datagram(&request)
    }

    fn request(&mut self, identity: &Identity) -> rtc::shared::error::Result<Vec<u8>> {
        // A check that is repeated keeps its identifier, so that a late answer counts.
        if self.connected() {
            self.transaction = TransactionId::new();
        }
        let mut message = Message::new();
        message.typ = BINDING_REQUEST;
        message.transaction_id = self.transaction;
        message.write_header();
        message.add(ATTR_USERNAME, format!("{}:{}", self.peer.ufrag, self.own.ufrag).as_bytes());
        message.add(ATTR_PRIORITY, &PRIORITY.to_be_bytes());
        let tie = self.transaction.0.first_chunk::<8>().copied().unwrap_or_default();
        if self.controlling {
            message.add(ATTR_ICE_CONTROLLING, &tie);
            message.add(ATTR_USE_CANDIDATE, &[]);
        } else {
            message.add(ATTR_ICE_CONTROLLED, &tie);
        }
        let crypto = identity.provider().crypto();
        MessageIntegrity::new_short_term_integrity_with_provider(self.peer.password.clone(), crypto)
            .add_to(&mut message)?;
        FINGERPRINT.add_to(&mut message)?;
        Ok(message.raw)
    }

    /// A STUN message came. True if it is the answer that opens the way.
    ///
    /// # Errors
    /// The server refused the check, or nobody is there.
    pub(super) fn datagram(
        &mut self,
        identity: &Identity,
        wire: &mut Wire,
        now: u64,
        bytes: &[u8],
        peer: std::net::SocketAddr,
    ) -> Result<bool, Reason> {
        // The check of a server that is a full agent.
        if let Ok(check) = Check::parse(bytes) {
            if check.local == self.own.ufrag.as_bytes() && check.verify(&self.own_key) {
                wire.send_datagram(&check.success(peer, &self.own_key))?;
            }
            return Ok(false);
        }
        let mut message = Message::new();
        if message.unmarshal_binary(bytes).is_err() || message.transaction_id != self.transaction {
            return Ok(false);
        }
        let key = self.peer.password.as_bytes();
        if message.typ == BINDING_ERROR {
            return Err(Error::CheckRefused.into());
        }
        if message.typ != BINDING_SUCCESS
            || MessageIntegrity::check(&mut message, key, identity.provider().crypto()).is_err()
        {
            return Ok(false);
        }
        let first = !self.connected();
        self.answered = Some(now);
        if first {
            self.next = now + CONSENT_EVERY;
        }
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_believed_by_who_knows_the_password() {
        let identity = Identity::new().unwrap();
        let [own, peer] = [(); 2].map(|()| Credentials::random().unwrap());
        let mut agent = Agent::new(own.clone(), peer.clone(), true, 0);
        let request = agent.request(&identity).unwrap();
        let check = Check::parse(&request).unwrap();
        assert_eq!((check.local, check.remote), (peer.ufrag.as_bytes(), own.ufrag.as_bytes()));
        assert!(check.verify(&Password::new(&peer.password)) && !check.verify(&Password::new(&own.password)));
        assert!(check.use_candidate && !check.controlled);
        let again = agent.request(&identity).unwrap();
        assert_eq!(Check::parse(&again).unwrap().transaction, check.transaction);
    }
}
