//! The handshake: the plain one of the specification (5.2), and the one with digests that Flash players, and ffmpeg
//! after them, expect of a server before they play.
use core::net::Ipv4Addr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::Error;

/// C1, S1, C2 and S2.
pub(super) const PACKET: usize = 1536;
const VERSION: u8 = 3;
const PROXY: u8 = 0xf3;
/// The address and what else the proxy may say.
const MAX_PROXY: usize = 64;
const DIGEST: usize = 32;
/// "Genuine Adobe Flash Media Server 001" and the constant that both sides' keys end with.
const SERVER_KEY: &[u8] = b"Genuine Adobe Flash Media Server 001\
    \xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57\x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae";
const SERVER_TEXT: &[u8] = SERVER_KEY.split_at(36).0;
const CLIENT_TEXT: &[u8] = b"Genuine Adobe Flash Player 001";

type Packet = [u8; PACKET];

/// The server's side until C1 is complete.
#[derive(Clone, Debug)]
pub(super) struct Hello {
    seed: [u8; 32],
    proxy: bool,
    bytes: Vec<u8>,
}

impl Hello {
    pub(super) fn new(seed: [u8; 32], proxy: bool) -> Self {
        Self { seed, proxy, bytes: Vec::new() }
    }

    /// Takes bytes up to the end of C1. Once it is complete, appends S0, S1 and S2 to `out` and returns the client's
    /// address if a trusted proxy gave it.
    pub(super) fn handle(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<Option<Option<Ipv4Addr>>, Error> {
        loop {
            let wanted = self.wanted()?;
            if self.bytes.len() >= wanted {
                break;
            }
            if input.is_empty() {
                return Ok(None);
            }
            let count = input.len().min(wanted - self.bytes.len());
            let (taken, rest) = input.split_at_checked(count).unwrap_or((input, &[]));
            self.bytes.reserve_exact(count);
            self.bytes.extend_from_slice(taken);
            *input = rest;
        }
        let Some(c1) = self.bytes.last_chunk::<PACKET>() else { return Ok(None) };
        answer(c1, &self.seed, out);
        let address = self.bytes.get(3..7).filter(|_| self.bytes.first() == Some(&PROXY));
        Ok(Some(address.and_then(|bytes| Some(Ipv4Addr::from(*bytes.first_chunk::<4>()?)))))
    }

    /// How many bytes are needed, as far as those at hand tell.
    fn wanted(&self) -> Result<usize, Error> {
        let prefix = match *self.bytes.as_slice() {
            [] => return Ok(1),
            [PROXY, ..] if self.proxy => match *self.bytes.as_slice() {
                [_, high, low, ..] => match usize::from(u16::from_be_bytes([high, low])) {
                    length @ 4..=MAX_PROXY => 3 + length,
                    _ => return Err(Error::ProxyPrefix),
                },
                _ => return Ok(3),
            },
            _ => 0,
        };
        match self.bytes.get(prefix) {
            None => Ok(prefix + 1),
            Some(&VERSION) => Ok(prefix + 1 + PACKET),
            Some(&other) => Err(Error::Version(other)),
        }
    }
}

/// Appends S0, S1 and S2 for `c1`.
fn answer(c1: &Packet, seed: &[u8; 32], out: &mut Vec<u8>) {
    let mut s1 = filler(seed, 0);
    let mut s2 = *c1;
    if let Some((schema, digest)) = find_digest(c1, CLIENT_TEXT) {
        // A version of at least 3 is what makes a client check the digests.
        put(&mut s1, 0, &[0, 0, 0, 0, 4, 5, 0, 1]);
        sign(&mut s1, schema, SERVER_TEXT);
        s2 = filler(seed, 1);
        prove(&mut s2, SERVER_KEY, &digest);
    } else {
        put(&mut s1, 0, &[0; 8]);
    }
    out.reserve(1 + 2 * PACKET);
    out.push(VERSION);
    out.extend_from_slice(&s1);
    out.extend_from_slice(&s2);
}

/// Which of its two halves holds the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schema {
    /// The key's block, then the digest's.
    KeyFirst,
    /// The digest's block, then the key's.
    DigestFirst,
}

impl Schema {
    /// Where the digest is: four bytes at the start of its block give the offset.
    fn position(self, packet: &Packet) -> usize {
        let block = match self {
            Self::KeyFirst => 772,
            Self::DigestFirst => 8,
        };
        let sum: usize = packet.iter().skip(block).take(4).map(|byte| usize::from(*byte)).sum();
        block + 4 + sum % 728
    }
}

