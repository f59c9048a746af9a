//! Lists of names that are not resolved: the ways of answering, the kinds of lists, what answers lead
//! to. How lists are had is another module's.

use std::time::Duration;

use hickory_proto::rr::rdata::{CNAME, HTTPS, SVCB};
use hickory_proto::rr::{Name, RData, RecordType};

use crate::case::World;
use crate::harness::web::{Served, Web};
use crate::harness::{
    Asked, Daemon, Query, Settings, Upstream, address, free_port, record, until, until_within,
};

cases! {
    names_of_lists_are_told, all, "RFC 8914 2, RFC 8914 4.16",
        "who speaks EDNS is told which list blocks a name";
    nxdomain_mode, all, "RFC 2308 2.1, config blacklist.mode",
        "mode nxdomain: there is no such name, with a SOA of the configured TTL";
    nodata_mode, all, "RFC 2308 2.2, config blacklist.mode",
        "mode nodata: the name has no records of any type, with a SOA";
    zero_mode, all, "config blacklist.mode",
        "mode zero: 0.0.0.0 and ::, both for ANY, and nothing of other types";
    addresses_mode, all, "config blacklist.addresses",
        "mode addresses: those of the asked family, with the configured TTL";
    addresses_of_one_family, all, "config blacklist.addresses",
        "mode addresses: a family of which there is none is NODATA";
    refused_mode_says_nothing_else, all, "config blacklist.mode",
        "mode refused: no SOA that anybody could remember";
    allowed_names_pass, all, "config blacklist.allow",
        "a name that is allowed, plain or by wildcard, passes whatever list blocks it";
    hosts_format, all, "config blacklist.files",
        "of a list in the format of hosts files only names to block count: no comments, not our own names";
    plain_format, all, "config blacklist.files",
        "a list of plain names and wildcards blocks by whole labels, as blacklist.domains does";
    other_lines_are_skipped, own, "config blacklist.files",
        "lines that mean something else are skipped, and the operator is told which";
    first_list_is_named, all, "RFC 8914 2, config blacklist.files",
        "of several lists that have a name the first one is told";
    urls_are_told_without_secrets, own, "RFC 8914 2, config blacklist.urls",
        "of a list from the web its URL is told, less what stands behind its question mark";
    cached_answers_follow_the_lists, own, "config blacklist.files",
        "what answers in the cache lead to is checked again when a list has changed";
    large_lists, own, "config blacklist.files",
        "of a list of 100,000 names every one is blocked and no other";
    modes_are_checked, own, "cli errors",
        "a mode that does not exist, or lacks its addresses, is an error at the start";
    aliases_to_blocked_names, all, "config blacklist",
        "an answer that leads to a blocked name by CNAME is blocked, fresh and from the cache";
    services_at_blocked_names, all, "config blacklist",
        "an answer whose HTTPS record leads to a blocked name is blocked, fresh and from the cache";
    aliases_to_allowed_names, all, "config blacklist.allow",
        "an answer that leads to a name that is allowed passes";
    blocked_aliases_in_the_way_of_the_list, all, "config blacklist.mode",
        "an answer that leads to a blocked name is replaced in the mode of the list, at the asked name";
    blocked_answers_are_counted, own, "http /metrics",
        "names that are blocked, and answers that lead to them, are counted apart";
}

const REFUSED: u16 = 5;
const NXDOMAIN: u16 = 3;
/// Files are looked at every few seconds, and taken once they have stopped changing.
const SEEN: Duration = Duration::from_secs(30);
/// RFC 8914 section 4.16.
const BLOCKED: u16 = 15;

/// `blocked.example.org` and what is below `wild.example.org`, with more keys of the blacklist.
fn blocking(world: &World, upstream: &Upstream, keys: &str) -> Daemon {
    let domains = r#"domains = { "blocked.example.org", "*.wild.example.org" }"#;
    Settings::with(upstream).section(&format!("blacklist = {{ {domains}, {keys} }}")).start(world)
}

