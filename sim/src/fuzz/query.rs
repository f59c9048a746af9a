//! Queries of clients: what we accept hickory reads alike, and each kind of reply to it decodes,
//! fits, and says what it should.

use std::net::Ipv4Addr;

use balancedns_core::cache::Key;
use balancedns_core::hash::KeyedState;
use balancedns_core::limits::{MESSAGE_OCTETS, UDP_PLAIN_OCTETS};
use balancedns_core::wire::{
    Asker, ExtendedError, Flags, LocalData, LocalRecord, Owner, QueryView, Rcode, RecordType,
    Rejected, ReplySettings, UpstreamEdns, local_soa, write_local, write_query, write_rcode,
};
use hickory_proto::op::Message;

use super::oracle::{self, HEADER};

const SETTINGS: ReplySettings = ReplySettings { udp_size: 1_232 };

/// `data` is a client's message.
///
/// # Panics
/// If a property is broken.
pub fn query(data: &[u8]) {
    match QueryView::parse(data) {
        Err(Rejected::Drop) => assert!(data.len() < HEADER || data[2] & 0x80 != 0),
        Err(Rejected::Reply { asker, rcode, .. }) => {
            assert_eq!(asker.limit, UDP_PLAIN_OCTETS);
            assert_eq!(asker.id, oracle::number(data, 0));
            assert!(matches!(rcode, Rcode::FORMERR | Rcode::NOTIMP | Rcode::BADVERS));
            assert_eq!(rcode == Rcode::NOTIMP, asker.flags.opcode() != 0);
            assert_rcode_replies(&asker, rcode);
        }
        Ok(view) => {
            compare(data, &view);
            assert_replies(&view);
            assert_asked_again(&view);
        }
    }
}

/// The view and hickory read the same.
fn compare(data: &[u8], view: &QueryView<'_>) {
    let Some(hickory) = oracle::decode(data) else { return };
    assert_eq!(view.id(), hickory.metadata.id);
    // The rcode of a query means nothing, and hickory mixes the OPT record's high bits in.
    let ignored = oracle::RESERVED | Flags::RCODE;
    assert_eq!(view.flags().0 & !ignored, oracle::flags(&hickory) & !ignored);
    assert_eq!(view.question(), oracle::question(&hickory));
    assert_eq!(view.record_type(), RecordType(hickory.queries[0].query_type.into()));
    assert_eq!(view.record_class().0, u16::from(hickory.queries[0].query_class));
    assert_eq!(view.edns(), oracle::client_edns(&hickory));
    assert!(hickory.answers.is_empty() && hickory.authorities.is_empty());
    assert_eq!(hickory.queries.len(), 1);
}

/// Every kind of reply that is made without an upstream, over every transport.
fn assert_replies(view: &QueryView<'_>) {
    let limit = view.udp_limit(SETTINGS.udp_size);
    assert!((UDP_PLAIN_OCTETS..=usize::from(SETTINGS.udp_size)).contains(&limit));
    for asker in [view.asker(limit), view.asker(MESSAGE_OCTETS)] {
        for rcode in [Rcode::REFUSED, Rcode::SERVFAIL, Rcode::BADVERS] {
            assert_rcode_replies(&asker, rcode);
        }
        assert_local_replies(&asker);
    }
}

fn assert_rcode_replies(asker: &Asker<'_>, rcode: Rcode) {
    for error in [None, Some(ExtendedError(15))] {
        let mut out = vec![0xff; MESSAGE_OCTETS];
        let length = write_rcode(&mut out, asker, SETTINGS, rcode, error.map(Into::into));
        out.truncate(length);
        let reply = assert_reply(&out, asker, rcode, error);
        assert!(reply.answers.is_empty() && reply.authorities.is_empty());
        assert!(!reply.metadata.truncation, "header, question and OPT fit into 512 octets");
    }
}

