//! How clients find encrypted DNS: what they are told of our own listeners (RFC 9462), and what tells
//! Firefox to stay with us.
//!
//! Owns the records; who gets them, and when, is the engine's. They are made once, when the
//! configuration is read.

use std::net::{IpAddr, SocketAddr};

use crate::transport::Transport;
use crate::wire::{LocalData, LocalRecord, Name, Owner, RecordType};

/// Where clients of plain DNS ask for encrypted listeners (RFC 9462 section 4).
pub const DISCOVERY_NAME: &[u8] = b"\x04_dns\x08resolver\x04arpa\0";
/// Firefox asks for the addresses of this name before it sends DNS elsewhere by default: NXDOMAIN
/// means that the network wants to see the questions (Mozilla, "Canary domain -
/// use-application-dns.net"). Who has switched that on by hand is not asked.
pub const FIREFOX_CANARY: &[u8] = b"\x13use-application-dns\x03net\0";
/// Seconds that both may be remembered. Clients ask when they join a network, so short is cheap, and
/// a listener that has moved is found again soon.
pub const DISCOVERY_TTL_SECONDS: u32 = 300;

/// Keys of service parameters (RFC 9460 section 14.3.2; RFC 9461 section 5 for the last one), in the
/// order in which they have to stand.
mod key {
    pub(super) const ALPN: u16 = 1;
    pub(super) const PORT: u16 = 3;
    pub(super) const IPV4HINT: u16 = 4;
    pub(super) const IPV6HINT: u16 = 6;
    pub(super) const DOHPATH: u16 = 7;
}

/// The designation of our own listeners as the encrypted ones of this resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovery {
    name: Name,
    /// RDATA of SVCB records, the preferred one first.
    bindings: Vec<Box<[u8]>>,
}

impl Discovery {
    /// Announces these encrypted listeners under a name: one record per protocol and port. A port
    /// that the system chooses is not known, so it is left out.
    #[must_use]
    pub fn new(name: Name, listeners: &[(Transport, SocketAddr)], doh_path: &str) -> Self {
        let mut services: Vec<(Transport, u16)> = Vec::new();
        for (transport, addr) in listeners {
            let service = (*transport, addr.port());
            if addr.port() != 0 && !services.contains(&service) {
                services.push(service);
            }
        }
        let binding = |((transport, port), priority): (&(Transport, u16), u16)| {
            let is_of = |(of, addr): &&(Transport, SocketAddr)| {
                of == transport && addr.port() == *port && is_reached(addr.ip())
            };
            let hints: Vec<IpAddr> =
                listeners.iter().filter(is_of).map(|(_, addr)| addr.ip()).collect();
            let params = parameters(*transport, *port, &hints, doh_path)?;
            Some([&priority.to_be_bytes(), name.as_wire(), &params].concat().into())
        };
        let bindings = services.iter().zip(1..).filter_map(binding).collect();
        Self { name, bindings }
    }

    /// Under which name they are announced.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Whether there is nothing to announce.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bindings.is_empty()
    }

    /// The SVCB records of [`DISCOVERY_NAME`].
    #[must_use]
    pub fn records(&self) -> Vec<LocalRecord<'_>> {
        let record = |binding| LocalRecord {
            owner: Owner::Question,
            record_type: RecordType::SVCB,
            ttl: DISCOVERY_TTL_SECONDS,
            data: LocalData::Raw(binding),
        };
        self.bindings.iter().map(|binding| record(binding)).collect()
    }
}

/// Whether another machine may reach this address: what is worth a hint.
fn is_reached(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(), // needs a zone, too
    };
    !ip.is_unspecified() && !ip.is_loopback() && !is_link_local
}

