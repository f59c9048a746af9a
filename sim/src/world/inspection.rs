//! Looking into engines: sizes against what is here, tables against one another, counters against what
//! was sent and got.

use balancedns_core::engine::Sizes;
use balancedns_core::limits;
use balancedns_core::metrics::Counter;

use super::World;
use super::worker::RCODES;
use crate::invariant::{Broken, Invariant};

impl World {
    /// Looks into an engine: after each step if the world is tiny, else now and then.
    pub(super) fn inspect(&mut self, engine: usize) -> Result<(), Broken> {
        let every = if self.options.is_tiny() { 1 } else { 1_000 };
        if self.workers[engine].steps.is_multiple_of(every) {
            self.inspect_now(engine)?;
        }
        Ok(())
    }

    pub(super) fn inspect_now(&mut self, engine: usize) -> Result<(), Broken> {
        let worker = &self.workers[engine];
        let Some(machine) = worker.machine.as_ref() else { return Ok(()) };
        let sizes = machine.engine().sizes();
        let Sizes { fetches, waiters, sockets, client_conns, upstream_conns, exchanges, .. } =
            sizes;
        let Sizes { processes, suspended, .. } = sizes;
        let conns = client_conns + upstream_conns;
        let bounded = fetches <= limits::FETCHES
            && waiters <= limits::WAITERS
            && sockets <= limits::SOCKETS
            && conns <= limits::CONNS
            && processes <= limits::PROCESSES
            && suspended <= limits::PLUGIN_CALLS;
        // A connection that waits for its back-off is not yet asked for.
        let same = sockets == worker.sockets.len()
            && conns >= worker.conns.len()
            && exchanges == worker.exchanges.len()
            && processes == worker.processes.len();
        self.checks.that(Invariant::S16, bounded && same, || {
            format!(
                "{sizes:?}, with {} sockets, {} connections, {} exchanges, {} processes here",
                worker.sockets.len(),
                worker.conns.len(),
                worker.exchanges.len(),
                worker.processes.len()
            )
        })?;
        let audit = machine
            .engine()
            .audit()
            .map_err(|disagreement| Broken::new(Invariant::S16, disagreement.to_string()))?;
        let looked_at = [
            (Invariant::S9, audit.ids),
            (Invariant::S10, audit.endpoints + audit.exchanges),
            (Invariant::S11, audit.fetches),
            (
                Invariant::S16,
                audit.sockets + audit.client_conns + audit.upstream_conns + audit.timers,
            ),
        ];
        for (invariant, times) in looked_at {
            self.checks.count(invariant, times as u64);
        }
        let cache = &self.shared.cache;
        let (counted, account) = (cache.recount(), (cache.len(), cache.bytes()));
        let generation = &self.generations[0];
        let fits = account.0 <= generation.capacity && account.1 <= generation.max_bytes;
        self.checks.that(Invariant::S16, counted == account && fits, || {
            format!("the cache holds {counted:?} entries and octets, its account says {account:?}")
        })?;
        self.check_sockets(engine)?;
        self.check_counters(engine)
    }

    fn check_counters(&mut self, engine: usize) -> Result<(), Broken> {
        use Counter as C;
        let worker = &self.workers[engine];
        let Some(machine) = worker.machine.as_ref() else { return Ok(()) };
        let value = |counter| machine.metrics().counters.value(counter);
        let replies: u64 = RCODES.iter().map(|(_, counter)| value(*counter)).sum();
        let Sizes { waiters, suspended, .. } = machine.engine().sizes();
        let waiting = (waiters + suspended) as u64;
        let dropped = value(C::DroppedClientGone) + value(C::DroppedPolicy);
        let ended = replies + dropped + waiting + worker.lost;
        let queries = value(C::Queries);
        self.checks.that(Invariant::S23, queries == ended, || {
            format!("{queries} queries, but {ended} replies, drops and those in flight")
        })?;
        if self.options.stream_per_mille > 0 {
            return Ok(()); // what was read from a connection may wait to be looked at
        }
        let counted = RCODES.map(|(_, counter)| value(counter));
        let same = counted == worker.replies
            && value(C::RepliesTruncated) == worker.truncated
            && value(C::QueriesUdp) == worker.datagrams;
        self.checks.that(Invariant::S23, same, || {
            format!(
                "replies {:?} were counted as {counted:?}, {} cut off, {} queries by datagram",
                worker.replies, worker.truncated, worker.datagrams
            )
        })?;
        let (hits, misses) = (value(C::CacheHits), value(C::CacheMisses));
        let looked_up = worker.looked_up;
        if self.options.policies {
            return Ok(()); // a name that became another one is looked up once more
        }
        self.checks.that(Invariant::S23, hits + misses == looked_up, || {
            format!("{looked_up} look-ups, but {hits} hits and {misses} misses")
        })
    }
}
