//! Records of the configuration: any type, wildcards (RFC 4592), reverse names.
//!
//! They are no zone: a name that is not listed is somebody else's, whatever stands below it, so that one
//! record for `www.example.com` takes nothing else of `example.com` away. Only below a wildcard all names
//! are ours: there a name between it and a listed one exists without records (RFC 4592 section 2.2.2).

mod data;
mod line;

use self::line::Line;
pub use self::line::LocalRecordError;
use crate::hash::Map;
use crate::wire::{LocalData, LocalRecord, Name, Owner, RecordType, suffixes};

/// Records of one name and type: more do not fit into a plain answer of any use.
const RECORDS_PER_TYPE: usize = 64;
/// Octets of all records of one name, so that any answer fits into a message.
const OCTETS_PER_NAME: usize = 32_768;
/// Octets of a record besides its data: a pointer, type, class, TTL and length.
const RECORD_OCTETS: usize = 12;
/// The label of wildcards, with its length.
const WILDCARD: &[u8] = b"\x01*";

/// Records that are given instead of asking anybody.
#[derive(Debug, Clone, Default)]
pub struct LocalRecords {
    /// By lower-cased wire name: those listed, and all above them.
    names: Map<Box<[u8]>, Node>,
}

/// Collects the lines of [`LocalRecords`].
#[derive(Debug, Clone, Default)]
pub struct LocalRecordsBuilder {
    records: LocalRecords,
}

/// A name that exists.
#[derive(Debug, Clone, Default)]
struct Node {
    sets: Vec<RecordSet>,
    /// Octets of all records.
    octets: usize,
    /// What the CNAME says; then there is no other set.
    alias: Option<Name>,
    /// Whether there is a wildcard directly below it.
    has_wildcard: bool,
}

/// Records of one type: at least one.
#[derive(Debug, Clone)]
struct RecordSet {
    record_type: RecordType,
    ttl: u32,
    data: Vec<Box<[u8]>>,
}

/// What the local records say to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalAnswer<'a> {
    /// Nothing: the name is not among them.
    NotListed,
    /// The records of the asked type, at least one.
    Records(Vec<LocalRecord<'a>>),
    /// The name is another one's alias; what that one has is to be found.
    Alias {
        /// The other name in lower-cased wire form.
        target: &'a [u8],
        /// The TTL of the CNAME.
        ttl: u32,
    },
    /// The name is listed, or stands between a wildcard and one that is, but has nothing of the asked
    /// type.
    NoData {
        /// Seconds that this may be remembered.
        ttl: u32,
    },
}

impl LocalRecords {
    /// An empty table to be filled.
    #[must_use]
    pub fn builder() -> LocalRecordsBuilder {
        LocalRecordsBuilder::default()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What they say to a question for this lower-cased wire name.
    #[must_use]
    pub fn lookup(&self, lower_name: &[u8], record_type: RecordType) -> LocalAnswer<'_> {
        if self.is_empty() {
            return LocalAnswer::NotListed;
        }
        let known = |name| self.names.get(name).map(|node| (name, node));
        // The name itself, or its closest encloser (RFC 4592 section 3.3.1).
        let Some((name, node)) = suffixes(lower_name).find_map(known) else {
            return LocalAnswer::NotListed;
        };
        let is_itself = name.len() == lower_name.len();
        if is_itself && !node.sets.is_empty() {
            return node.answer(record_type);
        }
        if !is_itself {
            let wildcard = self.wildcard_below(name, node);
            return wildcard
                .map_or(LocalAnswer::NotListed, |wildcard| wildcard.answer(record_type));
        }
        let above = suffixes(lower_name).skip(1).filter_map(known);
        match above.filter_map(|(name, node)| self.wildcard_below(name, node)).next() {
            Some(wildcard) => LocalAnswer::NoData { ttl: wildcard.ttl() },
            None => LocalAnswer::NotListed,
        }
    }

    /// Whether aliases lead from a lower-cased wire name through more than `hops` names.
    #[must_use]
    pub fn is_alias_longer_than(&self, hops: u32, lower_name: &[u8]) -> bool {
        let mut name = lower_name;
        for _ in 0..=hops {
            match self.lookup(name, RecordType::A) {
                LocalAnswer::Alias { target, .. } => name = target,
                LocalAnswer::NotListed | LocalAnswer::Records(_) | LocalAnswer::NoData { .. } => {
                    return false;
                }
            }
        }
        true
    }

