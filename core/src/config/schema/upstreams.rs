//! `upstreams`: the servers to forward to, and their zones.

use std::sync::Arc;

use super::super::Host;
use super::super::error::{Path, Report};
use super::super::reader::{Item, Section};
use super::super::snapshot::{
    ListenSocket, RoutingSettings, SubnetPolicy, UpstreamAddress, UpstreamProtocol,
    UpstreamSettings,
};
use super::super::value::Value;
use super::address::{self, HOST_PORT};
use super::encrypted::{self, DOH_URL, DohUrl, Written};
use super::plugins::Files;
use super::pools::Pools;
use super::settings::MILLIS;
use super::{NAME, later, unique_name};
use crate::config::is_listener;
use crate::limits::UPSTREAMS;
use crate::time::Duration;
use crate::wire::{Name, PrefixLengths};

/// The key of the address.
const ADDR: &str = "addr";

const PROTOCOLS: &[(&str, UpstreamProtocol)] = &[
    ("udp", UpstreamProtocol::Udp),
    ("tcp", UpstreamProtocol::Tcp),
    ("dot", UpstreamProtocol::Dot),
    ("doh", UpstreamProtocol::Doh),
];

/// All upstreams and, in the same order, their zones.
#[derive(Default)]
pub(super) struct Upstreams {
    pub(super) settings: Vec<UpstreamSettings>,
    pub(super) zones: Vec<Vec<Name>>,
    /// Which key said where it is.
    address_keys: Vec<&'static str>,
}

impl Upstreams {
    /// Whether one of them has to be looked up.
    pub(super) fn have_host_names(&self) -> bool {
        self.host_names().next().is_some()
    }

    /// Reports that there is nobody to look them up.
    pub(super) fn report_no_bootstrap(&self, report: &Report) {
        for (index, name) in self.host_names() {
            let key = self.address_keys.get(index).copied().unwrap_or(ADDR);
            let path = Path::default().key("upstreams").index(index + 1).key(key);
            let message = format!(
                "\"{name}\" has to be looked up, but routing.bootstrap is empty and the system has no \
                 name servers besides our own listeners"
            );
            report.error(&path, message, "an ip address, or name servers in routing.bootstrap");
        }
    }

    fn host_names(&self) -> impl Iterator<Item = (usize, &Name)> {
        self.settings.iter().enumerate().filter_map(|(index, one)| match &one.addr {
            UpstreamAddress::Literal(_) => None,
            UpstreamAddress::Host { name, .. } => Some((index, name)),
        })
    }
}

/// Reads the list. What is sent to one of our own listeners would come back forever.
pub(super) fn read(
    top: &mut Section<'_>,
    listeners: &[ListenSocket],
    routing: &RoutingSettings,
    pools: &Pools,
    files: &Files<'_>,
) -> Upstreams {
    const EXPECTED: &str = "a list of at least one upstream";
    let mut upstreams = Upstreams::default();
    let Some(list) = top.required("upstreams", EXPECTED) else {
        return upstreams;
    };
    let entries = list.list("upstreams");
    if *list.value == Value::Empty {
        list.error("has no upstream", EXPECTED);
    }
    if entries.len() > UPSTREAMS {
        list.error("is too long", &format!("at most {UPSTREAMS} upstreams"));
        return upstreams;
    }
    let mut names = Vec::new();
    for entry in entries {
        let mut section = entry.clone().section();
        let name = name(&mut section, &mut names);
        let (mut one, address_key) = upstream(&mut section, &name, listeners, files);
        one.pool = pools.chosen(&mut section);
        let zones = zones(&mut section);
        later::check(&mut section, later::UPSTREAM);
        if one.timeout > routing.deadline {
            let deadline = routing.deadline.as_millis();
            let message = format!("is longer than routing.deadline_ms {deadline}, which ends it");
            section.warning("timeout_ms", &message);
        }
        section.finish();
        upstreams.zones.push(zones);
        upstreams.address_keys.push(address_key);
        upstreams.settings.push(one);
    }
    upstreams
}

/// Reads the name, which must be another one than all before it; one that is wrong is empty.
fn name(section: &mut Section<'_>, names: &mut Vec<String>) -> String {
    let item = section.required("name", NAME);
    let name = item.and_then(|item| unique_name(&item, "upstream", names)).unwrap_or_default();
    names.push(name.to_owned());
    name.to_owned()
}

/// Reads everything about an upstream but its name and its zones. The key is the one that says where the
/// upstream is.
fn upstream(
    section: &mut Section<'_>,
    name: &str,
    listeners: &[ListenSocket],
    files: &Files<'_>,
) -> (UpstreamSettings, &'static str) {
    let protocol = section.choice("protocol", PROTOCOLS, UpstreamProtocol::Udp);
    let url = encrypted::doh_url(section, protocol);
    let place = place(section, protocol, url.as_ref());
    let addr = place.as_ref().and_then(|place| addr(place, listeners, files.host));
    let literal = match &addr {
        Some(UpstreamAddress::Literal(addr)) => Some(*addr),
        Some(UpstreamAddress::Host { .. }) | None => None,
    };
    let certified = url.as_ref().map(|(_, url)| &url.host);
    let certified = certified.or(place.as_ref().map(|place| &place.host));
    let settings = UpstreamSettings {
        name: name.to_owned(),
        pool: None,
        protocol,
        addr: addr.unwrap_or_else(|| UpstreamAddress::Literal(([0, 0, 0, 0], 0).into())),
        timeout: timeout(section),
        max_in_flight: section.integer("max_in_flight", 1..=1_000_000, 1_000),
        client_subnet: ecs(section),
        randomize_case: for_datagrams(section, "randomize_case", protocol),
        cookies: for_datagrams(section, "cookies", protocol),
        source: encrypted::source(section, literal),
        tls: encrypted::tls(section, protocol, name, certified, files.folder),
        doh: url.as_ref().map(|(_, url)| Arc::new(url.target.clone())),
    };
    (settings, place.map_or(ADDR, |place| place.key))
}

