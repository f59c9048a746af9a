//! From octets to a list: what was read is told, and what can be no list is refused.

use std::fs::File;
use std::io::{self, Read};
use std::time::Instant;

use balancedns_core::limits::LIST_OCTETS;
use balancedns_core::policy::{ListReader, ListSource, NameList};

use crate::host::explained;

/// Octets in front of a web page's first tag that are looked through.
const BLANK_OCTETS: usize = 256;
/// Octets of a file that are read at once.
const PIECE_OCTETS: usize = 65_536;

/// Why octets are not taken for the list they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Implausible {
    /// Somebody answers in the server's place: a portal, an error page.
    #[error("it is a web page, not a list")]
    Page,
    /// There was a list, and now there is none.
    #[error("nothing in it can be used, and the list known so far has {0} entries")]
    Nothing(usize),
    /// There is something, but no list.
    #[error("nothing in it can be used: {0}")]
    Unusable(String),
}

/// Reads a list of a file.
///
/// # Errors
/// Why it cannot be read, in words for the operator.
pub(crate) fn read_list(source: &ListSource) -> Result<NameList, String> {
    let ListSource::File(path) = source else {
        return Err("is no file".to_owned());
    };
    let read = File::open(path).and_then(|file| read_at_most(source, file, LIST_OCTETS));
    read.map_err(|error| explained(&error))
}

/// A large file is read in pieces, so that it is not in memory beside its list.
fn read_at_most(source: &ListSource, mut file: impl Read, most: u64) -> io::Result<NameList> {
    let start = Instant::now();
    let mut reader = ListReader::new(source.clone());
    let mut piece = vec![0; PIECE_OCTETS];
    let mut total = 0;
    loop {
        let octets = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(octets) => octets,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        total += octets;
        if u64::try_from(total).is_ok_and(|total| total > most) {
            return Err(io::Error::other(format!("it has more than {most} octets")));
        }
        reader.read(piece.get(..octets).unwrap_or_default());
    }
    Ok(finish(reader, source, total, start))
}

/// Reads a list.
pub(super) fn parse(source: &ListSource, octets: &[u8]) -> NameList {
    let start = Instant::now();
    let mut reader = ListReader::new(source.clone());
    reader.read(octets);
    finish(reader, source, octets.len(), start)
}

/// Tells the operator what was read.
fn finish(reader: ListReader, source: &ListSource, octets: usize, start: Instant) -> NameList {
    let list = reader.finish();
    tracing::info!(
        event = "list_read",
        "{}: {} entries, {} of them exceptions; {octets} octets read in {} ms",
        called(source),
        list.report.entries,
        list.exceptions.len(),
        start.elapsed().as_millis(),
    );
    list
}

/// Tells the operator what is wrong in a list. Where the configuration is read, it does.
pub(super) fn tell_problems(list: &NameList) {
    if let (Some(source), Some(warning)) = (&list.source, list.report.warning()) {
        tracing::warn!(event = "list_problems", "{}: {warning}", called(source));
    }
}

/// A list as operators know it: a file by its path, a URL without what may be secret.
pub(super) fn called(source: &ListSource) -> String {
    match source {
        ListSource::File(path) => path.clone(),
        ListSource::Url(_) => source.shown(),
    }
}

/// Reads a list that a server has sent, unless it can be none.
///
/// # Errors
/// It is none.
pub(super) fn parse_fetched(
    source: &ListSource,
    octets: &[u8],
    known_entries: usize,
) -> Result<NameList, Implausible> {
    if is_page(octets) {
        return Err(Implausible::Page);
    }
    let list = parse(source, octets);
    if list.report.entries > 0 {
        tell_problems(&list);
        return Ok(list);
    }
    if known_entries > 0 {
        return Err(Implausible::Nothing(known_entries));
    }
    match list.report.first_skipped.first() {
        Some(first) => Err(Implausible::Unusable(first.to_string())),
        None => Ok(list), // it is empty, and was not expected to be anything else
    }
}

/// No line of any list begins with a tag.
fn is_page(octets: &[u8]) -> bool {
    let octets = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets);
    let mut visible = octets.iter().take(BLANK_OCTETS).skip_while(|o| o.is_ascii_whitespace());
    visible.next() == Some(&b'<')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> ListSource {
        ListSource::Url("https://lists.example/ads.txt".to_owned())
    }

    fn parsed(text: &str, known: usize) -> Result<usize, Implausible> {
        parse_fetched(&url(), text.as_bytes(), known).map(|list| list.report.entries)
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(parsed("a.example\nb.example\n", 1_000), Ok(2));
        assert_eq!(parsed("\u{feff}\n <!DOCTYPE html>\na.example\n", 0), Err(Implausible::Page));
        assert_eq!(parsed("<html>a.example", 5), Err(Implausible::Page));
        assert_eq!(parsed("# nothing today\n", 5), Err(Implausible::Nothing(5)));
        assert_eq!(parsed("", 5), Err(Implausible::Nothing(5)));
        assert_eq!(parsed("not a list\n", 5), Err(Implausible::Nothing(5)));
        let error = parsed("not a list\n", 0).expect_err("unusable");
        assert!(matches!(error, Implausible::Unusable(_)), "{error}");
        assert_eq!(parsed("# nothing yet\n", 0), Ok(0));
    }

    #[test]
    fn a_file_is_read_in_pieces_and_up_to_a_bound() {
        let text: String = (0..20_000).map(|number| format!("{number}.example\n")).collect();
        let source = ListSource::File("list".to_owned());
        assert!(text.len() > 2 * PIECE_OCTETS);
        let octets = u64::try_from(text.len()).expect("fits");
        let list = read_at_most(&source, text.as_bytes(), octets).expect("small enough");
        assert_eq!((list.report.entries, list.report.skipped), (20_000, 0));
        let error = read_at_most(&source, text.as_bytes(), octets - 1).expect_err("too large");
        assert_eq!(error.to_string(), format!("it has more than {} octets", octets - 1));
    }

    #[test]
    fn a_file_that_cannot_be_read_says_why() {
        let error = |path: &str| read_list(&ListSource::File(path.to_owned())).map(drop);
        assert_eq!(error("/nonexistent/list"), Err("no such file".to_owned()));
        assert_eq!(error("/"), Err("a folder, not a file".to_owned()));
    }
}
