//! What `handle` returned, as the decoder takes it.
//!
//! Tables are read raw: no metamethod runs, so reading takes no time of the script's making.

use mlua::Value;

use super::super::decode::Field;

/// Octets of a text: more than any name in presentation form has.
const TEXT_OCTETS: usize = 2_048;
/// Entries of a table that are looked at: more than any result has.
const ENTRIES: usize = 128;
/// Tables within tables: the result, `local_data`, `ips`.
const DEPTH: usize = 3;

/// A value and what is in it.
///
/// # Errors
/// Lua's, if there is no memory left to look.
pub(super) fn field(value: &Value) -> mlua::Result<Field> {
    read(value, DEPTH)
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the enum of another crate, which grows")]
fn read(value: &Value, depth: usize) -> mlua::Result<Field> {
    Ok(match value {
        Value::Nil => Field::Nothing,
        Value::Boolean(_) => Field::Other("a boolean"),
        #[expect(clippy::cast_precision_loss, reason = "no number of a result is that large")]
        Value::Integer(number) => Field::Number(*number as f64),
        Value::Number(number) => Field::Number(*number),
        Value::String(text) => read_text(text),
        Value::Table(table) if depth > 0 => read_table(table, depth - 1)?,
        Value::Table(_) => Field::Other("a table within tables"),
        Value::Function(_) => Field::Other("a function"),
        _ => Field::Other("an object"),
    })
}

fn read_text(text: &mlua::LuaString) -> Field {
    let octets = text.as_bytes();
    if octets.len() > TEXT_OCTETS {
        return Field::Other("a very long text");
    }
    match std::str::from_utf8(&octets) {
        Ok(text) => Field::Text(text.to_owned()),
        Err(_) => Field::Other("a text that is not UTF-8"),
    }
}

/// A list if its keys are numbers, an object if they are texts.
fn read_table(table: &mlua::Table, depth: usize) -> mlua::Result<Field> {
    let (mut list, mut object) = (Vec::new(), Vec::new());
    for (count, entry) in table.pairs::<Value, Value>().enumerate() {
        if count == ENTRIES {
            return Ok(Field::Other("a very large table"));
        }
        let (key, value) = entry?;
        let value = read(&value, depth)?;
        match read(&key, 0)? {
            Field::Text(name) => object.push((name, value)),
            Field::Number(index) => list.push((index, value)),
            Field::Nothing
            | Field::Whole(_)
            | Field::List(_)
            | Field::Object(_)
            | Field::Other(_) => return Ok(Field::Other("a table with keys of another kind")),
        }
    }
    if list.is_empty() {
        return Ok(Field::Object(object));
    }
    if !object.is_empty() {
        return Ok(Field::Other("a table with both names and numbers"));
    }
    list.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    let expected = (1_u32..).map(f64::from);
    if list.iter().zip(expected).any(|((index, _), expected)| *index != expected) {
        return Ok(Field::Other("a list with holes"));
    }
    Ok(Field::List(list.into_iter().map(|(_, value)| value).collect()))
}
