//! Answers to other questions than the one that was asked: a client keeps its question, and gets the
//! aliases that lead from its name to the one that was looked up, with that one's records behind them.

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name as HickoryName, RData, Record, RecordType as HickoryType};

use super::leads::{question, unpacked};
use crate::cache::{Packed, pack_again};
use crate::limits::HEADER_OCTETS;
use crate::policy::TtlLimits;
use crate::time::Instant;
use crate::wire::{LocalData, LocalRecord, Name, Owner, RecordType, ResponseView, labels};

/// How an answer differs from what is known of the name that it was found under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Detour {
    /// The names that one after the other took the place of the one before.
    pub(super) aliases: Vec<Alias>,
    /// The type that was asked for instead of the client's.
    pub(super) record_type: Option<RecordType>,
    /// Bounds of its TTLs.
    pub(super) ttl: TtlLimits,
}

/// A name that another one stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Alias {
    pub(super) target: Name,
    pub(super) ttl: u32,
}

impl Detour {
    /// Whether the question is the client's own.
    pub(super) fn is_direct(&self) -> bool {
        self.aliases.is_empty() && self.record_type.is_none()
    }

    /// Whether an answer is given as it was found.
    pub(super) fn is_none(&self) -> bool {
        self.is_direct() && self.ttl.is_none()
    }

    /// The aliases, the asked name's first.
    pub(super) fn records(&self) -> impl Iterator<Item = LocalRecord<'_>> {
        let targets = self.aliases.iter().map(|alias| Owner::Name(alias.target.as_wire()));
        let owners = std::iter::once(Owner::Question).chain(targets);
        owners.zip(&self.aliases).map(|(owner, alias)| LocalRecord {
            owner,
            record_type: RecordType::CNAME,
            ttl: alias.ttl,
            data: LocalData::Name(alias.target.as_wire()),
        })
    }

    /// Whose records are looked up.
    pub(super) fn owner(&self) -> Owner<'_> {
        let last = self.aliases.last();
        last.map_or(Owner::Question, |alias| Owner::Name(alias.target.as_wire()))
    }

    /// A record of the name that was looked up, as it is given to the client.
    pub(super) fn adapted<'r>(&'r self, record: &LocalRecord<'r>) -> LocalRecord<'r> {
        let owner = if record.owner == Owner::Question { self.owner() } else { record.owner };
        LocalRecord { owner, ttl: self.ttl.clamp(record.ttl), ..*record }
    }

    /// Whether a record of this type answers the client, who asked for `asked`: with another type than
    /// the asked one only addresses carry over, and none that was not asked for.
    pub(super) fn carries(&self, asked: RecordType, found: RecordType) -> bool {
        let is_address = matches!(found, RecordType::A | RecordType::AAAA);
        let is_alias = matches!(found, RecordType::CNAME | RecordType::DNAME);
        self.record_type.is_none()
            || is_alias
            || found == asked
            || (asked == RecordType::ANY && is_address)
    }

    /// Packs the answer of the last name as one to the question that was asked. `None` if what an
    /// upstream sent cannot be read record by record, or has no room for the aliases.
    pub(super) fn repack(&self, asked: &[u8], answer: Packed<'_>, now: Instant) -> Option<Vec<u8>> {
        let (asked_name, [high, low, ..]) = asked.split_last_chunk::<4>()?;
        let asked_type = RecordType(u16::from_be_bytes([*high, *low]));
        let name = match self.owner() {
            Owner::Question => asked_name,
            Owner::Name(name) => name,
        };
        let found = question(name, self.record_type.unwrap_or(asked_type));
        let mut message = Message::from_vec(&unpacked(&found, answer, now)).ok()?;
        message.queries = Message::from_vec(&bare(asked)).ok()?.queries;
        let carries = |found: HickoryType| self.carries(asked_type, RecordType(found.into()));
        message.answers.retain(|record| carries(record.record_type()));
        let mut owner = hickory_name(asked_name)?;
        let mut aliases = Vec::with_capacity(self.aliases.len() + message.answers.len());
        for alias in &self.aliases {
            let target = hickory_name(alias.target.as_wire())?;
            let data = RData::CNAME(CNAME(target.clone()));
            aliases.push(Record::from_rdata(
                std::mem::replace(&mut owner, target),
                alias.ttl,
                data,
            ));
        }
        aliases.append(&mut message.answers);
        message.answers = aliases;
        let message = message.to_vec().ok()?;
        let mut packed = Vec::new();
        pack_again(&ResponseView::parse(&message).ok()?, now, &mut packed).ok()?;
        Some(packed)
    }
}

/// A message with nothing but a question.
fn bare(question: &[u8]) -> Vec<u8> {
    let mut message = vec![0; HEADER_OCTETS];
    message[5] = 1; // QDCOUNT
    message.extend_from_slice(question);
    message
}

fn hickory_name(wire: &[u8]) -> Option<HickoryName> {
    let mut name = HickoryName::from_labels(labels(wire)).ok()?;
    name.set_fqdn(true);
    Some(name)
}
