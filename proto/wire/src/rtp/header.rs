//! The fixed header and the header extensions (RFC 3550 5.1, RFC 8285).

/// The fixed header, in bytes.
const FIXED: usize = 12;

/// Profile of one-byte extension headers (RFC 8285 4.2).
const ONE_BYTE: u16 = 0xbede;

/// Profile of two-byte extension headers without its four free bits (RFC 8285 4.3).
const TWO_BYTE: u16 = 0x1000;

/// Why bytes are no RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It ends before the header does.
    #[error("shorter than its header says")]
    Short,
    /// Not version 2.
    #[error("not RTP version 2")]
    Version,
    /// The last byte counts more padding than there is payload, or none.
    #[error("more padding than payload")]
    Padding,
}

/// Where things lie in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The marker bit.
    pub marker: bool,
    /// 0 to 127.
    pub payload_type: u8,
    /// Sequence number.
    pub sequence: u16,
    /// In ticks of the codec's clock.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// The packet ends with padding. What is encrypted says how much: see [`Header::payload_end`].
    pub padding: bool,
    /// Profile of the extension, and where its data begins and ends; none: both at `payload`.
    profile: u16,
    extension: (usize, usize),
    /// Where the payload begins: the length of the header.
    pub payload: usize,
}

impl Header {
    /// Reads a header from the front of a packet; the payload may be encrypted.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(packet: &[u8]) -> Result<Self, Error> {
        let fixed: &[u8; FIXED] = packet.first_chunk().ok_or(Error::Short)?;
        let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *fixed;
        if first >> 6 != 2 {
            return Err(Error::Version);
        }
        let mut payload = FIXED + 4 * usize::from(first & 0x0f);
        let (mut profile, mut extension) = (0, (payload, payload));
        if first & 0x10 != 0 {
            let [p0, p1, l0, l1] =
                *packet.get(payload..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Error::Short)?;
            profile = u16::from_be_bytes([p0, p1]);
            let start = payload + 4;
            payload = start + 4 * usize::from(u16::from_be_bytes([l0, l1]));
            extension = (start, payload);
        }
        if payload > packet.len() {
            return Err(Error::Short);
        }
        Ok(Self {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            padding: first & 0x20 != 0,
            profile,
            extension,
            payload,
        })
    }

    /// Where the payload of a decrypted packet ends and its padding begins.
    ///
    /// # Errors
    /// The padding is longer than the payload, or empty (RFC 3550 5.1).
    pub fn payload_end(&self, packet: &[u8]) -> Result<usize, Error> {
        if !self.padding {
            return Ok(packet.len());
        }
        let count = packet.last().copied().map_or(0, usize::from);
        match packet.len().checked_sub(count) {
            Some(end) if count > 0 && end >= self.payload => Ok(end),
            _ => Err(Error::Padding),
        }
    }

    /// The header extensions of the packet that this is the header of; none where they are malformed.
    pub fn extensions<'a>(&self, packet: &'a [u8]) -> Extensions<'a> {
        let data = packet.get(self.extension.0..self.extension.1).unwrap_or_default();
        Extensions { two_byte: self.profile & 0xfff0 == TWO_BYTE, data: if self.known() { data } else { &[] } }
    }

    fn known(&self) -> bool {
        self.profile == ONE_BYTE || self.profile & 0xfff0 == TWO_BYTE
    }
}

