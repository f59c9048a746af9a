//! The one place that reads clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use balancedns_core::time::Instant;
use nix::time::{ClockId, clock_gettime};

/// The boot-time clock, counted from the process's start. Copies share the start, so that all
/// threads of a process speak of the same instants.
///
/// CLOCK_BOOTTIME goes on while the machine is suspended, so that TTLs age meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Duration,
}

impl Clock {
    /// Starts counting.
    #[must_use]
    pub fn start() -> Self {
        Self { start: boot_time() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::ZERO + boot_time().saturating_sub(self.start)
    }
}

fn boot_time() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME since 2.6.39").into()
}

/// Time since boot, for measuring how long scripts take.
#[must_use]
pub fn since_boot() -> Instant {
    Instant::ZERO + boot_time()
}

/// The calendar's time since 1970 in UTC; zero before that.
#[must_use]
pub fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_their_start() {
        let clock = Clock::start();
        let copy = clock;
        let earlier = clock.now();
        std::thread::sleep(Duration::from_millis(2));
        assert!(copy.now().since(earlier) >= Duration::from_millis(2));
    }
}
