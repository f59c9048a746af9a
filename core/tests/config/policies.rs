//! Plugins, groups, pools and what else decides about questions.

use std::net::IpAddr;

use balancedns_core::policy::{
    BlockSetId, ExecMode, Group, LocalAnswer, OnError, PluginKind, PluginSettings, Rebinding,
};
use balancedns_core::time::Duration;
use balancedns_core::upstream::Route;
use balancedns_core::wire::{LocalData, LocalRecord, Name, Owner, RecordType};

use crate::support::{FakeHost, warnings, with};

const SCRIPT: &str = "function handle(question) return 'FORWARD' end";

/// A host with scripts and an executable.
fn host() -> FakeHost {
    FakeHost::new()
        .file("etc/a.lua", SCRIPT)
        .file("etc/sub/b.lua", SCRIPT)
        .file("/opt/c.lua", SCRIPT)
        .executable("etc/filter")
        .executable("/opt/filter")
}

fn plugins(keys: &str) -> PluginSettings {
    let loaded = host().load(&with(keys)).unwrap_or_else(|errors| panic!("{keys}: {errors:?}"));
    assert_eq!(warnings(&loaded), [""; 0], "{keys}");
    PluginSettings::clone(&loaded.snapshot.plugins)
}

#[test]
fn plugins_are_read_with_their_files() {
    let text = with(
        "plugins = { enabled = true, timeout_ms = 30, on_error = 'Block', memory_limit_mb = 2,
            disable_after_failures = 5, entries = {
            { path = './a.lua' },
            { name = 'second', path = 'sub/b.lua', runtime = 'Lua', timeout_ms = 7 },
            { path = 'filter', runtime = 'go_exec', args = { '-v', '' } },
            { name = 'kept', path = '/opt/filter', runtime = 'exec', mode = 'worker', default = false },
        } },
        routing = { chain = { 'lua_policy', 'upstream' } },
        groups = { { name = 'g', clients = { '::1' }, plugins = { 'kept' } } }",
    );
    let loaded = host().load(&text).expect("loads");
    assert_eq!(warnings(&loaded), [""; 0]);
    assert_eq!(loaded.files, ["etc/a.lua", "etc/sub/b.lua"], "a change of a script is noticed");
    let settings = &loaded.snapshot.plugins;
    assert_eq!(settings.on_error, OnError::Block);
    assert_eq!((settings.memory_limit, settings.disable_after), (2 << 20, 5));
    let named: Vec<_> = settings.plugins.iter().map(|one| (&one.name[..], one.timeout)).collect();
    let millis = Duration::from_millis;
    let expected = [
        ("a.lua", millis(30)),
        ("second", millis(7)),
        ("filter", millis(30)),
        ("kept", millis(30)),
    ];
    assert_eq!(named, expected);
    let kinds: Vec<String> = settings
        .plugins
        .iter()
        .map(|one| match &one.kind {
            PluginKind::Lua(program) => program.name().to_owned(),
            PluginKind::Exec(exec) => {
                assert_eq!(exec.name, one.name);
                format!("{} {:?} {}", exec.path, exec.args, exec.mode == ExecMode::Worker)
            }
        })
        .collect();
    assert_eq!(
        kinds,
        ["etc/a.lua", "etc/sub/b.lua", "etc/filter [\"-v\", \"\"] false", "/opt/filter [] true"]
    );
    assert_eq!(loaded.snapshot.groups.everybody().plugins, [0, 1, 2], "the last is for groups");
}

#[test]
fn scripts_are_the_older_form_of_entries() {
    let settings = plugins("plugins = { enabled = true, scripts = { 'a.lua', '/opt/c.lua' } }");
    let names: Vec<&str> = settings.plugins.iter().map(|one| &one.name[..]).collect();
    assert_eq!(names, ["a.lua", "c.lua"]);
    assert_eq!(settings.plugins[1].timeout, Duration::from_millis(20));
}

