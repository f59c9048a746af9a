//! `blacklist`, at the top and of groups: which names are blocked, and how that is answered.
//!
//! A list that several sets have is read once ([`Lists`]). The content of files and URLs comes from the
//! host; what may replace it later is found in the sets themselves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::super::Host;
use super::super::reader::{Item, Section};
use super::super::snapshot::ListCache;
use super::super::vm::resolve;
use super::encrypted::split_url;
use super::settings::TTL;
use crate::policy::{BlockMode, BlockPatternError, BlockSet, Blocklist, ListSource, NameList};
use crate::time::Duration;

const PATTERN: &str = "a name, or *.name or .name for all names below it";
const URL: &str = "an https url";
/// Addresses of one family that blocked names may be given.
const ADDRESSES: usize = 16;
/// How old a fetched list may become: from a second to a year.
const REFRESH_SECONDS: std::ops::RangeInclusive<u64> = 1..=31_536_000;

/// The lists of a configuration, each read once.
pub(super) struct Lists<'h> {
    host: &'h dyn Host,
    folder: &'h str,
    read: BTreeMap<ListSource, Arc<NameList>>,
}

/// The words for [`BlockMode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Refused,
    NxDomain,
    NoData,
    Zero,
    Addresses,
}

/// Reads a blacklist.
pub(super) fn blacklist(mut section: Section<'_>, lists: &mut Lists<'_>) -> BlockSet {
    let domains = section.item("domains").and_then(|item| patterns(&item));
    let mut blocking: Vec<Arc<NameList>> = domains.into_iter().collect();
    for entry in section.list("files", "paths") {
        let list = entry.word("the path of a list").and_then(|path| lists.file(&entry, path));
        push_new(&mut blocking, &entry, list);
    }
    for entry in section.list("urls", "urls") {
        let list = entry.word(URL).and_then(|text| lists.url(&entry, text));
        push_new(&mut blocking, &entry, list);
    }
    let allow = section.item("allow").and_then(|item| patterns(&item));
    let set = BlockSet {
        lists: blocking,
        allow: allow.into_iter().collect(),
        mode: mode(&mut section),
        ttl: section.integer("ttl", TTL, 60),
        refresh: Duration::from_secs(section.integer("refresh_seconds", REFRESH_SECONDS, 86_400)),
    };
    section.finish();
    set
}

/// Reads `cache_dir`, which is the same for all blacklists and stands in that of the top.
pub(super) fn cache_dir(section: &mut Section<'_>, folder: &str) -> ListCache {
    match section.item("cache_dir") {
        None => ListCache::Usual,
        Some(item) if item.is_off() => ListCache::Off,
        Some(item) => match item.word("the path of a folder, or false") {
            Some(path) => ListCache::Folder(resolve(folder, path)),
            None => ListCache::Usual, // which is reported
        },
    }
}

/// A list of the configuration itself, called as its key.
fn patterns(item: &Item<'_>) -> Option<Arc<NameList>> {
    let names = names(item);
    (!names.is_empty()).then(|| Arc::new(NameList::new(&item.path.to_string(), names)))
}

/// Names and wildcards.
pub(super) fn names(item: &Item<'_>) -> Blocklist {
    let mut builder = Blocklist::builder();
    for entry in item.list("names") {
        let Some(text) = entry.word(PATTERN) else {
            continue;
        };
        match builder.insert(text) {
            Ok(()) => {}
            Err(BlockPatternError::Name(error)) => {
                entry.error(&format!("is not a name: {error}"), PATTERN);
            }
            Err(error) => entry.error(&error.to_string(), PATTERN),
        }
    }
    builder.build()
}

fn push_new(lists: &mut Vec<Arc<NameList>>, entry: &Item<'_>, list: Option<Arc<NameList>>) {
    let Some(list) = list else { return };
    if lists.iter().any(|known| known.source == list.source) {
        entry.warning("is listed twice");
    } else {
        lists.push(list);
    }
}

