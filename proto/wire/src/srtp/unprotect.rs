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
    rtcp_replay: Replay,
}

impl Unprotect {
    pub(super) fn new(profile: Profile, key: &[u8], salt: &[u8]) -> Result<Self, Error> {
        Ok(Self {
            rtp: Cipher::new(profile, key, salt, cipher::RTP)?,
            rtcp: Cipher::new(profile, key, salt, cipher::RTCP)?,
            sources: Vec::new(),
            rtcp_replay: Replay::new(),
        })
    }

    /// Decrypts an RTP packet where it lies. Returns its length without the tag, and its sequence number counted on
    /// beyond 16 bits.
    ///
    /// # Errors
    /// The packet is to be dropped; its bytes may have been overwritten.
    pub fn rtp(&mut self, header: &Header, packet: &mut [u8]) -> Result<(usize, u64), Error> {
        let known = self.sources.iter().position(|(ssrc, _)| *ssrc == header.ssrc);
        let mut fresh = Replay::new();
        let replay = known.and_then(|at| self.sources.get_mut(at)).map_or(&mut fresh, |(_, replay)| replay);
        let index = replay.index_of(header.sequence);
        if !replay.is_new(index) {
            return Err(Error::Replay);
        }
        let length = self.rtp.open_rtp(index, header.payload, packet)?;
        replay.accept(index);
        if known.is_none() {
            if self.sources.len() >= SOURCES_MAX {
                return Err(Error::Sources);
            }
            self.sources.push((header.ssrc, fresh));
        }
        Ok((length, index))
    }

    /// Decrypts a compound RTCP packet where it lies; returns its length without what protection added.
    ///
    /// # Errors
    /// The packet is to be dropped; its bytes may have been overwritten.
    pub fn rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Error> {
        let word = self.rtcp.rtcp_index(packet)?;
        let index = u64::from(word & !(1 << 31));
        if !self.rtcp_replay.is_new(index) {
            return Err(Error::Replay);
        }
        let length = self.rtcp.open_rtcp(word, packet)?;
        self.rtcp_replay.accept(index);
        Ok(length)
    }
}