#[test]
fn while_plugins_are_off_no_file_is_read() {
    let settings = plugins(
        "plugins = { enabled = false, entries = { { path = 'none.lua' },
            { name = 'x', path = 'none', runtime = 'exec' } } },
         groups = { { name = 'g', clients = { '::1' }, plugins = { 'x' } } }",
    );
    assert_eq!(settings, PluginSettings::default());
}

#[test]
fn wrong_plugins() {
    for (entry, expected) in [
        (
            "{ path = 'none.lua' }",
            "path: \"none.lua\" cannot be read at \"etc/none.lua\": no such file; expected a readable \
             file",
        ),
        (
            "{ path = 'none', runtime = 'exec' }",
            "path: \"none\" cannot be started at \"etc/none\": no such file; expected a file that may \
             be executed",
        ),
        ("{ path = 'sub/' }", "path: \"sub/\" is a folder; expected the path of a file"),
        (
            "{ path = 'filter', runtime = 'exec', args = { 'a\\0' } }",
            "args[1]: \"a\\0\" is no argument; expected a text without a NUL character",
        ),
        (
            "{ path = 'a.lua', name = 'a\\nb' }",
            "name: \"a\\nb\" is wrong; expected a name of up to 100 printable characters",
        ),
        (
            "{ path = 'filter', runtime = 'exec', mode = 'twice' }",
            "mode: \"twice\" is wrong; expected one of once, worker",
        ),
    ] {
        let text = with(&format!("plugins = {{ enabled = true, entries = {{ {entry} }} }}"));
        let expected = format!("etc/test.lua:2: plugins.entries[1].{expected}");
        assert_eq!(host().errors(&text), [expected], "{entry}");
    }
    let many = with(
        "plugins = { scripts = (function()
            local list = {} for n = 1, 101 do list[n] = n .. '.lua' end return list
        end)() }",
    );
    assert_eq!(
        host().errors(&many),
        [
            "etc/test.lua:2: plugins.scripts[101]: \"101.lua\" is one plugin too many; expected at most \
          100 plugins"
        ]
    );
}

#[test]
fn plugins_without_effect_are_warned_about() {
    for (keys, warning) in [
        ("plugins = { enabled = true }", "plugins.enabled: has no effect: there is no plugin"),
        (
            "plugins = { enabled = true, entries = { { path = 'a.lua' } } },
             routing = { chain = { 'cache', 'upstream' } }",
            "plugins.enabled: has no effect without \"lua_policy\" in routing.chain",
        ),
        (
            "plugins = { entries = { { path = 'a.lua', args = { '-v' } } } }",
            "plugins.entries[1].args: a list of 1 has no effect on runtime lua",
        ),
        (
            "plugins = { entries = { { path = 'a.lua', mode = 'worker' } } }",
            "plugins.entries[1].mode: \"worker\" has no effect on runtime lua",
        ),
        (
            "plugins = { enabled = true, entries = { { path = 'a.lua', default = false } } }",
            "plugins.entries[1]: is asked for nobody: no group names it",
        ),
    ] {
        let loaded = host().load(&with(keys)).expect("loads");
        assert_eq!(warnings(&loaded), [format!("etc/test.lua:2: {warning}")], "{keys}");
    }
}

/// Three upstreams, one of them in no pool.
const POOLS: &str = "pools = { { name = 'inside' }, { name = 'kids', policy = 'Ordered' } },
    upstreams = { { name = 'a', addr = '192.0.2.1:53', pool = 'kids' },
        { name = 'b', addr = '192.0.2.2:53', pool = 'inside' },
        { name = 'c', addr = '192.0.2.3:53' } },";

fn with_pools(keys: &str) -> String {
    format!("return {{ {POOLS}\n{keys} }}")
}

#[test]
fn pools_have_members() {
    let snapshot = host().load(&with_pools("")).expect("loads").snapshot;
    assert_eq!(snapshot.pools, ["inside", "kids"]);
    let members: Vec<_> = snapshot.upstreams.iter().map(|one| one.pool).collect();
    assert_eq!(members, [Some(1), Some(0), None]);
}

