//! Whether and how long something is kept, measured: for the cases of the cache.

use std::time::{Duration, Instant};

use hickory_proto::op::Message;

use crate::case::World;
use crate::harness::{Asked, Daemon, Query, Settings, Upstream, until};

/// Asks until the upstream is asked once more, and says how long that took.
pub(super) fn time_to_expire(daemon: &Daemon, upstream: &Upstream, query: &Query) -> Duration {
    daemon.ask(query);
    let (start, before) = (Instant::now(), upstream.count());
    until("the entry expires", || {
        daemon.ask(query);
        (upstream.count() > before).then(|| start.elapsed())
    })
}

pub(super) fn assert_about(took: Duration, seconds: u64) {
    let low = Duration::from_millis(seconds * 1000 - 100);
    let high = Duration::from_millis(seconds * 1000 + 1500);
    assert!((low..high).contains(&took), "expired after {took:?}, not {seconds} s");
}

/// Asks twice; both answers have the rcode, and the upstream was asked twice.
pub(super) fn assert_not_kept(
    world: &World,
    script: impl Fn(&Asked) -> Message + Send + Sync + 'static,
    rcode: u16,
) {
    let upstream = Upstream::start(script);
    let daemon = Settings::with(&upstream).start(world);
    for _ in 0..2 {
        assert_eq!(daemon.ask(&Query::a("www.example.org")).rcode(), rcode);
    }
    assert_eq!(upstream.count(), 2);
}
