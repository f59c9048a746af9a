//! The audit finds what it looks for: an engine is damaged in one place after the other.

use super::harness::{World, literal, query, snapshot, upstream};
use crate::config::{UpstreamAddress, UpstreamProtocol, UpstreamSettings};
use crate::engine::fetch::{AttemptVia, Candidate, Fetch};
use crate::engine::{Conn, Due, Engine, Event, Target};
use crate::handle::{ConnHandle, FetchHandle, HostHandle, SocketHandle};
use crate::limits::{
    CANDIDATES, CLIENT_PIPELINE, GIVEN_UP_IDS_PER_CONN, PIPELINE_PER_CONN, QUERIES_PER_SOCKET,
};
use crate::time::{Duration, Instant};
use crate::upstream::{Endpoint, HostName, Routes, UpstreamSocket};
use crate::wire::Name;

/// An engine with something of each kind: questions over UDP and TCP, by clients of both, a client's
/// idle connection, an upstream that is looked up and one that is not asked.
fn busy() -> World {
    let mut by_name = upstream("name", UpstreamProtocol::Udp);
    let host = Name::parse("dns.example").expect("a name");
    by_name.addr = UpstreamAddress::Host { name: host, port: 53 };
    let mut by_stream = upstream("stream", UpstreamProtocol::Tcp);
    by_stream.addr = literal("192.0.2.2:53");
    let upstreams = vec![upstream("datagram", UpstreamProtocol::Udp), by_stream, by_name];
    let mut snapshot = snapshot(upstreams);
    let zones = ["udp", "tcp", "name"].map(|zone| vec![Name::parse(zone).expect("a name")]);
    snapshot.routes = Routes::new(&zones);
    snapshot.routing.bootstrap = vec!["192.0.2.53:53".parse().expect("an address")];
    let mut world = World::new(snapshot);
    world.ask(&query(1, "a.udp"));
    world.ask(&query(2, "a.name"));
    let conn = world.connect_client();
    world.stream_says(conn, &[&[0, 23], &query(3, "a.tcp")[..]].concat());
    world.establish();
    world.connect_client();
    world
}

/// The client's question that is asked like this.
fn asked(engine: &mut Engine, is: impl Fn(AttemptVia) -> bool) -> (FetchHandle, &mut Fetch) {
    let is_it = |fetch: &Fetch| !fetch.waiters.is_empty() && is(fetch.attempt.via);
    let handle = engine.fetches.iter().find(|(_, fetch)| is_it(fetch)).expect("there is one").0;
    (handle, engine.fetches.get_mut(handle).expect("just found"))
}

fn by_socket(engine: &mut Engine) -> &mut Fetch {
    asked(engine, |via| matches!(via, AttemptVia::Socket(..))).1
}

fn by_stream(engine: &mut Engine) -> &mut Fetch {
    asked(engine, |via| matches!(via, AttemptVia::Conn(..))).1
}

fn by_host(engine: &mut Engine) -> &mut Fetch {
    asked(engine, |via| matches!(via, AttemptVia::Host(_))).1
}

fn socket(engine: &mut Engine) -> (SocketHandle, &mut UpstreamSocket) {
    let AttemptVia::Socket(handle, _) = by_socket(engine).attempt.via else {
        unreachable!("it was looked for")
    };
    (handle, engine.sockets.get_mut(handle).expect("its socket"))
}

fn upstream_conn(engine: &mut Engine) -> (ConnHandle, &mut crate::conn::UpstreamConn) {
    let AttemptVia::Conn(handle, _) = by_stream(engine).attempt.via else {
        unreachable!("it was looked for")
    };
    match engine.conns.get_mut(handle) {
        Some(Conn::Upstream(conn)) => (handle, conn),
        other => panic!("{other:?}"),
    }
}

fn client_conn(engine: &mut Engine) -> (ConnHandle, &mut crate::conn::ClientConn) {
    let is_asking = |conn: &Conn| matches!(conn, Conn::Client(conn) if conn.in_flight > 0);
    let handle = engine.conns.iter().find(|(_, conn)| is_asking(conn)).expect("there is one").0;
    match engine.conns.get_mut(handle) {
        Some(Conn::Client(conn)) => (handle, conn),
        other => panic!("{other:?}"),
    }
}

fn host(engine: &mut Engine) -> (HostHandle, &mut HostName) {
    let handle = engine.hosts.handles()[0];
    (handle, engine.hosts.get_mut(handle).expect("just listed"))
}

fn endpoint(engine: &mut Engine) -> &mut Endpoint {
    let place = socket(engine).1.endpoint;
    &mut engine.endpoints[place]
}

fn an_hour() -> Instant {
    Instant::ZERO + Duration::from_secs(3_600)
}

/// Ends whatever is asked like this.
fn end_all(engine: &mut Engine, is: impl Fn(&Fetch) -> bool) {
    for handle in engine.fetches.handles() {
        if engine.fetches.get(handle).is_some_and(&is) {
            let (now, rcode) = (engine.now, crate::wire::Rcode::SERVFAIL);
            let out = &mut crate::engine::Out(None);
            engine.finish_with_failure(now, handle, rcode, crate::policy::Reason::Overload, out);
        }
    }
}

