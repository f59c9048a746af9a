//! Lists of names to block: what a naive reading of the lines finds, the set has, however the text is
//! cut into pieces.

use std::collections::BTreeMap;
use std::net::IpAddr;

use balancedns_core::policy::{Blocklist, ListReader, ListSource, NameList};
use balancedns_core::wire::Name;

/// Bounds of the reader: octets of a line, lines that are reported.
const LINE_OCTETS: usize = 4_096;
const SHOWN: usize = 5;
/// What hosts files say of their own machine.
const OWN: &str = "localhost localhost.localdomain local broadcasthost ip6-localhost ip6-loopback \
                   ip6-localnet ip6-mcastprefix ip6-allnodes ip6-allrouters ip6-allhosts 0.0.0.0 \
                   localhost6";

/// `data` is the text of a list; its first octet says how long the pieces are that it comes in.
///
/// # Panics
/// If a property is broken.
pub fn lists(data: &[u8]) {
    let Some((&piece, text)) = data.split_first() else { return };
    if text.len() > 20_000 {
        return;
    }
    let list = read(text.chunks(usize::from(piece).max(1)));
    let whole = read([text].into_iter());
    assert_eq!(list.report, whole.report);
    let naive = Naive::read(text);
    let report = &list.report;
    let counts = (report.lines, report.entries, report.duplicates, report.skipped);
    assert_eq!(counts, (naive.lines, naive.entries, naive.duplicates, naive.skipped), "{report}");
    assert_eq!(report.first_skipped.len(), report.skipped.min(SHOWN));
    let shown = report.to_string();
    assert!(shown.len() < 5_000 && !shown.contains(char::is_control), "{shown}");
    naive.blocked.assert_same(&list.names);
    naive.excepted.assert_same(&list.exceptions);
    assert_eq!(list.names.len() + list.exceptions.len(), naive.entries);
}

fn read<'d>(pieces: impl Iterator<Item = &'d [u8]>) -> NameList {
    let mut reader = ListReader::new(ListSource::File("some.list".to_owned()));
    pieces.for_each(|piece| reader.read(piece));
    reader.finish()
}

/// Names by their text, and whether they and what is below them are listed.
#[derive(Debug, Default)]
struct Names(BTreeMap<String, (bool, bool)>);

impl Names {
    /// Whether that is news.
    fn add(&mut self, name: String, itself: bool, below: bool) -> bool {
        let listed = self.0.entry(name).or_default();
        let before = *listed;
        listed.0 |= itself;
        listed.1 |= below;
        *listed != before
    }

    fn has(&self, name: &str) -> bool {
        let mut above = name;
        while let Some((_, parent)) = above.split_once('.').filter(|(_, parent)| !parent.is_empty())
        {
            above = parent;
            if self.0.get(above).is_some_and(|listed| listed.1) {
                return true;
            }
        }
        self.0.get(name).is_some_and(|listed| listed.0)
    }

    fn assert_same(&self, names: &Blocklist) {
        for name in self.0.keys() {
            let parent = name.split_once('.').map_or("", |(_, parent)| parent);
            let other = format!("y{}", name.get(1..).unwrap_or_default());
            for asked in [name, &format!("x.{name}"), &format!("x{name}"), parent, &other] {
                let Ok(wire) = Name::parse(asked) else { continue };
                let found = names.matches(wire.as_wire());
                assert_eq!(found.is_some(), self.has(&wire.to_string()), "{asked}: {found:?}");
            }
        }
    }
}

/// A list, read line by line.
#[derive(Debug, Default)]
struct Naive {
    blocked: Names,
    excepted: Names,
    lines: usize,
    entries: usize,
    duplicates: usize,
    skipped: usize,
}

impl Naive {
    fn read(text: &[u8]) -> Self {
        let mut naive = Self::default();
        let mut lines: Vec<&[u8]> = text.split(|octet| *octet == b'\n').collect();
        lines.pop_if(|last| last.is_empty());
        for line in lines {
            naive.lines += 1;
            if line.len() > LINE_OCTETS {
                naive.skipped += 1;
                continue;
            }
            // What is not ASCII makes no name, whatever it is.
            let bom = naive.lines == 1 && line.starts_with(&[0xef, 0xbb, 0xbf]);
            let line: String =
                line.iter().skip(if bom { 3 } else { 0 }).copied().map(char::from).collect();
            naive.line(line.trim_matches([' ', '\t', '\r', '\x0c']));
        }
        naive
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() || line.starts_with(['#', '!', '[']) {
            return;
        }
        if line.starts_with(['|', '@', '/']) {
            let excepts = line.starts_with("@@");
            let rule = line.trim_end_matches('|').strip_suffix('^').filter(|_| {
                line.ends_with('^') || (line.ends_with("^|") && !line.ends_with("^||"))
            });
            let name = rule.and_then(|rule| rule.strip_prefix(if excepts { "@@||" } else { "||" }));
            let name = name.filter(|name| !is_address(name));
            return self.entry(name, excepts, true, true);
        }
        let mut words = line.split([' ', '\t', '\r', '\x0c']).filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default();
        if let Ok(address) = first.split('%').next().unwrap_or_default().parse::<IpAddr>() {
            return self.hosts(line, address);
        }
        if words.next().is_some_and(|word| !word.starts_with('#')) {
            self.skipped += 1;
            return;
        }
        let below = first.strip_prefix("*.").or_else(|| first.strip_prefix('.'));
        self.entry(Some(below.unwrap_or(first)), false, below.is_none(), below.is_some());
    }

    fn hosts(&mut self, line: &str, address: IpAddr) {
        let words = line.split('#').next().unwrap_or_default();
        let words = words.split([' ', '\t', '\r', '\x0c']).filter(|word| !word.is_empty());
        let names: Vec<&str> = words.skip(1).collect();
        let is_own = |name: &&str| OWN.split(' ').any(|own| own.eq_ignore_ascii_case(name));
        let blocks = address.is_unspecified() || address.is_loopback();
        if names.is_empty() || !(blocks || names.iter().all(is_own)) {
            self.skipped += 1;
            return;
        }
        for name in names.iter().filter(|name| !is_own(name)) {
            self.entry(Some(*name), false, true, false);
        }
    }

    fn entry(&mut self, name: Option<&str>, excepts: bool, itself: bool, below: bool) {
        let Some(name) = name.and_then(written) else {
            self.skipped += 1;
            return;
        };
        let names = if excepts { &mut self.excepted } else { &mut self.blocked };
        if names.add(name, itself, below) {
            self.entries += 1;
        } else {
            self.duplicates += 1;
        }
    }
}

/// A name as it is written in full, if lists may have it.
fn written(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let known = |octet: char| octet.is_ascii_alphanumeric() || "-_.".contains(octet);
    let is_name = text.chars().all(known) && !text.is_empty() && !text.ends_with('.');
    Name::parse(text).ok().filter(|_| is_name).map(|name| name.to_string())
}

fn is_address(text: &str) -> bool {
    text.split('%').next().unwrap_or_default().parse::<IpAddr>().is_ok()
}
