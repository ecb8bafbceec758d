//! ICE-lite's half of STUN: connectivity checks are read, verified and answered (RFC 8489, RFC 8445 7.3).
//!
//! What stands behind MESSAGE-INTEGRITY is not protected by it and not believed. Nothing is answered before
//! [`Check::verify`], so that an answer goes to nobody who does not know the password.

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::{constant_time, hmac};
use rtc::stun::fingerprint::fingerprint_value;

/// Bytes of a STUN header.
const HEADER: usize = 20;

/// The magic cookie (RFC 8489 5).
const COOKIE: u32 = 0x2112_a442;

const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
const ERROR: u16 = 0x0111;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;

const INTEGRITY_LEN: usize = 20;

/// Why bytes are no connectivity check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Lengths that do not add up, or no STUN at all.
    #[error("malformed STUN")]
    Malformed,
    /// An answer, an indication, or another method.
    #[error("no binding request")]
    NotARequest,
    /// A connectivity check has USERNAME and MESSAGE-INTEGRITY (RFC 8445 7.1.2).
    #[error("no credentials")]
    NoCredentials,
    /// FINGERPRINT does not fit.
    #[error("damaged")]
    Damaged,
}

/// A binding request of a peer, not yet verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check<'a> {
    /// Says which answer belongs to which request.
    pub transaction: [u8; 12],
    /// The receiver's user name fragment: names the session.
    pub local: &'a [u8],
    /// The sender's.
    pub remote: &'a [u8],
    /// The peer chose this address pair (RFC 8445 8.1.1).
    pub use_candidate: bool,
    /// The peer says that it is controlled, which is ICE-lite's own role.
    pub controlled: bool,
    /// What MESSAGE-INTEGRITY covers, behind the header.
    covered: &'a [u8],
    integrity: &'a [u8],
}

/// Whether bytes may be STUN: the first byte tells protocols on one socket apart (RFC 7983 7).
pub fn is_stun(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| *first < 4)
}

impl<'a> Check<'a> {
    /// Reads a packet.
    ///
    /// # Errors
    /// It is no connectivity check; it is not to be answered.
    pub fn parse(packet: &'a [u8]) -> Result<Self, Error> {
        let (header, attributes) = packet.split_at_checked(HEADER).ok_or(Error::Malformed)?;
        let (kind, length) = (word(header, 0)?, word(header, 2)?);
        if long(header, 4)? != COOKIE || usize::from(length) != attributes.len() || length % 4 != 0 || kind >> 14 != 0 {
            return Err(Error::Malformed);
        }
        if kind != REQUEST {
            return Err(Error::NotARequest);
        }
        let mut username = None;
        let mut integrity = None;
        let (mut use_candidate, mut controlled) = (false, false);
        let mut at = 0;
        while at < attributes.len() {
            let rest = attributes.get(at..).ok_or(Error::Malformed)?;
            let (kind, length) = (word(rest, 0)?, usize::from(word(rest, 2)?));
            let value = rest.get(4..4 + length).ok_or(Error::Malformed)?;
            match kind {
                FINGERPRINT => {
                    let before = packet.get(..HEADER + at).ok_or(Error::Malformed)?;
                    if length != 4 || HEADER + at + 8 != packet.len() || long(value, 0)? != fingerprint_value(before) {
                        return Err(Error::Damaged);
                    }
                }
                _ if integrity.is_some() => {}
                MESSAGE_INTEGRITY if length == INTEGRITY_LEN => integrity = Some((at, value)),
                USERNAME => username = username.or(Some(value)),
                USE_CANDIDATE => use_candidate = true,
                ICE_CONTROLLED => controlled = true,
                _ => {}
            }
            at += 4 + length.next_multiple_of(4);
        }
        let (Some(username), Some((end, integrity))) = (username, integrity) else { return Err(Error::NoCredentials) };
        let colon = username.iter().position(|byte| *byte == b':').ok_or(Error::NoCredentials)?;
        Ok(Self {
            transaction: *packet.get(8..).and_then(|rest| rest.first_chunk()).ok_or(Error::Malformed)?,
            local: username.get(..colon).ok_or(Error::Malformed)?,
            remote: username.get(colon + 1..).ok_or(Error::Malformed)?,
            use_candidate,
            controlled,
            covered: attributes.get(..end).ok_or(Error::Malformed)?,
            integrity,
        })
    }

    /// Whether the sender knows the password of the session, in constant time.
    pub fn verify(&self, password: &Password) -> bool {
        let tag = integrity(
            password,
            &header(REQUEST, self.covered.len() + 4 + INTEGRITY_LEN, self.transaction),
            self.covered,
        );
        constant_time::verify_slices_are_equal(tag.as_ref(), self.integrity).is_ok()
    }

