//! Reading bits, most significant first.

/// A reader of bits; every read past the end is none.
#[derive(Clone, Copy, Debug)]
pub struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    /// From the first bit of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    /// One bit.
    pub fn flag(&mut self) -> Option<bool> {
        let byte = *self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// `count` bits, 32 at most.
    pub fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0_u32;
        for _ in 0..count.min(32) {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    /// `count` bits, eight at most.
    pub fn small(&mut self, count: u32) -> Option<u8> {
        self.read(count.min(8)).and_then(|value| u8::try_from(value).ok())
    }

    /// Goes on `count` bits.
    pub fn skip(&mut self, count: usize) -> Option<()> {
        let at = self.at.checked_add(count)?;
        (at <= self.data.len() * 8).then(|| self.at = at)
    }

    /// ue(v) (9.1 of H.264), below 2^32 - 1.
    pub fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1_u32 << zeros) - 1 + self.read(zeros)?)
    }

    /// se(v) (9.1.1 of H.264).
    pub fn se(&mut self) -> Option<i32> {
        let code = self.ue()?;
        let half = i32::try_from(code.div_ceil(2)).ok()?;
        Some(if code % 2 == 1 { half } else { -half })
    }

    /// uvlc() (4.10.3 of AV1).
    pub fn uvlc(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros >= 32 {
                return Some(u32::MAX);
            }
        }
        self.read(zeros)?.checked_add((1_u32 << zeros) - 1)
    }
}

/// Takes the emulation prevention bytes out of a unit (7.4.1 of H.264), of its first `most` bytes.
pub fn unescape(unit: &[u8], most: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(unit.len().min(most));
    let mut zeros = 0;
    for &byte in unit.iter().take(most) {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        // 1, 010, 011, 00100, 00101, 1
        let mut bits = Bits::new(&[0b1010_0110, 0b0100_0010, 0b1100_0000]);
        assert_eq!([bits.ue(), bits.ue(), bits.ue(), bits.ue(), bits.ue()].map(Option::unwrap), [0, 1, 2, 3, 4]);
        assert_eq!(bits.flag(), Some(true));
        let mut bits = Bits::new(&[0b0100_1100, 0b1000_0101, 0b1000_0000]);
        assert_eq!([bits.se(), bits.se(), bits.se(), bits.se()].map(Option::unwrap), [1, -1, 2, -2]);
        assert_eq!(Bits::new(&[0; 8]).ue(), None, "too many zeros");
        assert_eq!(Bits::new(&[0, 0, 0, 1, 0xff]).ue(), None, "cut short");
        assert_eq!(Bits::new(&[0, 0, 0, 0, 0x80]).uvlc(), Some(u32::MAX));
        assert_eq!((Bits::new(&[0xab, 0xcd]).read(12), Bits::new(&[1]).skip(9)), (Some(0xabc), None));
    }

    #[test]
    fn emulation_prevention() {
        assert_eq!(unescape(&[1, 0, 0, 3, 1, 0, 0, 0, 3, 0, 0, 3], 99), [1, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(unescape(&[1, 2, 3, 4], 2), [1, 2]);
    }
}
