//! An engine among random clients, upstreams, networks and operators: whatever happens, each question
//! is answered once and in time, every count agrees, and nothing is left at the end.
//!
//! A failing run names its seed; `RANDOM_SEED=N` runs that one alone, `RANDOM_RUNS=N` as many.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::harness::{World, error, id, literal, query, snapshot, upstream};
use crate::config::{Snapshot, UpstreamAddress, UpstreamProtocol};
use crate::conn::{append_message, split_message};
use crate::engine::fetch::Purpose;
use crate::engine::{Audit, Closed, IoFailure};
use crate::handle::{ConnHandle, SocketHandle};
use crate::rng::Stream;
use crate::time::{Duration, Instant};
use crate::upstream::Routes;
use crate::wire::Name;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn pick<T: Copy>(random: &mut Stream, of: &[T]) -> T {
    of[random.below(of.len())]
}

fn configuration(random: &mut Stream) -> Snapshot {
    let (mut upstreams, mut zones) = (Vec::new(), Vec::new());
    let mut has_host = false;
    for number in 0..=random.below(4) {
        let protocol = pick(random, &[UpstreamProtocol::Udp, UpstreamProtocol::Tcp]);
        let mut one = upstream(&format!("up{number}"), protocol);
        one.addr = if random.below(3) == 0 {
            has_host = true;
            let name = pick(random, &["h1.example", "h2.example", "h3.example"]);
            UpstreamAddress::Host { name: Name::parse(name).expect("a name"), port: 53 }
        } else {
            literal(&format!("192.0.2.{}:53", 1 + random.below(4)))
        };
        one.timeout = ms(pick(random, &[1, 50, 400, 2_000, 2_000, 2_000, 10_000]));
        one.max_in_flight = pick(random, &[1, 2, 1_000, 1_000]);
        one.randomize_case = random.below(2) == 0;
        upstreams.push(one);
        let zone = pick(random, &["a.example", "example", ".", "."]);
        zones.push(vec![Name::parse(zone).expect("a name")]);
    }
    let mut snapshot = snapshot(upstreams);
    snapshot.routes = Routes::new(&zones);
    snapshot.routing.deadline = ms(pick(random, &[1, 100, 1_000, 4_500, 4_500, 20_000]));
    snapshot.routing.attempts_max = pick(random, &[1, 2, 3, 8, 8, 100]);
    if has_host {
        let server = |last| format!("192.0.2.{last}:53").parse().expect("an address");
        snapshot.routing.bootstrap = [53, 1][..=random.below(2)].iter().map(server).collect();
    }
    snapshot.cache.enabled = random.below(2) == 0;
    snapshot.control.drain_timeout = ms(pick(random, &[0, 100, 5_000]));
    snapshot
}

/// What an upstream may say to a query, right or wrong.
fn a_reply(random: &mut Stream, sent: &[u8]) -> Vec<u8> {
    let end = 12 + sent[12..].iter().position(|octet| *octet == 0).expect("a root") + 5;
    let mut message = match random.below(12) {
        0 => error(sent, pick(random, &[1, 2, 4, 5])),
        1 => {
            let mut without_question = error(sent, pick(random, &[1, 2, 4, 5]));
            without_question.truncate(12);
            without_question[4..].fill(0);
            return without_question;
        }
        2 => error(sent, 3),
        3 => error(sent, 0),
        4 => {
            let mut truncated = error(sent, 0);
            truncated[2] |= 2;
            truncated
        }
        5 => {
            let mut circle = error(sent, 0); // a CNAME to itself
            circle[7] = 1;
            circle.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
            circle
        }
        _ => addresses(random, sent, sent[end - 3]),
    };
    match random.below(14) {
        0 | 1 => message[12..end - 4].make_ascii_lowercase(),
        2 => message[0] ^= 1,
        3 => message[13] ^= 1,
        4 => message.truncate(message.len() - 1),
        _ => {}
    }
    message
}

