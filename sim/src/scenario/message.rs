//! Messages as a scenario writes them: a client's query, an upstream's reply, records; and their
//! octets.
//!
//! Nothing is compressed but an owner written `@`, which is a pointer to the question (RFC 1035
//! section 4.1.4), so that sizes can be counted by hand. Nothing here is checked against a server.

use super::lines::{Fault, Line, Words};
use super::wire::{self, bits};

/// Flags that are set or cleared against what is usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Changes {
    set: u16,
    clear: u16,
}

impl Changes {
    /// Takes a word such as `cd` or `-rd`; says whether it was one.
    pub(super) fn take(&mut self, word: &str) -> bool {
        let (name, target) = match word.strip_prefix('-') {
            Some(name) => (name, &mut self.clear),
            None => (word, &mut self.set),
        };
        let found = bits::NAMES.iter().find(|(known, _)| *known == name);
        if let Some((_, bit)) = found {
            *target |= bit;
        }
        found.is_some()
    }

    pub(super) fn apply(self, flags: u16) -> u16 {
        (flags | self.set) & !self.clear
    }

    /// Flags that are to be set.
    pub(super) fn set(self) -> u16 {
        self.set
    }

    /// Flags that are to be clear.
    pub(super) fn clear(self) -> u16 {
        self.clear
    }
}

/// An OPT record (RFC 6891 section 6.1.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Edns {
    pub(super) size: u16,
    pub(super) version: u8,
    pub(super) dnssec_ok: bool,
    /// Codes and data, one behind the other with their lengths.
    options: Vec<u8>,
}

impl Edns {
    /// Takes a word of the record, and what belongs to it; says whether it was one.
    fn take(edns: &mut Option<Self>, word: &str, words: &mut Words<'_>) -> Result<bool, String> {
        if word == "edns" {
            edns.get_or_insert_default().size = words.number("size of a datagram")?;
            return Ok(true);
        }
        if !matches!(word, "do" | "version" | "option" | "ede") {
            return Ok(false);
        }
        let Some(edns) = edns else {
            return Err(format!("\"{word}\" is part of EDNS: write \"edns SIZE\" before it"));
        };
        match word {
            "do" => edns.dnssec_ok = true,
            "version" => edns.version = words.number("EDNS version")?,
            "option" => {
                let code: u16 = words.number("code of an option")?;
                let data = wire::hexadecimal(words.expect("the option's octets, or \"\"")?)?;
                edns.push_option(code, &data);
            }
            _ => {
                let code: u16 = words.number("code of an extended error")?;
                edns.push_option(15, &code.to_be_bytes()); // RFC 8914 section 2
            }
        }
        Ok(true)
    }

    /// The data of the first option of this code.
    pub(super) fn option(&self, wanted: u16) -> Option<&[u8]> {
        let mut rest = &self.options[..];
        while let [high, low, more, less, after @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*more, *less]));
            let (data, after) = after.split_at_checked(length)?;
            if u16::from_be_bytes([*high, *low]) == wanted {
                return Some(data);
            }
            rest = after;
        }
        None
    }

    fn push_option(&mut self, code: u16, data: &[u8]) {
        self.options.extend(code.to_be_bytes());
        self.options.extend(length_of(data));
        self.options.extend(data);
    }

    fn encode(&self, rcode_high: u8) -> Vec<u8> {
        let mut octets = vec![0, 0, 41];
        octets.extend(self.size.to_be_bytes());
        octets.extend([rcode_high, self.version, if self.dnssec_ok { 0x80 } else { 0 }, 0]);
        octets.extend(length_of(&self.options));
        octets.extend(&self.options);
        octets
    }
}

fn length_of(octets: &[u8]) -> [u8; 2] {
    u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// Name, type and class in wire form.
///
/// # Errors
/// What is wrong with them.
pub(super) fn question(words: &mut Words<'_>) -> Result<Vec<u8>, String> {
    let mut question = wire::name(words.expect("a name")?)?;
    let word = words.expect("a type")?;
    let record_type = wire::record_type(word).ok_or_else(|| format!("\"{word}\" is no type"))?;
    let class = words.peek().and_then(wire::class);
    if class.is_some() {
        words.next();
    }
    question.extend(record_type.to_be_bytes());
    question.extend(class.unwrap_or(1).to_be_bytes());
    Ok(question)
}

/// A query of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) question: Vec<u8>,
    /// One that nobody has used yet, if none.
    pub(super) id: Option<u16>,
    changes: Changes,
    opcode: u16,
    pub(super) edns: Option<Edns>,
    /// On a stream, and in a request's body: how many octets come at a time.
    pub(super) pieces: Option<usize>,
    /// Over HTTP: by GET instead of POST.
    pub(super) by_get: bool,
}

