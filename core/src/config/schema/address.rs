//! Addresses as they are written in the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::wire::Name;

/// Where name servers are asked (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;
/// What is expected where an address with a port is.
pub(super) const HOST_PORT: &str = "host:port";

/// The host of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// `:53`.
    Any,
    /// An address, possibly with a scope; the port is in it.
    Literal(SocketAddr),
    /// A name that has to be looked up.
    Name(Name),
}

/// Reads `host:port` or `:port`; the error says what is wrong with it.
pub(super) fn host_port(text: &str) -> Result<(Host, u16), &'static str> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Ok((Host::Literal(addr), addr.port()));
    }
    let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
    // In `::1:53` the 53 is a part of the address.
    if text.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok() {
        return Err("is an ipv6 address without brackets");
    }
    if text.ends_with(']') {
        return Err("has no port");
    }
    if port.is_empty() {
        return Err("has no port");
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = port.parse().ok().filter(|_| digits).ok_or("has a bad port")?;
    if host.is_empty() {
        return Ok((Host::Any, port));
    }
    if host.eq_ignore_ascii_case("localhost") {
        return Ok((Host::Literal((Ipv4Addr::LOCALHOST, port).into()), port));
    }
    let looks_numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if looks_numeric || host.contains([':', '[', ']', '/', ' ']) {
        return Err("has a bad host");
    }
    let name = Name::parse(host).map_err(|_| "has a bad host")?;
    Ok((Host::Name(name), port))
}

/// The addresses that a listener's text stands for: all addresses are one per family.
pub(super) fn listen(text: &str) -> Result<Vec<SocketAddr>, &'static str> {
    match host_port(text)? {
        (Host::Any, port) => {
            Ok(vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()])
        }
        (Host::Literal(addr), _) => Ok(vec![addr]),
        (Host::Name(_), _) => Err("has a host name"),
    }
}

/// Reads the address of a name server, on port 53 if it names none.
pub(super) fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, DNS_PORT));
    }
    match host_port(text) {
        Ok((Host::Literal(addr), 1..)) => Some(addr),
        Ok((Host::Literal(_) | Host::Any | Host::Name(_), _)) | Err(_) => None,
    }
}

/// Reads a CIDR or a single address; a network of v4-mapped addresses becomes the IPv4 network.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => IpNet::from(text.parse::<IpAddr>().ok()?),
    };
    let IpNet::V6(v6) = network else {
        return Some(network);
    };
    let Some(mapped) = v6.addr().to_ipv4_mapped() else {
        return Some(Ipv6Net::into(v6));
    };
    let prefix_len = v6.prefix_len().checked_sub(96)?;
    Ipv4Net::new(mapped, prefix_len).ok().map(IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        assert_eq!(host_port(":53"), Ok((Host::Any, 53)));
        let literal = |text: &str| Host::Literal(text.parse().unwrap());
        assert_eq!(host_port("1.1.1.1:53"), Ok((literal("1.1.1.1:53"), 53)));
        assert_eq!(host_port("[::1]:53"), Ok((literal("[::1]:53"), 53)));
        assert_eq!(host_port("[fe80::1%3]:53"), Ok((literal("[fe80::1%3]:53"), 53)));
        assert_eq!(host_port("localhost:0"), Ok((literal("127.0.0.1:0"), 0)));
        let name = Host::Name(Name::parse("dns.example").unwrap());
        assert_eq!(host_port("dns.example:853"), Ok((name, 853)));
        for (text, message) in [
            ("", "has no port"),
            ("1.1.1.1", "has no port"),
            ("[::1]", "has no port"),
            ("dns.example", "has no port"),
            ("dns.example:", "has no port"),
            ("::1", "is an ipv6 address without brackets"),
            ("::1:53", "is an ipv6 address without brackets"),
            ("::1:65536", "is an ipv6 address without brackets"),
            ("1.1.1.1:65536", "has a bad port"),
            ("1.1.1.1:+53", "has a bad port"),
            ("1.1.1.1:domain", "has a bad port"),
            ("1.1.1:53", "has a bad host"),
            ("300.1.1.1:53", "has a bad host"),
            ("[::1:53", "has a bad host"),
            ("a..b:53", "has a bad host"),
            ("https://a:53", "has a bad host"),
        ] {
            assert_eq!(host_port(text), Err(message), "{text:?}");
        }
    }

    #[test]
    fn all_addresses_are_one_per_family() {
        let all = listen(":5300").unwrap();
        assert_eq!(all, ["0.0.0.0:5300".parse().unwrap(), "[::]:5300".parse().unwrap()]);
    }

    #[test]
    fn name_servers_have_a_port_of_their_own() {
        let shown = |text: &str| server(text).map(|addr| addr.to_string());
        assert_eq!(shown("192.0.2.1").as_deref(), Some("192.0.2.1:53"));
        assert_eq!(shown("2001:db8::1").as_deref(), Some("[2001:db8::1]:53"));
        assert_eq!(shown("[2001:db8::1]:5353").as_deref(), Some("[2001:db8::1]:5353"));
        for wrong in ["", "dns.example", "dns.example:53", ":53", "192.0.2.1:0", "192.0.2.1:"] {
            assert_eq!(shown(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn networks() {
        let net = |text: &str| network(text).map(|net| net.to_string());
        assert_eq!(net("10.0.0.0/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(net("10.1.2.3").as_deref(), Some("10.1.2.3/32"));
        assert_eq!(net("2001:db8::1").as_deref(), Some("2001:db8::1/128"));
        assert_eq!(net("::ffff:10.0.0.0/104").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(net("::ffff:10.1.2.3").as_deref(), Some("10.1.2.3/32"));
        for wrong in ["::ffff:10.0.0.0/90", "10.0.0.0/33", "10.0.0", "", "host"] {
            assert_eq!(network(wrong), None, "{wrong:?}");
        }
    }
}
