//! `acl`, `hosts` and `rebinding`: what is decided before anybody is asked.

use ipnet::IpNet;

use super::super::reader::{Item, Section};
use super::super::vm::resolve;
use super::plugins::Files;
use super::settings::TTL;
use super::{address, blacklist};
use crate::policy::{Acl, Hosts, Rebinding};
use crate::upstream::Routes;

/// Reads `acl`. An empty list is none: local clients only.
pub(super) fn acl(top: &mut Section<'_>) -> Acl {
    let entries = top.list("acl", "networks");
    if entries.is_empty() { Acl::default() } else { Acl::new(networks(&entries)) }
}

/// The networks of a list.
pub(super) fn networks(entries: &[Item<'_>]) -> Vec<IpNet> {
    entries.iter().filter_map(network).collect()
}

/// A network, or an address as one.
pub(super) fn network(entry: &Item<'_>) -> Option<IpNet> {
    const EXPECTED: &str = "a network such as \"192.0.2.0/24\", or an ip address";
    let Some(network) = address::network(entry.word(EXPECTED)?) else {
        return entry.wrong_because("is not a network", EXPECTED);
    };
    if network.trunc() != network {
        entry.warning(&format!("means {}", network.trunc()));
    }
    Some(network)
}

/// Reads `rebinding`. Zones that are routed to upstreams of their own are not the public DNS.
pub(super) fn rebinding(mut section: Section<'_>, routes: &Routes) -> Option<Rebinding> {
    let enabled = section.boolean("enabled", false);
    let allow = section.item("allow").map(|item| blacklist::names(&item)).unwrap_or_default();
    section.finish();
    enabled.then(|| Rebinding::new(allow, routes.zones().map(|(zone, _)| zone)))
}

/// `hosts`.
pub(super) struct HostsSettings {
    pub(super) hosts: Option<(String, Hosts)>,
    pub(super) fallthrough: bool,
}

/// Reads `hosts` and the file it names, whose path comes with what is in it.
pub(super) fn hosts(mut section: Section<'_>, files: &mut Files<'_>) -> HostsSettings {
    let file = section.item("file").filter(|item| !item.is_off());
    let ttl = section.integer("ttl", TTL, 60);
    let fallthrough = section.boolean("fallthrough", false);
    section.finish();
    HostsSettings { hosts: file.and_then(|file| hosts_file(&file, ttl, files)), fallthrough }
}

fn hosts_file(file: &Item<'_>, ttl: u32, files: &mut Files<'_>) -> Option<(String, Hosts)> {
    let path = resolve(files.folder, file.word("the path of a hosts file, or false")?);
    files.read.push(path.clone());
    match files.host.read(&path) {
        Err(error) => {
            file.error(&format!("cannot be read: {error}"), "a readable file");
            None
        }
        Ok(text) => {
            let (hosts, warnings) = Hosts::parse(&text, ttl);
            for warning in warnings {
                file.warning(&warning.to_string());
            }
            Some((path, hosts))
        }
    }
}
