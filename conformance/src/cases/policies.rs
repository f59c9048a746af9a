//! Policies in Lua: what a script is asked, and what becomes of what it decides. REWRITE has a module of
//! its own.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::case::World;
use crate::harness::{Query, Settings, Upstream, Via};

cases! {
    going_on, all, "config plugins",
        "nil, \"FORWARD\" in any letter case, and a table with it let a question go on";
    block, all, "config plugins, RFC 8914 4.16",
        "BLOCK answers in the way of the blacklist, and it is said which plugin did";
    local_data, all, "config plugins",
        "LOCAL_DATA gives the addresses of the asked family, both for ANY, with TTL 60 unless it says another";
    local_data_of_other_types, all, "config plugins, RFC 2308 2.2",
        "LOCAL_DATA is NODATA with a SOA for types that it has no addresses for";
    two_plugins, all, "config plugins.entries",
        "plugins are asked in turn, each with the name as the one before has left it; BLOCK ends";
    drop_, all, "config plugins",
        "DROP gives no answer, and 403 over HTTP; a stream stays as it is";
    truncate, all, "config plugins",
        "TRUNCATE sends clients from UDP to TCP, and lets other transports go on";
    what_is_asked, all, "config plugins",
        "a script sees name, type, number, client and transport";
    behind_the_cache, all, "config plugins, config routing.chain",
        "client and transport are nil while the cache stands before the policy";
    names_in_lower_case, all, "config plugins, RFC 4343 3",
        "a script sees names in lower case, whatever their letters, with the dot at the end";
    types_without_a_name, all, "RFC 3597 5, config plugins",
        "a type without a name is TYPE with its number";
    choosing_an_upstream, all, "config plugins",
        "a script may choose an upstream, whose answers have entries of their own";
    choosing_a_pool, all, "config plugins, config pools",
        "a script may choose a pool";
    ttl_bounds, all, "config plugins",
        "min_ttl and max_ttl bound the TTLs of this answer, fresh and from the cache";
    state_lasts, all, "config plugins",
        "variables of a script last from question to question";
    helpers, all, "config plugins",
        "dns.below compares by labels, dns.in_prefix knows addresses";
    nothing_outside, own, "config plugins",
        "a script reaches no file, no process, no clock, and cannot change what others see";
    older_form, own, "config plugins.scripts",
        "plugins.scripts lists scripts by their paths";
    off, own, "config plugins.enabled",
        "while plugins are off nobody looks for their files";
    verdicts_are_counted, own, "http /metrics",
        "verdicts are counted by action";
}

const REFUSED: u16 = 5;
const NXDOMAIN: u16 = 3;
/// Long enough for the busiest machine.
const PATIENT: &str = "enabled = true, timeout_ms = 3000";
pub(super) const BEFORE_CACHE: &str =
    r#"routing = { chain = { "blacklist", "hosts", "lua_policy", "cache", "upstream" } }"#;

/// One script, which decides by the first label of the name in `first`.
pub(super) fn script(upstream: &Upstream, rules: &str) -> Settings {
    let text = format!(
        "function handle(question)\n  local first = string.match(question.domain, '^[^.]*')\n\
         {rules}\nend\n"
    );
    Settings::with(upstream)
        .file("policy.lua", &text)
        .section(&format!("plugins = {{ {PATIENT}, entries = {{ {{ path = \"policy.lua\" }} }} }}"))
}

/// Two of them.
pub(super) fn scripts(upstream: &Upstream, one: &str, two: &str) -> Settings {
    let entries = r#"{ name = "one", path = "one.lua" }, { name = "two", path = "two.lua" }"#;
    Settings::with(upstream)
        .file("one.lua", &format!("function handle(question)\n{one}\nend\n"))
        .file("two.lua", &format!("function handle(question)\n{two}\nend\n"))
        .section(&format!("plugins = {{ {PATIENT}, entries = {{ {entries} }} }}"))
}

