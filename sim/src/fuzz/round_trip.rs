//! What hickory-proto encodes as an upstream's reply goes through the engine to a client, and
//! hickory decodes the same records from it: asked for and from the cache, over datagrams and
//! streams, with EDNS and without, with as much of it as fits.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use balancedns_core::config::{Snapshot, UpstreamProtocol};
use balancedns_core::engine::{Established, Origin};
use balancedns_core::handle::ConnHandle;
use balancedns_core::limits::{NAME_OCTETS, UDP_PLAIN_OCTETS, UPSTREAM_DATAGRAM_OCTETS};
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, NULL, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::oracle;
use super::setup::{START, TCP, address, assert_drains, from, from_client, machine, snapshot};
use crate::machine::{Input, Machine, Output};

const CLIENT: &str = "127.0.0.1:4000";
const CONFIG: &str = r#"return {
    listen = { dns = "127.0.0.1:53", udp_size = 1232 },
    cache = { min_ttl_seconds = 5, max_ttl_seconds = 3600, negative_max_ttl_seconds = 900 },
    upstreams = { { name = "u", addr = "192.0.2.1:53" } },
}"#;
/// The bounds of the configuration above, in seconds.
const TTL: std::ops::RangeInclusive<u32> = 5..=3_600;
const NEGATIVE_TTL_MAX: u32 = 900;

/// A question, how it is asked, and what is answered.
struct Case {
    /// Question and records; the id is that of whoever asks.
    response: Message,
    /// What a client says about EDNS: a size, and DO.
    edns: Option<(u16, bool)>,
    over_stream: bool,
    upstream: UpstreamProtocol,
    /// When the same is asked again, in seconds.
    again_after: u32,
}

/// `data` is a sequence of choices: a question, who asks it how, and an upstream's answer.
///
/// # Panics
/// If a property is broken.
pub fn round_trip(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(case) = case(&mut u) else { return };
    let mut world = World::new(&case);
    let reply = world.ask(&case);
    case.assert_reply(&reply, world.essential_octets(), 0);
    world.now = world.now + Duration::from_secs(u64::from(case.again_after));
    let asked_before = world.asked;
    let again = world.ask(&case);
    let age = if world.asked == asked_before { case.again_after } else { 0 };
    case.assert_reply(&again, world.essential_octets(), age);
    if case.again_after < *TTL.start() && case.is_cacheable() {
        assert_eq!(world.asked, asked_before, "it is remembered for so long at least");
    }
    assert_drains(&mut world.machine, &mut world.now);
}

// Choices.

fn case(u: &mut Unstructured<'_>) -> Result<Case> {
    let mut response = Message::new(0, MessageType::Response, OpCode::Query);
    let question = name(u)?;
    let types = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::CNAME,
        RecordType::MX,
        RecordType::TXT,
        RecordType::SRV,
        RecordType::Unknown(65_280),
    ];
    response.add_query(Query::query(question.clone(), *u.choose(&types)?));
    response.metadata.authoritative = u.arbitrary()?;
    response.metadata.authentic_data = u.arbitrary()?;
    // None that leads to other questions: those are for the engine's own body.
    response.metadata.response_code = (*u.choose(&[0_u16, 0, 0, 3, 3, 6, 9])?).into();
    response.answers = records(u, &question, 40)?;
    response.authorities = records(u, &question, 4)?;
    response.additionals = records(u, &question, 6)?;
    if u.arbitrary()? {
        let mut edns = Edns::new();
        edns.set_max_payload(u.arbitrary()?).set_dnssec_ok(u.arbitrary()?);
        response.edns = Some(edns);
    }
    let sizes = [0, 512, 1_231, 1_232, 1_233, 4_096, 65_535];
    let edns = if u.arbitrary()? { Some((*u.choose(&sizes)?, u.arbitrary()?)) } else { None };
    let over_stream = u.arbitrary()?;
    let upstream = *u.choose(&[UpstreamProtocol::Udp, UpstreamProtocol::Tcp])?;
    let again_after = *u.choose(&[0, 1, 4, 5, 100, 3_599, 3_600, 100_000])?;
    Ok(Case { response, edns, over_stream, upstream, again_after })
}

