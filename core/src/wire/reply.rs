//! Replies to clients: header, question, records, OPT, in what the client can take.
//!
//! Together with [`local`](super::local) the one place that assembles replies. Nothing here
//! allocates.

use super::client_subnet::ClientSubnet;
use super::codes::{ErrorNote, Rcode};
use super::cookie::REPLY_COOKIE_OCTETS;
use super::edns::{Keepalive, OwnOpt, OwnOptions, REPLY_BLOCK_OCTETS};
use super::header::Flags;
use super::octets::{Reader, Writer};
use super::query::Asker;
use crate::cache::Packed;
use crate::planted::{Bug, is_planted};
use crate::policy::TtlLimits;
use crate::time::Instant;

/// What replies need of the configuration.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ReplySettings {
    /// The receive buffer that our OPT record advertises, in octets.
    pub udp_size: u16,
}

/// What one client is told in the OPT record of its replies.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplyOptions {
    /// Its cookie and ours (RFC 7873 section 5.2).
    pub cookie: Option<[u8; REPLY_COOKIE_OCTETS]>,
    /// How long its connection may be idle, in units of 100 ms (RFC 7828 section 3.2.2).
    pub keepalive: Option<u16>,
    /// Whether replies are padded to multiples of 468 octets, as far as the limit goes (RFC 8467
    /// section 4.1).
    pub padded: bool,
    /// The network that the answer is for, if the client said one (RFC 7871 section 7.2.2).
    pub subnet: Option<ClientSubnet>,
}

impl ReplyOptions {
    fn with_error<'a>(&'a self, error: Option<ErrorNote<'a>>) -> OwnOptions<'a> {
        OwnOptions {
            cookie: self.cookie.as_ref().map_or(&[], |cookie| &cookie[..]),
            keepalive: self.keepalive.map(Keepalive::Idle),
            error,
            // All of the prefix gets this answer: it is kept for this prefix alone.
            subnet: self.subnet.map(|subnet| (subnet, subnet.prefix_length())),
            block_octets: self.padded.then_some(REPLY_BLOCK_OCTETS),
        }
    }
}

/// Writes a packed answer for one client and returns its length.
///
/// The question is echoed octet for octet; names in the answer that point at it show the client's
/// spelling. Id, opcode, RD and CD are the client's; RA is set, AA clear; AD is set if the answer
/// has it and the client sent AD or DO (RFC 6840 section 5.8). TTLs are less by the whole seconds
/// since the answer came, zero at least. An OPT record is added if the client sent one, with
/// `error` in it and the asker's options.
///
/// What is too long for the client loses its additional records first, without TC (RFC 2181
/// section 9), then all records, with TC. An answer to a question of another length, which would
/// be a mistake of ours, becomes SERVFAIL. Returns 0 if `out` or the limit is too small for header,
/// question and OPT.
#[must_use]
pub fn write_answer(
    out: &mut [u8],
    asker: &Asker<'_>,
    settings: ReplySettings,
    answer: Packed<'_>,
    now: Instant,
    error: Option<ErrorNote<'_>>,
) -> usize {
    if answer.question_octets() != asker.question.len() {
        return write_rcode(out, asker, settings, Rcode::SERVFAIL, error);
    }
    let frame = Frame::new(asker, settings, answer.rcode(), error);
    let wants_authentic =
        asker.flags.contains(Flags::AD) || asker.edns.is_some_and(|edns| edns.dnssec_ok);
    let mut flags = 0;
    if answer.authentic_data() && wants_authentic {
        flags |= Flags::AD;
    }
    if answer.truncated() {
        flags |= Flags::TC;
    }
    let room = frame.room(out);
    let [answers, authorities, additionals] = answer.counts();
    let mut age_seconds = now.seconds_since(answer.stored_at());
    if is_planted(Bug::TtlAgedTooLittle) {
        age_seconds = age_seconds.saturating_sub(1);
    }
    let part = if answer.body().len() <= room {
        Part { counts: [answers, authorities, additionals], body: answer.body() }
    } else if answer.body_without_additional().len() <= room {
        Part { counts: [answers, authorities, 0], body: answer.body_without_additional() }
    } else {
        return frame.finish(out, flags | Flags::TC, [0; 3], |_| Some(()));
    };
    frame.finish(out, flags, part.counts, |writer| {
        let body = writer.put_mut(part.body)?;
        for offset in answer.ttl_offsets() {
            // Offsets rise; those of records left out come last.
            let Some(ttl) = body.get_mut(offset..).and_then(<[u8]>::first_chunk_mut::<4>) else {
                break;
            };
            *ttl = u32::from_be_bytes(*ttl).saturating_sub(age_seconds).to_be_bytes();
        }
        Some(())
    })
}

