//! Bounds of what a configuration holds, and of what is shown of it.

use crate::support::{FakeHost, with};

#[test]
fn there_are_bounds_to_what_a_configuration_holds() {
    let many = "local list = {} for n = 1, 1001 do
            list[n] = { name = 'u' .. n, addr = '192.0.2.1:53' }
        end
        return { upstreams = list }";
    let errors = FakeHost::new().errors(many);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("is too long; expected at most 1000 upstreams"), "{errors:?}");

    let listeners = "local list = {} for n = 1, 513 do list[n] = '127.0.0.1:' .. 1000 + n end
        return { listen = { dns = list },
            upstreams = { { name = 'u', addr = '192.0.2.1:53' } } }";
    let errors = FakeHost::new().errors(listeners);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].contains("listen.dns: has 1026 sockets; expected at most 1024"),
        "{errors:?}"
    );
}

#[test]
fn a_long_text_is_shown_shortened_and_a_long_name_is_none() {
    let long = "x".repeat(200);
    let errors = FakeHost::new().errors(&with(&format!("acl = '{long}'")));
    let shown = errors[0].strip_prefix("etc/test.lua:2: acl: \"").expect("it is quoted");
    assert!(shown.starts_with("xxx") && shown.contains("x\"... is wrong") && shown.len() < 150);

    let text =
        format!("return {{ upstreams = {{ {{ name = '{long}', addr = '192.0.2.1:53' }} }} }}");
    let errors = FakeHost::new().errors(&text);
    assert!(errors[0].ends_with("expected a name of up to 100 printable characters"), "{errors:?}");
    let control = "return { upstreams = { { name = 'a\\nb', addr = '192.0.2.1:53' } } }";
    let errors = FakeHost::new().errors(control);
    assert!(errors[0].ends_with("expected a name of up to 100 printable characters"), "{errors:?}");
}
