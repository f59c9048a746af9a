//! Clients: what they ask, by datagrams, and what has to come of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use balancedns_core::engine::{ListenerId, Origin};
use balancedns_core::time::Duration;
use bytes::Bytes;

use super::World;
use super::prospects::{Inquiry, Prospects, Suspended};
use super::queue::Event;
use crate::fault::Fault;
use crate::generation::{Asking, PROXIES};
use crate::invariant::Broken;
use crate::machine::{Datagram, Input};
use crate::message::{
    AD, CD, CLIENT_COOKIE, ClientEdns, QR, RD, proxy_header, query, types, wire_name,
};
use crate::model::{Channel, Query, Verdict};

/// On its way from a client to a listener.
const TO_LISTENER: Duration = Duration::from_micros(50);

/// A client, by its address.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) address: IpAddr,
    /// The proxy that it is behind, if it is: whom an engine sees.
    pub(super) proxy: Option<IpAddr>,
    /// Outside the ACL.
    pub(super) stranger: bool,
    pub(super) next_port: u16,
    /// Connections that it has open.
    pub(super) links: Vec<u64>,
}

/// What is asked, before it is known what the configuration says to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// A name of the world.
    Name(usize),
    /// Whatever is known here: this rcode and so many answers.
    Local(Known),
    /// A record of the configuration, by the last octet of its address.
    Record(u8),
    /// What is refused: this rcode.
    Refused(u8),
    /// What is not even that.
    Garbage,
}

/// What is answered without asking anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) rcode: u8,
    pub(super) answers: usize,
    /// By a stage that stands behind the cache.
    pub(super) behind_cache: bool,
}

/// A query on its way.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) peer: SocketAddr,
    /// Whom its proxy announces, if it is behind one.
    pub(super) carried: Option<SocketAddr>,
    /// Which of our addresses is asked.
    pub(super) local: IpAddr,
    pub(super) message: Bytes,
    pub(super) subject: Subject,
    question_end: usize,
    pub(super) qtype: u16,
    pub(super) flags: u16,
    edns: Option<(u16, bool)>,
    pub(super) stranger: bool,
}

impl Question {
    /// Asks under another id.
    pub(super) fn set_id(&mut self, id: u16) {
        let mut message = self.message.to_vec();
        if let Some(start) = message.first_chunk_mut::<2>() {
            *start = id.to_be_bytes();
        }
        self.message = message.into();
    }
}

impl World {
    pub(super) fn make_clients(&self) -> Vec<Client> {
        let address = |number: usize| {
            let low = u8::try_from(number % 250).expect("less than 250") + 1;
            let high = u8::try_from(number / 250).expect("few clients");
            // Now and then somebody from outside, who is not answered.
            let stranger = number % 25 == 24;
            let net = if stranger { [203, 0] } else { [10, 1] };
            let v4 = Ipv4Addr::from([net[0], net[1], high, low]);
            let address = match number % 5 {
                1 => {
                    // Ten clients have a network of their own, of which two are here.
                    let network = u16::try_from(number / 10).expect("few clients");
                    Ipv6Addr::from([0xfd00, 0, 0, network, 0, 0, 0, low.into()]).into()
                }
                // As a socket for both families tells of an IPv4 client.
                2 | 4 => v4.to_ipv6_mapped().into(),
                _ => v4.into(),
            };
            (address, stranger)
        };
        let client = |number| {
            let (address, stranger) = address(number);
            let is_proxied = number * 613 % 1_000 < self.options.proxied_per_mille as usize;
            let [high, low] = u16::try_from(number).expect("few clients").to_be_bytes();
            let [first, second] = PROXIES;
            let proxy = is_proxied.then(|| IpAddr::from([first, second, high, low]));
            Client { address, proxy, stranger, next_port: 1_024, links: Vec::new() }
        };
        (0..self.options.clients).map(client).collect()
    }

    /// A client asks something, and will again.
    pub(super) fn client_turn(&mut self, client: usize) -> Result<(), Broken> {
        if self.asked >= self.options.queries {
            return Ok(());
        }
        let burst = 1 + self.client_draw.below(self.options.burst);
        if self.client_draw.chance(self.options.stream_per_mille) {
            self.ask_by_stream(client, burst);
        } else {
            for _ in 0..burst {
                let question = self.make_question(client);
                self.send_question(question);
            }
        }
        self.asked += burst as u64;
        let pause = self.client_draw.between(0, 2 * self.options.pause_us);
        self.queue.push(self.now + Duration::from_micros(pause), Event::ClientTurn(client));
        if self.asked >= self.options.queries {
            self.begin_healing();
        }
        Ok(())
    }

