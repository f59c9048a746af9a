//! Configuration scripts that fail, reach for the world, or try to harm: each ends with an error.

use crate::support::{FakeHost, with};

/// Scripts that fail, and the start of what is said.
const FAILING: &[(&str, &str)] = &[
    ("return {", "etc/test.lua:1: Expected identifier when parsing expression, got <eof>"),
    ("local x = 1\nreturn { x = }", "etc/test.lua:2: Expected "),
    ("", "etc/test.lua: the file returns nothing; expected one table"),
    ("return 5", "etc/test.lua: the file returns a number; expected one table"),
    ("return function() end", "etc/test.lua: the file returns a function; expected one table"),
    ("local x\nreturn x.y", "etc/test.lua:2: attempt to index nil with 'y'"),
    ("\n\nerror('no way')", "etc/test.lua:3: no way"),
    ("\nerror({})", "etc/test.lua:2: "),
    (
        "\nlocal x = env()",
        "etc/test.lua:2: env: the name is not a text; expected env(name [, default])",
    ),
    ("\nlocal x = env('A', {})", "etc/test.lua:2: env: the default is a table; expected a text"),
    (
        "\ninclude('none.lua')",
        "etc/test.lua:2: include: cannot read \"etc/none.lua\": no such file",
    ),
    ("\ninclude('none.txt')", "etc/test.lua:2: include: \"none.txt\" is not a .lua file"),
    ("\ninclude(5)", "etc/test.lua:2: include: the name is not a text"),
    ("include('broken.lua')", "etc/broken.lua:2: "),
    ("include('raises.lua')", "etc/raises.lua:3: oh"),
    (
        "\ninclude('nothing.lua')",
        "etc/test.lua:2: include: \"etc/nothing.lua\" returns nothing; expected one table",
    ),
    ("include('test.lua')", "etc/test.lua:1: include: \"etc/test.lua\" includes itself"),
    ("include('self.lua')", "etc/self.lua:1: include: \"etc/self.lua\" includes itself"),
    ("include('a.lua')", "etc/b.lua:1: include: \"etc/a.lua\" includes itself"),
    ("include('1.lua')", "etc/8.lua:1: include: more than 8 files deep"),
    (
        "for _ = 1, 1001 do\ninclude('empty.lua') end",
        "etc/test.lua:2: include: more than 1000 files",
    ),
];

#[test]
fn scripts_that_fail_say_where() {
    let mut host = FakeHost::new()
        .file("etc/broken.lua", "return {\n x = }")
        .file("etc/raises.lua", "\n\nerror('oh')")
        .file("etc/nothing.lua", "local x = 1")
        .file("etc/empty.lua", "return {}")
        .file("etc/self.lua", "return include('self.lua')")
        .file("etc/a.lua", "return include('b.lua')")
        .file("etc/b.lua", "return include('./a.lua')");
    for number in 1..20 {
        let next = format!("return include('{}.lua')", number + 1);
        host = host.file(&format!("etc/{number}.lua"), &next);
    }
    for (text, expected) in FAILING {
        let errors = host.errors(text);
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(errors[0].starts_with(expected), "{text}: {errors:?}");
    }
}

/// What a script may not reach.
#[test]
fn the_world_is_out_of_reach() {
    for name in [
        "os",
        "io",
        "debug",
        "require",
        "loadstring",
        "load",
        "dofile",
        "loadfile",
        "getfenv",
        "setfenv",
        "collectgarbage",
        "gcinfo",
        "newproxy",
        "coroutine",
        "package",
        "buffer",
        "utf8",
        "bit32",
        "vector",
    ] {
        let text = format!("assert({name} == nil)\n{}", with(""));
        FakeHost::new().load(&text).unwrap_or_else(|errors| panic!("{name}: {errors:?}"));
    }
    for script in [
        "string.rep = nil",
        "table.insert = function() end",
        "_G.string.rep = nil",
        "getmetatable('').__index = {}",
        "setmetatable(string, {})",
        "rawset(math, 'pi', 3)",
    ] {
        let errors = FakeHost::new().errors(&format!("{script}\n{}", with("")));
        assert!(errors[0].starts_with("etc/test.lua:1: "), "{script}: {errors:?}");
    }
}

/// Scripts that would run forever, grow forever, or return what has no end.
const HOSTILE: &[(&str, &str)] = &[
    ("while true do end", "the script runs longer than 30 seconds"),
    ("while true do pcall(function() while true do end end) end", "the script runs longer"),
    (
        "pcall(function() while true do end end) return { upstreams = {} }",
        "the script runs longer than 30 seconds",
    ),
    ("local function f() return f() end f()", "stack overflow"),
    ("local function f() return 1 + f() end f()", "stack overflow"),
    ("return string.rep('x', 2000000000)", "resulting string too large"),
    ("local s = 'x' while true do s = s .. s end", "the script needs more than 1024 MiB"),
    (
        "local s = string.rep('a', 200000) return string.find(s, string.rep('a*', 40) .. 'b')",
        "the script runs longer than 30 seconds",
    ),
    ("table.sort({3, 2, 1}, function() while true do end end)", "the script runs longer"),
    ("local t = {} t.t = t return t", "t: is a table that contains itself"),
    (
        "local t = {} for i = 1, 100 do t = { t } end return { x = t }",
        "is a table within 32 others",
    ),
    (
        "local t = {} for i = 1, 30 do t = { t, t } end return { x = t }",
        "the configuration has more than 4000000 values",
    ),
    (
        "local s = string.rep('x', 2^26) return { x = { s, s, s, s, s, s, s, s, s } }",
        "the configuration has more than 536870912 octets of text",
    ),
    (
        "return setmetatable({}, { __index = function() while true do end end })",
        "is a table with a metatable",
    ),
    ("return { acl = setmetatable({}, { __iter = error }) }", "acl: is a table with a metatable"),
    ("return { [true] = 1 }", "has a key that is a boolean"),
    ("return { [{}] = 1 }", "has a key that is a table"),
    ("return { [0] = 1 }", "has a key that is a"),
    ("return { [1.5] = 1 }", "has a key that is a number"),
    ("for i = 1, 1e9 do print(i) end", "the script runs longer than 30 seconds"),
];

#[test]
fn hostile_scripts_end_with_an_error() {
    for (text, expected) in HOSTILE {
        let errors = FakeHost::new().errors(text);
        let shown = errors.join("\n");
        assert!(shown.contains(expected) && shown.len() < 1_000, "{text}: {shown}");
    }
}

#[test]
fn source_of_any_nesting_is_survived() {
    for depth in [100, 1_000, 100_000] {
        for (open, close) in [("{", "}"), ("(", ")"), ("[[", "]]"), ("f{", "}"), ("not ", "")] {
            let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let text = format!("local f = tostring\nreturn {{ x = {value}, y = }} }}");
            assert!(!FakeHost::new().errors(&text).is_empty());
            let text = format!("local f = tostring\nreturn {{ x = {value} }}");
            assert!(!FakeHost::new().errors(&text).is_empty());
        }
    }
}
