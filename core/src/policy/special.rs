//! Special names (RFC 6761): those that the global DNS has no answer for, or only one that would
//! tell strangers about this network. They are answered here instead of being forwarded.
//!
//! Owns which names these are and what there is in their zones: the top-level names of RFC 6761,
//! RFC 6762, RFC 7686 and RFC 9476, `internal`, `home.arpa` (RFC 8375), `resolver.arpa` (RFC 9462)
//! and the reverse zones of RFC 6303 and RFC 7793. Does not decide when they count: a zone may be
//! routed to an upstream.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::wire::{
    LocalData, LocalRecord, Owner, Rcode, RecordType, labels, local_zone_soa, suffixes,
};

/// Seconds that answers about special names may be remembered: RFC 6303 section 3 recommends them
/// for empty zones, and the others change as rarely.
const TTL_SECONDS: u32 = 10_800;

/// The zone of resolvers' discovery (RFC 9462 section 6.4).
const RESOLVER_ARPA: &[u8] = b"\x08resolver\x04arpa\0";

/// A special name: its zone, and what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Special<'a> {
    /// The apex of the zone in wire form: a suffix of the name.
    pub apex: &'a [u8],
    /// What the name has.
    pub content: SpecialContent,
}

/// What a special name has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialContent {
    /// Nothing, nor has any name below it.
    NoSuchName,
    /// No records; the name exists.
    NoRecords,
    /// The loopback addresses (RFC 6761 section 6.3).
    LoopbackAddresses,
    /// The name of a loopback address.
    LoopbackPointer,
    /// SOA and NS of an empty zone (RFC 6303 section 3).
    Apex,
    /// SOA, NS and the name of a loopback address: the zone of `::1` is one name only.
    ApexWithPointer,
}

/// What is special about a lower-cased wire name, if anything is.
///
/// Most names end after one look at their last label; nothing is allocated.
#[must_use]
pub fn special(lower_name: &[u8]) -> Option<Special<'_>> {
    let count = labels(lower_name).count();
    let ending = |labels: usize| suffixes(lower_name).nth(count.checked_sub(labels)?);
    let apex = ending(1)?;
    match apex {
        // RFC 6761 section 6.3: the names below it, too.
        b"\x09localhost\0" => Some(Special { apex, content: SpecialContent::LoopbackAddresses }),
        // RFC 6761 sections 6.2 and 6.4; RFC 7686 section 2; RFC 9476 section 3; RFC 6762 section
        // 22.1; the last one was reserved by ICANN for private use in 2024.
        b"\x04test\0" | b"\x07invalid\0" | b"\x05onion\0" | b"\x03alt\0" | b"\x05local\0"
        | b"\x08internal\0" => Some(Special { apex, content: SpecialContent::NoSuchName }),
        b"\x04arpa\0" => match ending(2)? {
            // RFC 8375 section 4.
            apex @ b"\x04home\x04arpa\0" => {
                Some(Special { apex, content: in_empty_zone(lower_name, apex) })
            }
            // RFC 9462 section 6.4: names below are NODATA, not NXDOMAIN. Who is designated is known
            // elsewhere.
            apex if apex == RESOLVER_ARPA => {
                let at_apex = lower_name == apex;
                let content =
                    if at_apex { SpecialContent::Apex } else { SpecialContent::NoRecords };
                Some(Special { apex, content })
            }
            b"\x07in-addr\x04arpa\0" => reverse(lower_name, count, &IN_ADDR),
            b"\x03ip6\x04arpa\0" => reverse(lower_name, count, &IP6),
            _ => None,
        },
        _ => None,
    }
}

impl<'a> Special<'a> {
    /// Whether a question of this type is one for the zone above, which is not special: DS records
    /// stand on the parent's side of a cut (RFC 4035 section 3.1.4.1). Who validates behind us
    /// needs the proof that there is none, so it has to be forwarded (RFC 8375 section 4).
    #[must_use]
    pub fn is_parents(&self, record_type: RecordType) -> bool {
        match self.content {
            SpecialContent::Apex | SpecialContent::ApexWithPointer => record_type == RecordType::DS,
            SpecialContent::NoSuchName
            | SpecialContent::NoRecords
            | SpecialContent::LoopbackAddresses
            | SpecialContent::LoopbackPointer => false,
        }
    }

    /// Whether it stays here whatever is configured: what another resolver says of itself would send
    /// clients there, to a certificate that is not for us (RFC 9462 section 6.1).
    #[must_use]
    pub fn is_never_forwarded(&self) -> bool {
        self.apex == RESOLVER_ARPA
    }

