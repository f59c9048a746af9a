//! Configurations: whatever the text, loading ends, and says one clear line per mistake; what loads,
//! an engine can be made from.

use std::sync::Arc;

use arbitrary::{Result, Unstructured};
use balancedns_core::config::{ConfigErrors, Loaded, Source, Stage, load};
use balancedns_core::limits::UPSTREAMS;
use balancedns_core::wire::Name;
use bytes::Bytes;

use super::setup::{Memory, START, address, assert_drains, from_client, machine};
use crate::machine::{Input, Output};

/// Marks input that edits a shipped configuration. No text in UTF-8 begins like that.
const EDITED: u8 = 0xff;
/// Longer than any configuration of this project.
const TEXT_OCTETS: usize = 20_000;
/// Readings of the clock that both runs of a script may take: each has 30 seconds, and each reading
/// takes half a one.
const READINGS: u64 = 2 * (60 + 2);

const SHIPPED: [&str; 12] = [
    include_str!("../../../configs/acl.lua"),
    include_str!("../../../configs/blocking.lua"),
    include_str!("../../../configs/blocklists.lua"),
    include_str!("../../../configs/cache.lua"),
    include_str!("../../../configs/default.lua"),
    include_str!("../../../configs/groups.lua"),
    include_str!("../../../configs/hosts.lua"),
    include_str!("../../../configs/local_records.lua"),
    include_str!("../../../configs/named.lua"),
    include_str!("../../../configs/policies.lua"),
    include_str!("../../../configs/prod.lua"),
    include_str!("../../../configs/zones.lua"),
];

/// What edits put in: values at and beyond every bound, keys, and functions.
const TOKENS: [&str; 48] = [
    "nil",
    "true",
    "0",
    "-1",
    "1",
    "0.5",
    "65535",
    "65536",
    "1e9",
    "1e308",
    "0/0",
    "math.huge",
    "2^53",
    "\"\"",
    "\"0\"",
    "\"off\"",
    "\":0\"",
    "\":53\"",
    "\"[::1]:53\"",
    "\"::\"",
    "\"0.0.0.0:1\"",
    "\"192.0.2.1\"",
    "\"a..b\"",
    "\"*.\"",
    "\".\"",
    "\"xn--a\"",
    "\"\\255\"",
    "\"\\0\"",
    "{}",
    "{1}",
    "{{}}",
    "{a=1}",
    "[\"\"]=1,",
    "[1e9]=1,",
    "function() end",
    "setmetatable({},{})",
    "env(\"EMPTY\")",
    "env(\"ADDRESS\")",
    "include(\"part.lua\")",
    "include(\"circle.lua\")",
    "error({})",
    "warn(1)",
    "system_resolvers()",
    "zones=",
    "addr=",
    "protocol=\"tcp\",",
    "max_in_flight=1,",
    "bootstrap={},",
];

/// `data` is the text of a configuration, or choices of edits of one of those that are shipped.
///
/// # Panics
/// If a property is broken.
pub fn config(data: &[u8]) {
    let text = match data.split_first() {
        Some((&EDITED, choices)) => match edited(&mut Unstructured::new(choices)) {
            Ok(text) => text,
            Err(_) => return,
        },
        _ => String::from_utf8_lossy(data).into_owned(),
    };
    if text.len() > TEXT_OCTETS {
        return;
    }
    let host = Memory::default();
    let source = Source { name: "fuzz.lua".into(), folder: String::new(), text };
    let loaded = load(&source, &host);
    assert!(host.readings() <= READINGS, "{} readings of the clock", host.readings());
    match loaded {
        Ok(loaded) => {
            assert_snapshot(&loaded);
            assert_runs(loaded);
        }
        Err(errors) => assert_errors(&errors),
    }
}

/// A shipped configuration after a few edits of its words.
fn edited(u: &mut Unstructured<'_>) -> Result<String> {
    let mut words: Vec<&str> =
        u.choose(&SHIPPED)?.split_inclusive([' ', '\n', ',', '{', '}']).collect();
    for _ in 0..u.int_in_range(1..=6)? {
        let at = u.choose_index(words.len())?;
        match u.int_in_range(0..=4)? {
            0 => words[at] = *u.choose(&TOKENS)?,
            1 => words.insert(at, *u.choose(&TOKENS)?),
            2 => drop(words.remove(at)),
            3 => words.insert(at, words[u.choose_index(words.len())?]),
            _ => {
                let other = u.choose_index(words.len())?;
                words.swap(at, other);
            }
        }
    }
    Ok(words.concat())
}

/// Operators get one line per mistake that says where and what.
fn assert_errors(errors: &ConfigErrors) {
    let mut previous = (String::new(), None);
    assert!(errors.iter().next().is_some(), "a failure has a cause");
    for error in errors {
        assert!(!error.message.is_empty(), "{error:?}");
        // A value that is wrong has one that would be right; a bound says so itself.
        let is_bound = error.message.contains("more than");
        assert!(error.path.is_empty() || is_bound || !error.expected.is_empty(), "{error:?}");
        assert!(!error.file.is_empty(), "{error:?}");
        let line = error.to_string();
        assert!(!line.contains(char::is_control), "not one clear line: {line:?}");
        let place = (error.file.clone(), error.line);
        assert!(previous <= place, "not in order: {errors:?}");
        previous = place;
    }
}

/// What reads a snapshot does not check again.
fn assert_snapshot(loaded: &Loaded) {
    let snapshot = &loaded.snapshot;
    assert!(loaded.warnings.iter().all(|warning| !warning.message.is_empty()));
    assert!(!snapshot.listen.sockets.is_empty());
    assert!((512..).contains(&snapshot.listen.udp_size));
    assert!((1..=UPSTREAMS).contains(&snapshot.upstreams.len()));
    for (index, upstream) in snapshot.upstreams.iter().enumerate() {
        let others = &snapshot.upstreams[..index];
        assert!(others.iter().all(|other| other.name != upstream.name), "{}", upstream.name);
        assert!(!upstream.timeout.is_zero() && upstream.max_in_flight > 0);
    }
    let last = snapshot.chain.iter().position(|stage| *stage == Stage::Upstream);
    assert!(last.is_none_or(|last| last == snapshot.chain.len() - 1));
    assert!(!snapshot.routing.deadline.is_zero() && snapshot.routing.attempts_max > 0);
    let ttl = &snapshot.cache.ttl;
    assert!(ttl.min_seconds <= ttl.max_seconds);
}

/// An engine takes a question, the same configuration again, and the end.
fn assert_runs(loaded: Loaded) {
    let snapshot = Arc::new(loaded.snapshot);
    let mut machine = machine(&snapshot);
    let (mut now, mut outputs) = (START, Vec::new());
    machine.drain(now, &mut outputs);
    let name = Name::parse("www.example").expect("it is a name");
    let query = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name.as_wire(), &[0, 1, 0, 1]].concat();
    let query = from_client(address("127.0.0.1:4000"), Bytes::from(query));
    machine.feed(now, query, &mut outputs);
    machine.feed(now, Input::Reload(Arc::clone(&snapshot)), &mut outputs);
    outputs.extend(assert_drains(&mut machine, &mut now));
    let replies = outputs.iter().filter(|output| matches!(output, Output::Reply { .. })).count();
    assert_eq!(replies, 1);
}
