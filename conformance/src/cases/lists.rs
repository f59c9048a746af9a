//! Lists of names to block that come from files and URLs, and the hosts file, while the daemon runs.

use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::case::World;
use crate::harness::tls::{Flaw, Identity, authority_pem};
use crate::harness::web::{Request, Served, Web};
use crate::harness::{Daemon, Gate, Query, Settings, Upstream, free_port, until, until_within};

cases! {
    files_block_what_they_list, all, "config blacklist.files",
        "names of a file are blocked as the format of each line says: hosts, plain, wildcard, adblock";
    exceptions_of_a_list_are_not_blocked, all, "config blacklist.files",
        "a name that one file excepts is not blocked by another";
    missing_list_is_an_error, own, "config blacklist.files",
        "a file that is not there ends the start, and the error names it";
    changed_list_is_taken_up, own, "config blacklist.files",
        "a file that has changed is read again, and one that is gone stays in use";
    changed_hosts_are_taken_up, own, "config hosts.file",
        "a hosts file that has changed is read again";
    list_is_fetched, own, "config blacklist.urls",
        "a list is fetched over HTTPS once the daemon serves, and its server's host is asked of the daemon itself";
    fetching_delays_nobody, own, "config blacklist.urls",
        "a server that does not answer keeps neither the start nor questions waiting";
    list_is_fetched_again, own, "config blacklist.refresh_seconds, RFC 9110 13.1.2",
        "a list is asked for again under the version that is known, and another one takes its place";
    last_good_list_stays, own, "config blacklist.urls",
        "an error, a web page and an empty list leave the last good list in use";
    copy_serves_the_next_start, own, "config blacklist.cache_dir",
        "a list that was fetched blocks from the first question of the next start, its server gone";
    strangers_lists_are_not_taken, own, "config blacklist.urls",
        "no list is taken from a server whose certificate nobody trusts, nor from one without, that https leads to";
    lists_are_measured, own, "config listen.metrics",
        "entries, time and failures of each list are metrics";
}

const REFUSED: u16 = 5;
/// The daemon looks at files every five seconds, and once more a second later.
const NOTICED: Duration = Duration::from_secs(25);

fn blocked(daemon: &Daemon, name: &str) -> bool {
    daemon.udp(&Query::a(name)).rcode() == REFUSED
}

fn wait_for(daemon: &Daemon, name: &str) {
    until_within(NOTICED, name, || blocked(daemon, name).then_some(()));
}

