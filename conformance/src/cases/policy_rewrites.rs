//! Policies that rewrite: the asked question, an alias, and the records of the other name, wherever these
//! come from.

use hickory_proto::rr::RecordType;

use super::policies::{BEFORE_CACHE, knowing, names, script, scripts};
use crate::case::World;
use crate::harness::{Answer, Gate, Query, Transport, Upstream, txt_of, until};

cases! {
    rewrite, all, "config plugins, RFC 1034 3.6.2",
        "REWRITE keeps the asked question to the letter and brings a CNAME and the records, fresh and from the cache";
    rewrites_share_a_fetch, all, "config plugins",
        "who waits for a name itself and who was rewritten to it wait for one answer, and each gets its own";
    rewritten_answers_are_truncated, own, "RFC 2181 9, config plugins",
        "an answer that is too large behind its CNAME comes by TCP";
    rewrite_to_local_names, all, "config plugins, config hosts.file",
        "a rewritten name is looked up in the hosts file and among local records";
    rewrite_to_blocked_names, all, "config plugins, config blacklist",
        "a rewritten name that is blocked is blocked, for the asked name";
    rewrite_to_nowhere, all, "config plugins, RFC 6604 3",
        "a rewritten name that does not exist is NXDOMAIN behind its CNAME";
    rewrite_to_itself, all, "config plugins",
        "a name that is rewritten to itself just goes on";
    rewriting_ends, all, "config plugins",
        "a rewritten name is not shown to the plugins again, so that no two rules make a circle";
    rewriting_opens_no_door, all, "config plugins, config routing.chain",
        "a name that a policy blocks stays blocked though another name was rewritten to it";
    rewrite_type, all, "config plugins",
        "with rewrite_type only addresses carry over, and none that was not asked for";
    addresses_after_a_rewrite, all, "config plugins.entries",
        "LOCAL_DATA of a second plugin stands behind the CNAME of the first one's REWRITE";
}

const REFUSED: u16 = 5;
const NXDOMAIN: u16 = 3;
const SAFE: &str = "if first == 'search' then
           return { action = 'REWRITE', rewrite_domain = 'Safe.example.org' } end";

fn rewrite(world: &World) {
    let upstream = knowing();
    let daemon = script(&upstream, SAFE).start(world);
    for _ in 0..2 {
        // `ask` compares the question to the letter.
        let reply = daemon.ask(&Query::a("SeaRCH.example.org").edns(1232));
        assert_eq!(reply.answers(), ["CNAME safe.example.org.", "A 203.0.113.1"]);
        assert_eq!(reply.message.answers[0].name.to_ascii(), "SeaRCH.example.org.");
        assert_eq!(reply.message.answers[1].name.to_ascii(), "safe.example.org.");
        assert_eq!(reply.ttl(), 60);
    }
    assert_eq!(names(&upstream), ["safe.example.org."]);
    // Who asks for the new name passes the plugins first, so its answer is another entry, ...
    let other = script(&upstream, SAFE).start(world);
    assert_eq!(other.ask(&Query::a("safe.example.org")).answers(), ["A 203.0.113.1"]);
    // ... which rewritten questions share.
    let reply = other.ask(&Query::a("search.example.org"));
    assert_eq!(reply.answers(), ["CNAME safe.example.org.", "A 203.0.113.1"]);
    assert_eq!(names(&upstream), ["safe.example.org."; 2]);
}

fn rewrites_share_a_fetch(world: &World) {
    let gate = Gate::default();
    let upstream = Upstream::start({
        let gate = gate.clone();
        move |asked| Answer::When(gate.clone(), Box::new(asked.address(300, "203.0.113.1").into()))
    });
    let daemon = script(&upstream, SAFE).start(world);
    let names = ["Safe.example.org", "search.example.org", "SEARCH.example.org"];
    let queries = names.map(Query::a);
    let mut clients = queries.each_ref().map(|query| {
        let mut client = daemon.client();
        client.send(&query.encode());
        // Who asks for the name itself comes first: a rewritten question shares what it gets.
        until("the upstream is asked", || (upstream.count() > 0).then_some(()));
        client
    });
    until("all wait for one answer", || {
        (daemon.metric("balancedns_coalesced_total") > 1.5).then_some(())
    });
    gate.open();
    for (number, (client, query)) in clients.iter_mut().zip(&queries).enumerate() {
        let reply = client.receive();
        reply.check_echo(query);
        let expected = ["CNAME safe.example.org.", "A 203.0.113.1"];
        assert_eq!(reply.answers(), expected[usize::from(number == 0)..]);
    }
    assert_eq!(upstream.count(), 1);
}

fn rewritten_answers_are_truncated(world: &World) {
    let upstream = Upstream::start(|asked| match asked.transport {
        Transport::Udp => asked.truncated(),
        Transport::Tcp | Transport::Dot | Transport::Doh => {
            asked.answer([txt_of(&asked.name(), 300, 3_000)])
        }
    });
    let daemon = script(&upstream, SAFE).start(world);
    let query = Query::new("search.example.org", RecordType::TXT).edns(1232);
    for _ in 0..2 {
        assert!(daemon.udp(&query).truncated());
        let reply = daemon.tcp(&query);
        assert_eq!((reply.truncated(), reply.message.answers.len()), (false, 2));
        assert!(reply.answers()[0].starts_with("CNAME safe"), "{:?}", reply.answers()[0]);
    }
}

