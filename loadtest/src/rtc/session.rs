//! A session from the offer to the keys: exchange, checks, handshake; then protected packets.

use std::net::SocketAddr;

use weir_wire::rtp::Header;
use weir_wire::srtp::{Protect, Unprotect};
use weir_wire::stun;

use super::dtls::Handshake;
use super::ice::{Agent, Credentials};
use super::janus::Janus;
use super::sdp::{Answer, Local, Types};
use super::signal::Signal;
use super::{Error, Identity};
use crate::net::{Reason, Wire};
use crate::target::{Scheme, Target};

/// What all sessions of a run have in common.
pub(super) struct Common {
    /// Certificate and keys.
    pub(super) identity: Identity,
    /// Where they go.
    pub(super) target: Target,
    /// Sends media there, whatever the answer says.
    pub(super) candidate: Option<SocketAddr>,
}

/// How far a session is.
#[expect(clippy::large_enum_variant, reason = "one for each session, most of them in the last state")]
enum Stage {
    /// Nothing was said.
    New,
    /// The offer was sent.
    Offered { signal: Offering, own: Credentials, candidate: SocketAddr },
    /// The server is known.
    Checking(Path),
    /// It is reached.
    Shaking(Path, Handshake),
    /// Packets may be sent.
    Open { path: Path, handshake: Handshake, protect: Protect, unprotect: Unprotect },
}

/// Who offers.
enum Offering {
    /// This end.
    Ours(Signal),
    /// The server.
    Janus(Janus),
}

/// The way to the server, and what is spoken on it.
struct Path {
    agent: Agent,
    fingerprint: String,
    peer: SocketAddr,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing for the load.
    Nothing,
    /// The session is open.
    Opened,
    /// An RTP packet, decrypted where it lies: header, length, and sequence number beyond 16 bits.
    Rtp(Header, usize, u64),
    /// A compound RTCP packet of that length.
    Rtcp(usize),
}

/// One session.
pub(super) struct Session {
    stage: Stage,
    number: usize,
    /// Of sound, picture and repeated pictures; a publisher's.
    sources: Option<[u32; 3]>,
    /// Accepted by the server.
    pub(super) audio: Option<Types>,
    /// Accepted by the server.
    pub(super) video: Option<Types>,
    /// Packets that were not what they should be.
    pub(super) bad: u64,
}

impl Session {
    /// A session for stream `number`, of a publisher if it has `sources`.
    pub(super) fn new(number: usize, sources: Option<[u32; 3]>) -> Self {
        Self { stage: Stage::New, number, sources, audio: None, video: None, bad: 0 }
    }

    /// TCP is connected: sends the offer.
    ///
    /// # Errors
    /// It cannot be sent.
    pub(super) fn connected(&mut self, common: &Common, wire: &mut Wire) -> Result<(), Reason> {
        let own = Credentials::random()?;
        let candidate = wire.open_datagrams().map_err(Reason::Connect)?;
        let signal = if common.target.scheme == Scheme::Janus {
            Offering::Janus(Janus::start(&common.target, self.number, wire)?)
        } else {
            let offer = self.local(common, &own, candidate).offer();
            Offering::Ours(Signal::offer(&common.target, self.number, self.sources.is_some(), &offer, wire)?)
        };
        self.stage = Stage::Offered { signal, own, candidate };
        Ok(())
    }

    fn local<'a>(&self, common: &'a Common, credentials: &'a Credentials, candidate: SocketAddr) -> Local<'a> {
        Local { credentials, fingerprint: &common.identity.fingerprint, candidate, sources: self.sources }
    }