    /// The answer: the address that the request came from.
    pub fn success(&self, from: SocketAddr, password: &Password) -> Vec<u8> {
        let mut attributes = Vec::with_capacity(64);
        let port = (COOKIE >> 16) as u16 ^ from.port();
        let [p0, p1] = port.to_be_bytes();
        match from.ip().to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, d] = (u32::from(ip) ^ COOKIE).to_be_bytes();
                attribute(&mut attributes, XOR_MAPPED_ADDRESS, &[0, 1, p0, p1, a, b, c, d]);
            }
            IpAddr::V6(ip) => {
                let mask = self.transaction.iter().fold(u128::from(COOKIE), |mask, byte| mask << 8 | u128::from(*byte));
                let mut value = vec![0, 2, p0, p1];
                value.extend_from_slice(&(u128::from(ip) ^ mask).to_be_bytes());
                attribute(&mut attributes, XOR_MAPPED_ADDRESS, &value);
            }
        }
        sign(SUCCESS, self.transaction, attributes, password)
    }

    /// The answer to a peer that claims this end's role (RFC 8445 7.3.1.1): 487.
    pub fn role_conflict(&self, password: &Password) -> Vec<u8> {
        let mut attributes = Vec::with_capacity(48);
        attribute(&mut attributes, ERROR_CODE, &[0, 0, 4, 87]);
        sign(ERROR, self.transaction, attributes, password)
    }
}

/// The password of a session, as a key.
#[derive(Clone)]
pub struct Password(hmac::Key);

impl Password {
    /// The key of a password (RFC 8489 9.1.1); ICE's are plain ASCII.
    pub fn new(password: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes()))
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u16, Error> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u16::from_be_bytes(*b)).ok_or(Error::Malformed)
}

fn long(bytes: &[u8], at: usize) -> Result<u32, Error> {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u32::from_be_bytes(*b)).ok_or(Error::Malformed)
}

fn header(kind: u16, length: usize, transaction: [u8; 12]) -> Vec<u8> {
    let mut header = Vec::with_capacity(128);
    header.extend_from_slice(&kind.to_be_bytes());
    header.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
    header.extend_from_slice(&COOKIE.to_be_bytes());
    header.extend_from_slice(&transaction);
    header
}

/// Values here are multiples of four bytes long.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(value);
}

fn integrity(password: &Password, header: &[u8], attributes: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&password.0);
    context.update(header);
    context.update(attributes);
    context.sign()
}

