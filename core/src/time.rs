//! Time as a parameter: an instant is a count of nanoseconds since a start that the caller chose.
//!
//! Core never asks a clock. The runtimes hand in readings of one boot-time clock per process, the
//! simulator hands in virtual time. Arithmetic saturates: five centuries fit.

use std::ops::Add;

pub use core::time::Duration;

/// A point in time: nanoseconds since an arbitrary start, common to all workers of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The arbitrary start.
    pub const ZERO: Self = Self(0);

    /// The instant `nanos` nanoseconds after the start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Whole seconds passed since `earlier`, rounded down, at most `u32::MAX`.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> u32 {
        let seconds = self.0.saturating_sub(earlier.0) / 1_000_000_000;
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of time.
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let late = Instant::from_nanos(u64::MAX - 1);
        assert_eq!(late + Duration::from_secs(1), Instant::from_nanos(u64::MAX));
        assert_eq!(late + Duration::MAX, Instant::from_nanos(u64::MAX));
        assert_eq!(Instant::ZERO.since(late), Duration::ZERO);
        assert_eq!(late.seconds_since(Instant::ZERO), u32::MAX);
    }

    #[test]
    fn seconds_round_down() {
        let now = Instant::ZERO + Duration::from_millis(2_999);
        assert_eq!(now.seconds_since(Instant::ZERO), 2);
    }
}
