//! `acl`, `blacklist` and `hosts`: what is decided before anybody is asked.

use std::sync::Arc;

use ipnet::IpNet;

use super::super::Host;
use super::super::reader::{Item, Section};
use super::super::vm::resolve;
use super::settings::TTL;
use super::{address, later};
use crate::policy::{Acl, BlockPatternError, BlockSet, Blocking, Blocklist, Hosts, NameList};

/// Reads `acl`. An empty list is none: local clients only.
pub(super) fn acl(top: &mut Section<'_>) -> Acl {
    let entries = top.list("acl", "networks");
    if entries.is_empty() { Acl::default() } else { Acl::new(networks(&entries)) }
}

/// The networks of a list.
pub(super) fn networks(entries: &[Item<'_>]) -> Vec<IpNet> {
    const EXPECTED: &str = "a network such as \"192.0.2.0/24\", or an ip address";
    let mut networks = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(text) = entry.word(EXPECTED) else {
            continue;
        };
        match address::network(text) {
            None => entry.error("is not a network", EXPECTED),
            Some(network) => {
                if network.trunc() != network {
                    entry.warning(&format!("means {}", network.trunc()));
                }
                networks.push(network);
            }
        }
    }
    networks
}

/// Reads `blacklist`.
pub(super) fn blacklist(mut section: Section<'_>) -> Blocking {
    const EXPECTED: &str = "a name, or *.name or .name for all names below it";
    let mut builder = Blocklist::builder();
    for entry in section.list("domains", "names") {
        let Some(text) = entry.word(EXPECTED) else {
            continue;
        };
        match builder.insert(text) {
            Ok(()) => {}
            Err(BlockPatternError::Name(error)) => {
                entry.error(&format!("is not a name: {error}"), EXPECTED);
            }
            Err(error) => entry.error(&error.to_string(), EXPECTED),
        }
    }
    later::check(&mut section, later::BLACKLIST);
    section.finish();
    let list = NameList::new("blacklist.domains", builder.build());
    let set = BlockSet { lists: vec![Arc::new(list)], ttl: 60, ..BlockSet::default() };
    Blocking::new(vec![set], 1)
}

/// Reads `hosts` and the file it names.
pub(super) fn hosts(
    mut section: Section<'_>,
    host: &dyn Host,
    folder: &str,
    files: &mut Vec<String>,
) -> Option<Hosts> {
    let file = section.item("file").filter(|item| !item.is_off());
    let ttl = section.integer("ttl", TTL, 60);
    later::check(&mut section, later::HOSTS);
    section.finish();
    let file = file?;
    let path = resolve(folder, file.word("the path of a hosts file, or false")?);
    files.push(path.clone());
    match host.read(&path) {
        Err(error) => {
            file.error(&format!("cannot be read: {error}"), "a readable file");
            None
        }
        Ok(text) => {
            let (hosts, warnings) = Hosts::parse(&text, ttl);
            for warning in warnings {
                file.warning(&warning.to_string());
            }
            Some(hosts)
        }
    }
}
