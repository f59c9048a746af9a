//! Scripts that try to take more than they may, against a clock: each ends within its time and five
//! milliseconds, and the next question is answered right. That their memory holds is a unit test.
//!
//! The clock counts what this thread has worked: a script is not to blame for what else the machine
//! does meanwhile. Without optimisation the functions that cannot be stopped take longer, so that
//! the five milliseconds hold in release builds.

use std::sync::Arc;

use balancedns_core::policy::{
    LuaLimits, LuaVm, PolicyAction, PolicyError, PolicyQuestion, PolicyVerdict, Program,
};
use balancedns_core::time::{Duration, Instant};
use balancedns_core::wire::{Name, RecordType};
use nix::time::{ClockId, clock_gettime};

/// `plugins.timeout_ms` and `plugins.memory_limit_mb` by default.
const TIMEOUT: Duration = Duration::from_millis(20);
const MEMORY: usize = 16 << 20;
/// What a script may take beyond its time.
const GRACE: Duration = Duration::from_millis(if cfg!(debug_assertions) { 50 } else { 5 });
/// A run counts as slow only if it was slow each time: caches and page faults are not the script's.
const RUNS: usize = 3;

/// How a script may end, all of them being errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Time,
    Memory,
    Script,
    Result,
}
use End::{Memory, Result as NoResult, Script, Time};

/// Bodies of `handle`, and how they may end.
const LOOPS: &[(&str, &[End])] = &[
    ("while true do end", &[Time]),
    ("repeat until false", &[Time]),
    ("for _ = 1, math.huge do end", &[Time]),
    ("for _ in function() return 1 end do end", &[Time]),
    ("local t = {1} for _ in pairs(t) do while true do end end", &[Time]),
    ("while true do print('x') end", &[Time]),
    ("while true do dns.suffixes(('a.'):rep(120)) end", &[Time]),
    ("local function f() return f() end return f()", &[Script]),
    ("local function f() return 1 + f() end return f()", &[Script]),
    ("local function f() pcall(f) pcall(f) end f()", &[Time]),
    ("while true do pcall(function() while true do end end) end", &[Time]),
    ("while true do pcall(error, 'x') end", &[Time]),
    ("pcall(function() while true do end end) return nil", &[Time]),
    ("local f f = function() xpcall(f, f) end while true do f() end", &[Time]),
    (
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        &[Time],
    ),
    ("xpcall(error, function() while true do end end)", &[Time]),
    ("local co = coroutine.wrap(function() while true do end end) co()", &[Script]),
    ("coroutine.yield('BLOCK')", &[Script]),
];

const PATTERNS: &[(&str, &[End])] = &[
    ("local s = ('a'):rep(30000) while true do s:find('.-.-.-.-.-.-b') end", &[Time]),
    ("local s = ('a'):rep(2000) while true do s:find(('a*'):rep(30) .. 'b') end", &[Time]),
    (
        "local s = ('a'):rep(4000) while true do s:match('[' .. ('b'):rep(500) .. 'a]*c') end",
        &[Time],
    ),
    (
        "local s = ('a'):rep(2000) while true do s:match('[' .. ('%d'):rep(500) .. 'a]*') end",
        &[Time],
    ),
    ("local s = ('('):rep(200000) while true do s:find('%b()') end", &[Time]),
    ("local s = ('a'):rep(60000) while true do s:find('(.*)%1%1%1x') end", &[Time]),
    ("local s = ('a'):rep(1e6) .. 'b' while true do s:find('ab', 1, true) end", &[Script]),
    ("local s = ('a'):rep(6e5) .. 'b' while true do s:find('ab', 1, true) end", &[Time]),
    (
        "local s, p = ('a'):rep(2000), ('a'):rep(1000) .. 'b' while true do s:find(p, 1, true) end",
        &[Time],
    ),
    (
        "local s, p = ('a'):rep(3e6), ('a'):rep(15e5) .. 'b' while true do pcall(string.find, s, p) end",
        &[Time],
    ),
    ("local s = ('a'):rep(500000) while true do s:gsub('a', 'bbbbbbbb') end", &[Time, Memory]),
    (
        "local s, r = ('a'):rep(1000), ('b'):rep(1e6) while true do pcall(string.gsub, s, 'a', r) end",
        &[Time],
    ),
    (
        "local s, r = ('a'):rep(2e5), ('%0'):rep(5e4) while true do pcall(string.gsub, s, '.*', r) end",
        &[Time],
    ),
    ("local s = ('a'):rep(500000) while true do for _ in s:gmatch('a-b') do end end", &[Time]),
    ("local s = ('a'):rep(1e6) s:gsub('a', function() while true do end end)", &[Time, Script]),
];

