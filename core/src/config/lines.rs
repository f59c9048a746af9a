//! Finds the line of a value in the configuration's source.
//!
//! Values lose their place when the script runs, so the source is read once more: the table
//! constructor after the last `return`, variables that it names, and literal `include`s. What is
//! computed has the line of the expression that computes it. This runs only when there is something
//! to report, after Luau has accepted the source.

mod tokens;

use std::collections::HashMap;

use self::tokens::{Kind, Token, tokenize};
use super::error::Segment;
use super::vm::{Text, resolve_from};
use crate::hash::KeyedState;

/// Tables within tables that are looked into.
const DEPTH: usize = 32;

type Map<K, V> = HashMap<K, V, KeyedState>;

/// Where the values of a configuration stand.
pub(super) struct Lines<'t> {
    files: &'t [Text],
    sources: Vec<Source<'t>>,
}

/// What one file returns, and what is assigned to its variables.
#[derive(Default)]
struct Source<'t> {
    returned: Option<Node<'t>>,
    variables: Map<&'t str, Node<'t>>,
}

/// An expression, as far as it is understood.
struct Node<'t> {
    line: u32,
    shape: Shape<'t>,
}

enum Shape<'t> {
    /// A table constructor; the lines of its entries are those of their keys.
    Table(Map<Segment, Node<'t>>),
    /// A variable.
    Variable(&'t str),
    /// `include("file.lua")`.
    Include(&'t str),
    /// Anything else.
    Other,
}

impl<'t> Lines<'t> {
    /// Reads the sources of the configuration file, the first, and those it included.
    pub(super) fn new(files: &'t [Text]) -> Self {
        let sources = files.iter().map(|file| Parser::new(&file.text).source()).collect();
        Self { files, sources }
    }

    /// The file and the line of a value, or of the innermost table around it that is known.
    pub(super) fn find(&self, path: &[Segment]) -> (usize, Option<u32>) {
        let mut at = (0, None);
        let Some(mut node) = self.returned(0) else {
            return at;
        };
        for segment in path {
            let Some((file, table)) = self.table(at.0, node) else {
                break;
            };
            let Shape::Table(entries) = &table.shape else {
                break;
            };
            let Some(entry) = entries.get(segment) else {
                return (file, Some(table.line));
            };
            node = entry;
            at = (file, Some(node.line));
        }
        at
    }

    /// Follows variables and includes to a table.
    fn table<'s>(
        &'s self,
        mut file: usize,
        mut node: &'s Node<'t>,
    ) -> Option<(usize, &'s Node<'t>)> {
        for _ in 0..DEPTH {
            match &node.shape {
                Shape::Table(_) => return Some((file, node)),
                Shape::Variable(name) => node = self.sources.get(file)?.variables.get(name)?,
                Shape::Include(name) => {
                    let path = resolve_from(self.files.get(file)?, name);
                    file = self.files.iter().position(|file| file.name == path)?;
                    node = self.returned(file)?;
                }
                Shape::Other => return None,
            }
        }
        None
    }

    fn returned(&self, file: usize) -> Option<&Node<'t>> {
        self.sources.get(file)?.returned.as_ref()
    }
}

