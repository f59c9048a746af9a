//! Lists of names to block, as they are published: hosts files, plain names, wildcards, and the lines
//! of adblock lists that are about whole names. Each line speaks for itself.
//!
//! | line | blocks |
//! |---|---|
//! | `0.0.0.0 a.example b.example` | these names; the address is unspecified or a loopback one |
//! | `a.example` | that name |
//! | `*.a.example`, `.a.example` | the names below it |
//! | `\|\|a.example^` | that name and the names below it |
//! | `@@\|\|a.example^` | nothing: neither is blocked, whatever list says so |
//!
//! `#` and `!` begin comments, `[` a header. What else there is, is skipped and counted, and the first
//! such lines are reported. Nothing is allocated per line.

use std::fmt;
use std::net::IpAddr;

use super::blocking::{ListSource, NameList};
use super::blocklist::{BlockPatternError, Blocklist, BlocklistBuilder, Extent};
use crate::limits::NAME_OCTETS;

/// Octets of a line: hosts files with more names in one are not known.
const LINE_OCTETS: usize = 4_096;
/// Skipped lines that are reported one by one.
const SKIPPED_SHOWN: usize = 5;
/// Characters of a line that are shown.
const SHOWN_CHARACTERS: usize = 60;
/// What hosts files say of the machine they are on, which is not there to be blocked.
const OWN_NAMES: [&[u8]; 13] = [
    b"localhost",
    b"localhost.localdomain",
    b"local",
    b"broadcasthost",
    b"ip6-localhost",
    b"ip6-loopback",
    b"ip6-localnet",
    b"ip6-mcastprefix",
    b"ip6-allnodes",
    b"ip6-allrouters",
    b"ip6-allhosts",
    b"0.0.0.0",
    b"localhost6",
];

/// Reads a list that comes in pieces, cut anywhere.
#[derive(Debug)]
pub struct ListReader {
    source: ListSource,
    names: BlocklistBuilder,
    exceptions: BlocklistBuilder,
    report: ListReport,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
}

/// What was found in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListReport {
    /// Lines of any kind.
    pub lines: usize,
    /// Different entries that block something or except something from being blocked.
    pub entries: usize,
    /// Entries that say what others said before.
    pub duplicates: usize,
    /// Lines, and names of hosts lines, that were not understood.
    pub skipped: usize,
    /// The first of those.
    pub first_skipped: Vec<SkippedLine>,
}

/// A line that does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {text:?} {why}")]
pub struct SkippedLine {
    /// Its number, from 1.
    pub line: usize,
    /// Its beginning, or the name that is meant.
    pub text: String,
    /// What is wrong with it.
    pub why: Skipped,
}

/// Why a line does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    /// It names nothing.
    #[error("names nothing")]
    Empty,
    /// No such name can be asked for.
    #[error("is not a name")]
    Name,
    /// U-labels have more than one possible mapping; lists are made for machines.
    #[error("has characters beyond ascii; such names have to be in their xn-- form")]
    International,
    /// A hosts line that points somewhere means to answer, not to block.
    #[error("gives an address that is neither unspecified nor of this machine")]
    Address,
    /// An adblock rule with options, or about a part of a name or a page.
    #[error("is an adblock rule about something else than a whole name")]
    Adblock,
    /// A dnsmasq configuration.
    #[error("is in the format of dnsmasq, which is not supported")]
    Dnsmasq,
    /// A zone file, such as those of response policy zones.
    #[error("is in the format of zone files (RPZ), which is not supported")]
    Zone,
    /// There is more on the line than a name.
    #[error("is in no known format")]
    Unknown,
    /// It is too long.
    #[error("is longer than {LINE_OCTETS} octets")]
    TooLong,
    /// The list is full.
    #[error("does not fit into the list any more")]
    Full,
}

impl ListReader {
    /// Has read nothing yet.
    #[must_use]
    pub fn new(source: ListSource) -> Self {
        Self {
            source,
            names: Blocklist::builder(),
            exceptions: Blocklist::builder(),
            report: ListReport::default(),
            partial: Vec::new(),
        }
    }

