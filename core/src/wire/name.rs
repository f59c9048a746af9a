//! Names in wire form (RFC 1035 section 3.1) and in presentation form (section 5.1).
//!
//! Escapes are ours: `\DDD` is decimal there, hickory-proto reads and writes it as octal. What is
//! not ASCII goes through hickory's IDNA mapping (UTS 46), label by label.

use std::fmt;
use std::fmt::Write as _;

use super::octets::{LABEL_OCTETS, Reader};
use crate::limits::NAME_OCTETS;

/// An owned name in wire form, lower-cased, root octet included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// Why something is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no text.
    #[error("the name is empty")]
    Empty,
    /// Two dots stand side by side, or one at the front.
    #[error("a label is empty")]
    EmptyLabel,
    /// A label is too long (RFC 1035 section 2.3.4).
    #[error("a label has {octets} octets, the limit is 63")]
    LabelTooLong {
        /// Its length.
        octets: usize,
    },
    /// The name is too long (RFC 1035 section 2.3.4).
    #[error("the name has {octets} octets on the wire, the limit is 255")]
    TooLong {
        /// Its length in wire form.
        octets: usize,
    },
    /// A backslash is followed neither by three digits up to 255 nor by another character.
    #[error("a backslash must be followed by a character or by three decimal digits up to 255")]
    Escape,
    /// A character must be written as an escape.
    #[error("the character {character:?} must be escaped")]
    Character {
        /// Which one.
        character: char,
    },
    /// A label with characters beyond ASCII has no IDNA form (UTS 46).
    #[error("the label {label:?} is not a valid internationalized label")]
    Idna {
        /// The label as given.
        label: String,
    },
    /// Octets are no uncompressed name.
    #[error("not an uncompressed name in wire form")]
    Wire,
}

impl Name {
    /// The name that a text says, with or without the dot at its end.
    ///
    /// # Errors
    ///
    /// If it is no name; see [`NameError`].
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut wire = wire_form(text)?;
        wire.make_ascii_lowercase();
        Ok(Self(wire.into_boxed_slice()))
    }

    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// The wire form, root octet included.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The name that is exactly these octets, lower-cased.
    ///
    /// # Errors
    ///
    /// If they are not one uncompressed name from end to end.
    pub fn from_wire(octets: &[u8]) -> Result<Self, NameError> {
        let mut reader = Reader::new(octets);
        let name = reader.uncompressed_name().ok_or(NameError::Wire)?;
        if !reader.rest().is_empty() {
            return Err(NameError::Wire);
        }
        // The octets of lengths stay what they are: 63 at most, while letters start at 65.
        Ok(Self(name.to_ascii_lowercase().into_boxed_slice()))
    }
}

impl fmt::Display for Name {
    /// Presentation format with the dot at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        DisplayName(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// The uncompressed wire form of the name that a text says, letter case kept.
pub(crate) fn wire_form(text: &str) -> Result<Vec<u8>, NameError> {
    match text {
        "" => return Err(NameError::Empty),
        "." => return Ok(vec![0]),
        _ => {}
    }
    let mut wire = Vec::with_capacity(text.len().saturating_add(2));
    let mut label = Label::default();
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '.' => label.finish(&mut wire)?,
            '\\' => label.octets.extend_from_slice(unescape(&mut rest)?.as_ref()),
            '\0'..=' ' | '\u{7f}' => return Err(NameError::Character { character }),
            _ => label.push(character),
        }
    }
    if !label.octets.is_empty() {
        label.finish(&mut wire)?;
    }
    wire.push(0);
    if wire.len() > NAME_OCTETS {
        return Err(NameError::TooLong { octets: wire.len() });
    }
    Ok(wire)
}

/// The octets that a text with escapes stands for (RFC 1035 section 5.1).
pub(crate) fn unescaped(text: &str) -> Result<Vec<u8>, NameError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' => octets.extend_from_slice(unescape(&mut rest)?.as_ref()),
            _ => octets.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(octets)
}

/// Presentation format of an uncompressed wire name, letter case kept, with the dot at the end.
#[derive(Clone, Copy)]
pub struct DisplayName<'a>(pub &'a [u8]);

impl fmt::Display for DisplayName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels = labels(self.0).peekable();
        if labels.peek().is_none() {
            return f.write_char('.');
        }
        for label in labels {
            for &octet in label {
                write_octet(f, octet)?;
            }
            f.write_char('.')?;
        }
        Ok(())
    }
}

impl fmt::Debug for DisplayName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DisplayName({self})")
    }
}

