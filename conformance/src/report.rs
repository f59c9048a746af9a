//! The behaviours as a table for people, by RFC section: `docs/conformance.md` is made from it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::case::{Case, Clients};
use crate::cases;

/// How many behaviours there are, whatever the number of transports and daemons.
pub(crate) fn summary() -> String {
    let cases: Vec<_> = cases::all().filter(|case| case.pending.is_none()).collect();
    let all = cases.iter().filter(|case| case.clients == Clients::All).count();
    let runs: usize = cases.iter().map(|case| case.clients.runs().len()).sum();
    format!(
        "{} distinct behaviours, {all} of them over UDP, TCP, DoT and DoH: {runs} runs per daemon",
        cases.len()
    )
}

/// All behaviours: a table per RFC, by section, then one of what the project itself promises.
pub(crate) fn table() -> String {
    let mut text = String::new();
    let mut rows: BTreeMap<(Source, Vec<u8>, &str), Vec<&Case>> = BTreeMap::new();
    for case in cases::all() {
        for reference in case.references() {
            let (source, section) = parse(reference);
            // Sections in the order of their numbers; all else in that of its words.
            let numbers = section.split('.').map_while(|part| part.parse().ok()).collect();
            rows.entry((source, numbers, section)).or_default().push(case);
        }
    }
    let mut last = None;
    for ((source, _, section), cases) in &rows {
        if last != Some(*source) {
            let (title, column) = match source {
                Source::Rfc(number) => (format!("RFC {number}"), "section"),
                Source::Own => ("Beyond the RFCs".to_owned(), "of what"),
            };
            let head = format!("## {title}\n\n| {column} | behaviour | case | clients |");
            if last.is_some() {
                text.push('\n');
            }
            line(&mut text, &head);
            line(&mut text, "|---|---|---|---|");
            last = Some(*source);
        }
        for case in cases {
            let pending = case.pending.map_or(String::new(), |why| format!(" (not yet: {why})"));
            line(
                &mut text,
                &format!(
                    "| {section} | {}{pending} | `{}` | {} |",
                    case.title,
                    case.full_name(),
                    case.clients.text()
                ),
            );
        }
    }
    text
}

/// Where a behaviour is written down; RFCs in their order come first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Rfc(u16),
    Own,
}

fn parse(reference: &str) -> (Source, &str) {
    let rfc = reference.strip_prefix("RFC ").and_then(|rest| rest.split_once(' '));
    match rfc.and_then(|(number, section)| Some((number.parse().ok()?, section))) {
        Some((number, section)) => (Source::Rfc(number), section),
        None => (Source::Own, reference),
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("text takes text");
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "\
# What is shown, by RFC section

Made from the cases of `conformance/`; `docs/testing.md` says how to run them. After a change of the
cases `CONFORMANCE_WRITE=1 cargo test -p balancedns-conformance` writes it anew, and without the
variable the same test says whether it is true. A case that shows two things stands in two places.
A case without clients in the last column is one of the process, or brings its own.
";

    #[test]
    fn the_page_is_what_the_cases_say() {
        let page = format!("{HEAD}\n{}.\n\n{}", summary(), table());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance.md");
        if std::env::var_os("CONFORMANCE_WRITE").is_some() {
            std::fs::write(path, &page).expect("the page can be written");
        }
        let written = std::fs::read_to_string(path).expect("the page is there");
        assert!(written == page, "docs/conformance.md is old: see its head for how to write it");
    }

    #[test]
    fn references_sort_by_number() {
        assert!(parse("RFC 882 2.1") < parse("RFC 1035 2.1"));
        assert!(parse("config acl").0 > parse("RFC 9999 1").0);
    }
}
