//! Upstreams known by a host name: looked up at the bootstrap servers, again by TTL, never waited for
//! longer than a timeout.

use std::net::IpAddr;
use std::sync::Arc;

use super::harness::{World, error, literal, query, rcode, reply, snapshot, upstream};
use crate::config::{Snapshot, UpstreamAddress, UpstreamProtocol};
use crate::engine::{Event, IoFailure};
use crate::handle::SocketHandle;
use crate::limits::LOOKUP_EVERY_MIN;
use crate::metrics::Counter;
use crate::time::Duration;
use crate::wire::Name;

const BOOTSTRAP: &str = "192.0.2.53:53";

fn named() -> Snapshot {
    let mut only = upstream("one", UpstreamProtocol::Udp);
    only.addr =
        UpstreamAddress::Host { name: Name::parse("dns.example").expect("a name"), port: 5353 };
    let mut named = snapshot(vec![only]);
    named.routing.bootstrap = vec![BOOTSTRAP.parse().expect("an address")];
    named.cache.enabled = false;
    named
}

/// An engine that has just asked for both kinds of address.
fn started(snapshot: Snapshot) -> World {
    let mut world = World::new(snapshot);
    world.pump();
    world
}

/// The look-ups that wait to be answered: AAAA, then A.
fn lookups(world: &mut World) -> [(SocketHandle, Vec<u8>); 2] {
    let mut lookups = Vec::new();
    for _ in 0..2 {
        let (socket, remote, sent) = world.next_query();
        assert_eq!(remote, BOOTSTRAP);
        lookups.push((socket, sent));
    }
    let types: Vec<u8> = lookups.iter().map(|(_, sent)| record_type(sent)).collect();
    assert_eq!(types, [28, 1]);
    lookups.try_into().expect("two")
}

fn record_type(sent: &[u8]) -> u8 {
    let end = 12 + sent[12..].iter().position(|octet| *octet == 0).expect("a root");
    sent[end + 2]
}

