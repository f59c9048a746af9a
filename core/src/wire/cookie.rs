//! DNS cookies: the COOKIE option's payload (RFC 7873 section 4) and server cookies that all workers
//! understand (RFC 9018 section 4).
//!
//! Owns how a cookie looks and when one is ours. What follows from a cookie is the engine's business.

use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use crate::time::Instant;

/// Octets of a client cookie (RFC 7873 section 4.1).
pub const CLIENT_COOKIE_OCTETS: usize = 8;
/// Octets of the server cookies that we issue (RFC 9018 section 4).
const SERVER_COOKIE_OCTETS: usize = 16;
/// Octets of a COOKIE option that we send in replies.
pub const REPLY_COOKIE_OCTETS: usize = CLIENT_COOKIE_OCTETS + SERVER_COOKIE_OCTETS;
/// The longest COOKIE option (RFC 7873 section 4): a server cookie has up to 32 octets.
pub const COOKIE_OCTETS_MAX: usize = CLIENT_COOKIE_OCTETS + 32;

/// RFC 9018 section 4.1, and three reserved octets of section 4.2.
const VERSION: [u8; 4] = [1, 0, 0, 0];
/// RFC 9018 section 4.3: older cookies are not taken.
const AGE_SECONDS_MAX: u32 = 3_600;
/// RFC 9018 section 4.3: neither are those from further in the future, which other workers, whose
/// time is a moment ahead, do not need.
const FUTURE_SECONDS_MAX: u32 = 300;

/// How long one secret is used: RFC 7873 section 7.1 wants no more than 26 hours.
const SECRET_SECONDS: u32 = 86_400;

const _: () = assert!(VERSION.len() + 4 + 8 == SERVER_COOKIE_OCTETS);

/// The payload of a COOKIE option.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Cookie<'a> {
    /// The client's part.
    pub client: [u8; CLIENT_COOKIE_OCTETS],
    /// The server's part: empty, or 8 to 32 octets.
    pub server: &'a [u8],
}

impl<'a> Cookie<'a> {
    /// Reads a payload; `None` unless it is 8 or 16 to 40 octets long (RFC 7873 section 5.2.2).
    #[must_use]
    pub fn read(payload: &'a [u8]) -> Option<Self> {
        let (client, server) = payload.split_first_chunk()?;
        matches!(server.len(), 0 | 8..=32).then_some(Self { client: *client, server })
    }
}

/// What a server cookie that a client presents is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Presented {
    /// There is none: the client has not been here yet.
    Nothing,
    /// We gave it to this client, not too long ago.
    Ours,
    /// Made up, too old, another client's, or of the process before this one.
    Unknown,
}

/// What server cookies are made from: one for all workers of a process, for its life. The secret
/// itself is another one each day (RFC 7873 section 7.1), and a cookie's time says which.
///
/// Since no other process ever sees these cookies as its own, their time is that of the engines,
/// seconds since an arbitrary start, and not the time of day.
#[derive(Clone, Copy)]
pub(crate) struct CookieSecret([u8; 16]);

impl std::fmt::Debug for CookieSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieSecret(..)")
    }
}

impl CookieSecret {
    /// Makes cookies under this secret.
    pub(crate) const fn new(secret: [u8; 16]) -> Self {
        Self(secret)
    }

    /// The COOKIE option of a reply: the client's cookie and ours for it.
    pub(crate) fn issue(
        &self,
        now: Instant,
        address: IpAddr,
        client: [u8; CLIENT_COOKIE_OCTETS],
    ) -> [u8; REPLY_COOKIE_OCTETS] {
        let seconds = now.seconds_since(Instant::ZERO);
        let hash = hash_of(self.of_day(seconds), client, seconds, address);
        let mut option = [0; REPLY_COOKIE_OCTETS];
        fill(
            &mut option,
            client.into_iter().chain(VERSION).chain(seconds.to_be_bytes()).chain(hash),
        );
        option
    }

