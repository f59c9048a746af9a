//! How long a script may still run: points at which it could be stopped, and a clock if there is
//! one.
//!
//! Points alone make a run the same everywhere, so they are counted also where there is a clock.
//! Luau passes one at each call, return and turn of a loop, and in its pattern matcher at each
//! place; what else takes time is converted to points.

use std::cell::Cell;

use crate::time::{Duration, Instant};

/// Points that a script passes in a millisecond if it does nothing else.
pub(super) const POINTS_PER_MILLISECOND: u64 = 50_000;
/// Octets that are copied, searched or allocated in about the time of one point.
const OCTETS_PER_POINT: u64 = 64;
/// The most work of one call of a library function, in octets: it cannot be stopped meanwhile.
pub(super) const WORK_MAX: f64 = 2_097_152.0;
/// Octets that may have been gone through since the clock was read last: those in the VM may have
/// been between any two points, by a single instruction. A small script passes some twenty points.
const OCTETS_PER_READING: usize = 2_097_152;

/// What is left of a run's time.
#[derive(Debug)]
pub(super) struct Budget {
    clock: Option<fn() -> Instant>,
    deadline: Cell<Instant>,
    points: Cell<u64>,
    /// Octets that were in the VM at the last point.
    memory: Cell<usize>,
    /// Octets that may have been gone through since the clock was read.
    unread: Cell<usize>,
    /// Set for the rest of the run: a script that catches the error does not go on.
    spent: Cell<bool>,
}

impl Budget {
    /// Nothing is left until [`start`](Self::start).
    pub(super) fn new(clock: Option<fn() -> Instant>) -> Self {
        Self {
            clock,
            deadline: Cell::new(Instant::ZERO),
            points: Cell::new(0),
            memory: Cell::new(0),
            unread: Cell::new(0),
            spent: Cell::new(true),
        }
    }

    /// A run begins that may take `time`.
    pub(super) fn start(&self, time: Duration, memory: usize) {
        if let Some(clock) = self.clock {
            self.deadline.set(clock() + time);
        }
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.points.set(milliseconds.saturating_mul(POINTS_PER_MILLISECOND));
        self.memory.set(memory);
        self.unread.set(0);
        self.spent.set(false);
    }

    /// Whether the run that has ended took too long, the last of its work included.
    pub(super) fn is_spent(&self) -> bool {
        self.spent.get()
    }

    /// A point at which the script can be stopped; false if it has to be.
    pub(super) fn pass(&self, memory: usize) -> bool {
        let grown = memory.saturating_sub(self.memory.replace(memory));
        self.take(1 + u64::try_from(grown).unwrap_or(u64::MAX) / OCTETS_PER_POINT);
        let unread = self.unread.get().saturating_add(memory);
        if unread >= OCTETS_PER_READING {
            self.unread.set(0);
            self.read_clock();
        } else {
            self.unread.set(unread);
        }
        !self.spent.get()
    }

    /// Work of that many octets is about to be done at once; false if it is too much.
    pub(super) fn charge(&self, octets: f64) -> bool {
        // Not a number is too much as well.
        if !(0.0..=WORK_MAX).contains(&octets) {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates")]
        #[expect(clippy::cast_sign_loss, reason = "checked to be positive")]
        let octets = octets as u32;
        self.take(u64::from(octets) / OCTETS_PER_POINT);
        let octets = usize::try_from(octets).unwrap_or(usize::MAX);
        self.unread.set(self.unread.get().saturating_add(octets));
        true
    }

    fn take(&self, points: u64) {
        match self.points.get().checked_sub(points) {
            Some(left) => self.points.set(left),
            None => self.spent.set(true),
        }
    }

    fn read_clock(&self) {
        if self.clock.is_some_and(|clock| clock() >= self.deadline.get()) {
            self.spent.set(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_end() {
        let budget = Budget::new(None);
        assert!(!budget.pass(0), "before the first run");
        budget.start(Duration::from_millis(1), 0);
        assert!((0..POINTS_PER_MILLISECOND).all(|_| budget.pass(0)));
        assert!(!budget.pass(0) && budget.is_spent());
        assert!(!budget.pass(0), "for good");
        budget.start(Duration::from_millis(1), 0);
        assert!(budget.pass(0) && !budget.is_spent());
    }

    #[test]
    fn work_is_converted_to_points() {
        let budget = Budget::new(None);
        budget.start(Duration::from_millis(1), 0);
        assert!(!budget.charge(WORK_MAX + 1.0) && !budget.charge(f64::NAN) && !budget.charge(-1.0));
        assert!(
            (1..POINTS_PER_MILLISECOND).all(|_| budget.pass(0)),
            "what was refused costs nothing"
        );
        budget.start(Duration::from_millis(1), 0);
        assert!(budget.charge(WORK_MAX) && budget.pass(0));
        assert!(budget.charge(WORK_MAX) && !budget.pass(0));
    }

    #[test]
    fn memory_that_grows_is_converted_to_points() {
        let budget = Budget::new(None);
        budget.start(Duration::from_millis(1), 1_000_000);
        assert!(budget.pass(1_000_000) && budget.pass(900_000) && budget.pass(1_000_000));
        let all = usize::try_from(POINTS_PER_MILLISECOND * OCTETS_PER_POINT).unwrap();
        assert!(!budget.pass(1_000_000 + all));
    }

    #[test]
    fn the_clock_is_read_the_more_often_the_more_there_is() {
        thread_local!(static NOW: Cell<u64> = const { Cell::new(0) });
        let budget = Budget::new(Some(|| Instant::from_nanos(NOW.get())));
        let late = Duration::from_millis(2);
        for (memory, points) in [(OCTETS_PER_READING / 16, 16), (OCTETS_PER_READING, 1)] {
            NOW.set(0);
            budget.start(late, memory);
            NOW.set(2_000_000);
            assert!((1..points).all(|_| budget.pass(memory)));
            assert!(!budget.pass(memory));
        }
        NOW.set(0);
        budget.start(late, 0);
        NOW.set(2_000_000);
        assert!(budget.pass(0));
        assert!(budget.charge(WORK_MAX));
        assert!(!budget.pass(0), "work was done since");
    }
}
