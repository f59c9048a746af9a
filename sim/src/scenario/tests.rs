//! Tests of the format and its runner: what is wrong with a scenario is named with its line, and each
//! check of one can fail.

use balancedns_core::engine::Transport;

use super::{Scenario, ScenarioError};

/// Uses each kind of check once.
const GOOD: &str = r#"title: An example
shows: RFC 1035 section 4.1.1
why:   To be damaged.

config
  return {
    listen = { dns = "10.0.0.53:53", metrics = false, tcp_idle_timeout_ms = 1000 },
    upstreams = { { name = "one", addr = "198.51.100.1:53" } },
  }

config bad
  return {}

upstream one 198.51.100.1:53
  on www.example. A udp once
    after 20 ms
    reply NOERROR edns 1232 ede 4
      answer @ 300 A 192.0.2.7
      additional extra.example. 60 TXT "more"
  on held.example.
    hold
  on failing.example. udp
    reply NOERROR tc
  on failing.example. tcp
    reply NXDOMAIN ad

client alice udp 10.0.0.1:40000
client bob tcp 10.0.0.2:40000

steps
  alice asks WWW.example. A id 7 edns 1400
  one gets www.example. A udp edns size 1232 ad -cd -do class IN mixed-case
  alice gets nothing
  wait 20 ms
  alice gets NOERROR id 7 edns 1232 ede 4 octets 92 for www.example. A
    answer www.example. 300 A 192.0.2.7
    additional extra.example. 50..60 TXT "more"
  one gets nothing
  bob asks held.example. A
  bob asks held.example. AAAA
  one gets 2 queries
  one answers held.example. AAAA
    reply NOERROR
  bob gets NOERROR for held.example. AAAA
  bob is open
  one answers held.example.
    reply NXDOMAIN
  bob gets NXDOMAIN for held.example. A
  alice asks failing.example. TXT ad
  one gets failing.example. TXT udp other-id
  one gets failing.example. TXT tcp lower-case other-port
  one has 1 connection
  alice gets NXDOMAIN ad
  metric balancedns_queries_total = 4
  metric balancedns_responses_total{rcode="NXDOMAIN"} >= 2
  wait 1 s
  bob is closed
  reload bad refused "upstreams"
  running
  shutdown
  stopped
"#;

fn run(text: &str) -> Result<(), ScenarioError> {
    Scenario::parse("example.scenario", text)?.run()
}

/// The good scenario with one thing changed, and the line of that.
fn damaged(from: &str, to: &str) -> (String, usize) {
    assert_eq!(GOOD.matches(from).count(), 1, "\"{from}\" stands there once");
    let before = GOOD.split(from).next().expect("there is something before it");
    let line = before.matches('\n').count() + 1 + from.chars().take_while(|c| *c == '\n').count();
    (GOOD.replace(from, to), line)
}

#[test]
fn the_example_passes_each_time() {
    let scenario = Scenario::parse("example.scenario", GOOD).expect("it can be read");
    assert_eq!((scenario.title(), scenario.shows()), ("An example", "RFC 1035 section 4.1.1"));
    assert_eq!(scenario.run(), Ok(()));
    assert_eq!(scenario.run(), Ok(()));
}

