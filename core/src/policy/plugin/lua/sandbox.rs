//! What a script finds in its VM: an allowlist of Luau's own functions, some of them replaced
//! (`prelude.luau`), and our helpers.
//!
//! What is not listed is not there: files, processes, compilers, environments, coroutines, buffers,
//! and what a new version of Luau may bring.

use std::rc::Rc;

use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, StdLib, Table, Value};

use super::budget::Budget;
use super::helpers;
use super::message::PRELUDE;

/// Libraries that a VM has.
pub(super) const LIBRARIES: [StdLib; 4] =
    [StdLib::TABLE, StdLib::STRING, StdLib::MATH, StdLib::BIT];

/// Where a script's random numbers start, so that it does the same wherever it runs.
const RANDOM_SEED: u32 = 1;

/// What is left of the base library.
const BASE: [&str; 25] = [
    "_G",
    "_VERSION",
    "assert",
    "bit32",
    "error",
    "getmetatable",
    "ipairs",
    "math",
    "next",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "select",
    "setmetatable",
    "string",
    "table",
    "tonumber",
    "tostring",
    "type",
    "typeof",
    "unpack",
    "xpcall",
];

/// What is left of `string`.
const STRING: [&str; 14] = [
    "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "rep", "reverse",
    "split", "sub", "upper",
];

/// What is left of `table`.
const TABLE: [&str; 13] = [
    "clear", "clone", "concat", "create", "find", "freeze", "insert", "isfrozen", "move", "pack",
    "remove", "sort", "unpack",
];

/// Removes what a script may not have, runs the prelude, and makes all of it read-only. Gives the
/// function that makes a caller of a script's `handle`.
pub(super) fn install(lua: &Lua, prelude: &[u8], budget: &Rc<Budget>) -> mlua::Result<Function> {
    let globals = lua.globals();
    keep(&globals, &BASE)?;
    keep(&globals.raw_get("string")?, &STRING)?;
    keep(&globals.raw_get("table")?, &TABLE)?;
    let math: Table = globals.raw_get("math")?;
    math.raw_get::<Function>("randomseed")?.call::<()>(RANDOM_SEED)?;
    let charge = {
        let budget = Rc::clone(budget);
        lua.create_function(move |_, octets| Ok(budget.charge(octets)))?
    };
    let chunk = lua.load(prelude).set_name(format!("={PRELUDE}")).set_mode(ChunkMode::Binary);
    let caller = chunk.call((charge, helpers::table(lua)?))?;
    lua.sandbox(true)?;
    Ok(caller)
}

/// Leaves nothing in a table but the entries of these names.
fn keep(table: &Table, names: &[&str]) -> mlua::Result<()> {
    for entry in table.pairs::<Value, Value>() {
        let (key, _) = entry?;
        let kept = key
            .as_string()
            .is_some_and(|name| name.to_str().is_ok_and(|name| names.contains(&&*name)));
        if !kept {
            table.raw_set(key, Value::Nil)?;
        }
    }
    Ok(())
}
