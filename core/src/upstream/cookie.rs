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
    /// It does not repeat ours, or is no cookie at all: the reply must be ignored (RFC 7873 section
    /// 5.3).
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
        Self { octets, len: CLIENT_COOKIE_OCTETS, made_at: now }
    }

    /// Whether it has been used for long enough.
    pub(crate) fn is_old(&self, now: Instant) -> bool {
        now.since(self.made_at) >= COOKIE_AGE
    }

    /// The payload of the option in queries.
    pub(crate) fn as_option(&self) -> &[u8] {
        &self.octets[..self.len]
    }

    /// What a reply with this option, or without one, means.
    pub(crate) fn judge(&self, option: Option<&[u8]>) -> CookieSign {
        match option.map(Cookie::read) {
            None if self.len > CLIENT_COOKIE_OCTETS => CookieSign::Missing,
            None => CookieSign::NotExpected,
            // A server's cookie alone makes the option whole (RFC 7873 section 5.3).
            Some(Some(cookie))
                if cookie.client == self.octets[..CLIENT_COOKIE_OCTETS]
                    && !cookie.server.is_empty() =>
            {
                CookieSign::Proves
            }
            Some(_) => CookieSign::Wrong,
        }
    }

    /// Keeps the server's cookie of an option that proved to be right.
    pub(crate) fn learn(&mut self, option: &[u8]) {
        if let Some(room) = self.octets.get_mut(..option.len()) {
            room.copy_from_slice(option);
            self.len = option.len();
        }
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
    fn what_does_not_repeat_ours_or_has_no_such_length_is_wrong() {
        let cookie = EndpointCookie::new(OURS, Instant::ZERO);
        for bit in 0..64 {
            let other = option(OURS ^ (1 << bit), &[1; 16]);
            assert_eq!(cookie.judge(Some(&other)), CookieSign::Wrong);
        }
        for length in 0..48 {
            let whole = option(OURS, &[1; 40]);
            let right = (16..=40).contains(&length);
            let sign = if right { CookieSign::Proves } else { CookieSign::Wrong };
            assert_eq!(cookie.judge(Some(&whole[..length])), sign, "{length}");
        }
    }

    #[test]
    fn the_cookie_is_not_shown() {
        assert_eq!(format!("{:?}", EndpointCookie::new(OURS, Instant::ZERO)), "EndpointCookie(..)");
    }
}
