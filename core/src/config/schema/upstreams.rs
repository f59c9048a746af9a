//! `upstreams`: the servers to forward to, and their zones.

use super::super::Host;
use super::super::error::{Path, Report};
use super::super::reader::{Item, Section};
use super::super::snapshot::{
    ListenSocket, RoutingSettings, SubnetPolicy, UpstreamAddress, UpstreamProtocol,
    UpstreamSettings,
};
use super::super::value::Value;
use super::address::{self, HOST_PORT};
use super::later;
use super::settings::MILLIS;
use crate::config::is_listener;
use crate::limits::UPSTREAMS;
use crate::time::Duration;
use crate::wire::{Name, PrefixLengths};

/// Characters of an upstream's name, which is a metric label.
const NAME_CHARS: usize = 100;

/// How an upstream is asked, as far as the configuration knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Plain(UpstreamProtocol),
    Dot,
    Doh,
}

const PROTOCOLS: &[(&str, Protocol)] = &[
    ("udp", Protocol::Plain(UpstreamProtocol::Udp)),
    ("tcp", Protocol::Plain(UpstreamProtocol::Tcp)),
    ("dot", Protocol::Dot),
    ("doh", Protocol::Doh),
];

/// All upstreams and, in the same order, their zones.
#[derive(Default)]
pub(super) struct Upstreams {
    pub(super) settings: Vec<UpstreamSettings>,
    pub(super) zones: Vec<Vec<Name>>,
}

impl Upstreams {
    /// Whether one of them has to be looked up.
    pub(super) fn have_host_names(&self) -> bool {
        self.host_names().next().is_some()
    }

    /// Reports that there is nobody to look them up.
    pub(super) fn report_no_bootstrap(&self, report: &Report) {
        for (index, name) in self.host_names() {
            let path = Path::default().key("upstreams").index(index + 1).key("addr");
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
    host: &dyn Host,
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
        name(&mut section, &mut names);
        let one = upstream(&mut section, listeners, host);
        let zones = zones(&mut section);
        later::check(&mut section, later::UPSTREAM);
        if one.timeout > routing.deadline {
            let deadline = routing.deadline.as_millis();
            let message = format!("is longer than routing.deadline_ms {deadline}, which ends it");
            section.warning("timeout_ms", &message);
        }
        section.finish();
        upstreams.zones.push(zones);
        upstreams
            .settings
            .push(UpstreamSettings { name: names.last().cloned().unwrap_or_default(), ..one });
    }
    upstreams
}

/// Reads the name, which must be another one than all before it; one that is wrong is empty.
fn name(section: &mut Section<'_>, names: &mut Vec<String>) {
    const EXPECTED: &str = "a name of up to 100 printable characters";
    let mut name = "";
    if let Some(item) = section.required("name", EXPECTED)
        && let Some(text) = item.word(EXPECTED)
    {
        if text.chars().count() > NAME_CHARS || text.chars().any(char::is_control) {
            item.error("is wrong", EXPECTED);
        } else if names.iter().any(|known| known == text) {
            item.error("is the name of another upstream", "a unique name");
        }
        name = text;
    }
    names.push(name.to_owned());
}

/// Reads everything about the connection; the name is empty.
fn upstream(
    section: &mut Section<'_>,
    listeners: &[ListenSocket],
    host: &dyn Host,
) -> UpstreamSettings {
    let udp = Protocol::Plain(UpstreamProtocol::Udp);
    let protocol = section.item("protocol");
    let asked = protocol.as_ref().and_then(|item| item.choice(PROTOCOLS)).unwrap_or(udp);
    let plain = match asked {
        Protocol::Plain(plain) => plain,
        Protocol::Dot | Protocol::Doh => {
            if let Some(item) = protocol {
                item.unavailable("\"udp\" or \"tcp\"");
            }
            UpstreamProtocol::Udp
        }
    };
    doh_url(section, asked);
    let addr = addr(section, asked, listeners, host);
    tls(section, asked);
    UpstreamSettings {
        name: String::new(),
        protocol: plain,
        addr: addr.unwrap_or_else(|| UpstreamAddress::Literal(([0, 0, 0, 0], 0).into())),
        timeout: timeout(section),
        max_in_flight: section.integer("max_in_flight", 1..=1_000_000, 1_000),
        randomize_case: randomize_case(section, plain),
        client_subnet: ecs(section),
        source: None,
        tls: None,
        doh: None,
    }
}

/// Reads `randomize_case`. A stream needs no more bits to be guessed.
fn randomize_case(section: &mut Section<'_>, protocol: UpstreamProtocol) -> bool {
    let datagrams = protocol == UpstreamProtocol::Udp;
    let Some(item) = section.item("randomize_case") else {
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

/// Reads `addr`, which every protocol but doh needs.
fn addr(
    section: &mut Section<'_>,
    protocol: Protocol,
    listeners: &[ListenSocket],
    host: &dyn Host,
) -> Option<UpstreamAddress> {
    let item = match protocol {
        Protocol::Doh => section.item("addr")?,
        Protocol::Plain(_) | Protocol::Dot => section.required("addr", HOST_PORT)?,
    };
    let text = item.word(HOST_PORT)?;
    let addr = match address::host_port(text) {
        Ok((address::Host::Literal(addr), 1..)) => addr,
        Ok((_, 0)) => {
            item.error("has port 0", HOST_PORT);
            return None;
        }
        Ok((address::Host::Any, _)) => {
            item.error("has no host", HOST_PORT);
            return None;
        }
        Ok((address::Host::Name(name), port)) => return Some(UpstreamAddress::Host { name, port }),
        Err(wrong) => {
            item.error(wrong, HOST_PORT);
            return None;
        }
    };
    if is_listener(addr, listeners, host) {
        item.error("is one of our own listeners", "another server");
        return None;
    }
    Some(UpstreamAddress::Literal(addr))
}

/// Reads `doh_url`, which doh needs and nothing else uses.
fn doh_url(section: &mut Section<'_>, protocol: Protocol) {
    const EXPECTED: &str = "an https url";
    let item = match protocol {
        Protocol::Doh => section.required("doh_url", EXPECTED),
        Protocol::Plain(_) | Protocol::Dot => section.item("doh_url"),
    };
    let Some(item) = item.filter(|item| protocol == Protocol::Doh || !item.is_off()) else {
        return;
    };
    let Some(text) = item.word(EXPECTED) else {
        return;
    };
    let host = text.strip_prefix("https://").map(|rest| rest.split('/').next().unwrap_or(rest));
    if host.is_none_or(str::is_empty) {
        item.error("is wrong", EXPECTED);
    } else if let Protocol::Plain(plain) = protocol {
        item.warning(&format!("has no effect on protocol {}", plain.name()));
    }
}

/// Reads the keys of encrypted protocols; they are left over when one of them is switched to udp.
fn tls(section: &mut Section<'_>, protocol: Protocol) {
    let without_effect = |item: Option<Item<'_>>| {
        if let (Some(item), Protocol::Plain(plain)) = (item, protocol) {
            item.warning(&format!("has no effect on protocol {}", plain.name()));
        }
    };
    let name = section.item("tls_server_name").filter(|item| !item.is_off());
    without_effect(name.filter(|item| item.word("a host name").is_some()));
    let skip = section.item("tls_insecure_skip_verify");
    without_effect(skip.filter(|item| item.boolean() == Some(true)));
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
