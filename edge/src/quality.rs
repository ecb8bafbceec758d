//! How well a publisher sends: what its frames' arrivals and times say. Pure.

use std::time::{Duration, Instant};

use weir_media::Kind;
use weir_proto::supervisor::PublisherFigures;

/// What is called "lately", in seconds.
const WINDOW: u64 = 10;

/// The window and the second that is not over yet.
const SECONDS: usize = 11;

/// The first seconds say little: encoders send at once what they had waiting.
const SETTLING: u64 = 2;

/// Seconds over which a publisher's own average is kept.
const MEMORY: f64 = 300.0;

/// Below this part of its own average a frame rate is unsteady.
const UNSTEADY: f64 = 0.8;

/// A step of this many usual ones is a gap.
const GAP_STEPS: i64 = 3;

/// A shorter step is none, in microseconds: frame rates vary.
const GAP_MIN: i64 = 200_000;

/// Before it is known what is usual.
const GAP_FIRST: i64 = 1_000_000;

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    frames: u64,
    bytes: u64,
    gaps: u64,
}

/// What is known of a publisher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Look {
    pub(crate) figures: PublisherFigures,
    /// It had gaps in the last [`WINDOW`], or its frame rate there is below [`UNSTEADY`] of its own average.
    pub(crate) unsteady: bool,
}

/// See the module. One track is judged: the video, or the audio where there is no video.
///
/// Under load publishers are read in the rhythm of the rounds, so jitter below 100 ms may be the reader's own.
#[derive(Clone, Debug)]
pub(crate) struct Quality {
    start: Instant,
    video: bool,
    last: Option<(Instant, i64)>,
    /// The usual step from frame to frame, in microseconds.
    step: Option<i64>,
    /// In microseconds.
    jitter: f64,
    gaps: u64,
    seconds: [Second; SECONDS],
    /// The second that is not over yet, counted from the start.
    current: u64,
    /// Frames a second over [`MEMORY`], and the seconds that it is made of.
    average: (f64, u64),
}

