//! What is reported about a configuration: errors, all at once, and warnings, each with the place
//! where an operator finds it.

use std::cell::RefCell;
use std::fmt;
use std::fmt::Write as _;
use std::rc::Rc;

/// Why a configuration cannot be used. Shown as `balancedns.lua:14: upstreams[2].addr: "1.1.1.1"
/// has no port; expected host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The key, such as `upstreams[2].addr`; empty if it is about a file as a whole.
    pub path: String,
    /// The file that the value stands in, as it was named when it was read.
    pub file: String,
    /// Line of the file, from 1, where it is known.
    pub line: Option<u32>,
    /// What was wrong, the value included.
    pub message: String,
    /// What would have been right; empty if the message says it all.
    pub expected: String,
}

/// Something that the configuration says in vain, or that its script wants the operator to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The key; empty if it is not about one.
    pub path: String,
    /// The file that it is about, as it was named when it was read.
    pub file: String,
    /// Line of the file, from 1, where it is known.
    pub line: Option<u32>,
    /// What there is to know.
    pub message: String,
}

/// Everything that is wrong with a configuration: at least one error, ordered by file and line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// At least one error.
    pub(super) fn new(errors: Vec<ConfigError>) -> Self {
        assert!(!errors.is_empty(), "a failure has a cause");
        Self(errors)
    }

    /// The errors, one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for ConfigError {}
impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let f = &mut OneLine(f);
        write_place(f, &self.file, self.line, &self.path)?;
        f.write_str(&self.message)?;
        if !self.expected.is_empty() {
            write!(f, "; expected {}", self.expected)?;
        }
        Ok(())
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let f = &mut OneLine(f);
        write_place(f, &self.file, self.line, &self.path)?;
        f.write_str(&self.message)
    }
}

/// One line per error.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

/// Writes control characters as escapes: a script may raise whatever it likes, and what an operator
/// gets is one line that does nothing to the terminal.
struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(char::is_control) {
            let control = part.chars().next_back().filter(|last| last.is_control());
            let plain = part.len() - control.map_or(0, char::len_utf8);
            self.0.write_str(&part[..plain])?;
            control.map_or(Ok(()), |control| write!(self.0, "{}", control.escape_default()))?;
        }
        Ok(())
    }
}

/// Writes `file:line: path: `, as far as they are known.
fn write_place(f: &mut OneLine<'_, '_>, file: &str, line: Option<u32>, path: &str) -> fmt::Result {
    if !file.is_empty() {
        match line {
            Some(line) => write!(f, "{file}:{line}: ")?,
            None => write!(f, "{file}: ")?,
        }
    }
    if path.is_empty() { Ok(()) } else { write!(f, "{path}: ") }
}

/// Where a value stands in the table that the configuration returns. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Path(Option<Rc<Step>>);

#[derive(Debug)]
struct Step {
    parent: Path,
    segment: Segment,
}

/// One step down into a table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    /// By a name.
    Key(String),
    /// By a place in a list, from 1.
    Index(usize),
}

impl Path {
    /// The path of a table's entry.
    pub(super) fn key(&self, key: &str) -> Self {
        self.step(Segment::Key(key.to_owned()))
    }

    /// The path of a list's entry, counted from 1.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Segment::Index(index))
    }

    /// The steps from the top.
    pub(super) fn segments(&self) -> Vec<Segment> {
        let mut segments = Vec::new();
        let mut at = self;
        while let Some(step) = &at.0 {
            segments.push(step.segment.clone());
            at = &step.parent;
        }
        segments.reverse();
        segments
    }

    fn step(&self, segment: Segment) -> Self {
        Self(Some(Rc::new(Step { parent: self.clone(), segment })))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, segment) in self.segments().iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if !is_identifier(key) => write!(f, "[{key:?}]")?,
                Segment::Key(key) if depth == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// Whether a key can be written without quotes.
fn is_identifier(key: &str) -> bool {
    !key.is_empty()
        && !key.starts_with(|first: char| first.is_ascii_digit())
        && key.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

/// Collects what is found while the configuration is read; the lines are looked up afterwards.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: RefCell<Vec<Finding>>,
    warnings: RefCell<Vec<Finding>>,
}

/// Something found, not yet with its line.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) path: Path,
    /// The place, if it is not that of the value: a line of a file that the value names.
    pub(super) place: Option<(String, Option<u32>)>,
    pub(super) message: String,
    pub(super) expected: String,
}

impl Finding {
    fn new(path: &Path, message: String, expected: &str) -> Self {
        Self { path: path.clone(), place: None, message, expected: expected.to_owned() }
    }
}

/// Findings of one kind that are kept: a list of thousands with one systematic mistake needs no
/// thousands of lines.
const FINDINGS: usize = 200;

impl Report {
    /// Adds an error.
    pub(super) fn error(&self, path: &Path, message: String, expected: &str) {
        push_bounded(&mut self.errors.borrow_mut(), Finding::new(path, message, expected));
    }

    /// Adds an error in a file that a value names.
    pub(super) fn error_in(
        &self,
        path: &Path,
        place: (String, Option<u32>),
        message: String,
        expected: &str,
    ) {
        let finding = Finding { place: Some(place), ..Finding::new(path, message, expected) };
        push_bounded(&mut self.errors.borrow_mut(), finding);
    }

    /// Adds a warning.
    pub(super) fn warning(&self, path: &Path, message: String) {
        push_bounded(&mut self.warnings.borrow_mut(), Finding::new(path, message, ""));
    }

    /// Errors and warnings, in the order found.
    pub(super) fn into_parts(self) -> (Vec<Finding>, Vec<Finding>) {
        (self.errors.into_inner(), self.warnings.into_inner())
    }
}

fn push_bounded(list: &mut Vec<Finding>, finding: Finding) {
    if list.len() < FINDINGS {
        list.push(finding);
    } else if list.len() == FINDINGS {
        let message = format!("there is more than these {FINDINGS}");
        list.push(Finding::new(&Path::default(), message, ""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_look_like_lua() {
        let path = Path::default().key("upstreams").index(2).key("addr");
        assert_eq!(path.to_string(), "upstreams[2].addr");
        assert_eq!(Path::default().key("a b").key("c-d").to_string(), "[\"a b\"][\"c-d\"]");
        assert_eq!(Path::default().to_string(), "");
    }

    #[test]
    fn whatever_is_raised_an_error_is_one_line_without_control_characters() {
        let error = ConfigError {
            path: String::new(),
            file: "a\nb.lua".to_owned(),
            line: Some(3),
            message: "one\ntwo\u{1b}[2J caf\u{e9}\u{85}".to_owned(),
            expected: "\t".to_owned(),
        };
        let shown = r"a\nb.lua:3: one\ntwo\u{1b}[2J café\u{85}; expected \t";
        assert_eq!(error.to_string(), shown);
        assert_eq!(ConfigErrors::new(vec![error.clone(), error]).to_string().lines().count(), 2);
        let warning = Warning {
            path: "a".to_owned(),
            file: "b.lua".to_owned(),
            line: None,
            message: "\r\0".to_owned(),
        };
        assert_eq!(warning.to_string(), r"b.lua: a: \r\u{0}");
    }

    #[test]
    fn findings_are_bounded() {
        let report = Report::default();
        for _ in 0..FINDINGS * 2 {
            report.error(&Path::default(), String::new(), "");
        }
        assert_eq!(report.into_parts().0.len(), FINDINGS + 1);
    }
}
