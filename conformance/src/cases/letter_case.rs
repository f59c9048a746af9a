//! Random letter case towards upstreams (0x20), and those who do not repeat it.

use std::collections::HashSet;

use hickory_proto::rr::Name;

use crate::case::World;
use crate::harness::{Answer, Asked, Daemon, Query, Settings, Transport, Upstream};

cases! {
    case_is_random_upstream, all, "config upstreams.randomize_case, RFC 5452 4.4",
        "names go upstream in ever other letter case, and come back to clients in their own";
    case_is_not_random_over_tcp, all, "config upstreams.randomize_case",
        "over TCP there is nothing to guess, and names go in lower case";
    case_can_be_left_alone, all, "config upstreams.randomize_case",
        "switched off, names go upstream in lower case";
    a_reply_in_another_case_is_not_taken, all, "RFC 5452 4.4",
        "a reply that differs in letter case only is not believed: the answer comes over TCP";
    who_repeats_no_case_is_asked_in_lower_case, all, "config upstreams.randomize_case",
        "after three confirmed replies in another case names go to that upstream in lower case";
    who_repeats_no_case_needs_no_tcp, all, "robustness replies",
        "an upstream without TCP that lower-cases names is resolved from all the same";
    our_case_reaches_no_client, all, "RFC 4343 4.1",
        "records of a server that repeats our letter case come to clients in lower case";
    forged_case_changes_nothing, all, "RFC 5452 9.1",
        "a spoofer who knows everything but the letter case gets nothing into the cache";
}

const NAME: &str = "a-rather-long-name.with-many-letters.example.org";

/// Names in this case, and more than one letter of each.
fn spelled(asked: &Asked) -> String {
    asked.message.queries[0].name().to_ascii()
}

fn is_mixed(name: &str) -> bool {
    name.chars().any(|char| char.is_ascii_uppercase())
}

/// A server that lower-cases the name over UDP and gives another address than over TCP.
fn lower_casing(asked: &Asked) -> Answer {
    let ip = if asked.transport == Transport::Udp { "192.0.2.66" } else { "192.0.2.1" };
    let mut reply = asked.address(60, ip);
    reply.queries[0].name = Name::from_ascii(asked.name()).expect("a valid name");
    reply.into()
}

fn without_cache(world: &World, upstream: &Upstream, keys: &str) -> Daemon {
    Settings::new().section("cache = { enabled = false }").upstream(upstream, keys).start(world)
}

fn case_is_random_upstream(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = without_cache(world, &upstream, "");
    for _ in 0..8 {
        // `ask` compares the question that comes back.
        assert_eq!(daemon.ask(&Query::a(NAME)).address(), "192.0.2.1");
    }
    let spellings: HashSet<String> = upstream.asked().iter().map(spelled).collect();
    assert!(spellings.len() >= 7 && spellings.iter().all(|name| is_mixed(name)), "{spellings:?}");
}

fn case_is_not_random_over_tcp(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = without_cache(world, &upstream, r#"protocol = "tcp""#);
    assert_eq!(daemon.ask(&Query::a(NAME)).address(), "192.0.2.1");
    assert!(!is_mixed(&spelled(&upstream.asked()[0])));
}

fn case_can_be_left_alone(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = without_cache(world, &upstream, "randomize_case = false");
    for _ in 0..4 {
        daemon.ask(&Query::a(&NAME.to_uppercase()));
    }
    assert!(upstream.asked().iter().all(|asked| !is_mixed(&spelled(asked))));
}

fn a_reply_in_another_case_is_not_taken(world: &World) {
    let upstream = Upstream::start(lower_casing);
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a(NAME)).address(), "192.0.2.1");
    }
    let transports: Vec<_> = upstream.asked().iter().map(|asked| asked.transport).collect();
    assert_eq!(transports, [Transport::Udp, Transport::Tcp]);
    assert_eq!(daemon.metric(r#"balancedns_upstream_mismatches_total{what="case"}"#), 1.0);
}

fn who_repeats_no_case_is_asked_in_lower_case(world: &World) {
    let upstream = Upstream::start(lower_casing);
    let daemon = without_cache(world, &upstream, "");
    for _ in 0..3 {
        assert_eq!(daemon.ask(&Query::a(NAME)).address(), "192.0.2.1");
    }
    assert_eq!(daemon.ask(&Query::a(NAME)).address(), "192.0.2.66", "as it comes by UDP");
    let last = upstream.asked().pop().expect("seven were asked");
    assert_eq!((last.transport, last.sequence), (Transport::Udp, 6));
    assert!(!is_mixed(&spelled(&last)));
    daemon.wait_to_say("letter case");
}

fn who_repeats_no_case_needs_no_tcp(world: &World) {
    let upstream = Upstream::udp_only(lower_casing);
    let daemon = without_cache(world, &upstream, "");
    for _ in 0..4 {
        assert_eq!(daemon.ask(&Query::a(NAME)).address(), "192.0.2.66");
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 7, "twice each, until it is known");
    let (guessed, confirmed) = (&asked[0], &asked[1]);
    assert!(is_mixed(&spelled(guessed)) && !is_mixed(&spelled(confirmed)));
    assert_ne!((guessed.id(), guessed.from), (confirmed.id(), confirmed.from));
}

fn our_case_reaches_no_client(world: &World) {
    // Name, type A, class IN, TTL, one address: nothing is compressed.
    let upstream = Upstream::start(|asked| -> Answer {
        let question = asked.question();
        let mut records = question.to_vec();
        records.extend([0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        Answer::Octets(vec![asked.raw_reply(0x8180, [1, 0, 0], &records)])
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a(NAME));
        assert_eq!(reply.message.answers[0].name.to_ascii(), format!("{NAME}."));
    }
    assert_eq!(upstream.count(), 1);
}

fn forged_case_changes_nothing(world: &World) {
    let upstream = Upstream::start(|asked| -> Answer {
        if asked.transport == Transport::Tcp {
            return asked.address(300, "192.0.2.1").into();
        }
        let mut forged = asked.address(300, "192.0.2.66");
        let swapped: String = spelled(asked)
            .chars()
            .map(|char| {
                let swap = char.is_ascii_lowercase();
                if swap { char.to_ascii_uppercase() } else { char.to_ascii_lowercase() }
            })
            .collect();
        forged.queries[0].name = Name::from_ascii(swapped).expect("a valid name");
        forged.into()
    });
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a(NAME)).address(), "192.0.2.1");
    }
    assert_eq!(upstream.count(), 2, "one datagram, one question over TCP, then the cache");
}
