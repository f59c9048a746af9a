//! Generations and the end: taking over a new snapshot, stopping, leaving nothing behind.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::fetch::{Candidate, Fetch, Purpose};
use super::leads::Rules;
use super::{Action, Conn, Due, Engine, ListenerId, Out, Target};
use crate::config::{Snapshot, SubnetPolicy, UpstreamAddress, UpstreamProtocol, UpstreamSettings};
use crate::handle::{ConnHandle, FetchKind, Slab, SocketHandle};
use crate::limits;
use crate::planted::{Bug, is_planted};
use crate::policy::Reason;
use crate::time::{Duration, Instant};
use crate::timers::TimerId;
use crate::upstream::{Endpoint, EndpointCookie};
use crate::wire::Rcode;

/// The engine is stopping.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) timer: TimerId,
    /// The time for it is over.
    over: bool,
    /// [`Action::Stopped`] was given out.
    stopped: bool,
}

impl Engine {
    /// Takes over a new configuration: questions in flight finish with the upstreams they have,
    /// upstreams whose settings did not change keep their sockets and connections, those that are
    /// gone get no new query.
    pub fn handle_reload(&mut self, now: Instant, snapshot: Arc<Snapshot>) {
        let now = self.advance(now);
        if !self.has_stopped() {
            let changed = self.plugins.adopt(&snapshot.plugins);
            self.adopt(now, snapshot);
            self.begin_calls_again(now, changed);
        }
        self.settle(now);
    }

    pub(super) fn adopt(&mut self, now: Instant, mut snapshot: Arc<Snapshot>) {
        if is_planted(Bug::OldBlocklist) {
            Arc::make_mut(&mut snapshot).blocking = Arc::clone(&self.snapshot.blocking);
        }
        let still_asked =
            self.targets.first().copied().filter(|_| is_planted(Bug::RemovedUpstreamAsked));
        self.generation += 1;
        let rules = self.shared.rules_number(&snapshot);
        self.rules = Rules::new(&snapshot, rules);
        self.by_key.clear(); // a new question must not join a fetch of the old configuration
        let previous = std::mem::replace(&mut self.snapshot, Arc::clone(&snapshot));
        let mut named = Named::default();
        let bootstrap = snapshot.routing.bootstrap.iter();
        self.bootstrap = bootstrap
            .map(|server| {
                let settings = Arc::new(bootstrap_settings(*server));
                Candidate::Endpoint(self.place_endpoint(&settings, *server, &mut named))
            })
            .collect();
        let targets = snapshot.upstreams.iter().map(|settings| {
            let settings = Arc::new(settings.clone());
            match &settings.addr {
                UpstreamAddress::Literal(remote) => {
                    Target::Endpoint(self.place_endpoint(&settings, *remote, &mut named))
                }
                UpstreamAddress::Host { name, port } => {
                    Target::Host(self.keep_host(&settings, name, *port))
                }
            }
        });
        self.targets = targets.collect();
        if let Some((first, old)) = self.targets.first_mut().zip(still_asked) {
            *first = old;
        }
        for host in self.hosts.handles() {
            if !self.targets.contains(&Target::Host(host)) {
                self.forget_host(now, host);
            }
        }
        let asks_others = previous.routing.bootstrap != snapshot.routing.bootstrap;
        if asks_others {
            self.abandon_lookups();
        }
        for host in self.hosts.handles() {
            let is_new = self.place_addresses(now, host, &mut named);
            let is_empty = self.hosts.get(host).is_some_and(|host| host.endpoints.is_empty());
            if is_new || is_empty || asks_others {
                self.look_up(now, host, &mut Out(None));
            }
        }
        self.retire_unused();
    }

