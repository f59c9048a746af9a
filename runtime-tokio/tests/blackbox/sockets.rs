//! Listening sockets: addresses, families, workers.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use crate::harness::{PATIENCE, Query, Reply, Settings, TcpClient, UdpClient, Upstream};

fn has_ipv6() -> bool {
    let there = UdpSocket::bind("[::1]:0").is_ok();
    if !there {
        eprintln!("skipped: this machine has no ::1");
    }
    there
}

/// A reply leaves from the address that was asked, on a listener of all addresses too: a client
/// whose socket is not connected can tell.
#[test]
fn reply_comes_from_the_address_asked() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).dns(":{port}").start();
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

/// `:port` is all addresses of both families, over UDP and TCP.
#[test]
fn port_alone_means_both_families() {
    if !has_ipv6() {
        return;
    }
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).dns(":{port}").start();
    for addr in [daemon.addr(), daemon.addr6()] {
        let query = Query::a("www.example.org");
        assert_eq!(UdpClient::to(addr).ask(&query).address(), "192.0.2.1");
        assert_eq!(TcpClient::to(addr).ask(&query).address(), "192.0.2.1");
    }
}

/// One IPv6 address.
#[test]
fn listens_on_ipv6_loopback() {
    if !has_ipv6() {
        return;
    }
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).dns("[::1]:{port}").start();
    let query = Query::a("www.example.org");
    assert_eq!(UdpClient::to(daemon.addr6()).ask(&query).address(), "192.0.2.1");
    assert_eq!(TcpClient::to(daemon.addr6()).ask(&query).address(), "192.0.2.1");
}

/// A list of addresses.
#[test]
fn listens_on_a_list() {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).dns(r#"127.0.0.1:{port}", "127.0.0.3:{port}"#).start();
    let query = Query::a("www.example.org");
    for last in [1, 3] {
        let addr = SocketAddr::from(([127, 0, 0, last], daemon.port()));
        assert_eq!(UdpClient::to(addr).ask(&query).address(), "192.0.2.1");
        assert_eq!(TcpClient::to(addr).ask(&query).address(), "192.0.2.1");
    }
}

/// Several workers on one port: every client is answered, whichever worker it meets, on every kind
/// of socket sharing.
#[test]
fn every_worker_answers() {
    let upstream = Upstream::answering("192.0.2.1");
    for sharing in ["reuse_port = true", "reuse_port = false", "reuse_addr = false"] {
        let daemon = Settings::with(&upstream).workers(4).listen(sharing).start();
        for i in 0..40 {
            let query = Query::a(&format!("n{i}.example.org"));
            assert_eq!(daemon.udp(&query).address(), "192.0.2.1", "{sharing}");
            assert_eq!(daemon.tcp(&query).address(), "192.0.2.1", "{sharing}");
        }
    }
}
