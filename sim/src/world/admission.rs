//! Whether there is room for a client's connection, as the limits of all workers together say.

use std::net::{IpAddr, Ipv6Addr};

use balancedns_core::limits;

use super::World;
use super::links::Standing;
use crate::invariant::{Broken, Invariant};

impl World {
    /// Whether there is room for a connection within the limits of all workers together.
    pub(super) fn is_admitted(&self, number: u64) -> bool {
        let link = &self.links[&number];
        let generation = &self.generations[self.workers[link.life.engine].generation];
        let (max, per_client) = generation.max_connections;
        let (network, standing) = link.counted;
        let others =
            self.links.iter().filter(|(other, link)| **other != number && link.conn.is_some());
        let others: Vec<(IpAddr, Standing)> = others.map(|(_, link)| link.counted).collect();
        let of_network = others.iter().filter(|(other, _)| *other == network).count();
        let strangers = others.iter().filter(|(_, other)| *other == Standing::Stranger).count();
        let free = match standing {
            Standing::Proxy => true, // each of those behind it is looked at
            Standing::Client => of_network < per_client,
            Standing::Stranger => {
                of_network == 0 && strangers < (max / limits::STRANGERS_SHARE).max(1)
            }
        };
        free && others.len() < max
    }

    /// A connection is taken if and only if there is room for it.
    pub(super) fn check_admitted(
        &mut self,
        number: u64,
        free: bool,
        taken: bool,
    ) -> Result<(), Broken> {
        self.checks.that(Invariant::S10, taken == free, || {
            format!("connection {number} was taken: {taken}; there is room: {free}")
        })
    }
}

/// Clients are told apart by IPv4 address or by IPv6 network.
pub(super) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) >> 64 << 64).into(),
    }
}
