//! How long an endpoint's replies take: the smoothed estimate of RFC 6298, for deciding when a
//! query has met with silence.

use crate::limits::{RETRANSMIT_AFTER, RETRANSMIT_AFTER_MAX};
use crate::time::Duration;

/// A smoothed round-trip time and its variation.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RoundTrip(Option<Estimate>);

#[derive(Debug, Clone, Copy)]
struct Estimate {
    smoothed: Duration,
    variation: Duration,
}

impl RoundTrip {
    /// A reply took this long (RFC 6298 section 2.2 and 2.3).
    pub(super) fn sample(&mut self, took: Duration) {
        self.0 = Some(match self.0 {
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
        self.0.map_or(RETRANSMIT_AFTER, |Estimate { smoothed, variation }| {
            (smoothed + variation * 4).clamp(RETRANSMIT_AFTER, RETRANSMIT_AFTER_MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: impl IntoIterator<Item = u64>) -> Duration {
        let mut round_trip = RoundTrip::default();
        samples.into_iter().for_each(|millis| round_trip.sample(Duration::from_millis(millis)));
        round_trip.timeout()
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
}