    /// Reads the next piece.
    pub fn read(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
            let (line, tail) = (&rest[..end], &rest[end + 1..]);
            if self.partial.is_empty() {
                self.line(line);
            } else {
                self.keep(line);
                self.end_partial();
            }
            rest = tail;
        }
        self.keep(rest);
    }

    /// The list, with what is to be said about it.
    #[must_use]
    pub fn finish(mut self) -> NameList {
        if !self.partial.is_empty() {
            self.end_partial();
        }
        let inserted = self.names.inserted() + self.exceptions.inserted();
        let names = self.names.build();
        let exceptions = self.exceptions.build();
        self.report.entries = names.len() + exceptions.len();
        self.report.duplicates = inserted - self.report.entries;
        let mut list = NameList::empty(self.source);
        (list.names, list.exceptions, list.report) = (names, exceptions, self.report);
        list
    }

    /// Keeps a part of a line; of one that is too long no more than shows that it is.
    fn keep(&mut self, part: &[u8]) {
        let room = (LINE_OCTETS + 1).saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_partial(&mut self) {
        let mut line = std::mem::take(&mut self.partial);
        self.line(&line);
        line.clear();
        self.partial = line; // its memory serves the next one
    }

    fn line(&mut self, line: &[u8]) {
        self.report.lines += 1;
        if line.len() > LINE_OCTETS {
            return self.skip(line, Skipped::TooLong);
        }
        let first = self.report.lines == 1;
        let line = if first { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let line = line.trim_ascii();
        match line.first() {
            None | Some(b'#' | b'!' | b'[') => {}
            Some(b'|' | b'@' | b'/') => self.adblock(line),
            Some(_) => self.words(line),
        }
    }

    /// A line of an adblock list. `^` ends a name, `^|` says that nothing follows, which for whole
    /// names comes to the same.
    fn adblock(&mut self, line: &[u8]) {
        let (excepts, rule) = match line.strip_prefix(b"@@") {
            Some(rule) => (true, rule),
            None => (false, line),
        };
        let name = rule
            .strip_prefix(b"||")
            .and_then(|rule| rule.strip_suffix(b"^").or_else(|| rule.strip_suffix(b"^|")));
        let Some(name) = name else {
            let is_zone = rule.first() == Some(&b'@'); // `@ IN SOA`: the apex
            return self.skip(line, if is_zone { Skipped::Zone } else { Skipped::Adblock });
        };
        let is_rule = name.iter().any(|octet| matches!(octet, b'*' | b'^' | b'$' | b'/' | b'|'));
        if is_rule || address(name).is_some() {
            return self.skip(line, Skipped::Adblock);
        }
        let target = if excepts { &mut self.exceptions } else { &mut self.names };
        if let Err(why) = insert(target, name, Extent::Both) {
            self.skip(line, why);
        }
    }

    /// Any other line that says something: a hosts line or one pattern, and a comment perhaps.
    fn words(&mut self, line: &[u8]) {
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let Some(first) = words.next() else { return };
        if let Some(address) = address(first) {
            return self.hosts(line, address);
        }
        if words.next().is_some_and(|second| !second.starts_with(b"#")) {
            return self.skip(line, unknown(line));
        }
        let (extent, name) = match first.strip_prefix(b"*.").or_else(|| first.strip_prefix(b".")) {
            Some(name) => (Extent::Below, name),
            None => (Extent::Itself, first),
        };
        if let Err(why) = insert(&mut self.names, name, extent) {
            let why = if why == Skipped::Name { unknown(line) } else { why };
            self.skip(line, why);
        }
    }

    /// A line of a hosts file. Its names count one by one.
    fn hosts(&mut self, line: &[u8], address: IpAddr) {
        if names(line).next().is_none() {
            return self.skip(line, Skipped::Empty);
        }
        let blocks = address.is_unspecified() || address.is_loopback();
        if !blocks && !names(line).all(is_own) {
            return self.skip(line, Skipped::Address);
        }
        for name in names(line).filter(|name| !is_own(name)) {
            if let Err(why) = insert(&mut self.names, name, Extent::Itself) {
                self.skip(name, why);
            }
        }
    }

    fn skip(&mut self, text: &[u8], why: Skipped) {
        self.report.skipped += 1;
        if self.report.first_skipped.len() < SKIPPED_SHOWN {
            let text = String::from_utf8_lossy(&text[..text.len().min(LINE_OCTETS)]);
            let text = text.trim().chars().take(SHOWN_CHARACTERS).collect();
            let line = self.report.lines;
            self.report.first_skipped.push(SkippedLine { line, text, why });
        }
    }
}

/// The names of a hosts line: what follows the address, up to a comment.
fn names(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = line.iter().position(|octet| *octet == b'#').unwrap_or(line.len());
    let words = line[..end].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.skip(1)
}

fn is_own(name: &[u8]) -> bool {
    OWN_NAMES.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// The address that a hosts line begins with, without its zone id (`fe80::1%lo0`).
fn address(word: &[u8]) -> Option<IpAddr> {
    if !word.first()?.is_ascii_digit() && !word.contains(&b':') {
        return None; // most lines of most lists
    }
    let word = word.split(|octet| *octet == b'%').next()?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// What a line is that is none of ours.
fn unknown(line: &[u8]) -> Skipped {
    let has =
        |part: &[u8]| line.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part));
    let dnsmasq = [&b"address=/"[..], b"server=/", b"local=/", b"host-record="];
    if dnsmasq.iter().any(|option| line.starts_with(option)) {
        Skipped::Dnsmasq
    } else if line.starts_with(b"$") || has(b" CNAME ") || has(b"\tCNAME\t") || has(b" IN ") {
        Skipped::Zone
    } else if has(b"##") || has(b"#@#") || has(b"$") || has(b"^") {
        Skipped::Adblock
    } else if line.contains(&b'*') || !line.contains(&b' ') {
        Skipped::Name
    } else {
        Skipped::Unknown
    }
}

/// Adds a name as lists have it: letters, digits, hyphens and underscores in labels, with or without
/// the dot at its end. Whatever else a label may hold is syntax of another format here.
fn insert(target: &mut BlocklistBuilder, text: &[u8], extent: Extent) -> Result<(), Skipped> {
    let text = text.strip_suffix(b".").unwrap_or(text);
    if text.is_empty() {
        return Err(Skipped::Empty);
    }
    let mut wire = [0; NAME_OCTETS];
    let mut end = 0;
    for label in text.split(|octet| *octet == b'.') {
        let room = wire.len() - 1 - end; // one octet stays for the root
        if !(1..=63).contains(&label.len()) || label.len() + 1 > room {
            return Err(Skipped::Name);
        }
        wire[end] = u8::try_from(label.len()).expect("63 at most");
        for (place, octet) in wire[end + 1..].iter_mut().zip(label) {
            *place = match octet {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => *octet,
                b'A'..=b'Z' => octet.to_ascii_lowercase(),
                0x80.. => return Err(Skipped::International),
                _ => return Err(Skipped::Name),
            };
        }
        end += label.len() + 1;
    }
    target.insert_name(&wire[..=end], extent).map_err(|error| match error {
        BlockPatternError::Full => Skipped::Full,
        BlockPatternError::Empty => Skipped::Empty,
        BlockPatternError::InnerWildcard | BlockPatternError::Name(_) => Skipped::Name,
    })
}

impl ListReport {
    /// Whether there are lines but none of use: most likely it is no list.
    #[must_use]
    pub fn is_useless(&self) -> bool {
        self.entries == 0 && self.skipped > 0
    }

    /// What an operator should know of the list, if there is anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let what = if self.is_useless() { "has nothing of use" } else { "is understood in part" };
        (self.skipped > 0).then(|| format!("{what}: {self}"))
    }
}

