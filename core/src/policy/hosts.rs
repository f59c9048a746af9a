//! Names answered from a hosts file (hosts(5)): addresses by name, and names by address through
//! the reverse zones (RFC 1035 section 3.5, RFC 3596 section 2.5).
//!
//! What is wrong in the file is a warning with its line; the rest of the file counts.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::hash::Map;
use crate::wire::{Name, NameError, RecordType};

/// Addresses of one name and family: more do not fit into a plain answer of any use.
const ADDRESSES_PER_NAME: usize = 64;
/// Names given for one address. Lists that block by pointing at one address have thousands.
const NAMES_PER_ADDRESS: usize = 16;
/// Warnings reported about one file; the rest is reported as a number.
const WARNINGS: usize = 50;

/// The names and addresses of a hosts file.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    names: Map<Box<[u8]>, Addresses>,
    reverse: Map<Box<[u8]>, Vec<Name>>,
    ttl: u32,
}

#[derive(Debug, Clone, Default)]
struct Addresses {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// What a hosts file says to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostsAnswer<'a> {
    /// Nothing: the name is not listed.
    NotListed,
    /// The addresses of the asked type, at least one.
    Addresses {
        /// For A and ANY.
        v4: &'a [Ipv4Addr],
        /// For AAAA and ANY.
        v6: &'a [Ipv6Addr],
    },
    /// The names of an address, at least one, in the order of the file.
    Pointers(&'a [Name]),
    /// The name is listed, but has nothing of the asked type.
    NoData,
}

/// Something in the file that does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct HostsWarning {
    /// Line of the file, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: HostsProblem,
}

/// What is wrong with a line of a hosts file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostsProblem {
    /// The first word is not an IP address.
    #[error("{0:?} is not an ip address, the line is skipped")]
    Address(String),
    /// An answer has no place for a zone id (RFC 4007 section 11).
    #[error("{0:?} has a zone id, the line is skipped")]
    ZoneId(String),
    /// An address without a name.
    #[error("there is no name after the address")]
    NoName,
    /// A name that is none.
    #[error("{name:?} is not a name ({error}), it is skipped")]
    Name {
        /// As it stands there.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// The bound on a name's addresses is reached.
    #[error("{0:?} has {ADDRESSES_PER_NAME} addresses already, this one is skipped")]
    ManyAddresses(String),
    /// This line and others have problems that are not reported one by one.
    #[error("{0} more problems from this line on")]
    More(usize),
}

impl Hosts {
    /// Reads the text of a hosts file; `ttl`, in seconds, is that of all answers.
    #[must_use]
    pub fn parse(text: &str, ttl: u32) -> (Self, Vec<HostsWarning>) {
        let mut hosts = Self { ttl, ..Self::default() };
        let mut warnings = Warnings::default();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            let content = line.split_once('#').map_or(line, |(content, _comment)| content);
            let mut problem = |problem| warnings.add(index + 1, problem);
            let mut words = content.split_whitespace();
            let Some(first) = words.next() else { continue };
            match address(first) {
                Ok(address) => hosts.add_line(address, words, &mut problem),
                Err(found) => problem(found),
            }
        }
        (hosts, warnings.list)
    }

    /// What the file says to a question for a lower-cased wire name.
    #[must_use]
    pub fn lookup(&self, lower_name: &[u8], record_type: RecordType) -> HostsAnswer<'_> {
        let addresses = self.names.get(lower_name);
        let pointers = self.reverse.get(lower_name);
        if addresses.is_none() && pointers.is_none() {
            return HostsAnswer::NotListed;
        }
        let wants = |family| record_type == family || record_type == RecordType::ANY;
        let v4 = addresses.filter(|_| wants(RecordType::A)).map_or(&[][..], |found| &found.v4);
        let v6 = addresses.filter(|_| wants(RecordType::AAAA)).map_or(&[][..], |found| &found.v6);
        if !v4.is_empty() || !v6.is_empty() {
            return HostsAnswer::Addresses { v4, v6 };
        }
        match pointers {
            Some(names) if wants(RecordType::PTR) => HostsAnswer::Pointers(names),
            _ => HostsAnswer::NoData,
        }
    }

    /// The TTL of all answers, in seconds.
    #[must_use]
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// How many names are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no name is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Takes in an address and the names after it.
    fn add_line<'t>(
        &mut self,
        address: IpAddr,
        names: impl Iterator<Item = &'t str>,
        problem: &mut impl FnMut(HostsProblem),
    ) {
        let mut any = false;
        for text in names {
            any = true;
            match Name::parse(text) {
                Ok(name) if self.add_address(&name, address) => self.add_pointer(address, name),
                Ok(_) => problem(HostsProblem::ManyAddresses(text.to_owned())),
                Err(error) => problem(HostsProblem::Name { name: text.to_owned(), error }),
            }
        }
        if !any {
            problem(HostsProblem::NoName);
        }
    }

    /// Lists an address for a name; `false` if there is no room for it.
    fn add_address(&mut self, name: &Name, address: IpAddr) -> bool {
        let listed = self.names.entry(name.as_wire().into()).or_default();
        match address {
            IpAddr::V4(ip) => push_new(&mut listed.v4, ip, ADDRESSES_PER_NAME),
            IpAddr::V6(ip) => push_new(&mut listed.v6, ip, ADDRESSES_PER_NAME),
        }
    }

    /// Lists a name for an address. The unspecified address belongs to nobody; it is what lists of
    /// blocked names point at.
    fn add_pointer(&mut self, address: IpAddr, name: Name) {
        if address.is_unspecified() {
            return;
        }
        let reverse = reverse_name(address);
        let names = self.reverse.entry(reverse.as_wire().into()).or_default();
        push_new(names, name, NAMES_PER_ADDRESS);
    }
}

