//! A plugin's result to a verdict: one decoder for scripts and executables.
//!
//! Whoever reads a result hands it over as a [`Field`]; what it means is decided here alone. A
//! result is taken whole or not at all: what is unknown, missing, out of bounds or does not go with
//! the action is an error, so that no mistake becomes "forward".

mod json;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use json::{decode_json, decode_line, question_json};

use super::{Choice, PolicyAction, PolicyError, PolicyVerdict, TtlLimits};
use crate::wire::{Name, RecordType};

/// Seconds of an answer's TTL if the plugin names none.
const TTL_DEFAULT: u32 = 60;
/// The largest TTL (RFC 2181 section 8).
const TTL_MAX: u32 = 0x7fff_ffff;
/// Addresses of one answer: as many as a hosts file may have of one family.
const ADDRESSES: usize = 64;
/// Characters of an error.
const PROBLEM_CHARS: usize = 256;
/// Characters of a plugin's own text that are repeated in an error.
const SHOWN_CHARS: usize = 64;
/// How alike a known word must be to be proposed for an unknown one, from 0 to 1.
const SIMILAR: f64 = 0.7;

/// What a result may have.
const RESULT: [&str; 8] = [
    "action",
    "rewrite_domain",
    "rewrite_type",
    "local_data",
    "upstream",
    "pool",
    "min_ttl",
    "max_ttl",
];
/// What its `local_data` may have.
const LOCAL_DATA: [&str; 3] = ["ttl", "ip", "ips"];

/// The actions by name; `TC` is a short form.
const ACTIONS: [(&str, ActionName); 7] = [
    ("FORWARD", ActionName::Forward),
    ("BLOCK", ActionName::Block),
    ("REWRITE", ActionName::Rewrite),
    ("LOCAL_DATA", ActionName::LocalData),
    ("DROP", ActionName::Drop),
    ("TRUNCATE", ActionName::Truncate),
    ("TC", ActionName::Truncate),
];

/// A value of a result, whoever gave it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Field {
    /// `nil` or `null`: as if it were not there.
    Nothing,
    /// A text.
    Text(String),
    /// A whole number, exactly.
    Whole(u64),
    /// Any other number.
    Number(f64),
    /// Values in their order.
    List(Vec<Self>),
    /// Values by name in the order they came in, with those that came twice.
    Object(Vec<(String, Self)>),
    /// Nothing that any result has; in words.
    Other(&'static str),
}

impl Field {
    /// What it is, in words.
    fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Text(_) => "a text",
            Self::Whole(_) | Self::Number(_) => "a number",
            Self::List(_) => "a list",
            Self::Object(_) => "a table",
            Self::Other(kind) => kind,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Text(text) => text.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Object(entries) => entries.is_empty(),
            Self::Whole(_) | Self::Number(_) | Self::Other(_) => false,
        }
    }
}

/// The verdict that a result says.
///
/// # Errors
/// It says none.
pub(super) fn verdict(result: &Field) -> Result<PolicyVerdict, PolicyError> {
    match result {
        Field::Text(action) => of_action(action, Fields::default()),
        Field::Object(entries) => {
            let mut fields = Fields::read(entries, &RESULT)?;
            let action = fields.take("action").ok_or_else(|| problem("action is missing"))?;
            let action = text(action, "action")?;
            of_action(action, fields)
        }
        Field::Nothing | Field::Whole(_) | Field::Number(_) | Field::List(_) | Field::Other(_) => {
            Err(problem(&format!(
                "{} instead of an action's name or a table with an action",
                result.kind()
            )))
        }
    }
}

/// What a plugin may want, before what belongs to it is read.
#[derive(Debug, Clone, Copy)]
enum ActionName {
    Forward,
    Block,
    Rewrite,
    LocalData,
    Drop,
    Truncate,
}

/// The verdict of an action and what stands beside it.
fn of_action(action: &str, mut fields: Fields<'_>) -> Result<PolicyVerdict, PolicyError> {
    let name = action_name(action)?;
    let action = match name {
        ActionName::Forward => PolicyAction::Forward,
        ActionName::Block => PolicyAction::Block,
        ActionName::Rewrite => rewrite(&mut fields)?,
        ActionName::LocalData => local_data(&mut fields)?,
        ActionName::Drop => PolicyAction::Drop,
        ActionName::Truncate => PolicyAction::Truncate,
    };
    let mut verdict = PolicyVerdict { action, ..PolicyVerdict::default() };
    match verdict.action {
        PolicyAction::Forward | PolicyAction::Rewrite { .. } => {
            verdict.choice = choice(&mut fields)?;
            verdict.ttl = ttl_limits(&mut fields)?;
        }
        PolicyAction::Block
        | PolicyAction::LocalData { .. }
        | PolicyAction::Drop
        | PolicyAction::Truncate => {}
    }
    fields.finish(action_text(name))?;
    Ok(verdict)
}

