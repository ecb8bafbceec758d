//! The one clock: CLOCK_MONOTONIC in nanoseconds, which all processes of a host share.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;
/// Nanoseconds of a millisecond.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// Nanoseconds since some fixed point, the same for every process until the host restarts.
pub(crate) fn now() -> u64 {
    // The call fails only for clocks that do not exist.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| as_ns(Duration::from(time)))
}

/// Nanoseconds of a duration; 584 years at most.
pub(crate) fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Seconds as a fraction.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND as f64
}
