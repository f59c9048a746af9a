//! The form of a reply: header, question and OPT record, whatever it says.

use super::Query;
use crate::invariant::{Broken, Checks, Invariant};
use crate::message::{AA, AD, CD, CLIENT_COOKIE, QR, RA, RD, Z};
use crate::reading::{Reading, read};

/// Header and question are the query's, and the other flags are ours.
pub(super) fn check_echo(query: &Query, message: &[u8], checks: &mut Checks) -> Result<(), Broken> {
    const KEPT: u16 = 0x7800 | RD | CD; // opcode, RD, CD
    const OURS: u16 = QR | AA | RA | Z;
    let flags = u16::from_be_bytes([message[2], message[3]]);
    let same_flags = flags & KEPT == query.flags() & KEPT;
    let asked = &query.message[12..query.question_end];
    let same_question = message[4..6] == [0, 1] && message[12..].starts_with(asked);
    // Who sends no readable question gets none back.
    let no_question = asked.is_empty() && message[4..6] == [0, 0];
    checks.that(Invariant::S3, same_flags && (same_question || no_question), || {
        format!("the reply does not repeat its query: {:02x?} to {:02x?}", message, query.message)
    })?;
    // AD is for those who show that they know it (RFC 6840 section 5.8).
    let may_be_authentic = query.dnssec_ok() || query.flags() & AD != 0;
    let own_flags = flags & OURS == QR | RA && (may_be_authentic || flags & AD == 0);
    checks.that(Invariant::S4, own_flags, || {
        format!("flags {flags:#06x} of a reply to flags {:#06x}", query.flags())
    })
}

/// It decodes, and suits the client. Its OPT record is of one of the generations since it was asked.
pub(super) fn check_form(
    query: &Query,
    message: &[u8],
    udp_sizes: &[u16],
    checks: &mut Checks,
) -> Result<Reading, Broken> {
    let reading = read(message).map_err(|why| {
        Broken::new(Invariant::S4, format!("the reply cannot be read: {why}: {message:02x?}"))
    })?;
    let since = usize::try_from(query.generation).expect("few generations");
    let suits = match (query.edns, reading.edns) {
        (None, None) => true,
        (Some((_, dnssec_ok)), Some(edns)) => {
            edns.dnssec_ok == dnssec_ok && udp_sizes[since..].contains(&edns.size)
        }
        (None, Some(_)) | (Some(_), None) => false,
    };
    checks.that(Invariant::S4, suits, || {
        format!("OPT in the query: {:?}, in the reply: {:?}", query.edns, reading.edns)
    })?;
    // Who sends a cookie gets it back, and nobody else one.
    let option = [&[0, 10, 0, 8], CLIENT_COOKIE].concat();
    let sent = query.message.windows(option.len()).any(|octets| octets == option);
    let cookie = reading.edns.and_then(|edns| edns.cookie);
    let same = cookie.as_ref().map(<[u8; 8]>::as_slice) == sent.then_some(CLIENT_COOKIE);
    checks.that(Invariant::S4, same, || format!("cookie {cookie:?} for one sent: {sent}"))?;
    checks.that(Invariant::S4, message.len() <= query.limit, || {
        format!("{} octets, where the client takes {}", message.len(), query.limit)
    })?;
    Ok(reading)
}

/// Extended errors (RFC 8914 section 4) that a failure of this rcode has to give one of.
pub(super) const fn extended_errors(rcode: u8) -> Option<&'static [u16]> {
    match rcode {
        // Other, cached, not ready, nobody reachable, network.
        2 => Some(&[0, 13, 14, 22, 23]),
        // Passed on, since all upstreams said so.
        4 | 5 => Some(&[23]),
        _ => None,
    }
}