fn is_by_stream(fetch: &Fetch) -> bool {
    matches!(fetch.attempt.via, AttemptVia::Conn(..))
}

/// What the audit says, and the damage that makes it say so.
type Damage = (&'static str, fn(&mut Engine));

const QUESTIONS: &[Damage] = &[
    ("waiters: 4 noted, 3 counted", |engine| engine.waiters += 1),
    ("whether a client waits for", |engine| {
        by_socket(engine).waiters.clear();
    }),
    ("sent 9 of 8", |engine| by_socket(engine).sends = 9),
    ("candidates of", |engine| {
        by_socket(engine).candidates = vec![Candidate::Endpoint(0); CANDIDATES + 1];
    }),
    ("which is nowhere", |engine| by_socket(engine).candidates.push(Candidate::Endpoint(99))),
    ("whose id Nothing is", |engine| by_socket(engine).attempt.via = AttemptVia::Nothing),
    ("whose id Socket", |engine| {
        let (_, fetch) = asked(engine, |via| matches!(via, AttemptVia::Socket(..)));
        if let AttemptVia::Socket(_, id) = &mut fetch.attempt.via {
            *id ^= 1;
        }
    }),
    ("whose id Conn", |engine| {
        let client = client_conn(engine).0;
        if let AttemptVia::Conn(conn, _) = &mut by_stream(engine).attempt.via {
            *conn = client;
        }
    }),
    ("asks", |engine| by_socket(engine).cursor = 1),
    ("no address will come", |engine| host(engine).1.waiting.clear()),
    ("when to look at", |engine| {
        let timer = by_socket(engine).timer;
        engine.timers.cancel(timer);
    }),
    ("when to look at", |engine| {
        let timer = by_host(engine).timer;
        engine.timers.set(timer, an_hour());
    }),
    ("must not be joined", |engine| engine.generation += 1),
    ("must not be joined", |engine| {
        let handle = asked(engine, |via| matches!(via, AttemptVia::Socket(..))).0;
        engine.by_key.insert(7, handle);
    }),
    ("is asked beside None", |engine| engine.by_key.clear()),
];

const SOCKETS: &[Damage] = &[
    ("an id is in use twice", |engine| socket(engine).1.ids.damage_twice()),
    ("by which id", |engine| {
        let (_, socket) = socket(engine);
        let mut random = crate::rng::Stream::new([3; 32], 1);
        let owner = socket.ids.owners().next().expect("in flight");
        socket.ids.allocate(owner, &mut random).expect("room");
    }),
    ("queries", |engine| socket(engine).1.queries = QUERIES_PER_SOCKET + 1),
    ("queries that wait for", |engine| socket(engine).1.open = false),
    ("whether", |engine| socket(engine).1.retired = true),
    ("whether", |engine| {
        let (_, socket) = socket(engine);
        socket.place = (socket.place + 1) % 2;
    }),
    ("does not age", |engine| {
        let timer = socket(engine).1.timer;
        engine.timers.cancel(timer);
    }),
    ("what TimerId", |engine| {
        let other = by_stream(engine).timer;
        socket(engine).1.timer = other;
    }),
    ("in flight to endpoint", |engine| endpoint(engine).in_flight += 1),
    (": 1 of at most 0", |engine| {
        let endpoint = endpoint(engine);
        let settings = (*endpoint.settings).clone();
        endpoint.settings = UpstreamSettings { max_in_flight: 0, ..settings }.into();
    }),
    ("has no use any more", |engine| {
        let place = socket(engine).1.endpoint;
        end_all(engine, |fetch| fetch.candidate() == Candidate::Endpoint(place));
        engine.endpoints[place].removed = true;
    }),
    ("retired sockets of endpoint", |engine| endpoint(engine).retired_sockets += 1),
    ("is removed", |engine| {
        let unused = endpoint(engine).settings.clone();
        let mut other =
            Endpoint::new(unused, "192.0.2.9:53".parse().unwrap(), Default::default(), None);
        other.removed = false;
        engine.endpoints.push(other);
    }),
    ("where socket", |engine| {
        let handle = socket(engine).0;
        let sockets = &mut endpoint(engine).sockets;
        let free = sockets.iter().position(Option::is_none).expect("a free place");
        sockets[free] = Some(handle);
    }),
];

const CONNS: &[Damage] = &[
    ("unsent octets: 1 noted, 0 counted", |engine| engine.unsent_octets = 1),
    ("that the process does not count", |engine| {
        let counted = client_conn(engine).1.counted;
        engine.shared.release_connection(counted);
    }),
    ("queries of client", |engine| client_conn(engine).1.in_flight += 1),
    ("queries of client", |engine| client_conn(engine).1.in_flight = CLIENT_PIPELINE + 1),
    ("places of", |engine| client_conn(engine).1.dirty = true),
    ("places of", |engine| {
        let handle = client_conn(engine).0;
        engine.dirty.push_back(handle);
    }),
    ("is left behind", |engine| {
        upstream_conn(engine).1.out.extend_from_slice(b"x");
    }),
    ("is read from but takes no queries", |engine| client_conn(engine).1.closing = true),
    ("that nobody looks at", |engine| {
        let now = engine.now;
        let (_, conn) = client_conn(engine);
        conn.reading.keep(b"x");
        conn.note_read(now, true);
        let timer = conn.timer;
        engine.timers.cancel(timer);
    }),
    ("times that the endpoint of", |engine| {
        let place = upstream_conn(engine).1.endpoint;
        engine.endpoints[place].conns.clear();
    }),
    ("times that the endpoint of", |engine| {
        let (handle, conn) = upstream_conn(engine);
        let place = conn.endpoint;
        engine.endpoints[place].conns.push(handle);
    }),
    ("names", |engine| {
        let handle = client_conn(engine).0;
        endpoint(engine).conns.push(handle);
    }),
    ("where", |engine| {
        let handle = upstream_conn(engine).0;
        endpoint(engine).conns.push(handle);
    }),
    ("what TimerId", |engine| {
        let other = by_stream(engine).timer;
        client_conn(engine).1.timer = other;
    }),
    ("what TimerId", |engine| {
        let other = client_conn(engine).1.timer;
        upstream_conn(engine).1.timer = other;
    }),
    ("ids given up on", |engine| {
        let mut random = crate::rng::Stream::new([3; 32], 1);
        let (_, conn) = upstream_conn(engine);
        let owner = conn.ids.owners().next().expect("in flight");
        for _ in 0..=GIVEN_UP_IDS_PER_CONN + PIPELINE_PER_CONN {
            let id = conn.ids.allocate(owner, &mut random).expect("room");
            conn.ids.give_up(id);
        }
    }),
    ("has no use any more", |engine| {
        let handle = upstream_conn(engine).0;
        end_all(engine, is_by_stream);
        if let Some(Conn::Upstream(conn)) = engine.conns.get_mut(handle) {
            conn.retired = true;
        }
    }),
    ("is left alone for ever", |engine| {
        let timer = upstream_conn(engine).1.timer;
        end_all(engine, is_by_stream);
        engine.timers.cancel(timer);
    }),
];

const REST: &[Damage] = &[
    ("what TimerId", |engine| {
        let other = client_conn(engine).1.timer;
        host(engine).1.timer = other;
    }),
    ("is never looked up again", |engine| {
        end_all(engine, |fetch| fetch.waiters.is_empty());
        let timer = host(engine).1.timer;
        engine.timers.cancel(timer);
    }),
    ("look-ups for host", |engine| host(engine).1.in_flight += 1),
    ("who waits for host", |engine| {
        let nobody = asked(engine, |via| matches!(via, AttemptVia::Socket(..))).0;
        host(engine).1.waiting.push(nobody);
    }),
    ("is of no upstream", |engine| {
        engine.targets.retain(|target| !matches!(target, Target::Host(_)));
    }),
    ("is not of host", |engine| {
        let place = socket(engine).1.endpoint;
        host(engine).1.endpoints.push(place);
    }),
    ("events that wait", |engine| {
        for _ in 0..=crate::limits::EVENTS {
            let event = Event::LimitReached { limit: "outbox" };
            engine.actions.push_back(crate::engine::Action::Report(event));
        }
    }),
    ("what was resumed did not go on", |engine| {
        let handle = client_conn(engine).0;
        engine.resumed.push_back(handle);
    }),
    ("a timer without an owner", |engine| {
        engine.timers.allocate(Due::Drain);
    }),
];

#[test]
fn any_damage_is_found() {
    for (expected, damage) in [QUESTIONS, SOCKETS, CONNS, REST].into_iter().flatten() {
        let mut world = busy();
        let whole = world.engine.audit().expect("it is whole");
        assert_eq!((whole.client_conns, whole.upstream_conns, whole.hosts), (2, 1, 1));
        damage(&mut world.engine);
        let found = world.engine.audit().expect_err(expected).to_string();
        assert!(found.contains(expected), "{found:?} instead of {expected:?}");
        // What is damaged cannot end in good order.
        std::mem::forget(world);
    }
}

#[test]
fn whoever_has_stopped_has_nothing_left() {
    let mut world = World::new(snapshot(vec![upstream("one", UpstreamProtocol::Udp)]));
    world.engine.handle_shutdown(world.now);
    let stopping = world.engine.audit().expect("whole");
    assert_eq!(stopping.timers, 1, "the end of draining");
    world.pump();
    assert!(world.stopped);
    assert_eq!(world.engine.audit().expect("whole").timers, 0);
    world.engine.waiters = 0;
    let timer = world.engine.timers.allocate(Due::Drain);
    world.engine.timers.set(timer, an_hour());
    let found = world.engine.audit().expect_err("a timer").to_string();
    assert!(found.contains("what is left at the end"), "{found}");
}
