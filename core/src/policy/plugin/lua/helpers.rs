//! The functions of `dns`: what policies ask of names and addresses, done right once.
//!
//! Names are compared label by label, in any letter case, with or without the dot at their end.
//! Whatever is no name, address or prefix is an error: a rule with a typing error should not just
//! never match.

use std::net::IpAddr;

use ipnet::IpNet;
use mlua::{Lua, LuaString, Table, Value};

use super::message::type_name;
use crate::policy::fold;
use crate::wire::{DisplayName, Name, suffixes};

/// Octets of a text that may be a name: the longest has four for each of its own.
const NAME_TEXT_OCTETS: usize = 1_020;

/// The table `dns`.
pub(super) fn table(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("below", lua.create_function(|_, arguments| below(arguments))?)?;
    table.raw_set("labels", lua.create_function(|_, name| labels(&name))?)?;
    table.raw_set("suffixes", lua.create_function(|_, name| parents(&name))?)?;
    table.raw_set("in_prefix", lua.create_function(|_, arguments| in_prefix(arguments))?)?;
    Ok(table)
}

/// Whether a name is another one or below it.
fn below((name, suffix): (Value, Value)) -> mlua::Result<bool> {
    let name = text("dns.below", "name", &name)?;
    let suffix = text("dns.below", "suffix", &suffix)?;
    let (name, suffix) = (name.as_bytes(), suffix.as_bytes());
    if is_plain(&name) && is_plain(&suffix) {
        return Ok(plain_below(&name, &suffix));
    }
    let (name, suffix) = (parse("dns.below", &name)?, parse("dns.below", &suffix)?);
    Ok(suffixes(name.as_wire()).any(|parent| parent == suffix.as_wire()))
}

/// The labels of a name from left to right, as they are written, in lower case.
fn labels(name: &Value) -> mlua::Result<Vec<String>> {
    let name = parse("dns.labels", &text("dns.labels", "name", name)?.as_bytes())?;
    let mut labels = Vec::new();
    for suffix in suffixes(name.as_wire()) {
        if let Some((&length @ 1.., rest)) = suffix.split_first() {
            let label = rest.get(..usize::from(length)).unwrap_or_default();
            let wire = [&[length][..], label, &[0]].concat();
            let mut shown = DisplayName(&wire).to_string();
            shown.pop();
            labels.push(shown);
        }
    }
    Ok(labels)
}

/// A name, the name above it, and so on to the root, in lower case and with the dot at the end: to
/// be looked up in a table.
fn parents(name: &Value) -> mlua::Result<Vec<String>> {
    let name = parse("dns.suffixes", &text("dns.suffixes", "name", name)?.as_bytes())?;
    Ok(suffixes(name.as_wire()).map(|suffix| DisplayName(suffix).to_string()).collect())
}

/// Whether an address is in a prefix, which may be an address too.
fn in_prefix((address, prefix): (Value, Value)) -> mlua::Result<bool> {
    if address.is_nil() {
        return Err(mlua::Error::runtime(
            "dns.in_prefix: the address is nil; question.client is not told while the cache stands \
             before lua_policy",
        ));
    }
    let address = text("dns.in_prefix", "address", &address)?;
    let prefix = text("dns.in_prefix", "prefix", &prefix)?;
    let (address, prefix) = (address.to_string_lossy(), prefix.to_string_lossy());
    let Ok(ip) = address.parse::<IpAddr>() else {
        return Err(mlua::Error::runtime(format!("dns.in_prefix: {address:?} is no IP address")));
    };
    let network = prefix.parse::<IpNet>().or_else(|_| prefix.parse::<IpAddr>().map(IpNet::from));
    let Ok(network) = network else {
        return Err(mlua::Error::runtime(format!("dns.in_prefix: {prefix:?} is no prefix")));
    };
    Ok(network.contains(&ip) || network.contains(&fold(ip)))
}

/// An argument that has to be a text.
fn text(function: &str, argument: &str, value: &Value) -> mlua::Result<LuaString> {
    let Value::String(text) = value else {
        let kind = type_name(value);
        return Err(mlua::Error::runtime(format!(
            "{function}: the {argument} is {kind} instead of a text"
        )));
    };
    if text.as_bytes().len() > NAME_TEXT_OCTETS {
        return Err(mlua::Error::runtime(format!("{function}: the {argument} is too long")));
    }
    Ok(text.clone())
}

fn parse(function: &str, text: &[u8]) -> mlua::Result<Name> {
    let fail = |error: &dyn std::fmt::Display| {
        let text = String::from_utf8_lossy(text);
        mlua::Error::runtime(format!("{function}: {text:?}: {error}"))
    };
    let text = std::str::from_utf8(text).map_err(|error| fail(&error))?;
    Name::parse(text).map_err(|error| fail(&error))
}

/// Whether a text is certainly a name, and written without escapes: its octets can be compared.
fn is_plain(text: &[u8]) -> bool {
    let mut label = 0;
    for &octet in text {
        label = match octet {
            b'.' if label == 0 => return false,
            b'.' => 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label + 1,
            _ => return false,
        };
        if label > 63 {
            return false;
        }
    }
    (1..=253).contains(&text.len())
}

fn plain_below(name: &[u8], suffix: &[u8]) -> bool {
    let name = name.strip_suffix(b".").unwrap_or(name);
    let suffix = suffix.strip_suffix(b".").unwrap_or(suffix);
    let Some(start) = name.len().checked_sub(suffix.len()) else { return false };
    let (above, tail) = name.split_at(start);
    tail.eq_ignore_ascii_case(suffix) && (above.is_empty() || above.ends_with(b"."))
}
