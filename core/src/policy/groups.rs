//! Groups of clients, by their addresses: which lists, which plugins, which upstreams are theirs.
//!
//! Networks may lie within each other; the longest prefix around a client decides. They are cut into
//! disjoint ranges when the configuration is read, so that a look-up is one binary search.

use std::net::IpAddr;

use ipnet::IpNet;

use super::BlockSetId;
use super::acl::{fold, fold_network};
use crate::upstream::Route;

/// All groups. There is always one, that of everybody who is in no other.
#[derive(Debug, Clone)]
pub struct Groups {
    /// Everybody else is at [`EVERYBODY`].
    groups: Vec<Group>,
    v4: Vec<RangeStart>,
    v6: Vec<RangeStart>,
}

/// What a group of clients has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name; empty for everybody else.
    pub name: String,
    /// What is blocked for it.
    pub block_set: BlockSetId,
    /// Its plugins: places in the list of all, in the order in which they are asked.
    pub plugins: Vec<usize>,
    /// Who is asked for it.
    pub route: Route,
}

/// The place of the group of everybody else.
const EVERYBODY: usize = 0;

/// The first address of a range, and the group of all addresses up to the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RangeStart {
    first: u128,
    group: usize,
}

impl Groups {
    /// One group for everybody.
    #[must_use]
    pub fn new(everybody: Group) -> Self {
        Self::with_members(everybody, Vec::new())
    }

    /// Groups with their networks, and one for everybody else. Host bits of a network are ignored; of
    /// one that is in two groups the first has it.
    #[must_use]
    pub fn with_members(everybody: Group, members: Vec<(Group, Vec<IpNet>)>) -> Self {
        let mut groups = vec![everybody];
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (group, networks) in members {
            let place = groups.len();
            groups.push(group);
            for network in networks {
                match fold_network(network) {
                    IpNet::V4(net) => {
                        let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                        v4.push(Range { first: first.into(), last: last.into(), group: place });
                    }
                    IpNet::V6(net) => {
                        let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                        v6.push(Range { first, last, group: place });
                    }
                }
            }
        }
        Self { groups, v4: disjoint(v4), v6: disjoint(v6) }
    }

    /// The group of a client: that with the longest prefix around its address.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> &Group {
        let place = match fold(client) {
            IpAddr::V4(ip) => group_at(&self.v4, ip.to_bits().into()),
            IpAddr::V6(ip) => group_at(&self.v6, ip.to_bits()),
        };
        &self.groups[place]
    }

    /// The group of everybody who is in no other.
    #[must_use]
    pub fn everybody(&self) -> &Group {
        &self.groups[EVERYBODY]
    }

    /// All groups, that of everybody else first.
    #[must_use]
    pub fn all(&self) -> &[Group] {
        &self.groups
    }
}

impl Default for Groups {
    fn default() -> Self {
        Self::new(Group::default())
    }
}

/// A network of a group, both ends included.
#[derive(Debug, Clone, Copy)]
struct Range {
    first: u128,
    last: u128,
    group: usize,
}

/// Cuts networks, of which any two lie within each other or apart, into ranges that lie side by side.
fn disjoint(mut networks: Vec<Range>) -> Vec<RangeStart> {
    // The wider one first, then it is the one around. The sort keeps the order of the same networks.
    networks.sort_by_key(|network| (network.first, std::cmp::Reverse(network.last)));
    networks.dedup_by_key(|network| (network.first, network.last));
    let mut starts = Vec::with_capacity(2 * networks.len());
    let mut around: Vec<Range> = Vec::new();
    for network in networks {
        close(&mut around, &mut starts, network.first);
        start(&mut starts, network.first, network.group);
        around.push(network);
    }
    close(&mut around, &mut starts, u128::MAX);
    starts
}

/// Ends the networks that end before `next`: what follows each belongs to the one around it.
fn close(around: &mut Vec<Range>, starts: &mut Vec<RangeStart>, next: u128) {
    while let Some(ended) = around.pop_if(|network| network.last < next) {
        let group = around.last().map_or(EVERYBODY, |outer| outer.group);
        start(starts, ended.last + 1, group);
    }
}

/// Lets a range start; it replaces one that would start at the same address.
fn start(starts: &mut Vec<RangeStart>, first: u128, group: usize) {
    starts.pop_if(|start| start.first == first);
    starts.push(RangeStart { first, group });
}

