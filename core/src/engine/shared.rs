//! What the workers of a process share: the cache, the hash key, connection counts, counters.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::AcceptRefused;
use crate::cache::Cache;
use crate::config::{ListenSettings, Snapshot};
use crate::hash::{KeyedState, Map};
use crate::metrics::WorkerMetrics;
use crate::rng::Stream;

/// Shared by all engines of a process.
#[derive(Debug)]
pub struct Shared {
    /// Answers.
    pub cache: Cache,
    /// Hashes cache keys; the same for all workers, since they share the cache.
    pub(crate) hash: KeyedState,
    clients: Mutex<ClientConns>,
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
}

/// How many stream connections clients hold.
#[derive(Debug)]
struct ClientConns {
    total: usize,
    by_address: Map<IpAddr, usize>,
}

impl Shared {
    /// Empty, sized by the configuration. The seed decides the secret hash key.
    #[must_use]
    pub fn new(snapshot: &Snapshot, seed: [u8; 32]) -> Self {
        let mut stream = Stream::new(seed, 0);
        let mut key = || KeyedState::new((stream.bits(), stream.bits()));
        Self {
            cache: Cache::new(snapshot.cache.capacity, snapshot.cache.max_bytes),
            hash: key(),
            clients: Mutex::new(ClientConns { total: 0, by_address: Map::with_hasher(key()) }),
            workers: Mutex::default(),
        }
    }

    /// Registers another worker's counters. A restarted worker gets new ones: sums never go back.
    #[must_use]
    pub fn worker_metrics(&self) -> Arc<WorkerMetrics> {
        let metrics = Arc::new(WorkerMetrics::default());
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.push(Arc::clone(&metrics));
        metrics
    }

    /// The counters of all workers there ever were.
    #[must_use]
    pub fn all_metrics(&self) -> Vec<Arc<WorkerMetrics>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        settings: &ListenSettings,
    ) -> Result<(), AcceptRefused> {
        let mut clients = self.clients();
        if clients.total >= settings.max_connections {
            return Err(AcceptRefused::TooManyConnections);
        }
        let held = clients.by_address.entry(client).or_insert(0);
        if *held >= settings.max_connections_per_client {
            return Err(AcceptRefused::TooManyFromClient);
        }
        *held += 1;
        clients.total += 1;
        Ok(())
    }

    /// Counts a client's connection out.
    pub(super) fn release_connection(&self, client: IpAddr) {
        let mut clients = self.clients();
        clients.total = clients.total.saturating_sub(1);
        if let Some(held) = clients.by_address.get_mut(&client) {
            *held -= 1;
            if *held == 0 {
                clients.by_address.remove(&client);
            }
        }
    }

    fn clients(&self) -> MutexGuard<'_, ClientConns> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
