//! DTLS of one peer, on top of the webrtc project's endpoint.
//!
//! What that leaves to its caller is done here. It takes the first protection profile that the client names, so the
//! configuration is chosen by what the whole ClientHello offers. It takes the first part of a message for a repetition of
//! the one before, so messages are joined before it sees them, and bounded. A repetition of what it has answered silences its timer, and
//! it gives up after seven; so repetitions do not reach it, and its flights are sent again from here.

mod records;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::crypto::providers::AwsLcRsProvider;
use rtc::crypto::{HashAlgorithm, RTCCryptoProvider};
use rtc::dtls::config::{ClientAuthType, ConfigBuilder, HandshakeConfig};
use rtc::dtls::crypto::Certificate;
use rtc::dtls::endpoint::{Endpoint, EndpointEvent};
use rtc::dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc::dtls::state::State;
use rtc::shared::TransportProtocol;
use weir_wire::srtp::{self, Profile};

use records::Joiner;

/// The endpoint keeps peers apart by address. Here it has one, whatever path that comes over.
const PEER: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1));
const LOCAL: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 1));

/// The longest datagram that is put together.
const DATAGRAM: usize = 1200;

/// How long an answer is waited for before a flight is sent again; each time twice as long, up to the second one.
const FLIGHT: Duration = Duration::from_millis(100);
const FLIGHT_MAX: Duration = Duration::from_secs(2);

/// A repeated flight is answered with the repeated answer, but not oftener than this, nor for ever: a peer's address
/// may be forged.
const REPEAT: Duration = Duration::from_millis(20);
const REPEATS_MAX: u32 = 60;

/// Messages of a client before its ChangeCipherSpec: two ClientHellos, Certificate, ClientKeyExchange and
/// CertificateVerify (RFC 6347 4.2.4); and records behind them that wait for these.
const CLIENT_MESSAGES: u16 = 5;
const HELD_MAX: usize = 8;

/// Content type of an alert.
const ALERT: u8 = 21;

/// The endpoint's own timer is never asked.
const NEVER: Duration = Duration::from_secs(3600);

/// What a handshake may take of a peer: bytes of all datagrams. The largest honest one, with a post-quantum
/// ClientHello and an RSA chain, some of it sent thrice, takes 20 KiB.
const HANDSHAKE_MAX: usize = 64 * 1024;

