//! The servers behind: what they reply, and what becomes of it on the way.

use std::net::SocketAddr;

use balancedns_core::engine::IoFailure;
use balancedns_core::handle::SocketHandle;
use balancedns_core::limits::UPSTREAM_DATAGRAM_OCTETS;
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;

use super::World;
use super::queue::{AskedBy, Event, Life};
use crate::fault::Fault;
use crate::generation::{address, host_name, other_address, place_of};
use crate::invariant::{Broken, Invariant};
use crate::message::{AD, Asked, RD, Reply, types, wire_name};
use crate::truth::{FORGED, OTHER_NAME, data};

/// Faults of servers that last for a while, with the shortest and the longest time in seconds.
pub(super) const LASTING: [(Fault, u64, u64); 7] = [
    (Fault::Dead, 5, 60),
    (Fault::Unreachable, 1, 20),
    (Fault::Slow, 1, 20),
    (Fault::DeafUpstream, 1, 20),
    (Fault::MuteUpstream, 1, 20),
    (Fault::Burst, 1, 1),
    (Fault::Flapping, 1, 3),
];

/// A server of the pool.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// Until when each of [`LASTING`] lasts.
    pub(super) lasting: [Instant; LASTING.len()],
    /// What it does for as long as nothing heals.
    pub(super) no_edns: bool,
    pub(super) ignores_case: bool,
    /// Whether its host name leads to its other address.
    pub(super) moved: bool,
    /// How it has ended for good.
    pub(super) outage: Option<Outage>,
}

/// How a server may end for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    /// It says nothing any more.
    Silent,
    /// Its host says that nobody is there.
    Refusing,
    /// It answers SERVFAIL to everything.
    Failing,
}

impl Server {
    /// Whether one of [`LASTING`] lasts still.
    fn suffers(&self, fault: Fault, now: Instant) -> bool {
        let lasting = LASTING.iter().zip(&self.lasting);
        lasting.into_iter().any(|((one, ..), until)| *one == fault && *until > now)
    }
}

impl World {
    /// One way between an engine and a server.
    pub(super) fn one_way(&mut self) -> Duration {
        let half = self.options.round_trip_us / 2;
        Duration::from_micros(half + self.latency.between(0, half / 4 + 10))
    }

    /// Checks a query for what must hold of all that engines send.
    pub(super) fn check_sent(
        &mut self,
        engine: usize,
        remote: SocketAddr,
        message: &[u8],
    ) -> Result<(), Broken> {
        self.sends += 1;
        let asked = self.check_query(engine, message)?;
        let Some(place) = place_of(remote) else {
            let host = (0..self.servers.len()).find(|place| {
                wire_name(&host_name(*place)).eq_ignore_ascii_case(asked.name(message))
            });
            return self.checks.that(Invariant::S15, host.is_some(), || {
                format!("a bootstrap server was asked for {:02x?}", asked.name(message))
            });
        };
        let name = self.truth.find(asked.name(message));
        self.checks.that(Invariant::S15, name.is_some(), || {
            format!("forwarded, though it is known here: {:02x?}", asked.name(message))
        })?;
        let name = name.expect("just checked");
        self.check_sends(engine, name, asked.qtype)?;
        let worker = &self.workers[engine];
        let generation = &self.generations[worker.generation];
        let text = &self.truth.names()[name].text;
        let number = generation.number;
        let is_blocked = generation.policies.is_none()
            && self.truth.names()[name].blocked_group == Some(generation.blocked_group());
        let current = !is_blocked && self.may_ask(engine, name, worker.generation, place);
        let pool = self.recovery_pool();
        if let Some(recovering) = self.recovering.get_mut(&name).filter(|it| !it.answered) {
            recovering.sends += 1;
            let first = generation.route(text, pool).first().map(|server| server.place);
            if self.strict && !recovering.ask.is_of_outage() {
                self.checks.that(Invariant::L1, first == Some(place), || {
                    format!("{text} was asked of server {place}, not of {first:?}, after healing")
                })?;
            }
        }
        if current {
            self.checks.count(Invariant::S15, 1);
            // Only after a reload is there anybody to be removed.
            self.checks.count(Invariant::S14, u64::from(number > 0));
            return Ok(());
        }
        self.check_earlier(engine, place, name, is_blocked)
    }