fn mode(section: &mut Section<'_>) -> BlockMode {
    const MODES: &[(&str, Mode)] = &[
        ("refused", Mode::Refused),
        ("nxdomain", Mode::NxDomain),
        ("nodata", Mode::NoData),
        ("zero", Mode::Zero),
        ("addresses", Mode::Addresses),
    ];
    const EXPECTED: &str = "at least one address for mode \"addresses\"";
    let mode = section.choice("mode", MODES, Mode::Refused);
    let item = section.item("addresses").filter(|item| !item.is_off());
    match (mode, item) {
        (Mode::Addresses, None) => {
            section.error("addresses", "is missing".to_owned(), EXPECTED);
            BlockMode::Refused
        }
        (Mode::Addresses, Some(item)) => addresses(&item),
        (other, item) => {
            if let Some(item) = item {
                addresses(&item);
                item.error("has no effect without mode \"addresses\"", "that mode, or no such key");
            }
            match other {
                Mode::NxDomain => BlockMode::NxDomain,
                Mode::NoData => BlockMode::NoData,
                Mode::Zero => BlockMode::Zero,
                Mode::Refused | Mode::Addresses => BlockMode::Refused,
            }
        }
    }
}

fn addresses(item: &Item<'_>) -> BlockMode {
    const EXPECTED: &str = "an ip address";
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for entry in item.list("ip addresses") {
        let Some(text) = entry.word(EXPECTED) else {
            continue;
        };
        let is_new = match text.parse() {
            Ok(IpAddr::V4(ip)) => push_address(&mut v4, ip),
            Ok(IpAddr::V6(ip)) => push_address(&mut v6, ip),
            Err(_) => {
                entry.error("is wrong", EXPECTED);
                continue;
            }
        };
        if !is_new {
            entry.warning("is listed twice");
        }
    }
    if v4.len().max(v6.len()) > ADDRESSES {
        item.error("is too long", &format!("at most {ADDRESSES} addresses of each family"));
    }
    BlockMode::Addresses { v4, v6 }
}

fn push_address<T: PartialEq>(list: &mut Vec<T>, address: T) -> bool {
    let is_new = !list.contains(&address);
    if is_new {
        list.push(address);
    }
    is_new
}

impl<'h> Lists<'h> {
    /// Has read nothing yet. Relative paths start at `folder`.
    pub(super) fn new(host: &'h dyn Host, folder: &'h str) -> Self {
        Self { host, folder, read: BTreeMap::new() }
    }

    fn file(&mut self, entry: &Item<'_>, path: &str) -> Option<Arc<NameList>> {
        self.list(entry, ListSource::File(resolve(self.folder, path)))
    }

    fn url(&mut self, entry: &Item<'_>, text: &str) -> Option<Arc<NameList>> {
        let plain = strip_scheme(text, "http://");
        let checked = match plain {
            Some(rest) => split_url(&["https://", rest].concat()),
            None => split_url(text),
        };
        if let Err(wrong) = checked {
            return entry.wrong_because(wrong, URL);
        }
        if plain.is_some() {
            entry.warning("is fetched without encryption: whoever is on the way can change it");
        }
        self.list(entry, ListSource::Url(text.to_owned()))
    }

    /// The content of a list, or an error that there is none. What is wrong with it is told once.
    fn list(&mut self, entry: &Item<'_>, source: ListSource) -> Option<Arc<NameList>> {
        if let Some(known) = self.read.get(&source) {
            return Some(Arc::clone(known));
        }
        let list = match (self.host.list(&source), &source) {
            (Ok(Some(list)), _) => list,
            (Ok(None), _) => {
                entry.warning("has not been fetched yet: until then it blocks nothing");
                Arc::new(NameList::empty(source.clone()))
            }
            (Err(why), ListSource::File(path)) => {
                let message = format!("cannot be read: {path}: {why}");
                return entry.wrong_because(&message, "a readable file with a list of names");
            }
            (Err(why), ListSource::Url(_)) => {
                let message = format!("cannot be used: {why}");
                return entry.wrong_because(&message, "a list of names");
            }
        };
        if let Some(warning) = list.report.warning() {
            entry.warning(&warning);
        }
        self.read.insert(source, Arc::clone(&list));
        Some(list)
    }
}

/// What follows a scheme, in any letter case (RFC 3986 section 3.1).
fn strip_scheme<'t>(text: &'t str, scheme: &str) -> Option<&'t str> {
    let (head, rest) = text.split_at_checked(scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then_some(rest)
}
