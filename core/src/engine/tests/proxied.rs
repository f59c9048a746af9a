//! Datagrams through a proxy: whose they are, and who gets the answer.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::harness::{World, client, query, rcode, reply, snapshot, upstream};
use crate::config::UpstreamProtocol;
use crate::engine::Event;
use crate::metrics::Counter;
use crate::policy::Acl;

/// A world that lets this network in and takes the harness' only peer for a proxy.
fn behind_a_proxy(acl: &str) -> World {
    let mut snapshot = snapshot(vec![upstream("one", UpstreamProtocol::Udp)]);
    snapshot.listen.proxy_protocol_from = Acl::new(vec![IpNet::from(client().ip())]);
    snapshot.acl = Acl::new(vec![acl.parse().expect("a network")]);
    snapshot.logging.log_queries = true;
    World::new(snapshot)
}

/// A header of version 2 for a datagram from this client, or `LOCAL`.
fn header(client: Option<&str>) -> Vec<u8> {
    let client = client.map(|text| text.parse::<SocketAddr>().expect("an address"));
    let (command, family, block) = match client {
        None => (0x20, 0, Vec::new()),
        Some(SocketAddr::V4(v4)) => (0x21, 0x12, [v4.ip().octets(), [127, 0, 0, 1]].concat()),
        Some(SocketAddr::V6(v6)) => (0x21, 0x22, [v6.ip().octets(), [0; 16]].concat()),
    };
    let ports = client.map(|client| [client.port().to_be_bytes(), [0, 53]].concat());
    let block = [block, ports.unwrap_or_default()].concat();
    let length = u8::try_from(block.len()).expect("short");
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family, 0, length][..], &block].concat()
}

fn proxied(client: Option<&str>, message: &[u8]) -> Vec<u8> {
    [&header(client), message].concat()
}

fn logged(world: &World) -> Vec<String> {
    let client = |event: &Event| {
        let Event::Query(record) = event else { panic!("{event:?}") };
        record.client.to_string()
    };
    world.events.iter().map(client).collect()
}

/// The harness checks that every reply goes to the datagram's own peer.
#[test]
fn the_carried_address_is_the_client_and_the_proxy_gets_the_answer() {
    let mut world = behind_a_proxy("203.0.113.0/24");
    world.ask(&proxied(Some("203.0.113.9:1053"), &query(1, "a.example")));
    let (socket, sent) = world.queries.pop_front().expect("a query upstream");
    world.upstream_says(socket, &reply(&sent, 60));
    let late = world.replies.pop_front().expect("an answer");
    assert_eq!((late[..2].to_vec(), rcode(&late)), (vec![0, 1], 0), "without a header");
    world.ask(&proxied(Some("[::ffff:203.0.113.9]:7"), &query(2, "a.example")));
    let at_once = world.replies.pop_front().expect("an answer from the cache");
    assert_eq!((at_once[..2].to_vec(), rcode(&at_once)), (vec![0, 2], 0));
    assert_eq!(logged(&world), ["203.0.113.9:1053", "203.0.113.9:7"]);
    assert_eq!(world.count(Counter::DroppedProxy), 0);
}

#[test]
fn the_acl_is_about_the_carried_address() {
    let mut world = behind_a_proxy("203.0.113.0/24");
    world.ask(&proxied(Some("198.51.100.1:1053"), &query(1, "a.example")));
    world.ask(&proxied(Some("[2001:db8::1]:1053"), &query(2, "a.example")));
    // The proxy asks for itself: a health check.
    world.ask(&proxied(None, &query(3, "a.example")));
    let refused: Vec<u8> = world.replies.iter().map(|reply| rcode(reply)).collect();
    assert_eq!(refused, [5, 5, 5]);
    assert_eq!(logged(&world), ["198.51.100.1:1053", "[2001:db8::1]:1053", "127.0.0.1:40000"]);

    let mut world = behind_a_proxy("127.0.0.0/8");
    world.ask(&proxied(None, &query(3, "a.test")));
    assert_eq!(world.replies.pop_front().map(|reply| rcode(&reply)), Some(3));
}

#[test]
fn a_proxy_without_a_header_gets_no_answer() {
    let mut world = behind_a_proxy("127.0.0.0/8");
    let message = query(1, "a.test");
    let whole = proxied(Some("127.0.0.1:1"), &message);
    let line = [&b"PROXY TCP4 127.0.0.1 127.0.0.1 1 53\r\n"[..], &message].concat();
    let mut family = whole.clone();
    family[13] = 0x99;
    for dropped in [&message, &whole[..20].to_vec(), &line, &family] {
        world.ask(dropped);
    }
    assert_eq!(world.count(Counter::DroppedProxy), 4);
    assert_eq!((world.count(Counter::Queries), world.replies.len()), (0, 0));
    world.ask(&whole);
    assert_eq!(world.replies.len(), 1);
    world.ask(&header(Some("127.0.0.1:1")));
    assert_eq!(world.count(Counter::DroppedGarbage), 1, "a header is no query");
}

#[test]
fn a_header_from_anybody_else_is_garbage() {
    let mut snapshot = snapshot(vec![upstream("one", UpstreamProtocol::Udp)]);
    for proxies in [vec![], vec!["192.0.2.1/32".parse::<IpNet>().expect("a network")]] {
        snapshot.listen.proxy_protocol_from = Acl::new(proxies);
        let mut world = World::new(snapshot.clone());
        world.ask(&query(1, "a.test"));
        assert_eq!(world.replies.pop_front().map(|reply| rcode(&reply)), Some(3));
        world.ask(&proxied(Some("127.0.0.1:1"), &query(1, "a.test")));
        let asked: Vec<u8> = world.replies.iter().map(|reply| rcode(reply)).collect();
        assert!(!asked.contains(&3), "the query behind the header is not seen: {asked:?}");
        assert_eq!(world.count(Counter::DroppedProxy), 0);
    }
}
