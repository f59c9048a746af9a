//! What an answer leads to: names of aliases and services, addresses. They are checked against the
//! lists and the rebinding guard when the answer comes, and again after those have changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cache::{Marks, Packed};
use crate::config::{Snapshot, Stage};
use crate::limits::NAME_OCTETS;
use crate::planted::{Bug, is_planted};
use crate::policy::{BlockSet, BlockSetId, Rebinding};
use crate::wire::{
    Asker, Flags, Reader, Record, RecordClass, RecordType, ReplyOptions, ReplySettings,
    ResponseView, read_record, write_answer,
};

/// The mark of an answer that has a private address and must not.
pub(super) const PRIVATE: u64 = 1 << 63;

/// By which rules answers are checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Their number: see [`Shared::rules_number`](super::Shared).
    number: u16,
    names: bool,
    addresses: bool,
}

impl Rules {
    /// Those of a configuration.
    pub(super) fn new(snapshot: &Snapshot, number: u16) -> Self {
        let has_lists = !snapshot.blocking.is_empty() && snapshot.chain.contains(&Stage::Blacklist);
        Self { number, names: has_lists, addresses: snapshot.rebinding.is_some() }
    }

    /// Whether there is anything to check.
    pub(super) const fn is_empty(self) -> bool {
        !self.names && !self.addresses
    }

    /// What is known of an answer, unless it was checked by other rules.
    pub(super) fn known(self, marks: Marks) -> Option<u64> {
        let is_current = marks.checked_by == self.number || is_planted(Bug::MarksNeverRenewed);
        is_current.then_some(marks.bits)
    }

    /// Checks an answer to a question for this lower-cased name.
    pub(super) fn check(self, snapshot: &Snapshot, name: &[u8], view: &ResponseView<'_>) -> Marks {
        let mut marks = Marks { bits: 0, checked_by: self.number };
        let guard = snapshot.rebinding.as_ref().filter(|guard| !guard.allows(name));
        if self.is_empty() || is_planted(Bug::LeadsUnchecked) {
            return marks;
        }
        each_lead(view, |lead| match lead {
            Lead::Name(name) if self.names => {
                marks.bits |= snapshot.blocking.sets_that_block(name);
            }
            Lead::Address(ip) if guard.is_some() && Rebinding::is_private(ip) => {
                marks.bits |= PRIVATE;
            }
            Lead::Name(_) | Lead::Address(_) => {}
        });
        marks
    }
}

/// The marks that concern a client of a group.
pub(super) const fn marks_of(set: BlockSetId) -> u64 {
    PRIVATE | 1 << set.0
}

/// The list that blocks what an answer leads to.
pub(super) fn blocking_list<'s>(set: &'s BlockSet, view: &ResponseView<'_>) -> Option<&'s str> {
    let mut found = None;
    each_lead(view, |lead| {
        if let Lead::Name(name) = lead
            && found.is_none()
        {
            let is_blocked = set.blocks(name).is_some();
            let mut lists = set.lists.iter().filter(|_| is_blocked);
            let list = lists.find(|list| list.names.matches(name).is_some());
            found = list.map(|list| list.name.as_str());
        }
    });
    found
}

/// The message that a packed answer to this question was made of, but for what it had in its OPT.
pub(super) fn unpacked(question: &[u8], answer: Packed<'_>, now: crate::time::Instant) -> Vec<u8> {
    let asker = Asker {
        id: 0,
        flags: Flags(Flags::RD | Flags::AD),
        question,
        edns: None,
        limit: crate::limits::MESSAGE_OCTETS,
        options: ReplyOptions::default(),
    };
    let mut message = vec![0; crate::limits::MESSAGE_OCTETS];
    let settings = ReplySettings { udp_size: 512 };
    let len = write_answer(&mut message, &asker, settings, answer, now, None);
    message.truncate(len);
    message
}

/// Name, type and class IN.
pub(super) fn question(name: &[u8], record_type: RecordType) -> Vec<u8> {
    let [high, low] = record_type.0.to_be_bytes();
    let [class_high, class_low] = RecordClass::IN.0.to_be_bytes();
    [name, &[high, low, class_high, class_low]].concat()
}

/// Something that an answer leads to.
enum Lead<'a> {
    /// A name in lower-cased wire form.
    Name(&'a [u8]),
    Address(IpAddr),
}

fn each_lead(view: &ResponseView<'_>, mut take: impl FnMut(Lead<'_>)) {
    let sections = view.sections();
    let Some(mut reader) = Reader::at(view.message(), sections.start) else { return };
    for _ in 0..sections.answers {
        let Some(record) = read_record(&mut reader) else { return };
        leads_of(view.message(), &record, &mut take);
    }
}

fn leads_of(message: &[u8], record: &Record<'_>, take: &mut impl FnMut(Lead<'_>)) -> Option<()> {
    let start = record.end.checked_sub(record.rdata.len())?;
    let mut name = [0; NAME_OCTETS];
    match record.record_type {
        RecordType::A => take(Lead::Address(Ipv4Addr::from(*record.rdata.first_chunk()?).into())),
        RecordType::AAAA => {
            take(Lead::Address(Ipv6Addr::from(*record.rdata.first_chunk()?).into()));
        }
        RecordType::CNAME | RecordType::DNAME => {
            let len = Reader::at(message, start)?.expand_name(&mut name)?;
            take(Lead::Name(name.get(..len)?));
        }
        RecordType::HTTPS | RecordType::SVCB => {
            let mut reader = Reader::at(message.get(..record.end)?, start)?;
            reader.u16()?; // the priority
            let len = reader.expand_name(&mut name)?;
            if len > 1 {
                take(Lead::Name(name.get(..len)?)); // the root means the owner itself
            }
            service_hints(&mut reader, take);
        }
        _ => {}
    }
    Some(())
}

/// Addresses that are told beside a service (RFC 9460 section 7.3).
fn service_hints(reader: &mut Reader<'_>, take: &mut impl FnMut(Lead<'_>)) -> Option<()> {
    const IPV4_HINT: u16 = 4;
    const IPV6_HINT: u16 = 6;
    loop {
        let key = reader.u16()?;
        let length = reader.u16()?;
        let value = reader.take(usize::from(length))?;
        match key {
            IPV4_HINT => {
                let (ips, _) = value.as_chunks::<4>();
                ips.iter().for_each(|ip| take(Lead::Address(Ipv4Addr::from(*ip).into())));
            }
            IPV6_HINT => {
                let (ips, _) = value.as_chunks::<16>();
                ips.iter().for_each(|ip| take(Lead::Address(Ipv6Addr::from(*ip).into())));
            }
            _ => {}
        }
    }
}
