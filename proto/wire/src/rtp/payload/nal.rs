//! What H.264 and H.265 have in common.

/// Units with sixteen bits of length in front: aggregation packets (RFC 6184 5.7.1, RFC 7798 4.4.2). Ends at one that
/// is cut short.
#[derive(Clone, Copy, Debug)]
pub struct Sized16<'a>(pub &'a [u8]);

impl<'a> Iterator for Sized16<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let (size, rest) = self.0.split_first_chunk::<2>()?;
        let (unit, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*size)))?;
        self.0 = rest;
        Some(unit)
    }
}
