//! What is different for some clients: lists, plugins, upstreams. Clients are those that a proxy
//! announces, except where their own addresses are meant.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData};

use crate::case::World;
use crate::harness::{
    Answer, Gate, Query, Settings, UdpClient, Upstream, address, free_port, record, until,
};

cases! {
    own_lists, all, "config groups.blacklist",
        "a group has a blacklist of its own in place of everybody's, `false` for none";
    longest_prefix_counts, all, "config groups.clients",
        "of several groups that a client is in that of the longest prefix counts";
    both_families, all, "config groups.clients",
        "IPv6 clients have their groups too, and mapped IPv4 ones those of IPv4";
    own_addresses_count, udp, "config groups.clients",
        "without a proxy the client's own address counts";
    one_cache_for_all, all, "config groups.blacklist",
        "an answer that is blocked for one group comes from the cache for another";
    one_fetch_for_all, udp, "config groups.blacklist",
        "clients of several groups that wait for the same answer each get what holds for them";
    own_pools, all, "config groups.pool, config pools",
        "a group's questions go to its pool and nobody else's do, also from the cache";
    pools_keep_to_zones, all, "config groups.pool, config upstreams.zones",
        "a pool's upstream gets names of its zones only";
    own_plugins, all, "config groups.plugins",
        "a group has plugins of its own, in its own order, or none";
    plugins_for_groups_only, all, "config plugins.entries",
        "a plugin that is not for everybody is asked for groups that name it";
    wrong_groups_are_refused, own, "cli errors, config groups",
        "groups that cannot be meant are errors at the start, all of them at once";
    plugins_of_groups_behind_the_cache_are_refused, own, "cli errors, config groups.plugins",
        "plugins of a group's own need lua_policy before the cache";
}

const REFUSED: u16 = 5;
/// A client of no group.
const STRANGER: &str = "203.0.113.9";

/// Behind a proxy.
fn grouped(upstream: &Upstream, groups: &str) -> Settings {
    Settings::with(upstream)
        .listen(r#"proxy_protocol_from = { "127.0.0.1" }"#)
        .section(r#"acl = { "0.0.0.0/0", "::/0" }"#)
        .section(&format!("groups = {{ {groups} }}"))
}

const LISTS: &str = r#"
    { name = "children", clients = { "192.0.2.0/24", "2001:db8::/32" },
      blacklist = { domains = { "games.example.org" }, mode = "nxdomain" } },
    { name = "parents", clients = { "192.0.2.7", "198.51.100.0/24" }, blacklist = false },
    { name = "guests", clients = { "192.0.2.128/25" } },"#;

fn own_lists(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = grouped(&upstream, LISTS)
        .section(r#"blacklist = { domains = { "ads.example.org" } }"#)
        .start(world);
    for (client, games, ads) in [
        ("192.0.2.1", 3, 0),
        ("198.51.100.1", 0, 0),
        (STRANGER, 0, REFUSED),
        ("192.0.2.200", 0, REFUSED),
    ] {
        let rcode = |name: &str| daemon.ask_as(client, &Query::a(name)).rcode();
        let rcodes = (rcode("games.example.org"), rcode("ads.example.org"));
        assert_eq!(rcodes, (games, ads), "{client}");
    }
}

fn longest_prefix_counts(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = grouped(&upstream, LISTS).start(world);
    for (client, rcode) in [("192.0.2.6", 3), ("192.0.2.7", 0), ("192.0.2.8", 3), (STRANGER, 0)] {
        let reply = daemon.ask_as(client, &Query::a("games.example.org"));
        assert_eq!(reply.rcode(), rcode, "{client}");
    }
}

fn both_families(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = grouped(&upstream, LISTS).start(world);
    for (client, rcode) in [("2001:db8::1", 3), ("2001:db9::1", 0), ("::ffff:192.0.2.1", 3)] {
        let reply = daemon.ask_as(client, &Query::a("games.example.org"));
        assert_eq!(reply.rcode(), rcode, "{client}");
    }
}

fn own_addresses_count(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .section(
            r#"groups = { { name = "two", clients = { "127.0.0.2", "127.0.1.0/24" },
               blacklist = { domains = { "games.example.org" } } } }"#,
        )
        .start(world);
    for (client, rcode) in
        [("127.0.0.1", 0), ("127.0.0.2", REFUSED), ("127.0.1.9", REFUSED), ("127.0.0.3", 0)]
    {
        let ip: IpAddr = client.parse().expect("an address");
        let client = UdpClient::from(SocketAddr::new(ip, 0), daemon.addr());
        assert_eq!(client.ask(&Query::a("games.example.org")).rcode(), rcode, "{ip}");
    }
}

/// An upstream whose names lead to one that is blocked for a group.
fn playing(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::start(move |asked| {
        let target = Name::from_ascii("games.example.org.").expect("a name");
        let answer = asked.answer([
            record(&asked.name(), 300, RData::CNAME(CNAME(target))),
            address("games.example.org.", 300, "192.0.2.1"),
        ]);
        Answer::When(gate.clone(), Box::new(answer.into()))
    })
}

fn one_cache_for_all(world: &World) {
    let gate = Gate::default();
    gate.open();
    let upstream = playing(&gate);
    let daemon = grouped(&upstream, LISTS).start(world);
    for _ in 0..2 {
        for (client, rcode) in [(STRANGER, 0), ("192.0.2.1", 3), ("198.51.100.1", 0)] {
            let reply = daemon.ask_as(client, &Query::a("play.example.org"));
            assert_eq!(reply.rcode(), rcode, "{client}");
        }
    }
    assert_eq!(upstream.count(), 1);
}

fn one_fetch_for_all(world: &World) {
    let gate = Gate::default();
    let upstream = playing(&gate);
    let groups = r#"{ name = "two", clients = { "127.0.0.2" },
        blacklist = { domains = { "games.example.org" }, mode = "zero" } }"#;
    let daemon =
        Settings::with(&upstream).section(&format!("groups = {{ {groups} }}")).start(world);
    let query = Query::a("play.example.org");
    let clients = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|ip| {
        let ip: IpAddr = ip.parse().expect("an address");
        let client = UdpClient::from(SocketAddr::new(ip, 0), daemon.addr());
        client.send(&query.encode());
        client
    });
    until("all wait for one answer", || {
        (daemon.metric("balancedns_coalesced_total") > 1.5).then_some(())
    });
    gate.open();
    let open = ["CNAME games.example.org.", "A 192.0.2.1"];
    for (client, answers) in clients.iter().zip([&open[..], &["A 0.0.0.0"], &open[..]]) {
        let reply = client.receive();
        reply.check_echo(&query);
        assert_eq!(reply.answers(), answers);
    }
    assert_eq!(upstream.count(), 1);
}

