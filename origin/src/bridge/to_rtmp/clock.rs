//! Two clocks of a sender as one time line: sound and picture stay together, and times never go back.
//!
//! RTP timestamps of two sources have nothing in common but what sender reports say of them (RFC 3550 6.4.1). Until
//! both have reported, the arrival of each one's first packet stands in for that. A correction moves one of them
//! forward, never back.

use std::time::Instant;

use weir_wire::rtp::{Codec, Media};

/// Sound and picture closer than this are left as they are, in microseconds.
const CLOSE: i64 = 20_000;

/// Reports further apart are of clocks that have nothing to do with each other, in microseconds.
const APART: i64 = 10_000_000;

/// A timestamp that leads this far from where its arrival says begins anew there, in microseconds.
const ASTRAY: i64 = 5_000_000;

/// Both tracks of a sender.
#[derive(Debug)]
pub(super) struct Clock {
    start: Option<Instant>,
    audio: Track,
    video: Track,
}

#[derive(Debug)]
struct Track {
    /// Ticks a second.
    rate: i64,
    /// The newest timestamp, extended.
    newest: Option<i64>,
    /// The time of tick 0, in microseconds.
    offset: Option<i64>,
    /// The last sender report: its time and its extended timestamp.
    report: Option<(i64, i64)>,
    /// The last time given.
    last: i64,
}

impl Track {
    fn new(codec: Codec) -> Self {
        Self { rate: i64::from(codec.clock()), newest: None, offset: None, report: None, last: 0 }
    }

    /// The timestamp nearest to the newest one that has these low bits.
    fn extend(&self, timestamp: u32) -> i64 {
        let Some(newest) = self.newest else { return i64::from(timestamp) };
        let low = u32::try_from(newest.rem_euclid(1 << 32)).unwrap_or(0);
        newest + i64::from(timestamp.wrapping_sub(low).cast_signed())
    }

    fn micros(&self, ticks: i64) -> i64 {
        ticks.div_euclid(self.rate) * 1_000_000 + ticks.rem_euclid(self.rate) * 1_000_000 / self.rate
    }

    /// How much later its time line is than its sender's clock.
    fn lead(&self) -> Option<i64> {
        let (ntp, ticks) = self.report?;
        Some(self.offset?.saturating_add(self.micros(ticks)).saturating_sub(ntp))
    }
}

impl Clock {
    /// A time line that begins with the first packet.
    pub(super) fn new() -> Self {
        Self { start: None, audio: Track::new(Codec::Opus), video: Track::new(Codec::H264) }
    }

    fn track(&mut self, media: Media) -> &mut Track {
        match media {
            Media::Audio => &mut self.audio,
            Media::Video => &mut self.video,
        }
    }

    /// Another source of a kind, with what it reported last.
    pub(super) fn restart(&mut self, media: Media, report: Option<(u64, u32)>) {
        let track = self.track(media);
        (track.offset, track.newest) = (None, report.map(|(_, rtp)| i64::from(rtp)));
        track.report = report.map(|(ntp, rtp)| (micros(ntp), i64::from(rtp)));
    }

    /// The time of a packet in microseconds, no earlier than the one before of its kind. `now` is its arrival.
    pub(super) fn time(&mut self, now: Instant, media: Media, timestamp: u32) -> i64 {
        let arrival = now.saturating_duration_since(*self.start.get_or_insert(now)).as_micros();
        let arrival = i64::try_from(arrival).unwrap_or(i64::MAX / 2);
        let lead = match media {
            Media::Audio => self.video.lead(),
            Media::Video => self.audio.lead(),
        };
        let track = self.track(media);
        let ticks = track.extend(timestamp);
        track.newest = Some(ticks);
        let us = track.micros(ticks);
        // By the other's clock where both have reported, else by its arrival.
        let begin = track.report.zip(lead).map(|((ntp, ticks), lead)| ntp.saturating_add(lead) - track.micros(ticks));
        let begin = begin.unwrap_or(arrival - us);
        let offset = *track.offset.get_or_insert(begin);
        let mut time = offset.saturating_add(us);
        if (time - arrival).abs() > ASTRAY {
            track.offset = Some(arrival - us);
            track.report = None;
            time = arrival;
        }
        track.last = track.last.max(time);
        track.last
    }