/// Bounds the TTLs of an answer's records in a reply that [`write_answer`] has just written for this
/// asker.
pub(crate) fn limit_ttls(
    reply: &mut [u8],
    asker: &Asker<'_>,
    answer: Packed<'_>,
    limits: TtlLimits,
) {
    let mut counts = Reader::at(reply, 6);
    let counted = (0..3).filter_map(|_| counts.as_mut()?.u16()).map(usize::from).sum::<usize>();
    let records = counted.saturating_sub(usize::from(asker.edns.is_some())); // OPT has no TTL
    let start = crate::limits::HEADER_OCTETS.saturating_add(asker.question.len());
    for offset in answer.ttl_offsets().take(records) {
        let place = reply.get_mut(start.saturating_add(offset)..);
        if let Some(ttl) = place.and_then(<[u8]>::first_chunk_mut::<4>) {
            *ttl = limits.clamp(u32::from_be_bytes(*ttl)).to_be_bytes();
        }
    }
}

/// The records that are sent.
struct Part<'a> {
    counts: [u16; 3],
    body: &'a [u8],
}

/// Writes a reply that is only an rcode, with `error` in its OPT record if the client sent one, and
/// returns its length. Returns 0 if `out` or the limit is too small for it.
#[must_use]
pub fn write_rcode(
    out: &mut [u8],
    asker: &Asker<'_>,
    settings: ReplySettings,
    rcode: Rcode,
    error: Option<ErrorNote<'_>>,
) -> usize {
    Frame::new(asker, settings, rcode, error).finish(out, 0, [0; 3], |_| Some(()))
}

/// Writes a reply without records and with TC, so that the client asks again over TCP; its length, 0
/// if `out` or the limit is too small.
#[must_use]
pub fn write_truncated(out: &mut [u8], asker: &Asker<'_>, settings: ReplySettings) -> usize {
    Frame::new(asker, settings, Rcode::NOERROR, None).finish(out, Flags::TC, [0; 3], |_| Some(()))
}

/// What is around the records of a reply.
pub(crate) struct Frame<'a> {
    asker: &'a Asker<'a>,
    rcode: Rcode,
    opt: Option<OwnOpt<'a>>,
}

impl<'a> Frame<'a> {
    /// The frame of a reply with this rcode. One that needs an OPT record is SERVFAIL to a client
    /// that sent none: the low bits alone would say something else.
    pub(crate) fn new(
        asker: &'a Asker<'a>,
        settings: ReplySettings,
        rcode: Rcode,
        error: Option<ErrorNote<'a>>,
    ) -> Self {
        let opt = asker.edns.map(|edns| OwnOpt {
            udp_size: settings.udp_size,
            rcode_high: rcode.high(),
            dnssec_ok: edns.dnssec_ok,
            options: asker.options.with_error(error),
        });
        let rcode = if opt.is_none() && rcode.high() != 0 { Rcode::SERVFAIL } else { rcode };
        Self { asker, rcode, opt }
    }

    /// Octets of header, question and OPT record, without padding.
    fn octets(&self) -> usize {
        let opt = self.opt.as_ref().map_or(0, OwnOpt::octets);
        crate::limits::HEADER_OCTETS.saturating_add(self.asker.question.len()).saturating_add(opt)
    }

    /// Octets left for records in `out`.
    fn room(&self, out: &[u8]) -> usize {
        self.asker.limit.min(out.len()).saturating_sub(self.octets())
    }

    /// Writes the reply: header with `flags` (beside those that every reply has) and the counts of
    /// answers, authorities and additional records, question, whatever `records` writes, OPT.
    /// Returns the length, 0 if `out` or the client's limit is too small.
    pub(crate) fn finish(
        &self,
        out: &mut [u8],
        flags: u16,
        counts: [u16; 3],
        records: impl FnOnce(&mut Writer<'_>) -> Option<()>,
    ) -> usize {
        let mut writer = Writer::new(out, self.asker.limit);
        let written = self.write(&mut writer, flags, counts, records);
        written.map_or(0, |()| writer.position())
    }

    fn write(
        &self,
        out: &mut Writer<'_>,
        flags: u16,
        [answers, authorities, additionals]: [u16; 3],
        records: impl FnOnce(&mut Writer<'_>) -> Option<()>,
    ) -> Option<()> {
        let theirs = self.asker.flags.0 & (Flags::OPCODE | Flags::RD | Flags::CD);
        out.u16(self.asker.id)?;
        out.u16(Flags::QR | Flags::RA | theirs | flags | self.rcode.low())?;
        out.u16(u16::from(!self.asker.question.is_empty()))?;
        out.u16(answers)?;
        out.u16(authorities)?;
        out.u16(additionals.saturating_add(u16::from(self.opt.is_some())))?;
        out.put(self.asker.question)?;
        records(out)?;
        match &self.opt {
            Some(opt) => opt.write(out),
            None => Some(()),
        }
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
