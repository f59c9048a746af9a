//! Servers for tests: of the web, one request on each connection, and of names.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::tls::fixture::{HOST, Issued, server_with};

type Answer = Box<dyn Fn(&str) -> Vec<u8> + Send>;

/// What a name server does with a query.
#[derive(Clone)]
pub(super) enum Reply {
    /// It answers: rcode and one record, or none.
    Now(u8, Vec<u8>),
    /// It does not.
    Never,
}

/// A name server that treats its queries so, one after the other, and that is silent then.
pub(super) fn name_server(replies: Vec<Reply>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let addr = socket.local_addr().expect("bound");
    thread::spawn(move || {
        let mut buffer = [0; 512];
        for reply in replies {
            let (octets, from) = socket.recv_from(&mut buffer).expect("a query");
            let Reply::Now(rcode, record) = reply else { continue };
            let mut answer = buffer[..octets - 11].to_vec(); // without our OPT
            answer[2] |= 0x80;
            answer[3] = rcode;
            answer[7] = u8::from(!record.is_empty());
            answer[11] = 0;
            answer.extend(record);
            socket.send_to(&answer, from).expect("sends");
        }
    });
    addr
}

/// A record of the name in the question.
pub(super) fn record(record_type: u8, data: &[u8]) -> Vec<u8> {
    let length = u8::try_from(data.len()).expect("short");
    let head = [0xc0, 12, 0, record_type, 0, 1, 0, 0, 0, 60, 0, length];
    [&head, data].concat()
}

/// A web server on a port of its own, until it is dropped.
pub(super) struct Server {
    scheme: &'static str,
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A response with these fields besides its length.
pub(super) fn response(status: u16, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = if matches!(status, 204 | 304) {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let head = format!("HTTP/1.1 {status} Whatever\r\n{fields}{length}Connection: close\r\n\r\n");
    [head.as_bytes(), body].concat()
}

impl Server {
    /// Gives each request, its head with field names in lower case, what `answer` makes of it.
    pub(super) fn start(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Self {
        Self::with(None, Box::new(answer))
    }

    /// The same over TLS.
    pub(super) fn secure(
        issued: &Issued,
        answer: impl Fn(&str) -> Vec<u8> + Send + 'static,
    ) -> Self {
        Self::with(Some(server_with(issued, &[b"http/1.1"])), Box::new(answer))
    }

    fn with(tls: Option<Arc<ServerConfig>>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let addr = listener.local_addr().expect("bound");
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
                    let stream = stream.expect("accepts");
                    // A client that goes away is the test's affair.
                    let _ended = serve(stream, tls.as_ref(), &answer, &requests);
                }
            }
        });
        Self { scheme, addr, requests, is_over, thread: Some(thread) }
    }

    /// Where a path is; with the name of the certificate if there is one.
    pub(super) fn url(&self, path: &str) -> String {
        match self.scheme {
            "https" => format!("https://{HOST}:{}{path}", self.addr.port()),
            scheme => format!("{scheme}://{}{path}", self.addr),
        }
    }

    /// The heads of all requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        let _woken = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<&Arc<ServerConfig>>,
    answer: &Answer,
    requests: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let Some(config) = tls else {
        return exchange(stream, answer, requests);
    };
    let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, stream);
    exchange(&mut stream, answer, requests)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn exchange(
    mut stream: impl Read + Write,
    answer: &Answer,
    requests: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut head = Vec::new();
    let mut octet = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut octet)?;
        head.push(octet[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let lines = head.lines().map(|line| match line.split_once(':') {
        Some((name, value)) => format!("{}:{value}\n", name.to_ascii_lowercase()),
        None => format!("{line}\n"),
    });
    let head: String = lines.collect();
    requests.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
    stream.write_all(&answer(&head))?;
    stream.flush()
}