fn assert_local_replies(asker: &Asker<'_>) {
    let record = LocalRecord {
        owner: Owner::Question,
        record_type: RecordType::A,
        ttl: 60,
        data: LocalData::A(Ipv4Addr::LOCALHOST),
    };
    // Few records fit everywhere, many do not fit plain datagrams, and pointers may point far.
    for (answers, authorities) in [(1, 0), (0, 1), (40, 1)] {
        let records = vec![record; answers];
        let soa = vec![local_soa(60); authorities];
        let mut out = vec![0xff; MESSAGE_OCTETS];
        let length = write_local(&mut out, asker, SETTINGS, Rcode::NOERROR, &records, &soa, None);
        out.truncate(length);
        let reply = assert_reply(&out, asker, Rcode::NOERROR, None);
        if reply.metadata.truncation {
            assert!(reply.answers.is_empty() && reply.authorities.is_empty());
            assert!(asker.limit < MESSAGE_OCTETS);
        } else {
            assert_eq!((reply.answers.len(), reply.authorities.len()), (answers, authorities));
            let name = oracle::question(&reply);
            let owners = reply.all_sections().map(|record| oracle::wire(&record.name));
            owners.for_each(|owner| assert!(name.starts_with(&owner)));
        }
    }
}

/// What holds of every reply.
fn assert_reply(
    out: &[u8],
    asker: &Asker<'_>,
    rcode: Rcode,
    error: Option<ExtendedError>,
) -> Message {
    assert!((HEADER..=asker.limit).contains(&out.len()), "{} octets", out.len());
    let reply = Message::from_vec(out).expect("what we write can be read");
    assert_eq!(reply.metadata.id, asker.id);
    let expected = Flags::QR | Flags::RA | asker.flags.0 & (Flags::OPCODE | Flags::RD | Flags::CD);
    let ignored = Flags::TC | Flags::RCODE;
    assert_eq!(oracle::flags(&reply) & !ignored, expected);
    // Without OPT there is no place for the high bits.
    let shown = if asker.edns.is_none() && rcode.0 > 15 { Rcode::SERVFAIL } else { rcode };
    assert_eq!(u16::from(reply.metadata.response_code), shown.0);
    assert_eq!(oracle::question(&reply), asker.question);
    let edns = oracle::client_edns(&reply);
    assert_eq!(edns.is_some(), asker.edns.is_some(), "OPT if and only if the client sent one");
    if let (Some(ours), Some(theirs)) = (edns, asker.edns) {
        assert_eq!((ours.udp_size, ours.version), (SETTINGS.udp_size, 0));
        assert_eq!(ours.dnssec_ok, theirs.dnssec_ok, "RFC 3225 section 3");
        let options = reply.edns.as_ref().map_or(0, |edns| edns.options().as_ref().len());
        assert_eq!(options, usize::from(error.is_some()), "no option but the extended error");
    }
    reply
}

/// The question goes upstream as it is, and letter case makes no other key.
fn assert_asked_again(view: &QueryView<'_>) {
    let mut out = [0; 512];
    let edns = view.edns().map(|edns| UpstreamEdns::plain(1_232, edns.dnssec_ok));
    let length = write_query(&mut out, !view.id(), view.question(), true, edns);
    let again = QueryView::parse(&out[..length]).expect("what we ask can be read");
    assert_eq!((again.id(), again.question()), (!view.id(), view.question()));
    assert_eq!(again.edns().is_some(), view.edns().is_some());

    let key = |name: &[u8]| {
        let hash = KeyedState::new((1, 2));
        Key::new(
            &hash,
            name,
            view.record_type(),
            view.record_class(),
            false,
            true,
            None,
            balancedns_core::upstream::Route::General,
        )
    };
    let (upper, lower) = (view.name().to_ascii_uppercase(), view.name().to_ascii_lowercase());
    assert!(key(view.name()) == key(&upper));
    assert_eq!(key(&upper).name(), lower);
}
