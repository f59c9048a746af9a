//! The engine as a sequence of inputs, in any order, with handles of the living and of the dead:
//! nothing panics, no query is answered twice, datagrams are answered once, nothing due is left
//! undone, nothing is left at the end, and the same inputs give the same outputs.

mod world;

use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use balancedns_core::config::Snapshot;
use balancedns_core::engine::{Closed, Established, IoFailure, Origin};
use balancedns_core::handle::ConnHandle;
use balancedns_core::limits;
use balancedns_core::time::Instant;
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;

use self::world::World;
use super::draw;
use super::setup::{DOH, TCP, UDP, address, snapshot};
use crate::machine::{Datagram, Input, Output};

/// Steps of one run, however many octets there are.
const STEPS: usize = 600;
/// Ids of clients' queries: few, so that clients repeat themselves.
const IDS: u16 = 40;
/// Clients, the last one outside the ACL.
const PEERS: [&str; 4] =
    ["127.0.0.1:4000", "127.0.0.1:4001", "[::ffff:10.0.0.1]:4000", "203.0.113.9:4000"];

/// `data` is a sequence of choices: in the first octet whether the run is repeated and whether what
/// the engine asks for is done at once, a configuration, then what happens.
///
/// # Panics
/// If a property is broken.
pub fn engine(data: &[u8]) {
    let is_repeated = data.first().is_some_and(|octet| octet % 8 == 0);
    let outputs = run(data, is_repeated);
    if is_repeated {
        assert!(outputs == run(data, true), "the same inputs gave other outputs");
    }
}

/// What one run put out, if somebody wants to know.
fn run(data: &[u8], records: bool) -> Option<Vec<Output>> {
    let mut u = Unstructured::new(data);
    let is_eager = u.arbitrary::<u8>().is_ok_and(|octet| octet & 64 != 0);
    let Ok(snapshot) = configuration(&mut u) else { return None };
    let mut world = World::new(Arc::new(snapshot), is_eager, records);
    for _ in 0..STEPS {
        if u.is_empty() || step(&mut u, &mut world).is_err() {
            break;
        }
    }
    world.end()
}

/// Configurations to begin from. All of them listen alike, as reloads have to.
const TEXTS: [&str; 3] = [
    r#"return {
        listen = { dns = "127.0.0.1:53", doh_plain = "127.0.0.1:80", max_connections = 8, max_connections_per_client = 4 },
        hosts = { file = "hosts.example" },
        blacklist = { domains = { "blocked.example", "*.blocked.example" } },
        cache = { capacity = 8 },
        upstreams = {
            { name = "one", addr = "192.0.2.1:53" },
            { name = "two", addr = "192.0.2.2:53" },
            { name = "stream", addr = "192.0.2.3:53", protocol = "tcp" },
            { name = "a", addr = "192.0.2.4:53", zones = { "a.example" } },
            { name = "web", protocol = "doh", doh_url = "https://192.0.2.5/q", zones = { "b.example" } },
        },
    }"#,
    r#"return {
        listen = { dns = "127.0.0.1:53", doh_plain = "127.0.0.1:80", max_connections = 8, max_connections_per_client = 4 },
        logging = { log_queries = true },
        routing = { bootstrap = { "192.0.2.53", "192.0.2.1" } },
        upstreams = {
            { name = "host", addr = "up.example:53" },
            { name = "other", addr = "up.other.example:53", protocol = "tcp" },
            { name = "one", addr = "192.0.2.1:53", zones = { "example" } },
        },
    }"#,
    r#"return {
        listen = { dns = "127.0.0.1:53", doh_plain = "127.0.0.1:80", max_connections = 8, max_connections_per_client = 4 },
        routing = { failover_on = {}, special_names = false },
        upstreams = {
            { name = "web", protocol = "doh", doh_url = "https://192.0.2.5/q" },
            { name = "stream", addr = "192.0.2.3:53", protocol = "tcp" },
        },
    }"#,
];

fn configuration(u: &mut Unstructured<'_>) -> Result<Snapshot> {
    static BASES: OnceLock<Vec<Snapshot>> = OnceLock::new();
    let bases = BASES.get_or_init(|| TEXTS.iter().map(|text| snapshot(text)).collect());
    let mut snapshot = u.choose(bases)?.clone();
    for _ in 0..u.int_in_range(0..=4)? {
        let upstream = u.choose_index(snapshot.upstreams.len())?;
        let upstream = &mut snapshot.upstreams[upstream];
        match u.int_in_range(0..=9)? {
            0 => upstream.timeout = draw::duration(u)?.max(MILLISECOND),
            1 => upstream.max_in_flight = *u.choose(&[1, 2, 300])?,
            2 => upstream.randomize_case ^= true,
            3 => snapshot.routing.deadline = draw::duration(u)?.max(MILLISECOND),
            4 => snapshot.routing.attempts_max = *u.choose(&[1, 2, 3, 100])?,
            5 => snapshot.cache.enabled ^= true,
            6 => snapshot.cache.ttl.min_seconds = 0,
            7 => snapshot.control.drain_timeout = draw::duration(u)?,
            8 => snapshot.listen.udp_size = *u.choose(&[512, 1_232, 4_096])?,
            _ => drop(snapshot.chain.remove(0)), // the last one may be what forwards
        }
        if snapshot.chain.is_empty() {
            break;
        }
    }
    Ok(snapshot)
}

