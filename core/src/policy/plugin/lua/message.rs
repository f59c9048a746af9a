//! What Lua's errors say, as one short line.

use super::super::PolicyError;

/// Names of the two chunks, as they stand in errors and tracebacks.
pub(super) const SCRIPT: &str = "script";
pub(super) const PRELUDE: &str = "prelude";

/// Characters of an error that are kept.
const CHARS: usize = 256;

/// Text of an error and the line of the script, from 1, that it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) line: Option<u32>,
    pub(super) text: String,
}

/// Why a run failed.
pub(super) fn policy_error(error: &mlua::Error) -> PolicyError {
    if is_memory(error) {
        return PolicyError::Memory;
    }
    let Message { line, text } = message(error);
    PolicyError::Script(match line {
        Some(line) => format!("line {line}: {text}"),
        None => text,
    })
}

/// Whether the memory limit was met.
pub(super) fn is_memory(error: &mlua::Error) -> bool {
    if let mlua::Error::CallbackError { cause, .. } = error {
        return is_memory(cause);
    }
    matches!(error, mlua::Error::MemoryError(_))
}

/// What an error says, and where in the script.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum of another crate, which grows")]
pub(super) fn message(error: &mlua::Error) -> Message {
    let (text, traceback) = match error {
        mlua::Error::CallbackError { cause, traceback } => {
            let inner = message(cause);
            let line = inner.line.or_else(|| first_line(traceback));
            return Message { line, ..inner };
        }
        // The compiler names no chunk.
        mlua::Error::SyntaxError { message, .. } => {
            let (line, text) = match split_line(message.trim_start_matches(':')) {
                Some((line, text)) => (Some(line), text),
                None => (None, message.as_str()),
            };
            return Message { line, text: one_line(text) };
        }
        mlua::Error::RuntimeError(message) => {
            message.split_once("\nstack traceback:").unwrap_or((message, ""))
        }
        // Not our enum: whatever else there is has its own words.
        other => return Message { line: None, text: one_line(&other.to_string()) },
    };
    let (line, text) = match split_place(text, SCRIPT) {
        Some((line, text)) => (Some(line), text),
        None => (None, split_place(text, PRELUDE).map_or(text, |(_, text)| text)),
    };
    Message { line: line.or_else(|| first_line(traceback)), text: one_line(text) }
}

/// Splits `script:14: message` into the line and the message.
fn split_place<'t>(text: &'t str, chunk: &str) -> Option<(u32, &'t str)> {
    split_line(text.strip_prefix(chunk)?.strip_prefix(':')?)
}

/// Splits `14: message` into the line and the message.
fn split_line(text: &str) -> Option<(u32, &str)> {
    let (line, message) = text.split_once(':')?;
    Some((line.parse().ok()?, message.trim_start()))
}

/// The innermost line of the script that a traceback names.
fn first_line(traceback: &str) -> Option<u32> {
    traceback.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix(SCRIPT)?.strip_prefix(':')?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    })
}

/// What a script calls the type of a value.
pub(super) fn type_name(value: &mlua::Value) -> &'static str {
    if value.is_integer() { "number" } else { value.type_name() }
}

/// A script may raise whatever it likes; what an operator gets is one line that does nothing to the
/// terminal.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for character in text.chars().take(CHARS) {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(text: &str) -> (Option<u32>, String) {
        let Message { line, text } = message(&mlua::Error::runtime(text));
        (line, text)
    }

    #[test]
    fn places_are_those_of_the_script() {
        assert_eq!(runtime("script:14: no: way"), (Some(14), "no: way".to_owned()));
        assert_eq!(runtime("2: no"), (None, "2: no".to_owned()));
        for text in ["2: Expected 'end'", ":2: Expected 'end'"] {
            let error =
                mlua::Error::SyntaxError { message: text.to_owned(), incomplete_input: true };
            let expected = Message { line: Some(2), text: "Expected 'end'".to_owned() };
            assert_eq!(message(&error), expected);
        }
        let text = "prelude:3: bad\nstack traceback:\n\t[C]: in ?\n\tprelude:3\n\tscript:7: in function 'f'\n\tscript:9";
        assert_eq!(runtime(text), (Some(7), "bad".to_owned()));
        assert_eq!(runtime("script:x: y"), (None, "script:x: y".to_owned()));
        assert_eq!(runtime(""), (None, String::new()));
    }

    #[test]
    fn errors_are_short_and_on_one_line() {
        assert_eq!(runtime("a\n\u{1b}[31mb\0").1, r"a\n\u{1b}[31mb\u{0}");
        assert_eq!(runtime(&"x".repeat(100_000)).1.len(), CHARS);
    }

    #[test]
    fn memory_is_told_apart() {
        let error = mlua::Error::MemoryError(String::new());
        assert_eq!(policy_error(&error), PolicyError::Memory);
        let lua = mlua::Lua::new();
        let fail =
            lua.create_function(|_, ()| Err::<(), _>(mlua::Error::MemoryError(String::new())));
        let error = fail.unwrap().call::<()>(()).unwrap_err();
        assert!(matches!(error, mlua::Error::CallbackError { .. }));
        assert_eq!(policy_error(&error), PolicyError::Memory);
    }
}
