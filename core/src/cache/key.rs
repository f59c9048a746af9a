//! What an answer is found by: built on the stack, hashed once per query.
//!
//! `hash (8) | flags | class | type | scope length, scope | route | lower-cased name`. DO and CD are part
//! of it since answers differ by them (RFC 4035 sections 3.2.1 and 3.2.2), and so is the client
//! subnet that an answer is for (RFC 7871 section 7.3.1). The route is there only if it is not the
//! general one: other upstreams may answer otherwise.

use std::fmt;

use crate::hash::KeyedState;
use crate::limits::NAME_OCTETS;
use crate::planted::{Bug, is_planted};
use crate::upstream::{Route, Way};
use crate::wire::{DisplayName, RecordClass, RecordType};

/// Octets before the scope: hash, flags, class, type, length of the scope.
const FIXED_OCTETS: usize = 14;
/// Where the flags stand.
const FLAGS_AT: usize = 8;
/// Where the scope's length stands.
const SCOPE_LENGTH_AT: usize = 13;
/// Octets of the longest scope: family, prefix length, an IPv6 address.
const SCOPE_OCTETS: usize = 19;
/// Octets of a route: its kind and its place.
const ROUTE_OCTETS: usize = 3;
/// Octets of the longest key.
pub const KEY_OCTETS: usize = 291;
const _: () = assert!(KEY_OCTETS == FIXED_OCTETS + SCOPE_OCTETS + ROUTE_OCTETS + NAME_OCTETS);

/// The bit for DO.
const DNSSEC_OK: u8 = 1;
/// The bit for CD.
const CHECKING_DISABLED: u8 = 2;
/// The bit for a route that is not the general one.
const ROUTED: u8 = 4;
/// The bit for a question that plugins were not asked about.
const PAST_POLICY: u8 = 8;

/// The EDNS Client Subnet prefix that an answer is for (RFC 7871 section 6).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Scope<'a> {
    /// The address family: 1 for IPv4, 2 for IPv6.
    pub family: u16,
    /// Bits of the prefix.
    pub prefix_length: u8,
    /// The prefix, at most 16 octets.
    pub address: &'a [u8],
}

/// A cache key.
#[derive(Clone)]
pub struct Key {
    octets: [u8; KEY_OCTETS],
    len: usize,
    hash: u64,
}

impl Key {
    /// The key of a question. `name` is in wire form, uncompressed, in any letter case.
    ///
    /// # Panics
    ///
    /// If `name` is longer than 255 octets or the scope's address longer than 16: the views let no
    /// such thing through.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "each is a part of the key")]
    pub fn new(
        hash: &KeyedState,
        name: &[u8],
        record_type: RecordType,
        record_class: RecordClass,
        dnssec_ok: bool,
        checking_disabled: bool,
        scope: Option<Scope<'_>>,
        way: impl Into<Way>,
    ) -> Self {
        let Way { route, past_policy } = way.into();
        let dnssec_ok = dnssec_ok && !is_planted(Bug::DnssecOkNotInKey);
        let flags = if dnssec_ok { DNSSEC_OK } else { 0 }
            | if checking_disabled { CHECKING_DISABLED } else { 0 }
            | if route == Route::General { 0 } else { ROUTED }
            | if past_policy { PAST_POLICY } else { 0 };
        let mut builder = Builder { octets: [0; KEY_OCTETS], len: 8 };
        builder.put(&[flags]);
        builder.put(&record_class.0.to_be_bytes());
        builder.put(&record_type.0.to_be_bytes());
        match scope {
            None => {
                builder.put(&[0]);
            }
            Some(scope) => {
                let octets = scope.address.len().saturating_add(3);
                builder.put(&[u8::try_from(octets).expect("an address has 16 octets at most")]);
                builder.put(&scope.family.to_be_bytes());
                builder.put(&[scope.prefix_length]);
                builder.put(scope.address);
            }
        }
        let (kind, place) = match route {
            Route::General => (None, 0),
            Route::Pool(place) => (Some(0), place),
            Route::Upstream(place) => (Some(1), place),
        };
        if let Some(kind) = kind {
            let [high, low] = place.to_be_bytes();
            builder.put(&[kind, high, low]);
        }
        // The octets of lengths stay what they are: 63 at most, while letters start at 65.
        builder.put(name).make_ascii_lowercase();
        builder.finish(hash)
    }

    /// All of it, the hash first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }

    /// The hash, which other tables may use too.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The lower-cased name in wire form.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let scope = self.octets.get(SCOPE_LENGTH_AT).map_or(0, |&octets| usize::from(octets));
        let is_routed = self.octets.get(FLAGS_AT).is_some_and(|flags| flags & ROUTED != 0);
        let route = if is_routed { ROUTE_OCTETS } else { 0 };
        let before = FIXED_OCTETS.saturating_add(scope).saturating_add(route);
        self.as_bytes().get(before..).unwrap_or_default()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl std::hash::Hash for Key {
    /// Hands on the hash that is part of the key, for tables under
    /// [`Prehashed`](crate::hash::Prehashed).
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {:016x})", DisplayName(self.name()), self.hash)
    }
}

/// A key being filled.
struct Builder {
    octets: [u8; KEY_OCTETS],
    len: usize,
}

