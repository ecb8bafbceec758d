//! The two kinds of protection, keyed for one direction of RTP or of RTCP.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;

use super::{Error, Profile};

/// First of the three key derivation labels (RFC 3711 4.3.1 and 4.3.2): encryption, authentication, salt.
pub(super) const RTP: u8 = 0;
pub(super) const RTCP: u8 = 3;

/// Header and sender of an RTCP packet, which stay readable.
const RTCP_CLEAR: usize = 8;

/// The word behind an RTCP packet, and its bit that says that the packet is encrypted (RFC 3711 3.4).
const WORD: usize = 4;
const ENCRYPTED: u32 = 1 << 31;

const GCM_TAG: usize = 16;
const SHA1_TAG: usize = 10;

pub(super) enum Cipher {
    Gcm {
        key: LessSafeKey,
        salt: [u8; 12],
    },
    /// Large, and seldom.
    Cm(Box<Cm>),
}

pub(super) struct Cm {
    key: EncryptingKey,
    mac: hmac::Key,
    salt: [u8; 14],
}

impl Cipher {
    pub(super) fn new(profile: Profile, master_key: &[u8], master_salt: &[u8], label: u8) -> Result<Self, Error> {
        let mut key = [0; 32];
        let key = key.get_mut(..profile.key_len()).ok_or(Error::Material)?;
        derive(master_key, master_salt, label, key)?;
        Ok(match profile {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => {
                let algorithm = if key.len() == 16 { &AES_128_GCM } else { &AES_256_GCM };
                let mut salt = [0; 12];
                derive(master_key, master_salt, label + 2, &mut salt)?;
                Self::Gcm { key: LessSafeKey::new(UnboundKey::new(algorithm, key)?), salt }
            }
            Profile::Aes128CmSha1 => {
                let (mut auth, mut salt) = ([0; 20], [0; 14]);
                derive(master_key, master_salt, label + 1, &mut auth)?;
                derive(master_key, master_salt, label + 2, &mut salt)?;
                Self::Cm(Box::new(Cm {
                    key: EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, key)?)?,
                    mac: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &auth),
                    salt,
                }))
            }
        })
    }

    pub(super) fn seal_rtp(&self, index: u64, header: &[u8], payload: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let ssrc = ssrc(header, 8)?;
        let start = out.len();
        out.extend_from_slice(header);
        let body = out.len();
        match self {
            Self::Gcm { key, salt } => {
                out.resize(body + payload.len() + GCM_TAG, 0);
                let to = out.get_mut(body..).ok_or(Error::Refused)?;
                let (text, tag) = to.split_at_mut_checked(payload.len()).ok_or(Error::Refused)?;
                key.seal_out_of_place_scatter(
                    gcm_nonce(salt, ssrc, index),
                    Aad::from(header),
                    payload,
                    text,
                    &[],
                    tag,
                )?;
            }
            Self::Cm(cm) => {
                let Cm { key, mac, salt } = &**cm;
                out.extend_from_slice(payload);
                let text = out.get_mut(body..).ok_or(Error::Refused)?;
                key.less_safe_encrypt(text, counter(salt, ssrc, index))?;
                let tag = sign_rtp(mac, out.get(start..).ok_or(Error::Refused)?, index);
                out.extend_from_slice(tag.as_ref().get(..SHA1_TAG).ok_or(Error::Refused)?);
            }
        }
        Ok(())
    }

    /// Decrypts a packet in place; returns its length without the tag.
    pub(super) fn open_rtp(&self, index: u64, header: usize, packet: &mut [u8]) -> Result<usize, Error> {
        let ssrc = ssrc(packet, 8)?;
        match self {
            Self::Gcm { key, salt } => {
                let (header, sealed) = packet.split_at_mut_checked(header).ok_or(Error::Short)?;
                let text = key
                    .open_in_place(gcm_nonce(salt, ssrc, index), Aad::from(&*header), sealed)
                    .map_err(|_| Error::Forged)?;
                Ok(header.len() + text.len())
            }
            Self::Cm(cm) => {
                let Cm { key, mac, salt } = &**cm;
                let end = packet.len().checked_sub(SHA1_TAG).filter(|end| *end >= header).ok_or(Error::Short)?;
                let (text, tag) = packet.split_at_mut_checked(end).ok_or(Error::Short)?;
                same(sign_rtp(mac, text, index).as_ref(), tag)?;
                key.less_safe_encrypt(text.get_mut(header..).ok_or(Error::Short)?, counter(salt, ssrc, index))?;
                Ok(end)
            }
        }
    }

    pub(super) fn seal_rtcp(&self, index: u32, packet: &mut Vec<u8>) -> Result<(), Error> {
        let ssrc = ssrc(packet, 4)?;
        let word = (index | ENCRYPTED).to_be_bytes();
        match self {
            Self::Gcm { key, salt } => {
                let (clear, text) = packet.split_at_mut_checked(RTCP_CLEAR).ok_or(Error::Short)?;
                let aad = rtcp_aad(clear, word)?;
                let nonce = gcm_nonce(salt, ssrc, u64::from(index));
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), text)?;
                packet.extend_from_slice(tag.as_ref());
                packet.extend_from_slice(&word);
            }
            Self::Cm(cm) => {
                let Cm { key, mac, salt } = &**cm;
                let text = packet.get_mut(RTCP_CLEAR..).ok_or(Error::Short)?;
                key.less_safe_encrypt(text, counter(salt, ssrc, u64::from(index)))?;
                packet.extend_from_slice(&word);
                let tag = hmac::sign(mac, packet);
                packet.extend_from_slice(tag.as_ref().get(..SHA1_TAG).ok_or(Error::Refused)?);
            }
        }
        Ok(())
    }

    /// The index that a protected RTCP packet says that it has.
    pub(super) fn rtcp_index(&self, packet: &[u8]) -> Result<u32, Error> {
        let behind = match self {
            Self::Gcm { .. } => 0,
            Self::Cm(_) => SHA1_TAG,
        };
        let end = packet.len().checked_sub(behind).ok_or(Error::Short)?;
        let word = packet.get(..end).and_then(|rest| rest.last_chunk::<WORD>()).ok_or(Error::Short)?;
        Ok(u32::from_be_bytes(*word))
    }

    /// Decrypts an RTCP packet in place; returns its length without what protection added. `word` is
    /// [`Cipher::rtcp_index`].
    pub(super) fn open_rtcp(&self, word: u32, packet: &mut [u8]) -> Result<usize, Error> {
        let ssrc = ssrc(packet, 4)?;
        let index = u64::from(word & !ENCRYPTED);
        let encrypted = word & ENCRYPTED != 0;
        match self {
            Self::Gcm { key, salt } => {
                let end =
                    packet.len().checked_sub(WORD).filter(|end| *end >= RTCP_CLEAR + GCM_TAG).ok_or(Error::Short)?;
                let (packet, _) = packet.split_at_mut_checked(end).ok_or(Error::Short)?;
                // What is not encrypted is authenticated only (RFC 7714 9.3); no peer has reason to send it.
                if !encrypted {
                    return Err(Error::Forged);
                }
                let (clear, sealed) = packet.split_at_mut_checked(RTCP_CLEAR).ok_or(Error::Short)?;
                let aad = rtcp_aad(clear, word.to_be_bytes())?;
                let text = key
                    .open_in_place(gcm_nonce(salt, ssrc, index), Aad::from(aad), sealed)
                    .map_err(|_| Error::Forged)?;
                Ok(RTCP_CLEAR + text.len())
            }
            Self::Cm(cm) => {
                let Cm { key, mac, salt } = &**cm;
                let end = packet.len().checked_sub(SHA1_TAG).ok_or(Error::Short)?;
                let (signed, tag) = packet.split_at_mut_checked(end).ok_or(Error::Short)?;
                same(hmac::sign(mac, signed).as_ref(), tag)?;
                let end = end.checked_sub(WORD).filter(|end| *end >= RTCP_CLEAR).ok_or(Error::Short)?;
                if encrypted {
                    let text = signed.get_mut(RTCP_CLEAR..end).ok_or(Error::Short)?;
                    key.less_safe_encrypt(text, counter(salt, ssrc, index))?;
                }
                Ok(end)
            }
        }
    }
}