/// Reads `randomize_case` or `cookies`. A stream needs no more bits to be guessed.
fn for_datagrams(section: &mut Section<'_>, key: &'static str, protocol: UpstreamProtocol) -> bool {
    let datagrams = protocol == UpstreamProtocol::Udp;
    let Some(item) = section.item(key) else {
        return datagrams;
    };
    let wanted = item.boolean().unwrap_or(datagrams);
    if wanted && !datagrams {
        item.warning(&format!("has no effect on protocol {}", protocol.name()));
    }
    wanted && datagrams
}

fn timeout(section: &mut Section<'_>) -> Duration {
    section.millis("timeout_ms", MILLIS, 2_000)
}

/// Where an upstream is, as one of its keys says.
struct Place<'v> {
    key: &'static str,
    item: Item<'v>,
    host: Written,
    port: u16,
}

/// Reads `addr`, which every protocol but doh needs; that has a URL, and `addr` only saves looking up
/// its host.
fn place<'v>(
    section: &mut Section<'v>,
    protocol: UpstreamProtocol,
    url: Option<&(Item<'v>, DohUrl)>,
) -> Option<Place<'v>> {
    let item = match protocol {
        UpstreamProtocol::Udp | UpstreamProtocol::Tcp | UpstreamProtocol::Dot => {
            section.required(ADDR, HOST_PORT)?
        }
        UpstreamProtocol::Doh => match section.item(ADDR).filter(|item| !item.is_off()) {
            Some(item) => item,
            None => {
                let (item, url) = url?;
                let (host, port) = (url.host.clone(), url.port);
                return Some(Place { key: DOH_URL, item: item.clone(), host, port });
            }
        },
    };
    let text = item.word(HOST_PORT)?;
    match address::host_port(text) {
        Err(wrong) => item.wrong_because(wrong, HOST_PORT),
        Ok((_, 0)) => item.wrong_because("has port 0", HOST_PORT),
        Ok((address::Host::Any, _)) => item.wrong_because("has no host", HOST_PORT),
        Ok((host, port)) => {
            let text = text.rsplit_once(':').map_or(text, |(host, _)| host).to_owned();
            Some(Place { key: ADDR, item, host: Written { host, text }, port })
        }
    }
}

/// The address at a place. What is sent to one of our own listeners would come back forever.
fn addr(place: &Place<'_>, listeners: &[ListenSocket], host: &dyn Host) -> Option<UpstreamAddress> {
    match &place.host.host {
        address::Host::Any => None,
        address::Host::Literal(addr) if is_listener(*addr, listeners, host) => {
            place.item.wrong_because("is one of our own listeners", "another server")
        }
        address::Host::Literal(addr) => Some(UpstreamAddress::Literal(*addr)),
        address::Host::Name(name) => {
            Some(UpstreamAddress::Host { name: name.clone(), port: place.port })
        }
    }
}

/// Reads `zones`.
fn zones(section: &mut Section<'_>) -> Vec<Name> {
    const EXPECTED: &str = "a zone such as \"corp.example\", or \".\" for everything";
    let mut zones: Vec<Name> = Vec::new();
    for entry in section.list("zones", "zones") {
        let Some(text) = entry.word(EXPECTED) else {
            continue;
        };
        if text.split('.').any(|label| label == "*") {
            entry.error("has a wildcard; a zone covers all names below it anyway", EXPECTED);
            continue;
        }
        match Name::parse(text) {
            Err(error) => entry.error(&format!("is not a name: {error}"), EXPECTED),
            Ok(zone) if zones.contains(&zone) => entry.warning("is listed twice"),
            Ok(zone) => zones.push(zone),
        }
    }
    zones
}

/// Reads `ecs`, which is off, a word, or a table with prefix lengths.
fn ecs(section: &mut Section<'_>) -> SubnetPolicy {
    const WORDS: &[(&str, Option<bool>)] =
        &[("off", None), ("pass", Some(false)), ("add", Some(true))];
    let Some(item) = section.item("ecs").filter(|item| !item.is_off()) else {
        return SubnetPolicy::Off;
    };
    let usual = PrefixLengths::default();
    if let Value::Map(_) = item.value {
        let mut lengths = item.section();
        let ipv4 = lengths.integer("ipv4_prefix", 1..=32, usual.ipv4);
        let ipv6 = lengths.integer("ipv6_prefix", 1..=128, usual.ipv6);
        lengths.finish();
        return SubnetPolicy::Add(PrefixLengths { ipv4, ipv6 });
    }
    match item.choice(WORDS) {
        Some(Some(true)) => SubnetPolicy::Add(usual),
        Some(Some(false)) => SubnetPolicy::Pass,
        Some(None) | None => SubnetPolicy::Off,
    }
}
