//! Addresses of the hosts that lists are fetched from: asked at our own listener, so that what holds
//! for clients' names holds for these, and at the bootstrap servers where that has none to give.
//!
//! Plain datagrams are enough: who answers in a server's place still has to show its certificate.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Instant;

use balancedns_core::time::Duration;
use balancedns_core::wire::{
    Name, RecordClass, RecordType, ResponseView, UPSTREAM_OPT_OCTETS, UpstreamEdns, write_query,
};
use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use hickory_proto::serialize::binary::BinDecodable;

/// How long one answer may take, and how often each server is asked: a datagram may get lost, and our
/// own listener asks others.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: usize = 2;
/// The largest answer that is asked for (RFC 9715 section 3), and that is read.
const UDP_SIZE: u16 = 1_232;
const DATAGRAM_OCTETS: usize = 4_096;
/// IPv4 first: a machine without IPv6 often has addresses of it, and silence behind them.
const FAMILIES: [RecordType; 2] = [RecordType::A, RecordType::AAAA];

/// The addresses of a host: of the first server that knows any.
pub(super) fn addresses_of(host: &str, servers: &[SocketAddr]) -> Vec<IpAddr> {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = literal.parse() {
        return vec![ip];
    }
    let Ok(name) = Name::parse(host) else { return Vec::new() };
    let answers = servers.iter().map(|server| ask(*server, &name, PATIENCE).unwrap_or_default());
    answers.into_iter().find(|addresses| !addresses.is_empty()).unwrap_or_default()
}

/// Asks one server for both families, twice if need be, with so much patience each time.
///
/// # Errors
/// It cannot be reached, or there is no entropy.
fn ask(server: SocketAddr, name: &Name, patience: Duration) -> io::Result<Vec<IpAddr>> {
    let any = match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let mut asked = [Asked::new(name, FAMILIES[0])?, Asked::new(name, FAMILIES[1])?];
    for _ in 0..TRIES {
        for asked in asked.iter().filter(|asked| asked.answer.is_none()) {
            socket.send(&asked.query)?;
        }
        receive(&socket, &mut asked, patience)?;
        if asked.iter().all(|asked| asked.answer.is_some()) {
            break;
        }
    }
    Ok(asked.into_iter().filter_map(|asked| asked.answer).flatten().collect())
}

/// Takes in what comes until there is nothing left to wait for.
fn receive(socket: &UdpSocket, asked: &mut [Asked], patience: Duration) -> io::Result<()> {
    let start = Instant::now();
    let mut buffer = [0; DATAGRAM_OCTETS];
    while asked.iter().any(|asked| asked.answer.is_none()) {
        let left = patience.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
        socket.set_read_timeout(Some(left))?;
        let octets = match socket.recv(&mut buffer) {
            Ok(octets) => octets,
            Err(error) if is_timeout(&error) => break,
            Err(error) => return Err(error),
        };
        let message = buffer.get(..octets).unwrap_or_default();
        for asked in asked.iter_mut().filter(|asked| asked.answer.is_none()) {
            asked.answer = asked.addresses_in(message);
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A question and what is known of its answer.
#[derive(Debug)]
struct Asked {
    id: u16,
    question: Vec<u8>,
    query: Vec<u8>,
    answer: Option<Vec<IpAddr>>,
}

impl Asked {
    fn new(name: &Name, record_type: RecordType) -> io::Result<Self> {
        let mut id = [0; 2];
        getrandom::fill(&mut id).map_err(|error| io::Error::other(error.to_string()))?;
        let id = u16::from_be_bytes(id);
        let words = [record_type.0.to_be_bytes(), RecordClass::IN.0.to_be_bytes()].concat();
        let question = [name.as_wire(), &words].concat();
        let mut query = vec![0; 12 + question.len() + UPSTREAM_OPT_OCTETS];
        let edns = UpstreamEdns::plain(UDP_SIZE, false);
        let octets = write_query(&mut query, id, &question, false, Some(edns));
        query.truncate(octets);
        Ok(Self { id, question, query, answer: None })
    }

    /// The addresses of an answer, if it is the one to this question. Zero ones are what blocked
    /// names have.
    #[expect(clippy::wildcard_enum_match_arm, reason = "there are two types of addresses")]
    fn addresses_in(&self, message: &[u8]) -> Option<Vec<IpAddr>> {
        let view = ResponseView::parse(message).ok()?;
        let id = ResponseView::peek_id(message)?;
        if id != self.id || !view.matches_question(&self.question) {
            return None;
        }
        let Ok(message) = Message::from_bytes(message) else { return Some(Vec::new()) };
        let addresses = message.answers.iter().filter_map(|record| match &record.data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        });
        Some(addresses.filter(|ip| !ip.is_unspecified()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::{Reply, name_server, record};
    use super::*;

    fn ips(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().expect("an address")).collect()
    }

    #[test]
    fn literal_addresses_need_nobody() {
        assert_eq!(addresses_of("192.0.2.1", &[]), ips(&["192.0.2.1"]));
        assert_eq!(addresses_of("[2001:db8::1]", &[]), ips(&["2001:db8::1"]));
        assert!(addresses_of("lists.example", &[]).is_empty());
        assert!(addresses_of("not..a name", &[]).is_empty());
    }

    #[test]
    fn both_families_are_asked_for() {
        let v6 = record(28, &"2001:db8::7".parse::<Ipv6Addr>().expect("valid").octets());
        let server =
            name_server(vec![Reply::Now(0, record(1, &[192, 0, 2, 7])), Reply::Now(0, v6)]);
        assert_eq!(addresses_of("lists.example", &[server]), ips(&["192.0.2.7", "2001:db8::7"]));
    }

    #[test]
    fn a_server_without_an_address_is_not_the_last_word() {
        let blocked = Reply::Now(0, record(1, &[0, 0, 0, 0]));
        let blocking = name_server(vec![blocked, Reply::Now(5, Vec::new())]);
        let other =
            name_server(vec![Reply::Now(0, record(1, &[192, 0, 2, 8])), Reply::Now(0, Vec::new())]);
        let unused = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let nobody = unused.expect("was free");
        assert_eq!(addresses_of("lists.example", &[nobody, blocking, other]), ips(&["192.0.2.8"]));
    }

    #[test]
    fn a_lost_datagram_is_sent_again() {
        let answer = Reply::Now(0, record(1, &[192, 0, 2, 9]));
        let server = name_server(vec![Reply::Never, Reply::Now(0, Vec::new()), answer]);
        let name = Name::parse("lists.example").expect("a name");
        let found = ask(server, &name, Duration::from_millis(200)).expect("an answer");
        assert_eq!(found, ips(&["192.0.2.9"]));
    }

    #[test]
    fn answers_to_something_else_do_not_count() {
        let name = Name::parse("lists.example").expect("a name");
        let asked = Asked::new(&name, RecordType::A).expect("entropy");
        let mut reply = asked.query.clone();
        reply[2] |= 0x80;
        assert_eq!(asked.addresses_in(&reply), Some(Vec::new()));
        reply[0] ^= 1;
        assert_eq!(asked.addresses_in(&reply), None, "another id");
        reply[0] ^= 1;
        reply[13] ^= 1;
        assert_eq!(asked.addresses_in(&reply), None, "another name");
        assert_eq!(asked.addresses_in(&[]), None);
    }
}
