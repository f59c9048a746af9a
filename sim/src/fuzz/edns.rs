//! OPT records (RFC 6891): in queries, in responses, in replies; fields, options, where they stand.
//!
//! The input is taken apart into an OPT record and what is around it, so that a fuzzer spends its
//! time on the record and not on the header in front of it.

use balancedns_core::cache::{Packed, pack};
use balancedns_core::config::TtlBounds;
use balancedns_core::time::Instant;
use balancedns_core::wire::{
    ClientEdns, QueryView, Rcode, Rejected, ReplySettings, ResponseView, write_answer,
};
use hickory_proto::op::Message;

use super::oracle::{self, HEADER};

const CLIENT_SUBNET: u16 = 8;
const COOKIE: u16 = 10;
const TCP_KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const EXTENDED_ERROR: u16 = 15;
const QUESTION: &[u8] = b"\x07example\0\0\x01\0\x01";
const BOUNDS: TtlBounds = TtlBounds {
    min_seconds: 0,
    max_seconds: 3_600,
    negative_max_seconds: 3_600,
    servfail_seconds: 5,
};

/// `data` is: one octet for what stands around the OPT record, its class (2), its TTL field (4),
/// the rest its RDATA.
///
/// # Panics
/// If a property is broken.
pub fn edns(data: &[u8]) {
    let Some((&[around, class @ .., t0, t1, t2, t3], rdata)) = data.split_first_chunk::<7>() else {
        return;
    };
    if rdata.len() > 4_000 {
        return; // longer than a datagram of a client; TCP is read by the same code
    }
    let opt = Opt { class: u16::from_be_bytes(class), ttl: [t0, t1, t2, t3], rdata };
    let surroundings = Surroundings {
        another_opt: around & 1 != 0,
        owner_is_a_name: around & 2 != 0,
        record_in_front: around & 4 != 0,
        record_behind: around & 8 != 0,
    };
    assert_query(&opt, surroundings);
    assert_response(&opt, surroundings, around >> 4);
}

struct Opt<'a> {
    class: u16,
    ttl: [u8; 4],
    rdata: &'a [u8],
}

#[derive(Clone, Copy)]
struct Surroundings {
    another_opt: bool,
    owner_is_a_name: bool,
    record_in_front: bool,
    record_behind: bool,
}

impl Opt<'_> {
    fn version(&self) -> u8 {
        self.ttl[1]
    }

    /// Code and payload of each option, and whether they fill the record.
    fn options(&self) -> (Vec<(u16, &[u8])>, bool) {
        let (mut all, mut at) = (Vec::new(), 0);
        while at + 4 <= self.rdata.len() {
            let end = at + 4 + usize::from(oracle::number(self.rdata, at + 2));
            let Some(payload) = self.rdata.get(at + 4..end) else {
                return (all, false);
            };
            all.push((oracle::number(self.rdata, at), payload));
            at = end;
        }
        (all, at == self.rdata.len())
    }

    fn option(&self, code: u16) -> Option<&[u8]> {
        let (options, _) = self.options();
        options.into_iter().find_map(|(other, payload)| (other == code).then_some(payload))
    }

    fn append(&self, message: &mut Vec<u8>, owner: &[u8]) {
        message.extend_from_slice(owner);
        message.extend_from_slice(&[0, 41]);
        message.extend_from_slice(&self.class.to_be_bytes());
        message.extend_from_slice(&self.ttl);
        let length = u16::try_from(self.rdata.len()).expect("bounded by the caller");
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(self.rdata);
    }
}

/// A message with the question, the OPT record and what stands around it.
fn message(flags: [u8; 2], opt: &Opt<'_>, around: Surroundings) -> Vec<u8> {
    const OTHER: &[u8] = b"\x03key\0\0\xfa\0\xff\0\0\0\0\0\x02ab"; // a TSIG, in shape
    let Surroundings { another_opt, owner_is_a_name, record_in_front, record_behind } = around;
    let additionals = [true, another_opt, record_in_front, record_behind];
    let additionals = additionals.into_iter().filter(|there| *there).count();
    let mut out = vec![0x12, 0x34, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0];
    out.push(u8::try_from(additionals).expect("four at most"));
    out.extend_from_slice(QUESTION);
    if record_in_front {
        out.extend_from_slice(OTHER);
    }
    opt.append(&mut out, if owner_is_a_name { b"\x01x\0" } else { &[0] });
    if another_opt {
        Opt { class: 1_232, ttl: [0; 4], rdata: &[] }.append(&mut out, &[0]);
    }
    if record_behind {
        out.extend_from_slice(OTHER);
    }
    out
}

