//! Passive health of one endpoint: what its answers and its silence say of it, and for how long it
//! is left alone.
//!
//! An endpoint is down when the network says that nobody is there, when an attempt has timed out
//! without a word from it, or when several queries in a row have met with silence. It is then asked
//! after all others; a probe, the copy of a client's question that no client waits for, looks now
//! and then whether it is back, after waits that double. Any reply of its ends all that.

use super::round_trip::RoundTrip;
use crate::limits::{PROBE_AFTER, PROBE_AFTER_MAX, SILENT_QUERIES};
use crate::planted::{Bug, is_planted};
use crate::time::{Duration, Instant};

/// What is known of an endpoint's health.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Health {
    heard_at: Option<Instant>,
    /// Queries in a row that met with silence.
    silent: u32,
    down: Option<Down>,
    round_trip: RoundTrip,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    probe_at: Instant,
    /// What is waited after the next probe.
    wait: Duration,
}

impl Health {
    /// It has replied, this long after it was asked; once, or more often so that nobody knows what
    /// the reply is to. Whether it was down until now.
    pub(crate) fn answered(&mut self, now: Instant, took: Duration, asked_once: bool) -> bool {
        self.heard_at = Some(now);
        self.silent = 0;
        self.round_trip.sample(took, asked_once);
        !is_planted(Bug::UpstreamDownForEver) && self.down.take().is_some()
    }

    /// The network says that nobody is there. Whether this is news.
    pub(crate) fn refused(&mut self, now: Instant) -> bool {
        self.take_down(now)
    }

    /// A connection broke that was asked at `started`. Whether this is news: it is nothing if it has
    /// answered meanwhile, since servers close when they like (RFC 7766 section 6.2.4).
    pub(crate) fn broke(&mut self, now: Instant, started: Instant) -> bool {
        !self.has_answered_since(started) && self.take_down(now)
    }

    /// An attempt that began at `started` has timed out. Whether this takes it down: not if it has
    /// answered something else meanwhile, since then it was the question that is hard. If the
    /// question had less time than replies may need, it is silence like that of others.
    pub(crate) fn timed_out(&mut self, now: Instant, started: Instant) -> bool {
        if now.since(started) < self.patience() {
            return self.kept_silent(now, started);
        }
        !self.has_answered_since(started) && self.take_down(now)
    }

    /// A query sent at `started` has waited for longer than usual. Whether this takes it down.
    pub(crate) fn kept_silent(&mut self, now: Instant, started: Instant) -> bool {
        if self.has_answered_since(started) {
            return false;
        }
        self.silent = self.silent.saturating_add(1);
        self.silent >= SILENT_QUERIES && self.take_down(now)
    }

    /// Whether it is to be asked after all others.
    pub(crate) const fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// When it last replied.
    pub(crate) const fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Whether a probe is due; the caller sends one, and the next wait begins.
    pub(crate) fn take_probe(&mut self, now: Instant) -> bool {
        let Some(down) = self.down.as_mut().filter(|down| now >= down.probe_at) else {
            return false;
        };
        down.wait = down.wait.saturating_mul(2).min(PROBE_AFTER_MAX);
        down.probe_at = now + down.wait;
        true
    }

    /// How long its replies usually take at most: what takes longer is silence.
    pub(crate) fn patience(&self) -> Duration {
        self.round_trip.timeout()
    }

    fn has_answered_since(&self, started: Instant) -> bool {
        self.heard_at.is_some_and(|at| at >= started)
    }

