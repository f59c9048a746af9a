//! RDATA in presentation format.
//!
//! Most types are a sequence of a few kinds of fields, read here; service bindings and CSYNC are left to
//! hickory-proto. Its reader of the others is not used: it takes `\DDD` for something else than the octet
//! with this number, and leaves out words that follow a record's data. What was read, and
//! what is given in the form of RFC 3597, has to be what hickory-proto reads from the wire.

use std::net::{Ipv4Addr, Ipv6Addr};

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use hickory_proto::rr::rdata::SVCB;
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{RData, RecordType as HickoryType};
use hickory_proto::serialize::binary::{
    BinDecoder, BinEncodable, BinEncoder, NameEncoding, Restrict,
};

use super::line::ttl;
use crate::wire::{NameError, RecordType, unescaped, wire_form};

/// What begins data in the form of RFC 3597 section 5.
const GENERIC: &str = "\\#";

/// What is wrong with the data of a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// A field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// There are more words than fields.
    #[error("there is {0:?} after its last field")]
    More(String),
    /// A word is not what its place asks for.
    #[error("{word:?} is not {field}")]
    Field {
        /// The word.
        word: String,
        /// What should stand there.
        field: &'static str,
    },
    /// A word should be a name.
    #[error("{word:?} is not a name: {error}")]
    Name {
        /// The word.
        word: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// A character-string has more than 255 octets (RFC 1035 section 3.3).
    #[error("a text has {octets} octets, the limit is 255")]
    TextTooLong {
        /// Its length.
        octets: usize,
    },
    /// There are more octets than a record can have, or other ones than announced.
    #[error("there are {octets} octets of data")]
    Length {
        /// How many.
        octets: usize,
    },
    /// Escapes of the few types that are read by hickory-proto.
    #[error("escapes are not supported here")]
    Escape,
    /// What hickory-proto says.
    #[error("{0}")]
    Other(String),
    /// The octets are not those of a record of this type.
    #[error("the octets are not of this type")]
    Octets,
}

/// A field of RDATA.
#[derive(Debug, Clone, Copy)]
enum Field {
    V4,
    V6,
    Octet,
    Short,
    Long,
    /// Seconds, units allowed.
    Time,
    Name,
    /// A character-string (RFC 1035 section 3.3).
    Text,
    /// All words that are left, each a character-string; at least one.
    Texts,
    /// Text without a length in front of it.
    Octets,
    /// Octets in base 16, in as many words as there are.
    Hex,
    /// The same in base 64.
    Base64,
}

/// The fields of the types that are read here.
const FORMATS: &[(RecordType, &[Field])] = {
    use Field::{Base64, Hex, Long, Name, Octet, Octets, Short, Text, Texts, Time, V4, V6};
    &[
        (RecordType::A, &[V4]),
        (RecordType::AAAA, &[V6]),
        (RecordType::CNAME, &[Name]),
        (RecordType::NS, &[Name]),
        (RecordType::PTR, &[Name]),
        (RecordType::MX, &[Short, Name]),
        (RecordType::SRV, &[Short, Short, Short, Name]),
        (RecordType::SOA, &[Name, Name, Long, Time, Time, Time, Time]),
        (RecordType::TXT, &[Texts]),
        (RecordType::SPF, &[Texts]),
        (RecordType::HINFO, &[Text, Text]),
        (RecordType::NAPTR, &[Short, Short, Text, Text, Text, Name]),
        (RecordType::URI, &[Short, Short, Octets]),
        (RecordType::CAA, &[Octet, Text, Octets]),
        (RecordType::TLSA, &[Octet, Octet, Octet, Hex]),
        (RecordType::SMIMEA, &[Octet, Octet, Octet, Hex]),
        (RecordType::SSHFP, &[Octet, Octet, Hex]),
        (RecordType::DS, &[Short, Octet, Octet, Hex]),
        (RecordType::CERT, &[Short, Short, Octet, Base64]),
        (RecordType::OPENPGPKEY, &[Base64]),
    ]
};

/// Reads the data of a record, names in it uncompressed.
pub(super) fn parse(record_type: RecordType, words: &[&str]) -> Result<Vec<u8>, DataError> {
    let octets = match (words.split_first(), fields(record_type)) {
        (Some((&GENERIC, rest)), _) => generic(rest)?,
        (_, Some(fields)) => read_fields(fields, words)?,
        (_, None) => read_by_hickory(record_type, words)?,
    };
    if u16::try_from(octets.len()).is_err() {
        return Err(DataError::Length { octets: octets.len() });
    }
    if is_of_type(record_type, &octets) { Ok(octets) } else { Err(DataError::Octets) }
}