fn files_block_what_they_list(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let hosts =
        "# a hosts file\n127.0.0.1 localhost\n0.0.0.0 hosts.example.org also.example.org # x\n";
    let others = "plain.example.org\r\n*.wild.example.org\r\n! adblock\r\n||both.example.org^\r\n";
    let daemon = Settings::with(&upstream)
        .file("hosts.txt", hosts)
        .file("others.txt", others)
        .section(r#"blacklist = { files = { "hosts.txt", "others.txt" } }"#)
        .start(world);
    let names = ["hosts", "also", "PLAIN", "a.wild", "both", "a.both"];
    for name in names {
        let name = format!("{name}.example.org");
        assert_eq!(daemon.ask(&Query::a(&name)).rcode(), REFUSED, "{name}");
    }
    assert_eq!(upstream.count(), 0);
    for name in ["a.hosts", "a.plain", "wild", "example"] {
        let name = format!("{name}.example.org");
        assert_eq!(daemon.ask(&Query::a(&name)).address(), "192.0.2.1", "{name}");
    }
}

fn exceptions_of_a_list_are_not_blocked(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .file("all.txt", "||example.org^\n")
        .file("some.txt", "@@||good.example.org^\nother.example.net\n")
        .section(r#"blacklist = { files = { "all.txt", "some.txt" } }"#)
        .start(world);
    for name in ["example.org", "www.example.org", "other.example.net"] {
        assert_eq!(daemon.ask(&Query::a(name)).rcode(), REFUSED, "{name}");
    }
    for name in ["good.example.org", "www.good.example.org"] {
        assert_eq!(daemon.ask(&Query::a(name)).address(), "192.0.2.1", "{name}");
    }
}

fn missing_list_is_an_error(world: &World) {
    let upstream = Upstream::silent();
    let settings = Settings::with(&upstream).section(r#"blacklist = { files = { "gone.txt" } }"#);
    let ended = settings.fail_on(world, free_port());
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{ended:?}");
    assert!(lines[0].contains("blacklist.files[1]") && lines[0].contains("gone.txt"), "{ended:?}");
}

fn changed_list_is_taken_up(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .workers(2)
        .file("list.txt", "one.example.org\n")
        .section(r#"blacklist = { files = { "list.txt" } }"#)
        .start(world);
    assert!(blocked(&daemon, "one.example.org"));
    // From now on it is in the cache, which must not matter.
    assert_eq!(daemon.udp(&Query::a("two.example.org")).address(), "192.0.2.1");
    daemon.rewrite("list.txt", "two.example.org\n");
    wait_for(&daemon, "two.example.org");
    until("every worker knows", || (!blocked(&daemon, "one.example.org")).then_some(()));
    daemon.remove("list.txt");
    until_within(NOTICED, "it warns", || daemon.said().contains("no such file").then_some(()));
    assert!(blocked(&daemon, "two.example.org"));
}

fn changed_hosts_are_taken_up(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let daemon = Settings::with(&upstream)
        .file("hosts", "192.0.2.10 host.example.org\n")
        .section(r#"hosts = { file = "hosts" }"#)
        .start(world);
    assert_eq!(daemon.udp(&Query::a("host.example.org")).address(), "192.0.2.10");
    daemon.rewrite("hosts", "192.0.2.20 host.example.org\n");
    until_within(NOTICED, "the new address", || {
        let reply = daemon.udp(&Query::a("host.example.org"));
        (reply.address() == "192.0.2.20").then_some(())
    });
}

/// A list that a test exchanges while it is served; its version is its content.
#[derive(Clone)]
struct Offer(Arc<Mutex<Served>>);

impl Offer {
    fn new(served: Served) -> Self {
        Self(Arc::new(Mutex::new(served)))
    }

    fn list(text: &str) -> Served {
        let version = format!("\"{}\"", text.trim().replace('\n', "-"));
        Served::text(text).with("ETag", &version)
    }

    fn set(&self, served: Served) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = served;
    }

    fn serve(&self, request: &Request) -> Served {
        let served = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = request.field("If-None-Match");
        if known.is_some() && known == served.version() { Served::status(304) } else { served }
    }

    fn plain(&self) -> Web {
        let offer = self.clone();
        Web::plain(move |request| offer.serve(request))
    }
}

/// A daemon that fetches a list anew each second.
fn fetching(upstream: &Upstream, url: &str, cache_dir: impl Display) -> Settings {
    Settings::with(upstream)
        .file("authority.pem", &authority_pem())
        .variable("SSL_CERT_FILE", "authority.pem")
        .section(&format!(
            r#"blacklist = {{ urls = {{ "{url}" }}, refresh_seconds = 1, cache_dir = {cache_dir} }}"#
        ))
}

fn list_is_fetched(world: &World) {
    let upstream = Upstream::answering("127.0.0.1");
    let web = Web::plain(|_| Served::text("by.example.org\n"));
    let url = format!("http://lists.example.org:{}/ads.txt", web.port());
    let daemon = fetching(&upstream, &url, false).start(world);
    wait_for(&daemon, "by.example.org");
    assert!(upstream.asked().iter().any(|asked| asked.name() == "lists.example.org."));
    let request = web.requests().swap_remove(0);
    assert_eq!(request.path, "/ads.txt");
    assert!(request.field("User-Agent").is_some_and(|agent| agent.starts_with("balancedns/")));
    let web = Web::secure(Identity::usual(), |_| Served::text("secure.example.org\n"));
    let daemon = fetching(&upstream, &web.url("/"), false).start(world);
    wait_for(&daemon, "secure.example.org");
}

fn fetching_delays_nobody(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let gate = Gate::default();
    let web = Web::plain({
        let gate = gate.clone();
        move |_| {
            gate.wait();
            Served::text("late.example.org\n")
        }
    });
    let daemon = fetching(&upstream, &web.url("/"), false).start(world);
    until("it is asked for", || (!web.requests().is_empty()).then_some(()));
    assert_eq!(daemon.udp(&Query::a("www.example.org")).address(), "192.0.2.1");
    assert!(!blocked(&daemon, "late.example.org"));
    gate.open();
    wait_for(&daemon, "late.example.org");
}

fn list_is_fetched_again(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let offer = Offer::new(Offer::list("one.example.org\n"));
    let web = offer.plain();
    let daemon = fetching(&upstream, &web.url("/"), false).start(world);
    wait_for(&daemon, "one.example.org");
    until("it is asked for again", || {
        let requests = web.requests();
        let again = requests.get(1)?;
        assert_eq!(again.field("If-None-Match"), Some("\"one.example.org\""));
        (requests.len() > 2).then_some(())
    });
    assert!(blocked(&daemon, "one.example.org"));
    offer.set(Offer::list("two.example.org\n"));
    wait_for(&daemon, "two.example.org");
    assert!(!blocked(&daemon, "one.example.org"));
}

fn last_good_list_stays(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let offer = Offer::new(Offer::list("one.example.org\n"));
    let web = offer.plain();
    let daemon = fetching(&upstream, &web.url("/"), false).start(world);
    wait_for(&daemon, "one.example.org");
    let bad = [
        (Served::status(500), "500"),
        (Served::text("<html>log in\nportal.example.org\n</html>"), "web page"),
        (Served::text("# nothing\n"), "nothing in it can be used"),
    ];
    for (served, said) in bad {
        offer.set(served);
        daemon.wait_to_say(said);
        assert!(blocked(&daemon, "one.example.org"));
        assert!(!blocked(&daemon, "portal.example.org"));
    }
    offer.set(Offer::list("two.example.org\n"));
    wait_for(&daemon, "two.example.org");
}

fn quoted(folder: &Path) -> String {
    format!("{:?}", folder.display().to_string())
}

fn copy_serves_the_next_start(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let folder = TempDir::new().expect("a temporary folder");
    let cache = quoted(&folder.path().join("lists"));
    let web = Offer::new(Offer::list("kept.example.org\n")).plain();
    let url = web.url("/");
    let daemon = fetching(&upstream, &url, &cache).start(world);
    wait_for(&daemon, "kept.example.org");
    drop(daemon);
    drop(web);
    let daemon = fetching(&upstream, &url, &cache).start(world);
    assert!(blocked(&daemon, "kept.example.org"));
    daemon.wait_to_say("stay in use");
    assert!(blocked(&daemon, "kept.example.org"));
    let files = std::fs::read_dir(folder.path().join("lists")).expect("a folder");
    for file in files {
        std::fs::write(file.expect("an entry").path(), "more.example.org\n").expect("a file");
    }
    let daemon = fetching(&upstream, &url, &cache).start(world);
    assert!(!blocked(&daemon, "more.example.org"), "what others have written is no copy");
}

fn strangers_lists_are_not_taken(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let bad = |_: &Request| Served::text("bad.example.org\n");
    let stranger = Web::secure(&Identity::new(Flaw::SelfSigned), bad);
    let daemon = fetching(&upstream, &stranger.url("/"), false).start(world);
    daemon.wait_to_say("certificate");
    assert!(!blocked(&daemon, "bad.example.org"));
    let open = Web::plain(bad);
    let leads_to = open.url("/");
    let leading =
        Web::secure(Identity::usual(), move |_| Served::status(302).with("Location", &leads_to));
    let daemon = fetching(&upstream, &leading.url("/"), false).start(world);
    daemon.wait_to_say("not https");
    assert!(open.requests().is_empty());
    assert!(!blocked(&daemon, "bad.example.org"));
}

fn lists_are_measured(world: &World) {
    let upstream = Upstream::answering("192.0.2.1");
    let offer = Offer::new(Offer::list("one.example.org\ntwo.example.org\n"));
    let web = offer.plain();
    let url = web.url("/ads.txt");
    let daemon = fetching(&upstream, &format!("{url}?token=secret"), false).start(world);
    wait_for(&daemon, "one.example.org");
    let series = |metric: &str| format!("balancedns_list_{metric}{{list=\"{url}\"}}");
    until("it is counted", || (daemon.metric(&series("entries")) == 2.0).then_some(()));
    assert!(daemon.metric(&series("updated_timestamp_seconds")) > 1.7e9);
    assert_eq!(daemon.metric(&series("failures_total")), 0.0);
    offer.set(Served::status(404));
    until("it fails", || (daemon.metric(&series("failures_total")) > 0.0).then_some(()));
    assert_eq!(daemon.metric(&series("entries")), 2.0);
    assert!(!daemon.get("/metrics").1.contains("secret"));
}
