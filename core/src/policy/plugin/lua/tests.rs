//! Scripts from their text to their verdicts, and what they may not do. How long hostile ones take
//! by the clock is measured where there is one, in the runtime's tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::{Choice, PolicyAction, TtlLimits};
use super::*;
use crate::transport::Transport;
use crate::wire::{Name, RecordType};

const MEMORY: usize = 16 << 20;
/// The most that is allocated at once: a block that grows is there twice for a moment, and the old
/// one is at most half of what there may be.
const MEMORY_AT_ONCE: u64 = (16 << 20) * 3 / 2;
const LIMITS: LuaLimits =
    LuaLimits { memory: MEMORY, timeout: Duration::from_millis(20), clock: None };

fn vm(text: &str) -> LuaVm {
    let program = Program::compile("test", text, MEMORY);
    LuaVm::new(Arc::new(program.unwrap_or_else(|error| panic!("{text}: {error:?}"))), LIMITS)
}

/// A script whose `handle` has this body.
fn handle(body: &str) -> LuaVm {
    vm(&format!("function handle(question) {body} end"))
}

fn ask(vm: &mut LuaVm, name: &str) -> Result<PolicyVerdict, PolicyError> {
    let name = Name::parse(name).unwrap();
    vm.decide(&PolicyQuestion {
        name: name.as_wire(),
        record_type: RecordType::A,
        client: None,
        transport: None,
    })
}

fn action(body: &str) -> PolicyAction {
    match ask(&mut handle(body), "www.example.org") {
        Ok(verdict) => verdict.action,
        Err(error) => panic!("{body}: {error}"),
    }
}

fn error(body: &str) -> PolicyError {
    match ask(&mut handle(body), "www.example.org") {
        Ok(verdict) => panic!("{body}: {verdict:?}"),
        Err(error) => error,
    }
}

fn compile_error(text: &str) -> (Option<u32>, String) {
    match Program::compile("test", text, MEMORY) {
        Ok(_) => panic!("{text} compiles"),
        Err(error) => (error.line, error.message),
    }
}

/// Whether an expression is true in a script.
fn holds(expression: &str) -> bool {
    action(&format!("if {expression} then return 'BLOCK' end")) == PolicyAction::Block
}

#[test]
fn results_are_verdicts() {
    assert_eq!(action(""), PolicyAction::Forward);
    assert_eq!(action("return nil"), PolicyAction::Forward);
    assert_eq!(action("return nil, 'BLOCK'"), PolicyAction::Forward, "one result");
    assert_eq!(action("return 'forward'"), PolicyAction::Forward);
    assert_eq!(action("return { action = 'BLOCK' }"), PolicyAction::Block);
    assert_eq!(action("return 'DROP'"), PolicyAction::Drop);
    assert_eq!(action("return { action = 'TC' }"), PolicyAction::Truncate);
    let rewrite = "return { action = 'REWRITE', rewrite_domain = 'a.b', rewrite_type = 28 }";
    let name = Name::parse("a.b").unwrap();
    let expected = PolicyAction::Rewrite { name, record_type: Some(RecordType::AAAA) };
    assert_eq!(action(rewrite), expected);
    let data = "return { action = 'LOCAL_DATA',
        local_data = { ip = '192.0.2.1', ips = { '::1', '192.0.2.2' } } }";
    let expected = PolicyAction::LocalData {
        ttl: 60,
        v4: vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)],
        v6: vec![Ipv6Addr::LOCALHOST],
    };
    assert_eq!(action(data), expected);
    let mut chosen =
        handle("return { action = 'FORWARD', pool = 'two', min_ttl = 1, max_ttl = 9 }");
    let verdict = ask(&mut chosen, "a").unwrap();
    assert_eq!(verdict.choice, Some(Choice::Pool("two".into())));
    assert_eq!(verdict.ttl, TtlLimits { min: 1, max: 9 });
}

