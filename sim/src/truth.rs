//! What is true in the simulated world: names, their data, and how it changes in time.
//!
//! Data is a function of name, type and time, so that all servers agree and nothing has to be kept.
//! Each answer that a server gives carries a number in its records (in the octets of an address, in a
//! text, in the serial of an SOA), under which it is written down here what the answer said and when
//! it last reached an engine: with it a client's reply is traced back to its origin.

use balancedns_core::hash::{KeyedState, Map};
use balancedns_core::time::{Duration, Instant};

use crate::generation::{BLOCKED_GROUPS, ZONES};
use crate::message::{Asked, Reply, types, wire_name};
use crate::options::Options;
use crate::policy::{Act, Ruled, Runtime};

/// Numbers from here on are a spoofer's.
pub const FORGED: u32 = 0xf000_0000;
/// Names per zone and worker that are kept for the time after healing.
const FRESH_PER_ZONE: usize = 25;
/// Names per zone and worker that nothing may go wrong with.
const STRICT_PER_ZONE: usize = 3;
/// Names per zone and worker that are asked for while one server is gone.
const OUTAGE_PER_ZONE: usize = 12;
/// The name that a spoofer or a confused server talks about.
pub const OTHER_NAME: &str = "elsewhere.example.";

/// What kind of data a name has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Addresses and a short text.
    Plain,
    /// The same, and one additional record.
    Extra,
    /// An alias of another name that has an address.
    Alias,
    /// Texts that fit some datagrams.
    Medium,
    /// Texts that fit none.
    Large,
    /// No data of any type.
    Empty,
    /// No such name.
    Missing,
    /// No such name, and no SOA record to say for how long.
    MissingBare,
    /// A name that comes and goes.
    Unstable,
    /// The servers cannot resolve it.
    Broken,
    /// The servers refuse it.
    Denied,
}

/// A name of the world.
#[derive(Debug, Clone)]
pub struct Name {
    /// In lower case with the final dot.
    pub text: String,
    /// In wire form.
    pub wire: Vec<u8>,
    /// What it has.
    pub kind: Kind,
    /// After how many seconds its data changes.
    period: u64,
    /// The group of the blacklist that it is in.
    pub blocked_group: Option<u64>,
    /// What a plugin does with it.
    pub ruled: Option<Ruled>,
}

/// Answers are equal if these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Content {
    /// The place of the name asked for.
    pub name: usize,
    /// The type asked for.
    pub qtype: u16,
    /// Which of the data that the name has in turn.
    pub version: u64,
    /// Whether the server was asked with EDNS and DO.
    pub edns: Option<bool>,
    /// Whether it was asked with CD.
    pub checking_disabled: bool,
}

/// What an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Its rcode.
    pub rcode: u8,
    /// Records of its answer section.
    pub answers: u32,
    /// Records that a server may add.
    pub additionals: u32,
    /// Whether an SOA record says for how long nothing is there.
    pub soa: bool,
    /// Octets of text in each record.
    pub text: usize,
    /// Whether the server says that it has validated it.
    pub authentic: bool,
    /// The extended error that the server adds, which concerns nobody later (RFC 8914).
    pub extended_error: Option<u16>,
}

/// An answer that was given.
#[derive(Debug, Clone)]
pub struct Given {
    /// To what.
    pub content: Content,
    /// What it said.
    pub shape: Shape,
    /// When it reached an engine, each time.
    pub arrivals: Vec<Instant>,
}

/// The world's data.
#[derive(Debug)]
pub struct Truth {
    names: Vec<Name>,
    /// Where names that are kept for the time after healing begin, those that nothing may go wrong
    /// with, those for when one server is gone, and where these end.
    parts: [usize; 4],
    by_wire: Map<Vec<u8>, usize>,
    given: Vec<Given>,
    numbers: Map<Content, u32>,
    /// When answers without records last came, whatever their version.
    bare: Map<Content, Instant>,
    hash: KeyedState,
}