/// A reply with these addresses.
fn addresses(sent: &[u8], ttl: u32, ips: &[&str]) -> Vec<u8> {
    let mut message = error(sent, 0);
    message[7] = u8::try_from(ips.len()).expect("few");
    for ip in ips {
        let octets = match ip.parse().expect("an address") {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        message.extend_from_slice(&[0xc0, 12, 0, if octets.len() == 4 { 1 } else { 28 }, 0, 1]);
        message.extend_from_slice(&ttl.to_be_bytes());
        message.extend_from_slice(&[0, u8::try_from(octets.len()).expect("short")]);
        message.extend_from_slice(&octets);
    }
    message
}

fn look_up(world: &mut World, ttl: u32, v6: &[&str], v4: &[&str]) {
    let [(six_socket, six), (four_socket, four)] = lookups(world);
    world.upstream_says(six_socket, &addresses(&six, ttl, v6));
    world.upstream_says(four_socket, &addresses(&four, ttl, v4));
}

#[test]
fn only_addresses_of_the_sources_family_are_used() {
    let mut snapshot = named();
    snapshot.upstreams[0].source = "192.0.2.99".parse().ok();
    let mut world = started(snapshot);
    look_up(&mut world, 300, &["2001:db8::1"], &["192.0.2.8"]);
    world.ask(&query(1, "a.example"));
    let (socket, remote, sent) = world.next_query();
    assert_eq!(remote, "192.0.2.8:5353");
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(rcode(&world.replies[0]), 0);
}

#[test]
fn it_is_looked_up_at_once_and_ipv6_is_tried_first() {
    let mut world = started(named());
    look_up(&mut world, 300, &["2001:db8::1"], &["192.0.2.8", "192.0.2.9"]);
    world.ask(&query(1, "a.example"));
    let mut tried = Vec::new();
    for _ in 0..3 {
        let (socket, remote, _) = world.next_query();
        tried.push(remote);
        world.engine.handle_socket_failed(world.now, socket, IoFailure::Unreachable);
        world.pump();
    }
    assert_eq!(tried, ["[2001:db8::1]:5353", "192.0.2.8:5353", "192.0.2.9:5353"]);
    assert_eq!(rcode(&world.replies[0]), 2);
    let addresses = tried.iter().map(|addr| addr.parse().expect("an address")).collect();
    let (upstream, host) = ("one".to_owned(), "dns.example.".to_owned());
    assert!(world.events.contains(&Event::HostFound { upstream, host, addresses }));
}

/// A machine with IPv6 but without an address that leads out.
#[test]
fn a_family_that_cannot_be_used_is_not_tried_for_every_question() {
    let mut world = started(named());
    look_up(&mut world, 300, &["2001:db8::1"], &["192.0.2.8"]);
    world.ask(&query(1, "a.example"));
    let (socket, remote, _) = world.next_query();
    assert_eq!(remote, "[2001:db8::1]:5353");
    world.engine.handle_socket_failed(world.now, socket, IoFailure::AddressUnavailable);
    world.pump();
    for number in 2..5 {
        let (socket, remote, sent) = world.next_query();
        assert_eq!(remote, "192.0.2.8:5353");
        world.upstream_says(socket, &reply(&sent, 60));
        world.ask(&query(number, &format!("name{number}.example")));
    }
}

#[test]
fn questions_wait_for_the_first_address() {
    let mut world = started(named());
    world.ask(&query(1, "a.example"));
    world.ask(&query(2, "b.example"));
    let [_, (socket, four)] = lookups(&mut world);
    assert!(world.queries.is_empty() && world.replies.is_empty());
    world.upstream_says(socket, &addresses(&four, 300, &["192.0.2.8"]));
    for _ in 0..2 {
        let (socket, remote, sent) = world.next_query();
        assert_eq!(remote, "192.0.2.8:5353", "without waiting for the other kind");
        world.upstream_says(socket, &reply(&sent, 60));
    }
    assert_eq!(world.replies.len(), 2);
}

#[test]
fn a_name_that_cannot_be_looked_up_ends_the_wait_and_is_tried_again() {
    let mut world = started(named());
    world.ask(&query(1, "a.example"));
    for (socket, sent) in lookups(&mut world) {
        world.upstream_says(socket, &error(&sent, 2));
    }
    assert_eq!(rcode(&world.replies.pop_front().expect("an answer")), 2);
    assert_eq!(world.count(Counter::LookupsFailed), 1);
    let told =
        |event: &Event| matches!(event, Event::HostNotFound { known, .. } if known.is_empty());
    assert_eq!(world.events.iter().filter(|event| told(event)).count(), 1);

    world.ask(&query(2, "b.example"));
    assert_eq!(rcode(&world.replies.pop_front().expect("an answer at once")), 2);
    world.pass(Duration::from_secs(1));
    look_up(&mut world, 300, &[], &["192.0.2.8"]);
    let found = |event: &&Event| matches!(event, Event::HostFound { .. });
    assert_eq!(world.events.iter().filter(found).count(), 1);
    world.ask(&query(3, "c.example"));
    assert_eq!(world.next_query().1, "192.0.2.8:5353");
}

#[test]
fn silent_bootstrap_servers_do_not_keep_clients_waiting_for_ever() {
    let mut world = started(named());
    world.ask(&query(1, "a.example"));
    world.pass(Duration::from_millis(4_500));
    assert_eq!(rcode(&world.replies[0]), 2);
    assert_eq!(world.engine.sizes().waiters, 0);
}

#[test]
fn while_one_is_looked_up_another_waits_its_turn() {
    let mut snapshot = named();
    let mut second = upstream("two", UpstreamProtocol::Udp);
    second.addr = literal("192.0.2.2:53");
    snapshot.upstreams.push(second);
    snapshot.routes = crate::upstream::Routes::new(&[Vec::new(), Vec::new()]);
    let mut world = started(snapshot);
    world.ask(&query(1, "a.example"));
    for (socket, sent) in lookups(&mut world) {
        world.upstream_says(socket, &error(&sent, 3));
    }
    let (socket, remote, sent) = world.next_query();
    assert_eq!(remote, "192.0.2.2:53");
    world.upstream_says(socket, &reply(&sent, 60));
    assert_eq!(rcode(&world.replies[0]), 0);
}

#[test]
fn it_is_looked_up_again_when_the_ttl_is_over_and_moves_with_its_addresses() {
    let mut world = started(named());
    look_up(&mut world, 60, &[], &["192.0.2.8"]);
    world.ask(&query(1, "a.example"));
    let (socket, remote, sent) = world.next_query();
    assert_eq!(remote, "192.0.2.8:5353");

    world.pass(Duration::from_millis(100));
    world.upstream_says(socket, &reply(&sent, 60));
    world.pass(Duration::from_secs(60));
    look_up(&mut world, 1, &[], &["192.0.2.9"]);
    world.ask(&query(2, "b.example"));
    assert_eq!(world.next_query().1, "192.0.2.9:5353");
    let open = world.open_remotes();
    assert!(!open.contains("192.0.2.8:5353") && open.contains("192.0.2.9:5353"), "{open:?}");

    world.pass(LOOKUP_EVERY_MIN);
    world.queries.retain(|(_, sent)| sent.windows(3).any(|part| part.eq_ignore_ascii_case(b"dns")));
    for (socket, sent) in lookups(&mut world) {
        world.upstream_says(socket, &error(&sent, 3));
    }
    world.ask(&query(3, "c.example"));
    assert_eq!(world.next_query().1, "192.0.2.9:5353", "nothing better is known");
}

#[test]
fn aliases_are_followed_within_the_answer() {
    let mut world = started(named());
    let [(six_socket, six), (four_socket, four)] = lookups(&mut world);
    world.upstream_says(six_socket, &error(&six, 0));
    let mut answer = error(&four, 0);
    answer[7] = 3;
    // dns.example CNAME x.example, then x.example's address, and one of somebody else.
    answer.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'x', 0xc0, 16]);
    answer.extend_from_slice(&[1, b'X', 0xc0, 16, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 8]);
    answer.extend_from_slice(&[1, b'y', 0xc0, 16, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 66]);
    world.upstream_says(four_socket, &answer);
    world.ask(&query(1, "a.example"));
    let (socket, remote, sent) = world.next_query();
    assert_eq!(remote, "192.0.2.8:5353");
    world.upstream_says(socket, &reply(&sent, 60));
    world.pass(Duration::from_secs(9));
    lookups(&mut world); // the alias has the shorter TTL
}