    /// Whether a server may be asked for a name under a generation: it serves its zone, and where there
    /// are plugins somebody's question has come through them that goes to its pool.
    fn may_ask(&self, engine: usize, name: usize, number: usize, place: usize) -> bool {
        let generation = &self.generations[number];
        let text = &self.truth.names()[name].text;
        let server = generation.server(place).filter(|server| server.serves(text));
        server.is_some_and(|server| {
            generation.policies.is_none()
                || self.asked_at.contains_key(&(engine, name, number, server.pool))
        })
    }

    /// A query of an earlier generation, for a question that came in its time; its client may have
    /// gone.
    fn check_earlier(
        &mut self,
        engine: usize,
        place: usize,
        name: usize,
        blocked: bool,
    ) -> Result<(), Broken> {
        let worker = &self.workers[engine];
        let generation = &self.generations[worker.generation];
        let (text, number) = (&self.truth.names()[name].text, generation.number);
        let allowed = (0..worker.generation).any(|earlier| {
            let generation = &self.generations[earlier];
            // A probe has the time of an attempt instead.
            let attempts = generation.servers.iter().map(|server| server.timeout_ms);
            let longest = attempts.max().unwrap_or(0).max(generation.deadline_ms);
            let deadline = Duration::from_millis(longest) + self.model.excuses.lateness;
            let server = generation.server(place).filter(|server| server.serves(text));
            server.is_some_and(|server| {
                let asked_at = self.asked_at.get(&(engine, name, earlier, server.pool));
                asked_at.is_some_and(|at| self.now <= *at + deadline)
            })
        });
        let broken = match (blocked, generation.server(place)) {
            (true, _) => Invariant::S7,
            (false, Some(_)) => Invariant::S15,
            (false, None) => Invariant::S14,
        };
        self.checks.that(broken, allowed, || {
            format!("{text} was asked of server {place}, which generation {number} does not do")
        })
    }

    /// A query is as we write them: nothing of the client's but the question, DO and CD.
    fn check_query(&mut self, engine: usize, message: &[u8]) -> Result<Asked, Broken> {
        let asked = Asked::read(message)
            .map_err(|odd| Broken::new(Invariant::S8, format!("{odd}: {message:02x?}")))?;
        // AD asks the upstream to say whether it has validated (RFC 6840 section 5.7).
        let plain = asked.flags & !crate::message::CD == RD | AD;
        self.checks
            .that(Invariant::S8, plain, || format!("flags {:#06x} upstream", asked.flags))?;
        // As the configuration says, but never more than the slot of a batch holds.
        let generation = &self.generations[self.workers[engine].generation];
        let room = usize::from(generation.udp_size).min(UPSTREAM_DATAGRAM_OCTETS);
        let fits = asked.edns.is_none_or(|(size, _)| usize::from(size) == room);
        self.checks.that(Invariant::S8, fits, || {
            format!("takes {:?}, but should take {room} octets", asked.edns)
        })?;
        Ok(asked)
    }

    /// A datagram is on its way to a server.
    pub(super) fn send_datagram(
        &mut self,
        life: Life,
        socket: SocketHandle,
        remote: SocketAddr,
        message: Bytes,
    ) {
        let place = place_of(remote);
        self.spoof(life, socket, &message);
        if self.faults.strike(Fault::SentLost) || self.is_to_be_lost(&message) {
            return;
        }
        let by = AskedBy::Socket(socket);
        let at = self.now + self.one_way();
        let refuses = |place: usize| self.servers[place].outage == Some(Outage::Refusing);
        if place.is_some_and(refuses)
            || place.is_some_and(|place| self.suffers(place, &[Fault::Unreachable]))
        {
            let failure = Some(IoFailure::Refused);
            return self.queue.push(at, Event::Socket { life, socket, failure });
        }
        if place.is_some_and(|place| !self.is_at(place, remote)) {
            return; // nobody is at that address any more
        }
        if self.faults.strike(Fault::SentTwice) {
            let message = message.clone();
            self.queue
                .push(at + Duration::from_micros(7), Event::Asked { place, life, by, message });
        }
        self.queue.push(at, Event::Asked { place, life, by, message });
    }

