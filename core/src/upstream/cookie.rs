//! The cookies towards one endpoint (RFC 7873 sections 5.1 and 5.3): the one that we made up for it,
//! and the one that it gave us.
//!
//! Knows what a reply's COOKIE option means. What is done about it is the engine's business.

use crate::limits::COOKIE_AGE;
use crate::time::Instant;
use crate::wire::{CLIENT_COOKIE_OCTETS, COOKIE_OCTETS_MAX, Cookie};

/// What is sent to one endpoint as its COOKIE option.
pub(crate) struct EndpointCookie {
    /// Our cookie, then the server's.
    octets: [u8; COOKIE_OCTETS_MAX],
    /// How much of it there is: ours alone as long as the server has given none.
    len: usize,
    /// The endpoint does not send back what it is sent: it gets none.
    useless: bool,
    made_at: Instant,
}

/// What a reply's COOKIE option means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieSign {
    /// It repeats ours: nobody off the path could.
    Proves,
    /// There is none, nor has this endpoint ever sent one.
    NotExpected,
    /// There is none, but this endpoint sends cookies.
    Missing,
    /// It does not repeat ours, or is no cookie at all: by itself the reply is worth nothing (RFC 7873
    /// section 5.3).
    Wrong,
}

impl std::fmt::Debug for EndpointCookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EndpointCookie(..)") // it would tell what a forged reply has to have
    }
}

impl EndpointCookie {
    /// With this cookie of ours, and none of the server's yet.
    pub(crate) fn new(ours: u64, now: Instant) -> Self {
        let mut octets = [0; COOKIE_OCTETS_MAX];
        octets[..CLIENT_COOKIE_OCTETS].copy_from_slice(&ours.to_be_bytes());
        Self { octets, len: CLIENT_COOKIE_OCTETS, useless: false, made_at: now }
    }

    /// Whether it has been used for long enough.
    pub(crate) fn is_old(&self, now: Instant) -> bool {
        now.since(self.made_at) >= COOKIE_AGE
    }

    /// The payload of the option in queries.
    pub(crate) fn as_option(&self) -> &[u8] {
        if self.useless { &[] } else { &self.octets[..self.len] }
    }

    /// What a reply with this option, or without one, means.
    pub(crate) fn judge(&self, option: Option<&[u8]>) -> CookieSign {
        if self.useless {
            return CookieSign::NotExpected;
        }
        match option {
            None if self.len > CLIENT_COOKIE_OCTETS => CookieSign::Missing,
            None => CookieSign::NotExpected,
            // Some servers send back what they do not know, so without a cookie of theirs.
            Some(octets) if octets.starts_with(&self.octets[..CLIENT_COOKIE_OCTETS]) => {
                CookieSign::Proves
            }
            Some(_) => CookieSign::Wrong,
        }
    }

    /// Keeps the server's cookie of an option that proved to be right, if it has one.
    pub(crate) fn learn(&mut self, option: &[u8]) {
        let is_whole = Cookie::read(option).is_some_and(|cookie| !cookie.server.is_empty());
        if is_whole && let Some(room) = self.octets.get_mut(..option.len()) {
            room.copy_from_slice(option);
            self.len = option.len();
        }
    }

    /// What the endpoint sends back proves nothing: it gets no cookies until the next one is made.
    pub(crate) fn give_up(&mut self) {
        self.useless = true;
    }

    /// The server has no cookies any more.
    pub(crate) fn forget(&mut self) {
        self.len = CLIENT_COOKIE_OCTETS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u64 = 0x0102_0304_0506_0708;

    fn option(ours: u64, server: &[u8]) -> Vec<u8> {
        [&ours.to_be_bytes()[..], server].concat()
    }

    #[test]
    fn a_cookie_is_learnt_sent_back_and_then_expected() {
        let mut cookie = EndpointCookie::new(OURS, Instant::ZERO);
        assert_eq!(cookie.as_option(), option(OURS, &[]));
        assert_eq!(cookie.judge(None), CookieSign::NotExpected);
        for server in [&[7; 8][..], &[8; 32], &[9; 16]] {
            let learnt = option(OURS, server);
            assert_eq!(cookie.judge(Some(&learnt)), CookieSign::Proves);
            cookie.learn(&learnt);
            assert_eq!(cookie.as_option(), learnt);
            assert_eq!(cookie.judge(None), CookieSign::Missing);
        }
        cookie.forget();
        assert_eq!(cookie.as_option(), option(OURS, &[]));
        assert_eq!(cookie.judge(None), CookieSign::NotExpected);
    }

    #[test]
    fn what_does_not_repeat_ours_is_wrong() {
        let cookie = EndpointCookie::new(OURS, Instant::ZERO);
        for bit in 0..64 {
            let other = option(OURS ^ (1 << bit), &[1; 16]);
            assert_eq!(cookie.judge(Some(&other)), CookieSign::Wrong);
        }
        let whole = option(OURS, &[1; 40]);
        for length in 0..8 {
            assert_eq!(cookie.judge(Some(&whole[..length])), CookieSign::Wrong, "{length}");
        }
    }

    #[test]
    fn what_repeats_ours_proves_but_only_a_whole_one_is_sent_back() {
        let whole = option(OURS, &[1; 40]);
        for length in 8..48 {
            let mut cookie = EndpointCookie::new(OURS, Instant::ZERO);
            assert_eq!(cookie.judge(Some(&whole[..length])), CookieSign::Proves);
            cookie.learn(&whole[..length]);
            let kept = if (16..=40).contains(&length) { length } else { 8 };
            assert_eq!(cookie.as_option(), &whole[..kept], "{length}");
        }
    }

    #[test]
    fn useless_cookies_are_neither_sent_nor_looked_at() {
        let mut cookie = EndpointCookie::new(OURS, Instant::ZERO);
        cookie.learn(&option(OURS, &[7; 8]));
        cookie.give_up();
        assert!(cookie.as_option().is_empty());
        for reply in [None, Some(&[1; 16][..]), Some(&option(OURS, &[]))] {
            assert_eq!(cookie.judge(reply), CookieSign::NotExpected);
        }
    }

    #[test]
    fn the_cookie_is_not_shown() {
        assert_eq!(format!("{:?}", EndpointCookie::new(OURS, Instant::ZERO)), "EndpointCookie(..)");
    }
}
