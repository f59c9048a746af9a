//! A cache hit allocates nothing, whatever the answer and whoever asks.

use std::net::SocketAddr;
use std::sync::Arc;

use balancedns_core::batch::{ReceiveBatch, TransmitBatch, Via};
use balancedns_core::config::{self, Clock, Host, Source};
use balancedns_core::engine::{Action, Engine, EngineConfig, ListenerId, Origin, Shared};
use balancedns_core::metrics::{Counter, WorkerMetrics};
use balancedns_core::time::{Duration, Instant};

const LISTENER: Origin = Origin::Listener(ListenerId(0));

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

/// What the upstream has for a name: answers, authority records, rcode.
#[derive(Clone, Copy)]
enum Data {
    Address,
    CnameChain,
    NoSuchName,
    Large,
}

/// `example` behind a label, with or without an OPT of this size.
fn query(label: &str, id: u16, opt: Option<u16>) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())]);
    message.push(u8::try_from(label.len()).expect("short"));
    message.extend_from_slice(label.as_bytes());
    message.extend_from_slice(b"\x07example\0\0\x01\0\x01");
    if let Some(size) = opt {
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&size.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
    }
    message
}

fn reply(sent: &[u8], data: Data) -> Vec<u8> {
    let end = 12 + sent[12..].iter().position(|octet| *octet == 0).expect("a root") + 5;
    let mut message = sent[..end].to_vec();
    message[2] |= 0x80;
    message[3] = 0x80;
    message[6..12].fill(0);
    let address =
        |octet: u8| [b"\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02".as_slice(), &[octet]].concat();
    match data {
        Data::Address => {
            message[7] = 1;
            message.extend_from_slice(b"\xc0\x0c");
            message.extend_from_slice(&address(1));
        }
        Data::CnameChain => {
            message[7] = 2;
            message.extend_from_slice(b"\xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x04\x01x\xc0\x0c");
            let target = u16::try_from(end + 12).expect("short") | 0xc000;
            message.extend_from_slice(&target.to_be_bytes());
            message.extend_from_slice(&address(2));
        }
        Data::NoSuchName => {
            message[3] |= 3;
            message[9] = 1;
            message.extend_from_slice(b"\xc0\x0c\0\x06\0\x01\0\0\x01\x2c\0\x16\0\0");
            for number in [1u32, 1800, 900, 604_800, 300] {
                message.extend_from_slice(&number.to_be_bytes());
            }
        }
        Data::Large => {
            message[7] = 60;
            for octet in 0..60 {
                message.extend_from_slice(b"\xc0\x0c");
                message.extend_from_slice(&address(octet));
            }
        }
    }
    message
}

struct World {
    engine: Engine,
    metrics: Arc<WorkerMetrics>,
    received: ReceiveBatch,
    transmit: TransmitBatch,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let text = r#"return {
            listen = { dns = "127.0.0.1:5300" },
            upstreams = { { name = "one", addr = "192.0.2.1:53" } },
        }"#;
        let source = Source { name: "test".into(), folder: String::new(), text: text.into() };
        let snapshot = Arc::new(config::load(&source, &Nowhere).expect("valid").snapshot);
        let seed = [7; 32];
        let shared = Arc::new(Shared::new(&snapshot, seed));
        let metrics = shared.worker_metrics(0);
        let now = Instant::ZERO + Duration::from_secs(10);
        let metrics_held = Arc::clone(&metrics);
        let config =
            EngineConfig { shared, snapshot, metrics: metrics_held, policy_clock: None, seed };
        Self {
            engine: Engine::new(config, now),
            metrics,
            received: ReceiveBatch::new(64, 4096),
            transmit: TransmitBatch::new(64, 1232),
            now,
        }
    }

    fn push(&mut self, message: &[u8]) {
        let client = "127.0.0.1:40000".parse().expect("an address");
        self.received.push(client, None, message).expect("room");
    }

    fn take(&mut self, origin: Origin) {
        self.engine.handle_datagrams(self.now, origin, &self.received, &mut self.transmit);
        self.received.clear();
    }

    /// Has one name asked for and answered.
    fn learn(&mut self, label: &str, data: Data) {
        self.push(&query(label, 1, None));
        self.take(LISTENER);
        while let Some(action) = self.engine.poll_action(self.now) {
            if let Action::OpenSocket { socket, .. } = action {
                self.engine.handle_socket_opened(self.now, socket);
            }
        }
        self.engine.poll_transmit(self.now, &mut self.transmit);
        let (meta, sent) = self.transmit.iter().next().expect("a query upstream");
        let Via::Socket(socket) = meta.via else { panic!("not to an upstream: {meta:?}") };
        let reply = reply(sent, data);
        self.transmit.clear();
        self.push(&reply);
        self.take(Origin::Socket(socket));
        assert_eq!(self.transmit.len(), 1, "the client has its answer");
        self.transmit.clear();
    }
}

#[test]
fn a_batch_of_mixed_hits_allocates_nothing() {
    let mut world = World::new();
    let names = [
        ("address", Data::Address),
        ("chain", Data::CnameChain),
        ("nothing", Data::NoSuchName),
        ("large", Data::Large),
    ];
    for (label, data) in names {
        world.learn(label, data);
    }
    world.now = world.now + Duration::from_secs(7);
    for n in 0..64u16 {
        let (label, _) = names[usize::from(n) % names.len()];
        let opt = [None, Some(1232), Some(512), Some(4096)][usize::from(n / 4) % 4];
        let label = if n % 8 < 4 { label.to_uppercase() } else { label.to_owned() };
        world.push(&query(&label, n, opt));
    }

    let counted = allocation_counter::measure(|| world.take(LISTENER));

    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert_eq!(world.transmit.len(), 64);
    assert_eq!(world.metrics.counters.value(Counter::CacheHits), 64);
    assert!(world.metrics.counters.value(Counter::RepliesTruncated) >= 8, "some are truncated");
    assert!(world.engine.poll_action(world.now).is_none());
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert_eq!(counted.count_total, 1);
}