    /// Whether a server is at this address: one that is known by its name may have moved.
    pub(super) fn is_at(&self, place: usize, remote: SocketAddr) -> bool {
        let moved = self.servers[place].moved;
        if remote.ip() == other_address(place).ip() {
            return moved;
        }
        let latest = self.generations.last().expect("there is one");
        !moved || latest.server(place).is_some_and(|server| !server.by_name)
    }

    /// A query has arrived at a server.
    pub(super) fn server_asked(
        &mut self,
        place: Option<usize>,
        life: Life,
        by: AskedBy,
        message: &Bytes,
    ) -> Result<(), Broken> {
        if !self.workers[life.engine].is_alive(life) {
            return Ok(());
        }
        if let Some(place) = place
            && self.is_deaf(place)
        {
            return Ok(());
        }
        let asked = Asked::read(message).expect("checked when it was sent");
        let Some(place) = place else {
            return self.bootstrap_replies(life, by, &asked, message);
        };
        let name = self.truth.find(asked.name(message)).expect("checked when it was sent");
        match by {
            AskedBy::Socket(socket) => {
                self.reply_by_datagram(place, life, socket, name, &asked, message)
            }
            AskedBy::Conn(conn) => self.reply_by_stream(place, life, conn, name, &asked, message),
            AskedBy::Exchange(conn, exchange) => {
                self.reply_by_exchange((place, life), (conn, exchange), name, &asked, message);
                Ok(())
            }
        }
    }

    /// Whether a server gets nothing of what is sent to it.
    pub(super) fn is_deaf(&mut self, place: usize) -> bool {
        self.servers[place].outage == Some(Outage::Silent)
            || self
                .suffers(place, &[Fault::Dead, Fault::Flapping, Fault::DeafUpstream, Fault::Burst])
    }

    /// Whether one of these lasts; counted if so.
    pub(super) fn suffers(&mut self, place: usize, faults: &[Fault]) -> bool {
        let server = &self.servers[place];
        let Some(fault) = faults.iter().find(|fault| server.suffers(**fault, self.now)) else {
            return false;
        };
        self.faults.count(*fault);
        true
    }

    /// Who does not read a query may answer an error without it: whether that is done.
    fn leave_question_out(&mut self, reply: &mut Vec<u8>) -> bool {
        let strikes = self.faults.strike(Fault::NoQuestion);
        if strikes {
            reply.truncate(12);
            reply[4..].fill(0);
        }
        strikes
    }

    /// What a server makes of a query: its reply and, if that is what it should be, its number.
    pub(super) fn make_reply(
        &mut self,
        place: usize,
        name: usize,
        asked: &Asked,
        message: &[u8],
    ) -> (Vec<u8>, Option<u32>) {
        if self.servers[place].no_edns && asked.edns.is_some() {
            self.faults.count(Fault::NoEdns);
            let mut reply = Reply::to(asked, message, 1).finish();
            self.leave_question_out(&mut reply);
            return (reply, None);
        }
        if self.servers[place].outage == Some(Outage::Failing) {
            return (Reply::to(asked, message, 2).finish(), None);
        }
        if self.faults.strike(Fault::ErrorRcode) {
            let rcode = self.faults.draw(Fault::ErrorRcode).pick(&[2, 2, 5, 4]);
            let mut reply = Reply::to(asked, message, rcode).finish();
            self.leave_question_out(&mut reply);
            return (reply, None);
        }
        if self.faults.strike(Fault::GarbageReply) {
            let draw = self.faults.draw(Fault::GarbageReply);
            let length = draw.below(60);
            return ((0..length).map(|_| draw.bits() as u8).collect(), None);
        }
        let (reply, number) = self.truth.reply(asked, message, name, self.now);
        let mut reply = reply.finish();
        if matches!(reply[3] & 15, 2 | 5) && self.leave_question_out(&mut reply) {
            return (reply, None);
        }
        if self.servers[place].ignores_case {
            reply[12..asked.question_end - 4].make_ascii_lowercase();
            if message[12..asked.question_end] != reply[12..asked.question_end] {
                self.faults.count(Fault::IgnoresCase);
            }
        }
        (reply, Some(number))
    }

