//! A plugin's result, from JSON or Lua, to a verdict.

use super::{PolicyError, PolicyQuestion, PolicyVerdict};

/// What an executable gets: one line of JSON, with an id if it is kept running.
#[must_use]
pub fn question_json(_question: &PolicyQuestion<'_>, _id: Option<u64>) -> Vec<u8> {
    Vec::new()
}

/// The verdict in an executable's output.
///
/// # Errors
/// It is no verdict.
pub fn decode_json(_output: &[u8]) -> Result<PolicyVerdict, PolicyError> {
    Err(PolicyError::Result("not json".to_owned()))
}

/// Id and verdict in a line of an executable that is kept running.
///
/// # Errors
/// There is no id: it cannot be told whose verdict it is.
pub fn decode_line(_line: &[u8]) -> Result<(u64, Result<PolicyVerdict, PolicyError>), PolicyError> {
    Err(PolicyError::Result("not json".to_owned()))
}
