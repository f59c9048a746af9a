//! What holds of an engine between any two inputs: every count agrees with what it counts.

use std::collections::BTreeMap;

use super::harness::World;
use crate::engine::fetch::{AttemptVia, Candidate, Fetch, Purpose};
use crate::engine::{Conn, Engine, FetchHandle, Target};
use crate::handle::HostHandle;
use crate::upstream::Owner;

/// Checks everything.
///
/// # Panics
/// With what does not hold.
pub(super) fn check(world: &World) {
    let engine = &world.engine;
    check_fetches(engine);
    check_endpoints(engine);
    check_hosts(engine, world.stopped);
    let draining = usize::from(engine.drain.is_some() && !world.stopped);
    let owners = engine.fetches.len() + engine.sockets.len() + engine.conns.len();
    let owners = owners + engine.hosts.len() + draining;
    assert_eq!(engine.timers.allocated(), owners, "timers and those that own one");
    assert_eq!(engine.sockets.len(), world.open_sockets.len(), "sockets here and there");
    let announced = engine.next_timeout();
    assert!(announced.is_none_or(|(at, _)| at >= world.now), "a deadline in the past");
    assert!(engine.by_key.values().all(|handle| engine.fetches.contains(*handle)));
}

fn check_fetches(engine: &Engine) {
    let mut waiters = 0;
    for (handle, fetch) in engine.fetches.iter() {
        waiters += fetch.waiters.len();
        assert!(fetch.sends <= fetch.sends_max);
        check_attempt(engine, handle, fetch);
        let at = engine.timers.deadline(fetch.timer).expect("a question has a deadline");
        assert!(at <= fetch.deadline);
        assert!(fetch.purpose == Purpose::Clients || fetch.waiters.is_empty());
    }
    assert_eq!(waiters, engine.waiters);
}

fn check_attempt(engine: &Engine, handle: FetchHandle, fetch: &Fetch) {
    match fetch.attempt.via {
        AttemptVia::Nothing => panic!("a question that nobody is asked"),
        AttemptVia::Socket(socket, id) => {
            let socket = engine.sockets.get(socket).expect("its socket lives");
            assert_eq!(socket.ids.owner(id), Owner::Live(handle));
            assert_eq!(fetch.candidate(), Candidate::Endpoint(socket.endpoint));
        }
        AttemptVia::Conn(conn, id) => {
            let Some(Conn::Upstream(conn)) = engine.conns.get(conn) else {
                panic!("its connection is gone")
            };
            assert_eq!(conn.ids.owner(id), Owner::Live(handle));
            assert_eq!(fetch.candidate(), Candidate::Endpoint(conn.endpoint));
        }
        AttemptVia::Host(host) => {
            let host = engine.hosts.get(host).expect("its host is known");
            assert!(host.waiting.contains(&handle) && host.in_flight > 0);
        }
    }
}

fn check_endpoints(engine: &Engine) {
    let asked_at = |fetch: &Fetch| match fetch.attempt.via {
        AttemptVia::Socket(socket, _) => engine.sockets.get(socket).map(|socket| socket.endpoint),
        AttemptVia::Conn(..) => match fetch.candidate() {
            Candidate::Endpoint(place) => Some(place),
            Candidate::Host(_) => None,
        },
        AttemptVia::Nothing | AttemptVia::Host(_) => None,
    };
    for (place, endpoint) in engine.endpoints.iter().enumerate() {
        let asked = engine.fetches.iter().filter(|(_, fetch)| asked_at(fetch) == Some(place));
        assert_eq!(endpoint.in_flight, asked.count(), "in flight to endpoint {place}");
        assert!(endpoint.conns.iter().all(|conn| engine.conns.contains(*conn)));
        for socket in endpoint.sockets.iter().flatten() {
            assert_eq!(engine.sockets.get(*socket).map(|socket| socket.endpoint), Some(place));
        }
        let retired =
            engine.sockets.iter().filter(|(_, held)| held.endpoint == place && held.retired);
        assert_eq!(retired.count(), endpoint.retired_sockets);
    }
}

fn check_hosts(engine: &Engine, stopped: bool) {
    let mut lookups: BTreeMap<usize, usize> = BTreeMap::new();
    for (_, fetch) in engine.fetches.iter() {
        if let Purpose::Address(host, _) = fetch.purpose
            && engine.hosts.contains(host)
        {
            *lookups.entry(host.index()).or_default() += 1;
        }
    }
    for (handle, host) in engine.hosts.iter() {
        let waits_for = |via: AttemptVia, handle: HostHandle| via == AttemptVia::Host(handle);
        let waiting =
            engine.fetches.iter().filter(|(_, fetch)| waits_for(fetch.attempt.via, handle));
        assert_eq!(host.waiting.len(), waiting.count());
        assert_eq!(host.in_flight, lookups.get(&handle.index()).copied().unwrap_or(0));
        let next = engine.timers.deadline(host.timer);
        assert!(host.in_flight > 0 || next.is_some(), "never looked up again");
        assert!(stopped || engine.targets.contains(&Target::Host(handle)));
        for place in &host.endpoints {
            assert!(!engine.endpoints[*place].removed);
            assert_eq!(engine.endpoints[*place].settings, host.settings);
        }
    }
}
