//! A client's view of a reply: hickory-proto decodes it, and what the world's answers carry in their
//! records is read out.

use hickory_proto::op::{Edns, Message};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, Record};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

/// What a reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Its rcode, with the high bits of the OPT record.
    pub rcode: u8,
    /// TC.
    pub truncated: bool,
    /// AD.
    pub authentic: bool,
    /// What its OPT record says.
    pub edns: Option<ServerEdns>,
    /// The aliases that the answers begin with and that lead to the others: to which name, and TTLs.
    pub aliases: Vec<(String, u32)>,
    /// What answers carry, and their TTLs. An alias is not among them.
    pub values: Vec<(u32, u32)>,
    /// Answers that carry nothing.
    pub others: usize,
    /// What the SOA record of a negative answer carries, and its TTL.
    pub soa: Option<(u32, u32)>,
    /// What additional records besides OPT carry, and their TTLs.
    pub additionals: Vec<(u32, u32)>,
}

/// The OPT record of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerEdns {
    /// What the server can take.
    pub size: u16,
    /// DO.
    pub dnssec_ok: bool,
    /// The code of its extended error (RFC 8914).
    pub extended_error: Option<u16>,
    /// The client's part of its cookie (RFC 7873), which has one of the server's too.
    pub cookie: Option<[u8; 8]>,
}

impl Reading {
    /// The number of the first answer.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.values.first().map(|(value, _)| value >> 6).expect("there is an answer")
    }
}

/// Reads a reply.
///
/// # Errors
/// Why it is none that a client would take.
pub fn read(message: &[u8]) -> Result<Reading, String> {
    let mut decoder = BinDecoder::new(message);
    let decoded = Message::read(&mut decoder).map_err(|error| error.to_string())?;
    if !decoder.is_empty() {
        return Err(format!("{} octets behind the last record", decoder.len()));
    }
    let mut reading = Reading {
        rcode: u16::from(decoded.metadata.response_code).try_into().unwrap_or(u8::MAX),
        truncated: decoded.metadata.truncation,
        authentic: decoded.metadata.authentic_data,
        edns: decoded.edns.as_ref().map(server_edns).transpose()?,
        aliases: Vec::new(),
        values: Vec::with_capacity(decoded.answers.len()),
        others: 0,
        soa: None,
        additionals: Vec::new(),
    };
    let mut owner = decoded.queries.first().map(|query| query.name.clone());
    for record in &decoded.answers {
        if Some(&record.name) != owner.as_ref() {
            return Err(format!("an answer of {}, where one of {owner:?} belongs", record.name));
        }
        if let RData::CNAME(target) = &record.data {
            reading.aliases.push((target.0.to_ascii(), record.ttl));
            owner = Some(target.0.clone());
            continue;
        }
        match value(&record.data) {
            Some(value) => reading.values.push((value, record.ttl)),
            None => reading.others += 1,
        }
    }
    for record in &decoded.authorities {
        if let RData::SOA(soa) = &record.data {
            reading.soa = Some((soa.serial, record.ttl));
        } else {
            return Err(format!("an authority record of type {}", record.record_type()));
        }
    }
    for record in &decoded.additionals {
        match value(&record.data) {
            Some(value) => reading.additionals.push((value, record.ttl)),
            None => return Err(format!("an additional record of type {}", record.record_type())),
        }
    }
    Ok(reading)
}

/// An OPT record as we send it: version 0, no flag but DO, no option but an extended error and a cookie.
fn server_edns(edns: &Edns) -> Result<ServerEdns, String> {
    let mut extended_error = None;
    let mut cookie = None;
    for (code, option) in edns.options().as_ref() {
        let EdnsOption::Unknown(number @ (10 | 15), data) = option else {
            return Err(format!("option {code:?}, which nobody asked for"));
        };
        if *number == 10 {
            cookie = data.first_chunk::<8>().copied().filter(|_| data.len() == 24);
            cookie.ok_or("an odd cookie")?;
            continue;
        }
        let info_code = data.first_chunk::<2>().filter(|_| extended_error.is_none());
        let info_code = info_code.ok_or("an odd extended error")?;
        extended_error = Some(u16::from_be_bytes(*info_code));
    }
    if edns.version() != 0 || edns.flags().z != 0 {
        return Err(format!("EDNS of version {} with odd flags", edns.version()));
    }
    let (size, dnssec_ok) = (edns.max_payload(), edns.flags().dnssec_ok);
    Ok(ServerEdns { size, dnssec_ok, extended_error, cookie })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the world's answers are of three types")]
fn value(data: &RData) -> Option<u32> {
    match data {
        RData::A(a) => Some(u32::from(a.0)),
        RData::AAAA(aaaa) => {
            let [.., a, b, c, d] = aaaa.0.octets();
            Some(u32::from_be_bytes([a, b, c, d]))
        }
        RData::TXT(text) => {
            let text = text.txt_data.first()?;
            std::str::from_utf8(text).ok()?.trim().parse().ok()
        }
        _ => None,
    }
}

/// For how many seconds a reply may be kept: the smallest TTL of its answers, or that of a denial
/// (RFC 8484 section 5.1).
#[must_use]
pub fn freshness(message: &[u8]) -> u32 {
    let Ok(decoded) = Message::from_bytes(message) else { return 0 };
    let negative_ttl = |record: &Record| {
        let RData::SOA(soa) = &record.data else { return None };
        decoded.answers.is_empty().then(|| record.ttl.min(soa.minimum))
    };
    let denial = decoded.authorities.iter().filter_map(negative_ttl);
    let answers = decoded.answers.iter().map(|record| record.ttl);
    answers.chain(denial).min().unwrap_or(0)
}