/// The service parameters of one protocol and port (RFC 9461 sections 4 and 5); none for protocols
/// that are not encrypted.
fn parameters(
    transport: Transport,
    port: u16,
    hints: &[IpAddr],
    doh_path: &str,
) -> Option<Vec<u8>> {
    let (alpn, template): (&[u8], _) = match transport {
        Transport::Udp | Transport::Tcp => return None,
        Transport::Dot => (b"\x03dot", None),
        // A URI template (RFC 8484 section 4.1): the path needs no escapes.
        Transport::Doh => (b"\x02h2", Some(format!("{doh_path}{{?dns}}"))),
    };
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for ip in hints {
        match ip {
            IpAddr::V4(ip) => v4.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => v6.extend_from_slice(&ip.octets()),
        }
    }
    let mut out = Vec::new();
    for (key, value) in [
        (key::ALPN, alpn),
        (key::PORT, &port.to_be_bytes()),
        (key::IPV4HINT, &v4),
        (key::IPV6HINT, &v6),
        (key::DOHPATH, template.as_deref().unwrap_or_default().as_bytes()),
    ] {
        if !value.is_empty() {
            out.extend_from_slice(&key.to_be_bytes());
            out.extend_from_slice(&u16::try_from(value.len()).ok()?.to_be_bytes());
            out.extend_from_slice(value);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use hickory_proto::serialize::binary::BinDecodable;

    use super::*;

    fn listener(transport: Transport, addr: &str) -> (Transport, SocketAddr) {
        (transport, addr.parse().expect("an address"))
    }

    fn discovery(listeners: &[(Transport, SocketAddr)]) -> Discovery {
        Discovery::new(Name::parse("dns.example").expect("a name"), listeners, "/dns-query")
    }

    /// The records as an independent implementation reads them.
    fn shown(listeners: &[(Transport, SocketAddr)]) -> Vec<String> {
        let read = |binding: &[u8]| {
            let length = u16::try_from(binding.len()).expect("short").to_be_bytes();
            let record = [&[0, 0, 64, 0, 1, 0, 0, 0, 0], &length[..], binding].concat();
            Record::from_bytes(&record).expect("valid").data.to_string()
        };
        discovery(listeners).bindings.iter().map(|binding| read(binding)).collect()
    }

    #[test]
    fn each_protocol_and_port_has_a_record() {
        let listeners = [
            listener(Transport::Udp, "192.0.2.1:53"),
            listener(Transport::Tcp, "192.0.2.1:53"),
            listener(Transport::Dot, "0.0.0.0:853"),
            listener(Transport::Dot, "[::]:853"),
            listener(Transport::Doh, "192.0.2.1:443"),
            listener(Transport::Doh, "192.0.2.2:443"),
            listener(Transport::Doh, "[2001:db8::1]:443"),
            listener(Transport::Dot, "127.0.0.1:8853"),
            listener(Transport::Dot, "[fe80::1]:8853"),
            listener(Transport::Doh, "192.0.2.1:0"),
        ];
        assert_eq!(
            shown(&listeners[2..]),
            [
                "1 dns.example. alpn=dot, port=853",
                "2 dns.example. alpn=h2, port=443 ipv4hint=192.0.2.1,192.0.2.2, \
                 ipv6hint=2001:db8::1, unknown7=\"/dns-query{?dns}\",",
                "3 dns.example. alpn=dot, port=8853",
            ]
        );
        assert!(discovery(&listeners[..2]).is_empty(), "nothing is encrypted");
        assert!(discovery(&listeners[9..]).is_empty(), "whose port is not known");
    }

    /// Octet for octet: the figures of RFC 9460 section 2.2 and RFC 9461 section 5.
    #[test]
    fn the_wire_form_is_that_of_rfc_9460() {
        let found = discovery(&[listener(Transport::Doh, "192.0.2.1:444")]);
        let [record] = found.records()[..] else { panic!("one record") };
        assert_eq!((record.record_type, record.ttl), (RecordType::SVCB, DISCOVERY_TTL_SECONDS));
        let expected = b"\0\x01\x03dns\x07example\0\
            \0\x01\0\x03\x02h2\0\x03\0\x02\x01\xbc\0\x04\0\x04\xc0\0\x02\x01\
            \0\x07\0\x10/dns-query{?dns}";
        assert_eq!(record.data, LocalData::Raw(expected));
        assert_eq!(found.name().to_string(), "dns.example.");
    }

    #[test]
    fn names_are_in_wire_form() {
        for (wire, text) in
            [(DISCOVERY_NAME, "_dns.resolver.arpa"), (FIREFOX_CANARY, "use-application-dns.net")]
        {
            assert_eq!(Name::parse(text).expect("a name").as_wire(), wire);
        }
    }
}