    fn reply_by_datagram(
        &mut self,
        place: usize,
        life: Life,
        socket: SocketHandle,
        name: usize,
        asked: &Asked,
        message: &[u8],
    ) -> Result<(), Broken> {
        let (mut reply, mut number) = self.make_reply(place, name, asked, message);
        let room = usize::from(asked.edns.map_or(512, |(size, _)| size.max(512)));
        let is_cut = reply.len() > room && !self.faults.strike(Fault::Oversize);
        if reply.len() > 12 && (is_cut || self.faults.strike(Fault::Truncates)) {
            let mut short = Reply::to(asked, message, 0);
            short.truncate(asked);
            (reply, number) = (short.finish(), None);
        }
        if self.damage(asked, &mut reply) {
            number = None;
        }
        if self.suffers(place, &[Fault::MuteUpstream, Fault::Burst]) {
            return Ok(());
        }
        let is_slow = self.suffers(place, &[Fault::Slow]);
        if self.faults.strike(Fault::ReplyLost) {
            return Ok(());
        }
        let at = self.now + self.one_way() + self.delay(is_slow);
        let message = Bytes::from(reply);
        if self.faults.strike(Fault::ReplyTwice) {
            let later = self.faults.draw(Fault::ReplyTwice).pick(&[0, 100, 500_000]);
            let message = message.clone();
            let at = at + Duration::from_micros(later);
            self.queue.push(at, Event::Reply { life, socket, message, number });
        }
        self.queue.push(at, Event::Reply { life, socket, message, number });
        Ok(())
    }

    pub(super) fn delay(&mut self, is_slow: bool) -> Duration {
        let mut micros = 0;
        if is_slow {
            micros += self.latency.between(300_000, 3_000_000);
        }
        if self.faults.strike(Fault::ReplyLate) {
            micros += self.faults.draw(Fault::ReplyLate).between(100_000, 10_000_000);
        }
        Duration::from_micros(micros)
    }

    /// What must not be taken for the reply: whether it was done.
    pub(super) fn damage(&mut self, asked: &Asked, reply: &mut Vec<u8>) -> bool {
        if reply.len() < asked.question_end {
            return false;
        }
        if self.faults.strike(Fault::WrongId) {
            reply[1] ^= 1 + (asked.id as u8 & 0x7e);
            return true;
        }
        if self.faults.strike(Fault::WrongQuestion) {
            *reply = other_question(asked, reply);
            return true;
        }
        if self.faults.strike(Fault::CutReply) {
            let end = self.faults.draw(Fault::CutReply).below(reply.len());
            // One that says itself that it was cut off may be taken as such wherever it ends.
            let says_so = reply[2] & 2 != 0;
            if !says_so && end < reply.len() {
                reply.truncate(end);
                return true;
            }
        }
        if self.faults.strike(Fault::Mutated) {
            let end = asked.question_end;
            match self.faults.draw(Fault::Mutated).below(5) {
                0 => reply[0] ^= 0x55,
                1 => reply[2] &= 0x7f,       // a query
                2 => reply[2] |= 0x10,       // another opcode
                3 => reply[end - 3] ^= 0x40, // another type
                _ => reply[end - 1] ^= 2,    // another class
            }
            return true;
        }
        if self.faults.strike(Fault::TrailingGarbage) {
            reply.extend_from_slice(b"garbage");
        }
        false
    }

