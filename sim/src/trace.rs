//! What happened in a run: a hash of all inputs and outputs, and a line for each if somebody reads it.

use std::hash::{Hash as _, Hasher as _};

use balancedns_core::time::Instant;
use siphasher::sip::SipHasher13;

use crate::machine::{Datagram, Http, Input, Output};

/// Takes lines.
pub type Printer = Box<dyn FnMut(&str)>;

/// Follows a run.
pub struct Trace {
    hash: SipHasher13,
    printer: Option<Printer>,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trace").field("hash", &self.hash.finish()).finish_non_exhaustive()
    }
}

impl Trace {
    /// Nothing has happened; lines go to the printer, if there is one.
    #[must_use]
    pub fn new(printer: Option<Printer>) -> Self {
        Self { hash: SipHasher13::new(), printer }
    }

    /// The hash of all that has happened.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// Says something to whoever reads along.
    pub fn note(&mut self, now: Instant, text: impl FnOnce() -> String) {
        if let Some(print) = &mut self.printer {
            print(&format!("{} {}", Seconds(now), text()));
        }
    }

    /// An engine is told something.
    pub fn input(&mut self, now: Instant, engine: usize, input: &Input) {
        now.as_nanos().hash(&mut self.hash);
        engine.hash(&mut self.hash);
        match input {
            Input::Datagrams(origin, datagrams) => {
                for datagram in datagrams {
                    self.hash.write(&datagram.message);
                }
                if let Some(print) = &mut self.printer {
                    for datagram in datagrams {
                        let Datagram { peer, message, .. } = datagram;
                        print(&format!(
                            "{} > {engine} {origin:?} from {peer}: {}",
                            Seconds(now),
                            Message(message)
                        ));
                    }
                }
            }
            Input::Octets(_, octets) | Input::Body(_, octets, _) | Input::Wrote(_, octets) => {
                self.hash.write(octets);
                self.say(now, '>', engine, || format!("{input:?}"));
            }
            Input::Answered(exchange, response) => {
                self.hash.write(response.body());
                let status = response.status();
                self.say(now, '>', engine, || {
                    format!("Answered({exchange:?}, {status}, {})", Message(response.body()))
                });
            }
            Input::Opens(conn, head) => {
                head.uri.hash(&mut self.hash);
                self.say(now, '>', engine, || {
                    format!("Opens({conn:?}, {} {})", head.method, head.uri)
                });
            }
            Input::SocketOpened(_)
            | Input::SocketFailed(..)
            | Input::SendFailed(..)
            | Input::Connects(..)
            | Input::Established(..)
            | Input::Reset(_)
            | Input::Sent(_)
            | Input::Failed(..)
            | Input::EndOfStream(_)
            | Input::Written(..)
            | Input::Closed(..)
            | Input::Exited(..)
            | Input::Timeout
            | Input::Shutdown => {
                std::mem::discriminant(input).hash(&mut self.hash);
                self.say(now, '>', engine, || format!("{input:?}"));
            }
            Input::Reload(snapshot) => {
                self.say(now, '>', engine, || {
                    format!("reload, {} upstreams", snapshot.upstreams.len())
                });
            }
        }
    }

    /// An engine does something.
    pub fn output(&mut self, now: Instant, engine: usize, output: &Output) {
        std::mem::discriminant(output).hash(&mut self.hash);
        match output {
            Output::Reply { peer, message, .. } => {
                self.hash.write(message);
                self.say(now, '<', engine, || format!("to {peer}: {}", Message(message)));
            }
            Output::Query { socket, message } => {
                self.hash.write(message);
                self.say(now, '<', engine, || format!("on {socket:?}: {}", Message(message)));
            }
            Output::Write { octets, .. } => {
                self.hash.write(octets);
                self.say(now, '<', engine, || format!("{output:?}"));
            }
            Output::Respond { exchange, response } => {
                self.hash.write_u16(response.status);
                self.hash.write(&response.body);
                self.say(now, '<', engine, || {
                    let Http { status, headers, body } = response;
                    format!("Respond({exchange:?}, {status}, {headers:?}, {})", Message(body))
                });
            }
            Output::Request { exchange, conn, target, request } => {
                self.hash.write(&request.body);
                self.say(now, '<', engine, || {
                    format!("Request({exchange:?}, {conn:?}, {target}, {})", Message(&request.body))
                });
            }
            Output::Start { input, .. } | Output::Feed { input, .. } => {
                self.hash.write(input);
                self.say(now, '<', engine, || format!("{output:?}"));
            }
            Output::Opened(_)
            | Output::NotOpened(_)
            | Output::Cancel(_)
            | Output::OpenSocket { .. }
            | Output::CloseSocket(_)
            | Output::Accepted(_)
            | Output::NotAccepted(_)
            | Output::Connect { .. }
            | Output::PauseReading(_)
            | Output::ResumeReading(_)
            | Output::CloseConn(..)
            | Output::CloseListener(_)
            | Output::Kill(_)
            | Output::Report(_)
            | Output::Stopped => self.say(now, '<', engine, || format!("{output:?}")),
        }
    }

    fn say(&mut self, now: Instant, way: char, engine: usize, text: impl FnOnce() -> String) {
        if let Some(print) = &mut self.printer {
            print(&format!("{} {way} {engine} {}", Seconds(now), text()));
        }
    }
}

/// A time as seconds.
#[derive(Debug, Clone, Copy)]
pub struct Seconds(pub Instant);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanos = self.0.as_nanos();
        write!(f, "{:>5}.{:06}", nanos / 1_000_000_000, nanos / 1_000 % 1_000_000)
    }
}

/// A message as one line: id, flags, question, counts.
struct Message<'m>(&'m [u8]);

impl std::fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(header) = self.0.first_chunk::<12>() else {
            return write!(f, "{:02x?}", self.0);
        };
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        write!(f, "{:#06x} {:#06x} ", number(0), number(2))?;
        let mut rest = &self.0[12..];
        while let Some((length, after)) = rest.split_first()
            && *length > 0
            && *length < 64
            && after.len() > usize::from(*length)
        {
            let (label, after) = after.split_at(usize::from(*length));
            write!(f, "{}.", label.escape_ascii())?;
            rest = after;
        }
        let qtype = rest.get(1..3).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        write!(f, " {qtype} ({}, {}, {}) {} octets", number(6), number(8), number(10), self.0.len())
    }
}
