//! A worker whose streams are in memory: clients and upstreams over HTTP, played by hyper. And what
//! is small enough without one.

mod played;

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use balancedns_core::config;
use balancedns_core::engine::CloseMode;
use balancedns_core::limits::MESSAGE_OCTETS;
use balancedns_core::metrics::Counter;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper::server;
use hyper::service::service_fn;
use played::{Line, Played, Side, begin, connected, done, duplex, run};

use super::*;
use crate::host::Machine;
use crate::http::Io;
use crate::mailbox::mailbox;

/// `blocked.example. A?`, which is answered without any upstream.
const BLOCKED: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x07blocked\x07example\0\0\x01\0\x01";
/// `www.example. A?`, which is not.
const FORWARDED: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

/// `ftp.example. A?`, nor this.
const OTHER: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03ftp\x07example\0\0\x01\0\x01";

/// A worker, and what it counts.
struct Bench {
    worker: Rc<Worker<Played>>,
    shared: Arc<Shared>,
}

impl Bench {
    fn new() -> Self {
        Self::with("", "")
    }

    /// With further settings of listeners and of the upstream.
    fn with(listen: &str, upstream: &str) -> Self {
        let text = format!(
            r#"return {{
            listen = {{ dns = "127.0.0.1:5300", doh_plain = "127.0.0.1:8080", metrics = false,
                {listen} }},
            blacklist = {{ domains = {{ "blocked.example" }} }},
            upstreams = {{ {{ name = "one", protocol = "doh",
                doh_url = "https://192.0.2.1/dns-query", tls_insecure_skip_verify = true,
                {upstream} }} }},
        }}"#
        );
        let (name, folder) = ("test.lua".to_owned(), String::new());
        let source = config::Source { name, folder, text };
        let clock = Clock::start();
        let snapshot = config::load(&source, &Machine::new(clock)).expect("valid").snapshot;
        let tls = Arc::new(TlsContext::build(&snapshot).expect("no files"));
        let shared = Arc::new(Shared::new(&snapshot, [1; 32]));
        let setup = Setup {
            index: 0,
            clock,
            snapshot: Arc::new(snapshot),
            shared: Arc::clone(&shared),
            tls,
            seed: [2; 32],
            listeners: Vec::new(),
        };
        Self { worker: Worker::new(setup).expect("makes descriptors").0, shared }
    }

    fn count(&self, counter: Counter) -> u64 {
        self.shared.worker_metrics(0).counters.value(counter)
    }

    fn exchanges(&self) -> usize {
        self.worker.state.borrow().engine.sizes().exchanges
    }

    /// A client's connection to the listener of HTTP without TLS: behind those of UDP and TCP.
    fn client(&self) -> Side {
        let (theirs, ours) = duplex();
        let peer = SocketAddr::from(([127, 0, 0, 1], 4_321));
        self.worker.handle_accepted(ListenerId(2), peer, ours);
        theirs
    }

    /// The same, over HTTP/2.
    fn http2_client(&self) -> (Requester, Line) {
        let client = self.client();
        let line = client.line();
        let beside = SpawnBeside;
        let io = Io::new(client, Bytes::new(), self.worker.memory());
        let (sender, conn) = done(http2::handshake(beside, io)).expect("agrees");
        Played::spawn(async move {
            let _end = conn.await;
        });
        run();
        (sender, line)
    }

    /// Nothing is left, and nothing was told to anybody who had gone.
    fn assert_quiet(&self) {
        assert_eq!((self.exchanges(), self.count(Counter::DeadHandles)), (0, 0));
    }
}

type Requester = SendRequest<Full<Bytes>>;
type Answered = Result<(StatusCode, Bytes), hyper::Error>;

/// Tasks of hyper as tasks of the runtime.
#[derive(Debug, Clone)]
struct SpawnBeside;

impl<F: Future<Output = ()> + 'static> Executor<F> for SpawnBeside {
    fn execute(&self, future: F) {
        Played::spawn(future);
    }
}

fn post(message: &'static [u8]) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::POST)
        .uri("http://dns.example/dns-query")
        .header(CONTENT_TYPE, "application/dns-message")
        .body(Full::new(Bytes::from_static(message)))
        .expect("valid")
}