#[test]
fn a_reload_keeps_known_addresses_and_forgets_what_is_gone() {
    let mut world = started(named());
    look_up(&mut world, 300, &[], &["192.0.2.8"]);
    world.engine.handle_reload(world.now, Arc::new(named()));
    world.pump();
    assert!(world.queries.is_empty(), "nothing to look up");
    world.ask(&query(1, "a.example"));
    assert_eq!(world.next_query().1, "192.0.2.8:5353");

    let mut other = named();
    other.upstreams[0].addr = literal("192.0.2.2:53");
    other.routing.bootstrap.clear();
    world.engine.handle_reload(world.now, Arc::new(other));
    world.pump();
    world.ask(&query(2, "b.example"));
    assert_eq!(world.next_query().1, "192.0.2.2:53");
    world.pass(Duration::from_secs(600));
    assert!(world.queries.iter().all(|(_, sent)| !sent.windows(3).any(|part| part == b"dns")));
}

#[test]
fn a_reload_while_it_is_looked_up_lets_go_of_who_waits() {
    let mut world = started(named());
    world.ask(&query(1, "a.example"));
    let asked = lookups(&mut world);
    let mut other = named();
    other.upstreams[0].addr = literal("192.0.2.2:53");
    other.routing.bootstrap.clear();
    world.engine.handle_reload(world.now, Arc::new(other));
    world.pump();
    assert_eq!(rcode(&world.replies[0]), 2);
    for (socket, sent) in asked {
        world.upstream_says(socket, &addresses(&sent, 60, &[]));
    }
    assert_eq!(world.engine.sizes().fetches, 0);
}

#[test]
fn stopping_does_not_wait_for_a_look_up() {
    let mut world = started(named());
    world.engine.handle_shutdown(world.now);
    world.pump();
    assert!(world.stopped && world.open_sockets.is_empty());
    assert_eq!(world.engine.next_timeout(), None);
}

#[test]
fn a_host_that_cannot_be_looked_up_is_asked_last_and_not_waited_for() {
    let mut snapshot = named();
    let mut second = upstream("two", UpstreamProtocol::Udp);
    second.addr = literal("192.0.2.2:53");
    snapshot.upstreams.push(second);
    snapshot.routes = crate::upstream::Routes::new(&[Vec::new(), Vec::new()]);
    let mut world = started(snapshot);
    for (socket, sent) in lookups(&mut world) {
        world.upstream_says(socket, &error(&sent, 2));
    }
    world.pass(Duration::from_secs(1));
    lookups(&mut world); // the next round is under way
    world.ask(&query(1, "a.example"));
    assert_eq!(world.next_query().1, "192.0.2.2:53");
}

#[test]
fn what_leads_back_to_us_is_no_address() {
    let mut snapshot = named();
    snapshot.listen.sockets[0].addr = "0.0.0.0:5353".parse().expect("an address");
    let mut world = started(snapshot);
    look_up(
        &mut world,
        300,
        &["::", "::ffff:127.0.0.1"],
        &["127.0.0.1", "0.0.0.0", "224.0.0.1", "192.0.2.8"],
    );
    world.ask(&query(1, "a.example"));
    assert_eq!(world.next_query().1, "192.0.2.8:5353");
    assert!(world.queries.is_empty());
}

#[test]
fn other_settings_keep_the_addresses() {
    let mut world = started(named());
    look_up(&mut world, 300, &[], &["192.0.2.8"]);
    let mut other = named();
    other.upstreams[0].timeout = Duration::from_millis(1_234);
    world.engine.handle_reload(world.now, Arc::new(other));
    world.pump();
    lookups(&mut world);
    world.ask(&query(1, "a.example"));
    assert_eq!(world.next_query().1, "192.0.2.8:5353", "without waiting for the look-up");
}

#[test]
fn other_bootstrap_servers_are_asked_at_once() {
    let mut world = started(named());
    lookups(&mut world);
    let mut other = named();
    other.routing.bootstrap = vec!["192.0.2.54:53".parse().expect("an address")];
    world.engine.handle_reload(world.now, Arc::new(other));
    world.pump();
    assert_eq!(world.next_query().1, "192.0.2.54:53");
    assert_eq!(world.next_query().1, "192.0.2.54:53");
    assert!(world.queries.is_empty());
}
