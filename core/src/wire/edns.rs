//! The OPT record (RFC 6891 section 6.1): its fields, its options, and ours in replies.

use super::codes::{ExtendedError, Rcode};
use super::octets::{Reader, Writer};
use super::record::Record;
use crate::limits::UDP_PLAIN_OCTETS;

/// Option code of Client Subnet (RFC 7871 section 6).
pub(crate) const CLIENT_SUBNET: u16 = 8;
/// Option code of Extended DNS Errors (RFC 8914 section 2).
pub(crate) const EXTENDED_ERROR: u16 = 15;

/// Octets of an OPT record without options.
pub(crate) const OPT_OCTETS: usize = 11;
/// Octets of an Extended DNS Error without text, option header included.
pub(crate) const EXTENDED_ERROR_OCTETS: usize = 6;

/// The DO bit within the TTL field (RFC 6891 section 6.1.3, RFC 3225).
const DNSSEC_OK: u32 = 0x8000;
/// [`UDP_PLAIN_OCTETS`] as the class field holds it.
const UDP_SIZE_MIN: u16 = 512;
const _: () = assert!(UDP_SIZE_MIN as usize == UDP_PLAIN_OCTETS);

/// What a client's OPT record says.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ClientEdns {
    /// The largest datagram it takes, in octets. Less than 512 counts as 512 (RFC 6891 section
    /// 6.2.3).
    pub udp_size: u16,
    /// The DO bit: it wants DNSSEC records.
    pub dnssec_ok: bool,
    /// The version; only 0 exists.
    pub version: u8,
}

impl ClientEdns {
    /// The fields of an OPT record.
    pub(crate) fn of(opt: &Record<'_>) -> Self {
        let [_, version, _, _] = opt.ttl.to_be_bytes();
        Self { udp_size: opt.class.max(UDP_SIZE_MIN), dnssec_ok: opt.ttl & DNSSEC_OK != 0, version }
    }
}

/// The rcode that header and OPT record make together (RFC 6891 section 6.1.3).
pub(crate) fn extended_rcode(low: u8, opt: Option<&Record<'_>>) -> Rcode {
    let [high, ..] = opt.map_or(0, |opt| opt.ttl).to_be_bytes();
    Rcode((u16::from(high) << 4) | u16::from(low))
}

/// The options of an OPT record: code and payload. Stops at one that overruns the record.
pub(crate) fn options(rdata: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut reader = Reader::new(rdata);
    std::iter::from_fn(move || read_option(&mut reader))
}

/// Whether the options fill the record exactly.
pub(crate) fn options_are_whole(rdata: &[u8]) -> bool {
    let mut reader = Reader::new(rdata);
    while !reader.rest().is_empty() {
        if read_option(&mut reader).is_none() {
            return false;
        }
    }
    true
}

fn read_option<'a>(reader: &mut Reader<'a>) -> Option<(u16, &'a [u8])> {
    let code = reader.u16()?;
    let octets = usize::from(reader.u16()?);
    Some((code, reader.take(octets)?))
}

/// An OPT record that we send.
#[derive(Copy, Clone, Debug)]
pub(crate) struct OwnOpt {
    /// The receive buffer advertised, in octets.
    pub(crate) udp_size: u16,
    /// The high bits of the rcode.
    pub(crate) rcode_high: u8,
    pub(crate) dnssec_ok: bool,
    pub(crate) error: Option<ExtendedError>,
}

impl OwnOpt {
    /// Octets of the record.
    pub(crate) const fn octets(&self) -> usize {
        OPT_OCTETS.saturating_add(self.options_octets())
    }

    const fn options_octets(&self) -> usize {
        if self.error.is_some() { EXTENDED_ERROR_OCTETS } else { 0 }
    }

    /// Appends the record: version 0, no option of the other side's.
    pub(crate) fn write(&self, out: &mut Writer<'_>) -> Option<()> {
        let dnssec_ok = if self.dnssec_ok { DNSSEC_OK } else { 0 };
        out.put(&[0, 0, 41])?;
        out.u16(self.udp_size)?;
        out.u32(u32::from_be_bytes([self.rcode_high, 0, 0, 0]) | dnssec_ok)?;
        out.u16(u16::try_from(self.options_octets()).ok()?)?;
        if let Some(error) = self.error {
            out.u16(EXTENDED_ERROR)?;
            out.u16(2)?; // the code alone: no text
            out.u16(error.0)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::read_record;
    use crate::wire::testing::Draft;

    #[test]
    fn fields_are_where_rfc_6891_section_6_1_3_puts_them() {
        let message = Draft::new(0, 0).opt(4_096, 0x0102_8000, &[]).0;
        let opt = read_record(&mut Reader::at(&message, 12).unwrap()).unwrap();
        let edns = ClientEdns { udp_size: 4_096, dnssec_ok: true, version: 2 };
        assert_eq!(ClientEdns::of(&opt), edns);
        assert_eq!(extended_rcode(3, Some(&opt)), Rcode(0x13));
        assert_eq!(extended_rcode(3, None), Rcode(3));
    }

    #[test]
    fn less_than_512_counts_as_512_rfc_6891_section_6_2_3() {
        for (sent, meant) in [(0, 512), (511, 512), (512, 512), (513, 513)] {
            let message = Draft::new(0, 0).opt(sent, 0, &[]).0;
            let opt = read_record(&mut Reader::at(&message, 12).unwrap()).unwrap();
            assert_eq!(ClientEdns::of(&opt).udp_size, meant);
        }
    }

    #[test]
    fn options_that_overrun_are_noticed() {
        let whole = [0, 8, 0, 2, 1, 2, 0, 15, 0, 0];
        assert!(options_are_whole(&whole));
        let all: Vec<_> = options(&whole).collect();
        assert_eq!(all, [(8, &[1, 2][..]), (15, &[])]);
        for length in [1, 2, 3, 4, 5, 7, 9] {
            assert!(!options_are_whole(&whole[..length]), "{length}");
        }
    }
}