#[test]
fn wrong_pools() {
    const GENERAL: &str = "{ name = 'u', addr = '192.0.2.1:53' },\n";
    for (pools, upstreams, expected) in [
        (
            "{ { name = 'p' } }",
            GENERAL,
            "1: pools[1].name: \"p\" has no upstream; expected upstreams[].pool that names it, or no \
             such pool",
        ),
        (
            "{ { name = 'inside' }, { name = 'inside' } }",
            "{ name = 'u', addr = '192.0.2.1:53' },\n{ name = 'v', addr = '192.0.2.2:53', pool = \
             'inside' }",
            "1: pools[2].name: \"inside\" is the name of another pool; expected a unique name",
        ),
        (
            "{ { name = 'inside' } }",
            "{ name = 'v', addr = '192.0.2.2:53', pool = 'inside' }",
            "1: upstreams: are all in pools: for a client that no group and no plugin sends to one, \
             nobody can be asked; expected at least one upstream without a pool",
        ),
        (
            "{ { name = 'inside', policy = 'fastest' } }",
            "{ name = 'u', addr = '192.0.2.1:53' },\n{ name = 'v', addr = '192.0.2.2:53', pool = \
             'inside' }",
            "1: pools[1].policy: \"fastest\" is not available in this build; expected \"ordered\"",
        ),
        (
            "{ { name = 'inside' } }",
            "{ name = 'u', addr = '192.0.2.1:53' }, { name = 'v', addr = '192.0.2.2:53', pool = \
             'inside' },\n{ name = 'w', addr = '192.0.2.2:53', pool = 'insied' }",
            "2: upstreams[3].pool: \"insied\" is not in pools; expected the name of a pool (did you \
             mean \"inside\"?)",
        ),
        (
            "{ {} }",
            GENERAL,
            "1: pools[1].name: is missing; expected a name of up to 100 printable characters",
        ),
    ] {
        let text = format!("return {{ pools = {pools}, upstreams = {{ {upstreams} }} }}");
        let errors = host().errors(&text);
        assert!(errors.contains(&format!("etc/test.lua:{expected}")), "{pools}: {errors:?}");
    }
}

fn group_of<'s>(snapshot: &'s balancedns_core::config::Snapshot, client: &str) -> &'s Group {
    let ip: IpAddr = client.parse().expect("an address");
    snapshot.groups.of(ip)
}

#[test]
fn groups_have_what_they_say_and_else_what_everybody_has() {
    let keys = "routing = { chain = { 'blacklist', 'hosts', 'lua_policy', 'cache', 'upstream' } },
        plugins = { enabled = true, entries = { { path = 'a.lua' }, { path = 'sub/b.lua' },
            { name = 'extra', path = '/opt/c.lua', default = false } } },
        blacklist = { domains = { 'everybody.example' } },
        groups = {
            { name = 'kids', clients = { '192.0.2.0/24', '::ffff:198.51.100.0/120' }, pool = 'kids',
              blacklist = { domains = { 'kids.example' } }, plugins = { 'extra', 'a.lua' } },
            { name = 'lab', clients = { '192.0.2.128/25', '2001:db8::/32' }, blacklist = false,
              plugins = false },
            { name = 'plain', clients = { '192.0.2.255' } },
            { name = 'empty', clients = { '203.0.113.1' }, blacklist = {}, plugins = {} },
        },";
    let loaded = host().load(&with_pools(keys)).expect("loads");
    assert_eq!(warnings(&loaded), [""; 0]);
    let snapshot = loaded.snapshot;
    let group = |client: &str| group_of(&snapshot, client);
    for (client, name, plugins, route) in [
        ("192.0.2.1", "kids", &[2, 0][..], Route::Pool(1)),
        ("198.51.100.7", "kids", &[2, 0], Route::Pool(1)),
        ("192.0.2.200", "lab", &[], Route::General),
        ("2001:db8::1", "lab", &[], Route::General),
        ("192.0.2.255", "plain", &[0, 1], Route::General),
        ("203.0.113.1", "empty", &[], Route::General),
        ("203.0.113.2", "", &[0, 1], Route::General),
    ] {
        let group = group(client);
        let expected = (name, plugins, route);
        assert_eq!((&group.name[..], &group.plugins[..], group.route), expected, "{client}");
    }
    let blocks = |client: &str, name: &str| {
        let set = snapshot.blocking.set(group(client).block_set).expect("each group has one");
        set.blocks(Name::parse(name).expect("a name").as_wire()).is_some()
    };
    assert_eq!(snapshot.blocking.sets().len(), 4);
    for (client, everybody, kids) in [
        ("192.0.2.1", false, true),
        ("192.0.2.200", false, false),
        ("192.0.2.255", true, false),
        ("203.0.113.1", false, false),
        ("203.0.113.2", true, false),
    ] {
        assert_eq!(blocks(client, "everybody.example"), everybody, "{client}");
        assert_eq!(blocks(client, "kids.example"), kids, "{client}");
    }
    assert_eq!(group("192.0.2.255").block_set, BlockSetId(0));
}

