//! What plugins say becomes of questions: here scripts, which decide at once.

use std::sync::Arc;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{RData, Record};

use super::harness::{World, blocking, error, query, query_of, rcode, shown, snapshot, upstream};
use crate::config::{Snapshot, Stage, UpstreamProtocol};
use crate::engine::Event;
use crate::metrics::Counter;
use crate::policy::{
    Blocklist, Group, Groups, Hosts, OnError, Plugin, PluginKind, PluginSettings, Program,
};
use crate::time::Duration;
use crate::wire::RecordType;

const MEMORY: usize = 4 << 20;
const BEFORE_CACHE: [Stage; 5] =
    [Stage::Blacklist, Stage::Hosts, Stage::Policy, Stage::Cache, Stage::Upstream];

fn lua(name: &str, text: &str) -> Plugin {
    let program = Program::compile(name, text, MEMORY).expect("compiles");
    let timeout = Duration::from_millis(20);
    Plugin { name: name.to_owned(), timeout, kind: PluginKind::Lua(Arc::new(program)) }
}

/// A configuration with these scripts and three upstreams, the second in a pool.
fn scripts(texts: &[&str], change: impl FnOnce(&mut PluginSettings)) -> Snapshot {
    let mut upstreams = vec![
        upstream("one", UpstreamProtocol::Udp),
        upstream("two", UpstreamProtocol::Udp),
        upstream("three", UpstreamProtocol::Udp),
    ];
    upstreams[1].pool = Some(0);
    for (place, upstream) in upstreams.iter_mut().enumerate() {
        upstream.addr = super::harness::literal(&format!("192.0.2.{}:53", place + 1));
    }
    let mut snapshot = snapshot(upstreams);
    snapshot.pools = vec!["pooled".to_owned()];
    let plugins = texts.iter().enumerate().map(|(at, text)| lua(&format!("p{at}"), text));
    let mut settings = PluginSettings {
        plugins: plugins.collect(),
        memory_limit: MEMORY,
        ..PluginSettings::default()
    };
    change(&mut settings);
    let plugins = (0..texts.len()).collect();
    snapshot.groups = Arc::new(Groups::new(Group { plugins, ..Group::default() }));
    snapshot.plugins = Arc::new(settings);
    snapshot
}

fn world(text: &str) -> World {
    World::new(scripts(&[text], |_| {}))
}

