//! One record in presentation format (RFC 1035 section 5.1): `owner [TTL] [class] type data`.
//!
//! Names are absolute, with or without the dot at their end: there is no origin, so `@` is an error.
//! TTL and class may stand in either order or be missing, which is never ambiguous: a TTL begins with a
//! digit, and no type is called like a class. Brackets join lines, a semicolon begins a comment.

use hickory_proto::serialize::txt::parse_ttl;

use super::data::{self, DataError};
use crate::wire::{Name, NameError, RecordType};

/// Seconds that a record without a TTL may be remembered: as those of the hosts file.
const TTL_SECONDS: u32 = 60;
/// The longest TTL (RFC 2181 section 8).
const TTL_SECONDS_MAX: u32 = 0x7fff_ffff;
/// What a line should be.
const EXPECTED: &str = "owner, ttl, class, type and data of one record, as in a zone file";

/// A record as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) owner: Name,
    pub(super) ttl: u32,
    pub(super) record_type: RecordType,
    /// RDATA, names in it uncompressed.
    pub(super) data: Box<[u8]>,
}

/// Why a line is no local record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocalRecordError {
    /// There is nothing but blanks and comments.
    #[error("holds no record")]
    Empty,
    /// In a zone file that is another record of the owner before.
    #[error("begins with a blank, so that it has no owner")]
    Blank,
    /// `$ORIGIN`, `$TTL`, `$INCLUDE`, `$GENERATE`.
    #[error("begins with $: directives are for zone files")]
    Directive,
    /// A name is `@`.
    #[error("has the owner @, but there is no origin")]
    Origin,
    /// A quoted text or a bracket is not closed, or a bracket was not opened.
    #[error("has a quote or a bracket without the other one")]
    Unbalanced,
    /// A line ends outside of brackets, and something follows.
    #[error("has more than one line")]
    Lines,
    /// The owner is not a name.
    #[error("has an owner that is not a name: {0}")]
    Owner(NameError),
    /// The TTL is not one, or too long (RFC 2181 section 8).
    #[error("has the bad ttl {0:?}")]
    Ttl(String),
    /// The class is not IN.
    #[error("has the class {0}")]
    Class(String),
    /// Nothing follows the owner, TTL and class.
    #[error("has no type")]
    NoType,
    /// The type is not known.
    #[error("has the unknown type {0:?}")]
    UnknownType(String),
    /// The type is one of questions or of messages, not of records (RFC 6895 section 3.1).
    #[error("has the type {0}, which no record has")]
    NotARecord(RecordType),
    /// Names below a DNAME would have to be made up (RFC 6672).
    #[error("has the type DNAME, which is not supported")]
    Dname,
    /// The data do not suit the type.
    #[error("has data that are not those of type {record_type}: {error}")]
    Data {
        /// The type.
        record_type: RecordType,
        /// What is wrong.
        error: DataError,
    },
    /// A CNAME leads to its own name.
    #[error("is an alias of itself")]
    AliasOfItself,
    /// A CNAME and another record have one name (RFC 1034 section 3.6.2).
    #[error("stands beside a CNAME or is one beside another record of the name")]
    AliasNotAlone,
    /// The bound on records of one name and type is reached.
    #[error("is one record too many")]
    ManyRecords {
        /// The bound.
        limit: usize,
    },
    /// The bound on octets of one name's records is reached.
    #[error("is too long beside the other records of the name")]
    ManyOctets {
        /// The bound.
        limit: usize,
    },
}

impl LocalRecordError {
    /// What would have been right.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Class(_) => "class IN".to_owned(),
            Self::Ttl(_) => format!("seconds up to {TTL_SECONDS_MAX}, or a time such as 1h30m"),
            Self::UnknownType(_) => "a type such as A, or TYPE65280 \\# 2 0102".to_owned(),
            Self::Origin => "an absolute name".to_owned(),
            Self::Dname => "a CNAME for *.name".to_owned(),
            Self::Data { record_type, .. } => data::expected(*record_type),
            Self::AliasOfItself => "another name".to_owned(),
            Self::AliasNotAlone => "a CNAME alone at its name".to_owned(),
            Self::ManyRecords { limit } => format!("at most {limit} records of one name and type"),
            Self::ManyOctets { limit } => format!("at most {limit} octets of records of one name"),
            Self::Empty
            | Self::Blank
            | Self::Directive
            | Self::Unbalanced
            | Self::Lines
            | Self::Owner(_)
            | Self::NoType
            | Self::NotARecord(_) => EXPECTED.to_owned(),
        }
    }
}