const LIBRARY: &[(&str, &[End])] = &[
    ("local s = ('a'):rep(2e6) while true do pcall(string.lower, s) end", &[Time]),
    ("local s = ('a'):rep(2e6) while true do pcall(string.reverse, s) end", &[Time]),
    ("local s = (','):rep(1e5) while true do pcall(string.split, s, ',') end", &[Time]),
    ("local s = ('\\n'):rep(2e6) while true do pcall(string.format, '%q', s) end", &[Time]),
    (
        "local f, t = ('%99.99f'):rep(7000), table.create(7000, 1e308)
      while true do pcall(string.format, f, unpack(t)) end",
        &[Time],
    ),
    (
        "local f, t = ('%99.99f'):rep(200), table.create(200, 1e308)
      while true do string.format(f, unpack(t)) end",
        &[Time],
    ),
    (
        "local s = ('1'):rep(2e6) while true do pcall(tonumber, s) pcall(tonumber, s, 2) end",
        &[Time],
    ),
    ("local s = ('1'):rep(4e6) while true do local t = s + 1 end", &[Time]),
    ("local s = '0.' .. ('1'):rep(3e6) while true do local t = s + 1 end", &[Time]),
    (
        "local s = ('a'):rep(2e6) local a, b = s .. 'x', s .. 'y' while true do local t = a < b end",
        &[Time],
    ),
    ("local t = table.create(4e5, 1) while true do pcall(unpack, t) end", &[Time]),
    (
        "local t = table.create(4e5, 1) while true do table.insert(t, 1, 1) table.remove(t, 1) end",
        &[Time],
    ),
    ("local t = table.create(4e5, 1) while true do table.find(t, 2) end", &[Time]),
    ("local t = table.create(2e5, 1) while true do pcall(table.clone, t) end", &[Time]),
    ("local t = table.create(1e5, 'abc') while true do pcall(table.concat, t) end", &[Time]),
    (
        "local t = table.create(100, ('x'):rep(1e5)) while true do pcall(table.concat, t) end",
        &[Time],
    ),
    (
        "local t = table.create(1e5, 1) while true do pcall(table.move, t, 1, 8000, 1e7, {}) end",
        &[Time],
    ),
    (
        "local t = {} for i = 1, 1e5 do t[i] = (i * 7919) % 100003 end while true do table.sort(t) end",
        &[Time],
    ),
    (
        "local t = {} for i = 1, 1e5 do t[i] = i end while true do pcall(table.sort, t, rawequal) end",
        &[Time],
    ),
    (
        "local t = {} for i = 1, 1e5 do t[i] = i end
      while true do pcall(table.sort, t, function() return true end) end",
        &[Time],
    ),
    (
        "local t = {} for i = 1, 1e5 do t[i] = i end
      table.sort(t, function(a, b) return math.random() < 0.5 end) while true do end",
        &[Time, Script],
    ),
    (
        "local t = {} for i = 1, 1e5 do t[i * 7.5] = i end for k in pairs(t) do t[k] = nil end
      while true do next(t) end",
        &[Time],
    ),
];

const BOMBS: &[(&str, &[End])] = &[
    ("local s = 'a' while true do s = s .. s end", &[Memory]),
    ("local s = ('a'):rep(3e6) while true do local t = s .. 'x' end", &[Memory, Time]),
    (
        "local s = ('a'):rep(3e6) while true do pcall(function() local t = s .. 'x' end) end",
        &[Time],
    ),
    ("return ('a'):rep(1e9)", &[Memory, Script]),
    ("while true do pcall(string.rep, 'ab', 8e6) end", &[Time]),
    ("local t = {} while true do t[#t + 1] = {} end", &[Memory, Time]),
    ("local t = {} while true do t = { t } end", &[Memory, Time]),
    ("local t = {} for i = 1, 1e9 do t['x' .. i] = i end", &[Memory, Time]),
    ("local t = {} for i = 1, 1e9 do t[i * 7.5] = i end", &[Memory, Time]),
    (
        "local t = {} while true do local x = 1 t[#t + 1] = function() x = x + 1 end end",
        &[Memory, Time],
    ),
    ("while true do pcall(table.create, 9e5, 1) end", &[Time]),
    ("local function f(...) return f(1, ...) end f()", &[Memory, Script]),
    (
        "local t = setmetatable({}, { __mode = 'kv' }) for i = 1, 1e9 do t[i] = {} end",
        &[Memory, Time],
    ),
    ("while true do local t = { {}, {}, {} } end", &[Time]),
    (
        "local t = table.concat(table.create(60, ('x'):rep(1e5))) .. 'x' while true do t = t .. t end",
        &[Memory, Script],
    ),
];

