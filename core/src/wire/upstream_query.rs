//! Queries of our own, as they go upstream: the question and an OPT record of ours, nothing that
//! the client sent besides (RFC 6891 section 6.1.1: OPT is hop by hop).

use super::client_subnet::{CLIENT_SUBNET_OCTETS, ClientSubnet};
use super::cookie::COOKIE_OCTETS_MAX;
use super::edns::{Keepalive, OPT_OCTETS, OPTION_HEADER_OCTETS, OwnOpt, OwnOptions};
use super::header::Flags;
use super::octets::Writer;

/// Padded queries are multiples of this (RFC 8467 section 4.1).
const QUERY_BLOCK_OCTETS: usize = 128;
/// Octets of the OPT record that [`write_query`] adds, with the longest cookie, keepalive and an empty
/// padding option.
pub const UPSTREAM_OPT_OCTETS: usize =
    OPT_OCTETS + 3 * OPTION_HEADER_OCTETS + COOKIE_OCTETS_MAX + CLIENT_SUBNET_OCTETS;

/// The OPT record of a query.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct UpstreamEdns<'a> {
    /// The receive buffer advertised, in octets.
    pub udp_size: u16,
    /// The DO bit.
    pub dnssec_ok: bool,
    /// The payload of a COOKIE option (RFC 7873 section 5.1); there is none if it is empty.
    pub cookie: &'a [u8],
    /// Whether to ask how long the connection may be idle (RFC 7828 section 3.2.1).
    pub keepalive: bool,
    /// Whether the query is padded to a multiple of 128 octets, as far as there is room (RFC 8467
    /// section 4.1).
    pub padded: bool,
    /// The client's network (RFC 7871).
    pub subnet: Option<ClientSubnet>,
}

impl UpstreamEdns<'_> {
    /// Without options.
    #[must_use]
    pub const fn plain(udp_size: u16, dnssec_ok: bool) -> Self {
        Self { udp_size, dnssec_ok, cookie: &[], keepalive: false, padded: false, subnet: None }
    }
}

/// Writes a query with RD and AD set and returns its length. AD asks for the AD bit of the answer
/// (RFC 6840 section 5.7). `question` is name, type and class; its letter case is kept. Needs
/// twelve octets, the question and up to [`UPSTREAM_OPT_OCTETS`]; returns 0 if `out` is shorter.
#[must_use]
pub fn write_query(
    out: &mut [u8],
    id: u16,
    question: &[u8],
    checking_disabled: bool,
    edns: Option<UpstreamEdns<'_>>,
) -> usize {
    let mut writer = Writer::new(out, usize::MAX);
    let written = write(&mut writer, id, question, checking_disabled, edns);
    written.map_or(0, |()| writer.position())
}