    /// Whether a server cookie is ours, given to this address for this client cookie.
    pub(crate) fn judge(&self, now: Instant, address: IpAddr, cookie: Cookie<'_>) -> Presented {
        if cookie.server.is_empty() {
            return Presented::Nothing;
        }
        if self.is_ours(now, address, cookie) == Some(true) {
            Presented::Ours
        } else {
            Presented::Unknown
        }
    }

    fn is_ours(&self, now: Instant, address: IpAddr, cookie: Cookie<'_>) -> Option<bool> {
        let (version, rest) = cookie.server.split_first_chunk::<4>()?;
        let (seconds, hash) = rest.split_first_chunk::<4>()?;
        // Either difference is small where the other one wraps around.
        let (now, made) = (now.seconds_since(Instant::ZERO), u32::from_be_bytes(*seconds));
        let is_timely = now.wrapping_sub(made) <= AGE_SECONDS_MAX
            || made.wrapping_sub(now) <= FUTURE_SECONDS_MAX;
        let ours = hash_of(self.of_day(made), cookie.client, made, address);
        // One comparison of eight octets tells nothing by its time.
        let same = u64::from_ne_bytes(hash.try_into().ok()?) == u64::from_ne_bytes(ours);
        Some(*version == VERSION && is_timely && same)
    }

    /// The secret of the day that this second is in.
    fn of_day(&self, seconds: u32) -> [u8; 16] {
        let day = (seconds / SECRET_SECONDS).to_be_bytes();
        let half = |half: u8| {
            let [a, b, c, d] = day;
            SipHasher24::new_with_key(&self.0).hash(&[half, a, b, c, d]).to_le_bytes()
        };
        let mut secret = [0; 16];
        fill(&mut secret, half(0).into_iter().chain(half(1)));
        secret
    }
}

/// The hash in a server cookie (RFC 9018 section 4.4).
fn hash_of(secret: [u8; 16], client: [u8; 8], seconds: u32, address: IpAddr) -> [u8; 8] {
    let mut input = [0; 32];
    let parts = client.into_iter().chain(VERSION).chain(seconds.to_be_bytes());
    let length = match address {
        IpAddr::V4(ip) => fill(&mut input, parts.chain(ip.octets())),
        IpAddr::V6(ip) => fill(&mut input, parts.chain(ip.octets())),
    };
    let input = input.get(..length).unwrap_or_default();
    SipHasher24::new_with_key(&secret).hash(input).to_le_bytes()
}

