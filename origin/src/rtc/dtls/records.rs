//! What is looked at in DTLS records before the endpoint sees them (RFC 6347 4.1 to 4.2.3).

use weir_wire::srtp::Profile;

/// Header of a record, and of a handshake message in it.
const RECORD: usize = 13;
const MESSAGE: usize = 12;

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const CLIENT_HELLO: u8 = 1;

/// The extension with the protection profiles (RFC 5764 4.1.1).
const USE_SRTP: u16 = 14;

/// The longest handshake message: a certificate chain.
const MESSAGE_MAX: usize = 24 * 1024;

/// The longest ClientHello, and the datagrams that it may come in.
const HELLO_MAX: usize = 8 * 1024;
const DATAGRAMS_MAX: usize = 48;

/// Records that no DTLS client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a record that is none")]
    Record,
    #[error("a handshake fragment that does not fit its message")]
    Fragment,
    #[error("no ClientHello")]
    NoHello,
    #[error("a ClientHello in too many pieces")]
    Pieces,
}

/// Checks that all records of a datagram are well-formed, and that the fragments in those that can be read fit their
/// messages. Returns the number of the newest of these.
pub(super) fn check(datagram: &[u8]) -> Result<Option<u16>, Malformed> {
    let mut newest = None;
    for record in Records(datagram) {
        let record = record?;
        if !(CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&record.kind) {
            return Err(Malformed::Record);
        }
        if record.kind == HANDSHAKE && record.epoch == 0 {
            for fragment in Fragments(record.body) {
                newest = newest.max(Some(fragment?.sequence));
            }
        }
    }
    Ok(newest)
}

struct Record<'a> {
    kind: u8,
    epoch: u16,
    body: &'a [u8],
}

struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        let Some((&[kind, major, _, e0, e1, _, _, _, _, _, _, l0, l1], rest)) = all.split_first_chunk::<RECORD>()
        else {
            return Some(Err(Malformed::Record));
        };
        let Some((body, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1]))) else {
            return Some(Err(Malformed::Record));
        };
        self.0 = rest;
        let fits = major == 0xfe && !body.is_empty();
        Some(if fits { Ok(Record { kind, epoch: u16::from_be_bytes([e0, e1]), body }) } else { Err(Malformed::Record) })
    }
}

struct Fragment<'a> {
    kind: u8,
    sequence: u16,
    length: usize,
    offset: usize,
    data: &'a [u8],
}

struct Fragments<'a>(&'a [u8]);

impl<'a> Iterator for Fragments<'a> {
    type Item = Result<Fragment<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        let Some((&[kind, l0, l1, l2, s0, s1, o0, o1, o2, f0, f1, f2], rest)) = all.split_first_chunk::<MESSAGE>()
        else {
            return Some(Err(Malformed::Fragment));
        };
        let (length, offset, part) = (number(l0, l1, l2), number(o0, o1, o2), number(f0, f1, f2));
        let Some((data, rest)) = rest.split_at_checked(part) else { return Some(Err(Malformed::Fragment)) };
        self.0 = rest;
        // An empty fragment of a message that is not empty carries nothing and is kept for ever.
        let fits = length <= MESSAGE_MAX && offset + part <= length && (part > 0 || length == 0);
        let sequence = u16::from_be_bytes([s0, s1]);
        Some(if fits { Ok(Fragment { kind, sequence, length, offset, data }) } else { Err(Malformed::Fragment) })
    }
}

fn number(a: u8, b: u8, c: u8) -> usize {
    usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
}

/// The first ClientHello of a client, until it is whole. One with a post-quantum key share never fits one datagram.
#[derive(Debug, Default)]
pub(super) struct Hello {
    datagrams: Vec<Vec<u8>>,
    /// Its bytes, and which of them came.
    body: Vec<u8>,
    came: Vec<bool>,
}

impl Hello {
    /// Takes a datagram in that was [`check`]ed; true once the message is whole.
    pub(super) fn add(&mut self, datagram: &[u8]) -> Result<bool, Malformed> {
        if self.datagrams.len() >= DATAGRAMS_MAX {
            return Err(Malformed::Pieces);
        }
        for record in Records(datagram) {
            let record = record?;
            if record.kind != HANDSHAKE || record.epoch != 0 {
                return Err(Malformed::NoHello);
            }
            for fragment in Fragments(record.body) {
                let fragment = fragment?;
                if fragment.kind != CLIENT_HELLO || fragment.sequence != 0 || fragment.length > HELLO_MAX {
                    return Err(Malformed::NoHello);
                }
                if self.came.is_empty() {
                    self.body = vec![0; fragment.length];
                    self.came = vec![false; fragment.length];
                }
                if self.body.len() != fragment.length {
                    return Err(Malformed::Fragment);
                }
                let part = fragment.offset..fragment.offset + fragment.data.len();
                if let (Some(body), Some(came)) = (self.body.get_mut(part.clone()), self.came.get_mut(part)) {
                    body.copy_from_slice(fragment.data);
                    came.fill(true);
                }
            }
        }
        self.datagrams.push(datagram.to_vec());
        Ok(!self.came.is_empty() && self.came.iter().all(|came| *came))
    }

    /// Whether the client offers a profile.
    pub(super) fn offers(&self, profile: Profile) -> bool {
        let profiles = profiles(&self.body).unwrap_or_default();
        profiles
            .chunks_exact(2)
            .any(|id| id.try_into().is_ok_and(|id| Profile::from_id(u16::from_be_bytes(id)) == Some(profile)))
    }

    pub(super) fn into_datagrams(self) -> Vec<Vec<u8>> {
        self.datagrams
    }
}

/// The profiles in a ClientHello (RFC 5246 7.4.1.2, RFC 6347 4.2.1).
fn profiles(hello: &[u8]) -> Option<&[u8]> {
    // Version and random.
    let rest = hello.get(34..)?;
    let (_session, rest) = short(rest)?;
    let (_cookie, rest) = short(rest)?;
    let (_suites, rest) = long(rest)?;
    let (_compression, rest) = short(rest)?;
    let (mut extensions, _) = long(rest)?;
    while let Some((kind, rest)) = extensions.split_first_chunk::<2>() {
        let (data, rest) = long(rest)?;
        if u16::from_be_bytes(*kind) == USE_SRTP {
            return long(data).map(|(profiles, _)| profiles);
        }
        extensions = rest;
    }
    None
}

/// A vector behind one byte that tells its length.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(length))
}

/// A vector behind two bytes that tell its length.
fn long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
