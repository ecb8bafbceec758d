//! DTLS as the client, and the keys that come of it (RFC 5764).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest;
use bytes::BytesMut;
use rtc::crypto::RTCCryptoProvider;
use rtc::crypto::providers::AwsLcRsProvider;
use rtc::dtls::config::{ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc::dtls::crypto::Certificate;
use rtc::dtls::endpoint::{Endpoint, EndpointEvent};
use rtc::dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc::shared::TransportProtocol;
use weir_wire::srtp::{self, Profile, Protect, Unprotect};

use super::Error;
use crate::net::{Reason, Wire};

/// The certificate of all sessions of this process, and how they shake hands.
pub(crate) struct Identity {
    provider: Arc<dyn RTCCryptoProvider>,
    config: Arc<HandshakeConfig>,
    /// SHA-256 of the certificate, as in `a=fingerprint`.
    pub(super) fingerprint: String,
}

impl Identity {
    /// A new one, that prefers AES-GCM.
    ///
    /// # Errors
    /// The library refuses.
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |error: rtc::shared::error::Error| Error::Dtls(error.to_string());
        let provider: Arc<dyn RTCCryptoProvider> = Arc::new(AwsLcRsProvider::new());
        let certificate =
            Certificate::generate_self_signed(vec!["weir-loadtest".to_owned()], provider.crypto()).map_err(failed)?;
        let fingerprint = hex(&sha256(certificate.certificate.first().map_or(&[][..], AsRef::as_ref)));
        let config = ConfigBuilder::default()
            .with_crypto_provider(provider.clone())
            .with_certificates(vec![certificate])
            .with_srtp_protection_profiles(vec![
                SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
                SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
            ])
            // Certificates are believed by their fingerprint, see `Handshake::datagram`.
            .with_insecure_skip_verify(true)
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_server_name("weir-loadtest".to_owned())
            .build(true, None)
            .map_err(failed)?;
        Ok(Self { provider, config: Arc::new(config), fingerprint })
    }

    /// What computes MACs and random numbers.
    pub(super) fn provider(&self) -> &dyn RTCCryptoProvider {
        &*self.provider
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// One association.
pub(super) struct Handshake {
    endpoint: Endpoint,
    peer: SocketAddr,
    /// What the answer says.
    fingerprint: String,
}

impl Handshake {
    /// Begins, with a ClientHello. `fingerprint` is the server's, in the form of SDP.
    ///
    /// # Errors
    /// The library refuses, or nobody is there.
    pub(super) fn start(
        identity: &Identity,
        peer: SocketAddr,
        fingerprint: String,
        wire: &mut Wire,
    ) -> Result<Self, Reason> {
        // Associations are told apart by the peer's address alone.
        let own = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut endpoint = Endpoint::new(own, TransportProtocol::UDP, None);
        endpoint
            .connect(Instant::now(), peer, identity.config.clone(), None)
            .map_err(|error| Error::Dtls(error.to_string()))?;
        let mut handshake = Self { endpoint, peer, fingerprint };
        handshake.flush(wire)?;
        Ok(handshake)
    }

    /// A record came. Returns both directions' keys once the handshake is complete.
    ///
    /// # Errors
    /// The handshake failed, the server is another one, or it said goodbye.
    pub(super) fn datagram(&mut self, wire: &mut Wire, bytes: &[u8]) -> Result<Option<(Protect, Unprotect)>, Reason> {
        let events = self.endpoint.read(Instant::now(), self.peer, None, BytesMut::from(bytes));
        self.flush(wire)?;
        let mut keys = None;
        for event in events.map_err(|error| Error::Dtls(error.to_string()))? {
            match event {
                EndpointEvent::HandshakeComplete => keys = Some(self.keys()?),
                EndpointEvent::PeerClosed => return Err(Error::Ended.into()),
                _ => {}
            }
        }
        Ok(keys)
    }

    /// Repeats what was lost, if it is time to.
    ///
    /// # Errors
    /// It was repeated too often.
    pub(super) fn tick(&mut self, wire: &mut Wire) -> Result<(), Reason> {
        self.endpoint.handle_timeout(self.peer, Instant::now()).map_err(|error| Error::Dtls(error.to_string()))?;
        self.flush(wire)
    }

    /// Says goodbye.
    pub(super) fn close(&mut self, wire: &mut Wire) {
        let _ = self.endpoint.close(Instant::now());
        let _ = self.flush(wire);
    }

    fn flush(&mut self, wire: &mut Wire) -> Result<(), Reason> {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            wire.send_datagram(&transmit.message)?;
        }
        Ok(())
    }

    fn keys(&self) -> Result<(Protect, Unprotect), Error> {
        let state = self.endpoint.get_connection_state(self.peer).ok_or(Error::Ended)?;
        let certificate = state.peer_certificates.first().ok_or(Error::Fingerprint)?;
        if !hex(&sha256(certificate)).eq_ignore_ascii_case(&self.fingerprint) {
            return Err(Error::Fingerprint);
        }
        let profile = match state.srtp_protection_profile() {
            SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm => Profile::AeadAes128Gcm,
            SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => Profile::Aes128CmSha1,
            other => return Err(Error::Dtls(format!("SRTP profile {other:?} was not offered"))),
        };
        let material = state
            .export_keying_material(srtp::EXPORTER, &[], profile.material_len())
            .map_err(|error| Error::Dtls(error.to_string()))?;
        Ok(srtp::session(profile, material.as_ref(), true)?)
    }
}
