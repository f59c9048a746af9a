//! Over loopback sockets: addresses, batches, truncation, failures.

use std::time::Duration;

use super::*;
use crate::socket::{Reuse, udp_listener, upstream_udp};

const OWN: Reuse = Reuse { port: false, address: false };

fn listener(addr: &str) -> (DatagramSocket, u16) {
    let socket = udp_listener(addr.parse().expect("valid"), OWN).expect("binds");
    let port = socket.local_addr().expect("bound").port();
    (DatagramSocket::listener(socket).expect("bound"), port)
}

fn client(addr: &str, server: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(addr).expect("binds");
    client.connect(server).expect("connects");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("sets");
    client
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 64];
    let len = client.recv(&mut buffer).expect("an answer comes");
    buffer[..len].to_vec()
}

/// A connected client only takes answers from the address that it asked.
fn answers_leave_from_the_address_asked(listen: &str, local: &str, servers: &[&str]) {
    let (socket, port) = listener(listen);
    let mut io = UdpIo::default();
    let mut batch = ReceiveBatch::new(BATCH_DATAGRAMS, 512);
    for server in servers.iter().cycle().take(3 * servers.len()) {
        let server: IpAddr = server.parse().expect("valid");
        let client = client(local, SocketAddr::new(server, port));
        client.send(b"who?").expect("sends");
        assert_eq!(io.receive(&socket, &mut batch).expect("reads"), 1);
        let (meta, bytes) = batch.iter().next().expect("one");
        assert_eq!((bytes, meta.local), (&b"who?"[..], Some(server)));
        assert_eq!(meta.peer, client.local_addr().expect("bound"));
        let answer = [(Some(meta.peer), &b"me"[..])];
        assert_eq!(io.send(&socket, meta.local, answer.into_iter()).failed, 0);
        assert_eq!(receive(&client), b"me");
    }
}

#[test]
fn answers_of_a_v4_wildcard_leave_from_the_address_asked() {
    let servers = ["127.0.0.2", "127.0.0.1", "127.1.2.3"];
    answers_leave_from_the_address_asked("0.0.0.0:0", "127.0.0.1:0", &servers);
}

#[test]
fn answers_of_a_v6_wildcard_leave_from_the_address_asked() {
    answers_leave_from_the_address_asked("[::]:0", "[::1]:0", &["::1"]);
}

#[test]
fn a_burst_takes_full_batches_and_then_a_short_one() {
    let (socket, port) = listener("127.0.0.1:0");
    let client = client("127.0.0.1:0", SocketAddr::from(([127, 0, 0, 1], port)));
    let burst = 2 * BATCH_DATAGRAMS + 5;
    for number in 0..burst {
        client.send(&u32::try_from(number).expect("few").to_be_bytes()).expect("sends");
    }
    let mut io = UdpIo::default();
    let mut batch = ReceiveBatch::new(BATCH_DATAGRAMS, 512);
    let mut numbers = Vec::new();
    for expected in [BATCH_DATAGRAMS, BATCH_DATAGRAMS, 5, 0] {
        assert_eq!(io.receive(&socket, &mut batch).expect("reads"), expected);
        assert_eq!(batch.len(), expected);
        numbers.extend(batch.iter().map(|(_, bytes)| bytes.to_vec()));
    }
    let in_order = (0..burst).map(|n| u32::try_from(n).expect("few").to_be_bytes().to_vec());
    assert!(numbers.into_iter().eq(in_order));
}

#[test]
fn a_long_datagram_is_cut_and_marked_and_an_empty_one_is_a_datagram() {
    let (socket, port) = listener("127.0.0.1:0");
    let client = client("127.0.0.1:0", SocketAddr::from(([127, 0, 0, 1], port)));
    for bytes in [&b"12345"[..], b"1234", b""] {
        client.send(bytes).expect("sends");
    }
    let mut batch = ReceiveBatch::new(4, 4);
    assert_eq!(UdpIo::default().receive(&socket, &mut batch).expect("reads"), 3);
    let seen: Vec<_> = batch.iter().map(|(meta, b)| (meta.truncated, b.to_vec())).collect();
    assert_eq!(seen, [(true, b"1234".to_vec()), (false, b"1234".to_vec()), (false, vec![])]);
}

#[test]
fn a_datagram_that_cannot_be_sent_is_skipped_and_counted() {
    let (socket, port) = listener("127.0.0.1:0");
    let client = client("127.0.0.1:0", SocketAddr::from(([127, 0, 0, 1], port)));
    let good = Some(client.local_addr().expect("bound"));
    let port_zero = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let other_family = Some("[::1]:9".parse().expect("valid"));
    let run =
        [(good, &b"first"[..]), (port_zero, b"lost"), (other_family, b"lost"), (good, b"second")];
    let sent = UdpIo::default().send(&socket, None, run.into_iter());
    assert_eq!(sent.failed, 2);
    assert!(sent.error.is_some());
    assert_eq!(receive(&client), b"first");
    assert_eq!(receive(&client), b"second");
}

#[test]
fn a_refusal_by_the_upstream_is_an_error_once() {
    let remote = {
        let closed = UdpSocket::bind("127.0.0.1:0").expect("binds");
        closed.local_addr().expect("bound")
    };
    let socket = upstream_udp(remote, None).expect("opens");
    let socket = DatagramSocket::connected(socket, remote);
    let mut io = UdpIo::default();
    assert_eq!(io.send(&socket, None, [(None, &b"?"[..])].into_iter()).failed, 0);
    let mut batch = ReceiveBatch::new(4, 64);
    let error = io.receive(&socket, &mut batch).expect_err("nobody listens there");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(io.receive(&socket, &mut batch).expect("was cleared"), 0);
}

/// Also from an address other than the one that the kernel would choose.
#[test]
fn a_socket_that_refuses_more_still_answers() {
    let mut io = UdpIo::default();
    let mut batch = ReceiveBatch::new(4, 64);
    for (listen, server) in
        [("0.0.0.0:0", "127.0.0.2"), ("127.0.0.1:0", "127.0.0.1"), ("[::]:0", "::1")]
    {
        let (socket, port) = listener(listen);
        let server = SocketAddr::new(server.parse().expect("valid"), port);
        let local = if server.is_ipv6() { "[::1]:0" } else { "127.0.0.1:0" };
        let earlier = client(local, server);
        earlier.send(b"earlier").expect("sends");
        assert_eq!(io.receive(&socket, &mut batch).expect("reads"), 1);
        let meta = *batch.iter().next().expect("one").0;
        socket.refuse_more();
        let later = client(local, server);
        later.send(b"later").expect("sends");
        let refused = later.recv(&mut [0; 8]).expect_err("nobody takes it");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(io.receive(&socket, &mut batch).expect("reads"), 0);
        let answer = [(Some(meta.peer), &b"answer"[..])];
        assert_eq!(io.send(&socket, meta.local, answer.into_iter()).failed, 0);
        assert_eq!(receive(&earlier), b"answer", "{listen}");
    }
}
