//! A flood of names that nobody can resolve, at a daemon whose only upstream is dead: it stays
//! small, goes on answering what it has, and recovers.
//!
//! The bounds asserted here follow from what is configured and from the daemon's table of limits,
//! not from what was once observed.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::case::World;
use crate::harness::{Daemon, Query, Settings, UdpClient, Upstream, until};

cases! {
    a_flood_at_a_silent_upstream_is_survived, udp alone, "robustness flood",
        "200,000 names at an upstream that says nothing: memory and descriptors stay bounded";
    a_flood_at_a_closed_upstream_is_survived, udp alone, "robustness flood",
        "200,000 names at a port where nobody listens: memory and descriptors stay bounded";
    failures_push_out_no_answers, udp alone, "RFC 9520 3.2, config cache.capacity",
        "a cache of default size keeps names that are asked for through a flood of failures";
}

/// Names of the flood, each asked for once.
const NAMES: u32 = 200_000;
/// Names that are twice what can be asked for at once: all of the fetches fail, and then some.
const SOME_NAMES: u32 = 2 * 16_384;
/// Queries of the flood on their way at once, as far as they are answered at all.
const WINDOW: usize = 128;
/// Queries after which one of the kept names is asked for.
const KEPT_EVERY: u32 = 100;
/// Names that were kept before the flood.
const KEPT: u32 = 20;

/// Entries of a cache in which there is room for more failures than there can be fetches at once.
const ROOMY: u32 = 100_000;

/// Fetches: 16,384 at 2 KiB each. Datagrams waiting to be sent: 65,536 queries of 282 octets at
/// most.
const MEMORY_KIB: u64 = 16_384 * 2 + 65_536 * 282 / 1_024 + CACHE_KIB;
/// Configured for the cache.
const CACHE_KIB: u64 = 16_384;
/// UDP sockets towards upstreams: 4,096; listeners, log, timers and the like: a few.
const DESCRIPTORS: usize = 4_096 + 64;

/// What at least half of the kept names are answered within, however busy the machine is.
const USUALLY: Duration = Duration::from_millis(100);
/// What each is answered within: less than the upstream's timeout, for which none may wait.
const EVER: Duration = Duration::from_millis(1_500);

fn a_flood_at_a_silent_upstream_is_survived(world: &World) {
    // Bound, and never read: the kernel takes what fits and drops the rest without a word.
    let daemon = assert_survived(world, NAMES, ROOMY, |_| {});
    let shed = daemon.metric_sum("balancedns_limit_reached_total")
        + daemon.metric("balancedns_upstream_failures_total{reason=\"limit\"}");
    assert!(shed >= 1_000.0, "{shed} were shed");
}

fn a_flood_at_a_closed_upstream_is_survived(world: &World) {
    // A connected socket keeps its port, and everybody but its peer is told that nobody is there.
    assert_survived(world, NAMES, ROOMY, |socket| {
        socket.connect("127.0.0.1:9").expect("connecting a datagram socket needs nobody");
    });
}

/// When 16,384 fetches end at once without an answer, that many failures are kept.
fn failures_push_out_no_answers(world: &World) {
    assert_survived(world, SOME_NAMES, 10_000, |_| {});
}

/// Fills the cache, has the upstream die, floods, has it return.
fn assert_survived(
    world: &World,
    names: u32,
    capacity: u32,
    die: impl FnOnce(&UdpSocket),
) -> Daemon {
    let upstream = Upstream::udp_only(|asked| asked.address(3_600, "192.0.2.1"));
    let port = upstream.addr().port();
    let bytes = CACHE_KIB * 1_024;
    let cache = format!("cache = {{ capacity = {capacity}, max_bytes = {bytes} }}");
    let daemon =
        Settings::new().upstream(&upstream, "max_in_flight = 1000000").section(&cache).start(world);
    let client = UdpClient::to(daemon.addr());
    for number in 0..KEPT {
        assert_eq!(client.ask(&kept(number)).address(), "192.0.2.1");
    }
    let before = daemon.memory_kib();
    drop(upstream);
    let dead = UdpSocket::bind(("127.0.0.1", port)).expect("the port was the upstream's");
    die(&dead);

    let (took, descriptors) = flood(&daemon, &client, names);
    let slow = took.iter().filter(|took| **took > USUALLY).count();
    assert!(slow * 2 <= took.len(), "{slow} of {} took more than {USUALLY:?}", took.len());
    let grown = daemon.memory_peak_kib().saturating_sub(before);
    assert!(grown <= MEMORY_KIB, "memory grew by {grown} KiB, {MEMORY_KIB} KiB are the limits");
    assert!(descriptors <= DESCRIPTORS, "{descriptors} descriptors");

    until("every query has ended, once", || {
        let queries = daemon.metric("balancedns_queries_total");
        let ends = daemon.metric_sum("balancedns_responses_total")
            + daemon.metric_sum("balancedns_dropped_total");
        ((queries - ends).abs() < 0.1).then_some(())
    });
    for number in 0..KEPT {
        assert_eq!(client.ask(&kept(number)).address(), "192.0.2.1");
    }
    drop(dead);
    let _upstream = Upstream::udp_at_port(port, |asked| asked.address(60, "192.0.2.3"));
    let mut fresh = 0;
    until("it resolves again", || {
        fresh += 1;
        let reply = client.ask(&Query::a(&format!("fresh{fresh}.example.org")));
        (reply.rcode() == 0 && reply.address() == "192.0.2.3").then_some(())
    });
    daemon
}

fn kept(number: u32) -> Query {
    Query::a(&format!("kept{}.example.org", number % KEPT))
}

/// Asks for all names as fast as they are answered, and for the kept ones in between. Gives what
/// these took, and the most descriptors that were open.
fn flood(daemon: &Daemon, client: &UdpClient, names: u32) -> (Vec<Duration>, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port for the flood");
    socket.connect(daemon.addr()).expect("connecting a datagram socket needs nobody");
    // Who is not answered by then waits for the upstream, and is not waited for.
    socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout above zero");
    let (mut took, mut descriptors, mut outstanding) = (Vec::new(), 0, 0);
    let mut buffer = [0; 1_232];
    // The digits stand behind the header, the label's length and its first letter.
    let mut query = Query::a("n000000.flood.example.org").encode();
    for number in 0..names {
        query[14..20].copy_from_slice(format!("{number:06}").as_bytes());
        socket.send(&query).expect("loopback takes a datagram");
        outstanding += 1;
        while outstanding >= WINDOW {
            match socket.recv(&mut buffer) {
                Ok(_) => {
                    assert_eq!(buffer[3] & 0xf, 2, "SERVFAIL: nobody can know");
                    outstanding -= 1;
                }
                Err(_) => outstanding = 0,
            }
        }
        if number % KEPT_EVERY == 0 {
            let start = Instant::now();
            client.send(&kept(number / KEPT_EVERY).encode());
            let reply = client.try_receive(EVER).expect("a kept name is answered in the flood");
            assert_eq!(reply.address(), "192.0.2.1");
            took.push(start.elapsed());
        }
        if number % 10_000 == 0 {
            descriptors = descriptors.max(daemon.descriptors());
        }
    }
    (took, descriptors)
}