/// An upstream that knows all names but those that begin with `gone`.
pub(super) fn knowing() -> Upstream {
    Upstream::start(|asked| {
        if asked.name().starts_with("gone") {
            asked.negative(ResponseCode::NXDomain, 300, 300)
        } else if asked.qtype() == RecordType::A {
            asked.address(300, "203.0.113.1")
        } else if asked.qtype() == RecordType::AAAA {
            asked.address(300, "2001:db8::1")
        } else {
            asked.negative(ResponseCode::NoError, 300, 300)
        }
    })
}

pub(super) fn names(upstream: &Upstream) -> Vec<String> {
    upstream.asked().iter().map(|asked| asked.name()).collect()
}

fn going_on(world: &World) {
    let upstream = knowing();
    let daemon = script(
        &upstream,
        "if first == 'a' then return nil end
         if first == 'b' then return 'FORWARD' end
         if first == 'c' then return 'forward' end
         if first == 'd' then return { action = 'Forward' } end",
    )
    .start(world);
    for name in ["a", "b", "c", "d", "e"] {
        let reply = daemon.ask(&Query::a(&format!("{name}.example.org")));
        assert_eq!(reply.address(), "203.0.113.1", "{name}");
    }
}

fn block(world: &World) {
    let upstream = knowing();
    let rules = "if first == 'a' then return 'block' end
                 if first == 'b' then return { action = 'BLOCK' } end";
    for (keys, rcode) in [("", REFUSED), (r#"mode = "nxdomain", ttl = 50"#, NXDOMAIN)] {
        let daemon =
            script(&upstream, rules).section(&format!("blacklist = {{ {keys} }}")).start(world);
        for name in ["a.example.org", "b.example.org"] {
            let reply = daemon.ask(&Query::a(name).edns(1232));
            assert_eq!((reply.rcode(), reply.message.answers.len()), (rcode, 0), "{name}");
            assert_eq!(reply.extended_error(), (15, "policy.lua".to_owned()), "{name}");
            assert_eq!(reply.soa().is_some(), rcode == NXDOMAIN);
        }
    }
    assert_eq!(upstream.count(), 0);
}

const LOCAL_DATA: &str = "if first == 'four' then
           return { action = 'LOCAL_DATA', local_data = { ip = '192.0.2.5' } } end
         return { action = 'local_data', local_data =
           { ttl = 7, ip = '192.0.2.6', ips = { '2001:db8::6', '192.0.2.7' } } }";

fn local_data(world: &World) {
    let upstream = knowing();
    let daemon = script(&upstream, LOCAL_DATA).start(world);
    let reply = daemon.ask(&Query::a("Four.example.org"));
    assert_eq!((reply.answers(), reply.ttl()), (vec!["A 192.0.2.5".to_owned()], 60));
    for (qtype, answers) in [
        (RecordType::A, &["A 192.0.2.6", "A 192.0.2.7"][..]),
        (RecordType::AAAA, &["AAAA 2001:db8::6"]),
        (RecordType::ANY, &["A 192.0.2.6", "A 192.0.2.7", "AAAA 2001:db8::6"]),
    ] {
        let reply = daemon.ask(&Query::new("both.example.org", qtype).edns(1232));
        assert_eq!((reply.rcode(), reply.ttl()), (0, 7));
        assert_eq!(reply.answers(), answers);
    }
    assert_eq!(upstream.count(), 0);
}

fn local_data_of_other_types(world: &World) {
    let upstream = knowing();
    let daemon = script(&upstream, LOCAL_DATA).start(world);
    for qtype in [RecordType::AAAA, RecordType::MX, RecordType::HTTPS] {
        daemon.ask(&Query::new("four.example.org", qtype)).check_negative(0, 60);
    }
    assert_eq!(upstream.count(), 0);
}

fn two_plugins(world: &World) {
    let upstream = knowing();
    let one = "if question.domain == 'a.example.org.' then
           return { action = 'REWRITE', rewrite_domain = 'b.example.org' } end
         if question.domain == 'blocked.example.org.' then return 'BLOCK' end";
    let two = "if question.domain == 'a.example.org.' then return 'BLOCK' end
         if question.domain == 'b.example.org.' then
           return { action = 'REWRITE', rewrite_domain = 'c.example.org' } end
         if question.domain == 'blocked.example.org.' then
           return { action = 'LOCAL_DATA', local_data = { ip = '192.0.2.1' } } end";
    let daemon = scripts(&upstream, one, two).start(world);
    let reply = daemon.ask(&Query::a("a.example.org"));
    assert_eq!(reply.answers(), ["CNAME c.example.org.", "A 203.0.113.1"]);
    let reply = daemon.ask(&Query::a("blocked.example.org").edns(1232));
    assert_eq!((reply.rcode(), reply.extended_error()), (REFUSED, (15, "one".to_owned())));
    assert_eq!(names(&upstream), ["c.example.org."]);
}

fn drop_(world: &World) {
    let upstream = knowing();
    let daemon = script(&upstream, "if first == 'a' then return 'DROP' end").start(world);
    let mut client = daemon.client();
    client.send(&Query::a("a.example.org").encode());
    if daemon.transport().is_http() {
        client.expect_status(403);
    } else {
        // What is asked behind it is answered, and nothing else.
        let query = Query::a("b.example.org");
        assert_eq!(client.ask(&query).address(), "203.0.113.1");
        client.expect_silence(Duration::from_millis(200));
    }
    assert_eq!(names(&upstream).iter().filter(|name| name.starts_with("a.")).count(), 0);
    assert!((daemon.metric("balancedns_dropped_total{reason=\"policy\"}") - 1.0).abs() < 0.1);
}

fn truncate(world: &World) {
    let upstream = knowing();
    let rules = "if first == 'a' then return 'TRUNCATE' end
                 if first == 'b' then return { action = 'tc' } end";
    let daemon = script(&upstream, rules).start(world);
    for name in ["a.example.org", "b.example.org"] {
        let query = Query::a(name).edns(1232);
        let reply = daemon.ask(&query);
        if daemon.transport() == Via::Udp {
            assert!(reply.truncated() && reply.message.answers.is_empty(), "{:?}", reply.message);
            assert_eq!((reply.rcode(), upstream.count()), (0, 0));
        } else {
            assert_eq!(reply.address(), "203.0.113.1");
        }
    }
    assert_eq!(daemon.tcp(&Query::a("a.example.org")).address(), "203.0.113.1");
}

fn what_is_asked(world: &World) {
    let upstream = knowing();
    let rules = "local number = { udp = 1, tcp = 2, dot = 3, doh = 4 }
         if question.domain == 'www.example.org.' and question.type == 'A' and question.qtype == 1
             and question.client == '127.0.0.1' then
           return { action = 'LOCAL_DATA',
             local_data = { ip = '192.0.2.' .. number[question.transport] } }
         end
         return 'BLOCK'";
    let daemon = script(&upstream, rules).section(BEFORE_CACHE).start(world);
    let expected = match daemon.transport() {
        Via::Udp => "192.0.2.1",
        Via::Tcp => "192.0.2.2",
        Via::Dot => "192.0.2.3",
        Via::Get | Via::Post => "192.0.2.4",
    };
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), expected);
}