#[test]
fn wrong_groups() {
    for (groups, expected) in [
        (
            "{ clients = { '::1' } }",
            "groups[1].name: is missing; expected a name of up to 100 printable characters",
        ),
        (
            "{ name = 'g' }",
            "groups[1].clients: is missing; expected a list of at least one network",
        ),
        (
            "{ name = 'g', clients = {} }",
            "groups[1].clients: {} has no network; expected a list of at least one network",
        ),
        (
            "{ name = 'g', clients = { 'x' } }",
            "groups[1].clients[1]: \"x\" is not a network; expected a network such as \
             \"192.0.2.0/24\", or an ip address",
        ),
        (
            "{ name = 'g', clients = { '10.0.0.0/8' } }, { name = 'h', clients = { '10.0.0.0/16', \
             '::ffff:10.0.0.0/104' } }",
            "groups[2].clients[2]: \"::ffff:10.0.0.0/104\" is in the group \"g\" already; expected \
             each network in one group; longer prefixes win",
        ),
        (
            "{ name = 'g', clients = { '::1' } }, { name = 'g', clients = { '::2' } }",
            "groups[2].name: \"g\" is the name of another group; expected a unique name",
        ),
        (
            "{ name = 'g', clients = { '::1' }, pool = 'kid' }",
            "groups[1].pool: \"kid\" is not in pools; expected the name of a pool (did you mean \
             \"kids\"?)",
        ),
        (
            "{ name = 'g', clients = { '::1' }, plugins = { 'b.lua' } }",
            "groups[1].plugins[1]: \"b.lua\" is not in plugins.entries; expected the name of a plugin \
             (did you mean \"a.lua\"?)",
        ),
        (
            "{ name = 'g', clients = { '::1' }, plugins = { 'a.lua', 'a.lua' } }",
            "groups[1].plugins[2]: \"a.lua\" is listed twice; expected each plugin once",
        ),
        (
            "{ name = 'g', clients = { '::1' }, plugins = true }",
            "groups[1].plugins: true is wrong; expected a list of names of plugins",
        ),
        (
            "{ name = 'g', clients = { '::1' }, blacklist = true }",
            "groups[1].blacklist: true is wrong; expected a table as the top-level blacklist, or false",
        ),
        (
            "{ name = 'g', clients = { '::1' }, blacklist = { domains = { 'a..b' } } }",
            "groups[1].blacklist.domains[1]: \"a..b\" is not a name: a label is empty; expected a name, \
             or *.name or .name for all names below it",
        ),
    ] {
        let keys = format!("groups = {{ {groups} }}, plugins = {{ scripts = {{ 'a.lua' }} }}");
        let errors = host().errors(&with_pools(&keys));
        assert_eq!(errors.len(), 1, "{groups}: {errors:?}");
        let (_, error) = errors[0].split_once(": ").expect("it has a place");
        assert_eq!(error, expected, "{groups}");
    }
}

