//! When a list is fetched: now and then, and after failures sooner, but ever more rarely.

use balancedns_core::rng::Stream;
use balancedns_core::time::{Duration, Instant};

/// Wait after the first failure; doubled for each further one.
const RETRY: Duration = Duration::from_secs(60);
/// The longest wait between attempts that fail.
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// Waits are longer by up to one in so many, so that machines that were started together do not ask
/// together for ever.
const SPREAD: usize = 10;

/// When one list is fetched.
#[derive(Debug)]
pub(super) struct Schedule {
    refresh: Duration,
    due: Instant,
    failures: u32,
}

impl Schedule {
    /// For a copy of this age, if there is one.
    pub(super) fn new(refresh: Duration, age: Option<Duration>, now: Instant) -> Self {
        let wait = age.map_or(Duration::ZERO, |age| refresh.saturating_sub(age));
        Self { refresh, due: now + wait, failures: 0 }
    }

    /// When it is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// How old a copy may become is up to another configuration now.
    pub(super) fn set_refresh(&mut self, refresh: Duration, now: Instant) {
        self.refresh = refresh;
        self.due = self.due.min(now + refresh);
    }

    /// It is being fetched. Should nobody tell what has come of it, this was not the last attempt.
    pub(super) fn begun(&mut self, now: Instant) {
        self.due = now + RETRY_MAX.min(self.refresh);
    }

    /// It is there.
    pub(super) fn succeeded(&mut self, now: Instant, random: &mut Stream) {
        self.failures = 0;
        self.due = now + spread(self.refresh, random);
    }

    /// It could not be had, or was no good.
    pub(super) fn failed(&mut self, now: Instant, random: &mut Stream) {
        let doubled = 2_u32.saturating_pow(self.failures);
        let wait = RETRY.saturating_mul(doubled).min(RETRY_MAX).min(self.refresh);
        self.failures = self.failures.saturating_add(1);
        self.due = now + spread(wait, random);
    }
}

fn spread(wait: Duration, random: &mut Stream) -> Duration {
    let range = usize::try_from(wait.as_millis()).unwrap_or(usize::MAX) / SPREAD;
    let more = u64::try_from(random.below(range)).unwrap_or(u64::MAX);
    wait.saturating_add(Duration::from_millis(more))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn random() -> Stream {
        Stream::new([7; 32], 0)
    }

    fn wait_after(now: Instant, schedule: &Schedule) -> Duration {
        schedule.due().since(now)
    }

    #[test]
    fn a_copy_is_as_good_as_its_age() {
        let now = Instant::ZERO + Duration::from_secs(5);
        let wait = |age| wait_after(now, &Schedule::new(DAY, age, now));
        assert_eq!(wait(None), Duration::ZERO);
        assert_eq!(wait(Some(Duration::from_secs(86_000))), Duration::from_secs(400));
        assert_eq!(wait(Some(DAY * 3)), Duration::ZERO);
    }

    #[test]
    fn failures_are_tried_again_soon_and_then_rarely() {
        let (now, mut random) = (Instant::ZERO, random());
        let mut schedule = Schedule::new(DAY, None, now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            schedule.failed(now, &mut random);
            waits.push(wait_after(now, &schedule).as_secs());
        }
        for (wait, least) in waits.iter().zip([60, 120, 240, 480, 960, 1_920, 3_600, 3_600]) {
            assert!((least..=least + least / 10).contains(wait), "{waits:?}");
        }
        schedule.succeeded(now, &mut random);
        assert!((86_400..=95_040).contains(&wait_after(now, &schedule).as_secs()));
        schedule.failed(now, &mut random);
        assert!(wait_after(now, &schedule) <= Duration::from_secs(66), "counted anew");
    }

    #[test]
    fn no_wait_is_longer_than_a_copy_may_become_old() {
        let (now, mut random) = (Instant::ZERO, random());
        let mut schedule = Schedule::new(Duration::from_secs(2), None, now);
        schedule.failed(now, &mut random);
        assert!(wait_after(now, &schedule) <= Duration::from_millis(2_200));
        schedule.set_refresh(Duration::from_secs(1), now);
        assert_eq!(wait_after(now, &schedule), Duration::from_secs(1));
    }

    #[test]
    fn machines_spread_out() {
        let mut random = random();
        let waits: Vec<Duration> = (0..8).map(|_| spread(DAY, &mut random)).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
        assert_eq!(spread(Duration::ZERO, &mut random), Duration::ZERO);
    }
}
