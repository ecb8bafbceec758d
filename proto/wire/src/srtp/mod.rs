//! SRTP and SRTCP (RFC 3711, RFC 7714), keyed by DTLS (RFC 5764).
//!
//! Packets are protected from where they lie into the buffer that is sent, and unprotected where they were read: a
//! packet that goes to a thousand players is encrypted a thousand times, and copied not once.

mod cipher;
mod replay;
mod unprotect;

#[cfg(test)]
mod tests;

use aws_lc_rs::error::Unspecified;

use cipher::Cipher;

pub use unprotect::Unprotect;

/// How packets are encrypted and authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `SRTP_AEAD_AES_128_GCM` (RFC 7714 14.2).
    AeadAes128Gcm,
    /// `SRTP_AEAD_AES_256_GCM`.
    AeadAes256Gcm,
    /// `SRTP_AES128_CM_HMAC_SHA1_80` (RFC 5764 4.1.2).
    Aes128CmSha1,
}

impl Profile {
    /// The profile of an identifier in the `use_srtp` extension.
    pub fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0001 => Some(Self::Aes128CmSha1),
            0x0007 => Some(Self::AeadAes128Gcm),
            0x0008 => Some(Self::AeadAes256Gcm),
            _ => None,
        }
    }

    /// Bytes of a master key.
    pub fn key_len(self) -> usize {
        match self {
            Self::AeadAes256Gcm => 32,
            Self::AeadAes128Gcm | Self::Aes128CmSha1 => 16,
        }
    }

    /// Bytes of a master salt.
    pub fn salt_len(self) -> usize {
        match self {
            Self::Aes128CmSha1 => 14,
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
        }
    }

    /// Bytes that protection adds to an RTP packet.
    pub fn tag_len(self) -> usize {
        match self {
            Self::Aes128CmSha1 => 10,
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 16,
        }
    }

    /// Bytes of keying material to export from DTLS under [`EXPORTER`].
    pub fn material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }
}

/// Label of the keying material (RFC 5764 4.2).
pub const EXPORTER: &str = "EXTRACTOR-dtls_srtp";

/// Why something cannot be protected or unprotected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Keying material of another length than [`Profile::material_len`].
    #[error("keying material of the wrong length")]
    Material,
    /// Shorter than what protection adds.
    #[error("too short for a protected packet")]
    Short,
    /// Forged, damaged, or keyed otherwise.
    #[error("authentication failed")]
    Forged,
    /// It came before, or is older than the replay window.
    #[error("a replay")]
    Replay,
    /// More sources than one peer may send.
    #[error("too many sources")]
    Sources,
    /// The master key has served as long as it may (RFC 3711 9.2).
    #[error("the key is used up")]
    UsedUp,
    /// The library refused.
    #[error("the cipher refused")]
    Refused,
}

impl From<Unspecified> for Error {
    fn from(_: Unspecified) -> Self {
        Self::Refused
    }
}

/// Both directions of a session, from DTLS's keying material; `client` says whether this end was DTLS's client.
///
/// # Errors
/// [`Error::Material`].
pub fn session(profile: Profile, material: &[u8], client: bool) -> Result<(Protect, Unprotect), Error> {
    let (key, salt) = (profile.key_len(), profile.salt_len());
    if material.len() != profile.material_len() {
        return Err(Error::Material);
    }
    let (keys, salts) = material.split_at_checked(2 * key).ok_or(Error::Material)?;
    let (client_key, server_key) = keys.split_at_checked(key).ok_or(Error::Material)?;
    let (client_salt, server_salt) = salts.split_at_checked(salt).ok_or(Error::Material)?;
    let (of_client, of_server) = ((client_key, client_salt), (server_key, server_salt));
    let (mine, theirs) = if client { (of_client, of_server) } else { (of_server, of_client) };
    Ok((Protect::new(profile, mine.0, mine.1)?, Unprotect::new(profile, theirs.0, theirs.1)?))
}

/// The sending half of a session.
pub struct Protect {
    rtp: Cipher,
    rtcp: Cipher,
    /// Of the next RTCP packet.
    rtcp_index: u32,
}

impl Protect {
    fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<Self, Error> {
        Ok(Self {
            rtp: Cipher::new(profile, key, salt, cipher::RTP)?,
            rtcp: Cipher::new(profile, key, salt, cipher::RTCP)?,
            rtcp_index: 0,
        })
    }

    /// Appends a protected RTP packet to `out`. `index` is its sequence number, counted on beyond 16 bits from below
    /// 65,536 at the start of each source; no index may be given twice for a source but for the same bytes. `header` is
    /// the whole header with its extensions. Nothing is left in `out` of a packet that failed.
    ///
    /// # Errors
    /// [`Error::UsedUp`], [`Error::Refused`].
    pub fn rtp(&self, index: u64, header: &[u8], payload: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if index >> 48 != 0 {
            return Err(Error::UsedUp);
        }
        let start = out.len();
        let sealed = self.rtp.seal_rtp(index, header, payload, out);
        if sealed.is_err() {
            out.truncate(start);
        }
        sealed
    }

    /// Protects a compound RTCP packet in its buffer.
    ///
    /// # Errors
    /// [`Error::Short`], [`Error::UsedUp`], [`Error::Refused`].
    pub fn rtcp(&mut self, packet: &mut Vec<u8>) -> Result<(), Error> {
        if self.rtcp_index >> 31 != 0 {
            return Err(Error::UsedUp);
        }
        self.rtcp.seal_rtcp(self.rtcp_index, packet)?;
        self.rtcp_index += 1;
        Ok(())
    }
}
