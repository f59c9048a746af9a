//! Rules of a scripted upstream: what it does when it is asked, connected to, or a socket towards it
//! is opened. Only what is written; nothing is carried out here.

use std::time::Duration;

use balancedns_core::engine::{IoFailure, TlsFailure, Transport};

use super::lines::{Fault, Line, Words};
use super::message::Reply;
use super::parse;
use super::wire::{self, bits};

/// A host that is asked by the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) line: usize,
    pub(super) when: When,
    /// How often it applies; always if none.
    pub(super) times: Option<usize>,
    pub(super) acts: Vec<Act>,
}

/// What a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum When {
    /// A query that looks like this.
    Query(Pattern),
    /// A connection is being made.
    Connect,
    /// A UDP socket towards the upstream is being opened.
    Open,
}

/// What an upstream does. Carried out in order; `After` delays what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    Reply(Box<Reply>),
    /// A message of these octets: words that are read when the query is known.
    Raw(String),
    /// On a stream: octets as they are, without a length before them.
    Stream(Vec<u8>),
    /// Nothing, on purpose.
    Silence,
    /// Nothing yet: a step says what and when.
    Hold,
    /// The network says so; on a stream the connection ends, over HTTP the exchange.
    Fail(IoFailure),
    /// Over HTTP: a response of this status and media type, which is no DNS message.
    Status(u16, String),
    /// The sending side of the connection ends.
    Close,
    After(Duration),
    /// The connection is there; for rules of connections only.
    Accept,
    Repeat(usize, Vec<Act>),
}

/// What has to be true of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// As it was written.
    pub(super) text: String,
    name: NamePattern,
    record_type: Option<u16>,
    transport: Option<Transport>,
    /// Whether there is an OPT record.
    pub(super) edns: Option<bool>,
    pub(super) dnssec_ok: Option<bool>,
    pub(super) checking_disabled: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NamePattern {
    Any,
    Exactly(Vec<u8>),
    /// Written `*.example.`: names that end with this, and are longer.
    Below(Vec<u8>),
}

impl NamePattern {
    pub(super) fn parse(word: &str) -> Result<Self, String> {
        match word.strip_prefix('*') {
            Some("") => Ok(Self::Any),
            Some(suffix) => {
                Ok(Self::Below(wire::name(suffix.strip_prefix('.').unwrap_or(suffix))?))
            }
            None => Ok(Self::Exactly(wire::name(word)?)),
        }
    }

    pub(super) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(exactly) => name.eq_ignore_ascii_case(exactly),
            Self::Below(suffix) => {
                labels(name).skip(1).any(|rest| rest.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

/// What is left of a name from each label on, the root included.
fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(name), |rest| {
        let length = usize::from(*rest.first().filter(|length| **length > 0)?);
        rest.get(1 + length..)
    })
}

/// A query as a pattern sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    /// Name, type and class in wire form.
    pub(super) question: &'a [u8],
    pub(super) flags: u16,
    pub(super) transport: Transport,
    pub(super) edns: bool,
    pub(super) dnssec_ok: bool,
}

impl Pattern {
    /// `NAME|*|*.NAME [TYPE] [udp|tcp|dot|doh] [edns|plain] [do|-do] [cd|-cd] [once | times N]`; gives the
    /// number of times too.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(mut words: Words<'_>) -> Result<(Self, Option<usize>), String> {
        let mut whole = words;
        let mut pattern = Self {
            text: whole.rest().to_owned(),
            name: NamePattern::parse(words.expect("a name, or *")?)?,
            record_type: None,
            transport: None,
            edns: None,
            dnssec_ok: None,
            checking_disabled: None,
        };
        let mut times = None;
        while let Some(word) = words.next() {
            match word {
                "udp" | "tcp" | "dot" | "doh" => pattern.transport = parse::transport(word),
                "edns" => pattern.edns = Some(true),
                "plain" => pattern.edns = Some(false),
                "do" => pattern.dnssec_ok = Some(true),
                "-do" => pattern.dnssec_ok = Some(false),
                "cd" => pattern.checking_disabled = Some(true),
                "-cd" => pattern.checking_disabled = Some(false),
                "once" => times = Some(1),
                "times" => times = Some(words.number("number of times")?),
                _ => {
                    let found = wire::record_type(word);
                    let wrong = || format!("\"{word}\" is nothing that a rule looks at");
                    pattern.record_type = Some(found.ok_or_else(wrong)?);
                }
            }
        }
        Ok((pattern, times))
    }

    pub(super) fn matches(&self, seen: &Seen<'_>) -> bool {
        let Some((name, rest)) = seen.question.split_last_chunk::<4>() else { return false };
        let record_type = u16::from_be_bytes([rest[0], rest[1]]);
        let wants = |wanted: Option<bool>, found: bool| wanted.is_none_or(|wanted| wanted == found);
        self.name.matches(name)
            && self.record_type.is_none_or(|wanted| wanted == record_type)
            && self.transport.is_none_or(|wanted| wanted == seen.transport)
            && wants(self.edns, seen.edns)
            && wants(self.dnssec_ok, seen.dnssec_ok)
            && wants(self.checking_disabled, seen.flags & bits::CD != 0)
    }
}