impl Truth {
    /// The world of a run.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let hash = KeyedState::new((options.seed, 1));
        let mut names: Vec<Name> =
            (0..options.names).map(|number| name(&hash, options, number)).collect();
        let fresh = FRESH_PER_ZONE * ZONES.len() * options.engines;
        let strict = STRICT_PER_ZONE * ZONES.len() * options.engines;
        names.extend((0..fresh).map(|number| plain_name("f", number)));
        names.extend((0..strict).map(|number| plain_name("s", number)));
        let outage = OUTAGE_PER_ZONE * ZONES.len() * options.engines;
        names.extend((0..outage).map(|number| plain_name("o", number)));
        let begin = options.names + fresh;
        let parts = [options.names, begin, begin + strict, begin + strict + outage];
        let mut by_wire = Map::with_hasher(KeyedState::new((2, 2)));
        for (place, name) in names.iter().enumerate() {
            by_wire.insert(name.wire.clone(), place);
        }
        let numbers = Map::with_hasher(KeyedState::new((3, 3)));
        let bare = Map::with_hasher(KeyedState::new((4, 4)));
        Self { names, parts, by_wire, given: Vec::new(), numbers, bare, hash }
    }

    /// All names.
    #[must_use]
    pub fn names(&self) -> &[Name] {
        &self.names
    }

    /// Names that nobody asks for before everything has healed.
    pub fn fresh_names(&self) -> impl Iterator<Item = usize> + use<> {
        self.parts[0]..self.parts[1]
    }

    /// Names that nobody asks for before nothing may go wrong any more.
    pub fn strict_names(&self) -> impl Iterator<Item = usize> + use<> {
        self.parts[1]..self.parts[2]
    }

    /// Names that nobody asks for before one server is gone.
    pub fn outage_names(&self) -> impl Iterator<Item = usize> + use<> {
        self.parts[2]..self.parts[3]
    }

    /// The place of a name in wire form and any letter case.
    #[must_use]
    pub fn find(&self, wire: &[u8]) -> Option<usize> {
        if let Some(place) = self.by_wire.get(wire) {
            return Some(*place);
        }
        self.by_wire.get(&wire.to_ascii_lowercase()).copied()
    }

    /// What is true of a question now.
    #[must_use]
    pub fn content(&self, name: usize, asked: &Asked, now: Instant) -> Content {
        let period = Duration::from_secs(self.names[name].period);
        let version =
            (now.as_nanos() / u64::try_from(period.as_nanos()).unwrap_or(u64::MAX)) & 0xffff;
        Content {
            name,
            qtype: asked.qtype,
            version,
            edns: asked.edns.map(|(_, dnssec_ok)| dnssec_ok),
            checking_disabled: asked.flags & crate::message::CD != 0,
        }
    }

    /// What an answer of this content says.
    #[must_use]
    pub fn shape(&self, content: &Content) -> Shape {
        let kind = self.names[content.name].kind;
        let bits = self.bits(content, 1);
        let habits = self.bits(content, 4);
        let nothing = Shape {
            rcode: 0,
            answers: 0,
            additionals: 0,
            soa: true,
            text: 0,
            authentic: habits & 3 == 0,
            extended_error: (habits & 0x1c == 0 && content.edns.is_some()).then_some(4),
        };
        let is_text = content.qtype == types::TXT;
        let is_address = matches!(content.qtype, types::A | types::AAAA);
        let plain = Shape { answers: 1 + (bits & 3), soa: false, ..nothing };
        match kind {
            Kind::Plain if is_address || is_text => Shape { text: 20, ..plain },
            Kind::Extra if is_address => Shape { additionals: 1, ..plain },
            Kind::Alias if is_address => Shape { answers: 2, ..plain },
            Kind::Medium if is_text => Shape { answers: 3 + (bits & 3), text: 200, ..plain },
            Kind::Large if is_text => Shape { answers: 20 + (bits & 31), text: 250, ..plain },
            Kind::Unstable if content.version % 2 == 1 => Shape { rcode: 3, ..nothing },
            Kind::Unstable if is_address => plain,
            Kind::Missing => Shape { rcode: 3, ..nothing },
            Kind::MissingBare => Shape { rcode: 3, soa: false, ..nothing },
            Kind::Broken => Shape { rcode: 2, soa: false, ..nothing },
            Kind::Denied => Shape { rcode: 5, soa: false, ..nothing },
            Kind::Plain
            | Kind::Extra
            | Kind::Alias
            | Kind::Medium
            | Kind::Large
            | Kind::Unstable
            | Kind::Empty => nothing,
        }
    }

    /// The TTL of a record of an answer, as the server sends it.
    #[must_use]
    pub fn ttl(&self, content: &Content, record: u32) -> u32 {
        const TTLS: [u32; 16] = [
            0,
            1,
            2,
            5,
            10,
            30,
            60,
            60,
            300,
            300,
            300,
            3_600,
            86_400,
            0x7fff_ffff,
            0x8000_0000,
            u32::MAX,
        ];
        let ttl = TTLS[self.bits(content, 2) as usize & 15];
        // Records of one answer differ a little, which RFC 2181 section 5.2 forbids and servers do.
        if (5..86_400).contains(&ttl) { ttl + record % 3 } else { ttl }
    }

    /// The MINIMUM of a negative answer's SOA record.
    #[must_use]
    pub fn minimum(&self, content: &Content) -> u32 {
        [0, 5, 60, 300, 7_200][self.bits(content, 3) as usize % 5]
    }

    /// The number of a content; the same one each time.
    pub fn number(&mut self, content: Content) -> u32 {
        if let Some(number) = self.numbers.get(&content) {
            return *number;
        }
        let number = u32::try_from(self.given.len()).expect("fewer than 2^32 answers");
        assert!(number < FORGED >> 6, "a run gives fewer answers");
        self.given.push(Given { content, shape: self.shape(&content), arrivals: Vec::new() });
        self.numbers.insert(content, number);
        number
    }

    /// What was given under a number.
    #[must_use]
    pub fn given(&self, number: u32) -> Option<&Given> {
        self.given.get(number as usize)
    }

    /// An answer has reached an engine.
    pub fn arrived(&mut self, number: u32, now: Instant) {
        let given = &mut self.given[number as usize];
        given.arrivals.push(now);
        if given.shape.answers == 0 && !given.shape.soa {
            self.bare.insert(Content { version: 0, ..given.content }, now);
        }
    }

    /// When an answer without any record to carry its number last reached an engine.
    #[must_use]
    pub fn bare_arrived(&self, content: &Content) -> Option<Instant> {
        self.bare.get(&Content { version: 0, ..*content }).copied()
    }

    /// The answer of a server that does what it should; with its number.
    pub fn reply(
        &mut self,
        asked: &Asked,
        message: &[u8],
        place: usize,
        now: Instant,
    ) -> (Reply, u32) {
        let content = self.content(place, asked, now);
        let number = self.number(content);
        let shape = self.shape(&content);
        let mut reply = Reply::to(asked, message, shape.rcode);
        if shape.authentic {
            reply.authentic();
        }
        let owner = [0xc0, 12];
        if self.names[place].kind == Kind::Alias && shape.answers == 2 {
            let target = wire_name(&format!("t{number}.target.example."));
            reply.record(1, &owner, types::CNAME, self.ttl(&content, 0), &target);
            reply.record(
                1,
                &target,
                asked.qtype,
                self.ttl(&content, 1),
                &data(asked.qtype, number, 1, 0),
            );
        } else {
            for record in 0..shape.answers {
                let ttl = self.ttl(&content, record);
                reply.record(
                    1,
                    &owner,
                    asked.qtype,
                    ttl,
                    &data(asked.qtype, number, record, shape.text),
                );
            }
        }
        if shape.soa {
            let mut soa = wire_name("ns.example.");
            soa.extend_from_slice(&wire_name("mail.example."));
            for value in [number << 6, 1, 2, 3, self.minimum(&content)] {
                soa.extend_from_slice(&value.to_be_bytes());
            }
            reply.record(2, &wire_name("example."), types::SOA, self.ttl(&content, 0), &soa);
        }
        // Nearly everybody sends OPT last.
        let opt_first = shape.extended_error.is_some();
        let opt = asked.edns.map(|(_, dnssec_ok)| dnssec_ok);
        if let Some(dnssec_ok) = opt.filter(|_| opt_first) {
            reply.opt(dnssec_ok, shape.extended_error);
        }
        for record in 0..shape.additionals {
            let extra = wire_name("extra.example.");
            reply.record(
                3,
                &extra,
                types::A,
                self.ttl(&content, 0),
                &data(types::A, number, record, 0),
            );
        }
        if let Some(dnssec_ok) = opt.filter(|_| !opt_first) {
            reply.opt(dnssec_ok, None);
        }
        (reply, number)
    }

    fn bits(&self, content: &Content, purpose: u8) -> u32 {
        // EDNS and CD make another content of the same data.
        let mut octets = [0; 19];
        octets[..8].copy_from_slice(&(content.name as u64).to_le_bytes());
        octets[8..10].copy_from_slice(&content.qtype.to_le_bytes());
        octets[10..18].copy_from_slice(&content.version.to_le_bytes());
        octets[18] = purpose;
        self.hash.hash_bytes(&octets) as u32
    }
}

