//! Hosts files: what a naive reading of the lines finds, the table has, and an engine answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use balancedns_core::config::Snapshot;
use balancedns_core::policy::{Hosts, HostsAnswer};
use balancedns_core::wire::{Name, RecordType};
use bytes::Bytes;
use hickory_proto::op::Message;

use super::oracle;
use super::setup::{START, address, from_client, machine, snapshot};
use crate::machine::Output;

const TTL: u32 = 77;
/// Bounds of the table: addresses of a name and family, names of an address, warnings.
const ADDRESSES_PER_NAME: usize = 64;
const NAMES_PER_ADDRESS: usize = 16;
const WARNINGS: usize = 51;

/// `data` is the text of a hosts file.
///
/// # Panics
/// If a property is broken.
pub fn hosts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if text.len() > 20_000 {
        return;
    }
    let (hosts, warnings) = Hosts::parse(&text, TTL);
    let naive = Naive::read(&text);
    assert!(warnings.len() <= WARNINGS);
    assert!(warnings.is_sorted_by_key(|warning| warning.line), "{warnings:?}");
    assert!(warnings.iter().all(|warning| !warning.to_string().contains(char::is_control)));
    let skipped = naive.names.values().any(|found| found.is_full());
    assert_eq!(warnings.is_empty(), naive.problems == 0 && !skipped, "{warnings:?}");
    assert_eq!((hosts.len(), hosts.ttl()), (naive.names.len(), TTL));
    assert_eq!(hosts.is_empty(), naive.names.is_empty());
    for (name, found) in &naive.names {
        naive.assert_listed(&hosts, name, found);
    }
    for (address, names) in &naive.pointers {
        naive.assert_pointed(&hosts, *address, names);
    }
    if let Some((name, found)) = naive.names.iter().next() {
        assert_answered(hosts, name, found);
    }
}

/// Addresses of a name in the order of the file, without bound.
#[derive(Debug, Default)]
struct Found {
    v4: Vec<IpAddr>,
    v6: Vec<IpAddr>,
}

impl Found {
    fn is_full(&self) -> bool {
        self.v4.len().max(self.v6.len()) > ADDRESSES_PER_NAME
    }
}

/// A hosts file, read line by line.
#[derive(Debug, Default)]
struct Naive {
    names: BTreeMap<Name, Found>,
    pointers: BTreeMap<IpAddr, Vec<Name>>,
    problems: usize,
}

impl Naive {
    fn read(text: &str) -> Self {
        let mut naive = Self::default();
        for line in text.strip_prefix('\u{feff}').unwrap_or(text).split('\n') {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(first) = words.next() else { continue };
            let Ok(address) = first.parse::<IpAddr>() else {
                naive.problems += 1;
                continue;
            };
            let mut any = false;
            for word in words {
                any = true;
                match Name::parse(word) {
                    Ok(name) => naive.add(name, address),
                    Err(_) => naive.problems += 1,
                }
            }
            naive.problems += usize::from(!any);
        }
        naive
    }

    fn add(&mut self, name: Name, address: IpAddr) {
        let found = self.names.entry(name.clone()).or_default();
        let list = if address.is_ipv4() { &mut found.v4 } else { &mut found.v6 };
        if !list.contains(&address) {
            list.push(address);
        }
        let listed = list.iter().take(ADDRESSES_PER_NAME).any(|held| *held == address);
        if listed && !address.is_unspecified() {
            let names = self.pointers.entry(address).or_default();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }

    fn assert_listed(&self, hosts: &Hosts, name: &Name, found: &Found) {
        let bounded = |all: &[IpAddr]| all.iter().take(ADDRESSES_PER_NAME).copied().collect();
        let (all_v4, all_v6): (Vec<_>, Vec<_>) = (bounded(&found.v4), bounded(&found.v6));
        for (record_type, v4, v6) in [
            (RecordType::A, &all_v4, &Vec::new()),
            (RecordType::AAAA, &Vec::new(), &all_v6),
            (RecordType::ANY, &all_v4, &all_v6),
        ] {
            match hosts.lookup(name.as_wire(), record_type) {
                HostsAnswer::Addresses { v4: ours, v6: ours_too } => {
                    assert!(ours.iter().copied().map(IpAddr::V4).eq(v4.iter().copied()));
                    assert!(ours_too.iter().copied().map(IpAddr::V6).eq(v6.iter().copied()));
                }
                HostsAnswer::NoData => assert!(v4.is_empty() && v6.is_empty()),
                HostsAnswer::Pointers(_) => panic!("{name} is no name of the reverse zones"),
                HostsAnswer::NotListed => panic!("{name} is listed"),
            }
        }
        let mx = hosts.lookup(name.as_wire(), RecordType::MX);
        assert_eq!(mx, HostsAnswer::NoData);
    }

    fn assert_pointed(&self, hosts: &Hosts, address: IpAddr, names: &[Name]) {
        let reverse = Name::parse(&reverse(address)).expect("digits and dots");
        let Some(found) = self.names.get(&reverse) else {
            let expected = &names[..names.len().min(NAMES_PER_ADDRESS)];
            for record_type in [RecordType::PTR, RecordType::ANY] {
                let answer = hosts.lookup(reverse.as_wire(), record_type);
                assert_eq!(answer, HostsAnswer::Pointers(expected));
            }
            return;
        };
        // Listed by name as well: its addresses come first where they are asked for.
        let any = hosts.lookup(reverse.as_wire(), RecordType::ANY);
        assert!(matches!(any, HostsAnswer::Addresses { .. }), "{any:?}, {found:?}");
    }
}

/// RFC 1035 section 3.5, RFC 3596 section 2.5.
fn reverse(address: IpAddr) -> String {
    let (mut parts, zone): (Vec<String>, _) = match address {
        IpAddr::V4(ip) => (ip.octets().iter().map(ToString::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(ip) => {
            let nibbles = format!("{:032x}", ip.to_bits());
            (nibbles.chars().map(String::from).collect(), "ip6.arpa")
        }
    };
    parts.reverse();
    format!("{}.{zone}", parts.join("."))
}

/// An engine answers a listed name with its addresses, as far as they fit.
fn assert_answered(hosts: Hosts, name: &Name, found: &Found) {
    static PLAIN: OnceLock<Snapshot> = OnceLock::new();
    let plain = PLAIN.get_or_init(|| {
        snapshot("return { upstreams = { { name = \"u\", addr = \"192.0.2.1:53\" } } }")
    });
    let snapshot = Arc::new(Snapshot { hosts: Some(Arc::new(hosts)), ..plain.clone() });
    let mut machine = machine(&snapshot);
    let head = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let query = [&head[..], name.as_wire(), &[0, 255, 0, 1]].concat();
    let mut outputs = Vec::new();
    let query = from_client(address("127.0.0.1:4000"), Bytes::from(query));
    machine.feed(START, query, &mut outputs);
    let [Output::Reply { message, .. }] = &outputs[..] else {
        panic!("not one answer: {outputs:?}");
    };
    let reply = Message::from_vec(message).expect("what we write can be read");
    assert!(reply.metadata.truncation || !reply.answers.is_empty());
    let listed: BTreeSet<IpAddr> = found.v4.iter().chain(&found.v6).copied().collect();
    for record in &reply.answers {
        assert_eq!((oracle::wire(&record.name), record.ttl), (name.as_wire().to_vec(), TTL));
        let address = record.data.ip_addr().expect("an address");
        assert!(listed.contains(&address));
    }
}
