//! `blacklist`: lists from files and URLs, what allows, how blocked questions are answered.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use balancedns_core::config::Loaded;
use balancedns_core::policy::{BlockMode, BlockSet, ListSource, ListUse};
use balancedns_core::time::Duration;
use balancedns_core::wire::Name;

use crate::support::{FakeHost, warnings, with};

fn everybody(loaded: &Loaded) -> &BlockSet {
    &loaded.snapshot.blocking.sets()[0]
}

/// Which list blocks a name.
fn blocking_list(loaded: &Loaded, name: &str) -> Option<String> {
    let name = Name::parse(name).expect("a name");
    everybody(loaded).blocks(name.as_wire()).map(|blocked| blocked.list.to_owned())
}

fn mode(keys: &str) -> BlockMode {
    let loaded = FakeHost::new().load(&with(keys)).expect("loads");
    assert_eq!(warnings(&loaded), [""; 0], "{keys}");
    everybody(&loaded).mode.clone()
}

#[test]
fn names_of_the_configuration_and_of_files_are_blocked() {
    let host = FakeHost::new()
        .file("etc/ads.list", "0.0.0.0 ads.example\n")
        .file("/lists/more", "||more.example^\n@@||good.more.example^\n");
    let keys = "blacklist = { domains = { 'a.example', '*.b.example' }, allow = { 'x.b.example' }, \
                files = { 'ads.list', '/lists/more' } }";
    let loaded = host.load(&with(keys)).expect("loads");
    assert_eq!(warnings(&loaded), [""; 0]);
    for (name, list) in [
        ("a.example", Some("blacklist.domains")),
        ("y.b.example", Some("blacklist.domains")),
        ("x.b.example", None),
        ("ads.example", Some("ads.list")),
        ("www.ads.example", None),
        ("www.more.example", Some("more")),
        ("good.more.example", None),
    ] {
        assert_eq!(blocking_list(&loaded, name).as_deref(), list, "{name}");
    }
    let set = everybody(&loaded);
    assert_eq!((&set.mode, set.ttl), (&BlockMode::Refused, 60));
    let sources = ["etc/ads.list", "/lists/more"].map(|path| ListUse {
        source: ListSource::File(path.to_owned()),
        refresh: Duration::from_secs(86_400),
    });
    assert_eq!(loaded.snapshot.blocking.sources(), sources);
}

#[test]
fn lists_that_are_listed_twice_are_there_once() {
    let host = FakeHost::new().file("etc/ads.list", "a.example");
    let keys = "blacklist = { files = { 'ads.list', './ads.list', 'etc/../ads.list' } }";
    let host = host.file("etc/etc/../ads.list", "");
    let loaded = host.load(&with(keys)).expect("loads");
    assert_eq!(
        warnings(&loaded),
        ["etc/test.lua:2: blacklist.files[2]: \"./ads.list\" is listed twice"]
    );
    assert_eq!(everybody(&loaded).lists.len(), 2);
}

#[test]
fn what_is_not_understood_of_a_file_is_told() {
    let host = FakeHost::new()
        .file("etc/a.list", "a.example\na.example\naddress=/b.example/\n")
        .file("etc/b.html", "<html>\n<body>\n")
        .file("etc/empty", "# nothing today\n");
    let keys = "blacklist = { files = { 'a.list', 'b.html', 'empty' } }";
    let loaded = host.load(&with(keys)).expect("loads");
    assert_eq!(
        warnings(&loaded),
        [
            "etc/test.lua:2: blacklist.files[1]: \"a.list\" is understood in part: 1 taken, 1 \
             repeated, 1 skipped: line 3: \"address=/b.example/\" is in the format of dnsmasq, which is not \
             supported",
            "etc/test.lua:2: blacklist.files[2]: \"b.html\" has nothing of use: 0 taken, 0 repeated, \
             2 skipped: line 1: \"<html>\" is not a name, line 2: \"<body>\" is not a name",
        ]
    );
    assert!(!loaded.snapshot.blocking.is_empty());
}