/// The whole response to a request.
fn ask(sender: &mut Requester, message: &'static [u8]) -> impl Future<Output = Answered> + 'static {
    let response = sender.send_request(post(message));
    async {
        let (head, body) = response.await?.into_parts();
        Ok((head.status, body.collect().await?.to_bytes()))
    }
}

/// An upstream's side of the next connection: what it does with a request is up to the test.
fn upstream<R>(answer: impl Fn(Request<Incoming>) -> R + 'static)
where
    R: Future<Output = hyper::Result<Response<Full<Bytes>>>> + 'static,
{
    let side = connected();
    let memory = Rc::new(RefCell::new(vec![0; 4_096].into()));
    let io = Io::new(side, Bytes::new(), memory);
    Played::spawn(async move {
        let settings = server::conn::http2::Builder::new(SpawnBeside);
        let _end = settings.serve_connection(io, service_fn(answer)).await;
    });
    run();
}

/// The answer of a good upstream: the question with an id of 0, and no records.
async fn answered(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let mut message = request.into_body().collect().await?.to_bytes().to_vec();
    message[2] |= 0x80;
    let response = Response::builder().header(CONTENT_TYPE, "application/dns-message");
    Ok(response.body(Full::new(message.into())).expect("valid"))
}

#[test]
fn an_answer_over_http2_is_one_write() {
    let bench = Bench::new();
    let (mut sender, line) = bench.http2_client();
    for _ in 0..2 {
        let before = line.writes();
        let (status, message) = done(ask(&mut sender, BLOCKED)).expect("is answered");
        assert_eq!((status, &message[..2], message[3] & 0x0f), (StatusCode::OK, &[0, 0][..], 5));
        assert_eq!(line.writes() - before, 1);
    }
    bench.assert_quiet();
}

#[test]
fn requests_over_http1_may_come_octet_by_octet_and_several_at_once() {
    let bench = Bench::new();
    let head = b"POST /dns-query HTTP/1.1\r\nhost: dns.example\r\n\
        content-type: application/dns-message\r\ncontent-length: 33\r\n\r\n";
    let request = [&head[..], BLOCKED].concat();
    let client = bench.client();
    for octet in &request {
        assert_eq!(client.received(), (Vec::new(), false));
        client.send(&[*octet]);
    }
    let (response, _) = client.received();
    assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", response.escape_ascii());
    client.send(&[&request[..], &request].concat());
    let (responses, ended) = client.received();
    assert_eq!((responses.len(), ended), (2 * response.len(), false));
    bench.assert_quiet();
}

#[test]
fn a_client_that_resets_or_leaves_is_told_to_the_engine_once() {
    let bench = Bench::new();
    let (mut sender, _) = bench.http2_client();
    let response = sender.send_request(post(FORWARDED));
    run();
    // The upstream's, which goes on for whoever asks next, and the client's.
    assert_eq!(bench.exchanges(), 1 + 1);
    drop(response);
    run();
    assert_eq!((bench.exchanges(), bench.count(Counter::DohResets)), (1, 1));
    let _waiting = begin(ask(&mut sender, FORWARDED));
    run();
    assert_eq!(bench.exchanges(), 1 + 1);
    // A connection that has gone takes its exchanges with it.
    let (mut leaving, line) = bench.http2_client();
    let waiting = begin(ask(&mut leaving, FORWARDED));
    run();
    assert_eq!(bench.exchanges(), 1 + 2);
    line.hang_up();
    assert!(waiting.take().expect("ends").is_err());
    assert_eq!((bench.exchanges(), bench.count(Counter::DeadHandles)), (1 + 1, 0));
}

#[test]
fn a_refused_request_is_read_to_its_end() {
    let bench = Bench::new();
    let client = bench.client();
    client.send(b"PUT /dns-query HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab");
    let (response, ended) = client.received();
    assert!(response.starts_with(b"HTTP/1.1 405"), "{}", response.escape_ascii());
    assert!(!ended);
    client.send(b"cdeGET /nothing HTTP/1.1\r\nhost: x\r\n\r\n");
    let (response, ended) = client.received();
    assert!(response.starts_with(b"HTTP/1.1 404"), "{}", response.escape_ascii());
    assert!(!ended);
    bench.assert_quiet();
}

#[test]
fn what_waits_when_the_worker_stops_is_not_waited_for() {
    let bench = Bench::new();
    let (mut sender, _) = bench.http2_client();
    let answer = begin(ask(&mut sender, FORWARDED));
    run();
    bench.worker.handle_command(Command::Stop);
    run();
    assert!(answer.take().is_none(), "it may still be answered in time");
    // What the engine does when that time is over.
    let conns = bench.worker.state.borrow().conns.handles();
    for conn in conns {
        bench.worker.state.borrow_mut().conns.close(conn, CloseMode::AfterWrites);
    }
    run();
    assert!(answer.take().expect("ends").is_err());
    assert!(bench.worker.tasks.all_ended());
}

#[test]
fn an_upstream_that_answers_too_much_is_not_believed() {
    let bench = Bench::with("", "timeout_ms = 100");
    let (mut sender, _) = bench.http2_client();
    let answer = begin(ask(&mut sender, FORWARDED));
    upstream(|_| async { Ok(Response::new(Full::new(vec![0; MESSAGE_OCTETS + 1].into()))) });
    let answer = loop {
        // Time is the clock's here: what is left to wait for is the deadline.
        bench.worker.handle_timeout();
        run();
        if let Some(answer) = answer.take() {
            break answer;
        }
        std::thread::yield_now();
    };
    let (_, message) = answer.expect("is answered");
    assert_eq!(message[3] & 0x0f, 2, "SERVFAIL");
    bench.assert_quiet();
}

#[test]
fn an_exchange_that_is_given_up_is_reset_at_the_upstream() {
    let bench = Bench::with("", "timeout_ms = 100");
    let (mut sender, _) = bench.http2_client();
    let answer = begin(ask(&mut sender, FORWARDED));
    let (given_up, hangs) = (Rc::new(Cell::new(0)), Cell::new(true));
    let seen = Rc::clone(&given_up);
    upstream(move |request| {
        let guard = hangs.replace(false).then(|| Counted(Rc::clone(&seen)));
        async {
            match guard {
                None => answered(request).await,
                Some(_guard) => std::future::pending().await,
            }
        }
    });
    // Another answer: the connection is alive.
    done(ask(&mut sender, OTHER)).expect("is answered");
    assert_eq!(given_up.get(), 0);
    while given_up.get() == 0 {
        bench.worker.handle_timeout();
        run();
        std::thread::yield_now();
    }
    assert_eq!(answer.take().expect("asked again").expect("is answered").0, StatusCode::OK);
    assert_eq!(bench.count(Counter::ConnsOpened), 1);
    bench.assert_quiet();
}

/// Counts how often one is dropped.
struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn upstreams_answer_many_exchanges_on_one_connection() {
    let bench = Bench::new();
    let (mut sender, _) = bench.http2_client();
    let first = begin(ask(&mut sender, FORWARDED));
    upstream(answered);
    assert_eq!(first.take().expect("is answered").expect("well").0, StatusCode::OK);
    for octet in b"abcdef" {
        let mut message = FORWARDED.to_vec();
        message[13] = *octet;
        let message = Box::leak(message.into_boxed_slice());
        let (_, answer) = done(ask(&mut sender, message)).expect("is answered");
        assert_eq!((answer[3] & 0x0f, &answer[12..], answer[2] & 0x80), (0, &message[12..], 0x80));
    }
    assert_eq!(bench.count(Counter::ConnsOpened), 1);
    bench.assert_quiet();
}

fn poll<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn without_a_control_thread_a_worker_is_stopped_once() {
    let (sender, receiver) = mailbox();
    let mut inbox = Inbox::new(receiver);
    assert!(poll(inbox.next()).is_pending());
    drop(sender);
    assert!(matches!(poll(inbox.next()), Poll::Ready(Command::Stop)));
    assert!(poll(inbox.next()).is_pending());
}

#[test]
fn only_failures_that_last_are_waited_for() {
    let mut failures = AcceptFailures::default();
    let gone = io::Error::from(io::ErrorKind::ConnectionAborted);
    assert_eq!(failures.pause_after(&gone), None);
    assert!(!failures.warned);
    let exhausted = io::Error::from_raw_os_error(24);
    assert_eq!(failures.pause_after(&exhausted), Some(AcceptFailures::PAUSE));
    assert!(failures.warned);
    failures.clear();
    assert!(!failures.warned);
}