/// Few labels, so that there is much to compress, and any octets now and then.
fn name(u: &mut Unstructured<'_>) -> Result<Name> {
    let mut labels: Vec<Vec<u8>> = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        labels.push(match u.int_in_range(0..=7)? {
            0 => {
                let length = u.int_in_range(1..=63)?;
                let octet = u.arbitrary()?;
                vec![octet; length]
            }
            1 => vec![u.arbitrary()?, u.arbitrary()?],
            other => vec![b"abABxy"[other - 2]],
        });
    }
    // No special name ends like this.
    labels.push(b"example".to_vec());
    labels.push(b"net".to_vec());
    while labels.iter().map(|label| label.len() + 1).sum::<usize>() >= NAME_OCTETS {
        labels.remove(0);
    }
    Ok(Name::from_labels(labels).expect("labels and their sum are short enough"))
}

fn records(u: &mut Unstructured<'_>, question: &Name, most: usize) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    let count = super::draw::length(u, 0, most)?;
    while all.len() < count && !u.is_empty() {
        let owner = if u.ratio(1, 2)? { question.clone() } else { name(u)? };
        let ttl = *u.choose(&[0, 1, 5, 6, 60, 3_599, 3_600, 3_601, 0x7fff_ffff])?;
        all.push(Record::from_rdata(owner, ttl, data(u)?));
    }
    Ok(all)
}

fn data(u: &mut Unstructured<'_>) -> Result<RData> {
    Ok(match u.int_in_range(0..=10)? {
        0 | 1 => RData::A(A(Ipv4Addr::from_bits(u.arbitrary()?))),
        2 => RData::AAAA(AAAA(Ipv6Addr::from_bits(u.arbitrary()?))),
        3 => RData::CNAME(CNAME(name(u)?)),
        4 => RData::NS(NS(name(u)?)),
        5 => RData::PTR(PTR(name(u)?)),
        6 => RData::MX(MX::new(u.arbitrary()?, name(u)?)),
        7 => RData::SRV(SRV::new(u.arbitrary()?, u.arbitrary()?, u.arbitrary()?, name(u)?)),
        8 => {
            let minimum = *u.choose(&[0, 1, 60, 899, 901, 0x7fff_ffff])?;
            RData::SOA(SOA::new(name(u)?, name(u)?, u.arbitrary()?, 2, 3, 4, minimum))
        }
        9 => {
            let text = "x".repeat(u.int_in_range(0..=255)?);
            RData::TXT(TXT::new(vec![text; u.int_in_range(1..=3)?]))
        }
        _ => {
            let octets = vec![u.arbitrary()?; u.int_in_range(1..=300)?];
            RData::Unknown { code: RecordType::Unknown(65_280), rdata: NULL::with(octets) }
        }
    })
}

// An engine, its client and its upstream.

struct World {
    machine: Machine,
    now: Instant,
    client: Option<ConnHandle>,
    /// Queries that upstreams were sent.
    asked: usize,
    /// What the last one was answered with.
    answered: Vec<u8>,
}

impl World {
    fn new(case: &Case) -> Self {
        static SNAPSHOT: OnceLock<Snapshot> = OnceLock::new();
        let mut snapshot = SNAPSHOT.get_or_init(|| snapshot(CONFIG)).clone();
        snapshot.upstreams[0].protocol = case.upstream;
        let machine = machine(&Arc::new(snapshot));
        Self { machine, now: START, client: None, asked: 0, answered: Vec::new() }
    }

