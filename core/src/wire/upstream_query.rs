//! Queries of our own, as they go upstream: the question and an OPT record of ours, nothing that
//! the client sent besides (RFC 6891 section 6.1.1: OPT is hop by hop).

use super::edns::{OPT_OCTETS, OwnOpt};
use super::header::Flags;
use super::octets::Writer;

/// Octets of the OPT record that [`write_query`] adds.
pub const UPSTREAM_OPT_OCTETS: usize = OPT_OCTETS;

/// The OPT record of a query.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct UpstreamEdns {
    /// The receive buffer advertised, in octets.
    pub udp_size: u16,
    /// The DO bit.
    pub dnssec_ok: bool,
}

/// Writes a query with RD and AD set and returns its length. AD asks for the AD bit of the answer
/// (RFC 6840 section 5.7). `question` is name, type and class; its letter case is kept. Needs
/// twelve octets, the question and [`UPSTREAM_OPT_OCTETS`]; returns 0 if `out` is shorter.
#[must_use]
pub fn write_query(
    out: &mut [u8],
    id: u16,
    question: &[u8],
    checking_disabled: bool,
    edns: Option<UpstreamEdns>,
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
    edns: Option<UpstreamEdns>,
) -> Option<()> {
    let checking = if checking_disabled { Flags::CD } else { 0 };
    out.u16(id)?;
    out.u16(Flags::RD | Flags::AD | checking)?;
    out.put(&[0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())])?;
    out.put(question)?;
    if let Some(UpstreamEdns { udp_size, dnssec_ok }) = edns {
        OwnOpt { udp_size, rcode_high: 0, dnssec_ok, error: None }.write(out)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::testing::question;
    use crate::wire::{QueryView, RecordType};

    #[test]
    fn a_query_says_what_was_asked_and_no_more() {
        let question = question("wWw.example", RecordType::AAAA);
        let mut out = [0xff; 64];
        let edns = UpstreamEdns { udp_size: 1_232, dnssec_ok: true };
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
        let edns = Some(UpstreamEdns { udp_size: 1_232, dnssec_ok: false });
        let needed = 12 + question.len() + UPSTREAM_OPT_OCTETS;
        let mut out = vec![0; needed];
        assert_eq!(write_query(&mut out, 1, &question, false, edns), needed);
        assert_eq!(write_query(&mut out[..needed - 1], 1, &question, false, edns), 0);
    }
}