fn action_name(text: &str) -> Result<ActionName, PolicyError> {
    let known = ACTIONS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    known.map(|(_, action)| *action).ok_or_else(|| {
        let names = ACTIONS.iter().map(|(name, _)| *name);
        let hint = hint(&text.to_ascii_uppercase(), names);
        problem(&format!("{} is no action{hint}", shown(text)))
    })
}

fn action_text(action: ActionName) -> &'static str {
    match action {
        ActionName::Forward => "FORWARD",
        ActionName::Block => "BLOCK",
        ActionName::Rewrite => "REWRITE",
        ActionName::LocalData => "LOCAL_DATA",
        ActionName::Drop => "DROP",
        ActionName::Truncate => "TRUNCATE",
    }
}

fn rewrite(fields: &mut Fields<'_>) -> Result<PolicyAction, PolicyError> {
    let domain = fields.take("rewrite_domain");
    let domain = domain.ok_or_else(|| problem("rewrite_domain is missing"))?;
    let domain = text(domain, "rewrite_domain")?;
    let name = Name::parse(domain)
        .map_err(|error| problem(&format!("rewrite_domain {}: {error}", shown(domain))))?;
    let record_type = fields.take("rewrite_type").map(record_type).transpose()?;
    Ok(PolicyAction::Rewrite { name, record_type })
}

fn record_type(field: &Field) -> Result<RecordType, PolicyError> {
    let found = match field {
        Field::Text(name) => RecordType::from_name(name).filter(|found| found.0 > 0),
        Field::Whole(_) | Field::Number(_) => {
            let number = whole(field, 1, u32::from(u16::MAX));
            number.and_then(|number| u16::try_from(number).ok()).map(RecordType)
        }
        Field::Nothing | Field::List(_) | Field::Object(_) | Field::Other(_) => None,
    };
    found.ok_or_else(|| {
        let given = match field {
            Field::Text(name) => shown(name),
            Field::Nothing
            | Field::Whole(_)
            | Field::Number(_)
            | Field::List(_)
            | Field::Object(_)
            | Field::Other(_) => field.kind().to_owned(),
        };
        problem(&format!("rewrite_type is {given} instead of a type's name or 1 to 65535"))
    })
}