#[test]
fn there_are_bounds_to_groups() {
    let groups = |count: usize| {
        with(&format!(
            "groups = (function() local list = {{}} for n = 1, {count} do
                list[n] = {{ name = 'g' .. n, clients = {{ '10.0.0.' .. n }}, blacklist = {{}} }}
            end return list end)()"
        ))
    };
    let snapshot = host().load(&groups(62)).expect("loads").snapshot;
    assert_eq!((snapshot.groups.all().len(), snapshot.blocking.sets().len()), (63, 63));
    assert_eq!(group_of(&snapshot, "10.0.0.62").block_set, BlockSetId(62));
    assert_eq!(
        host().errors(&groups(63)),
        [
            "etc/test.lua:2: groups[63]: a table with blacklist, clients, name is one group too many; \
          expected at most 62 groups"
        ]
    );
}

/// What the cache holds would be given to a group whose plugins have not been asked.
#[test]
fn groups_with_plugins_of_their_own_need_the_policy_before_the_cache() {
    let keys = |plugins: &str, besides: &str| {
        with(&format!(
            "plugins = {{ {plugins}, entries = {{ {{ path = 'a.lua' }} }} }}, {besides}
             groups = {{ {{ name = 'g', clients = {{ '::1' }}, plugins = {{}} }} }}"
        ))
    };
    let expected = "etc/test.lua:3: groups[1].plugins: {} is one group's own list, but \"cache\" stands \
        before \"lua_policy\" in routing.chain, so that an answer made for one group would be given to \
        all; expected \"lua_policy\" before \"cache\", or no such key";
    assert_eq!(host().errors(&keys("enabled = true", "")), [expected]);
    for fine in [
        keys("enabled = false", ""),
        keys("enabled = true", "cache = { enabled = false },"),
        keys("enabled = true", "routing = { chain = { 'lua_policy', 'cache', 'upstream' } },"),
        keys("enabled = true", "routing = { chain = { 'plugins', 'upstream' } },"),
    ] {
        assert!(host().load(&fine).is_ok(), "{fine}");
    }
}

#[test]
fn the_rebinding_guard_knows_what_is_routed() {
    let text = |rebinding: &str| {
        format!(
            "return {{ upstreams = {{ {{ name = 'u', addr = '192.0.2.1:53' }},
                {{ name = 'v', addr = '192.0.2.2:53', zones = {{ 'corp.example', '.' }} }} }},
                rebinding = {rebinding} }}"
        )
    };
    let guard = |rebinding: &str| host().load(&text(rebinding)).expect("loads").snapshot.rebinding;
    assert!(guard("{}").is_none() && guard("{ allow = { 'a.example' } }").is_none());
    let guard = guard("{ enabled = true, allow = { '*.lan.example' } }").expect("it is on");
    let allows =
        |name: &str| Rebinding::allows(&guard, Name::parse(name).expect("a name").as_wire());
    assert!(allows("a.corp.example") && allows("a.lan.example"));
    assert!(!allows("lan.example") && !allows("www.example"));
}

#[test]
fn plain_settings_of_policies() {
    let snapshot = |keys: &str| host().load(&with(keys)).expect("loads").snapshot;
    assert_eq!(snapshot("").routing.rewrite_hops, 4);
    assert_eq!(snapshot("routing = { rewrite_hops = 0 }").routing.rewrite_hops, 0);
    assert!(!snapshot("").hosts_fallthrough);
    assert!(snapshot("hosts = { fallthrough = true }").hosts_fallthrough);
    for (keys, expected) in [
        (
            "routing = { rewrite_hops = 17 }",
            "routing.rewrite_hops: 17 is wrong; expected a whole number from 0 to 16",
        ),
        (
            "hosts = { fallthrough = 'yes' }",
            "hosts.fallthrough: \"yes\" is wrong; expected true or false",
        ),
        (
            "rebinding = { allow = { 5 } }",
            "rebinding.allow[1]: 5 is wrong; expected a name, or *.name or .name for all names below \
             it",
        ),
        (
            "rebinding = { enabled = true, except = {} }",
            "rebinding.except: is not a known key; expected a known key",
        ),
    ] {
        assert_eq!(host().errors(&with(keys)), [format!("etc/test.lua:2: {expected}")], "{keys}");
    }
}