/// A list in a file.
fn listing(upstream: &Upstream, content: &str) -> Settings {
    Settings::with(upstream)
        .file("ads.txt", content)
        .section(r#"blacklist = { files = { "ads.txt" } }"#)
}

fn blocked() -> Query {
    Query::a("blocked.example.org").edns(1232)
}

fn of_type(qtype: RecordType) -> Query {
    Query::new("BLOCKED.example.org", qtype).edns(1232)
}

fn assert_blocked(daemon: &Daemon, names: &[&str]) {
    let mut client = daemon.client();
    for name in names {
        let reply = client.ask(&Query::a(name).edns(1232));
        assert_eq!((reply.rcode(), reply.extended_error().0), (REFUSED, BLOCKED), "{name}");
    }
}

fn assert_passing(daemon: &Daemon, names: &[&str]) {
    let mut client = daemon.client();
    for name in names {
        assert_eq!(client.ask(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
}

fn names_of_lists_are_told(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream, "");
    let told = (BLOCKED, "blacklist.domains".to_owned());
    assert_eq!(daemon.ask(&blocked()).extended_error(), told);
    let query = Query::new("a.b.wild.example.org", RecordType::TXT).edns(1232);
    assert_eq!(daemon.ask(&query).extended_error(), told);
    assert_eq!(upstream.count(), 0);
}

fn nxdomain_mode(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream, r#"mode = "nxdomain", ttl = 77"#);
    for qtype in [RecordType::A, RecordType::MX, RecordType::HTTPS, RecordType::ANY] {
        let reply = daemon.ask(&of_type(qtype));
        reply.check_negative(NXDOMAIN, 77);
        assert_eq!(reply.extended_error().0, BLOCKED, "{qtype}");
    }
    assert_eq!(upstream.count(), 0);
}

fn nodata_mode(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream, r#"mode = "NoData""#);
    for qtype in [RecordType::A, RecordType::MX, RecordType::HTTPS, RecordType::ANY] {
        let reply = daemon.ask(&of_type(qtype));
        reply.check_negative(0, 60);
        assert_eq!(reply.extended_error().0, BLOCKED, "{qtype}");
    }
    assert_eq!(upstream.count(), 0);
}

fn zero_mode(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream, r#"mode = "zero", ttl = 33"#);
    for (qtype, answers) in [
        (RecordType::A, &["A 0.0.0.0"][..]),
        (RecordType::AAAA, &["AAAA ::"]),
        (RecordType::ANY, &["A 0.0.0.0", "AAAA ::"]),
    ] {
        let query = of_type(qtype);
        let reply = daemon.ask(&query);
        assert_eq!(reply.answers(), answers);
        assert!(reply.message.answers.iter().all(|record| record.ttl == 33), "{qtype}");
        assert_eq!((reply.rcode(), reply.extended_error().0), (0, BLOCKED), "{qtype}");
        assert!(reply.soa().is_none(), "{qtype}: it is no negative answer");
    }
    for qtype in [RecordType::HTTPS, RecordType::MX, RecordType::TXT] {
        daemon.ask(&of_type(qtype)).check_negative(0, 33);
    }
    assert_eq!(upstream.count(), 0);
}

fn addresses_mode(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let addresses = r#"{ "192.0.2.80", "2001:db8::80", "192.0.2.81" }"#;
    let keys = format!(r#"mode = "addresses", ttl = 5, addresses = {addresses}"#);
    let daemon = blocking(world, &upstream, &keys);
    for (qtype, answers) in [
        (RecordType::A, &["A 192.0.2.80", "A 192.0.2.81"][..]),
        (RecordType::AAAA, &["AAAA 2001:db8::80"]),
        (RecordType::ANY, &["A 192.0.2.80", "A 192.0.2.81", "AAAA 2001:db8::80"]),
    ] {
        let reply = daemon.ask(&of_type(qtype));
        assert_eq!(reply.answers(), answers);
        assert!(reply.message.answers.iter().all(|record| record.ttl == 5), "{qtype}");
        assert_eq!(reply.extended_error().0, BLOCKED, "{qtype}");
    }
    daemon.ask(&of_type(RecordType::HTTPS)).check_negative(0, 5);
    assert_eq!(upstream.count(), 0);
}

fn addresses_of_one_family(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let keys = r#"mode = "addresses", addresses = { "192.0.2.80" }"#;
    let daemon = blocking(world, &upstream, keys);
    assert_eq!(daemon.ask(&blocked()).address(), "192.0.2.80");
    daemon.ask(&of_type(RecordType::AAAA)).check_negative(0, 60);
    assert_eq!(upstream.count(), 0);
}

fn refused_mode_says_nothing_else(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = blocking(world, &upstream, r#"mode = "refused", ttl = 77"#);
    for qtype in [RecordType::A, RecordType::ANY] {
        let reply = daemon.ask(&of_type(qtype));
        let records = reply.message.answers.len() + reply.message.authorities.len();
        assert_eq!((reply.rcode(), records), (REFUSED, 0), "{qtype}");
    }
}

fn allowed_names_pass(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let allow = r#"allow = { "good.wild.example.org", "*.better.wild.example.org" }"#;
    let daemon = blocking(world, &upstream, allow);
    assert_passing(&daemon, &["good.wild.example.org", "a.b.better.wild.example.org"]);
    assert_blocked(
        &daemon,
        &["a.good.wild.example.org", "better.wild.example.org", "x.wild.example.org"],
    );
}

fn hosts_format(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let list = "127.0.0.1 localhost\n0.0.0.0 one.example.org Two.Example.Org # both\r\n\
                ::\tthree.example.org\n# 0.0.0.0 comment.example.org\n\n127.0.0.1 four.example.org.";
    let daemon = listing(&upstream, list).start(world);
    assert_blocked(
        &daemon,
        &["one.example.org", "two.example.org", "THREE.example.org", "four.example.org"],
    );
    assert_passing(&daemon, &["a.one.example.org", "comment.example.org", "example.org"]);
    assert_eq!(daemon.ask(&Query::a("localhost")).address(), "127.0.0.1", "it is our own name");
}

fn plain_format(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let list =
        "one.example.org\n*.wild.example.org\n.dot.example.org # all below\n! no.example.org\n";
    let daemon = listing(&upstream, list).start(world);
    assert_blocked(
        &daemon,
        &["One.Example.org", "a.wild.example.org", "a.b.wild.example.org", "a.dot.example.org"],
    );
    assert_passing(
        &daemon,
        &["a.one.example.org", "wild.example.org", "dot.example.org", "xwild.example.org"],
    );
    assert_passing(&daemon, &["no.example.org"]);
}

fn other_lines_are_skipped(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let list = "one.example.org\n||ads.example.org^$third-party\n192.0.2.9 answers.example.org\n\
                two words.example.org\n";
    let daemon = listing(&upstream, list).start(world);
    for query in [Query::a("ads.example.org"), Query::a("answers.example.org")] {
        assert_eq!(daemon.udp(&query).address(), "192.0.2.1");
    }
    assert_eq!(daemon.udp(&Query::a("one.example.org")).rcode(), REFUSED);
    daemon.wait_to_say("ads.example.org^$third-party");
    let said = daemon.said();
    assert!(said.contains("line 2") && said.contains("blacklist.files"), "{said}");
}

fn first_list_is_named(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .file("first.txt", "both.example.org\n")
        .file("second.txt", "both.example.org\nsecond.example.org\n")
        .section(r#"blacklist = { files = { "first.txt", "second.txt" } }"#)
        .start(world);
    for (name, list) in [("both.example.org", "first.txt"), ("second.example.org", "second.txt")] {
        let told = daemon.ask(&Query::a(name).edns(1232)).extended_error();
        // Where it stands on the disk is nothing to clients.
        assert_eq!(told, (BLOCKED, list.to_owned()), "{name}");
    }
}

fn urls_are_told_without_secrets(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let web = Web::plain(|_| Served::text("listed.example.org\n"));
    let url = web.url("/ads.txt");
    let keys = format!("urls = {{ \"{url}?key=secret\" }}, cache_dir = false");
    let daemon = blocking(world, &upstream, &keys);
    let query = Query::a("listed.example.org").edns(1232);
    let reply = until("it is fetched", || {
        let reply = daemon.udp(&query);
        (reply.rcode() == REFUSED).then_some(reply)
    });
    assert_eq!(reply.extended_error(), (BLOCKED, url));
}

fn cached_answers_follow_the_lists(world: &World) {
    let upstream = leading();
    let daemon = listing(&upstream, "# nothing yet\n").start(world);
    let rcode = || daemon.udp(&Query::a("alias.example.org")).rcode();
    let until_it_is = |expected| {
        until_within(SEEN, "the list is read", || (rcode() == expected).then_some(()));
    };
    assert_eq!(rcode(), 0);
    daemon.rewrite("ads.txt", "||blocked.example.org^\n");
    until_it_is(REFUSED);
    daemon.rewrite("ads.txt", "another-one.example.org\n");
    until_it_is(0);
    assert_eq!(upstream.count(), 1, "it was in the cache all the time");
}

fn large_lists(world: &World) {
    use std::fmt::Write as _;
    const COUNT: usize = 100_000;
    let mut list = String::new();
    for number in 0..COUNT {
        writeln!(list, "0.0.0.0 n{number}.example.org").expect("text takes text");
    }
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = listing(&upstream, &list).start(world);
    let mut client = crate::harness::StreamClient::to(daemon.addr());
    for number in (0..COUNT).step_by(997).chain([COUNT - 1]) {
        let reply = client.ask(&Query::a(&format!("N{number}.example.org")));
        assert_eq!(reply.rcode(), REFUSED, "{number}");
    }
    for name in [&format!("n{COUNT}.example.org"), "n.example.org", "x.n1.example.org"] {
        assert_eq!(client.ask(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
}

fn modes_are_checked(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    for (keys, words) in [
        (r#"mode = "nxdomian""#, &["blacklist.mode", "did you mean", "nxdomain"][..]),
        (r#"mode = "addresses""#, &["blacklist.addresses", "is missing"]),
        (r#"addresses = { "192.0.2.1" }"#, &["blacklist.addresses", "has no effect"]),
        (r#"mode = "addresses", addresses = { "x" }"#, &["blacklist.addresses[1]", "ip address"]),
        (r#"urls = { "ftp://lists.example/" }"#, &["blacklist.urls[1]", "https url"]),
        (r#"allow = { "a..b" }"#, &["blacklist.allow[1]"]),
        ("adresses = {}", &["blacklist.adresses", "did you mean", "addresses"]),
    ] {
        let section = format!("blacklist = {{ {keys} }}");
        let ended = Settings::with(&upstream).section(&section).fail_on(world, free_port());
        assert_eq!(ended.status.code(), Some(1), "{keys}: {ended:?}");
        let found = ended.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "{keys}: no line with {words:?}:\n{}", ended.stderr);
    }
}

/// An upstream whose names lead elsewhere by their first label, but for that an address of their own.
fn leading() -> Upstream {
    Upstream::start(|asked| {
        let name = asked.name();
        let name = name.as_str();
        let alias = |target: &str| record(name, 300, RData::CNAME(CNAME(fqdn(target))));
        match name.split('.').next() {
            Some("alias") => asked.answer([
                alias("blocked.example.org."),
                address("blocked.example.org.", 300, "192.0.2.2"),
            ]),
            Some("far") => asked.answer([
                alias("near.example.org."),
                record("near.example.org.", 300, RData::CNAME(CNAME(fqdn("x.wild.example.org.")))),
                address("x.wild.example.org.", 300, "192.0.2.3"),
            ]),
            Some("allowed") => asked.answer([
                alias("good.wild.example.org."),
                address("good.wild.example.org.", 300, "192.0.2.4"),
            ]),
            Some("service") => asked.answer([https(asked, "blocked.example.org.")]),
            Some("own") => asked.answer([https(asked, ".")]),
            Some(_) | None => asked.address(300, "192.0.2.1"),
        }
    })
}

fn fqdn(name: &str) -> Name {
    Name::from_ascii(name).expect("a test's name is valid")
}

fn https(asked: &Asked, target: &str) -> hickory_proto::rr::Record {
    let data = RData::HTTPS(HTTPS(SVCB::new(1, fqdn(target), Vec::new())));
    record(&asked.name(), 300, data)
}

fn aliases_to_blocked_names(world: &World) {
    let upstream = leading();
    let daemon = blocking(world, &upstream, "");
    for name in ["alias.example.org", "far.example.org"] {
        for _ in 0..2 {
            let reply = daemon.ask(&Query::a(name).edns(1232));
            assert_eq!((reply.rcode(), reply.message.answers.len()), (REFUSED, 0), "{name}");
            assert_eq!(reply.extended_error(), (BLOCKED, "blacklist.domains".to_owned()), "{name}");
        }
    }
    assert_eq!(upstream.count(), 2, "the second time they come from the cache");
}

fn services_at_blocked_names(world: &World) {
    let upstream = leading();
    let daemon = blocking(world, &upstream, "");
    let query = |name| Query::new(name, RecordType::HTTPS).edns(1232);
    for _ in 0..2 {
        let reply = daemon.ask(&query("service.example.org"));
        assert_eq!((reply.rcode(), reply.extended_error().0), (REFUSED, BLOCKED));
        assert_eq!(daemon.ask(&query("own.example.org")).message.answers.len(), 1);
    }
    assert_eq!(upstream.count(), 2);
}

fn aliases_to_allowed_names(world: &World) {
    let upstream = leading();
    let daemon = blocking(world, &upstream, r#"allow = { "good.wild.example.org" }"#);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a("allowed.example.org")).address(), "192.0.2.4");
    }
}

fn blocked_aliases_in_the_way_of_the_list(world: &World) {
    let upstream = leading();
    let daemon = blocking(world, &upstream, r#"mode = "zero", ttl = 44"#);
    for _ in 0..2 {
        let reply = daemon.ask(&Query::a("Alias.example.org").edns(1232));
        assert_eq!((reply.answers(), reply.ttl()), (vec!["A 0.0.0.0".to_owned()], 44));
        let owner = reply.message.answers[0].name.to_ascii();
        assert_eq!(owner.to_ascii_lowercase(), "alias.example.org.");
    }
    let daemon = blocking(world, &upstream, r#"mode = "nxdomain""#);
    daemon.ask(&Query::a("alias.example.org")).check_negative(NXDOMAIN, 60);
}

fn blocked_answers_are_counted(world: &World) {
    let upstream = leading();
    let daemon = blocking(world, &upstream, "");
    for name in ["blocked.example.org", "alias.example.org", "alias.example.org", "x.example.org"] {
        daemon.udp(&Query::a(name));
    }
    assert!((daemon.metric("balancedns_blocked_total") - 1.0).abs() < 0.1);
    assert!((daemon.metric("balancedns_blocked_leads_total") - 2.0).abs() < 0.1);
}
