//! What is looked at in DTLS records before the endpoint sees them (RFC 6347 4.1 to 4.2.3).

use std::collections::BTreeMap;

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
const MESSAGE_MAX: usize = 15 * 1024;

/// Messages that may come before their time: a flight has five.
const AHEAD_MAX: u16 = 8;

/// Records that no DTLS client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("a record that is none")]
    Record,
    #[error("a handshake fragment that does not fit its message")]
    Fragment,
    #[error("no ClientHello")]
    NoHello,
    #[error("a handshake message far ahead of its time")]
    Ahead,
}

/// What a datagram brought.
#[derive(Debug, Default)]
pub(super) struct Brought {
    /// Datagrams for the endpoint, in order: whole handshake messages, and what is none.
    pub(super) records: Vec<Vec<u8>>,
    /// All messages among it came before.
    pub(super) repeated: bool,
}

struct Record<'a> {
    kind: u8,
    epoch: u16,
    /// All but the length, and all of it.
    head: &'a [u8],
    whole: &'a [u8],
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
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let (Some((body, rest)), Some(whole), Some(head)) =
            (rest.split_at_checked(length), all.get(..RECORD + length), all.get(..RECORD - 2))
        else {
            return Some(Err(Malformed::Record));
        };
        self.0 = rest;
        let known = (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&kind);
        if major != 0xfe || body.is_empty() || !known {
            return Some(Err(Malformed::Record));
        }
        Some(Ok(Record { kind, epoch: u16::from_be_bytes([e0, e1]), head, whole, body }))
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

/// Handshake messages, joined of their fragments and given out one after the other. The endpoint would take a part of a
/// message for a repetition of the one before.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    /// Number of the next message to give out.
    next: u16,
    parts: BTreeMap<u16, Part>,
}

#[derive(Debug)]
struct Part {
    kind: u8,
    body: Vec<u8>,
    /// Which bytes came.
    came: Vec<bool>,
}

impl Joiner {
    /// Whether no message was given out yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.next == 0
    }

    /// How many messages were given out.
    pub(super) fn given(&self) -> u16 {
        self.next
    }

    /// Takes a datagram in.
    pub(super) fn add(&mut self, datagram: &[u8]) -> Result<Brought, Malformed> {
        let mut brought = Brought::default();
        let (mut old, mut new) = (false, false);
        for record in Records(datagram) {
            let record = record?;
            if record.kind != HANDSHAKE || record.epoch != 0 {
                brought.records.push(record.whole.to_vec());
                continue;
            }
            for fragment in Fragments(record.body) {
                let fragment = fragment?;
                if fragment.sequence < self.next {
                    old = true;
                    continue;
                }
                new = true;
                self.put(&fragment)?;
            }
            while let Some(message) = self.take(record.head) {
                brought.records.push(message);
            }
        }
        brought.repeated = old && !new;
        Ok(brought)
    }

    fn put(&mut self, fragment: &Fragment<'_>) -> Result<(), Malformed> {
        if fragment.sequence - self.next >= AHEAD_MAX {
            return Err(Malformed::Ahead);
        }
        let part = self.parts.entry(fragment.sequence).or_insert_with(|| Part {
            kind: fragment.kind,
            body: vec![0; fragment.length],
            came: vec![false; fragment.length],
        });
        if part.kind != fragment.kind || part.body.len() != fragment.length {
            return Err(Malformed::Fragment);
        }
        let range = fragment.offset..fragment.offset + fragment.data.len();
        if let (Some(body), Some(came)) = (part.body.get_mut(range.clone()), part.came.get_mut(range)) {
            body.copy_from_slice(fragment.data);
            came.fill(true);
        }
        Ok(())
    }

    /// The next message, if it is whole, in a record with the head of the one that completed it.
    fn take(&mut self, head: &[u8]) -> Option<Vec<u8>> {
        let part = self.parts.get(&self.next).filter(|part| part.came.iter().all(|came| *came))?;
        let length = u32::try_from(part.body.len()).ok()?.to_be_bytes();
        let [_, length @ ..] = length;
        let mut record = head.to_vec();
        record.extend(u16::try_from(MESSAGE + part.body.len()).ok()?.to_be_bytes());
        record.push(part.kind);
        record.extend(length);
        record.extend(self.next.to_be_bytes());
        record.extend([0; 3]);
        record.extend(length);
        record.extend_from_slice(&part.body);
        self.parts.remove(&self.next);
        self.next = self.next.checked_add(1)?;
        Some(record)
    }
}

/// Whether a record that holds a whole ClientHello offers a profile.
pub(super) fn offers(record: &[u8], profile: Profile) -> bool {
    let profiles = record.get(RECORD + MESSAGE..).and_then(profiles).unwrap_or_default();
    let mut ids = profiles.chunks_exact(2).filter_map(|id| id.try_into().ok()).map(u16::from_be_bytes);
    ids.any(|id| Profile::from_id(id) == Some(profile))
}

/// Whether a record belongs behind all plain messages: ChangeCipherSpec, and what is encrypted.
pub(super) fn is_last(record: &[u8]) -> bool {
    record.first() == Some(&CHANGE_CIPHER_SPEC) || record.get(3..5) != Some(&[0, 0])
}

/// Whether a record holds a whole ClientHello.
pub(super) fn is_hello(record: &[u8]) -> bool {
    record.first() == Some(&HANDSHAKE) && record.get(RECORD) == Some(&CLIENT_HELLO)
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