#[test]
fn local_records_are_read_line_by_line() {
    let text = with(
        "local_records = { 'nas.example. 300 IN A 192.0.2.7', '*.lan.example CNAME nas.example.',
            '7.2.0.192.in-addr.arpa. PTR nas.example.', 'x.example TYPE65280 \\\\# 2 0102' }",
    );
    let loaded = host().load(&text).expect("loads");
    assert_eq!(warnings(&loaded), [""; 0]);
    let records = loaded.snapshot.local_records;
    let lookup = |name: &str, record_type| {
        records.lookup(Name::parse(name).expect("a name").as_wire(), record_type)
    };
    let nas = Name::parse("nas.example").expect("a name");
    let alias = LocalAnswer::Alias { target: nas.as_wire(), ttl: 60 };
    assert_eq!(lookup("a.lan.example", RecordType::A), alias);
    let expected = LocalRecord {
        owner: Owner::Question,
        record_type: RecordType::A,
        ttl: 300,
        data: LocalData::Raw(&[192, 0, 2, 7]),
    };
    assert_eq!(lookup("nas.example", RecordType::A), LocalAnswer::Records(vec![expected]));
    assert_eq!(lookup("nas.example", RecordType::MX), LocalAnswer::NoData { ttl: 300 });
    assert_eq!(lookup("other.example", RecordType::A), LocalAnswer::NotListed);
}

#[test]
fn wrong_local_records() {
    for (records, expected) in [
        (
            "5",
            "local_records[1]: 5 is wrong; expected a record such as \"nas.example. 300 IN A \
             192.0.2.1\"",
        ),
        (
            "'a.example A 192.0.2.1',\n'a.example MX mail.example'",
            "local_records[2]: \"a.example MX mail.example\" has data that are not those of type MX: \
             \"mail.example\" is not a number up to 65535; expected a number up to 65535, a name; or \
             \\# LENGTH OCTETS, in base 16 (RFC 3597)",
        ),
        (
            "'@ A 192.0.2.1'",
            "local_records[1]: \"@ A 192.0.2.1\" has the owner @, but there is no origin; expected an \
             absolute name",
        ),
        (
            "'a.example CNAME b.example',\n'*.b CNAME c.b'",
            "local_records[2]: \"*.b CNAME c.b\" leads through more than 4 aliases \
             (routing.rewrite_hops); expected aliases that end",
        ),
    ] {
        let errors = host().errors(&with(&format!("local_records = {{ {records} }}")));
        assert_eq!(errors.len(), 1, "{records}: {errors:?}");
        assert!(errors[0].ends_with(expected), "{records}: {errors:?}");
    }
    let chain = |hops: u32| {
        let records = "local_records = { 'a CNAME b', 'b CNAME c', 'c A 192.0.2.1' }";
        host().load(&with(&format!("{records}, routing = {{ rewrite_hops = {hops} }}")))
    };
    assert!(chain(2).is_ok() && chain(1).is_err() && chain(0).is_err());
}

#[test]
fn local_records_need_their_stage() {
    let text = with("local_records = { 'a A 192.0.2.1' }, routing = { chain = { 'upstream' } }");
    let loaded = host().load(&text).expect("loads");
    assert_eq!(
        warnings(&loaded),
        ["etc/test.lua:2: local_records: has no effect without \"hosts\" in routing.chain"]
    );
}

#[test]
fn a_script_that_does_not_compile_has_its_own_place() {
    for (script, place) in [
        ("local a = 1\nerror('no')\n", "etc/bad.lua:2: plugins.scripts[1]: "),
        ("local handel = 1\n", "etc/bad.lua: plugins.scripts[1]: "),
    ] {
        let host = host().file("etc/bad.lua", script);
        let errors = host.errors(&with("plugins = { enabled = true, scripts = { 'bad.lua' } }"));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(place) && errors[0].contains("; expected "), "{errors:?}");
    }
}
