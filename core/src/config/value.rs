//! What the configuration's script returned, taken out of the Lua VM: plain data, bounded in depth
//! and size.

use std::collections::BTreeMap;
use std::fmt;

use mlua::Value as Lua;

use super::error::{Path, Report};

/// Tables within tables.
const DEPTH: usize = 32;
/// Values in all. A table that is used in several places counts each time.
const VALUES: usize = 4_000_000;
/// Octets of all texts and keys together.
const TEXT_OCTETS: usize = 512 << 20;
/// Characters of a value shown in a message.
const SHOWN_CHARS: usize = 60;

/// A value of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// `true` or `false`.
    Boolean(bool),
    /// A number; never NaN.
    Number(f64),
    /// A text.
    Text(String),
    /// `{}`: a list or a map, whichever is expected.
    Empty,
    /// Entries without keys; not empty.
    List(Vec<Value>),
    /// Entries with keys; not empty.
    Map(BTreeMap<String, Value>),
    /// Something that cannot be in a configuration; this was reported.
    Invalid,
}

impl Value {
    /// Takes a value out of the VM; what cannot be in a configuration is reported.
    pub(super) fn from_lua(value: &Lua, report: &Report) -> Self {
        let mut taker = Taker { report, values: 0, octets: 0, full: false, above: Vec::new() };
        taker.take(value, &Path::default())
    }
}

/// As it would be written, shortened.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "{value}"),
            Self::Number(value) => write!(f, "{value}"),
            Self::Text(text) => match text.char_indices().nth(SHOWN_CHARS) {
                Some((end, _)) => write!(f, "{:?}...", text.split_at(end).0),
                None => write!(f, "{text:?}"),
            },
            Self::Empty => f.write_str("{}"),
            Self::List(list) => write!(f, "a list of {}", list.len()),
            Self::Map(map) => write!(f, "a table with {}", shown_keys(map)),
            Self::Invalid => f.write_str("no value"),
        }
    }
}

/// The first few keys of a table.
fn shown_keys(map: &BTreeMap<String, Value>) -> String {
    let shown: Vec<&str> = map.keys().map(String::as_str).take(3).collect();
    let more = if map.len() > shown.len() { ", ..." } else { "" };
    shown.join(", ") + more
}

/// One walk over what the script returned.
struct Taker<'r> {
    report: &'r Report,
    values: usize,
    octets: usize,
    /// A bound was reached and reported; nothing more is taken.
    full: bool,
    /// The tables that the current value is in, by address.
    above: Vec<*const std::ffi::c_void>,
}

impl Taker<'_> {
    fn take(&mut self, value: &Lua, path: &Path) -> Value {
        self.values += 1;
        if self.values > VALUES {
            self.fill(path, format!("the configuration has more than {VALUES} values"));
        }
        if self.full {
            return Value::Invalid;
        }
        match value {
            Lua::Boolean(value) => Value::Boolean(*value),
            #[expect(clippy::cast_precision_loss, reason = "numbers of Luau are f64 to begin with")]
            Lua::Integer(value) => Value::Number(*value as f64),
            Lua::Number(value) if value.is_nan() => self.invalid(path, "is not a number (NaN)"),
            Lua::Number(value) => Value::Number(*value),
            Lua::String(text) => match text.to_str() {
                Ok(text) => self.text(&text, path).map_or(Value::Invalid, Value::Text),
                Err(_) => self.invalid(path, "is a text that is not utf-8"),
            },
            Lua::Table(table) => self.table(table, path),
            // Not our enum: whatever else Luau has, now or later, is no configuration.
            other => self.invalid(path, &format!("is a {}", other.type_name())),
        }
    }

    fn table(&mut self, table: &mlua::Table, path: &Path) -> Value {
        let address = table.to_pointer();
        if self.above.contains(&address) {
            return self.invalid(path, "is a table that contains itself");
        }
        if self.above.len() == DEPTH {
            return self.invalid(path, &format!("is a table within {DEPTH} others"));
        }
        if table.metatable().is_some() {
            return self.invalid(path, "is a table with a metatable");
        }
        self.above.push(address);
        let value = self.entries(table, path);
        self.above.pop();
        value
    }

    fn entries(&mut self, table: &mlua::Table, path: &Path) -> Value {
        let mut list: Vec<(usize, Value)> = Vec::new();
        let mut map = BTreeMap::new();
        for pair in table.pairs::<Lua, Lua>() {
            if self.full {
                return Value::Invalid;
            }
            let Ok((key, value)) = pair else {
                return self.invalid(path, "is a table that cannot be read");
            };
            if let Some(index) = list_index(&key) {
                list.push((index, self.take(&value, &path.index(index))));
            } else if let Lua::String(key) = &key
                && let Ok(key) = key.to_str()
            {
                let below = path.key(&key);
                let value = self.take(&value, &below);
                if let Some(key) = self.text(&key, &below) {
                    map.insert(key, value);
                }
            } else {
                let kind = key.type_name();
                return self.invalid(path, &format!("has a key that is a {kind}"));
            }
        }
        match (list.is_empty(), map.is_empty()) {
            (true, true) => Value::Empty,
            (true, false) => Value::Map(map),
            (false, true) => self.list(list, path),
            (false, false) => self.invalid(path, "mixes list entries and keys"),
        }
    }

    /// A list has no gaps: `{ nil, "b" }` is a mistake, not a list of one.
    fn list(&mut self, mut entries: Vec<(usize, Value)>, path: &Path) -> Value {
        entries.sort_unstable_by_key(|(index, _)| *index);
        let gap = entries.iter().zip(1..).find(|((index, _), place)| index != place);
        if let Some(((index, _), _)) = gap {
            return self.invalid(path, &format!("is a list with a gap before entry {index}"));
        }
        Value::List(entries.into_iter().map(|(_, value)| value).collect())
    }

    fn text(&mut self, text: &str, path: &Path) -> Option<String> {
        self.octets = self.octets.saturating_add(text.len());
        if self.octets > TEXT_OCTETS {
            self.fill(
                path,
                format!("the configuration has more than {TEXT_OCTETS} octets of text"),
            );
        }
        (!self.full).then(|| text.to_owned())
    }

    fn fill(&mut self, path: &Path, message: String) {
        if !self.full {
            self.full = true;
            self.report.error(path, message, "");
        }
    }

    fn invalid(&self, path: &Path, message: &str) -> Value {
        const EXPECTED: &str = "numbers, texts, booleans, lists and tables with named keys";
        self.report.error(path, message.to_owned(), EXPECTED);
        Value::Invalid
    }
}

/// A whole number from 1 is a place in a list.
fn list_index(key: &Lua) -> Option<usize> {
    let index = key.as_i64().or_else(|| {
        let number = key.as_f64()?;
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and small")]
        (number.fract() == 0.0 && number.abs() < 1e15).then_some(number as i64)
    })?;
    usize::try_from(index).ok().filter(|index| *index > 0)
}