    fn send_question(&mut self, question: Question) {
        if self.faults.strike(Fault::QueryLost) {
            return;
        }
        let engine = self.engine_of(question.peer);
        let mut at = self.now + TO_LISTENER;
        if self.faults.strike(Fault::QueryLate) {
            let late = self.faults.draw(Fault::QueryLate).between(1, 400_000);
            at = at + Duration::from_micros(late);
        }
        for (fault, later) in [(Fault::QueryTwice, 30), (Fault::Retries, 1_000_000)] {
            if self.faults.strike(fault) {
                let question = Box::new(question.clone());
                let at = at + Duration::from_micros(later);
                self.queue.push(at, Event::Query { engine, question });
            }
        }
        self.queue.push(at, Event::Query { engine, question: Box::new(question) });
    }

    /// The kernel spreads clients' ports over the workers.
    pub(super) fn engine_of(&self, peer: SocketAddr) -> usize {
        usize::from(peer.port()) % self.workers.len()
    }

    pub(super) fn make_question(&mut self, client: usize) -> Question {
        let subject = self.draw_subject();
        self.question_about(client, subject)
    }

    /// A name that is more likely the smaller its place is.
    fn draw_name(&mut self) -> usize {
        let mut part = self.client_draw.below(1 << 20) as f64 / f64::from(1 << 20);
        for _ in 0..self.options.skew {
            part *= self.client_draw.below(1 << 20) as f64 / f64::from(1 << 20);
        }
        (part * self.options.names as f64) as usize
    }

    fn draw_subject(&mut self) -> Drawn {
        if self.faults.strike(Fault::Garbage) {
            return Drawn::Garbage;
        }
        if self.faults.strike(Fault::OddQuery) {
            return Drawn::Odd(self.client_draw.below(6));
        }
        match self.client_draw.below(100) {
            0 => Drawn::Local(LOCAL[self.client_draw.below(LOCAL.len())]),
            1 | 2 if self.options.policies => {
                Drawn::Local(RECORDS[self.client_draw.below(RECORDS.len())])
            }
            _ => Drawn::Name(self.draw_name()),
        }
    }

    /// A query for a name, from this client, with these flags.
    pub(super) fn question_for(
        &mut self,
        client: usize,
        name: usize,
        qtype: u16,
        flags: u16,
    ) -> Question {
        let mut question = self.question_about(client, Drawn::Name(name));
        let wire = self.truth.names()[name].wire.clone();
        let id = self.client_draw.id();
        question.message = query(id, flags, &wire, qtype, None).into();
        question.question_end = 12 + wire.len() + 4;
        question.qtype = qtype;
        question.flags = flags;
        question.edns = None;
        question
    }

    fn question_about(&mut self, client: usize, drawn: Drawn) -> Question {
        let draw = &mut self.client_draw;
        let (id, bits) = (draw.id(), draw.bits());
        let mut flags = if bits % 50 == 0 { 0 } else { RD };
        flags |= if bits >> 8 & 7 == 0 { CD } else { 0 };
        flags |= if bits >> 11 & 7 == 0 { AD } else { 0 };
        let edns = draw.chance(self.options.edns_per_mille).then(|| ClientEdns {
            size: draw.pick(&[0, 512, 1_232, 4_096, 65_535]),
            dnssec_ok: draw.chance(300),
            version: 0,
            // A cookie and a client subnet, which are nobody's business upstream.
            options: if draw.chance(300) {
                [&[0, 10, 0, 8], CLIENT_COOKIE, &[0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2]].concat()
            } else {
                Vec::new()
            },
        });
        let (mut wire, qtype, subject) = match drawn {
            Drawn::Name(name) => {
                let qtype = draw.pick(&TYPES);
                (self.truth.names()[name].wire.clone(), qtype, Subject::Name(name))
            }
            Drawn::Local(local) => (wire_name(local.name), local.qtype, local.subject),
            Drawn::Odd(_) => (wire_name("odd.example."), types::A, Subject::Refused(1)),
            Drawn::Garbage => (wire_name("."), types::A, Subject::Garbage),
        };
        // Clients spell as they like; lengths of labels are no letters.
        for octet in &mut wire {
            if octet.is_ascii_lowercase() && draw.below(8) == 0 {
                octet.make_ascii_uppercase();
            }
        }
        let mut built = Built { id, flags, wire, qtype, edns, subject };
        let message = match drawn {
            Drawn::Name(_) | Drawn::Local(_) => built.message(),
            Drawn::Odd(kind) => built.odd(kind),
            Drawn::Garbage => built.garbage(bits),
        };
        let end = 12 + built.wire.len() + 4;
        let question_end = if matches!(drawn, Drawn::Odd(_)) { 12 } else { end };
        let (peer, carried) = self.new_peer(client);
        let stranger = self.clients[client].stranger;
        Question {
            peer,
            carried,
            local: IpAddr::from([10, 0, 0, 53 + u8::from(bits & 1 == 0)]),
            message: message.into(),
            subject: built.subject,
            question_end,
            qtype: built.qtype,
            flags: built.flags,
            edns: built.edns.map(|edns| (edns.size, edns.dnssec_ok)),
            stranger,
        }
    }