/// The suffixes of an uncompressed wire name, the name itself first, the root (`[0]`) last.
/// Octets that are no such name end the iteration early.
pub fn suffixes(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut next = Some(name);
    std::iter::from_fn(move || {
        let suffix = next.take()?;
        let (&length, rest) = suffix.split_first()?;
        if length != 0 {
            next = rest.get(usize::from(length)..);
        }
        Some(suffix)
    })
}

/// The labels of an uncompressed name, the root's empty one left out.
pub(crate) fn labels(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    suffixes(name).map_while(|suffix| {
        let (&length, rest) = suffix.split_first()?;
        rest.get(..usize::from(length)).filter(|label| !label.is_empty())
    })
}

/// Writes an octet of a label so that [`Name::parse`] and zone files read the same octet.
fn write_octet(f: &mut fmt::Formatter<'_>, octet: u8) -> fmt::Result {
    match octet {
        b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => {
            write!(f, "\\{}", char::from(octet))
        }
        b'!'..=b'~' => f.write_char(char::from(octet)),
        _ => write!(f, "\\{octet:03}"),
    }
}

/// A label being read from text.
#[derive(Default)]
struct Label {
    octets: Vec<u8>,
    /// A character beyond ASCII was in it, not escaped.
    international: bool,
}

impl Label {
    fn push(&mut self, character: char) {
        self.international |= !character.is_ascii();
        self.octets.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// Appends the label to `wire` and starts the next one.
    fn finish(&mut self, wire: &mut Vec<u8>) -> Result<(), NameError> {
        if self.international {
            self.octets = idna(&self.octets)?;
            self.international = false;
        }
        let octets = self.octets.len();
        match u8::try_from(octets) {
            Ok(0) => return Err(NameError::EmptyLabel),
            Ok(length @ 1..=LABEL_OCTETS) => wire.push(length),
            _ => return Err(NameError::LabelTooLong { octets }),
        }
        wire.append(&mut self.octets);
        Ok(())
    }
}

/// The A-label of a U-label.
fn idna(label: &[u8]) -> Result<Vec<u8>, NameError> {
    let refused = || NameError::Idna { label: String::from_utf8_lossy(label).into_owned() };
    let text = std::str::from_utf8(label).map_err(|_| refused())?;
    let mapped = hickory_proto::rr::domain::Label::from_utf8(text).map_err(|_| refused())?;
    // Other scripts' full stops map to a dot, which hickory would keep within one label.
    if mapped.as_bytes().contains(&b'.') {
        return Err(refused());
    }
    Ok(mapped.as_bytes().to_vec())
}

/// What an escape stands for; the backslash has been read.
fn unescape(rest: &mut std::str::Chars<'_>) -> Result<Escaped, NameError> {
    let first = rest.next().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return Ok(Escaped::of(first));
    }
    let mut number = first.to_digit(10).ok_or(NameError::Escape)?;
    for _ in 0..2 {
        let digit = rest.next().and_then(|character| character.to_digit(10));
        number = number.saturating_mul(10).saturating_add(digit.ok_or(NameError::Escape)?);
    }
    let octet = u8::try_from(number).map_err(|_| NameError::Escape)?;
    Ok(Escaped { octets: [octet, 0, 0, 0], len: 1 })
}

/// The octets of one escape.
struct Escaped {
    octets: [u8; 4],
    len: usize,
}

impl Escaped {
    fn of(character: char) -> Self {
        let mut octets = [0; 4];
        let len = character.encode_utf8(&mut octets).len();
        Self { octets, len }
    }
}

