//! Text to lines: a tree by indentation, and the words of one line.
//!
//! Knows nothing of DNS. Lines of `config` and `file` blocks are kept as they are, because they are
//! in another language; everywhere else blank lines and lines that start with `#` are left out.

use std::time::Duration;

/// Something that is wrong, at a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) what: String,
}

impl Fault {
    pub(super) fn at(line: usize) -> impl Fn(String) -> Self {
        move |what| Self { line, what }
    }
}

/// One line, and the lines below it that are indented deeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    /// Without what is around it.
    pub(super) text: String,
    pub(super) children: Vec<Line>,
    /// Of a `config` or `file` block: its text, behind as many empty lines as stand before it in the
    /// file, so that what is said of its lines is true of the file.
    pub(super) verbatim: String,
}

impl Line {
    /// The words of the line.
    pub(super) fn words(&self) -> Words<'_> {
        Words::of(&self.text)
    }

    /// Turns what is wrong into what is wrong here.
    pub(super) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault { line: self.number, what: what.into() }
    }

    /// What is left of the line, and all that is below it, in one line.
    pub(super) fn with_lines_below(&self, mut words: Words<'_>) -> Result<String, Fault> {
        let mut text = words.rest().to_owned();
        for child in &self.children {
            child.expect_no_children()?;
            text.push(' ');
            text.push_str(&child.text);
        }
        Ok(text)
    }

    /// # Errors
    /// If there are lines below this one.
    pub(super) fn expect_no_children(&self) -> Result<(), Fault> {
        match self.children.first() {
            None => Ok(()),
            Some(child) => Err(child.fault("nothing can stand below the line before it")),
        }
    }

    /// The same with `{i}` replaced by a number, everywhere.
    pub(super) fn numbered(&self, number: usize) -> Self {
        Self {
            number: self.number,
            text: self.text.replace("{i}", &number.to_string()),
            children: self.children.iter().map(|child| child.numbered(number)).collect(),
            verbatim: self.verbatim.clone(),
        }
    }
}

/// How deep lines may stand below each other: more than anybody needs.
const LEVELS: usize = 16;
/// How often something may be repeated.
const REPETITIONS: usize = 100_000;

/// The lines that are not indented, with those below them.
///
/// # Errors
/// A tab, or an indentation that returns to a depth that never was.
pub(super) fn tree(text: &str) -> Result<Vec<Line>, Fault> {
    let mut roots = Vec::new();
    let mut flat = Vec::new();
    let mut in_verbatim = false;
    for (at, raw) in text.lines().enumerate() {
        let number = at + 1;
        let trimmed = raw.trim();
        let depth = raw.len() - raw.trim_start_matches(' ').len();
        if in_verbatim && (depth > 0 || trimmed.is_empty()) {
            let (_, head): &mut (usize, Line) = flat.last_mut().expect("the block has a head");
            if head.verbatim.is_empty() {
                head.verbatim = "\n".repeat(at);
            }
            head.verbatim.push_str(raw);
            head.verbatim.push('\n');
            continue;
        }
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if raw[depth..].starts_with('\t') {
            let what = "indent with spaces, not with tabs".to_owned();
            return Err(Fault { line: number, what });
        }
        let first = trimmed.split_whitespace().next().unwrap_or_default();
        in_verbatim = depth == 0 && matches!(first, "config" | "file");
        let (text, verbatim) = (trimmed.to_owned(), String::new());
        flat.push((depth, Line { number, text, children: Vec::new(), verbatim }));
    }
    let mut rest = flat.into_iter().peekable();
    take_deeper(&mut rest, 0, 0, &mut roots)?;
    match rest.next() {
        None => Ok(roots),
        Some((_, line)) => Err(line.fault("indented less than the lines around it")),
    }
}

type Flat = std::iter::Peekable<std::vec::IntoIter<(usize, Line)>>;

