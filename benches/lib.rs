//! An engine in memory for benches: answers its own queries as an upstream would.

use std::net::SocketAddr;
use std::sync::Arc;

use balancedns_core::batch::{ReceiveBatch, TransmitBatch, Via};
use balancedns_core::config::{self, Clock, Host, Source};
use balancedns_core::engine::{Action, Engine, EngineConfig, ListenerId, Origin, Shared};
use balancedns_core::handle::SocketHandle;
use balancedns_core::limits::BATCH_DATAGRAMS;
use balancedns_core::time::{Duration, Instant};

const CONFIG: &str = r#"return {
    listen = { dns = "127.0.0.1:5300" },
    blacklist = { domains = { "*.blocked.example" } },
    upstreams = { { name = "one", addr = "192.0.2.1:53" } },
}"#;

struct Nowhere;

impl Host for Nowhere {
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
    fn read(&self, path: &str) -> Result<String, String> {
        Err(format!("no file {path}"))
    }
    fn system_resolvers(&self) -> Vec<SocketAddr> {
        Vec::new()
    }
    fn clock(&self) -> Option<Clock> {
        None
    }
}

/// One engine, its batches, and a clock that stands still until it is told otherwise.
#[derive(Debug)]
pub struct World {
    engine: Engine,
    received: ReceiveBatch,
    transmit: TransmitBatch,
    now: Instant,
    serial: u32,
}

impl Default for World {
    fn default() -> Self {
        let source =
            Source { name: "bench".into(), folder: String::new(), text: CONFIG.to_owned() };
        let loaded = config::load(&source, &Nowhere).expect("the bench's configuration is valid");
        let snapshot = Arc::new(loaded.snapshot);
        let seed = [7; 32];
        let shared = Arc::new(Shared::new(&snapshot, seed));
        let metrics = shared.worker_metrics(0);
        let now = Instant::ZERO + Duration::from_secs(10);
        Self {
            engine: Engine::new(
                EngineConfig { shared, snapshot, metrics, policy_clock: None, seed },
                now,
            ),
            received: ReceiveBatch::new(BATCH_DATAGRAMS, 512),
            transmit: TransmitBatch::new(BATCH_DATAGRAMS, 1232),
            now,
            serial: 0,
        }
    }
}

/// A query of type A with an OPT, for `label.example`.
#[must_use]
pub fn query(label: &str) -> Vec<u8> {
    let mut message = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec();
    for label in label.split('.') {
        message.push(u8::try_from(label.len()).expect("labels are short here"));
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(b"\x07example\0\0\x01\0\x01");
    message.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
    message
}

/// One address for the question of a query.
fn reply(sent: &[u8]) -> Vec<u8> {
    let root = sent[12..].iter().position(|octet| *octet == 0).expect("a name ends");
    let mut message = sent[..12 + root + 5].to_vec();
    message[2] |= 0x80;
    message[3] = 0x80;
    message[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    message.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x07");
    message
}

impl World {
    /// Hands queries in as one batch and gives the number of datagrams that came out at once.
    pub fn ask(&mut self, queries: &[Vec<u8>]) -> usize {
        self.received.clear();
        let client = SocketAddr::from(([127, 0, 0, 1], 40_000));
        for query in queries {
            self.received.push(client, None, query).expect("a batch holds as many");
        }
        self.transmit.clear();
        let origin = Origin::Listener(ListenerId(0));
        self.engine.handle_datagrams(self.now, origin, &self.received, &mut self.transmit);
        self.transmit.len()
    }

    /// Asks for names and answers the queries that go upstream; gives the number of answers.
    pub fn resolve(&mut self, queries: &[Vec<u8>]) -> usize {
        self.ask(queries);
        while let Some(action) = self.engine.poll_action(self.now) {
            if let Action::OpenSocket { socket, .. } = action {
                self.engine.handle_socket_opened(self.now, socket);
            }
        }
        self.engine.poll_transmit(self.now, &mut self.transmit);
        let replies: Vec<(SocketHandle, Vec<u8>)> = self
            .transmit
            .iter()
            .filter_map(|(meta, sent)| match meta.via {
                Via::Socket(socket) => Some((socket, reply(sent))),
                Via::Listener { .. } => None,
            })
            .collect();
        self.transmit.clear();
        for (socket, reply) in replies {
            self.received.clear();
            let upstream = SocketAddr::from(([192, 0, 2, 1], 53));
            self.received.push(upstream, None, &reply).expect("a batch holds one");
            let origin = Origin::Socket(socket);
            self.engine.handle_datagrams(self.now, origin, &self.received, &mut self.transmit);
        }
        self.transmit.len()
    }

    /// Queries for names that nobody has asked for before.
    pub fn new_names(&mut self, count: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|_| {
                self.serial += 1;
                query(&format!("n{}", self.serial))
            })
            .collect()
    }
}
