//! The brain of BalanceDNS, a forwarding DNS resolver, as a pure state machine: octets in, octets
//! and actions out.
//!
//! This crate owns every decision that can be made without a socket: what a question is answered
//! from, which upstream is asked and when the next one, what is remembered and for how long, what
//! is shed under load, when things time out. It owns no socket, file, thread, clock or environment
//! variable: those belong to an *adapter*, of which the project has one per async runtime, and the
//! simulator is another. The same inputs and the same seed give the same outputs, octet for octet.
//!
//! # Where things are
//! * [`config`]: Lua text to a validated, immutable [`Snapshot`](config::Snapshot).
//! * [`engine`]: the state machine itself, one per worker thread.
//! * [`wire`]: views of messages, and the one place that assembles replies.
//! * [`cache`]: answers, shared by all workers; [`policy`]: who may ask, what is blocked or local;
//!   [`upstream`]: which upstream serves which zone.
//! * [`proxy`], [`forwarded`]: for whom a proxy speaks.
//! * [`supervisor`], [`admin`], [`exposition`]: health, restarts and metrics, as plain values too.
//! * [`time`], [`timers`], [`handle`], [`transport`], [`rng`], [`hash`], [`batch`], [`metrics`]: what all of it
//!   stands on. [`limits`] is the table of every bound.
//!
//! # A loop without IO
//! An adapter calls `handle_*` with what happened and the time, then polls until nothing comes out.
//!
//! ```
//! use std::sync::Arc;
//!
//! use balancedns_core::batch::{ReceiveBatch, TransmitBatch, Via};
//! use balancedns_core::config::{self, Clock, Host, Source};
//! use balancedns_core::engine::{Action, Engine, EngineConfig, ListenerId, Origin, Shared};
//! use balancedns_core::time::{Duration, Instant};
//!
//! struct Nowhere; // what the configuration may see of the world: nothing
//! impl Host for Nowhere {
//!     fn variable(&self, _: &str) -> Option<String> { None }
//!     fn read(&self, path: &str) -> Result<String, String> { Err(format!("no file {path}")) }
//!     fn system_resolvers(&self) -> Vec<std::net::SocketAddr> { Vec::new() }
//!     fn clock(&self) -> Option<Clock> { None }
//! }
//!
//! let text = r#"return {
//!     listen = { dns = "127.0.0.1:5300" },
//!     upstreams = { { name = "one", addr = "192.0.2.1:53" } },
//! }"#;
//! let source = Source { name: "example".into(), folder: String::new(), text: text.into() };
//! let snapshot = Arc::new(config::load(&source, &Nowhere)?.snapshot);
//! let seed = [7; 32];
//! let shared = Arc::new(Shared::new(&snapshot, seed));
//! let metrics = shared.worker_metrics(0);
//! let mut now = Instant::ZERO;
//! let mut engine = Engine::new(EngineConfig { shared, snapshot, metrics, policy_clock: None, seed }, now);
//!
//! // "www.example. A?" arrives at the first listener, over UDP.
//! let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";
//! let mut received = ReceiveBatch::new(64, 4096);
//! let mut transmit = TransmitBatch::new(64, 1232);
//! received.push("127.0.0.1:40000".parse()?, None, query)?;
//! engine.handle_datagrams(now, Origin::Listener(ListenerId(0)), &received, &mut transmit);
//!
//! // It is a miss: the engine wants a socket, and then sends a query of its own.
//! let Some(Action::OpenSocket { socket, remote, .. }) = engine.poll_action(now) else { panic!() };
//! assert_eq!(remote, "192.0.2.1:53".parse()?);
//! engine.handle_socket_opened(now, socket);
//! engine.poll_transmit(now, &mut transmit);
//! let mut reply = {
//!     let (meta, sent) = transmit.iter().next().expect("a query");
//!     assert_eq!(meta.via, Via::Socket(socket));
//!     sent[..query.len()].to_vec() // without our OPT
//! };
//!
//! // The upstream answers 12 ms later; the client's reply is in the batch at once.
//! now = now + Duration::from_millis(12);
//! reply[2] |= 0x80; // QR
//! reply[7] = 1; // one answer
//! reply[11] = 0;
//! reply.extend_from_slice(b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\xc0\0\x02\x07");
//! transmit.clear();
//! received.clear();
//! received.push(remote, None, &reply)?;
//! engine.handle_datagrams(now, Origin::Socket(socket), &received, &mut transmit);
//! let (_, answer) = transmit.iter().next().expect("an answer");
//! assert_eq!(answer[..2], query[..2], "under the client's id");
//!
//! // Nothing time-driven happens that was not announced.
//! assert!(engine.next_timeout().is_some_and(|(at, _)| at > now));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod batch;
pub mod cache;
pub mod config;
mod conn;
mod doh;
pub mod engine;
pub mod exposition;
pub mod forwarded;
pub mod handle;
pub mod hash;
pub mod limits;
pub mod metrics;
#[cfg_attr(not(feature = "planted"), doc(hidden))]
pub mod planted;
pub mod policy;
pub mod proxy;
pub mod rng;
pub mod supervisor;
pub mod time;
pub mod timers;
pub mod transport;
pub mod upstream;
pub mod wire;
