//! Framing (RFC 1035 section 4.2.2, RFC 7766 section 8): however the octets of a stream are cut,
//! clients get the same answers and upstreams the same queries, in both directions.

use std::sync::{Arc, OnceLock};

use arbitrary::{Result, Unstructured};
use balancedns_core::config::Snapshot;
use balancedns_core::engine::{Accepted, Established};
use balancedns_core::handle::ConnHandle;
use balancedns_core::time::Instant;
use bytes::Bytes;

use super::draw;
use super::setup::{START, TCP, address, assert_drains, machine, snapshot};
use crate::machine::{Input, Machine, Output};

const CONFIG: &str = r#"return {
    listen = { dns = "127.0.0.1:53" },
    hosts = { file = "hosts.example" },
    blacklist = { domains = { "blocked.example" } },
    routing = { attempts_max = 3 },
    upstreams = {
        { name = "first", addr = "192.0.2.1:53", protocol = "tcp" },
        { name = "second", addr = "192.0.2.2:53", protocol = "tcp" },
    },
}"#;

/// What a client and the upstreams say, apart from how it is cut.
struct Script {
    /// All octets of the client.
    client: Vec<u8>,
    /// Choices of what upstreams answer, one after the other.
    replies: Vec<u8>,
    ends_stream: bool,
}

/// How streams are cut: lengths of pieces, one after the other and again from the first.
type Cuts = Vec<usize>;
const WHOLE: &[usize] = &[usize::MAX];
const OCTET_BY_OCTET: &[usize] = &[1];

/// `data` is a sequence of choices: two ways to cut, then what is said.
///
/// # Panics
/// If a property is broken.
pub fn framing(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((one, other, script)) = script(&mut u) else { return };
    let whole = Run::of(&script, WHOLE);
    assert!(whole == Run::of(&script, &one), "cut into {one:?}");
    assert!(whole == Run::of(&script, &other), "cut into {other:?}");
    assert!(whole == Run::of(&script, OCTET_BY_OCTET), "cut into octets");
}

fn script(u: &mut Unstructured<'_>) -> Result<(Cuts, Cuts, Script)> {
    let mut cuts = || -> Result<Cuts> {
        let count = u.int_in_range(1..=5)?;
        (0..count).map(|_| u.int_in_range(1..=40)).collect()
    };
    let (one, other) = (cuts()?, cuts()?);
    let mut client = Vec::new();
    for _ in 0..u.int_in_range(1..=12)? {
        match u.int_in_range(0..=15)? {
            0 => client.extend_from_slice(&draw::octets(u)?), // from here on it is anything
            1 => append(&mut client, &draw::octets(u)?),
            2 => append(&mut client, &[]),
            _ => append(&mut client, &draw::query(u, 40)?),
        }
    }
    let ends_stream = u.ratio(1, 4)?;
    let replies = u.bytes(u.len())?.to_vec();
    Ok((one, other, Script { client, replies, ends_stream }))
}

fn append(stream: &mut Vec<u8>, message: &[u8]) {
    let length = u16::try_from(message.len()).expect("messages of ours are short");
    stream.extend_from_slice(&length.to_be_bytes());
    stream.extend_from_slice(message);
}

/// What came out of an engine, apart from how it was cut.
#[derive(Debug, Default, PartialEq, Eq)]
struct Run {
    /// All octets to the client.
    client: Vec<u8>,
    /// All octets to each connection to an upstream, in the order of connecting.
    upstreams: Vec<Vec<u8>>,
    /// Whether the client's connection was closed by us before the end.
    is_closed: bool,
}

/// A connection to an upstream.
struct Upstream {
    conn: ConnHandle,
    /// Octets of queries that it has not answered yet.
    unanswered: Vec<u8>,
    is_open: bool,
}

/// One run on its way.
struct Driver<'a> {
    machine: Machine,
    run: Run,
    client: ConnHandle,
    upstreams: Vec<Upstream>,
    cuts: &'a [usize],
}

impl Run {
    fn of(script: &Script, cuts: &[usize]) -> Self {
        static SNAPSHOT: OnceLock<Arc<Snapshot>> = OnceLock::new();
        let snapshot = SNAPSHOT.get_or_init(|| Arc::new(snapshot(CONFIG)));
        let mut machine = machine(snapshot);
        let mut outputs = Vec::new();
        let connects = Input::Connects(TCP, address("127.0.0.1:4000"));
        machine.feed(START, connects, &mut outputs);
        let [Output::Accepted(Accepted { conn: client, .. })] = outputs[..] else {
            panic!("a first connection is taken: {outputs:?}");
        };
        let (run, upstreams) = (Self::default(), Vec::new());
        let mut driver = Driver { machine, run, client, upstreams, cuts };
        driver.say(client, &script.client);
        if script.ends_stream {
            driver.feed(Input::EndOfStream(client));
        }
        driver.answer_all(&script.replies);
        driver.end()
    }
}