const MILLISECOND: core::time::Duration = core::time::Duration::from_millis(1);

/// One thing that happens.
fn step(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    match u.int_in_range(0..=37)? {
        // Bursts cost time, and most of them are alike.
        6 if u.ratio(1, 8)? => burst(u, world)?,
        0..=6 => ask(u, world)?,
        7..=11 => answer(u, world)?,
        12..=13 => world.carry_out_next(),
        14 => {
            let peer = address(u.choose(&PEERS)?);
            let listener = *u.choose(&[TCP, TCP, DOH, DOH, UDP])?;
            world.feed(Input::Connects(listener, peer));
        }
        15..=17 => ask_on_a_stream(u, world)?,
        18 => strange_datagrams(u, world)?,
        32..=35 => request(u, world)?,
        19 => {
            let Some(socket) = pick(u, &world.sockets)? else { return Ok(()) };
            let why = *u.choose(&FAILURES)?;
            world.feed(Input::SocketFailed(socket, why));
        }
        20 => {
            let Some(socket) = pick(u, &world.sockets)? else { return Ok(()) };
            world.feed(Input::SocketOpened(socket));
        }
        21..=23 => a_connection(u, world)?,
        24..=28 => pass(u, world)?,
        29 => {
            let next = configuration(u)?;
            world.feed(Input::Reload(Arc::new(next)));
        }
        30 => world.feed(Input::SendFailed(UDP, *u.choose(&FAILURES)?)),
        31 => {
            // Not too early: what comes after it is one question only.
            if u.ratio(1, 4)? {
                world.feed(Input::Shutdown);
            }
        }
        _ => an_exchange(u, world)?,
    }
    Ok(())
}

/// A client's request over HTTP, and most often all of its body.
fn request(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    let clients: Vec<ConnHandle> = world.http_clients().collect();
    let Some(conn) = pick(u, &clients)? else {
        world.feed(Input::Connects(DOH, address(PEERS[0])));
        return Ok(());
    };
    let query = draw::query(u, IDS)?;
    let method = *u.choose(&["POST", "POST", "GET", "GET", "PUT"])?;
    let path = if u.ratio(1, 16)? { "/" } else { "/dns-query" };
    let target = match method {
        "GET" => format!("{path}?dns={}", BASE64URL_NOPAD.encode(&query)),
        _ => path.to_owned(),
    };
    let media_type = if u.ratio(1, 16)? { "a/b" } else { "application/dns-message" };
    let head = http::Request::builder().method(method).uri(target);
    let head = head.header("content-type", media_type).body(()).expect("valid").into_parts().0;
    let Some(exchange) = world.open_exchange(conn, head) else { return Ok(()) };
    let body = if method == "GET" { Bytes::new() } else { Bytes::from(query) };
    let cut = u.int_in_range(0..=body.len())?;
    world.feed(Input::Body(exchange, body.slice(..cut), false));
    if !u.ratio(1, 8)? {
        world.feed(Input::Body(exchange, body.slice(cut..), true));
    }
    Ok(())
}

/// Something happens to an exchange that there is or was.
fn an_exchange(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    let Some(exchange) = pick(u, &world.exchanges)? else { return Ok(()) };
    let input = match u.int_in_range(0..=4)? {
        0 => Input::Body(exchange, draw::octets(u)?.into(), u.arbitrary()?),
        1 => Input::Reset(exchange),
        2 => Input::Sent(exchange),
        3 => Input::Answered(exchange, Box::default()),
        _ => Input::Failed(exchange, *u.choose(&FAILURES)?),
    };
    if world.is_possible(&input) {
        world.feed(input);
    }
    Ok(())
}

const FAILURES: [IoFailure; 9] = [
    IoFailure::Refused,
    IoFailure::Unreachable,
    IoFailure::Reset,
    IoFailure::TimedOut,
    IoFailure::AddressUnavailable,
    IoFailure::NoResources,
    IoFailure::TooBig,
    IoFailure::Unsupported,
    IoFailure::Other,
];

fn pick<T: Copy>(u: &mut Unstructured<'_>, of: &[T]) -> Result<Option<T>> {
    if of.is_empty() { Ok(None) } else { u.choose(of).copied().map(Some) }
}

/// Datagrams of one client, together.
fn ask(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    let peer = address(u.choose(&PEERS)?);
    let mut datagrams = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        let message = Bytes::from(draw::query(u, IDS)?);
        datagrams.push(Datagram { peer, local: None, message });
    }
    world.feed(Input::Datagrams(Origin::Listener(UDP), datagrams));
    Ok(())
}

