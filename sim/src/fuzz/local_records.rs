//! Local records: whatever the lines, what is taken is found at its owner, and an engine answers it with a
//! message that hickory-proto reads.

use std::sync::{Arc, OnceLock};

use balancedns_core::config::Snapshot;
use balancedns_core::policy::{LocalAnswer, LocalRecords};
use balancedns_core::wire::{Name, RecordType};
use bytes::Bytes;
use hickory_proto::op::Message;

use super::oracle;
use super::setup::{START, address, from_client, machine, snapshot};
use crate::machine::Output;

/// Longer than any list by hand.
const TEXT_OCTETS: usize = 20_000;
/// Records of one name and type.
const RECORDS_PER_TYPE: usize = 64;

/// `data` is a text, each line of it a record.
///
/// # Panics
/// If a property is broken.
pub fn local_records(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if text.len() > TEXT_OCTETS {
        return;
    }
    let mut builder = LocalRecords::builder();
    let mut owners = Vec::new();
    for line in text.lines() {
        match builder.insert(line) {
            Err(error) => assert!(!error.to_string().is_empty() && !error.expected().is_empty()),
            Ok(target) => {
                assert_eq!(builder.insert(line), Ok(target), "the same again: {line:?}");
                owners.extend(owner(line));
            }
        }
    }
    let records = builder.build();
    assert!(owners.is_empty() || !records.is_empty());
    for owner in &owners {
        assert_listed(&records, owner);
    }
    if let Some(owner) = owners.first() {
        assert_answered(records, owner);
    }
}

/// The owner of a line that was taken, where that is plain to see.
fn owner(line: &str) -> Option<Name> {
    let word = line.split_whitespace().next()?;
    let is_plain = !word.contains(['\\', '"', ';', '(', ')']);
    is_plain.then(|| Name::parse(word).expect("it was taken"))
}

fn assert_listed(records: &LocalRecords, owner: &Name) {
    let LocalAnswer::Records(all) = records.lookup(owner.as_wire(), RecordType::ANY) else {
        panic!("{owner} is not listed");
    };
    for record in &all {
        let wanted = records.lookup(owner.as_wire(), record.record_type);
        let LocalAnswer::Records(of_type) = wanted else {
            panic!("{owner} has no {}: {wanted:?}", record.record_type);
        };
        assert!(of_type.contains(record) && of_type.len() <= RECORDS_PER_TYPE);
        assert!(of_type.iter().all(|other| other.ttl == record.ttl));
        assert_eq!(of_type.iter().filter(|other| other.data == record.data).count(), 1);
    }
}

/// An engine answers all records of a listed name, as far as they fit.
fn assert_answered(records: LocalRecords, owner: &Name) {
    static PLAIN: OnceLock<Snapshot> = OnceLock::new();
    let plain = PLAIN.get_or_init(|| {
        snapshot("return { upstreams = { { name = \"u\", addr = \"192.0.2.1:53\" } } }")
    });
    let snapshot = Arc::new(Snapshot { local_records: Arc::new(records), ..plain.clone() });
    let mut machine = machine(&snapshot);
    let head = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let query = [&head[..], owner.as_wire(), &[0, 255, 0, 1]].concat();
    let mut outputs = Vec::new();
    let query = from_client(address("127.0.0.1:4000"), Bytes::from(query));
    machine.feed(START, query, &mut outputs);
    let [Output::Reply { message, .. }] = &outputs[..] else {
        panic!("not one answer: {outputs:?}");
    };
    let reply = Message::from_vec(message).expect("what we write can be read");
    assert!(reply.metadata.truncation || !reply.answers.is_empty());
    assert!(reply.answers.iter().all(|record| oracle::wire(&record.name) == owner.as_wire()));
}
