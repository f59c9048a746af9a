//! Randomness of the simulator: one stream per purpose, so that a draw for one thing shifts no other.

use balancedns_core::rng::Stream;

/// What a stream is for. Each fault has one more of its own.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// The options of a run.
    Options,
    /// What clients ask, and when.
    Clients,
    /// How long datagrams and octets are on their way.
    Latency,
    /// What upstreams do.
    Upstreams,
    /// What spoofers guess.
    Spoofers,
    /// What the host of the engines does.
    Host,
    /// What the operator does.
    Operator,
    /// What processes of plugins do.
    Processes,
    /// The policies of this generation.
    Policies(u64),
    /// The configuration of this generation.
    Configuration(u64),
    /// Whether the fault of this number happens.
    Fault(usize),
    /// The seed of the worker of this number of starts.
    Worker(u64),
}

/// A stream of draws.
#[derive(Debug, Clone)]
pub struct Draw(Stream);

impl Draw {
    /// The stream of this seed for this purpose.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let number = match purpose {
            Purpose::Options => 1,
            Purpose::Clients => 2,
            Purpose::Latency => 3,
            Purpose::Upstreams => 4,
            Purpose::Spoofers => 5,
            Purpose::Host => 6,
            Purpose::Operator => 7,
            Purpose::Processes => 8,
            Purpose::Policies(generation) => 500_000 + generation,
            Purpose::Fault(number) => 100 + number as u64,
            Purpose::Configuration(generation) => 1_000 + generation,
            Purpose::Worker(start) => 1_000_000 + start,
        };
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self(Stream::new(key, number))
    }

    /// Uniform below a bound; zero for a bound of zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
    }

    /// Uniform from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = usize::try_from(high.saturating_sub(low) + 1).unwrap_or(usize::MAX);
        low + self.below(span) as u64
    }

    /// True in so many of a thousand cases.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1_000) < per_mille as usize
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// Two random octets.
    pub fn id(&mut self) -> u16 {
        self.0.id()
    }

    /// Eight random octets.
    pub fn bits(&mut self) -> u64 {
        self.0.bits()
    }

    /// Thirty-two random octets.
    pub fn seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        for chunk in seed.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes());
        }
        seed
    }
}