    /// The rcode of every answer about the name.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        match self.content {
            SpecialContent::NoSuchName => Rcode::NXDOMAIN,
            SpecialContent::NoRecords
            | SpecialContent::LoopbackAddresses
            | SpecialContent::LoopbackPointer
            | SpecialContent::Apex
            | SpecialContent::ApexWithPointer => Rcode::NOERROR,
        }
    }

    /// The records of a type; all of them for ANY, as from the hosts file. The name itself is their
    /// owner.
    #[must_use]
    pub fn records(&self, record_type: RecordType) -> Vec<LocalRecord<'a>> {
        let record = |record_type, data| LocalRecord {
            owner: Owner::Question,
            record_type,
            ttl: TTL_SECONDS,
            data,
        };
        let v4 = record(RecordType::A, LocalData::A(Ipv4Addr::LOCALHOST));
        let v6 = record(RecordType::AAAA, LocalData::Aaaa(Ipv6Addr::LOCALHOST));
        let pointer = record(RecordType::PTR, LocalData::Name(b"\x09localhost\0"));
        // Its own name server, without an address: updates lead nowhere (RFC 6303 section 3).
        let server = record(RecordType::NS, LocalData::Name(self.apex));
        let all: &[LocalRecord<'a>] = match self.content {
            SpecialContent::NoSuchName | SpecialContent::NoRecords => &[],
            SpecialContent::LoopbackAddresses => &[v4, v6],
            SpecialContent::LoopbackPointer => &[pointer],
            SpecialContent::Apex => &[self.soa(), server],
            SpecialContent::ApexWithPointer => &[self.soa(), server, pointer],
        };
        let wanted = |of: RecordType| record_type == of || record_type == RecordType::ANY;
        all.iter().filter(|record| wanted(record.record_type)).copied().collect()
    }

    /// The zone's SOA record, for negative answers (RFC 2308 section 3).
    #[must_use]
    pub fn soa(&self) -> LocalRecord<'a> {
        local_zone_soa(self.apex, TTL_SECONDS)
    }
}

/// What a name has that is in a zone with nothing but its apex.
fn in_empty_zone(lower_name: &[u8], apex: &[u8]) -> SpecialContent {
    if lower_name == apex { SpecialContent::Apex } else { SpecialContent::NoSuchName }
}

/// A tree of names for addresses, two labels deep itself; each label below stands for some bits
/// (RFC 1035 section 3.5, RFC 3596 section 2.5).
struct ReverseTree {
    bits_per_label: u32,
    /// What a label says; `None` if an address has no such label.
    read: fn(&[u8]) -> Option<u8>,
    /// The networks whose zones are special. A zone has as many labels as the prefix reaches into,
    /// so that one that ends within a label stands for several zones: 172.16.0.0/12 for sixteen.
    networks: &'static [Network],
}

const IN_ADDR: ReverseTree = ReverseTree {
    bits_per_label: 8,
    read: octet,
    networks: &[
        // RFC 6303 section 4.1, after RFC 1918.
        v4([10, 0, 0, 0], 8),
        v4([172, 16, 0, 0], 12),
        v4([192, 168, 0, 0], 16),
        // RFC 6303 section 4.2: this network, loopback, link local, the three for documentation,
        // broadcast.
        v4([0, 0, 0, 0], 8),
        v4([127, 0, 0, 0], 8),
        v4([169, 254, 0, 0], 16),
        v4([192, 0, 2, 0], 24),
        v4([198, 51, 100, 0], 24),
        v4([203, 0, 113, 0], 24),
        v4([255, 255, 255, 255], 32),
        // RFC 7793: shared address space.
        v4([100, 64, 0, 0], 10),
    ],
};

const IP6: ReverseTree = ReverseTree {
    bits_per_label: 4,
    read: nibble,
    networks: &[
        // RFC 6303 section 4.3: unspecified and loopback.
        v6(Ipv6Addr::UNSPECIFIED, 128),
        v6(Ipv6Addr::LOCALHOST, 128),
        // RFC 6303 sections 4.4, 4.5 and 4.6: locally assigned, link local, documentation.
        v6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0), 8),
        v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        v6(Ipv6Addr::new(0x2001, 0x0db8, 0, 0, 0, 0, 0, 0), 32),
    ],
};

/// A network: the address' bits from the left.
struct Network {
    bits: u128,
    prefix_len: u32,
}

const fn v4(octets: [u8; 4], prefix_len: u32) -> Network {
    Network { bits: (u32::from_be_bytes(octets) as u128) << 96, prefix_len }
}

const fn v6(address: Ipv6Addr, prefix_len: u32) -> Network {
    Network { bits: address.to_bits(), prefix_len }
}

/// The name of 127.0.0.1.
const LOOPBACK_V4: &[u8] = b"\x011\x010\x010\x03127\x07in-addr\x04arpa\0";

