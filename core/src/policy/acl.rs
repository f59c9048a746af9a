//! The access list: which client addresses are answered at all.
//!
//! A v4-mapped IPv6 address (RFC 4291 section 2.5.5.2) is the IPv4 client it stands for, both in
//! the list and in what is asked; so `::/0` does not admit IPv4 clients.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// An IPv6 prefix at least this long may lie inside `::ffff:0:0/96`, the v4-mapped addresses.
const MAPPED_PREFIX_LEN: u8 = 96;

/// A set of client networks, kept as disjoint sorted ranges of addresses, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Acl {
    /// The clients of these networks. Host bits of an entry are ignored; an empty list admits
    /// nobody.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match fold_network(network) {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }
        Self { v4: merged(v4), v6: merged(v6) }
    }

    /// Whether nobody is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether this client may ask.
    #[must_use]
    pub fn allows(&self, client: IpAddr) -> bool {
        match fold(client) {
            IpAddr::V4(ip) => contains(&self.v4, ip.to_bits()),
            IpAddr::V6(ip) => contains(&self.v6, ip.to_bits()),
        }
    }
}

/// Loopback, RFC 1918 and link-local addresses, and IPv6 unique local ones (RFC 4193): whom a
/// resolver may answer that nobody has configured.
impl Default for Acl {
    fn default() -> Self {
        let v4 = |a, b, len| IpNet::V4(Ipv4Net::new_assert([a, b, 0, 0].into(), len));
        let v6 = |first, last, len| {
            IpNet::V6(Ipv6Net::new_assert([first, 0, 0, 0, 0, 0, 0, last].into(), len))
        };
        Self::new(vec![
            v4(127, 0, 8),
            v6(0, 1, 128),
            v4(10, 0, 8),
            v4(172, 16, 12),
            v4(192, 168, 16),
            v6(0xfc00, 0, 7),
            v6(0xfe80, 0, 10),
            v4(169, 254, 16),
        ])
    }
}

/// The address of the client itself: a v4-mapped IPv6 address becomes the IPv4 one.
#[must_use]
pub fn fold(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// A network of v4-mapped addresses becomes the IPv4 network.
pub(super) fn fold_network(network: IpNet) -> IpNet {
    if let IpNet::V6(net) = network
        && let Some(prefix_len) = net.prefix_len().checked_sub(MAPPED_PREFIX_LEN)
        && let Some(ip) = net.addr().to_ipv4_mapped()
    {
        return IpNet::V4(Ipv4Net::new_assert(ip, prefix_len));
    }
    network
}

/// Sorts ranges and joins those that overlap.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut joined: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    joined
}

