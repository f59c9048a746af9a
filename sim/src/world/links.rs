//! Clients' connections: handshakes, pipelined queries in pieces, slow readers, half-closed ends and
//! resets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use balancedns_core::engine::{Closed, Established, IoFailure, ListenerId, TlsFailure};
use balancedns_core::handle::ConnHandle;
use balancedns_core::limits;
use balancedns_core::time::{Duration, Instant};
use bytes::{Bytes, BytesMut};

use super::World;
use super::admission::network_of;
use super::clients::{Question, Subject};
use super::queue::{Event, Life, LinkEvent};
use super::worker::{Conn, End};
use crate::fault::Fault;
use crate::invariant::{Broken, Invariant};
use crate::machine::{Input, Output};
use crate::model::Channel;

/// Queries in flight on one connection beyond which reading may have stopped.
const PIPELINED: usize = 200;

/// How late a worker may be for the end of a connection.
pub(super) const CLOSED_WITHIN: Duration = Duration::from_millis(200);

/// The longest that a client takes for a handshake that comes to its end, in microseconds.
const HANDSHAKE_LATE_US: u64 = 4_500_000;

/// A client's connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: usize,
    pub(super) life: Life,
    pub(super) kind: Kind,
    pub(super) listener: ListenerId,
    peer: SocketAddr,
    /// Whom its proxy announces, if it is behind one.
    carried: Option<SocketAddr>,
    /// How its handshakes end.
    handshake: Handshake,
    established: bool,
    /// The network that it is counted under, and who that is.
    pub(super) counted: (IpAddr, Standing),
    /// Its handle, once it was accepted.
    pub(super) conn: Option<ConnHandle>,
    /// When the last octets that are under way arrive.
    pub(super) next_at: Instant,
    /// The client has sent its last octet.
    pub(super) ended: bool,
    /// The client does not read.
    pub(super) reads_not: bool,
    /// It has reset what it did not read, and owes nothing for that.
    pub(super) forgiven: bool,
    /// It may end with queries unanswered.
    pub(super) excused: bool,
    /// The client has sent octets that are no query: nothing behind them is read.
    noise: bool,
    /// When octets last came or left.
    pub(super) active_at: Instant,
    paused: bool,
    /// Octets that wait because reading has stopped.
    held: Vec<LinkEvent>,
    /// The last id; no two queries that wait have one.
    next_id: u16,
    /// Queries that wait for their answers.
    waiting: usize,
    /// What is written and does not yet make a message.
    inbox: BytesMut,
    /// HTTP exchanges that an engine knows.
    pub(super) exchanges: BTreeSet<u64>,
    /// Those that came to their end, and those that the client has reset.
    pub(super) completed: u32,
    pub(super) resets: u32,
}

impl Link {
    /// Whether its handshakes are over.
    pub(super) const fn is_established(&self) -> bool {
        self.established
    }
}

/// Who it is that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Proxy,
    Client,
    Stranger,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Dot,
    Doh { tls: bool },
}

impl Kind {
    pub(super) const fn is_http(self) -> bool {
        matches!(self, Self::Doh { .. })
    }

    const fn is_tls(self) -> bool {
        matches!(self, Self::Dot | Self::Doh { tls: true })
    }

    const fn alpn(self) -> Option<&'static [u8]> {
        match self {
            Self::Tcp | Self::Doh { tls: false } => None,
            Self::Dot => Some(b"dot"),
            Self::Doh { tls: true } => Some(b"h2"),
        }
    }
}

/// How the handshakes of a connection end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handshake {
    Done,
    Fails,
    Stalls,
}

impl World {
    /// A client sends some queries over a connection, an old one or a new one.
    pub(super) fn ask_by_stream(&mut self, client: usize, count: usize) {
        let number = self.link_of(client);
        if self.links[&number].kind.is_http() {
            self.ask_by_exchanges(number, client, count);
        } else {
            self.ask_in_a_row(number, client, count);
        }
        let link = self.links.get_mut(&number).expect("just used");
        if link.handshake != Handshake::Done {
            return;
        }
        let (at, http) = (link.next_at, link.kind.is_http());
        if !http && self.faults.strike(Fault::ClientStops) {
            link.excused = true;
            link.ended = true;
            self.send_slowly(number, at);
        } else if self.faults.strike(Fault::ClientHalfCloses) {
            // A client of HTTP that ends its side has gone.
            link.ended = true;
            link.excused |= http;
            self.queue.push(at, Event::Link(number, LinkEvent::End));
        } else if self.faults.strike(Fault::ClientResets) {
            link.ended = true;
            let later = self.client_draw.between(0, 300_000);
            let at = at + Duration::from_micros(later);
            self.queue.push(at, Event::Link(number, LinkEvent::Reset));
        }
    }

