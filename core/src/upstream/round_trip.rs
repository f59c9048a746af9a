//! How long an endpoint's replies take: the smoothed estimate of RFC 6298, for deciding when a
//! query has met with silence.
//!
//! A reply to a question that was sent twice may be to either, so it is no sample (section 3), unless
//! there is nothing better: no other sample yet, or only such replies for a while, since the way has
//! become longer than what is waited before sending again.

use crate::limits::{RETRANSMIT_AFTER, RETRANSMIT_AFTER_MAX};
use crate::time::Duration;

/// Ambiguous replies in a row after which they count: on a line that loses one datagram in ten, this
/// happens once in a hundred million replies.
const AMBIGUOUS_IN_A_ROW: u32 = 8;

/// A smoothed round-trip time and its variation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RoundTrip {
    estimate: Option<Estimate>,
    /// Ambiguous replies in a row.
    ambiguous: u32,
}

#[derive(Debug, Clone, Copy)]
struct Estimate {
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    /// A reply took this long (RFC 6298 section 2.2 and 2.3) after its question was sent, once or more
    /// often.
    pub(super) fn sample(&mut self, took: Duration, sent_once: bool) {
        self.ambiguous = if sent_once { 0 } else { self.ambiguous.saturating_add(1) };
        let counts = sent_once || self.ambiguous >= AMBIGUOUS_IN_A_ROW;
        if !counts && self.estimate.is_some() {
            return;
        }
        self.estimate = Some(match self.estimate {
            None => Estimate { smoothed: took, variation: took / 2 },
            Some(Estimate { smoothed, variation }) => {
                let error = smoothed.abs_diff(took);
                Estimate {
                    variation: variation - variation / 4 + error / 4,
                    smoothed: smoothed - smoothed / 8 + took / 8,
                }
            }
        });
    }

    /// After how long a reply is overdue (RFC 6298 section 2.3). The bounds are our own: a server
    /// that answers from its cache in a millisecond may need much longer to find something out.
    pub(super) fn timeout(&self) -> Duration {
        self.estimate.map_or(RETRANSMIT_AFTER, |Estimate { smoothed, variation }| {
            (smoothed + variation * 4).clamp(RETRANSMIT_AFTER, RETRANSMIT_AFTER_MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(samples: impl IntoIterator<Item = u64>) -> Duration {
        let mut round_trip = RoundTrip::default();
        samples
            .into_iter()
            .for_each(|millis| round_trip.sample(Duration::from_millis(millis), true));
        round_trip.timeout()
    }

    /// RFC 6298 section 2 as it is written, in seconds; `None` before the first measurement.
    fn as_written(samples: &[(u64, bool)]) -> Option<f64> {
        let mut known: Option<(f64, f64)> = None;
        let mut ambiguous = 0;
        for (micros, sent_once) in samples {
            let r = *micros as f64 / 1e6;
            ambiguous = if *sent_once { 0 } else { ambiguous + 1 };
            if !sent_once && ambiguous < 8 && known.is_some() {
                continue;
            }
            known = Some(known.map_or((r, r / 2.0), |(srtt, rttvar)| {
                let rttvar = 0.75 * rttvar + 0.25 * (srtt - r).abs();
                (0.875 * srtt + 0.125 * r, rttvar)
            }));
        }
        known.map(|(srtt, rttvar)| srtt + 4.0 * rttvar)
    }

    proptest! {
        #[test]
        fn estimates_are_those_of_rfc_6298(
            samples in prop::collection::vec((0_u64..3_000_000, any::<bool>()), 0..60),
        ) {
            let mut round_trip = RoundTrip::default();
            for (micros, sent_once) in &samples {
                round_trip.sample(Duration::from_micros(*micros), *sent_once);
            }
            let timeout = round_trip.timeout();
            let bounds = RETRANSMIT_AFTER..=RETRANSMIT_AFTER_MAX;
            prop_assert!(bounds.contains(&timeout));
            let expected = as_written(&samples).unwrap_or(0.0);
            let expected = expected.clamp(
                RETRANSMIT_AFTER.as_secs_f64(),
                RETRANSMIT_AFTER_MAX.as_secs_f64(),
            );
            let error = (timeout.as_secs_f64() - expected).abs();
            prop_assert!(error < 1e-6, "{timeout:?} instead of {expected}");
        }

        #[test]
        fn no_time_is_too_long_for_it(samples in prop::collection::vec(any::<u64>(), 1..20)) {
            let mut round_trip = RoundTrip::default();
            samples.iter().for_each(|nanos| round_trip.sample(Duration::from_nanos(*nanos), true));
            prop_assert!(round_trip.timeout() <= RETRANSMIT_AFTER_MAX);
        }
    }

    #[test]
    fn a_near_server_and_an_unknown_one_have_the_shortest_time() {
        assert_eq!(after([]), RETRANSMIT_AFTER);
        assert_eq!(after([1; 100]), RETRANSMIT_AFTER);
    }

    #[test]
    fn a_far_server_gets_more_time_and_a_constant_one_little_more_than_it_takes() {
        assert_eq!(after([200]), Duration::from_millis(200 + 4 * 100));
        let settled = after([600; 100]);
        assert!((600..700).contains(&settled.as_millis()), "{settled:?}");
        let jittery = after((0..100).map(|n| 500 + 200 * (n % 2)));
        assert!((900..1_300).contains(&jittery.as_millis()), "{jittery:?}");
    }

    #[test]
    fn no_sample_makes_the_time_longer_than_its_bound() {
        assert_eq!(after([1_000_000, u64::MAX / 1_000_000]), RETRANSMIT_AFTER_MAX);
        assert_eq!(after([0; 3]), RETRANSMIT_AFTER);
    }

    #[test]
    fn replies_to_questions_sent_twice_are_the_last_resort() {
        let near = Duration::from_millis(20);
        let mut lossy = RoundTrip::default();
        for number in 0..1_000 {
            let lost = number % 3 == 0;
            let took = if lost { RETRANSMIT_AFTER + near } else { near };
            lossy.sample(took, !lost);
        }
        assert_eq!(lossy.timeout(), RETRANSMIT_AFTER, "losses do not make the way longer");

        let far = Duration::from_millis(600);
        let mut moved = RoundTrip::default();
        moved.sample(near, true);
        for _ in 0..AMBIGUOUS_IN_A_ROW {
            moved.sample(far, false);
        }
        assert!(moved.timeout() > far, "{:?}", moved.timeout());
        let mut unknown = RoundTrip::default();
        unknown.sample(far, false);
        assert!(unknown.timeout() > far);
    }
}