#[test]
fn results_that_are_none_are_errors() {
    for (result, expected) in [
        ("true", "a boolean instead of an action's name or a table with an action"),
        ("5", "a number instead of an action's name or a table with an action"),
        ("print", "a function instead of an action's name or a table with an action"),
        ("{}", "action is missing"),
        ("{ 'BLOCK' }", "a list instead of an action's name or a table with an action"),
        (
            "{ 'x', action = 'BLOCK' }",
            "a table with both names and numbers instead of an action's name or a table with an action",
        ),
        (
            "{ action = 'BLOCK', [true] = 1 }",
            "a table with keys of another kind instead of an action's name or a table with an action",
        ),
        ("{ Action = 'BLOCK' }", "\"Action\" is no field of it (did you mean action?)"),
        (
            "'\\255'",
            "a text that is not UTF-8 instead of an action's name or a table with an action",
        ),
        (
            "{ action = 'FORWARD', min_ttl = 0/0 }",
            "min_ttl is NaN instead of 0 to 2147483647 seconds",
        ),
        (
            "{ action = 'FORWARD', max_ttl = 1e300 }",
            "max_ttl is a number instead of 0 to 2147483647 seconds",
        ),
        (
            "{ action = 'LOCAL_DATA', local_data = { ips = { [1] = '::', [3] = '::1' } } }",
            "ips is a list with holes instead of a list of addresses",
        ),
        (
            "{ action = 'LOCAL_DATA', local_data = { ips = { {} } } }",
            "ips is a table within tables instead of a text",
        ),
        (
            "table.create(200, 'x')",
            "a very large table instead of an action's name or a table with an action",
        ),
        (
            "('x'):rep(3000)",
            "a very long text instead of an action's name or a table with an action",
        ),
        ("setmetatable({}, { __index = { action = 'BLOCK' } })", "action is missing"),
        (
            "setmetatable({}, { __iter = function() return next, { action = 'BLOCK' } end })",
            "action is missing",
        ),
        ("setmetatable({}, { __tostring = function() return 'BLOCK' end })", "action is missing"),
    ] {
        let found = error(&format!("return {result}"));
        let PolicyError::Result(found) = found else { panic!("{result}: {found:?}") };
        let expected = expected.replace("max_ttl is a number", "max_ttl is 1");
        assert!(found.starts_with(&expected[..expected.len().min(12)]), "{result}: {found}");
        if !result.contains("1e300") {
            assert_eq!(found, expected, "{result}");
        }
    }
}