const OBJECTS: &[(&str, &[End])] = &[
    ("local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x", &[Script]),
    ("local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end return t.x", &[Script]),
    ("local m = {} m.__eq = function(a, b) return a == b end
      return setmetatable({}, m) == setmetatable({}, m)", &[Script]),
    ("local o = setmetatable({}, {}) getmetatable(o).__tostring = function() return tostring(o) end
      return tostring(o)", &[Script]),
    ("error(setmetatable({}, { __tostring = function() while true do end end }))", &[Time]),
    ("error(setmetatable({}, { __tostring = function() return ('x'):rep(3e6) end }))", &[Script, Memory]),
    ("error(('x'):rep(3e6))", &[Script, Memory]),
    ("return setmetatable({}, { __index = function() while true do end end })", &[NoResult]),
    ("return setmetatable({}, { __iter = function() while true do end end })", &[NoResult]),
    ("return setmetatable({}, { __len = function() while true do end end })", &[NoResult]),
    ("return { action = setmetatable({}, { __tostring = function() while true do end end }) }", &[NoResult]),
    ("return table.create(1e5, 'BLOCK')", &[NoResult]),
    ("return { action = ('x'):rep(4e6) }", &[NoResult]),
    ("local t = {} t.action = t t.local_data = t return t", &[NoResult]),
    ("return function() end", &[NoResult]),
];

const REACHES: &[(&str, &[End])] = &[
    ("return io.open('/etc/passwd')", &[Script]),
    ("return os.execute('true')", &[Script]),
    ("return require('os')", &[Script]),
    ("return loadstring('return 1')()", &[Script]),
    ("return dofile('/etc/passwd')", &[Script]),
    ("return debug.info(1, 's')", &[Script]),
    ("return getfenv(1)", &[Script]),
    ("getmetatable('').__index = function() return 'BLOCK' end", &[Script]),
    ("string.match = nil", &[Script]),
    ("_G.handle = nil", &[Script]),
    ("question.domain = 'ok.'", &[Script]),
];

/// Milliseconds of work of this thread.
fn thread_clock() -> Instant {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock");
    Instant::ZERO + Duration::from(time)
}

fn ask(vm: &mut LuaVm, name: &str) -> Result<PolicyVerdict, PolicyError> {
    let name = Name::parse(name).expect("it is a name");
    vm.decide(&PolicyQuestion {
        name: name.as_wire(),
        record_type: RecordType::A,
        client: None,
        transport: None,
    })
}

fn end_of(error: &PolicyError) -> End {
    match error {
        PolicyError::Timeout => Time,
        PolicyError::Memory => Memory,
        PolicyError::Script(_) => Script,
        PolicyError::Result(_) => NoResult,
        PolicyError::Process(_)
        | PolicyError::Output
        | PolicyError::Busy
        | PolicyError::Disabled => {
            panic!("a script ended with {error}")
        }
    }
}

/// Runs each body and reports all that is not as it should be.
fn assert_harmless(bodies: &[(&str, &[End])]) {
    let mut problems = Vec::new();
    for (body, ends) in bodies {
        let text = format!(
            "function handle(question)
                if question.domain == 'ok.' then return 'BLOCK' end
                {body}
            end"
        );
        let program =
            Program::compile("hostile", &text, MEMORY).expect("its own lines are harmless");
        let limits = LuaLimits { memory: MEMORY, timeout: TIMEOUT, clock: Some(thread_clock) };
        let mut vm = LuaVm::new(Arc::new(program), limits);
        let mut fastest = Duration::MAX;
        for _ in 0..RUNS {
            // The VM is there before the time is taken: after an error, this call makes a new one.
            assert_eq!(ask(&mut vm, "ok").map(|verdict| verdict.action), Ok(PolicyAction::Block));
            let start = thread_clock();
            let verdict = ask(&mut vm, "hostile");
            fastest = fastest.min(thread_clock().since(start));
            match verdict {
                Ok(verdict) => problems.push(format!("{body}: {verdict:?}")),
                Err(error) if !ends.contains(&end_of(&error)) => {
                    problems.push(format!("{body}: {error}"));
                }
                Err(_) => {}
            }
        }
        if fastest > TIMEOUT + GRACE {
            problems.push(format!("{body}: {fastest:?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn loops_of_every_kind_end() {
    assert_harmless(LOOPS);
}

#[test]
fn patterns_that_search_forever_end() {
    assert_harmless(PATTERNS);
}

#[test]
fn functions_of_the_library_end() {
    assert_harmless(LIBRARY);
}

#[test]
fn memory_that_grows_ends() {
    assert_harmless(BOMBS);
}

#[test]
fn objects_that_loop_end() {
    assert_harmless(OBJECTS);
}

#[test]
fn nothing_outside_is_reached() {
    assert_harmless(REACHES);
}