fn write(
    out: &mut Writer<'_>,
    id: u16,
    question: &[u8],
    checking_disabled: bool,
    edns: Option<UpstreamEdns<'_>>,
) -> Option<()> {
    let checking = if checking_disabled { Flags::CD } else { 0 };
    out.u16(id)?;
    out.u16(Flags::RD | Flags::AD | checking)?;
    out.put(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())])?;
    out.put(question)?;
    if let Some(edns) = edns {
        let options = OwnOptions {
            cookie: edns.cookie,
            keepalive: edns.keepalive.then_some(Keepalive::Wanted),
            error: None,
            subnet: edns.subnet.map(|subnet| (subnet, 0)),
            block_octets: edns.padded.then_some(QUERY_BLOCK_OCTETS),
        };
        let UpstreamEdns { udp_size, dnssec_ok, .. } = edns;
        OwnOpt { udp_size, rcode_high: 0, dnssec_ok, options }.write(out)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{QUERY_OCTETS, QUESTION_OCTETS};
    use crate::wire::testing::question;
    use crate::wire::{QueryView, RecordType};

    #[test]
    fn a_query_says_what_was_asked_and_no_more() {
        let question = question("wWw.example", RecordType::AAAA);
        let mut out = [0xff; 64];
        let edns = UpstreamEdns::plain(1_232, true);
        let length = write_query(&mut out, 0xabcd, &question, false, Some(edns));
        let head = [0xab, 0xcd, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1];
        let opt = [0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0];
        assert_eq!(out[..length], [&head[..], &question, &opt].concat());

        let view = QueryView::parse(&out[..length]).unwrap();
        assert_eq!((view.id(), view.question()), (0xabcd, &question[..]));
        assert!(view.edns().unwrap().dnssec_ok);
    }

    #[test]
    fn edns_and_checking_are_as_told() {
        let question = question("example", RecordType::A);
        let mut out = [0xff; 64];
        let length = write_query(&mut out, 1, &question, true, None);
        assert_eq!(out[..12], [0, 1, 0x01, 0x30, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(length, 12 + question.len());
    }

    #[test]
    fn too_little_room_gives_nothing() {
        let question = question("example", RecordType::A);
        let edns = Some(UpstreamEdns::plain(1_232, false));
        let needed = 12 + question.len() + OPT_OCTETS;
        let mut out = vec![0; needed];
        assert_eq!(write_query(&mut out, 1, &question, false, edns), needed);
        assert_eq!(write_query(&mut out[..needed - 1], 1, &question, false, edns), 0);
    }

    #[test]
    fn options_are_added_as_told() {
        let question = question("www.example", RecordType::A);
        let mut out = [0xff; 512];
        let plain = UpstreamEdns::plain(1_232, false);
        let with_cookie = UpstreamEdns { cookie: b"8 octets", keepalive: true, ..plain };
        let length = write_query(&mut out, 1, &question, false, Some(with_cookie));
        let options = b"\0\x0a\0\x088 octets\0\x0b\0\0";
        assert!(out[..length].ends_with(&[&[0, 0, 0, 0, 0, 16][..], options].concat()));
        let view = QueryView::parse(&out[..length]).unwrap();
        assert_eq!(view.options().cookie, Some(&b"8 octets"[..]));
        assert_eq!((view.options().keepalive, view.options().padding), (Some(&[][..]), false));
    }

    /// RFC 8467 section 4.1, for every length of a name.
    #[test]
    fn padded_queries_are_blocks_of_128_octets() {
        let mut lengths = std::collections::BTreeSet::new();
        for letters in 1..=249 {
            let labels: Vec<String> =
                (0..letters).step_by(50).map(|at| "a".repeat(50.min(letters - at))).collect();
            let question = question(&labels.join("."), RecordType::A);
            let edns = UpstreamEdns { padded: true, ..UpstreamEdns::plain(1_232, true) };
            let mut out = [0xff; 512];
            let length = write_query(&mut out, 1, &question, false, Some(edns));
            assert_eq!(length % 128, 0);
            assert!(QueryView::parse(&out[..length]).unwrap().options().padding);
            lengths.insert(length);
        }
        assert_eq!(lengths, [128, 256, 384].into());
    }

    /// The longest of everything fits into what the engine has for a query.
    #[test]
    fn the_longest_query_is_as_long_as_the_table_of_limits_says() {
        let labels = [[b'a'; 63], [b'b'; 63], [b'c'; 63]];
        let name = labels.map(|label| String::from_utf8(label.to_vec()).unwrap()).join(".");
        let question = question(&format!("{name}.{}", "d".repeat(61)), RecordType::A);
        assert_eq!(question.len(), QUESTION_OCTETS);
        let plain = UpstreamEdns::plain(1_232, true);
        for edns in [
            UpstreamEdns { cookie: &[7; COOKIE_OCTETS_MAX], keepalive: true, ..plain },
            UpstreamEdns { keepalive: true, padded: true, ..plain },
        ] {
            let mut out = [0; QUERY_OCTETS];
            let length = write_query(&mut out, 1, &question, false, Some(edns));
            let mut more = [0; 1_024];
            assert_eq!(write_query(&mut more, 1, &question, false, Some(edns)), length);
            assert_eq!(out[..length], more[..length]);
        }
    }
}
