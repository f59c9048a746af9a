//! Planted bugs: defects that the simulator has to find, so that its silence means something.
//!
//! Each one stands where a change could bring it in by mistake, behind a condition that is `false`
//! at compile time unless the private feature `planted` is on. With the feature on nothing is wrong
//! either, until a thread asks for one bug with `plant`. Not a switch for daemons.

macro_rules! bugs {
    ($($variant:ident $name:literal $invariant:literal, $wrong:literal;)*) => {
        /// What can be made wrong. Each variant says what is wrong and which invariant of the
        /// simulator has to catch it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Bug {
            $(#[doc = concat!($wrong, " Caught by ", $invariant, ".")] $variant,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// A stable name, for the command line and for reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The invariants that it breaks, any of which may be the first to catch it.
            #[must_use]
            pub const fn invariants(self) -> &'static str {
                match self { $(Self::$variant => $invariant,)* }
            }
        }
    };
}

bugs! {
    IdReusedInFlight "id-reused-in-flight" "S9, S16",
        "A query upstream takes the id of another one that is in flight on the same socket.";
    GivenUpIdReused "given-up-id-reused" "S9",
        "A query upstream takes the id of one that was just given up, whose reply may still come.";
    RetransmissionUnarmed "retransmission-unarmed" "S2, S16",
        "After a retransmission nobody looks at the question again.";
    LetterCaseLost "letter-case-lost" "S3",
        "A reply from the cache repeats the question in lower case.";
    ConnLeakedOnReset "conn-leaked-on-reset" "S10, S16, S17",
        "A client's connection that was reset keeps its place and its count.";
    TtlAgedTooLittle "ttl-aged-too-little" "S5",
        "TTLs from the cache age one second too little.";
    ReplyTwice "reply-twice" "S1",
        "Whoever waited over UDP gets the reply twice.";
    OptKept "opt-kept" "S4",
        "The upstream's OPT record is kept with the answer and given to clients.";
    WaiterForgotten "waiter-forgotten" "S1, S2, S23",
        "The last of several clients that wait for one answer gets none.";
    CoalescingMissed "coalescing-missed" "S11, S16",
        "A question that is being asked already is asked once more.";
    DnssecOkNotInKey "dnssec-ok-not-in-key" "S8",
        "Answers with and without DO are taken for one another.";
    WrongQuestionAccepted "wrong-question-accepted" "S4, S6",
        "A reply from upstream counts whatever question it repeats.";
    ZoneBySuffix "zone-by-suffix" "S15",
        "A zone matches by the end of the text: that of `ru` gets the names of `guru`.";
    ExpiredServed "expired-served" "S5",
        "What has expired is still answered from the cache, as if it were fresh.";
    CacheOctetsOnReplace "cache-octets-on-replace" "S16",
        "An answer that is replaced in the cache stays in the account of octets.";
    AttemptsMaxOverStream "attempts-max-over-stream" "S11, S16",
        "Asking again over TCP does not count against `attempts_max`.";
    MarksNeverRenewed "marks-never-renewed" "S7",
        "What an answer in the cache leads to is not checked again when the lists have changed.";
    LeadsUnchecked "leads-unchecked" "S7",
        "What an answer leads to is not checked against the lists.";
    ChoiceIgnored "choice-ignored" "S15",
        "The pool or upstream that a plugin has chosen is not the one that is asked.";
    PluginNeverDisabled "plugin-never-disabled" "S25",
        "A plugin is asked again however often it has failed.";
    PolicyFailsOpen "policy-fails-open" "S7, S15, S25",
        "A question whose plugin has failed goes on, whatever `on_error` says.";
    PluginDeadlineIgnored "plugin-deadline-ignored" "S2, S26",
        "A plugin's process may take any time.";
    ProcessLeaked "process-leaked" "S17",
        "A process that has ended badly keeps its place.";
    AliasLost "alias-lost" "S4, S5, S6, S7",
        "The answer to a rewritten question lacks the CNAME that leads to it.";
    CallWaiterForgotten "call-waiter-forgotten" "S1, S2, S16, S23",
        "Of those who share a call to a plugin only the first hears of its verdict.";
    NotBegunAgain "not-begun-again" "S1, S2, S16, S23",
        "Who waits for a plugin when the configuration changes is forgotten.";
    ProcessOutlivesStop "process-outlives-stop" "S17",
        "A plugin's process that is kept running is not killed when the worker stops.";
    GroupOfEverybody "group-of-everybody" "S7, S15",
        "Every client is taken for one that is in no group.";
    BlockModeIgnored "block-mode-ignored" "S7",
        "Blocked questions are refused, whatever the mode.";
    VmOutlivesError "vm-outlives-error" "S5, S6, S7, S25",
        "A script that has failed goes on in the VM in which it has.";
    NonsenseForwards "nonsense-forwards" "S7, S15, S25",
        "A verdict of a process that cannot be read lets the question go on.";
    GenerationIgnored "generation-ignored" "S1, S18, S22",
        "An event for what has ended reaches whoever has its slot now.";
    EarlyTimeoutActs "early-timeout-acts" "S20",
        "A timeout that is handled early does what is due next.";
    LastOfBatchLost "last-of-batch-lost" "S1, S2, S19, S23",
        "The last one of several datagrams that came together is overlooked.";
    OldBlocklist "old-blocklist" "S7",
        "After a reload the blacklist is the one before.";
    RemovedUpstreamAsked "removed-upstream-asked" "S14",
        "After a reload the first upstream is still the one before.";
    NoBackoff "no-backoff" "S12",
        "A connect that fails is followed by the next one at once.";
    SoaMinimumIgnored "soa-minimum-ignored" "S5",
        "Negative answers live for as long as the TTL of their SOA, whatever its MINIMUM.";
    StreamReplyUncounted "stream-reply-uncounted" "S23",
        "Replies that were waited for over a stream are not counted.";
    TruncatedTakenAsWhole "truncated-taken-as-whole" "S5, S6, S13",
        "A truncated reply from upstream is cached and answered as if it were whole.";
    ServfailKeptTooLong "servfail-kept-too-long" "S5, L2",
        "SERVFAIL is cached for a day, however long the configuration allows.";
    DrainWaitsForIdle "drain-waits-for-idle" "S17",
        "Stopping does not end while a client's connection is idle.";
    SizeLimitIgnored "size-limit-ignored" "S4",
        "Answers over UDP are as long as they are, whatever the client can take.";
    SourceAddressLost "source-address-lost" "S3",
        "Late replies over UDP leave from any address, not from the one that was asked.";
    UpstreamDownForEver "upstream-down-for-ever" "L1, L2",
        "An upstream that was down stays down although it answers.";
    InFlightUnbounded "in-flight-unbounded" "S10, S16",
        "`max_in_flight` of an upstream is no bound.";
    UnsentMiscounted "unsent-miscounted" "S16",
        "What a connection still had to send stays in the worker's account when it is closed.";
    IdleClientUnarmed "idle-client-unarmed" "S16",
        "A client's connection that was not idle when it was looked at is not looked at again.";
    ExchangeKeptOnReset "exchange-kept-on-reset" "S1, S10, S16, S17",
        "An HTTP exchange that its client resets keeps its place.";
    ExchangesKeptOnClose "exchanges-kept-on-close" "S16, S17",
        "The HTTP exchanges of a client's connection outlive it.";
    ResponseToAnother "response-to-another" "S1, S3, S4, S5, S6, S16",
        "A response that was waited for goes to the latest exchange of its connection.";
    HandshakeUnbounded "handshake-unbounded" "S10, S16",
        "A client may take any time for its handshakes.";
    BodyUnbounded "body-unbounded" "S2, S16",
        "The body of a client's request may take any time.";
    ResetsUnbounded "resets-unbounded" "S10",
        "A client may reset as many exchanges as it likes.";
    CarriedAddressIgnored "carried-address-ignored" "S4, S7",
        "Whoever is behind a proxy may ask what the proxy may.";
    FreshForTooLong "fresh-for-too-long" "S5",
        "An answer over HTTP may be kept for a second longer than its data.";
    ExchangeWithId "exchange-with-id" "S9",
        "A query to an upstream over HTTP has another id than 0.";
    ExchangeNotCancelled "exchange-not-cancelled" "S16, S17",
        "An exchange with an upstream that is given up goes on.";
    TlsLeftOut "tls-left-out" "S28",
        "An upstream of TLS is asked without it.";
}

#[cfg(feature = "planted")]
mod choice {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// From now on this thread's engines have this bug, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether this thread's engines have this bug.
    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub(crate) use choice::is_planted;
#[cfg(feature = "planted")]
pub use choice::plant;

/// No bug is planted in a build without the feature.
#[cfg(not(feature = "planted"))]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_bug_has_a_name_of_its_own_and_an_invariant() {
        let names: BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
        for bug in Bug::ALL {
            let plain = |c: char| c == '-' || c.is_ascii_lowercase();
            assert!(bug.name().chars().all(plain), "{bug:?}");
            let invariants = bug.invariants().split(", ");
            assert!(invariants.into_iter().all(|one| one.starts_with(['S', 'L'])), "{bug:?}");
        }
    }

    #[test]
    fn nothing_is_planted_that_nobody_asked_for() {
        assert!(!Bug::ALL.iter().any(|bug| is_planted(*bug)));
    }

    #[cfg(feature = "planted")]
    #[test]
    fn a_bug_is_planted_in_one_thread() {
        plant(Some(Bug::ReplyTwice));
        assert!(is_planted(Bug::ReplyTwice) && !is_planted(Bug::OptKept));
        plant(None);
        assert!(!is_planted(Bug::ReplyTwice));
    }
}
