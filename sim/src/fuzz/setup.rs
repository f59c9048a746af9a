//! What bodies stand on: a host in memory for configurations, and engines with a client in front.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use balancedns_core::config::{Clock, Host, Snapshot, Source, load};
use balancedns_core::engine::{ListenerId, Origin, Shared, Sizes};
use balancedns_core::time::{Duration, Instant};
use bytes::Bytes;

use crate::machine::{Datagram, Input, Machine, Output};

/// When runs begin.
pub(super) const START: Instant = Instant::from_nanos(1_000_000_000_000);
/// The listener for datagrams of every snapshot from [`snapshot`].
pub(super) const UDP: ListenerId = ListenerId(0);
/// The one for streams.
pub(super) const TCP: ListenerId = ListenerId(1);

/// The one for HTTP, where there is one.
pub(super) const DOH: ListenerId = ListenerId(2);

/// A host in memory: a few files, two name servers, and a clock that runs with each reading.
#[derive(Debug, Default)]
pub(super) struct Memory {
    readings: Rc<Cell<u64>>,
}

/// What a script may read.
const FILES: [(&str, &str); 6] = [
    ("hosts.example", include_str!("../../../configs/hosts.example")),
    ("policy.example", include_str!("../../../configs/policy.example")),
    ("blocklist.example", include_str!("../../../configs/blocklist.example")),
    ("part.lua", "return { min_ttl_seconds = 7 }"),
    ("number.lua", "return 7"),
    ("circle.lua", "return include(\"circle.lua\")"),
];

impl Memory {
    /// Readings of its clock.
    pub(super) fn readings(&self) -> u64 {
        self.readings.get()
    }
}

impl Host for Memory {
    fn variable(&self, name: &str) -> Option<String> {
        match name {
            "EMPTY" => Some(String::new()),
            "ADDRESS" => Some("127.0.0.1:5311".to_owned()),
            _ => None,
        }
    }

    fn read(&self, path: &str) -> Result<String, String> {
        let found = FILES.iter().find(|(name, _)| *name == path);
        found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "no such file".to_owned())
    }

    fn system_resolvers(&self) -> Vec<SocketAddr> {
        ["192.0.2.53:53", "127.0.0.1:5300"].map(address).to_vec()
    }

    fn clock(&self) -> Option<Clock> {
        let readings = Rc::clone(&self.readings);
        Some(Box::new(move || {
            readings.set(readings.get() + 1);
            Instant::ZERO + Duration::from_millis(readings.get() * 500)
        }))
    }
}

/// A text of this module or a choice of a body as an address.
pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().expect("it is an address and a port")
}

/// The configuration that a text of ours says.
pub(super) fn snapshot(text: &str) -> Snapshot {
    let source = Source { name: "fuzz.lua".into(), folder: String::new(), text: text.into() };
    load(&source, &Memory::default()).expect("texts of ours are right").snapshot
}

/// One engine with this configuration.
pub(super) fn machine(snapshot: &Arc<Snapshot>) -> Machine {
    let seed = [7; 32];
    let shared = Arc::new(Shared::new(snapshot, seed));
    Machine::new(&shared, Arc::clone(snapshot), 0, seed, START)
}

/// One datagram of a client.
pub(super) fn from_client(peer: SocketAddr, message: Bytes) -> Input {
    from(Origin::Listener(UDP), peer, message)
}

/// One datagram.
pub(super) fn from(origin: Origin, peer: SocketAddr, message: Bytes) -> Input {
    Input::Datagrams(origin, vec![Datagram { peer, local: None, message }])
}

/// Stops an engine whose adapter does nothing more than telling the time, until nothing is left;
/// gives what it has put out meanwhile.
///
/// # Panics
/// If it does not come to its end, or leaves something.
pub(super) fn assert_drains(machine: &mut Machine, now: &mut Instant) -> Vec<Output> {
    /// More timers than anything can have set: a loop that makes no progress ends here.
    const ROUNDS: usize = 10_000;
    let mut outputs = Vec::new();
    machine.feed(*now, Input::Shutdown, &mut outputs);
    for _ in 0..ROUNDS {
        if outputs.last() == Some(&Output::Stopped) {
            assert_eq!(machine.engine().sizes(), Sizes::default(), "something is left");
            assert_eq!(machine.engine().next_timeout(), None, "a timer is left");
            return outputs;
        }
        let next = machine.engine().next_timeout();
        let (at, _) = next.expect("something will happen, or it would have stopped");
        *now = (*now).max(at);
        timeout(machine, *now, &mut outputs);
    }
    panic!("it does not stop: {:?}", machine.engine().sizes());
}

/// Tells the time.
///
/// # Panics
/// If something is due at once again.
pub(super) fn timeout(machine: &mut Machine, now: Instant, outputs: &mut Vec<Output>) {
    machine.feed(now, Input::Timeout, outputs);
    let next = machine.engine().next_timeout();
    assert!(next.is_none_or(|(at, _)| at > now), "due again: {next:?}");
}
