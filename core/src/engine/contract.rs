//! The words in which the engine and an adapter talk: inputs' parameters and every [`Action`].
//!
//! `Action` is exhaustive on purpose: a new variant breaks whoever carries actions out at compile
//! time.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;

use super::Event;
use crate::config::{ListenSocket, UpstreamTls};
use crate::handle::{ConnHandle, ExchangeHandle, ListenerId, ProcessHandle, SocketHandle};
use crate::policy::ExecSettings;

/// Where a batch of datagrams came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Queries, from a listener's socket.
    Listener(ListenerId),
    /// Replies, from a connected socket towards an upstream.
    Socket(SocketHandle),
}

/// Why something with a socket did not work: the classes that lead to different decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoFailure {
    /// The other host answered that nobody listens there (RST, ICMP port unreachable).
    Refused,
    /// There is no way to the other host (ICMP unreachable, no route).
    Unreachable,
    /// The other side broke an established connection.
    Reset,
    /// Nothing came in time.
    TimedOut,
    /// The local address cannot be used.
    AddressUnavailable,
    /// This process or machine ran out of descriptors, ports, buffers or memory.
    NoResources,
    /// The datagram does not fit the path.
    TooBig,
    /// The adapter of this build cannot do what was asked.
    Unsupported,
    /// The TLS handshake failed, or the TLS session broke.
    Tls(TlsFailure),
    /// Anything else.
    Other,
}

/// Why there is no TLS session with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsFailure {
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate is for another name.
    WrongName,
    /// Nobody whom we trust has signed its certificate.
    UnknownIssuer,
    /// Its public key is none of those that are pinned.
    WrongPin,
    /// Its certificate is wrong in another way.
    BadCertificate,
    /// It does not speak the protocol that is wanted above TLS.
    WrongProtocol,
    /// It did not agree to a session, or broke its rules.
    Protocol,
}

impl TlsFailure {
    /// The name used in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expired => "certificate expired",
            Self::NotYetValid => "certificate not valid yet",
            Self::WrongName => "certificate for another name",
            Self::UnknownIssuer => "certificate of an unknown issuer",
            Self::WrongPin => "public key not pinned",
            Self::BadCertificate => "bad certificate",
            Self::WrongProtocol => "wrong protocol above tls",
            Self::Protocol => "tls failed",
        }
    }
}

impl IoFailure {
    /// Whether it says something of this machine rather than of the other one.
    #[must_use]
    pub const fn is_local(self) -> bool {
        match self {
            Self::AddressUnavailable | Self::NoResources | Self::TooBig | Self::Unsupported => true,
            Self::Refused
            | Self::Unreachable
            | Self::Reset
            | Self::TimedOut
            | Self::Tls(_)
            | Self::Other => false,
        }
    }

    /// The name used in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::TimedOut => "timed out",
            Self::AddressUnavailable => "local address unavailable",
            Self::NoResources => "out of resources",
            Self::TooBig => "message too big",
            Self::Unsupported => "not supported by this build",
            Self::Tls(failure) => failure.name(),
            Self::Other => "failed",
        }
    }
}

impl From<&std::io::Error> for IoFailure {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        // Linux numbers, for the failures that std keeps in one kind.
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        const EMSGSIZE: i32 = 90;
        const ENOBUFS: i32 = 105;
        match error.raw_os_error() {
            Some(ENFILE | EMFILE | ENOBUFS) => return Self::NoResources,
            Some(EMSGSIZE) => return Self::TooBig,
            _ => {}
        }
        // The kinds of std's list are open-ended: whatever is not named here is `Other`.
        let kind = error.kind();
        let known = [
            (Kind::ConnectionRefused, Self::Refused),
            (Kind::HostUnreachable, Self::Unreachable),
            (Kind::NetworkUnreachable, Self::Unreachable),
            (Kind::NetworkDown, Self::Unreachable),
            (Kind::ConnectionReset, Self::Reset),
            (Kind::ConnectionAborted, Self::Reset),
            (Kind::BrokenPipe, Self::Reset),
            (Kind::TimedOut, Self::TimedOut),
            (Kind::AddrNotAvailable, Self::AddressUnavailable),
            (Kind::AddrInUse, Self::NoResources),
            (Kind::OutOfMemory, Self::NoResources),
            (Kind::Unsupported, Self::Unsupported),
        ];
        known.iter().find(|(known, _)| *known == kind).map_or(Self::Other, |(_, class)| *class)
    }
}