impl Query {
    /// `www.example. A [class] [id N] [opcode N] [flags] [edns N [do] ...] [pieces N] [get]`
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(mut words: Words<'_>) -> Result<Self, String> {
        let mut query = Self {
            question: question(&mut words)?,
            id: None,
            changes: Changes::default(),
            opcode: 0,
            edns: None,
            pieces: None,
            by_get: false,
        };
        while let Some(word) = words.next() {
            match word {
                "get" => query.by_get = true,
                "id" => query.id = Some(words.number("id")?),
                "opcode" => query.opcode = opcode(&mut words)?,
                "pieces" => query.pieces = Some(piece(&mut words)?),
                _ if query.changes.take(word) => {}
                _ if Edns::take(&mut query.edns, word, &mut words)? => {}
                _ => return Err(format!("\"{word}\" is no part of a query")),
            }
        }
        Ok(query)
    }

    /// The second word of its header.
    pub(super) fn flags(&self) -> u16 {
        self.changes.apply(bits::RD) | (self.opcode << 11 & bits::OPCODE)
    }

    pub(super) fn encode(&self, id: u16) -> Vec<u8> {
        let opts = u16::from(self.edns.is_some());
        let mut octets = header(id, self.flags(), [1, 0, 0, opts]);
        octets.extend(&self.question);
        octets.extend(self.edns.iter().flat_map(|edns| edns.encode(0)));
        octets
    }
}

fn opcode(words: &mut Words<'_>) -> Result<u16, String> {
    let opcode = words.number("opcode")?;
    if opcode > 15 { Err(format!("{opcode} is no opcode")) } else { Ok(opcode) }
}

fn piece(words: &mut Words<'_>) -> Result<usize, String> {
    let octets = words.number("number of octets")?;
    if octets == 0 { Err("pieces have at least one octet".to_owned()) } else { Ok(octets) }
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags].iter().chain(&counts).flat_map(|word| word.to_be_bytes()).collect()
}

/// Whose record it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// Of the name in the question: `@`.
    Asked,
    Name(Vec<u8>),
}

/// A TTL, or what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ttl {
    Seconds(u32),
    /// Both ends included; only in what is expected.
    Between(u32, u32),
}

impl Ttl {
    fn parse(word: &str) -> Option<Self> {
        match word.split_once("..") {
            Some((least, most)) => Some(Self::Between(least.parse().ok()?, most.parse().ok()?)),
            None => word.parse().ok().map(Self::Seconds),
        }
    }

    pub(super) fn allows(self, seconds: u32) -> bool {
        match self {
            Self::Seconds(exactly) => seconds == exactly,
            Self::Between(least, most) => (least..=most).contains(&seconds),
        }
    }
}

/// A record: `@ 300 A 192.0.2.7`, `www.example. 300 CH TXT "text"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    owner: Owner,
    pub(super) ttl: Ttl,
    record_type: u16,
    class: u16,
    data: Vec<u8>,
    /// As it was written.
    pub(super) text: String,
}

impl Record {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(mut words: Words<'_>) -> Result<Self, String> {
        let mut whole = words;
        let text = whole.rest().to_owned();
        let owner = match words.expect("the record's owner")? {
            "@" => Owner::Asked,
            name => Owner::Name(wire::name(name)?),
        };
        let word = words.expect("a TTL")?;
        let ttl = Ttl::parse(word).ok_or_else(|| format!("\"{word}\" is no TTL"))?;
        let class = words.peek().and_then(wire::class);
        if class.is_some() {
            words.next();
        }
        let word = words.expect("a type")?;
        let record_type =
            wire::record_type(word).ok_or_else(|| format!("\"{word}\" is no type"))?;
        let data = wire::rdata(record_type, words.rest())?;
        Ok(Self { owner, ttl, record_type, class: class.unwrap_or(1), data, text })
    }

    /// Its octets; the name asked is written out if `asked` is given, else pointed to.
    pub(super) fn encode(&self, asked: Option<&[u8]>) -> Vec<u8> {
        let mut octets = match (&self.owner, asked) {
            (Owner::Asked, None) => vec![0xc0, 12],
            (Owner::Asked, Some(name)) => name.to_vec(),
            (Owner::Name(name), _) => name.clone(),
        };
        let ttl = match self.ttl {
            Ttl::Seconds(seconds) | Ttl::Between(seconds, _) => seconds,
        };
        octets.extend(self.record_type.to_be_bytes());
        octets.extend(self.class.to_be_bytes());
        octets.extend(ttl.to_be_bytes());
        octets.extend(length_of(&self.data));
        octets.extend(&self.data);
        octets
    }
}

/// Names of the sections that hold records, in their order.
pub(super) const SECTIONS: [&str; 3] = ["answer", "authority", "additional"];

/// What stands in the question section of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Echo {
    Asked,
    OtherCase,
    LowerCase,
    Nothing,
    Other(Vec<u8>),
}

/// An upstream's reply. Whatever is not written is as a correct server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    rcode: u16,
    changes: Changes,
    opcode: u16,
    /// One that differs from the query's.
    pub(super) wrong_id: bool,
    echo: Echo,
    edns: Option<Edns>,
    /// No OPT record although the query had one.
    plain: bool,
    sections: [Vec<Record>; 3],
    trailing: Vec<u8>,
    /// On a stream: how many octets come at a time.
    pub(super) pieces: Option<usize>,
}