/// Why a handshake or connection failed. The session ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("DTLS: {0}")]
    Endpoint(#[from] rtc::shared::error::Error),
    #[error("DTLS: the handshake takes too many bytes")]
    TooLong,
    #[error("DTLS: {0}")]
    Records(#[from] records::Malformed),
    #[error("DTLS: no certificate")]
    NoCertificate,
    #[error("DTLS: no common protection profile")]
    NoProfile,
    #[error("DTLS: {0}")]
    Srtp(#[from] srtp::Error),
}

/// The certificate of this process, and what follows from it.
pub(crate) struct Identity {
    fingerprint: [u8; 32],
    /// By what the client offers.
    gcm: Arc<HandshakeConfig>,
    cm: Arc<HandshakeConfig>,
    client: Arc<HandshakeConfig>,
    provider: Arc<dyn RTCCryptoProvider>,
}

impl Identity {
    /// Makes a self-signed certificate on P-256.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let provider: Arc<dyn RTCCryptoProvider> = Arc::new(AwsLcRsProvider::new());
        let certificate = Certificate::generate_self_signed(vec!["weir".to_owned()], provider.crypto())?;
        let der = certificate.certificate.first().ok_or(Failed::NoCertificate)?;
        let fingerprint = provider.crypto().hash(HashAlgorithm::Sha256, der.as_ref())?;
        let config = |profiles: &[SrtpProtectionProfile], client: bool| {
            let config = ConfigBuilder::default()
                .with_crypto_provider(provider.clone())
                .with_certificates(vec![certificate.clone()])
                .with_srtp_protection_profiles(profiles.to_vec())
                .with_client_auth(ClientAuthType::RequireAnyClientCert)
                // Certificates are self-signed and checked by the fingerprint of the offer (RFC 8122).
                .with_insecure_skip_verify(true)
                .with_flight_interval(NEVER);
            config.build(client, None).map(Arc::new)
        };
        let (gcm, cm) =
            (SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm, SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80);
        Ok(Self {
            fingerprint: fingerprint.as_slice().try_into()?,
            gcm: config(&[gcm], false)?,
            cm: config(&[cm], false)?,
            client: config(&[gcm, cm], true)?,
            provider,
        })
    }

    /// SHA-256 of the certificate.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

/// What a connection tells.
pub(crate) enum Event {
    /// The handshake is complete. The certificate, in DER, is not yet compared with the fingerprint of the offer.
    Established { keys: Box<(srtp::Protect, srtp::Unprotect)>, certificate: Vec<u8> },
    /// The peer said that it goes.
    Closed,
}

/// One peer's connection.
pub(crate) struct Dtls {
    endpoint: Endpoint,
    /// What the endpoint was when it was put away.
    settled: Option<Box<[u8]>>,
    client: bool,
    established: bool,
    joiner: Joiner,
    /// Records of the peer's last flight whose messages have not all come.
    held: VecDeque<Vec<u8>>,
    taken: usize,
    out: VecDeque<BytesMut>,
    /// What was sent last.
    flight: Vec<BytesMut>,
    /// When it is sent again, and after which pause then.
    again_at: Option<Instant>,
    pause: Duration,
    repeated: Option<Instant>,
    repeats: u32,
}

impl Dtls {
    fn new(client: bool) -> Self {
        Self {
            endpoint: Endpoint::new(LOCAL, TransportProtocol::UDP, None),
            settled: None,
            client,
            established: false,
            joiner: Joiner::default(),
            held: VecDeque::new(),
            taken: 0,
            out: VecDeque::new(),
            flight: Vec::new(),
            again_at: None,
            pause: FLIGHT,
            repeated: None,
            repeats: 0,
        }
    }

    /// The end that waits for a ClientHello.
    pub(crate) fn server() -> Self {
        Self::new(false)
    }

    /// The end that sends one, at once.
    pub(crate) fn client(identity: &Identity, now: Instant) -> Result<Self, Failed> {
        let mut this = Self::new(true);
        this.endpoint.connect(now, PEER, identity.client.clone(), None)?;
        this.collect(now);
        Ok(this)
    }

    /// Takes from the endpoint what it wants sent.
    fn collect(&mut self, now: Instant) {
        // What fits goes together: a Finished without its ChangeCipherSpec is of no use.
        let mut sent: Vec<BytesMut> = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            match sent.last_mut() {
                Some(last) if last.len() + transmit.message.len() <= DATAGRAM => {
                    last.extend_from_slice(&transmit.message)
                }
                _ => sent.push(transmit.message),
            }
        }
        if sent.is_empty() {
            return;
        }
        self.out.extend(sent.iter().cloned());
        self.flight = sent;
        self.pause = FLIGHT;
        // The last flight is sent again only when the peer repeats its own.
        self.again_at = (!self.established).then(|| now + FLIGHT);
    }

    /// A datagram of the peer, from an address that is known to be its.
    pub(crate) fn handle(&mut self, identity: &Identity, now: Instant, packet: &[u8]) -> Result<Vec<Event>, Failed> {
        if !self.established {
            self.taken += packet.len();
            if self.taken > HANDSHAKE_MAX {
                return Err(Failed::TooLong);
            }
        }
        if self.settled.is_some() {
            return self.late(identity, now, packet);
        }
        let fresh = !self.client && self.joiner.is_fresh();
        let brought = self.joiner.add(packet)?;
        if brought.repeated {
            self.repeat(now);
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        let mut records = brought.records;
        if !self.client && !self.established {
            // The endpoint forgets a Finished that came before its time, and takes its repetition for a replay.
            let (early, now): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| records::is_last(record));
            self.held.extend(early);
            self.held.truncate(HELD_MAX);
            records = now;
            if self.joiner.given() >= CLIENT_MESSAGES {
                records.extend(self.held.drain(..));
            }
        }
        for (number, record) in records.iter().enumerate() {
            if fresh && number == 0 {
                if !records::is_hello(record) {
                    return Err(records::Malformed::NoHello.into());
                }
                let gcm = records::offers(record, Profile::AeadAes128Gcm);
                self.endpoint.set_server_config(Some(if gcm { identity.gcm.clone() } else { identity.cm.clone() }));
            }
            events.append(&mut self.read(now, record)?);
        }
        Ok(events)
    }

    /// The peer did not get what was sent last.
    fn repeat(&mut self, now: Instant) {
        let soon = self.repeated.is_some_and(|at| now.saturating_duration_since(at) < REPEAT);
        if !soon && self.repeats < REPEATS_MAX {
            self.repeated = Some(now);
            self.repeats += 1;
            self.out.extend(self.flight.iter().cloned());
        }
    }

    fn read(&mut self, now: Instant, packet: &[u8]) -> Result<Vec<Event>, Failed> {
        let read = self.endpoint.read(now, PEER, None, BytesMut::from(packet));
        let mut events = Vec::new();
        let result = read.map_err(Failed::from).and_then(|found| {
            for event in found {
                match event {
                    EndpointEvent::HandshakeComplete => {
                        self.established = true;
                        self.again_at = None;
                        events.push(self.keys()?);
                    }
                    EndpointEvent::PeerClosed => events.push(Event::Closed),
                    // Data channels are answered as rejected.
                    _ => {}
                }
            }
            Ok(())
        });
        // An alert, too, tells the peer why.
        self.collect(now);
        result.map(|()| events)
    }

    fn keys(&self) -> Result<Event, Failed> {
        let state = self.endpoint.get_connection_state(PEER).ok_or(Failed::NoProfile)?;
        let profile = Profile::from_id(state.srtp_protection_profile() as u16).ok_or(Failed::NoProfile)?;
        let material = state.export_keying_material(srtp::EXPORTER, &[], profile.material_len())?;
        let keys = Box::new(srtp::session(profile, material.as_ref(), self.client)?);
        let certificate = state.peer_certificates.first().cloned().ok_or(Failed::NoCertificate)?;
        Ok(Event::Established { keys, certificate })
    }

    /// A datagram long after the handshake: that the peer goes is all that it can tell.
    fn late(&mut self, identity: &Identity, now: Instant, packet: &[u8]) -> Result<Vec<Event>, Failed> {
        // Whoever forges the peer's address could else keep this end busy.
        let soon = self.repeated.is_some_and(|at| now.saturating_duration_since(at) < REPEAT);
        if packet.first() != Some(&ALERT) || soon {
            return Ok(Vec::new());
        }
        self.repeated = Some(now);
        self.revive(identity, now)?;
        let read = self.read(now, packet);
        self.endpoint = Endpoint::new(LOCAL, TransportProtocol::UDP, None);
        self.flight = Vec::new();
        read
    }

    /// Whoever sends media has what was sent to it last. Of the endpoint, which holds 12 KiB of the handshake, only keys and
    /// numbers are kept.
    pub(crate) fn settle(&mut self) {
        let Some(state) = self.endpoint.get_connection_state(PEER) else { return };
        if let Ok(bytes) = state.marshal_binary() {
            self.settled = Some(bytes.into());
            self.endpoint = Endpoint::new(LOCAL, TransportProtocol::UDP, None);
            self.joiner = Joiner::default();
            (self.held, self.out, self.flight) = Default::default();
        }
    }

    /// The endpoint as it was.
    fn revive(&mut self, identity: &Identity, now: Instant) -> Result<(), Failed> {
        if let Some(bytes) = &self.settled {
            let mut state = State::new(identity.provider.clone(), self.client);
            state.unmarshal_binary(bytes)?;
            self.endpoint.connect(now, PEER, identity.client.clone(), Some(state))?;
        }
        Ok(())
    }

    /// The next datagram to send.
    pub(crate) fn poll(&mut self) -> Option<BytesMut> {
        self.out.pop_front()
    }

    /// When [`Dtls::timeout`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.again_at
    }

    /// Sends a flight again that was not answered.
    pub(crate) fn timeout(&mut self, now: Instant) {
        if self.again_at.is_some_and(|at| at <= now) {
            self.pause = (self.pause * 2).min(FLIGHT_MAX);
            self.again_at = Some(now + self.pause);
            self.out.extend(self.flight.iter().cloned());
        }
    }

    /// Tells the peer that this end goes.
    pub(crate) fn close(&mut self, identity: &Identity, now: Instant) {
        self.revive(identity, now).ok();
        self.endpoint.close(now).ok();
        self.collect(now);
    }
}
