//! Why a query ended as it did: one list that feeds the log line, the metric and the extended error.

use crate::wire::{ErrorNote, ExtendedError};

/// Why a query ended as it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An upstream answered.
    Forwarded,
    /// The cache had it.
    Cached,
    /// The cache had a failure (RFC 9520).
    CachedFailure,
    /// The blacklist names it.
    Blocked,
    /// The hosts file has it.
    Hosts,
    /// The configuration has a record of it.
    LocalRecord,
    /// A plugin answered.
    Policy,
    /// A plugin blocked it.
    PolicyBlocked,
    /// A plugin wants it to be asked over TCP.
    PolicyTruncated,
    /// A plugin dropped it.
    PolicyDropped,
    /// A plugin failed.
    PolicyFailed,
    /// A public name has a private address.
    Rebinding,
    /// Names led on to others too often.
    TooManyHops,
    /// The name is special and stays at home (RFC 6761).
    SpecialName,
    /// ANY gets a minimal answer (RFC 8482).
    MinimalAny,
    /// The client is not in the ACL.
    NotAllowed,
    /// The message could not be understood.
    Malformed,
    /// Another opcode than QUERY, or a type or class that no forwarder can serve.
    NotSupported,
    /// An EDNS version that nobody defined yet (RFC 6891 section 6.1.3).
    BadVersion,
    /// Nothing is fetched for a query without RD.
    RecursionNotDesired,
    /// The chain ended without an answer, or no upstream serves the name.
    NoRoute,
    /// Every candidate answered an rcode that means "ask another".
    UpstreamsRefused,
    /// Every candidate failed on the network.
    UpstreamsUnreachable,
    /// Nothing came in time.
    TimedOut,
    /// A bound was reached.
    Overload,
    /// The process stops.
    Stopping,
}

impl Reason {
    /// The name used in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Cached => "cached",
            Self::CachedFailure => "cached_failure",
            Self::Blocked => "blocked",
            Self::Hosts => "hosts",
            Self::LocalRecord => "local_record",
            Self::Policy => "policy",
            Self::PolicyBlocked => "policy_blocked",
            Self::PolicyTruncated => "policy_truncated",
            Self::PolicyDropped => "policy_dropped",
            Self::PolicyFailed => "policy_failed",
            Self::Rebinding => "rebinding",
            Self::TooManyHops => "too_many_hops",
            Self::SpecialName => "special_name",
            Self::MinimalAny => "minimal_any",
            Self::NotAllowed => "not_allowed",
            Self::Malformed => "malformed",
            Self::NotSupported => "not_supported",
            Self::BadVersion => "bad_version",
            Self::RecursionNotDesired => "recursion_not_desired",
            Self::NoRoute => "no_route",
            Self::UpstreamsRefused => "upstreams_refused",
            Self::UpstreamsUnreachable => "upstreams_unreachable",
            Self::TimedOut => "timed_out",
            Self::Overload => "overload",
            Self::Stopping => "stopping",
        }
    }

    /// The extended error, without a text.
    #[must_use]
    pub fn note(self) -> Option<ErrorNote<'static>> {
        self.extended_error().map(ErrorNote::from)
    }

    /// The extended error told to clients that speak EDNS (RFC 8914), if there is something to tell.
    #[must_use]
    pub const fn extended_error(self) -> Option<ExtendedError> {
        match self {
            Self::Forwarded
            | Self::Cached
            | Self::Hosts
            | Self::LocalRecord
            | Self::Policy
            | Self::PolicyTruncated
            | Self::PolicyDropped
            | Self::SpecialName
            | Self::MinimalAny
            | Self::Malformed
            | Self::BadVersion => None,
            Self::CachedFailure => Some(ExtendedError::CACHED_ERROR),
            Self::Blocked | Self::PolicyBlocked | Self::Rebinding => Some(ExtendedError::BLOCKED),
            Self::NotAllowed => Some(ExtendedError::PROHIBITED),
            Self::NotSupported => Some(ExtendedError::NOT_SUPPORTED),
            Self::RecursionNotDesired => Some(ExtendedError::NOT_AUTHORITATIVE),
            Self::NoRoute | Self::TimedOut => Some(ExtendedError::NO_REACHABLE_AUTHORITY),
            Self::UpstreamsRefused | Self::UpstreamsUnreachable => {
                Some(ExtendedError::NETWORK_ERROR)
            }
            Self::Overload | Self::PolicyFailed | Self::TooManyHops => Some(ExtendedError::OTHER),
            Self::Stopping => Some(ExtendedError::NOT_READY),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const ALL: [Reason; 26] = [
        Reason::Forwarded,
        Reason::Cached,
        Reason::CachedFailure,
        Reason::Blocked,
        Reason::Hosts,
        Reason::LocalRecord,
        Reason::Policy,
        Reason::PolicyBlocked,
        Reason::PolicyTruncated,
        Reason::PolicyDropped,
        Reason::PolicyFailed,
        Reason::Rebinding,
        Reason::TooManyHops,
        Reason::SpecialName,
        Reason::MinimalAny,
        Reason::NotAllowed,
        Reason::Malformed,
        Reason::NotSupported,
        Reason::BadVersion,
        Reason::RecursionNotDesired,
        Reason::NoRoute,
        Reason::UpstreamsRefused,
        Reason::UpstreamsUnreachable,
        Reason::TimedOut,
        Reason::Overload,
        Reason::Stopping,
    ];

    #[test]
    fn names_are_labels_of_their_own() {
        let names: BTreeSet<_> = ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), ALL.len());
        let plain = |name: &str| name.chars().all(|c| c == '_' || c.is_ascii_lowercase());
        assert!(names.into_iter().all(plain), "names are values of a label");
    }

    /// The numbers of RFC 8914 section 5.2.
    #[test]
    fn extended_errors_are_those_of_the_registry() {
        let told: Vec<_> =
            ALL.iter().filter_map(|reason| Some((*reason, reason.extended_error()?.0))).collect();
        let expected = [
            (Reason::CachedFailure, 13),
            (Reason::Blocked, 15),
            (Reason::PolicyBlocked, 15),
            (Reason::PolicyFailed, 0),
            (Reason::Rebinding, 15),
            (Reason::TooManyHops, 0),
            (Reason::NotAllowed, 18),
            (Reason::NotSupported, 21),
            (Reason::RecursionNotDesired, 20),
            (Reason::NoRoute, 22),
            (Reason::UpstreamsRefused, 23),
            (Reason::UpstreamsUnreachable, 23),
            (Reason::TimedOut, 22),
            (Reason::Overload, 0),
            (Reason::Stopping, 14),
        ];
        assert_eq!(told, expected);
    }
}
