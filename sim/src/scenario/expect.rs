//! What a scenario expects: of a reply to a client, and of a query to an upstream.

use super::lines::{Fault, Line, Words};
use super::message::{self, Record, SECTIONS};
use super::rules::Pattern;
use super::wire::{self, bits};

/// What a reply has to be. What is not written has to be absent: records, extended errors, and the
/// flags AA, TC and AD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpectedReply {
    pub(super) rcode: u16,
    /// Those of AA, TC and AD that are set.
    pub(super) flags: u16,
    pub(super) id: Option<u16>,
    /// Which of several questions it answers.
    pub(super) question: Option<Vec<u8>>,
    /// The size in its OPT record.
    pub(super) edns_size: Option<u16>,
    /// Info codes of extended errors (RFC 8914).
    pub(super) extended_errors: Vec<u16>,
    /// What the text of one of them holds.
    pub(super) because: Option<String>,
    /// For how many seconds it may be kept, over HTTP.
    pub(super) max_age: Option<u32>,
    /// Exactly so many octets.
    pub(super) octets: Option<usize>,
    /// Whether names of owners are compared to the letter.
    pub(super) exact_case: bool,
    /// Records per section; none if it is not looked at.
    pub(super) sections: [Option<Vec<Record>>; 3],
}

impl ExpectedReply {
    /// `gets RCODE [aa] [tc] [ad] [id N] [for NAME TYPE] [edns SIZE] [ede N] [because TEXT] [max-age N] [octets N]
    /// [exact-case]`, with records below.
    pub(super) fn parse(line: &Line, mut words: Words<'_>) -> Result<Self, Fault> {
        let mut expected = Self::parse_head(&mut words).map_err(Fault::at(line.number))?;
        for child in &line.children {
            child.expect_no_children()?;
            if let Some(section) = unseen_section(child) {
                expected.sections[section] = None;
                continue;
            }
            let (section, record) = message::section_line(child)?;
            match &mut expected.sections[section] {
                Some(records) => records.push(record),
                None => return Err(child.fault("this section is not looked at")),
            }
        }
        Ok(expected)
    }

    fn parse_head(words: &mut Words<'_>) -> Result<Self, String> {
        let word = words.expect("an rcode")?;
        let mut expected = Self {
            rcode: wire::rcode(word).ok_or_else(|| format!("\"{word}\" is no rcode"))?,
            flags: 0,
            id: None,
            question: None,
            edns_size: None,
            extended_errors: Vec::new(),
            because: None,
            max_age: None,
            octets: None,
            exact_case: false,
            sections: [const { Some(Vec::new()) }; 3],
        };
        while let Some(word) = words.next() {
            match word {
                "aa" => expected.flags |= bits::AA,
                "tc" => expected.flags |= bits::TC,
                "ad" => expected.flags |= bits::AD,
                "id" => expected.id = Some(words.number("id")?),
                "for" => expected.question = Some(message::question(words)?),
                "edns" => expected.edns_size = Some(words.number("size of a datagram")?),
                "ede" => expected.extended_errors.push(words.number("code of an extended error")?),
                "because" => expected.because = Some(words.expect("a text")?.to_owned()),
                "max-age" => expected.max_age = Some(words.number("number of seconds")?),
                "octets" => expected.octets = Some(words.number("number of octets")?),
                "exact-case" => expected.exact_case = true,
                _ => return Err(format!("\"{word}\" is nothing that is looked at in a reply")),
            }
        }
        Ok(expected)
    }
}

/// `answer *`: the section is not looked at.
fn unseen_section(line: &Line) -> Option<usize> {
    let mut words = line.words();
    let section = words.next();
    let is_unseen = words.rest() == "*";
    SECTIONS.iter().position(|name| is_unseen && Some(*name) == section)
}

/// What a query that an upstream received has to be. What is not written may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExpectedQuery {
    pub(super) pattern: Pattern,
    pub(super) size: Option<u16>,
    pub(super) url: Option<String>,
    pub(super) flags: message::Changes,
    pub(super) class: Option<u16>,
    /// Whether the name is in lower case; if not, there are letters of both cases in it.
    pub(super) lower_case: Option<bool>,
    /// Whether socket or connection is that of the query before.
    pub(super) same_port: Option<bool>,
    /// Whether the id is that of the query before.
    pub(super) same_id: Option<bool>,
}

impl ExpectedQuery {
    /// `NAME TYPE` and any of `udp tcp dot doh edns plain do cd rd ad size N url U class C lower-case mixed-case
    /// same-port other-port same-id other-id`, those of one letter case with a `-` for "not".
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(words: Words<'_>) -> Result<Self, String> {
        let (mut size, mut class, mut lower_case) = (None, None, None);
        let (mut same_port, mut same_id, mut url) = (None, None, None);
        let mut flags = message::Changes::default();
        let mut left = Vec::new();
        let mut whole = words;
        let text = whole.rest().to_owned();
        let mut words = words;
        while let Some(word) = words.next() {
            match word {
                "size" => size = Some(words.number("size of a datagram")?),
                "url" => url = Some(words.expect("a url")?.to_owned()),
                "class" => {
                    let word = words.expect("a class")?;
                    class = Some(wire::class(word).ok_or(format!("\"{word}\" is no class"))?);
                }
                "lower-case" => lower_case = Some(true),
                "mixed-case" => lower_case = Some(false),
                "same-port" => same_port = Some(true),
                "other-port" => same_port = Some(false),
                "same-id" => same_id = Some(true),
                "other-id" => same_id = Some(false),
                _ if flags.take(word) => {}
                _ => left.push(word),
            }
        }
        let left = left.join(" ");
        let (mut pattern, times) = Pattern::parse(Words::of(&left))?;
        if times.is_some() {
            return Err("a number of times is nothing that is looked at in a query".to_owned());
        }
        pattern.text = text;
        Ok(Self { pattern, size, url, flags, class, lower_case, same_port, same_id })
    }
}
