use super::word;

/// Packets that are read from one feedback packet; a few bytes can claim 65,535.
pub const FEEDBACK_MAX: u16 = 4_096;

/// Ticks of arrival times in microseconds.
const TICK: i64 = 250;

/// Ticks in a step of the reference time (64 ms).
const REFERENCE: i64 = 256;

/// Feedback about transport-wide sequence numbers (draft-holmer-rmcat-transport-wide-cc-extensions-01, 3.1). Yields
/// each number in turn, with its arrival in microseconds of the receiver's clock, or none if it has not come. That
/// clock wraps after 12.4 days.
#[derive(Clone, Copy, Debug)]
pub struct TransportCc<'a> {
    /// Who received.
    pub sender: u32,
    /// One of the sources that it received.
    pub media: u32,
    /// Count of the feedback packets; wraps.
    pub number: u8,
    sequence: u16,
    /// Packets to come.
    left: u16,
    /// In ticks.
    clock: i64,
    /// What says which came, from the chunk after the one that is being read.
    chunks: &'a [u8],
    deltas: &'a [u8],
    chunk: Chunk,
}

/// What is left of a chunk (3.1.3, 3.1.4).
#[derive(Clone, Copy, Debug)]
enum Chunk {
    /// So many times the same symbol.
    Run { symbol: u16, left: u16 },
    /// So many symbols of `width` bits, the first in the high ones of fourteen bits.
    Vector { bits: u16, width: u16, left: u16 },
}

impl Chunk {
    fn new(chunk: [u8; 2]) -> Self {
        let bits = u16::from_be_bytes(chunk);
        match bits >> 14 {
            0 | 1 => Self::Run { symbol: bits >> 13 & 3, left: bits & 0x1fff },
            2 => Self::Vector { bits: bits & 0x3fff, width: 1, left: 14 },
            _ => Self::Vector { bits: bits & 0x3fff, width: 2, left: 7 },
        }
    }

    /// How many symbols it has left.
    fn left(self) -> u16 {
        match self {
            Self::Run { left, .. } | Self::Vector { left, .. } => left,
        }
    }

    /// The next symbol: 0 for a packet that has not come, 1 for a short delta, 2 for a long one.
    fn symbol(&mut self) -> Option<u16> {
        match self {
            Self::Run { symbol, left } => {
                *left = left.checked_sub(1)?;
                Some(*symbol)
            }
            Self::Vector { bits, width, left } => {
                *left = left.checked_sub(1)?;
                let symbol = *bits >> (14 - *width);
                *bits = *bits << *width & 0x3fff;
                Some(symbol)
            }
        }
    }
}

impl<'a> TransportCc<'a> {
    /// Reads what follows the two identifiers.
    pub(super) fn parse(sender: u32, media: u32, body: &'a [u8]) -> Option<Self> {
        let (first, body) = word(body)?;
        let (time, body) = word(body)?;
        // Both halves, and the low byte, are meant.
        let (sequence, count) = ((first >> 16) as u16, first as u16);
        let (reference, number) = (time.cast_signed() >> 8, time as u8);
        let (mut deltas, mut told) = (body, 0_u16);
        while told < count {
            let (&chunk, rest) = deltas.split_first_chunk()?;
            told = told.saturating_add(Chunk::new(chunk).left());
            deltas = rest;
        }
        let chunks = body.get(..body.len() - deltas.len())?;
        let left = count.min(FEEDBACK_MAX);
        let clock = i64::from(reference) * REFERENCE;
        let chunk = Chunk::Run { symbol: 0, left: 0 };
        Some(Self { sender, media, number, sequence, left, clock, chunks, deltas, chunk })
    }

    fn symbol(&mut self) -> Option<u16> {
        loop {
            if let Some(symbol) = self.chunk.symbol() {
                return Some(symbol);
            }
            let (&chunk, rest) = self.chunks.split_first_chunk()?;
            self.chunks = rest;
            self.chunk = Chunk::new(chunk);
        }
    }

    /// What a symbol stands for; none if the deltas end too early or the symbol is reserved.
    fn arrival(&mut self, symbol: u16) -> Option<Option<i64>> {
        let delta = match symbol {
            0 => return Some(None),
            1 => {
                let (&delta, rest) = self.deltas.split_first()?;
                self.deltas = rest;
                i64::from(delta)
            }
            2 => {
                let (&delta, rest) = self.deltas.split_first_chunk()?;
                self.deltas = rest;
                i64::from(i16::from_be_bytes(delta))
            }
            _ => return None,
        };
        self.clock += delta;
        Some(Some(self.clock * TICK))
    }
}

impl Iterator for TransportCc<'_> {
    type Item = (u16, Option<i64>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let symbol = self.symbol();
        let Some(arrival) = symbol.and_then(|symbol| self.arrival(symbol)) else {
            self.left = 0;
            return None;
        };
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        Some((sequence, arrival))
    }
}
