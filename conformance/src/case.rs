//! What a case is: one behaviour, what it is a behaviour of, and the clients by which it is shown.
//!
//! A module lists its cases at its top with [`cases!`](crate::cases), which makes its `CASES`. A
//! function that is not listed is dead code, and so is a list that nobody collects: the compiler
//! tells.

use crate::harness::Via;

/// One behaviour of a daemon.
#[derive(Debug)]
pub(crate) struct Case {
    /// The whole path of the module that declares it.
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
    pub(crate) clients: Clients,
    /// Whether it measures so finely that no other case may run beside it.
    pub(crate) alone: bool,
    /// What it is a behaviour of, apart by ", ": sections as in `RFC 1035 4.2.1`, else what the
    /// project itself promises, as in `config cache.capacity`.
    pub(crate) shows: &'static str,
    /// What happens, in one sentence.
    pub(crate) title: &'static str,
    /// Why it does not run yet.
    pub(crate) pending: Option<&'static str>,
    pub(crate) body: fn(&World),
}

impl Case {
    /// Its module below `cases`, and its own name.
    pub(crate) fn full_name(&self) -> String {
        let module = self.module.rsplit("::").next().expect("a path has a last part");
        format!("{module}::{}", self.name)
    }

    /// What it is a behaviour of, one by one.
    pub(crate) fn references(&self) -> impl Iterator<Item = &'static str> {
        self.shows.split(", ")
    }
}

/// The clients by which a behaviour is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    /// It is the same for all transports, and runs once for each.
    All,
    /// It is the same for datagrams and plain streams, and has no meaning, or one of its own, over
    /// TLS and HTTP.
    Both,
    /// It belongs to streams of messages, plain and in TLS.
    Streams,
    /// It belongs to datagrams.
    Udp,
    /// It belongs to TCP.
    Tcp,
    /// It is none of a client's, or needs clients of several transports at once, or its own.
    Own,
}

impl Clients {
    /// The transports of its runs; `None` is a run whose case chooses its clients itself.
    pub(crate) fn runs(self) -> &'static [Option<Via>] {
        match self {
            Self::All => {
                &[Some(Via::Udp), Some(Via::Tcp), Some(Via::Dot), Some(Via::Get), Some(Via::Post)]
            }
            Self::Both => &[Some(Via::Udp), Some(Via::Tcp)],
            Self::Streams => &[Some(Via::Tcp), Some(Via::Dot)],
            Self::Udp => &[Some(Via::Udp)],
            Self::Tcp => &[Some(Via::Tcp)],
            Self::Own => &[None],
        }
    }

    /// As it stands in the table of behaviours.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Both => "UDP, TCP",
            Self::Streams => "TCP, DoT",
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Own => "",
        }
    }
}

/// What one run of a case stands in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World {
    /// Path of the daemon's binary.
    pub(crate) daemon: &'static str,
    /// The transport of this run's clients.
    pub(crate) transport: Option<Via>,
}

impl World {
    /// The transport of this run's clients, for a case that has any.
    pub(crate) fn transport(&self) -> Via {
        self.transport.expect("a case that asks by the run's transport is declared with one")
    }
}

/// Declares the cases of a module: function, clients (`all`, `both`,
/// `streams`, `udp`, `tcp`, `own`), what it is a
/// behaviour of, and what happens. `alone` behind the clients keeps other cases away meanwhile;
/// `pending "why"` at the end leaves a case out until its time.
macro_rules! cases {
    ($(
        $name:ident, $clients:ident $($alone:ident)?, $shows:literal, $title:literal $(, pending $why:literal)?;
    )+) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($crate::case::Case {
            module: module_path!(),
            name: stringify!($name),
            clients: cases!(@clients $clients),
            alone: cases!(@alone $($alone)?),
            shows: $shows,
            title: $title,
            pending: cases!(@pending $($why)?),
            body: $name,
        }),+];
    };
    (@clients all) => { $crate::case::Clients::All };
    (@clients streams) => { $crate::case::Clients::Streams };
    (@clients both) => { $crate::case::Clients::Both };
    (@clients udp) => { $crate::case::Clients::Udp };
    (@clients tcp) => { $crate::case::Clients::Tcp };
    (@clients own) => { $crate::case::Clients::Own };
    (@alone) => { false };
    (@alone alone) => { true };
    (@pending) => { None };
    (@pending $why:literal) => { Some($why) };
}
