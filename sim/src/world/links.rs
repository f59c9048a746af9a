//! Clients' connections: pipelined queries in pieces, slow readers, half-closed ends and resets.

use std::net::{IpAddr, Ipv6Addr};

use balancedns_core::engine::{Closed, IoFailure};
use balancedns_core::handle::ConnHandle;
use balancedns_core::limits;
use balancedns_core::time::{Duration, Instant};
use bytes::{Bytes, BytesMut};

use super::World;
use super::clients::{Question, Subject};
use super::queue::{Event, Life, LinkEvent};
use super::worker::End;
use crate::fault::Fault;
use crate::invariant::{Broken, Invariant};
use crate::machine::{Input, Output};
use crate::model::Channel;

/// Queries in flight on one connection beyond which reading may have stopped.
const PIPELINED: usize = 200;

/// How late a worker may be for the end of a connection.
const CLOSED_WITHIN: Duration = Duration::from_millis(200);

/// A client's connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: usize,
    pub(super) life: Life,
    peer: std::net::SocketAddr,
    /// Its handle, once it was accepted.
    pub(super) conn: Option<ConnHandle>,
    /// When the last octets that are under way arrive.
    next_at: Instant,
    /// The client has sent its last octet.
    pub(super) ended: bool,
    /// The client does not read.
    reads_not: bool,
    /// It may end with queries unanswered.
    pub(super) excused: bool,
    /// The client has sent octets that are no query: nothing behind them is read.
    noise: bool,
    /// When octets last came or left.
    active_at: Instant,
    paused: bool,
    /// Octets that wait because reading has stopped.
    held: Vec<LinkEvent>,
    /// The last id; no two queries that wait have one.
    next_id: u16,
    /// Queries that wait for their answers.
    waiting: usize,
    /// What is written and does not yet make a message.
    inbox: BytesMut,
}

impl World {
    /// A client sends some queries over a connection, an old one or a new one.
    pub(super) fn ask_by_stream(&mut self, client: usize, count: usize) {
        let number = self.link_of(client);
        let questions: Vec<Question> = (0..count)
            .map(|_| {
                let mut question = self.make_question(client);
                let link = self.links.get_mut(&number).expect("just made or found");
                link.next_id = link.next_id.wrapping_add(1);
                question.set_id(link.next_id);
                question.peer = link.peer;
                question
            })
            .collect();
        self.send_on_link(number, questions);
        let link = self.links.get_mut(&number).expect("just used");
        let at = link.next_at;
        if self.faults.strike(Fault::ClientStops) {
            link.excused = true;
            link.ended = true;
            self.send_slowly(number, at);
        } else if self.faults.strike(Fault::ClientHalfCloses) {
            link.ended = true;
            self.queue.push(at, Event::Link(number, LinkEvent::End));
        } else if self.faults.strike(Fault::ClientResets) {
            link.ended = true;
            let later = self.client_draw.between(0, 300_000);
            let at = at + Duration::from_micros(later);
            self.queue.push(at, Event::Link(number, LinkEvent::Reset));
        }
    }

    /// The beginning of a message, and then an octet now and then, which gives it no more time.
    fn send_slowly(&mut self, number: u64, start: Instant) {
        let longest = self.longest_stream_timeout();
        let octets = |octets| Event::Link(number, LinkEvent::Octets(octets, Vec::new()));
        self.queue.push(start, octets(Bytes::from_static(&[0, 40, 1, 2, 3])));
        for third in 1..=6 {
            self.queue.push(start + longest / 3 * third, octets(Bytes::from_static(&[4])));
        }
        let gone = Event::Link(number, LinkEvent::IsGone("a message came too slowly"));
        self.queue.push(start + longest + CLOSED_WITHIN, gone);
    }

    /// The longest time for one message, of all generations so far and of one that may come.
    fn longest_stream_timeout(&self) -> Duration {
        let longest = self.generations.iter().map(|generation| generation.stream_timeout_ms).max();
        Duration::from_millis(longest.unwrap_or(0))
    }

    /// An open connection of the client, or a new one.
    fn link_of(&mut self, client: usize) -> u64 {
        let links = &self.links;
        self.clients[client]
            .links
            .retain(|number| links.get(number).is_some_and(|link| !link.ended));
        let open = &self.clients[client].links;
        if !open.is_empty() && self.client_draw.chance(700) {
            return open[self.client_draw.below(open.len())];
        }
        let number = self.next_link;
        self.next_link += 1;
        let peer = std::net::SocketAddr::new(self.clients[client].address, self.next_port(client));
        let engine = self.engine_of(peer);
        let life = self.workers[engine].life(engine);
        let link = Link {
            client,
            life,
            peer,
            conn: None,
            next_at: self.now,
            ended: false,
            reads_not: self.faults.strike(Fault::ClientReadsNot),
            excused: false,
            noise: false,
            active_at: self.now,
            paused: false,
            held: Vec::new(),
            next_id: 0,
            waiting: 0,
            inbox: BytesMut::new(),
        };
        self.links.insert(number, link);
        self.clients[client].links.push(number);
        self.queue.push(self.now, Event::Link(number, LinkEvent::Connects));
        number
    }

