//! Our OPT record towards upstreams, and what theirs tells us: cookies (RFC 7873), the idle time of
//! connections (RFC 7828), padding (RFC 8467).
//!
//! Cookies protect datagrams: over TCP nobody off the path gets a word in. So they go to upstreams of
//! protocol udp alone, and when such an upstream has once sent one, a datagram without is not believed
//! but asked about over TCP, as BIND and Unbound do: RFC 7873 section 5.3 would have it discarded, and
//! then a server that gave up its cookies would be silent for ever.

use super::attempt::Failure;
use super::fetch::{Candidate, Carrier, Fetch};
use super::{Engine, FetchHandle, Out};
use crate::config::{SubnetPolicy, UpstreamProtocol};
use crate::limits::UPSTREAM_DATAGRAM_OCTETS;
use crate::metrics::Counter;
use crate::time::Instant;
use crate::upstream::{CookieSign, EndpointCookie};
use crate::wire::{ResponseView, UpstreamEdns};

impl Engine {
    /// The OPT record of a fetch's query to the endpoint that it is put to.
    pub(super) fn edns_of(&self, fetch: &Fetch) -> UpstreamEdns<'_> {
        let receivable = u16::try_from(UPSTREAM_DATAGRAM_OCTETS).unwrap_or(u16::MAX);
        let udp_size = self.snapshot.listen.udp_size.min(receivable);
        let plain = UpstreamEdns::plain(udp_size, fetch.dnssec_ok);
        let Candidate::Endpoint(endpoint) = fetch.candidate() else { return plain };
        let state = &self.endpoints[endpoint];
        let is_told = state.settings.client_subnet != SubnetPolicy::Off;
        let plain = UpstreamEdns { subnet: fetch.subnet.filter(|_| is_told), ..plain };
        match state.settings.protocol {
            UpstreamProtocol::Udp => UpstreamEdns {
                cookie: state.cookie.as_ref().map_or(&[], EndpointCookie::as_option),
                keepalive: fetch.attempt.carrier != Carrier::Datagram,
                ..plain
            },
            UpstreamProtocol::Tcp => UpstreamEdns { keepalive: true, ..plain },
            UpstreamProtocol::Dot => UpstreamEdns { keepalive: true, padded: true, ..plain },
            UpstreamProtocol::Doh => UpstreamEdns { padded: true, ..plain },
        }
    }

    /// Replaces a cookie that has been used for long enough, when no query is in flight whose reply
    /// would have the old one.
    pub(super) fn renew_cookie(&mut self, now: Instant, endpoint: usize) {
        let state = &mut self.endpoints[endpoint];
        if let Some(cookie) = &mut state.cookie
            && state.in_flight == 0
            && cookie.is_old(now)
        {
            *cookie = EndpointCookie::new(self.rng.cookies.bits(), now);
        }
    }

    /// Looks at the cookie of a reply in a datagram: whether it lacks one and has to be confirmed over
    /// TCP; or has another one than ours, which a spoofer's would have, and that of a proxy which caches
    /// replies and their cookies for everybody.
    ///
    /// # Errors
    /// There is no send left to confirm it: it changes nothing.
    pub(super) fn lacks_cookie(
        &mut self,
        handle: FetchHandle,
        view: &ResponseView<'_>,
    ) -> Result<bool, Counter> {
        let fetch = self.fetches.get_mut(handle).expect("an id in flight has a fetch");
        let Candidate::Endpoint(endpoint) = fetch.candidate() else { return Ok(false) };
        let cookie = self.endpoints[endpoint].cookie.as_mut();
        let Some(cookie) = cookie.filter(|_| fetch.edns) else { return Ok(false) };
        match learnt(cookie, view) {
            CookieSign::Proves | CookieSign::NotExpected => Ok(false),
            // Nothing can ever be confirmed.
            CookieSign::Missing if fetch.sends_max == 1 => Ok(false),
            CookieSign::Missing | CookieSign::Wrong if !fetch.is_spent() => {
                self.metrics.counters.count(Counter::ReplyWrongCookie);
                fetch.cookie_missing = true;
                Ok(true)
            }
            CookieSign::Missing | CookieSign::Wrong => Err(Counter::ReplyWrongCookie),
        }
    }

    /// Looks at the cookie of a reply over TCP, which needs no proof and says what datagrams can be
    /// expected to have.
    pub(super) fn take_stream_cookie(&mut self, handle: FetchHandle, view: &ResponseView<'_>) {
        let Some(fetch) = self.fetches.get_mut(handle) else { return };
        fetch.cookie_missing = false;
        let Candidate::Endpoint(endpoint) = fetch.candidate() else { return };
        let cookie = self.endpoints[endpoint].cookie.as_mut();
        let Some(cookie) = cookie.filter(|_| fetch.edns) else { return };
        match learnt(cookie, view) {
            CookieSign::Proves | CookieSign::NotExpected => {}
            CookieSign::Missing => cookie.forget(),
            CookieSign::Wrong => cookie.give_up(),
        }
    }

    /// The server wants another cookie than it got, and has just sent the right one: once more, then
    /// over TCP, where none is needed (RFC 7873 section 5.3). A client never hears of it.
    pub(super) fn bad_cookie(
        &mut self,
        now: Instant,
        handle: FetchHandle,
        view: &ResponseView<'_>,
        carrier: Carrier,
        out: &mut Out<'_>,
    ) {
        if carrier != Carrier::Datagram {
            return self.attempt_failed(now, handle, Failure::Malformed, out);
        }
        let Some(fetch) = self.fetches.get_mut(handle) else { return };
        if view.cookie().is_none() || std::mem::replace(&mut fetch.cookie_refused, true) {
            return self.ask_over_stream(now, handle, out);
        }
        self.release_attempt(handle, false);
        self.next_attempt(now, handle, out);
    }

    /// A reply without the right cookie could not be confirmed over TCP. Cookies are given up: this
    /// server may have none any more, and no TCP either. Whether that was the case.
    pub(super) fn gave_up_cookie(&mut self, handle: FetchHandle) -> bool {
        let Some(fetch) = self.fetches.get_mut(handle) else { return false };
        let Candidate::Endpoint(endpoint) = fetch.candidate() else { return false };
        let was_missing = std::mem::take(&mut fetch.cookie_missing);
        if was_missing && let Some(cookie) = &mut self.endpoints[endpoint].cookie {
            cookie.give_up();
        }
        was_missing
    }
}

/// What a reply's cookie means; one that proves the reply is kept.
fn learnt(cookie: &mut EndpointCookie, view: &ResponseView<'_>) -> CookieSign {
    let option = view.cookie();
    let sign = cookie.judge(option);
    if let Some(option) = option.filter(|_| sign == CookieSign::Proves) {
        cookie.learn(option);
    }
    sign
}