/// How a stream connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// By the other side, or on our own request.
    Cleanly,
    /// It broke, or never came to be.
    Failed(IoFailure),
}

/// What a handshake settled. For plain TCP all fields are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Established {
    /// The protocol chosen by ALPN (RFC 7301).
    pub alpn: Option<Bytes>,
    /// The client's own address, where a trusted proxy announced one.
    pub client: Option<SocketAddr>,
}

/// How an outgoing connection is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    Plain,
    /// By TLS under these settings.
    Tls(Arc<UpstreamTls>),
}

/// A client's connection that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its name from now on.
    pub conn: ConnHandle,
    /// It has to begin with a PROXY protocol header, before anything else.
    pub proxied: bool,
    /// Where it was accepted: what is spoken there, and whether over TLS.
    pub socket: ListenSocket,
}

/// How to close a stream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Send what is written, then close.
    AfterWrites,
    /// Now: what is written and not yet sent is lost.
    Now,
}

/// Names an admin call until its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u64);

/// What an operator may ask of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminCall {
    /// Sizes of the worker's tables.
    Sizes,
}

/// A worker's answer to an [`AdminCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAnswer {
    /// Sizes of the worker's tables.
    Sizes(Sizes),
}

/// How much of each bounded thing a worker holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Questions being asked upstream.
    pub fetches: usize,
    /// Clients' queries that wait for one of them.
    pub waiters: usize,
    /// UDP sockets towards upstreams.
    pub sockets: usize,
    /// Connections from clients.
    pub client_conns: usize,
    /// Connections to upstreams.
    pub upstream_conns: usize,
    /// HTTP exchanges, of clients and with upstreams.
    pub exchanges: usize,
    /// Processes of plugins.
    pub processes: usize,
    /// Clients' queries that wait for one of them.
    pub suspended: usize,
    /// Timers that are set.
    pub timers: usize,
}

/// How a plugin process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessExit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It could not be started.
    NotStarted(IoFailure),
}

