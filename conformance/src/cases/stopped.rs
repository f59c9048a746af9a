//! An upstream that stops in the middle of its work (RFC 9520 section 3.1): its clients hardly
//! notice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::case::World;
use crate::harness::{PATIENCE, Query, Settings, UdpClient, Upstream, UpstreamProcess};

cases! {
    a_stopped_upstream_is_left_alone, udp alone, "robustness failover",
        "two seconds after an upstream has stopped, at most 2 % of all new names take over 100 ms";
}

/// Names asked for in a second, each once.
const NAMES_PER_SECOND: u32 = 300;
/// How long names are asked for.
const ASKING: Duration = Duration::from_secs(6);
/// When the first upstream is stopped.
const STOP_AT: Duration = Duration::from_secs(1);
/// From when on its absence has to be known.
const KNOWN_AT: Duration = Duration::from_secs(3);
/// What a client hardly notices.
const UNNOTICED: Duration = Duration::from_millis(100);

/// A query, from the start of the asking.
struct Asked {
    sent: Duration,
    took: Option<Duration>,
    rcode: u16,
}

fn a_stopped_upstream_is_left_alone(world: &World) {
    let (first, second) = (UpstreamProcess::start(), Upstream::answering("192.0.2.2"));
    let daemon = Settings::new().upstream_at(first.addr(), "").upstream(&second, "").start(world);
    let asked = ask_steadily(&UdpClient::to(daemon.addr()), || first.stop());

    let failed = asked.iter().filter(|asked| asked.took.is_none() || asked.rcode != 0).count();
    assert_eq!(failed, 0, "of {} queries", asked.len());
    assert!(second.count() > 0, "the first one was stopped");
    let late: Vec<_> = asked.iter().filter(|asked| asked.sent >= KNOWN_AT).collect();
    let slow = late.iter().filter(|asked| asked.took.is_some_and(|took| took > UNNOTICED)).count();
    assert!(slow * 50 <= late.len(), "{slow} of {} took more than {UNNOTICED:?}", late.len());
}

/// Asks for names at a steady pace, whatever becomes of earlier ones, and waits for the last.
fn ask_steadily(client: &UdpClient, stop: impl FnOnce()) -> Vec<Asked> {
    let count = NAMES_PER_SECOND * u32::try_from(ASKING.as_secs()).expect("few");
    let (start, mut stop) = (Instant::now(), Some(stop));
    let mut asked: Vec<Asked> = Vec::new();
    let mut by_id = HashMap::new();
    let receive = |asked: &mut Vec<Asked>, by_id: &HashMap<u16, usize>, within: Duration| {
        let Some(reply) = client.try_receive(within) else { return false };
        let number = by_id[&reply.message.metadata.id];
        asked[number].took = Some(start.elapsed() - asked[number].sent);
        asked[number].rcode = reply.rcode();
        true
    };
    for number in 0..count {
        let due = ASKING * number / count;
        if due >= STOP_AT
            && let Some(stop) = stop.take()
        {
            stop();
        }
        while let Some(left) = due.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
            receive(&mut asked, &by_id, left);
        }
        let query = Query::a(&format!("n{number}.example.org"));
        by_id.insert(query.id, asked.len());
        asked.push(Asked { sent: start.elapsed(), took: None, rcode: 0 });
        client.send(&query.encode());
    }
    while asked.iter().any(|asked| asked.took.is_none()) && receive(&mut asked, &by_id, PATIENCE) {}
    asked
}
