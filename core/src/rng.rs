//! Randomness: seeded streams, one for each purpose, so that a new draw for one purpose does not
//! shift what another one sees.
//!
//! ChaCha with 8 rounds: message ids and the choice of source port are what keeps off-path
//! spoofers out (RFC 5452), so they come from a cipher, not from a fast generator.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// One stream of random numbers.
#[derive(Clone)]
pub struct Stream(ChaCha8Rng);

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream(..)") // the state would tell the next ids
    }
}

impl Stream {
    /// The stream for `purpose` under `seed`.
    #[must_use]
    pub fn new(seed: [u8; 32], purpose: u64) -> Self {
        let mut rng = ChaCha8Rng::from_seed(seed);
        rng.set_stream(purpose);
        Self(rng)
    }

    /// A message id.
    pub fn id(&mut self) -> u16 {
        (self.0.next_u32() >> 16) as u16
    }

    /// Uniform in `0..bound`; zero for a bound of zero.
    pub fn below(&mut self, bound: usize) -> usize {
        // Multiply and shift: the bias is below bound / 2^32, which no one can measure here.
        let bound = bound.min(u32::MAX as usize) as u64;
        ((u64::from(self.0.next_u32()) * bound) >> 32) as usize
    }

    /// Sixty-four random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// The engine's streams.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Message ids towards upstreams.
    pub ids: Stream,
    /// Which of the sockets to an upstream, and so which source port, a query takes.
    pub ports: Stream,
    /// Letter case of names towards upstreams (0x20).
    pub case: Stream,
    /// Choice among upstreams.
    pub balancing: Stream,
    /// Our cookies towards upstreams (RFC 7873 section 4.1).
    pub cookies: Stream,
}

impl Streams {
    /// All streams under one seed.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            ids: Stream::new(seed, 1),
            ports: Stream::new(seed, 2),
            case: Stream::new(seed, 3),
            balancing: Stream::new(seed, 4),
            cookies: Stream::new(seed, 5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_draws_and_streams_apart() {
        let mut one = Streams::new([7; 32]);
        let mut two = Streams::new([7; 32]);
        two.ports.bits(); // a draw for another purpose shifts nothing
        let ids: Vec<u16> = (0..8).map(|_| one.ids.id()).collect();
        assert_eq!(ids, (0..8).map(|_| two.ids.id()).collect::<Vec<_>>());
        assert_ne!(one.case.bits(), one.balancing.bits());
    }

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut stream = Stream::new([1; 32], 9);
        let mut seen = [0u32; 32];
        for _ in 0..3200 {
            seen[stream.below(32)] += 1;
        }
        assert!(seen.iter().all(|&n| n > 50 && n < 160), "{seen:?}");
        assert_eq!(stream.below(0), 0);
    }

    #[test]
    fn the_state_is_not_shown() {
        assert_eq!(format!("{:?}", Stream::new([7; 32], 1)), "Stream(..)");
    }
}