fn behind_the_cache(world: &World) {
    let upstream = knowing();
    let rules = "if question.client ~= nil or question.transport ~= nil then return 'BLOCK' end";
    let daemon = script(&upstream, rules).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "203.0.113.1");
}

/// A script that answers with an address of ours if this holds.
fn if_(condition: &str) -> String {
    format!(
        "if {condition} then\n  \
         return {{ action = 'LOCAL_DATA', local_data = {{ ip = '192.0.2.1' }} }}\nend\nreturn 'BLOCK'"
    )
}

fn names_in_lower_case(world: &World) {
    let upstream = knowing();
    let rules = if_("question.domain == 'www.example.org.' or question.domain == '.' \
                     or question.domain == 'a\\\\.b\\\\032c.example.org.'");
    let daemon = script(&upstream, &rules).start(world);
    let odd = [&b"a.b C"[..], b"Example", b"ORG"];
    for query in [Query::a("WWW.example.ORG"), Query::of_labels(&odd, RecordType::A), Query::a(".")]
    {
        assert_eq!(daemon.ask(&query).address(), "192.0.2.1", "{query:?}");
    }
}

fn types_without_a_name(world: &World) {
    let upstream = knowing();
    let rules = if_("question.type == 'TYPE65280' and question.qtype == 65280 or \
                     question.type == 'HTTPS' and question.qtype == 65");
    let daemon = script(&upstream, &rules).start(world);
    for qtype in [RecordType::Unknown(65_280), RecordType::HTTPS] {
        let reply = daemon.ask(&Query::new("www.example.org", qtype));
        assert_eq!(reply.rcode(), 0, "{qtype}: its addresses are of other types");
    }
    assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), REFUSED);
}