fn ssrc(packet: &[u8], at: usize) -> Result<u32, Error> {
    packet.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Error::Short)
}

fn rtcp_aad(clear: &[u8], word: [u8; WORD]) -> Result<[u8; RTCP_CLEAR + WORD], Error> {
    let [a, b, c, d, e, f, g, h] = *clear.first_chunk::<RTCP_CLEAR>().ok_or(Error::Short)?;
    let [i, j, k, l] = word;
    Ok([a, b, c, d, e, f, g, h, i, j, k, l])
}

/// RFC 7714 8.1 and 9.1: both are the source and the index, in the salt.
fn gcm_nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> Nonce {
    let value = u128::from(ssrc) << 48 | u128::from(index);
    let [_, _, _, _, salted @ ..] = (value ^ padded(salt)).to_be_bytes();
    Nonce::assume_unique_for_key(salted)
}

/// RFC 3711 4.1.1.
fn counter(salt: &[u8; 14], ssrc: u32, index: u64) -> EncryptionContext {
    let value = padded(salt) << 16 ^ u128::from(ssrc) << 64 ^ u128::from(index) << 16;
    EncryptionContext::Iv128(value.to_be_bytes().into())
}

/// A salt as a number.
fn padded(salt: &[u8]) -> u128 {
    salt.iter().fold(0, |value, byte| value << 8 | u128::from(*byte))
}

fn sign_rtp(mac: &hmac::Key, packet: &[u8], index: u64) -> hmac::Tag {
    let mut context = hmac::Context::with_key(mac);
    context.update(packet);
    #[expect(clippy::cast_possible_truncation, reason = "the rollover counter has 32 bits")]
    context.update(&((index >> 16) as u32).to_be_bytes());
    context.sign()
}

/// Compares a tag with the front of a longer one, in constant time.
fn same(whole: &[u8], tag: &[u8]) -> Result<(), Error> {
    let front = whole.get(..tag.len()).ok_or(Error::Forged)?;
    aws_lc_rs::constant_time::verify_slices_are_equal(front, tag).map_err(|_| Error::Forged)
}

/// The key derivation function (RFC 3711 4.3.3, RFC 6188 3), with a key derivation rate of zero.
fn derive(master_key: &[u8], master_salt: &[u8], label: u8, out: &mut [u8]) -> Result<(), Error> {
    let algorithm = if master_key.len() == 32 { &AES_256 } else { &AES_128 };
    let key = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, master_key)?)?;
    let short = 14usize.checked_sub(master_salt.len()).ok_or(Error::Material)?;
    let value = padded(master_salt) << (8 * (short + 2)) ^ u128::from(label) << 64;
    out.fill(0);
    key.less_safe_encrypt(out, EncryptionContext::Iv128(value.to_be_bytes().into()))?;
    Ok(())
}
