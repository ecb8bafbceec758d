//! The receiving half of a session.

use super::cipher::{self, Cipher};
use super::replay::Replay;
use super::{Error, Profile};
use crate::rtp::Header;

/// Sources that one peer sends: an audio and three video layers, each of those with a repair source, and room for a
/// publisher that changes them.
const SOURCES_MAX: usize = 32;

/// See the module. A source is known from its first authentic packet on, so forged ones leave nothing behind.
pub struct Unprotect {
    rtp: Cipher,
    rtcp: Cipher,
    sources: Vec<(u32, Replay)>,
    /// Of RTCP: its index counts for each sender apart (RFC 3711 3.2.3), and a browser sends as several.
    senders: Vec<(u32, Replay)>,
}

impl Unprotect {
    pub(super) fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<Self, Error> {
        Ok(Self {
            rtp: Cipher::new(profile, key, salt, cipher::RTP)?,
            rtcp: Cipher::new(profile, key, salt, cipher::RTCP)?,
            sources: Vec::new(),
            senders: Vec::new(),
        })
    }

    /// Decrypts an RTP packet where it lies. Returns its length without the tag, and its sequence number counted on
    /// beyond 16 bits.
    ///
    /// # Errors
    /// The packet is to be dropped; its bytes may have been overwritten.
    pub fn rtp(&mut self, header: &Header, packet: &mut [u8]) -> Result<(usize, u64), Error> {
        let Self { rtp, sources, .. } = self;
        admit(sources, header.ssrc, |replay| {
            let index = replay.index_of(header.sequence);
            if !replay.is_new(index) {
                return Err(Error::Replay);
            }
            Ok((rtp.open_rtp(index, header.payload, packet)?, index))
        })
    }

    /// Decrypts a compound RTCP packet where it lies; returns its length without what protection added.
    ///
    /// # Errors
    /// The packet is to be dropped; its bytes may have been overwritten.
    pub fn rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Error> {
        let Self { rtcp, senders, .. } = self;
        let word = rtcp.rtcp_index(packet)?;
        let sender = packet.get(4..).and_then(|rest| rest.first_chunk()).ok_or(Error::Short)?;
        let (length, _) = admit(senders, u32::from_be_bytes(*sender), |replay| {
            let index = u64::from(word & !(1 << 31));
            if !replay.is_new(index) {
                return Err(Error::Replay);
            }
            Ok((rtcp.open_rtcp(word, packet)?, index))
        })?;
        Ok(length)
    }
}

/// Lets `open` look at a source's window and decrypt; what was authentic is remembered there. Returns what `open` does:
/// a length and the index.
fn admit(
    sources: &mut Vec<(u32, Replay)>,
    ssrc: u32,
    open: impl FnOnce(&Replay) -> Result<(usize, u64), Error>,
) -> Result<(usize, u64), Error> {
    let known = sources.iter().position(|(known, _)| *known == ssrc);
    let mut fresh = Replay::new();
    let replay = known.and_then(|at| sources.get_mut(at)).map_or(&mut fresh, |(_, replay)| replay);
    let (length, index) = open(replay)?;
    replay.accept(index);
    if known.is_none() {
        if sources.len() >= SOURCES_MAX {
            return Err(Error::Sources);
        }
        sources.push((ssrc, fresh));
    }
    Ok((length, index))
}