fn local_data(fields: &mut Fields<'_>) -> Result<PolicyAction, PolicyError> {
    let data = fields.take("local_data").ok_or_else(|| problem("local_data is missing"))?;
    let Field::Object(entries) = data else {
        return Err(wrong("local_data", data, "a table with ip or ips"));
    };
    let mut fields = Fields::read(entries, &LOCAL_DATA)?;
    let ttl = fields.take("ttl").map(|field| ttl(field, "ttl")).transpose()?;
    let mut addresses = Vec::new();
    if let Some(field) = fields.take("ip") {
        addresses.push(address(field, "ip")?);
    }
    match fields.take("ips") {
        None => {}
        Some(Field::List(list)) => {
            if list.len() > ADDRESSES {
                let count = list.len();
                return Err(problem(&format!(
                    "ips has {count} addresses, the limit is {ADDRESSES}"
                )));
            }
            for field in list {
                addresses.push(address(field, "ips")?);
            }
        }
        Some(
            field @ (Field::Nothing
            | Field::Text(_)
            | Field::Whole(_)
            | Field::Number(_)
            | Field::Object(_)
            | Field::Other(_)),
        ) => return Err(wrong("ips", field, "a list of addresses")),
    }
    if addresses.is_empty() {
        return Err(problem("local_data has no address in ip or ips"));
    }
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for address in addresses {
        // Records of a set differ (RFC 2181 section 5).
        match address {
            IpAddr::V4(ip) if !v4.contains(&ip) => v4.push(ip),
            IpAddr::V6(ip) if !v6.contains(&ip) => v6.push(ip),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }
    Ok(PolicyAction::LocalData { ttl: ttl.unwrap_or(TTL_DEFAULT), v4, v6 })
}

fn address(field: &Field, name: &str) -> Result<IpAddr, PolicyError> {
    let text = text(field, name)?;
    text.parse().map_err(|_| problem(&format!("{name}: {} is no IP address", shown(text))))
}

fn choice(fields: &mut Fields<'_>) -> Result<Option<Choice>, PolicyError> {
    let mut name = |key| fields.take(key).map(|field| chosen_name(field, key)).transpose();
    match (name("upstream")?, name("pool")?) {
        (Some(_), Some(_)) => Err(problem("upstream and pool stand beside each other")),
        (Some(upstream), None) => Ok(Some(Choice::Upstream(upstream))),
        (None, Some(pool)) => Ok(Some(Choice::Pool(pool))),
        (None, None) => Ok(None),
    }
}

fn chosen_name(field: &Field, name: &str) -> Result<Box<str>, PolicyError> {
    match text(field, name)? {
        "" => Err(problem(&format!("{name} is empty"))),
        text => Ok(text.into()),
    }
}

fn ttl_limits(fields: &mut Fields<'_>) -> Result<TtlLimits, PolicyError> {
    let none = TtlLimits::default();
    let mut bound = |key, default| match fields.take(key) {
        Some(field) => ttl(field, key),
        None => Ok(default),
    };
    let limits = TtlLimits { min: bound("min_ttl", none.min)?, max: bound("max_ttl", none.max)? };
    if limits.min > limits.max {
        let TtlLimits { min, max } = limits;
        return Err(problem(&format!("min_ttl {min} is more than max_ttl {max}")));
    }
    Ok(limits)
}

fn ttl(field: &Field, name: &str) -> Result<u32, PolicyError> {
    whole(field, 0, TTL_MAX).ok_or_else(|| {
        problem(&format!("{name} is {} instead of 0 to {TTL_MAX} seconds", number_text(field)))
    })
}

/// A whole number within bounds.
fn whole(field: &Field, min: u32, max: u32) -> Option<u32> {
    let number = match *field {
        Field::Whole(number) => u32::try_from(number).ok()?,
        Field::Number(number) if number.fract() == 0.0 && number >= 0.0 => {
            #[expect(clippy::cast_possible_truncation, reason = "a float cast saturates")]
            #[expect(clippy::cast_sign_loss, reason = "checked to be positive")]
            let number = number as u64;
            u32::try_from(number).ok()?
        }
        Field::Number(_)
        | Field::Nothing
        | Field::Text(_)
        | Field::List(_)
        | Field::Object(_)
        | Field::Other(_) => return None,
    };
    (min..=max).contains(&number).then_some(number)
}

fn number_text(field: &Field) -> String {
    match field {
        Field::Whole(number) => number.to_string(),
        Field::Number(number) => number.to_string(),
        Field::Nothing | Field::Text(_) | Field::List(_) | Field::Object(_) | Field::Other(_) => {
            field.kind().to_owned()
        }
    }
}

fn text<'f>(field: &'f Field, name: &str) -> Result<&'f str, PolicyError> {
    match field {
        Field::Text(text) => Ok(text),
        Field::Nothing
        | Field::Whole(_)
        | Field::Number(_)
        | Field::List(_)
        | Field::Object(_)
        | Field::Other(_) => Err(wrong(name, field, "a text")),
    }
}

/// The values of an object that were not read yet.
#[derive(Default)]
struct Fields<'f>(Vec<(&'f str, &'f Field)>);

impl<'f> Fields<'f> {
    /// Each may be there once, and must be known. What is empty is left out: executables tend to
    /// write every field that they have.
    fn read(entries: &'f [(String, Field)], known: &[&str]) -> Result<Self, PolicyError> {
        let mut fields = Vec::new();
        let mut seen = Vec::new();
        for (name, field) in entries {
            if !known.contains(&name.as_str()) {
                let hint = hint(&name.to_ascii_lowercase(), known.iter().copied());
                return Err(problem(&format!("{} is no field of it{hint}", shown(name))));
            }
            if seen.contains(&name) {
                return Err(problem(&format!("{name} is there twice")));
            }
            seen.push(name);
            if !field.is_empty() {
                fields.push((name.as_str(), field));
            }
        }
        Ok(Self(fields))
    }

    fn take(&mut self, name: &str) -> Option<&'f Field> {
        let at = self.0.iter().position(|(other, _)| *other == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Nothing may be left.
    fn finish(self, action: &str) -> Result<(), PolicyError> {
        match self.0.first() {
            Some((name, _)) => Err(problem(&format!("{name} does not go with {action}"))),
            None => Ok(()),
        }
    }
}

fn wrong(name: &str, field: &Field, expected: &str) -> PolicyError {
    problem(&format!("{name} is {} instead of {expected}", field.kind()))
}

/// An error, of bounded length whatever it repeats.
fn problem(text: &str) -> PolicyError {
    PolicyError::Result(text.chars().take(PROBLEM_CHARS).collect())
}

/// A plugin's own text in an error: short, and on one line.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(SHOWN_CHARS).collect();
    let rest = if start.len() < text.len() { "..." } else { "" };
    format!("{start:?}{rest}")
}

/// The known word that was probably meant.
fn hint<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> String {
    // Comparing takes time in proportion to both lengths.
    let word: String = word.chars().take(SHOWN_CHARS).collect();
    known
        .map(|known| (strsim::jaro_winkler(&word, known), known))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, known)| format!(" (did you mean {known}?)"))
        .unwrap_or_default()
}