    /// Puts queries onto a connection, in one piece or in several.
    fn send_on_link(&mut self, number: u64, questions: Vec<Question>) {
        let mut pieces: Vec<(BytesMut, Vec<Question>)> = vec![(BytesMut::new(), Vec::new())];
        for question in questions {
            if matches!(question.subject, Subject::Garbage) && question.message.len() < 12 {
                continue; // on a stream that ends the connection; datagrams show it
            }
            let length = u16::try_from(question.message.len()).expect("a short query");
            let mut framed = BytesMut::from(&length.to_be_bytes()[..]);
            framed.extend_from_slice(&question.message);
            if self.faults.strike(Fault::StreamPieces) {
                let at = 1 + self.client_draw.below(framed.len() - 1);
                let last = pieces.last_mut().expect("never empty");
                last.0.extend_from_slice(&framed.split_to(at));
                pieces.push((BytesMut::new(), Vec::new()));
            }
            let last = pieces.last_mut().expect("never empty");
            last.0.extend_from_slice(&framed);
            last.1.push(question);
        }
        let link = self.links.get_mut(&number).expect("the caller has it");
        for (octets, questions) in pieces {
            let pause = self.client_draw.between(20, 3_000);
            link.next_at = link.next_at.max(self.now) + Duration::from_micros(pause);
            let event = LinkEvent::Octets(octets.freeze(), questions);
            self.queue.push(link.next_at, Event::Link(number, event));
        }
    }

    /// Something happens on a client's connection.
    pub(super) fn link_event(&mut self, number: u64, event: LinkEvent) -> Result<(), Broken> {
        let Some(link) = self.links.get_mut(&number) else { return Ok(()) };
        let engine = link.life.engine;
        if !self.workers[engine].is_alive(link.life) {
            self.drop_link(number);
            return Ok(());
        }
        if let LinkEvent::Connects = event {
            return self.link_connects(number);
        }
        let Some(conn) = link.conn else { return Ok(()) };
        if let LinkEvent::IsGone(why) = event {
            // What a worker does not read is not the client's slowness.
            let excused = link.paused || self.generations.len() > 1;
            return self.checks.that(Invariant::S10, excused, || {
                format!("the connection of {} is still open, though {why}", link.peer)
            });
        }
        if link.paused && matches!(event, LinkEvent::Octets(..) | LinkEvent::End) {
            link.held.push(event);
            return Ok(());
        }
        link.active_at = self.now;
        match event {
            LinkEvent::Connects | LinkEvent::IsGone(_) => Ok(()),
            LinkEvent::Octets(octets, questions) => {
                self.link_octets(number, conn, octets, questions)
            }
            LinkEvent::End => self.feed(engine, Input::EndOfStream(conn)),
            LinkEvent::Written(octets) => self.feed(engine, Input::Written(conn, octets)),
            LinkEvent::Reset => {
                self.faults.count(Fault::ClientResets);
                self.model.forget_stream(number);
                self.drop_link(number);
                self.workers[engine].bury(End::Conn(conn));
                self.feed(engine, Input::Closed(conn, Closed::Failed(IoFailure::Reset)))
            }
        }
    }

    fn link_connects(&mut self, number: u64) -> Result<(), Broken> {
        let link = &self.links[&number];
        let (engine, peer) = (link.life.engine, link.peer);
        if !self.workers[engine].listens {
            self.drop_link(number);
            return Ok(());
        }
        self.accepting = Some(number);
        self.feed(engine, Input::Connects(self.listeners.1, peer))?;
        self.accepting = None;
        self.check_admitted(number)?;
        match self.links.get(&number).and_then(|link| link.conn) {
            Some(conn) => self.feed(engine, Input::Established(conn)),
            None => {
                self.drop_link(number);
                Ok(())
            }
        }
    }

    /// A connection is taken if and only if that is within the limits of all workers together.
    fn check_admitted(&mut self, number: u64) -> Result<(), Broken> {
        let link = &self.links[&number];
        let generation = &self.generations[self.workers[link.life.engine].generation];
        let (max, per_client) = generation.max_connections;
        let stranger = |link: &Link| self.clients[link.client].stranger;
        let others =
            self.links.iter().filter(|(other, link)| **other != number && link.conn.is_some());
        let others: Vec<&Link> = others.map(|(_, link)| link).collect();
        let network = network_of(link.peer.ip());
        let of_network =
            others.iter().filter(|other| network_of(other.peer.ip()) == network).count();
        let strangers = others.iter().filter(|other| stranger(other)).count();
        let free = if stranger(link) {
            of_network == 0 && strangers < (max / limits::STRANGERS_SHARE).max(1)
        } else {
            of_network < per_client
        };
        let (free, taken) = (free && others.len() < max, link.conn.is_some());
        let (peer, all) = (link.peer, others.len());
        self.checks.that(Invariant::S10, taken == free, || {
            format!("connection of {peer} taken: {taken}, with {of_network} of its network, {strangers} of strangers, {all} in all")
        })
    }