fn choosing_an_upstream(world: &World) {
    let (first, second) = (Upstream::answering("203.0.113.1"), Upstream::answering("203.0.113.2"));
    let rules = "if question.domain == 'b.example.org.' then
           return { action = 'FORWARD', upstream = 'up1' } end
         if first == 'c' then
           return { action = 'REWRITE', rewrite_domain = 'a.example.org', upstream = 'up1' } end";
    let daemon = script(&first, rules).upstream(&second, "").section(BEFORE_CACHE).start(world);
    let alias = "CNAME a.example.org.";
    for _ in 0..2 {
        let ask = |name: &str| daemon.ask(&Query::a(name)).answers();
        assert_eq!(ask("a.example.org"), ["A 203.0.113.1"]);
        assert_eq!(ask("b.example.org"), ["A 203.0.113.2"]);
        assert_eq!(ask("c.example.org"), [alias, "A 203.0.113.2"]);
    }
    assert_eq!((names(&first).len(), names(&second).len()), (1, 2));
}

fn choosing_a_pool(world: &World) {
    let (general, pooled) =
        (Upstream::answering("203.0.113.1"), Upstream::answering("203.0.113.2"));
    let rules = "if first == 'b' then return { action = 'FORWARD', pool = 'filter' } end";
    let daemon = script(&general, rules)
        .upstream(&pooled, r#"pool = "filter""#)
        .section(r#"pools = { { name = "filter" } }"#)
        .section(BEFORE_CACHE)
        .start(world);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a("a.example.org")).address(), "203.0.113.1");
        assert_eq!(daemon.ask(&Query::a("b.example.org")).address(), "203.0.113.2");
    }
    assert_eq!((general.count(), pooled.count()), (1, 1));
}

fn ttl_bounds(world: &World) {
    let upstream = knowing();
    let rules = "if first == 'short' then return { action = 'FORWARD', max_ttl = 10 } end
         if first == 'long' then return { action = 'FORWARD', min_ttl = 1000 } end
         if first == 'both' then
           return { action = 'REWRITE', rewrite_domain = 'x.example.org', max_ttl = 20 } end";
    let daemon = script(&upstream, rules).section(BEFORE_CACHE).start(world);
    for _ in 0..2 {
        let ttl = |name: &str| {
            let reply = daemon.ask(&Query::a(name));
            reply.message.answers.last().expect("an address").ttl
        };
        assert_eq!((ttl("short.example.org"), ttl("long.example.org")), (10, 1_000));
        assert_eq!(ttl("both.example.org"), 20);
        assert!((290..=300).contains(&ttl("x.example.org")), "the entry has its own");
    }
    assert_eq!(upstream.count(), 3);
}