    /// Asks the question of a case, has the upstream answer whatever it is asked, and gives the
    /// client's one reply.
    fn ask(&mut self, case: &Case) -> Message {
        let mut inputs = vec![self.question(case)];
        let mut replies = Vec::new();
        while let Some(input) = inputs.pop() {
            let mut outputs = Vec::new();
            self.machine.feed(self.now, input, &mut outputs);
            for output in outputs {
                inputs.extend(self.carry_out(case, output, &mut replies));
            }
        }
        let [reply] = &replies[..] else { panic!("{} replies", replies.len()) };
        let limit = case.limit();
        assert!(reply.len() <= limit, "{} octets, {limit} can be taken", reply.len());
        Message::from_vec(reply).expect("what we write can be read")
    }

    fn question(&mut self, case: &Case) -> Input {
        let mut query = Message::new(4_711, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(case.response.queries[0].clone());
        query.edns = case.edns.map(|(size, dnssec_ok)| {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_dnssec_ok(dnssec_ok);
            edns
        });
        let query = query.to_vec().expect("it is short");
        if !case.over_stream {
            return from_client(address(CLIENT), query.into());
        }
        let is_open = self.machine.engine().sizes().client_conns > 0;
        if let Some(conn) = self.client.filter(|_| is_open) {
            return Input::Octets(conn, framed(&query));
        }
        let mut outputs = Vec::new();
        self.machine.feed(self.now, Input::Connects(TCP, address(CLIENT)), &mut outputs);
        let Some(Output::Accepted(accepted)) = outputs.last() else { panic!("{outputs:?}") };
        self.client = Some(accepted.conn);
        Input::Octets(accepted.conn, framed(&query))
    }

    fn carry_out(&mut self, case: &Case, output: Output, replies: &mut Vec<Bytes>) -> Vec<Input> {
        match output {
            Output::Reply { message, .. } => {
                replies.push(message);
                Vec::new()
            }
            Output::Query { socket, message } => {
                let mut answer = self.answer(case, &message);
                if answer.len() > UPSTREAM_DATAGRAM_OCTETS {
                    answer.truncate(UPSTREAM_DATAGRAM_OCTETS + 1);
                }
                let upstream: SocketAddr = address("192.0.2.1:53");
                vec![from(Origin::Socket(socket), upstream, answer.into())]
            }
            Output::OpenSocket { socket, .. } => vec![Input::SocketOpened(socket)],
            Output::Connect { conn, .. } => vec![Input::Established(conn, Established::default())],
            Output::Write { conn, octets } => {
                let written = Input::Written(conn, octets.len());
                let message = octets.slice(2..);
                if Some(conn) == self.client {
                    replies.push(message);
                    return vec![written];
                }
                vec![Input::Octets(conn, framed(&self.answer(case, &message))), written]
            }
            Output::CloseConn(conn, _) => {
                self.client = self.client.filter(|client| *client != conn);
                Vec::new()
            }
            Output::CloseSocket(_)
            | Output::Accepted(_)
            | Output::NotAccepted(_)
            | Output::PauseReading(_)
            | Output::ResumeReading(_)
            | Output::CloseListener(_)
            | Output::Report(_)
            | Output::Stopped => Vec::new(),
            Output::Opened(_)
            | Output::NotOpened(_)
            | Output::Respond { .. }
            | Output::Request { .. }
            | Output::Start { .. }
            | Output::Feed { .. }
            | Output::Kill(_)
            | Output::Cancel(_) => {
                panic!("nobody speaks HTTP here, and there are no plugins: {output:?}")
            }
        }
    }

    /// The upstream's reply to a query of the engine's: its id, its letter case.
    fn answer(&mut self, case: &Case, query: &[u8]) -> Vec<u8> {
        let query = Message::from_vec(query).expect("what we ask can be read");
        assert_eq!(query.queries[0].name, case.response.queries[0].name, "but for letter case");
        let mut response = case.response.clone();
        response.metadata.id = query.metadata.id;
        response.queries = query.queries;
        self.asked += 1;
        self.answered = response.to_vec().expect("it is not too long");
        self.answered.clone()
    }

    /// Octets of what the upstream has said up to the end of the authorities.
    fn essential_octets(&self) -> usize {
        let [_, answers, authorities, _] = oracle::counts(&self.answered);
        let places = oracle::places(&self.answered);
        places[..answers + authorities].last().map_or(0, |place| place.end)
    }
}

fn framed(message: &[u8]) -> Bytes {
    let length = u16::try_from(message.len()).expect("messages have 65535 octets at most");
    [&length.to_be_bytes(), message].concat().into()
}

impl Case {
    /// Octets that the client can take.
    fn limit(&self) -> usize {
        if self.over_stream {
            return usize::from(u16::MAX);
        }
        let size = self.edns.map_or(0, |(size, _)| usize::from(size));
        size.clamp(UDP_PLAIN_OCTETS, 1_232)
    }