impl Reply {
    /// `reply NOERROR [flags] ...` with lines of records below.
    pub(super) fn parse(line: &Line, words: &mut Words<'_>) -> Result<Self, Fault> {
        let mut reply = Self::parse_head(words).map_err(Fault::at(line.number))?;
        for child in &line.children {
            child.expect_no_children()?;
            let (section, record) = section_line(child)?;
            if matches!(record.ttl, Ttl::Between(..)) {
                return Err(child.fault("what is sent has one TTL"));
            }
            reply.sections[section].push(record);
        }
        Ok(reply)
    }

    fn parse_head(words: &mut Words<'_>) -> Result<Self, String> {
        let word = words.expect("an rcode")?;
        let mut reply = Self {
            rcode: wire::rcode(word).ok_or_else(|| format!("\"{word}\" is no rcode"))?,
            changes: Changes::default(),
            opcode: 0,
            wrong_id: false,
            echo: Echo::Asked,
            edns: None,
            plain: false,
            sections: Default::default(),
            trailing: Vec::new(),
            pieces: None,
        };
        while let Some(word) = words.next() {
            match word {
                "wrong-id" => reply.wrong_id = true,
                "other-case" => reply.echo = Echo::OtherCase,
                "lower-case" => reply.echo = Echo::LowerCase,
                "no-question" => reply.echo = Echo::Nothing,
                "question" => reply.echo = Echo::Other(question(words)?),
                "opcode" => reply.opcode = opcode(words)?,
                "plain" => reply.plain = true,
                "pieces" => reply.pieces = Some(piece(words)?),
                "trailing" => {
                    reply.trailing = wire::hexadecimal(words.expect("octets in hexadecimal")?)?;
                }
                _ if reply.changes.take(word) => {}
                _ if Edns::take(&mut reply.edns, word, words)? => {}
                _ => return Err(format!("\"{word}\" is no part of a reply")),
            }
        }
        Ok(reply)
    }

    /// The octets that answer a query with these flags and question, under this id.
    pub(super) fn encode(&self, id: u16, asked: &Asked<'_>) -> Vec<u8> {
        let flags = bits::QR | bits::RA | asked.flags & bits::RD;
        let opcode = self.opcode << 11 & bits::OPCODE;
        let flags = self.changes.apply(flags) | opcode | self.rcode & bits::RCODE;
        let question = self.question(asked.question);
        let name = &asked.question[..asked.question.len().saturating_sub(4)];
        let own_edns = Edns { size: 1232, dnssec_ok: asked.dnssec_ok, ..Edns::default() };
        let usual = (asked.has_edns && !self.plain).then_some(&own_edns);
        let edns = self.edns.as_ref().or(usual);
        let [answers, authorities, additionals] = self
            .sections
            .each_ref()
            .map(|section| u16::try_from(section.len()).unwrap_or(u16::MAX));
        let additionals = additionals.saturating_add(u16::from(edns.is_some()));
        let questions = u16::from(!question.is_empty());
        let mut octets = header(id, flags, [questions, answers, authorities, additionals]);
        octets.extend(&question);
        for record in self.sections.iter().flatten() {
            octets.extend(record.encode(question.is_empty().then_some(name)));
        }
        let rcode_high = u8::try_from(self.rcode >> 4).unwrap_or(u8::MAX);
        octets.extend(edns.iter().flat_map(|edns| edns.encode(rcode_high)));
        octets.extend(&self.trailing);
        octets
    }

    fn question(&self, asked: &[u8]) -> Vec<u8> {
        let (name, rest) = asked.split_at(asked.len().saturating_sub(4));
        match &self.echo {
            Echo::Asked => asked.to_vec(),
            // No length of a label is the code of a letter.
            Echo::LowerCase => [&name.to_ascii_lowercase(), rest].concat(),
            Echo::OtherCase => [&name.iter().map(other_case).collect::<Vec<_>>(), rest].concat(),
            Echo::Nothing => Vec::new(),
            Echo::Other(question) => question.clone(),
        }
    }
}

fn other_case(octet: &u8) -> u8 {
    if octet.is_ascii_alphabetic() { octet ^ 0x20 } else { *octet }
}

/// What a reply needs to know of the query.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) flags: u16,
    pub(super) question: &'a [u8],
    pub(super) has_edns: bool,
    pub(super) dnssec_ok: bool,
}

/// `answer @ 300 A 192.0.2.7`: the number of a section and a record.
pub(super) fn section_line(line: &Line) -> Result<(usize, Record), Fault> {
    let mut words = line.words();
    let word = words.next().unwrap_or_default();
    let section = SECTIONS.iter().position(|section| *section == word);
    let section = section.ok_or_else(|| line.fault(format!("\"{word}\" is no section")))?;
    Ok((section, Record::parse(words).map_err(Fault::at(line.number))?))
}