impl Quality {
    /// A publisher that begins now.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            video: false,
            last: None,
            step: None,
            jitter: 0.0,
            gaps: 0,
            seconds: [Second::default(); SECONDS],
            current: 0,
            average: (0.0, 0),
        }
    }

    /// A frame that is no configuration arrived. `dts` in microseconds; `bridged`: its time was out of order and was
    /// repaired.
    pub(crate) fn frame(&mut self, now: Instant, kind: Kind, dts: i64, bytes: usize, bridged: bool) {
        self.advance(now);
        if kind == Kind::Video && !self.video {
            self.video = true;
            (self.last, self.step) = (None, None);
        }
        let judged = kind == if self.video { Kind::Video } else { Kind::Audio };
        let gap = bridged || judged && self.is_gap(dts);
        if judged && kind != Kind::Data {
            self.time(now, dts, gap);
        }
        self.gaps += u64::from(gap);
        let second = self.second(self.current);
        second.bytes = second.bytes.saturating_add(bytes as u64);
        second.frames += u64::from(judged);
        second.gaps += u64::from(gap);
    }

    fn is_gap(&self, dts: i64) -> bool {
        let Some((_, last)) = self.last else { return false };
        let most = self.step.map_or(GAP_FIRST, |step| step.saturating_mul(GAP_STEPS).max(GAP_MIN));
        let step = dts.saturating_sub(last);
        step < 0 || step > most
    }

    /// RFC 3550, 6.4.1 and A.8: the difference of the differences, over 16 packets.
    fn time(&mut self, now: Instant, dts: i64, gap: bool) {
        let Some((then, last)) = self.last.replace((now, dts)) else { return };
        if gap {
            return;
        }
        let step = dts.saturating_sub(last);
        let usual = self.step.unwrap_or(step);
        self.step = Some(usual.saturating_add((step.saturating_sub(usual)) / 16));
        let passed = i64::try_from(now.saturating_duration_since(then).as_micros()).unwrap_or(i64::MAX);
        let late = passed.saturating_sub(step).unsigned_abs() as f64;
        self.jitter += (late - self.jitter) / 16.0;
    }

    /// What is known by now.
    pub(crate) fn look(&mut self, now: Instant) -> Look {
        self.advance(now);
        let seconds = self.current.min(WINDOW);
        let sum = (1..=seconds).map(|ago| *self.second(self.current - ago)).fold(Second::default(), |a, b| Second {
            frames: a.frames + b.frames,
            bytes: a.bytes.saturating_add(b.bytes),
            gaps: a.gaps + b.gaps,
        });
        let rate = |n: u64| if seconds == 0 { 0.0 } else { n as f64 / seconds as f64 };
        let frame_rate = rate(sum.frames);
        let (average, known) = self.average;
        let gaps = sum.gaps + self.second(self.current).gaps;
        let slow = known >= WINDOW && frame_rate < average * UNSTEADY;
        let figures = PublisherFigures {
            frame_rate,
            dts_gaps: self.gaps,
            arrival_jitter_seconds: self.jitter / 1e6,
            bitrate: rate(sum.bytes.saturating_mul(8)),
        };
        Look { figures, unsteady: gaps > 0 || slow }
    }

    fn second(&mut self, number: u64) -> &mut Second {
        let place = usize::try_from(number % SECONDS as u64).unwrap_or(0);
        // The remainder is a place of the array.
        &mut self.seconds[place.min(SECONDS - 1)]
    }

    /// Closes the seconds that are over.
    fn advance(&mut self, now: Instant) {
        let to = now.saturating_duration_since(self.start).as_secs();
        // Of a long silence only so much counts as is remembered.
        let memory = Duration::from_secs_f64(MEMORY).as_secs();
        for _ in 0..to.saturating_sub(self.current).min(memory) {
            let frames = self.second(self.current).frames;
            if self.current >= SETTLING {
                let (average, known) = &mut self.average;
                *known += 1;
                *average += (frames as f64 - *average) / (*known as f64).min(MEMORY);
            }
            self.current += 1;
            *self.second(self.current) = Second::default();
        }
        self.current = self.current.max(to);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Sends video of 25 frames a second and 1000 bytes a frame, with audio between, from `from` ms on.
    fn send(quality: &mut Quality, start: Instant, from: u64, to: u64, late: impl Fn(u64) -> u64) {
        for at in (from..to).step_by(40) {
            let now = start + millis(at + late(at));
            quality.frame(now, Kind::Audio, at as i64 * 1000, 100, false);
            quality.frame(now, Kind::Video, at as i64 * 1000, 1000, false);
        }
    }

    #[test]
    fn a_steady_publisher_is_steady() {
        let start = Instant::now();
        let mut quality = Quality::new(start);
        send(&mut quality, start, 0, 60_000, |_| 0);
        let Look { figures, unsteady } = quality.look(start + millis(60_000));
        assert!(!unsteady);
        assert_eq!((figures.frame_rate, figures.dts_gaps), (25.0, 0));
        assert_eq!(figures.bitrate, 25.0 * 1100.0 * 8.0);
        assert!(figures.arrival_jitter_seconds < 1e-9, "{figures:?}");
    }

    #[test]
    fn late_frames_are_jitter_and_no_gap() {
        let start = Instant::now();
        let mut quality = Quality::new(start);
        // Every other one 20 ms late: each difference is off by 20 ms.
        send(&mut quality, start, 0, 20_000, |at| at / 40 % 2 * 20);
        let Look { figures, unsteady } = quality.look(start + millis(20_000));
        assert!((figures.arrival_jitter_seconds - 0.02).abs() < 0.001, "{figures:?}");
        assert!(!unsteady && figures.dts_gaps == 0);
    }

    #[test]
    fn missing_frames_are_a_gap_for_ten_seconds() {
        let start = Instant::now();
        let mut quality = Quality::new(start);
        send(&mut quality, start, 0, 30_000, |_| 0);
        send(&mut quality, start, 30_400, 32_000, |_| 0);
        let look = quality.look(start + millis(32_000));
        assert_eq!((look.figures.dts_gaps, look.unsteady), (1, true));
        send(&mut quality, start, 32_000, 45_000, |_| 0);
        let look = quality.look(start + millis(45_000));
        assert_eq!((look.figures.dts_gaps, look.unsteady), (1, false));
        // A clock that jumped, wherever the repair put the frame.
        quality.frame(start + millis(45_000), Kind::Audio, 45_000_000, 100, true);
        assert_eq!(quality.look(start + millis(45_000)).figures.dts_gaps, 2);
    }

    #[test]
    fn a_frame_rate_below_its_own_average_is_unsteady() {
        let start = Instant::now();
        let mut quality = Quality::new(start);
        send(&mut quality, start, 0, 60_000, |_| 0);
        // An encoder that cannot keep up: 16 frames a second, each with its right time.
        for at in (60_000..75_000_u64).step_by(62) {
            quality.frame(start + millis(at), Kind::Video, at as i64 * 1000, 1000, false);
        }
        let look = quality.look(start + millis(75_000));
        assert!(look.unsteady && look.figures.dts_gaps == 0, "{look:?}");
        // Nothing at all.
        assert!(quality.look(start + millis(90_000)).unsteady);
        assert_eq!(quality.look(start + millis(90_000)).figures.frame_rate, 0.0);
    }

    #[test]
    fn what_waited_at_the_start_does_not_make_the_rest_slow() {
        let start = Instant::now();
        let mut quality = Quality::new(start);
        for at in (0..5_000).step_by(40) {
            quality.frame(start + millis(at / 10), Kind::Video, at as i64 * 1000, 1000, false);
        }
        send(&mut quality, start - millis(5_000), 5_000, 40_000, |_| 500);
        for at in 11..34 {
            assert!(!quality.clone().look(start + millis(at * 1000)).unsteady || at < 12, "{at}");
        }
    }

    #[test]
    fn sound_alone_is_judged_by_itself() {
        let start = Instant::now();
        let mut quality = Quality::new(start);
        for at in (0..12_000_u64).step_by(20) {
            quality.frame(start + millis(at), Kind::Audio, at as i64 * 1000, 100, false);
        }
        assert_eq!(quality.look(start + millis(12_000)).figures.frame_rate, 50.0);
        assert!(!quality.look(start + millis(12_000)).unsteady);
    }

    proptest! {
        /// Whatever times come: numbers stay numbers.
        #[test]
        fn any_times_are_borne(
            frames in prop::collection::vec((0..100_000_u64, any::<i64>(), 0..3_usize, any::<bool>()), 0..60),
        ) {
            let start = Instant::now();
            let mut quality = Quality::new(start);
            let mut now = start;
            for (wait, dts, kind, bridged) in frames {
                now += millis(wait);
                quality.frame(now, [Kind::Audio, Kind::Video, Kind::Data][kind], dts, usize::MAX, bridged);
                let PublisherFigures { frame_rate, arrival_jitter_seconds, bitrate, .. } = quality.look(now).figures;
                prop_assert!([frame_rate, arrival_jitter_seconds, bitrate].iter().all(|n| n.is_finite() && *n >= 0.0));
            }
        }
    }
}
