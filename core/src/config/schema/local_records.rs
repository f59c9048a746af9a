//! `local_records`: records as in a zone file, one a line.

use super::super::reader::{Item, Section};
use crate::policy::LocalRecords;
use crate::wire::Name;

/// Reads the list; one question may be led through `hops` aliases.
pub(super) fn read(top: &mut Section<'_>, hops: u32) -> LocalRecords {
    const EXPECTED: &str = "a record such as \"nas.example. 300 IN A 192.0.2.1\"";
    let mut builder = LocalRecords::builder();
    let mut aliases: Vec<(Item<'_>, Name)> = Vec::new();
    for entry in top.list("local_records", "records in presentation format") {
        let Some(line) = entry.word(EXPECTED) else {
            continue;
        };
        match builder.insert(line) {
            Ok(target) => aliases.extend(target.map(|target| (entry, target))),
            Err(error) => entry.error(&error.to_string(), &error.expected()),
        }
    }
    let records = builder.build();
    for (entry, target) in aliases {
        // The alias itself is one of them.
        let is_within = |left| !records.is_alias_longer_than(left, target.as_wire());
        if !hops.checked_sub(1).is_some_and(is_within) {
            let message = format!("leads through more than {hops} aliases (routing.rewrite_hops)");
            entry.error(&message, "aliases that end");
        }
    }
    records
}