    fn take_down(&mut self, now: Instant) -> bool {
        if self.down.is_some() {
            return false;
        }
        self.down = Some(Down { probe_at: now + PROBE_AFTER, wait: PROBE_AFTER });
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    /// What happens to an endpoint, with how long ago the question was asked.
    #[derive(Debug, Clone, Copy)]
    enum Sign {
        Answer,
        Refusal,
        Break(u64),
        Timeout(u64),
        Silence(u64),
        Question,
    }

    fn sign() -> impl Strategy<Value = Sign> {
        // Few different times, so that questions are asked when an answer comes.
        let ago = || (0_u64..12).prop_map(|times| times * 250);
        prop_oneof![
            Just(Sign::Answer),
            Just(Sign::Refusal),
            ago().prop_map(Sign::Break),
            ago().prop_map(Sign::Timeout),
            ago().prop_map(Sign::Silence),
            Just(Sign::Question),
            Just(Sign::Question),
            Just(Sign::Question),
        ]
    }

    /// What passes between two signs: nothing, little, or as much as probes wait.
    fn time() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), (0_u64..12).prop_map(|times| times * 250), Just(30_000), Just(32_000),]
    }

    proptest! {
        /// Against the whole history, looked at anew each time.
        #[test]
        fn it_is_down_by_what_came_after_the_last_answer(
            steps in prop::collection::vec((time(), sign()), 1..120),
        ) {
            let mut health = Health::default();
            let mut now = 10_000;
            let mut answered: Option<u64> = None;
            let mut silences = 0;
            let mut down_since: Option<u64> = None;
            let mut probes: Vec<u64> = Vec::new(); // waits, in seconds
            let mut next_probe = 0;
            for (passed, sign) in steps {
                now += passed;
                let silent_since = |ago: u64| answered.is_none_or(|at| at < now - ago);
                let patience = u64::try_from(health.patience().as_millis()).expect("short");
                let was_down = down_since.is_some();
                let mut ends_it = false;
                let news = match sign {
                    Sign::Answer => {
                        let back = health.answered(at(now), Duration::from_millis(1), true);
                        prop_assert_eq!(back, was_down);
                        (answered, silences, down_since) = (Some(now), 0, None);
                        prop_assert_eq!(health.heard_at(), Some(at(now)));
                        false
                    }
                    Sign::Refusal => {
                        ends_it = true;
                        health.refused(at(now))
                    }
                    Sign::Break(ago) => {
                        ends_it = silent_since(ago);
                        health.broke(at(now), at(now - ago))
                    }
                    Sign::Timeout(ago) if ago >= patience => {
                        ends_it = silent_since(ago);
                        health.timed_out(at(now), at(now - ago))
                    }
                    Sign::Timeout(ago) | Sign::Silence(ago) => {
                        silences += u32::from(silent_since(ago));
                        ends_it = silent_since(ago) && silences >= SILENT_QUERIES;
                        if matches!(sign, Sign::Timeout(_)) {
                            health.timed_out(at(now), at(now - ago))
                        } else {
                            health.kept_silent(at(now), at(now - ago))
                        }
                    }
                    Sign::Question => {
                        let is_due = down_since.is_some() && now >= next_probe;
                        prop_assert_eq!(health.take_probe(at(now)), is_due);
                        if is_due {
                            let wait = probes.last().map_or(2, |wait| (wait * 2).min(30));
                            next_probe = now + wait * 1_000;
                            probes.push(wait);
                        }
                        false
                    }
                };
                prop_assert_eq!(news, ends_it && !was_down);
                if news {
                    down_since = Some(now);
                    next_probe = now + 1_000;
                    probes.clear();
                }
                prop_assert_eq!(health.is_down(), down_since.is_some());
            }
        }
    }

    #[test]
    fn a_refusal_takes_down_and_a_reply_brings_back() {
        let mut health = Health::default();
        assert!(health.refused(at(0)));
        assert!(health.is_down());
        assert!(!health.refused(at(1)), "told once");
        assert!(health.answered(at(2), Duration::from_millis(1), true));
        assert!(!health.is_down());
        assert!(!health.answered(at(3), Duration::from_millis(1), true));
    }

    #[test]
    fn who_answers_other_questions_is_not_down() {
        let mut health = Health::default();
        health.answered(at(500), Duration::from_millis(1), true);
        assert!(!health.timed_out(at(2_000), at(0)));
        assert!(!health.kept_silent(at(600), at(500)));
        assert!(!health.timed_out(at(3_000), at(2_900)), "it had little time");
        assert!(health.timed_out(at(3_000), at(501)));
    }

    #[test]
    fn silence_towards_several_queries_takes_down() {
        let mut health = Health::default();
        for number in 1..SILENT_QUERIES {
            assert!(!health.kept_silent(at(400), at(0)), "{number} are too few");
        }
        assert!(health.kept_silent(at(400), at(0)));

        let mut health = Health::default();
        health.kept_silent(at(400), at(0));
        health.answered(at(401), Duration::from_millis(1), true);
        for _ in 1..SILENT_QUERIES {
            assert!(!health.kept_silent(at(900), at(402)), "counted anew after a reply");
        }
    }

    #[test]
    fn attempts_without_time_are_silence_too() {
        let mut health = Health::default();
        for number in 1..SILENT_QUERIES {
            assert!(!health.timed_out(at(50), at(0)), "{number} are too few");
        }
        assert!(health.timed_out(at(50), at(0)));
    }

    #[test]
    fn a_connection_that_breaks_after_an_answer_says_nothing() {
        let mut health = Health::default();
        health.answered(at(10), Duration::from_millis(1), true);
        assert!(!health.broke(at(20), at(10)));
        assert!(health.broke(at(20), at(11)));
    }

    #[test]
    fn probes_come_ever_more_rarely() {
        let mut health = Health::default();
        assert!(!health.take_probe(at(0)), "it is well");
        health.refused(at(0));
        let mut probes = Vec::new();
        for second in 0..=100 {
            if health.take_probe(at(second * 1_000)) {
                probes.push(second);
            }
        }
        assert_eq!(probes, [1, 3, 7, 15, 31, 61, 91]);
        health.answered(at(100_000), Duration::from_millis(1), true);
        health.refused(at(200_000));
        assert!(health.take_probe(at(201_000)), "the waits begin anew");
    }
}
