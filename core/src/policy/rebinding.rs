//! The rebinding guard: private addresses in answers of the public DNS.
//!
//! A name of a stranger that resolves to an address of this network makes a browser here send that
//! stranger's scripts there. Owns which addresses are private, and which names may have them: those that
//! the operator lists, those of zones that are routed to upstreams of their own, and special names, which
//! are nobody's in the public DNS.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Blocklist, special};
use crate::hash::Set;
use crate::wire::{Name, suffixes};

/// Which answers may have private addresses.
#[derive(Debug, Clone, Default)]
pub struct Rebinding {
    allow: Blocklist,
    /// In wire form; each covers itself and what is below it.
    zones: Set<Box<[u8]>>,
}

impl Rebinding {
    /// A guard that lets the names of `allow` pass, and those of these zones, of which the root is
    /// none: it is the public DNS.
    #[must_use]
    pub fn new<'z>(allow: Blocklist, routed_zones: impl IntoIterator<Item = &'z Name>) -> Self {
        let zones = routed_zones.into_iter().map(Name::as_wire).filter(|zone| zone.len() > 1);
        Self { allow, zones: zones.map(Into::into).collect() }
    }

    /// Whether this lower-cased wire name may have private addresses.
    #[must_use]
    pub fn allows(&self, lower_name: &[u8]) -> bool {
        suffixes(lower_name).any(|suffix| self.zones.contains(suffix))
            || self.allow.matches(lower_name).is_some()
            || special(lower_name).is_some()
    }

    /// Whether no public name should have this address.
    #[must_use]
    pub fn is_private(ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => is_private_v4(ip),
            IpAddr::V6(ip) => is_private_v6(ip),
        }
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    match ip.octets() {
        // This host and network (RFC 1122 section 3.2.1.3): 0.0.0.0 reaches the loopback.
        [0, ..] => true,
        // Carriers' networks (RFC 6598).
        [100, second, ..] => second & 0xc0 == 64,
        _ => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
    }
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| {
        is_private_v4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match ip.segments() {
        // Unspecified, loopback, and IPv4 in the last four octets: as such (RFC 4291 section 2.5.5.1,
        // deprecated), mapped (2.5.5.2), and through a translator (RFC 6052 section 2.1).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            embedded(high, low)
        }
        // Translators of this network (RFC 8215): where IPv4 stands in it is theirs to say.
        [0x64, 0xff9b, 1, ..] => true,
        // 6to4 (RFC 3056 section 2).
        [0x2002, high, low, ..] => embedded(high, low),
        // Unique local (RFC 4193), link-local and the former site-local ones (RFC 3879).
        [first, ..] => first & 0xfe00 == 0xfc00 || matches!(first & 0xffc0, 0xfe80 | 0xfec0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_private_networks_in_every_disguise() {
        for private in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.168.0.1",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:192.168.1.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:c0a8:101::1",
            "fc00::",
            "fdff:ffff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
        ] {
            assert!(Rebinding::is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "8.8.8.8",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::8.8.8.8",
            "64:ff9c::10.0.0.1",
            "64:ff9b:2::1",
            "2002:808:808::1",
            "2001:db8::1",
            "2606:4700::1111",
            "fbff::1",
            "fe00::1",
            "ff02::1",
        ] {
            assert!(!Rebinding::is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn names_that_are_ours_may_have_private_addresses() {
        let mut allow = Blocklist::builder();
        allow.insert("*.lan.example").unwrap();
        allow.insert("nas.example").unwrap();
        let zones = [Name::root(), Name::parse("corp.example").unwrap()];
        let guard = Rebinding::new(allow.build(), &zones);
        let allows = |name: &str| guard.allows(Name::parse(name).unwrap().as_wire());
        for ours in [
            "a.lan.example",
            "nas.example",
            "corp.example",
            "a.b.corp.example",
            "printer.home.arpa",
            "router.internal",
            "localhost",
        ] {
            assert!(allows(ours), "{ours}");
        }
        for public in ["lan.example", "a.nas.example", "example", "xcorp.example", "."] {
            assert!(!allows(public), "{public}");
        }
    }
}