/// The data of a record: its number and its place, in the way of its type.
#[must_use]
pub fn data(rtype: u16, number: u32, record: u32, text: usize) -> Vec<u8> {
    let value = number << 6 | (record & 0x3f);
    match rtype {
        types::A => value.to_be_bytes().to_vec(),
        types::AAAA => {
            let mut data = vec![0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0];
            data.extend_from_slice(&value.to_be_bytes());
            data
        }
        types::TXT => {
            let text = format!("{value:>width$}", width = text.clamp(12, 255));
            let mut data = vec![u8::try_from(text.len()).expect("at most 255")];
            data.extend_from_slice(text.as_bytes());
            data
        }
        _ => panic!("no name has data of type {rtype}"),
    }
}

/// A name with addresses that never changes.
fn plain_name(letter: &str, number: usize) -> Name {
    let text = format!("{letter}{number}.{}", ZONES[number % ZONES.len()]);
    let period = 1 << 32;
    Name {
        wire: wire_name(&text),
        text,
        kind: Kind::Plain,
        period,
        blocked_group: None,
        ruled: None,
    }
}

fn name(hash: &KeyedState, options: &Options, number: usize) -> Name {
    let bits = bits_of(hash, number);
    let kind = match bits % 100 {
        // Where aliases may lead to what is blocked there are more of them.
        45..60 if options.policies => Kind::Alias,
        0..60 => Kind::Plain,
        60..65 => Kind::Extra,
        65..73 => Kind::Alias,
        73..78 => Kind::Medium,
        78..82 => Kind::Large,
        82..86 => Kind::Empty,
        86..91 => Kind::Missing,
        91..93 => Kind::MissingBare,
        93..97 => Kind::Unstable,
        97..99 => Kind::Broken,
        _ => Kind::Denied,
    };
    let blocked_group = blocked_group(bits);
    let ruled = ruled(hash, options, number);
    let text = name_text(hash, options, number);
    let period = options.change_seconds * (1 + (bits >> 32) % 4);
    Name { wire: wire_name(&text), text, kind, period, blocked_group, ruled }
}