/// Whether one of the sorted, disjoint ranges holds the address.
fn contains<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| address <= *last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn acl(networks: &[&str]) -> Acl {
        Acl::new(networks.iter().map(|net| net.parse().unwrap()).collect())
    }

    #[test]
    fn the_default_admits_local_clients_only() {
        let acl = Acl::default();
        for inside in [
            "127.0.0.1",
            "127.255.255.255",
            "::1",
            "10.0.0.0",
            "10.255.255.255",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.3.4",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "169.254.1.1",
            "::ffff:192.168.3.4",
        ] {
            assert!(acl.allows(ip(inside)), "{inside}");
        }
        for outside in [
            "126.255.255.255",
            "128.0.0.0",
            "::",
            "::2",
            "9.255.255.255",
            "11.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.169.0.0",
            "fbff::1",
            "fe00::1",
            "fec0::1",
            "169.253.255.255",
            "8.8.8.8",
            "::ffff:8.8.8.8",
            "2001:db8::1",
        ] {
            assert!(!acl.allows(ip(outside)), "{outside}");
        }
    }

    #[test]
    fn nobody_is_admitted_by_an_empty_list() {
        let nobody = Acl::new(Vec::new());
        assert!(nobody.is_empty() && !nobody.allows(ip("127.0.0.1")));
        assert!(!acl(&["192.0.2.0/24"]).is_empty() && !acl(&["::/0"]).is_empty());
    }

    #[test]
    fn mapped_addresses_are_the_ipv4_client() {
        assert_eq!(fold(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(fold(ip("::1")), ip("::1"));
        let mapped = acl(&["::ffff:192.0.2.0/120"]);
        assert_eq!(mapped, acl(&["192.0.2.0/24"]));
        assert!(mapped.allows(ip("::ffff:192.0.2.9")));
        assert!(!mapped.allows(ip("192.0.3.0")));
    }

    #[test]
    fn all_of_one_family_is_not_all_of_the_other() {
        assert!(!acl(&["::/0"]).allows(ip("192.0.2.1")));
        assert!(!acl(&["0.0.0.0/0"]).allows(ip("2001:db8::1")));
        let all = acl(&["0.0.0.0/0", "::/0"]);
        assert!(all.allows(ip("255.255.255.255")));
        assert!(all.allows(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
    }

    #[test]
    fn host_bits_are_ignored() {
        assert!(acl(&["192.0.2.77/24"]).allows(ip("192.0.2.1")));
    }

    /// Few bits vary, at all heights, so that networks overlap and probes hit.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = any::<u32>().prop_map(|bits| std::net::Ipv4Addr::from(bits & 0xc000_8103));
        let v6 = any::<u128>().prop_map(|bits| {
            std::net::Ipv6Addr::from(bits & 0xc000_0000_0000_0000_0001_8000_0000_0003)
        });
        let mapped = v4.clone().prop_map(|ip| IpAddr::V6(ip.to_ipv6_mapped()));
        prop_oneof![v4.prop_map(IpAddr::V4), v6.prop_map(IpAddr::V6), mapped]
    }

    /// The bits of an address, the first one first: IPv4 for what is mapped and said to be.
    fn bits(ip: IpAddr) -> Vec<bool> {
        let octets = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        octets.iter().flat_map(|octet| (0..8).map(move |at| octet >> (7 - at) & 1 == 1)).collect()
    }

    fn is_in(client: IpAddr, net: IpNet) -> bool {
        let mut client = bits(client);
        let (mut prefix, mut len) = (bits(net.addr()), usize::from(net.prefix_len()));
        let mapped = bits("::ffff:0:0".parse().unwrap());
        if client.len() == 128 && client[..96] == mapped[..96] {
            client.drain(..96);
        }
        if prefix.len() == 128 && prefix[..96] == mapped[..96] && len >= 96 {
            prefix.drain(..96);
            len -= 96;
        }
        client.len() == prefix.len() && client[..len] == prefix[..len]
    }

    proptest! {
        #[test]
        fn merging_changes_no_answer(
            nets in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..20),
            probe in any::<u32>(),
        ) {
            // Few high bits vary, so that networks overlap and probes hit.
            let shrink = |bits: u32| bits & 0x0700_0007;
            let nets: Vec<Ipv4Net> = nets
                .into_iter()
                .map(|(bits, len)| Ipv4Net::new_assert(shrink(bits).into(), len))
                .collect();
            let probe = std::net::Ipv4Addr::from(shrink(probe));
            let naive = nets.iter().any(|net| net.contains(&probe));
            let acl = Acl::new(nets.into_iter().map(IpNet::V4).collect());
            prop_assert_eq!(acl.allows(IpAddr::V4(probe)), naive);
        }

        /// Each bit of the prefix by itself, for both families and for addresses that are mapped.
        #[test]
        fn agrees_with_comparing_bits(
            nets in prop::collection::vec((address(), 0_u8..=128), 0..12),
            probe in address(),
        ) {
            let nets: Vec<IpNet> = nets
                .into_iter()
                .map(|(ip, len)| {
                    let longest = if ip.is_ipv4() { 32 } else { 128 };
                    IpNet::new(ip, len.min(longest)).unwrap()
                })
                .collect();
            let naive = nets.iter().any(|net| is_in(probe, *net));
            prop_assert_eq!(Acl::new(nets).allows(probe), naive);
        }
    }
}
