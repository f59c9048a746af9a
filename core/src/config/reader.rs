//! Reads typed values out of the configuration's table. Whatever is wrong is reported, and the
//! default goes in its place, so that one reading finds every mistake.
//!
//! A [`Section`] remembers the keys it was asked for; what else is there is unknown.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::error::{Path, Report};
use super::value::Value;
use crate::time::Duration;

/// How alike a known key must be to be proposed for an unknown one, from 0 to 1.
const SIMILAR: f64 = 0.7;

/// A table whose keys have fixed names.
pub(super) struct Section<'v> {
    path: Path,
    entries: Option<&'v BTreeMap<String, Value>>,
    known: Vec<&'static str>,
    pub(super) report: &'v Report,
}

/// A value that is there, with its path.
#[derive(Clone)]
pub(super) struct Item<'v> {
    pub(super) path: Path,
    pub(super) value: &'v Value,
    pub(super) report: &'v Report,
}

impl<'v> Section<'v> {
    /// The section at the top.
    pub(super) fn top(value: &'v Value, report: &'v Report) -> Self {
        Item { path: Path::default(), value, report }.section()
    }

    /// A value, if it is there.
    pub(super) fn item(&mut self, key: &'static str) -> Option<Item<'v>> {
        self.known.push(key);
        let value = self.entries?.get(key)?;
        Some(Item { path: self.path.key(key), value, report: self.report })
    }

    /// A value, or an error that it is missing.
    pub(super) fn required(&mut self, key: &'static str, expected: &str) -> Option<Item<'v>> {
        let item = self.item(key);
        if item.is_none() {
            self.report.error(&self.path.key(key), "is missing".to_owned(), expected);
        }
        item
    }

    /// A table within this one; empty if it is not there.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'v> {
        match self.item(key) {
            Some(item) => item.section(),
            None => Section {
                path: self.path.key(key),
                entries: None,
                known: Vec::new(),
                report: self.report,
            },
        }
    }

    /// The entries of a list; none if it is not there.
    pub(super) fn list(&mut self, key: &'static str, of: &str) -> Vec<Item<'v>> {
        self.item(key).map(|item| item.list(of)).unwrap_or_default()
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.item(key).and_then(|item| item.boolean()).unwrap_or(default)
    }

    /// A whole number within bounds.
    pub(super) fn integer<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: T,
    ) -> T {
        self.item(key).and_then(|item| item.integer(range)).unwrap_or(default)
    }

    /// A whole number of milliseconds within bounds.
    pub(super) fn millis(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Duration {
        Duration::from_millis(self.integer(key, range, default))
    }

    /// One of some words, in any letter case.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        default: T,
    ) -> T {
        self.item(key).and_then(|item| item.choice(words)).unwrap_or(default)
    }

    /// Reports an error of one of this section's keys.
    pub(super) fn error(&self, key: &str, message: String, expected: &str) {
        self.report.error(&self.path.key(key), message, expected);
    }

    /// Reports a warning about one of this section's keys.
    pub(super) fn warning(&self, key: &str, message: &str) {
        self.report.warning(&self.path.key(key), message.to_owned());
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        let unknown = self.entries.into_iter().flat_map(BTreeMap::keys);
        for key in unknown.filter(|key| !self.known.contains(&key.as_str())) {
            let expected = match most_similar(key, self.known.iter().copied()) {
                Some(known) => format!("another key: did you mean {known:?}?"),
                None => "a known key".to_owned(),
            };
            self.report.error(&self.path.key(key), "is not a known key".to_owned(), &expected);
        }
    }
}

impl<'v> Item<'v> {
    /// The value as a table with fixed keys.
    pub(super) fn section(self) -> Section<'v> {
        let entries = match self.value {
            Value::Map(entries) => Some(entries),
            Value::Empty => None,
            _ => self.wrong("a table"),
        };
        Section { path: self.path, entries, known: Vec::new(), report: self.report }
    }