#[test]
fn each_check_can_fail_at_its_line() {
    for (from, to) in [
        ("one gets www.example. A udp", "one gets www.example. A tcp"),
        ("one gets www.example. A", "one gets other.example. A"),
        ("one gets www.example. A", "one gets www.example. AAAA"),
        ("udp edns size 1232", "udp plain size 1232"),
        ("edns size 1232", "edns size 512"),
        (" ad -cd", " -ad -cd"),
        (" -cd -do", " cd -do"),
        (" -do class", " do class"),
        ("class IN", "class CH"),
        ("mixed-case", "lower-case"),
        ("mixed-case", "mixed-case same-port"),
        ("alice gets nothing", "alice gets NOERROR"),
        ("alice gets NOERROR id 7", "alice gets nothing\n  alice gets NOERROR id 7"),
        ("alice gets NOERROR id", "alice gets SERVFAIL id"),
        ("gets NOERROR id 7", "gets NOERROR id 8"),
        ("NOERROR id 7 edns 1232", "NOERROR id 7 aa edns 1232"),
        ("NOERROR id 7 edns 1232", "NOERROR id 7 tc edns 1232"),
        ("NOERROR id 7 edns 1232", "NOERROR id 7 edns 1400"),
        ("edns 1232 ede 4 octets", "edns 1232 octets"),
        ("edns 1232 ede 4 octets", "edns 1232 ede 5 octets"),
        ("octets 92", "octets 91"),
        ("octets 92", "octets 92 exact-case"),
        ("for www.example. A", "for www.example. AAAA"),
        ("one gets nothing", "one gets 1 query"),
        ("one gets 2 queries", "one gets nothing"),
        ("one gets 2 queries", "one gets 1 query"),
        ("bob gets NOERROR for held.example. AAAA", "bob gets NOERROR for held.example. A"),
        ("bob is open", "bob is closed"),
        ("one answers held.example. AAAA", "one answers held.example. TXT"),
        ("TXT udp other-id", "TXT udp same-id"),
        ("tcp lower-case", "tcp mixed-case"),
        ("lower-case other-port", "lower-case same-port"),
        ("one has 1 connection", "one has 2 connections"),
        ("alice gets NXDOMAIN ad", "alice gets NXDOMAIN"),
        ("balancedns_queries_total = 4", "balancedns_queries_total = 5"),
        ("balancedns_queries_total = 4", "balancedns_queries_total <= 3"),
        (">= 2", ">= 3"),
        ("bob is closed", "bob is open"),
        ("refused \"upstreams\"", "refused \"something else\""),
        ("reload bad refused \"upstreams\"", "reload bad"),
        ("  running\n", "  stopped\n"),
        ("\n  stopped\n", "\n  running\n"),
        ("  running\n", "  log \"anything\"\n"),
    ] {
        let (text, line) = damaged(from, to);
        match run(&text) {
            Err(ScenarioError::Failed { line: found, what, .. }) => {
                assert_eq!(found, line, "\"{to}\": {what}");
            }
            other => panic!("\"{to}\" did not fail: {other:?}"),
        }
    }
}

#[test]
fn each_record_is_compared_in_all_its_parts() {
    for (from, to) in [
        ("answer www.example. 300 A", "answer other.example. 300 A"),
        ("answer www.example. 300 A", "answer www.example. 299 A"),
        ("answer www.example. 300 A", "answer www.example. 300 CH A"),
        ("www.example. 300 A 192.0.2.7", "www.example. 300 A 192.0.2.8"),
        ("www.example. 300 A 192.0.2.7", "www.example. 300 TYPE65280 \\# 4 c0000207"),
        ("    answer www.example. 300 A 192.0.2.7\n", ""),
        ("answer www", "authority www"),
        ("50..60", "61..70"),
        ("50..60 TXT \"more\"", "50..60 TXT \"More\""),
        (
            "    answer www.example. 300 A 192.0.2.7\n",
            "    answer www.example. 300 A 192.0.2.7\n    answer www.example. 300 A 192.0.2.7\n",
        ),
    ] {
        let (text, _) = damaged(from, to);
        let failed = run(&text).expect_err(to).to_string();
        assert!(failed.starts_with("example.scenario:35: expected, and not so:"), "{failed}");
        assert!(failed.contains("answer WWW.example. 300 IN A 192.0.2.7"), "{failed}");
    }
    let (unseen, _) = damaged("    answer www.example. 300 A 192.0.2.7\n", "    answer *\n");
    assert_eq!(run(&unseen), Ok(()));
}

#[test]
fn what_no_step_looks_at_fails_in_the_end() {
    for (from, to, why) in [
        ("  alice gets NXDOMAIN ad\n", "", "alice got a reply that no step looks at"),
        ("  bob is closed\n", "", "the connection of bob was closed, and no step says so"),
        ("  wait 1 s\n", "  wait 1 s\n  alice asks held.example. MX\n", "no reply to its query"),
        (
            "    hold\n",
            "    hold\n  on never.example.\n    silence\n",
            "this rule was never needed",
        ),
        ("on failing.example. udp", "on failing.example. udp do", "no rule of it is for"),
    ] {
        let (text, _) = damaged(from, to);
        // Without the stop, so that a query without an answer is still one in the end.
        let text = text.replace("  shutdown\n  stopped\n", "");
        let failed = run(&text).expect_err(why).to_string();
        assert!(failed.contains(why), "{failed}");
    }
}