/// What the data of a type look like.
pub(super) fn expected(record_type: RecordType) -> String {
    let form = match (record_type, fields(record_type)) {
        (_, Some(fields)) => {
            let fields: Vec<&str> = fields.iter().map(|field| field.describe()).collect();
            fields.join(", ")
        }
        (RecordType::SVCB | RecordType::HTTPS, _) => {
            "a priority, a name, parameters such as alpn=h2".to_owned()
        }
        (RecordType::CSYNC, _) => "a serial number, flags, types".to_owned(),
        _ => return "\\# LENGTH OCTETS, in base 16 (RFC 3597)".to_owned(),
    };
    format!("{form}; or \\# LENGTH OCTETS, in base 16 (RFC 3597)")
}

fn fields(record_type: RecordType) -> Option<&'static [Field]> {
    FORMATS.iter().find(|(known, _)| *known == record_type).map(|(_, fields)| *fields)
}

/// Reads `LENGTH OCTETS` (RFC 3597 section 5).
fn generic(words: &[&str]) -> Result<Vec<u8>, DataError> {
    let (length, digits) = words.split_first().ok_or(DataError::Missing("a length"))?;
    let length: u16 = number(length, Field::Short.describe())?;
    let octets = if digits.is_empty() { Vec::new() } else { hex(digits)? };
    if octets.len() == usize::from(length) {
        Ok(octets)
    } else {
        Err(DataError::Length { octets: octets.len() })
    }
}

fn read_fields(fields: &[Field], words: &[&str]) -> Result<Vec<u8>, DataError> {
    let mut data = Vec::new();
    let mut rest = words;
    for field in fields {
        rest = field.read(rest, &mut data)?;
    }
    match rest.first() {
        None => Ok(data),
        Some(word) => Err(DataError::More((*word).to_owned())),
    }
}

impl Field {
    /// What stands there.
    const fn describe(self) -> &'static str {
        match self {
            Self::V4 => "an ipv4 address",
            Self::V6 => "an ipv6 address",
            Self::Octet => "a number up to 255",
            Self::Short => "a number up to 65535",
            Self::Long => "a number up to 4294967295",
            Self::Time => "a time in seconds",
            Self::Name => "a name",
            Self::Text | Self::Octets => "a text",
            Self::Texts => "one or more texts",
            Self::Hex => "octets in base 16",
            Self::Base64 => "octets in base 64",
        }
    }

    /// Reads the field from the first words; those that follow are left.
    fn read<'w, 't>(
        self,
        words: &'w [&'t str],
        data: &mut Vec<u8>,
    ) -> Result<&'w [&'t str], DataError> {
        let (first, rest) = words.split_first().ok_or(DataError::Missing(self.describe()))?;
        let wrong = || DataError::Field { word: (*first).to_owned(), field: self.describe() };
        match self {
            Self::V4 => {
                data.extend(first.parse::<Ipv4Addr>().map_err(|_| wrong())?.octets());
            }
            Self::V6 => {
                data.extend(first.parse::<Ipv6Addr>().map_err(|_| wrong())?.octets());
            }
            Self::Octet => data.push(number(first, self.describe())?),
            Self::Short => data.extend(number::<u16>(first, self.describe())?.to_be_bytes()),
            Self::Long => data.extend(number::<u32>(first, self.describe())?.to_be_bytes()),
            Self::Time => data.extend(ttl(first).ok_or_else(wrong)?.to_be_bytes()),
            Self::Name => data.extend(name(first)?),
            Self::Text => put_text(first, data)?,
            Self::Octets => data.extend(text(first)?),
            Self::Texts => {
                words.iter().try_for_each(|word| put_text(word, data))?;
                return Ok(&[]);
            }
            Self::Hex => {
                data.extend(hex(words)?);
                return Ok(&[]);
            }
            Self::Base64 => {
                data.extend(BASE64.decode(words.concat().as_bytes()).map_err(|_| wrong())?);
                return Ok(&[]);
            }
        }
        Ok(rest)
    }
}