impl Line {
    /// Reads a line.
    pub(super) fn parse(text: &str) -> Result<Self, LocalRecordError> {
        let words = words(text)?;
        let mut rest = words.iter();
        let owner = match rest.next().copied() {
            None => return Err(LocalRecordError::Empty),
            Some(word) if word.starts_with('$') => return Err(LocalRecordError::Directive),
            Some(_) if text.starts_with([' ', '\t']) => return Err(LocalRecordError::Blank),
            Some("@") => return Err(LocalRecordError::Origin),
            Some(word) => Name::parse(word).map_err(LocalRecordError::Owner)?,
        };
        let (mut given_ttl, mut has_class) = (None, false);
        let type_word = loop {
            let word = rest.next().copied().ok_or(LocalRecordError::NoType)?;
            if given_ttl.is_none() && word.starts_with(|first: char| first.is_ascii_digit()) {
                given_ttl = Some(ttl(word).ok_or_else(|| LocalRecordError::Ttl(word.to_owned()))?);
            } else if !has_class && is_class(word)? {
                has_class = true;
            } else {
                break word;
            }
        };
        let record_type = record_type(type_word)?;
        let data = data::parse(record_type, rest.as_slice())
            .map_err(|error| LocalRecordError::Data { record_type, error })?;
        let ttl = given_ttl.unwrap_or(TTL_SECONDS);
        Ok(Self { owner, ttl, record_type, data: data.into_boxed_slice() })
    }
}

/// Seconds, or a sum of numbers with units.
pub(super) fn ttl(word: &str) -> Option<u32> {
    parse_ttl(word).ok().filter(|seconds| *seconds <= TTL_SECONDS_MAX)
}

/// Whether a word is the class IN. That it is another class is an error.
fn is_class(word: &str) -> Result<bool, LocalRecordError> {
    let upper = word.to_ascii_uppercase();
    match upper.strip_prefix("CLASS").unwrap_or(&upper) {
        "IN" | "1" => Ok(true),
        "CH" | "CS" | "HS" | "NONE" => Err(LocalRecordError::Class(upper)),
        number if number.len() < upper.len() && number.parse::<u16>().is_ok() => {
            Err(LocalRecordError::Class(upper))
        }
        _ => Ok(false),
    }
}

/// The type of a record.
fn record_type(word: &str) -> Result<RecordType, LocalRecordError> {
    let Some(record_type) = RecordType::from_name(word) else {
        return Err(LocalRecordError::UnknownType(word.to_owned()));
    };
    match record_type {
        RecordType::DNAME => Err(LocalRecordError::Dname),
        // Of questions and messages: 128 to 255, reserved ones included.
        RecordType(0 | 128..=255) | RecordType::OPT => {
            Err(LocalRecordError::NotARecord(record_type))
        }
        _ => Ok(record_type),
    }
}

/// The words of a line, as they are written: quotes and escapes stay.
fn words(text: &str) -> Result<Vec<&str>, LocalRecordError> {
    let mut words = Vec::new();
    let mut brackets = 0_usize;
    let mut is_over = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        match first {
            '\n' if brackets == 0 => is_over = !words.is_empty(),
            ' ' | '\t' | '\r' | '\n' => {}
            ';' => length = rest.find('\n').unwrap_or(rest.len()),
            _ if is_over => return Err(LocalRecordError::Lines),
            '(' => brackets += 1,
            ')' => brackets = brackets.checked_sub(1).ok_or(LocalRecordError::Unbalanced)?,
            _ => {
                length = word_length(rest).ok_or(LocalRecordError::Unbalanced)?;
                words.push(&rest[..length]);
            }
        }
        rest = &rest[length..];
    }
    if brackets == 0 { Ok(words) } else { Err(LocalRecordError::Unbalanced) }
}

/// The length of the word that a text begins with; `None` if a quote is not closed. A word that begins
/// with a quote ends with the other one, elsewhere quotes are a part of the word.
fn word_length(text: &str) -> Option<usize> {
    let is_quoted = text.starts_with('"');
    let (mut in_quotes, mut is_escaped) = (false, false);
    for (at, character) in text.char_indices() {
        if is_escaped {
            is_escaped = false;
            continue;
        }
        match character {
            '\\' => is_escaped = true,
            '"' if in_quotes && is_quoted => return Some(at + 1),
            '"' => in_quotes = !in_quotes,
            ' ' | '\t' | '\r' | '\n' | ';' | '(' | ')' if !in_quotes => return Some(at),
            _ => {}
        }
    }
    (!in_quotes).then_some(text.len())
}