/// What is true of every reply and every query needs no words in a scenario. Here replies are
/// compared with a query other than the one that was sent.
#[test]
fn what_is_always_checked_can_fail() {
    use super::check::{Decoded, always_of_query, always_of_reply};
    use super::lines::Words;
    use super::message::Query;

    let query = |text: &str| Query::parse(Words::of(text)).expect(text);
    let mut octets = query("www.example. A edns 1232 do cd").encode(1);
    octets[2] |= 0x80; // QR
    octets[3] |= 0x80; // RA
    let reply = |octets: &[u8]| Decoded::new(octets).expect("it can be decoded");
    let check = |octets: &[u8], asked: &str, size| {
        always_of_reply(&reply(octets), &query(asked), Transport::Udp, size)
    };
    assert_eq!(check(&octets, "www.example. A edns 1232 do cd", 1232), Ok(()));
    for (asked, size) in [
        ("www.example. A edns 1232 do", 1232),
        ("www.example. A edns 1232 do cd -rd", 1232),
        ("www.example. A edns 1232 do cd opcode 4", 1232),
        ("www.example. A edns 1232 cd", 1232),
        ("www.example. A cd", 1232),
        ("www.example. A edns 1232 do cd", 1400),
    ] {
        assert!(check(&octets, asked, size).is_err(), "{asked} {size}");
    }
    for (octet, bit) in [(2, 0x80), (3, 0x80), (3, 0x40)] {
        let mut damaged = octets.clone();
        damaged[octet] ^= bit;
        assert!(check(&damaged, "www.example. A edns 1232 do cd", 1232).is_err(), "{octet} {bit}");
    }
    octets.push(0);
    assert!(Decoded::new(&octets).is_err(), "an octet behind the last record");

    let sent = |text: &str| always_of_query(&reply(&query(text).encode(1)), Transport::Udp);
    assert_eq!(sent("www.example. A ad cd edns 1232 do"), Ok(()));
    for wrong in ["-rd", "qr", "aa", "tc", "ra", "z", "opcode 4", "edns 1232 version 1"] {
        assert!(sent(&format!("www.example. A {wrong}")).is_err(), "{wrong}");
    }
    assert!(sent("www.example. A edns 1232 option 3 \"\"").is_err());
}

#[test]
fn what_cannot_be_read_is_named_with_its_line() {
    for (from, to, what) in [
        ("title: An example\n", "", "a scenario says \"title:\""),
        ("shows: RFC 1035 section 4.1.1\n", "shows: that\n", "names a section of an RFC"),
        ("why:   To be damaged.\n", "", "a scenario says \"why:\""),
        ("config bad\n", "config\n", "another config block of this name"),
        ("upstream one 198.51.100.1:53", "upstream one 198.51.100.1", "no address with a port"),
        ("client bob tcp", "client alice tcp", "the name \"alice\" is taken"),
        ("client bob tcp", "client wait tcp", "the name \"wait\" is taken"),
        ("client bob tcp", "client bob doq", "\"doq\" is not udp, tcp, dot or doh"),
        ("steps\n", "stages\n", "no block of a scenario"),
        ("on held.example.", "when held.example.", "a rule begins with \"on\""),
        ("on held.example.", "on held.example", "no absolute name"),
        ("on failing.example. udp", "on failing.example. dccp", "nothing that a rule looks at"),
        ("    hold\n", "", "what is done stands below"),
        ("    hold\n", "    accept\n", "not done on such an event"),
        ("    hold\n", "    answer\n", "nothing that an upstream does"),
        ("    hold\n", "    hold on\n", "\"on\" is not expected here"),
        ("reply NXDOMAIN ad", "reply NXNAME ad", "\"NXNAME\" is no rcode"),
        ("reply NXDOMAIN ad", "reply NXDOMAIN ede 4", "write \"edns SIZE\" before it"),
        ("reply NXDOMAIN ad", "reply NXDOMAIN da", "no part of a reply"),
        ("answer @ 300 A", "answers @ 300 A", "no section"),
        ("answer @ 300 A", "answer @ 300..400 A", "what is sent has one TTL"),
        ("answer @ 300 A", "answer @ soon A", "\"soon\" is no TTL"),
        ("answer @ 300 A 192.0.2.7", "answer @ 300 A 192.0.2", "is no A data"),
        ("after 20 ms", "after 20", "the line ends where ms, s, min or h"),
        ("alice asks WWW.example. A id 7", "alice asks WWW.example. B", "\"B\" is no type"),
        ("alice asks WWW.example. A id 7", "alice asks WWW.example. A id 70000", "is no id"),
        (
            "alice asks WWW.example. A id 7",
            "alice wants WWW.example. A",
            "client of datagrams does",
        ),
        ("alice asks WWW.example. A id 7", "zoe asks WWW.example. A", "\"zoe\" is no client"),
        ("bob is open", "bob is happy", "nothing that a client does"),
        ("one has 1 connection", "one has 1 friend", "connections are what an upstream has"),
        ("alice gets NXDOMAIN ad", "alice gets NXDOMAIN cd", "nothing that is looked at"),
        ("balancedns_queries_total", "balancedns_querys_total", "there is no metric"),
        (">= 2", "~ 2", "\"~\" is not =, <= or >="),
        ("reload bad", "reload worse", "no config block \"worse\""),
        ("wait 1 s", "wait 1 fortnight", "no unit of time"),
        ("wait 1 s", "    wait 1 s", "nothing can stand below"),
    ] {
        let (text, _) = damaged(from, to);
        match Scenario::parse("example.scenario", &text) {
            Err(ScenarioError::Malformed { line, what: found, .. }) => {
                assert!(found.contains(what), "\"{to}\": {found}");
                let shown = text.lines().nth(line - 1).unwrap_or_default();
                let about_head = from.contains(':') && line == 1 || to.is_empty();
                assert!(
                    about_head || shown.contains(to.trim()) || to.contains(shown),
                    "{line}: {to}"
                );
            }
            other => panic!("\"{to}\" was read: {other:?}"),
        }
    }
}