/// The warnings about one file, bounded.
#[derive(Debug, Default)]
struct Warnings {
    list: Vec<HostsWarning>,
}

impl Warnings {
    fn add(&mut self, line: usize, problem: HostsProblem) {
        if self.list.len() < WARNINGS {
            self.list.push(HostsWarning { line, problem });
        } else if let Some(HostsWarning { problem: HostsProblem::More(count), .. }) =
            self.list.last_mut()
        {
            *count += 1;
        } else {
            self.list.push(HostsWarning { line, problem: HostsProblem::More(1) });
        }
    }
}

/// Reads the first word of a line.
fn address(word: &str) -> Result<IpAddr, HostsProblem> {
    word.parse().map_err(|_| match word.split_once('%') {
        Some((ip, _zone)) if ip.parse::<Ipv6Addr>().is_ok() => {
            HostsProblem::ZoneId(word.to_owned())
        }
        _ => HostsProblem::Address(word.to_owned()),
    })
}

/// Adds what is not there yet; `false` if there is no room for it.
fn push_new<T: PartialEq>(list: &mut Vec<T>, item: T, max: usize) -> bool {
    if list.contains(&item) {
        return true;
    }
    if list.len() == max {
        return false;
    }
    list.push(item);
    true
}

/// The name under which an address' names are asked for.
fn reverse_name(address: IpAddr) -> Name {
    let mut text = String::new();
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            write!(text, "{d}.{c}.{b}.{a}.in-addr.arpa.").expect("a string takes all text");
        }
        IpAddr::V6(ip) => {
            for octet in ip.octets().iter().rev() {
                write!(text, "{:x}.{:x}.", octet & 0xf, octet >> 4)
                    .expect("a string takes all text");
            }
            text.push_str("ip6.arpa.");
        }
    }
    Name::parse(&text).expect("digits and arpa make a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Hosts {
        let (hosts, warnings) = Hosts::parse(text, 60);
        assert_eq!(warnings, []);
        hosts
    }

    fn lookup<'a>(hosts: &'a Hosts, name: &str, record_type: RecordType) -> HostsAnswer<'a> {
        hosts.lookup(Name::parse(name).unwrap().as_wire(), record_type)
    }

    fn v4(answer: HostsAnswer<'_>) -> Vec<String> {
        let HostsAnswer::Addresses { v4, v6: [] } = answer else {
            panic!("not v4 addresses: {answer:?}");
        };
        v4.iter().map(ToString::to_string).collect()
    }

    const FILE: &str = "\u{feff}# a comment\n\
        127.0.0.1\tlocalhost\r\n\
        \n\
        192.0.2.1  www.Example.  www web.example # the web server\n\
        192.0.2.2  www.example\n\
        192.0.2.1  www.example\n\
        2001:db8::a5  www.example\n\
        2001:db8::7  six.example\n";

    #[test]
    fn addresses_by_type_in_order_and_once() {
        let hosts = parse(FILE);
        assert_eq!(v4(lookup(&hosts, "www.example", RecordType::A)), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(v4(lookup(&hosts, "www", RecordType::A)), ["192.0.2.1"]);
        assert_eq!(v4(lookup(&hosts, "localhost", RecordType::ANY)), ["127.0.0.1"]);
        let both = lookup(&hosts, "www.example", RecordType::ANY);
        assert!(matches!(both, HostsAnswer::Addresses { v4: [_, _], v6: [_] }), "{both:?}");
        let six = lookup(&hosts, "six.example", RecordType::AAAA);
        assert!(matches!(six, HostsAnswer::Addresses { v4: [], v6: [_] }), "{six:?}");
        assert_eq!((hosts.ttl(), hosts.len(), hosts.is_empty()), (60, 5, false));
    }

    #[test]
    fn other_types_of_a_listed_name_are_no_data() {
        let hosts = parse(FILE);
        for record_type in [RecordType::A, RecordType::PTR, RecordType::MX, RecordType::HTTPS] {
            assert_eq!(lookup(&hosts, "six.example", record_type), HostsAnswer::NoData);
        }
        assert_eq!(lookup(&hosts, "www", RecordType::AAAA), HostsAnswer::NoData);
        assert_eq!(lookup(&hosts, "example", RecordType::A), HostsAnswer::NotListed);
        assert_eq!(lookup(&hosts, "a.www.example", RecordType::A), HostsAnswer::NotListed);
    }

    #[test]
    fn names_of_an_address_in_the_order_of_the_file() {
        let hosts = parse(FILE);
        let names = |reverse, record_type| {
            let answer = lookup(&hosts, reverse, record_type);
            let HostsAnswer::Pointers(names) = answer else {
                return vec![format!("{answer:?}")];
            };
            names.iter().map(ToString::to_string).collect()
        };
        let all = ["www.example.", "www.", "web.example."];
        assert_eq!(names("1.2.0.192.in-addr.arpa", RecordType::PTR), all);
        assert_eq!(names("1.2.0.192.in-addr.arpa", RecordType::ANY), all);
        assert_eq!(names("1.2.0.192.in-addr.arpa", RecordType::A), ["NoData"]);
        assert_eq!(names("9.2.0.192.in-addr.arpa", RecordType::PTR), ["NotListed"]);
        let v6 = "5.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";
        assert_eq!(names(v6, RecordType::PTR), ["www.example."]);
    }

    #[test]
    fn bad_lines_are_warnings_and_the_rest_counts() {
        let text = "one two\n192.0.2.1\nfe80::1%lo0 localhost\n192.0.2.2 a..b good.example\n";
        let (hosts, warnings) = Hosts::parse(text, 1);
        let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(shown[0], "line 1: \"one\" is not an ip address, the line is skipped");
        assert_eq!(shown[1], "line 2: there is no name after the address");
        assert_eq!(shown[2], "line 3: \"fe80::1%lo0\" has a zone id, the line is skipped");
        assert!(shown[3].starts_with("line 4: \"a..b\" is not a name ("), "{}", shown[3]);
        assert_eq!(shown.len(), 4);
        assert_eq!(v4(lookup(&hosts, "good.example", RecordType::A)), ["192.0.2.2"]);
    }

    #[test]
    fn a_block_list_in_hosts_format_stays_cheap() {
        let mut text = String::new();
        for number in 0..20_000 {
            writeln!(text, "0.0.0.0 a{number}.example\n127.0.0.1 b{number}.example").unwrap();
        }
        let hosts = parse(&text);
        assert_eq!(hosts.len(), 40_000);
        let loopback = lookup(&hosts, "1.0.0.127.in-addr.arpa", RecordType::PTR);
        assert!(
            matches!(loopback, HostsAnswer::Pointers(names) if names.len() == NAMES_PER_ADDRESS)
        );
        let nobody = lookup(&hosts, "0.0.0.0.in-addr.arpa", RecordType::PTR);
        assert_eq!(nobody, HostsAnswer::NotListed);
    }

    #[test]
    fn addresses_and_warnings_are_bounded() {
        let mut text = String::new();
        for number in 0..=255 {
            writeln!(text, "192.0.2.{number} many.example").unwrap();
        }
        let (hosts, warnings) = Hosts::parse(&text, 1);
        let addresses = v4(lookup(&hosts, "many.example", RecordType::A));
        assert_eq!(addresses.len(), ADDRESSES_PER_NAME);
        let skipped = 256 - ADDRESSES_PER_NAME;
        assert_eq!(warnings.len(), WARNINGS + 1);
        assert_eq!(
            warnings.last().map(|last| last.problem.clone()),
            Some(HostsProblem::More(skipped - WARNINGS))
        );
    }
}