fn state_lasts(world: &World) {
    let upstream = knowing();
    let text = "local count = 0
        function handle(question)
          count = count + 1
          return { action = 'LOCAL_DATA', local_data = { ip = '192.0.2.' .. count } }
        end";
    let daemon = Settings::with(&upstream)
        .file("policy.lua", text)
        .section(&format!("plugins = {{ {PATIENT}, scripts = {{ \"policy.lua\" }} }}"))
        .start(world);
    for count in 1..=5 {
        let reply = daemon.ask(&Query::a("www.example.org"));
        assert_eq!(reply.address(), format!("192.0.2.{count}"));
    }
}

fn helpers(world: &World) {
    let upstream = knowing();
    let rules = if_("dns.below(question.domain, 'Example.Org') \
                     and not dns.below('badexample.org.', 'example.org') \
                     and dns.in_prefix(question.client, '127.0.0.0/8') \
                     and not dns.in_prefix('2001:db8::1', '127.0.0.0/8')");
    let daemon = script(&upstream, &rules).section(BEFORE_CACHE).start(world);
    assert_eq!(daemon.ask(&Query::a("www.example.org")).address(), "192.0.2.1");
    assert_eq!(daemon.ask(&Query::a("www.example.com")).rcode(), REFUSED);
}

fn nothing_outside(world: &World) {
    let upstream = knowing();
    let rules =
        if_("io == nil and os == nil and dofile == nil and loadfile == nil and require == nil \
         and load == nil and loadstring == nil and package == nil and debug == nil \
         and collectgarbage == nil and getfenv == nil and setfenv == nil \
         and not pcall(function() string.sub = nil end) \
         and not pcall(function() dns.below = nil end) \
         and not pcall(function() getmetatable('').__index = nil end)");
    let daemon = script(&upstream, &rules).start(world);
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
}

fn older_form(world: &World) {
    let upstream = knowing();
    let daemon = Settings::with(&upstream)
        .file("one.lua", "function handle(q) if q.type == 'TXT' then return 'BLOCK' end end")
        .file("two.lua", "function handle(q) if q.type == 'MX' then return 'BLOCK' end end")
        .section(&format!("plugins = {{ {PATIENT}, scripts = {{ \"one.lua\", \"two.lua\" }} }}"))
        .start(world);
    for (qtype, name) in [(RecordType::TXT, "one.lua"), (RecordType::MX, "two.lua")] {
        let reply = daemon.udp(&Query::new("www.example.org", qtype).edns(1232));
        assert_eq!(reply.extended_error(), (15, name.to_owned()));
    }
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "203.0.113.1");
}

fn off(world: &World) {
    let upstream = knowing();
    let entries = r#"{ path = "nowhere.lua" }, { path = "nowhere", runtime = "exec" }"#;
    for enabled in ["", "enabled = false, "] {
        let daemon = Settings::with(&upstream)
            .section(&format!("plugins = {{ {enabled}entries = {{ {entries} }} }}"))
            .start(world);
        assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "203.0.113.1");
    }
}

fn verdicts_are_counted(world: &World) {
    let upstream = knowing();
    let rules = "if first == 'a' then return 'BLOCK' end
         if first == 'b' then return { action = 'REWRITE', rewrite_domain = 'x.example.org' } end
         if first == 'c' then return { action = 'LOCAL_DATA', local_data = { ip = '::1' } } end
         if first == 'd' then return 'TC' end";
    let daemon = script(&upstream, rules).start(world);
    for name in ["a", "b", "c", "d", "e", "a"] {
        daemon.udp(&Query::a(&format!("{name}.example.org")));
    }
    let count = |action: &str| {
        let series = format!("balancedns_policy_verdicts_total{{action=\"{action}\"}}");
        daemon.metric(&series).round()
    };
    let counts = ["block", "rewrite", "local_data", "truncate", "forward", "drop"].map(count);
    assert_eq!(counts.map(|count| count.to_string()), ["2", "1", "1", "1", "1", "0"]);
    assert!(daemon.metric_sum("balancedns_plugin_execution_errors_total") < 0.1);
}