#[test]
fn what_is_too_much_is_refused() {
    for (from, to, what) in [
        ("alice asks WWW.example. A id 7", "alice sends 00*4000000000", "more than any message"),
        (
            "alice asks WWW.example. A id 7",
            "alice sends 00*40000 00*40000",
            "more than any message",
        ),
        ("alice asks WWW.example. A id 7", "alice asks a. A opcode 16", "is no opcode"),
        ("TXT \"more\"\n  on held", "TXT octets 70000\n  on held", "more than any message"),
        ("reply NXDOMAIN ad", "reply RCODE4096", "is no rcode"),
        ("  running\n", "  repeat 100001\n    running\n", "too often"),
        ("  running\n", "  repeat 1000\n    repeat 1000\n      running\n", "too many steps"),
        ("    hold\n", "    repeat 2\n      repeat 2\n        hold\n", "repetition of repetitions"),
    ] {
        let (text, _) = damaged(from, to);
        let found = Scenario::parse("example.scenario", &text).expect_err(to).to_string();
        assert!(found.contains(what), "{found}");
    }
    let deep: String = (0..100).map(|depth| format!("{}a\n", " ".repeat(depth))).collect();
    let found = Scenario::parse("deep", &deep).expect_err("too deep").to_string();
    assert_eq!(found, "deep:17: indented too deep");
}

/// Words that are left out, doubled, or stand where others did: an error or another scenario, and
/// never a panic.
#[test]
fn no_text_is_a_panic() {
    let words: Vec<&str> = GOOD.split_whitespace().collect();
    let mut read = 0;
    for line in GOOD.lines() {
        for word in line.split_whitespace() {
            let others = words.iter().step_by(37).copied();
            for other in
                others.chain(["", "\"", "\\", "*", ".", "-", "{i}", "99999999999999999999"])
            {
                let text = GOOD.replacen(line, &line.replacen(word, other, 1), 1);
                read += usize::from(Scenario::parse("example", &text).is_ok());
            }
        }
    }
    assert!(read > 100, "{read} could be read");
}

#[test]
fn errors_of_a_configuration_have_the_lines_of_the_file() {
    let (text, _) = damaged("addr = \"198.51.100.1:53\" }", "addr = \"198.51.100.1\" }");
    let failed = run(&text).expect_err("no port").to_string();
    assert!(failed.contains("example.scenario:8: upstreams[1].addr"), "{failed}");
}

#[test]
fn the_example_of_the_reference_is_true() {
    let reference = include_str!("../../../docs/scenarios.md");
    let example = reference.split("```text\n").nth(1).expect("there is an example");
    let example = example.split("```").next().expect("it ends");
    assert_eq!(run(example), Ok(()));
    // So is the failure that is shown there.
    let shown = reference.split("```text\n").nth(2).expect("there is a failure");
    let shown = shown.split("```").next().expect("it ends");
    let damaged = example.replace(
        "  alice gets NOERROR\n    answer @ 300 TXT \"all",
        "  alice gets NOERROR\n    answer @ 300 TXT \"some",
    );
    let name = "rfc7766/truncation-leads-to-tcp.scenario";
    let failed = Scenario::parse(name, &damaged).and_then(|scenario| scenario.run());
    assert_eq!(failed.expect_err("some is not all").to_string() + "\n", shown);
}
