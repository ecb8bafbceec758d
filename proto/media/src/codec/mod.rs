//! Codec configuration: what sequence headers hold, and the bits of parameter sets and frames that it is made of.

pub mod aac;
pub mod av1;
pub mod avc;
mod bits;
pub mod hevc;
pub mod vpx;

pub use bits::{Bits, unescape};

/// Parameter sets of a kind that a configuration may hold.
pub const PARAMETER_SETS_MAX: usize = 16;

/// A parameter set in bytes: far above what encoders write.
pub const PARAMETER_SET_BYTES_MAX: usize = 4096;

/// The size of pictures, cropped, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

/// Units with `N` bytes of big-endian length in front, as configuration records and frames of H.264 and H.265 hold
/// them. Ends at one that is cut short.
#[derive(Clone, Copy, Debug)]
pub struct Units<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Units<'a> {
    /// Units whose lengths have `length` bytes: 1 to 4, anything else is taken as 4.
    pub fn new(data: &'a [u8], length: usize) -> Self {
        Self { rest: data, length: if (1..=4).contains(&length) { length } else { 4 } }
    }
}

impl<'a> Iterator for Units<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.rest.split_at_checked(self.length)?;
        let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        let (unit, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some(unit)
    }
}

/// `count` parameter sets with sixteen bits of length, off the front of `rest`.
fn take_sets(rest: &mut &[u8], count: usize) -> Option<Vec<bytes::Bytes>> {
    if count > PARAMETER_SETS_MAX {
        return None;
    }
    let mut sets = Vec::with_capacity(count);
    for _ in 0..count {
        let (size, tail) = rest.split_first_chunk::<2>()?;
        let (set, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        if set.len() > PARAMETER_SET_BYTES_MAX {
            return None;
        }
        sets.push(bytes::Bytes::copy_from_slice(set));
        *rest = tail;
    }
    Some(sets)
}

/// A parameter set with sixteen bits of length; one beyond the limit is left out by the callers before.
fn put_set(out: &mut Vec<u8>, set: &[u8]) {
    let size = u16::try_from(set.len()).unwrap_or(0);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(set.get(..usize::from(size)).unwrap_or_default());
}