/// Reads one file.
struct Parser<'t> {
    tokens: Vec<Token<'t>>,
    at: usize,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        Self { tokens: tokenize(text), at: 0 }
    }

    /// Notes what is assigned to variables outside of all brackets, and what the file returns.
    fn source(mut self) -> Source<'t> {
        let mut variables: Map<&'t str, Option<Node<'t>>> = Map::default();
        let mut returned = None;
        let mut brackets = 0_usize;
        let mut before = "";
        while let Some(token) = self.next() {
            match (token.kind, token.text) {
                (Kind::Symbol, "(" | "{" | "[") => brackets += 1,
                (Kind::Symbol, ")" | "}" | "]") => brackets = brackets.saturating_sub(1),
                (Kind::Word, "return") if brackets == 0 => returned = self.last_statement(),
                (Kind::Word, name) if brackets == 0 && !matches!(before, "." | ":") => {
                    if let Some(node) = self.assigned() {
                        // What is assigned twice is not known.
                        variables.entry(name).and_modify(|known| *known = None).or_insert(node);
                    }
                }
                _ => {}
            }
            before = token.text;
        }
        let variables =
            variables.into_iter().filter_map(|(name, node)| Some((name, node?))).collect();
        Source { returned, variables }
    }

    /// Reads the expression of a `return` and goes back to where it was. `None` if something
    /// follows: then it is not the last statement of the file.
    fn last_statement(&mut self) -> Option<Node<'t>> {
        let start = self.at;
        let node = self.expression(0);
        let semicolon = self.peek().is_some_and(|token| token.text == ";");
        let last = self.at + usize::from(semicolon) == self.tokens.len();
        self.at = start;
        node.filter(|_| last)
    }

    /// Reads `= expression` and goes back to where it was. The inner `None` is an expression that
    /// is not understood.
    fn assigned(&mut self) -> Option<Option<Node<'t>>> {
        let start = self.at;
        let assigned = self.next().is_some_and(|token| token.text == "=");
        let node = assigned.then(|| self.expression(0));
        self.at = start;
        node
    }

    /// Reads an expression up to what ends it in a constructor or a statement. `None` if the end is
    /// not found.
    fn expression(&mut self, depth: usize) -> Option<Node<'t>> {
        let first = self.peek()?;
        let shape = match (first.kind, first.text) {
            (Kind::Symbol, "{") if depth < DEPTH => {
                self.at += 1;
                Shape::Table(self.entries(depth + 1)?)
            }
            (Kind::Word, "true" | "false" | "nil" | "not" | "function" | "if") => Shape::Other,
            (Kind::Word, name) => match self.include() {
                Some(file) => Shape::Include(file),
                None => {
                    self.at += 1;
                    Shape::Variable(name)
                }
            },
            _ => Shape::Other,
        };
        if !matches!(shape, Shape::Other) && !self.goes_on() {
            return Some(Node { line: first.line, shape });
        }
        self.skip_expression()?;
        Some(Node { line: first.line, shape: Shape::Other })
    }

    /// Whether the expression that was just read is only the start of a longer one.
    fn goes_on(&self) -> bool {
        self.peek().is_some_and(|token| match token.kind {
            Kind::Word => matches!(token.text, "and" | "or"),
            Kind::Symbol => !matches!(token.text, "," | ";" | ")" | "}" | "]"),
            Kind::Text | Kind::Number => true,
        })
    }

    /// Reads the entries of a table constructor and the bracket that closes it.
    fn entries(&mut self, depth: usize) -> Option<Map<Segment, Node<'t>>> {
        let mut entries = Map::default();
        let mut index = 0;
        loop {
            let first = self.peek()?;
            if first.text == "}" && first.kind == Kind::Symbol {
                self.at += 1;
                return Some(entries);
            }
            let key = self.key().unwrap_or_else(|| {
                index += 1;
                Segment::Index(index)
            });
            let start = self.at;
            let mut node = self.expression(depth)?;
            if self.at == start {
                return None; // a stray bracket: this is no Luau
            }
            node.line = first.line;
            entries.insert(key, node);
            if self.peek().is_some_and(|token| matches!(token.text, "," | ";")) {
                self.at += 1;
            }
        }
    }

    /// Reads `name =` or `["name"] =`, or nothing.
    fn key(&mut self) -> Option<Segment> {
        let text = |ahead: usize| self.tokens.get(self.at + ahead).map(|token| token.text);
        let first = self.tokens.get(self.at)?;
        if first.kind == Kind::Word && text(1) == Some("=") {
            self.at += 2;
            return Some(Segment::Key(first.text.to_owned()));
        }
        let quoted = self.tokens.get(self.at + 1).filter(|token| token.kind == Kind::Text)?;
        if first.text == "[" && text(2) == Some("]") && text(3) == Some("=") {
            let key = Segment::Key(quoted.text.to_owned());
            self.at += 4;
            return Some(key);
        }
        None
    }

    /// Reads `include("name")` or `include "name"`, or nothing.
    fn include(&mut self) -> Option<&'t str> {
        if self.peek()?.text != "include" {
            return None;
        }
        let rest = self.tokens.get(self.at + 1..)?;
        let (name, length) = match rest {
            [name, ..] if name.kind == Kind::Text => (name, 2),
            [open, name, close, ..]
                if open.text == "(" && name.kind == Kind::Text && close.text == ")" =>
            {
                (name, 4)
            }
            _ => return None,
        };
        self.at += length;
        Some(name.text)
    }

    /// Goes to the separator, the closing bracket or the next statement that ends an expression.
    fn skip_expression(&mut self) -> Option<()> {
        let mut brackets = 0_usize;
        while let Some(token) = self.tokens.get(self.at) {
            match (token.kind, token.text) {
                (Kind::Word, "function") => {
                    self.skip_function()?;
                    continue;
                }
                (Kind::Word, "local" | "return" | "end" | "for" | "while" | "repeat")
                    if brackets == 0 =>
                {
                    return Some(());
                }
                (Kind::Symbol, "," | ";") if brackets == 0 => return Some(()),
                (Kind::Symbol, "(" | "{" | "[") => brackets += 1,
                (Kind::Symbol, ")" | "}" | "]") => match brackets.checked_sub(1) {
                    Some(outer) => brackets = outer,
                    None => return Some(()),
                },
                _ => {}
            }
            self.at += 1;
        }
        Some(())
    }

    /// Goes behind the `end` of a function. An `if` has an `end` too, unless it is an expression,
    /// which is told by what stands before it.
    fn skip_function(&mut self) -> Option<()> {
        let mut before = "";
        let mut blocks = Vec::new();
        let mut in_expression = false;
        loop {
            let token = self.next()?;
            match (token.kind, token.text) {
                (Kind::Word, "function" | "do" | "repeat") => blocks.push(Block::Ended),
                (Kind::Word, "if") => blocks.push(match before {
                    "then" | "else" if in_expression => Block::Expression,
                    before if expects_operand(before) => Block::Expression,
                    _ => Block::Ended,
                }),
                (Kind::Word, "then") => in_expression = blocks.last() == Some(&Block::Expression),
                (Kind::Word, "else") => {
                    in_expression = blocks.last() == Some(&Block::Expression);
                    if in_expression {
                        blocks.pop();
                    }
                }
                (Kind::Word, "end" | "until") => {
                    blocks.pop();
                    if blocks.is_empty() {
                        return Some(());
                    }
                }
                _ => {}
            }
            before = if token.kind == Kind::Text { "" } else { token.text };
        }
    }

    fn peek(&self) -> Option<Token<'t>> {
        self.tokens.get(self.at).copied()
    }

    fn next(&mut self) -> Option<Token<'t>> {
        let token = self.peek();
        self.at += 1;
        token
    }
}