/// What is special about a name of so many labels, the last two of which are the tree's.
fn reverse<'a>(lower_name: &'a [u8], count: usize, tree: &ReverseTree) -> Option<Special<'a>> {
    let digits = count.checked_sub(2)?;
    // The label next to the tree's own is the address' first: each one pushes those before it,
    // which stand for less, to the right.
    let (mut bits, mut known_bits) = (0_u128, 0);
    for label in labels(lower_name).take(digits) {
        (bits, known_bits) = match (tree.read)(label) {
            Some(digit) => (
                bits >> tree.bits_per_label
                    | u128::from(digit) << (u128::BITS - tree.bits_per_label),
                known_bits + tree.bits_per_label,
            ),
            None => (0, 0),
        };
    }
    let network = tree.networks.iter().find(|network| {
        let beyond = u128::BITS - network.prefix_len;
        known_bits >= network.prefix_len && bits >> beyond == network.bits >> beyond
    })?;
    let zone_labels = network.prefix_len.div_ceil(tree.bits_per_label) as usize;
    let apex = suffixes(lower_name).nth(digits.checked_sub(zone_labels)?)?;
    let at_apex = lower_name == apex;
    let content = if at_apex && network.bits == Ipv6Addr::LOCALHOST.to_bits() {
        SpecialContent::ApexWithPointer
    } else if lower_name == LOOPBACK_V4 {
        SpecialContent::LoopbackPointer
    } else if !at_apex && suffixes(LOOPBACK_V4).any(|above| above == lower_name) {
        SpecialContent::NoRecords // NXDOMAIN would deny what is below, too (RFC 8020 section 2)
    } else {
        in_empty_zone(lower_name, apex)
    };
    Some(Special { apex, content })
}

/// A decimal octet as addresses are written: no sign, no leading zero.
fn octet(label: &[u8]) -> Option<u8> {
    let (b"0" | [b'1'..=b'9', ..]) = label else { return None };
    std::str::from_utf8(label).ok()?.parse().ok()
}