fn rewrite_to_local_names(world: &World) {
    let upstream = knowing();
    let rules = "if first == 'a' then
           return { action = 'REWRITE', rewrite_domain = 'box.example.org.' } end
         if first == 'b' then
           return { action = 'REWRITE', rewrite_domain = 'nas.example.org.' } end";
    let daemon = script(&upstream, rules)
        .file("hosts", "192.0.2.10 box.example.org\n")
        .section(r#"hosts = { file = "hosts" }"#)
        .section(r#"local_records = { "nas.example.org. 9 A 192.0.2.11" }"#)
        .start(world);
    let reply = daemon.ask(&Query::a("a.example.org"));
    assert_eq!(reply.answers(), ["CNAME box.example.org.", "A 192.0.2.10"]);
    let reply = daemon.ask(&Query::a("b.example.org"));
    assert_eq!(reply.answers(), ["CNAME nas.example.org.", "A 192.0.2.11"]);
    assert_eq!(upstream.count(), 0);
}

fn rewrite_to_blocked_names(world: &World) {
    let upstream = knowing();
    let daemon = script(&upstream, SAFE)
        .section(r#"blacklist = { domains = { "safe.example.org" }, mode = "zero" }"#)
        .start(world);
    let reply = daemon.ask(&Query::a("search.example.org").edns(1232));
    assert_eq!(reply.answers(), ["A 0.0.0.0"]);
    assert_eq!(reply.message.answers[0].name.to_ascii(), "search.example.org.");
    assert_eq!(reply.extended_error(), (15, "blacklist.domains".to_owned()));
    assert_eq!(upstream.count(), 0);
}

fn rewrite_to_nowhere(world: &World) {
    let upstream = knowing();
    let rules = "if first == 'a' then
           return { action = 'REWRITE', rewrite_domain = 'gone.example.org' } end";
    let daemon = script(&upstream, rules).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("a.example.org"));
        assert_eq!(reply.rcode(), NXDOMAIN);
        assert_eq!(reply.answers(), ["CNAME gone.example.org."]);
        assert!(reply.soa().is_some());
    }
    assert_eq!(upstream.count(), 1);
}

fn rewrite_to_itself(world: &World) {
    let upstream = knowing();
    let rules = "return { action = 'REWRITE', rewrite_domain = string.upper(question.domain) }";
    let daemon = script(&upstream, rules).start(world);
    assert_eq!(daemon.ask(&Query::a("a.Example.org")).answers(), ["A 203.0.113.1"]);
}

fn rewriting_ends(world: &World) {
    let upstream = knowing();
    let rules = "local other = first == 'a' and 'b' or 'a'
         return { action = 'REWRITE', rewrite_domain = other .. '.example.org' }";
    let daemon = script(&upstream, rules).section(BEFORE_CACHE).start(world);
    let reply = daemon.ask(&Query::a("a.example.org"));
    assert_eq!(reply.answers(), ["CNAME b.example.org.", "A 203.0.113.1"]);
    let reply = daemon.ask(&Query::a("b.example.org"));
    assert_eq!(reply.answers(), ["CNAME a.example.org.", "A 203.0.113.1"]);
}

fn rewriting_opens_no_door(world: &World) {
    let upstream = knowing();
    let rules = "if first == 'a' then
           return { action = 'REWRITE', rewrite_domain = 'inner.example.org' } end
         if first == 'inner' then return 'BLOCK' end";
    let daemon = script(&upstream, rules).start(world);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("a.example.org"));
        assert_eq!(reply.answers(), ["CNAME inner.example.org.", "A 203.0.113.1"]);
        assert_eq!(daemon.ask(&Query::a("inner.example.org")).rcode(), REFUSED);
    }
}

fn rewrite_type(world: &World) {
    let upstream = knowing();
    let rules = "local wanted = first == 'six' and 'aaaa' or 1
         return { action = 'REWRITE', rewrite_domain = 'new.example.org', rewrite_type = wanted }";
    let daemon = script(&upstream, rules).start(world);
    let alias = "CNAME new.example.org.";
    let ask = |name: &str, qtype| daemon.ask(&Query::new(name, qtype));
    for _ in 0..2 {
        assert_eq!(ask("four.example.org", RecordType::A).answers(), [alias, "A 203.0.113.1"]);
        assert_eq!(ask("six.example.org", RecordType::AAAA).answers(), [alias, "AAAA 2001:db8::1"]);
        assert_eq!(ask("six.example.org", RecordType::ANY).answers(), [alias, "AAAA 2001:db8::1"]);
        for (name, qtype) in [
            ("six.example.org", RecordType::A),
            ("four.example.org", RecordType::AAAA),
            ("four.example.org", RecordType::TXT),
        ] {
            let reply = ask(name, qtype);
            assert_eq!((reply.rcode(), reply.answers()), (0, vec![alias.to_owned()]), "{qtype}");
        }
    }
    assert_eq!(upstream.count(), 2, "the name was looked up once for each type");
}

fn addresses_after_a_rewrite(world: &World) {
    let upstream = knowing();
    let one = "return { action = 'REWRITE', rewrite_domain = 'b.example.org' }";
    let two = "assert(question.domain == 'b.example.org.')
         return { action = 'LOCAL_DATA', local_data = { ip = '192.0.2.1', ttl = 9 } }";
    let daemon = scripts(&upstream, one, two).start(world);
    let reply = daemon.ask(&Query::a("a.example.org"));
    assert_eq!(reply.answers(), ["CNAME b.example.org.", "A 192.0.2.1"]);
    assert_eq!(reply.message.answers[1].name.to_ascii(), "b.example.org.");
    assert_eq!(upstream.count(), 0);
}