    /// The address that an engine sees of a client, with a new port, and the one behind it.
    pub(super) fn new_peer(&mut self, client: usize) -> (SocketAddr, Option<SocketAddr>) {
        let port = self.next_port(client);
        let Client { address, proxy, .. } = self.clients[client];
        let own = SocketAddr::new(address, port);
        match proxy {
            Some(proxy) => (SocketAddr::new(proxy, port), Some(own)),
            None => (own, None),
        }
    }

    pub(super) fn next_port(&mut self, client: usize) -> u16 {
        let client = &mut self.clients[client];
        client.next_port = client.next_port.checked_add(1).unwrap_or(1_024);
        client.next_port
    }

    /// Datagrams arrive together at a worker.
    pub(super) fn queries_arrive(&mut self, engine: usize, first: Question) -> Result<(), Broken> {
        let mut questions = vec![first];
        let is_its =
            |event: &Event| matches!(event, Event::Query { engine: other, .. } if *other == engine);
        while questions.len() < 200
            && let Some(Event::Query { question, .. }) = self.queue.pop_if(self.now, is_its)
        {
            questions.push(*question);
        }
        let worker = &self.workers[engine];
        if worker.machine.is_none() || !worker.listens {
            return Ok(()); // nobody is there: the kernel's business
        }
        let mut datagrams = Vec::with_capacity(questions.len());
        let generation = self.generations[worker.generation].number;
        for question in questions {
            let channel = Channel::Datagram(question.peer);
            let id = question.message.first_chunk::<2>().map_or(0, |id| u16::from_be_bytes(*id));
            if self.model.waits_under_another(channel, id, generation) {
                continue; // a retry that gets lost
            }
            let carried = question.carried;
            if carried.is_none() || !self.faults.strike(Fault::NoProxyHeader) {
                let listener = (self.listeners.datagram, Some(question.local));
                self.expect_answer(engine, channel, listener, &question, Some(true));
            } else {
                let message = self.without_header(question.message);
                datagrams.push(Datagram { peer: question.peer, local: None, message });
                continue;
            }
            let Question { peer, local, mut message, .. } = question;
            if let Some(client) = carried {
                message = [proxy_header(client).as_slice(), &message].concat().into();
            }
            datagrams.push(Datagram { peer, local: Some(local), message });
        }
        let origin = Origin::Listener(self.listeners.datagram);
        self.feed(engine, Input::Datagrams(origin, datagrams))
    }

    /// What comes from a proxy without its header, or with half of one.
    fn without_header(&mut self, message: Bytes) -> Bytes {
        let header = proxy_header(SocketAddr::from(([10, 1, 1, 1], 53)));
        match self.faults.draw(Fault::NoProxyHeader).below(header.len() + 1) {
            0 => message,
            octets => Bytes::copy_from_slice(&header[..octets - 1]),
        }
    }

    /// Tells the model what has to come of a query that arrives now. It has to come in time, or at any
    /// time, or not at all.
    pub(super) fn expect_answer(
        &mut self,
        engine: usize,
        channel: Channel,
        listener: (ListenerId, Option<IpAddr>),
        question: &Question,
        owed: Option<bool>,
    ) {
        let generation = &self.generations[self.workers[engine].generation];
        let by_datagram = matches!(channel, Channel::Datagram(_));
        let inquiry = Inquiry::of(question, by_datagram);
        let Prospects { verdict, others, asks, judged, may_be_suspended, blocks_targets } =
            self.prospects(engine, &inquiry);
        let in_time = owed == Some(true);
        let limit = match question.edns {
            _ if !by_datagram => 65_535,
            None => 512,
            Some((size, _)) => usize::from(size.max(512).min(generation.udp_size.max(512))),
        };
        let deadline = self.now + Duration::from_millis(generation.deadline_ms);
        let query = Query {
            engine,
            channel,
            listener,
            message: question.message.clone(),
            question_end: question.question_end,
            qtype: question.qtype,
            edns: question.edns,
            verdict,
            others,
            asked_name: match question.subject {
                Subject::Name(name) => Some(name),
                Subject::Local(_) | Subject::Record(_) | Subject::Refused(_) | Subject::Garbage => {
                    None
                }
            },
            blocks_targets,
            judged,
            may_be_suspended,
            inquiry,
            generation: generation.number,
            limit,
            may_be_lost: owed.is_none(),
        };
        let looks_up = match verdict {
            Verdict::Forwarded(_) | Verdict::Remembered(_) => true,
            Verdict::Local(..) => {
                matches!(question.subject, Subject::Local(known) if known.behind_cache)
            }
            Verdict::Rcode(..)
            | Verdict::Silence
            | Verdict::Blocked(_)
            | Verdict::Data(..)
            | Verdict::Record(_)
            | Verdict::Failed
            | Verdict::WantsTcp => false,
        };
        let worker = &mut self.workers[engine];
        worker.looked_up += u64::from(looks_up && generation.cache);
        worker.datagrams += u64::from(by_datagram && verdict != Verdict::Silence);
        if may_be_suspended {
            let noted = asks.iter().map(|asking| asking.name).collect();
            self.suspended.push_back(Suspended { at: self.now, engine, inquiry, noted });
        }
        for Asking { name, pool } in asks {
            let number = self.workers[engine].generation;
            self.asked_at.insert((engine, name, number, pool), self.now);
            self.passed_names.insert(name);
            self.note_question(engine, name, question.qtype, in_time);
        }
        self.delivered += 1;
        self.model.asked(self.now, query, in_time.then_some(deadline));
    }
}