    /// The value as a list.
    pub(super) fn list(&self, of: &str) -> Vec<Item<'v>> {
        match self.value {
            Value::List(values) => {
                let item = |(index, value): (usize, &'v Value)| Item {
                    path: self.path.index(index + 1),
                    value,
                    report: self.report,
                };
                values.iter().enumerate().map(item).collect()
            }
            Value::Empty => Vec::new(),
            _ => {
                self.error("is wrong", &format!("a list of {of}"));
                Vec::new()
            }
        }
    }

    /// The value as `true` or `false`.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Boolean(value) => Some(*value),
            _ => self.wrong("true or false"),
        }
    }

    /// The value as a whole number within bounds; `2000.0` is one.
    pub(super) fn integer<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Option<T> {
        let number = match self.value {
            Value::Number(number) if number.fract() == 0.0 && *number >= 0.0 =>
            {
                #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates")]
                #[expect(clippy::cast_sign_loss, reason = "checked to be positive")]
                Some(*number as u64)
            }
            _ => None,
        };
        match number.filter(|number| range.contains(number)) {
            Some(number) => {
                Some(T::try_from(number).ok().expect("the range fits the type it is read into"))
            }
            None => {
                let (first, last) = range.into_inner();
                self.wrong(&format!("a whole number from {first} to {last}"))
            }
        }
    }

    /// The value as a number within bounds.
    pub(super) fn number(&self, range: RangeInclusive<f64>) -> Option<f64> {
        match self.value {
            Value::Number(number) if range.contains(number) => Some(*number),
            _ => self.wrong(&format!("a number from {} to {}", range.start(), range.end())),
        }
    }

    /// The value as a text.
    pub(super) fn text(&self) -> Option<&'v str> {
        match self.value {
            Value::Text(text) => Some(text),
            _ => self.wrong("a text"),
        }
    }

    /// The value as a text that is not empty.
    pub(super) fn word(&self, expected: &str) -> Option<&'v str> {
        match self.value {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => self.wrong(expected),
        }
    }

    /// The value as one of some words, in any letter case.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let list = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let Value::Text(text) = self.value else {
            return self.wrong(&format!("one of {}", list()));
        };
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        if let Some((_, meaning)) = found {
            return Some(*meaning);
        }
        let similar = most_similar(text, words.iter().map(|(word, _)| *word));
        let hint = similar.map(|word| format!(" (did you mean {word:?}?)")).unwrap_or_default();
        self.wrong(&format!("one of {}{hint}", list()))
    }

    /// Whether the value switches something off: `false`, `{}` or an empty text.
    pub(super) fn is_off(&self) -> bool {
        match self.value {
            Value::Boolean(on) => !on,
            Value::Empty => true,
            Value::Text(text) => text.is_empty(),
            Value::Number(_) | Value::List(_) | Value::Map(_) | Value::Invalid => false,
        }
    }

    /// Reports that the value asks for something that this build does not have.
    pub(super) fn unavailable(&self, expected: &str) {
        self.error("is not available in this build", expected);
    }

    /// Reports an error: the value, what is wrong with it, what is expected.
    pub(super) fn error(&self, message: &str, expected: &str) {
        // What cannot be in a configuration at all has been reported already.
        if *self.value != Value::Invalid {
            self.report.error(&self.path, format!("{} {message}", self.value), expected);
        }
    }

    /// Reports a name that is none of those that are known.
    pub(super) fn unknown<'w, T>(
        &self,
        message: &str,
        expected: &str,
        known: impl Iterator<Item = &'w str>,
    ) -> Option<T> {
        let similar = match self.value {
            Value::Text(name) => most_similar(name, known),
            _ => None,
        };
        let hint = similar.map(|word| format!(" (did you mean {word:?}?)")).unwrap_or_default();
        self.wrong_because(message, &format!("{expected}{hint}"))
    }

    /// Reports a warning about the value.
    pub(super) fn warning(&self, message: &str) {
        self.report.warning(&self.path, format!("{} {message}", self.value));
    }

    /// Reports that the value is not what is expected.
    pub(super) fn wrong<T>(&self, expected: &str) -> Option<T> {
        self.wrong_because("is wrong", expected)
    }

    /// Reports what is wrong with a value that is then not used.
    pub(super) fn wrong_because<T>(&self, message: &str, expected: &str) -> Option<T> {
        self.error(message, expected);
        None
    }
}

/// The known word that was probably meant.
pub(super) fn most_similar<'w>(
    word: &str,
    known: impl Iterator<Item = &'w str>,
) -> Option<&'w str> {
    let word = word.to_ascii_lowercase();
    known
        .map(|known| (strsim::jaro_winkler(&word, known), known))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(value: &Value, read: impl Fn(&Item<'_>)) -> Vec<String> {
        let report = Report::default();
        read(&Item { path: Path::default().key("key"), value, report: &report });
        let (errors, _) = report.into_parts();
        errors.into_iter().map(|error| format!("{}; {}", error.message, error.expected)).collect()
    }

    #[test]
    fn whole_numbers_may_be_written_as_floats() {
        let report = Report::default();
        let read = |number: f64| {
            let value = Value::Number(number);
            let item = Item { path: Path::default(), value: &value, report: &report };
            item.integer::<u16>(1..=65_535)
        };
        assert_eq!(
            (read(1.0), read(2_000.0), read(65_535.0)),
            (Some(1), Some(2_000), Some(65_535))
        );
        for wrong in [0.0, -1.0, 2_000.5, 65_536.0, 1e300, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(report.into_parts().0.len(), 7);
    }

    #[test]
    fn what_was_reported_is_not_reported_again() {
        assert!(errors(&Value::Invalid, |item| _ = item.text()).is_empty());
        assert_eq!(
            errors(&Value::Boolean(true), |item| _ = item.text()),
            ["true is wrong; a text"]
        );
    }

    #[test]
    fn similar_words_are_proposed() {
        let known = || ["blacklist", "hosts", "cache"].into_iter();
        assert_eq!(most_similar("blaklist", known()), Some("blacklist"));
        assert_eq!(most_similar("Hosts", known()), Some("hosts"));
        assert_eq!(most_similar("zzz", known()), None);
    }
}