    /// The place of an address of an upstream: the one it has, or a free one. Places that a question
    /// in flight names are not free; `named` remembers them from one call to the next.
    pub(super) fn place_endpoint(
        &mut self,
        settings: &Arc<UpstreamSettings>,
        remote: SocketAddr,
        named: &mut Named,
    ) -> usize {
        let same = |state: &Endpoint| state.remote == remote && *state.settings == **settings;
        if let Some(place) = self.endpoints.iter().position(same) {
            self.endpoints[place].removed = false;
            return place;
        }
        let latency = match settings.name.as_str() {
            BOOTSTRAP => Arc::default(), // no upstream, so without a label of its own
            name => self.metrics.latency(name),
        };
        let ours = settings.cookies.then(|| self.rng.cookies.bits());
        let cookie = ours.map(|ours| EndpointCookie::new(ours, self.now));
        let state = Endpoint::new(Arc::clone(settings), remote, latency, cookie);
        let is_gone = |place: &usize| self.endpoints[*place].is_gone();
        let gone: Vec<usize> = (0..self.endpoints.len()).filter(is_gone).collect();
        if let Some(place) = gone.into_iter().find(|place| !named.contains(*place, &self.fetches)) {
            self.endpoints[place] = state;
            return place;
        }
        self.endpoints.push(state);
        self.endpoints.len() - 1
    }

    /// Takes no new queries to endpoints that nothing leads to any more.
    pub(super) fn retire_unused(&mut self) {
        let mut used = vec![false; self.endpoints.len()];
        for target in &self.targets {
            match target {
                Target::Endpoint(place) => used[*place] = true,
                Target::Host(host) => {
                    let host = self.hosts.get(*host).expect("a target's host is known");
                    host.endpoints.iter().for_each(|place| used[*place] = true);
                }
            }
        }
        for candidate in &self.bootstrap {
            if let Candidate::Endpoint(place) = candidate {
                used[*place] = true;
            }
        }
        for (state, used) in self.endpoints.iter_mut().zip(used) {
            state.removed = !used;
        }
        self.close_removed();
    }

    /// Endpoints that state is kept for, of this and of earlier configurations.
    #[cfg(test)]
    pub(super) fn upstream_places(&self) -> usize {
        self.endpoints.len()
    }

    /// Lets go of what removed endpoints keep open and do not need for queries in flight.
    fn close_removed(&mut self) {
        for place in 0..self.endpoints.len() {
            if !self.endpoints[place].removed {
                continue;
            }
            let sockets: Vec<SocketHandle> =
                self.endpoints[place].sockets.iter().flatten().copied().collect();
            for socket in sockets {
                self.retire_socket(socket);
            }
            for conn in self.endpoints[place].conns.clone() {
                let idle = match self.conns.get(conn) {
                    Some(Conn::Upstream(upstream)) => upstream.ids.live() == 0,
                    Some(Conn::Client(_)) | None => false,
                };
                if idle {
                    self.close_upstream_conn(conn);
                }
            }
        }
    }

    /// The process stops: no new connections, queries in flight may finish within the configured
    /// time, then [`Action::Stopped`]. A second call does nothing.
    pub fn handle_shutdown(&mut self, now: Instant) {
        let now = self.advance(now);
        if self.drain.is_some() {
            return;
        }
        let timer = self.timers.allocate(Due::Drain);
        self.timers.set(timer, now + self.snapshot.control.drain_timeout);
        self.drain = Some(Drain { timer, over: false, stopped: false });
        for index in 0..self.snapshot.listen.sockets.len() {
            let index = u16::try_from(index).expect("listeners are counted in u16");
            self.actions.push_back(Action::CloseListener { listener: ListenerId(index) });
        }
        for conn in self.client_conns() {
            self.update_client(now, conn); // closes those that have nothing in flight
        }
        self.settle(now);
    }

    /// Time is up: whoever still waits is told so.
    pub(super) fn drain_is_over(&mut self, now: Instant) {
        self.end_calls(now);
        for fetch in self.fetches.handles() {
            let (rcode, reason) = (Rcode::SERVFAIL, Reason::Stopping);
            self.finish_with_failure(now, fetch, rcode, reason, &mut Out(None));
        }
        if let Some(drain) = &mut self.drain {
            drain.over = true;
        }
        if is_planted(Bug::DrainWaitsForIdle) {
            return;
        }
        for conn in self.client_conns() {
            self.flush_and_close(now, conn);
        }
    }

