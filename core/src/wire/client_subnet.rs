//! EDNS Client Subnet (RFC 7871): the network of a client, as a query carries it.
//!
//! Parses, shortens and writes it; whether an upstream gets one is a setting of that upstream.

use std::net::IpAddr;

use super::octets::Reader;
use crate::cache::Scope;

/// Family numbers (RFC 7871 section 6), those of IANA's registry.
const IPV4: u16 = 1;
const IPV6: u16 = 2;

/// A client's network.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct ClientSubnet {
    family: u16,
    prefix_length: u8,
    /// The prefix; all bits behind it are zero.
    address: [u8; 16],
}

/// Prefix lengths beyond which nothing is told about a client.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PrefixLengths {
    /// Of an IPv4 address, at most 32.
    pub ipv4: u8,
    /// Of an IPv6 address, at most 128.
    pub ipv6: u8,
}

/// What RFC 7871 section 11.1 recommends.
impl Default for PrefixLengths {
    fn default() -> Self {
        Self { ipv4: 24, ipv6: 56 }
    }
}

/// Octets of the longest option, header included.
pub const CLIENT_SUBNET_OCTETS: usize = 24;

/// An option breaks the rules of RFC 7871 section 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed client subnet")]
pub struct MalformedSubnet;

impl ClientSubnet {
    /// The network of an address; `None` for one that means something only where it is, such as a
    /// private one (RFC 7871 section 11.1).
    #[must_use]
    pub fn of(client: IpAddr, lengths: PrefixLengths) -> Option<Self> {
        let mut address = [0; 16];
        let (family, prefix_length) = match client.to_canonical() {
            IpAddr::V4(ip) => {
                let shared = u32::from(ip) & 0xffc0_0000 == 0x6440_0000; // RFC 6598
                if ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared {
                    return None;
                }
                address.get_mut(..4)?.copy_from_slice(&ip.octets());
                (IPV4, lengths.ipv4)
            }
            IpAddr::V6(ip) => {
                if ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local() {
                    return None;
                }
                address = ip.octets();
                (IPV6, lengths.ipv6)
            }
        };
        Some(Self { family, prefix_length, address }.masked())
    }

    /// Reads the payload of a client's option.
    ///
    /// # Errors
    /// It breaks the rules of section 6: such a query is answered with FORMERR (section 7.1.2).
    pub fn parse(payload: &[u8]) -> Result<Self, MalformedSubnet> {
        let (subnet, scope) = Self::read(payload).ok_or(MalformedSubnet)?;
        if scope == 0 { Ok(subnet) } else { Err(MalformedSubnet) }
    }

    /// A subnet and its scope prefix length.
    fn read(payload: &[u8]) -> Option<(Self, u8)> {
        let mut reader = Reader::new(payload);
        let family = reader.u16()?;
        let &[prefix_length, scope] = reader.take(2)? else { return None };
        let bits = match family {
            IPV4 => 32,
            IPV6 => 128,
            _ => return None,
        };
        let octets = reader.rest();
        if prefix_length > bits || octets.len() != usize::from(prefix_length.div_ceil(8)) {
            return None;
        }
        let mut address = [0; 16];
        address.get_mut(..octets.len())?.copy_from_slice(octets);
        let subnet = Self { family, prefix_length, address };
        (subnet == subnet.masked()).then_some((subnet, scope))
    }

    /// Less of it, where it is longer than these lengths.
    #[must_use]
    pub fn shortened(self, lengths: PrefixLengths) -> Self {
        let longest = if self.family == IPV4 { lengths.ipv4 } else { lengths.ipv6 };
        Self { prefix_length: self.prefix_length.min(longest), ..self }.masked()
    }