const POOLS: &str = r#"
    { name = "filtered", clients = { "192.0.2.0/24" }, pool = "filter" },"#;

fn own_pools(world: &World) {
    let (general, filter) = (Upstream::answering("192.0.2.1"), Upstream::answering("192.0.2.2"));
    let daemon = grouped(&general, POOLS)
        .upstream(&filter, r#"pool = "filter""#)
        .section(r#"pools = { { name = "filter", policy = "ordered" } }"#)
        .start(world);
    for _ in 0..2 {
        for (client, address) in [(STRANGER, "192.0.2.1"), ("192.0.2.9", "192.0.2.2")] {
            let reply = daemon.ask_as(client, &Query::a("www.example.org"));
            assert_eq!(reply.address(), address, "{client}");
        }
    }
    assert_eq!((general.count(), filter.count()), (1, 1), "each has its own entry");
}

fn pools_keep_to_zones(world: &World) {
    let (general, filter) = (Upstream::answering("192.0.2.1"), Upstream::answering("192.0.2.2"));
    let daemon = grouped(&general, POOLS)
        .upstream(&filter, r#"pool = "filter", zones = { "corp.example.org" }"#)
        .section(r#"pools = { { name = "filter" } }"#)
        .start(world);
    let ask = |name: &str| daemon.ask_as("192.0.2.9", &Query::a(name));
    assert_eq!(ask("www.corp.example.org").address(), "192.0.2.2");
    assert_eq!(ask("www.example.org").rcode(), 2, "its pool has nobody for this name");
    assert_eq!((general.count(), filter.count()), (0, 1));
}

/// Scripts that add their letter in front of the name.
fn adding(letter: char) -> String {
    format!(
        "function handle(question)\n  \
         return {{ action = \"REWRITE\", rewrite_domain = \"{letter}\" .. question.domain }}\nend\n"
    )
}

/// Two plugins, and one that is not for everybody.
fn plugged(upstream: &Upstream, groups: &str) -> Settings {
    let entry = |letter: &str, keys: &str| {
        format!("{{ path = \"{letter}.lua\", name = \"{letter}\", {keys} }}")
    };
    let entries = [entry("a", ""), entry("b", ""), entry("c", "default = false")].join(", ");
    grouped(upstream, groups)
        .file("a.lua", &adding('a'))
        .file("b.lua", &adding('b'))
        .file("c.lua", &adding('c'))
        .section(&format!(
            "plugins = {{ enabled = true, timeout_ms = 2000, entries = {{ {entries} }} }}"
        ))
}

const BEFORE_CACHE: &str =
    r#"routing = { chain = { "blacklist", "hosts", "lua_policy", "cache", "upstream" } }"#;

/// Which name was looked up for the client's.
fn looked_up(upstream: &Upstream) -> String {
    upstream.asked().pop().expect("somebody was asked").name()
}

fn own_plugins(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let groups = r#"
        { name = "turned", clients = { "192.0.2.1" }, plugins = { "b", "a" } },
        { name = "none", clients = { "192.0.2.2" }, plugins = {} },
        { name = "off", clients = { "192.0.2.3" }, plugins = false },
        { name = "usual", clients = { "192.0.2.4" } },"#;
    let daemon = plugged(&upstream, groups).section(BEFORE_CACHE).start(world);
    for (client, name) in [
        (STRANGER, "ba1.example.org."),
        ("192.0.2.1", "ab2.example.org."),
        ("192.0.2.2", "3.example.org."),
        ("192.0.2.3", "4.example.org."),
        ("192.0.2.4", "ba5.example.org."),
    ] {
        let asked = name.trim_start_matches(['a', 'b']);
        let reply = daemon.ask_as(client, &Query::a(asked.trim_end_matches('.')));
        assert_eq!((reply.address().as_str(), looked_up(&upstream).as_str()), ("192.0.2.1", name));
    }
}

fn plugins_for_groups_only(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let groups = r#"{ name = "third", clients = { "192.0.2.1" }, plugins = { "c" } }"#;
    let daemon = plugged(&upstream, groups).section(BEFORE_CACHE).start(world);
    daemon.ask_as(STRANGER, &Query::a("1.example.org"));
    assert_eq!(looked_up(&upstream), "ba1.example.org.");
    daemon.ask_as("192.0.2.1", &Query::a("1.example.org"));
    assert_eq!(looked_up(&upstream), "c1.example.org.");
}

fn wrong_groups_are_refused(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let groups = r#"
        { name = "one", clients = { "192.0.2.0/24", "not a network" } },
        { name = "two", clients = { "192.0.2.0/24" } },
        { name = "two", clients = { "192.0.2.1" } },
        { name = "four", clients = {} },
        { name = "five", clients = { "192.0.2.2" }, pool = "nowhere" },
        { name = "six", clients = { "192.0.2.3" }, plugins = { "aa" } },
        { name = "seven", clients = { "192.0.2.4" }, blaklist = false },
        { name = "eight", clients = { "192.0.2.5" }, blacklist = { mode = "nxdomian" } },
        { clients = { "192.0.2.6" } },"#;
    let ended = plugged(&upstream, groups)
        .section(BEFORE_CACHE)
        .section(r#"pools = { { name = "empty" }, { name = "other", policy = "random" } }"#)
        .fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for words in [
        &["groups[1].clients[2]", "network"][..],
        &["groups[2].clients[1]", "\"one\""],
        &["groups[3].name"],
        &["groups[4].clients"],
        &["groups[5].pool", "pools"],
        &["groups[6].plugins[1]", "plugins.entries"],
        &["groups[7].blaklist", "did you mean", "blacklist"],
        &["groups[8].blacklist.mode", "nxdomain"],
        &["groups[9].name", "missing"],
        &["pools[1].name", "upstream"],
        &["pools[2].policy", "not available in this build"],
    ] {
        let found = ended.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?}:\n{}", ended.stderr);
    }
}

fn plugins_of_groups_behind_the_cache_are_refused(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let groups = r#"{ name = "third", clients = { "192.0.2.1" }, plugins = { "c" } }"#;
    let ended = plugged(&upstream, groups).fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let words = ["groups[1].plugins", "cache", "lua_policy"];
    let found = ended.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(found, "{}", ended.stderr);
    // Without a cache nothing made for one group is given to another.
    plugged(&upstream, groups).section("cache = { enabled = false }").start(world);
}
