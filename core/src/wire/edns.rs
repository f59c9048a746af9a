//! The OPT record (RFC 6891 section 6.1): its fields, its options, and those that we send.
//!
//! Which options are sent to whom is not decided here.

use super::client_subnet::ClientSubnet;
use super::codes::{ErrorNote, Rcode};
use super::octets::{Reader, Writer};
use super::record::Record;
use crate::limits::UDP_PLAIN_OCTETS;
use crate::time::Duration;

/// Option code of Client Subnet (RFC 7871 section 6).
pub(crate) const CLIENT_SUBNET: u16 = 8;
/// Option code of COOKIE (RFC 7873 section 4).
pub(crate) const COOKIE: u16 = 10;
/// Option code of edns-tcp-keepalive (RFC 7828 section 3.1).
pub(crate) const TCP_KEEPALIVE: u16 = 11;
/// Option code of Padding (RFC 7830 section 3).
pub(crate) const PADDING: u16 = 12;
/// Option code of Extended DNS Errors (RFC 8914 section 2).
pub(crate) const EXTENDED_ERROR: u16 = 15;

/// Octets of an OPT record without options.
pub(crate) const OPT_OCTETS: usize = 11;
/// Octets of an option's code and length.
pub(crate) const OPTION_HEADER_OCTETS: usize = 4;
/// Octets of an Extended DNS Error without text, option header included.
pub(crate) const EXTENDED_ERROR_OCTETS: usize = 6;
/// The unit of edns-tcp-keepalive (RFC 7828 section 3.1).
pub(crate) const KEEPALIVE_UNIT: Duration = Duration::from_millis(100);
/// Padded replies are multiples of this (RFC 8467 section 4.1).
pub(crate) const REPLY_BLOCK_OCTETS: usize = 468;

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

/// The options of a client's OPT record that mean something to us. Payloads are as they came: whether
/// they matter depends on the transport.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientOptions<'a> {
    /// The payload of the first Client Subnet (RFC 7871 section 6).
    pub client_subnet: Option<&'a [u8]>,
    /// The payload of the first COOKIE; further ones do not count (RFC 7873 section 5.2).
    pub cookie: Option<&'a [u8]>,
    /// The payload of the first edns-tcp-keepalive (RFC 7828 section 3.1).
    pub keepalive: Option<&'a [u8]>,
    /// Whether the client pads, and so wants its reply padded (RFC 7830 section 4).
    pub padding: bool,
}

impl<'a> ClientOptions<'a> {
    /// Reads all options in one walk; `None` if one overruns the record.
    pub(crate) fn read(rdata: &'a [u8]) -> Option<Self> {
        let mut all = Self::default();
        let mut reader = Reader::new(rdata);
        while !reader.rest().is_empty() {
            let (code, payload) = read_option(&mut reader)?;
            match code {
                CLIENT_SUBNET => all.client_subnet = all.client_subnet.or(Some(payload)),
                COOKIE => all.cookie = all.cookie.or(Some(payload)),
                TCP_KEEPALIVE => all.keepalive = all.keepalive.or(Some(payload)),
                PADDING => all.padding = true,
                _ => {}
            }
        }
        Some(all)
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

fn read_option<'a>(reader: &mut Reader<'a>) -> Option<(u16, &'a [u8])> {
    let code = reader.u16()?;
    let octets = usize::from(reader.u16()?);
    Some((code, reader.take(octets)?))
}

/// An OPT record that we send, always as a message's last record.
#[derive(Copy, Clone, Debug)]
pub(crate) struct OwnOpt<'a> {
    /// The receive buffer advertised, in octets.
    pub(crate) udp_size: u16,
    /// The high bits of the rcode.
    pub(crate) rcode_high: u8,
    pub(crate) dnssec_ok: bool,
    pub(crate) options: OwnOptions<'a>,
}

