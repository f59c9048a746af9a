//! Thousands of forged replies (RFC 5452): an attacker who knows port and question, and floods.

use std::net::{SocketAddr, UdpSocket};

use hickory_proto::op::Message;
use hickory_proto::rr::{DNSClass, Name, RecordType};

use crate::case::World;
use crate::harness::{Answer, Asked, Daemon, Gate, Query, Settings, Transport, Upstream, until};

cases! {
    thousands_of_forgeries_change_nothing, all, "RFC 5452 9.1",
        "thousands of wrong ids, names, types, addresses and ports: the right reply is still taken";
    guessing_of_ids_leads_to_a_stream, all, "RFC 5452 9.2, RFC 7766 5",
        "when guessing of ids goes on, the question is asked by TCP instead";
}

const FORGED: &str = "203.0.113.66";
const TRUE: &str = "192.0.2.1";
/// Datagrams sent before the daemon has to have taken them: far less than a socket's buffer.
const BURST: u32 = 100;
/// Mismatches on one port after which the queries in flight on it are asked by TCP
/// (`MISMATCHES_BEFORE_STREAM` of the daemon's limits).
const BEFORE_STREAM: u32 = 10_000;

/// An upstream that answers by UDP once the gate is open, and by TCP at once.
fn held_back(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |asked| {
        let truth = Answer::from(asked.address(300, TRUE));
        match (asked.transport, asked.name().as_str()) {
            (Transport::Udp, "www.example.org.") => Answer::When(gate.clone(), Box::new(truth)),
            (Transport::Udp | Transport::Tcp | Transport::Dot | Transport::Doh, _) => truth,
        }
    })
}

/// One attempt, which has all the time there is.
fn patient(world: &World, upstream: &Upstream) -> Daemon {
    Settings::new()
        .upstream(upstream, "timeout_ms = 60000")
        .section("routing = { deadline_ms = 60000, attempts_max = 100 }")
        .start(world)
}

fn octets(message: &Message) -> Vec<u8> {
    message.to_vec().expect("it can be encoded")
}

/// Sends so many forgeries from the upstream's own address, and waits until all were counted.
fn flood(
    (daemon, upstream, port): (&Daemon, &Upstream, SocketAddr),
    count: u32,
    forge: impl Fn(u32) -> Vec<u8>,
) {
    let counted = || daemon.metric_sum("balancedns_upstream_mismatches_total");
    let before = counted();
    let mut sent = 0;
    while sent < count {
        let burst = BURST.min(count - sent);
        (sent..sent + burst).for_each(|number| upstream.send_to(&forge(number), port));
        sent += burst;
        until("the forgeries are counted", || {
            (counted() - before >= f64::from(sent)).then_some(())
        });
    }
}

/// A forgery in which one thing is wrong, which depends on the number.
fn forgery(asked: &Asked, number: u32) -> Vec<u8> {
    let mut forged = asked.address(300, FORGED);
    let question = &mut forged.queries[0];
    match number % 4 {
        0 => {
            forged.metadata.id =
                asked.id().wrapping_add(u16::try_from(number % 60_000 + 1).expect("16 bits"))
        }
        1 => question.name = Name::from_ascii("victim.example.org.").expect("a valid name"),
        2 => question.query_type = RecordType::AAAA,
        _ => question.query_class = DNSClass::CH,
    }
    octets(&forged)
}

fn thousands_of_forgeries_change_nothing(world: &World) {
    let gate = Gate::default();
    let upstream = held_back(&gate);
    let daemon = patient(world, &upstream);
    let query = Query::a("www.example.org");
    let mut client = daemon.client();
    client.send(&query.encode());
    let asked = upstream.wait_for(1).swap_remove(0);

    flood((&daemon, &upstream, asked.from), 4_000, |number| forgery(&asked, number));
    // Everything right but where it comes from: another port, and another address with both ports.
    let forged = octets(&asked.address(300, FORGED));
    let same_port = SocketAddr::from(([127, 0, 0, 2], upstream.addr().port()));
    let others = ["127.0.0.1:0", "127.0.0.2:0", &same_port.to_string()].map(UdpSocket::bind);
    for spoofer in others.into_iter().flatten() {
        for _ in 0..1_000 {
            // The kernel may say that nobody listens to such a sender.
            let _ = spoofer.send_to(&forged, asked.from);
        }
    }
    gate.open();
    let reply = client.receive();
    reply.check_echo(&query);
    assert_eq!(reply.address(), TRUE);

    for name in ["www.example.org", "victim.example.org"] {
        for _ in 0..2 {
            assert_eq!(daemon.ask(&Query::a(name)).address(), TRUE, "{name}");
        }
        let six = Query::new(name, RecordType::AAAA);
        assert!(daemon.ask(&six).addresses().iter().all(|ip| ip.to_string() == TRUE));
    }
    let by_tcp = upstream.asked().iter().filter(|asked| asked.transport == Transport::Tcp).count();
    assert_eq!(by_tcp, 0, "it was no reason to change the transport");
}

fn guessing_of_ids_leads_to_a_stream(world: &World) {
    let gate = Gate::default();
    let upstream = held_back(&gate);
    let daemon = patient(world, &upstream);
    let query = Query::a("www.example.org");
    let mut client = daemon.client();
    client.send(&query.encode());
    let asked = upstream.wait_for(1).swap_remove(0);

    let mut forged = octets(&asked.address(300, FORGED));
    flood((&daemon, &upstream, asked.from), BEFORE_STREAM, |number| {
        let difference = u16::try_from(number % 65_535 + 1).expect("16 bits");
        let mut forged = forged.clone();
        forged[..2].copy_from_slice(&asked.id().wrapping_add(difference).to_be_bytes());
        forged
    });
    // The gate is closed: what comes now came by TCP.
    let reply = client.receive();
    reply.check_echo(&query);
    assert_eq!(reply.address(), TRUE);
    let by_tcp = upstream.asked().iter().filter(|asked| asked.transport == Transport::Tcp).count();
    assert_eq!(by_tcp, 1);
    // The right id at last, to a port that is given up.
    forged[..2].copy_from_slice(&asked.id().to_be_bytes());
    upstream.send_to(&forged, asked.from);
    assert_eq!(daemon.ask(&query).address(), TRUE);
}
