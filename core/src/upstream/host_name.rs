//! A host name that stands for an upstream: its addresses and when to look it up again.
//!
//! Owns what is known of the name. Who is asked for it, and what waits for it, is the engine's.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::endpoint::Backoff;
use crate::config::UpstreamSettings;
use crate::handle::FetchHandle;
use crate::limits::{
    ADDRESSES_PER_HOST, LOOKUP_EVERY_MAX, LOOKUP_EVERY_MIN, LOOKUP_RETRY, LOOKUP_RETRY_MAX,
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

/// One upstream's host name, as one worker knows it.
#[derive(Debug)]
pub(crate) struct HostName {
    /// The upstream's settings. Another generation with the same settings keeps what is known.
    pub(crate) settings: Arc<UpstreamSettings>,
    /// The name.
    pub(crate) name: Name,
    port: u16,
    v6: Vec<IpAddr>,
    v4: Vec<IpAddr>,
    /// The endpoints of the addresses, in the order in which they are tried.
    pub(crate) endpoints: Vec<usize>,
    /// Look-ups in flight: one per family.
    pub(crate) in_flight: usize,
    /// The least TTL of what the look-ups of this round have found.
    ttl: Option<u32>,
    backoff: Backoff,
    /// Questions that wait for the first address.
    pub(crate) waiting: Vec<FetchHandle>,
    /// Fires when it is to be looked up again.
    pub(crate) timer: TimerId,
    /// Operators were told that it cannot be looked up.
    pub(crate) reported: bool,
}

impl HostName {
    pub(crate) fn new(
        settings: Arc<UpstreamSettings>,
        name: Name,
        port: u16,
        timer: TimerId,
    ) -> Self {
        Self {
            settings,
            name,
            port,
            v6: Vec::new(),
            v4: Vec::new(),
            endpoints: Vec::new(),
            in_flight: 0,
            ttl: None,
            backoff: Backoff::default(),
            waiting: Vec::new(),
            timer,
            reported: false,
        }
    }

    /// Where to connect to, IPv6 first.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let all = self.v6.iter().chain(&self.v4).take(ADDRESSES_PER_HOST);
        all.map(|ip| SocketAddr::new(*ip, self.port))
    }

    /// A look-up has found addresses. None at all is no reason to forget those that were found
    /// before: the name may have been taken away by mistake, and nothing better is known.
    pub(crate) fn found(&mut self, family: Family, addresses: Vec<IpAddr>, ttl: u32) {
        let (these, others) = match family {
            Family::V6 => (&mut self.v6, &self.v4),
            Family::V4 => (&mut self.v4, &self.v6),
        };
        if addresses.is_empty() && others.is_empty() {
            return;
        }
        if !addresses.is_empty() {
            self.ttl = Some(self.ttl.map_or(ttl, |least| least.min(ttl)));
        }
        *these = addresses;
    }

    /// All look-ups of this round have ended: when the next one is due, and whether this one has
    /// found anything.
    pub(crate) fn end_round(&mut self, now: Instant) -> (Instant, bool) {
        match self.ttl.take() {
            Some(ttl) => {
                self.backoff.succeeded();
                let ttl = Duration::from_secs(ttl.into());
                (now + ttl.clamp(LOOKUP_EVERY_MIN, LOOKUP_EVERY_MAX), true)
            }
            None => {
                self.backoff.failed(now, LOOKUP_RETRY, LOOKUP_RETRY_MAX);
                (self.backoff.wait(now).unwrap_or(now), false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{UpstreamAddress, UpstreamProtocol};
    use crate::timers::Timers;

    fn host() -> HostName {
        let name = Name::parse("dns.example").expect("a name");
        let settings = UpstreamSettings {
            name: "up".to_owned(),
            protocol: UpstreamProtocol::Udp,
            addr: UpstreamAddress::Host { name: name.clone(), port: 53 },
            timeout: Duration::from_secs(2),
            max_in_flight: 1,
            randomize_case: true,
        };
        HostName::new(settings.into(), name, 53, Timers::default().allocate(()))
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    fn shown(host: &HostName) -> Vec<String> {
        host.addresses().map(|addr| addr.to_string()).collect()
    }

    #[test]
    fn ipv6_comes_first_and_the_least_ttl_counts() {
        let mut host = host();
        let now = Instant::ZERO;
        host.found(Family::V4, ips(&["192.0.2.1", "192.0.2.2"]), 60);
        host.found(Family::V6, ips(&["2001:db8::1"]), 300);
        assert_eq!(shown(&host), ["[2001:db8::1]:53", "192.0.2.1:53", "192.0.2.2:53"]);
        assert_eq!(host.end_round(now), (now + Duration::from_secs(60), true));
        host.found(Family::V4, ips(&["192.0.2.1"]), 0);
        assert_eq!(host.end_round(now).0, now + LOOKUP_EVERY_MIN);
        host.found(Family::V4, ips(&["192.0.2.1"]), u32::MAX);
        assert_eq!(host.end_round(now).0, now + LOOKUP_EVERY_MAX);
    }

    #[test]
    fn the_last_address_stays_until_there_is_another() {
        let mut host = host();
        host.found(Family::V4, ips(&["192.0.2.1"]), 60);
        host.found(Family::V6, ips(&["2001:db8::1"]), 60);
        host.found(Family::V6, Vec::new(), 0);
        assert_eq!(shown(&host), ["192.0.2.1:53"], "one family may go");
        host.end_round(Instant::ZERO);
        host.found(Family::V4, Vec::new(), 0);
        assert_eq!(shown(&host), ["192.0.2.1:53"], "both may not");
        assert!(!host.end_round(Instant::ZERO).1);
        host.found(Family::V6, ips(&["2001:db8::2"]), 60);
        host.found(Family::V4, Vec::new(), 0);
        assert_eq!(shown(&host), ["[2001:db8::2]:53"]);
    }

    #[test]
    fn failed_rounds_wait_longer_and_longer() {
        let mut host = host();
        let now = Instant::ZERO;
        let waits: Vec<u64> = (0..7).map(|_| host.end_round(now).0.since(now).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        host.found(Family::V4, ips(&["192.0.2.1"]), 60);
        assert!(host.end_round(now).1);
        assert_eq!(host.end_round(now).0.since(now).as_secs(), 1, "forgotten by a success");
    }

    #[test]
    fn no_more_addresses_than_the_bound() {
        let mut host = host();
        let many = (0..100).map(|n| IpAddr::from([192, 0, 2, n])).collect();
        host.found(Family::V4, many, 60);
        assert_eq!(host.addresses().count(), ADDRESSES_PER_HOST);
    }
}