/// One line: `812 taken, 3 repeated, 2 skipped: line 7: "a b" is in no known format, ...`.
impl fmt::Display for ListReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, duplicates, skipped, .. } = self;
        write!(f, "{entries} taken, {duplicates} repeated, {skipped} skipped")?;
        let mut before = ": ";
        for line in &self.first_skipped {
            write!(f, "{before}{line}")?;
            before = ", ";
        }
        if *skipped > self.first_skipped.len() {
            f.write_str(", ...")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Name;

    fn read(text: &[u8]) -> NameList {
        let mut reader = ListReader::new(ListSource::File("a.list".to_owned()));
        reader.read(text);
        reader.finish()
    }

    /// Which of some names are blocked, and which are excepted.
    fn matched(list: &NameList, asked: &[&str]) -> (Vec<String>, Vec<String>) {
        let found = |names: &Blocklist| {
            let listed =
                |name: &&&str| names.matches(Name::parse(name).unwrap().as_wire()).is_some();
            asked.iter().filter(listed).map(ToString::to_string).collect()
        };
        (found(&list.names), found(&list.exceptions))
    }

    /// What a line that does not count is told.
    fn skipped(line: &[u8]) -> Option<Skipped> {
        let list = read(line);
        assert!(list.names.is_empty() && list.exceptions.is_empty(), "{list:?}");
        assert_eq!(list.report.skipped, list.report.first_skipped.len());
        list.report.first_skipped.first().map(|skipped| skipped.why)
    }

    #[test]
    fn each_form_blocks_what_it_says() {
        let asked = ["a.example", "x.a.example", "y.x.a.example", "ba.example", "example"];
        for (line, blocked) in [
            ("a.example", &asked[..1]),
            ("A.Example.", &asked[..1]),
            ("  a.example\t # a comment", &asked[..1]),
            ("0.0.0.0 a.example", &asked[..1]),
            ("127.0.0.1\ta.example#comment", &asked[..1]),
            (":: a.example.", &asked[..1]),
            ("::1 localhost a.example", &asked[..1]),
            ("*.a.example", &asked[1..3]),
            (".a.example", &asked[1..3]),
            ("||a.example^", &asked[..3]),
            ("||A.example^|", &asked[..3]),
        ] {
            let list = read(line.as_bytes());
            assert_eq!(matched(&list, &asked).0, blocked, "{line}");
            assert_eq!((list.report.entries, list.report.skipped), (1, 0), "{line}");
            assert!(list.exceptions.is_empty());
        }
        let list = read(b"@@||a.example^");
        let excepted = asked[..3].iter().map(ToString::to_string).collect();
        assert_eq!(matched(&list, &asked), (vec![], excepted));
        assert_eq!(list.report.entries, 1);
    }

    #[test]
    fn a_list_with_everything() {
        let text = b"\xef\xbb\xbf[Adblock Plus 2.0]\r\n! Title: x\r\n# more\r\n\r\n\
            127.0.0.1 localhost localhost.localdomain\r\n255.255.255.255 broadcasthost\r\n\
            ff02::1 ip6-allnodes\r\nfe80::1%lo0 localhost\r\n0.0.0.0 0.0.0.0\r\n\
            0.0.0.0 a.example B.example # both\r\na.example\r\n||c.example^\r\nx..y\r\n\
            ||d.example^$third-party\r\n*.a.example";
        let list = read(text);
        let asked =
            ["a.example", "b.example", "c.example", "z.a.example", "d.example", "localhost"];
        assert_eq!(matched(&list, &asked).0, asked[..4]);
        assert_eq!(
            list.report.to_string(),
            "4 taken, 1 repeated, 2 skipped: line 13: \"x..y\" is not a name, line 14: \
             \"||d.example^$third-party\" is an adblock rule about something else than a whole name"
        );
        assert_eq!((list.report.lines, list.name.as_str()), (15, "a.list"));
        assert_eq!(list.report.warning(), Some(format!("is understood in part: {}", list.report)));
    }

    #[test]
    fn what_does_not_count_is_told() {
        let long = [&b"a."[..], &[b'b'; LINE_OCTETS]].concat();
        let label = [&[b'a'; 64][..], b".example"].concat();
        let name = [&b"a."[..]; 128].concat();
        for (line, why) in [
            (&b"0.0.0.0"[..], Skipped::Empty),
            (b"||^", Skipped::Empty),
            (b"*.", Skipped::Empty),
            (b".", Skipped::Empty),
            (b"192.0.2.1 a.example", Skipped::Address),
            (b"2001:db8::1 a.example", Skipped::Address),
            (b"||a.example", Skipped::Adblock),
            (b"||a.*^", Skipped::Adblock),
            (b"||192.0.2.1^", Skipped::Adblock),
            (b"||a.example^$important", Skipped::Adblock),
            (b"||a.example/path^", Skipped::Adblock),
            (b"|http://a.example^", Skipped::Adblock),
            (b"/banner[0-9]/", Skipped::Adblock),
            (b"@@a.example", Skipped::Adblock),
            (b"a.example##.ad", Skipped::Adblock),
            (b"a.example#@#.ad", Skipped::Adblock),
            (b"address=/a.example/0.0.0.0", Skipped::Dnsmasq),
            (b"local=/a.example/", Skipped::Dnsmasq),
            (b"$TTL 300", Skipped::Zone),
            (b"@ IN SOA a. b. 1 2 3 4 5", Skipped::Zone),
            (b"a.example CNAME .", Skipped::Zone),
            (b"*.a.example\tCNAME\t.", Skipped::Zone),
            (b"<p class=x>", Skipped::Unknown),
            (b"a.example b.example", Skipped::Unknown),
            (b"a.*.example", Skipped::Name),
            (b"a..example", Skipped::Name),
            (b"..a", Skipped::Name),
            (b"a\0b.example", Skipped::Name),
            (b"a.example#x", Skipped::Name),
            (b"<html>", Skipped::Name),
            (&label, Skipped::Name),
            (&name, Skipped::Name),
            ("b\u{fc}cher.example".as_bytes(), Skipped::International),
            (b"0.0.0.0 \xff.example", Skipped::International),
            (&long, Skipped::TooLong),
        ] {
            assert_eq!(skipped(line), Some(why), "{}", String::from_utf8_lossy(line));
        }
        for quiet in [&b""[..], b"\r\n", b"# x", b"!x", b"[Adblock]", b"0.0.0.0 LocalHost"] {
            assert_eq!(skipped(quiet), None);
        }
    }

    #[test]
    fn the_longest_names_are_taken() {
        let label = "a".repeat(63);
        let longest = [&label[..], &label, &label, &"b".repeat(61)].join(".");
        let list = read(longest.as_bytes());
        assert_eq!(matched(&list, &[&longest]).0, [longest]);
    }

    #[test]
    fn skipped_lines_are_reported_in_part() {
        let list = read("<x>\n".repeat(50).as_bytes());
        let report = &list.report;
        assert_eq!((report.skipped, report.first_skipped.len()), (50, SKIPPED_SHOWN));
        assert!(report.is_useless());
        let shown = report.warning().unwrap();
        let start = "has nothing of use: 0 taken, 0 repeated, 50 skipped: line 1: \"<x>\" is";
        assert!(shown.starts_with(start), "{shown}");
        assert!(shown.ends_with(", ..."), "{shown}");
        let line = ["x ", &"\u{7}".repeat(1_000)].concat();
        let shown = read(line.as_bytes()).report.to_string();
        assert!(shown.len() < 500 && !shown.contains(char::is_control), "{shown}");
        assert!(!read(b"# nothing yet\n").report.is_useless());
        assert_eq!(read(b"a.example").report.warning(), None);
    }

    proptest! {
        /// Where a list is cut into pieces makes no difference.
        #[test]
        fn pieces_do_not_matter(
            text in "([a-c]{1,2}(\\.[ab])?|\\|\\|a\\^|0\\.0\\.0\\.0 [a-c]|#)?(\r?\n[*.]{0,2}[a-c]){0,6}\n?",
            cuts in prop::collection::vec(0_usize..40, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(text.len())).collect();
            cuts.sort_unstable();
            let mut reader = ListReader::new(ListSource::File("a.list".to_owned()));
            let mut at = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                reader.read(&text.as_bytes()[at..cut]);
                at = cut;
            }
            let (pieces, whole) = (reader.finish(), read(text.as_bytes()));
            prop_assert_eq!(&pieces.report, &whole.report);
            let asked = ["a", "b", "c", "a.a", "a.b", "b.a", "c.b", "a.c", "x.a", "x.b"];
            prop_assert_eq!(matched(&pieces, &asked), matched(&whole, &asked));
        }
    }
}
