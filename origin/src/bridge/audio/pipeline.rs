//! Decoder, rate, time and encoder in a row.

use super::codec::{Decode, Encode, Pcm, decoder, encoder};
use super::resample::Resample;
use super::{CHANNELS, CHUNK_MAX, Chunk, Coded, Error, RATE, Source, Target};

/// A step of time up to here is made up for with silence, or by leaving samples out; beyond it sound begins anew, in
/// microseconds.
const STEP_MAX: i64 = 1_000_000;

/// One stream's sound from any source to one target.
///
/// What comes out is continuous: each frame begins where the one before ended. Where times say that samples are
/// missing they are made up for (concealed or silent), where they say that there are too many some are left out, and
/// where they jump, time jumps too.
pub(crate) struct Pipeline {
    encoder: Box<dyn Encode>,
    input: Option<Input>,
    pcm: Pcm,
    /// Pairs that fill no frame yet, at [`RATE`].
    ready: Vec<f32>,
    /// Time of the first pair of `ready`: where it was begun and how many pairs have gone since.
    begun: i64,
    gone: i64,
}

/// What goes with one source.
struct Input {
    source: Source,
    decoder: Box<dyn Decode>,
    rate: u32,
    resample: Option<Resample>,
    /// Where its samples began, and how many pairs were taken since.
    begun: i64,
    taken: i64,
}

impl Input {
    /// Where the next sample lies, by count.
    fn position(&self) -> i64 {
        self.begun.saturating_add(micros(self.taken, self.rate))
    }
}

/// Pairs in microseconds.
fn micros(pairs: i64, rate: u32) -> i64 {
    let rate = i64::from(rate.max(1));
    pairs / rate * 1_000_000 + pairs % rate * 1_000_000 / rate
}

/// Microseconds, of [`STEP_MAX`] at most, in pairs.
fn pairs(us: i64, rate: u32) -> usize {
    usize::try_from(us.clamp(0, STEP_MAX) * i64::from(rate) / 1_000_000).unwrap_or(0)
}

fn count(samples: &[f32]) -> i64 {
    i64::try_from(samples.len() / CHANNELS).unwrap_or(0)
}

impl Pipeline {
    /// To this target.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn new(target: Target) -> Result<Self, Error> {
        encoder(target).map(Self::with)
    }

    /// To what this writes.
    pub(super) fn with(encoder: Box<dyn Encode>) -> Self {
        let (pcm, ready) = (Pcm::default(), Vec::new());
        Self { encoder, input: None, pcm, ready, begun: 0, gone: 0 }
    }

    /// Takes a frame and appends what it completes.
    ///
    /// # Errors
    /// This frame could not be read, or those before not be written; the next one may be given all the same.
    pub(crate) fn push(&mut self, chunk: &Chunk, out: &mut Vec<Coded>) -> Result<(), Error> {
        if chunk.data.len() > CHUNK_MAX {
            return Err(Error::Long(chunk.data.len()));
        }
        if self.input.as_ref().is_none_or(|input| input.source != chunk.source) {
            let (source, decoder) = (chunk.source.clone(), decoder(&chunk.source)?);
            self.input = Some(Input { source, decoder, rate: 0, resample: None, begun: 0, taken: 0 });
        }
        let Some(input) = &mut self.input else { return Ok(()) };
        self.pcm.samples.clear();
        input.decoder.decode(&chunk.data, &mut self.pcm)?;
        if self.pcm.samples.is_empty() {
            return Ok(());
        }
        let apart = chunk.pts_us.saturating_sub(input.position());
        if input.rate != self.pcm.rate || apart.saturating_abs() > STEP_MAX {
            self.begin(chunk.pts_us)?;
        } else if apart.saturating_abs() >= input.decoder.tolerance() {
            self.step(apart);
        }
        self.take(out)
    }

    /// Sound begins anew at this time: what fills no frame is dropped.
    fn begin(&mut self, pts_us: i64) -> Result<(), Error> {
        let Some(input) = &mut self.input else { return Ok(()) };
        input.rate = self.pcm.rate;
        input.resample = if input.rate == RATE { None } else { Some(Resample::new(input.rate)?) };
        (input.begun, input.taken) = (pts_us, 0);
        let delay = input.resample.as_ref().map_or(0, Resample::delay) + self.encoder.delay();
        self.begun = pts_us - micros(i64::try_from(delay).unwrap_or(0), RATE);
        self.gone = 0;
        self.ready.clear();
        Ok(())
    }

    /// Makes up for samples that are missing in front of those just read, or leaves out some of them.
    fn step(&mut self, apart: i64) {
        let Some(input) = &mut self.input else { return };
        let missing = pairs(apart.saturating_abs(), input.rate);
        if apart < 0 {
            let over = (missing * CHANNELS).min(self.pcm.samples.len());
            self.pcm.samples.drain(..over);
            return;
        }
        let read = core::mem::take(&mut self.pcm.samples);
        if !input.decoder.conceal(missing, &mut self.pcm) {
            self.pcm.samples.resize(missing * CHANNELS, 0.0);
        }
        self.pcm.samples.extend(read);
    }

    /// Takes over what was read and writes the frames that are full.
    fn take(&mut self, out: &mut Vec<Coded>) -> Result<(), Error> {
        let Some(input) = &mut self.input else { return Ok(()) };
        input.taken += count(&self.pcm.samples);
        match &mut input.resample {
            Some(resample) => resample.push(&self.pcm.samples, &mut self.ready)?,
            None => self.ready.extend_from_slice(&self.pcm.samples),
        }
        let frame = self.encoder.frame() * CHANNELS;
        while let Some(pairs) = self.ready.get_mut(..frame) {
            // What is not a number would end the encoder, and codecs ring over full scale.
            for sample in &mut *pairs {
                *sample = if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 };
            }
            let written = self.encoder.encode(pairs);
            let pts_us = self.begun.saturating_add(micros(self.gone, RATE));
            self.gone += count(pairs);
            self.ready.drain(..frame);
            out.push(Coded { pts_us, config: self.encoder.config(), data: written? });
        }
        Ok(())
    }
}