fn addresses(random: &mut Stream, sent: &[u8], record_type: u8) -> Vec<u8> {
    let mut message = error(sent, 0);
    let count = 1 + random.below(5);
    message[7] = u8::try_from(count).expect("few");
    for _ in 0..count {
        message.extend_from_slice(&[0xc0, 12, 0, record_type, 0, 1]);
        message.extend_from_slice(&pick(random, &[0, 1, 7, 60, u32::MAX]).to_be_bytes());
        let last = u8::try_from(1 + random.below(6)).expect("small");
        if record_type == 28 {
            message.extend_from_slice(&[0, 16, 0x20, 1, 0xd, 0xb8]);
            message.extend_from_slice(&[0; 11]);
            message.push(last);
        } else {
            message.extend_from_slice(&[0, 4, 192, 0, 2, last]);
        }
    }
    message
}

/// A question that was asked and is not yet answered.
struct Asked {
    at: Instant,
    deadline: Instant,
    /// The client's connection, if it was asked over one.
    conn: Option<ConnHandle>,
}

/// How much was audited, by kind.
#[derive(Debug, Default)]
struct Seen([usize; 10]);

impl Seen {
    fn add(&mut self, audit: Audit) {
        let questions = [audit.fetches, audit.waiters, audit.keys, audit.ids, audit.timers];
        let open = [audit.sockets, audit.client_conns, audit.upstream_conns];
        let known = [audit.endpoints, audit.hosts];
        let all = questions.into_iter().chain(open).chain(known);
        self.0.iter_mut().zip(all).for_each(|(sum, count)| *sum += count);
    }
}

