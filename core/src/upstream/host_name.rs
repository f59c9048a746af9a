//! A host name that stands for an upstream: its addresses and when to look it up again.
//!
//! Owns what is known of the name. Who is asked for it, and what waits for it, is the engine's.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoint::Backoff;
use crate::config::UpstreamSettings;
use crate::handle::FetchHandle;
use crate::limits::{
    ADDRESSES_PER_FAMILY, LOOKUP_EVERY_MAX, LOOKUP_EVERY_MIN, LOOKUP_RETRY, LOOKUP_RETRY_MAX,
};
use crate::time::{Duration, Instant};
use crate::timers::TimerId;
use crate::wire::{Name, RecordType};

/// A kind of address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V6,
    V4,
}

impl Family {
    /// All, in the order in which their addresses are tried.
    pub(crate) const ALL: [Self; 2] = [Self::V6, Self::V4];

    /// The type of its records.
    pub(crate) const fn record_type(self) -> RecordType {
        match self {
            Self::V6 => RecordType::AAAA,
            Self::V4 => RecordType::A,
        }
    }
}

/// Addresses by family.
pub(crate) type KnownAddresses = [Vec<IpAddr>; Family::ALL.len()];

/// One upstream's host name, as one worker knows it.
#[derive(Debug)]
pub(crate) struct HostName {
    /// The upstream's settings. Another generation with the same settings keeps what is known.
    pub(crate) settings: Arc<UpstreamSettings>,
    /// The name.
    pub(crate) name: Name,
    /// The port.
    pub(crate) port: u16,
    /// The addresses in use, by family.
    known: KnownAddresses,
    /// What the look-ups of this round have found so far, by family.
    found: [Option<Found>; Family::ALL.len()],
    /// The endpoints of the addresses, in the order in which they are tried.
    pub(crate) endpoints: Vec<usize>,
    /// Look-ups in flight: one per family.
    pub(crate) in_flight: usize,
    backoff: Backoff,
    /// Questions that wait for the first address.
    pub(crate) waiting: Vec<FetchHandle>,
    /// Fires when it is to be looked up again.
    pub(crate) timer: TimerId,
    /// The last round has found nothing, of which operators were told.
    pub(crate) failed: bool,
}

/// What one look-up has found: perhaps that there is nothing.
#[derive(Debug)]
struct Found {
    addresses: Vec<IpAddr>,
    ttl: u32,
}

/// How a round of look-ups ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoundEnd {
    /// When the next one is due.
    pub(crate) next: Instant,
    /// Whether there was any address.
    pub(crate) found: bool,
}

impl HostName {
    pub(crate) fn new(
        settings: Arc<UpstreamSettings>,
        name: Name,
        port: u16,
        known: KnownAddresses,
        timer: TimerId,
    ) -> Self {
        Self {
            settings,
            name,
            port,
            known,
            found: Default::default(),
            endpoints: Vec::new(),
            in_flight: 0,
            backoff: Backoff::default(),
            waiting: Vec::new(),
            timer,
            failed: false,
        }
    }

    /// The addresses in use, for another one of the same name.
    pub(crate) fn known(&self) -> KnownAddresses {
        self.known.clone()
    }

    /// Where to connect to, IPv6 first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.known.iter().flatten().map(|ip| SocketAddr::new(*ip, self.port))
    }

    /// A look-up has found addresses, or that there are none. They are used when the round has
    /// ended, but the first ones at once.
    pub(crate) fn found(&mut self, family: Family, mut addresses: Vec<IpAddr>, ttl: u32) {
        addresses.truncate(ADDRESSES_PER_FAMILY);
        if self.known.iter().all(Vec::is_empty) {
            self.known[family as usize].clone_from(&addresses);
        }
        self.found[family as usize] = Some(Found { addresses, ttl });
    }

    /// All look-ups of a round have ended. A family that could not be looked up keeps its addresses;
    /// so do both if there is no address at all: the name may have been taken away by mistake, and
    /// nothing better is known.
    pub(crate) fn end_round(&mut self, now: Instant) -> RoundEnd {
        let all = std::mem::take(&mut self.found);
        let complete = all.iter().all(Option::is_some);
        let ttls = all.iter().flatten().filter(|found| !found.addresses.is_empty());
        let ttl = ttls.map(|found| found.ttl).min();
        if ttl.is_some() {
            for (known, found) in self.known.iter_mut().zip(all) {
                // Servers turn their lists around: that is no other list.
                if let Some(found) = found.filter(|found| !is_same_set(known, &found.addresses)) {
                    *known = found.addresses;
                }
            }
        }
        let lifetime = ttl
            .map(|ttl| Duration::from_secs(ttl.into()).clamp(LOOKUP_EVERY_MIN, LOOKUP_EVERY_MAX));
        let next = match lifetime.map(|lifetime| now + lifetime) {
            Some(expires) if complete => {
                self.backoff.succeeded();
                expires
            }
            expires => {
                self.backoff.failed(now, LOOKUP_RETRY, LOOKUP_RETRY_MAX);
                let retry = self.backoff.wait(now).unwrap_or(now);
                expires.map_or(retry, |expires| expires.min(retry))
            }
        };
        RoundEnd { next, found: ttl.is_some() }
    }

    /// Nothing of this round counts: it is begun anew.
    pub(crate) fn abandon_round(&mut self) {
        self.found = Default::default();
        self.in_flight = 0;
    }
}