#[test]
fn lists_to_be_fetched_are_empty_until_they_are() {
    let host = FakeHost::new().fetched("https://lists.example/here?key=7", "a.example");
    let keys = "blacklist = { refresh_seconds = 60, urls = { 'https://lists.example/here?key=7', \
                'http://lists.example/away' } }";
    let loaded = host.load(&with(keys)).expect("loads");
    assert_eq!(
        warnings(&loaded),
        [
            "etc/test.lua:2: blacklist.urls[2]: \"http://lists.example/away\" is fetched without \
             encryption: whoever is on the way can change it",
            "etc/test.lua:2: blacklist.urls[2]: \"http://lists.example/away\" has not been fetched \
             yet: until then it blocks nothing",
        ]
    );
    let name = blocking_list(&loaded, "a.example");
    assert_eq!(name.as_deref(), Some("https://lists.example/here"), "without what may be secret");
    let uses = loaded.snapshot.blocking.sources();
    assert_eq!(uses.len(), 2);
    assert!(uses.iter().all(|list| list.refresh == Duration::from_secs(60)));
    let read = loaded.snapshot.blocking.list(&uses[0].source).expect("it is there");
    assert!(Arc::ptr_eq(read, &everybody(&loaded).lists[0]));
}

#[test]
fn modes() {
    assert_eq!(mode("blacklist = { mode = 'nxdomain' }"), BlockMode::NxDomain);
    assert_eq!(mode("blacklist = { mode = 'NoData' }"), BlockMode::NoData);
    assert_eq!(mode("blacklist = { mode = 'zero', addresses = {} }"), BlockMode::Zero);
    let v4 = vec![Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
    assert_eq!(
        mode("blacklist = { mode = 'addresses', addresses = { '192.0.2.1', '::1', '192.0.2.2' } }"),
        BlockMode::Addresses { v4, v6: vec![Ipv6Addr::LOCALHOST] }
    );
    let loaded = FakeHost::new()
        .load(&with("blacklist = { mode = 'addresses', addresses = { '::1', '::1' }, ttl = 5 }"))
        .expect("loads");
    assert_eq!(
        warnings(&loaded),
        ["etc/test.lua:2: blacklist.addresses[2]: \"::1\" is listed twice"]
    );
    assert_eq!(everybody(&loaded).ttl, 5);
    let many: String = (0..17).map(|last| format!("'192.0.2.{last}', ")).collect();
    let keys = format!("blacklist = {{ mode = 'addresses', addresses = {{ {many} }} }}");
    assert_eq!(
        FakeHost::new().errors(&with(&keys)),
        ["etc/test.lua:2: blacklist.addresses: a list of 17 is too long; expected at most 16 \
          addresses of each family"]
    );
}

#[test]
fn copies_of_lists_have_a_folder() {
    use balancedns_core::config::ListCache;
    let cache = |keys: &str| {
        let loaded = FakeHost::new().load(&with(&format!("blacklist = {{ {keys} }}")));
        loaded.expect("loads").snapshot.lists.cache
    };
    assert_eq!(cache(""), ListCache::Usual);
    assert_eq!(cache("cache_dir = false"), ListCache::Off);
    assert_eq!(cache("cache_dir = '/var/lists'"), ListCache::Folder("/var/lists".to_owned()));
    assert_eq!(cache("cache_dir = 'lists'"), ListCache::Folder("etc/lists".to_owned()));
    let errors = FakeHost::new().errors(&with("blacklist = { cache_dir = 5 }"));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].contains("blacklist.cache_dir: "), "{errors:?}");
}

#[test]
fn bootstrap_servers_are_kept_for_lists_where_no_upstream_needs_them() {
    let loaded = FakeHost::new().load(&with("routing = { bootstrap = { '192.0.2.77' } }"));
    let snapshot = loaded.expect("loads").snapshot;
    assert!(snapshot.routing.bootstrap.is_empty());
    assert_eq!(snapshot.lists.bootstrap, ["192.0.2.77:53".parse().expect("an address")]);
}