/// A number in decimal digits, without a sign.
fn number<T: std::str::FromStr>(word: &str, field: &'static str) -> Result<T, DataError> {
    let digits = word.bytes().all(|octet| octet.is_ascii_digit());
    let number = digits.then(|| word.parse().ok()).flatten();
    number.ok_or_else(|| DataError::Field { word: word.to_owned(), field })
}

/// A name in its own letter case: what is called `Office\ Printer` stays so.
fn name(word: &str) -> Result<Vec<u8>, DataError> {
    if word == "@" {
        return Err(DataError::Field { word: word.to_owned(), field: "an absolute name" });
    }
    wire_form(word).map_err(|error| DataError::Name { word: word.to_owned(), error })
}

/// The octets of a text, quoted or not.
fn text(word: &str) -> Result<Vec<u8>, DataError> {
    let inner = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')).unwrap_or(word);
    let escape = |_| DataError::Field {
        word: word.to_owned(),
        field: "a text with escapes such as \\; or \\059",
    };
    unescaped(inner).map_err(escape)
}

/// Writes a character-string: its length first.
fn put_text(word: &str, data: &mut Vec<u8>) -> Result<(), DataError> {
    let text = text(word)?;
    let length =
        u8::try_from(text.len()).map_err(|_| DataError::TextTooLong { octets: text.len() })?;
    data.push(length);
    data.extend(text);
    Ok(())
}

fn hex(words: &[&str]) -> Result<Vec<u8>, DataError> {
    let word = words.concat();
    HEXLOWER_PERMISSIVE
        .decode(word.as_bytes())
        .map_err(|_| DataError::Field { word, field: Field::Hex.describe() })
}

/// Reads what hickory-proto knows besides.
fn read_by_hickory(record_type: RecordType, words: &[&str]) -> Result<Vec<u8>, DataError> {
    let text = words.join(" ");
    if text.contains('\\') {
        return Err(DataError::Escape);
    }
    if words.is_empty() {
        return Err(DataError::Missing("everything"));
    }
    let said = |error: &dyn std::fmt::Display| DataError::Other(error.to_string());
    let mut data = match record_type {
        RecordType::SVCB | RecordType::HTTPS | RecordType::CSYNC => {
            RData::try_from_str(HickoryType::from(record_type.0), &text)
                .map_err(|error| said(&error))?
        }
        _ => return Err(DataError::Other("there is no text form of this type".to_owned())),
    };
    if let RData::SVCB(binding) = &mut data {
        order_parameters(binding)?;
    } else if let RData::HTTPS(binding) = &mut data {
        order_parameters(&mut binding.0)?;
    }
    emit(&data).ok_or_else(|| DataError::Other("it cannot be written".to_owned()))
}

/// Puts parameters into the order that they have on the wire (RFC 9460 section 2.2), and looks at those
/// that are said to be mandatory (section 8).
fn order_parameters(binding: &mut SVCB) -> Result<(), DataError> {
    binding.svc_params.sort_by_key(|(key, _)| *key);
    let keys: Vec<_> = binding.svc_params.iter().map(|(key, _)| *key).collect();
    if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(DataError::Other(format!("the parameter {} is there twice", twice[0])));
    }
    for (own_key, value) in &mut binding.svc_params {
        if let SvcParamValue::Mandatory(mandatory) = value {
            mandatory.0.sort();
            mandatory.0.dedup();
            let is_missing = |key: &&_| **key == *own_key || !keys.contains(key);
            if let Some(missing) = mandatory.0.iter().find(is_missing) {
                let message = format!("the parameter {missing} is mandatory, but not there");
                return Err(DataError::Other(message));
            }
        }
    }
    Ok(())
}

/// Whether octets are the RDATA of a type, without compression: what is read from them is written as the
/// same octets.
fn is_of_type(record_type: RecordType, octets: &[u8]) -> bool {
    let Ok(length) = u16::try_from(octets.len()) else {
        return false;
    };
    let mut decoder = BinDecoder::new(octets);
    let hickory_type = HickoryType::from(record_type.0);
    RData::read(&mut decoder, hickory_type, Restrict::new(length))
        .is_ok_and(|data| emit(&data).is_some_and(|written| written == octets))
}

fn emit(data: &RData) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut encoder = BinEncoder::new(&mut octets);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    data.emit(&mut encoder).ok()?;
    Some(octets)
}