impl AsRef<[u8]> for Escaped {
    fn as_ref(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_and_wire() {
        let name = Name::parse("WWW.Example.org").unwrap();
        assert_eq!(name.as_wire(), b"\x03www\x07example\x03org\0");
        assert_eq!(name, Name::parse("www.example.ORG.").unwrap());
        assert_eq!(name.to_string(), "www.example.org.");
        assert_eq!(Name::parse("."), Ok(Name::root()));
        assert_eq!(Name::root().to_string(), ".");
        assert_eq!(DisplayName(b"\x03wWw\0").to_string(), "wWw.");
    }

    #[test]
    fn escapes_are_decimal_rfc_1035_section_5_1() {
        let name = Name::parse(r"a\.b.\065\255\\.\@x").unwrap();
        assert_eq!(name.as_wire(), b"\x03a.b\x03a\xff\\\x02@x\0");
        assert_eq!(name.to_string(), r"a\.b.a\255\\.\@x.");
        for text in [r"\", r"a\", r"\25", r"\2x5", r"\256", r"\999"] {
            assert_eq!(Name::parse(text), Err(NameError::Escape), "{text}");
        }
    }

    #[test]
    fn what_is_no_name() {
        assert_eq!(Name::parse(""), Err(NameError::Empty));
        for text in ["..", ".a", "a..b", "a.."] {
            assert_eq!(Name::parse(text), Err(NameError::EmptyLabel), "{text}");
        }
        assert_eq!(Name::parse("a b"), Err(NameError::Character { character: ' ' }));
        assert_eq!(Name::parse("a\tb"), Err(NameError::Character { character: '\t' }));
    }

    #[test]
    fn lengths_are_bounded_rfc_1035_section_2_3_4() {
        let label = "a".repeat(63);
        assert!(Name::parse(&label).is_ok());
        assert_eq!(Name::parse(&"a".repeat(64)), Err(NameError::LabelTooLong { octets: 64 }));
        let longest = [&label[..], &label, &label, &"a".repeat(61)].join(".");
        assert_eq!(Name::parse(&longest).unwrap().as_wire().len(), 255);
        let longer = [&label[..], &label, &label, &"a".repeat(62)].join(".");
        assert_eq!(Name::parse(&longer), Err(NameError::TooLong { octets: 256 }));
    }

    #[test]
    fn international_labels_become_a_labels() {
        assert_eq!(Name::parse("Bücher.example").unwrap().to_string(), "xn--bcher-kva.example.");
        assert_eq!(
            Name::parse("пример.испытание").unwrap().to_string(),
            "xn--e1afmkfd.xn--80akhbyknj4f."
        );
        // An ideographic full stop maps to a dot, which would end up within a label.
        for text in ["例。jp", "\u{a0}", "ü!"] {
            assert!(matches!(Name::parse(text), Err(NameError::Idna { .. })), "{text}");
        }
    }

    #[test]
    fn wire_names_are_whole() {
        assert_eq!(Name::from_wire(b"\x01A\0"), Name::parse("a"));
        for octets in [&b""[..], b"\x01a", b"\x01a\0\0", b"\xc0\x00", b"\x40\0"] {
            assert_eq!(Name::from_wire(octets), Err(NameError::Wire), "{octets:?}");
        }
    }

    #[test]
    fn suffixes_end_at_labels() {
        let all: Vec<_> = suffixes(b"\x01a\x02bc\0").collect();
        assert_eq!(all, [&b"\x01a\x02bc\0"[..], b"\x02bc\0", b"\0"]);
        assert_eq!(suffixes(b"\0").count(), 1);
        assert_eq!(suffixes(b"").count(), 0);
        assert_eq!(suffixes(b"\x05ab").count(), 1, "no panic on what is no name");
    }

    fn labels_strategy() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=63), 0..4)
    }

    fn join(labels: &[Vec<u8>]) -> Vec<u8> {
        let mut wire = Vec::new();
        for label in labels {
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend_from_slice(label);
        }
        wire.push(0);
        wire
    }

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(labels in labels_strategy()) {
            let name = Name::from_wire(&join(&labels)).unwrap();
            let text = name.to_string();
            prop_assert!(text.is_ascii() && !text.contains(' '));
            prop_assert_eq!(Name::parse(&text), Ok(name.clone()));
            // Without the dot at the end, unless that is all there is.
            if text != "." {
                prop_assert_eq!(Name::parse(&text[..text.len() - 1]), Ok(name));
            }
        }

        #[test]
        fn there_is_a_suffix_per_label_and_the_root(labels in labels_strategy()) {
            let wire = join(&labels);
            let all: Vec<_> = suffixes(&wire).collect();
            prop_assert_eq!(all.len(), labels.len() + 1);
            for (depth, suffix) in all.iter().enumerate() {
                prop_assert_eq!(*suffix, &join(&labels[depth..])[..]);
            }
        }

        #[test]
        fn no_text_and_no_octets_panic(text in any::<String>(), octets in any::<Vec<u8>>()) {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::from_wire(name.as_wire()), Ok(name));
            }
            let _ = Name::from_wire(&octets);
            prop_assert!(DisplayName(&octets).to_string().ends_with('.'));
            prop_assert!(suffixes(&octets).count() <= octets.len());
        }
    }

    #[test]
    fn names_are_shown_for_developers_too() {
        let name = Name::parse("www.example").unwrap();
        assert_eq!(format!("{name:?}"), "Name(www.example.)");
        assert_eq!(format!("{:?}", DisplayName(name.as_wire())), "DisplayName(www.example.)");
    }
}