    /// Whether everything has been closed.
    pub(super) fn has_stopped(&self) -> bool {
        self.drain.as_ref().is_some_and(|drain| drain.stopped)
    }

    /// The last action of all, once nothing is left.
    pub(super) fn stopped_if_drained(&mut self) -> Option<Action> {
        let drain = self.drain.as_ref()?;
        let timer = drain.timer;
        let is_asked = |fetch: &Fetch| fetch.purpose == Purpose::Clients;
        let busy = self.suspended > 0
            || self.fetches.iter().any(|(_, fetch)| is_asked(fetch))
            || !self.outbox.is_empty()
            || self.conns.iter().any(|(_, conn)| matches!(conn, Conn::Client(_)));
        let (over, stopped) = (drain.over, drain.stopped);
        if busy || stopped {
            return None;
        }
        self.kill_processes();
        if over {
            self.forget_processes(); // their ends are awaited no longer than anything else
        }
        if !self.processes.is_empty() {
            return self.actions.pop_front();
        }
        let mut open = self.sockets.len() + self.conns.len() + self.hosts.len();
        if open > 0 {
            self.close_everything();
            open = self.sockets.len() + self.conns.len();
            assert_eq!(open, 0, "without queries in flight every socket can be closed");
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
        }
        self.timers.release(timer);
        if let Some(drain) = &mut self.drain {
            drain.stopped = true;
        }
        Some(Action::Stopped)
    }

    /// Ends what nobody waits for, and closes what is then unused.
    fn close_everything(&mut self) {
        self.targets.clear();
        for host in self.hosts.handles() {
            self.forget_host(self.now, host);
        }
        for fetch in self.fetches.handles() {
            self.end_fetch(fetch);
        }
        for socket in self.sockets.handles() {
            self.retire_socket(socket);
        }
        for conn in self.conns.handles() {
            self.close_upstream_conn(conn);
        }
    }

    fn client_conns(&self) -> Vec<ConnHandle> {
        let clients = self.conns.iter().filter(|(_, conn)| matches!(conn, Conn::Client(_)));
        clients.map(|(handle, _)| handle).collect()
    }
}

/// Places of endpoints that questions in flight name, found out when somebody wants to know.
#[derive(Debug, Default)]
pub(super) struct Named(Option<BTreeSet<usize>>);

impl Named {
    fn contains(&mut self, place: usize, fetches: &Slab<FetchKind, Fetch>) -> bool {
        let places = self.0.get_or_insert_with(|| {
            let candidates = fetches.iter().flat_map(|(_, fetch)| &fetch.candidates);
            let place = |candidate: &Candidate| match candidate {
                Candidate::Endpoint(place) => Some(*place),
                Candidate::Host(_) => None,
            };
            candidates.filter_map(place).collect()
        });
        places.contains(&place)
    }
}

/// How bootstrap servers are called in events.
const BOOTSTRAP: &str = "routing.bootstrap";

/// A bootstrap server is asked like an upstream.
fn bootstrap_settings(server: SocketAddr) -> UpstreamSettings {
    UpstreamSettings {
        name: BOOTSTRAP.to_owned(),
        pool: None,
        protocol: UpstreamProtocol::Udp,
        addr: UpstreamAddress::Literal(server),
        timeout: Duration::from_secs(2),
        max_in_flight: 2 * limits::UPSTREAMS,
        randomize_case: true,
        client_subnet: SubnetPolicy::Off,
        cookies: true,
        source: None,
        tls: None,
        doh: None,
    }
}

impl Drop for Engine {
    /// A worker that ends in a panic must not keep its clients' connections counted.
    fn drop(&mut self) {
        for (_, conn) in self.conns.iter() {
            if let Conn::Client(conn) = conn {
                self.shared.release_connection(conn.counted);
            }
        }
    }
}