/// More than fit a batch, all of one question or each of its own.
fn burst(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    let peer = address(u.choose(&PEERS)?);
    let template = draw::query(u, 1)?;
    let differ = u.ratio(1, 2)?;
    let count = draw::length(u, 60, 140)?;
    let datagrams = (0..count).map(|number| {
        let mut message = template.clone();
        let octet = u8::try_from(number).expect("few enough");
        // The id, and the last octet of a label of two or more.
        [1, 14].iter().take(1 + usize::from(differ)).for_each(|at| {
            if let Some(place) = message.get_mut(*at) {
                *place = octet;
            }
        });
        Datagram { peer, local: None, message: message.into() }
    });
    world.feed(Input::Datagrams(Origin::Listener(UDP), datagrams.collect()));
    Ok(())
}

/// An upstream says something about a query that it was sent, once or twice.
fn answer(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    if world.held.is_empty() {
        return Ok(());
    }
    // Most often the latest.
    let back = if u.ratio(1, 2)? { 0 } else { u.choose_index(world.held.len())? };
    let at = world.held.len() - 1 - back;
    let twice = u.ratio(1, 8)?;
    let (to, sent) = if twice { world.held[at].clone() } else { world.held.remove(at) };
    let message = Bytes::from(draw::reply(u, &sent)?);
    match to {
        world::Upstream::Socket(socket) => {
            let peer = address("192.0.2.1:53");
            let datagram = Datagram { peer, local: None, message };
            world.feed(Input::Datagrams(Origin::Socket(socket), vec![datagram]));
        }
        world::Upstream::Exchange(exchange) => {
            let status = *u.choose(&[200, 200, 200, 404])?;
            let media_type = if u.ratio(1, 16)? { "a/b" } else { "application/dns-message" };
            let response = http::Response::builder().status(status);
            let response = response.header("content-type", media_type).body(message);
            let input = Input::Answered(exchange, Box::new(response.expect("valid")));
            if world.is_possible(&input) {
                world.feed(input);
            }
        }
        world::Upstream::Conn(conn) => {
            let mut octets = framed(&message);
            if u.ratio(1, 16)? {
                octets.truncate(u.int_in_range(0..=octets.len())?);
            }
            world.feed(Input::Octets(conn, octets.into()));
        }
    }
    Ok(())
}

/// A message with its length in front.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("messages of ours are short");
    [&length.to_be_bytes(), message].concat()
}

/// Some messages of a client on a stream, in pieces of any size.
fn ask_on_a_stream(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    let clients: Vec<ConnHandle> = world.stream_clients().collect();
    let Some(conn) = pick(u, &clients)? else {
        world.feed(Input::Connects(TCP, address(PEERS[0])));
        return Ok(());
    };
    let mut octets = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        octets.extend_from_slice(&framed(&draw::query(u, IDS)?));
    }
    if u.ratio(1, 32)? {
        octets = octets.repeat(100); // more than is taken before reading stops
    }
    let cut = u.int_in_range(0..=octets.len())?;
    let rest = octets.split_off(cut);
    world.feed(Input::Octets(conn, octets.into()));
    if !u.ratio(1, 8)? {
        world.feed(Input::Octets(conn, rest.into()));
    }
    Ok(())
}

/// Octets to whatever socket there is or was.
fn strange_datagrams(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    let peer = address(u.choose(&PEERS)?);
    let origin = match pick(u, &world.sockets)? {
        Some(socket) if u.ratio(1, 2)? => Origin::Socket(socket),
        _ => Origin::Listener(UDP),
    };
    let mut message = draw::octets(u)?;
    if u.ratio(1, 8)? {
        message.resize(limits::CLIENT_DATAGRAM_OCTETS + 1, 0);
    }
    let datagram = Datagram { peer, local: None, message: message.into() };
    world.feed(Input::Datagrams(origin, vec![datagram]));
    Ok(())
}

/// Something happens to a connection that there is or was.
fn a_connection(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    let Some(conn) = pick(u, &world.conns)? else { return Ok(()) };
    let input = match u.int_in_range(0..=5)? {
        0 => Input::Established(conn, Established::default()),
        1 => Input::Octets(conn, draw::octets(u)?.into()),
        2 => Input::EndOfStream(conn),
        3 => Input::Written(conn, *u.choose(&[0, 1, 100, 100_000, usize::MAX])?),
        4 => Input::Closed(conn, Closed::Cleanly),
        _ => Input::Closed(conn, Closed::Failed(*u.choose(&FAILURES)?)),
    };
    if world.is_possible(&input) {
        world.feed(input);
    }
    Ok(())
}

/// Time passes: from one timer to the next, or all at once as if the process had been stopped, or
/// the clock goes back.
fn pass(u: &mut Unstructured<'_>, world: &mut World) -> Result<()> {
    match u.int_in_range(0..=7)? {
        0 => world.jump(draw::duration(u)? * u.int_in_range(1..=100)?),
        1 => {
            let now = std::mem::replace(&mut world.now, Instant::ZERO);
            world.feed(Input::Timeout);
            world.now = now;
        }
        2..=4 => world.pass_to_next(),
        _ => world.pass(draw::duration(u)?),
    }
    Ok(())
}