/// The digest in `packet`, if it has one.
fn find_digest(packet: &Packet, key: &[u8]) -> Option<(Schema, [u8; DIGEST])> {
    [Schema::KeyFirst, Schema::DigestFirst].into_iter().find_map(|schema| {
        let at = schema.position(packet);
        let digest = digest_around(packet, at, key);
        (packet.get(at..at + DIGEST) == Some(digest.as_slice())).then_some((schema, digest))
    })
}

/// Writes the digest of the rest of the packet into it.
fn sign(packet: &mut Packet, schema: Schema, key: &[u8]) -> [u8; DIGEST] {
    let at = schema.position(packet);
    let digest = digest_around(packet, at, key);
    put(packet, at, &digest);
    digest
}

/// Writes the proof that `digest` was received to the packet's end.
fn prove(packet: &mut Packet, key: &[u8], digest: &[u8; DIGEST]) {
    let at = PACKET - DIGEST;
    let key = hmac(key, &[digest]);
    let proof = hmac(&key, &[packet.get(..at).unwrap_or_default()]);
    put(packet, at, &proof);
}

fn digest_around(packet: &Packet, at: usize, key: &[u8]) -> [u8; DIGEST] {
    hmac(key, &[packet.get(..at).unwrap_or_default(), packet.get(at + DIGEST..).unwrap_or_default()])
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST] {
    // A key longer than a block stands for its hash (RFC 2104).
    let mut block = [0; 64];
    match block.get_mut(..key.len()) {
        Some(start) => start.copy_from_slice(key),
        None => block.iter_mut().zip(Sha256::digest(key)).for_each(|(slot, byte)| *slot = byte),
    }
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn put(packet: &mut Packet, at: usize, bytes: &[u8]) {
    if let Some(slot) = packet.get_mut(at..at + bytes.len()) {
        slot.copy_from_slice(bytes);
    }
}

/// Random-looking bytes from the seed.
fn filler(seed: &[u8; 32], which: u8) -> Packet {
    let mut packet = [0; PACKET];
    for (index, block) in (0u8..).zip(packet.chunks_exact_mut(DIGEST)) {
        let bytes = Sha256::new().chain_update(seed).chain_update([which, index]).finalize();
        block.copy_from_slice(&bytes);
    }
    packet
}

/// C0 and C1, with a digest or (for `None`) plain.
pub(super) fn client_hello(seed: &[u8; 32], schema: Option<Schema>, out: &mut Vec<u8>) -> [u8; DIGEST] {
    let mut c1 = filler(seed, 0);
    let digest = if let Some(schema) = schema {
        put(&mut c1, 0, &[0, 0, 0, 0, 9, 0, 124, 2]);
        sign(&mut c1, schema, CLIENT_TEXT)
    } else {
        put(&mut c1, 0, &[0; 8]);
        [0; DIGEST]
    };
    out.push(VERSION);
    out.extend_from_slice(&c1);
    digest
}

/// Checks S0, S1 and S2 against what was sent, and appends C2.
pub(super) fn client_finish(
    seed: &[u8; 32],
    schema: Option<Schema>,
    sent: &[u8; DIGEST],
    answer: &[u8; 1 + 2 * PACKET],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let [version, packets @ ..] = answer;
    if *version != VERSION {
        return Err(Error::Version(*version));
    }
    let (Some(s1), Some(s2)) = (packets.first_chunk::<PACKET>(), packets.last_chunk::<PACKET>()) else {
        return Err(Error::Digest);
    };
    if schema.is_none() {
        out.extend_from_slice(s1);
        return Ok(());
    }
    let (_, digest) = find_digest(s1, SERVER_TEXT).ok_or(Error::Digest)?;
    let mut expected = *s2;
    prove(&mut expected, SERVER_KEY, sent);
    if expected != *s2 {
        return Err(Error::Digest);
    }
    let mut c2 = filler(seed, 1);
    // The client's own key differs from the server's in its text only.
    let mut key = CLIENT_TEXT.to_vec();
    key.extend(SERVER_KEY.iter().skip(SERVER_TEXT.len()));
    prove(&mut c2, &key, &digest);
    out.extend_from_slice(&c2);
    Ok(())
}