fn bits_of(hash: &KeyedState, number: usize) -> u64 {
    hash.hash_bytes(&(number as u64).to_le_bytes())
}

fn blocked_group(bits: u64) -> Option<u64> {
    (bits >> 8).is_multiple_of(20).then_some((bits >> 16) % BLOCKED_GROUPS)
}

/// What a plugin does with the name of this number: with one in four, where there are plugins.
fn ruled(hash: &KeyedState, options: &Options, number: usize) -> Option<Ruled> {
    let (by, dice) = plugin_of(hash, options, number)?;
    // An endless loop costs real time: where each name is asked for often there is none.
    let is_rare = options.names >= 300 && options.skew == 0;
    let act = match dice % ACTS {
        0..REWRITTEN => rewrite(hash, options, by, dice),
        5..8 => Act::Block,
        8..11 => Act::Local,
        11 | 12 => Act::Truncate,
        13 | 14 => Act::Pool,
        15 => Act::Fail,
        16 if is_rare || by == Runtime::Exec => Act::Loop,
        17 if is_rare && by == Runtime::Lua => Act::Bomb,
        18 if by == Runtime::Lua => Act::Flap,
        _ => Act::Odd,
    };
    Some(Ruled { by, act })
}

/// So many sides have the dice for what a plugin does, and so many of them are rewriting.
const ACTS: u64 = 20;
const REWRITTEN: u64 = 5;

/// The plugin that acts on a name, and a number to choose by.
fn plugin_of(hash: &KeyedState, options: &Options, number: usize) -> Option<(Runtime, u64)> {
    let bits = bits_of(hash, number);
    let more = hash.hash_bytes(&bits.to_le_bytes());
    let is_ruled = options.policies && blocked_group(bits).is_none() && more.is_multiple_of(4);
    let by = if (more >> 8).is_multiple_of(2) { Runtime::Lua } else { Runtime::Exec };
    is_ruled.then_some((by, more >> 16))
}

/// What a name is rewritten to is not rewritten again, and is none of the same plugin's: its labels
/// would be read in its stead.
fn rewrite(hash: &KeyedState, options: &Options, by: Runtime, dice: u64) -> Act {
    let target = (dice >> 8) as usize % options.names;
    match plugin_of(hash, options, target) {
        Some((other, dice)) if other == by || dice % ACTS < REWRITTEN => Act::Block,
        Some(_) | None => Act::Rewrite(target),
    }
}

fn name_text(hash: &KeyedState, options: &Options, number: usize) -> String {
    let bits = bits_of(hash, number);
    let zone = ZONES[(bits >> 24) as usize % ZONES.len()];
    if let Some(group) = blocked_group(bits) {
        return format!("n{number}.g{group}.ads.example.");
    }
    let Some(ruled) = ruled(hash, options, number) else { return format!("n{number}.{zone}") };
    let target = match ruled.act {
        Act::Rewrite(target) => Some(name_text(hash, options, target)),
        Act::Block
        | Act::Local
        | Act::Truncate
        | Act::Pool
        | Act::Fail
        | Act::Loop
        | Act::Bomb
        | Act::Odd
        | Act::Flap => None,
    };
    format!("n{number}.{}.{zone}", ruled.labels(target.as_deref()))
}