/// What the engine asks of its adapter. Each is carried out in the order given.
#[derive(Debug)]
pub enum Action {
    /// Open a UDP socket connected to `remote`, on a port that the kernel picks at random; then
    /// call `handle_socket_opened` or `handle_socket_failed`.
    OpenSocket {
        /// Its name from now on.
        socket: SocketHandle,
        /// The upstream's address.
        remote: SocketAddr,
        /// The local address to bind to, if one is configured.
        source: Option<IpAddr>,
    },
    /// Close a UDP socket; nothing is to be reported.
    CloseSocket {
        /// Which.
        socket: SocketHandle,
    },
    /// Connect a stream; then call `handle_established` or `handle_closed`.
    Connect {
        /// Its name from now on.
        conn: ConnHandle,
        /// The upstream's address.
        remote: SocketAddr,
        /// The local address to bind to, if one is configured.
        source: Option<IpAddr>,
        /// Plain or TLS.
        security: Security,
    },
    /// Append to what the connection sends; report progress with `handle_written`.
    Write {
        /// Which connection.
        conn: ConnHandle,
        /// Whole messages, framing included.
        bytes: Bytes,
    },
    /// Do not read from the connection until [`Action::ResumeReading`].
    PauseReading {
        /// Which connection.
        conn: ConnHandle,
    },
    /// Read from the connection again.
    ResumeReading {
        /// Which connection.
        conn: ConnHandle,
    },
    /// Close a connection, established or not; nothing is to be reported.
    CloseConn {
        /// Which connection.
        conn: ConnHandle,
        /// With or without what is still to be sent.
        mode: CloseMode,
    },
    /// Take a last look at what the listener's socket holds and hand it in, then let nothing more
    /// in. A datagram socket stays able to send: answers to queries in flight still leave by it.
    CloseListener {
        /// Which listener.
        listener: ListenerId,
    },
    /// Answer a client's exchange (DoH).
    Respond {
        /// Which exchange.
        exchange: ExchangeHandle,
        /// Status, headers and body.
        response: Box<http::Response<Bytes>>,
    },
    /// Start an exchange on an HTTP connection to an upstream.
    StartExchange {
        /// Its name from now on.
        exchange: ExchangeHandle,
        /// The connection that carries it.
        conn: ConnHandle,
        /// Method, URI, headers and body.
        request: Box<http::Request<Bytes>>,
    },
    /// Give up an exchange with an upstream; nothing is to be reported.
    CancelExchange {
        /// Which exchange.
        exchange: ExchangeHandle,
    },
    /// Start a plugin's process and write `input` to it.
    StartProcess {
        /// Its name from now on.
        process: ProcessHandle,
        /// What is run, and how.
        command: Arc<ExecSettings>,
        /// Its standard input, which ends after this unless the process is kept running.
        input: Bytes,
    },
    /// Write more to a plugin's process that is kept running.
    FeedProcess {
        /// Which process.
        process: ProcessHandle,
        /// What to write.
        input: Bytes,
    },
    /// Kill a plugin's process group; then call `handle_process_exited`, even if that fails.
    KillProcess {
        /// Which process.
        process: ProcessHandle,
    },
    /// Answer an admin call.
    AnswerAdmin {
        /// Which call.
        call: CallId,
        /// The answer.
        answer: AdminAnswer,
    },
    /// Something an operator may want to know. Already limited in rate.
    Report(Event),
    /// The engine has drained: nothing is left, nothing more will come.
    Stopped,
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const ALL: [IoFailure; 17] = [
        IoFailure::Refused,
        IoFailure::Unreachable,
        IoFailure::Reset,
        IoFailure::TimedOut,
        IoFailure::AddressUnavailable,
        IoFailure::NoResources,
        IoFailure::TooBig,
        IoFailure::Unsupported,
        IoFailure::Tls(TlsFailure::Expired),
        IoFailure::Tls(TlsFailure::NotYetValid),
        IoFailure::Tls(TlsFailure::WrongName),
        IoFailure::Tls(TlsFailure::UnknownIssuer),
        IoFailure::Tls(TlsFailure::WrongPin),
        IoFailure::Tls(TlsFailure::BadCertificate),
        IoFailure::Tls(TlsFailure::WrongProtocol),
        IoFailure::Tls(TlsFailure::Protocol),
        IoFailure::Other,
    ];

    /// Linux numbers, as adapters get them.
    #[test]
    fn errors_of_the_operating_system_fall_into_classes() {
        for (number, class) in [
            (111, IoFailure::Refused),           // ECONNREFUSED
            (113, IoFailure::Unreachable),       // EHOSTUNREACH
            (101, IoFailure::Unreachable),       // ENETUNREACH
            (100, IoFailure::Unreachable),       // ENETDOWN
            (104, IoFailure::Reset),             // ECONNRESET
            (103, IoFailure::Reset),             // ECONNABORTED
            (32, IoFailure::Reset),              // EPIPE
            (110, IoFailure::TimedOut),          // ETIMEDOUT
            (99, IoFailure::AddressUnavailable), // EADDRNOTAVAIL
            (98, IoFailure::NoResources),        // EADDRINUSE
            (12, IoFailure::NoResources),        // ENOMEM
            (23, IoFailure::NoResources),        // ENFILE
            (24, IoFailure::NoResources),        // EMFILE
            (105, IoFailure::NoResources),       // ENOBUFS
            (90, IoFailure::TooBig),             // EMSGSIZE
            (38, IoFailure::Unsupported),        // ENOSYS
            (5, IoFailure::Other),               // EIO
        ] {
            assert_eq!(IoFailure::from(&io::Error::from_raw_os_error(number)), class, "{number}");
        }
        assert_eq!(IoFailure::from(&io::Error::other("of our own")), IoFailure::Other);
    }

    #[test]
    fn classes_have_names_of_their_own_and_some_are_ours() {
        let names: std::collections::BTreeSet<_> = ALL.iter().map(|class| class.name()).collect();
        assert_eq!(names.len(), ALL.len());
        let local: Vec<_> = ALL.into_iter().filter(|class| class.is_local()).collect();
        use IoFailure::{AddressUnavailable, NoResources, TooBig, Unsupported};
        assert_eq!(local, [AddressUnavailable, NoResources, TooBig, Unsupported]);
    }
}