/// What a keyword opens inside of a function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Closed by `end` or `until`.
    Ended,
    /// `if a then b else c`, complete with its `else`.
    Expression,
}

/// Whether what follows a token can only be an operand, not a statement.
fn expects_operand(token: &str) -> bool {
    match token {
        "" | ")" | "]" | "}" | ";" | "..." => false,
        "return" | "and" | "or" | "not" | "in" | "until" | "while" | "if" | "elseif" => true,
        token => !token.starts_with(|first: char| first.is_alphanumeric() || first == '_'),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str, path: &[&str]) -> Option<u32> {
        let files = [Text { name: "a.lua".into(), folder: String::new(), text: text.into() }];
        let segment = |step: &&str| match step.parse() {
            Ok(index) => Segment::Index(index),
            Err(_) => Segment::Key((*step).to_owned()),
        };
        let path: Vec<Segment> = path.iter().map(segment).collect();
        Lines::new(&files).find(&path).1
    }

    #[test]
    fn keys_places_and_what_is_around_them() {
        let text = "return {\n a = 1,\n ['b'] = {\n  {}, {\n c = 2 } },\n}";
        assert_eq!(line(text, &["a"]), Some(2));
        assert_eq!(line(text, &["b", "1"]), Some(4));
        assert_eq!(line(text, &["b", "2", "c"]), Some(5));
        assert_eq!(line(text, &["b", "2", "d"]), Some(4), "the table that lacks it");
        assert_eq!(line(text, &["a", "x"]), Some(2));
        assert_eq!(line(text, &["x"]), Some(1));
        assert_eq!(line(text, &[]), None);
    }

    #[test]
    fn functions_are_skipped_whole() {
        for function in [
            "function(x) if x then return 1 elseif y then return 2 else return 3 end end",
            "(function() local t = if a then b elseif c then d else e return t end)()",
            "f(function() for i = 1, 2 do g(i, 3) end while x do end repeat local z until z end)",
            "(function() if if a then b else c then if d then end end return { 1, 2 } end)()",
            "function() local x = if a then if b then c else d else if e then f else g; h() end",
            "function() return if a then function() end else nil end",
        ] {
            let text = format!("return {{\n f = {function},\n a = 1 }}");
            assert_eq!(line(&text, &["a"]), Some(3), "{function}");
        }
    }

    #[test]
    fn variables_are_followed_if_they_have_one_value() {
        let table = "return {\n up = up,\n a = 1 }";
        let text = format!("local up = {{\n b = 1 }}\nfor i = 1, 2 do end\n{table}");
        assert_eq!(line(&text, &["up", "b"]), Some(2));
        assert_eq!(line(&text, &["a"]), Some(6));
        let twice = format!("local up = {{\n b = 1 }}\nup = f(up)\n{table}");
        assert_eq!(line(&twice, &["up", "b"]), Some(5));
        assert_eq!(line("local c = {\n a = 1 }\nreturn c", &["a"]), Some(2));
        let other = "local x = {}\nx.up = {\n b = 1 }\nlocal up = x\nreturn { up = up }";
        assert_eq!(line(other, &["up", "b"]), Some(1));
    }

    proptest! {
        #[test]
        fn any_source_is_survived(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "return", "{", "}", "[", "]", "(", ")", ",", ";", "=", "a", "\"b\"", "1", "if",
                    "then", "else", "end", "function", "local", "include", "[[", "]]", "--", "\n",
                ]),
                0..40,
            ),
        ) {
            let text = words.join(" ");
            let lines = u32::try_from(text.lines().count()).unwrap();
            for path in [&["a"][..], &["1"], &["a", "b"], &["1", "1", "a"]] {
                prop_assert!(line(&text, path).is_none_or(|line| line <= lines));
            }
        }
    }

    #[test]
    fn only_the_last_statement_counts() {
        assert_eq!(line("if x then return {\n a = 1 } end", &["a"]), None);
        assert_eq!(line("if x then return {\n a = 1 } end return f()", &["a"]), None);
        assert_eq!(
            line("function f() return {\n a = 1 } end\nreturn {\n a = 2 };", &["a"]),
            Some(4)
        );
        assert_eq!(line("return merge({\n a = 1 })", &["a"]), None);
    }
}