/// One hexadecimal digit.
fn nibble(label: &[u8]) -> Option<u8> {
    match label {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        [digit @ b'a'..=b'f'] => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::testing::wire;

    const ZERO: &str = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0";

    /// All zones as the RFCs and registries list them.
    fn zones() -> Vec<String> {
        let mut zones: Vec<String> = [
            "localhost",
            "test",
            "invalid",
            "onion",
            "alt",
            "local",
            "internal",
            "home.arpa",
            "resolver.arpa",
            "10.in-addr.arpa",
            "168.192.in-addr.arpa",
            "0.in-addr.arpa",
            "127.in-addr.arpa",
            "254.169.in-addr.arpa",
            "2.0.192.in-addr.arpa",
            "100.51.198.in-addr.arpa",
            "113.0.203.in-addr.arpa",
            "255.255.255.255.in-addr.arpa",
            "d.f.ip6.arpa",
            "8.e.f.ip6.arpa",
            "9.e.f.ip6.arpa",
            "a.e.f.ip6.arpa",
            "b.e.f.ip6.arpa",
            "8.b.d.0.1.0.0.2.ip6.arpa",
        ]
        .map(str::to_owned)
        .into();
        zones.extend((16..=31).map(|second| format!("{second}.172.in-addr.arpa")));
        zones.extend((64..=127).map(|second| format!("{second}.100.in-addr.arpa")));
        zones.extend(["0", "1"].map(|last| format!("{last}.{ZERO}.ip6.arpa")));
        zones
    }

    /// Apex and content of a name, by comparing texts.
    fn naive(name: &str) -> Option<(String, SpecialContent)> {
        let zone =
            zones().into_iter().find(|zone| name == zone || name.ends_with(&format!(".{zone}")))?;
        let at_apex = name == zone;
        let content = match zone.as_str() {
            "localhost" => SpecialContent::LoopbackAddresses,
            top if !top.contains('.') => SpecialContent::NoSuchName,
            "resolver.arpa" if !at_apex => SpecialContent::NoRecords,
            "127.in-addr.arpa" if name == "1.0.0.127.in-addr.arpa" => {
                SpecialContent::LoopbackPointer
            }
            "127.in-addr.arpa"
                if ["0.127.in-addr.arpa", "0.0.127.in-addr.arpa"].contains(&name) =>
            {
                SpecialContent::NoRecords
            }
            one if at_apex && one.starts_with("1.0.0.") => SpecialContent::ApexWithPointer,
            _ if at_apex => SpecialContent::Apex,
            _ => SpecialContent::NoSuchName,
        };
        Some((zone, content))
    }

    fn assert_as_naive(name: &str) {
        let name = name.to_ascii_lowercase();
        let wired = wire(&name);
        let found = special(&wired).map(|special| (special.apex.to_vec(), special.content));
        let expected = naive(&name).map(|(zone, content)| (wire(&zone), content));
        assert_eq!(found, expected, "{name}");
    }

    fn content(name: &str) -> Option<SpecialContent> {
        special(&wire(name)).map(|special| special.content)
    }

    #[test]
    fn the_table_is_complete() {
        for zone in zones() {
            assert!(special(&wire(&zone)).is_some_and(|found| found.apex == wire(&zone)), "{zone}");
            for below in ["a", "1", "a.b", "1.0.0", "_dns-sd._udp", "test", "x.10.in-addr.arpa"] {
                assert_as_naive(&zone);
                assert_as_naive(&format!("{below}.{zone}"));
            }
        }
    }

    #[test]
    fn labels_count_as_a_whole() {
        for name in [
            "",
            "notlocalhost",
            "localhost.example",
            "xtest",
            "test.example",
            "tes",
            "arpa",
            "in-addr.arpa",
            "ip6.arpa",
            "ahome.arpa",
            "home.arpa.example",
            "172.in-addr.arpa",
            "15.172.in-addr.arpa",
            "32.172.in-addr.arpa",
            "63.100.in-addr.arpa",
            "128.100.in-addr.arpa",
            "010.in-addr.arpa",
            "+10.in-addr.arpa",
            "110.in-addr.arpa",
            "266.in-addr.arpa",
            "a.10.x.in-addr.arpa",
            "192.in-addr.arpa",
            "0.192.in-addr.arpa",
            "255.255.255.in-addr.arpa",
            "f.ip6.arpa",
            "e.f.ip6.arpa",
            "7.e.f.ip6.arpa",
            "c.e.f.ip6.arpa",
            "dd.f.ip6.arpa",
            "10.ip6.arpa",
            "d.f.in-addr.arpa",
        ] {
            assert_eq!(content(name), None, "{name}");
            assert_as_naive(name);
        }
        assert_eq!(special(&wire(&format!("{ZERO}.ip6.arpa"))), None, "one digit short");
        // The length octet 4 and "test" within one label are not the label "test".
        assert_eq!(special(b"\x06x\x04test\0"), None);
        assert_eq!(special(b"\x04test"), None, "not a name");
        assert_eq!(special(b""), None);
    }

    #[test]
    fn names_on_the_way_to_the_loopback_address_exist_rfc_8020() {
        use SpecialContent::{LoopbackPointer, NoRecords, NoSuchName};
        assert_eq!(content("1.0.0.127.in-addr.arpa"), Some(LoopbackPointer));
        assert_eq!(content("0.0.127.in-addr.arpa"), Some(NoRecords));
        assert_eq!(content("0.127.in-addr.arpa"), Some(NoRecords));
        assert_eq!(content("1.127.in-addr.arpa"), Some(NoSuchName));
        assert_eq!(content("2.0.0.127.in-addr.arpa"), Some(NoSuchName));
        assert_eq!(content("1.1.0.0.127.in-addr.arpa"), Some(NoSuchName));
    }

    #[test]
    fn an_apex_has_soa_and_ns_and_leaves_ds_to_its_parent() {
        let name = wire("10.in-addr.arpa");
        let apex = special(&name).expect("special");
        let types = |asked| -> Vec<RecordType> {
            apex.records(asked).iter().map(|record| record.record_type).collect()
        };
        assert_eq!(types(RecordType::SOA), [RecordType::SOA]);
        assert_eq!(types(RecordType::NS), [RecordType::NS]);
        assert_eq!(types(RecordType::ANY), [RecordType::SOA, RecordType::NS]);
        assert_eq!(types(RecordType::PTR), []);
        assert!(apex.is_parents(RecordType::DS) && !apex.is_parents(RecordType::DNSKEY));
        for kept in ["a.10.in-addr.arpa", "test", "localhost", "_dns.resolver.arpa"] {
            let kept = wire(kept);
            assert!(!special(&kept).expect("special").is_parents(RecordType::DS));
        }
    }

    #[test]
    fn only_resolver_arpa_is_never_forwarded_rfc_9462_section_6_1() {
        for zone in zones() {
            for name in [zone.clone(), format!("_dns.{zone}")] {
                let name = wire(&name);
                let never = special(&name).expect("special").is_never_forwarded();
                assert_eq!(never, zone == "resolver.arpa", "{zone}");
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_texts(
            labels in prop::collection::vec(
                prop_oneof!["[0-9a-f]", "[0-9]{1,3}", "[a-z]{1,4}", Just("0".to_owned())],
                0..6,
            ),
            zone in prop::sample::select(zones()),
            cut in 0..4_usize,
        ) {
            // With labels cut off the zone's front, most names are close to a zone, not in it.
            let zone: Vec<&str> = zone.split('.').skip(cut).collect();
            let name: Vec<&str> = labels.iter().map(String::as_str).chain(zone).collect();
            assert_as_naive(&name.join("."));
        }
    }
}