/// What a client is to ask.
#[derive(Debug, Clone, Copy)]
enum Drawn {
    Name(usize),
    Local(Local),
    Odd(usize),
    Garbage,
}

/// Something that is answered here.
#[derive(Debug, Clone, Copy)]
struct Local {
    name: &'static str,
    qtype: u16,
    subject: Subject,
}

const fn local(
    name: &'static str,
    qtype: u16,
    rcode: u8,
    answers: usize,
    behind_cache: bool,
) -> Local {
    Local { name, qtype, subject: Subject::Local(Known { rcode, answers, behind_cache }) }
}

/// Hosts, special names, and what is asked for everything.
const LOCAL: [Local; 8] = [
    local("h1.lan.", types::A, 0, 1, false),
    local("h2.lan.", types::AAAA, 0, 0, false),
    local("localhost.", types::A, 0, 1, true),
    local("a.localhost.", types::AAAA, 0, 1, true),
    local("printer.local.", types::A, 3, 0, true),
    local("a.test.", types::TXT, 3, 0, true),
    local("1.0.0.10.in-addr.arpa.", 12, 3, 0, true),
    local("everything.example.", types::ANY, 0, 1, true),
];

/// Records of the configuration: hosts, what stands for many of them, an alias, and what is empty.
const RECORDS: [Local; 5] = [
    Local { name: "l1.lan.", qtype: types::A, subject: Subject::Record(1) },
    Local { name: "any.of.w.lan.", qtype: types::A, subject: Subject::Record(2) },
    Local { name: "a.lan.", qtype: types::A, subject: Subject::Record(1) },
    local("l1.lan.", types::AAAA, 0, 0, false),
    local("d.w.lan.", types::TXT, 0, 0, false),
];

/// Types that names of the world are asked for.
const TYPES: [u16; 8] =
    [types::A, types::A, types::A, types::A, types::AAAA, types::AAAA, types::TXT, types::MX];

/// A query that is being made.
struct Built {
    id: u16,
    flags: u16,
    wire: Vec<u8>,
    qtype: u16,
    edns: Option<ClientEdns>,
    subject: Subject,
}

impl Built {
    fn message(&self) -> Vec<u8> {
        query(self.id, self.flags, &self.wire, self.qtype, self.edns.as_ref())
    }

    /// A query that has to be refused in some way.
    fn odd(&mut self, kind: usize) -> Vec<u8> {
        self.edns = None;
        let mut message = self.message();
        match kind {
            0 => message[5] = 2, // counts two questions and has one
            1 => message.extend_from_slice(b"more"),
            2 => {
                message[2] |= 2 << 3; // STATUS
                self.flags |= 2 << 11;
                self.subject = Subject::Refused(4);
            }
            3 => {
                let edns =
                    ClientEdns { size: 1_232, dnssec_ok: false, version: 1, options: Vec::new() };
                self.edns = Some(edns);
                message = self.message();
                self.subject = Subject::Refused(16);
            }
            4 => {
                *message.last_mut().expect("a class") = 3; // Chaosnet
                self.subject = Subject::Refused(5);
            }
            _ => {
                self.qtype = 252; // AXFR
                message = self.message();
                self.subject = Subject::Refused(5);
            }
        }
        message
    }

    /// What is no query at all.
    fn garbage(&mut self, bits: u64) -> Vec<u8> {
        let mut message = self.message();
        if bits >> 32 & 1 == 0 {
            message.truncate((bits >> 33) as usize % 12);
        } else {
            message[2] |= (QR >> 8) as u8;
        }
        message
    }
}
