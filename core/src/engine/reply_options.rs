//! What the OPT record of a reply tells the client beside its fields: its cookies, how long its
//! connection may be idle, padding (RFC 7873 section 5.2, RFC 7828 section 3.2, RFC 8467 section 4.1).
//!
//! Only what a client asked for with an option of its own. Server cookies are given and counted, but
//! nobody is turned away for want of one: that would be BADCOOKIE, for servers under attack
//! (RFC 7873 section 5.2.3).

use super::Transport;
use super::chain::Desk;
use super::question::Client;
use crate::metrics::Counter;
use crate::time::{Duration, Instant};
use crate::wire::{
    ClientOptions, Cookie, KEEPALIVE_UNIT, Presented, REPLY_COOKIE_OCTETS, ReplyOptions,
};

impl Desk<'_> {
    /// What replies to a query with these options tell its client.
    pub(super) fn reply_options(
        &self,
        now: Instant,
        client: Client,
        sent: &ClientOptions<'_>,
    ) -> ReplyOptions {
        ReplyOptions {
            cookie: sent.cookie.and_then(|payload| self.cookie(now, client, payload)),
            keepalive: sent
                .keepalive
                .filter(|_| has_keepalive(client.transport))
                .map(|_| in_units(self.snapshot.listen.tcp_idle_timeout)),
            subnet: None,
            // Over plain HTTP too: a proxy in front of it has the encrypted end.
            padded: sent.padding
                && match client.transport {
                    Transport::Dot | Transport::Doh => true,
                    Transport::Udp | Transport::Tcp => false,
                },
        }
    }

    /// Whether an option makes the query one that gets FORMERR: a COOKIE of a length that there is
    /// not (RFC 7873 section 5.2.2), or a keepalive of a client that has a time in it (RFC 7828
    /// section 3.2.1). In datagrams the latter is ignored (section 3.3.1).
    pub(super) fn has_malformed_option(
        &self,
        transport: Transport,
        sent: &ClientOptions<'_>,
    ) -> bool {
        let is_cookie_wrong = self.snapshot.listen.cookies
            && sent.cookie.is_some_and(|payload| Cookie::read(payload).is_none());
        let is_keepalive_wrong =
            has_keepalive(transport) && sent.keepalive.is_some_and(|payload| !payload.is_empty());
        is_cookie_wrong || is_keepalive_wrong
    }

    /// A fresh server cookie each time: RFC 9018 section 4.3 wants one at least every half hour.
    fn cookie(
        &self,
        now: Instant,
        client: Client,
        payload: &[u8],
    ) -> Option<[u8; REPLY_COOKIE_OCTETS]> {
        if !self.snapshot.listen.cookies {
            return None;
        }
        let cookie = Cookie::read(payload)?;
        let secret = &self.shared.cookies;
        self.counters.count(match secret.judge(now, client.address.ip(), cookie) {
            Presented::Nothing => Counter::CookiesNone,
            Presented::Ours => Counter::CookiesValid,
            Presented::Unknown => Counter::CookiesInvalid,
        });
        Some(secret.issue(now, client.address.ip(), cookie.client))
    }
}

/// Whether a connection's idle time is told on this transport: HTTP has its own ways (RFC 8484
/// section 5), and datagrams have no connection.
fn has_keepalive(transport: Transport) -> bool {
    match transport {
        Transport::Tcp | Transport::Dot => true,
        Transport::Udp | Transport::Doh => false,
    }
}

/// In units of the option, rounded down, so that we are not the first to close.
fn in_units(time: Duration) -> u16 {
    u16::try_from(time.as_millis() / KEEPALIVE_UNIT.as_millis()).unwrap_or(u16::MAX)
}
