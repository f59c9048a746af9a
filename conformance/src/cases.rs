//! All cases, one module per kind of behaviour.

mod admin;
mod blocking;
mod caching;
mod certificates;
mod discovery;
mod doh;
mod doh_connections;
mod doh_upstreams;
mod dot;
mod edns;
mod edns_upstreams;
mod executables;
mod expiry;
mod failover;
mod failures;
mod flood;
mod forgeries;
mod forwarding;
mod groups;
mod header;
mod health;
mod host_names;
mod letter_case;
mod lists;
mod local;
mod local_records;
mod malformed;
mod names;
mod negative;
mod plugin_processes;
mod policies;
mod policy_failures;
mod policy_rewrites;
mod privacy;
mod process;
mod proxies;
mod rebinding;
mod routing;
mod secure_upstreams;
mod sockets;
mod special;
mod spoofing;
mod stopped;
mod stream_clients;
mod stream_limits;
mod stream_upstreams;
mod truncation;

use crate::case::Case;

/// Every case there is, in the order of the modules.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    [
        forwarding::CASES,
        header::CASES,
        names::CASES,
        malformed::CASES,
        edns::CASES,
        edns_upstreams::CASES,
        truncation::CASES,
        caching::CASES,
        negative::CASES,
        failures::CASES,
        local::CASES,
        local_records::CASES,
        blocking::CASES,
        lists::CASES,
        rebinding::CASES,
        groups::CASES,
        policies::CASES,
        policy_rewrites::CASES,
        policy_failures::CASES,
        executables::CASES,
        plugin_processes::CASES,
        routing::CASES,
        special::CASES,
        failover::CASES,
        health::CASES,
        host_names::CASES,
        spoofing::CASES,
        forgeries::CASES,
        letter_case::CASES,
        stream_clients::CASES,
        stream_limits::CASES,
        stream_upstreams::CASES,
        dot::CASES,
        doh::CASES,
        doh_connections::CASES,
        certificates::CASES,
        proxies::CASES,
        secure_upstreams::CASES,
        doh_upstreams::CASES,
        privacy::CASES,
        discovery::CASES,
        sockets::CASES,
        admin::CASES,
        process::CASES,
        flood::CASES,
        stopped::CASES,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::case::Clients;

    #[test]
    fn names_are_unique() {
        let mut names = HashSet::new();
        for case in all() {
            assert!(names.insert(case.full_name()), "{} twice", case.full_name());
        }
    }

    /// Two cases that say the same are one behaviour, counted twice.
    #[test]
    fn titles_are_unique() {
        let mut titles = HashSet::new();
        for case in all() {
            assert!(titles.insert(case.title), "\"{}\" twice", case.title);
        }
    }

    #[test]
    fn at_least_a_hundred_and_fifty_behaviours_run_over_every_transport() {
        let every = |case: &&Case| case.clients == Clients::All && case.pending.is_none();
        let count = all().filter(every).count();
        assert!(count >= 150, "{count}");
    }

    #[test]
    fn references_have_their_form() {
        for case in all() {
            for reference in case.references() {
                let words: Vec<_> = reference.split(' ').collect();
                let formed = match words.as_slice() {
                    ["RFC", number, section] => {
                        number.parse::<u16>().is_ok()
                            && section.split('.').all(|part| part.parse::<u8>().is_ok())
                    }
                    ["config" | "http" | "cli" | "robustness" | "architecture", what] => {
                        !what.is_empty()
                    }
                    _ => false,
                };
                assert!(formed, "{}: \"{reference}\"", case.full_name());
            }
        }
    }
}
