//! How questions travel between clients and us.

/// How a client's question travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Plain datagrams (RFC 1035 section 4.2.1).
    Udp,
    /// Plain streams (RFC 7766).
    Tcp,
    /// DNS over TLS (RFC 7858).
    Dot,
    /// DNS over HTTPS (RFC 8484).
    Doh,
}

impl Transport {
    /// The name used in logs, metrics and policies.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Dot => "dot",
            Self::Doh => "doh",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Transport::{Doh, Dot, Tcp, Udp};

    #[test]
    fn names_are_those_of_the_documentation() {
        assert_eq!([Udp, Tcp, Dot, Doh].map(|one| one.name()), ["udp", "tcp", "dot", "doh"]);
    }
}