#[test]
fn questions_say_what_is_told() {
    let mut vm = handle(
        "return { action = 'FORWARD', upstream = table.concat({ question.domain, question.type,
            question.qtype, tostring(question.client), tostring(question.transport) }, ' ') }",
    );
    let mut said = |name: &str, record_type, client, transport| {
        let name = Name::parse(name).unwrap();
        let question = PolicyQuestion { name: name.as_wire(), record_type, client, transport };
        match vm.decide(&question).unwrap().choice {
            Some(Choice::Upstream(text)) => text.into_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(said("WWW.Example.org", RecordType::A, None, None), "www.example.org. A 1 nil nil");
    let client = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    let asked = said(".", RecordType(65_280), client("2001:db8::1"), Some(Transport::Doh));
    assert_eq!(asked, ". TYPE65280 65280 2001:db8::1 doh");
    let asked = said(r"a\.b\000.", RecordType::ANY, client("192.0.2.1"), Some(Transport::Udp));
    assert_eq!(asked, r"a\.b\000. ANY 255 192.0.2.1 udp");
}

#[test]
fn questions_are_read_only_and_each_its_own() {
    assert!(holds("not pcall(function() question.domain = 'x' end)"));
    assert!(holds("not pcall(rawset, question, 'domain', 'x')"));
    let mut vm = vm("local last
        function handle(question)
            local other = last ~= nil and last.domain ~= question.domain
            last = question
            return other and 'BLOCK' or nil
        end");
    assert_eq!(ask(&mut vm, "a").unwrap().action, PolicyAction::Forward);
    assert_eq!(ask(&mut vm, "b").unwrap().action, PolicyAction::Block);
}

#[test]
fn scripts_that_are_none_say_where() {
    for (text, line, expected) in [
        ("function handle( return end", Some(1), "Expected identifier when parsing variable name"),
        (
            "\n\nfunction handle() return { end",
            Some(3),
            "Expected identifier when parsing expression",
        ),
        ("", None, "the global \"handle\" is nil instead of a function"),
        ("handle = 5", None, "the global \"handle\" is number instead of a function"),
        ("local function handle() end", None, "the global \"handle\" is nil instead of a function"),
        ("function handle() end\nerror('no way')", Some(2), "no way"),
        ("function handle() end\nlocal x\nx.y = 1", Some(3), "attempt to index nil with 'y'"),
        ("function handle() end\n\nerror({})", Some(3), ""),
        ("function handle() end\nstring.rep()", Some(2), "missing argument #1 to 'rep'"),
        ("function handle() end\n('x'):find('[')", Some(2), "malformed pattern (missing ']')"),
        (
            "function handle() end\ndns.below('a')",
            Some(2),
            "dns.below: the suffix is nil instead of a text",
        ),
        (
            "function handle() end while true do end",
            None,
            "the script takes longer than 100 ms to load",
        ),
        (
            "function handle() end pcall(function() while true do end end)",
            None,
            "the script takes longer",
        ),
        (
            "function handle() end local t = {} while true do t = { t } end",
            None,
            "the script needs more memory",
        ),
        ("function handle() end error(('x'):rep(1e5))", Some(1), "xxx"),
    ] {
        let (found, message) = compile_error(text);
        assert!(message.starts_with(expected), "{text}: {message}");
        assert!(message.len() <= 256 && !message.contains(char::is_control), "{text}: {message}");
        if !text.contains("error({})") {
            assert_eq!(found, line, "{text}: {message}");
        }
    }
    let long = format!("function handle() end --{}", "x".repeat(TEXT_OCTETS));
    assert_eq!(compile_error(&long), (None, "the script is longer than 1024 KiB".to_owned()));
}

#[test]
fn bytecode_is_no_script() {
    let bytecode = Compiler::new().compile("function handle() return 'BLOCK' end").unwrap();
    // A file of the configuration is a text; what of it could be one is compiled, not run.
    let text: String = bytecode.iter().copied().map(char::from).collect();
    let (_, message) = compile_error(&text);
    assert!(message.contains("Expected"), "{message}");
}

#[test]
fn errors_say_where() {
    for (body, expected) in [
        ("\nlocal x = question.domain.y.z", "line 2: attempt to index nil with 'z'"),
        ("\n\nerror('no way')", "line 3: no way"),
        ("error('no\\nway')", "line 1: no\\nway"),
        ("\nlocal x = ('x'):match('[')", "line 2: malformed pattern (missing ']')"),
        (
            "\nreturn question:nothing()",
            "line 2: attempt to call missing method 'nothing' of table",
        ),
        ("\nos.exit()", "line 2: attempt to index nil with 'exit'"),
        ("local function f() return 1 + f() end\nreturn f()", "line 1: stack overflow"),
    ] {
        assert_eq!(error(body), PolicyError::Script(expected.to_owned()), "{body}");
    }
    for body in
        ["error()", "error({})", "error(print)", "error(setmetatable({}, { __tostring = error }))"]
    {
        assert!(matches!(error(body), PolicyError::Script(_)), "{body}");
    }
}

#[test]
fn after_an_error_the_vm_is_as_good_as_new() {
    let mut vm = vm("local asked = 0
        function handle(question)
            asked = asked + 1
            if question.domain == 'error.' then error('oh') end
            if question.domain == 'loop.' then while true do end end
            if question.domain == 'memory.' then local t = {} while true do t = { t } end end
            if question.domain == 'result.' then return 5 end
            return { action = 'FORWARD', min_ttl = asked }
        end");
    let count = |vm: &mut LuaVm| ask(vm, "a").unwrap().ttl.min;
    assert_eq!((count(&mut vm), count(&mut vm)), (1, 2), "locals of the script persist");
    assert_eq!(ask(&mut vm, "error"), Err(PolicyError::Script("line 4: oh".to_owned())));
    assert_eq!(count(&mut vm), 1);
    assert_eq!(ask(&mut vm, "loop"), Err(PolicyError::Timeout));
    assert_eq!(count(&mut vm), 1);
    assert_eq!(ask(&mut vm, "memory"), Err(PolicyError::Memory));
    assert_eq!(count(&mut vm), 1);
    assert!(matches!(ask(&mut vm, "result"), Err(PolicyError::Result(_))));
    assert_eq!((count(&mut vm), count(&mut vm)), (1, 2));
}

#[test]
fn a_script_that_catches_its_end_has_failed_all_the_same() {
    for body in [
        "pcall(function() while true do end end) return nil",
        "pcall(function() while true do end end) return 'FORWARD'",
        "xpcall(function() while true do end end, function() return 1 end) return nil",
        "xpcall(function() while true do end end, function() while true do end end)",
        "while true do pcall(function() while true do end end) end",
        "local function f() pcall(f) pcall(f) end f()",
        "setmetatable({}, { __index = function() while true do end end }).x = pcall(1)
         return pcall(function() return setmetatable({}, { __index = function() while true do end end }).x end) and nil",
        "error(setmetatable({}, { __tostring = function() while true do end end }))",
    ] {
        assert_eq!(error(body), PolicyError::Timeout, "{body}");
    }
}

#[test]
fn the_same_script_does_the_same_everywhere() {
    const TEXT: &str = "function handle()
        local n = math.random(1, 1000000)
        return { action = 'FORWARD', min_ttl = n }
    end";
    let draw = || {
        let mut vm = vm(TEXT);
        [0; 20].map(|_| ask(&mut vm, "a").unwrap().ttl.min)
    };
    let (one, other) = (draw(), draw());
    assert_eq!(one, other);
    assert!(one.iter().any(|number| *number != one[0]));
}

#[test]
fn without_a_clock_the_same_points_end_every_run() {
    let mut vm = vm("local turns = 0
        function handle(question)
            if question.domain ~= 'loop.' then return { action = 'FORWARD', min_ttl = turns } end
            pcall(function() while true do turns = turns + 1 end end)
        end");
    assert_eq!(ask(&mut vm, "loop"), Err(PolicyError::Timeout));
    assert_eq!(ask(&mut vm, "a").unwrap().ttl.min, 0, "a new VM");
    let short = LuaLimits { timeout: Duration::from_millis(1), ..LIMITS };
    let program = Program::compile(
        "test",
        "function handle(question)
            for _ = 1, tonumber((question.domain:gsub('%.', ''))) do end
        end",
        MEMORY,
    );
    let mut vm = LuaVm::new(Arc::new(program.unwrap()), short);
    let points = budget::POINTS_PER_MILLISECOND;
    assert!(ask(&mut vm, &(points - 100).to_string()).is_ok());
    assert_eq!(ask(&mut vm, &(points + 1).to_string()), Err(PolicyError::Timeout));
}

#[test]
fn nothing_of_the_outside_is_there() {
    let expected = "_G _VERSION assert bit32 dns error getmetatable ipairs math next pairs pcall print \
        rawequal rawget rawlen rawset select setmetatable string table tonumber tostring type typeof \
        unpack xpcall";
    let names = "local names = {} for name in pairs(_G) do table.insert(names, name) end
        table.sort(names) return { action = 'FORWARD', upstream = table.concat(names, ' ') }";
    assert_eq!(
        ask(&mut handle(names), "a").unwrap().choice,
        Some(Choice::Upstream(expected.into()))
    );
    for name in [
        "buffer",
        "class",
        "collectgarbage",
        "coroutine",
        "debug",
        "dofile",
        "gcinfo",
        "getfenv",
        "integer",
        "io",
        "load",
        "loadfile",
        "loadstring",
        "module",
        "newproxy",
        "os",
        "package",
        "require",
        "setfenv",
        "string.dump",
        "string.pack",
        "string.unpack",
        "table.foreach",
        "table.foreachi",
        "utf8",
        "vector",
    ] {
        assert!(holds(&format!("{name} == nil")), "{name}");
    }
}

#[test]
fn what_is_there_is_read_only() {
    for attempt in [
        "string.find = print",
        "table.sort = print",
        "math.pi = 3",
        "bit32.band = print",
        "dns.below = print",
        "_G.x = 1",
        "_G.handle = print",
        "getmetatable('').__index = {}",
        "getmetatable('').__add = print",
        "rawset(string, 'x', 1)",
        "rawset(_G, 'x', 1)",
        "setmetatable(string, {})",
        "setmetatable(_G, {})",
        "setmetatable('', {})",
        "table.clear(string)",
        "table.insert(dns, 1)",
        "rawset(getmetatable(''), '__index', 1)",
        "question.x = 1",
        "table.clear(question)",
        "setmetatable(question, {})",
    ] {
        assert!(holds(&format!("not pcall(function() {attempt} end)")), "{attempt}");
    }
    // Globals of the script's own are in a table of its own.
    let mut vm = vm("count = 0 string = { mine = 1 }
        function handle() count = count + string.mine return { action = 'FORWARD', min_ttl = count } end");
    assert_eq!(ask(&mut vm, "a").unwrap().ttl.min, 1);
    assert_eq!(ask(&mut vm, "a").unwrap().ttl.min, 2);
    assert!(holds("('x').mine == nil and ('x'):upper() == 'X'"));
}

#[test]
fn replaced_functions_work_as_before() {
    for expression in [
        "select('#', ('hello'):find('l+')) == 2 and ('hello'):find('l') == 3",
        "select(2, ('hello'):find('l', 4)) == 4",
        "('a.b'):find('.', 1, true) == 2 and ('a.b'):find('%.') == 2 and not ('a'):find('b')",
        "('hello'):match('h(.)l') == 'e' and ('key=1'):match('(%w+)=(%w+)') == 'key'",
        "string.match(53, '%d') == '5' and not pcall(string.match, {}, 'x')",
        "select('#', ('k=v'):match('(%w)=(%w)')) == 2 and ('aab'):match('a', 3) == nil",
        "('a,b'):gsub(',', ';') == 'a;b' and select(2, ('aaa'):gsub('a', 'b', 2)) == 2",
        "('abc'):gsub('%w', { a = '1' }) == '1bc' and ('abc'):gsub('b', string.upper) == 'aBc'",
        "(function() local n = 0 for x in ('a b c'):gmatch('%S') do n = n + 1 end return n end)() == 3",
        "('aB'):lower() == 'ab' and ('aB'):upper() == 'AB' and ('ab'):reverse() == 'ba'",
        "string.lower(5) == '5' and not pcall(string.lower, nil)",
        "#('a.b.c'):split('.') == 3 and ('a,b'):split()[2] == 'b'",
        "('%d %s %5.2f'):format(1, 'x', 2) == '1 x  2.00' and `{1}-{'a'}` == '1-a'",
        "not pcall(string.format, '%d') and ('%s'):format('nil') == 'nil'",
        "tonumber('12') == 12 and tonumber('x') == nil and tonumber('ff', 16) == 255",
        "tonumber(5) == 5 and tonumber(nil) == nil and tonumber('10', 2) == 2 and tonumber(' 1 ') == 1",
        "table.concat({ 1, 2, 3 }) == '123' and table.concat({ 1, 2, 3 }, ',', 2) == '2,3'",
        "table.concat({ 1, 2, 3 }, ',', 2, 2) == '2' and not pcall(table.concat, { {} })",
        "table.concat(table.move({ 1, 2, 3 }, 2, 3, 1)) == '233'",
        "table.concat(table.move({ 1, 2 }, 1, 2, 2, { 9 })) == '912'",
        "(function() local t = { 3, 1, 2 } table.sort(t) return table.concat(t) end)() == '123'",
        "(function() local t = { 3, 1, 2 } table.sort(t, function(a, b) return a > b end) return table.concat(t) end)() == '321'",
        "not pcall(table.sort, { 1, 'a' }) and not pcall(table.sort, { 2, 1 }, 5)",
        "print('x', {}) == nil",
    ] {
        assert!(holds(expression), "{expression}");
    }
}

#[test]
fn too_much_work_at_once_is_refused() {
    for call in [
        "('a'):rep(2e6):find('ab', 1, true)",
        "('a'):rep(2e6):match('.*b')",
        "('a'):rep(2e6):gmatch('a.')",
        "('a'):rep(2e6):gsub('a', 'b')",
        "('a'):rep(3e6):lower()",
        "('a'):rep(3e6):upper()",
        "('a'):rep(3e6):reverse()",
        "('a'):rep(2e5):split(',')",
        "('%s'):format(('a'):rep(3e6))",
        "tonumber(('1'):rep(3e6))",
        "table.concat(table.create(2e5, 'a'))",
        "table.move(table.create(1e5, 1), 1, 1e5, 2)",
        "string.format(('%f'):rep(300), unpack(table.create(300, 1e308)))",
        "table.concat({}, '', -1e300, 1e300)",
    ] {
        let body = format!("\nlocal x = {call}");
        let expected = "line 2: too much work for one call of a library function";
        assert_eq!(error(&body), PolicyError::Script(expected.to_owned()), "{call}");
    }
}

#[test]
fn memory_is_bounded() {
    let mut largest = 0;
    for body in [
        "local s = 'a' while true do s = s .. s end",
        "local s = ('a'):rep(1e9)",
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} for i = 1, 1e9 do t[i] = 'x' .. i end",
        "local t = {} while true do local x = 1 t[#t + 1] = function() x = x + 1 end end",
        "local t = table.create(2e6)",
        "local t = { 1 } while true do t = { table.clone(t), t } end",
        "local function f(...) return f(1, ...) end f()",
    ] {
        let limits = LuaLimits { timeout: Duration::from_secs(60), ..LIMITS };
        let text = format!(
            "function handle(question)
            if question.domain == 'ok.' then return 'BLOCK' end
            {body}
        end"
        );
        let program = Program::compile("test", &text, MEMORY).unwrap();
        let mut vm = LuaVm::new(Arc::new(program), limits);
        // The allocator that counts is the one that Lua's memory comes from.
        let mut end = None;
        let used = allocation_counter::measure(|| end = Some(ask(&mut vm, "a"))).bytes_max;
        assert_eq!(end, Some(Err(PolicyError::Memory)), "{body}");
        assert!(used <= MEMORY_AT_ONCE, "{body}: {used} octets");
        largest = largest.max(used);
        assert_eq!(ask(&mut vm, "ok").unwrap().action, PolicyAction::Block, "{body}");
    }
    assert!(largest > 8 << 20, "nothing of it was counted: {largest} octets");
}

/// The limit holds for garbage too: it has to be collected in time.
#[test]
fn garbage_takes_no_more_than_its_share() {
    let mut vm = vm("local names = {}
        for i = 1, 60000 do names[i] = 'n' .. i .. '.example.org.' end
        function handle(question)
            local list = {}
            for i = 1, 50 do list[i] = { i, question.domain .. i } end
            return (('x'):rep(10000) .. #list == names[1]) and 'BLOCK' or nil
        end");
    for turn in 0..5_000 {
        assert_eq!(
            ask(&mut vm, "a").map(|verdict| verdict.action),
            Ok(PolicyAction::Forward),
            "{turn}"
        );
    }
}

#[test]
fn helpers_know_names_and_addresses() {
    for expression in [
        "dns.below('www.example.org.', 'example.org.')",
        "dns.below('WWW.Example.org', 'eXample.ORG.') and dns.below('example.org.', 'example.org')",
        "dns.below('a.', '.') and dns.below('.', '.') and not dns.below('.', 'a.')",
        "not dns.below('www.badexample.org.', 'example.org.') and not dns.below('org.', 'example.org.')",
        "not dns.below('a\\\\.example.org.', 'example.org.') and dns.below('a\\\\.b.org.', 'org.')",
        "dns.below('bücher.example.', 'xn--bcher-kva.example.')",
        "table.concat(dns.labels('WWW.example.org.'), '|') == 'www|example|org'",
        "#dns.labels('.') == 0 and dns.labels('a\\\\.b.c.')[1] == 'a\\\\.b'",
        "table.concat(dns.suffixes('WWW.example.org'), '|') == 'www.example.org.|example.org.|org.|.'",
        "dns.suffixes('.')[1] == '.' and #dns.suffixes('.') == 1",
        "dns.in_prefix('192.0.2.77', '192.0.2.0/24') and not dns.in_prefix('192.0.3.1', '192.0.2.0/24')",
        "dns.in_prefix('192.0.2.77', '192.0.2.77') and dns.in_prefix('2001:db8::1', '2001:db8::/32')",
        "dns.in_prefix('::ffff:192.0.2.1', '192.0.2.0/24') and not dns.in_prefix('192.0.2.1', '::/0')",
        "not pcall(dns.below, 'a..b.', 'b.') and not pcall(dns.below, 'a.', '.b.')",
        "not pcall(dns.labels, ('a'):rep(64)) and not pcall(dns.suffixes, ('a.'):rep(1e6))",
        "not pcall(dns.below, 5, 'a.') and not pcall(dns.labels) and not pcall(dns.labels, '\\255\\254')",
        "not pcall(dns.in_prefix, '1.2.3', '::/0') and not pcall(dns.in_prefix, '::', '::/129')",
    ] {
        assert!(holds(expression), "{expression}");
    }
    let PolicyError::Script(message) = error("return dns.in_prefix(question.client, '::/0')")
    else {
        panic!("an error of the script");
    };
    assert!(message.contains("question.client is not told"), "{message}");
}