    /// The server that looks the hosts of servers up; it only ever is slow.
    fn bootstrap_replies(
        &mut self,
        life: Life,
        by: AskedBy,
        asked: &Asked,
        message: &[u8],
    ) -> Result<(), Broken> {
        let name = asked.name(message).to_ascii_lowercase();
        let place = (0..self.servers.len()).find(|place| wire_name(&host_name(*place)) == name);
        let place = place.expect("checked when it was sent");
        let mut reply = Reply::to(asked, message, 0);
        if asked.qtype == types::A {
            let home =
                if self.servers[place].moved { other_address(place) } else { address(place) };
            let std::net::IpAddr::V4(ip) = home.ip() else { unreachable!("servers have IPv4") };
            reply.record(1, &[0xc0, 12], types::A, 5, &ip.octets());
        }
        let at = self.now + self.one_way();
        match by {
            AskedBy::Socket(socket) => {
                let message = reply.finish().into();
                self.queue.push(at, Event::Reply { life, socket, message, number: None });
            }
            AskedBy::Conn(conn) => self.stream_octets(life, conn, at, &reply.finish(), None),
            AskedBy::Exchange(..) => unreachable!("checked when it was sent"),
        }
        Ok(())
    }

    /// Whoever knows the port of a query tries to be faster than the server.
    fn spoof(&mut self, life: Life, socket: SocketHandle, message: &Bytes) {
        let asked = Asked::read(message).expect("checked when it was sent");
        let mut forged = Vec::new();
        if self.faults.strike(Fault::SpoofedId) {
            forged.extend(self.guessed_ids(4, &asked, message));
        }
        if self.faults.strike(Fault::SpoofedName) {
            let reply = self.forged_reply(&asked, message);
            forged.push(other_question(&asked, &reply));
        }
        if self.faults.strike(Fault::SpoofedCase) {
            let mut reply = self.forged_reply(&asked, message);
            let name = &mut reply[12..asked.question_end - 4];
            // Without capitals the case was not random, and nothing is wrong with lower case.
            if let Some(letter) = name.iter_mut().find(|octet| octet.is_ascii_uppercase()) {
                letter.make_ascii_lowercase();
                forged.push(reply);
            }
        }
        // A flood at every query would be all that there is.
        if self.sends.is_multiple_of(50) && self.faults.strike(Fault::SpoofFlood) {
            forged.extend(self.guessed_ids(1_200, &asked, message));
        }
        for reply in forged {
            let at = self.now + Duration::from_micros(self.spoofers.between(0, 300));
            let message = reply.into();
            self.queue.push(at, Event::Reply { life, socket, message, number: None });
        }
    }

    fn guessed_ids(&mut self, count: usize, asked: &Asked, message: &[u8]) -> Vec<Vec<u8>> {
        let reply = self.forged_reply(asked, message);
        let guesses = (0..count).filter_map(|_| {
            let id = self.spoofers.id();
            let mut reply = reply.clone();
            reply[..2].copy_from_slice(&id.to_be_bytes());
            // Guessing right is luck, which no resolver can do anything about.
            (id != asked.id).then_some(reply)
        });
        guesses.collect()
    }

    fn forged_reply(&mut self, asked: &Asked, message: &[u8]) -> Vec<u8> {
        let mut reply = Reply::to(asked, message, 0);
        let rtype =
            if matches!(asked.qtype, types::AAAA | types::TXT) { asked.qtype } else { types::A };
        let number = (FORGED >> 6) + (self.spoofers.id() as u32 & 0xff);
        reply.record(1, &[0xc0, 12], rtype, 86_400, &data(rtype, number, 0, 20));
        reply.finish()
    }
}

/// The same reply, to a question that nobody asked.
fn other_question(asked: &Asked, reply: &[u8]) -> Vec<u8> {
    let mut other = reply[..12].to_vec();
    other.extend_from_slice(&wire_name(OTHER_NAME));
    other.extend_from_slice(&reply[asked.question_end - 4..]);
    other
}