/// Moves lines of one depth into `into`, each with what is below it.
fn take_deeper(
    rest: &mut Flat,
    depth: usize,
    level: usize,
    into: &mut Vec<Line>,
) -> Result<(), Fault> {
    while let Some((_, mut line)) = rest.next_if(|(found, _)| *found == depth) {
        if level == LEVELS {
            return Err(line.fault("indented too deep"));
        }
        if let Some((deeper, _)) = rest.peek()
            && *deeper > depth
        {
            let deeper = *deeper;
            take_deeper(rest, deeper, level + 1, &mut line.children)?;
        }
        into.push(line);
    }
    match rest.peek() {
        Some((found, line)) if *found > depth => {
            Err(line.fault("indented deeper than the lines before it"))
        }
        Some(_) | None => Ok(()),
    }
}

/// The words of a line, one after the other. A word in double quotes may hold blanks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    pub(super) fn of(text: &'a str) -> Self {
        Self { rest: text }
    }

    pub(super) fn peek(&self) -> Option<&'a str> {
        let mut ahead = *self;
        ahead.next()
    }

    /// Whether the next word is this one; if so it is taken.
    pub(super) fn accept(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        if found {
            self.next();
        }
        found
    }

    /// What is left, as it stands.
    pub(super) fn rest(&mut self) -> &'a str {
        std::mem::take(&mut self.rest).trim()
    }

    /// # Errors
    /// If there is no word left.
    pub(super) fn expect(&mut self, what: &str) -> Result<&'a str, String> {
        self.next().ok_or_else(|| format!("the line ends where {what} is expected"))
    }

    /// # Errors
    /// If the next word is no number, or does not fit.
    pub(super) fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N, String> {
        let word = self.expect(what)?;
        word.parse().map_err(|_| format!("\"{word}\" is no {what}"))
    }

    /// How often something is done, as the last word.
    ///
    /// # Errors
    /// If it is no such number.
    pub(super) fn repetitions(&mut self) -> Result<usize, String> {
        let times = self.number("number of times")?;
        self.end()?;
        if times > REPETITIONS { Err(format!("{times} is too often")) } else { Ok(times) }
    }

    /// A number and its unit.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn duration(&mut self) -> Result<Duration, String> {
        let count: u64 = self.number("number of a duration")?;
        match self.expect("ms, s, min or h")? {
            "ms" => Ok(Duration::from_millis(count)),
            "s" => Ok(Duration::from_secs(count)),
            "min" => Ok(Duration::from_secs(count.saturating_mul(60))),
            "h" => Ok(Duration::from_secs(count.saturating_mul(3_600))),
            other => Err(format!("\"{other}\" is no unit of time: ms, s, min or h")),
        }
    }

    /// # Errors
    /// If there is another word.
    pub(super) fn end(&mut self) -> Result<(), String> {
        match self.next() {
            None => Ok(()),
            Some(word) => Err(format!("\"{word}\" is not expected here")),
        }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.trim_start();
        if rest.is_empty() {
            self.rest = rest;
            return None;
        }
        if let Some(quoted) = rest.strip_prefix('"')
            && let Some((inside, after)) = quoted.split_once('"')
        {
            self.rest = after;
            return Some(inside);
        }
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        self.rest = after;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indentation_makes_a_tree_and_config_stays_as_it_is() {
        let text = "# first\nconfig\n  return { -- #1\n\n  }\nsteps\n  a\n    b\n    c\n  d\n";
        let lines = tree(text).expect("it is a tree");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].verbatim, "\n\n  return { -- #1\n\n  }\n");
        let below: Vec<&str> = lines[1].children.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(below, ["a", "d"]);
        assert_eq!(lines[1].children[0].children[1].number, 9);
    }

    #[test]
    fn bad_indentation_is_named_by_its_line() {
        for (text, line) in [("a\n    b\n  c\n", 3), ("  a\n", 1), ("a\n\tb\n", 2)] {
            assert_eq!(tree(text).expect_err(text).line, line, "{text:?}");
        }
    }

    #[test]
    fn words_may_be_quoted() {
        let line = &tree("log \"two words\"  end").expect("one line")[0];
        assert_eq!(line.words().collect::<Vec<_>>(), ["log", "two words", "end"]);
    }
}
