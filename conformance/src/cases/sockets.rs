//! Listening sockets: addresses, families, workers.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use crate::case::World;
use crate::harness::{Client, Door, PATIENCE, Query, Reply, Settings, Upstream};

cases! {
    reply_comes_from_the_address_asked, udp, "RFC 2181 4.1",
        "a reply leaves from the address that was asked, on a listener of all addresses too";
    port_alone_means_both_families, both, "config listen.dns",
        "`:port` answers on all addresses of both families";
    listens_on_ipv6_loopback, both, "config listen.dns",
        "a listener on one IPv6 address answers";
    listens_on_a_list, both, "config listen.dns",
        "each address of a list answers";
    every_worker_answers, both, "config listen.reuse_port",
        "every client is answered, whichever worker it meets, on every kind of socket sharing";
}

fn has_ipv6() -> bool {
    let there = UdpSocket::bind("[::1]:0").is_ok();
    if !there {
        eprintln!("skipped: this machine has no ::1");
    }
    there
}

fn reply_comes_from_the_address_asked(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).dns(":{port}").start(world);
    for address in [Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2)] {
        for name in ["miss", "hit"].map(|_| format!("to-{}.example.org", address.octets()[3])) {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a port for a client");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
            let asked = SocketAddr::from((address, daemon.port()));
            let query = Query::a(&name);
            socket.send_to(&query.encode(), asked).expect("loopback takes a datagram");
            let mut buffer = [0; 1232];
            let (length, from) = socket.recv_from(&mut buffer).expect("a reply");
            assert_eq!(from, asked);
            Reply::decode(buffer[..length].to_vec()).check_echo(&query);
        }
    }
}

fn port_alone_means_both_families(world: &World) {
    if !has_ipv6() {
        return;
    }
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).dns(":{port}").start(world);
    for addr in [daemon.addr(), daemon.addr6()] {
        let query = Query::a("www.example.org");
        assert_eq!(
            Client::to(world.transport(), &Door::plain(addr)).ask(&query).address(),
            "192.0.2.1"
        );
    }
}

fn listens_on_ipv6_loopback(world: &World) {
    if !has_ipv6() {
        return;
    }
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).dns("[::1]:{port}").start(world);
    let query = Query::a("www.example.org");
    let mut client = Client::to(world.transport(), &Door::plain(daemon.addr6()));
    assert_eq!(client.ask(&query).address(), "192.0.2.1");
}

fn listens_on_a_list(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon =
        Settings::with(&upstream).dns(r#"127.0.0.1:{port}", "127.0.0.3:{port}"#).start(world);
    let query = Query::a("www.example.org");
    for last in [1, 3] {
        let addr = SocketAddr::from(([127, 0, 0, last], daemon.port()));
        assert_eq!(
            Client::to(world.transport(), &Door::plain(addr)).ask(&query).address(),
            "192.0.2.1"
        );
    }
}

fn every_worker_answers(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for sharing in ["reuse_port = true", "reuse_port = false", "reuse_addr = false"] {
        let daemon = Settings::with(&upstream).workers(4).listen(sharing).start(world);
        for i in 0..40 {
            let query = Query::a(&format!("n{i}.example.org"));
            assert_eq!(daemon.ask(&query).address(), "192.0.2.1", "{sharing}");
        }
    }
}
