//! Headers of the PROXY protocol, as proxies send them in front of everything else.

use std::net::SocketAddr;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 1: one line of text.
pub(crate) fn version_1(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), server.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), server.port()).into_bytes()
}

/// Version 1 of a proxy that does not know its client.
pub(crate) fn version_1_unknown() -> Vec<u8> {
    b"PROXY UNKNOWN\r\n".to_vec()
}

/// Version 2 for a stream.
pub(crate) fn version_2(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    header(0x21, 1, client, server, &[])
}

/// Version 2 for a stream, with fields of its own at the end.
pub(crate) fn version_2_with_fields(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    // PP2_TYPE_UNIQUE_ID.
    header(0x21, 1, client, server, &[0x05, 0, 3, b'x', b'y', b'z'])
}

/// Version 2 for a datagram.
pub(crate) fn version_2_datagram(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    header(0x21, 2, client, server, &[])
}

/// Version 2 of a proxy that speaks for itself: a health check.
pub(crate) fn version_2_local() -> Vec<u8> {
    let mut octets = SIGNATURE.to_vec();
    octets.extend([0x20, 0, 0, 0]);
    octets
}

fn header(
    version_and_command: u8,
    transport: u8,
    client: SocketAddr,
    server: SocketAddr,
    fields: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    let family = match (client, server) {
        (SocketAddr::V4(client), SocketAddr::V4(server)) => {
            body.extend(client.ip().octets());
            body.extend(server.ip().octets());
            0x10
        }
        (SocketAddr::V6(client), SocketAddr::V6(server)) => {
            body.extend(client.ip().octets());
            body.extend(server.ip().octets());
            0x20
        }
        (SocketAddr::V4(_), SocketAddr::V6(_)) | (SocketAddr::V6(_), SocketAddr::V4(_)) => {
            panic!("both addresses are of one family")
        }
    };
    body.extend(client.port().to_be_bytes());
    body.extend(server.port().to_be_bytes());
    body.extend(fields);
    let mut octets = SIGNATURE.to_vec();
    octets.extend([version_and_command, family | transport]);
    octets.extend(u16::try_from(body.len()).expect("a short header").to_be_bytes());
    octets.extend(body);
    octets
}