    /// Bytes of the response came.
    ///
    /// # Errors
    /// The server refused, or its answer is of no use.
    pub(super) fn received(&mut self, common: &Common, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<(), Reason> {
        let Stage::Offered { signal, own, candidate } = &mut self.stage else {
            wire.hang_up();
            return Ok(());
        };
        let (answer, controlling) = match signal {
            Offering::Ours(signal) => match signal.received(bytes)? {
                Some(text) => (Answer::parse(&text)?, true),
                None => return Ok(()),
            },
            Offering::Janus(janus) => match janus.received(wire, bytes)? {
                Some(text) => {
                    let offer = Answer::parse(&text)?;
                    let fingerprint = &common.identity.fingerprint;
                    let local = Local { credentials: own, fingerprint, candidate: *candidate, sources: None };
                    janus.answer(&local.answer(&offer), wire)?;
                    (offer, false)
                }
                None => return Ok(()),
            },
        };
        let api = common.target.address;
        // Of several candidates the one at the API's own address is the surest.
        let near = || answer.candidates.iter().find(|found| found.ip() == api.ip());
        let same = || answer.candidates.iter().find(|found| found.is_ipv4() == api.is_ipv4());
        let chosen = common.candidate.or_else(|| near().or_else(same).copied());
        let peer = chosen.ok_or(Error::Answer("candidate of the API's address family"))?;
        wire.aim(peer).map_err(Reason::Connect)?;
        // Janus acknowledges the answer first.
        if controlling {
            wire.hang_up();
        }
        (self.audio, self.video) = (answer.audio, answer.video);
        let mut agent = Agent::new(std::mem::take(own), answer.credentials, controlling, now);
        agent.tick(&common.identity, wire, now)?;
        self.stage = Stage::Checking(Path { agent, fingerprint: answer.fingerprint, peer });
        Ok(())
    }

    /// A datagram came.
    ///
    /// # Errors
    /// The session is over.
    pub(super) fn datagram(
        &mut self,
        common: &Common,
        wire: &mut Wire,
        now: u64,
        bytes: &mut [u8],
    ) -> Result<Event, Reason> {
        match bytes.first() {
            // RFC 7983 7: STUN, DTLS, and RTP or RTCP.
            Some(_) if stun::is_stun(bytes) => self.stun(common, wire, now, bytes),
            Some(20..=63) => self.dtls(wire, bytes),
            Some(128..=191) => Ok(self.media(bytes)),
            _ => {
                self.bad += 1;
                Ok(Event::Nothing)
            }
        }
    }

    fn stun(&mut self, common: &Common, wire: &mut Wire, now: u64, bytes: &[u8]) -> Result<Event, Reason> {
        let path = match &mut self.stage {
            Stage::Checking(path) | Stage::Shaking(path, _) | Stage::Open { path, .. } => path,
            Stage::New | Stage::Offered { .. } => return Ok(Event::Nothing),
        };
        if path.agent.datagram(&common.identity, wire, now, bytes, path.peer)?
            && let Stage::Checking(path) = std::mem::replace(&mut self.stage, Stage::New)
        {
            let handshake = Handshake::start(&common.identity, path.peer, path.fingerprint.clone(), wire)?;
            self.stage = Stage::Shaking(path, handshake);
        }
        Ok(Event::Nothing)
    }

    fn dtls(&mut self, wire: &mut Wire, bytes: &[u8]) -> Result<Event, Reason> {
        let (Stage::Shaking(_, handshake) | Stage::Open { handshake, .. }) = &mut self.stage else {
            return Ok(Event::Nothing);
        };
        let Some((protect, unprotect)) = handshake.datagram(wire, bytes)? else { return Ok(Event::Nothing) };
        if let Stage::Shaking(path, handshake) = std::mem::replace(&mut self.stage, Stage::New) {
            self.stage = Stage::Open { path, handshake, protect, unprotect };
        }
        Ok(Event::Opened)
    }

    fn media(&mut self, bytes: &mut [u8]) -> Event {
        // What the server sends before its last flight has come is lost to us.
        let Stage::Open { unprotect, .. } = &mut self.stage else { return Event::Nothing };
        // RFC 5761 4: RTCP's types are those of RTP with the marker bit that nobody uses.
        let event = if bytes.get(1).is_some_and(|kind| (192..=223).contains(kind)) {
            unprotect.rtcp(bytes).map(Event::Rtcp).ok()
        } else {
            let header = Header::parse(bytes).ok();
            header.and_then(|header| {
                unprotect.rtp(&header, bytes).map(|(length, index)| Event::Rtp(header, length, index)).ok()
            })
        };
        event.unwrap_or_else(|| {
            self.bad += 1;
            Event::Nothing
        })
    }

    /// Does what is due; to be called every 20 ms or so.
    ///
    /// # Errors
    /// The session is over.
    pub(super) fn tick(&mut self, common: &Common, wire: &mut Wire, now: u64) -> Result<(), Reason> {
        match &mut self.stage {
            Stage::New | Stage::Offered { .. } => Ok(()),
            Stage::Checking(path) | Stage::Open { path, .. } => path.agent.tick(&common.identity, wire, now),
            Stage::Shaking(path, handshake) => {
                path.agent.tick(&common.identity, wire, now)?;
                handshake.tick(wire)
            }
        }
    }

    /// What protects outgoing packets, once the session is open.
    pub(super) fn protect(&mut self) -> Option<&mut Protect> {
        match &mut self.stage {
            Stage::Open { protect, .. } => Some(protect),
            _ => None,
        }
    }

    /// Sends a compound RTCP packet, if the session is open.
    ///
    /// # Errors
    /// Nobody is there any more.
    pub(super) fn send_rtcp(&mut self, wire: &mut Wire, packet: &mut Vec<u8>) -> Result<(), Reason> {
        let Some(protect) = self.protect() else { return Ok(()) };
        protect.rtcp(packet).map_err(Error::from)?;
        wire.send_datagram(packet)
    }

    /// Says goodbye.
    pub(super) fn close(&mut self, wire: &mut Wire) {
        if let Stage::Shaking(_, handshake) | Stage::Open { handshake, .. } = &mut self.stage {
            handshake.close(wire);
        }
    }
}
