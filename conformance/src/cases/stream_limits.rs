//! TCP as it is abused: every wait, buffer and number of connections has its bound.

use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{
    Answer, Gate, PATIENCE, Pushed, Query, Settings, StreamClient, Tried, Upstream, framed, txt_of,
    until,
};

cases! {
    idle_connections_are_closed, streams, "RFC 7766 6.2.3, config listen.tcp_idle_timeout_ms",
        "a connection that nobody uses is closed; use keeps it open";
    waiting_is_not_idle, streams, "RFC 7766 6.2.3",
        "a connection with a query in flight is not idle";
    unfinished_messages_time_out, streams, "config listen.read_timeout_ms",
        "a message that begins and does not go on costs its connection";
    dripping_messages_time_out, streams, "config listen.read_timeout_ms",
        "an octet now and then does not help: the time counts from the first to the last";
    slow_readers_are_cut_off, streams, "config listen.write_timeout_ms",
        "who asks and does not read costs bounded memory, and loses the connection";
    pauses_do_not_count_against_the_client, streams, "config listen.read_timeout_ms",
        "while the daemon has stopped reading, a message that it has read in part is not late";
    patient_readers_get_everything, streams, "RFC 7766 6.2.4",
        "a slow reader that does read gets everything";
    connections_of_a_client_are_bounded, streams,
        "RFC 7766 6.2.2, config listen.max_connections_per_client",
        "the connection too many is closed; a place that is given up can be taken again";
    connections_are_bounded, streams, "config listen.max_connections",
        "connections of all clients together are bounded, too";
    udp_does_not_suffer, own, "config listen.max_connections",
        "UDP goes on while TCP is full";
}

fn assert_about(took: Duration, millis: u64) {
    let high = Duration::from_millis(millis + 2000);
    assert!((Duration::from_millis(millis - 50)..high).contains(&took), "{took:?}");
}

fn idle_connections_are_closed(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).listen("tcp_idle_timeout_ms = 400").start(world);
    let mut client = daemon.stream();
    assert_about(client.wait_for_close(), 400);

    let mut client = daemon.stream();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1000) {
        client.ask(&Query::a("www.example.org"));
    }
    assert_about(client.wait_for_close(), 400);
}

fn waiting_is_not_idle(world: &World) {
    let upstream = Upstream::start(|asked| {
        let answer = asked.address(60, "192.0.2.1").into();
        Answer::After(Duration::from_millis(700), Box::new(answer))
    });
    let daemon = Settings::with(&upstream).listen("tcp_idle_timeout_ms = 200").start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn unfinished_messages_time_out(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).listen("read_timeout_ms = 400").start(world);
    for start in [&[0_u8][..], &[0, 40], &[0, 40, 1, 2, 3]] {
        let mut client = daemon.stream();
        client.send_raw(start);
        assert_about(client.wait_for_close(), 400);
    }
    assert!(daemon.metric("balancedns_connections_timed_out_total") >= 3.0);
}

fn dripping_messages_time_out(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).listen("read_timeout_ms = 400").start(world);
    let mut client = daemon.stream();
    let start = Instant::now();
    client.send_raw(&[2, 0]);
    loop {
        client.send_raw(&[0]);
        match client.try_receive(Duration::from_millis(50)) {
            Tried::Closed => break,
            Tried::Silence => assert!(start.elapsed() < PATIENCE, "it never ends"),
            other @ (Tried::Reply(_) | Tried::Status(_)) => panic!("{other:?}"),
        }
    }
    assert_about(start.elapsed(), 400);
}

fn slow_readers_are_cut_off(world: &World) {
    let upstream = Upstream::start(|asked| asked.answer([txt_of(&asked.name(), 300, 60_000)]));
    let daemon = Settings::new()
        .upstream(&upstream, r#"protocol = "tcp""#)
        // Nothing else may be what ends it.
        .listen("write_timeout_ms = 500, read_timeout_ms = 60000, tcp_idle_timeout_ms = 60000")
        .start(world);
    let query = Query::new("huge.example.org", RecordType::TXT);
    assert!(daemon.ask(&query).bytes.len() > 60_000, "it is in the cache now");
    let before = daemon.memory_kib();

    let mut client = daemon.stream();
    let framed = framed(&query.encode());
    // Some 6 GB of answers, if the daemon went along.
    let (mut sent, mut largest) = (0, before);
    until("the daemon closes the connection", || {
        while sent < 100_000 {
            match client.push(&framed) {
                Pushed::Sent => sent += 1,
                Pushed::Full => break,
                Pushed::Closed => return Some(()),
            }
        }
        largest = largest.max(daemon.memory_kib());
        (daemon.metric("balancedns_connections_timed_out_total") >= 1.0).then_some(())
    });
    let grown = largest.saturating_sub(before);
    assert!(grown < 16_384, "memory grew by {grown} KiB");
    assert!(daemon.ask(&query).bytes.len() > 60_000, "others are served");
}

fn pauses_do_not_count_against_the_client(world: &World) {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |asked| {
        Answer::When(held.clone(), Box::new(asked.address(60, "192.0.2.1").into()))
    });
    let daemon = Settings::with(&upstream).listen("read_timeout_ms = 300").start(world);
    let mut client = daemon.stream();
    for id in 0..600 {
        client.send(&Query::a(&format!("n{id}.example.org")).id(id).encode());
    }
    upstream.wait_for(200);
    match client.try_receive(Duration::from_millis(900)) {
        Tried::Silence => {}
        other @ (Tried::Reply(_) | Tried::Closed | Tried::Status(_)) => panic!("{other:?}"),
    }
    gate.open();
    for number in 0..600 {
        match client.try_receive(PATIENCE) {
            Tried::Reply(_) => {}
            other @ (Tried::Closed | Tried::Silence | Tried::Status(_)) => {
                panic!("{other:?}, reply {number}")
            }
        }
    }
}

fn patient_readers_get_everything(world: &World) {
    let upstream = Upstream::start(|asked| asked.answer([txt_of(&asked.name(), 300, 60_000)]));
    let daemon = Settings::new().upstream(&upstream, r#"protocol = "tcp""#).start(world);
    let query = Query::new("huge.example.org", RecordType::TXT);
    let mut client = daemon.stream();
    for _ in 0..200 {
        client.send(&query.encode());
    }
    for number in 0..200 {
        assert!(client.receive().bytes.len() > 60_000, "reply {number}");
    }
}

fn connections_of_a_client_are_bounded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).listen("max_connections_per_client = 4").start(world);
    assert_bound(&daemon, 4);
}

fn connections_are_bounded(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).listen("max_connections = 3").start(world);
    assert_bound(&daemon, 3);
}

fn assert_bound(daemon: &crate::harness::Daemon, bound: usize) {
    let query = Query::a("www.example.org");
    let mut clients: Vec<_> = (0..bound).map(|_| daemon.stream()).collect();
    for client in &mut clients {
        client.ask(&query);
    }
    StreamClient::refused(&daemon.own_door());
    assert!(daemon.metric("balancedns_connections_refused_total") >= 1.0);
    for client in &mut clients {
        client.ask(&query);
    }
    clients.pop();
    until("the place is free again", || {
        let mut client = StreamClient::try_through(&daemon.own_door())?;
        client.send(&query.encode());
        matches!(client.try_receive(PATIENCE), Tried::Reply(_)).then_some(())
    });
}

fn udp_does_not_suffer(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream).listen("max_connections = 1").start(world);
    let mut client = StreamClient::to(daemon.addr());
    client.ask(&Query::a("www.example.org"));
    StreamClient::to(daemon.addr()).wait_for_close();
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
}