impl Rule {
    /// `on QUERY`, `on connect` or `on open`, with what is done below.
    pub(super) fn parse(line: &Line) -> Result<Self, Fault> {
        let here = Fault::at(line.number);
        let mut words = line.words();
        if !words.accept("on") {
            return Err(line.fault("a rule begins with \"on\""));
        }
        let event = match words.peek() {
            Some("connect") => Some(When::Connect),
            Some("open") => Some(When::Open),
            Some(_) | None => None,
        };
        let (when, times) = match event {
            Some(when) => {
                words.next();
                (when, times(&mut words).map_err(here)?)
            }
            None => {
                let (pattern, times) = Pattern::parse(words).map_err(here)?;
                (When::Query(pattern), times)
            }
        };
        let acts = Act::parse_all(line)?;
        for (child, act) in line.children.iter().zip(&acts) {
            let of_connections = matches!(act, Act::Accept);
            let of_both = matches!(act, Act::After(_) | Act::Fail(_) | Act::Silence);
            if !of_both && of_connections == matches!(when, When::Query(_)) {
                return Err(child.fault("this is not done on such an event"));
            }
        }
        Ok(Self { line: line.number, when, times, acts })
    }
}

fn times(words: &mut Words<'_>) -> Result<Option<usize>, String> {
    let times = match words.next() {
        None => return Ok(None),
        Some("once") => 1,
        Some("times") => words.number("number of times")?,
        Some(other) => return Err(format!("\"{other}\" is not \"once\" or \"times\"")),
    };
    words.end()?;
    Ok(Some(times))
}

impl Act {
    /// Everything below a line.
    ///
    /// # Errors
    /// What is wrong with it; nothing at all is.
    pub(super) fn parse_all(line: &Line) -> Result<Vec<Self>, Fault> {
        if line.children.is_empty() {
            return Err(line.fault("what is done stands below; \"silence\" is nothing"));
        }
        line.children.iter().map(Self::parse).collect()
    }

    fn parse(line: &Line) -> Result<Self, Fault> {
        let here = Fault::at(line.number);
        let mut words = line.words();
        let act = match words.next().unwrap_or_default() {
            "reply" => return Ok(Self::Reply(Box::new(Reply::parse(line, &mut words)?))),
            "repeat" => {
                let times = words.repetitions().map_err(here)?;
                let acts = Self::parse_all(line)?;
                if acts.iter().any(|act| matches!(act, Self::Repeat(..))) {
                    return Err(line.fault("a repetition of repetitions"));
                }
                return Ok(Self::Repeat(times, acts));
            }
            "raw" => {
                let text = line.with_lines_below(words)?;
                wire::octets(Words::of(&text), Some((0, &[]))).map_err(here)?;
                return Ok(Self::Raw(text));
            }
            "stream" => {
                let text = line.with_lines_below(words)?;
                return Ok(Self::Stream(wire::octets(Words::of(&text), None).map_err(here)?));
            }
            "status" => {
                let status: u16 = words.number("status").map_err(&here)?;
                if !(200..600).contains(&status) {
                    return Err(line.fault("a status is from 200 to 599"));
                }
                Self::Status(status, words.next().unwrap_or("text/plain").to_owned())
            }
            "silence" => Self::Silence,
            "hold" => Self::Hold,
            "close" => Self::Close,
            "accept" => Self::Accept,
            "fail" => Self::Fail(failure(&mut words).map_err(&here)?),
            "after" => Self::After(words.duration().map_err(&here)?),
            other => {
                return Err(line.fault(format!("\"{other}\" is nothing that an upstream does")));
            }
        };
        words.end().map_err(Fault::at(line.number))?;
        line.expect_no_children()?;
        Ok(act)
    }
}

pub(super) fn failure(words: &mut Words<'_>) -> Result<IoFailure, String> {
    match words.expect("how")? {
        "refused" => Ok(IoFailure::Refused),
        "unreachable" => Ok(IoFailure::Unreachable),
        "reset" => Ok(IoFailure::Reset),
        "timed-out" => Ok(IoFailure::TimedOut),
        "no-resources" => Ok(IoFailure::NoResources),
        "no-address" => Ok(IoFailure::AddressUnavailable),
        "expired" => Ok(IoFailure::Tls(TlsFailure::Expired)),
        "wrong-name" => Ok(IoFailure::Tls(TlsFailure::WrongName)),
        "unknown-issuer" => Ok(IoFailure::Tls(TlsFailure::UnknownIssuer)),
        "wrong-pin" => Ok(IoFailure::Tls(TlsFailure::WrongPin)),
        "wrong-protocol" => Ok(IoFailure::Tls(TlsFailure::WrongProtocol)),
        other => Err(format!(
            "\"{other}\" is no failure: refused, unreachable, reset, timed-out, no-resources, \
             no-address; of TLS expired, wrong-name, unknown-issuer, wrong-pin, wrong-protocol"
        )),
    }
}
