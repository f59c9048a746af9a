//! What the workers of a process share: the cache, the hash key, connection counts, counters.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::AcceptRefused;
use crate::cache::Cache;
use crate::config::{ListenSettings, Snapshot};
use crate::hash::{KeyedState, Map};
use crate::limits::STRANGERS_SHARE;
use crate::metrics::WorkerMetrics;
use crate::policy::{Blocking, Rebinding};
use crate::rng::Stream;
use crate::wire::CookieSecret;

/// Shared by all engines of a process.
#[derive(Debug)]
pub struct Shared {
    /// Answers.
    pub cache: Cache,
    /// Hashes cache keys; the same for all workers, since they share the cache.
    pub(crate) hash: KeyedState,
    /// Makes the cookies that clients get; the same for all workers, since the next query of a
    /// client may come to any of them.
    pub(crate) cookies: CookieSecret,
    clients: Mutex<ClientConns>,
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
    rules: Mutex<Rules>,
}

/// By which rules answers in the cache are marked as blocked.
#[derive(Debug, Default)]
struct Rules {
    latest: Option<(Arc<Blocking>, Option<Arc<Rebinding>>)>,
    number: u16,
}

/// How many stream connections clients hold.
#[derive(Debug)]
struct ClientConns {
    total: usize,
    /// Those of clients outside the ACL.
    strangers: usize,
    by_network: Map<IpAddr, usize>,
}

/// What a connection was counted for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    network: IpAddr,
    may_ask: bool,
}

/// Who it is that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Speaks for many others, each of whom is looked at on their own.
    Proxy,
    /// May ask.
    Client,
    /// May not, and gets a connection to be told so; but only few of them, so that others are not kept
    /// out.
    Stranger,
}

/// Who counts as one client: an IPv4 address, or the IPv6 network of one subscriber, who has all
/// addresses in it (RFC 6177 section 2).
fn network_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

impl Shared {
    /// Empty, sized by the configuration. The seed decides the secret hash key and the secret of
    /// clients' cookies.
    #[must_use]
    pub fn new(snapshot: &Snapshot, seed: [u8; 32]) -> Self {
        let mut stream = Stream::new(seed, 0);
        let mut key = || (stream.bits(), stream.bits());
        let [hash, networks] = [key(), key()].map(KeyedState::new);
        let (high, low) = key();
        Self {
            cache: Cache::new(snapshot.cache.capacity, snapshot.cache.max_bytes),
            hash,
            cookies: CookieSecret::new((u128::from(high) << 64 | u128::from(low)).to_le_bytes()),
            clients: Mutex::new(ClientConns {
                total: 0,
                strangers: 0,
                by_network: Map::with_hasher(networks),
            }),
            workers: Mutex::default(),
            rules: Mutex::default(),
        }
    }

    /// The counters of a worker, by its number. A restarted worker goes on with those of the one
    /// before, which has ended: sums never go back.
    #[must_use]
    pub fn worker_metrics(&self, worker: usize) -> Arc<WorkerMetrics> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        while workers.len() <= worker {
            workers.push(Arc::default());
        }
        Arc::clone(&workers[worker])
    }

    /// The counters of all workers.
    #[must_use]
    pub fn all_metrics(&self) -> Vec<Arc<WorkerMetrics>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of a configuration's rules about what answers may lead to; never 0. Snapshots that
    /// share their rules have the same number, whichever worker asks.
    pub(super) fn rules_number(&self, snapshot: &Snapshot) -> u16 {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let rebinding = snapshot.rebinding.as_ref();
        let is_latest = rules.latest.as_ref().is_some_and(|(blocking, guard)| {
            Arc::ptr_eq(blocking, &snapshot.blocking)
                && match (guard, rebinding) {
                    (None, None) => true,
                    (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                    (None, Some(_)) | (Some(_), None) => false,
                }
        });
        if !is_latest {
            rules.latest = Some((Arc::clone(&snapshot.blocking), rebinding.map(Arc::clone)));
            rules.number = rules.number.checked_add(1).unwrap_or(1);
        }
        rules.number
    }

    /// Clients' stream connections now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.clients().total
    }

    /// Counts a client's connection in, if the bounds allow it.
    pub(super) fn admit_connection(
        &self,
        client: IpAddr,
        standing: Standing,
        settings: &ListenSettings,
    ) -> Result<Counted, AcceptRefused> {
        let may_ask = standing != Standing::Stranger;
        let mut clients = self.clients();
        let strangers_max = (settings.max_connections / STRANGERS_SHARE).max(1);
        if clients.total >= settings.max_connections
            || (!may_ask && clients.strangers >= strangers_max)
        {
            return Err(AcceptRefused::TooManyConnections);
        }
        let network = network_of(client);
        let per_client = match standing {
            Standing::Proxy => settings.max_connections,
            Standing::Client => settings.max_connections_per_client,
            Standing::Stranger => 1,
        };
        let held = clients.by_network.entry(network).or_insert(0);
        if *held >= per_client {
            return Err(AcceptRefused::TooManyFromClient);
        }
        *held += 1;
        clients.total += 1;
        clients.strangers += usize::from(!may_ask);
        Ok(Counted { network, may_ask })
    }

    /// Counts a client's connection out.
    pub(super) fn release_connection(&self, counted: Counted) {
        let mut clients = self.clients();
        clients.total -= 1;
        clients.strangers -= usize::from(!counted.may_ask);
        if let Some(held) = clients.by_network.get_mut(&counted.network) {
            *held -= 1;
            if *held == 0 {
                clients.by_network.remove(&counted.network);
            }
        }
    }

    /// Whether these connections are counted, beside those of other workers, and all sums agree.
    pub(super) fn counts_at_least(&self, these: &[Counted]) -> bool {
        let clients = self.clients();
        let mut by_network: Map<IpAddr, usize> = Map::default();
        for counted in these {
            *by_network.entry(counted.network).or_default() += 1;
        }
        let held = |network: &IpAddr| clients.by_network.get(network).copied().unwrap_or(0);
        let strangers = these.iter().filter(|counted| !counted.may_ask).count();
        clients.total >= these.len()
            && clients.total == clients.by_network.values().sum::<usize>()
            && clients.strangers >= strangers
            && by_network.iter().all(|(network, count)| held(network) >= *count)
    }

    fn clients(&self) -> MutexGuard<'_, ClientConns> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
