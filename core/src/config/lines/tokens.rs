//! Splits Luau source into words, texts and symbols with their lines.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A name or a keyword.
    Word,
    /// A quoted text; the token's text is what stands between the quotes, escapes as they are.
    Text,
    /// A number.
    Number,
    /// One character of anything else.
    Symbol,
}

/// A piece of the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    pub(super) text: &'t str,
    /// From 1.
    pub(super) line: u32,
}

/// All tokens of a source that Luau has accepted; of any other text, some tokens.
pub(super) fn tokenize(text: &str) -> Vec<Token<'_>> {
    let mut rest = text;
    let mut line = 1_u32;
    let mut tokens = Vec::new();
    while let Some(first) = rest.chars().next() {
        let (kind, skipped, content) = piece(rest, first);
        let length = skipped.max(first.len_utf8());
        let (taken, after) = rest.split_at(length);
        if let Some(kind) = kind {
            tokens.push(Token { kind, text: content, line });
        }
        let newlines = taken.bytes().filter(|byte| *byte == b'\n').count();
        line = line.saturating_add(u32::try_from(newlines).unwrap_or(u32::MAX));
        rest = after;
    }
    tokens
}

/// The piece at the start of a text: its kind, unless it is blank, its length, its content.
fn piece(rest: &str, first: char) -> (Option<Kind>, usize, &str) {
    let part = |length: usize| rest.get(..length).unwrap_or(rest);
    match first {
        '-' if rest.starts_with("--") => (None, comment_length(rest), ""),
        '"' | '\'' | '`' => {
            let length = quoted_length(rest, first);
            let inner = rest.get(1..length.saturating_sub(1)).unwrap_or_default();
            // An interpolated text is an expression, not a text that is known.
            (Some(if first == '`' { Kind::Symbol } else { Kind::Text }), length, inner)
        }
        '[' => match long_bracket(rest) {
            Some((length, inner)) => (Some(Kind::Text), length, inner),
            None => (Some(Kind::Symbol), 1, part(1)),
        },
        first if first.is_ascii_alphabetic() || first == '_' => {
            let length = length_while(rest, |char| char.is_ascii_alphanumeric() || char == '_');
            (Some(Kind::Word), length, part(length))
        }
        first if first.is_ascii_digit() => {
            let length = length_while(rest, |char| char.is_ascii_alphanumeric() || char == '.');
            (Some(Kind::Number), length, part(length))
        }
        '=' if rest.starts_with("==") => (Some(Kind::Symbol), 2, part(2)),
        first if first.is_whitespace() => (None, first.len_utf8(), ""),
        first => (Some(Kind::Symbol), first.len_utf8(), part(first.len_utf8())),
    }
}

fn length_while(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|char| !belongs(char)).unwrap_or(text.len())
}

/// The length of a comment, which is a long bracket or ends with the line.
fn comment_length(text: &str) -> usize {
    let inner = text.get(2..).unwrap_or_default();
    match long_bracket(inner) {
        Some((length, _)) => length + 2,
        None => text.find('\n').unwrap_or(text.len()),
    }
}

/// The length of a quoted text, both quotes included.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            char if char == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length and the content of `[[...]]` or `[==[...]==]`, if there is one here.
fn long_bracket(text: &str) -> Option<(usize, &str)> {
    let level = length_while(text.strip_prefix('[')?, |char| char == '=');
    let inner = text.get(level + 1..)?.strip_prefix('[')?;
    let close = format!("]{}]", "=".repeat(level));
    let end = inner.find(&close).unwrap_or(inner.len());
    let length = (level + 2 + end + close.len()).min(text.len());
    Some((length, inner.get(..end)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let show = |token: Token<'_>| format!("{}:{:?}:{}", token.line, token.kind, token.text);
        tokenize(text).into_iter().map(show).collect()
    }

    #[test]
    fn words_texts_numbers_and_symbols() {
        let text = "a = 'x\\'y' -- 'no\n\"z\" 0x1F --[[ a\n b ]] [=[q]]\n]=] ~= {";
        assert_eq!(
            shown(text),
            [
                "1:Word:a",
                "1:Symbol:=",
                "1:Text:x\\'y",
                "2:Text:z",
                "2:Number:0x1F",
                "3:Text:q]]\n",
                "4:Symbol:~",
                "4:Symbol:=",
                "4:Symbol:{",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "[a\\[\\]=\"'`\\\\\n-é]{0,40}") {
            let newlines = text.matches('\n').count();
            for token in tokenize(&text) {
                prop_assert!(token.line as usize <= newlines + 1);
            }
        }
    }
}
