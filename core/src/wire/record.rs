//! One resource record (RFC 1035 section 4.1.3), read and checked as far as its RDATA's length.

use super::codes::RecordType;
use super::octets::Reader;

/// A record. Its owner's name was checked, its RDATA was not.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Record<'a> {
    /// Where it begins, from the start of the message.
    pub(crate) start: usize,
    /// Where its TTL stands, from the start of the message.
    pub(crate) ttl_at: usize,
    /// Where the next one begins.
    pub(crate) end: usize,
    pub(crate) record_type: RecordType,
    /// The class field; for OPT, a size.
    pub(crate) class: u16,
    /// The TTL field as sent.
    pub(crate) ttl: u32,
    pub(crate) rdata: &'a [u8],
}

impl Record<'_> {
    /// Whether the owner is the root, spelled out: OPT must look so (RFC 6891 section 6.1.2).
    pub(crate) fn owned_by_root(&self) -> bool {
        // Type and class stand between a root's one octet and the TTL.
        self.start.checked_add(5) == Some(self.ttl_at)
    }

    /// Whether it says something about this message alone: EDNS, TSIG, SIG(0). Such records are
    /// never passed on (RFC 6891 section 6.1.1, RFC 8945 section 5.2, RFC 2931 section 3).
    pub(crate) fn is_hop_by_hop(&self) -> bool {
        match self.record_type {
            RecordType::OPT | RecordType::TSIG => true,
            RecordType::SIG => self.rdata.starts_with(&[0, 0]),
            _ => false,
        }
    }

    /// The TTL in seconds; one with the top bit set is zero (RFC 2181 section 8).
    pub(crate) const fn sane_ttl(&self) -> u32 {
        sane(self.ttl)
    }

    /// Seconds for which a SOA lets a negative answer be remembered (RFC 2308 section 5): the
    /// lesser of its TTL and its MINIMUM field. `None` if it is no SOA.
    pub(crate) fn negative_ttl(&self) -> Option<u32> {
        /// Two names of one octet at least, five numbers of four.
        const SOA_OCTETS_MIN: usize = 22;
        if self.record_type != RecordType::SOA || self.rdata.len() < SOA_OCTETS_MIN {
            return None;
        }
        // MINIMUM is the last field, so that the names before it need not be read.
        let minimum = u32::from_be_bytes(*self.rdata.last_chunk::<4>()?);
        Some(self.sane_ttl().min(sane(minimum)))
    }
}

const fn sane(seconds: u32) -> u32 {
    if seconds > i32::MAX.unsigned_abs() { 0 } else { seconds }
}

/// The record at the cursor; `None` if it is cut off or its owner's name is malformed.
pub(crate) fn read_record<'a>(reader: &mut Reader<'a>) -> Option<Record<'a>> {
    let start = reader.position();
    reader.skip_name()?;
    let record_type = RecordType(reader.u16()?);
    let class = reader.u16()?;
    let ttl_at = reader.position();
    let ttl = reader.u32()?;
    let rdata_octets = usize::from(reader.u16()?);
    let rdata = reader.take(rdata_octets)?;
    Some(Record { start, ttl_at, end: reader.position(), record_type, class, ttl, rdata })
}
