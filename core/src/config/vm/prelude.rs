//! What the script finds in the VM: an allowlist of Luau's own functions, two of them replaced.
//!
//! Luau's interrupt is not called inside `string.find` for a plain text and `table.sort` without a
//! comparator, so both could run for hours; the replacements cannot.

use mlua::Lua;

/// What a script may use of the base library and of Luau's own additions to it.
const BASE: &[&str] = &[
    "_G",
    "_VERSION",
    "assert",
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

/// Replaces `table.sort` by one that always calls a comparator, and `string.find` by one that
/// leaves plain searches to `plain_find`.
const REPLACEMENTS: &str = r#"
local plain_find = ...
local sort, find = table.sort, string.find
local function ascending(left, right)
    return left < right
end
function table.sort(list, less)
    return sort(list, if less == nil then ascending else less)
end
function string.find(text, pattern, init, plain)
    if plain or not find(pattern, "[%^%$%*%+%?%.%(%)%[%]%%%-]") then
        return plain_find(text, pattern, init)
    end
    return find(text, pattern, init)
end
"#;

/// Removes what a script may not have, and replaces what it may not have as it is.
pub(super) fn install(lua: &Lua) -> mlua::Result<()> {
    let globals = lua.globals();
    for pair in globals.pairs::<mlua::LuaString, mlua::Value>() {
        let (name, _) = pair?;
        let allowed = name.to_str().is_ok_and(|name| BASE.contains(&&*name));
        if !allowed {
            globals.raw_set(name, mlua::Nil)?;
        }
    }
    let plain_find =
        lua.create_function(|_, (text, wanted, init)| plain_find(&text, &wanted, init))?;
    lua.load(REPLACEMENTS).set_name("=prelude").call(plain_find)
}

/// Where a text has another one in it, as `string.find` says it, in time proportional to both
/// lengths.
fn plain_find(
    text: &mlua::LuaString,
    wanted: &mlua::LuaString,
    init: Option<i64>,
) -> mlua::Result<(Option<usize>, Option<usize>)> {
    // The search of the standard library is linear, but knows utf-8 only.
    let (text, wanted) = (text.to_str()?, wanted.to_str()?);
    let start = match init.unwrap_or(1) {
        init @ 1.. => usize::try_from(init - 1).unwrap_or(usize::MAX),
        init => {
            let back = usize::try_from(init.unsigned_abs()).unwrap_or(usize::MAX);
            if back == 0 { 0 } else { text.len().saturating_sub(back) }
        }
    };
    if wanted.is_empty() {
        // It is everywhere, also between the octets of one letter.
        let here = start <= text.len();
        return Ok((here.then_some(start + 1), here.then_some(start)));
    }
    // Within a letter no other one begins.
    let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(start);
    let found = text.get(start..).and_then(|rest| rest.find(&*wanted));
    Ok((found.map(|at| start + at + 1), found.map(|at| start + at + wanted.len())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the manual of Lua 5.1 has it (section 5.4, `string.find` with `plain`), octet by octet.
    fn naive_find(text: &[u8], wanted: &[u8], init: i64) -> (Option<usize>, Option<usize>) {
        let len = i64::try_from(text.len()).unwrap();
        let init = if init < 0 { (len + init + 1).max(1) } else { init.max(1) };
        let start = usize::try_from(init - 1).unwrap();
        let mut places = start..(text.len() + 1).saturating_sub(wanted.len());
        let found = places.find(|at| text[*at..].starts_with(wanted));
        (found.map(|at| at + 1), found.map(|at| at + wanted.len()))
    }

    proptest! {
        #[test]
        fn plain_texts_are_found_where_they_are(
            text in "[aé€]{0,6}",
            wanted in "[aé€]{0,2}",
            init in -20_i64..20,
        ) {
            let lua = Lua::new();
            let string = |text: &str| lua.create_string(text).unwrap();
            let found = plain_find(&string(&text), &string(&wanted), Some(init)).unwrap();
            prop_assert_eq!(found, naive_find(text.as_bytes(), wanted.as_bytes(), init));
        }
    }

    fn eval<T: mlua::FromLua>(script: &str) -> T {
        let lua = Lua::new();
        install(&lua).unwrap();
        lua.load(script).eval().unwrap()
    }

    #[test]
    fn only_the_allowlist_is_left() {
        let names: Vec<String> = eval(
            "local names = {} for name in pairs(_G) do table.insert(names, name) end
             table.sort(names) return names",
        );
        assert_eq!(names, BASE);
    }

    #[test]
    fn find_works_as_before() {
        let found = |call: &str| -> (Option<usize>, Option<usize>) {
            let list: Vec<Option<usize>> =
                eval(&format!("local a, b = {call} return {{a or 0, b or 0}}"));
            (list[0].filter(|at| *at > 0), list[1].filter(|at| *at > 0))
        };
        assert_eq!(found("string.find('a.b.c', '.', 3, true)"), (Some(4), Some(4)));
        assert_eq!(found("('hello'):find('ll')"), (Some(3), Some(4)));
        assert_eq!(found("('hello'):find('l', -1)"), (None, None));
        assert_eq!(found("('hello'):find('o', -1)"), (Some(5), Some(5)));
        assert_eq!(found("('hello'):find('l+')"), (Some(3), Some(4)));
        assert_eq!(found("('hello'):find('x')"), (None, None));
        assert_eq!(found("('hello'):find('h', 100)"), (None, None));
    }

    #[test]
    fn sort_works_as_before() {
        let sorted: Vec<i64> = eval("local t = {3, 1, 2} table.sort(t) return t");
        assert_eq!(sorted, [1, 2, 3]);
        let sorted: Vec<i64> =
            eval("local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end) return t");
        assert_eq!(sorted, [3, 2, 1]);
    }
}