/// The options that we send.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct OwnOptions<'a> {
    /// A COOKIE, unless it is empty.
    pub(crate) cookie: &'a [u8],
    pub(crate) keepalive: Option<Keepalive>,
    pub(crate) error: Option<ErrorNote<'a>>,
    /// The message is padded to a multiple of so many octets, or to all the room there is.
    pub(crate) block_octets: Option<usize>,
    /// A client's network, and the scope of the answer.
    pub(crate) subnet: Option<(ClientSubnet, u8)>,
}

/// An edns-tcp-keepalive option (RFC 7828 section 3.1).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keepalive {
    /// Of a query: it has no time to tell.
    Wanted,
    /// Of a reply: how long the connection may be idle, in units of 100 ms.
    Idle(u16),
}

impl OwnOptions<'_> {
    /// Octets of all options but padding.
    fn octets(&self) -> usize {
        let cookie = match self.cookie.len() {
            0 => 0,
            octets => octets.saturating_add(OPTION_HEADER_OCTETS),
        };
        let keepalive = match self.keepalive {
            None => 0,
            Some(Keepalive::Wanted) => OPTION_HEADER_OCTETS,
            Some(Keepalive::Idle(_)) => OPTION_HEADER_OCTETS.saturating_add(2),
        };
        let error = self
            .error
            .as_ref()
            .map_or(0, |note| EXTENDED_ERROR_OCTETS.saturating_add(note.sent_text().len()));
        let subnet = match &self.subnet {
            None => 0,
            Some((subnet, scope)) => subnet.payload(*scope).1.saturating_add(OPTION_HEADER_OCTETS),
        };
        cookie.saturating_add(keepalive).saturating_add(error).saturating_add(subnet)
    }

    /// Octets of the padding option in a message of so many octets without it, which may have
    /// `room` more; 0 if not even an empty one fits.
    fn padding_octets(&self, message: usize, room: usize) -> usize {
        let Some(block) = self.block_octets.filter(|_| room >= OPTION_HEADER_OCTETS) else {
            return 0;
        };
        let least = message.saturating_add(OPTION_HEADER_OCTETS);
        let padded = least.checked_next_multiple_of(block).unwrap_or(least);
        padded.saturating_sub(message).min(room)
    }
}

impl OwnOpt<'_> {
    /// Octets of the record without padding.
    pub(crate) fn octets(&self) -> usize {
        OPT_OCTETS.saturating_add(self.options.octets())
    }

    /// Appends the record: version 0, no option of the other side's. Padding comes last, and takes
    /// no more than the room that is left.
    pub(crate) fn write(&self, out: &mut Writer<'_>) -> Option<()> {
        let options = &self.options;
        let message = out.position().saturating_add(self.octets());
        let room = out.room().checked_sub(self.octets())?;
        let padding = options.padding_octets(message, room);
        let dnssec_ok = if self.dnssec_ok { DNSSEC_OK } else { 0 };
        out.put(&[0, 0, 41])?;
        out.u16(self.udp_size)?;
        out.u32(u32::from_be_bytes([self.rcode_high, 0, 0, 0]) | dnssec_ok)?;
        out.u16(u16::try_from(options.octets().saturating_add(padding)).ok()?)?;
        if let Some((subnet, scope)) = &options.subnet {
            let (payload, len) = subnet.payload(*scope);
            write_option(out, CLIENT_SUBNET, payload.get(..len)?)?;
        }
        if !options.cookie.is_empty() {
            write_option(out, COOKIE, options.cookie)?;
        }
        match options.keepalive {
            None => {}
            Some(Keepalive::Wanted) => write_option(out, TCP_KEEPALIVE, &[])?,
            Some(Keepalive::Idle(time)) => write_option(out, TCP_KEEPALIVE, &time.to_be_bytes())?,
        }
        if let Some(error) = options.error {
            let text = error.sent_text();
            out.u16(EXTENDED_ERROR)?;
            out.u16(u16::try_from(text.len()).ok()?.checked_add(2)?)?;
            out.u16(error.error.0)?;
            out.put(text)?;
        }
        if let Some(payload) = padding.checked_sub(OPTION_HEADER_OCTETS) {
            // Zeros, as RFC 7830 section 3 wants: the channel hides them.
            const ZEROS: [u8; REPLY_BLOCK_OCTETS] = [0; REPLY_BLOCK_OCTETS];
            write_option(out, PADDING, ZEROS.get(..payload)?)?;
        }
        Some(())
    }
}