    /// Whether it tells nothing: the client wants nothing told (section 7.1.2).
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.prefix_length == 0
    }

    /// The part of a cache key that it is.
    #[must_use]
    pub fn scope(&self) -> Scope<'_> {
        let Self { family, prefix_length, .. } = *self;
        Scope { family, prefix_length, address: self.octets() }
    }

    /// The payload of an option with this scope prefix length; the octets that count are as many as
    /// the second value says.
    #[must_use]
    pub fn payload(&self, scope: u8) -> ([u8; 20], usize) {
        let mut payload = [0; 20];
        let octets = self.octets();
        let [high, low] = self.family.to_be_bytes();
        let len = octets.len().saturating_add(4);
        if let Some((head, rest)) = payload.split_first_chunk_mut::<4>() {
            *head = [high, low, self.prefix_length, scope];
            if let Some(place) = rest.get_mut(..octets.len()) {
                place.copy_from_slice(octets);
            }
        }
        (payload, len)
    }

    /// The prefix length, for a reply whose answer is for all of the prefix.
    #[must_use]
    pub const fn prefix_length(&self) -> u8 {
        self.prefix_length
    }

    /// Whether the option of a reply is for this subnet: one for another answers another question
    /// (section 7.3).
    #[must_use]
    pub fn is_echoed_by(&self, payload: &[u8]) -> bool {
        Self::read(payload).is_some_and(|(subnet, _)| subnet == *self)
    }

    fn octets(&self) -> &[u8] {
        self.address.get(..usize::from(self.prefix_length.div_ceil(8))).unwrap_or_default()
    }

    /// With nothing behind the prefix.
    fn masked(mut self) -> Self {
        for (octet, before) in self.address.iter_mut().zip((0_u8..).step_by(8)) {
            let kept = self.prefix_length.saturating_sub(before).min(8);
            *octet &= 0xff_u8.checked_shl(u32::from(8_u8.saturating_sub(kept))).unwrap_or(0);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(client: &str) -> Option<ClientSubnet> {
        ClientSubnet::of(client.parse().expect("an address"), PrefixLengths::default())
    }

    #[test]
    fn an_address_is_shortened_and_a_private_one_is_not_told() {
        let subnet = of("198.51.100.77").expect("global");
        assert_eq!(subnet.payload(0), (*b"\0\x01\x18\0\xc6\x33\x64\0\0\0\0\0\0\0\0\0\0\0\0\0", 7));
        assert_eq!(of("::ffff:198.51.100.1"), Some(subnet));
        let v6 = of("2001:db8:1:2ff::1").expect("global");
        assert_eq!(v6.payload(0).1, 4 + 7);
        assert_eq!(v6.scope().address, [0x20, 1, 0xd, 0xb8, 0, 1, 2]);
        for local in
            ["10.1.2.3", "127.0.0.1", "169.254.0.1", "100.64.0.1", "::1", "fe80::1", "fd00::1"]
        {
            assert_eq!(of(local), None, "{local}");
        }
    }

    #[test]
    fn the_rules_of_section_6_are_checked() {
        let good: &[&[u8]] = &[&[0, 1, 0, 0], &[0, 1, 24, 0, 1, 2, 3], &[0, 2, 1, 0, 0x80]];
        for payload in good {
            assert!(ClientSubnet::parse(payload).is_ok(), "{payload:?}");
        }
        let bad: &[&[u8]] = &[
            &[],
            &[0, 1, 0],
            &[0, 3, 0, 0],                 // no such family
            &[0, 1, 33, 0, 1, 2, 3, 4, 5], // longer than an address
            &[0, 1, 24, 0, 1, 2],          // cut off
            &[0, 1, 24, 0, 1, 2, 3, 0],    // an octet too many
            &[0, 1, 23, 0, 1, 2, 3],       // a bit behind the prefix
            &[0, 1, 24, 24, 1, 2, 3],      // a scope in a query
        ];
        for payload in bad {
            assert_eq!(ClientSubnet::parse(payload), Err(MalformedSubnet), "{payload:?}");
        }
    }

    #[test]
    fn a_reply_for_another_network_is_noticed() {
        let subnet = of("198.51.100.77").expect("global");
        assert!(subnet.is_echoed_by(&[0, 1, 24, 20, 198, 51, 100]));
        assert!(!subnet.is_echoed_by(&[0, 1, 24, 20, 198, 51, 101]));
        assert!(!subnet.is_echoed_by(&[0, 1, 16, 16, 198, 51]));
        assert!(!subnet.is_echoed_by(&[]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(v4 in any::<u32>(), v6 in any::<u128>(), ipv4 in 0..=32_u8, ipv6 in 0..=128_u8) {
            let lengths = PrefixLengths { ipv4, ipv6 };
            for ip in [IpAddr::from(v4.to_be_bytes()), IpAddr::from(v6.to_be_bytes())] {
                let Some(subnet) = ClientSubnet::of(ip, lengths) else { continue };
                let (payload, len) = subnet.payload(0);
                prop_assert_eq!(ClientSubnet::parse(&payload[..len]), Ok(subnet));
                prop_assert_eq!(subnet.shortened(lengths), subnet);
                let less = subnet.shortened(PrefixLengths { ipv4: ipv4 / 2, ipv6: ipv6 / 2 });
                let (payload, len) = less.payload(0);
                prop_assert_eq!(ClientSubnet::parse(&payload[..len]), Ok(less));
            }
        }

        #[test]
        fn no_payload_makes_it_panic(payload in prop::collection::vec(any::<u8>(), 0..30)) {
            if let Ok(subnet) = ClientSubnet::parse(&payload) {
                let (written, len) = subnet.payload(0);
                prop_assert_eq!(&written[..len], &payload[..]);
            }
        }
    }
}