    fn ask_in_a_row(&mut self, number: u64, client: usize, count: usize) {
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
    pub(super) fn longest_stream_timeout(&self) -> Duration {
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
        let (peer, carried) = self.new_peer(client);
        let kind = self.draw_kind();
        let engine = self.engine_of(peer);
        let (handshake, takes) = self.draw_handshake(kind, carried.is_some());
        let link = Link {
            client,
            life: self.workers[engine].life(engine),
            kind,
            listener: match kind {
                Kind::Tcp => self.listeners.tcp,
                Kind::Dot => self.listeners.dot,
                Kind::Doh { tls: true } => self.listeners.doh,
                Kind::Doh { tls: false } => self.listeners.doh_plain,
            },
            peer,
            carried,
            handshake,
            established: false,
            counted: match carried {
                Some(_) => (network_of(peer.ip()), Standing::Proxy),
                None => (network_of(peer.ip()), self.standing(client)),
            },
            conn: None,
            next_at: self.now + takes,
            ended: handshake != Handshake::Done,
            reads_not: self.faults.strike(Fault::ClientReadsNot),
            forgiven: false,
            excused: handshake != Handshake::Done,
            noise: false,
            active_at: self.now,
            paused: false,
            held: Vec::new(),
            next_id: 0,
            waiting: 0,
            inbox: BytesMut::new(),
            exchanges: BTreeSet::new(),
            completed: 0,
            resets: 0,
        };
        let over_at = self.now + takes;
        self.links.insert(number, link);
        self.clients[client].links.push(number);
        self.queue.push(self.now, Event::Link(number, LinkEvent::Connects));
        let (at, event) = match handshake {
            Handshake::Done => (over_at, LinkEvent::Established),
            Handshake::Fails => (over_at, LinkEvent::HandshakeFails),
            Handshake::Stalls => {
                (self.now + limits::HANDSHAKE + CLOSED_WITHIN, LinkEvent::HandshakeIsOver)
            }
        };
        self.queue.push(at, Event::Link(number, event));
        number
    }

    fn standing(&self, client: usize) -> Standing {
        if self.clients[client].stranger { Standing::Stranger } else { Standing::Client }
    }

    fn draw_kind(&mut self) -> Kind {
        if self.client_draw.chance(self.options.doh_per_mille) {
            Kind::Doh { tls: self.client_draw.chance(700) }
        } else if self.client_draw.chance(self.options.dot_per_mille) {
            Kind::Dot
        } else {
            Kind::Tcp
        }
    }

    /// How the handshakes of a connection end, and after which time.
    fn draw_handshake(&mut self, kind: Kind, is_proxied: bool) -> (Handshake, Duration) {
        if !kind.is_tls() && !is_proxied {
            return (Handshake::Done, Duration::ZERO);
        }
        let mut takes = self.client_draw.between(200, 5_000);
        if self.faults.strike(Fault::HandshakeLate) {
            takes += self.faults.draw(Fault::HandshakeLate).between(0, HANDSHAKE_LATE_US);
        }
        let handshake = if self.faults.strike(Fault::HandshakeStalls) {
            Handshake::Stalls
        } else if self.faults.strike(Fault::HandshakeFails) {
            Handshake::Fails
        } else {
            Handshake::Done
        };
        (handshake, Duration::from_micros(takes))
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
        if let LinkEvent::HandshakeIsOver = event {
            return self.checks.that(Invariant::S10, link.established, || {
                format!("the connection of {} is still open, without a handshake", link.peer)
            });
        }
        if let LinkEvent::IsGone(why) = event {
            // What a worker does not read is not the client's slowness.
            let excused = link.paused || link.forgiven || self.generations.len() > 1;
            return self.checks.that(Invariant::S10, excused, || {
                format!("the connection of {} is still open, though {why}", link.peer)
            });
        }
        let of_handshake = matches!(event, LinkEvent::Established | LinkEvent::HandshakeFails);
        if !link.established && !of_handshake && !matches!(event, LinkEvent::Reset) {
            return Ok(()); // nothing is read before
        }
        if link.paused && matches!(event, LinkEvent::Octets(..) | LinkEvent::End) {
            link.held.push(event);
            return Ok(());
        }
        link.active_at = self.now;
        match event {
            LinkEvent::Connects | LinkEvent::IsGone(_) | LinkEvent::HandshakeIsOver => Ok(()),
            LinkEvent::Established => self.link_established(number, conn),
            LinkEvent::HandshakeFails => {
                let failure = IoFailure::Tls(TlsFailure::Protocol);
                self.link_ends(number, conn, Closed::Failed(failure))
            }
            LinkEvent::Octets(octets, questions) => {
                self.link_octets(number, conn, octets, questions)
            }
            LinkEvent::End if link.kind.is_http() => self.link_ends(number, conn, Closed::Cleanly),
            LinkEvent::End => self.feed(engine, Input::EndOfStream(conn)),
            LinkEvent::Written(octets) => self.feed(engine, Input::Written(conn, octets)),
            LinkEvent::Reset => {
                self.faults.count(Fault::ClientResets);
                self.link_ends(number, conn, Closed::Failed(IoFailure::Reset))
            }
        }
    }

    /// A client's connection ends, and not by its engine.
    fn link_ends(&mut self, number: u64, conn: ConnHandle, how: Closed) -> Result<(), Broken> {
        let engine = self.links[&number].life.engine;
        self.forget_questions(number);
        self.drop_link(number);
        self.workers[engine].bury(End::Conn(conn));
        self.feed(engine, Input::Closed(conn, how))
    }

    /// Nothing that was asked on a connection can be answered any more. Gives how much was owed.
    fn forget_questions(&mut self, number: u64) -> usize {
        let exchanges = self.links[&number].exchanges.iter();
        let owed = exchanges.map(|one| self.model.forget_channel(Channel::Exchange(*one)));
        owed.sum::<usize>() + self.model.forget_channel(Channel::Stream(number))
    }

    /// From now on nothing that was asked on a connection has to be answered.
    pub(super) fn excuse_link(&mut self, number: u64) {
        let link = self.links.get_mut(&number).expect("the caller has it");
        link.excused = true;
        self.model.excuse_channel(Channel::Stream(number));
        for exchange in &link.exchanges {
            self.model.excuse_channel(Channel::Exchange(*exchange));
        }
    }

    fn link_connects(&mut self, number: u64) -> Result<(), Broken> {
        let link = &self.links[&number];
        let (engine, listener, peer) = (link.life.engine, link.listener, link.peer);
        if !self.workers[engine].listens {
            self.drop_link(number);
            return Ok(());
        }
        let free = self.is_admitted(number);
        self.accepting = Some(number);
        self.feed(engine, Input::Connects(listener, peer))?;
        self.accepting = None;
        let taken = self.links.get(&number).is_some_and(|link| link.conn.is_some());
        self.check_admitted(number, free, taken)?;
        if !taken {
            self.drop_link(number);
        }
        Ok(())
    }

    /// The handshakes are over. From now on whom a proxy announces is counted instead of the proxy.
    fn link_established(&mut self, number: u64, conn: ConnHandle) -> Result<(), Broken> {
        let link = self.links.get_mut(&number).expect("the caller has it");
        let (engine, carried) = (link.life.engine, link.carried);
        link.established = true;
        if let Some(address) = carried {
            let client = link.client;
            let counted = (network_of(address.ip()), self.standing(client));
            self.links.get_mut(&number).expect("still there").counted = counted;
        }
        let free = self.is_admitted(number);
        let link = self.links.get_mut(&number).expect("still there");
        link.excused |= !free && carried.is_some();
        let alpn = link.kind.alpn().map(Bytes::from_static);
        self.feed(engine, Input::Established(conn, Established { alpn, client: carried }))?;
        if carried.is_none() {
            return Ok(());
        }
        let taken = self.links.contains_key(&number);
        self.check_admitted(number, free, taken)
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
                self.model.excuse_channel(Channel::Stream(number));
            }
            let link = &self.links[&number];
            let (busy, excused) = (link.waiting >= PIPELINED || link.reads_not, link.excused);
            let owed = (!excused).then_some(!busy);
            let listener = (link.listener, None);
            self.expect_answer(engine, Channel::Stream(number), listener, &question, owed);
        }
        self.feed(engine, Input::Octets(conn, octets))
    }

    /// An engine writes to a client.
    pub(super) fn link_written(&mut self, number: u64, octets: &Bytes) -> Result<(), Broken> {
        let link = self.links.get_mut(&number).expect("written to a connection that is open");
        link.inbox.extend_from_slice(octets);
        let (engine, from) = (link.life.engine, (link.listener, None));
        let is_http = link.kind.is_http();
        self.checks.that(Invariant::S3, !is_http, || "octets written where HTTP is".to_owned())?;
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
            self.is_not_read(number);
        }
        Ok(())
    }

    /// A client does not read what is sent to it.
    pub(super) fn is_not_read(&mut self, number: u64) {
        self.faults.count(Fault::ClientReadsNot);
        let at = self.now + self.longest_stream_timeout() + CLOSED_WITHIN;
        let gone = LinkEvent::IsGone("the client does not read");
        self.queue.push(at, Event::Link(number, gone));
        self.excuse_link(number);
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
        let owed = self.forget_questions(number);
        self.drop_link(number);
        self.checks.that(Invariant::S1, excused || owed == 0, || {
            format!("a connection was closed with {owed} queries unanswered")
        })
    }

    pub(super) fn drop_link(&mut self, number: u64) {
        if let Some(link) = self.links.remove(&number) {
            self.exchanges.retain(|_, exchange| exchange.link != number);
            self.clients[link.client].links.retain(|other| *other != number);
        }
    }

    /// What became of a connection that was offered.
    pub(super) fn link_accepted(&mut self, engine: usize, output: &Output) {
        let number = self.accepting.expect("a connection was offered");
        if let Output::Accepted(accepted) = output
            && let Some(link) = self.links.get_mut(&number)
        {
            link.conn = Some(accepted.conn);
            self.workers[engine].conns.insert(accepted.conn, Conn::Client(number));
        }
    }
}