fn write_option(out: &mut Writer<'_>, code: u16, payload: &[u8]) -> Option<()> {
    out.u16(code)?;
    out.u16(u16::try_from(payload.len()).ok()?)?;
    out.put(payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ExtendedError;
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
        let subnet = ClientOptions { client_subnet: Some(&[1, 2]), ..ClientOptions::default() };
        assert_eq!(ClientOptions::read(&whole), Some(subnet));
        let all: Vec<_> = options(&whole).collect();
        assert_eq!(all, [(8, &[1, 2][..]), (15, &[])]);
        for length in [1, 2, 3, 4, 5, 7, 9] {
            assert_eq!(ClientOptions::read(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn of_options_that_occur_twice_the_first_counts() {
        let twice = [0, 10, 0, 1, 7, 0, 11, 0, 0, 0, 10, 0, 1, 8, 0, 11, 0, 1, 9, 0, 12, 0, 0];
        let expected = ClientOptions {
            client_subnet: None,
            cookie: Some(&[7]),
            keepalive: Some(&[]),
            padding: true,
        };
        assert_eq!(ClientOptions::read(&twice), Some(expected));
    }

    fn written(message: usize, limit: usize, options: OwnOptions<'_>) -> Option<Vec<u8>> {
        let mut octets = vec![0xff; limit];
        let mut out = Writer::new(&mut octets, limit);
        out.put(&vec![0; message]).unwrap();
        let opt = OwnOpt { udp_size: 1_232, rcode_high: 0, dnssec_ok: false, options };
        opt.write(&mut out)?;
        let end = out.position();
        octets.truncate(end);
        Some(octets)
    }

    #[test]
    fn own_options_stand_in_order_and_padding_comes_last() {
        let all = OwnOptions {
            cookie: &[1; 8],
            keepalive: Some(Keepalive::Idle(100)),
            error: Some(ErrorNote { error: ExtendedError(15), text: "a list" }),
            block_octets: Some(64),
            subnet: None,
        };
        let octets = written(12, 200, all).unwrap();
        let expected = [
            &[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 41][..],
            &[0, 10, 0, 8, 1, 1, 1, 1, 1, 1, 1, 1],
            &[0, 11, 0, 2, 0, 100],
            &[0, 15, 0, 8, 0, 15, b'a', b' ', b'l', b'i', b's', b't'],
            &[0, 12, 0, 7],
            &[0; 7],
        ];
        assert_eq!(octets[12..], expected.concat());
        let wanted = OwnOptions { keepalive: Some(Keepalive::Wanted), ..OwnOptions::default() };
        assert!(written(12, 200, wanted).unwrap().ends_with(&[0, 4, 0, 11, 0, 0]));
    }

    /// RFC 8467 section 4.1: up to the next multiple, or as far as the message may go.
    #[test]
    fn padding_ends_at_a_multiple_or_at_the_limit() {
        let padded = OwnOptions { block_octets: Some(468), ..OwnOptions::default() };
        for message in 12..1_000 {
            let octets = written(message, 2_000, padded).unwrap();
            let least = message + OPT_OCTETS + OPTION_HEADER_OCTETS;
            assert_eq!(octets.len(), least.next_multiple_of(468), "{message}");
        }
        let length = |limit| written(600, limit, padded).map(|octets| octets.len());
        assert_eq!(length(936), Some(936));
        for limit in 615..936 {
            assert_eq!(length(limit), Some(limit));
        }
        for limit in 611..615 {
            assert_eq!(length(limit), Some(611), "no room for an option");
        }
        assert_eq!(length(610), None);
    }
}
