//! What upstreams are told of clients' networks (RFC 7871), and whom their answers are for.

use super::harness::{UDP, World, query, rcode, reply, snapshot, upstream};
use crate::batch::{ReceiveBatch, TransmitBatch, Via};
use crate::config::{Snapshot, SubnetPolicy, UpstreamProtocol};
use crate::engine::Origin;
use crate::metrics::Counter;
use crate::policy::Acl;
use crate::wire::{PrefixLengths, QueryView};

/// Two upstreams, of which the first is told.
fn told(policy: SubnetPolicy) -> Snapshot {
    let mut first = upstream("one", UpstreamProtocol::Udp);
    first.client_subnet = policy;
    let mut second = upstream("two", UpstreamProtocol::Udp);
    second.addr = super::harness::literal("192.0.2.2:53");
    let mut snapshot = snapshot(vec![first, second]);
    snapshot.tells_client_subnets = true;
    snapshot.acl = Acl::new(vec!["0.0.0.0/0".parse().expect("valid")]);
    snapshot
}

/// The query with an OPT record that has one option.
fn with_option(mut message: Vec<u8>, code: u16, payload: &[u8]) -> Vec<u8> {
    message[11] += 1;
    let option = u16::try_from(payload.len()).expect("short").to_be_bytes();
    let length = u16::try_from(payload.len() + 4).expect("short").to_be_bytes();
    message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0]);
    message.extend_from_slice(&length);
    message.extend_from_slice(&code.to_be_bytes());
    message.extend_from_slice(&option);
    message.extend_from_slice(payload);
    message
}

/// A client at this address asks; the reply, if it comes at once.
fn ask(world: &mut World, client: &str, message: &[u8]) -> Option<Vec<u8>> {
    let peer = format!("{client}:5353").parse().expect("an address");
    let mut batch = ReceiveBatch::new(1, 4_096);
    batch.push(peer, None, message).expect("room");
    let mut transmit = TransmitBatch::new(8, 1_232);
    world.engine.handle_datagrams(world.now, Origin::Listener(UDP), &batch, &mut transmit);
    let mut replies = transmit.iter().filter_map(|(meta, octets)| match meta.via {
        Via::Listener { .. } => Some(octets.to_vec()),
        Via::Socket(_) => None,
    });
    let reply = replies.next();
    world.pump();
    reply
}

/// The subnet in the next query to an upstream.
fn sent(world: &mut World) -> Option<Vec<u8>> {
    let (_, message) = world.queries.pop_front().expect("a query");
    let view = QueryView::parse(&message).expect("valid");
    view.client_subnet().map(<[u8]>::to_vec)
}

#[test]
fn an_upstream_that_is_told_hears_a_prefix_of_the_clients_address() {
    let mut world = World::new(told(SubnetPolicy::Add(PrefixLengths::default())));
    assert_eq!(ask(&mut world, "198.51.100.77", &query(1, "example.org")), None);
    assert_eq!(sent(&mut world), Some(vec![0, 1, 24, 0, 198, 51, 100]));
    ask(&mut world, "10.1.2.3", &query(1, "private.example"));
    assert_eq!(sent(&mut world), None, "a private address tells nobody anything");
    let said = [0, 1, 32, 0, 203, 0, 113, 9];
    ask(&mut world, "198.51.100.77", &with_option(query(1, "said.example"), 8, &said));
    assert_eq!(sent(&mut world), Some(vec![0, 1, 24, 0, 203, 0, 113]));
    ask(&mut world, "198.51.100.77", &with_option(query(1, "shy.example"), 8, &[0, 1, 0, 0]));
    assert_eq!(sent(&mut world), Some(vec![0, 1, 0, 0]), "the client wants nothing told");
}

#[test]
fn what_a_client_says_is_passed_on_as_it_is_and_nothing_else() {
    let mut world = World::new(told(SubnetPolicy::Pass));
    ask(&mut world, "198.51.100.77", &query(1, "example.org"));
    assert_eq!(sent(&mut world), None);
    let said = [0, 1, 20, 0, 203, 0, 112];
    ask(&mut world, "198.51.100.77", &with_option(query(1, "said.example"), 8, &said));
    assert_eq!(sent(&mut world), Some(said.to_vec()));
}

#[test]
fn nobody_is_told_by_default() {
    let mut world = World::new(told(SubnetPolicy::Off));
    let said = [0, 1, 20, 0, 203, 0, 112];
    ask(&mut world, "198.51.100.77", &with_option(query(1, "said.example"), 8, &said));
    assert_eq!(sent(&mut world), None);
}

#[test]
fn an_answer_is_for_its_network_alone_and_says_so_to_who_said_one() {
    let mut world = World::new(told(SubnetPolicy::Add(PrefixLengths::default())));
    ask(&mut world, "198.51.100.77", &query(1, "example.org"));
    let (socket, asked) = world.queries.pop_front().expect("a query");
    let mut batch = ReceiveBatch::new(1, 4_096);
    let answer = reply(&asked, 300);
    batch.push("192.0.2.1:53".parse().expect("valid"), None, &answer).expect("room");
    let mut transmit = TransmitBatch::new(8, 1_232);
    world.engine.handle_datagrams(world.now, Origin::Socket(socket), &batch, &mut transmit);
    assert_eq!(transmit.iter().count(), 1);
    assert!(ask(&mut world, "198.51.100.9", &query(2, "example.org")).is_some(), "the same /24");
    assert_eq!(ask(&mut world, "198.51.101.9", &query(3, "example.org")), None, "another one");
    assert!(sent(&mut world).is_some());
    let said = with_option(query(4, "example.org"), 8, &[0, 1, 32, 0, 198, 51, 100, 5]);
    let hit = ask(&mut world, "203.0.113.1", &said).expect("the network that it says");
    assert!(hit.ends_with(&[0, 8, 0, 7, 0, 1, 24, 24, 198, 51, 100]), "{hit:?}");
}

#[test]
fn an_answer_for_another_network_is_no_answer() {
    let mut world = World::new(told(SubnetPolicy::Add(PrefixLengths::default())));
    ask(&mut world, "198.51.100.77", &query(1, "example.org"));
    let (socket, asked) = world.queries.pop_front().expect("a query");
    let wrong = with_option(reply(&asked, 300), 8, &[0, 1, 24, 24, 198, 51, 101]);
    world.upstream_says(socket, &wrong);
    assert_eq!(world.count(Counter::ReplyWrongSubnet), 1);
    assert_eq!(world.engine.sizes().waiters, 1, "the right one may still come");
}

#[test]
fn a_malformed_one_is_formerr_where_it_would_count() {
    let mut world = World::new(told(SubnetPolicy::Pass));
    let malformed = with_option(query(1, "example.org"), 8, &[0, 1, 24, 0, 1]);
    let reply = ask(&mut world, "198.51.100.77", &malformed).expect("at once");
    assert_eq!(rcode(&reply), 1);
    let mut world = World::new(told(SubnetPolicy::Off));
    assert_eq!(ask(&mut world, "198.51.100.77", &malformed), None, "nobody looks at it");
}
