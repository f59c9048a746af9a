//! Web servers from which lists are fetched: one request on each connection, answered as the test says.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::tls::{ALL_VERSIONS, Identity};

type Script = Box<dyn Fn(&Request) -> Served + Send>;

/// A web server on a port of its own, until it is dropped.
pub(crate) struct Web {
    scheme: &'static str,
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    lines: Vec<String>,
}

impl Request {
    /// The value of a field, if it is there.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What a script wants sent.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    status: u16,
    fields: String,
    body: Vec<u8>,
}

impl Served {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, fields: String::new(), body: Vec::new() }
    }

    pub(crate) fn text(text: &str) -> Self {
        Self { body: text.as_bytes().to_vec(), ..Self::status(200) }
    }

    /// With one more field.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        for part in [name, ": ", value, "\r\n"] {
            self.fields.push_str(part);
        }
        self
    }

    /// Its version, if it has one.
    pub(crate) fn version(&self) -> Option<&str> {
        let fields = self.fields.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(name, _)| *name == "ETag").map(|(_, value)| value).next()
    }

    fn encode(&self) -> Vec<u8> {
        let Self { status, fields, body } = self;
        let length = match status {
            304 => String::new(),
            _ => format!("Content-Length: {}\r\n", body.len()),
        };
        let head = format!("HTTP/1.1 {status} Any\r\n{fields}{length}Connection: close\r\n\r\n");
        [head.as_bytes(), body].concat()
    }
}

impl Web {
    /// Without TLS.
    pub(crate) fn plain(script: impl Fn(&Request) -> Served + Send + 'static) -> Self {
        Self::start(None, Box::new(script))
    }

    /// With this certificate.
    pub(crate) fn secure(
        identity: &Identity,
        script: impl Fn(&Request) -> Served + Send + 'static,
    ) -> Self {
        let config = identity.server(ALL_VERSIONS, &["http/1.1"]);
        Self::start(Some(config), Box::new(script))
    }

    fn start(tls: Option<Arc<ServerConfig>>, script: Script) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let requests = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (requests, is_over) = (Arc::clone(&requests), Arc::clone(&is_over));
            move || {
                for stream in listener.incoming() {
                    if is_over.load(Ordering::Acquire) {
                        return;
                    }
                    // Who does not like the certificate goes away, as do daemons that are killed.
                    let _ =
                        stream.and_then(|stream| serve(stream, tls.as_ref(), &script, &requests));
                }
            }
        });
        Self { scheme, addr, requests, is_over, thread: Some(thread) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Where a path is.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.addr)
    }

    /// What came in so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("url", &self.url("/")).finish_non_exhaustive()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<&Arc<ServerConfig>>,
    script: &Script,
    requests: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let Some(config) = tls else {
        return exchange(stream, script, requests);
    };
    let session = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(session, stream);
    exchange(&mut stream, script, requests)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn exchange(
    mut stream: impl Read + Write,
    script: &Script,
    requests: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet)?;
        head.push(octet[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines().map(str::to_owned);
    let first = lines.next().unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let request = Request { path, lines: lines.collect() };
    lock(requests).push(request.clone());
    stream.write_all(&script(&request).encode())?;
    stream.flush()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
