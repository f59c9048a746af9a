//! Letter case as a nonce (draft-vixie-dnsext-dns0x20): names go out in random case, and a reply
//! has to repeat it. Each letter is a bit that an off-path spoofer has to guess besides id and port
//! (RFC 5452).
//!
//! Few servers do not repeat it. One that was caught three times in a row, each time confirmed by
//! asking again in a way that cannot be guessed, is asked in lower case for an hour.

use crate::limits::{CASE_LOST_AFTER, CASE_LOST_FOR};
use crate::time::Instant;

/// What is known of how an endpoint treats letter case.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CaseSupport {
    /// Confirmed replies in another case, in a row.
    lost: u32,
    /// Until when names go out in lower case.
    off_until: Option<Instant>,
}

impl CaseSupport {
    /// Whether a name may be sent in random case now.
    pub(crate) fn is_trusted(&mut self, now: Instant) -> bool {
        if self.off_until.is_some_and(|until| now >= until) {
            *self = Self::default();
        }
        self.off_until.is_none()
    }

    /// A reply has repeated the case.
    pub(crate) fn kept(&mut self) {
        self.lost = 0;
    }

    /// A reply in another case turned out to be the server's own. Whether this switches random case
    /// off.
    pub(crate) fn confirmed_lost(&mut self, now: Instant) -> bool {
        self.lost = self.lost.saturating_add(1);
        let lost = self.lost >= CASE_LOST_AFTER && self.off_until.is_none();
        if lost {
            self.off_until = Some(now + CASE_LOST_FOR);
        }
        lost
    }
}

/// Spells a question's name, which is in lower case, in the case that `bits` say: the first letter
/// after the lowest bit, and so on, from the start again after 64 letters. Type and class, the last
/// four octets, stay as they are.
pub(crate) fn spell(question: &mut [u8], bits: u64) {
    let name = question.len().saturating_sub(4);
    // Lengths of labels are below 64, letters above.
    let letters = question.iter_mut().take(name).filter(|octet| octet.is_ascii_lowercase());
    for (letter, place) in letters.zip((0..u64::BITS).cycle()) {
        if bits >> place & 1 == 1 {
            letter.make_ascii_uppercase();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::Duration;
    use crate::wire::Name;

    fn spelled(name: &str, bits: u64) -> Vec<u8> {
        let mut question = Name::parse(name).expect("a name").as_wire().to_vec();
        question.extend_from_slice(&[0, b'a', 0, b'c']);
        spell(&mut question, bits);
        question
    }

    proptest! {
        /// The case of each letter gives its bit back, and lower case the name.
        #[test]
        fn letters_hold_the_bits(name in "[a-z0-9-]{1,60}(\\.[a-z0-9-]{1,60}){0,3}", bits: u64) {
            let plain = spelled(&name, 0);
            let wire = spelled(&name, bits);
            prop_assert_eq!(&wire.to_ascii_lowercase(), &plain);
            let letters = wire[..wire.len() - 4].iter().filter(|octet| octet.is_ascii_alphabetic());
            for (place, letter) in letters.enumerate() {
                prop_assert_eq!(letter.is_ascii_uppercase(), bits >> (place % 64) & 1 == 1);
            }
        }
    }

    #[test]
    fn each_bit_is_a_letter_and_nothing_else_changes() {
        assert_eq!(spelled("ab-1.cd", 0b1010), *b"\x04aB-1\x02cD\0\0a\0c");
        assert_eq!(spelled("ab-1.cd", u64::MAX), *b"\x04AB-1\x02CD\0\0a\0c");
        assert_eq!(spelled(".", u64::MAX), *b"\0\0a\0c");
    }

    #[test]
    fn long_names_use_the_bits_again() {
        let label = "x".repeat(60);
        let wire = spelled(&format!("{label}.{label}"), 1);
        let upper: Vec<usize> = (0..wire.len()).filter(|at| wire[*at] == b'X').collect();
        assert_eq!(upper, [1, 62 + 4], "the first letter and the sixty-fifth");
    }

    #[test]
    fn three_in_a_row_switch_it_off_for_an_hour() {
        let mut support = CaseSupport::default();
        let start = Instant::ZERO;
        assert!(!support.confirmed_lost(start));
        assert!(!support.confirmed_lost(start));
        support.kept();
        assert!(!support.confirmed_lost(start));
        assert!(!support.confirmed_lost(start));
        assert!(support.is_trusted(start));
        assert!(support.confirmed_lost(start));
        assert!(!support.confirmed_lost(start), "told once");
        assert!(!support.is_trusted(start + Duration::from_secs(3_599)));
        assert!(support.is_trusted(start + Duration::from_secs(3_600)));
        assert!(!support.confirmed_lost(start + Duration::from_secs(3_600)), "counted anew");
    }
}
