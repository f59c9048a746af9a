//! What has to hold whatever happens: names, and how often each was checked on something real.

use balancedns_core::time::Instant;

macro_rules! invariants {
    ($($variant:ident $what:literal;)*) => {
        /// Something that always holds.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Invariant {
            $(#[doc = $what] $variant,)*
        }

        impl Invariant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The short name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant),)* }
            }

            /// What it says.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

invariants! {
    S1 "Every admitted query ends once: one reply, or one counted drop.";
    S2 "Every query ends by its deadline.";
    S3 "A reply has the id, opcode and question of its query to the letter, and goes back where that came from.";
    S4 "A reply decodes, its counts are right, OPT if and only if asked, not too long for the client or TC.";
    S5 "A reply's content was true within its TTL, and the TTL shown is what is left of it.";
    S6 "Nothing of a mismatched or spoofed reply reaches a client.";
    S7 "A verdict belongs to one generation of the configuration.";
    S8 "DO and CD never mix, and nothing else of a client's EDNS reaches an upstream.";
    S9 "Ids are unique in flight, and not used again right after a timeout.";
    S10 "Queries in flight, sockets and connections are within their limits.";
    S11 "One fetch per question and worker, and at most attempts_max sends for it.";
    S12 "No connect before its back-off, and no loop without delay.";
    S13 "TC from an upstream leads to TCP or is passed on.";
    S14 "An upstream that was removed gets nothing new.";
    S15 "An upstream is asked for names of its zones only.";
    S16 "Every table is within its bound, and its account equals a recount.";
    S17 "After draining nothing is left.";
    S18 "Whatever is reported of a dead handle changes one counter.";
    S19 "A batch gives the same as its datagrams one by one.";
    S20 "Timeouts act when announced and not before, and the next one lies in the future.";
    S21 "The same seed gives the same run.";
    S22 "No panic.";
    S23 "Counters add up: queries are replies, drops and those in flight; look-ups are hits and misses.";
    S24 "A configuration with mistakes changes nothing.";
    S25 "A plugin that fails leads to what is configured for that, and knows nothing of it the next time.";
    S26 "No call of a plugin outlives its deadline, and a late result counts for nothing.";
    S27 "At most one instance of a worker, restarted not before its back-off; crash loops and stable runs count.";
    S28 "Who is asked over TLS is asked over nothing else, under its name and for its resource.";
    L1 "After healing, every question goes to the first upstream of its zone again, all workers run.";
    L2 "After healing, no SERVFAIL.";
    L3 "After healing, the cache answers what was asked a moment ago.";
    L4 "After healing, one lost datagram or one upstream that ends costs no client its answer, nor much time.";
}

/// How often each invariant was checked on something real.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checks([u64; Invariant::ALL.len()]);

impl Default for Checks {
    fn default() -> Self {
        Self([0; Invariant::ALL.len()])
    }
}

impl Checks {
    /// Counts a check; an error if it does not hold.
    ///
    /// # Errors
    /// [`Broken`] with the message, if `holds` is false.
    pub fn that(
        &mut self,
        invariant: Invariant,
        holds: bool,
        otherwise: impl FnOnce() -> String,
    ) -> Result<(), Broken> {
        self.0[invariant as usize] += 1;
        if holds { Ok(()) } else { Err(Broken::new(invariant, otherwise())) }
    }

    /// Counts checks that were made elsewhere.
    pub fn count(&mut self, invariant: Invariant, times: u64) {
        self.0[invariant as usize] += times;
    }

    /// How often one was checked.
    #[must_use]
    pub const fn of(&self, invariant: Invariant) -> u64 {
        self.0[invariant as usize]
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (sum, one) in self.0.iter_mut().zip(&other.0) {
            *sum += one;
        }
    }
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {message}", .invariant.name())]
pub struct Broken {
    /// Which one.
    pub invariant: Invariant,
    /// What was seen.
    pub message: String,
    /// When, in virtual time; not known of what is checked outside a run.
    pub at: Option<Instant>,
}

impl Broken {
    /// Seen at no particular time.
    #[must_use]
    pub fn new(invariant: Invariant, message: String) -> Self {
        Self { invariant, message, at: None }
    }
}