    /// What a sender report says: NTP time in units of 2^-32 s, and the timestamp that belongs to it.
    pub(super) fn report(&mut self, media: Media, ntp: u64, rtp: u32) {
        let track = self.track(media);
        if track.offset.is_none() {
            return;
        }
        track.report = Some((micros(ntp), track.extend(rtp)));
        self.align();
    }

    fn align(&mut self) {
        let (Some(audio), Some(video)) = (self.audio.lead(), self.video.lead()) else { return };
        let apart = video.saturating_sub(audio);
        if !(CLOSE..=APART).contains(&apart.saturating_abs()) {
            return;
        }
        let behind = if apart > 0 { &mut self.audio } else { &mut self.video };
        behind.offset = behind.offset.map(|offset| offset.saturating_add(apart.saturating_abs()));
    }
}

/// NTP time, 32.32 fixed point, in microseconds.
fn micros(ntp: u64) -> i64 {
    let fraction = ((ntp & 0xffff_ffff) * 1_000_000) >> 32;
    i64::try_from((ntp >> 32) * 1_000_000 + fraction).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// NTP time of so many milliseconds.
    fn ntp(ms: u64) -> u64 {
        ((ms / 1000) << 32) + ((ms % 1000) << 32) / 1000
    }

    #[test]
    fn arrival_first_then_timestamps() {
        let start = Instant::now();
        let mut clock = Clock::new();
        assert_eq!(clock.time(start, Media::Video, u32::MAX - 89), 0);
        assert_eq!(clock.time(at(start, 45), Media::Video, 2910), 33_333, "over the wrap, whenever it comes");
        assert_eq!(clock.time(at(start, 60), Media::Audio, 7), 60_000);
        assert_eq!(clock.time(at(start, 61), Media::Audio, 967), 80_000);
        assert_eq!(clock.time(at(start, 62), Media::Audio, 7), 80_000, "never back");
    }

    #[test]
    fn reports_bring_them_together() {
        let start = Instant::now();
        let mut clock = Clock::new();
        // The picture was taken 150 ms after the sound that comes with it.
        clock.time(start, Media::Audio, 1000);
        clock.time(start, Media::Video, 50_000);
        clock.report(Media::Audio, ntp(9_000), 1000);
        assert_eq!(clock.time(at(start, 40), Media::Video, 53_600), 40_000, "one report says nothing");
        clock.report(Media::Video, ntp(9_150), 50_000);
        let audio = clock.time(at(start, 100), Media::Audio, 1000 + 4800);
        let video = clock.time(at(start, 100), Media::Video, 50_000 + 9000);
        assert!((video - audio - 150_000).abs() <= 1, "{audio} {video}");
        clock.report(Media::Video, ntp(9_160), 50_000);
        assert_eq!(clock.time(at(start, 100), Media::Video, 59_000), video, "close enough");
        clock.report(Media::Video, ntp(500_000), 50_000);
        assert_eq!(clock.time(at(start, 100), Media::Video, 59_000), video, "another clock");
    }

    #[test]
    fn another_source_goes_on_where_its_clock_says() {
        let start = Instant::now();
        let mut clock = Clock::new();
        clock.time(start, Media::Audio, 1000);
        clock.time(start, Media::Video, 50_000);
        clock.report(Media::Audio, ntp(9_000), 1000);
        clock.report(Media::Video, ntp(9_000), 50_000);
        clock.restart(Media::Video, Some((ntp(9_100), 7)));
        // It was taken at 9.2 s and arrives late.
        let time = clock.time(at(start, 260), Media::Video, 9007);
        assert!((time - 200_000).abs() <= 1, "{time}");
        clock.restart(Media::Video, None);
        assert_eq!(clock.time(at(start, 300), Media::Video, 77), 300_000, "nothing but its arrival is known");
    }

    #[test]
    fn a_timestamp_that_jumps_begins_anew() {
        let start = Instant::now();
        let mut clock = Clock::new();
        clock.time(start, Media::Video, 1000);
        assert_eq!(clock.time(at(start, 40), Media::Video, 900_000_000), 40_000);
        assert_eq!(clock.time(at(start, 80), Media::Video, 900_003_600), 80_000);
    }
}