fn assert_query(opt: &Opt<'_>, around: Surroundings) {
    let octets = message([1, 0], opt, around);
    let (_, whole) = opt.options();
    let has_bad_options = opt.version() == 0 && !whole;
    let expected = if around.owner_is_a_name || has_bad_options || around.another_opt {
        Some(Rcode::FORMERR)
    } else {
        (opt.version() > 0).then_some(Rcode::BADVERS)
    };
    let fields = ClientEdns {
        udp_size: opt.class.max(512),
        dnssec_ok: opt.ttl[2] & 0x80 != 0,
        version: opt.version(),
    };
    match QueryView::parse(&octets) {
        Ok(view) => {
            assert_eq!(expected, None);
            assert_eq!(view.edns(), Some(fields));
            assert_eq!(view.client_subnet(), opt.option(CLIENT_SUBNET));
            let options = view.options();
            assert_eq!(options.cookie, opt.option(COOKIE), "the first counts");
            assert_eq!(options.keepalive, opt.option(TCP_KEEPALIVE));
            assert_eq!(options.padding, opt.option(PADDING).is_some());
            if let Some(hickory) = oracle::decode(&octets) {
                assert_eq!(oracle::client_edns(&hickory), Some(fields));
            }
            assert_reply(&view);
        }
        Err(Rejected::Reply { asker, rcode, .. }) => {
            assert_eq!(Some(rcode), expected);
            assert_eq!(asker.edns, Some(fields), "replies about a bad OPT have one");
            assert_eq!(asker.question, QUESTION);
        }
        Err(Rejected::Drop) => panic!("a query with a header is not dropped"),
    }
}

/// The OPT record of a reply is ours: one, at the end, with nothing of the client's but DO.
fn assert_reply(view: &QueryView<'_>) {
    let answer = [
        &[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0][..],
        QUESTION,
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01",
    ]
    .concat();
    let response = ResponseView::parse(&answer).expect("it is a plain answer");
    let mut packed = Vec::new();
    pack(&response, &BOUNDS, Instant::ZERO, &mut packed).expect("there is a question");
    let mut out = [0; 1_232];
    let settings = ReplySettings { udp_size: 1_232 };
    let asker = view.asker(view.udp_limit(1_232));
    let packed = Packed::new(&packed);
    let length = write_answer(&mut out, &asker, settings, packed, Instant::ZERO, None);
    let reply = &out[..length];
    let own =
        [&[0, 0, 41, 4, 0xd0, 0, 0][..], &[if asks_dnssec(view) { 0x80 } else { 0 }, 0, 0, 0]];
    assert!(reply.ends_with(&own.concat()), "{reply:02x?}");
    let reply = Message::from_vec(reply).expect("what we write can be read");
    assert!(reply.edns.is_some_and(|edns| edns.options().as_ref().is_empty()));
    assert_eq!((reply.answers.len(), reply.additionals.len()), (1, 0));
}

fn asks_dnssec(view: &QueryView<'_>) -> bool {
    view.edns().is_some_and(|edns| edns.dnssec_ok)
}

fn assert_response(opt: &Opt<'_>, around: Surroundings, rcode: u8) {
    let octets = message([0x81, 0x80 | rcode], opt, around);
    let Ok(view) = ResponseView::parse(&octets) else {
        assert!(around.another_opt || around.owner_is_a_name, "only OPT can be misplaced");
        return;
    };
    assert!(!around.another_opt && !around.owner_is_a_name);
    let expected = u16::from(opt.ttl[0]) << 4 | u16::from(rcode);
    assert_eq!(view.rcode().0, expected, "RFC 6891 section 6.1.3");
    let error = opt.option(EXTENDED_ERROR).filter(|payload| payload.len() >= 2);
    let error = error.map(|payload| oracle::number(payload, 0));
    assert_eq!(view.extended_error().map(|error| error.0), error, "RFC 8914 section 2");
    assert_eq!(view.cookie(), opt.option(COOKIE));
    if let Some(hickory) = oracle::decode(&octets) {
        assert_eq!(u16::from(hickory.metadata.response_code), expected);
    }
    // Nothing that is for this hop alone is kept.
    let mut packed = Vec::new();
    pack(&view, &BOUNDS, Instant::ZERO, &mut packed).expect("there is a question");
    let mut out = [0; 512];
    let plain = [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], QUESTION].concat();
    let query = QueryView::parse(&plain).expect("it is a plain query");
    let settings = ReplySettings { udp_size: 1_232 };
    let packed = Packed::new(&packed);
    let length = write_answer(&mut out, &query.asker(512), settings, packed, Instant::ZERO, None);
    assert_eq!(length, HEADER + QUESTION.len(), "OPT and TSIG are hop by hop");
}
