//! Other rates to the one that is written.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

use super::{CHANNELS, Error, RATE};

/// What a block of the transform reads, in pairs, at 44.1 kHz; about that at other rates. A smaller one would delay less
/// and cost treble.
const BLOCK: usize = 294;

/// Brings one rate to [`RATE`], in blocks.
pub(super) struct Resample {
    inner: Fft<f32>,
    /// Pairs that fill no block yet.
    rest: Vec<f32>,
    block: Vec<f32>,
}

impl Resample {
    /// From this rate.
    ///
    /// # Errors
    /// It has no simple ratio to the other.
    pub(super) fn new(from: u32) -> Result<Self, Error> {
        let rates = (usize::try_from(from).unwrap_or(0), usize::try_from(RATE).unwrap_or(0));
        let inner = Fft::new(rates.0, rates.1, BLOCK, CHANNELS, FixedSync::Both).map_err(error)?;
        let block = vec![0.0; inner.output_frames_max() * CHANNELS];
        Ok(Self { inner, rest: Vec::new(), block })
    }

    /// By how many pairs, at the rate that is written, what comes out trails what goes in.
    pub(super) fn delay(&self) -> usize {
        self.inner.output_delay()
    }

    /// Appends to `out` what `pairs` and what was left of those before make.
    ///
    /// # Errors
    /// The resampler says so.
    pub(super) fn push(&mut self, pairs: &[f32], out: &mut Vec<f32>) -> Result<(), Error> {
        self.rest.extend_from_slice(pairs);
        let mut used = 0;
        loop {
            let need = self.inner.input_frames_next();
            let Some(input) = self.rest.get(used..used + need * CHANNELS) else { break };
            let frames = self.block.len() / CHANNELS;
            let input = InterleavedSlice::new(input, CHANNELS, need).map_err(error)?;
            let mut output = InterleavedSlice::new_mut(&mut self.block, CHANNELS, frames).map_err(error)?;
            let (_, made) = self.inner.process_into_buffer(&input, &mut output, None).map_err(error)?;
            out.extend_from_slice(self.block.get(..made * CHANNELS).unwrap_or_default());
            used += need * CHANNELS;
        }
        self.rest.drain(..used);
        Ok(())
    }
}

fn error(error: impl ToString) -> Error {
    Error::Encode { codec: "resampler", reason: error.to_string() }
}