    /// The wildcard directly below a name.
    fn wildcard_below(&self, name: &[u8], node: &Node) -> Option<&Node> {
        node.has_wildcard.then(|| self.names.get([WILDCARD, name].concat().as_slice()))?
    }
}

impl LocalRecordsBuilder {
    /// Adds the record of a line; one that is there already is not added again. Of different TTLs of one
    /// name and type the shortest counts (RFC 2181 section 5.2). If it is a CNAME, gives the name that it
    /// leads to.
    ///
    /// # Errors
    /// The line is no record, or one that cannot stand beside those that are there.
    pub fn insert(&mut self, line: &str) -> Result<Option<Name>, LocalRecordError> {
        let line = Line::parse(line)?;
        self.check(&line)?;
        let owner = line.owner.as_wire();
        for (depth, name) in suffixes(owner).enumerate() {
            let node = self.records.names.entry(name.into()).or_default();
            node.has_wildcard |= depth == 1 && owner.starts_with(WILDCARD);
        }
        let node = self.records.names.entry(owner.into()).or_default();
        node.add(line.record_type, line.ttl, line.data);
        Ok(node.alias.clone())
    }

    /// The finished table.
    #[must_use]
    pub fn build(self) -> LocalRecords {
        self.records
    }

    /// Whether a record can stand beside those of its name.
    fn check(&self, line: &Line) -> Result<(), LocalRecordError> {
        let is_alias = line.record_type == RecordType::CNAME;
        if is_alias && line.owner.as_wire().eq_ignore_ascii_case(&line.data) {
            return Err(LocalRecordError::AliasOfItself);
        }
        let Some(node) = self.records.names.get(line.owner.as_wire()) else {
            return Ok(());
        };
        let set = node.sets.iter().find(|set| set.record_type == line.record_type);
        if set.is_some_and(|set| set.data.contains(&line.data)) {
            return Ok(());
        }
        // RFC 1034 section 3.6.2, RFC 2181 section 10.1.
        if !node.sets.is_empty() && (is_alias || node.alias.is_some()) {
            return Err(LocalRecordError::AliasNotAlone);
        }
        if set.is_some_and(|set| set.data.len() == RECORDS_PER_TYPE) {
            return Err(LocalRecordError::ManyRecords { limit: RECORDS_PER_TYPE });
        }
        if node.octets + RECORD_OCTETS + line.data.len() > OCTETS_PER_NAME {
            return Err(LocalRecordError::ManyOctets { limit: OCTETS_PER_NAME });
        }
        Ok(())
    }
}

impl Node {
    /// Adds a record that can stand beside the others.
    fn add(&mut self, record_type: RecordType, ttl: u32, data: Box<[u8]>) {
        if record_type == RecordType::CNAME {
            let target = Name::from_wire(&data).expect("the data of a CNAME are a name");
            self.alias = Some(target);
        }
        let octets = RECORD_OCTETS + data.len();
        match self.sets.iter_mut().find(|set| set.record_type == record_type) {
            Some(set) => {
                set.ttl = set.ttl.min(ttl);
                if set.data.contains(&data) {
                    return;
                }
                set.data.push(data);
            }
            None => self.sets.push(RecordSet { record_type, ttl, data: vec![data] }),
        }
        self.octets += octets;
    }

    /// What a name with these records says to a question.
    fn answer(&self, wanted: RecordType) -> LocalAnswer<'_> {
        if let Some(target) = &self.alias
            && wanted != RecordType::CNAME
            && wanted != RecordType::ANY
        {
            return LocalAnswer::Alias { target: target.as_wire(), ttl: self.ttl() };
        }
        let is_wanted = |set: &&RecordSet| wanted == RecordType::ANY || set.record_type == wanted;
        let records: Vec<LocalRecord<'_>> =
            self.sets.iter().filter(is_wanted).flat_map(RecordSet::records).collect();
        if records.is_empty() {
            return LocalAnswer::NoData { ttl: self.ttl() };
        }
        LocalAnswer::Records(records)
    }

    /// Seconds that what is known of the whole name may be remembered.
    fn ttl(&self) -> u32 {
        self.sets.iter().map(|set| set.ttl).min().unwrap_or_default()
    }
}

impl RecordSet {
    fn records(&self) -> impl Iterator<Item = LocalRecord<'_>> {
        self.data.iter().map(|data| LocalRecord {
            owner: Owner::Question,
            record_type: self.record_type,
            ttl: self.ttl,
            data: LocalData::Raw(data),
        })
    }
}

#[cfg(test)]
mod tests;
