//! Keys whose capability is not in this build: refused when they would switch it on, checked anyway.

use crate::support::{FakeHost, with, with_upstream};

/// Values that would switch on what this build does not have: key path, value shown, what is
/// expected instead.
const UNAVAILABLE: &[(&str, &str, &str, &str)] = &[
    ("logging = { format = 'json' }", "logging.format", "\"json\"", "\"text\""),
    ("routing = { policy = 'fastest' }", "routing.policy", "\"fastest\"", "\"ordered\""),
    ("routing = { zone_fallback = false }", "routing.zone_fallback", "false", "true"),
    (
        "routing = { hedge = { quantile = 0.95, budget = 0.05 } }",
        "routing.hedge",
        "a table with budget, quantile",
        "{} or no such key",
    ),
    (
        "cache = { stale = { enabled = true } }",
        "cache.stale.enabled",
        "true",
        "false or no such key",
    ),
    (
        "cache = { prefetch = { enabled = true } }",
        "cache.prefetch.enabled",
        "true",
        "false or no such key",
    ),
    ("cache = { snapshot_file = 's' }", "cache.snapshot_file", "\"s\"", "false or no such key"),
    (
        "rate_limit = { queries_per_second = 10 }",
        "rate_limit",
        "a table with queries_per_second",
        "{} or no such key",
    ),
    ("control = { socket = '/run/s' }", "control.socket", "\"/run/s\"", "false or no such key"),
    (
        "query_log = { target = 'stdout', format = 'json', sample = 0.5, mask_clients = true }",
        "query_log",
        "a table with format, mask_clients, sample, ...",
        "{} or no such key",
    ),
    (
        "tests = { { q = 'a.example', type = 'A', expect = { rcode = 'NOERROR' } } }",
        "tests",
        "a list of 1",
        "{} or no such key",
    ),
];

/// The same for keys of an upstream.
const UNAVAILABLE_UPSTREAM: &[(&str, &str, &str, &str)] = &[
    ("confined = true", "confined", "true", "false or no such key"),
    ("tier = 2", "tier", "2", "1"),
    ("weight = 5", "weight", "5", "1"),
];

#[test]
fn what_this_build_does_not_have_is_refused() {
    for (keys, path, shown, off) in UNAVAILABLE {
        let errors = FakeHost::new().errors(&with(keys));
        let expected = format!(
            "etc/test.lua:2: {path}: {shown} is not available in this build; expected {off}"
        );
        assert_eq!(errors, [expected], "{keys}");
    }
    for (keys, path, shown, off) in UNAVAILABLE_UPSTREAM {
        let errors = FakeHost::new().errors(&with_upstream(keys));
        let expected = format!(
            "etc/test.lua:2: upstreams[1].{path}: {shown} is not available in this build; expected \
             {off}"
        );
        assert_eq!(errors, [expected], "{keys}");
    }
}

#[test]
fn values_of_later_capabilities_are_checked() {
    for (keys, expected) in [
        ("routing = { hedge = true }", "routing.hedge: true is wrong; expected a table"),
        ("tests = 'all'", "tests: \"all\" is wrong; expected a list of tables"),
    ] {
        let errors = FakeHost::new().errors(&with(keys));
        assert_eq!(errors, [format!("etc/test.lua:2: {expected}")], "{keys}");
    }
}