fn is_same_set(these: &[IpAddr], those: &[IpAddr]) -> bool {
    these.len() == those.len() && these.iter().all(|ip| those.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{UpstreamAddress, UpstreamProtocol};
    use crate::timers::Timers;

    fn host() -> HostName {
        let name = Name::parse("dns.example").expect("a name");
        let settings = UpstreamSettings {
            pool: None,
            name: "up".to_owned(),
            protocol: UpstreamProtocol::Udp,
            addr: UpstreamAddress::Host { name: name.clone(), port: 53 },
            timeout: Duration::from_secs(2),
            max_in_flight: 1,
            cookies: false,
            randomize_case: true,
            client_subnet: crate::config::SubnetPolicy::Off,
            source: None,
            tls: None,
            doh: None,
        };
        HostName::new(settings.into(), name, 53, Default::default(), Timers::default().allocate(()))
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn shown(host: &HostName) -> Vec<String> {
        host.addresses().map(|addr| addr.to_string()).collect()
    }

    fn ended(host: &mut HostName) -> (u64, bool) {
        let end = host.end_round(Instant::ZERO);
        (end.next.since(Instant::ZERO).as_secs(), end.found)
    }

    /// A host with an address of each family.
    fn known() -> HostName {
        let mut host = host();
        host.found(Family::V6, ips(&["2001:db8::1"]), 300);
        host.found(Family::V4, ips(&["192.0.2.1", "192.0.2.2"]), 60);
        assert_eq!(ended(&mut host), (60, true), "the least TTL");
        assert_eq!(shown(&host), ["[2001:db8::1]:53", "192.0.2.1:53", "192.0.2.2:53"]);
        host
    }

    #[test]
    fn ipv6_comes_first_and_the_first_addresses_are_used_at_once() {
        let mut host = host();
        host.found(Family::V4, ips(&["192.0.2.1"]), 60);
        assert_eq!(shown(&host), ["192.0.2.1:53"]);
        host.found(Family::V6, ips(&["2001:db8::1"]), 60);
        assert_eq!(shown(&host), ["192.0.2.1:53"], "the others with the end of the round");
        ended(&mut host);
        assert_eq!(shown(&host), ["[2001:db8::1]:53", "192.0.2.1:53"]);
    }

    #[test]
    fn ttls_are_bounded() {
        for (ttl, expected) in [(0, LOOKUP_EVERY_MIN), (u32::MAX, LOOKUP_EVERY_MAX)] {
            let mut host = host();
            host.found(Family::V4, ips(&["192.0.2.1"]), ttl);
            host.found(Family::V6, Vec::new(), 7);
            assert_eq!(ended(&mut host), (expected.as_secs(), true), "absence has no say");
        }
    }

    #[test]
    fn a_service_may_move_from_one_family_to_the_other() {
        let mut host = known();
        host.found(Family::V6, Vec::new(), 60);
        host.found(Family::V4, ips(&["192.0.2.9"]), 60);
        ended(&mut host);
        assert_eq!(shown(&host), ["192.0.2.9:53"]);
        host.found(Family::V4, Vec::new(), 60);
        host.found(Family::V6, ips(&["2001:db8::9"]), 60);
        ended(&mut host);
        assert_eq!(shown(&host), ["[2001:db8::9]:53"]);
    }

    #[test]
    fn the_last_addresses_stay_until_there_are_others() {
        let mut host = known();
        let before = shown(&host);
        host.found(Family::V6, Vec::new(), 0);
        host.found(Family::V4, Vec::new(), 0);
        assert_eq!(ended(&mut host), (1, false));
        assert_eq!(shown(&host), before);
    }

    #[test]
    fn a_family_that_failed_is_looked_up_soon() {
        let mut host = known();
        let waits: Vec<u64> = (0..6)
            .map(|_| {
                host.found(Family::V6, ips(&["2001:db8::1"]), 3_600);
                let (wait, found) = ended(&mut host);
                assert!(found);
                wait
            })
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30]);
        assert_eq!(shown(&host).len(), 3, "with what is known of it");
    }

    #[test]
    fn failed_rounds_wait_longer_and_longer() {
        let mut host = host();
        let waits: Vec<u64> = (0..7).map(|_| ended(&mut host).0).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        host.found(Family::V4, ips(&["192.0.2.1"]), 60);
        host.found(Family::V6, Vec::new(), 60);
        assert_eq!(ended(&mut host), (60, true));
        assert_eq!(ended(&mut host), (1, false), "forgotten by a success");
    }

    #[test]
    fn a_list_that_was_turned_around_is_the_same_list() {
        let mut host = known();
        let before = shown(&host);
        host.found(Family::V6, ips(&["2001:db8::1"]), 60);
        host.found(Family::V4, ips(&["192.0.2.2", "192.0.2.1"]), 60);
        ended(&mut host);
        assert_eq!(shown(&host), before);
    }

    #[test]
    fn each_family_has_places_of_its_own() {
        let mut host = host();
        host.found(Family::V6, (0..100).map(|n| [0x2001, 0, 0, 0, 0, 0, 0, n].into()).collect(), 9);
        host.found(Family::V4, (0..100).map(|n| [192, 0, 2, n].into()).collect(), 9);
        ended(&mut host);
        assert_eq!(host.addresses().filter(SocketAddr::is_ipv6).count(), ADDRESSES_PER_FAMILY);
        assert_eq!(host.addresses().filter(SocketAddr::is_ipv4).count(), ADDRESSES_PER_FAMILY);
    }
}