    fn link_octets(
        &mut self,
        number: u64,
        conn: ConnHandle,
        octets: Bytes,
        questions: Vec<Question>,
    ) -> Result<(), Broken> {
        let link = self.links.get_mut(&number).expect("the caller has it");
        let engine = link.life.engine;
        for question in questions {
            let link = self.links.get_mut(&number).expect("the caller has it");
            if link.noise {
                continue; // an answer would be one that nobody waits for
            }
            link.waiting += 1;
            if question.subject == Subject::Garbage {
                // Octets that are no query end the connection, and with it whatever waits.
                (link.excused, link.noise) = (true, true);
                self.model.excuse_stream(number);
            }
            let link = &self.links[&number];
            let (busy, excused) = (link.waiting >= PIPELINED || link.reads_not, link.excused);
            self.expect_answer(
                engine,
                Channel::Stream(number),
                &question,
                !busy && !excused,
                excused,
            );
        }
        self.feed(engine, Input::Octets(conn, octets))
    }

    /// An engine writes to a client.
    pub(super) fn link_written(&mut self, number: u64, octets: &Bytes) -> Result<(), Broken> {
        let link = self.links.get_mut(&number).expect("written to a connection that is open");
        link.inbox.extend_from_slice(octets);
        let (engine, from) = (link.life.engine, (self.listeners.1, None));
        while let Some(length) = self.links[&number].inbox.first_chunk::<2>() {
            let end = 2 + usize::from(u16::from_be_bytes(*length));
            let link = self.links.get_mut(&number).expect("still open");
            if link.inbox.len() < end {
                break;
            }
            let message = link.inbox.split_to(end).freeze().slice(2..);
            link.waiting = link.waiting.saturating_sub(1);
            self.client_gets(engine, Channel::Stream(number), from, &message)?;
        }
        let link = &self.links[&number];
        self.checks.that(Invariant::S4, link.inbox.is_empty(), || {
            "half a message was written to a client".to_owned()
        })?;
        if !link.reads_not {
            self.octets_leave(octets.len(), |world, at, part| {
                world.queue.push(at, Event::Link(number, LinkEvent::Written(part)));
            });
        } else {
            self.faults.count(Fault::ClientReadsNot);
            let at = self.now + self.longest_stream_timeout() + CLOSED_WITHIN;
            let gone = LinkEvent::IsGone("the client does not read");
            self.queue.push(at, Event::Link(number, gone));
            self.links.get_mut(&number).expect("still open").excused = true;
            self.model.excuse_stream(number);
        }
        Ok(())
    }

    /// The kernel takes octets: at once, or late and in parts.
    pub(super) fn octets_leave(
        &mut self,
        octets: usize,
        mut written: impl FnMut(&mut Self, Instant, usize),
    ) {
        if octets > 1 && self.faults.strike(Fault::WritesStall) {
            let draw = self.faults.draw(Fault::WritesStall);
            let (part, late) = (1 + draw.below(octets - 1), draw.between(0, 100_000));
            let at = self.now + Duration::from_micros(late);
            written(self, at, part);
            written(self, at + Duration::from_micros(late), octets - part);
        } else {
            written(self, self.now, octets);
        }
    }

    /// Reading is to stop, or to go on.
    pub(super) fn pause_link(&mut self, number: u64, paused: bool) {
        let Some(link) = self.links.get_mut(&number) else { return };
        link.paused = paused;
        if !paused {
            for event in std::mem::take(&mut link.held) {
                self.queue.push(self.now, Event::Link(number, event));
            }
        }
    }

    /// An engine closes a client's connection.
    pub(super) fn link_closed(&mut self, number: u64) -> Result<(), Broken> {
        let link = &self.links[&number];
        let excused = link.excused || self.stopping;
        let shortest = self.generations.iter().map(|generation| generation.idle_timeout_ms()).min();
        let idle = self.now.since(link.active_at);
        let early = !excused && !link.ended && idle.as_millis() < shortest.unwrap_or(0).into();
        self.checks.that(Invariant::S1, !early, || {
            format!("the connection of {} was closed after {idle:?} without a reason", link.peer)
        })?;
        let owed = self.model.forget_stream(number);
        self.drop_link(number);
        self.checks.that(Invariant::S1, excused || owed == 0, || {
            format!("a connection was closed with {owed} queries unanswered")
        })
    }

    pub(super) fn drop_link(&mut self, number: u64) {
        if let Some(link) = self.links.remove(&number) {
            self.clients[link.client].links.retain(|other| *other != number);
        }
    }

    /// What became of a connection that was offered.
    pub(super) fn link_accepted(&mut self, engine: usize, output: &Output) {
        let number = self.accepting.expect("a connection was offered");
        if let Output::Accepted(conn) = output
            && let Some(link) = self.links.get_mut(&number)
        {
            link.conn = Some(*conn);
            self.workers[engine].conns.insert(*conn, super::worker::Conn::Client(number));
        }
    }
}

/// Clients are told apart by IPv4 address or by IPv6 network.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
    }
}