impl Builder {
    /// Appends octets and returns where they now are.
    fn put(&mut self, octets: &[u8]) -> &mut [u8] {
        let start = self.len;
        self.len = start.saturating_add(octets.len());
        let place = self.octets.get_mut(start..self.len).expect("a key has room for all its parts");
        place.copy_from_slice(octets);
        place
    }

    /// Hashes what was put and sets the hash in front, where [`Prehashed`](crate::hash::Prehashed)
    /// takes it from.
    fn finish(self, hash: &KeyedState) -> Key {
        let Self { mut octets, len } = self;
        let hash = hash.hash_bytes(octets.get(8..len).unwrap_or_default());
        if let Some(place) = octets.first_chunk_mut::<8>() {
            *place = hash.to_le_bytes();
        }
        Key { octets, len, hash }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::testing::wire;

    const HASH: KeyedState = KeyedState::new((1, 2));
    const SUBNET: Scope<'_> = Scope { family: 1, prefix_length: 24, address: &[192, 0, 2] };

    fn key(name: &str) -> Key {
        Key::new(
            &HASH,
            &wire(name),
            RecordType::A,
            RecordClass::IN,
            false,
            false,
            None,
            Route::General,
        )
    }

    #[test]
    fn letter_case_makes_no_difference_rfc_4343() {
        assert_eq!(key("wWw.EXAMPLE"), key("www.example"));
        assert_eq!(key("wWw.EXAMPLE").hash(), key("www.example").hash());
        assert_eq!(key("wWw.EXAMPLE").name(), wire("www.example"));
        assert_ne!(key("www.example"), key("wwx.example"));
        assert_ne!(key("[.example"), key("{.example"), "not letters");
    }

    #[test]
    fn everything_else_makes_a_difference() {
        let name = wire("a");
        let general = Route::General;
        let new = |record_type, class, dnssec_ok, checking_disabled, scope| {
            Key::new(&HASH, &name, record_type, class, dnssec_ok, checking_disabled, scope, general)
        };
        let routed = |route| {
            Key::new(&HASH, &name, RecordType::A, RecordClass::IN, false, false, None, route)
        };
        let (a, inet) = (RecordType::A, RecordClass::IN);
        let way = Way { route: Route::General, past_policy: true };
        let past_policy =
            Key::new(&HASH, &name, RecordType::A, RecordClass::IN, false, false, None, way);
        let keys = [
            new(a, inet, false, false, None),
            new(RecordType(65), inet, false, false, None),
            new(RecordType(97), inet, false, false, None),
            new(a, RecordClass::CH, false, false, None),
            new(a, inet, true, false, None),
            new(a, inet, false, true, None),
            new(a, inet, true, true, None),
            new(a, inet, false, false, Some(SUBNET)),
            new(a, inet, false, false, Some(Scope { family: 2, ..SUBNET })),
            new(a, inet, false, false, Some(Scope { prefix_length: 23, ..SUBNET })),
            new(a, inet, false, false, Some(Scope { address: &[192, 0, 3], ..SUBNET })),
            new(a, inet, false, false, Some(Scope { prefix_length: 0, address: &[], ..SUBNET })),
            routed(Route::Pool(0)),
            routed(Route::Pool(1)),
            routed(Route::Upstream(0)),
            routed(Route::Upstream(256)),
            past_policy,
        ];
        for (at, one) in keys.iter().enumerate() {
            assert_eq!(one.name(), name);
            for other in &keys[..at] {
                assert_ne!(one, other);
                assert_ne!(one.hash(), other.hash());
            }
        }
    }

    #[test]
    fn the_hash_stands_in_front_and_is_keyed() {
        let one = key("example");
        assert_eq!(one.as_bytes()[..8], one.hash().to_le_bytes());
        let other = KeyedState::new((1, 3));
        let name = wire("example");
        let other = Key::new(
            &other,
            &name,
            RecordType::A,
            RecordClass::IN,
            false,
            false,
            None,
            Route::General,
        );
        assert_ne!(one.hash(), other.hash());
        assert_eq!(one.as_bytes()[8..], other.as_bytes()[8..]);
    }

    #[test]
    fn the_longest_key_fits() {
        let label = [&[63][..], &[b'A'; 63]].concat();
        let name = [&label[..], &label, &label, &[61], &[b'Z'; 61], &[0]].concat();
        let scope = Scope { family: 2, prefix_length: 128, address: &[7; 16] };
        let (record_type, class) = (RecordType(u16::MAX), RecordClass(u16::MAX));
        let key =
            Key::new(&HASH, &name, record_type, class, true, true, Some(scope), Route::Pool(7));
        assert_eq!(key.as_bytes().len(), KEY_OCTETS);
        assert_eq!(key.name(), name.to_ascii_lowercase());
    }

    proptest! {
        #[test]
        fn keys_are_equal_exactly_if_names_are(one in "[a-cA-C]{1,3}", other in "[a-cA-C]{1,3}") {
            let equal = one.eq_ignore_ascii_case(&other);
            prop_assert_eq!(key(&one) == key(&other), equal);
            prop_assert_eq!(key(&one).hash() == key(&other).hash(), equal);
        }
    }

    #[test]
    fn a_key_hashes_to_its_own_hash_and_is_shown_by_name() {
        use std::hash::BuildHasher;

        let one = key("www.Example");
        assert_eq!(crate::hash::Prehashed.hash_one(&one), one.hash());
        assert_eq!(format!("{one:?}"), format!("Key(www.example., {:016x})", one.hash()));
    }
}