    fn is_negative(&self) -> bool {
        let asked = self.response.queries[0].query_type;
        let answered = self.response.answers.iter().any(|record| record.record_type() == asked);
        let rcode = u16::from(self.response.metadata.response_code);
        rcode == 3 || (rcode == 0 && !answered && self.soa().is_some())
    }

    fn soa(&self) -> Option<&SOA> {
        self.response.authorities.iter().find_map(soa_of)
    }

    /// Whether it may be remembered for as long as the least TTL says, which is not zero.
    fn is_cacheable(&self) -> bool {
        let rcode = u16::from(self.response.metadata.response_code);
        let answers = &self.response.answers;
        match rcode {
            0 | 3 if self.is_negative() => self.soa().is_some(),
            0 => !answers.is_empty(),
            _ => false,
        }
    }

    /// The TTL that is shown of a record, `age` seconds after it came.
    fn shown_ttl(&self, record: &Record, is_authority: bool, age: u32) -> u32 {
        let bounded = |ttl: u32, most: u32| ttl.max(*TTL.start()).min(most);
        let at_first = match soa_of(record).filter(|_| is_authority && self.is_negative()) {
            Some(soa) => bounded(record.ttl.min(soa.minimum), NEGATIVE_TTL_MAX),
            None => bounded(record.ttl, *TTL.end()),
        };
        at_first.saturating_sub(age)
    }

    /// The reply has all records, or all but the additional ones, or none and TC if those do not
    /// fit into `essential` octets and an OPT record.
    fn assert_reply(&self, reply: &Message, essential: usize, age: u32) {
        assert_eq!(reply.metadata.id, 4_711);
        assert_eq!(oracle::question(reply), oracle::question(&self.response));
        assert_eq!(reply.metadata.response_code, self.response.metadata.response_code);
        assert_eq!(reply.edns.is_some(), self.edns.is_some());
        assert!(!reply.metadata.authoritative && reply.metadata.recursion_available);
        let wants_authentic = self.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok);
        let authentic = self.response.metadata.authentic_data && wants_authentic;
        assert_eq!(reply.metadata.authentic_data, authentic, "RFC 6840 section 5.8");
        let sections = [
            (&reply.answers, &self.response.answers),
            (&reply.authorities, &self.response.authorities),
            (&reply.additionals, &self.response.additionals),
        ];
        if reply.metadata.truncation {
            assert!(!self.over_stream, "everything fits a stream");
            assert!(sections.iter().all(|(ours, _)| ours.is_empty()));
            let opt = if self.edns.is_some() { 11 } else { 0 };
            assert!(essential + opt > self.limit(), "it would fit");
            return;
        }
        for (index, (ours, theirs)) in sections.into_iter().enumerate() {
            if index == 2 && ours.is_empty() {
                break; // they may be left out (RFC 2181 section 9)
            }
            assert_eq!(ours.len(), theirs.len());
            for (our, their) in ours.iter().zip(theirs) {
                assert_eq!(our.name, their.name);
                assert_eq!((our.dns_class, &our.data), (their.dns_class, &their.data));
                assert_eq!(our.ttl, self.shown_ttl(their, index == 1, age));
            }
        }
    }
}

fn soa_of(record: &Record) -> Option<&SOA> {
    if let RData::SOA(soa) = &record.data { Some(soa) } else { None }
}