/// Identifiers and data of a packet's header extensions.
#[derive(Clone, Copy, Debug)]
pub struct Extensions<'a> {
    two_byte: bool,
    data: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// The data of the extension `id`, as negotiated by `a=extmap`.
    pub fn get(self, id: u8) -> Option<&'a [u8]> {
        let mut all = self;
        all.find(|(found, _)| *found == id).map(|(_, data)| data)
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (&head, rest) = self.data.split_first()?;
            // A zero is padding (RFC 8285 4.1.2).
            if head == 0 {
                self.data = rest;
                continue;
            }
            let (id, length, rest) = if self.two_byte {
                let (&length, rest) = rest.split_first()?;
                (head, usize::from(length), rest)
            } else {
                // Fifteen ends the list (4.2).
                if head >> 4 == 15 {
                    return None;
                }
                (head >> 4, usize::from(head & 0x0f) + 1, rest)
            };
            let (data, rest) = rest.split_at_checked(length)?;
            self.data = rest;
            return Some((id, data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [u8; 14] = [0x80, 0xe0, 1, 2, 0, 0, 0, 3, 0, 0, 0, 4, b'a', b'b'];

    #[test]
    fn a_plain_header() {
        let header = Header::parse(&PLAIN).unwrap();
        assert_eq!((header.marker, header.payload_type, header.sequence), (true, 96, 0x0102));
        assert_eq!((header.timestamp, header.ssrc, header.payload), (3, 4, 12));
        assert_eq!(header.payload_end(&PLAIN), Ok(14));
        assert_eq!(header.extensions(&PLAIN).count(), 0);
    }

    #[test]
    fn extensions_of_one_and_two_bytes() {
        let mut one = vec![0x90, 96, 0, 1, 0, 0, 0, 3, 0, 0, 0, 4, 0xbe, 0xde, 0, 2];
        one.extend([0x32, 1, 2, 3, 0, 0x10, 9, 0, b'x']);
        let header = Header::parse(&one).unwrap();
        assert_eq!(header.extensions(&one).collect::<Vec<_>>(), [(3, &[1, 2, 3][..]), (1, &[9])]);
        assert_eq!((header.extensions(&one).get(1), header.extensions(&one).get(2)), (Some(&[9][..]), None));
        assert_eq!(&one[header.payload..], b"x");
        let mut two = vec![0x90, 96, 0, 1, 0, 0, 0, 3, 0, 0, 0, 4, 0x10, 0x07, 0, 2];
        two.extend([16, 0, 3, 2, 7, 8, 0, 0, b'x']);
        let header = Header::parse(&two).unwrap();
        assert_eq!(header.extensions(&two).collect::<Vec<_>>(), [(16, &[][..]), (3, &[7, 8])]);
    }

    #[test]
    fn what_is_longer_than_the_packet() {
        for end in 0..12 {
            assert_eq!(Header::parse(&PLAIN[..end]), Err(Error::Short));
        }
        let mut csrc = PLAIN;
        csrc[0] = 0x8f;
        assert_eq!(Header::parse(&csrc), Err(Error::Short), "fifteen sources in a short packet");
        let long = [0x90, 96, 0, 1, 0, 0, 0, 3, 0, 0, 0, 4, 0xbe, 0xde, 0xff, 0xff, 0];
        assert_eq!(Header::parse(&long), Err(Error::Short), "an extension past the end");
        let over = [0x90, 96, 0, 1, 0, 0, 0, 3, 0, 0, 0, 4, 0xbe, 0xde, 0, 1, 0x1f, 1, 2, 3];
        assert_eq!(Header::parse(&over).unwrap().extensions(&over).count(), 0, "an element past the extension");
        assert_eq!(Header::parse(&[0x40; 20]), Err(Error::Version));
    }

    #[test]
    fn padding() {
        let padded = |count: u8| {
            let mut packet = PLAIN.to_vec();
            packet[0] |= 0x20;
            packet[13] = count;
            Header::parse(&packet).unwrap().payload_end(&packet)
        };
        assert_eq!((padded(1), padded(2)), (Ok(13), Ok(12)));
        assert_eq!(
            (padded(0), padded(3), padded(255)),
            (Err(Error::Padding), Err(Error::Padding), Err(Error::Padding))
        );
    }

    #[test]
    fn fuzz_header() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|packet: &[u8]| {
            if let Ok(header) = Header::parse(packet) {
                assert!(header.payload <= packet.len());
                assert!(header.extensions(packet).count() <= packet.len());
                assert!(header.payload_end(packet).is_ok_and(|end| end >= header.payload) || header.padding);
            }
        });
    }
}