/// Puts octets at the start of a buffer; gives their number.
fn fill(buffer: &mut [u8], octets: impl Iterator<Item = u8>) -> usize {
    buffer.iter_mut().zip(octets).map(|(place, octet)| *place = octet).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn judge(secret: CookieSecret, seconds: u64, from: &str, cookie: Cookie<'_>) -> Presented {
        secret.judge(at(seconds), address(from), cookie)
    }

    /// RFC 9018 appendix A: secret, client cookie, address, time, server cookie.
    #[test]
    fn the_examples_of_rfc_9018_come_out() {
        const FIRST: u128 = 0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf;
        const SECOND: u128 = 0x4455_36bc_d251_3298_075a_5d37_9663_c962;
        let examples: [(u128, u64, &str, u32, u128); 4] = [
            (
                FIRST,
                0x2464_c4ab_cf10_c957,
                "198.51.100.100",
                1_559_731_985,
                0x0100_0000_5cf7_9f11_1f81_30c3_eee2_9480,
            ),
            (
                FIRST,
                0x2464_c4ab_cf10_c957,
                "198.51.100.100",
                1_559_734_385,
                0x0100_0000_5cf7_a871_d4a5_64a1_442a_ca77,
            ),
            (
                FIRST,
                0xfc93_fc62_807d_db86,
                "203.0.113.203",
                1_559_734_700,
                0x0100_0000_5cf7_a9ac_f73a_7810_aca2_381e,
            ),
            (
                SECOND,
                0x2268_1ab9_7d52_c298,
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                1_559_741_961,
                0x0100_0000_5cf7_c609_a6bb_79d1_6625_507a,
            ),
        ];
        for (secret, client, from, seconds, server) in examples {
            let client = client.to_be_bytes();
            let hash = hash_of(secret.to_be_bytes(), client, seconds, address(from));
            let made = [&VERSION[..], &seconds.to_be_bytes(), &hash].concat();
            assert_eq!(made, server.to_be_bytes(), "{from}");
        }
    }

    #[test]
    fn a_cookie_is_good_for_an_hour_for_its_client() {
        let secret = CookieSecret::new([7; 16]);
        for ours in ["192.0.2.1", "2001:db8::1"] {
            let option = secret.issue(at(10_000), address(ours), [1; 8]);
            let cookie = Cookie::read(&option).unwrap();
            for seconds in [9_700, 10_000, 13_600] {
                assert_eq!(judge(secret, seconds, ours, cookie), Presented::Ours, "{seconds}");
            }
            for seconds in [0, 9_699, 13_601, u64::from(u32::MAX) * 2] {
                assert_eq!(judge(secret, seconds, ours, cookie), Presented::Unknown, "{seconds}");
            }
            assert_eq!(judge(secret, 10_000, "192.0.2.2", cookie), Presented::Unknown);
            assert_eq!(judge(secret, 10_000, "2001:db8::2", cookie), Presented::Unknown);
            let other = Cookie { client: [2; 8], ..cookie };
            assert_eq!(judge(secret, 10_000, ours, other), Presented::Unknown);
            for at in 0..cookie.server.len() {
                let mut changed = cookie.server.to_vec();
                changed[at] ^= 1;
                let changed = Cookie { server: &changed, ..cookie };
                assert_eq!(judge(secret, 10_000, ours, changed), Presented::Unknown, "octet {at}");
            }
            let longer = [cookie.server, &[0]].concat();
            for server in [&longer, &cookie.server[..8], &cookie.server[..15]] {
                assert_eq!(
                    judge(secret, 10_000, ours, Cookie { server, ..cookie }),
                    Presented::Unknown
                );
            }
            let new = Cookie { server: &[], ..cookie };
            assert_eq!(judge(secret, 10_000, ours, new), Presented::Nothing);
            let elsewhere = CookieSecret::new([8; 16]);
            assert_eq!(elsewhere.judge(at(10_000), address(ours), cookie), Presented::Unknown);
        }
    }

    /// RFC 7873 section 7.1; cookies are good across midnight nevertheless.
    #[test]
    fn the_secret_is_another_one_each_day() {
        let secret = CookieSecret::new([7; 16]);
        let days: std::collections::BTreeSet<_> =
            (0..400).map(|day| secret.of_day(day * SECRET_SECONDS)).collect();
        assert_eq!(days.len(), 400);
        assert_eq!(secret.of_day(0), secret.of_day(SECRET_SECONDS - 1));
        let evening = u64::from(SECRET_SECONDS) - 1;
        let option = secret.issue(at(evening), address("192.0.2.1"), [1; 8]);
        let cookie = Cookie::read(&option).unwrap();
        assert_eq!(judge(secret, evening + 2, "192.0.2.1", cookie), Presented::Ours);
    }

    #[test]
    fn lengths_are_those_of_rfc_7873_section_4() {
        let octets = [5; 64];
        for length in 0..octets.len() {
            let read = Cookie::read(&octets[..length]);
            assert_eq!(read.is_some(), matches!(length, 8 | 16..=40), "{length}");
            if let Some(cookie) = read {
                assert_eq!(cookie.server.len(), length - 8);
            }
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert_eq!(format!("{:?}", CookieSecret::new([7; 16])), "CookieSecret(..)");
    }
}