/// A message with MESSAGE-INTEGRITY and FINGERPRINT behind its attributes, each over a header that counts it.
fn sign(kind: u16, transaction: [u8; 12], mut attributes: Vec<u8>, password: &Password) -> Vec<u8> {
    let signed = header(kind, attributes.len() + 4 + INTEGRITY_LEN, transaction);
    let tag = integrity(password, &signed, &attributes);
    attribute(&mut attributes, MESSAGE_INTEGRITY, tag.as_ref());
    let mut message = header(kind, attributes.len() + 8, transaction);
    message.append(&mut attributes);
    let value = fingerprint_value(&message);
    attribute(&mut message, FINGERPRINT, &value.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use rtc::crypto::RTCCryptoProvider as _;
    use rtc::crypto::providers::AwsLcRsProvider;
    use rtc::stun::attributes::{ATTR_ICE_CONTROLLED, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME, AttrType};
    use rtc::stun::fingerprint::FINGERPRINT as FINGERPRINT_ATTRIBUTE;
    use rtc::stun::integrity::MessageIntegrity;
    use rtc::stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Getter, Message, Setter, TransactionId};
    use rtc::stun::xoraddr::XorMappedAddress;

    use super::*;

    const PASSWORD: &str = "a-password-of-some-length";

    type Attribute<'a> = (AttrType, &'a [u8]);

    /// A check as another implementation writes it.
    fn request(before: &[Attribute<'_>], after: &[Attribute<'_>]) -> Vec<u8> {
        let provider = AwsLcRsProvider::new();
        let mut message = Message::new();
        message.build(&[Box::new(TransactionId([7; 12])), Box::new(BINDING_REQUEST)]).unwrap();
        before.iter().for_each(|(kind, value)| message.add(*kind, value));
        MessageIntegrity::new_short_term_integrity_with_provider(PASSWORD.to_owned(), provider.crypto())
            .add_to(&mut message)
            .unwrap();
        after.iter().for_each(|(kind, value)| message.add(*kind, value));
        FINGERPRINT_ATTRIBUTE.add_to(&mut message).unwrap();
        message.raw
    }

    fn usual() -> Vec<u8> {
        let before: [Attribute<'_>; 3] =
            [(ATTR_USERNAME, b"mine:theirs"), (ATTR_PRIORITY, &[1, 2, 3, 4]), (ATTR_USE_CANDIDATE, &[])];
        request(&before, &[])
    }

    #[test]
    fn a_check_of_another_implementation_is_read_and_verified() {
        let bytes = usual();
        let check = Check::parse(&bytes).unwrap();
        assert_eq!((check.local, check.remote), (&b"mine"[..], &b"theirs"[..]));
        assert_eq!((check.use_candidate, check.controlled, check.transaction), (true, false, [7; 12]));
        assert!(check.verify(&Password::new(PASSWORD)));
        assert!(!check.verify(&Password::new("another")));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = usual();
        for at in 0..bytes.len() {
            let mut forged = bytes.clone();
            forged[at] ^= 1;
            // FINGERPRINT under another name is an unknown attribute that nothing depends on.
            assert!(Check::parse(&forged).is_err() || at == bytes.len() - 8 || at == bytes.len() - 7, "byte {at}");
        }
        for end in 0..bytes.len() {
            assert!(Check::parse(&bytes[..end]).is_err());
        }
        // Without FINGERPRINT only the integrity protects.
        let whole = bytes.len() - 8;
        for at in 20..whole {
            let mut forged = bytes[..whole].to_vec();
            forged[3] -= 8;
            forged[at] ^= 1;
            assert!(Check::parse(&forged).map_or(true, |check| !check.verify(&Password::new(PASSWORD))), "byte {at}");
        }
    }

    #[test]
    fn what_stands_behind_the_integrity_is_not_believed() {
        let bytes = request(&[(ATTR_USERNAME, b"mine:theirs")], &[(ATTR_USE_CANDIDATE, &[]), (ATTR_USERNAME, b"x:yz")]);
        let check = Check::parse(&bytes).unwrap();
        assert!(!check.use_candidate && check.local == b"mine" && check.verify(&Password::new(PASSWORD)));
        let role = request(&[(ATTR_USERNAME, b"m:t"), (ATTR_ICE_CONTROLLED, &[0; 8])], &[]);
        assert!(Check::parse(&role).unwrap().controlled);
        assert_eq!(Check::parse(&request(&[], &[])), Err(Error::NoCredentials));
        assert_eq!(Check::parse(&request(&[(ATTR_USERNAME, b"no colon")], &[])), Err(Error::NoCredentials));
    }

    #[test]
    fn answers_are_read_by_another_implementation() {
        let bytes = usual();
        let check = Check::parse(&bytes).unwrap();
        let provider = AwsLcRsProvider::new();
        for from in ["192.0.2.9:4000", "[2001:db8::7]:65535", "[::ffff:192.0.2.1]:1"] {
            let from: SocketAddr = from.parse().unwrap();
            let mut message = Message::new();
            message.unmarshal_binary(&check.success(from, &Password::new(PASSWORD))).unwrap();
            assert_eq!((message.typ, message.transaction_id), (BINDING_SUCCESS, TransactionId([7; 12])));
            MessageIntegrity::check(&mut message, PASSWORD.as_bytes(), provider.crypto()).unwrap();
            FINGERPRINT_ATTRIBUTE.check(&message).unwrap();
            let mut address = XorMappedAddress::default();
            address.get_from(&message).unwrap();
            assert_eq!((address.ip, address.port), (from.ip().to_canonical(), from.port()));
        }
        let mut conflict = Message::new();
        conflict.unmarshal_binary(&check.role_conflict(&Password::new(PASSWORD))).unwrap();
        MessageIntegrity::check(&mut conflict, PASSWORD.as_bytes(), provider.crypto()).unwrap();
        let mut code = rtc::stun::error_code::ErrorCodeAttribute::default();
        code.get_from(&conflict).unwrap();
        assert_eq!(code.code.0, 487);
        assert!(
            check.success("192.0.2.9:4000".parse().unwrap(), &Password::new(PASSWORD)).len() <= bytes.len() + 8,
            "no amplifier"
        );
    }

    #[test]
    fn fuzz_check() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|packet: &[u8]| {
            if let Ok(check) = Check::parse(packet) {
                assert!(!check.verify(&Password::new(PASSWORD)));
            }
            let mut headed = usual();
            headed.truncate(20);
            headed.extend(packet.iter().take(200));
            headed.resize(headed.len().next_multiple_of(4), 0);
            headed[3] = u8::try_from(headed.len() - 20).unwrap();
            Check::parse(&headed).ok();
        });
    }
}