fn a(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

const REWRITE: &str = "function handle(q)
    if q.domain == 'old.example.' then
        return { action = 'rewrite', rewrite_domain = 'new.example' }
    end
end";

#[test]
fn each_action_has_its_answer() {
    let mut world = world(
        "function handle(q)
            if q.domain == 'block.example.' then return 'BLOCK' end
            if q.domain == 'local.example.' then
                return { action = 'LOCAL_DATA', local_data = { ttl = 7, ips = { '192.0.2.9', '::1' } } }
            end
            if q.domain == 'drop.example.' then return 'drop' end
            if q.domain == 'tc.example.' then return 'TRUNCATE' end
            if q.domain == 'forward.example.' then return 'forward' end
        end",
    );
    assert_eq!(world.reply_to(&query(1, "block.example")), "REFUSED");
    assert_eq!(
        world.reply_to(&query(2, "Local.example")),
        "NOERROR | Local.example. 7 A 192.0.2.9"
    );
    let six = query_of(3, "local.example", RecordType::AAAA);
    assert_eq!(world.reply_to(&six), "NOERROR | local.example. 7 AAAA ::1");
    let mail = query_of(4, "local.example", RecordType::MX);
    assert_eq!(world.reply_to(&mail), "NOERROR | authority local.example. SOA");
    world.ask(&query(5, "drop.example"));
    assert!(world.replies.is_empty() && world.queries.is_empty());
    assert_eq!(world.count(Counter::DroppedPolicy), 1);
    world.ask(&query(6, "tc.example"));
    let cut = world.replies.pop_front().expect("a reply");
    assert_eq!((cut[2] & 2, rcode(&cut), cut[7]), (2, 0, 0), "TC and nothing else");
    for (id, name) in [(7, "forward.example"), (8, "other.example")] {
        world.ask(&query(id, name));
        world.answer_next(&[(name, 60, a(7))]);
        assert_eq!(world.reply(), format!("NOERROR | {name}. 60 A 192.0.2.7"));
    }
    world.engine.audit().expect("agrees");
}

/// Over a stream the answer is not cut: the question goes on; what is dropped leaves no trace.
#[test]
fn over_a_stream_nothing_is_truncated_and_a_drop_is_silent() {
    let mut world =
        world("function handle(q) return q.domain == 'drop.example.' and 'DROP' or 'TC' end");
    let conn = world.connect_client();
    for name in ["drop.example", "www.example"] {
        let message = query(7, name);
        let mut framed = u16::try_from(message.len()).expect("short").to_be_bytes().to_vec();
        framed.extend_from_slice(&message);
        world.stream_says(conn, &framed);
    }
    world.answer_next(&[("www.example", 60, a(7))]);
    assert_eq!(world.messages(conn).len(), 1);
    assert!(world.is_live(conn));
    world.engine.audit().expect("agrees");
}

/// The asked question is kept, a CNAME leads to the new name, whose records come after it.
#[test]
fn a_rewritten_question_keeps_its_name_and_gets_a_cname() {
    let mut world = world(REWRITE);
    for _ in 0..2 {
        // From the upstream, then from the cache.
        world.ask(&query(1, "OLD.example"));
        if !world.queries.is_empty() {
            assert_eq!(world.answer_next(&[("new.example", 300, a(7))]), "new.example. A");
        }
        assert_eq!(
            world.reply(),
            "NOERROR | OLD.example. 60 CNAME new.example. | new.example. 300 A 192.0.2.7"
        );
    }
    assert_eq!(world.count(Counter::CacheHits), 1);
    world.engine.audit().expect("agrees");
}

/// Behind the cache plugins are asked about what is not in it. What was fetched for a rewritten question
/// must not be in it for who asks for that name: nobody has asked the plugins about it.
#[test]
fn a_rewritten_question_opens_no_door_past_the_policy() {
    let text = "function handle(q)
        if q.domain == 'old.example.' then
            return { action = 'rewrite', rewrite_domain = 'new.example' }
        end
        if q.domain == 'new.example.' then return 'BLOCK' end
    end";
    for chain in [None, Some(BEFORE_CACHE)] {
        let mut snapshot = scripts(&[text], |_| {});
        snapshot.chain = chain.map_or(snapshot.chain, Vec::from);
        let mut world = World::new(snapshot);
        assert_eq!(world.reply_to(&query(1, "new.example")), "REFUSED");
        world.ask(&query(2, "old.example"));
        world.answer_next(&[("new.example", 300, a(7))]);
        assert!(world.reply().ends_with("new.example. 300 A 192.0.2.7"));
        assert_eq!(world.reply_to(&query(3, "new.example")), "REFUSED");
        assert!(world.reply_to(&query(4, "old.example")).ends_with("192.0.2.7"), "from the cache");
    }
}

/// Behind the cache too, what a chosen pool has answered is found again.
#[test]
fn a_choice_behind_the_cache_is_cached() {
    let text = "function handle(q) return { action = 'FORWARD', pool = 'pooled' } end";
    let mut world = World::new(scripts(&[text], |_| {}));
    world.ask(&query(1, "www.example"));
    world.answer_next(&[("www.example", 60, a(2))]);
    assert_eq!(world.reply(), "NOERROR | www.example. 60 A 192.0.2.2");
    assert_eq!(world.reply_to(&query(2, "www.example")), "NOERROR | www.example. 60 A 192.0.2.2");
    assert_eq!(world.count(Counter::CacheHits), 1);
}

#[test]
fn a_rewritten_name_meets_blacklist_and_hosts() {
    let mut snapshot = scripts(&[REWRITE], |_| {});
    let mut names = Blocklist::builder();
    names.insert("new.example").expect("a name");
    let hosts = Hosts::parse("192.0.2.99 new.example", 5).0;
    snapshot.hosts = Some(Arc::new(hosts));
    let mut in_hosts = World::new(snapshot.clone());
    assert_eq!(
        in_hosts.reply_to(&query(1, "old.example")),
        "NOERROR | old.example. 60 CNAME new.example. | new.example. 5 A 192.0.2.99"
    );
    let six = query_of(2, "old.example", RecordType::AAAA);
    assert_eq!(
        in_hosts.reply_to(&six),
        "NOERROR | old.example. 60 CNAME new.example. | authority new.example. SOA"
    );
    snapshot.blocking = blocking(names.build());
    assert_eq!(World::new(snapshot).reply_to(&query(1, "old.example")), "REFUSED");
}

/// A negative answer keeps the TTL that it has under its own name.
#[test]
fn a_rewritten_question_gets_a_negative_answer_with_its_ttl() {
    let mut snapshot = scripts(&[REWRITE], |_| {});
    snapshot.chain = BEFORE_CACHE.to_vec();
    let mut world = World::new(snapshot);
    let ttl = |reply: &[u8]| {
        Message::from_vec(reply).expect("a message").authorities.first().expect("a SOA").ttl
    };
    world.ask(&query(1, "old.example"));
    let (socket, _, sent) = world.next_query();
    let mut message = Message::from_vec(&error(&sent, 3)).expect("our own");
    let name = |name: &str| name.parse().expect("a name");
    let soa = SOA::new(name("example."), name("example."), 1, 1, 1, 1, 2);
    message.add_authority(Record::from_rdata(name("example."), 300, RData::SOA(soa)));
    world.upstream_says(socket, &message.to_vec().expect("fits"));
    let rewritten = world.replies.pop_front().expect("a reply");
    assert_eq!(
        shown(&rewritten),
        "NXDOMAIN | old.example. 60 CNAME new.example. | authority example. SOA"
    );
    world.ask(&query(2, "new.example"));
    let direct = world.replies.pop_front().expect("a reply");
    assert_eq!((ttl(&rewritten), ttl(&direct)), (5, 5), "the least that is remembered");
}

#[test]
fn with_another_type_only_what_was_asked_for_carries_over() {
    let mut world = world(
        "function handle(q)
            return { action = 'REWRITE', rewrite_domain = 'v4.example', rewrite_type = 'A' }
        end",
    );
    world.ask(&query_of(1, "www.example", RecordType::AAAA));
    assert_eq!(world.answer_next(&[("v4.example", 300, a(7))]), "v4.example. A");
    assert_eq!(world.reply(), "NOERROR | www.example. 60 CNAME v4.example.");
    // An address that was asked for, and ANY, which asks for every address.
    assert!(world.reply_to(&query(2, "www.example")).ends_with("v4.example. 300 A 192.0.2.7"));
    let any = query_of(3, "www.example", RecordType::ANY);
    assert!(world.reply_to(&any).ends_with("v4.example. 300 A 192.0.2.7"));
}

/// Each plugin sees the name as the one before has left it; the last word ends it.
#[test]
fn plugins_are_asked_one_after_the_other() {
    let second = "function handle(q)
        if q.domain == 'new.example.' then
            return { action = 'LOCAL_DATA', local_data = { ip = '192.0.2.1' } }
        end
        if q.domain == 'old.example.' then return 'BLOCK' end
    end";
    let mut world = World::new(scripts(&[REWRITE, second], |_| {}));
    assert_eq!(
        world.reply_to(&query(1, "old.example")),
        "NOERROR | old.example. 60 CNAME new.example. | new.example. 60 A 192.0.2.1"
    );
    let mut reversed = World::new(scripts(&[second, REWRITE], |_| {}));
    assert_eq!(reversed.reply_to(&query(1, "old.example")), "REFUSED");
}

/// Policy is asked once for a question: names that lead to each other come to no end, but to one.
#[test]
fn plugins_are_asked_once_for_a_question() {
    let mut world = world(
        "function handle(q)
            local other = q.domain == 'a.example.' and 'b.example' or 'a.example'
            return { action = 'REWRITE', rewrite_domain = other }
        end",
    );
    world.ask(&query(1, "a.example"));
    assert_eq!(world.answer_next(&[("b.example", 60, a(7))]), "b.example. A");
    assert_eq!(
        world.reply(),
        "NOERROR | a.example. 60 CNAME b.example. | b.example. 60 A 192.0.2.7"
    );
}

#[test]
fn a_rewrite_needs_a_hop() {
    let mut snapshot = scripts(&[REWRITE], |_| {});
    snapshot.routing.rewrite_hops = 0;
    let mut world = World::new(snapshot);
    assert_eq!(world.reply_to(&query(1, "old.example")), "SERVFAIL");
    assert!(world.queries.is_empty());
}

#[test]
fn a_plugin_chooses_who_is_asked() {
    let mut snapshot = scripts(
        &["function handle(q)
            if q.domain == 'pool.example.' then return { action = 'FORWARD', pool = 'pooled' } end
            if q.domain == 'three.example.' then
                return { action = 'FORWARD', upstream = 'three' }
            end
            if q.domain == 'none.example.' then return { action = 'FORWARD', pool = 'nowhere' } end
        end"],
        |_| {},
    );
    snapshot.chain = BEFORE_CACHE.to_vec();
    let mut world = World::new(snapshot);
    for (name, remote) in [
        ("pool.example", "192.0.2.2:53"),
        ("three.example", "192.0.2.3:53"),
        ("www.example", "192.0.2.1:53"),
    ] {
        world.ask(&query(1, name));
        let (socket, to, sent) = world.next_query();
        assert_eq!(to, remote, "{name}");
        world.upstream_says(socket, &super::harness::reply(&sent, 60));
        assert_eq!(world.reply(), format!("NOERROR | {name}. 60 A 192.0.2.7"));
    }
    // What another pool has answered is not what this one would have.
    let (hits, _) = (world.count(Counter::CacheHits), world.reply_to(&query(2, "pool.example")));
    assert_eq!(world.count(Counter::CacheHits), hits + 1);
    assert_eq!(world.reply_to(&query(3, "none.example")), "SERVFAIL");
    let told = world.events.iter().any(|event| event.to_string().contains("no pool \"nowhere\""));
    assert!(told, "{:?}", world.events);
}

#[test]
fn a_pool_is_asked_by_nobody_else_and_the_cache_keeps_them_apart() {
    let text = "function handle(q)
        if q.qtype == 1 then return { action = 'FORWARD', pool = 'pooled' } end
    end";
    let mut snapshot = scripts(&[text], |_| {});
    snapshot.chain = BEFORE_CACHE.to_vec();
    let mut world = World::new(snapshot.clone());
    world.ask(&query(1, "www.example"));
    world.answer_next(&[("www.example", 60, a(2))]);
    assert!(world.reply().ends_with("192.0.2.2"));
    // Under a configuration without the choice the general upstreams are asked, cache or not.
    snapshot.groups = Arc::default();
    world.engine.handle_reload(world.now, Arc::new(snapshot));
    world.ask(&query(2, "www.example"));
    let (_, to, _) = world.next_query();
    assert_eq!(to, "192.0.2.1:53");
}

/// With the policy behind the cache, what it wants of TTLs is kept with the answer; before it, each
/// answer is bounded on its way out.
#[test]
fn ttls_are_bounded_for_this_answer() {
    let text = "function handle(q)
        if q.domain == 'short.example.' then return { action = 'FORWARD', max_ttl = 20 } end
        if q.domain == 'long.example.' then return { action = 'FORWARD', min_ttl = 600 } end
    end";
    for chain in [None, Some(BEFORE_CACHE)] {
        let mut snapshot = scripts(&[text], |_| {});
        snapshot.chain = chain.map_or(snapshot.chain, Vec::from);
        let mut world = World::new(snapshot);
        for (name, ttl) in [("short.example", 20), ("long.example", 600), ("www.example", 300)] {
            for _ in 0..2 {
                world.ask(&query(1, name));
                if !world.queries.is_empty() {
                    world.answer_next(&[(name, 300, a(7))]);
                }
                assert_eq!(world.reply(), format!("NOERROR | {name}. {ttl} A 192.0.2.7"));
            }
        }
        assert_eq!(world.count(Counter::CacheHits), 3);
    }
}

#[test]
fn a_failure_never_goes_on_unless_that_was_asked_for() {
    let text = "function handle(q)
        if q.domain == 'error.example.' then error('boom') end
        if q.domain == 'loop.example.' then while true do end end
        if q.domain == 'nonsense.example.' then return 'ALLOW' end
        if q.domain == 'number.example.' then return 5 end
        if q.domain == 'memory.example.' then return string.rep('x', 1e9) end
        return 'BLOCK'
    end";
    let bad = ["error", "loop", "nonsense", "number", "memory"];
    for (on_error, expected) in [
        (OnError::ServFail, Some("SERVFAIL")),
        (OnError::Block, Some("REFUSED")),
        (OnError::Forward, None),
    ] {
        let mut world = World::new(scripts(&[text], |settings| settings.on_error = on_error));
        for name in bad {
            let name = format!("{name}.example");
            world.ask(&query(1, &name));
            match expected {
                Some(expected) => assert_eq!(world.reply(), expected, "{name}"),
                None => assert_eq!(world.answer_next(&[(&name, 60, a(7))]), format!("{name}. A")),
            }
            // And the next question finds a machine that is as good as new.
            world.replies.clear();
            assert_eq!(world.reply_to(&query(2, "good.example")), "REFUSED", "after {name}");
        }
        assert_eq!(world.count(Counter::PluginErrors), 5);
        let reasons = [
            (Counter::PluginScript, 1),
            (Counter::PluginTimeout, 1),
            (Counter::PluginResult, 2),
            (Counter::PluginMemory, 1),
        ];
        for (counter, times) in reasons {
            assert_eq!(world.count(counter), times, "{counter:?}");
        }
    }
}

/// Not asked for a while, and its questions get what was configured for failures all the same.
#[test]
fn a_plugin_that_fails_in_a_row_is_disabled_for_a_while() {
    let text = "function handle(q)
        if q.domain == 'bad.example.' then error('boom') end
        return 'BLOCK'
    end";
    let mut world = World::new(scripts(&[text], |settings| settings.disable_after = 3));
    let (bad, good) = (query(1, "bad.example"), query(2, "good.example"));
    for _ in 0..2 {
        assert_eq!(world.reply_to(&bad), "SERVFAIL");
    }
    assert_eq!(world.reply_to(&good), "REFUSED", "a good one begins the row afresh");
    for _ in 0..3 {
        assert_eq!(world.reply_to(&bad), "SERVFAIL");
    }
    assert_eq!(world.reply_to(&good), "SERVFAIL", "disabled");
    assert_eq!(world.count(Counter::PluginDisabled), 1);
    world.pass(Duration::from_secs(31));
    assert_eq!(world.reply_to(&good), "REFUSED");
    let names: Vec<_> = world.events.iter().map(Event::name).collect();
    assert_eq!(names.iter().filter(|name| **name == "plugin_disabled").count(), 1, "{names:?}");
    assert_eq!(names.last(), Some(&"plugin_enabled"));
}

/// A cached answer goes to everybody: who asks is told only where the policy comes first.
#[test]
fn the_client_is_told_only_before_the_cache() {
    let text = "function handle(q)
        if q.client == nil and q.transport == nil then return 'BLOCK' end
        if q.client == '127.0.0.1' and q.transport == 'udp' then
            return { action = 'LOCAL_DATA', local_data = { ip = '192.0.2.1' } }
        end
        error('odd')
    end";
    let mut snapshot = scripts(&[text], |_| {});
    assert_eq!(World::new(snapshot.clone()).reply_to(&query(1, "www.example")), "REFUSED");
    snapshot.chain = BEFORE_CACHE.to_vec();
    let mut world = World::new(snapshot);
    assert_eq!(world.reply_to(&query(1, "www.example")), "NOERROR | www.example. 60 A 192.0.2.1");
}

#[test]
fn an_answer_with_an_alias_of_its_own_comes_behind_ours() {
    let mut world = world(REWRITE);
    world.ask(&query(1, "old.example"));
    let target = "edge.example.".parse().expect("a name");
    world.answer_next(&[
        ("new.example", 300, RData::CNAME(CNAME(target))),
        ("edge.example", 30, a(7)),
    ]);
    assert_eq!(
        world.reply(),
        "NOERROR | old.example. 60 CNAME new.example. | new.example. 300 CNAME edge.example. | \
         edge.example. 30 A 192.0.2.7"
    );
}