struct Run {
    world: World,
    random: Stream,
    next_id: u16,
    asked: BTreeMap<u16, Asked>,
    clients: Vec<ConnHandle>,
    upstream_conns: Vec<ConnHandle>,
    /// Queries that upstreams have received and not yet answered.
    held: Vec<(SocketHandle, Vec<u8>)>,
    held_on_streams: Vec<(ConnHandle, Vec<u8>)>,
    deadline: Duration,
    /// Whether the network loses most of what it carries.
    lossy: bool,
    draining: bool,
    seen: Seen,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut random = Stream::new(key, 77);
        let snapshot = configuration(&mut random);
        let deadline = snapshot.routing.deadline;
        let lossy = random.below(4) == 0;
        let mut world = World::with_seed(snapshot, key);
        world.opens_at_once = random.below(2) == 0;
        world.pump();
        Self {
            world,
            random,
            next_id: 1,
            asked: BTreeMap::new(),
            clients: Vec::new(),
            upstream_conns: Vec::new(),
            held: Vec::new(),
            held_on_streams: Vec::new(),
            deadline,
            lossy,
            draining: false,
            seen: Seen::default(),
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=24 => self.ask(),
            25..=54 => self.answer(),
            55..=59 => self.fail_a_socket(),
            60..=64 => self.open_a_socket(),
            65..=69 => self.end_a_connect(),
            70..=79 => self.answer_on_a_stream(),
            80..=82 => self.break_an_upstream_conn(),
            83 if !self.draining && self.clients.len() < 5 => {
                let conn = self.world.connect_client();
                self.clients.push(conn);
            }
            84 => self.break_a_client(),
            85..=86 => self.reload(),
            _ => {
                let times = [0, 1, 3, 10, 100, 399, 400, 401, 1_000, 2_500, 11_000, 40_000];
                let time = pick(&mut self.random, &times);
                if time < 2_500 || self.random.below(4) == 0 {
                    self.world.pass(ms(time));
                }
            }
        }
        self.collect();
        self.audit();
    }

    /// Every count agrees, here and there, and nothing is overdue.
    fn audit(&mut self) {
        let world = &self.world;
        let audit = world.engine.audit().unwrap_or_else(|disagreement| panic!("{disagreement}"));
        assert_eq!(audit.sockets, world.open_sockets.len(), "sockets here and there");
        assert!(world.live().all(|conn| world.engine.conns.contains(conn)), "forgotten");
        let announced = world.engine.next_timeout();
        assert!(announced.is_none_or(|(at, _)| at >= world.now), "a deadline in the past");
        self.seen.add(audit);
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        (!of.is_empty()).then(|| pick(&mut self.random, of))
    }

    fn ask(&mut self) {
        if self.draining {
            return;
        }
        let name = match self.random.below(5) {
            0 => "x.a.example".to_owned(),
            1 => "longnamewithletters.example".to_owned(),
            2 => "10.in-addr.arpa".to_owned(),
            _ => format!("n{}.example", self.random.below(8)),
        };
        let mut message = query(self.next_id, &name);
        if self.random.below(4) == 0 {
            message[11] = 1; // an OPT record with DO
            message.extend_from_slice(&[0, 0, 41, 4, 0, 0, 0, 0x80, 0, 0, 0]);
        }
        let by_stream = self.random.below(2) == 0;
        let conn = self.one_of(&self.clients.clone()).filter(|_| by_stream);
        let at = self.world.now;
        self.asked.insert(self.next_id, Asked { at, deadline: at + self.deadline, conn });
        self.next_id += 1;
        match conn {
            None => self.world.ask(&message),
            Some(conn) => self.world.stream_says(conn, &framed(&message)),
        }
    }

    fn answer(&mut self) {
        self.held.extend(self.world.queries.drain(..));
        let open = &self.world.open_sockets;
        self.held.retain(|(socket, _)| open.contains(socket));
        if self.held.is_empty() {
            return;
        }
        let at = self.random.below(self.held.len());
        let twice = self.random.below(8) == 0;
        let (socket, sent) = if twice { self.held[at].clone() } else { self.held.remove(at) };
        let is_dead = self.world.remote(socket).ends_with(".3:53");
        if is_dead || (self.lossy && self.random.below(3) > 0) {
            return;
        }
        let message = a_reply(&mut self.random, &sent);
        self.world.upstream_says(socket, &message);
    }

    fn answer_on_a_stream(&mut self) {
        self.upstream_conns.retain(|conn| self.world.is_live(*conn));
        for conn in self.upstream_conns.clone() {
            let messages = self.world.messages(conn).into_iter();
            self.held_on_streams.extend(messages.map(|message| (conn, message)));
        }
        self.held_on_streams.retain(|(conn, _)| self.world.is_live(*conn));
        if self.held_on_streams.is_empty() {
            return;
        }
        let at = self.random.below(self.held_on_streams.len());
        let (conn, sent) = self.held_on_streams.remove(at);
        let message = a_reply(&mut self.random, &sent);
        self.world.stream_says(conn, &framed(&message));
    }

    fn fail_a_socket(&mut self) {
        use IoFailure::{AddressUnavailable, NoResources, Other, Refused, TooBig, Unreachable};
        let Some(socket) = self.one_of(&self.world.open_sockets.clone()) else { return };
        let failures = [Refused, Unreachable, NoResources, AddressUnavailable, TooBig, Other];
        let why = pick(&mut self.random, &failures);
        self.world.opening.retain(|opening| *opening != socket);
        self.world.engine.handle_socket_failed(self.world.now, socket, why);
        self.world.pump();
    }

    fn open_a_socket(&mut self) {
        let Some(socket) = self.one_of(&self.world.opening.clone()) else { return };
        self.world.opening.retain(|opening| *opening != socket);
        self.world.engine.handle_socket_opened(self.world.now, socket);
        self.world.pump();
    }

    fn end_a_connect(&mut self) {
        if self.world.connects.is_empty() {
            return;
        }
        if self.random.below(4) > 0 {
            let conn = self.world.establish();
            self.upstream_conns.push(conn);
        } else if let Some(conn) = self.world.connects.front().copied() {
            let failures = [IoFailure::Refused, IoFailure::TimedOut, IoFailure::NoResources];
            self.world.break_conn(conn, Closed::Failed(pick(&mut self.random, &failures)));
        }
    }

    fn break_an_upstream_conn(&mut self) {
        self.upstream_conns.retain(|conn| self.world.is_live(*conn));
        let Some(conn) = self.one_of(&self.upstream_conns.clone()) else { return };
        if self.random.below(2) == 0 {
            self.world.break_conn(conn, Closed::Cleanly);
        } else {
            self.world.engine.handle_end_of_stream(self.world.now, conn);
            self.world.pump();
        }
    }

    fn break_a_client(&mut self) {
        let Some(conn) = self.one_of(&self.clients.clone()) else { return };
        self.clients.retain(|client| *client != conn);
        self.asked.retain(|_, asked| asked.conn != Some(conn));
        let how = [Closed::Cleanly, Closed::Failed(IoFailure::Reset)];
        self.world.break_conn(conn, pick(&mut self.random, &how));
    }

    fn reload(&mut self) {
        let mut next = configuration(&mut self.random);
        if self.random.below(3) == 0 {
            next = (*self.world.engine.snapshot).clone();
            next.upstreams[0].timeout = ms(pick(&mut self.random, &[700, 2_000]));
        }
        self.deadline = next.routing.deadline;
        self.world.engine.handle_reload(self.world.now, Arc::new(next));
        self.world.pump();
    }

    /// Takes all answers: each is one to a question that has none yet, and none is late.
    fn collect(&mut self) {
        let mut answers: Vec<u16> = self.world.replies.drain(..).map(|reply| id(&reply)).collect();
        for (conn, bytes) in std::mem::take(&mut self.world.last_written) {
            if !self.clients.contains(&conn) {
                continue; // queries to an upstream
            }
            let mut rest = &bytes[..];
            while let Some((message, after)) = split_message(rest) {
                answers.push(id(message));
                rest = after;
            }
        }
        self.clients.retain(|conn| self.world.is_live(*conn));
        for conn in self.clients.clone() {
            answers.extend(self.world.messages(conn).iter().map(|message| id(message)));
        }
        for id in answers {
            assert!(self.asked.remove(&id).is_some(), "{id} is answered twice, or was not asked");
        }
        let world = &self.world;
        self.asked.retain(|_, asked| asked.conn.is_none_or(|conn| world.is_live(conn)));
        for (id, asked) in &self.asked {
            let in_time = world.now < asked.deadline || world.now == asked.at;
            assert!(in_time, "{id} is not answered by its deadline");
        }
    }

    /// Stops the engine in whatever state it is, or after everything has come to rest.
    fn end(mut self) -> Seen {
        if self.random.below(2) == 0 {
            self.world.pass(Duration::from_secs(120));
            self.collect();
            let mut left = self.world.engine.fetches.iter().map(|(_, fetch)| fetch.purpose);
            assert!(left.all(|purpose| matches!(purpose, Purpose::Address(..))), "not at rest");
        }
        self.world.engine.handle_shutdown(self.world.now);
        self.draining = true;
        self.world.pump();
        for _ in 0..self.random.below(30) {
            self.step();
        }
        self.world.pass(Duration::from_secs(6));
        self.world.pump();
        self.collect();
        self.audit();
        assert!(self.world.stopped, "{:?}", self.world.engine.sizes());
        assert_eq!(self.world.engine.sizes(), crate::engine::Sizes::default());
        assert!(self.world.open_sockets.is_empty());
        assert_eq!(self.world.engine.next_timeout(), None);
        assert_eq!(self.world.engine.timers.iter().count(), 0);
        assert!(self.asked.is_empty(), "lost");
        self.seen
    }
}

fn framed(message: &[u8]) -> bytes::BytesMut {
    let mut framed = bytes::BytesMut::new();
    append_message(&mut framed, message);
    framed
}

fn run(seed: u64) -> Seen {
    let mut run = Run::new(seed);
    for _ in 0..20 + run.random.below(400) {
        run.step();
    }
    run.end()
}

#[test]
fn whatever_happens_each_question_is_answered_once_and_nothing_is_left() {
    // Asked for when the test is built: not even core's tests look at the environment.
    let number = |text: Option<&str>| text.map(|text| text.parse().expect("a number"));
    if let Some(seed) = number(option_env!("RANDOM_SEED")) {
        run(seed);
        return;
    }
    let mut seen = Seen::default();
    for seed in 0..number(option_env!("RANDOM_RUNS")).unwrap_or(300) {
        let end = std::panic::catch_unwind(|| run(seed));
        let of_run = end.unwrap_or_else(|_| panic!("RANDOM_SEED={seed}"));
        seen.0.iter_mut().zip(of_run.0).for_each(|(sum, count)| *sum += count);
    }
    assert!(!seen.0.contains(&0), "something was never there to be audited: {seen:?}");
}