fn group_at(starts: &[RangeStart], address: u128) -> usize {
    let after = starts.partition_point(|start| start.first <= address);
    after.checked_sub(1).and_then(|at| starts.get(at)).map_or(EVERYBODY, |start| start.group)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn groups(members: &[(&str, &[&str])]) -> Groups {
        let members = members
            .iter()
            .map(|(name, networks)| {
                let group = Group { name: (*name).to_owned(), ..Group::default() };
                (group, networks.iter().map(|net| net.parse().unwrap()).collect())
            })
            .collect();
        Groups::with_members(Group::default(), members)
    }

    #[test]
    fn the_longest_prefix_decides() {
        let groups = groups(&[
            ("lan", &["10.0.0.0/8", "fd00::/8"]),
            ("kids", &["10.1.0.0/16", "10.2.3.4/32"]),
            ("one", &["10.1.255.255/32"]),
        ]);
        for (client, name) in [
            ("9.255.255.255", ""),
            ("10.0.0.0", "lan"),
            ("10.0.255.255", "lan"),
            ("10.1.0.0", "kids"),
            ("10.1.255.254", "kids"),
            ("10.1.255.255", "one"),
            ("10.2.0.0", "lan"),
            ("10.2.3.4", "kids"),
            ("10.2.3.5", "lan"),
            ("10.255.255.255", "lan"),
            ("11.0.0.0", ""),
            ("::ffff:10.1.0.1", "kids"),
            ("fd12::1", "lan"),
            ("fe00::", ""),
        ] {
            assert_eq!(groups.of(ip(client)).name, name, "{client}");
        }
        assert_eq!((groups.all().len(), groups.everybody().name.as_str()), (4, ""));
    }

    #[test]
    fn families_have_their_own_ends() {
        let all = groups(&[("four", &["0.0.0.0/0"]), ("last", &["255.255.255.255/32"])]);
        assert_eq!(all.of(ip("255.255.255.255")).name, "last");
        assert_eq!(all.of(ip("255.255.255.254")).name, "four");
        assert_eq!(all.of(ip("::")).name, "");
        let six = groups(&[("six", &["::/0"]), ("mapped", &["::ffff:192.0.2.0/120"])]);
        assert_eq!(six.of(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")).name, "six");
        assert_eq!(six.of(ip("192.0.2.9")).name, "mapped");
        assert_eq!(six.of(ip("192.0.3.0")).name, "", "of all IPv6 clients IPv4 ones are none");
    }

    #[test]
    fn without_groups_there_is_everybody() {
        let everybody = Group { plugins: vec![1], ..Group::default() };
        let groups = Groups::new(everybody.clone());
        assert_eq!((groups.of(ip("192.0.2.1")), groups.everybody()), (&everybody, &everybody));
    }

    /// Few bits vary, at both ends, so that networks lie within each other and probes hit.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits & 0xc000_0003)));
        let v6 = any::<u128>().prop_map(|bits| {
            IpAddr::V6(Ipv6Addr::from(bits & 0xc000_0000_0000_0000_0000_0000_0000_0003))
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_each_network(
            networks in prop::collection::vec((address(), 0_u8..=128, 0_usize..4), 0..16),
            probe in address(),
        ) {
            let mut members: Vec<(Group, Vec<IpNet>)> = (0..4)
                .map(|name| (Group { name: format!("{name}"), ..Group::default() }, Vec::new()))
                .collect();
            for (ip, len, group) in networks {
                let longest = if ip.is_ipv4() { 32 } else { 128 };
                let network = IpNet::new(ip, len.min(longest)).unwrap().trunc();
                members[group].1.push(network);
            }
            let mut naive: Option<(u8, &str)> = None;
            for (group, networks) in &members {
                for network in networks.iter().filter(|network| network.contains(&probe)) {
                    if naive.is_none_or(|(longest, _)| network.prefix_len() > longest) {
                        naive = Some((network.prefix_len(), &group.name));
                    }
                }
            }
            let expected = naive.map_or("", |(_, name)| name).to_owned();
            let groups = Groups::with_members(Group::default(), members);
            prop_assert_eq!(&groups.of(probe).name, &expected);
        }
    }
}