impl Driver<'_> {
    fn feed(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.machine.feed(START, input, &mut outputs);
        self.take_all(outputs);
    }

    /// Hands the octets of a stream in, piece by piece, as long as its connection lives.
    fn say(&mut self, conn: ConnHandle, octets: &[u8]) {
        let mut rest = octets;
        for cut in self.cuts.iter().cycle() {
            if rest.is_empty() {
                return;
            }
            let (piece, after) = rest.split_at(rest.len().min(*cut));
            rest = after;
            self.feed(Input::Octets(conn, Bytes::copy_from_slice(piece)));
        }
    }

    /// Upstreams answer in turn all that they were asked, each in one stream of octets, as long as
    /// there are choices left.
    fn answer_all(&mut self, choices: &[u8]) {
        let mut u = Unstructured::new(choices);
        // Answers lead to further queries, elsewhere or again: each round uses up some choices.
        while !u.is_empty() {
            let Some(at) =
                self.upstreams.iter().position(|up| up.is_open && !up.unanswered.is_empty())
            else {
                return;
            };
            let conn = self.upstreams[at].conn;
            let asked = std::mem::take(&mut self.upstreams[at].unanswered);
            let Ok(stream) = replies(&mut u, &asked) else { return };
            self.say(conn, &stream);
        }
    }

    fn take_all(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Write { conn, octets } => self.take_write(conn, &octets),
                Output::Connect { conn, .. } => {
                    self.run.upstreams.push(Vec::new());
                    self.upstreams.push(Upstream { conn, unanswered: Vec::new(), is_open: true });
                    self.feed(Input::Established(conn, Established::default()));
                }
                Output::CloseConn(conn, _) if conn == self.client => self.run.is_closed = true,
                Output::CloseConn(conn, _) => {
                    let closed = self.upstreams.iter_mut().find(|up| up.conn == conn);
                    closed.expect("it was connected").is_open = false;
                }
                // How much is read at once is nobody's promise.
                Output::PauseReading(_) | Output::ResumeReading(_) | Output::Report(_) => {}
                Output::Reply { .. }
                | Output::Query { .. }
                | Output::OpenSocket { .. }
                | Output::CloseSocket(_)
                | Output::Accepted(_)
                | Output::NotAccepted(_)
                | Output::CloseListener(_)
                | Output::Opened(_)
                | Output::NotOpened(_)
                | Output::Respond { .. }
                | Output::Request { .. }
                | Output::Cancel(_)
                | Output::Start { .. }
                | Output::Feed { .. }
                | Output::Kill(_)
                | Output::Stopped => panic!("nobody asked for {output:?}"),
            }
        }
    }

    fn take_write(&mut self, conn: ConnHandle, octets: &[u8]) {
        if conn == self.client {
            assert!(!self.run.is_closed, "written to a closed connection");
            self.run.client.extend_from_slice(octets);
        } else {
            let at = self.upstreams.iter().position(|up| up.conn == conn);
            let at = at.expect("it was connected");
            self.run.upstreams[at].extend_from_slice(octets);
            self.upstreams[at].unanswered.extend_from_slice(octets);
        }
        self.feed(Input::Written(conn, octets.len()));
    }

    /// Everything that is still waited for comes to its end.
    fn end(mut self) -> Run {
        let mut now: Instant = START;
        let mut last = Vec::new();
        for output in assert_drains(&mut self.machine, &mut now) {
            if let Output::Write { conn, octets } = output
                && conn == self.client
            {
                last.extend_from_slice(&octets);
            }
        }
        // Who had to wait for a connection is given up later than who found one there, and that may be
        // another one when the stream is cut otherwise.
        let mut messages = Vec::new();
        while let Some(length) = last.first_chunk::<2>() {
            let end = (2 + usize::from(u16::from_be_bytes(*length))).min(last.len());
            messages.push(last.drain(..end).collect::<Vec<u8>>());
        }
        messages.sort();
        self.run.client.extend(messages.concat());
        self.run.client.extend_from_slice(&last);
        let whole = whole_messages(&self.run.client);
        assert_eq!(whole, self.run.client.len(), "clients get whole messages");
        self.run
    }
}

/// Octets of the whole messages at the front of a stream.
fn whole_messages(stream: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = stream.get(at..).and_then(<[u8]>::first_chunk::<2>) {
        let end = at + 2 + usize::from(u16::from_be_bytes(*length));
        if end > stream.len() {
            return at;
        }
        at = end;
    }
    at
}

/// What an upstream says to the queries of a stream: answers in any order, and things that it was
/// not asked for.
fn replies(u: &mut Unstructured<'_>, asked: &[u8]) -> Result<Vec<u8>> {
    let mut queries = Vec::new();
    let mut rest = asked;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (message, after) = after.split_at(usize::from(u16::from_be_bytes(*length)));
        queries.push(message);
        rest = after;
    }
    let mut stream = Vec::new();
    while !queries.is_empty() {
        let query = queries.swap_remove(u.choose_index(queries.len())?);
        match u.int_in_range(0..=15)? {
            0 => append(&mut stream, &draw::octets(u)?),
            1 => append(&mut stream, &[]),
            2 => stream.extend_from_slice(&draw::octets(u)?),
            3 => {} // silence
            _ => append(&mut stream, &draw::reply(u, query)?),
        }
    }
    Ok(stream)
}
